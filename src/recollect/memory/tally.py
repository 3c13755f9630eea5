"""Sparse integer tallies: exact whatever the order of additions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Tally"]

IntArray = npt.NDArray[np.int64]

_PENDING = 4096


class Tally:
    """Integers keyed by (hour, key); what adds up to zero is dropped.

    Example:
        >>> t = Tally()
        >>> t.add([5, 5, 3], [0, 0, 1], [1, 1, 1])
        >>> t.add([3], [1], [-1])
        >>> [a.tolist() for a in t.arrays()]
        [[5], [0], [2]]
    """

    def __init__(
        self, hour: npt.ArrayLike = (), key: npt.ArrayLike = (), value: npt.ArrayLike = ()
    ) -> None:
        self._done = tuple(np.asarray(a, np.int64) for a in (hour, key, value))
        self._pending: list[tuple[IntArray, ...]] = []
        self._size = 0

    def add(self, hour: npt.ArrayLike, key: npt.ArrayLike, value: npt.ArrayLike) -> None:
        """Add values to their keys; the three arguments have one length."""
        part = tuple(np.asarray(a, np.int64) for a in (hour, key, value))
        self._pending.append(part)
        self._size += len(part[0])
        if self._size > max(_PENDING, len(self._done[0])) or len(self._pending) > _PENDING:
            self.arrays()

    def arrays(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return hour, key and value, ordered by hour, then key."""
        if self._pending:
            parts = [self._done, *self._pending]
            hour, key, value = (np.concatenate([p[i] for p in parts]) for i in range(3))
            order = np.lexsort((key, hour))
            hour, key, value = hour[order], key[order], value[order]
            if len(hour):
                first = np.flatnonzero(np.r_[True, (np.diff(hour) != 0) | (np.diff(key) != 0)])
                value = np.add.reduceat(value, first)
                hour, key = hour[first], key[first]
                kept = value != 0
                hour, key, value = hour[kept], key[kept], value[kept]
            self._done, self._pending, self._size = (hour, key, value), [], 0
        hour, key, value = self._done
        return hour, key, value

    def equal(self, other: Tally) -> bool:
        """Whether two tallies hold the same."""
        return all(
            np.array_equal(a, b) for a, b in zip(self.arrays(), other.arrays(), strict=True)
        )
