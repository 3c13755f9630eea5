"""The calendar, against Python's own, one time at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.recall.windows import WEEKDAYS, Windows, by_label, by_time, fits_hours, offsets

HOUR = 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whole, half and three quarter hours; summer time on both halves of the globe, by half an hour
# too; a zone that jumped over a day (Samoa, December 2011).
ZONES = [
    "UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Apia", "Asia/Kolkata", "America/Sao_Paulo",
]  # fmt: skip

moments = st.lists(
    st.datetimes(datetime(1975, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)), max_size=20
)
# Close to where the clocks are changed: the last Sunday of October 2025, 01:00 UTC, and others.
close = st.lists(
    st.tuples(
        st.sampled_from(
            [
                datetime(2025, 10, 26, 1, tzinfo=UTC),
                datetime(2025, 3, 30, 1, tzinfo=UTC),
                datetime(2025, 4, 5, 15, tzinfo=UTC),
                datetime(2011, 12, 30, 10, tzinfo=UTC),
            ]
        ),
        st.timedeltas(timedelta(hours=-3), timedelta(hours=3)),
    ).map(lambda pair: pair[0] + pair[1]),
    max_size=20,
)


def micro(times: list[datetime]) -> np.ndarray:
    return np.array([(t - EPOCH) // timedelta(microseconds=1) for t in times], dtype=np.int64)


def naive(time: datetime, by: str, zone: ZoneInfo) -> object:
    local = time.astimezone(zone)
    if by == "hour_of_day":
        return local.hour
    if by == "weekday":
        return WEEKDAYS[local.weekday()]
    if by == "month":
        return f"{local.year:04d}-{local.month:02d}"
    if by == "day":
        return local.date().isoformat()
    return (
        local.replace(minute=0, second=0, microsecond=0, tzinfo=None).isoformat(timespec="minutes")
        + local.isoformat(timespec="minutes")[-6:]
    )


@given(
    st.one_of(moments, close),
    st.sampled_from(["hour", "day", "weekday", "month", "hour_of_day"]),
    st.sampled_from(ZONES),
)
def test_every_time_falls_where_python_says(times: list[datetime], by: str, zone: str) -> None:
    w = by_time(micro(times), by, zone)
    assert [w.labels[i] for i in w.index] == [naive(t, by, ZoneInfo(zone)) for t in times]
    assert len(set(w.labels)) == len(w.labels)


@given(st.one_of(moments, close), st.sampled_from(ZONES))
def test_offsets_are_those_of_python(times: list[datetime], zone: str) -> None:
    naive_offsets = [t.astimezone(ZoneInfo(zone)).utcoffset() for t in times]
    got = [timedelta(microseconds=o) for o in offsets(micro(times), zone).tolist()]
    assert got == naive_offsets


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    begin = datetime(2025, 10, 25, 23, tzinfo=UTC)
    w = by_time(micro([begin + timedelta(hours=i) for i in range(4)]), "hour", "Europe/Berlin")
    assert w.labels == [
        "2025-10-26T01:00+02:00",
        "2025-10-26T02:00+02:00",
        "2025-10-26T02:00+01:00",
        "2025-10-26T03:00+01:00",
    ]


def test_folded_windows_are_all_there() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert by_time(nothing, "hour_of_day", "UTC").labels == list(range(24))
    assert by_time(nothing, "weekday", "UTC").labels == list(WEEKDAYS)
    assert by_time(nothing, "month", "UTC").labels == []
    months = micro([datetime(2024, 11, 3, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)])
    assert by_time(months, "month", "UTC").labels == ["2024-11", "2024-12", "2025-01", "2025-02"]
    # In New York the first of February has not begun yet.
    assert by_time(months, "month", "America/New_York").labels[-1] == "2025-01"


@pytest.mark.parametrize(
    ("zone", "fits"),
    [
        ("UTC", True),
        ("Europe/Berlin", True),
        ("Asia/Kolkata", False),
        ("Australia/Lord_Howe", False),
    ],
)
def test_which_zones_cut_no_utc_hour(zone: str, fits: bool) -> None:
    hours = np.arange(480_000, 480_000 + 24 * 366) * HOUR
    assert fits_hours(hours, zone) == fits


def test_labels_are_sorted_and_missing_ones_last() -> None:
    w = by_label(["hall", None, "attic", "hall"])
    assert w.labels == ["attic", "hall", None]
    assert w.index.tolist() == [1, 2, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), max_size=20))
def test_totals_are_sums(rows: list[tuple[int, int]]) -> None:
    index = np.array([r[0] for r in rows], dtype=np.int64)
    values = np.array([r[1] for r in rows], dtype=np.int64)
    total = Windows(list("abcd"), index).total(values)
    assert total.tolist() == [sum(v for i, v in rows if i == k) for k in range(4)]
    assert total.dtype == np.int64
