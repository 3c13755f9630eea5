"""Computing a kernel tile by tile: how large tiles are, and the passes over them side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.infinite.costs import free_memory as _free_memory
from recollect.infinite.evaluation import Inputs, Plan, evaluate_pairs, evaluate_singles
from recollect.infinite.fused import available
from recollect.infinite.states import Cross, Kernel, Self
from recollect.infinite.tiles import Sink

__all__ = ["Setting", "check_room", "compiles", "compute", "compute_diagonal", "tile_size"]

# Numbers per tile: two or three such tiles fit into the cache of a core.
CPU_TILE = 2**18
# With many positions tiles may outgrow that cache, so that the innermost axis is long enough;
# by the bytes of a number (measured: float64 loses more outside the cache).
CPU_WIDE = {4: 2**20, 8: 2**18}
GPU_TILE = 2**25
KEPT_BYTES = 2**23
# Numbers in all tiles from which compiled loops are worth loading.
COMPILED_FROM = 2**25


@dataclass(frozen=True)
class Setting:
    """What one call of ``kernel`` fixes for all tiles.

    Args:
        plan: of the network.
        want_ntk: whether to compute the tangent kernel.
        symmetric: whether x2 is x1.
        compiled: whether to use :mod:`recollect.infinite.fused`.
        wide: whether float32 inputs are computed with in float64.
    """

    plan: Plan
    want_ntk: bool
    symmetric: bool
    compiled: bool = False
    wide: bool = False


def tile_size(
    tile: int | tuple[int, int] | None, plan: Plan, one: Inputs, two: Inputs
) -> tuple[int, int]:
    """Choose or check the rows and columns computed at a time."""
    budget = CPU_TILE if one.x.device.type == "cpu" else GPU_TILE
    edge = max(1, math.isqrt(max(1, budget // plan.largest)))
    # An estimate of the tensors alive at once: kernels before and after, and working copies.
    size = 8 if plan.wants_float64(one) else one.x.element_size()
    per_pair = plan.largest * size * 8
    free = _free_memory(one.x.device)
    if tile is None:
        budget = max(1, min(budget, free // (8 * size)))
        # Wide tiles: the columns are the innermost axis of every tensor.
        wide = max(budget // plan.largest, min(64, CPU_WIDE[size] // plan.largest))
        columns = max(1, min(max(edge, min(128, wide)), len(two)))
        return max(1, min(len(one), budget // (plan.largest * columns))), columns
    rows, columns = (tile, tile) if isinstance(tile, int) else tile
    rows = min(check_integer("tile", rows, minimum=1), max(len(one), 1))
    columns = min(check_integer("tile", columns, minimum=1), max(len(two), 1))
    if rows * columns * per_pair > free:
        fits = math.isqrt(max(1, free // per_pair))
        raise MemoryError(
            f"a tile of {rows} x {columns} pairs needs about "
            f"{rows * columns * per_pair / 2**30:.1f} GiB, {free / 2**30:.1f} are free; "
            f"tile={fits} fits"
        )
    return rows, columns


def check_room(
    shape: tuple[int, ...], wanted: tuple[str, ...], like: Tensor, tile: tuple[int, int]
) -> None:
    """Refuse a kernel that does not fit into memory as a whole."""
    needed = math.prod(shape) * like.element_size() * len(wanted)
    free = _free_memory(like.device)
    if needed > free:
        raise MemoryError(
            f"the kernel itself needs {needed / 2**30:.3g} GiB, {free / 2**30:.3g} are free; "
            f"path='folder' writes it to disk in tiles, tile={tile} fits; "
            "infinite.nystroem never holds it"
        )


def compiles(plan: Plan, one: Inputs, two: Inputs) -> bool:
    """Say whether compiled loops are worth it: large float32 kernels with rectifiers."""
    usual = one.x.dtype == torch.float32 and one.x.device.type == "cpu" and any(plan.gap)
    large = len(one) * len(two) * plan.largest >= COMPILED_FROM
    return usual and large and available()


def _blocks(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def compute(
    setting: Setting,
    one: Inputs,
    two: Inputs,
    tile: tuple[int, int],
    sink: Sink,
    *,
    progress: bool,
) -> None:
    """Compute all tiles; of a symmetric kernel the upper half only."""
    rows, columns = tile
    plan = setting.plan
    if one.x.ndim > 2 and not plan.cross_full[0]:
        same = two is one
        one = replace(one, turned=one.across)
        two = one if same else replace(two, turned=two.across)
    left = _Singles(setting, one)
    right = left if two is one else _Singles(setting, two)
    todo = [
        (a, b, c, d)
        for a, b in _blocks(len(one), rows)
        for c, d in _blocks(len(two), columns)
        if (not setting.symmetric or d > a) and not sink.done(a, c)
    ]
    lock = Lock()
    # The C library gives memory back at every release, and the next tile pays for fresh pages,
    # until it has seen a block of this size released; it is never touched.
    torch.empty(KEPT_BYTES, dtype=torch.uint8)

    def work(place: tuple[int, int, int, int]) -> None:
        a, b, c, d = place
        with lock:
            singles = left.rows(a, b), right.rows(c, d)
        values = _one_tile(setting, one.rows(a, b), two.rows(c, d), singles, place)
        with lock:
            sink.put(values, a, c, mirror=setting.symmetric)

    for _ in _shown(_spread(work, todo, one.x), len(todo), progress):
        pass


def _spread(work: Callable[[Any], None], todo: Sequence[Any], like: Tensor) -> Iterator[None]:
    """Run tiles side by side: whole tiles in threads waste less than threads within small ones."""
    count = torch.get_num_threads()
    if count < 2 or len(todo) < 2 or torch.is_grad_enabled() or like.device.type != "cpu":
        for place in todo:
            work(place)
            yield
        return

    def start() -> None:
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)

    try:
        with ThreadPoolExecutor(min(count, len(todo)), initializer=start) as pool:
            yield from pool.map(work, todo)
    finally:
        torch.set_num_threads(count)


def _one_tile(
    setting: Setting,
    one: Inputs,
    two: Inputs,
    singles: tuple[list[Self], list[Self]],
    place: tuple[int, int, int, int],
) -> dict[str, Tensor]:
    """Return the kernels of one tile in the public order of axes."""
    a, b, c, d = place
    plan = setting.plan
    same = None
    if setting.symmetric and c < b:
        index = torch.arange(max(a, c), min(b, d), device=one.x.device)
        same = torch.stack([index - a, index - c], 1)
    want, compiled = setting.want_ntk, setting.compiled
    dtype = one.x.dtype
    if setting.wide:
        one, two = one.wide(), two.wide()
    k = _with_zero_tangent(
        evaluate_pairs(plan, one, two, *singles, want_ntk=want, same=same, compiled=compiled)
    )
    rank = len(plan.graph.nodes[plan.graph.output].places)
    values = {"nngp": _public(k.nngp, rank, k.full).to(dtype)}
    if k.ntk is not None:
        values["ntk"] = _public(k.ntk, rank, k.full).to(dtype)
    return values


def _with_zero_tangent(k: Cross) -> Cross:
    """A network without parameters has a tangent kernel of zeros."""
    if not k.want_ntk or k.ntk is not None:
        return k
    return k.each(k.nngp, torch.zeros_like(k.nngp))


def _shown(steps: Iterator[None], count: int, progress: bool) -> Iterator[None]:
    if not progress:
        yield from steps
        return
    from rich.progress import track

    yield from track(steps, description="kernel tiles", total=count)


class _Singles:
    """States of x2 with itself: computed once per block of inputs, kept if they are small."""

    def __init__(self, setting: Setting, inputs: Inputs) -> None:
        plan = self.plan = setting.plan
        self.inputs, self.wide = inputs, setting.wide
        size = 8 if setting.wide else inputs.x.element_size()
        per_input = (
            sum(math.prod(n.places) for i, n in enumerate(plan.graph.nodes) if plan.alone[i])
            * size
        )
        full = (
            max(
                (
                    math.prod(n.places) ** 2
                    for i, n in enumerate(plan.graph.nodes)
                    if plan.self_full[i]
                ),
                default=0,
            )
            * size
        )
        self.block = max(1, min(2**28 // max(per_input, 1), 2**26 // max(full, 1), len(inputs)))
        self.kept: dict[int, list[Self]] = {}
        self.room = max(1, 2**29 // max(per_input * self.block, 1))

    def _of(self, index: int) -> list[Self]:
        if index not in self.kept:
            if len(self.kept) >= self.room:
                self.kept.pop(next(iter(self.kept)))
            start = index * self.block
            rows = self.inputs.rows(start, min(start + self.block, len(self.inputs)))
            self.kept[index] = self._states(rows)
        return self.kept[index]

    def rows(self, start: int, stop: int) -> list[Self]:
        """Return the states of inputs start to stop."""
        first, last = start // self.block, (stop - 1) // self.block
        if first == last:
            base = first * self.block
            return [s.rows(start - base, stop - base) for s in self._of(first)]
        return self._states(self.inputs.rows(start, stop))

    def _states(self, rows: Inputs) -> list[Self]:
        states = evaluate_singles(self.plan, rows.wide() if self.wide else rows)
        if torch.is_grad_enabled():
            return states
        return [
            replace(s, deviation=s.root, level=s.rms)
            if self.plan.gap[i] and self.plan.alone[i]
            else s
            for i, s in enumerate(states)
        ]


def compute_diagonal(setting: Setting, one: Inputs, wanted: tuple[str, ...]) -> Kernel:
    """Return the pairs (i, i), one by one."""
    plan = setting.plan
    places = plan.graph.nodes[plan.graph.output].places
    values: dict[str, list[Tensor]] = {name: [] for name in wanted}
    same = torch.zeros(1, 2, dtype=torch.long, device=one.x.device)
    for i in range(len(one)):
        row = one.rows(i, i + 1)
        row = row.wide() if setting.wide else row
        singles = evaluate_singles(plan, row)
        k = _with_zero_tangent(
            evaluate_pairs(plan, row, row, singles, singles, want_ntk=setting.want_ntk, same=same)
        )
        for name in wanted:
            t = getattr(k, name)
            values[name].append(_public(t, len(places), k.full)[0, 0].to(one.x.dtype))
    return Kernel(**{name: torch.stack(v) for name, v in values.items()})


def _public(t: Tensor, rank: int, full: bool) -> Tensor:
    """Bring (*S, *S', n1, n2) into the order (n1, n2, H, H', W, W')."""
    if rank == 0:
        return t
    axes = [t.ndim - 2, t.ndim - 1]
    for d in range(rank):
        axes += [d, rank + d] if full else [d]
    return t.permute(*axes)
