"""Spans of time as people write them: ``today``, ``last 3 days``, ``January 2026``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from recollect.app.times import read_time

__all__ = ["TIME", "WEEKDAYS", "span_of"]

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# calendar.month_name follows the locale; the grammar is English.
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_SPAN = {"hour": 3600, "day": 86400, "week": 7 * 86400}
TIME = (
    r"(?:today|yesterday|now"
    r"|(?:last )?(?:" + "|".join(WEEKDAYS) + r")"
    r"|(?:" + "|".join(_MONTHS) + r")(?: \d{4})?"
    r"|(?:this|last) (?:week|month|year)"
    r"|(?:the )?last \d+ (?:hour|day|week|month|year)s?"
    r"|\d+ (?:hour|day|week|month|year)s? ago"
    r'|"?\d{4}-\d\d-\d\d(?:[ t]\d\d:\d\d(?::\d\d)?(?:z|[+-]\d\d:?\d\d)?)?"?'
    r"|\d{4}-\d\d?|\d{4})"
)


def span_of(text: str, now: datetime) -> tuple[datetime, datetime]:
    """Return start and end of a time as it is written.

    Args:
        text: that ``TIME`` matches, upper and lower case alike.
        now: what ``today`` and ``last week`` are counted from, with the calendar's zone.

    Raises:
        ValueError: if there is no such day.

    Example:
        >>> from datetime import UTC
        >>> start, end = span_of("last week", datetime(2026, 1, 28, 15, tzinfo=UTC))
        >>> f"{start:%d %B} to {end:%d %B}"
        '19 January to 26 January'
    """
    text = text.lower().strip('"').removeprefix("the ")
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in {"today", "yesterday"}:
        start = today - timedelta(days=text == "yesterday")
        return start, start + timedelta(days=1)
    if text == "now":
        return now, now
    if (day := text.removeprefix("last ")) in WEEKDAYS:
        back = (today.weekday() - WEEKDAYS.index(day)) % 7
        start = today - timedelta(days=back or (7 if text.startswith("last ") else 0))
        return start, start + timedelta(days=1)
    if match := re.fullmatch(rf"({'|'.join(_MONTHS)})(?: (\d+))?", text):
        month = _MONTHS.index(match[1]) + 1
        year = int(match[2]) if match[2] else today.year - (month > today.month)
        return _month(today, year, month), _month(today, year, month + 1)
    if match := re.fullmatch(r"(this|last) (week|month|year)", text):
        return _calendar(match[2], int(match[1] == "last"), now)
    if match := re.fullmatch(r"(last )?(\d+) (hour|day|week|month|year)s?( ago)?", text):
        start = _back(int(match[2]), match[3], now)
        if match[1]:
            return start, now
        return start, start + timedelta(seconds=_SPAN.get(match[3], 86400))
    return _written(text, now)


def _written(text: str, now: datetime) -> tuple[datetime, datetime]:
    zone = now.tzinfo
    assert zone is not None, "now carries a zone"
    start = read_time(text.upper(), zone)
    if re.fullmatch(r"\d{4}", text):
        return start, _month(start, start.year + 1, 1)
    if re.fullmatch(r"\d{4}-\d\d?", text):
        return start, _month(start, start.year, start.month + 1)
    if ":" in text:
        return start, start + timedelta(minutes=1)
    return start, start + timedelta(days=1)


def _calendar(span: str, back: int, now: datetime) -> tuple[datetime, datetime]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "week":
        start = today - timedelta(days=today.weekday() + 7 * back)
        return start, start + timedelta(days=7)
    if span == "month":
        number = today.month - back
        return _month(today, today.year, number), _month(today, today.year, number + 1)
    return _month(today, today.year - back, 1), _month(today, today.year - back + 1, 1)


def _back(number: int, span: str, now: datetime) -> datetime:
    if span in _SPAN:
        return now - timedelta(seconds=number * _SPAN[span])
    months = number * (12 if span == "year" else 1)
    start = _month(now, now.year, now.month - months)
    last = (_month(start, start.year, start.month + 1) - timedelta(days=1)).day
    clock = now.timetz()
    return datetime.combine(start.date().replace(day=min(now.day, last)), clock)


def _month(like: datetime, year: int, month: int) -> datetime:
    """Return the first moment of a month; months beyond 1..12 carry over."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return like.replace(year=year, month=month, day=1, hour=0, minute=0, second=0, microsecond=0)
