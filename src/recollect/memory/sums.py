"""Sketch sums per hour on disk: 64-bit integers, one file per month, packed without loss.

A row of a month's file is an hour's sum. A sum of few int8 sketches has many trailing zero bits
(and a sum of one is an int8 code times its scale), so each row is kept as a divisor and the
narrowest integers that hold the quotient. Sums of faded sketches are zero from some number on,
and what these have lost is zero up to there: such runs are left out, of sketch and channel alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["distinct", "group_sums", "months_of", "read_month", "to_fixed_point", "write_month"]

IntArray = npt.NDArray[np.int64]

_WIDTHS = (np.int8, np.int16, np.int32, np.int64)

# Runs of zeros are left out in steps of so many numbers.
_STEP = 64

# As in sketching: sums are kept in units of 2**-32.
_FIXED_POINT = 2.0**32


def distinct(values: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct values, ascending, and for each value which of them it is.

    As ``np.unique(values, return_inverse=True)``, which imports masked arrays when first called:
    8 ms, as long as a whole count takes in a fresh process.

    >>> [a.tolist() for a in distinct(np.array([7, 3, 7]))]
    [[3, 7], [1, 0, 1]]
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)]
    place = np.empty(len(values), np.int64)
    place[order] = np.cumsum(first) - 1
    return ordered[first], place


def months_of(hours: IntArray) -> dict[str, IntArray]:
    """Return UTC month (YYYY-MM) -> rows of the hours since 1970 that it holds.

    >>> {k: v.tolist() for k, v in months_of(np.array([0, 31 * 24, 5])).items()}
    {'1970-01': [0, 2], '1970-02': [1]}
    """
    months, place = distinct(
        hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64)
    )
    names = months.astype("datetime64[M]").astype(str).tolist()
    return {name: np.flatnonzero(place == i) for i, name in enumerate(names)}


def to_fixed_point(codes: npt.NDArray[np.generic], scale: npt.ArrayLike | None) -> IntArray:
    """Return sketches as (B, d) int64 in units of 2**-32, as ``Sketches.fixed_point`` does.

    Args:
        codes: (B, d) int8, float16 or float32.
        scale: (B,) float32, or None.
    """
    exact = codes.astype(np.float64)
    factor = np.float64(_FIXED_POINT)
    if scale is None:
        exact *= factor
    else:
        exact *= (np.asarray(scale, np.float64) * factor)[:, None]
    np.rint(exact, out=exact)
    return exact.astype(np.int64)


def group_sums(hour: IntArray, fixed: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct hours (H,) and the sum of each hour's rows (H, d)."""
    if len(hour) == 0:
        return hour, fixed
    order = np.argsort(hour, kind="stable")
    ordered = hour[order]
    first = np.flatnonzero(np.r_[True, np.diff(ordered) != 0])
    if len(first) == 1:
        return ordered[:1], fixed.sum(0, keepdims=True)
    return ordered[first], np.add.reduceat(fixed[order], first, axis=0)


def write_month(file: BinaryIO, hours: IntArray, sums: IntArray, cuts: Sequence[int] = ()) -> None:
    """Write the sums (H, d) of distinct ascending hours (H,).

    Args:
        file: to write to.
        hours: (H,).
        sums: (H, d).
        cuts: of several vectors that stand one behind the other, where all but the first begin, so
            that runs of zeros are left out of each.
    """
    parts = np.split(sums, list(cuts), axis=1)
    np.save(file, np.array([[part.shape[1] for part in parts]]), allow_pickle=False)
    np.save(file, hours, allow_pickle=False)
    for part in parts:
        _write_part(file, part)


def _write_part(file: BinaryIO, sums: IntArray) -> None:
    divisor = _divisors(sums)
    quotient = sums // divisor[:, None]
    largest = np.maximum(quotient.max(1, initial=0), -(quotient.min(1, initial=0) + 1))
    width = np.searchsorted([np.iinfo(t).max for t in _WIDTHS], largest)
    shapes = np.column_stack([width, _runs(sums)])
    for array in (divisor, shapes.astype(np.int32)):
        np.save(file, array, allow_pickle=False)
    for rows, kind, start, stop in _groups(shapes):
        np.save(file, quotient[rows, start:stop].astype(kind), allow_pickle=False)


def read_month(file: BinaryIO) -> tuple[IntArray, IntArray]:
    """Read what ``write_month`` wrote: hours (H,) and sums (H, d)."""
    first = np.load(file, allow_pickle=False)
    if first.ndim == 1:
        return first, _read_whole(file, len(first))
    hours = np.load(file, allow_pickle=False)
    parts = [_read_part(file, size) for size in first[0].tolist()]
    return hours, parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _read_part(file: BinaryIO, size: int) -> IntArray:
    divisor, shapes = (np.load(file, allow_pickle=False) for _ in range(2))
    groups = _groups(shapes)
    if len(groups) == 1 and groups[0][2:] == (0, size):
        sums = np.empty((len(divisor), size), np.int64)
        np.multiply(np.load(file, allow_pickle=False), divisor[:, None], out=sums)
        return sums
    sums = np.zeros((len(divisor), size), np.int64)
    for rows, _, start, stop in groups:
        sums[rows, start:stop] = np.load(file, allow_pickle=False) * divisor[rows, None]
    return sums


def _read_whole(file: BinaryIO, hours: int) -> IntArray:
    """Read the sums of a file whose rows are all whole (as the first releases wrote them)."""
    divisor, width = (np.load(file, allow_pickle=False) for _ in range(2))
    parts = [np.load(file, allow_pickle=False) for _ in _WIDTHS]
    sums = np.empty((hours, parts[0].shape[1]), np.int64)
    for number, part in enumerate(parts):
        rows = width == number
        sums[rows] = part * divisor[rows][:, None]
    return sums


def _runs(sums: IntArray) -> IntArray:
    """Return (H, 2): where each row's numbers begin and end, in steps of 64."""
    there = sums != 0
    start = there.argmax(1) // _STEP * _STEP
    stop = sums.shape[1] - there[:, ::-1].argmax(1)
    stop = np.minimum(-(-stop // _STEP) * _STEP, sums.shape[1])
    empty = ~there.any(1)
    start[empty] = stop[empty] = 0
    return np.column_stack([start, stop])


def _groups(shapes: IntArray) -> list[tuple[IntArray, type, int, int]]:
    """Return rows, kind of integer, start and stop of the rows that are written together."""
    if len(shapes) == 0:
        return []
    distinct, place = np.unique(shapes, axis=0, return_inverse=True)
    return [
        (np.flatnonzero(place.reshape(-1) == i), _WIDTHS[width], start, stop)
        for i, (width, start, stop) in enumerate(distinct.tolist())
    ]


def _divisors(sums: IntArray) -> IntArray:
    """Return a common divisor (H,) of each row: its power of two, or all of it if that pays."""
    joined = np.bitwise_or.reduce(sums, axis=1)
    divisor = np.where(joined == 0, 1, joined & -joined)
    for row in _odd_rows(sums, divisor):
        divisor[row] = np.gcd.reduce(sums[row])
    return divisor


def _odd_rows(sums: IntArray, divisor: IntArray) -> Iterable[int]:
    """Rows that seem to have a larger divisor than their power of two (sums of one sketch)."""
    here = np.argmax(sums != 0, axis=1)[:, None] + np.arange(16)
    sample = np.gcd.reduce(np.take_along_axis(sums, here % sums.shape[1], axis=1), axis=1)
    return np.flatnonzero(sample > divisor).tolist()
