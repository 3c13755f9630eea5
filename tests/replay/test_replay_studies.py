"""The studies of replay run, agree with what they simulate, and show their margins."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from recollect import studies
from recollect.studies import dqn, goals, introspective_replay, q_rex, reliability, reverse_replay


def test_reverse_replay_shows_its_margins(monkeypatch) -> None:
    monkeypatch.setattr(reverse_replay, "SYSTEMS", {"leaky ReLU 0.5, 0.98": (0.5, 0.98)})
    monkeypatch.setattr(reverse_replay, "QUICK_SEEDS", 2)
    found = studies.run("reverse-replay", quick=True)
    times = {
        m: t for m, s, t in zip(found["method"], found["steps"], found["times exact"], strict=True)
        if s == 100_000
    }  # fmt: skip
    assert times["reverse replay"] <= 5
    assert times["the same buffers forward"] >= 10 * times["reverse replay"]
    assert times["plain descent"] >= 10 * times["reverse replay"]


def test_rows_of_the_river_are_chances_and_q_is_a_fixed_point() -> None:
    chances, rewards = q_rex.river()
    np.testing.assert_allclose(chances.sum(2), 1.0)
    Q = q_rex.optimal(chances, rewards)
    np.testing.assert_allclose(Q, rewards + q_rex.GAMMA * chances @ Q.max(1), rtol=1e-9)
    assert (Q.argmax(1) == 1).all()


def test_reused_reversed_data_are_best_at_a_small_step() -> None:
    chances, rewards = q_rex.river()
    best, errors = q_rex.optimal(chances, rewards), {}
    for seed in range(2):
        for name, Q in q_rex.learned(
            q_rex.swim(chances, rewards, 12_000, seed), 0.05, seed
        ).items():
            errors.setdefault(name, []).append(np.abs(Q - best).max() / best.max())
    mean = {name: np.mean(e) for name, e in errors.items()}
    assert mean["Q-Rex with data reuse, 4 passes"] < 0.05
    assert mean["Q-Rex with data reuse, 4 passes"] < 0.5 * mean["target network, forward"]


def test_the_lake_is_that_of_gymnasium() -> None:
    gym = pytest.importorskip("gymnasium")
    table = gym.make("FrozenLake-v1", map_name="8x8", is_slippery=False).unwrapped.P
    for state in range(64):
        if introspective_replay.LAKE[state // 8][state % 8] in "SF":
            for action in range(4):
                ((_, after, reward, over),) = table[state][action]
                assert introspective_replay.move(state, action) == (after, reward, over)


def test_introspection_solves_the_lake_more_often_than_chance() -> None:
    solved = {
        mode: np.mean([introspective_replay.run(mode, seed, 2, 8)[0] for seed in range(8)])
        for mode in ("uer", "uier")
    }
    assert solved["uier"] >= solved["uer"] + 0.2
    assert introspective_replay.run("ier", 3, 2, 8) == introspective_replay.run("ier", 3, 2, 8)


def test_the_introspective_study_makes_one_table(monkeypatch) -> None:
    few = {n: goals.METHODS[n] for n in ("uniform", "hindsight (walks), uniform")}
    monkeypatch.setattr(goals, "METHODS", few)
    monkeypatch.setattr(introspective_replay, "SEEDS", 2)
    monkeypatch.setattr(introspective_replay, "MODES", {"uniform": "uer"})
    kinds: list[str] = []

    def train(mode: str, **keys: object) -> dqn.Learned:
        kinds.append(mode)
        return dqn.Learned(np.array([100.0, 200.0]), 0.5, 0.05, np.ones(2))

    monkeypatch.setattr(dqn, "train", train)
    found = studies.run("introspective-replay", quick=True)
    assert found["task"][1:5] == ["bits to flip"] * 2 + ["frozen lake, any goal"] * 2
    if kinds:  # gymnasium is there
        assert found["solved"][-1] == 0.5
        assert "50% distinct, 5.0% ends" in found["method"][-1]


def test_inter_quartile_means_and_their_intervals() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 200)
    low, high = reliability.bootstrapped(values, draws=200)
    assert low < reliability.middle_mean(values) < high
    assert 0.1 < high - low < 0.5


def test_the_example_trains() -> None:
    pytest.importorskip("gymnasium")
    example = Path(__file__).parents[2] / "examples" / "introspective_dqn.py"
    train = runpy.run_path(str(example))["train"]
    assert len(train(steps=1100, updates=2, batch=8, mode="per")) > 10
    once, again = (train(steps=1100, updates=2, batch=8, seed=3) for _ in range(2))
    assert once == again
