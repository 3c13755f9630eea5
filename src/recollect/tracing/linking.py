"""Ranks and edges of the objects of one forward whose view says who was made from whom.

Shape letters: N objects of all glances, E links, D depth of the deepest object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect.tracing.columns import Edges

__all__ = ["Link", "Linked", "link_up"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class Link:
    """Which objects of one family were made from which of another.

    Attributes:
        parent: name of the parents' family.
        child: name of the children's family.
        parent_row: (E,) rows of the parents' piece.
        child_row: (E,) rows of the children's piece; the order of siblings is that of the links.
        weight: (E,) weights, not negative.
    """

    parent: str
    child: str
    parent_row: IntArray
    child_row: IntArray
    weight: FloatArray


@dataclass(frozen=True, slots=True)
class Linked:
    """Where every object stands in its glance.

    Attributes:
        rank: (N,) place in the glance, depth first.
        weight: (N,) weight of the first edge that leads to the object.
        edges: all edges, by glance, then depth first.
    """

    rank: IntArray
    weight: FloatArray
    edges: Edges


def link_up(
    glance: IntArray, weight: FloatArray, starts: dict[str, int], links: Sequence[Link]
) -> Linked:
    """Rank objects depth first; those that no link leads to stand under the output.

    Args:
        glance: (N,) glance of each object, piece after piece.
        weight: (N,) weight of each object under the output, if it stands there.
        starts: family -> number of its first object.
        links: of all families. The parents of one object must all stand at one depth.

    Example:
        >>> link = Link("cat", "eye", np.array([0, 0]), np.array([0, 1]), np.ones(2, np.float32))
        >>> found = link_up(np.zeros(3, np.int64), np.ones(3, np.float32),
        ...                 {"eye": 0, "cat": 2}, [link])
        >>> found.rank.tolist(), found.edges.parent.tolist()
        ([1, 2, 0], [-1, 0, 0])
    """
    parent = np.concatenate([starts[k.parent] + k.parent_row for k in links]).astype(np.int64)
    child = np.concatenate([starts[k.child] + k.child_row for k in links]).astype(np.int64)
    heavy = np.concatenate([k.weight for k in links]).astype(np.float32)
    top = np.ones(len(glance), dtype=bool)
    top[child] = False
    chain = _chains(parent, child, top)
    order = np.lexsort((*chain.T[::-1], glance))
    rank = np.empty(len(glance), dtype=np.int64)
    counts = np.bincount(glance)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The edges of the output and the links, each at the place where a walk comes by.
    above = np.concatenate([np.full(int(top.sum()), -1), parent])
    below = np.concatenate([np.flatnonzero(top), child])
    weights = np.concatenate([weight[top], heavy])
    walk = np.concatenate([chain[top], _beneath(chain, parent)])
    at = np.lexsort((*walk.T[::-1], glance[below]))
    edges = Edges(
        glance[below][at], np.where(above < 0, -1, rank[above])[at], rank[below][at], weights[at]
    )
    first = np.full(len(glance), -1, dtype=np.int64)
    first[below[at][::-1]] = at[::-1]
    return Linked(rank, weights[first], edges)


def _chains(parent: IntArray, child: IntArray, top: npt.NDArray[np.bool_]) -> IntArray:
    """Return (N, D) steps of the first walk that comes by each object, -1 beyond its depth."""
    chain = np.where(top, np.arange(len(top)), -1)[:, None].astype(np.int64)
    depth = np.where(top, 0, -1)
    while (depth[child] < 0).any():
        ready = np.flatnonzero((depth[parent] == chain.shape[1] - 1) & (depth[child] < 0))
        assert len(ready), "objects in a circle"
        walks = np.concatenate([chain[parent[ready]], ready[:, None]], axis=1)
        order = np.lexsort((*walks.T[::-1], child[ready]))
        objects, first = np.unique(child[ready][order], return_index=True)
        chain = np.concatenate([chain, np.full((len(chain), 1), -1, dtype=np.int64)], axis=1)
        chain[objects] = walks[order][first]
        depth[objects] = chain.shape[1] - 1
    return chain


def _beneath(chain: IntArray, parent: IntArray) -> IntArray:
    """Return the walks that lead over each link: the parent's, then the link's number."""
    walks = chain[parent]
    last = (walks >= 0).sum(1)  # the first place beyond the parent's own steps
    walks[np.arange(len(walks)), last] = np.arange(len(walks))
    return walks
