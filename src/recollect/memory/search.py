"""The most similar sketches: exact cosines in two stages.

The first tier of all sketches (256 numbers) stands in memory as it is kept on disk; a query is
compared with it block by block. The best candidates are read whole and compared again. How far
the two stages differ on those candidates says how much further the first stage must be searched:
every glance whose first-stage cosine comes within four standard deviations of the k-th best is
read too (at most ``_MOST``). So a result is exact unless a glance's first tier misleads by more
than four standard deviations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.memory.index import Key
from recollect.memory.rows import Rows, Where

__all__ = ["Searcher"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Tier = tuple[npt.NDArray[Any], FloatArray]

# Candidates read whole in the first step, and at most.
_FIRST, _MOST = 200, 1000
_SIGMAS = 4.0
_BLOCK = 4096


class Searcher:
    """Searches the rows of a memory, keeping their first tier in this process.

    Args:
        rows: of the memory.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._cached: dict[Key, Tier] = {}

    def search(self, vector: Any, k: int, where: Where) -> tuple[IntArray, FloatArray]:
        """Return ids and cosines of the k best, best first."""
        query = _query(vector, self.rows.dim)
        if self.rows.data() is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        places = None if where.is_all else np.sort(self.rows.find(where))
        keys = self.rows.keys()
        total = sum(n - gone for _, n, gone in keys) if places is None else len(places)
        if total == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if total <= _FIRST:
            found = np.arange(total) if places is None else places
            scores = self._exact(query, found)
        else:
            found, scores = self._two_stages(query, k, places)
        # A few more than k, so that equal scores are told apart by id.
        best = np.argsort(-scores, kind="stable")[: k + 16]
        found, scores = found[best], scores[best]
        ids = self.rows.ids_at(found)
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def _two_stages(
        self, query: FloatArray, k: int, places: IntArray | None
    ) -> tuple[IntArray, FloatArray]:
        coarse = self._coarse(query, places)
        first = min(len(coarse), max(_FIRST, 8 * k))
        chosen = np.argpartition(coarse, len(coarse) - first)[-first:]
        scores = self._exact(query, chosen if places is None else places[chosen])
        kth = np.sort(scores)[-min(k, first)]
        error = scores - coarse[chosen]
        bound = kth - max(float(error.mean()), 0.0) - _SIGMAS * float(error.std())
        more = np.setdiff1d(np.flatnonzero(coarse >= bound), chosen)
        room = max(_MOST, 2 * first) - first
        if len(more) > room:
            more = more[np.argpartition(coarse[more], len(more) - room)[-room:]]
        if len(more):
            scores = np.concatenate(
                [scores, self._exact(query, more if places is None else places[more])]
            )
            chosen = np.concatenate([chosen, more])
        return (chosen if places is None else places[chosen]), scores

    def _coarse(self, query: FloatArray, places: IntArray | None) -> FloatArray:
        """Cosines of the first tier."""
        part = query[: self.rows.tiers["s0"].stop]
        part = (part / max(float(np.linalg.norm(part)), 1e-30)).astype(np.float32)
        tiers = self._tiers()
        if len(part) < self.rows.tiers["s0"].stop:
            cut = [tier[:, : len(part)] for tier, _ in tiers]
            tiers = [(tier, _inverse_norms(tier)) for tier in cut]
        if places is None:
            return np.concatenate([_cosines(tier, norm, part) for tier, norm in tiers])
        ends = np.cumsum([len(tier) for tier, _ in tiers])
        cuts = np.searchsorted(places, np.concatenate([[0], ends]))
        return np.concatenate(
            [
                _cosines(tier, norm, part, places[start:stop] - (end - len(tier)))
                for (tier, norm), end, start, stop in zip(
                    tiers, ends.tolist(), cuts[:-1], cuts[1:], strict=True
                )
            ]
        )

    def _tiers(self) -> list[Tier]:
        """First tier, and one over its norms, of every fragment; only new ones are read."""
        keys = self.rows.keys()
        fresh = [k for k in keys if k not in self._cached]
        if fresh:
            tier, norms = self._read(fresh)
            cuts = np.cumsum([rows - gone for _, rows, gone in fresh])[:-1]
            parts = zip(np.split(tier, cuts), np.split(norms, cuts), strict=True)
            self._cached |= dict(zip(fresh, parts, strict=True))
        self._cached = {k: self._cached[k] for k in keys}
        return list(self._cached.values())

    def _read(self, keys: list[Key]) -> Tier:
        total = sum(rows - gone for _, rows, gone in keys)
        tier = np.empty((total, self.rows.tiers["s0"].stop), self.rows.dtype)
        norms = np.empty(total, np.float32)
        start = 0
        for table in self.rows.scan(["s0"], [k[0] for k in keys]):
            codes = self.rows.codes(table, ["s0"])
            tier[start : start + len(codes)] = codes
            norms[start : start + len(codes)] = _inverse_norms(codes)
            start += len(codes)
        return tier, norms

    def _first_tier(self, places: IntArray) -> npt.NDArray[Any]:
        """First tier of some rows."""
        tiers = [tier for tier, _ in self._tiers()]
        ends = np.cumsum([len(t) for t in tiers])
        which = np.searchsorted(ends, places, side="right")
        out = np.empty((len(places), tiers[0].shape[1]), self.rows.dtype)
        for number in np.unique(which).tolist():
            rows = which == number
            out[rows] = tiers[number][places[rows] - (ends[number] - len(tiers[number]))]
        return out

    def _exact(self, query: FloatArray, places: IntArray) -> FloatArray:
        """Cosines of all numbers; beyond the first tier they are read from disk."""
        parts = [self._first_tier(places)]
        names = [n for n, part in self.rows.tiers.items() if 0 < part.start < len(query)]
        if names:
            parts.append(self.rows.codes(self.rows.take(places, names), names))
        codes = np.concatenate(parts, axis=1)[:, : len(query)].astype(np.float32)
        squares = np.einsum("ij,ij->i", codes, codes)
        scores: FloatArray = (codes @ query) / np.sqrt(np.maximum(squares, 1e-30))
        return scores


def _cosines(
    tier: npt.NDArray[Any], norm: FloatArray, query: FloatArray, rows: IntArray | None = None
) -> FloatArray:
    """Cosines with a unit query, block by block: each block is turned into float32 in cache."""
    total = len(tier) if rows is None else len(rows)
    out = np.empty(total, np.float32)
    for start in range(0, total, _BLOCK):
        stop = min(start + _BLOCK, total)
        block = tier[start:stop] if rows is None else tier[rows[start:stop]]
        out[start:stop] = block.astype(np.float32) @ query
    out *= norm if rows is None else norm[rows]
    return out


def _inverse_norms(codes: npt.NDArray[Any]) -> FloatArray:
    out = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK].astype(np.float32)
        out[start : start + _BLOCK] = np.einsum("ij,ij->i", block, block)
    return np.where(out > 0, 1 / np.sqrt(np.maximum(out, 1e-30)), 0).astype(np.float32)


def _query(vector: Any, dim: int) -> FloatArray:
    """Return a query as unit (d,) float32.

    Raises:
        ValueError: if it has more numbers than a sketch, is zero, or not finite.
    """
    query = np.asarray(vector, np.float32).reshape(-1)
    if not 0 < len(query) <= dim:
        raise ValueError(f"a vector of {dim} numbers (or a prefix) is expected, got {len(query)}")
    norm = float(np.linalg.norm(query))
    if not np.isfinite(norm) or norm == 0:
        raise ValueError("the vector to search for must be finite and not zero")
    return (query / norm).astype(np.float32)
