"""What recurs: dense places among vectors, with thresholds that somebody else has chosen.

The core similarity of a vector is its cosine with its m-th nearest, itself counted: how alike m
of them are there. Every vector has a threshold t of its own, what its core would hardly be by
chance; its height is ``core - t``, and two vectors are linked as strongly as
``min(core_i - t_i, core_j - t_j, cosine_ij - max(t_i, t_j))``, if that is not negative. Going down
from the strongest link, groups grow and meet. Where two meet at a link s, the one with the lower
peak is taken in if its peak stands less than the *prominence* above s, or if it has fewer than m
members; else they stay apart for good.

Only links to the most alike *earlier* vectors are kept, so that what is known of the first n is
what was known when there were n: the links of any span from the beginning are a subset.

Reference: "Persistence-based clustering in Riemannian manifolds" (Chazal, Guibas, Oudot and
Skraba, 2013); "Density-based clustering based on hierarchical density estimates" (Campello,
Moulavi and Sander, 2013).

Shape letters: n vectors, d numbers in each, K links kept of each, E links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "LINKS",
    "Links",
    "groups_of",
    "links_to_earlier",
    "nearest_among",
    "rounded",
    "told_apart",
]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]

# Links to earlier vectors that are kept of each.
LINKS = 32
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Links:
    """Links of vectors to the most alike earlier ones.

    Attributes:
        count: n.
        late: (E,) the later vector of each link.
        early: (E,) the earlier one.
        cosine: (E,) float64.
    """

    count: int
    late: IntArray
    early: IntArray
    cosine: FloatArray

    def up_to(self, count: int) -> Links:
        """Return the links among the first vectors."""
        kept = self.late < count
        return Links(count, self.late[kept], self.early[kept], self.cosine[kept])

    def cores(self, members: int) -> FloatArray:
        """Return the cosine of each vector with its ``members``-th nearest, itself counted, (n,).

        -1 where it has fewer links.
        """
        ends = np.concatenate([self.late, self.early])
        cosine = np.concatenate([self.cosine, self.cosine])
        order = np.lexsort((-cosine, ends))
        ends, cosine = ends[order], cosine[order]
        first = np.searchsorted(ends, np.arange(self.count))
        last = np.searchsorted(ends, np.arange(self.count), side="right")
        wanted = first + members - 2
        out = np.full(self.count, -1.0)
        there = wanted < last
        out[there] = cosine[wanted[there]]
        return out


def rounded(vectors: npt.NDArray[np.floating]) -> Codes:
    """Return (n, d) vectors as int8, each with its largest number at 127; zeros stay zero.

    Products of whole numbers are exact, so that equal input gives equal links.
    """
    top = np.abs(vectors).max(axis=1, initial=0.0, keepdims=True)
    codes: Codes = np.rint(vectors * (127 / np.maximum(top, 1e-30))).astype(np.int8)
    return codes


def links_to_earlier(codes: Codes, keep: int = LINKS) -> Links:
    """Link each vector to the most alike earlier ones, exactly: n^2 / 2 products.

    Args:
        codes: (n, d) int8, in the order of time; rows of zeros are like nothing.
        keep: K, links of each vector.
    """
    import torch
    from numkong import dots_pack, dots_packed

    n = len(codes)
    codes = np.ascontiguousarray(codes)
    inverse = _inverse_norms(codes)
    late, early, cosine = [], [], []
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        rows = np.arange(start, stop)
        dots = np.asarray(dots_packed(codes[start:stop], dots_pack(codes[:stop])))
        found = torch.from_numpy(dots).to(torch.float32)
        found *= torch.from_numpy(inverse[:stop])
        found *= torch.from_numpy(inverse[start:stop])[:, None]
        # A vector is no neighbour of itself, nor of later ones.
        found[:, start:] = found[:, start:].tril(-1) - 2 * torch.ones_like(found[:, start:]).triu()
        best = torch.topk(found, min(keep, stop), dim=1)
        values, places = best.values.numpy(), best.indices.numpy()
        there = values > -1.5
        late.append(np.repeat(rows, there.sum(1)))
        early.append(places[there])
        cosine.append(values[there].astype(np.float64))
    none = [np.zeros(0, np.int64)]
    return Links(
        n,
        np.concatenate(late or none).astype(np.int64),
        np.concatenate(early or none).astype(np.int64),
        np.concatenate(cosine or [np.zeros(0)]),
    )


def nearest_among(codes: Codes, others: Codes, keep: int) -> FloatArray:
    """Return the largest cosines of each vector with some others, (n, keep), falling.

    Args:
        codes: (n, d) int8.
        others: (k, d) int8; where they are fewer than ``keep``, the rest is -1.
        keep: how many.
    """
    import torch
    from numkong import dots_pack, dots_packed

    packed, inverse = dots_pack(np.ascontiguousarray(others)), _inverse_norms(others)
    own = _inverse_norms(codes).astype(np.float64)
    out = np.full((len(codes), keep), -1.0)
    some = min(keep, len(others))
    for start in range(0, len(codes), _ROWS):
        part = slice(start, start + _ROWS)
        dots = np.asarray(dots_packed(np.ascontiguousarray(codes[part]), packed))
        found = torch.from_numpy(dots).to(torch.float32)
        found *= torch.from_numpy(inverse)
        best = torch.topk(found, some, dim=1).values.numpy().astype(np.float64)
        out[part, :some] = best * own[part, None]
    return out


def _inverse_norms(codes: Codes) -> npt.NDArray[np.float32]:
    norm = np.sqrt(np.square(codes.astype(np.float32)).sum(1, dtype=np.float64))
    inverse = np.divide(1.0, norm, out=np.zeros(len(codes)), where=norm > 0)
    return np.asarray(inverse, np.float32)


def told_apart(
    codes: Codes,
    others: Codes,
    groups: Sequence[IntArray],
    members: int,
    threshold: FloatArray,
) -> npt.NDArray[np.bool_]:
    """Return which further vectors belong to which group, (n, c).

    A vector belongs to the group of the member that it is most like, if it is as alike to
    ``members - 1`` of that group as this member must be to belong to any.

    Args:
        codes: (n, d) int8, of the further vectors.
        others: (k, d) int8, among which the groups were found.
        groups: of c groups, places among the k.
        members: m, of the smallest group.
        threshold: (k,) of each of the k.
    """
    out = np.zeros((len(codes), len(groups)), np.bool_)
    if not groups or not len(codes):
        return out
    best = np.stack(
        [nearest_among(codes, others[g], members - 1) for g in groups]
    )  # (c, n, m - 1)
    own = best[:, :, 0].argmax(0)
    for c, group in enumerate(groups):
        rows = np.flatnonzero(own == c)
        if len(rows):
            level = threshold[group[_most_alike(codes[rows], others[group])]]
            out[rows, c] = best[c, rows, -1] >= level
    return out


def _most_alike(codes: Codes, others: Codes) -> IntArray:
    """Return the place of the most alike of some others for each vector, (n,)."""
    from numkong import dots_pack, dots_packed

    dots = np.asarray(
        dots_packed(np.ascontiguousarray(codes), dots_pack(np.ascontiguousarray(others)))
    )
    found: IntArray = (dots * _inverse_norms(others)).argmax(1)
    return found


def groups_of(links: Links, members: int, threshold: FloatArray, prominence: float) -> IntArray:
    """Return the group of each vector, (n,), numbered by their first member; -1 for none.

    Args:
        links: among n vectors.
        members: m, fewest members of a group.
        threshold: (n,) from which core on a vector can belong to a group.
        prominence: how far the lower of two peaks stands above their meeting for both to stay.

    Example:
        >>> x = np.array([[9, 1], [9, 0], [9, 2], [0, 9], [1, 9], [2, 9], [-9, 0]])
        >>> links = links_to_earlier(x.astype(np.int8))
        >>> groups_of(links, members=3, threshold=np.full(7, 0.9), prominence=0.1).tolist()
        [0, 0, 0, 1, 1, 1, -1]
    """
    height = links.cores(members) - threshold
    above = links.cosine - np.maximum(threshold[links.late], threshold[links.early])
    strength = np.minimum(above, np.minimum(height[links.late], height[links.early]))
    kept = strength >= 0
    late, early, strength = links.late[kept], links.early[kept], strength[kept]
    order = np.lexsort((early, late, -strength))
    forest = _Forest(height, members, prominence)
    for a, b, s in zip(
        late[order].tolist(), early[order].tolist(), strength[order].tolist(), strict=True
    ):
        forest.join(a, b, s)
    return forest.groups()


class _Forest:
    """Groups that grow and meet."""

    def __init__(self, height: FloatArray, members: int, prominence: float) -> None:
        self.height, self.members, self.prominence = height, members, prominence
        self.parent = list(range(len(height)))
        self.size = [1] * len(height)
        self.peak = height.tolist()

    def find(self, place: int) -> int:
        """Return the root of a vector."""
        parent = self.parent
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def join(self, a: int, b: int, strength: float) -> None:
        """Let two vectors' groups meet."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        if (self.peak[a], -a) < (self.peak[b], -b):
            a, b = b, a
        stands = self.peak[b] - strength >= self.prominence and self.size[b] >= self.members
        if stands:
            return
        self.parent[b] = a
        self.size[a] += self.size[b]

    def groups(self) -> IntArray:
        """Return the group of each vector, small groups as none."""
        roots = np.array([self.find(i) for i in range(len(self.parent))], dtype=np.int64)
        large = np.array(self.size)[roots] >= self.members
        alive = np.flatnonzero(large & (self.height >= 0))
        out = np.full(len(roots), -1, np.int64)
        _, first, number = np.unique(roots[alive], return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        out[alive] = rank[number]
        return out
