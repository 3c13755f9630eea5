"""Retention policies: read, written, refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.memory.clock import HOUR
from recollect.memory.retention import FULL, ROLL_UPS, SKELETONS, Retention, Stage

UNITS = {"hour": 1, "day": 24, "week": 168, "month": 720, "year": 8760}


@st.composite
def policies(draw):
    """Words of a policy and its stages, made apart from each other."""
    keeps = draw(st.lists(st.integers(1, 4096), min_size=0, max_size=3, unique=True))
    keeps = sorted(keeps, reverse=True)
    keeps = [FULL, *keeps] if draw(st.booleans()) or not keeps else keeps
    keeps += draw(st.sampled_from([[], [SKELETONS], [ROLL_UPS], [SKELETONS, ROLL_UPS]]))
    words, stages, age = [], [], 0
    for keep in keeps:
        words_of = {FULL: "full", SKELETONS: "skeletons", ROLL_UPS: "roll-ups"}
        what = words_of.get(keep, f"{keep} dims")
        if len(stages) == len(keeps) - 1:
            words.append(f"{what} for ever")
            stages.append(Stage(keep, None))
            break
        unit = draw(st.sampled_from(sorted(UNITS)))
        many = age // UNITS[unit] + draw(st.integers(1, 50))
        age = many * UNITS[unit]
        plural = draw(st.sampled_from(["", "s"]))
        keep_word = draw(st.sampled_from(["", "Keep ", "keep  "]))
        words.append(f"{keep_word}{what} for {many} {unit}{plural}")
        stages.append(Stage(keep, age))
    return " ,".join(words), tuple(stages)


@given(policies())
def test_words_and_stages_go_round(made):
    words, stages = made
    policy = Retention(words)
    assert policy.stages == stages
    assert Retention(str(policy)) == policy
    assert hash(Retention(str(policy))) == hash(policy)


@given(policies(), st.lists(st.integers(0, 100_000), min_size=1, max_size=5))
def test_what_is_kept_is_that_of_the_first_stage_that_has_not_ended(made, ages):
    policy = Retention(made[0])
    for age, kept in zip(ages, policy.kept(ages, dim=512).tolist(), strict=True):
        stage = next(s for s in policy.stages if s.hours is None or age < s.hours)
        assert kept == min(stage.keep, 512)
    # Seen from a whole hour, the cuts say the same of every age in whole hours.
    now = 200_000 * HOUR
    for age in ages:
        keep = min(policy.stages[0].keep, 512)
        for moment, left in policy.cuts(now):
            if now - age * HOUR < moment + HOUR:  # the hour that ends at that age
                keep = min(left, 512)
        assert keep <= policy.kept([age], 512)[0]


def test_cuts_are_whole_hours():
    cuts = Retention("full for 2 hours, 8 dims for 5 hours, roll-ups for ever").cuts(
        10 * HOUR + HOUR // 2
    )
    assert cuts == [(8 * HOUR, 8), (5 * HOUR, ROLL_UPS)]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("256 dims for 30 days, full for ever", "would grow data: 'full for ever' keeps no less"),
        ("64 dims for a day, 64 dims for ever", "would grow data"),
        ("roll-ups for a day, skeletons for ever", "would grow data"),
        ("full for 30 days, 256 dims for 10 days, roll-ups for ever", "ends before .* ages"),
        ("full for a week, 8 dims for 7 days, roll-ups for ever", "ends before"),
        ("full for 30 days", "does not say what is kept after 30 days"),
        ("full for ever, roll-ups for ever", "never ends, so 'roll-ups for ever' never begins"),
        ("keep everything", "cannot be read at 'keep everything'"),
        ("", "cannot be read at ''"),
        ("full for 30 days, , roll-ups for ever", "cannot be read at ''"),
        ("full for -3 days, roll-ups for ever", "cannot be read"),
        ("0 dims for ever", "write 'skeletons for ...'"),
        ("full for 0 days, roll-ups for ever", "lasts no time"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(words, match):
    with pytest.raises(ValueError, match=match):
        Retention(words)


def test_other_bad_input():
    with pytest.raises(TypeError, match="retention policy is text such as 'full for 30 days"):
        Retention(30)
    policy = Retention("full for a day, 256 dims for ever")
    policy.check_dim(256)
    with pytest.raises(ValueError, match="would grow data: '256 dims for ever' asks for 256"):
        policy.check_dim(128)
    assert policy != "keep full for 1 day, 256 dims for ever"
    assert repr(policy) == "Retention('keep full for 1 day, 256 dims for ever')"
