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

from recollect.memory.rows import Rows, Where

__all__ = ["Searcher"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

# Candidates read whole in the first step, and at most.
_FIRST, _MOST = 200, 2000
_SIGMAS = 4.0
_BLOCK = 4096


class Searcher:
    """Searches the rows of a memory, keeping their first tier in this process.

    Args:
        rows: of the memory.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._cached: tuple[int, npt.NDArray[Any], FloatArray] | None = None

    def search(self, vector: Any, k: int, where: Where) -> tuple[IntArray, FloatArray]:
        """Return ids and cosines of the k best, best first."""
        query = _query(vector, self.rows.dim)
        if self.rows.data() is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        ids = self.rows.index()[0]
        places = None if where.is_all else np.sort(self.rows.find(where))
        total = len(ids) if places is None else len(places)
        if total == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if total <= _FIRST:
            found = np.arange(total) if places is None else places
            scores = self._exact(query, found)
        else:
            found, scores = self._two_stages(query, k, places)
        best = np.lexsort((ids[found], -scores))[:k]
        return ids[found[best]], scores[best]

    def _two_stages(
        self, query: FloatArray, k: int, places: IntArray | None
    ) -> tuple[IntArray, FloatArray]:
        coarse = self._coarse(query, places)
        first = min(len(coarse), max(_FIRST, 8 * k))
        chosen = np.argpartition(coarse, len(coarse) - first)[-first:]
        scores = self._exact(query, chosen if places is None else places[chosen])
        kth = np.sort(scores)[-min(k, first)]
        error = scores - coarse[chosen]
        bound = kth - float(error.mean()) - _SIGMAS * float(error.std())
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
        tier, norm = self._tier()
        part = query[: tier.shape[1]]
        part = part / max(float(np.linalg.norm(part)), 1e-30)
        total = len(tier) if places is None else len(places)
        out = np.empty(total, np.float32)
        for start in range(0, total, _BLOCK):
            stop = min(start + _BLOCK, total)
            block = tier[start:stop] if places is None else tier[places[start:stop]]
            out[start:stop] = block.astype(np.float32) @ part
        out *= norm if places is None else norm[places]
        return out

    def _tier(self) -> tuple[npt.NDArray[Any], FloatArray]:
        """First tier of all rows, and one over its norms."""
        version = int(self.rows.data().version)
        if self._cached is None or self._cached[0] != version:
            parts = [self.rows.codes(t, ["s0"]) for t in self.rows.scan(["s0"])]
            tier = np.concatenate(parts)
            self._cached = (version, tier, _inverse_norms(tier))
        return self._cached[1], self._cached[2]

    def _exact(self, query: FloatArray, places: IntArray) -> FloatArray:
        names = [n for n, part in self.rows.tiers.items() if part.start < len(query)]
        codes = self.rows.codes(self.rows.take(places, names), names)[:, : len(query)]
        scores: FloatArray = codes.astype(np.float32) @ query
        return scores * _inverse_norms(codes)


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
