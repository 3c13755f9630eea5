"""Hindsight: what was reached stands in for the goal, and then tasks with goals are learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recollect.replay import IntrospectiveSampler, TransitionRing, hindsight
from recollect.studies import dqn, goals


@given(st.integers(1, 30), st.integers(1, 6), st.sampled_from(["walks", "future", "final"]))
def test_goals_lie_in_the_future_of_the_same_episode(n: int, k: int, strategy: str) -> None:
    rows, ends = hindsight(n, k, strategy, generator=np.random.default_rng(n))
    assert rows.shape == ends.shape
    assert (rows >= 0).all()
    assert (rows <= ends).all()
    assert (ends < n).all()
    again = hindsight(n, k, strategy, generator=np.random.default_rng(n))
    assert np.array_equal(again[1], ends)


def test_walks_lead_step_by_step_to_their_end() -> None:
    rows, ends = hindsight(9, 5, "walks", generator=np.random.default_rng(1))
    first = np.flatnonzero(rows == 0)
    assert len(first) == 5
    for a, b in zip(first, [*first[1:], len(rows)], strict=True):
        assert rows[a:b].tolist() == list(range(int(ends[a]) + 1))
        assert (ends[a:b] == ends[a]).all()


def test_future_goals_are_uniform_over_what_is_left() -> None:
    rows, ends = hindsight(4, 6000, "future", generator=np.random.default_rng(0))
    for row in range(4):
        share = np.bincount(ends[rows == row], minlength=4)[row:] / 6000
        assert share == pytest.approx(np.full(4 - row, 1 / (4 - row)), abs=0.03)


def test_what_makes_no_sense_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="length must be at least 1"):
        hindsight(0, generator=rng)
    with pytest.raises(ValueError, match="num_goals must be at least 1"):
        hindsight(3, 0, generator=rng)
    with pytest.raises(ValueError, match="strategy must be one of 'walks', 'future', 'final'"):
        hindsight(3, strategy="past", generator=rng)


def test_hindsight_learns_to_flip_bits_where_chance_does_not() -> None:
    task = goals.flipping(5)
    names = ("uniform", "hindsight (future), uniform", "hindsight (walks), uniform")
    solved = {n: np.mean([goals.run(task, n, s)[0] for s in range(3)]) for n in names}
    assert solved[names[1]] > solved[names[0]] + 0.1
    assert solved[names[2]] > solved[names[0]] + 0.1
    assert goals.run(task, names[2], 1) == goals.run(task, names[2], 1)


def test_a_perfect_table_reaches_every_goal() -> None:
    task = goals.flipping(4)
    Q = np.zeros((256, 4))
    for s in range(16):
        for g in range(16):
            Q[s * 16 + g] = [(s ^ g) >> b & 1 for b in range(4)]
    assert goals.arrived(Q, task, np.random.default_rng(0)) == 1.0
    assert goals.arrived(-Q, task, np.random.default_rng(0)) < 0.5


def test_networks_side_by_side_are_networks_alone() -> None:
    three = dqn.SideBySide(3, 4, 2)
    x = torch.randn(3, 5, 4)
    out = three(x)
    W1, b1, W2, b2, W3, b3 = three.tensors
    for s in range(3):
        h = torch.relu(x[s] @ W1[s] + b1[s])
        assert torch.allclose(torch.relu(h @ W2[s] + b2[s]) @ W3[s] + b3[s], out[s], atol=1e-5)
    assert torch.equal(dqn.SideBySide(1, 4, 2)(x[:1]), three(x)[:1]) or torch.allclose(
        dqn.SideBySide(1, 4, 2)(x[:1]), out[:1], atol=1e-6
    )


def test_one_seed_s_large_gradient_does_not_shrink_another_s() -> None:
    rng = np.random.default_rng(0)
    seen = rng.random((8, 2, 2, 4)) * np.array([1, 1e4])[:, None, None]  # (time, seed, 2, 4)
    samplers = [IntrospectiveSampler(4, 1, "uer") for _ in range(2)]
    found = []
    for count in (1, 2):
        ring = TransitionRing(8 * count, (4,))
        for x, then in seen[:, :count].reshape(-1, 2, 4):
            ring.add(x, 0, 1.0, then, False)
        rows = np.array([[0, 5, 2, 3], [7, 1, 1, 4]])[:count]
        batch = dqn._gathered(ring, rows)
        for s in range(count):
            np.testing.assert_allclose(batch.observations[s], seen[rows[s], s, 0], rtol=1e-6)
            np.testing.assert_allclose(batch.following[s], seen[rows[s], s, 1], rtol=1e-6)
        online, target = dqn.SideBySide(count, 4, 2), dqn.SideBySide(count, 4, 2)
        optimizer = torch.optim.SGD(online.parameters(), 0.0)
        dqn._update(ring, rows, samplers[:count], online, target, optimizer)
        found.append([p.grad for p in online.parameters()])
    alone, both = found
    for a, b in zip(alone, both, strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-6)
    assert torch.stack([(b[1] ** 2).sum() for b in both]).sum().sqrt() == pytest.approx(
        10, rel=1e-3
    )


def test_a_seed_learns_the_same_in_any_company() -> None:
    pytest.importorskip("gymnasium")
    keys = {"steps": 1100, "updates": 3, "batch": 8, "mode": "uier"}
    alone, both = (dqn.train(seeds=n, **keys) for n in (1, 2))  # type: ignore[arg-type]
    assert both.returns[0] == pytest.approx(alone.returns[0])
    assert both.surprise[0] == pytest.approx(alone.surprise[0], rel=1e-3)
    assert 0 < both.distinct <= 1
    assert 0 < both.ends < 0.5
