"""Introspective replay on a frozen lake of 8 x 8 fields, without slipping.

A table of Q with a target copy, few gradient steps, one reward at the far corner. Every mode
collects, explores and updates alike; only the choice of batches differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.replay import IntrospectiveSampler
from recollect.replay.compiling import compiled
from recollect.replay.qrex import table_pass

__all__ = ["study"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
LAKE = (
    "SFFFFFFF",
    "FFFFFFFF",
    "FFFHFFFF",
    "FFFFFHFF",
    "FFFHFFFF",
    "FHHFFFHF",
    "FHFFHFHF",
    "FFFHFFFG",
)
SIZE, GAMMA, STEP, LIMIT = 8, 0.95, 0.5, 200
PHASE, TARGET_EVERY, STEPS = 16, 4, 6000
SEEDS = 30
MODES = {
    "uniform": "uer",
    "prioritised": "per",
    "reverse": "rer",
    "forward from surprise": "forward",
    "most surprising only": "oer",
    "introspective": "ier",
    "introspective, 30 % uniform": "uier",
}


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return, by setting and mode, how many seeds solve the lake and what they earned.

    Args:
        quick: one setting instead of three; 30 seeds in any case.
        data: not used; the lake is built in.
    """
    rows: list[dict[str, Any]] = []
    for updates, batch in ((4, 16),) if quick else ((4, 16), (2, 16), (2, 8)):
        for name, mode in MODES.items():
            found = [run(mode, seed, updates, batch) for seed in range(SEEDS)]
            solved, earned = np.array(found, np.float64).T
            low, high = bootstrapped(earned)
            rows.append(
                {
                    "steps a phase": updates,
                    "batch": batch,
                    "method": name,
                    "solved": float(solved.mean()),
                    "deviation": float(solved.std(ddof=1) / len(solved) ** 0.5),
                    "estimate": middle_mean(earned),
                    "low": low,
                    "high": high,
                    "median": float(np.median(earned)),
                    "quartile range": float(np.subtract(*np.quantile(earned, [0.75, 0.25]))),
                    "lower decile": float(np.quantile(earned, 0.1)),
                    "seeds": len(found),
                }
            )
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="frozen lake 8 x 8: seeds whose greedy policy arrives, and return while training",
        notes=[
            "estimate: inter-quartile mean of the return over seeds, with a bootstrapped 90 % "
            "interval; deviation: standard error of the share solved",
            "the table begins with small random values, which send the first walks in different "
            "directions; from zeros most seeds never find the goal, whatever the batches",
            f"{PHASE} steps of the environment a phase, {STEPS} in all",
        ],
    )


def run(mode: str, seed: int, updates: int, batch: int) -> tuple[bool, float]:
    """Train one table; return whether its greedy policy arrives, and the mean return."""
    rng = np.random.default_rng(seed_of(seed, "lake"))
    sampler = IntrospectiveSampler(batch, updates, mode, seed=seed)
    Q = 0.01 * rng.random((SIZE * SIZE, 4))
    goal = Q.copy()
    states, actions, following = np.zeros((3, STEPS), np.int64)
    rewards, over = np.zeros(STEPS), np.zeros(STEPS, np.bool_)
    chance = np.maximum(0.1, 1 - 0.9 * np.arange(STEPS) / (STEPS / 2))
    explores, guesses = rng.random(STEPS) < chance, rng.random((STEPS, 4))
    place, lake = np.zeros(3, np.int64), fields()
    for phase in range(1, STEPS // PHASE + 1):
        n = phase * PHASE
        walk(Q, *lake, place, explores, guesses, n, states, actions, following, rewards, over)
        if n < batch:
            continue
        targets = rewards[:n] + GAMMA * ~over[:n] * goal.max(1)[following[:n]]
        sampler.refresh(targets - Q[states[:n], actions[:n]])
        for _ in range(updates):
            order = np.ascontiguousarray(sampler.sample())
            table_pass(Q, goal, order, states, actions, rewards, following, over, GAMMA, STEP)
        if phase % TARGET_EVERY == 0:
            goal = Q.copy()
    return arrives(Q), float(rewards.sum() / max(place[2], 1))


@compiled
def walk(
    Q: FloatArray,
    after: IntArray,
    reward: FloatArray,
    final: BoolArray,
    place: IntArray,
    explores: BoolArray,
    guesses: FloatArray,
    until: int,
    states: IntArray,
    actions: IntArray,
    following: IntArray,
    rewards: FloatArray,
    over: BoolArray,
) -> None:
    """Walk one phase, up to step ``until``; ``place`` holds field, steps so far and episodes.

    The highest of four guesses is the random action, and decides between equal values.
    """
    for t in range(until - PHASE, until):
        s, a = place[0], 0
        for b in range(1, 4):
            higher, tied = Q[s, b] > Q[s, a], Q[s, b] == Q[s, a]
            luckier = guesses[t, b] > guesses[t, a]
            if (luckier and (tied or explores[t])) or (higher and not explores[t]):
                a = b
        states[t], actions[t], following[t] = s, a, after[s, a]
        rewards[t], over[t] = reward[s, a], final[s, a]
        place[0], place[1] = after[s, a], place[1] + 1
        if final[s, a] or place[1] == LIMIT:
            place[0], place[1], place[2] = 0, 0, place[2] + 1


def fields() -> tuple[IntArray, FloatArray, BoolArray]:
    """Return next field, reward and end of every field and action, (64, 4) each."""
    table = [[move(s, a) for a in range(4)] for s in range(SIZE * SIZE)]
    after, reward, final = np.moveaxis(np.array(table), 2, 0)
    return (
        np.ascontiguousarray(after, np.int64),
        np.ascontiguousarray(reward, np.float64),
        np.ascontiguousarray(final, np.bool_),
    )


def move(state: int, action: int) -> tuple[int, float, bool]:
    """Return the next field, the reward and whether the episode is over."""
    row, column = divmod(state, SIZE)
    row += (action == 1) - (action == 3)
    column += (action == 2) - (action == 0)
    row, column = min(max(row, 0), SIZE - 1), min(max(column, 0), SIZE - 1)
    field = LAKE[row][column]
    return row * SIZE + column, float(field == "G"), field in "GH"


def arrives(Q: FloatArray) -> bool:
    """Whether the greedy policy reaches the goal."""
    state = 0
    for _ in range(LIMIT):
        state, reward, over = move(state, int(Q[state].argmax()))
        if over:
            return reward > 0
    return False


def middle_mean(values: npt.ArrayLike) -> float:
    """Return the mean of the middle half (the inter-quartile mean).

    >>> middle_mean([0.0, 1.0, 2.0, 99.0])
    1.5
    """
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrapped(values: Sequence[float] | FloatArray, draws: int = 1000) -> tuple[float, float]:
    """Return the ends of the 90 % bootstrap interval of the inter-quartile mean over seeds."""
    rng, found = np.random.default_rng(0), np.asarray(values, np.float64)
    means = [middle_mean(rng.choice(found, len(found))) for _ in range(draws)]
    low, high = np.quantile(means, [0.05, 0.95])
    return float(low), float(high)
