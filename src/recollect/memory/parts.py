"""Recurring sub-objects: objects of one module whose signatures are alike are one part.

Objects are taken in the order of time, id and rank; one that is alike to the first object of a
part (at most ``RADIUS`` of 128 bits differ: a cosine of about 0.7) belongs to the nearest such
part, else it begins a part of its own. Of the parts of one module that were seen once, the oldest
are given up when there are more than ``MOST``, so that memory is bounded.

Shape letters: n objects, g parts of one module.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["RADIUS", "SHOWN", "Parts", "cosine_of"]

IntArray = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint8]
Signs = npt.NDArray[np.int8]

BYTES, BITS = 16, 128
RADIUS = 32
# Parts of one module, and objects of one glance, that are kept at most.
MOST, SHOWN = 4096, 64
_ROWS = 1024


def cosine_of(differ: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the cosine of two sub-sketches whose signatures differ in so many bits.

    >>> cosine_of([0, 64]).round(2).tolist()
    [1.0, 0.0]
    """
    return np.cos(np.pi * np.asarray(differ, np.float64) / BITS)


class Parts:
    """The parts of all modules.

    Attributes:
        module: module id of each part.
        count: objects of each part.

    Example:
        >>> same = np.zeros((3, 16), np.uint8)
        >>> parts = Parts()
        >>> parts.add(np.array([0, 0, 1]), same).tolist(), parts.count
        ([0, 0, 1], [2, 1])
    """

    def __init__(self) -> None:
        self.module: list[int] = []
        self.count: list[int] = []
        self._leaders: dict[int, _Leaders] = {}

    def __len__(self) -> int:
        return len(self.module)

    def add(self, module: IntArray, signature: Signatures) -> IntArray:
        """Return the part of each of n objects, in their order, making new ones as needed.

        Args:
            module: (n,) ids.
            signature: (n, 16).
        """
        out = np.full(len(module), -1, np.int64)
        order = np.argsort(module, kind="stable")
        cuts = np.flatnonzero(np.diff(module[order])) + 1
        for rows in np.split(order, cuts) if len(order) else []:
            m = int(module[rows[0]])
            leaders = self._leaders.setdefault(m, _Leaders())
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                self._assign(m, leaders, part, _signs(signature[part]), out)
        return out

    def _assign(
        self, module: int, leaders: _Leaders, rows: IntArray, signs: Signs, out: IntArray
    ) -> None:
        """Give a block of one module's objects to its parts."""
        differ, nearest = leaders.nearest(signs)
        waiting = np.flatnonzero(differ > RADIUS)
        among = _differ(signs[waiting], signs[waiting])
        fresh: list[int] = []
        # An object that is near to an old part may be nearer to one that begins in this block,
        # before it: the same as if it had come in a later call.
        for i in range(len(waiting)):
            if not fresh or among[i, fresh].min() > RADIUS:
                fresh.append(i)
        numbers = np.arange(len(fresh)) + len(self.module)
        begun = waiting[fresh]
        if len(begun):
            own = _differ(signs, signs[begun]).astype(np.int64)
            own[np.arange(len(rows))[:, None] < begun[None]] = BITS + 1
            best = own.argmin(1)
            closer = own[np.arange(len(rows)), best] < differ
            nearest = np.where(closer, numbers[best], nearest)
        out[rows] = nearest
        self.module += [module] * len(fresh)
        self.count += [0] * len(fresh)
        for part, many in zip(*np.unique(nearest, return_counts=True), strict=True):
            self.count[int(part)] += int(many)
        leaders.add(signs[begun], numbers, self.count)


class _Leaders:
    """The first objects of one module's parts."""

    def __init__(self) -> None:
        self.numbers: IntArray = np.zeros(0, np.int64)
        self.signs: Signs = np.zeros((0, BITS), np.int8)

    def nearest(self, signs: Signs) -> tuple[IntArray, IntArray]:
        """Return bits that differ from the nearest, and its number; BITS + 1 if there is none."""
        if not len(self.numbers):
            return np.full(len(signs), BITS + 1), np.full(len(signs), -1, np.int64)
        differ = _differ(signs, self.signs)
        best = differ.argmin(1)
        return differ[np.arange(len(signs)), best].astype(np.int64), self.numbers[best]

    def add(self, signs: Signs, numbers: IntArray, count: list[int]) -> None:
        """Take in new ones; where they are too many, give up the oldest that were seen once."""
        self.numbers = np.concatenate([self.numbers, numbers])
        self.signs = np.concatenate([self.signs, signs])
        over = len(self.numbers) - MOST
        if over > 0:
            once = np.flatnonzero([count[i] == 1 for i in self.numbers.tolist()])[:over]
            kept = np.setdiff1d(np.arange(len(self.numbers)), once)[-MOST:]
            self.numbers, self.signs = self.numbers[kept], self.signs[kept]


def _signs(signature: Signatures) -> Signs:
    """Return packed signatures as (n, 128) int8 of -1 and 1."""
    found: Signs = (np.unpackbits(signature, axis=1).astype(np.int8) * 2 - 1).astype(np.int8)
    return found


def _differ(a: Signs, b: Signs) -> npt.NDArray[np.int32]:
    """Return how many bits differ, (n, g)."""
    from numkong import dots_pack, dots_packed

    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)), np.int32)
    dots = np.asarray(dots_packed(np.ascontiguousarray(a), dots_pack(np.ascontiguousarray(b))))
    differ: npt.NDArray[np.int32] = (BITS - dots) // 2
    return differ
