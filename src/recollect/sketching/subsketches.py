"""Sub-sketches: every object of a glance, with all that it was made from, sketched on its own.

The sub-sketch of an object is the sketch of a glance that holds nothing else, without counts. It
does not depend on where the object stands or on what stands beside it, so the same object in two
glances has the same sub-sketch. The signs of its first 128 numbers are its *signature*: numbers
of a sketch are as good as products with random directions, so that two signatures differ in a
share ``arccos(c) / pi`` of their bits, c the cosine of the two sub-sketches.

Shape letters: n objects, d numbers in a sketch.

Reference: "Similarity estimation techniques from rounding algorithms" (Charikar, 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recollect.sketching.sketcher import Sketcher
from recollect.tracing import Column, Edges, Trace

__all__ = ["BITS", "Alone", "alone", "signatures", "sub_sketches"]

IntArray = npt.NDArray[np.int64]

BITS = 128
# Objects that are sketched at a time.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Alone:
    """Objects, each in a glance of its own.

    Attributes:
        trace: n glances, each with one object on top.
        glance: (n,) the glance that each object comes from.
        rank: (n,) its rank there.
    """

    trace: Trace
    glance: IntArray
    rank: IntArray


def alone(trace: Trace, glance: IntArray, rank: IntArray) -> Alone:
    """Put each of some objects, with its inputs, into a glance of its own.

    Args:
        trace: that holds them.
        glance: (n,) glance of each object.
        rank: (n,) its rank there.

    Example:
        >>> from recollect import Object
        >>> face = Object("face", [1.0])
        >>> t = Trace.from_objects([[Object("cat", [5.0], inputs=[face])]])
        >>> found = alone(t, np.array([0, 0]), np.array([0, 1]))
        >>> len(found.trace), found.trace.objects("face").path
        (2, [('cat', 'face'), ('face',)])
    """
    starts = _starts(trace)
    roots = starts[glance] + rank
    owner, member = np.arange(len(roots)), roots
    edges = trace.edges
    below_owner, below_member = [owner], [member]
    if edges is not None:
        inside = edges.parent >= 0
        parent = starts[edges.glance[inside]] + edges.parent[inside]
        child = starts[edges.glance[inside]] + edges.child[inside]
        order = np.argsort(parent, kind="stable")
        parent, child = parent[order], child[order]
        while len(member):
            first = np.searchsorted(parent, member)
            many = np.searchsorted(parent, member, side="right") - first
            owner = np.repeat(owner, many)
            member = child[np.repeat(first - np.cumsum(many) + many, many) + np.arange(many.sum())]
            owner, member = _distinct(owner, member, int(starts[-1]))
            below_owner.append(owner)
            below_member.append(member)
    owners, members = _distinct(
        np.concatenate(below_owner), np.concatenate(below_member), int(starts[-1])
    )
    made = _built(trace, starts, owners, members, roots)
    return Alone(made, glance, rank)


def _starts(trace: Trace) -> IntArray:
    """Number of the first object of each glance, were all objects numbered; and their number."""
    counts = np.zeros(len(trace), np.int64)
    for c in trace.columns.values():
        counts += np.bincount(c.glance, minlength=len(trace))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _distinct(owner: IntArray, member: IntArray, objects: int) -> tuple[IntArray, IntArray]:
    keys = np.unique(owner * max(objects, 1) + member)
    return keys // max(objects, 1), keys % max(objects, 1)


def _built(
    trace: Trace, starts: IntArray, owner: IntArray, member: IntArray, roots: IntArray
) -> Trace:
    """Build the trace in which glance o holds the objects ``member[owner == o]``."""
    # The root comes first, also where a shared input was listed before it.
    first = np.searchsorted(owner, np.arange(len(roots)))
    rank = np.arange(len(owner)) - first[owner]
    rank = np.where(member == roots[owner], 0, rank + (member < roots[owner]))
    columns = {}
    order = np.argsort(member, kind="stable")
    sorted_member = member[order]
    for name, c in trace.columns.items():
        number = starts[c.glance] + c.rank
        low = np.searchsorted(sorted_member, number)
        many = np.searchsorted(sorted_member, number, side="right") - low
        rows = np.repeat(np.arange(len(c)), many)
        pairs = order[np.repeat(low - np.cumsum(many) + many, many) + np.arange(many.sum())]
        if not len(pairs):
            continue
        by_glance = np.lexsort((rank[pairs], owner[pairs]))
        rows, pairs = rows[by_glance], pairs[by_glance]
        weight = np.where(rank[pairs] == 0, np.float32(1), c.weight[rows]).astype(np.float32)
        columns[name] = Column(
            name, c.members, c.attributes[torch.from_numpy(rows)], owner[pairs], c.member[rows],
            rank[pairs], weight,
        )  # fmt: skip
    if trace.edges is None:
        return Trace(columns, len(roots))
    return Trace(columns, len(roots), _edges(trace, starts, owner, member, rank, len(roots)))


def _edges(
    trace: Trace, starts: IntArray, owner: IntArray, member: IntArray, rank: IntArray, count: int
) -> Edges | None:
    """Return the edges inside each new glance, and one to its root."""
    assert trace.edges is not None
    e = trace.edges
    inside = np.flatnonzero(e.parent >= 0)
    parent = starts[e.glance[inside]] + e.parent[inside]
    child = starts[e.glance[inside]] + e.child[inside]
    by_parent = np.argsort(parent, kind="stable")
    parent, child = parent[by_parent], child[by_parent]
    weight = e.weight[inside][by_parent]
    low = np.searchsorted(parent, member)
    many = np.searchsorted(parent, member, side="right") - low
    if not many.any():
        return None
    at = np.repeat(low - np.cumsum(many) + many, many) + np.arange(many.sum())
    whose, above = np.repeat(owner, many), np.repeat(rank, many)
    objects = int(starts[-1])
    keys = owner * objects + member
    below = rank[np.searchsorted(keys, whose * objects + child[at])]
    top = np.full(count, -1, np.int64)
    glance = np.concatenate([np.arange(count), whose])
    parents = np.concatenate([top, above])
    children = np.concatenate([np.zeros(count, np.int64), below])
    weights = np.concatenate([np.ones(count, np.float32), weight[at]])
    order = np.lexsort((children, parents, glance))
    return Edges(glance[order], parents[order], children[order], weights[order])


def sub_sketches(
    sketcher: Sketcher, trace: Trace, glance: IntArray, rank: IntArray
) -> npt.NDArray[np.float32]:
    """Return the unrounded sub-sketches of some objects, (n, d) float32.

    Args:
        sketcher: knows the modules.
        trace: that holds the objects.
        glance: (n,) glance of each object.
        rank: (n,) its rank there.
    """
    sketcher.admit(trace)
    encoder = sketcher.encoder()
    trace = trace.cpu()
    parts = [np.zeros((0, sketcher.recipe.dim), np.float32)]
    for start in range(0, len(glance), _CHUNK):
        part = slice(start, start + _CHUNK)
        found = alone(trace, glance[part], rank[part]).trace
        image = encoder.operators.leave(encoder.working(found, sketcher.modules))
        parts.append(image.detach().numpy().astype(np.float32))
    return np.concatenate(parts)


def signatures(sub: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the signs of the first 128 (or all) numbers, packed: (n, 16) uint8.

    >>> signatures(np.array([[1.0, -1.0] * 64], np.float32))[0, 0]
    np.uint8(170)
    """
    return np.packbits(sub[:, :BITS] > 0, axis=1)
