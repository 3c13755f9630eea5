"""Counts: exact ones equal a naive loop, estimated ones lie within their bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FILTERS: dict[str | None, Callable[[str], bool]] = {
    None: lambda source: True,
    "source = 'hall'": lambda source: source == "hall",
    "source <> 'attic' AND door = 'shut'": lambda source: source == "kitchen",
    "door = 'nowhere'": lambda source: False,
}


class InZone:
    """The same memory with another calendar."""

    def __init__(self, memory: Memory, timezone: str) -> None:
        self._memory, self.timezone = memory, timezone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def window_of(time: datetime, source: str, by: str | None, zone: str) -> object:
    local = time.astimezone(ZoneInfo(zone))
    minutes = local.isoformat(timespec="minutes")
    return {
        None: "all",
        "hour": minutes[:14] + "00" + minutes[16:],
        "day": local.date().isoformat(),
        "month": minutes[:7],
        "weekday": WEEKDAYS[local.weekday()],
        "hour_of_day": local.hour,
        "source": source,
        "door": ("open", "shut")[len(source) % 2],
    }[by]


def amount(trace: Any, glance: int, module: str | None, unit: str) -> float:
    """Count one glance the slow way."""
    if module is None:
        return 1.0
    objects = trace.objects(module)
    weights = objects.weight[objects.glance == glance]
    if unit == "weight":
        return float(weights.sum())
    return float(len(weights)) if unit == "objects" else float(len(weights) > 0)


questions = st.fixed_dictionaries(
    {
        "module": st.sampled_from([None, "cat", "dog", "face", "lamp"]),
        "by": st.sampled_from(
            [None, "hour", "day", "month", "weekday", "hour_of_day", "source", "door"]
        ),
        "unit": st.sampled_from(["objects", "glances", "weight"]),
        "where": st.sampled_from(list(FILTERS)),
        "since": st.sampled_from([None, timedelta(days=3), timedelta(hours=50, minutes=11)]),
        "until": st.sampled_from([None, timedelta(days=17), timedelta(hours=240, minutes=43)]),
    }
)
EVEN = datetime(2025, 10, 15, 22, tzinfo=UTC)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    questions,
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"]),
)
def test_an_exact_count_is_that_of_a_naive_loop(
    memory: Memory, room: Any, question: dict, zone: str
) -> None:
    q = dict(question)
    module, by, unit = q.pop("module"), q["by"], q["unit"]
    for end in ("since", "until"):
        q[end] = None if q[end] is None else EVEN + q[end]
    expected: Counter[object] = Counter()
    glances: Counter[object] = Counter()
    for i, (time, source) in enumerate(zip(room.times, room.sources, strict=True)):
        if not FILTERS[q["where"]](source):
            continue
        if (q["since"] and time < q["since"]) or (q["until"] and time >= q["until"]):
            continue
        window = window_of(time, source, by, zone)
        expected[window] += amount(room.trace, i, module, unit)  # type: ignore[assignment]
        glances[window] += 1
    answer = recall.count(InZone(memory, zone), module, **q)
    labels = answer[by] if by else ["all"]
    assert answer["estimate"] == [float(expected[w]) for w in labels]
    assert answer["low"] == answer["estimate"] == answer["high"]
    assert set(glances) <= set(labels)
    if module is not None:
        assert answer["glances"] == [glances[w] for w in labels]
    if by in ("hour", "day", "source", "door"):
        assert set(labels) == set(glances)
    total = sum(glances.values())
    for window, share in zip(labels, answer["share"], strict=True):
        whole = total if module is None else glances[window]
        if whole:
            assert share == pytest.approx(expected[window] / whole)
        else:
            assert np.isnan(share)


def test_the_folded_calendar_shows_what_is_empty(memory: Memory) -> None:
    by_hour = recall.count(memory, "cat", by="hour_of_day", until=EVEN + timedelta(hours=2))
    assert by_hour["hour_of_day"] == list(range(24))
    assert sum(by_hour["glances"]) < 10
    assert recall.count(memory, "cat", by="weekday")["weekday"] == WEEKDAYS
    assert recall.count(memory, "cat", by="month")["month"] == ["2025-10", "2025-11"]


def test_an_answer_says_what_was_asked_and_goes_to_pandas(memory: Memory) -> None:
    answer = recall.count(memory, "cat", by="source", unit="glances", where="door = 'open'")
    assert answer.title == "glances with 'cat' by source, where door = 'open'"
    assert list(answer.columns) == ["source", "estimate", "low", "high", "glances", "share"]
    frame = answer.to_pandas()
    assert frame["share"].between(0, 1).all()
    assert answer.to_arrow().num_rows == len(frame)
    assert "<table>" in answer._repr_html_()


def test_a_memory_of_nothing_answers_zero(remember: Any, room: Any) -> None:
    m = remember(room)
    m.delete("id >= 0")
    assert recall.count(m, "cat")["estimate"] == [0.0]
    assert recall.count(m, "cat", by="day")["estimate"] == []
    assert recall.count(m, by="hour_of_day")["estimate"] == [0.0] * 24
    assert recall.count(m, "cat", source="sketch")["estimate"] == [0.0]
    assert recall.count(m, "cat", source="sketch", unit="glances")["high"] == [0.0]


# -- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        ({"module": "cta"}, NotRemembered, r"no module 'cta' is remembered; did you mean 'cat'"),
        ({"by": "year"}, ValueError, "by must be one of 'hour', 'day'.*'door', got 'year'"),
        ({"by": "id"}, ValueError, "by must be one of"),
        ({"unit": "kilos"}, ValueError, "unit must be one of 'objects', 'glances', 'weight'"),
        ({"source": "dream"}, ValueError, "source must be one of 'skeleton', 'sketch'"),
        ({"since": datetime(2025, 1, 1)}, ValueError, "has no zone"),
        ({"until": "2025-01-01T00:00"}, ValueError, "has no zone"),
        (
            {"since": "2025-01-02T00:00Z", "until": "2025-01-01T00:00Z"},
            ValueError,
            r"until \(2025-01-01.*\) is before since \(2025-01-02",
        ),
        (
            {"module": "cat", "unit": "weight", "source": "sketch"},
            ValueError,
            "counts one per object whatever its weight",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    memory: Memory, question: dict, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        recall.count(memory, **question)


def test_without_skeletons_the_sketch_answers_and_weights_are_refused(
    remember: Any, room: Any
) -> None:
    m = remember(room, keep_skeletons=False, reservoir=120)
    answer = recall.count(m, "cat", by="source")
    assert any("estimated from sums of sketches" in note for note in answer.notes)
    for question in ({"source": "skeleton"}, {"unit": "weight"}):
        with pytest.raises(ValueError, match="320 glances of 320 were kept without skeletons"):
            recall.count(m, "cat", **question)


# -- from sketches alone --------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["objects", "glances"])
@pytest.mark.parametrize("where", [None, "source <> 'attic'"])
def test_a_sketch_counts_what_the_skeletons_know(
    memory: Memory, unit: str, where: str | None
) -> None:
    for by in (None, "source", "day", "hour_of_day"):
        exact = recall.count(memory, "cat", by=by, unit=unit, where=where, source="skeleton")
        guess = recall.count(memory, "cat", by=by, unit=unit, where=where, source="sketch")
        assert guess["glances"] == exact["glances"]
        errors = np.abs(np.array(guess["estimate"]) - exact["estimate"])
        assert errors.max() < 1.5 + 0.05 * max(exact["estimate"])
        assert all(low <= est <= high or est == pytest.approx(low, abs=0.51) or
                   est == pytest.approx(high, abs=0.51)
                   for low, est, high in zip(guess["low"], guess["estimate"], guess["high"],
                                             strict=True))  # fmt: skip
        assert any("prior" in note for note in guess.notes)
        assert any("load" in note for note in guess.notes)


def crowded(build: Any, number: int, seed: int) -> Any:
    """Glances of 24 kinds of things, eight numbers each: beyond what 64 bytes can hold."""
    rng, usual = np.random.default_rng(seed), np.random.default_rng(7).normal(0, 1, (24, 8))
    often = rng.uniform(0.05, 1.0, 24)
    room = build(number, seed)
    glances = [
        [
            Object(f"m{p}", usual[p] + rng.normal(0, 1, 8))
            for p in range(24)
            for _ in range(rng.poisson(often[p]))
        ]
        for _ in range(number)
    ]
    room.trace = Trace.from_objects(glances)
    return room


@pytest.mark.parametrize(("unit", "most"), [("objects", 1.0), ("glances", 0.985)])
@pytest.mark.parametrize("dim", [64, 128])
def test_nine_in_ten_intervals_hold_the_truth_of_crowded_glances(
    remember: Any, build: Any, unit: str, most: float, dim: int
) -> None:
    """Windows of a few glances, counted at load 1 to 2; ends are whole, so a few more hold.

    Sums of glances are given room for windows that are unlike the prior (these are not), so that
    nearly all of their intervals hold.
    """
    inside, errors, exacts = [], [], []
    for seed in range(2):
        m = remember(
            crowded(build, 300, seed), reservoir=150, sketcher=Sketcher(dim=dim, seed=seed)
        )
        m.fit_prior()
        for module in [f"m{p}" for p in range(0, 24, 4)]:
            exact = recall.count(m, module, by="hour_of_day", unit=unit)["estimate"]
            guess = recall.count(m, module, by="hour_of_day", unit=unit, source="sketch")
            inside += [r["low"] <= t <= r["high"] for r, t in zip(guess, exact, strict=True)]
            errors += [r["estimate"] - t for r, t in zip(guess, exact, strict=True)]
            exacts += exact
    coverage, bias = float(np.mean(inside)), float(np.mean(errors))
    print(f"coverage of {unit} at {dim}: {coverage:.3f} of {len(inside)}, bias {bias:.2f}")
    assert 0.87 <= coverage <= most
    assert abs(bias) < 0.1 * np.mean(exacts)


@pytest.mark.parametrize("unit", ["objects", "glances"])
def test_nine_in_ten_intervals_hold_the_truth(remember: Any, build: Any, unit: str) -> None:
    """Sketches so short that counts are uncertain, on glances that the prior has not seen."""
    inside = total = 0
    for seed in range(4):
        m = remember(build(400, seed + 1), reservoir=200, sketcher=Sketcher(dim=64, seed=seed))
        m.fit_prior()
        for module in ("cat", "dog", "face"):
            for by in ("day", "hour_of_day"):
                exact = recall.count(m, module, by=by, unit=unit)
                guess = recall.count(m, module, by=by, unit=unit, source="sketch")
                for row, truth in zip(guess, exact["estimate"], strict=True):
                    if row["glances"]:
                        inside += row["low"] <= truth <= row["high"]
                        total += 1
    coverage = inside / total
    print(f"coverage of {unit}: {coverage:.3f} of {total}")
    assert coverage >= 0.87
