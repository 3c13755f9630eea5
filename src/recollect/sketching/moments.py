"""Second moment and entropy of a stream, from a few kilobytes that merge exactly.

Both are linear in the counts f_j of the distinct items j (n items in all):

* ``SecondMoment`` (Alon, Matias and Szegedy 1996, in the fast form of Charikar, Chen and
  Farach-Colton 2002): every item adds its sign to one counter of each row; the expected sum of
  squares of a row is ``F2 = sum f_j^2``.
* ``Entropy``: counters ``Y_i = sum_j f_j r_ij`` with r maximally skewed 1-stable and
  ``E exp(r) = 1``, so that ``E exp(Y_i / n) = exp(-H)`` ("A simple sketching algorithm for
  entropy estimation over streaming data", Clifford and Cosma, 2013). Its deviation is
  ``sqrt(3 / k)``; the most likely shift of the stable law would have ``sqrt(2.9 / k)``.

Both keep the commonest items with their counts beside the counters and take their part out of
these before they read them: only the rest of the stream, whose share is often small, is
estimated, the error shrinks with it.

Shape letters: k counters, n items, q distinct items of one call.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recollect._answers import Z90, Answer, interval
from recollect._checks import check_integer
from recollect.sketching.streams import Statistic, UIntArray, count_items, hash_items, mixed

__all__ = ["Entropy", "SecondMoment"]

Floats = npt.NDArray[np.float64]


class Commonest:
    """The commonest items with their counts: what of a stream need not be estimated.

    Every kept item has a count and what it may lack of the true one (what it occurred before it
    was kept). ``unseen`` is the most that an item not kept may have occurred.

    Args:
        limit: items that are written; eight times as many are followed.
    """

    entry = np.dtype([("id", "<u4"), ("count", "<u8"), ("error", "u1")])
    _head = struct.Struct("<QH")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.items: dict[int, tuple[int, int]] = {}
        self.unseen = 0

    def add(self, others: dict[int, tuple[int, int]], unseen: int = 0) -> None:
        """Add counted items (id -> count, error) of a stream that left ``unseen`` out."""
        joined = {i: (c, e + (0 if i in others else unseen)) for i, (c, e) in self.items.items()}
        for i, (count, error) in others.items():
            mine, lacking = self.items.get(i, (0, self.unseen))
            joined[i] = (mine + count, lacking + error)
        self.unseen += unseen
        ordered = sorted(joined.items(), key=lambda e: (-e[1][0], e[0]))
        self._keep(ordered, 8 * self.limit)

    def _keep(self, ordered: list[tuple[int, tuple[int, int]]], number: int) -> None:
        dropped = [count + error for _, (count, error) in ordered[number:]]
        self.unseen = max([self.unseen, *dropped])
        self.items = dict(ordered[:number])

    def sure(self) -> tuple[UIntArray, Floats, Floats]:
        """Return ids, counts and errors of the commonest items, known to 2 % or better.

        The counts are never too large: taking them out of the counters leaves a stream.
        """
        kept = list(self.items.items())[: self.limit]
        chosen = [(i, c, e) for i, (c, e) in kept if 50 * e <= c]
        numbers = np.array([(c, e) for _, c, e in chosen], dtype=np.float64).reshape(-1, 2)
        return np.array([i for i, _, _ in chosen], dtype=np.uint64), numbers[:, 0], numbers[:, 1]

    def to_bytes(self) -> bytes:
        """Write the commonest ``limit`` items."""
        short = Commonest(self.limit)
        short.unseen = self.unseen
        short._keep(list(self.items.items()), self.limit)
        # An error is rounded up to a power of two.
        rows = [(i, c, (2 * e - 1).bit_length() if e else 0) for i, (c, e) in short.items.items()]
        table = np.array(rows, dtype=self.entry)
        return self._head.pack(short.unseen, len(rows)) + table.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, limit: int) -> tuple[Commonest, bytes]:
        """Read what ``to_bytes`` wrote; also return the bytes behind it."""
        made = cls(limit)
        made.unseen, number = cls._head.unpack_from(data)
        table = np.frombuffer(data, cls.entry, count=number, offset=cls._head.size)
        made.items = {i: (c, 1 << (e - 1) if e else 0) for i, c, e in table.tolist()}
        return made, data[cls._head.size + table.nbytes :]

    @classmethod
    def room(cls, limit: int) -> int:
        """Return the bytes that ``limit`` written items take."""
        return cls._head.size + limit * cls.entry.itemsize


def _ids_and_counts(values: Any, seed: int) -> tuple[UIntArray, Floats]:
    """Return the 32-bit hashes of the distinct items among some values, and their counts."""
    counted = count_items(values)
    ids = hash_items(counted, seed) & np.uint64(0xFFFFFFFF)
    return ids, np.fromiter(counted.values(), dtype=np.float64, count=len(counted))


def _as_counts(ids: UIntArray, counts: Floats) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for i, c in zip(ids.tolist(), counts.tolist(), strict=True):
        found[i] = (found.get(i, (0, 0))[0] + int(c), 0)
    return found


class SecondMoment(Statistic):
    """The sum of squared counts of a stream's items: how far it is from all different.

    The estimate is the mean over rows; its deviation is at most ``sqrt(2 / k)`` times the second
    moment of all but the commonest items. As a count-sketch it also answers how often one item
    occurred.

    Args:
        size: bytes it may take.
        seed: of signs and places.
        heavy: how many of the commonest items are kept with their counts.

    Example:
        >>> s = SecondMoment()
        >>> s.update(["a", "a", "a", "b"])
        >>> s.answer()["estimate"][0], len(s.to_bytes()) <= 4096
        (10.0, True)
    """

    kind = 1
    rows = 4
    _head = struct.Struct("<IQHB")

    def __init__(self, size: int = 4096, seed: int = 0, heavy: int = 96) -> None:
        self.size, self.seed, self.heavy, room = _checked(size, seed, heavy)
        self.common = Commonest(heavy)
        self.counters = np.zeros((self.rows, room // (4 * self.rows)), dtype=np.int64)

    def __repr__(self) -> str:
        return f"SecondMoment(size={self.size}, seed={self.seed}, heavy={self.heavy})"

    def update(self, values: Any) -> None:
        """Take in items (see ``streams.count_items`` for what these may be)."""
        ids, counts = _ids_and_counts(values, self.seed)
        self.counters += self._image(ids, counts).astype(np.int64)
        self.common.add(_as_counts(ids, counts))

    def _image(self, ids: UIntArray, counts: Floats) -> Floats:
        """Return what items add to the counters, (rows, width)."""
        image = np.zeros(self.counters.shape)
        place, sign = self._places(ids)
        for row in range(self.rows):
            np.add.at(image[row], place[row], sign[row] * counts)
        return image

    def _places(self, ids: UIntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the (rows, q) counters and signs of items."""
        keys = mixed(ids[None] ^ mixed(np.arange(self.rows, dtype=np.uint64))[:, None])
        place = (keys >> np.uint64(1)) % np.uint64(self.counters.shape[1])
        return place.astype(np.int64), 1 - 2 * (keys & np.uint64(1)).astype(np.int64)

    def _rest(self) -> tuple[UIntArray, Floats, float]:
        """Return the sure ids, the other items' counters, and their second moment."""
        ids, counts, _ = self.common.sure()
        rest = self.counters - self._image(ids, counts)
        return ids, rest, float(np.square(rest).sum(1).mean())

    def answer(self) -> Answer:
        """Return the second moment F2 and its root, the Euclidean norm of the counts."""
        _, counts, errors = self.common.sure()
        _, _, rest = self._rest()
        # What a count lacks stays in the counters; (c + e)^2 - c^2 - e^2 is still missing.
        lacking = float(errors @ counts)
        estimate = float(np.square(counts).sum()) + rest + lacking
        half = Z90 * rest * math.sqrt(2 / self.counters.size) + lacking
        low, high = max(estimate - half, 0.0), estimate + half
        return Answer(
            {
                "statistic": ["second moment", "norm of the counts"],
                "estimate": [estimate, math.sqrt(estimate)],
                "low": [low, math.sqrt(low)],
                "high": [high, math.sqrt(high)],
            },
            title="second moment of the counts",
        )

    def frequency(self, item: Any) -> Answer:
        """Return how often an item occurred (beside the commonest: the median over rows)."""
        one, _ = _ids_and_counts(item, self.seed)
        ids, rest, squares = self._rest()
        if one[0] in ids:
            count, error = self.common.items[int(one[0])]
            estimate, std = count + error / 2, error / 2
        else:
            place, sign = self._places(one)
            read = rest[np.arange(self.rows), place[:, 0]] * sign[:, 0]
            estimate = max(float(np.median(read)), 0.0)
            # Deviation of one counter; the median of four rows has a little less.
            std = math.sqrt(squares / self.counters.shape[1])
        low, high = interval([estimate], [std], floor=0.0)
        return Answer(
            {"item": [item], "estimate": [estimate], "low": low, "high": high},
            title="how often one item occurred",
        )

    def _settings(self) -> tuple[int, ...]:
        return self.size, self.seed, self.heavy

    def _merge(self, other: Self) -> None:
        self.counters += other.counters
        self.common.add(other.common.items, other.common.unseen)

    def _payload(self) -> bytes:
        wide = int(np.abs(self.counters).max(initial=0)) >= 2**31
        head = self._head.pack(self.size, self.seed, self.heavy, wide)
        codes = self.counters.astype("<i8" if wide else "<i4")
        return head + self.common.to_bytes() + codes.tobytes()

    @classmethod
    def _from_payload(cls, data: bytes) -> Self:
        size, seed, heavy, wide = cls._head.unpack_from(data)
        made = cls(size, seed, heavy)
        made.common, rest = Commonest.from_bytes(data[cls._head.size :], heavy)
        codes = np.frombuffer(rest, "<i8" if wide else "<i4")
        made.counters = codes.astype(np.int64).reshape(made.counters.shape)
        return made


class Entropy(Statistic):
    """Shannon's entropy of a stream's items, in nats.

    An update costs about 0.2 ms per distinct item of the call: give it many items at once. When
    it is written, the counters are rounded to a byte each, which adds 1 % to the deviation.

    Args:
        size: bytes it may take when written.
        seed: of the counters.
        heavy: how many of the commonest items are kept with their counts.

    Example:
        >>> e = Entropy()
        >>> e.update({"heads": 500, "tails": 500})
        >>> [round(v, 3) for v in e.answer()["estimate"]]
        [0.693]
    """

    kind = 2
    _head = struct.Struct("<IQHQd")

    def __init__(self, size: int = 4096, seed: int = 0, heavy: int = 64) -> None:
        self.size, self.seed, self.heavy, room = _checked(size, seed, heavy)
        self.common = Commonest(heavy)
        self.counters = np.zeros(room, dtype=np.float64)  # (k,)
        self.total = 0

    def __repr__(self) -> str:
        return f"Entropy(size={self.size}, seed={self.seed}, heavy={self.heavy})"

    def update(self, values: Any) -> None:
        """Take in items (see ``streams.count_items`` for what these may be)."""
        ids, counts = _ids_and_counts(values, self.seed)
        self.total += int(counts.sum())
        self.counters += self._image(ids, counts)
        self.common.add(_as_counts(ids, counts))

    def _image(self, ids: UIntArray, counts: Floats) -> Floats:
        """Return ``sum_j f_j r_ij``, (k,), some items at a time."""
        image = np.zeros(len(self.counters))
        steps = mixed(np.arange(2 * len(self.counters), dtype=np.uint64))
        for start in range(0, len(ids), 64):
            some = ids[start : start + 64, None] ^ steps
            # 53 random bits, strictly between 0 and 1.
            u = ((mixed(some) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            image += counts[start : start + 64] @ _skewed_stable(*np.split(u, 2, axis=1))
        return image

    def answer(self) -> Answer:
        """Return the entropy; everything is possible where nothing was seen."""
        n = self.total
        if n == 0:
            estimate, std = math.nan, math.inf
        else:
            estimate, std = self._estimate()
        low, high = interval([estimate], [std], floor=0.0)
        return Answer(
            {"statistic": ["entropy (nats)"], "estimate": [estimate], "low": low,
             "high": np.minimum(high, math.log(max(n, 1)) if n else math.inf)},
            title=f"entropy of {n} items",
        )  # fmt: skip

    def _estimate(self) -> tuple[float, float]:
        """Return estimate and standard deviation."""
        n, (_, counts, errors), (tail, rest) = self.total, self.common.sure(), self._tail()
        logs = float(_x_log_x(counts).sum())
        # What a count lacks stays in the counters, as if it were an item of its own.
        half = errors / 2
        joined = float((_x_log_x(counts + half) - _x_log_x(counts) - _x_log_x(half)).sum())
        if rest > 0.5:
            logs += rest * (math.log(rest) + _log_mean_exp(tail))
        std = max(rest, 0.0) / n * math.sqrt(3 / len(self.counters)) + joined / n
        return max(math.log(n) - (logs + joined) / n, 0.0), std

    def _tail(self) -> tuple[Floats, float]:
        """Return the counters per item without the commonest items, and the number of items."""
        ids, counts, _ = self.common.sure()
        rest = self.total - float(counts.sum())
        return (self.counters - self._image(ids, counts)) / max(rest, 1.0), rest

    def _settings(self) -> tuple[int, ...]:
        return self.size, self.seed, self.heavy

    def _merge(self, other: Self) -> None:
        self.counters += other.counters
        self.total += other.total
        self.common.add(other.common.items, other.common.unseen)

    def _payload(self) -> bytes:
        kept = self.common.to_bytes()
        read = Entropy(self.size, self.seed, self.heavy)
        read.common, _ = Commonest.from_bytes(kept, self.heavy)
        read.counters, read.total = self.counters, self.total
        tail, _ = read._tail()
        top = float(tail.max(initial=0.0))
        # What lies far below the top hardly counts: steps grow with the distance from it.
        codes = np.round(np.log1p((top - tail) / _NEAR) * _STEPS).clip(0, 255).astype(np.uint8)
        head = self._head.pack(self.size, self.seed, self.heavy, self.total, top)
        return head + kept + codes.tobytes()

    @classmethod
    def _from_payload(cls, data: bytes) -> Self:
        size, seed, heavy, total, top = cls._head.unpack_from(data)
        made = cls(size, seed, heavy)
        made.common, rest = Commonest.from_bytes(data[cls._head.size :], heavy)
        codes = np.frombuffer(rest, np.uint8).astype(np.float64)
        if codes.shape != made.counters.shape:
            raise ValueError("counters are missing")
        made.total = total
        ids, counts, _ = made.common.sure()
        distance = np.expm1(codes / _STEPS) * _NEAR
        # Rounding by up to half a step w raises the mean of exp by sinh(w / 2) / (w / 2).
        half = np.minimum((distance + _NEAR) / _STEPS, 4.0) / 2
        tail = top - distance - np.log(np.sinh(half) / half)
        weight = max(total - float(counts.sum()), 1.0)
        made.counters = tail * weight + made._image(ids, counts)
        return made


# Counters are written as bytes: distance d below the largest -> _STEPS log(1 + d / _NEAR).
_NEAR, _STEPS = 4.0, 255 / math.log1p(1e4 / 4.0)


def _checked(size: int, seed: int, heavy: int) -> tuple[int, int, int, int]:
    """Check what the user gave and return it with the bytes left for counters."""
    check_integer("size", size, minimum=256)
    check_integer("seed", seed, minimum=0)
    check_integer("heavy", heavy, minimum=0)
    room = size - 48 - Commonest.room(heavy)
    if room < 128:
        raise ValueError(
            f"{heavy} common items leave no room for counters in {size} bytes; keep fewer"
        )
    return size, seed, heavy, room


def _skewed_stable(u: Floats, v: Floats) -> Floats:
    """Turn uniform numbers into 1-stable ones, fully skewed to the left, with E exp(r) = 1.

    They satisfy ``E exp(t r) = t^t``. Chambers, Mallows and Stuck (1976).
    """
    angle = math.pi * (u - 0.5)
    rest = math.pi / 2 - angle
    stable: Floats = np.tan(angle) * rest + np.log(-np.log(v) * np.cos(angle) / rest)
    return stable


def _x_log_x(x: Floats) -> Floats:
    found: Floats = x * np.log(np.where(x > 0, x, 1.0))
    return found


def _log_mean_exp(x: Floats) -> float:
    top = float(x.max())
    return top + math.log(float(np.exp(x - top).mean()))
