"""What was new: planted changes are named with the glances that show them, chance is not."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.recall.test_distributions import HOUR, keep, scenes

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall
from recollect.recall.novelty import Change, _holm
from recollect.recall.reading import Decoder
from recollect.recall.units import Units

DAY = 24 * HOUR


def moment(hour: float) -> np.datetime64:
    return np.datetime64(int(hour * HOUR), "us")


def year(glances: int, seed: int, rates: dict[str, float], shift: dict[str, float]) -> Trace:
    """Modules of four numbers around 1 that come at Poisson rates."""
    columns = {}
    for place, (name, rate) in enumerate(rates.items()):
        rng = np.random.default_rng([seed, place])
        glance = np.repeat(np.arange(glances), rng.poisson(rate, glances))
        x = 1 + 0.3 * rng.standard_normal((len(glance), 4)) + shift.get(name, 0.0)
        columns[name] = {"attributes": torch.from_numpy(x.astype(np.float32)), "glance": glance}
    return Trace.from_columns(columns, num_glances=glances)


BEFORE = {"cat": 0.5, "dog": 0.3, "bird": 0.4, "fox": 0.3, "hen": 0.4}
NOW = {"cat": 1.1, "dog": 0.05, "bird": 0.4, "hen": 0.4, "eel": 0.3}


@pytest.fixture(scope="module", params=["channel", "decoded"])
def changed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three weeks and one more: cats come more often, dogs less, foxes not at all, eels are new.

    Birds look otherwise; hens stay as they were.
    """
    trace = Trace.concat([year(504, 1, BEFORE, {}), year(168, 2, NOW, {"bird": 0.5})])
    options = {} if request.param == "channel" else {"channel": None}
    path = tmp_path_factory.mktemp("news") / "room"
    with Memory(path, sketcher=Sketcher(dim=128, channel=options.get("channel", True))) as m:
        m.add(trace, time=np.arange(672) * HOUR)
        m.fit_prior()
        yield m


def test_every_planted_change_is_named_and_nothing_else(changed: Memory) -> None:
    found = recall.what_was_new(changed, moment(504))
    assert dict(zip(found["module"], found["what"], strict=True)) == {
        "eel": "first seen",
        "cat": "more often",
        "dog": "less often",
        "fox": "no longer seen",
        "bird": "looks otherwise",
        "all": "glances are otherwise",
    }
    assert found["module"][0] == "eel"  # facts first
    assert all(p <= 0.05 for p in found["p_value"][1:])
    # Six rates, the whole, and looks of all but eels and foxes, which one window lacks.
    assert found.notes[-1].startswith("11 tests")
    assert "days dealt out anew" in found.notes[-1]


def test_rates_are_those_of_the_glances(changed: Memory) -> None:
    found = recall.what_was_new(changed, moment(504))
    row = {r["module"]: r for r in found}
    for name in ("cat", "dog", "fox", "eel"):
        before = recall.count(changed, name, until=moment(504))["estimate"][0] / 504
        now = recall.count(changed, name, since=moment(504))["estimate"][0] / 168
        assert row[name]["before"] == pytest.approx(before)
        assert row[name]["now"] == pytest.approx(now)
        assert row[name]["estimate"] == pytest.approx(now - before)
        assert row[name]["low"] < row[name]["estimate"] < row[name]["high"]


def test_nine_of_ten_intervals_of_rates_hold_the_truth() -> None:
    """Days of unequal length, objects that come in groups: 600 pairs of windows."""
    held = []
    for seed in range(600):
        rng = np.random.default_rng([4, seed])
        first = np.arange(40) < 26
        weight = rng.integers(5, 20, 40).astype(float)
        mean = np.where(first, 0.4, 0.7) * rng.gamma(10.0, 0.1, 40)
        values = rng.poisson(weight * mean).astype(float)[:, None]
        change = Change("cat", Units(values, weight, first), True, {})
        before, now = change.rates
        held.append(abs(now - before - 0.3) < change.half_width)
    assert 0.863 < np.mean(held) < 0.937  # three deviations


def test_the_glances_that_show_it_do(changed: Memory) -> None:
    found = recall.what_was_new(changed, moment(504), show=5)
    row = {r["module"]: r for r in found}
    counts = changed.skeleton_counts()
    place = {int(i): n for n, i in enumerate(counts.ids)}
    for name, after in (("eel", True), ("cat", True), ("dog", False), ("fox", False)):
        number = counts.count(name)[[place[i] for i in row[name]["glances"]]]
        assert (
            (counts.time[[place[i] for i in row[name]["glances"]]] >= 504 * HOUR) == after
        ).all()
        assert number.min() >= np.sort(counts.count(name))[-30]
    # A bird that shows the change is larger than most of those before.
    _, records = changed.records()
    assert records is not None
    for glance in row["bird"]["glances"]:
        assert counts.time[place[glance]] >= 504 * HOUR
        seen = recall.unroll(changed, glance)
        values = seen.to_trace().objects("bird").attributes
        assert float(values.mean()) > 1.3


def test_nothing_is_named_where_nothing_changed(tmp_path: Any) -> None:
    """Of 60 quiet memories at level 0.2 at most 21 (0.1 % point of the binomial) say anything."""
    wrong = 0
    for seed in range(60):
        with keep(tmp_path / f"{seed}", scenes(96, 50 + seed), reservoir=20) as m:
            found = recall.what_was_new(m, moment(14), level=0.2, unit="hour", seed=seed)
            wrong += len(found) > 0
    assert wrong <= 21


def test_everything_lists_every_test(changed: Memory) -> None:
    found = recall.what_was_new(changed, moment(504), everything=True, show=0)
    rates = [r for r in found if not np.isnan(r["before"])]
    assert sorted(r["module"] for r in rates) == sorted({*BEFORE, *NOW})
    assert all(r["glances"] == [] for r in found)
    quiet = [r for r in found if r["module"] == "hen"]
    assert len(quiet) == 2
    assert all(r["p_value"] > 0.05 for r in quiet)
    only = recall.what_was_new(changed, moment(504), modules=["hen"], everything=True, looks=False)
    assert only["module"] == ["hen"]


def test_the_comparison_may_begin_later(changed: Memory) -> None:
    """Against last week alone, or with a filter, the counts are those of that week."""
    found = recall.what_was_new(
        changed, moment(504), before=moment(336), modules=["cat"], everything=True, unit="hour"
    )
    count = recall.count(changed, "cat", since=moment(336), until=moment(504))
    assert found["before"][0] == pytest.approx(count["share"][0])
    assert "168 glances compared with 168 before" in found.notes[0]


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """Each hypothesis is rejected iff Bonferroni rejects every set of hypotheses that holds it."""
    m = len(p_values)
    sets = [s for k in range(1, m + 1) for s in combinations(range(m), k)]
    naive = [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s)
        for i in range(m)
    ]
    np.testing.assert_allclose(_holm(p_values), naive)


def test_glances_whose_number_decides_get_the_unit(tmp_path: Any) -> None:
    """Days where they suffice, else hours, else glances."""
    with keep(tmp_path / "m", scenes(480, 1)) as m:  # five days of four glances an hour
        for since, unit in ((96, "hour"), (119, "glance")):
            said = recall.what_was_new(m, moment(since), looks=False).notes[-1]
            assert f"from {unit}s" in said


def test_every_glance_is_decoded_once_for_all_modules(
    changed: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    whole = Decoder.decode

    def counted(self: Decoder, sketches: Any) -> Any:
        decoded.append(len(sketches))
        return whole(self, sketches)

    monkeypatch.setattr(Decoder, "decode", counted)
    recall.what_was_new(changed, moment(504), unit="glance", show=0)
    assert sum(decoded) == (672 if changed.recipe.channel is None else 0)


def test_glances_that_are_left_in_rollups_only_are_counted_and_said(tmp_path: Any) -> None:
    trace = Trace.concat([year(336, 1, BEFORE, {}), year(168, 2, NOW, {})])
    with Memory(tmp_path / "room", sketcher=Sketcher(dim=128)) as m:
        m.add(trace, time=np.arange(504) * HOUR)
        whole = recall.what_was_new(m, moment(336), looks=False, everything=True, show=0)
        m.fade(now=504 * HOUR, policy="full for 15 days, roll-ups for ever")
        assert m.forgotten() > 100
        faded = recall.what_was_new(m, moment(336), looks=False, everything=True, show=0)
        assert {r["module"]: r["before"] for r in faded if r["module"] != "all"} == {
            r["module"]: r["before"] for r in whole if r["module"] != "all"
        }
        assert "they are counted" in " ".join(faded.notes)
        # A filter does not reach them, and says so.
        some = recall.what_was_new(m, moment(336), where="source is null", looks=False)
        assert "which no filter reaches" in " ".join(some.notes)


def test_refusals(changed: Memory, tmp_path: Any) -> None:
    with pytest.raises(NotRemembered, match=r"no glance is in the window, since 2001"):
        recall.what_was_new(changed, "2001-01-01T00:00Z")
    with pytest.raises(NotRemembered, match="no glance is before the window"):
        recall.what_was_new(changed, moment(0))
    with pytest.raises(NotRemembered, match="cow"):
        recall.what_was_new(changed, moment(504), modules=["cow"])
    with pytest.raises(TypeError, match=r"write \['cat'\]"):
        recall.what_was_new(changed, moment(504), modules="cat")
    with pytest.raises(ValueError, match="level is a probability"):
        recall.what_was_new(changed, moment(504), level=0)
    with pytest.raises(ValueError, match="at least 4 days before the window and in it, there are"):
        recall.what_was_new(changed, moment(648), unit="day")
    with pytest.raises(ValueError, match="unit"):
        recall.what_was_new(changed, moment(504), unit="month")
    with Memory(tmp_path / "bare", sketcher=Sketcher(dim=64), keep_skeletons=False) as m:
        t = Trace.from_objects([[Object("cat", [1.0])]] * 8)
        m.add(t, time=np.arange(8) * HOUR)
        with pytest.raises(ValueError, match=r"recall\.drift"):
            recall.what_was_new(m, moment(4))


def test_modules_that_cannot_be_decoded_are_said(tmp_path: Any) -> None:
    """More unknowns than numbers, no prior: rates are told, looks are not, as the notes say."""
    rng = np.random.default_rng(0)
    t = Trace.from_objects([[Object("cat", rng.standard_normal(100))] for _ in range(24)])
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=64), reservoir=0) as m:
        m.add(t, time=np.arange(24) * HOUR)
        found = recall.what_was_new(m, moment(12), everything=True, unit="glance")
    assert set(found["what"]) == {"less often", "glances are otherwise"}
    assert any("attributes of 1 module not compared" in n for n in found.notes)
