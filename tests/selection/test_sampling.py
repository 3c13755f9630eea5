"""The race is the published loop; its weights are unbiased; its limits are exact."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.selection import IWeS, Random, Selection
from recollect.selection.sampling import race, toss

RATES = np.array([1.0, 0.5, 0.25, 0.05, 0.0])


def published_loop(p: np.ndarray, k: int, generator: np.random.Generator) -> list[int]:
    """The loop as it is written: draw uniformly from what is left, accept with probability p."""
    left, taken = list(range(len(p))), []
    while len(taken) < k:
        i = left[generator.integers(len(left))]
        if generator.random() < p[i]:
            taken.append(i)
            left.remove(i)
    return taken


def chance_of(order: tuple[int, ...], p: np.ndarray) -> float:
    """Probability that the loop accepts exactly these rows in this order."""
    chance, rest = 1.0, p.sum()
    for i in order:
        chance, rest = chance * p[i] / rest, rest - p[i]
    return float(chance)


@pytest.mark.parametrize("method", ["race", "loop"])
def test_race_and_loop_have_the_same_known_distribution(method: str) -> None:
    generator, runs = np.random.default_rng(0), 4000
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(runs):
        if method == "race":
            order = tuple(race(RATES, 2, generator)[0].tolist())
        else:
            order = tuple(published_loop(RATES, 2, generator))
        seen[order] = seen.get(order, 0) + 1
    for order in permutations(range(len(RATES)), 2):
        expected = chance_of(order, RATES)
        error = (expected * (1 - expected) / runs) ** 0.5
        assert abs(seen.get(order, 0) / runs - expected) <= 4 * error + 1e-12


def test_passes_count_how_often_the_loop_draws() -> None:
    p, generator = np.full(200, 0.1), np.random.default_rng(1)
    # While k << N are accepted, each pass accepts a tenth of the rows.
    passes = np.mean([race(p, 20, generator)[2] for _ in range(300)])
    exact = sum(1 / (0.1 * (200 - i)) for i in range(20))
    assert passes == pytest.approx(exact, rel=0.05)


def within_three_errors(estimates: np.ndarray, truth: float) -> bool:
    return abs(estimates.mean() - truth) < 3 * estimates.std(ddof=1) / len(estimates) ** 0.5


@pytest.mark.parametrize("k", [None, 20])
def test_totals_are_unbiased_and_so_is_their_error(k: int | None) -> None:
    """Horvitz and Thompson: within 3 standard errors of 1,000 repetitions."""
    draws = np.random.default_rng(2)
    p = draws.dirichlet(np.ones(5) / 8, 300)
    loss = draws.exponential(size=300) * (1 - p.max(1))
    strategy = IWeS("entropy", weights="exact")
    chosen = [strategy.select(k, probabilities=p, seed=s) for s in range(1000)]
    found = np.array([s.total(loss[s.indices]) for s in chosen])  # (runs, 2)
    assert within_three_errors(found[:, 0], loss.sum())
    assert within_three_errors((found[:, 0] - loss.sum()) ** 2 - found[:, 1] ** 2, 0)
    means = np.array([s.mean(loss[s.indices])[0] for s in chosen])
    np.testing.assert_allclose(means, found[:, 0] / 300)
    # Weights are what they are for: the same sum, without the selection's help.
    weighted = np.array([np.sum(s.weights * loss[s.indices]) for s in chosen])
    np.testing.assert_allclose(weighted, found[:, 0])
    plain = np.mean([loss[s.indices].mean() for s in chosen])
    assert plain > 1.2 * loss.mean()


def test_published_weights_of_a_full_batch_are_only_proportional() -> None:
    """Why inclusion is kept: 1/p does not sum to the pool when the batch has a fixed size."""
    p = np.random.default_rng(3).dirichlet(np.ones(4), 200)
    strategy = IWeS("entropy", weights="inverse")
    chosen = [strategy.select(15, probabilities=p, seed=s) for s in range(300)]
    totals = np.array([s.total(np.ones(15))[0] for s in chosen])
    assert within_three_errors(totals, 200)
    assert not within_three_errors(np.array([s.weights.sum() for s in chosen]), 200)


def test_the_mean_over_seeds_converges() -> None:
    p = np.random.default_rng(4).dirichlet(np.ones(3), 100)
    strategy = IWeS("entropy")
    errors = []
    for runs in (10, 1000):
        found = [strategy.select(10, probabilities=p, seed=s) for s in range(runs)]
        errors.append(abs(np.mean([s.total(np.ones(10))[0] for s in found]) - 100))
    assert errors[1] < errors[0]
    assert errors[1] < 5


def test_tosses_one_by_one_are_tosses_at_once() -> None:
    p = np.random.default_rng(5).random(50)
    together = toss(p, np.random.default_rng(6))
    generator = np.random.default_rng(6)
    apart = [i for i in range(50) if len(toss(p[i : i + 1], generator))]
    assert apart == together.tolist()


def test_probability_one_keeps_everything_with_weight_one() -> None:
    certain = np.full((7, 2), 0.5)  # entropy 1 everywhere
    for weights in ("capped", "inverse", "exact", "ones"):
        for k in (None, 7):
            s = IWeS("entropy", weights=weights).select(k, probabilities=certain)
            assert sorted(s.indices.tolist()) == list(range(7))
            np.testing.assert_array_equal(s.weights, np.ones(7))
            assert s.total(np.arange(7.0)[s.indices]) == (21.0, 0.0)


def test_the_whole_pool_has_weight_one_whatever_the_probabilities() -> None:
    p = np.random.default_rng(7).dirichlet(np.ones(3), 12)
    s = IWeS("entropy", weights="exact").select(12, probabilities=p)
    np.testing.assert_array_equal(s.weights, np.ones(12))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_a_race_takes_k_different_possible_rows(data: st.DataObject, n: int, seed: int) -> None:
    numbers = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    p = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)))
    able = int((p > 0).sum())
    if able == 0:
        return
    k = data.draw(st.integers(1, able))
    rows, inclusion, passes = race(p, k, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == k
    assert (p[rows] > 0).all()
    assert ((inclusion > 0) & (inclusion <= 1)).all()
    assert passes > 0
    again = race(p, k, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows, again[0])


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, 20), before=st.integers(0, 10), seed=st.integers(0, 2**32))
def test_rows_chosen_before_stay_out(k: int, before: int, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(3), 30)
    out = np.random.default_rng(seed).permutation(30)[:before]
    for strategy in (IWeS("entropy"), Random()):
        s = strategy.select(k, probabilities=p, chosen=out, seed=seed)
        assert not set(s.indices.tolist()) & set(out.tolist())
        assert len(s) == len(set(s.indices.tolist())) == k
        assert s.pool_size == 30 - before


def test_impossible_races_are_refused() -> None:
    g = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"2 rows are wanted but only 1 of 3 can be accepted"):
        race([0.0, 0.3, 0.0], 2, g)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        race([0.5, 1.5], 1, g)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        toss([np.nan], g)
    with pytest.raises(ValueError, match=r"shape \(rows,\), got \(1, 1\)"):
        toss([[0.5]], g)
    with pytest.raises(TypeError, match="k must be an integer"):
        race([0.5], 1.0, g)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        race([0.5], 0, g)


def test_estimates_need_chance_and_fitting_values() -> None:
    s = Selection(np.array([1, 2]), np.ones(2), None, None, 5)
    with pytest.raises(ValueError, match="chosen without chance"):
        s.total([1.0, 2.0])
    s = Random().select(2, labels=[0, 1, 0])
    with pytest.raises(ValueError, match=r"one for each chosen row, shape \(2,\), got \(3,\)"):
        s.mean([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="chosen without chance"):
        s.then(s).total(np.ones(4))
