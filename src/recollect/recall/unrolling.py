"""One glance as a tree: what was made from what, with attributes and error bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer, interval
from recollect.recall.glances import Glance
from recollect.recall.reading import describe, glance_row
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["Unrolled", "unroll"]

FloatArray = npt.NDArray[np.float64]
Names = Sequence[str] | Mapping[str, Sequence[str]]

# Objects of one family that are drawn under one parent, and lines of a whole drawing.
_SIBLINGS, _LINES = 6, 80


@dataclass(frozen=True, eq=False)
class Leaf:
    """One object of the glance.

    Attributes:
        module: its module.
        family: the family that the module belongs to.
        estimate: (m,) attribute; NaN if it is forgotten.
        std: (m,) standard deviation; zero if it is exact, infinite if it is forgotten.
    """

    module: str
    family: str
    estimate: FloatArray
    std: FloatArray

    @property
    def strength(self) -> float:
        """Length of the attribute."""
        return float(np.linalg.norm(self.estimate))

    def strongest(self, number: int) -> list[int]:
        """Places of the numbers of the largest size, largest first."""
        return [int(i) for i in np.argsort(-np.abs(self.estimate), kind="stable")[:number]]


class Unrolled(Answer):
    """A glance as a table of its objects, drawn as a tree.

    Columns: ``path`` (module names from the output down), ``depth`` (1 at the top), ``module``,
    ``weight``, ``estimate``, ``std``, ``low``, ``high`` (lists, one number for each of the
    attribute), ``strength`` (length of the attribute) and ``strongest`` (places of the largest
    numbers). One row per object, depth first.
    """

    def __init__(self, trace: Trace, leaves: dict[int, Leaf], title: str, notes: Sequence[str],
                 names: Names = ()) -> None:  # fmt: skip
        self._trace, self._leaves, self._names = trace, leaves, names
        super().__init__(_columns(trace, leaves), title=title, notes=notes)

    def to_trace(self) -> Trace:
        """Return the glance as a trace of one glance."""
        return self._trace

    def tree(self, strongest: int = 3) -> str:
        """Draw the glance as a tree, each object with its strongest numbers.

        Of many objects of one family under one parent, the strongest are drawn.
        """
        return "\n".join(_draw(self._trace, self._leaves, self._names, strongest))

    def __repr__(self) -> str:
        return "\n".join([self.title, self.tree(), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(n)}</p>" for n in self.notes)
        return f"<p>{escape(self.title)}</p><pre>{escape(self.tree())}</pre>{notes}"


def unroll(memory: Memory, glance: int, source: str | None = None, names: Names = ()) -> Unrolled:
    """Unroll one glance: its objects as a tree, with attributes and error bars.

    Of a glance that has faded to its skeleton the structure is still exact; the attributes are
    refused: NaN, with bounds of minus and plus infinity.

    Args:
        memory: a Memory.
        glance: id of the glance.
        source: ``"sketch"`` decodes the sketch with the memory's prior; ``"record"`` reads the
            record, exactly; None takes the record if one is kept, else the sketch, else the
            structure alone.
        names: what the first numbers of attributes are called in the drawing: one list for all
            modules, or module (or family) -> list.

    Raises:
        NotRemembered: if there is no such glance, or no record of it where one is asked for.
        ValueError: if it must be decoded but its skeleton was not kept, or its sketch is insisted
            on and has faded altogether.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> def scene(x):
        ...     face = Object("face", [x])
        ...     return [Object("cat", [x, 1.0], weight=0.5, inputs=[face])]
        >>> t = Trace.from_objects([scene(x) for x in (1.0, 1.1, 5.0)])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3], source="hall")
        >>> recall.unroll(memory, 1, names={"cat": ["size", "legs"]})
        glance 1 · 2026-01-01T08:00:00+00:00 · hall
        └─ cat x 0.5  size 1  legs 1
           └─ face  [0] 1
        glance 1 is kept whole: exact, from its record
        >>> memory.close()
    """
    known = Glance.read(memory, glance, source, hollow=True)
    row = glance_row(memory, glance)
    return Unrolled(known.trace, _leaves(known), describe(row, glance), known.notes, names)


def _leaves(known: Glance) -> dict[int, Leaf]:
    """Return each object of a glance by its rank."""
    doubts = None if known.recollection is None else known.recollection.deviations()
    leaves = {}
    for name, c in known.trace.columns.items():
        values = c.attributes.cpu().numpy().astype(np.float64)
        std = np.full_like(values, np.inf if known.hollow else 0.0)
        if doubts is not None:
            std = doubts.columns[name].attributes.cpu().numpy().astype(np.float64)
        for row, (rank, member) in enumerate(zip(c.rank.tolist(), c.member.tolist(), strict=True)):
            leaves[rank] = Leaf(c.members[member], name, values[row], std[row])
    return leaves


def _columns(trace: Trace, leaves: dict[int, Leaf]) -> dict[str, list[Any]]:
    ranks = np.array(sorted(leaves), dtype=np.int64)
    paths = trace.paths(np.zeros_like(ranks), ranks)
    edges = trace.all_edges()
    weight: dict[int, float] = {}
    for child, w in zip(edges.child.tolist(), edges.weight.tolist(), strict=True):
        weight.setdefault(child, w)
    found = [leaves[r] for r in ranks.tolist()]
    ends = [interval(leaf.estimate, leaf.std) for leaf in found]
    return {
        "path": [list(p) for p in paths],
        "depth": [len(p) for p in paths],
        "module": [leaf.module for leaf in found],
        "weight": [weight[r] for r in ranks.tolist()],
        "estimate": [leaf.estimate.tolist() for leaf in found],
        "std": [leaf.std.tolist() for leaf in found],
        "low": [low.tolist() for low, _ in ends],
        "high": [high.tolist() for _, high in ends],
        "strength": [leaf.strength for leaf in found],
        "strongest": [leaf.strongest(10) for leaf in found],
    }


# -- drawing --------------------------------------------------------------------------------


def _draw(trace: Trace, leaves: dict[int, Leaf], names: Names, strongest: int) -> list[str]:
    """Draw the tree depth first; a shared object is spelled out where it is met first."""
    edges = trace.all_edges()
    below: dict[int, list[tuple[int, float]]] = {}
    for p, c, w in zip(
        edges.parent.tolist(), edges.child.tolist(), edges.weight.tolist(), strict=True
    ):
        below.setdefault(p, []).append((c, w))
    lines: list[str] = []
    met: set[int] = set()
    stack = _items(below.get(-1, []), leaves, "")
    while stack:
        indent, last, child, weight, skipped = stack.pop()
        turn = "└─ " if last else "├─ "
        if child < 0:
            lines.append(f"{indent}{turn}{skipped}")
            continue
        again = child in met
        met.add(child)
        text = _line(leaves[child], weight, names, 0 if again else strongest)
        lines.append(indent + turn + text + ("  (shared, as above)" if again else ""))
        if not again:
            deeper = indent + ("   " if last else "│  ")
            stack.extend(_items(below.get(child, []), leaves, deeper))
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"... and {len(lines) - _LINES} more lines"]
    return lines


Item = tuple[str, bool, int, float, str]


def _items(children: list[tuple[int, float]], leaves: dict[int, Leaf], indent: str) -> list[Item]:
    """Return what is drawn under one parent, last first: of large families the strongest."""
    families: dict[str, list[tuple[int, float]]] = {}
    for child, weight in children:
        families.setdefault(leaves[child].family, []).append((child, weight))
    dropped: dict[str, int] = {}
    kept: set[int] = set()
    for family, members in families.items():
        order = sorted(members, key=lambda m: -leaves[m[0]].strength)
        shown = order if len(order) <= _SIBLINGS else order[:_SIBLINGS]
        kept |= {child for child, _ in shown}
        if len(order) > len(shown):
            dropped[family] = len(order) - len(shown)
    drawn: list[Item] = [
        (indent, False, child, weight, "") for child, weight in children if child in kept
    ]
    drawn += [
        (indent, False, -1, 0.0, f"... and {number} weaker of {family}")
        for family, number in dropped.items()
    ]
    if drawn:
        drawn[-1] = (indent, True, *drawn[-1][2:])
    return drawn[::-1]


def _line(leaf: Leaf, weight: float, names: Names, strongest: int) -> str:
    """Write one object: module, weight, strongest numbers with their deviations."""
    if isinstance(names, Mapping):
        names = names.get(leaf.module) or names.get(leaf.family) or ()
    parts = [leaf.module + (f" x {weight:.3g}" if weight != 1 else "")]
    if strongest and np.isnan(leaf.estimate).all():
        return f"{parts[0]}  ({len(leaf.estimate)} numbers, forgotten)"
    for i in leaf.strongest(strongest):
        name = names[i] if i < len(names) else f"[{i}]"
        bar = f" ± {leaf.std[i]:.2g}" if leaf.std[i] > 0 else ""
        parts.append(f"{name} {leaf.estimate[i]:.3g}{bar}")
    more = len(leaf.estimate) - strongest
    return "  ".join(parts) + (f"  (+{more})" if strongest and more > 0 else "")
