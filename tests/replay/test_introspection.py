"""The introspective sampler and the ring: order, pivots, the write head, n steps, refusals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay import MODES, IntrospectiveSampler, TransitionRing


def phase(mode, surprise, batch, pivots, ends=None, **options):
    sampler = IntrospectiveSampler(batch, pivots, mode, **options)
    sampler.refresh(surprise, ends)
    return [sampler.sample().tolist() for _ in range(pivots)]


distinct = st.integers(5, 40).flatmap(
    lambda n: st.permutations(range(n)).map(lambda p: np.array(p) - n / 3)
)


@given(distinct, st.integers(1, 5), st.integers(1, 60))
def test_pivots_by_falling_surprise_and_batches_backwards(surprise, batch, pivots):
    order = np.argsort(-np.abs(surprise), kind="stable")
    for j, found in enumerate(phase("ier", surprise, batch, pivots)):
        p = max(order[j % len(order)], batch - 1)
        if len(set(np.abs(surprise))) == len(surprise):
            assert found == list(range(p, p - batch, -1))
        assert found == list(range(found[0], found[0] - batch, -1))
        assert found[-1] >= 0


def test_each_mode_on_a_small_example() -> None:
    surprise = [0.0, 0.1, 0.9, 0.2, 0.3, 0.8, 0.4, 0.5]
    assert phase("ier", surprise, 3, 3) == [[2, 1, 0], [5, 4, 3], [7, 6, 5]]
    assert phase("forward", surprise, 3, 3) == [[2, 3, 4], [5, 6, 7], [5, 6, 7]]
    assert phase("rer", surprise, 3, 3) == [[7, 6, 5], [4, 3, 2], [1, 0, 7]]
    assert phase("oer", surprise, 3, 3) == [[2, 5, 7], [6, 4, 3], [1, 0, 2]]
    mixed = phase("uier", surprise, 3, 10)
    looks_back = [b == list(range(b[0], b[0] - 3, -1)) for b in mixed]
    assert all(looks_back[:7])
    assert not all(looks_back[7:])
    assert phase("uier", surprise, 3, 4, mix=1.0) == phase("ier", surprise, 3, 4)


def test_uniform_and_prioritised_have_their_frequencies() -> None:
    surprise = np.array([0.0, 1.0, 3.0, 0.5])
    for mode, chances in (("uer", np.ones(4)), ("per", (surprise + 0.01) ** 0.6)):
        found = np.concatenate(phase(mode, surprise, 4, 5000, seed=3))
        share = np.bincount(found, minlength=4) / len(found)
        np.testing.assert_allclose(share, chances / chances.sum(), atol=0.01)
    sampler = IntrospectiveSampler(4, 1, "per", beta=1.0)
    sampler.refresh(surprise)
    found = sampler.sample()
    expected = 1 / ((surprise + 0.01) ** 0.6)[found]
    np.testing.assert_allclose(sampler.weights, expected / expected.max())


def test_ties_fall_by_chance_and_by_seed() -> None:
    first = {phase("ier", np.ones(50), 1, 1, seed=s)[0][0] for s in range(40)}
    assert len(first) > 20
    assert phase("ier", np.ones(50), 1, 9, seed=5) == phase("ier", np.ones(50), 1, 9, seed=5)


@settings(deadline=None)
@given(distinct, st.integers(2, 6))
def test_pivots_keep_their_distance(surprise, gap):
    sampler = IntrospectiveSampler(1, 6, min_gap=gap)
    sampler.refresh(surprise)
    chosen = sampler._ranked
    apart = np.abs(chosen[:, None] - chosen[None]) + 99 * np.eye(len(chosen), dtype=int)
    assert apart.min() >= gap
    greedy: list[int] = []
    for p in np.argsort(-np.abs(surprise), kind="stable"):
        if all(abs(p - q) >= gap for q in greedy) and len(greedy) < 6:
            greedy.append(int(p))
    if len(set(np.abs(surprise))) == len(surprise):
        assert chosen.tolist() == greedy


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(1, 4), st.sampled_from(MODES), st.data())
def test_columns_do_not_mix(length, columns, batch, mode, data):
    batch = min(batch, length)
    surprise = np.random.default_rng(length).random((length, columns))
    for found in phase(mode, surprise, batch, 7, seed=1):
        assert len(found) == batch
        assert 0 <= min(found) <= max(found) < surprise.size
        if mode in ("ier", "forward", "rer"):
            assert len({i % columns for i in found}) == 1
            steps = {(b - a) // columns for a, b in pairwise(found)}
            assert steps <= ({1} if mode == "forward" else {-1, length - 1})


def test_look_backs_stop_where_the_episode_began() -> None:
    surprise, ends = np.zeros(9), np.zeros(9, bool)
    ends[[2, 6]] = True
    for p, expected in ((1, [1, 0]), (5, [5, 4, 3]), (8, [8, 7]), (6, [6, 5, 4, 3])):
        surprise[:] = 0
        surprise[p] = 1
        assert phase("ier", surprise, 4, 1, ends, respect_episodes=True) == [expected]
    pair = phase(
        "ier", np.stack([surprise, 2 * surprise], 1), 4, 1, np.stack([ends] * 2, 1),
        respect_episodes=True,
    )  # fmt: skip
    assert pair == [[13, 11, 9, 7]]


def test_a_phase_ends() -> None:
    sampler = IntrospectiveSampler(2, 2)
    assert sampler.remaining == 0
    with pytest.raises(RuntimeError, match=r"sample\(\) before refresh\(\)"):
        sampler.sample()
    sampler.refresh(np.arange(5))
    first = sampler.sample().tolist()
    assert sampler.remaining == 1
    sampler.sample()
    with pytest.raises(RuntimeError, match="all 2 batches of the phase are used"):
        sampler.sample()
    sampler.auto = True
    assert sampler.sample().tolist() == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntrospectiveSampler(0, 1), "batch_size must be at least 1"),
        (lambda: IntrospectiveSampler(1, 0), "num_pivots must be at least 1"),
        (lambda: IntrospectiveSampler(1, 1, "best"), "mode must be one of 'ier'.*got 'best'"),
        (lambda: IntrospectiveSampler(1, 1, mix=1.2), r"mix must be in \[0, 1\]"),
        (lambda: IntrospectiveSampler(1, 1, min_gap=0), "min_gap must be at least 1"),
        (lambda: IntrospectiveSampler(1, 1, alpha=-1.0), "alpha and beta must be at least 0"),
        (lambda: phase("ier", np.ones(3), 4, 1), "a batch of 4 needs .* got 3"),
        (lambda: phase("ier", [1.0, np.nan], 1, 1), "finite, 1 of 2 numbers are not"),
        (lambda: phase("ier", np.ones((2, 2, 2)), 1, 1), r"shape \(n,\) or \(n, E\)"),
        (
            lambda: phase("ier", np.ones(3), 1, 1, respect_episodes=True),
            r"ends of shape \(3,\), got None",
        ),
        (lambda: TransitionRing(0, ()), "capacity must be at least 1"),
        (lambda: TransitionRing(1, (), num_steps=0), "num_steps must be at least 1"),
        (lambda: TransitionRing(1, (), gamma=1.1), r"gamma must be in \[0, 1\]"),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@given(
    capacity=st.integers(1, 12),
    rows=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("ctx")), min_size=1, max_size=40),
    steps=st.integers(1, 5),
)
def test_the_ring_is_the_end_of_the_list(capacity, rows, steps):
    """Twin: a plain list; n-step sums by definition."""
    ring = TransitionRing(capacity, (), np.int64, gamma=0.5, num_steps=steps)
    for i, (reward, kind) in enumerate(rows):
        ring.add(i, i % 3, reward, i + 100, kind == "t", kind == "x")
    kept = list(enumerate(rows))[-capacity:]
    assert len(ring) == len(kept)
    got = ring.gather(np.arange(len(kept)))
    assert got.observations.tolist() == [i for i, _ in kept]
    assert got.actions.tolist() == [i % 3 for i, _ in kept]
    assert ring.ends.tolist() == [kind != "c" for _, (_, kind) in kept]
    for first in range(len(kept)):
        total, discount, last = 0.0, 1.0, first
        for m in range(steps):
            last = first + m
            total += discount * kept[last][1][0]
            discount *= 0.5
            if kept[last][1][1] != "c" or last == len(kept) - 1:
                break
        assert got.rewards[first] == pytest.approx(total)
        assert got.following[first] == kept[last][0] + 100
        assert got.discounts[first] == (0 if kept[last][1][1] == "t" else discount)


def test_looking_back_never_crosses_the_write_head() -> None:
    ring = TransitionRing(10, (), np.int64)
    sampler = IntrospectiveSampler(4, 10)
    for i in range(27):
        ring.add(i, 0, 0.0, i + 1, False)
        if i >= 4:
            sampler.refresh(np.random.default_rng(i).random(len(ring)))
            for _ in range(10):
                seen = ring.gather(sampler.sample()).observations
                assert (np.diff(seen) == -1).all()
                assert seen.min() > i - 10
    with pytest.raises(IndexError, match=r"indices must be in 0 .. 9 \(0: the oldest stored\)"):
        ring.gather([10])
