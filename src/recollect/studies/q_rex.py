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

__all__ = ["study"]

FloatArray = npt.NDArray[np.float64]
STATES, GAMMA, STEPS = 6, 0.95, 12_000


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return errors of Q by step and method.

    Args:
        quick: 5 seeds instead of 30.
        data: not used; the river is simulated.
    """
    chances, rewards = river()
    best = optimal(chances, rewards)
    rows: list[dict[str, Any]] = []
    for step in (0.05, 0.5):
        errors: dict[str, list[float]] = {}
        for seed in range(5 if quick else 30):
            walk = swim(chances, rewards, STEPS, seed)
            for name, Q in learned(walk, step, seed).items():
                error = float(np.abs(Q - best).max() / np.abs(best).max())
                errors.setdefault(name, []).append(error)
        rows += [
            {
                "step": step,
                "method": name,
                "error": float(np.mean(found)),
                "deviation": float(np.std(found, ddof=1)),
                "seeds": len(found),
            }
            for name, found in errors.items()
        ]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"relative error of Q after {STEPS} steps of RiverSwim",
        notes=[
            "buffers of 50, the target renewed after 4 of them; data reuse passes 4 times over "
            "the same steps, the others once",
            "a small step needs no help: there plain Q-learning is hard to beat in one pass",
        ],
    )


def learned(walk: Transitions, step: float, seed: int) -> dict[str, FloatArray]:
    """Return Q (S, A) of each method after the same walk."""

    def run(buffer: int, per_target: int, steps: Transitions = walk, **options: Any) -> FloatArray:
        agent = QRex(
            2, STATES, gamma=GAMMA, step=step, buffer=buffer, buffers_per_target=per_target,
            **options,
        )  # fmt: skip
        return agent.fit_transitions(steps).w_

    time = np.arange(len(walk))
    drawn = np.random.default_rng(seed_of(seed, "replay")).random(len(walk))
    order = time - (drawn * np.minimum(1000, time + 1)).astype(np.int64)
    replayed = Transitions(*(getattr(walk, k)[order] for k in walk.__dataclass_fields__))
    return {
        "plain Q-learning": run(1, 1),
        "plain Q-learning, 4 passes": run(1, 1, reuse=4),
        "target network, forward": run(50, 4, reverse=False),
        "target network, uniform replay": run(50, 4, replayed, reverse=False),
        "Q-Rex": run(50, 4),
        "target network, forward, 4 passes": run(50, 4, reverse=False, reuse=4),
        "Q-Rex with data reuse, 4 passes": run(50, 4, reuse=4),
    }


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
