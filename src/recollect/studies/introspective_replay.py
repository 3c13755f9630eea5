"""Introspective replay where rewards are sparse, where a goal is asked for, and in control.

A frozen lake of 8 x 8 fields with a table of Q; tasks with goals, with and without hindsight; and
DQN on four tasks of control. Every mode collects, explores and updates alike; only the choice of
batches differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.replay import IntrospectiveSampler
from recollect.replay.compiling import compiled
from recollect.replay.qrex import table_pass
from recollect.studies import goals
from recollect.studies.control_tasks import METHODS, control
from recollect.studies.reliability import over_seeds, steadiest
from recollect.studies.replay_figures import draw_introspection as draw
from recollect.studies.running import Journal

__all__ = ["draw", "study"]

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
WHENCE = {"gymnasium": "recollect[rl]", "Box2D": "gymnasium[box2d]"}
MODES = {
    "uniform": "uer",
    "prioritised": "per",
    "reverse": "rer",
    "forward from surprise": "forward",
    "most surprising only": "oer",
    "introspective": "ier",
    "introspective, 30 % uniform": "uier",
}


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return, by task and method, how many seeds solve it and what they earned.

    Args:
        quick: fewer settings and methods; 30 seeds of tables and 10 of networks in any case.
        data: not used; all worlds are built in or come with gymnasium.
        keep: folder for the rows found so far, from which a run that was broken off goes on.
    """
    journal = Journal(keep, "introspective-replay")
    rows = [*_lake(quick, journal), *_goals(quick, journal)]
    notes = [
        "estimate: inter-quartile mean over seeds of the return, with a bootstrapped 90 % "
        "interval (tables: while training; networks: of the last fifth); deviation: standard "
        "error of the share solved (networks: of seeds with a return of 195, -100, -110, 200)",
        "the table begins with small random values, which send the first walks in different "
        "directions; from zeros most seeds never find the goal, whatever the batches",
        f"lake: {PHASE} steps of the environment a phase, {STEPS} in all",
        "hindsight: every episode is told again with 4 other goals; in 'walks' whole ways to "
        "them, in 'future' each step with a goal of its own",
        "distinct: share of a phase's transitions that are; ends: share that end an episode",
    ]
    for module, what in (("gymnasium", "networks"), ("Box2D", "LunarLander")):
        if find_spec(module) is None:
            notes.append(f'{what} left out, {module} is missing: pip install "{WHENCE[module]}"')
    if find_spec("gymnasium") is not None:
        rows += control(quick, journal)
    calm = steadiest([r for r in rows if r["method"] in METHODS])
    notes += [
        f"{name}: smallest quartile range in {narrow:g}, highest lower decile in {high:g} of "
        f"{tasks} tasks"
        for name, (narrow, high, tasks) in calm.items()
    ]
    columns = dict.fromkeys(k for r in rows for k in r)
    return Answer(
        {k: [r.get(k, "-") for r in rows] for k in columns},
        title="seeds whose greedy policy arrives, and what they earned, by choice of batches",
        notes=notes,
    )


def _lake(quick: bool, journal: Journal) -> Iterator[dict[str, Any]]:
    """One lake, one goal: by gradient steps and batch."""
    for updates, batch in ((4, 16),) if quick else ((4, 16), (2, 16), (2, 8)):
        task = f"frozen lake, {updates} steps of {batch} a phase"
        for name, mode in MODES.items():
            seeds = [(mode, s, updates, batch) for s in range(SEEDS)]
            yield _told(journal, task, name, lambda: [run(*s) for s in seeds])  # noqa: B023


def _goals(quick: bool, journal: Journal) -> Iterator[dict[str, Any]]:
    """Bits to flip, and the lake with any goal: with and without hindsight."""
    after, _, _ = fields()
    holes = np.array([LAKE[s // SIZE][s % SIZE] == "H" for s in range(SIZE * SIZE)])
    worlds = {"bits to flip": goals.flipping(), "frozen lake, any goal": goals.lake(after, holes)}
    names = [n for n in goals.METHODS if not quick or "hindsight" in n or n == "uniform"]
    for world, task in worlds.items():
        for name in names:
            seeds = [(task, name, s) for s in range(SEEDS)]
            yield _told(journal, world, name, lambda: [goals.run(*s) for s in seeds])  # noqa: B023


def _told(
    journal: Journal, task: str, method: str, find: Callable[[], Sequence[tuple[float, float]]]
) -> dict[str, Any]:
    """Return the row of one task and method, found or known already."""

    def row() -> dict[str, Any]:
        solved, earned = np.array(find(), np.float64).T
        return {"task": task, "method": method, **over_seeds(solved, earned)}

    found = journal.row({"task": task, "method": method, "seeds": SEEDS}, row)
    assert found is not None
    return found


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
