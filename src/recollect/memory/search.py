"""The most similar sketches: exact cosines, or products, in two stages.

The first tier of all sketches (256 numbers) is mapped into memory as it lies on disk; a query,
rounded like the sketches are, is compared with all of it by the vector instructions for int8.
The best candidates are read whole and compared again. How far the two stages differ on those
candidates says how much further the first stage must be searched: every glance whose first-stage
cosine comes within four standard deviations of the k-th best is read too (at most ``_MOST``). So
a result is exact unless a glance's first tier misleads by more than four standard deviations.

A glance that has faded is compared with as much of the query as it keeps. Products, unlike
cosines, also need the scale of every sketch, which is read once a process.

Sketches of an informed epoch are compared as coordinates, ``codes * scale * factor + offset``
(``frames``); where there are several recipes, each gets a query of its own, and the best of all
are returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.memory.blocks import Where
from recollect.memory.frames import NOTHING, Query, framed_scores
from recollect.memory.index import Key
from recollect.memory.mapping import Codes, map_tiers
from recollect.memory.rows import FOLDER, Rows
from recollect.memory.sums import distinct

__all__ = ["Query", "Searcher"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

# Candidates read whole in the first step, and at most.
_FIRST, _MOST = 200, 4000
_SIGMAS = 4.0
# Smaller fragments are soon joined; their first tier is read instead of mapped.
_MAPPED = 4096

# Pieces of a tier in the order of the rows: first row, rows, numbers (None: only Lance has them).
Piece = tuple[int, int, Codes | None]


class Searcher:
    """Searches the rows of a memory, keeping their first tier within reach of this process.

    Args:
        rows: of the memory.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._widths = {name: part.stop - part.start for name, part in rows.tiers.items()}
        self._held: dict[Key, dict[str, list[Codes]]] = {}
        self._scales: dict[Key, FloatArray] = {}
        self._all_scales = np.zeros(0, np.float32)

    def search(
        self, vector: Any, k: int, where: Where, *, products: bool = False
    ) -> tuple[IntArray, FloatArray]:
        """Return ids and cosines (or products with the vector) of the k best, best first."""
        return self._best(Query(vector, products=products), k, self._places(where))

    def search_all(
        self, queries: list[Query], k: int, where: Where
    ) -> tuple[IntArray, FloatArray]:
        """Return ids and scores of the k best of several queries, each for some of the glances."""
        asked = self._places(where)
        ids, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for query in queries:
            found = self._best(query, k, self._of(query, asked))
            ids = np.r_[ids, found[0]]
            scores = np.r_[scores, found[1] * np.float32(query.strength)]
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def _places(self, where: Where) -> IntArray | None:
        """Places of the glances of a filter, ascending; None for all."""
        return None if where.is_all else np.sort(self.rows.find(where))

    def _of(self, query: Query, places: IntArray | None) -> IntArray | None:
        """The places, of all or some, of the glances that a query is for; None for all."""
        if query.epochs is not None and (self.rows.has_epochs or 0 not in query.epochs):
            epochs = self.rows.epochs()
            places = np.arange(len(epochs)) if places is None else places
            mine = np.isin(epochs[places], query.epochs)
            places = places[mine] if not mine.all() or len(mine) < len(epochs) else None
        if query.kept is not None:
            kept = self.rows.kept()
            places = np.arange(len(kept)) if places is None else places
            places = places[kept[places] == query.kept]
        return places

    def _best(self, asked: Query, k: int, places: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return ids and scores of the k best at some places, best first."""
        query, length = asked.unit(self.rows.dim), 1.0
        if asked.products:
            length = float(np.linalg.norm(np.asarray(asked.vector, np.float64)))
        for name in self.rows.lost:
            query.vector[self.rows.tiers[name]] = 0
            length *= float(np.linalg.norm(query.vector)) if asked.products else 1.0
            query = query.unit(self.rows.dim)
        if self.rows.data() is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        keys = self.rows.keys()
        total = sum(map(_alive, keys)) if places is None else len(places)
        if total == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._hold()
        if total <= _FIRST:
            found = np.arange(total) if places is None else places
            scores = self._exact(query, found)
        else:
            found, scores = self._two_stages(query, k, places)
        there = scores > NOTHING
        found, scores = found[there], scores[there]
        # A few more than k, so that equal scores are told apart by id.
        best = np.argsort(-scores, kind="stable")[: k + 16]
        found, scores = found[best], scores[best]
        ids = self.rows.ids_at(found)
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order] * np.float32(length)

    def _two_stages(
        self, query: Query, k: int, places: IntArray | None
    ) -> tuple[IntArray, FloatArray]:
        coarse = self._coarse(query, places)
        first = min(len(coarse), max(_FIRST, 8 * k))
        chosen = np.argpartition(coarse, len(coarse) - first)[-first:]
        scores = self._exact(query, chosen if places is None else places[chosen])
        kth = np.sort(scores)[-min(k, first)]
        error = self._errors(scores - coarse[chosen], chosen, places)
        bound = kth - max(float(error.mean()), 0.0) - _SIGMAS * float(error.std())
        coarse[chosen] = NOTHING
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
        told = error[kept > self._widths["s0"]]
        return told if len(told) > 1 else np.zeros(1, np.float32)

    def _coarse(self, query: Query, places: IntArray | None) -> FloatArray:
        """Cosines, or products, of the first tier."""
        out = []
        first_part = query.vector[: self._widths["s0"]]
        part = _like(first_part, self.rows.dtype)
        measure = _products if query.products else _cosines
        for first, count, held in self._pieces("s0"):
            rows: slice | IntArray = slice(0, count)
            if places is not None:
                cut = np.searchsorted(places, (first, first + count))
                rows = _as_slice(places[slice(*cut)] - first)
            codes = self._lance("s0", np.arange(first, first + count)) if held is None else held
            if query.factor is None:
                out.append(measure(part, codes[rows]))
            else:
                place = np.arange(first, first + count)[rows]
                out.append(self._framed(query, codes[rows], place))
        found = np.concatenate(out)
        if query.factor is not None:
            return found
        if query.products:
            found = found * np.float32(_step(first_part, part)) * self._scale(places)
        return self._of_what_is_kept(found, first_part, places, query.products)

    def _exact(self, query: Query, places: IntArray) -> FloatArray:
        """Cosines, or products, of all numbers of some rows."""
        vector = query.vector
        names = [n for n, part in self.rows.tiers.items() if part.start < len(vector)]
        parts = [self._tier(name, places) for name in names]
        codes = np.concatenate(parts, axis=1)[:, : len(vector)]
        if query.factor is not None:
            return self._framed(query, codes, places)
        codes = codes.astype(np.float32)
        if query.products:
            scores: FloatArray = codes @ vector * self._scale(places)
        else:
            norms = np.sqrt(np.maximum(np.einsum("ij,ij->i", codes, codes), 1e-30))
            scores = (codes @ vector / norms).astype(np.float32)
        return self._of_what_is_kept(scores, vector, places, query.products)

    def _framed(self, query: Query, codes: Codes, places: IntArray) -> FloatArray:
        """Scores of the coordinates that codes (n, w) at some places stand for."""
        kept = self.rows.kept()[places] if self.rows.faded else None
        found: FloatArray = framed_scores(query, codes, self._scale(places), kept)
        return found

    def _scale(self, places: IntArray | None) -> FloatArray:
        """What the codes of some rows, or of all, are multiplied with, (n,)."""
        keys = self.rows.keys()
        if self.rows.dtype != np.int8:
            total = sum(map(_alive, keys)) if places is None else len(places)
            return np.ones(total, np.float32)
        fresh = [key for key in keys if key not in self._scales]
        if fresh:
            tables = self.rows.scan(["scale"], [key[0] for key in fresh])
            read = np.concatenate([t.column("scale").to_numpy() for t in tables])
            cuts = np.cumsum([_alive(key) for key in fresh])[:-1]
            self._scales |= dict(zip(fresh, np.split(read, cuts), strict=True))
        if fresh or len(self._scales) > len(keys):
            self._scales = {key: self._scales[key] for key in keys}
            self._all_scales = np.concatenate(list(self._scales.values())).astype(np.float32)
        return self._all_scales if places is None else self._all_scales[places]

    def _of_what_is_kept(
        self, scores: FloatArray, query: FloatArray, places: IntArray | None, products: bool
    ) -> FloatArray:
        """Turn cosines with a query into cosines with as much of it as each row keeps.

        Products are made as large as they would be, if the rest were like what is kept.
        """
        if not self.rows.faded:
            return scores
        kept = self.rows.kept() if places is None else self.rows.kept()[places]
        kept = np.minimum(kept, len(query))
        lengths = np.sqrt(np.cumsum(np.square(query)))
        short = lengths[-1] / np.maximum(lengths[np.maximum(kept, 1) - 1], 1e-30)
        scores = scores * (np.square(short) if products else short)
        scores[kept == 0] = NOTHING
        return scores

    # -- the tiers ------------------------------------------------------------------------

    def _hold(self) -> None:
        """Map the tiers of new fragments, or read the first; forget fragments that are gone."""
        keys = self.rows.keys()
        fresh = [key for key in keys if key not in self._held]
        made = {key: self._mapped(key) for key in fresh}
        unmapped = [key for key in fresh if "s0" not in made[key]]
        for key, codes in self._read(unmapped):
            made[key].setdefault("s0", []).append(codes)
        held = self._held | made
        self._held = {key: held[key] for key in keys}

    def _mapped(self, key: Key) -> dict[str, list[Codes]]:
        number, rows, gone = key
        if gone or rows < _MAPPED:
            return {}
        folder = self.rows.folder / FOLDER / "data"
        fragment = self.rows.data().get_fragment(number)
        widths = {n: w for n, w in self._widths.items() if n not in self.rows.lost}
        return map_tiers(fragment, folder, widths, self.rows.dtype)

    def _read(self, keys: list[Key]) -> Iterator[tuple[Key, Codes]]:
        """Read the first tier of some fragments; what Lance decoded is kept without a copy."""
        if not keys:
            return
        lengths = iter([(key, _alive(key)) for key in keys])
        key, left = next(lengths)
        for table in self.rows.scan(["s0"], [key[0] for key in keys]):
            codes = self.rows.codes(table, ["s0"])
            while len(codes):
                while left == 0:
                    key, left = next(lengths)
                yield key, codes[:left]
                taken = min(left, len(codes))
                codes, left = codes[taken:], left - taken

    def _pieces(self, name: str) -> Iterator[Piece]:
        """Pieces of one tier, in the order of the rows."""
        first = 0
        for key, tiers in self._held.items():
            if name not in tiers:
                yield first, _alive(key), None
                first += _alive(key)
            for codes in tiers.get(name, []):
                yield first, len(codes), codes
                first += len(codes)

    def _tier(self, name: str, places: IntArray) -> Codes:
        """Numbers of one tier of some rows; what is not held is read by Lance in one call."""
        pieces = list(self._pieces(name))
        starts = np.array([first for first, _, _ in pieces])
        which = np.searchsorted(starts, places, side="right") - 1
        out = np.empty((len(places), self._widths[name]), self.rows.dtype)
        missing = np.zeros(len(places), bool)
        for number in distinct(which)[0].tolist():
            first, _, codes = pieces[number]
            rows = which == number
            if codes is None:
                missing |= rows
            else:
                out[rows] = codes[places[rows] - first]
        if missing.any():
            out[missing] = self._lance(name, places[missing])
        return out

    def _lance(self, name: str, places: IntArray) -> Codes:
        return self.rows.codes(self.rows.take(places, [name]), [name])


def _alive(key: Key) -> int:
    """Rows of a fragment that are not deleted."""
    return key[1] - key[2]


def _cosines(query: Codes, codes: Codes) -> FloatArray:
    """Cosines of (n, w) sketches with a (w,) query of their own kind."""
    import numkong

    if len(codes) == 0:
        return np.zeros(0, np.float32)
    distances = np.asarray(numkong.cdist(query[None], codes[:, : len(query)], "angular"))
    scores: FloatArray = (1 - distances[0]).astype(np.float32)
    return scores


def _products(query: Codes, codes: Codes) -> FloatArray:
    """Products of (n, w) codes with a (w,) query of their own kind."""
    import numkong

    if len(codes) == 0:
        return np.zeros(0, np.float32)
    found = np.asarray(numkong.cdist(query[None], codes[:, : len(query)], "dot"))
    products: FloatArray = found[0].astype(np.float32)
    return products


def _step(query: FloatArray, rounded: Codes) -> float:
    """What turns products with the rounded first part of a unit query into those with all of it.

    They are as large then as the products of the whole would be, if the rest were like the part.
    """
    codes = rounded.astype(np.float32)
    size = float(np.square(codes).sum() * np.square(query).sum())
    return float(query @ codes) / max(size, 1e-30)


def _like(query: FloatArray, dtype: np.dtype[Any]) -> Codes:
    """Return a query in the sketches' own kind of number, as fine as that allows."""
    largest = max(float(np.abs(query).max()), 1e-30)
    if dtype == np.int8:
        largest /= 127
    scaled = query / largest
    rounded: Codes = (np.rint(scaled) if dtype == np.int8 else scaled).astype(dtype)
    return rounded


def _as_slice(rows: IntArray) -> slice | IntArray:
    """Return rows as a slice where they follow one another, so that none is copied."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
