"""Mean and spread of attributes: equal to the truth when exact, within the bars otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall

NAMES = ["score", "x", "y", "w", "h"]


def truth(room: Any, module: str, chosen: np.ndarray) -> np.ndarray:
    """Attributes of the module's objects in the chosen glances, (n, m)."""
    objects = room.trace.objects(module)
    return objects.attributes.numpy()[chosen[objects.glance.numpy()]].astype(np.float64)


def test_records_give_exactly_what_was_seen(remember: Any, build: Any) -> None:
    room = build(60, 2)
    m = remember(room, reservoir=200)
    hall = np.array([s == "hall" for s in room.sources])
    late = np.array([t >= room.times[20] for t in room.times])
    for where, since, chosen in (
        (None, None, np.ones(60, dtype=bool)),
        ("source = 'hall'", None, hall),
        ("source = 'hall'", room.times[20], hall & late),
    ):
        exact = truth(room, "cat", chosen)
        answer = recall.attribute(m, "cat", where=where, since=since, names=NAMES)
        assert answer["number"] == NAMES
        # records are kept in float16
        np.testing.assert_allclose(answer["estimate"], exact.mean(0), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(answer["spread"], exact.std(0), rtol=5e-3, atol=2e-3)
        assert answer["low"] == answer["estimate"] == answer["high"]
        assert f"{len(exact)} objects in" in answer.notes[0]
        assert any("read exactly from records" in note for note in answer.notes)


def test_numbers_without_names_are_counted(memory: Memory) -> None:
    assert recall.attribute(memory, "cat")["number"] == [0, 1, 2, 3, 4]
    assert recall.attribute(memory, "cat", names=["score"])["number"] == ["score", *"1234"]


def test_the_answer_says_how_it_was_decoded(memory: Memory) -> None:
    answer = recall.attribute(memory, "cat", where="source = 'hall'")
    assert answer.title == "attribute of 'cat', where source = 'hall'"
    assert any("prior (version 1, 120 glances)" in note for note in answer.notes)
    assert any("load" in note for note in answer.notes)
    assert list(answer.columns) == [
        "number", "estimate", "low", "high", "spread", "spread_low", "spread_high",
    ]  # fmt: skip


def test_nine_in_ten_intervals_hold_the_truth(remember: Any, build: Any) -> None:
    """Sketches of 64 bytes; most glances are not in the reservoir."""
    mean_inside, spread_inside, total = 0, 0, 0
    for seed in range(4):
        room = build(300, seed + 20)
        m = remember(room, reservoir=150, sketcher=Sketcher(dim=64, seed=seed))
        m.fit_prior()
        for source in ("attic", "hall", "kitchen"):
            chosen = np.array([s == source for s in room.sources])
            for module in ("cat", "dog", "face", "lamp"):
                exact = truth(room, module, chosen)
                answer = recall.attribute(m, module, where=f"source = '{source}'")
                for row, mean, spread in zip(answer, exact.mean(0), exact.std(0), strict=True):
                    mean_inside += row["low"] <= mean <= row["high"]
                    spread_inside += row["spread_low"] <= spread <= row["spread_high"]
                    total += 1
    print(f"coverage: mean {mean_inside / total:.3f}, spread {spread_inside / total:.3f}, {total}")
    assert mean_inside / total > 0.85
    assert spread_inside / total > 0.8


def test_unusual_glances_widen_the_bar(remember: Any, build: Any) -> None:
    """A prior from usual glances pulls unusual ones towards them; the bar must know."""
    room = build(200, 8)
    moved = room.trace.columns["cat"].attributes
    late = room.trace.columns["cat"].glance >= 150
    moved[late, 1:] += 8.0
    m = remember(room, reservoir=0, sketcher=Sketcher(dim=64))
    from recollect import Prior

    object.__setattr__(m, "prior", lambda version=None: Prior.fit(room.trace[:150]))
    m._priors.versions = lambda: [1]  # type: ignore[method-assign]
    answer = recall.attribute(m, "cat", since=room.times[150])
    exact = truth(room, "cat", np.arange(200) >= 150).mean(0)
    inside = [r["low"] <= t <= r["high"] for r, t in zip(answer, exact, strict=True)]
    usual = recall.attribute(m, "cat", until=room.times[150])
    for late_row, usual_row in zip(answer, usual, strict=True):
        assert late_row["high"] - late_row["low"] > 2 * (usual_row["high"] - usual_row["low"])
    assert sum(inside) >= 4


def test_without_skeletons_the_sums_tell_the_mean(remember: Any, build: Any) -> None:
    room = build(200, 4)
    m = remember(room, reservoir=100, keep_skeletons=False, sketcher=Sketcher(dim=512))
    answer = recall.attribute(m, "lamp")
    exact = truth(room, "lamp", np.ones(200, dtype=bool)).mean(0)
    np.testing.assert_allclose(answer["estimate"], exact, atol=0.3)
    assert np.isnan(answer["spread"]).all()
    assert any("without skeletons" in note for note in answer.notes)
    window = recall.attribute(m, "lamp", until=room.times[100] + timedelta(seconds=1))
    assert any("the mean comes from the sum of 101 sketches" in n for n in window.notes)


def test_without_skeletons_and_prior_nothing_is_claimed(remember: Any, build: Any) -> None:
    m = remember(build(30, 4), keep_skeletons=False)
    with pytest.raises(ValueError, match=r"needs a prior, and this memory keeps neither"):
        recall.attribute(m, "lamp")


def test_beyond_the_load_without_a_prior_the_bar_is_everything(remember: Any, build: Any) -> None:
    rng = np.random.default_rng(0)
    room = build(5, 4)
    wide = [[Object("wide", rng.normal(0, 1, 100))] for _ in range(5)]
    room.trace = Trace.from_objects(wide)
    answer = recall.attribute(remember(room, sketcher=Sketcher(dim=64)), "wide")
    assert np.isnan(answer["estimate"]).all()
    assert answer["low"] == [-np.inf] * 100
    assert answer["high"] == [np.inf] * 100


def test_many_glances_are_read_from_roll_ups(
    memory: Memory, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = recall.attribute(memory, "lamp")
    monkeypatch.setattr("recollect.recall.attributes.CHUNK", 100)
    summed = recall.attribute(memory, "lamp")
    assert any("sum of 320 sketches (roll-ups)" in note for note in summed.notes)
    assert any("the spread comes from 100 glances" in note for note in summed.notes)
    exact = truth(room, "lamp", np.ones(320, dtype=bool))
    for answer in (direct, summed):
        assert all(
            r["low"] - 0.1 <= t <= r["high"] + 0.1
            for r, t in zip(answer, exact.mean(0), strict=True)
        )
        np.testing.assert_allclose(answer["spread"], exact.std(0), rtol=0.3)


def test_what_cannot_be_answered_is_refused(memory: Memory, room: Any) -> None:
    with pytest.raises(NotRemembered, match="did you mean 'cat'"):
        recall.attribute(memory, "cta")
    with pytest.raises(NotRemembered, match="no object of module 'cat' is in the 0 chosen glance"):
        recall.attribute(memory, "cat", where="source = 'cellar'")
    with pytest.raises(ValueError, match="6 names are given for the 5 numbers of module 'cat'"):
        recall.attribute(memory, "cat", names=[*NAMES, "depth"])
    with pytest.raises(ValueError, match="has no zone"):
        recall.attribute(memory, "cat", since="2025-10-16T00:00")
