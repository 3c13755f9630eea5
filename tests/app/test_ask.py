"""Every sentence of the grammar is read as documented; everything else is refused with it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.app.ask import FORMS, GRAMMAR, NotAQuestion, Question, parse

# A Wednesday.
NOW = datetime(2026, 1, 28, 15, 30, tzinfo=UTC)
MODULES = ["cat", "digit/7", "traffic light", "features.3.conv", "box"]


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


def read(text: str) -> Question:
    return parse(text, MODULES, NOW)


SENTENCES = {
    "how often cat": Question("count", "cat"),
    "how often cat by hour": Question("count", "cat", "hour_of_day"),
    "how often cat by hour of day": Question("count", "cat", "hour_of_day"),
    "how often cat by calendar hour": Question("count", "cat", "hour"),
    "How often was there a cat by weekday?": Question("count", "cat", "weekday"),
    "how often was the cat here by month": Question("count", "cat", "month"),
    "how often Cats by day": Question("count", "cat", "day"),
    "how often traffic lights": Question("count", "traffic light"),
    "how often digit/7 by hour": Question("count", "digit/7", "hour_of_day"),
    "how often features.3.conv": Question("count", "features.3.conv"),
    'how often "by the way" by day': Question("count", "by the way", "day"),
    "how often unicorn": Question("count", "unicorn"),
    "how often dog": Question("count", "dog"),
    "when island": Question("count", "island", "hour_of_day"),
    "how often theremin by day": Question("count", "theremin", "day"),
    "how many answers": Question("count", "answers", unit="objects"),
    "how often": Question("count"),
    "how often by month": Question("count", None, "month"),
    "how often glances by month": Question("count", None, "month"),
    "how many cats by month": Question("count", "cat", "month", unit="objects"),
    "how many glances": Question("count"),
    "how many boxes": Question("count", "box", unit="objects"),
    "when cat": Question("count", "cat", "hour_of_day"),
    "when was the cat seen in hall": Question(
        "count", "cat", "hour_of_day", where="source = 'hall'"
    ),
    "when was the room usually looked at": Question("count", None, "hour_of_day"),
    "when": Question("count", None, "hour_of_day"),
    "how big was the cat": Question("attribute", "cat"),
    "how big were traffic lights in hall": Question(
        "attribute", "traffic light", where="source = 'hall'"
    ),
    "what was cat like": Question("attribute", "cat"),
    "what was the cat like in hall": Question("attribute", "cat", where="source = 'hall'"),
    "what did features.3.conv see on Tuesday": Question(
        "attribute", "features.3.conv", since=at(2026, 1, 27), until=at(2026, 1, 28)
    ),
    "like photo.jpg": Question("similar", query="photo.jpg"),
    "like 'my photo.jpg' as cat top 3": Question("similar", "cat", query="my photo.jpg", k=3),
    "like 123 as traffic light": Question("similar", "traffic light", query="123"),
    "what is in 123": Question("unroll", query="123"),
    "unroll glance 123": Question("unroll", query="123"),
    "why 1 2": Question("why", query="1", other="2"),
    "why are 1 and 2 alike": Question("why", query="1", other="2"),
    "what is related to 17": Question("related", query="17", k=8),
    "what is related to glance 17 top 3?": Question("related", query="17", k=3),
    "what is related to cats": Question("related", "cat", k=8),
    "what is related to traffic light top 2": Question("related", "traffic light", k=2),
    "what was related with cat#12": Question("related", "cat#12", k=8),
    'what is related to "17"': Question("related", "17", k=8),
    "what is emerging": Question("emerging"),
    "what recurs in hall": Question("emerging", where="source = 'hall'"),
    "what is emerging as cats last week": Question(
        "emerging", "cat", since=at(2026, 1, 19), until=at(2026, 1, 26)
    ),
    "what was new last week": Question("new", since=at(2026, 1, 19), until=at(2026, 1, 26)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SENTENCES.items(), ids=str)
def test_sentences(text: str, expected: Question) -> None:
    assert read(text) == expected


TIMES = {
    "today": (at(2026, 1, 28), at(2026, 1, 29)),
    "yesterday": (at(2026, 1, 27), at(2026, 1, 28)),
    "on Tuesday": (at(2026, 1, 27), at(2026, 1, 28)),
    "on Wednesday": (at(2026, 1, 28), at(2026, 1, 29)),
    "last Wednesday": (at(2026, 1, 21), at(2026, 1, 22)),
    "in January": (at(2026, 1, 1), at(2026, 2, 1)),
    "in December": (at(2025, 12, 1), at(2026, 1, 1)),
    "in December 2024": (at(2024, 12, 1), at(2025, 1, 1)),
    "in 2025": (at(2025, 1, 1), at(2026, 1, 1)),
    "in 2025-12": (at(2025, 12, 1), at(2026, 1, 1)),
    "on 2026-01-20": (at(2026, 1, 20), at(2026, 1, 21)),
    "this week": (at(2026, 1, 26), at(2026, 2, 2)),
    "last week": (at(2026, 1, 19), at(2026, 1, 26)),
    "last month": (at(2025, 12, 1), at(2026, 1, 1)),
    "this year": (at(2026, 1, 1), at(2027, 1, 1)),
    "last year": (at(2025, 1, 1), at(2026, 1, 1)),
    "last 3 days": (NOW - timedelta(days=3), NOW),
    "the last 2 hours": (NOW - timedelta(hours=2), NOW),
    "last 2 months": (at(2025, 11, 28, 15, 30), NOW),
    "since yesterday": (at(2026, 1, 27), None),
    "since 2026-01-20 06:40": (at(2026, 1, 20, 6, 40), None),
    "since 3 days ago": (NOW - timedelta(days=3), None),
    "until 2026-01-20": (None, at(2026, 1, 20)),
    "before January": (None, at(2026, 1, 1)),
    "between 2026-01-03 and 2026-01-05": (at(2026, 1, 3), at(2026, 1, 5)),
    "since 2026-01-20 until yesterday": (at(2026, 1, 20), at(2026, 1, 27)),
}


@pytest.mark.parametrize(("text", "window"), TIMES.items(), ids=str)
@pytest.mark.parametrize("head", ["how often cat", "what was the cat like", "when"])
def test_times(head: str, text: str, window: tuple[datetime | None, datetime | None]) -> None:
    question = read(f"{head} {text}")
    assert (question.since, question.until) == window


def test_filters_come_in_any_order() -> None:
    a = read("how often cat by month in hall last year")
    assert a == read("how often cat last year, in hall by month")
    assert a.where == "source = 'hall'"


def test_where_is_passed_on_whole_and_sources_are_quoted() -> None:
    assert read("how often cat where light = 'day'").where == "light = 'day'"
    assert read('how often cat from "o\'hara"').where == "source = 'o''hara'"
    both = read("how often cat in hall where a = 1 OR b = 2")
    assert both.where == "source = 'hall' AND (a = 1 OR b = 2)"


def test_the_calendar_is_the_zone_of_now() -> None:
    zone = ZoneInfo("Asia/Singapore")
    question = parse("how often cat today", ["cat"], datetime(2026, 1, 28, 1, tzinfo=zone))
    assert question.since == datetime(2026, 1, 28, tzinfo=zone)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tell me everything", "not in the grammar"),
        ("", "not in the grammar"),
        ("how often cat sometimes by hour", "not understood"),
        ("how often cat by colour", "not understood"),
        ("what was the cat like by hour", "only counts"),
        ("what was like", "like what"),
        ("why 1", "two glances"),
        ("like", "like what"),
        ("what is in the box", "a glance is a number"),
        ("what is related to", "related to what"),
        ("what is related to cat by hour", "related to what"),
        ("what is related to cat top 0", "related to what"),
        ("what is emerging by day", "only counts"),
        ("how often cat between 2026-02-01 and 2026-01-01", "ends before it begins"),
    ],
)
def test_refusals_show_the_nearest_form_and_the_grammar(text: str, reason: str) -> None:
    with pytest.raises(NotAQuestion, match=reason) as caught:
        read(text)
    assert GRAMMAR in str(caught.value)
    assert "nearest: " in str(caught.value)


def test_nearest_form() -> None:
    with pytest.raises(NotAQuestion, match="nearest: how often MODULE by hour"):
        read("often cat by hour")


def test_a_day_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="a time is written"):
        read("how often cat on 2026-02-31")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_sentence(form: str) -> None:
    text = form.replace("MODULE", "cat").replace("GLANCE", "12").replace("A B", "1 2")
    assert str(read(text))


@given(st.text(max_size=40))
def test_any_text_is_a_question_or_refused(text: str) -> None:
    for head in ("", "how often ", "what was "):
        with contextlib.suppress(ValueError):
            assert str(read(head + text))
