"""Times at the border: anything with a zone becomes 64-bit microseconds since 1970 in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HOUR", "iso", "microseconds", "microseconds_of_all"]

IntArray = npt.NDArray[np.int64]

# One hour in microseconds.
HOUR = 3_600_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_FIRST = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // _TICK
_END = (datetime(9999, 12, 30, tzinfo=UTC) - _EPOCH) // _TICK


def microseconds(time: Any) -> int:
    """Return one time as microseconds since 1970 in UTC.

    Args:
        time: a ``datetime`` with zone, an ISO 8601 string with zone, a ``numpy.datetime64``
            (NumPy's times are UTC by definition), or an integer number of microseconds UTC.

    Raises:
        ValueError: if the time has no zone, the string is no time, or no calendar holds it.
        TypeError: if it is something else.

    Example:
        >>> microseconds("1970-01-01T01:00:00.000001+01:00")
        1
    """
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError as error:
            raise ValueError(
                f"{time!r} is not an ISO 8601 time; write for example 2026-11-21T08:30:00+01:00"
            ) from error
    if isinstance(time, datetime):
        if time.tzinfo is None or time.utcoffset() is None:
            raise ValueError(
                f"the time {time.isoformat()} has no zone; say which it is, for example "
                "datetime(..., tzinfo=ZoneInfo('Europe/Berlin')) or a string that ends in +01:00"
            )
        return int((time - _EPOCH) // _TICK)
    if isinstance(time, np.datetime64):
        if np.isnat(time):
            raise ValueError("a time is missing (NaT); every glance needs one")
        return _in_range(int(time.astype("datetime64[us]").astype(np.int64)))
    if isinstance(time, bool) or not hasattr(time, "__index__"):
        raise TypeError(
            "a time must be a datetime with zone, an ISO string with zone, a numpy.datetime64 or "
            f"integer microseconds UTC, got {time!r} ({type(time).__name__})"
        )
    return _in_range(int(time.__index__()))


def _in_range(time: int) -> int:
    """Return a time that a calendar can hold.

    Raises:
        ValueError: if it lies outside of the years 1 to 9999.
    """
    if not _FIRST <= time < _END:
        raise ValueError(
            f"{time} microseconds since 1970 lie outside of the years 1 to 9999; was the time "
            "given in another unit?"
        )
    return time


def microseconds_of_all(time: Any, count: int) -> IntArray:
    """Return the times of ``count`` glances as (count,) int64 microseconds UTC.

    One time alone is the time of all of them.

    Raises:
        ValueError: if their number is wrong or one has no zone.
    """
    if isinstance(time, str | datetime | np.datetime64) or not isinstance(time, Iterable):
        return np.full(count, microseconds(time), dtype=np.int64)
    values = [microseconds(t) for t in time]
    if len(values) != count:
        raise ValueError(f"{count} glances need {count} times (or one for all), got {len(values)}")
    return np.array(values, dtype=np.int64)


def iso(time: int) -> str:
    """Write microseconds UTC as an ISO string.

    >>> iso(0)
    '1970-01-01T00:00:00+00:00'
    """
    return (_EPOCH + timedelta(microseconds=int(time))).isoformat()
