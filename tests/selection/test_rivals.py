"""Rivals agree with the algorithms as written in their papers, and keep their guarantees."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.selection import Badge, FacilityLocation, IWeS, KCenter, Random, Uncertain


def pool(n: int = 30, c: int = 4, d: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.dirichlet(np.ones(c), n), draws.standard_normal((n, d))


ALL = [Random(), Uncertain(), Uncertain("entropy"), Uncertain("least_confidence"), Badge(),
       KCenter(), FacilityLocation(), IWeS("entropy"), IWeS()]  # fmt: skip


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_every_strategy_is_called_alike_and_repeats_itself(strategy: object) -> None:
    p, x = pool()
    second, y = pool(seed=1)[0], np.arange(30) % 4
    given_ = {"probabilities": p, "second": second, "labels": y, "features": x, "chosen": [3, 7]}
    once = strategy.select(28, seed=5, **given_)  # type: ignore[attr-defined]
    again = strategy.select(28, seed=5, **given_)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(once.indices, again.indices)
    assert sorted(once.indices.tolist()) == sorted(set(range(30)) - {3, 7})  # all that is left
    assert once.indices.dtype == np.int64
    assert once.pool_size == 28
    tensors = {k: torch.as_tensor(v) for k, v in given_.items()}
    same = strategy.select(5, seed=5, **tensors)  # type: ignore[attr-defined]
    fewer = strategy.select(5, seed=5, **given_)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(same.indices, fewer.indices)
    with pytest.raises(ValueError, match="k = 29 is more than the 28 rows that are left of 30"):
        strategy.select(29, **given_)  # type: ignore[attr-defined]


@pytest.mark.parametrize("measure", ["margin", "entropy", "least_confidence"])
def test_doubt_is_sorted(measure: str) -> None:
    p, _ = pool()
    ordered = np.sort(p, 1)
    doubt = {
        "margin": ordered[:, -2] - ordered[:, -1],
        "entropy": -(p * np.log(p)).sum(1),
        "least_confidence": -p.max(1),
    }[measure]
    doubt[4] = -np.inf
    found = Uncertain(measure).select(6, probabilities=p, chosen=[4])
    np.testing.assert_array_equal(found.indices, np.argsort(-doubt)[:6])
    assert found.inclusion is None


def test_ties_are_broken_by_the_seed_and_evenly() -> None:
    p = np.full((6, 2), 0.5)
    seen = np.zeros(6)
    for seed in range(600):
        seen[Uncertain().select(2, probabilities=p, seed=seed).indices] += 1
    assert (np.abs(seen - 200) < 4 * (600 * 2 / 9) ** 0.5).all()


def test_k_center_is_farthest_first() -> None:
    _, x = pool()
    found = KCenter().select(10, features=x, chosen=[2, 9]).indices
    centres = [2, 9]
    for j in found:
        distance = np.linalg.norm(x[:, None] - x[centres], axis=2).min(1)
        assert distance[j] == pytest.approx(distance.max())
        centres.append(int(j))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), k=st.integers(1, 3))
def test_k_center_is_within_twice_the_best_radius(seed: int, k: int) -> None:
    _, x = pool(n=9, seed=seed)
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    best = min(apart[:, list(s)].min(1).max() for s in combinations(range(9), k))
    found = KCenter().select(k, features=x, seed=seed).indices
    assert apart[:, found].min(1).max() <= 2 * best + 1e-9


def coverage(x: np.ndarray, rows: list[int]) -> float:
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(((1 + u @ u[rows].T) / 2).max(1).sum()) if rows else 0.0


@pytest.mark.parametrize("chosen", [[], [1, 5]])
def test_lazy_greedy_is_greedy(chosen: list[int]) -> None:
    _, x = pool(n=60)
    found = FacilityLocation().select(12, features=x, chosen=chosen).indices
    have = list(chosen)
    for j in found:
        best = max(coverage(x, [*have, i]) for i in range(60) if i not in have)
        assert coverage(x, [*have, int(j)]) == pytest.approx(best)
        have.append(int(j))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), k=st.integers(1, 3))
def test_facility_location_is_within_its_bound_of_the_best(seed: int, k: int) -> None:
    _, x = pool(n=9, seed=seed)
    best = max(coverage(x, list(s)) for s in combinations(range(9), k))
    found = FacilityLocation().select(k, features=x).indices.tolist()
    assert coverage(x, found) >= (1 - (1 - 1 / k) ** k) * best - 1e-9


def test_facility_location_ends_when_all_gains_tie() -> None:
    x = np.ones((40, 2))
    assert len(set(FacilityLocation().select(39, features=x).indices.tolist())) == 39


def test_a_sample_of_targets_stands_for_the_pool() -> None:
    _, x = pool(n=400)
    few = FacilityLocation(targets=200).select(10, features=x, seed=1).indices.tolist()
    every = FacilityLocation().select(10, features=x).indices.tolist()
    assert coverage(x, few) > 0.99 * coverage(x, every)


def badge_as_written(
    p: np.ndarray, h: np.ndarray, k: int, generator: np.random.Generator
) -> list[int]:
    """k-means++ on gradients that are written out, (N, C d)."""
    a = p - np.eye(p.shape[1])[p.argmax(1)]
    g = (a[:, :, None] * h[:, None, :]).reshape(len(p), -1)
    rows = [int(np.argmax((g**2).sum(1)))]
    while len(rows) < k:
        distance = ((g[:, None] - g[rows]) ** 2).sum(2).min(1)
        distance[rows] = 0
        draw = generator.random() * distance.sum()
        rows.append(int(np.searchsorted(distance.cumsum(), draw, "right")))
    return rows


def test_badge_never_writes_out_what_it_draws_by() -> None:
    p, h = pool()
    for seed in range(20):
        found = Badge().select(8, probabilities=p, features=h, seed=seed).indices.tolist()
        assert found == badge_as_written(p, h, 8, np.random.default_rng(seed))


def test_badge_takes_the_rest_when_all_gradients_are_equal() -> None:
    p, h = np.full((5, 2), 0.5), np.ones((5, 2))
    found = Badge().select(5, probabilities=p, features=h).indices
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4]


def test_random_is_uniform() -> None:
    seen = np.zeros(8)
    for seed in range(800):
        seen[Random().select(2, labels=np.zeros(8, int), seed=seed).indices] += 1
    assert (np.abs(seen - 200) < 4 * (800 * 3 / 16) ** 0.5).all()


def test_what_rivals_refuse() -> None:
    p, x = pool(n=4)
    with pytest.raises(ValueError, match="nothing says how many rows there are"):
        Random().select(1)
    with pytest.raises(ValueError, match="Uncertain needs probabilities: give them"):
        Uncertain().select(1, features=np.ones((3, 2)))
    with pytest.raises(ValueError, match="Badge needs features and probabilities"):
        Badge().select(1, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="measure must be one of 'margin'"):
        Uncertain("doubt")
    with pytest.raises(ValueError, match="differ in rows: 4, 3"):
        Badge().select(1, probabilities=p, features=x[:3])
    with pytest.raises(ValueError, match=r"features must have the shape .* got \(4,\)"):
        KCenter().select(1, features=np.ones(4))
    with pytest.raises(ValueError, match="features must be finite"):
        KCenter().select(1, features=[[np.nan], [1.0]])
    with pytest.raises(ValueError, match="row 1 of features is zero and has no direction"):
        FacilityLocation().select(1, features=[[1.0], [0.0]])
    with pytest.raises(ValueError, match="targets must be at least 1"):
        FacilityLocation(targets=0)
