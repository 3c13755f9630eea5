"""Times from names, EXIF and files; times that people type."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from recollect.app.times import duration, picture_time, read_time, time_in_name, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2026-01-20_0640.jpg", utc(2026, 1, 20, 6, 40)),
        ("2026-01-20_064012.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("20260120-064012.png", utc(2026, 1, 20, 6, 40, 12)),
        ("IMG_20260120_064012.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("PXL_20260120_064012123.jpg", utc(2026, 1, 20, 6, 40, 12, 123000)),
        ("IMG_20260120_064012-1.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("2026-01-20T06:40:12Z.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("2026-01-20T06-40-12.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("2026-01-20 06.40.12.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("cam3_2026_01_20_06_40_12_front.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("Screenshot 2026-01-20 at 06.40.12.png", utc(2026, 1, 20, 6, 40, 12)),
        ("20260120T064012.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("20260120064012.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("2026-01-20_0640-0001.jpg", utc(2026, 1, 20, 6, 40)),
        ("1768891212.jpg", utc(2026, 1, 20, 6, 40, 12)),
        ("1768891212500.jpg", utc(2026, 1, 20, 6, 40, 12, 500000)),
        ("4703_2026-01-20T14:40:12+08:00.jpg", utc(2026, 1, 20, 6, 40, 12)),
    ],
)
def test_times_in_names(name: str, expected: datetime) -> None:
    assert time_in_name(name, UTC) == expected


@pytest.mark.parametrize(
    "name",
    ["holiday.jpg", "IMG_1234.jpg", "2026-01-20.jpg", "20261320_064012.jpg", "12345678901234.jpg",
     "2026-02-30_0640.jpg", "0640.jpg"],
)  # fmt: skip
def test_names_without_a_time(name: str) -> None:
    assert time_in_name(name, UTC) is None


def test_a_name_is_read_in_the_zone_of_the_camera() -> None:
    found = time_in_name("2026-07-20_0640.jpg", BERLIN)
    assert found is not None
    assert found.utcoffset() == timedelta(hours=2)
    assert found.astimezone(UTC) == utc(2026, 7, 20, 4, 40)


def write(path: Path, stamp: str | None = None, offset: str | None = None) -> Path:
    exif = Image.Exif()
    detail = exif.get_ifd(0x8769)
    if stamp is not None:
        detail[0x9003] = stamp
    if offset is not None:
        detail[0x9011] = offset
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def test_exif_comes_before_the_name_and_the_name_before_the_file(tmp_path: Path) -> None:
    both = write(tmp_path / "IMG_20260120_064012.jpg", "2026:02:03 04:05:06")
    plain = write(tmp_path / "plain.jpg")
    broken = tmp_path / "2026-01-20_0640.jpg"
    broken.write_bytes(b"no picture")
    assert picture_time(both, UTC, Image.open) == utc(2026, 2, 3, 4, 5, 6)
    assert picture_time(both, UTC, Image.open, "name") == utc(2026, 1, 20, 6, 40, 12)
    assert picture_time(plain, UTC, Image.open) == datetime.fromtimestamp(1_700_000_000, UTC)
    assert picture_time(broken, UTC, Image.open) == utc(2026, 1, 20, 6, 40)
    with pytest.raises(ValueError, match="has no time in its exif"):
        picture_time(plain, UTC, Image.open, "exif")


def test_an_offset_in_exif_is_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", "2026:02:03 04:05:06", "+08:00")
    assert picture_time(path, UTC, Image.open) == datetime(
        2026, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=8))
    )


def test_nonsense_in_exif_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "2026-01-20_0640.jpg", "0000:00:00 00:00:00")
    assert picture_time(path, UTC, Image.open) == utc(2026, 1, 20, 6, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026", utc(2026, 1, 1)),
        ("2026-02", utc(2026, 2, 1)),
        ("2026-02-03", utc(2026, 2, 3)),
        ("2026-02-03 04:05", utc(2026, 2, 3, 4, 5)),
        ("2026-02-03T12:05+08:00", utc(2026, 2, 3, 4, 5)),
        ("yesterday", utc(2026, 1, 27)),
    ],
)
def test_typed_times(text: str, expected: datetime) -> None:
    assert read_time(text, UTC, now=utc(2026, 1, 28, 15)) == expected


def test_typed_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="a time is written 2026-01-20"):
        read_time("soon", UTC)
    with pytest.raises(ValueError, match="a duration is a positive number"):
        duration("0s")
    with pytest.raises(ValueError, match="a duration is a positive number"):
        duration("5 parsecs")
    with pytest.raises(ValueError, match="--timezone must be a name"):
        zone_of("Atlantis/Center")
