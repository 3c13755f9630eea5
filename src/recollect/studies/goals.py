"""Tasks with a goal, and hindsight: bits to flip, and a frozen lake with any field as its goal.

A table of Q over (state, goal), reward 1 where the goal is reached. Every method collects,
explores and updates alike; episodes are told again with other goals where hindsight is on.

Shape letters: S states, A actions, T steps in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.replay import IntrospectiveSampler, hindsight
from recollect.replay.compiling import compiled
from recollect.replay.introspection import BLIND
from recollect.replay.qrex import table_pass

__all__ = ["METHODS", "Task", "flipping", "lake", "run"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
GAMMA, STEP, PHASE, TARGET_EVERY, BATCH, UPDATES = 0.95, 0.5, 64, 2, 16, 8
# name -> (mode of the sampler, how episodes are told again)
METHODS: dict[str, tuple[str, str | None]] = {
    "uniform": ("uer", None),
    "reverse": ("rer", None),
    "introspective, 30 % uniform": ("uier", None),
    "hindsight (future), uniform": ("uer", "future"),
    "hindsight (walks), uniform": ("uer", "walks"),
    "hindsight (walks), prioritised": ("per", "walks"),
    "hindsight (walks), reverse": ("rer", "walks"),
    "hindsight (walks), introspective": ("ier", "walks"),
    "hindsight (walks), introspective, 30 % uniform": ("uier", "walks"),
}


@dataclass(frozen=True, eq=False)
class Task:
    """A deterministic world in which any of some states may be the goal.

    Attributes:
        after: (S, A) next states.
        lost: (S,) whether an episode is lost there.
        starts: where episodes begin.
        goals: what may be asked for.
        limit: steps of an episode.
        steps: T.
    """

    after: IntArray
    lost: BoolArray
    starts: IntArray
    goals: IntArray
    limit: int
    steps: int


def flipping(bits: int = 7) -> Task:
    """Return the world of bits: action b flips bit b, and some pattern is asked for."""
    states = np.arange(2**bits)
    after = states[:, None] ^ (1 << np.arange(bits))
    return Task(after, np.zeros(len(states), np.bool_), states, states, bits, 6000)


def lake(after: IntArray, holes: BoolArray) -> Task:
    """Return a lake crossed from field 0 to any field without a hole."""
    goals = np.flatnonzero(~holes)
    return Task(after, holes, np.zeros(1, np.int64), goals[goals > 0], 50, 6000)


def run(task: Task, method: str, seed: int) -> tuple[float, float]:
    """Train one table; return the share of goals it reaches, and the mean return of training."""
    mode, told = METHODS[method]
    rng = np.random.default_rng(seed_of(seed, "goals"))
    sampler = IntrospectiveSampler(BATCH, UPDATES, mode, seed=seed)
    count, actions = task.after.shape
    Q = 0.01 * rng.random((count * count, actions))
    target, kept, reached, episodes = Q.copy(), _Kept(actions), 0, 0
    done, phase = 0, 0
    while done < task.steps:
        chance = max(0.1, 1 - 1.8 * done / task.steps)
        goal = int(rng.choice(task.goals))
        start = int(rng.choice(task.starts[task.starts != goal]))
        guesses = rng.random((task.limit, actions + 1))
        walked = walk(Q, task.after, task.lost, start, goal, chance, guesses)
        done, episodes = done + len(walked), episodes + 1
        states, moves, nexts = walked[:, 0], walked[:, 1], walked[:, 2]
        kept.add(task, states, moves, nexts, np.full(len(walked), goal))
        reached += int(nexts[-1] == goal)
        if told is not None:
            rows, ends = hindsight(len(walked), 4, told, generator=rng)
            kept.add(task, states[rows], moves[rows], nexts[rows], nexts[ends])
        while phase < done // PHASE:
            phase += 1
            if len(kept) < BATCH:
                continue
            where, a, reward, then, over = kept.columns
            if mode in BLIND:
                sampler.refresh(np.zeros(len(kept)))
            else:
                sampler.refresh(reward + GAMMA * ~over * target.max(1)[then] - Q[where, a])
            for _ in range(UPDATES):
                order = np.ascontiguousarray(sampler.sample())
                table_pass(Q, target, order, where, a, reward, then, over, GAMMA, STEP)
            if phase % TARGET_EVERY == 0:
                target = Q.copy()
    return arrived(Q, task, rng), reached / episodes


class _Kept:
    """Transitions of (state, goal) in the order in which they were stored."""

    def __init__(self, actions: int) -> None:
        self._rows = np.zeros((1024, 4), np.int64)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, task: Task, s: IntArray, a: IntArray, then: IntArray, goal: IntArray) -> None:
        """Store transitions under their goals."""
        states = len(task.after)
        more = self._length + len(s)
        while more > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        over = (then == goal) + 2 * task.lost[then]
        found = np.stack([s * states + goal, a, then * states + goal, over], 1)
        self._rows[self._length : more] = found
        self._length = more

    @property
    def columns(self) -> tuple[IntArray, IntArray, FloatArray, IntArray, BoolArray]:
        """(state, goal), action, reward, next (state, goal), and whether it ended there."""
        where, a, then, over = np.ascontiguousarray(self._rows[: self._length].T)
        return where, a, (over == 1).astype(np.float64), then, over > 0


@compiled
def walk(
    Q: FloatArray,
    after: IntArray,
    lost: BoolArray,
    start: int,
    goal: int,
    chance: float,
    guesses: FloatArray,
) -> IntArray:
    """Walk one episode: (n, 3) of state, action and next state; ties fall by ``guesses``."""
    limit, actions = len(guesses), after.shape[1]
    found = np.zeros((limit, 3), np.int64)
    state, n = start, 0
    while n < limit:
        explores, a = guesses[n, actions] < chance, 0
        row = state * len(after) + goal
        for b in range(1, actions):
            higher, tied = Q[row, b] > Q[row, a], Q[row, b] == Q[row, a]
            luckier = guesses[n, b] > guesses[n, a]
            if (luckier and (tied or explores)) or (higher and not explores):
                a = b
        found[n, 0], found[n, 1], found[n, 2] = state, a, after[state, a]
        state = after[state, a]
        n += 1
        if state == goal or lost[state]:
            break
    return found[:n]


def arrived(Q: FloatArray, task: Task, rng: np.random.Generator) -> float:
    """Return the share of goals that the greedy policy reaches, each from one start."""
    right = 0
    for goal in task.goals.tolist():
        start = int(rng.choice(task.starts[task.starts != goal]))
        guesses = np.zeros((task.limit, task.after.shape[1] + 1))
        right += int(walk(Q, task.after, task.lost, start, goal, 0.0, guesses)[-1, 2] == goal)
    return right / len(task.goals)
