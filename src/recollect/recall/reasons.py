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


def why(memory: Memory, a: int, b: int) -> Answer:
    """Split the cosine similarity of two glances by module and path.

    The share of path p is ``(<p of a, b> + <p of b, a>) / (2 |a| |b|)``, where p of a is what the
    objects of a at that path contribute to its sketch, from its record or decoded. The shares and
    the residual (rounding, and what the decoding missed) add up to the cosine.

    Low and high (90 %) hold the cross-talk of random projections and what the decoding leaves
    open; they say within which the share lies that a sketch without limit of size would show.

    Args:
        memory: a Memory.
        a: id of a glance.
        b: id of another glance.

    Returns:
        An Answer: ``path`` (module or family names from the output down; ``(counts)`` for how
        many objects there were), ``estimate``, ``low``, ``high``; the largest share first, then
        ``(residual)`` and ``(total)``.

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
        >>> memory.close()
    """
    sides = [_side(memory, a), _side(memory, b)]
    dim = min(len(side.sketch) for side in sides)
    sides = [side.prefix(dim) for side in sides]
    for number, side in zip((a, b), sides, strict=True):
        if side.norm == 0:
            raise ValueError(f"glance {number} is empty: its sketch is zero, nothing is like it")
    left, right = sides
    scale = left.norm * right.norm
    total = float(left.sketch @ right.sketch) / scale
    paths = sorted({*left.parts, *right.parts})
    shares = {p: _share(left, right, p) / scale for p in paths}
    paths.sort(key=lambda p: -abs(shares[p]))
    stds = [_deviation(left, right, p, dim) for p in paths]
    residual = total - sum(shares.values())
    estimate = [*(shares[p] for p in paths), residual, total]
    whole = (1 - min(total * total, 1.0)) / np.sqrt(dim)
    low, high = interval(estimate, [*stds, 0.0, whole])
    rows = [glance_row(memory, i) for i in (a, b)]
    names = [describe(row, i) for row, i in zip(rows, (a, b), strict=True)]
    notes = list(dict.fromkeys([*left.notes, *right.notes]))
    columns: dict[str, Any] = {
        "path": [*(_written(p) for p in paths), "(residual)", "(total)"],
        "estimate": estimate,
        "low": low,
        "high": high,
    }
    return Answer(columns, title=f"why {names[0]} is like {names[1]}", notes=notes)


def _written(path: Path) -> str:
    return "(counts)" if path == ("counts",) else " / ".join(path)


def _side(memory: Memory, glance: int) -> Side:
    known = Glance.read(memory, glance)
    sketch = vector_of(single_sketch(memory, glance)).astype(np.float64)
    parts = {p: _flat(x)[0] for p, x in memory.sketcher.parts(known.trace).items()}
    doubts: dict[Path, FloatArray] = {}
    if known.recollection is not None:
        drawn = _draws(known, glance)
        doubts = {p: _flat(x) for p, x in memory.sketcher.parts(drawn).items()}
        doubts.pop(("counts",), None)
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
