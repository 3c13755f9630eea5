"""The most similar glances of every glance, kept while glances come and go.

Neighbours are those of largest cosine between the first tiers (256 numbers) of two sketches,
rounded to int8 where they are not; products of whole numbers are exact, and equal cosines are
told apart by id. So the table depends on the glances alone, not on the order in which they came:
what is kept up to date is, to the bit, what would be computed anew.

Adding b glances to n costs n b products; taking glances away looks up again only those that had
them for neighbours.

Shape letters: n glances, k neighbours, w numbers of the first tier.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["NEIGHBOURS", "Neighbours", "digests"]

IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Cosines = npt.NDArray[np.float32]

NEIGHBOURS = 8
_ROWS, _COLUMNS = 512, 65_536
# Further cosines that are looked at, so that equal ones are noticed.
_MORE = 8
_NOTHING = np.float32(-2)


def digests(codes: Codes) -> IntArray:
    """Return a 64-bit digest of each row of (n, w) codes, (n,)."""
    weights = np.random.default_rng(0).integers(1, 2**62, codes.shape[1], dtype=np.int64)
    out = np.zeros(len(codes), np.int64)
    with np.errstate(over="ignore"):
        for start in range(0, len(codes), 8192):
            part = codes[start : start + 8192].astype(np.int64)
            out[start : start + 8192] = (part * (2 * weights + 1)).sum(1)
    return out


class Neighbours:
    """The table of neighbours.

    Args:
        width: w.
        keep: k.

    Example:
        >>> table = Neighbours(width=2)
        >>> x = np.array([[100, 0], [99, 10], [0, 100]], np.int8)
        >>> table.add(np.array([7, 8, 9]), x)
        >>> table.of(7)
        ([8, 9], [0.99..., 0.0])
    """

    def __init__(self, width: int, keep: int = NEIGHBOURS) -> None:
        self.width, self.keep = width, keep
        self.ids: IntArray = np.zeros(0, np.int64)
        self.codes: Codes = np.zeros((0, width), np.int8)
        self.near: IntArray = np.zeros((0, keep), np.int64)
        self.cosine: Cosines = np.zeros((0, keep), np.float32)
        self._inverse: Cosines = np.zeros(0, np.float32)
        self._order: IntArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: IntArray) -> IntArray:
        """Return the place of each id; -1 where there is none."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        if self._order is None:
            self._order = np.argsort(self.ids, kind="stable")
        at = np.searchsorted(self.ids, ids, sorter=self._order)
        found = self._order[np.minimum(at, len(self.ids) - 1)]
        return np.where(self.ids[found] == ids, found, -1)

    def of(self, glance: int) -> tuple[list[int], list[float]]:
        """Return the neighbours of a glance and their cosines, the most similar first."""
        row = int(self.places(np.array([glance]))[0])
        pairs = zip(self.near[row].tolist(), self.cosine[row].tolist(), strict=True)
        there = [(i, c) for i, c in pairs if c > _NOTHING]
        return [i for i, _ in there], [c for _, c in there]

    # -- changes --------------------------------------------------------------------------

    def add(self, ids: IntArray, codes: Codes) -> None:
        """Take in new glances."""
        first = len(self.ids)
        self.ids = np.concatenate([self.ids, np.asarray(ids, np.int64)])
        self.codes = np.concatenate([self.codes, np.asarray(codes, np.int8)])
        empty = (len(ids), self.keep)
        self.near = np.concatenate([self.near, np.full(empty, -1, np.int64)])
        self.cosine = np.concatenate([self.cosine, np.full(empty, _NOTHING)])
        norms = np.sqrt(np.square(np.asarray(codes, np.float32)).sum(1))
        own = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        self._inverse = np.concatenate([self._inverse, own.astype(np.float32)])
        self._order = None
        rows = np.arange(first, len(self.ids))
        for start in range(0, len(rows), _ROWS):
            # Each looks at all before its block, and at its block; those before look back.
            self._look(rows[start : start + _ROWS], up_to=int(rows[start]) + _ROWS, back=True)

    def remove(self, ids: IntArray) -> None:
        """Take glances away."""
        gone = np.isin(self.ids, ids)
        if not gone.any():
            return
        stale = np.isin(self.near, self.ids[gone])
        stale &= self.cosine > _NOTHING
        rows = np.flatnonzero(stale[~gone].any(axis=1))
        kept = ~gone
        self.ids, self.codes = self.ids[kept], self.codes[kept]
        self.near, self.cosine = self.near[kept], self.cosine[kept]
        self._inverse, self._order = self._inverse[kept], None
        self.near[rows], self.cosine[rows] = -1, _NOTHING
        for start in range(0, len(rows), _ROWS):
            self._look(rows[start : start + _ROWS], up_to=len(self.ids), back=False)

    def _look(self, rows: IntArray, up_to: int, back: bool) -> None:
        """Compare some glances with the first ``up_to``; with ``back`` these take note too."""
        import torch
        from numkong import dots_pack, dots_packed

        up_to = min(up_to, len(self.ids))
        mine = np.ascontiguousarray(self.codes[rows])
        scale = torch.from_numpy(self._inverse[rows])[:, None]
        for start in range(0, up_to, _COLUMNS):
            columns = slice(start, min(start + _COLUMNS, up_to))
            packed = dots_pack(np.ascontiguousarray(self.codes[columns]))
            found = torch.from_numpy(np.asarray(dots_packed(mine, packed))).to(torch.float32)
            # The product of both scales first: the same for i with j and for j with i.
            found *= scale * torch.from_numpy(self._inverse[columns])
            inside = np.flatnonzero((rows >= columns.start) & (rows < columns.stop))
            found[inside, rows[inside] - columns.start] = float(_NOTHING)
            row, column, cosine = self._best(found)
            self._merge(rows[row], column + start, cosine)
            if back:
                old = min(columns.stop, int(rows[0])) - start
                if old > 0:
                    self._look_back(rows, start, found[:, :old])

    def _best(self, found: object) -> tuple[IntArray, IntArray, Cosines]:
        """Return the k best of each row, and all that equal the last of them."""
        import torch

        assert isinstance(found, torch.Tensor)
        wide = found.shape[1]
        some = min(self.keep + _MORE, wide)
        best = torch.topk(found, some, dim=1)
        values, places = best.values.numpy(), best.indices.numpy()
        last = values[:, min(self.keep, some) - 1]
        row, at = np.nonzero((values >= last[:, None]) & (values > _NOTHING))
        column, cosine = places[row, at], values[row, at]
        tied = np.flatnonzero(values[:, -1] == last) if some < wide else np.zeros(0, np.int64)
        if len(tied):
            whole = found[torch.from_numpy(tied)].numpy()
            extra_row, extra = np.nonzero((whole >= last[tied, None]) & (whole > _NOTHING))
            others = ~np.isin(row, tied)
            row = np.concatenate([row[others], tied[extra_row]])
            column = np.concatenate([column[others], extra])
            cosine = np.concatenate([cosine[others], whole[extra_row, extra]])
        return row, column, cosine

    def _look_back(self, rows: IntArray, start: int, found: object) -> None:
        """Let the glances before take note of new ones that are near enough."""
        import torch

        assert isinstance(found, torch.Tensor)
        least = torch.from_numpy(self.cosine[start : start + found.shape[1], -1])
        new, old = torch.nonzero(found >= least, as_tuple=True)
        if len(new):
            cosine = found[new, old].numpy()
            self._merge(old.numpy() + start, rows[new.numpy()], cosine)

    def _merge(self, row: IntArray, column: IntArray, cosine: Cosines) -> None:
        """Take candidates into the lists of some rows; ``column`` are places."""
        if not len(row):
            return
        touched = np.unique(row)
        k = self.keep
        kept = self.cosine[touched].reshape(-1) > _NOTHING
        rows = np.concatenate([row, np.repeat(touched, k)[kept]])
        ids = np.concatenate([self.ids[column], self.near[touched].reshape(-1)[kept]])
        values = np.concatenate([cosine, self.cosine[touched].reshape(-1)[kept]])
        order = np.lexsort((ids, -values, rows))
        rows, ids, values = rows[order], ids[order], values[order]
        first = np.searchsorted(rows, touched)
        rank = np.arange(len(rows)) - first[np.searchsorted(touched, rows)]
        best = rank < k
        self.near[touched], self.cosine[touched] = -1, _NOTHING
        self.near[rows[best], rank[best]] = ids[best]
        self.cosine[rows[best], rank[best]] = values[best]

    # -- on disk --------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what is kept: all but the codes, of which digests say what they were."""
        return {
            "ids": self.ids, "digests": digests(self.codes), "near": self.near,
            "cosine": self.cosine,
        }  # fmt: skip

    def take_over(self, ids: IntArray, codes: Codes, near: IntArray, cosine: Cosines) -> None:
        """Take over what was kept of glances whose codes are the same as then."""
        self.ids, self.codes, self.near, self.cosine = ids, codes, near.copy(), cosine.copy()
        norms = np.sqrt(np.square(np.asarray(codes, np.float32)).sum(1))
        own = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        self._inverse, self._order = own.astype(np.float32), None
