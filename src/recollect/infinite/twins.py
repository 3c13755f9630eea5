"""The infinitely wide twin of a network, and its kernels at any scale."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.infinite.costs import free_memory as _free_memory
from recollect.infinite.evaluation import Inputs, Plan, evaluate_pairs, evaluate_singles
from recollect.infinite.fused import available
from recollect.infinite.graph import Graph
from recollect.infinite.states import Cross, Kernel, Self
from recollect.infinite.tiles import DiskTiles, Sink, TensorTiles

__all__ = ["Twin"]

# Numbers per tile: two or three such tiles fit into the cache of a core.
CPU_TILE = 2**18
# With many positions tiles may outgrow that cache, so that the innermost axis is long enough.
CPU_WIDE = 2**20
GPU_TILE = 2**25
KEPT_BYTES = 2**23
# Numbers in all tiles from which compiled loops are worth loading.
COMPILED_FROM = 2**25
FIELDS = ("nngp", "ntk")


@dataclass(frozen=True)
class _Setting:
    """What one call of ``kernel`` fixes for all tiles."""

    plan: Plan
    want_ntk: bool
    symmetric: bool
    compiled: bool = False


class Twin:
    """An infinitely wide network: its kernels in closed form.

    Made by :func:`recollect.infinite.twin`.

    Args:
        lower: builds the graph for inputs of shape (channels, *S).
        arrange: brings a batch into the order (batch, channels, *S).
        constants: the hyper-parameters that are tensors, for their gradients.
        description: shown by ``repr``.
    """

    def __init__(
        self,
        lower: Callable[[tuple[int, ...]], Graph],
        arrange: Callable[[Tensor], Tensor],
        constants: Sequence[Tensor] = (),
        description: str = "network",
    ) -> None:
        self._lower = lower
        self._arrange = arrange
        self.constants = tuple(constants)
        self.description = description
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": {}}

    def __repr__(self) -> str:
        return f"Twin({self.description})"

    def graph(self, shape: tuple[int, ...]) -> Graph:
        """Return the graph for inputs of shape (channels, *S)."""
        if shape not in self._graphs:
            self._graphs[shape] = self._lower(shape)
        return self._graphs[shape]

    def __call__(self, x1: Tensor, x2: Tensor | None = None, **options: Any) -> Kernel:
        """Return :meth:`kernel`."""
        return self.kernel(x1, x2, **options)

    def kernel(
        self,
        x1: Tensor,
        x2: Tensor | None = None,
        get: str | Sequence[str] = FIELDS,
        *,
        diagonal: bool = False,
        positions: str = "pairs",
        mask1: Tensor | None = None,
        mask2: Tensor | None = None,
        pattern1: Tensor | None = None,
        pattern2: Tensor | None = None,
        tile: int | tuple[int, int] | None = None,
        progress: bool = False,
        path: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """Return the kernels between two sets of inputs.

        Args:
            x1: (n1, ...), shaped as the module takes it; floating point.
            x2: (n2, ...); None: x1 with itself, of which only one half is computed.
            get: ``"nngp"``, ``"ntk"`` or both.
            diagonal: only pairs (i, i): kernels of shape (n1,), x2 must be None.
            positions: if the network ends with positions: ``"pairs"`` for (n1, n2, H, H, W, W),
                ``"equal"`` for (n1, n2, H, W).
            mask1: visible positions of x1, (n1, *S), boolean; None: all.
            mask2: the same of x2.
            pattern1: graphs of x1 for ``Aggregate``, (n1, V, V) or edges (n1, E, 2).
            pattern2: the same of x2.
            tile: rows, or (rows, columns), computed at a time; default: what fits the cache.
            progress: show a progress bar.
            path: folder; the kernel is written there tile by tile, and an interrupted call
                with the same arguments goes on where it stopped.

        Returns:
            A :class:`~recollect.infinite.states.Kernel` with ``.nngp`` and ``.ntk``.

        Raises:
            TypeError: if inputs are not floating-point tensors, or of different dtypes.
            ValueError: if shapes do not fit, or numbers are not finite.
            MemoryError: if a tile cannot fit; the message says which would.

        Example:
            >>> from recollect import infinite
            >>> net = infinite.Serial(infinite.Dense(weight_std=2**0.5), infinite.Relu(),
            ...                       infinite.Dense())
            >>> k = infinite.twin(net).kernel(torch.eye(2))
            >>> k.nngp.shape, round(float(k.nngp[0, 0]), 4), round(float(k.nngp[0, 1]), 4)
            (torch.Size([2, 2]), 0.5, 0.1592)
        """
        wanted = _fields(get)
        if diagonal and x2 is not None:
            raise ValueError("diagonal=True is for one set of inputs; leave x2 out")
        one = self._inputs(x1, mask1, pattern1, "x1")
        two = one if x2 is None else self._inputs(x2, mask2, pattern2, "x2")
        if x2 is None and (mask2 is not None or pattern2 is not None):
            raise ValueError("mask2 and pattern2 belong to x2, which is missing")
        _check_pair(one, two)
        if positions not in ("pairs", "equal"):
            raise ValueError(f"positions must be 'pairs' or 'equal', got {positions!r}")
        graph = self.graph(tuple(one.x.shape[1:]))
        plan = Plan.of(graph, full=positions == "pairs")
        setting = _Setting(plan, "ntk" in wanted, x2 is None)
        grad = torch.is_grad_enabled() and (
            any(t.requires_grad for t in (*self.constants, one.x, two.x))
        )
        with torch.set_grad_enabled(grad):
            if diagonal:
                return _diagonal(setting, one, wanted)
            shape = (
                len(one),
                len(two),
                *_zipped(graph.nodes[graph.output].places, positions == "pairs"),
            )
            setting = replace(setting, compiled=not grad and _compiles(plan, one, two))
            if tile is None and path is not None:
                tile = DiskTiles.tile_of(Path(path))
            rows, columns = _tile(tile, plan, one, two)
            sink: Sink
            if path is not None:
                names = (_fingerprint(graph, self.constants), repr(wanted), positions)
                sink = DiskTiles(Path(path), shape, wanted, (rows, columns), one, two, names)
            else:
                _check_room(shape, wanted, one.x, (rows, columns))
                sink = TensorTiles(shape, wanted, one.x, grad=grad, pairs=positions == "pairs")
            _run(setting, one, two, (rows, columns), sink, progress=progress)
            return sink.result()

    def _inputs(self, x: Tensor, mask: Tensor | None, pattern: Tensor | None, name: str) -> Inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(
                f"{name} must hold floating-point numbers, got {x.dtype}; use .float()"
            )
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if x.ndim < 2:
            raise ValueError(
                f"{name} must be a batch of shape (n, channels, ...), got {tuple(x.shape)}"
            )
        x = self._arrange(x)
        # Both ends are finite only if all are; unlike isfinite this copies nothing.
        if x.numel() and not all(bool(torch.isfinite(v)) for v in torch.aminmax(x.detach())):
            raise ValueError(f"{name} holds NaN or infinite numbers")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(x), *x.shape[2:])):
            raise ValueError(
                f"the mask of {name} must be boolean of shape {(len(x), *x.shape[2:])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if pattern is not None:
            pattern = _dense_pattern(pattern, x)
        if mask is not None:
            x = x * mask[:, None]
        return Inputs(x, mask, pattern)


def _dense_pattern(pattern: Tensor, x: Tensor) -> Tensor:
    """Turn padded edge lists (n, E, 2) into matrices (n, V, V); leave matrices alone."""
    count = x.shape[2]
    if pattern.shape == (len(x), count, count) and pattern.is_floating_point():
        return pattern.to(x.dtype)
    if pattern.ndim != 3 or pattern.shape[0] != len(x) or pattern.shape[2] != 2:
        raise ValueError(
            f"graphs must be floating (n, V, V) = {(len(x), count, count)} or integer edges "
            f"(n, E, 2), got {pattern.dtype} {tuple(pattern.shape)}"
        )
    out = x.new_zeros(len(x), count, count)
    kept = (pattern >= 0).all(-1)
    batch = torch.arange(len(x), device=x.device)[:, None].expand_as(kept)
    out.index_put_(
        (batch[kept], pattern[..., 0][kept], pattern[..., 1][kept]),
        x.new_ones(()),
        accumulate=True,
    )
    return out


def _fields(get: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (get,) if isinstance(get, str) else tuple(get)
    for name in wanted:
        if name not in FIELDS:
            raise ValueError(f"get must be 'nngp', 'ntk' or both, got {name!r}")
    if not wanted:
        raise ValueError("get must be 'nngp', 'ntk' or both, got nothing")
    return wanted


def _check_pair(one: Inputs, two: Inputs) -> None:
    if one.x.dtype != two.x.dtype or one.x.device != two.x.device:
        raise TypeError(
            f"x1 and x2 must share dtype and device, got {one.x.dtype} on {one.x.device} and "
            f"{two.x.dtype} on {two.x.device}"
        )
    if one.x.shape[1] != two.x.shape[1]:
        raise ValueError(
            f"x1 and x2 must have equal channels, got {one.x.shape[1]} and {two.x.shape[1]}"
        )
    if one.x.shape[2:] != two.x.shape[2:]:
        raise ValueError(
            f"x1 and x2 must have equal positions, got {tuple(one.x.shape[2:])} and "
            f"{tuple(two.x.shape[2:])}"
        )
    if (one.mask is None) != (two.mask is None):
        raise ValueError("give masks for both x1 and x2, or for neither")


def _zipped(places: tuple[int, ...], pairs: bool) -> tuple[int, ...]:
    return tuple(n for p in places for n in ((p, p) if pairs else (p,)))


def _public(t: Tensor, rank: int, full: bool) -> Tensor:
    """Bring (*S, *S', n1, n2) into the order (n1, n2, H, H', W, W')."""
    if rank == 0:
        return t
    axes = [t.ndim - 2, t.ndim - 1]
    for d in range(rank):
        axes += [d, rank + d] if full else [d]
    return t.permute(*axes)


def _tile(
    tile: int | tuple[int, int] | None, plan: Plan, one: Inputs, two: Inputs
) -> tuple[int, int]:
    """Choose or check the rows and columns computed at a time."""
    budget = CPU_TILE if one.x.device.type == "cpu" else GPU_TILE
    edge = max(1, math.isqrt(max(1, budget // plan.largest)))
    # An estimate of the tensors alive at once: kernels before and after, and working copies.
    per_pair = plan.largest * one.x.element_size() * 8
    free = _free_memory(one.x.device)
    if tile is None:
        budget = max(1, min(budget, free // (8 * one.x.element_size())))
        # Wide tiles: the columns are the innermost axis of every tensor.
        wide = max(budget // plan.largest, min(64, CPU_WIDE // plan.largest))
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


def _check_room(
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


def _fingerprint(graph: Graph, constants: Sequence[Tensor]) -> str:
    """Return a digest of all layers, their numbers and how they are joined."""
    digest = hashlib.sha256()
    for node in graph.nodes:
        # Functions are known by name: their addresses change from run to run.
        described = re.sub(r" at 0x[0-9a-f]+", "", repr(node.layer))
        digest.update(f"{described} {node.inputs} {node.places}\n".encode())
    for constant in constants:
        digest.update(np.ascontiguousarray(constant.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _compiles(plan: Plan, one: Inputs, two: Inputs) -> bool:
    """Say whether compiled loops are worth it: large float32 kernels with rectifiers."""
    usual = one.x.dtype == torch.float32 and one.x.device.type == "cpu" and any(plan.gap)
    large = len(one) * len(two) * plan.largest >= COMPILED_FROM
    return usual and large and available()


def _blocks(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def _run(
    setting: _Setting,
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
    left = _Singles(plan, one)
    right = left if two is one else _Singles(plan, two)
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
    setting: _Setting,
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
    k = _with_zero_tangent(
        evaluate_pairs(plan, one, two, *singles, want_ntk=want, same=same, compiled=compiled)
    )
    rank = len(plan.graph.nodes[plan.graph.output].places)
    values = {"nngp": _public(k.nngp, rank, k.full)}
    if k.ntk is not None:
        values["ntk"] = _public(k.ntk, rank, k.full)
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

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        self.plan, self.inputs = plan, inputs
        per_input = (
            sum(math.prod(n.places) for i, n in enumerate(plan.graph.nodes) if plan.alone[i])
            * inputs.x.element_size()
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
            * inputs.x.element_size()
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
        states = evaluate_singles(self.plan, rows)
        if torch.is_grad_enabled():
            return states
        return [
            replace(s, deviation=s.root, level=s.rms)
            if self.plan.gap[i] and self.plan.alone[i]
            else s
            for i, s in enumerate(states)
        ]


def _diagonal(setting: _Setting, one: Inputs, wanted: tuple[str, ...]) -> Kernel:
    """Return the pairs (i, i), one by one."""
    plan = setting.plan
    places = plan.graph.nodes[plan.graph.output].places
    values: dict[str, list[Tensor]] = {name: [] for name in wanted}
    same = torch.zeros(1, 2, dtype=torch.long, device=one.x.device)
    for i in range(len(one)):
        row = one.rows(i, i + 1)
        singles = evaluate_singles(plan, row)
        k = _with_zero_tangent(
            evaluate_pairs(plan, row, row, singles, singles, want_ntk=setting.want_ntk, same=same)
        )
        for name in wanted:
            t = getattr(k, name)
            values[name].append(_public(t, len(places), k.full)[0, 0])
    return Kernel(**{name: torch.stack(v) for name, v in values.items()})


def tensors_in(thing: Any) -> list[Tensor]:
    """Collect the tensors among the fields of a layer that want gradients."""
    if not dataclasses.is_dataclass(thing):
        return []
    values = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    return [v for v in values if isinstance(v, Tensor) and v.requires_grad]
