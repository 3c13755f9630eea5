"""When a picture was taken (from EXIF, name or file), and times that people type."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["duration", "picture_time", "read_time", "time_in_exif", "time_in_name", "zone_of"]

# Date and clock with at most one kind of separator each: 2026-01-20_0640, 20260120-064012,
# IMG_20260120_064012, PXL_20260120_064012123, 2026-01-20T06:40:12.5+08:00. A minus before the
# offset counts only with a colon in it, because cameras append running numbers ("..._0640-0001").
_STAMP = re.compile(
    r"(?<!\d)(?P<year>\d{4})(?P<s>[-_.:]?)(?P<month>\d\d)(?P=s)(?P<day>\d\d)"
    r"(?:[-_T .@]|_at_| at |-at-)?"
    r"(?P<hour>\d\d)(?P<c>[-_:.h]?)(?P<minute>\d\d)"
    r"(?:(?P=c)(?P<second>\d\d)(?:[.,]?(?P<fraction>\d{1,6}))?)?"
    r"(?P<offset>Z|\+\d\d:?\d\d|-\d\d:\d\d)?(?!\d)"
)
_EPOCH = re.compile(r"\d{10}(\d{3})?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def zone_of(name: str) -> tzinfo:
    """Return the time zone of a name such as ``"Europe/Berlin"`` or ``"UTC"``.

    Raises:
        ValueError: if there is no such zone.
    """
    if name.upper() in {"UTC", "Z"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"--timezone must be a name such as UTC or Europe/Berlin, got {name!r}"
        ) from error


def duration(text: str) -> float:
    """Return the seconds of ``"5s"``, ``"500ms"``, ``"2min"``, ``"1.5h"`` or a plain number.

    >>> duration("5s"), duration("2min"), duration("0.5")
    (5.0, 120.0, 0.5)

    Raises:
        ValueError: if it is not a positive duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or (match[2] or "s") not in _UNITS or float(match[1]) <= 0:
        raise ValueError(f"a duration is a positive number with ms, s, min, h or d, got {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def time_in_name(name: str, zone: tzinfo) -> datetime | None:
    """Return the time written in a file name, or None.

    A date without a clock is no time. Ten or thirteen digits alone are seconds or milliseconds
    since 1970.

    >>> from datetime import UTC
    >>> time_in_name("IMG_20260120_064012.jpg", UTC).isoformat()
    '2026-01-20T06:40:12+00:00'
    """
    stem = re.sub(r"\.[A-Za-z]\w{1,4}$", "", name)
    if match := _EPOCH.fullmatch(stem):
        return datetime.fromtimestamp(int(stem) / (1000 if match[1] else 1), UTC).astimezone(zone)
    for match in _STAMP.finditer(stem):
        time = _from_parts(match.groupdict(), zone)
        if time is not None:
            return time
    return None


def _from_parts(parts: dict[str, Any], zone: tzinfo) -> datetime | None:
    """Build a time from what the pattern found; None if the calendar has no such time."""
    fraction = int((parts["fraction"] or "0").ljust(6, "0"))
    year, month, day = int(parts["year"]), int(parts["month"]), int(parts["day"])
    hour, minute, second = int(parts["hour"]), int(parts["minute"]), int(parts["second"] or 0)
    if not 1970 <= year <= 2200:
        return None
    try:
        if parts["offset"]:
            offset = parts["offset"].replace("Z", "+00:00")
            plain = datetime(year, month, day, hour, minute, second, fraction)
            return datetime.fromisoformat(plain.isoformat() + offset)
        return datetime(year, month, day, hour, minute, second, fraction, zone)
    except ValueError:
        return None


def time_in_exif(image: Any, zone: tzinfo) -> datetime | None:
    """Return the time at which a picture says it was taken, or None.

    Args:
        image: a PIL picture; only its header is read.
        zone: used where the camera wrote no offset.
    """
    exif = image.getexif()
    detail = exif.get_ifd(0x8769)
    for stamp, offset in (
        (detail.get(0x9003), detail.get(0x9011)),  # original
        (detail.get(0x9004), detail.get(0x9012)),  # digitised
        (exif.get(0x0132), detail.get(0x9010)),  # changed
    ):
        if not isinstance(stamp, str):
            continue
        try:
            time = datetime.strptime(stamp.strip("\0 "), "%Y:%m:%d %H:%M:%S").replace(tzinfo=zone)
        except ValueError:
            continue
        if isinstance(offset, str) and re.fullmatch(r"[+-]\d\d:\d\d", offset.strip("\0 ")):
            written = time.replace(tzinfo=None).isoformat() + offset.strip("\0 ")
            return datetime.fromisoformat(written)
        return time
    return None


def picture_time(
    path: Path, zone: tzinfo, open_header: Callable[[Path], Any], order: str = "auto"
) -> datetime:
    """Return when a picture was taken: EXIF, else the name, else the time of the file.

    Args:
        path: the file.
        zone: where the camera stood, for times without an offset.
        open_header: opens the picture lazily (``PIL.Image.open``).
        order: ``"auto"``, or only ``"exif"``, ``"name"`` or ``"file"``.

    Raises:
        ValueError: if the only source asked for has no time.
    """
    time: datetime | None = None
    if order in {"auto", "exif"}:
        try:
            with open_header(path) as image:
                time = time_in_exif(image, zone)
        except Exception:  # a header that cannot be read is reported when the picture is opened
            time = None
    if time is None and order in {"auto", "name"}:
        time = time_in_name(path.name, zone)
    if time is None and order in {"auto", "file"}:
        time = datetime.fromtimestamp(path.stat().st_mtime, UTC).astimezone(zone)
    if time is None:
        raise ValueError(f"{path.name} has no time in its {order}; use --time auto, or rename it")
    return time


def read_time(text: str, zone: tzinfo, now: datetime | None = None) -> datetime:
    """Return the time that a person typed: a date, a date with a clock, or ISO with an offset.

    >>> from datetime import UTC
    >>> read_time("2026-01-20 06:40", UTC).isoformat(), read_time("2026-02", UTC).isoformat()
    ('2026-01-20T06:40:00+00:00', '2026-02-01T00:00:00+00:00')

    Raises:
        ValueError: if it is no time.
    """
    text = text.strip()
    today = (now or datetime.now(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"today": today, "yesterday": today - timedelta(days=1), "now": now or today}
    if text.lower() in words:
        return words[text.lower()]
    if match := re.fullmatch(r"(\d{4})(?:-(\d\d?))?", text):
        return datetime(int(match[1]), int(match[2] or 1), 1, tzinfo=zone)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        found = time_in_name(text, zone)
        if found is None:
            raise ValueError(
                f"a time is written 2026-01-20, '2026-01-20 06:40' or with an offset such as "
                f"2026-01-20T06:40+08:00, got {text!r}"
            ) from None
        time = found
    return time if time.tzinfo is not None else time.replace(tzinfo=zone)
