"""Q-Rex: the twin, exactness on a corridor, walking through environments, refusals."""

from __future__ import annotations

from itertools import chain, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay import Diverged, QRex, ReverseBufferSampler, Transitions


def wandering(length, states, actions, seed=0):
    """Random transitions, in episodes."""
    rng = np.random.default_rng(seed)
    ends = rng.random(length) < 0.1
    return Transitions(
        rng.integers(states, size=length),
        rng.integers(actions, size=length),
        rng.normal(size=length),
        rng.integers(states, size=length),
        ends & (rng.random(length) < 0.5),
        ends,
    )


def naive(t, shape, gamma, step, buffers, per_target, reuse):
    """The algorithm as it is written down."""
    Q = np.zeros(shape)
    for _ in range(reuse):
        for first in range(0, len(buffers), per_target):
            goal = Q.copy()
            for buffer in buffers[first : first + per_target]:
                for i in reversed(buffer):
                    s, a = t.states[i], t.actions[i]
                    bootstrap = 0 if t.terminated[i] else gamma * goal[t.following[i]].max()
                    Q[s, a] += step * (t.rewards[i] + bootstrap - Q[s, a])
    return Q


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 12), st.integers(0, 4), st.integers(1, 5), st.integers(1, 3)
)
def test_tables_agree_with_the_naive_twin(length, buffer, gap, per_target, reuse):
    t = wandering(length, 5, 3, seed=length)
    options = {"gamma": 0.9, "step": 0.3, "buffers_per_target": per_target, "reuse": reuse}
    agent = QRex(3, 5, buffer=buffer, gap=gap, **options).fit_transitions(t)
    parts = [range(s, min(s + buffer, length)) for s in range(0, length, buffer + gap)]
    np.testing.assert_allclose(
        agent.w_, naive(t, (5, 3), 0.9, 0.3, parts, per_target, reuse), atol=1e-12
    )
    assert agent.num_targets_ == reuse * -(-len(parts) // per_target)


def one_hot(states):
    """Features under which the linear learner is a table."""
    f = np.zeros((len(states), 3, 15))
    for a in range(3):
        f[np.arange(len(states)), a, 3 * states + a] = 1
    return f


@pytest.mark.parametrize("buffer", [7, "episode"])
def test_one_hot_features_are_a_table(buffer) -> None:
    t = wandering(200, 5, 3)
    table = QRex(3, 5, buffer=buffer, reuse=2).fit_transitions(t)
    linear = QRex(3, features=one_hot, num_features=15, buffer=buffer, reuse=2).fit_transitions(t)
    np.testing.assert_allclose(linear.w_.reshape(5, 3), table.w_, atol=1e-12)
    np.testing.assert_allclose(linear.values([0, 4]), table.values([0, 4]), atol=1e-12)
    assert linear.act(3) == table.act(3)


def corridor(length):
    """One walk to the reward at the end."""
    t = np.arange(length)
    none = np.zeros(length, bool)
    return Transitions(t, 0 * t, 1.0 * (t == length - 1), t + 1, t == length - 1, none)


def test_each_target_carries_the_reward_one_step_further() -> None:
    for targets in range(1, 6):
        agent = QRex(1, 6, gamma=0.5, step=1.0, buffer="episode", reuse=targets)
        found = agent.fit_transitions(corridor(5)).w_.ravel()
        expected = 0.5 ** np.arange(4, -1, -1.0)
        expected[: 5 - targets] = 0
        np.testing.assert_allclose(found[:5], expected)
        assert found[5] == 0


def test_truncation_bootstraps_and_cuts_the_episode() -> None:
    no, yes = np.array([False]), np.array([True])
    s, one = np.array([0]), np.array([1.0])
    for terminated, truncated, expected in ((yes, no, 1.0), (no, yes, 1.5), (no, no, 1.5)):
        agent = QRex(1, 2, gamma=0.5, step=1.0)
        agent.w_[1] = 1.0
        agent.fit_transitions(Transitions(s, s, one, s + 1, terminated, truncated))
        assert agent.w_[0, 0] == expected
    t = wandering(50, 4, 1)
    parts = QRex(1, 4, buffer="episode")._buffers(t)
    assert [int(p[0]) for p in parts[:-1]] == np.flatnonzero(t.terminated | t.truncated).tolist()
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))


def test_frozen_lake_is_solved_by_walking_at_random() -> None:
    gym = pytest.importorskip("gymnasium")
    env = gym.make("FrozenLake-v1", is_slippery=False)
    agent = QRex(4, 16, gamma=0.95, step=1.0, buffer="episode", reuse=20).fit(env, 4000)
    state, _ = env.reset()
    for _ in range(6):
        state, reward, terminated, _, _ = env.step(agent.act(state))
    assert reward == 1
    assert terminated
    assert agent.values([0]).max() == pytest.approx(0.95**5)
    again = QRex(4, 16, gamma=0.95, step=1.0, buffer="episode", reuse=20).fit(env, 4000)
    assert (agent.w_ == again.w_).all()
    parted = QRex(4, 16, gamma=0.95).fit(env, 500, lambda s, rng: 1, collect=100)
    assert parted.num_targets_ == 5


SPACE = SimpleNamespace(n=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QRex(0, 3), "num_actions must be at least 1"),
        (lambda: QRex(2), "give num_states for a table"),
        (lambda: QRex(2, 3, features=one_hot), "give num_states for a table"),
        (lambda: QRex(2, features=one_hot), "num_features must be given"),
        (lambda: QRex(2, 3, gamma=1.0), r"gamma must be in \[0, 1\), got 1.0"),
        (lambda: QRex(2, 3, gamma=-0.1), r"gamma must be in \[0, 1\)"),
        (lambda: QRex(2, 3, step=0.0), "step must be a positive number"),
        (lambda: QRex(2, 3, buffer="day"), "must be one of 'episode', got 'day'"),
        (lambda: QRex(2, 3, buffer=0), "buffer must be at least 1"),
        (lambda: QRex(2, 3, gap=-1), "gap must be at least 0"),
        (lambda: QRex(2, 3, reuse=0), "reuse must be at least 1"),
        (lambda: QRex(3, 4).fit_transitions(wandering(90, 5, 3)), "states must be in 0 .. 3"),
        (lambda: QRex(2, 5).fit_transitions(wandering(90, 5, 3)), "actions must be in 0 .. 1"),
        (
            lambda: QRex(3, features=lambda s: s, num_features=2).fit_transitions(
                wandering(9, 5, 3)
            ),
            r"features must return \(n, A, p\) = \(9, 3, 2\), got \(9,\)",
        ),
        (lambda: ReverseBufferSampler(0), "length must be at least 1"),
        (lambda: ReverseBufferSampler(9, buffer=0), "buffer must be at least 1"),
        (lambda: ReverseBufferSampler(9, gap=-1), "gap must be at least 0"),
        (lambda: QRex(2, 3).fit(SimpleNamespace(action_space=SPACE), 9), "environment has 3"),
        (lambda: QRex(2, 3).fit(None, 0), "steps must be at least 1"),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_columns_are_refused() -> None:
    t = wandering(9, 5, 3)
    short = Transitions(t.states, t.actions, t.rewards[:5], t.following, t.terminated, t.truncated)
    with pytest.raises(ValueError, match="columns of one length"):
        QRex(3, 5).fit_transitions(short)
    t.rewards[4] = np.nan
    with pytest.raises(ValueError, match="rewards must be finite"):
        QRex(3, 5).fit_transitions(t)
    with pytest.raises(Diverged, match="largest squared norm"):
        QRex(3, 5, step=5.0).fit_transitions(wandering(3000, 5, 3))


def test_continuous_spaces_are_refused_by_a_table() -> None:
    box = SimpleNamespace()
    with pytest.raises(TypeError, match="actions must be discrete"):
        QRex(3, 5).fit(SimpleNamespace(action_space=box), 5)
    with pytest.raises(TypeError, match="states must be discrete for a table"):
        QRex(3, 5).fit(SimpleNamespace(action_space=SPACE, observation_space=box), 5)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5), st.booleans(), st.booleans())
def test_the_sampler_keeps_what_is_no_gap(length, buffer, gap, reverse, shuffle) -> None:
    sampler = ReverseBufferSampler(length, buffer, gap, reverse, shuffle_buffers=shuffle)
    found = list(sampler)
    assert len(found) == len(sampler)
    assert sorted(found) == [i for i in range(length) if i % (buffer + gap) < buffer]
    step = -1 if reverse else 1
    for a, b in pairwise(found):
        if a // (buffer + gap) == b // (buffer + gap):
            assert b == a + step
    if not shuffle:
        assert found == list(sampler)


def test_a_data_loader_follows_the_sampler() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(20))
    sampler = ReverseBufferSampler(20, 6, 2, shuffle_buffers=True)
    loader = torch.utils.data.DataLoader(data, batch_size=6, sampler=sampler)
    first = [b.tolist() for (b,) in loader]
    assert first != [b.tolist() for (b,) in loader]  # another order of buffers in another epoch
    assert list(chain(*first)) == list(ReverseBufferSampler(20, 6, 2, shuffle_buffers=True))


def test_the_average_is_of_the_targets_of_the_second_half() -> None:
    t = wandering(95, 5, 3)
    options = {"gamma": 0.9, "step": 0.3, "buffer": 5, "buffers_per_target": 2}
    agent = QRex(3, 5, average=True, **options)
    assert (agent.values([0]) == 0).all()
    with pytest.raises(ValueError, match="no mean yet"):
        _ = agent.averaged_
    targets = []
    for first in range(0, 95, 10):
        part = Transitions(*(getattr(t, k)[first : first + 10] for k in t.__dataclass_fields__))
        targets.append(agent.fit_transitions(part).w_.copy())
    np.testing.assert_allclose(agent.averaged_, np.mean(targets[5:], 0), atol=1e-12)
    np.testing.assert_allclose(agent.values([2])[0], agent.averaged_[2])
    plain = QRex(3, 5, **options).fit_transitions(t)
    np.testing.assert_array_equal(plain.w_, agent.w_)
    np.testing.assert_array_equal(plain.values([2])[0], agent.w_[2])
    assert agent.act(2) == agent.averaged_[2].argmax()
