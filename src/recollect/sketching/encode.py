"""Encoding: columns of a trace to sketches, level by level, in a handful of tensor operations.

The three schemes differ in what one object's sketch is made of. With E_M the attribute operator
of module M, c_M its count column, R_M its mixing operator, w the weights of the inputs:

* ``energy``: ``s(o) = E_M x + T_M sum_i sqrt(w_i) T_i s(o_i)`` with ``T_M = (I + R_M) / sqrt(2)``;
  T_i is the identity, but for the second, third, ... sibling of one module (with ``slots``: for
  every place), where it is ``I / 2 + sqrt(3/4) R_i`` of that ordinal. Every object's share of the
  sketch's energy is its effective weight, at any depth. The counts are added to the finished
  sketch with the coefficient ``COUNT_GAIN``, once per object.
* ``keyed``: ``s = sum_p E_p x_p``: one operator per path, the same square-root weights, counts
  as above.
* ``paper``: the published recursion, with its halves and its counters inside the recursion
  (our reconstruction): ``s_attr = (E_M x + c_M) / 2``, ``s_in = sum_i w_i (I + R_i) s(o_i) / 2``,
  ``s(o) = (I + R_M0) [(I + R_a) s_attr / 4 + (I + R_b) s_in / 4] / 2``; the sketch is s_in of
  the output.

Shape letters: B glances, q (glance, path) pairs, m numbers in an attribute, W working width,
d = dim, P modules.

Reference: "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, ICML 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching import fused
from recollect.sketching.operators import Operators
from recollect.sketching.recipe import ModuleEntry, ModuleTable
from recollect.sketching.unfolding import Level, PathKey, glance_starts, kept_weights, unfold
from recollect.tracing import Column, Trace

__all__ = ["COUNT_GAIN", "Encoder"]

# Coefficient of a count column beside attributes of unit size: 4 % of an object's energy.
COUNT_GAIN = 0.2
# What a further sibling of one module keeps in the common direction. Less tells siblings apart
# better (I / 2 + sqrt(3/4) R has singular values from .37 to 1.37, (I + R) / sqrt(2) from 0);
# more leaves them visible to one probe.
SIBLING = 0.5

IntArray = npt.NDArray[np.int64]


class Encoder:
    """Encodes traces with the operators of one recipe on one device.

    Args:
        operators: of the recipe.
        scheme: ``"energy"``, ``"keyed"`` or ``"paper"``.
        slots: whether places among siblings count.
    """

    def __init__(self, operators: Operators, scheme: str, slots: bool) -> None:
        self.operators, self.scheme, self.slots = operators, scheme, slots
        self.fuses = operators.device.type == "cpu" and fused.available()

    # -- the sketch -----------------------------------------------------------------------

    def encode(self, trace: Trace, table: ModuleTable) -> Tensor:
        """Return the (B, d) float32 sketches before rounding."""
        if self.fuses and self._is_static(trace):
            sketch = self._static(trace, table)
        else:
            sketch = self.operators.leave(self.working(trace, table))
        return sketch if self.scheme == "paper" else sketch + self.counts(trace)

    def working(self, trace: Trace, table: ModuleTable) -> Tensor:
        """Return the attributes' (and, for ``paper``, counters') (B, W) part, not yet left."""
        if self._is_simple(trace):
            return self._flat(trace, table)
        levels = self.unfold(trace)
        rows = _Rows(trace, table, self.operators.device)
        below: Tensor | None = None
        for depth in reversed(range(len(levels))):
            level = levels[depth]
            attribute = self._attributes(level, rows)
            out = self._node(attribute, below, level)
            above = trace.num_glances if depth == 0 else len(levels[depth - 1].glance)
            below = torch.zeros(above, self.operators.width, device=self.operators.device)
            _add_in_order(below, level.parent, out)
        if below is None:
            below = torch.zeros(trace.num_glances, self.operators.width)
        return below

    def _is_simple(self, trace: Trace) -> bool:
        """Whether every object is a top-level object and no module has two in a glance."""
        if trace.edges is not None or self.scheme == "paper" or self.slots:
            return False
        for c in trace.columns.values():
            if not c.is_dense(len(trace)):
                key = c.glance * len(c.members) + c.member
                if len(np.unique(key)) < len(key):
                    return False
        return True

    def _is_static(self, trace: Trace) -> bool:
        """Whether every glance holds each module once, on top: a network without branches."""
        if trace.edges is not None or self.scheme == "paper" or self.slots:
            return False
        return all(c.is_static(trace.num_glances) for c in trace.columns.values())

    def _static(self, trace: Trace, table: ModuleTable) -> Tensor:
        """Encode a static network's glances with the fused operators, (B, d)."""
        n = trace.num_glances
        parts = [
            (trace.columns[name].attributes.cpu().reshape(n, -1), self._key(((name,),)),
             table[name].scale)
            for name in sorted(trace.columns) if len(trace.columns[name])
        ]  # fmt: skip
        return self.operators.sketch_rows(parts, n)

    def unfold(self, trace: Trace) -> list[Level]:
        """Unfold a trace with this scheme's coefficients."""
        power = 1.0 if self.scheme == "paper" else 0.5
        return unfold(trace, power=power, slots=self.slots or self.scheme == "paper")

    def counts(self, trace: Trace) -> Tensor:
        """Return the (B, d) part of the counts: one count column per object, once."""
        counts = {
            name: (c.members, _member_counts(c, trace.num_glances))
            for name, c in trace.columns.items()
        }
        return self.count_image(counts, trace.num_glances)

    def count_image(
        self, counts: Mapping[str, tuple[tuple[str, ...], npt.NDArray[np.float32]]], rows: int
    ) -> Tensor:
        """Return the (B, d) image of counts: family -> its members and (B, k) whole numbers.

        Sums of whole numbers are exact, so this may be a matrix product.
        """
        device = self.operators.device
        total = torch.zeros(rows, self.operators.dim, device=device)
        by_size: dict[int, list[str]] = {}
        for name in sorted(counts):
            by_size.setdefault(len(counts[name][0]), []).append(name)
        for size in sorted(by_size):
            table = np.concatenate([counts[name][1] for name in by_size[size]], axis=1)
            members = tuple(m for name in by_size[size] for m in counts[name][0])
            same = bool((table == table[:1]).all())
            kept = torch.from_numpy(table[:1] if same else table).to(device)
            total += (kept @ self.operators.count_columns(members)) * count_gain(
                size, self.operators.dim
            )
        return total

    # -- one column of the linear map -----------------------------------------------------

    def columns(self, path: PathKey, entry: ModuleEntry) -> Tensor:
        """Return the images of unit scaled attributes at a path: (k m, d).

        Row j m + i is number i of member j. Edge coefficients are left out.
        """
        size = entry.size * len(entry.members)
        z = torch.zeros(size, self.operators.width, device=self.operators.device)
        unit = torch.eye(size, device=self.operators.device)
        self._spread(unit / 2 if self.scheme == "paper" else unit, path, z)
        return self.operators.leave(self._climb(z, path))

    def counter(self, path: PathKey) -> Tensor:
        """Return the image of one counter at a path, (d,): only ``paper`` has counters inside."""
        return self.operators.leave(self._climb(self._counter(path)[None] / 2, path))[0]

    def _climb(self, z: Tensor, path: PathKey) -> Tensor:
        """Carry attribute images at a path up to the output."""
        if self.scheme == "keyed":
            return z
        if self.scheme == "paper":
            z = self._paper_node(z, None, [path[-1]] * len(z))
            for step in reversed(path[:-1]):
                z = self._paper_node(None, z, [step] * len(z))
            return z
        for depth, step in enumerate(reversed(path)):
            if depth > 0:
                z = self._transparent(z, [step[:1]] * len(z))
            z = self._slot(z, [step] * len(z))
        return z

    # -- parts ----------------------------------------------------------------------------

    def _flat(self, trace: Trace, table: ModuleTable) -> Tensor:
        """Encode top-level objects: one pass per family, no paths."""
        device = self.operators.device
        into = torch.zeros(trace.num_glances, self.operators.width, device=device)
        for name in sorted(trace.columns):
            c = trace.columns[name]
            if len(c) == 0:
                continue
            path, entry = ((name,),), table[name]
            if c.is_static(trace.num_glances):
                bag = c.attributes.to(device).reshape(trace.num_glances, -1)
                self._spread(bag, path, into, entry.scale)
                continue
            glances, place = np.unique(c.glance, return_inverse=True)
            bag = _sum_rows(
                c, np.arange(len(c)), place, kept_weights(c.weight) ** 0.5, len(glances), device
            )
            picked = torch.from_numpy(glances).to(device)
            some = into.index_select(0, picked)
            self._spread(bag, path, some, entry.scale)
            into.index_copy_(0, picked, some)
        return into

    def _spread(self, bag: Tensor, path: PathKey, into: Tensor, scale: float = 1.0) -> None:
        self.operators.spread(bag, self._key(path), into, scale=scale)

    def _key(self, path: PathKey) -> tuple[str, ...]:
        """What the attribute operator of a path belongs to."""
        return tuple("/".join(step) for step in path) if self.scheme == "keyed" else path[-1][:1]

    def _attributes(self, level: Level, rows: _Rows) -> Tensor:
        """Return each pair's weighted attributes in the working space, (q, W)."""
        out = torch.zeros(len(level.glance), self.operators.width, device=self.operators.device)
        for number, path in enumerate(level.paths):
            pairs = np.flatnonzero(level.path == number)
            chosen = np.isin(level.pair, pairs)
            local = np.searchsorted(pairs, level.pair[chosen])
            bag = rows.bag(path[-1][0], level.object[chosen], local, len(pairs),
                           level.coefficient[chosen])  # fmt: skip
            image = torch.zeros(len(pairs), self.operators.width, device=self.operators.device)
            self._spread(bag, path, image, rows.table[path[-1][0]].scale)
            if self.scheme == "paper":
                total = np.bincount(local, level.coefficient[chosen], minlength=len(pairs))
                weights = torch.from_numpy(total.astype(np.float32)).to(image.device)
                image = (image + weights[:, None] * self._counter(path)) / 2
            out[torch.from_numpy(pairs).to(out.device)] = image
        return out

    def _counter(self, path: PathKey) -> Tensor:
        """The module's counter R_{M,2} e_1 in the working space, norm one, (W,)."""
        width = self.operators.width
        counter: Tensor = self.operators.signs(width, "counter", path[-1][0]) * width**-0.5
        return counter

    def _node(self, attribute: Tensor, below: Tensor | None, level: Level) -> Tensor:
        """Combine each pair's attributes with what its inputs brought up."""
        steps = [level.paths[i][-1] for i in level.path.tolist()]
        if self.scheme == "keyed":
            return attribute if below is None else attribute + below
        if self.scheme == "paper":
            return self._paper_node(attribute, below, steps)
        if below is not None:
            some = torch.nonzero((below != 0).any(1))[:, 0]
            if len(some):
                keys = [steps[i][:1] for i in some.tolist()]
                lifted = self._transparent(below.index_select(0, some), keys)
                attribute = attribute.index_add(0, some, lifted)
        return self._slot(attribute, steps)

    def _transparent(
        self, z: Tensor, keys: list[tuple[str, ...]], kept: float = 2**-0.5
    ) -> Tensor:
        """``kept I + sqrt(1 - kept^2) R``, R by key: (I + R) / sqrt(2) if not said otherwise."""
        mixed: Tensor = self.operators.mix(z, keys)
        turned: Tensor = z * kept + mixed * (1 - kept**2) ** 0.5
        return turned

    def _slot(self, z: Tensor, steps: list[tuple[str, ...]]) -> Tensor:
        """Turn the rows whose step has an ordinal or slot, so that siblings are told apart."""
        some = [i for i, step in enumerate(steps) if len(step) > 1]
        if not some:
            return z
        rows = torch.tensor(some, device=z.device)
        keys: list[tuple[str, ...]] = [("slot", steps[i][1]) for i in some]
        return z.index_copy(0, rows, self._transparent(z.index_select(0, rows), keys, SIBLING))

    def _paper_node(
        self, attribute: Tensor | None, below: Tensor | None, steps: list[tuple[str, ...]]
    ) -> Tensor:
        """One object of the published recursion, its slot in the parent included."""

        def half(z: Tensor, keys: list[tuple[str, ...]]) -> Tensor:
            return (z + self.operators.mix(z, keys)) / 2

        inner: Tensor | None = None
        for z, name in ((attribute, "attribute slot"), (below, "input slot")):
            if z is not None:
                image = half(z, [(name,)] * len(z)) / 2
                inner = image if inner is None else inner + image
        assert inner is not None
        return half(half(inner, [step[:1] for step in steps]), [("slot", s[1]) for s in steps])


class _Rows:
    """Finds the attributes of numbered objects, family by family."""

    def __init__(self, trace: Trace, table: ModuleTable, device: torch.device) -> None:
        self.trace, self.table, self.device = trace, table, device
        start = glance_starts(trace)
        self.row = np.zeros(int(start[-1]), dtype=np.int64)
        for c in trace.columns.values():
            self.row[start[c.glance] + c.rank] = np.arange(len(c))

    def bag(
        self,
        family: str,
        objects: IntArray,
        pair: IntArray,
        num_pairs: int,
        coefficient: npt.NDArray[np.float64],
    ) -> Tensor:
        """Return the (num_pairs, k m) weighted sums of the attributes of each pair."""
        c = self.trace.columns[family]
        return _sum_rows(c, self.row[objects], pair, coefficient, num_pairs, self.device)


def _sum_rows(
    c: Column,
    rows: IntArray,
    pair: IntArray,
    coefficient: npt.NDArray[np.float64],
    num_pairs: int,
    device: torch.device,
) -> Tensor:
    """Return the (num_pairs, k m) sums of coefficient times attribute, in the order of rows."""
    k = len(c.members)
    picked = c.attributes.to(device)
    if len(rows) != len(c) or not np.array_equal(rows, np.arange(len(rows))):
        picked = picked.index_select(0, torch.from_numpy(rows).to(device))
    if bool((coefficient != 1).any()):
        picked = picked * torch.from_numpy(coefficient.astype(np.float32)).to(device)[:, None]
    into = torch.zeros(num_pairs * k, c.size, device=device)
    _add_in_order(into, pair * k + c.member[rows], picked)
    return into.view(num_pairs, k * c.size)


def _add_in_order(into: Tensor, place: IntArray, rows: Tensor) -> None:
    """Add rows into their places, one after another within a place, on any device alike."""
    for some in _rounds(place):
        where = torch.from_numpy(place[some]).to(into.device)
        from_rows = (
            rows if len(some) == len(rows) else rows[torch.from_numpy(some).to(rows.device)]
        )
        into[where] += from_rows


def _rounds(place: IntArray) -> Iterator[IntArray]:
    """Split rows into rounds in which every place occurs at most once, in order."""
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    lengths = np.diff(np.concatenate([starts, [len(ordered)]]))
    rank = np.arange(len(ordered)) - np.repeat(starts, lengths)
    for r in range(int(lengths.max(initial=0))):
        yield np.sort(order[rank == r])


def _member_counts(c: Column, num_glances: int) -> npt.NDArray[np.float32]:
    """Objects of each member in each glance, (B, k)."""
    k = len(c.members)
    if c.is_dense(num_glances):
        return np.ones((num_glances, k), dtype=np.float32)
    flat = np.bincount(c.glance * k + c.member, minlength=num_glances * k)
    return flat.reshape(num_glances, k).astype(np.float32)


def count_gain(members: int, dim: int) -> float:
    """Coefficient of one count column: a family's columns share one module's energy."""
    return float(COUNT_GAIN * (members * dim) ** -0.5)
