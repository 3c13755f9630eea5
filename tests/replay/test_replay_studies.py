"""The studies of replay run, agree with what they simulate, and show their margins."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import studies
from recollect.replay import QRex
from recollect.studies import (
    control_tasks,
    dqn,
    goals,
    introspective_replay,
    q_rex,
    reliability,
    reverse_replay,
)
from recollect.studies.running import Journal


def test_reverse_replay_shows_its_margins(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(reverse_replay, "SYSTEMS", {"leaky ReLU 0.5, 0.98": (0.5, 0.98)})
    monkeypatch.setattr(reverse_replay, "QUICK_SEEDS", 2)
    found = studies.run("reverse-replay", quick=True, picture=str(tmp_path / "it.svg"))
    assert "the same buffers forward" in (tmp_path / "it.svg").read_text()
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


def test_plain_q_learning_is_a_target_renewed_at_every_step() -> None:
    walk = q_rex.swim(*q_rex.river(), 500, 0)
    agent = QRex(2, q_rex.STATES, gamma=q_rex.GAMMA, step=0.3, buffer=1, buffers_per_target=1)
    found, _ = q_rex.watkins(walk, 0.3, 1)
    np.testing.assert_allclose(agent.fit_transitions(walk).w_, found, atol=1e-12)


def test_the_counted_model_is_solved_exactly() -> None:
    chances, rewards = q_rex.river()
    walk = q_rex.swim(chances, rewards, 12_000, 0)
    Q, seen = q_rex.counted(walk), {}
    for s, a, then in zip(walk.states, walk.actions, walk.following, strict=True):
        seen.setdefault((int(s), int(a)), []).append(Q[then].max())
    for (s, a), values in seen.items():
        assert Q[s, a] == pytest.approx(rewards[s, a] + q_rex.GAMMA * np.mean(values), rel=1e-9)


def test_backwards_and_averaged_only_what_the_walk_itself_does_not_tell_is_left(tmp_path) -> None:
    found = studies.run("q-rex", quick=True, picture=str(tmp_path / "it.svg"))
    assert "Q-Rex with data reuse, 4 passes, averaged" in (tmp_path / "it.svg").read_text()
    rows = {
        (step, name): (error, bias)
        for step, name, error, bias in zip(
            *(found[k] for k in ("step", "method", "error", "bias")), strict=True
        )
    }
    for step in (0.2, 0.5):
        error, bias = rows[step, "Q-Rex with data reuse, 4 passes, averaged"]
        for rival in ("target network, forward", "plain Q-learning"):
            other, lean = rows[step, f"{rival}, 4 passes, averaged"]
            assert bias < 0.7 * lean
            assert error < other
        assert error < 0.7 * rows[step, "Q-Rex with data reuse, 4 passes"][0]
    averaged, _ = rows[0.05, "Q-Rex with data reuse, 4 passes, averaged"]
    assert averaged < 1.5 * rows[0.05, "counted model, solved"][0]
    assert averaged < 0.5 * rows[0.05, "plain Q-learning"][0]


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


def test_the_introspective_study_makes_one_table_and_goes_on(monkeypatch, tmp_path) -> None:
    few = {n: goals.METHODS[n] for n in ("uniform", "hindsight (walks), uniform")}
    monkeypatch.setattr(goals, "METHODS", few)
    monkeypatch.setattr(introspective_replay, "SEEDS", 2)
    monkeypatch.setattr(introspective_replay, "MODES", {"uniform": "uer"})
    kinds: list[str] = []

    def train(env: str, *, mode: str, **keys: object) -> dqn.Learned:
        kinds.append(mode)
        return dqn.Learned(np.array([100.0, 200.0]), 0.5, 0.05, np.ones(2))

    monkeypatch.setattr(dqn, "train", train)
    found = studies.run("introspective-replay", quick=True, keep=str(tmp_path))
    assert found["task"][1:5] == ["bits to flip"] * 2 + ["frozen lake, any goal"] * 2
    if kinds:  # gymnasium is there
        assert found["task"][5:] == ["CartPole, DQN"] * 2
        assert kinds == ["uer", "uier"]
        assert (found["solved"][-1], found["distinct"][-1], found["ends"][-1]) == (0.5, 0.5, 0.05)
    monkeypatch.setattr(introspective_replay, "run", None)  # what is known is not run again
    monkeypatch.setattr(goals, "run", None)
    again = studies.run(
        "introspective-replay", quick=True, keep=str(tmp_path), picture=str(tmp_path / "it.svg")
    )
    assert "bits to flip" in (tmp_path / "it.svg").read_text()
    assert again["estimate"] == found["estimate"]
    assert kinds in ([], ["uer", "uier"])


@pytest.mark.parametrize("box2d", [True, False])
def test_every_task_of_control_is_learned_by_every_method(monkeypatch, box2d) -> None:
    def train(env, *, steps, seeds, mode, updates, gamma=0.98, hold=1, mix=0.7, min_gap=1):
        return dqn.Learned(np.arange(seeds) - 105.0, 0.5, 0.05, np.ones(seeds))

    monkeypatch.setattr(dqn, "train", train)
    monkeypatch.setattr(control_tasks, "find_spec", lambda name: box2d or name != "Box2D" or None)
    rows = list(control_tasks.control(False, Journal(None, "")))
    counts = Counter(r["task"].split(",")[0] for r in rows)
    assert counts == {"CartPole": 8, "Acrobot": 5, "MountainCar": 5} | (
        {"LunarLander": 5} if box2d else {}
    )
    solved = {r["task"].split(",")[0]: r["solved"] for r in rows}
    assert (solved["CartPole"], solved["Acrobot"], solved["MountainCar"]) == (0.0, 0.5, 1.0)


def test_actions_by_chance_are_kept_up_for_as_many_steps_in_all() -> None:
    class Still:
        state = np.zeros((200, 2), np.float32)

        def reset(self, seed):
            return self.state, {}

    share, held = {}, {}
    for hold in (1, 5):
        walk = dqn._Walk(Still(), None, 200, False)
        greedy = dqn.SideBySide(200, 2, 9)
        best = greedy(torch.zeros(200, 1, 2)).argmax(2)[:, 0].numpy()
        moves = np.stack([walk.choose(greedy, 0.4, 9, hold) for _ in range(200)])[50:]
        share[hold] = (moves != best).mean()
        held[hold] = (moves[1:] == moves[:-1])[moves[1:] != best].mean()
    # Every ninth action by chance is the greedy one; 0.01 is four standard errors.
    assert share[1] == pytest.approx(0.4 * 8 / 9, abs=0.01)
    assert share[5] == pytest.approx(0.4 * 8 / 9, abs=0.02)
    assert held[5] > 0.75 > 0.1 > held[1]


def test_who_is_steadiest_is_counted_over_tasks_that_all_were_run_on() -> None:
    def row(task, method, returns):
        return {"task": task, "method": method} | reliability.over_seeds([0, 0], returns)

    found = reliability.steadiest(
        [row("a", "x", [1.0, 1.0]), row("a", "y", [1.0, 1.0]), row("b", "x", [0.0, 3.0]),
         row("b", "y", [0.5, 1.0]), row("c", "x", [5.0, 5.0])]
    )  # fmt: skip
    assert found == {"x": (0.5, 0.5, 2), "y": (1.5, 1.5, 2)}


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
