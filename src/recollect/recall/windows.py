"""Windows of a calendar: which hour, day, weekday, month a glance falls into.

Times are int64 microseconds since 1970 in UTC; the calendar is that of a time zone, with its
changes of summer time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

__all__ = [
    "CALENDAR",
    "WEEKDAYS",
    "Windows",
    "by_label",
    "by_time",
    "fits_hours",
    "offsets",
    "written",
]

IntArray = npt.NDArray[np.int64]

CALENDAR = ("hour", "day", "weekday", "month", "hour_of_day")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BARE = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Windows:
    """Windows in order, and which of them each time falls into.

    Attributes:
        labels: what the windows are called (W of them).
        index: (n,) int64, the window of each time.
    """

    labels: list[Any]
    index: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def total(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Add up ``values`` (n, ...) in each window: (W, ...), in the kind of number given.

        >>> Windows(["a", "b"], np.array([0, 0, 1])).total(np.array([1, 2, 5])).tolist()
        [3, 5]
        """
        out = np.zeros((len(self), *values.shape[1:]), dtype=values.dtype)
        if len(values):
            order = np.argsort(self.index, kind="stable")
            ordered = self.index[order]
            first = np.flatnonzero(np.r_[True, np.diff(ordered) != 0])
            out[ordered[first]] = np.add.reduceat(values[order], first, axis=0)
        return out


def offsets(times: IntArray, timezone: str) -> IntArray:
    """Return how far local time is ahead of UTC at each time, in microseconds.

    >>> at = np.array([0, 15_552_000_000_000])  # January and June 1970
    >>> (offsets(at, "America/New_York") // 3_600_000_000).tolist()
    [-5, -4]
    """
    if timezone == "UTC" or len(times) == 0:
        return np.zeros(len(times), dtype=np.int64)
    days, place = np.unique(times // _DAY, return_inverse=True)
    before = np.array([_offset(d * _DAY, timezone) for d in days.tolist()], dtype=np.int64)
    after = np.array([_offset((d + 1) * _DAY, timezone) for d in days.tolist()], dtype=np.int64)
    found = before[place]
    for day in np.flatnonzero(before != after).tolist():
        turn = _turn(int(days[day]) * _DAY, timezone)
        found[(place == day) & (times >= turn)] = after[day]
    return found


@lru_cache(maxsize=65536)
def _offset(time: int, timezone: str) -> int:
    """Offset of one moment (clamped to the years that Python knows)."""
    moment = _EPOCH + timedelta(microseconds=min(max(time, -(10**16)), 10**17))
    ahead = moment.astimezone(ZoneInfo(timezone)).utcoffset() or timedelta(0)
    return ahead // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def _turn(day: int, timezone: str) -> int:
    """Moment, to the second, at which the offset changes within a day, found by halving."""
    low, high, old = day // _SECOND, (day + _DAY) // _SECOND, _offset(day, timezone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle * _SECOND, timezone) == old:
            low = middle
        else:
            high = middle
    return high * _SECOND


def fits_hours(hours: IntArray, timezone: str) -> bool:
    """Whether no local window cuts one of these UTC hours (given by their starts) in two."""
    start, end = offsets(hours, timezone), offsets(hours + _HOUR - 1, timezone)
    return bool((start == end).all() and (start % _HOUR == 0).all())


def written(times: IntArray, timezone: str) -> list[str]:
    """Write times as ISO strings in a zone.

    >>> written(np.array([0]), "Europe/Berlin")
    ['1970-01-01T01:00:00+01:00']
    """
    ahead = offsets(times, timezone)
    pairs = zip((times + ahead).tolist(), ahead.tolist(), strict=True)
    return [_local(t).isoformat() + _zone(a) for t, a in pairs]


def by_time(times: IntArray, by: str, timezone: str) -> Windows:
    """Sort times into the windows of a calendar.

    ``hour_of_day`` and ``weekday`` give all 24 and 7 windows, ``month`` all from the first to the
    last; ``hour`` and ``day`` those in which something is.

    Args:
        times: (n,) microseconds UTC.
        by: one of ``CALENDAR``.
        timezone: name of the zone.

    Example:
        >>> w = by_time(np.array([0, 26 * 3_600_000_000]), "weekday", "UTC")
        >>> [w.labels[i] for i in w.index]
        ['Thursday', 'Friday']
    """
    ahead = offsets(times, timezone)
    local = times + ahead
    if by == "hour_of_day":
        return Windows(list(range(24)), local // _HOUR % 24)
    if by == "weekday":
        return Windows(list(WEEKDAYS), (local // _DAY + 3) % 7)
    if by == "month":
        return _by_month(local)
    step = _HOUR if by == "hour" else _DAY
    begin = local // step * step
    # Two hours with one name, when summer time ends, differ in their offset: order by UTC.
    keys, first, index = np.unique(
        begin - ahead if by == "hour" else begin, return_index=True, return_inverse=True
    )
    del keys
    if by == "day":
        return Windows([_local(b).date().isoformat() for b in begin[first].tolist()], index)
    pairs = zip(begin[first].tolist(), ahead[first].tolist(), strict=True)
    return Windows([_local(b).isoformat(timespec="minutes") + _zone(a) for b, a in pairs], index)


def by_label(values: Sequence[Any]) -> Windows:
    """Sort rows by what a column holds, missing values last."""
    known = sorted({v for v in values if v is not None})
    labels: list[Any] = [*known, *([None] if any(v is None for v in values) else [])]
    place = {label: i for i, label in enumerate(labels)}
    return Windows(labels, np.array([place[v] for v in values], dtype=np.int64))


def _by_month(local: IntArray) -> Windows:
    months = local.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    if len(months) == 0:
        return Windows([], months)
    first, last = int(months.min()), int(months.max())
    labels = [f"{1970 + m // 12:04d}-{m % 12 + 1:02d}" for m in range(first, last + 1)]
    return Windows(labels, months - first)


def _local(time: int) -> datetime:
    return _BARE + timedelta(microseconds=time)


def _zone(ahead: int) -> str:
    """Write an offset as +HH:MM."""
    minutes = abs(ahead) // (60 * _SECOND)
    return f"{'-' if ahead < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
