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

# Candidates read whole in the first step, and at most.
_FIRST, _MOST = 200, 600
_SIGMAS = 4.0
_BLOCK = 8192
# Score of a glance that keeps nothing to compare.
_NOTHING = -2.0


class Searcher:
    """Searches the rows of a memory, keeping their first tier in this process.

    Args:
        rows: of the memory.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._cached: dict[Key, list[_Chunk]] = {}

    def search(self, vector: Any, k: int, where: Where) -> tuple[IntArray, FloatArray]:
        """Return ids and cosines of the k best, best first."""
        query = _query(vector, self.rows.dim)
        for name in self.rows.lost:
            query = _query(np.where(_within(self.rows.tiers[name], len(query)), 0, query), len(query))
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
        there = scores > _NOTHING
        found, scores = found[there], scores[there]
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
        error = self._errors(scores - coarse[chosen], chosen, places)
        bound = kth - max(float(error.mean()), 0.0) - _SIGMAS * float(error.std())
        coarse[chosen] = _NOTHING
        room = min(max(_MOST, 2 * first) - first, len(coarse) - 1)
        more = np.argpartition(coarse, len(coarse) - 1 - room)[-room:]
        more = more[coarse[more] >= bound]
        if len(more):
            further = self._exact(query, more if places is None else places[more])
            chosen, scores = np.r_[chosen, more], np.r_[scores, further]
        return (chosen if places is None else places[chosen]), scores

    def _errors(self, error: FloatArray, chosen: IntArray, places: IntArray | None) -> FloatArray:
        """Leave out what the first tier cannot err about: glances that keep no more than it."""
        if not self.rows.faded:
            return error
        kept = self.rows.kept()[chosen if places is None else places[chosen]]
        told = error[kept > self.rows.tiers["s0"].stop]
        return told if len(told) > 1 else np.zeros(1, np.float32)

    def _coarse(self, query: FloatArray, places: IntArray | None) -> FloatArray:
        """Cosines of the first tier."""
        part = query[: self.rows.tiers["s0"].stop]
        part = (part / max(float(np.linalg.norm(part)), 1e-30)).astype(np.float32)
        chunks = self._chunks()
        if places is None:
            return np.concatenate([c.cosines(part) for c in chunks])
        ends = np.cumsum([len(c.codes) for c in chunks])
        cuts = np.searchsorted(places, np.concatenate([[0], ends]))
        return np.concatenate(
            [
                c.cosines(part, places[start:stop] - (end - len(c.codes)))
                for c, end, start, stop in zip(chunks, ends, cuts[:-1], cuts[1:], strict=True)
            ]
        )

    def _chunks(self) -> list[_Chunk]:
        """First tier of every fragment, in pieces; only new fragments are read."""
        keys = self.rows.keys()
        fresh = [k for k in keys if k not in self._cached]
        if fresh:
            self._cached |= self._read(fresh)
        self._cached = {k: self._cached[k] for k in keys}
        return [chunk for chunks in self._cached.values() for chunk in chunks]

    def _read(self, keys: list[Key]) -> dict[Key, list[_Chunk]]:
        """Read the first tier of some fragments; what Lance decoded is kept without a copy."""
        found: dict[Key, list[_Chunk]] = {k: [] for k in keys}
        lengths = iter([(k, k[1] - k[2]) for k in keys])
        key, left = next(lengths)
        for table in self.rows.scan(["s0"], [k[0] for k in keys]):
            codes = self.rows.codes(table, ["s0"])
            while len(codes):
                while left == 0:
                    key, left = next(lengths)
                found[key].append(_Chunk(codes[:left]))
                taken = min(left, len(codes))
                codes, left = codes[taken:], left - taken
        return found

    def _first_tier(self, places: IntArray) -> npt.NDArray[Any]:
        """First tier of some rows."""
        chunks = self._chunks()
        ends = np.cumsum([len(c.codes) for c in chunks])
        which = np.searchsorted(ends, places, side="right")
        out = np.empty((len(places), chunks[0].codes.shape[1]), self.rows.dtype)
        for number in np.flatnonzero(np.bincount(which)).tolist():
            rows = which == number
            codes = chunks[number].codes
            out[rows] = codes[places[rows] - (ends[number] - len(codes))]
        return out

    def _exact(self, query: FloatArray, places: IntArray) -> FloatArray:
        """Cosines of all numbers that are kept; beyond the first tier they are read from disk."""
        parts = [self._first_tier(places)]
        names = [n for n, part in self.rows.tiers.items() if 0 < part.start < len(query)]
        if names:
            parts.append(self.rows.codes(self.rows.take(places, names), names))
        codes = np.concatenate(parts, axis=1)[:, : len(query)].astype(np.float32)
        scores = _over_norms(codes @ query, codes)
        if not self.rows.faded:
            return scores
        # A faded glance is compared with as much of the query as it keeps.
        lengths = np.sqrt(np.cumsum(np.square(query)))
        kept = np.minimum(self.rows.kept()[places], len(query))
        scores /= np.maximum(lengths[np.maximum(kept, 1) - 1], 1e-30)
        scores[kept == 0] = _NOTHING
        return scores


class _Chunk:
    """The first tier of some rows as it is on disk, and (once asked for) one over its norms."""

    def __init__(self, codes: npt.NDArray[Any]) -> None:
        self.codes = codes
        self._norms: FloatArray | None = None

    def cosines(self, query: FloatArray, rows: IntArray | None = None) -> FloatArray:
        """Cosines with a unit query, block by block: a block is float32 only in the cache."""
        codes = self.codes[:, : len(query)]
        if rows is not None or len(query) < self.codes.shape[1]:
            # Norms of prefixes shorter than the first tier are not kept.
            picked = (codes if rows is None else codes[rows]).astype(np.float32)
            return _over_norms(picked @ query, picked)
        out = np.empty(len(self.codes), np.float32)
        norms = np.empty_like(out) if self._norms is None else None
        for start in range(0, len(out), _BLOCK):
            block = self.codes[start : start + _BLOCK].astype(np.float32)
            np.dot(block, query, out=out[start : start + _BLOCK])
            if norms is not None:
                norms[start : start + _BLOCK] = _over_norms(np.ones(len(block)), block)
        if norms is not None:
            self._norms = norms
        assert self._norms is not None
        out *= self._norms
        return out


def _within(part: slice, size: int) -> npt.NDArray[np.bool_]:
    """Which of ``size`` numbers a tier holds."""
    places = np.arange(size)
    return np.asarray((places >= part.start) & (places < part.stop))


def _over_norms(values: npt.NDArray[Any], codes: FloatArray) -> FloatArray:
    """Divide values (B,) by the norms of rows (B, d)."""
    squares = np.einsum("ij,ij->i", codes, codes)
    out: FloatArray = (values / np.sqrt(np.maximum(squares, 1e-30))).astype(np.float32)
    return out


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
