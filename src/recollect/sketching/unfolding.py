"""Unfolding: from the DAG of each glance to (glance, path) pairs, level by level, in columns.

An object that is the input of two others is met on two paths. Objects of one glance that share a
path share all their operators; their weighted attributes are added before anything else happens.

A path here names families of modules from the output down. Siblings of one module are told
apart by their ordinal: the first step is ``("cat",)``, the next ``("cat", "1")``, so that two
cats can be recovered one by one. A recipe with slots puts the place among all siblings into
every step instead. Paths are numbered in the order of their names, so that sums are made in an
order that does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect.tracing import Trace

__all__ = ["Level", "PathKey", "unfold", "unfold_edges"]

IntArray = npt.NDArray[np.int64]
# One step of a path: the family, or the family and an ordinal or slot ("cat", "2").
Step = tuple[str, ...]
PathKey = tuple[Step, ...]

# A DAG with shared objects unfolds to a tree; beyond this many occurrences it is refused.
MAX_OCCURRENCES = 1 << 22


@dataclass(frozen=True, eq=False)
class Level:
    """All occurrences at one depth, and the (glance, path) pairs they belong to.

    Attributes:
        paths: distinct paths at this depth, sorted.
        glance: (q,) glance of each pair; pairs are sorted by glance, then path.
        path: (q,) place in ``paths``.
        parent: (q,) number of the parent pair one level up (of the glance at the top level).
        object: (o,) number of the object of each occurrence.
        pair: (o,) pair of each occurrence, ascending.
        coefficient: (o,) float64 product of the edge coefficients along the path.
    """

    paths: tuple[PathKey, ...]
    glance: IntArray
    path: IntArray
    parent: IntArray
    object: IntArray
    pair: IntArray
    coefficient: npt.NDArray[np.float64]


def unfold(trace: Trace, *, power: float, slots: bool) -> list[Level]:
    """Unfold a trace; objects are numbered by glance, then rank (see ``object_numbers``).

    Args:
        trace: B glances.
        power: an edge of weight w gets the coefficient ``w ** power``.
        slots: whether the place among the siblings is part of a path.

    Raises:
        ValueError: if shared objects unfold to more than four million occurrences.
    """
    edges = trace.all_edges()
    start = glance_starts(trace)
    families = sorted(trace.columns)
    family = np.zeros(int(start[-1]), dtype=np.int64)
    member = np.zeros(int(start[-1]), dtype=np.int64)
    for number, name in enumerate(families):
        c = trace.columns[name]
        family[start[c.glance] + c.rank] = number
        member[start[c.glance] + c.rank] = c.member
    parent = np.where(edges.parent < 0, -1, start[edges.glance] + edges.parent)
    child = start[edges.glance] + edges.child
    return unfold_edges(
        parent, child, edges.glance, kept_weights(edges.weight), family, member, families,
        power=power, slots=slots,
    )  # fmt: skip


def glance_starts(trace: Trace) -> IntArray:
    """Return (B + 1,) numbers: where each glance's objects begin when all are counted through."""
    counts = np.zeros(trace.num_glances, dtype=np.int64)
    for c in trace.columns.values():
        counts += np.bincount(c.glance, minlength=trace.num_glances)
    return np.concatenate([[0], np.cumsum(counts)])


def kept_weights(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Round weights as a skeleton keeps them, so that decoding uses what encoding used."""
    return np.minimum(weight, 65504).astype(np.float16).astype(np.float64)


def unfold_edges(
    parent: IntArray,
    child: IntArray,
    glance: IntArray,
    weight: npt.NDArray[np.float64],
    family: IntArray,
    member: IntArray,
    families: Sequence[str],
    *,
    power: float,
    slots: bool,
) -> list[Level]:
    """Unfold edges between numbered objects (parent -1 is the output) level by level.

    Args:
        parent: (E,) number of the parent object, -1 for the output.
        child: (E,) number of the child object.
        glance: (E,) glance of the edge.
        weight: (E,) weights.
        family: (objects,) place of each object's family in ``families``.
        member: (objects,) member of the family.
        families: sorted family names.
        power: exponent of the weights.
        slots: whether the place among all siblings is part of a path.
    """
    coefficient = weight**power
    siblings = np.where(parent < 0, -1 - glance, parent)
    slot = _ordinals(siblings) if slots else _ordinals(siblings, family[child], member[child])
    top = np.flatnonzero(parent == -1)
    order = np.argsort(parent, kind="stable")
    order = order[parent[order] >= 0]
    begin = np.searchsorted(parent[order], np.arange(len(family) + 1))

    levels: list[Level] = []
    edge, above = top, glance[top]
    above_paths: tuple[PathKey, ...] = ((),)
    above_path, above_glance = np.zeros(int(glance.max(initial=-1)) + 1, np.int64), None
    factor = coefficient[top]
    while len(edge):
        owner = glance[edge] if above_glance is None else above_glance[above]
        level = _level(
            owner, above, above_path[above], above_paths, family[child[edge]], families,
            slot[edge], slots, child[edge], factor,
        )  # fmt: skip
        levels.append(level)
        lengths = begin[level.object + 1] - begin[level.object]
        if lengths.sum() > MAX_OCCURRENCES:
            raise ValueError(
                f"the shared objects of this trace unfold to {int(lengths.sum())} occurrences at "
                f"depth {len(levels) + 1}; keep data-flow edges out of the DAG, or cut it"
            )
        which = np.repeat(np.arange(len(level.object)), lengths)
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        edge = order[begin[level.object][which] + within]
        above, above_paths = level.pair[which], level.paths
        above_path, above_glance = level.path, level.glance
        factor = level.coefficient[which] * coefficient[edge]
    return levels


def _level(
    owner: IntArray,
    above: IntArray,
    above_path: IntArray,
    above_paths: tuple[PathKey, ...],
    family: IntArray,
    families: Sequence[str],
    slot: IntArray,
    slots: bool,
    child: IntArray,
    factor: npt.NDArray[np.float64],
) -> Level:
    """Group the occurrences of one depth into (glance, path) pairs."""
    num_slots = int(slot.max(initial=0)) + 1
    code = (above_path * len(families) + family) * num_slots + slot
    codes, place = np.unique(code, return_inverse=True)
    paths = []
    for c in codes.tolist():
        rest, s = divmod(c, num_slots)
        a, f = divmod(rest, len(families))
        step = (families[f], str(s)) if slots or s else (families[f],)
        paths.append((*above_paths[a], step))
    pair_code = owner * len(codes) + place
    pairs, first, pair = np.unique(pair_code, return_index=True, return_inverse=True)
    order = np.argsort(pair, kind="stable")
    return Level(
        tuple(paths),
        pairs // len(codes),
        pairs % len(codes),
        above[first],
        child[order],
        pair[order],
        factor[order],
    )


def _ordinals(*keys: IntArray) -> IntArray:
    """Place of each row among the rows that have the same keys."""
    order = np.lexsort(keys[::-1])
    ordered = [key[order] for key in keys]
    changed = np.zeros(max(len(order) - 1, 0), dtype=bool)
    for key in ordered:
        changed |= key[1:] != key[:-1]
    starts = np.flatnonzero(np.concatenate([[True], changed])[: len(order)])
    lengths = np.diff(np.concatenate([starts, [len(order)]]))
    ordinal = np.empty(len(order), dtype=np.int64)
    ordinal[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return ordinal
