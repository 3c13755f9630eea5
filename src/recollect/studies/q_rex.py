"""Q-Rex on RiverSwim: six states against the current, a large reward at the far end.

One long walk of a fixed behaviour that swims up with probability 0.8; the error is the largest
|Q - Q*| divided by the largest |Q*|.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.replay import QRex, Transitions
from recollect.replay.averaging import TailMean
from recollect.replay.qrex import table_pass
from recollect.studies.replay_figures import draw_river as draw

__all__ = ["draw", "study"]

FloatArray = npt.NDArray[np.float64]
STATES, GAMMA, STEPS = 6, 0.95, 12_000
BUFFER, PER_TARGET = 50, 4


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return errors of Q by step and method.

    Args:
        quick: 5 seeds instead of 30.
        data: not used; the river is simulated.
    """
    chances, rewards = river()
    best = optimal(chances, rewards)
    rows: list[dict[str, Any]] = []
    for step in (0.05, 0.2, 0.5):
        tables: dict[str, list[FloatArray]] = {}
        for seed in range(5 if quick else 30):
            walk = swim(chances, rewards, STEPS, seed)
            for name, Q in learned(walk, step, seed).items():
                tables.setdefault(name, []).append(Q)
        rows += [_row(step, name, np.stack(found), best) for name, found in tables.items()]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"relative error of Q after {STEPS} steps of RiverSwim",
        notes=[
            "buffers of 50, the target renewed after 4 of them; data reuse passes 4 times over "
            "the same steps; averaged: the mean of the targets of the second half",
            "error: largest over states and actions, mean over seeds; bias: the same of the mean "
            "Q of all seeds; spread: largest deviation of an entry over seeds",
            "the counted model's exact solution is what these steps allow at best",
        ],
    )


def _row(step: float, name: str, tables: FloatArray, best: FloatArray) -> dict[str, Any]:
    """Return the row of one method, from its tables (seeds, S, A)."""
    off = (tables - best) / np.abs(best).max()
    errors = np.abs(off).max((1, 2))
    return {
        "step": step,
        "method": name,
        "error": float(errors.mean()),
        "deviation": float(errors.std(ddof=1)),
        "bias": float(np.abs(off.mean(0)).max()),
        "spread": float(off.std(0, ddof=1).max()),
        "seeds": len(tables),
    }


def learned(walk: Transitions, step: float, seed: int) -> dict[str, FloatArray]:
    """Return Q (S, A) of each method after the same walk."""
    time = np.arange(len(walk))
    drawn = np.random.default_rng(seed_of(seed, "replay")).random(len(walk))
    order = time - (drawn * np.minimum(1000, time + 1)).astype(np.int64)
    replayed = Transitions(*(getattr(walk, k)[order] for k in walk.__dataclass_fields__))

    def run(steps: Transitions = walk, **options: Any) -> QRex:
        agent = QRex(
            2, STATES, gamma=GAMMA, step=step, buffer=BUFFER, buffers_per_target=PER_TARGET,
            **options,
        )  # fmt: skip
        return agent.fit_transitions(steps)

    plain, plain_mean = watkins(walk, step, 4)
    forward, shuffled = run(reverse=False, reuse=4), run(replayed, reverse=False, reuse=4)
    backward = run(reuse=4)
    return {
        "plain Q-learning": watkins(walk, step, 1)[0],
        "target network, forward": run(reverse=False).w_,
        "target network, uniform replay": run(replayed, reverse=False).w_,
        "Q-Rex": run().w_,
        "plain Q-learning, 4 passes": plain,
        "target network, forward, 4 passes": forward.w_,
        "target network, uniform replay, 4 passes": shuffled.w_,
        "Q-Rex with data reuse, 4 passes": backward.w_,
        "plain Q-learning, 4 passes, averaged": plain_mean,
        "target network, forward, 4 passes, averaged": forward.averaged_,
        "target network, uniform replay, 4 passes, averaged": shuffled.averaged_,
        "Q-Rex with data reuse, 4 passes, averaged": backward.averaged_,
        "counted model, solved": counted(walk),
    }


def watkins(walk: Transitions, step: float, passes: int) -> tuple[FloatArray, FloatArray]:
    """Return Q of plain Q-learning, which follows itself, and its mean over the second half.

    The mean is over as many tables as the methods with a target have targets.
    """
    Q, tail = np.zeros((STATES, 2)), TailMean((STATES, 2))
    columns = (walk.states, walk.actions, walk.rewards, walk.following, walk.terminated)
    for _ in range(passes):
        for first in range(0, len(walk), BUFFER * PER_TARGET):
            order = np.arange(first, min(first + BUFFER * PER_TARGET, len(walk)))
            table_pass(Q, Q, order, *columns, GAMMA, step)
            tail.extend(Q[None])
    return Q, tail.mean()


def counted(walk: Transitions) -> FloatArray:
    """Return Q of the world that the walk's counts describe."""
    chances, rewards = np.zeros((STATES, 2, STATES)), np.zeros((STATES, 2))
    np.add.at(chances, (walk.states, walk.actions, walk.following), 1.0)
    rewards[walk.states, walk.actions] = walk.rewards
    return optimal(chances / np.maximum(chances.sum(2, keepdims=True), 1.0), rewards)


def river() -> tuple[FloatArray, FloatArray]:
    """Return chances (S, A, S) of the next state and rewards (S, A); action 1 swims up."""
    chances, rewards = np.zeros((STATES, 2, STATES)), np.zeros((STATES, 2))
    for s in range(STATES):
        chances[s, 0, max(s - 1, 0)] = 1.0
        up, stay = (0.6, 0.4) if s == 0 else (0.35, 0.6)
        chances[s, 1, min(s + 1, STATES - 1)] += up
        chances[s, 1, s] += stay
        chances[s, 1, max(s - 1, 0)] += 1.0 - up - stay
    rewards[0, 0], rewards[-1, 1] = 0.005, 1.0
    return chances, rewards


def optimal(chances: FloatArray, rewards: FloatArray) -> FloatArray:
    """Return Q* (S, A) by value iteration."""
    Q = np.zeros_like(rewards)
    for _ in range(2000):
        Q = rewards + GAMMA * chances @ Q.max(1)
    return Q


def swim(chances: FloatArray, rewards: FloatArray, steps: int, seed: int) -> Transitions:
    """Walk for some steps."""
    rng = np.random.default_rng(seed_of(seed, "river"))
    actions = (rng.random(steps) < 0.8).astype(np.int64)
    drawn, sums = rng.random(steps), chances.cumsum(2)
    path = np.zeros(steps + 1, np.int64)
    for t in range(steps):
        path[t + 1] = min(int((sums[path[t], actions[t]] <= drawn[t]).sum()), STATES - 1)
    none = np.zeros(steps, np.bool_)
    return Transitions(path[:-1], actions, rewards[path[:-1], actions], path[1:], none, none)
