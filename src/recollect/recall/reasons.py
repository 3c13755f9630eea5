"""Why two glances are alike: their similarity, split by module and path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from recollect._answers import Answer, interval
from recollect._seeds import seed_of
from recollect.recall.faded import vector_of
from recollect.recall.glances import Glance
from recollect.recall.reading import describe, glance_row, single_sketch
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["why"]

FloatArray = npt.NDArray[np.float64]
Path = tuple[str, ...]

# Draws of what the decoding leaves open, for the intervals.
_DRAWS = 16
# Pairs of paths that are shown one by one.
_PAIRS = 20


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two glances.

    Attributes:
        sketch: (d,) float64, as kept.
        parts: path -> (d,) its contribution; together nearly the sketch.
        doubts: path -> (draws, d) what the decoding leaves open of it; empty if it is exact.
        notes: where it comes from.
    """

    sketch: FloatArray
    parts: dict[Path, FloatArray]
    doubts: dict[Path, FloatArray]
    notes: list[str]

    @property
    def norm(self) -> float:
        """Length of the sketch."""
        return float(np.linalg.norm(self.sketch))

    def prefix(self, dim: int) -> Side:
        """Return the side as its first numbers show it."""
        parts = {p: x[:dim] for p, x in self.parts.items()}
        doubts = {p: x[:, :dim] for p, x in self.doubts.items()}
        return Side(self.sketch[:dim], parts, doubts, self.notes)


def why(memory: Memory, a: int, b: int, *, across: bool = False) -> Answer:
    """Split the cosine similarity of two glances by module and path.

    The share of path p is ``(<p of a, b> + <p of b, a>) / (2 |a| |b|)``, where p of a is what the
    objects of a at that path contribute to its sketch, from its record or decoded. The shares and
    the residual (rounding, and what the decoding missed) add up to the cosine.

    With ``across`` every path of the one is set against every path of the other,
    ``<p of a, q of b> / (|a| |b|)``, which shows what both share at different places: the same
    object under another parent, or at another depth.

    Low and high (90 %) hold the cross-talk of random projections and what the decoding leaves
    open; they say within which the share lies that a sketch without limit of size would show.

    Args:
        memory: a Memory.
        a: id of a glance.
        b: id of another glance.
        across: whether to split by pairs of paths.

    Returns:
        An Answer: ``path`` (module names from the output down, or the family's where all its
        members were there; ``(counts)`` for how many objects there were), with ``across`` also
        ``other`` (the path in b), ``estimate``, ``low``, ``high``; the largest share first, then
        ``(residual)`` and ``(total)``. Of the pairs the twenty largest are shown, and the sum of
        the others as ``(others)``.

    Raises:
        NotRemembered: if there is no such glance.
        ValueError: if a glance is empty, or must be decoded but its skeleton was not kept.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> def scene(x):
        ...     face = Object("face", [x])
        ...     return [Object("cat", [x, 1.0], weight=0.5, inputs=[face])]
        >>> t = Trace.from_objects([scene(x) for x in (1.0, 1.1, 5.0)])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3], source="hall")
        >>> answer = recall.why(memory, 1, 3)
        >>> answer["path"]
        ['cat', 'cat / face', '(counts)', '(residual)', '(total)']
        >>> abs(sum(answer["estimate"][:-1]) - answer["estimate"][-1]) < 1e-12
        True
        >>> pairs = recall.why(memory, 1, 3, across=True)
        >>> list(zip(pairs["path"], pairs["other"]))[:2]
        [('cat', 'cat'), ('cat / face', 'cat / face')]
        >>> memory.close()
    """
    known = [Glance.read(memory, glance) for glance in (a, b)]
    split = _named_by_member([g.trace for g in known])
    sides = [_side(memory, g, number, split) for g, number in zip(known, (a, b), strict=True)]
    dim = min(len(side.sketch) for side in sides)
    sides = [side.prefix(dim) for side in sides]
    for number, side in zip((a, b), sides, strict=True):
        if side.norm == 0:
            raise ValueError(f"glance {number} is empty: its sketch is zero, nothing is like it")
    left, right = sides
    total = float(left.sketch @ right.sketch) / (left.norm * right.norm)
    shares = _pairs(left, right, dim) if across else _by_path(left, right, dim)
    residual = total - sum(s.estimate for s in shares)
    whole = (1 - min(total * total, 1.0)) / np.sqrt(dim)
    shares += [Share("(residual)", "", residual, 0.0), Share("(total)", "", total, whole)]
    estimate = [s.estimate for s in shares]
    low, high = interval(estimate, [s.std for s in shares])
    rows = [glance_row(memory, i) for i in (a, b)]
    names = [describe(row, i) for row, i in zip(rows, (a, b), strict=True)]
    notes = list(dict.fromkeys([*left.notes, *right.notes]))
    columns: dict[str, Any] = {
        "path": [s.path for s in shares],
        **({"other": [s.other for s in shares]} if across else {}),
        "estimate": estimate,
        "low": low,
        "high": high,
    }
    return Answer(columns, title=f"why {names[0]} is like {names[1]}", notes=notes)


@dataclass(frozen=True)
class Share:
    """What one path, or one pair of paths, adds to a cosine.

    Attributes:
        path: as it is written; of the first glance, for a pair.
        other: path of the second glance.
        estimate: of the share.
        std: its standard deviation.
    """

    path: str
    other: str
    estimate: float
    std: float


def _by_path(left: Side, right: Side, dim: int) -> list[Share]:
    """Split by path, the largest share first."""
    scale = left.norm * right.norm
    shares = [
        Share(_written(p), "", _share(left, right, p) / scale, _deviation(left, right, p, dim))
        for p in sorted({*left.parts, *right.parts})
    ]
    return sorted(shares, key=lambda s: -abs(s.estimate))


def _pairs(left: Side, right: Side, dim: int) -> list[Share]:
    """Split by pairs of paths, the largest shares first, the small ones summed."""
    ours, theirs = sorted(left.parts), sorted(right.parts)
    a = np.stack([left.parts[p] for p in ours]) / left.norm  # (p, d)
    b = np.stack([right.parts[q] for q in theirs]) / right.norm  # (q, d)
    table = a @ b.T
    variance = np.outer(np.square(a).sum(1), np.square(b).sum(1)) / dim
    for i, p in enumerate(ours):
        if p in left.doubts:
            variance[i] += np.square(left.doubts[p] / left.norm @ b.T).mean(0)
    for j, q in enumerate(theirs):
        if q in right.doubts:
            variance[:, j] += np.square(right.doubts[q] / right.norm @ a.T).mean(0)
    order = np.argsort(-np.abs(table).reshape(-1), kind="stable")
    places = [divmod(int(o), len(theirs)) for o in order]
    shares = [
        Share(_written(ours[i]), _written(theirs[j]), float(table[i, j]), variance[i, j] ** 0.5)
        for i, j in places[:_PAIRS]
    ]
    if len(places) > _PAIRS:
        rest = [table[i, j] for i, j in places[_PAIRS:]]
        std = float(np.sqrt(sum(variance[i, j] for i, j in places[_PAIRS:])))
        shares.append(Share("(others)", "", float(sum(rest)), std))
    return shares


def _written(path: Path) -> str:
    return " / ".join(path) or "(counts)"


def _named_by_member(traces: list[Trace]) -> set[str]:
    """Return the families of which a glance holds a few members only, as of a thousand classes.

    So are the members of a family with inputs (the heads of an attention). Of the others (the
    kernels of a convolution) all are there each time: they are one part.
    """
    columns = [(c, t) for t in traces for c in t.columns.values()]
    return {
        c.name
        for c, t in columns
        if not c.is_dense(len(t)) or (t.edges is not None and len(c.members) > 1)
    }


def _side(memory: Memory, known: Glance, glance: int, split: set[str]) -> Side:
    sketch = vector_of(single_sketch(memory, glance)).astype(np.float64)
    parts = {p: _flat(x)[0] for p, x in memory.sketcher.parts(known.trace, split).items()}
    doubts: dict[Path, FloatArray] = {}
    if known.recollection is not None:
        drawn = _draws(known, glance)
        doubts = {p: _flat(x) for p, x in memory.sketcher.parts(drawn, split).items()}
        doubts.pop((), None)
    return Side(sketch, parts, doubts, known.notes)


def _flat(part: torch.Tensor) -> FloatArray:
    return np.asarray(part.detach().cpu().numpy(), dtype=np.float64)


def _draws(known: Glance, glance: int) -> Trace:
    """Return glances of the same structure whose attributes are drawn from the deviations."""
    assert known.recollection is not None
    generator = torch.Generator().manual_seed(seed_of("why", glance))
    many = Trace.concat([known.recollection.deviations()] * _DRAWS)
    columns = {}
    for name, c in many.columns.items():
        std = torch.where(torch.isfinite(c.attributes), c.attributes, 0.0)
        columns[name] = replace(c, attributes=std * torch.randn(std.shape, generator=generator))
    return Trace(columns, many.num_glances, many.edges)


def _share(left: Side, right: Side, path: Path) -> float:
    nothing = np.zeros(1)
    mine, yours = left.parts.get(path, nothing), right.parts.get(path, nothing)
    one = float(mine @ right.sketch) if len(mine) > 1 else 0.0
    other = float(yours @ left.sketch) if len(yours) > 1 else 0.0
    return (one + other) / 2


def _deviation(left: Side, right: Side, path: Path, dim: int) -> float:
    """Deviation of a share: cross-talk with everything else, and what the decoding left open."""
    variance = 0.0
    for one, other in ((left, right), (right, left)):
        part = one.parts.get(path)
        if part is not None:
            variance += float(part @ part) / one.norm**2 / dim / 4
        if path in one.doubts:
            drawn = one.doubts[path] @ other.sketch / (one.norm * other.norm)
            variance += float(np.square(drawn).mean()) / 4
    return float(np.sqrt(variance))
