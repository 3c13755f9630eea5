"""Id, time, skeleton and epoch of all rows in memory, read fragment by fragment as they come.

A place is the number of a row in the order of the fragments. Forty bytes a glance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Columns", "Index", "Key", "fragment_keys"]

IntArray = npt.NDArray[np.int64]
Columns = tuple[IntArray, IntArray, IntArray, IntArray]

# A fragment with its rows and deleted rows: equal keys hold equal rows.
Key = tuple[int, int, int]

# Ids that came after the last sorting are looked up on their own until they are this many.
_TAIL = 16384


def fragment_keys(data: Any) -> list[Key]:
    """Return the keys of a dataset's fragments, in the order of the rows."""
    keys = []
    for fragment in data.get_fragments():
        meta = fragment.metadata
        gone = meta.deletion_file.num_deleted_rows if meta.deletion_file else 0
        keys.append((int(meta.id), int(meta.physical_rows), int(gone)))
    return keys


class Index:
    """Looks up rows by id."""

    def __init__(self) -> None:
        self._pieces: dict[Key, Columns] = {}
        self._keys: list[Key] = []
        self._arrays: Columns = (np.zeros(0, np.int64),) * 4
        self._sorted = (0, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def update(self, keys: list[Key], read: Callable[[list[int]], Columns]) -> None:
        """Take in the fragments that are new, drop those that are gone.

        Args:
            keys: of the fragments that there are now.
            read: returns id, time, skeleton and epoch of some fragments, one after the other.
        """
        if keys == self._keys:
            return
        fresh = [k for k in keys if k not in self._pieces]
        if fresh:
            cuts = np.cumsum([rows - gone for _, rows, gone in fresh])[:-1]
            columns = [np.split(c, cuts) for c in read([k[0] for k in fresh])]
            self._pieces |= dict(zip(fresh, zip(*columns, strict=True), strict=True))
        self._pieces = {k: self._pieces[k] for k in keys}
        settled = self._sorted[0]
        if keys[: len(self._keys)] != self._keys:
            settled = 0
        none: Columns = (np.zeros(0, np.int64),) * 4
        parts = zip(none, *self._pieces.values(), strict=True)
        ids, time, skeleton, epoch = (np.concatenate(p) for p in parts)
        self._keys, self._arrays = keys, (ids, time, skeleton, epoch)
        if settled == 0 or len(ids) - settled > max(_TAIL, settled // 4):
            order = np.argsort(ids, kind="stable")
            self._sorted = (len(ids), ids[order], order)

    def know(self, key: Key, columns: Columns) -> None:
        """Take over the columns of a fragment that was just written, so that none reads them."""
        self._pieces[key] = columns

    @property
    def arrays(self) -> Columns:
        """Id, time (microseconds UTC), skeleton and epoch, (N,) int64 each."""
        return self._arrays

    def holds(self, keys: list[Key]) -> bool:
        """Whether these fragments are what it knows: then nothing need be read."""
        return bool(keys) and keys == self._keys

    def places(self, wanted: IntArray) -> IntArray:
        """Return the place of each id; -1 where there is none."""
        found = np.full(len(wanted), -1, np.int64)
        for ids, places in self._parts():
            at = np.searchsorted(ids, wanted)
            at[at == len(ids)] = 0
            hit = ids[at] == wanted
            found[hit] = places[at[hit]]
        return found

    def _parts(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Sorted ids and their places: of the settled rows, then of the others."""
        settled, ids, order = self._sorted
        if len(ids):
            yield ids, order
        tail = self._arrays[0][settled:]
        if len(tail):
            order = np.argsort(tail, kind="stable")
            yield tail[order], order + settled
