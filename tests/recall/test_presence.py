"""How many events happened, when each has its own chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.recall.presence import at_least_one, misread, quantiles, told_by_windows
from recollect.recall.windows import Windows

chances = st.lists(st.floats(0, 1), max_size=8)


def one_window(number: int) -> Windows:
    return Windows(["all"], np.zeros(number, dtype=np.int64))


@given(chances)
def test_the_interval_leaves_out_at_most_five_percent_on_each_side(chance: list[float]) -> None:
    low, high = quantiles(np.array(chance), one_window(len(chance)))
    mass = np.zeros(len(chance) + 1)
    for happened in product((0, 1), repeat=len(chance)):
        mass[sum(happened)] += np.prod(
            [p if h else 1 - p for p, h in zip(chance, happened, strict=True)]
        )
    assert mass[: int(low[0])].sum() <= 0.05 + 1e-4
    assert mass[int(high[0]) + 1 :].sum() <= 0.05 + 1e-4
    # and no narrower one would do: the ends themselves are needed
    assert mass[: int(low[0]) + 1].sum() >= 0.05 - 1e-4
    assert mass[int(high[0]) :].sum() >= 0.05 - 1e-4


def test_what_is_certain_has_no_bar() -> None:
    low, high = quantiles(np.array([1.0, 1.0, 0.0]), one_window(3))
    assert (low[0], high[0]) == (2.0, 2.0)


def test_many_events_go_over_into_the_normal_law() -> None:
    chance = np.random.default_rng(0).uniform(0.1, 0.9, 2600)
    few = quantiles(chance[:2000], one_window(2000))
    many = quantiles(chance, one_window(2600))
    half = 1.6449 * np.sqrt((chance * (1 - chance)).sum())
    assert many[1][0] - many[0][0] == pytest.approx(2 * half, abs=2)
    half = 1.6449 * np.sqrt((chance[:2000] * (1 - chance[:2000])).sum())
    assert few[1][0] - few[0][0] == pytest.approx(2 * half, abs=2)


def test_a_chance_follows_the_estimate() -> None:
    chance = at_least_one([0.0, 0.5, 1.0, 7.0], [0.25] * 4)
    assert np.all(np.diff(chance) > 0)
    assert chance[1] == pytest.approx(0.5)
    assert at_least_one([3.0], [np.inf]).tolist() == [0.5]
    assert at_least_one([0.0, 1.0], [0.0, 0.0]).tolist() == [0.0, 1.0]


def test_chances_are_right_on_average() -> None:
    """Numbers drawn, observed with noise, estimated as a linear decoder would."""
    rng = np.random.default_rng(0)
    for rate, noise in ((0.05, 0.3), (0.3, 0.5), (0.8, 0.4)):
        numbers = rng.poisson(rate, 20_000)
        observed = numbers + rng.normal(0, noise, 20_000)
        kept = rate / (rate + noise**2)
        estimate, std = rate + kept * (observed - rate), np.sqrt(rate * (1 - kept))
        chance = at_least_one(estimate, np.full(20_000, std), seen=rng.poisson(rate, 2000))
        assert chance.mean() == pytest.approx((numbers > 0).mean(), abs=0.01)
        for low in np.arange(0, 1, 0.2):
            mine = (chance >= low) & (chance < low + 0.2)
            if mine.sum() > 300:
                assert (numbers[mine] > 0).mean() == pytest.approx(chance[mine].mean(), abs=0.05)


def test_where_nothing_was_told_the_prior_stands() -> None:
    seen = [0] * 90 + [1] * 10
    assert at_least_one([0.1], [np.inf], seen)[0] == pytest.approx(0.1, abs=0.02)
    assert at_least_one([0.1], [0.3], seen)[0] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("rates", ["alike", "unlike"])
def test_windows_of_any_rate_hold_what_they_say(rates: str) -> None:
    """Noisy readings of events in windows whose rates are alike, or anything between 0 and 1."""
    rng = np.random.default_rng(1)
    windows, size = 300, 40
    rate = np.full(windows, 0.3) if rates == "alike" else rng.beta(0.6, 1.4, windows)
    happened = rng.random((windows, size)) < rate[:, None]
    noise = 0.6
    reading = happened + noise * rng.standard_normal(happened.shape)
    ratio = np.exp((reading - 0.5) / noise**2) * 0.3 / 0.7
    chance = (ratio / (1 + ratio)).reshape(-1)
    where = Windows(list(range(windows)), np.repeat(np.arange(windows), size))
    truth = happened.sum(1)
    estimate, low, high = told_by_windows(chance, 0.3, 0.0, where)
    assert 0.87 <= np.mean((low <= truth) & (truth <= high)) <= 0.985
    error, naive = np.abs(estimate - truth), np.abs(where.total(chance) - truth)
    if rates == "unlike":  # going by the usual rate is worse, and its bars are wrong
        assert error.mean() < 0.75 * naive.mean()
        low, high = quantiles(chance, where)
        assert np.mean((low <= truth) & (truth <= high)) < 0.75
    else:
        # The price of not knowing that: about as much as a free rate costs.
        assert error.mean() < 1.5 * naive.mean()


def test_decisions_that_go_wrong_widen_the_interval() -> None:
    chance = np.array([1.0] * 30 + [0.0] * 70)
    one = one_window(100)
    assert [float(x[0]) for x in told_by_windows(chance, 0.3, 0.0, one)] == [30.0, 30.0, 30.0]
    estimate, low, high = told_by_windows(chance, 0.3, 0.03, one)
    assert estimate[0] == pytest.approx(30, abs=1.5)
    assert low[0] < 30 < high[0]
    # Of 100 such decisions three go wrong: 90 % of the time by at most four either way.
    assert high[0] - low[0] <= 9
    assert misread([0.001] * 99, [False] * 98 + [True]) == pytest.approx(0.015)
    assert misread([0.5] * 9, [True] * 9) == 0.5  # nothing was decided


def test_a_large_window_goes_over_into_the_normal_law() -> None:
    chance = np.random.default_rng(2).uniform(0.2, 0.6, 900)
    found = told_by_windows(chance, 0.4, 0.0, one_window(900))
    assert found[1][0] < found[0][0] < found[2][0]
    assert found[0][0] == pytest.approx(chance.sum(), rel=0.05)
    assert told_by_windows(chance[:0], 0.4, 0.0, Windows(["none"], np.zeros(0, int)))[2][0] == 0
