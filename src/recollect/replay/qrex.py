"""Q-learning with a frozen target and reverse experience replay: Q-Rex and its variants.

Linear in features, Q(s, a) = <f(s, a), w>. While a target w' is frozen, N buffers of transitions
are stepped on, each from its last transition to its first:

    w <- w + step [r + gamma max_b <f(s', b), w'> - <f(s, a), w>] f(s, a)

then w' <- w. Q-RexDaRe collects transitions once and uses them again for every target; the
episodic variant takes an episode as a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.replay.averaging import TailMean
from recollect.replay.compiling import compiled
from recollect.replay.reverse import Diverged

__all__ = ["QRex", "Transitions"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@compiled
def table_pass(
    Q: FloatArray,
    goal: FloatArray,
    order: IntArray,
    states: IntArray,
    actions: IntArray,
    rewards: FloatArray,
    following: IntArray,
    terminated: npt.NDArray[np.bool_],
    gamma: float,
    step: float,
) -> None:
    """Step on a table Q (S, A) for the transitions named by ``order``; targets from ``goal``."""
    for t in order:
        target = rewards[t]
        if not terminated[t]:
            target += gamma * goal[following[t]].max()
        s, a = states[t], actions[t]
        Q[s, a] += step * (target - Q[s, a])


@compiled
def linear_pass(
    w: FloatArray,
    goal: FloatArray,
    order: IntArray,
    taken: FloatArray,
    rewards: FloatArray,
    offered: FloatArray,
    terminated: npt.NDArray[np.bool_],
    gamma: float,
    step: float,
) -> None:
    """The same for weights w (p,), features ``taken`` (T, p) and ``offered`` (T, A, p)."""
    for t in order:
        target = rewards[t]
        if not terminated[t]:
            best = -np.inf
            for b in range(offered.shape[1]):
                value = 0.0
                for i in range(w.shape[0]):
                    value += offered[t, b, i] * goal[i]
                best = max(best, value)
            target += gamma * best
        for i in range(w.shape[0]):
            target -= taken[t, i] * w[i]
        for i in range(w.shape[0]):
            w[i] += step * target * taken[t, i]


@dataclass(frozen=True)
class Transitions:
    """Transitions in the order of time.

    Attributes:
        states: (T,) integers, or (T, ...) observations if there is a feature function.
        actions: (T,) integers.
        rewards: (T,).
        following: the states that came next, as ``states``.
        terminated: (T,) whether nothing comes after, so that there is nothing to bootstrap.
        truncated: (T,) whether the episode was cut short there: the next one bootstraps, but the
            following transition belongs to another episode.
    """

    states: npt.NDArray[Any]
    actions: IntArray
    rewards: FloatArray
    following: npt.NDArray[Any]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.actions)


class QRex:
    """Q-learning with frozen targets and reverse experience replay.

    Attributes:
        w_: weights: a table (S, A), or (p,) with a feature function.
        num_targets_: how often the target was renewed.
        averaged_: the mean of the targets of the second half, as ``w_``.

    Args:
        num_actions: A.
        num_states: S, for a table; None with ``features``.
        features: maps states (n, ...) to f(s, a) of all actions, (n, A, p), or None.
        num_features: p, needed with ``features``.
        gamma: discount, in [0, 1).
        step: constant, at most 1 / (largest squared norm of a feature).
        buffer: B, transitions replayed backwards at a time; ``"episode"`` for whole episodes.
        gap: u, transitions skipped between buffers (not for episodes).
        buffers_per_target: N, after which the target is renewed.
        reuse: passes over all transitions given to one ``fit_transitions`` (DaRe if above 1).
        reverse: False steps in the order of time: the control.
        average: whether ``values`` and ``act`` read ``averaged_`` instead of the latest weights.
            Targets are renewed from the latest weights in either case. What a constant step
            leaves behind is noise, which the mean removes, and in the order of time a bias,
            which it does not; give it several passes, or the start is in the mean.

    Raises:
        ValueError: if a number is out of range, or neither or both of ``num_states`` and
            ``features`` are given.

    Example: a corridor of four rooms, the reward at its end.
        >>> t = np.arange(3)
        >>> done = t == 2
        >>> walk = Transitions(t, np.zeros(3, int), 1.0 * done, t + 1, done, done & False)
        >>> agent = QRex(1, num_states=4, gamma=0.5, step=1.0, buffer="episode", reuse=3)
        >>> agent.fit_transitions(walk).w_.ravel().tolist()
        [0.25, 0.5, 1.0, 0.0]

    Reference: Online Target Q-learning with Reverse Experience Replay: Efficiently Finding the
    Optimal Policy for Linear MDPs (Agarwal, Chaudhuri, Jain, Nagaraj, Netrapalli, 2021).
    """

    def __init__(
        self,
        num_actions: int,
        num_states: int | None = None,
        features: Callable[[npt.NDArray[Any]], npt.ArrayLike] | None = None,
        num_features: int | None = None,
        *,
        gamma: float = 0.99,
        step: float = 0.5,
        buffer: int | str = 50,
        gap: int = 0,
        buffers_per_target: int = 4,
        reuse: int = 1,
        reverse: bool = True,
        average: bool = False,
    ) -> None:
        self.num_actions = check_integer("num_actions", num_actions, minimum=1)
        if (num_states is None) == (features is None):
            raise ValueError(
                "give num_states for a table of discrete states, or features and num_features "
                "for anything else, and not both"
            )
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {gamma!r}")
        if not 0 < step < np.inf:
            raise ValueError(f"step must be a positive number, got {step!r}")
        if isinstance(buffer, str):
            check_one_of("buffer, if not a number,", buffer, ["episode"])
        else:
            check_integer("buffer", buffer, minimum=1)
        self.features, self.gamma, self.step = features, float(gamma), float(step)
        self.buffer, self.gap = buffer, check_integer("gap", gap, minimum=0)
        self.buffers_per_target = check_integer(
            "buffers_per_target", buffers_per_target, minimum=1
        )
        self.reuse, self.reverse = check_integer("reuse", reuse, minimum=1), bool(reverse)
        if num_states is not None:
            shape: tuple[int, ...] = (check_integer("num_states", num_states, minimum=1),)
            shape += (self.num_actions,)
        elif num_features is None:
            raise ValueError("num_features must be given with features")
        else:
            shape = (check_integer("num_features", num_features, minimum=1),)
        self.w_: FloatArray = np.zeros(shape)
        self.num_targets_, self.average = 0, bool(average)
        self._tail = TailMean(shape)

    def fit_transitions(self, transitions: Transitions) -> QRex:
        """Learn from transitions in the order of time, ``reuse`` times over.

        May be called again with later ones; a target is renewed at the end of every call.

        Raises:
            ValueError: if the columns differ in length, are out of range or not finite.
            Diverged: if the weights grow beyond all bounds.
        """
        columns = self._columns(transitions)
        buffers = self._buffers(transitions)
        for _ in range(self.reuse):
            for first in range(0, len(buffers), self.buffers_per_target):
                order = np.concatenate(buffers[first : first + self.buffers_per_target])
                self._step_on(order, columns)
        return self

    def fit(
        self,
        env: Any,
        steps: int,
        behaviour: Callable[[Any, np.random.Generator], int] | None = None,
        seed: int = 0,
        *,
        collect: int | None = None,
    ) -> QRex:
        """Walk through a gymnasium environment and learn from it.

        Args:
            env: with a discrete action space; discrete states unless there is ``features``.
            steps: T, of the environment.
            behaviour: (state, generator) -> action; uniformly random if None.
            seed: of the environment and of the behaviour.
            collect: transitions gathered before learning from them; all if None.

        Raises:
            TypeError: if the spaces are not discrete where they must be.
            ValueError: if ``steps`` < 1.
        """
        check_integer("steps", steps, minimum=1)
        self._check_spaces(env)
        rng = np.random.default_rng(seed_of(seed, "behaviour"))
        state, _ = env.reset(seed=seed_of(seed, "environment") % 2**31)
        rows: list[tuple[Any, ...]] = []
        for t in range(steps):
            action = behaviour(state, rng) if behaviour else int(rng.integers(self.num_actions))
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((state, action, reward, following, terminated, truncated))
            state = env.reset()[0] if terminated or truncated else following
            if len(rows) == (collect or steps) or t == steps - 1:
                self.fit_transitions(transitions_of(rows))
                rows = []
        return self

    @property
    def averaged_(self) -> FloatArray:
        """The mean of the targets of the second half of all so far, as ``w_``.

        Raises:
            ValueError: if nothing has been learned yet.
        """
        return self._tail.mean()

    def values(self, states: Any) -> FloatArray:
        """Return Q of every action, (n, A), for states (n, ...)."""
        weights = self.averaged_ if self.average and self.num_targets_ else self.w_
        if self.features is None:
            return np.asarray(weights[np.asarray(states, np.int64)])
        return np.asarray(self._featured(np.asarray(states)) @ weights)

    def act(self, state: Any) -> int:
        """Return the action of the highest value in one state."""
        return int(self.values(np.asarray(state)[None])[0].argmax())

    def _featured(self, states: npt.NDArray[Any]) -> FloatArray:
        """Return f(s, a), (n, A, p), checked."""
        assert self.features is not None
        found = np.ascontiguousarray(self.features(states), np.float64)
        wanted = (len(states), self.num_actions, *self.w_.shape)
        if found.shape != wanted:
            raise ValueError(f"features must return (n, A, p) = {wanted}, got {found.shape}")
        return found

    def _columns(self, t: Transitions) -> dict[str, Any]:
        """Return what the loops read, checked."""
        lengths = {k: len(getattr(t, k)) for k in t.__dataclass_fields__}
        if len(set(lengths.values())) > 1 or not len(t):
            raise ValueError(f"transitions must be columns of one length, above 0, got {lengths}")
        actions, rewards = np.asarray(t.actions, np.int64), np.asarray(t.rewards, np.float64)
        if not np.isfinite(rewards).all():
            raise ValueError("rewards must be finite")
        _within("actions", actions, self.num_actions)
        common = {"rewards": rewards, "terminated": np.asarray(t.terminated, np.bool_)}
        if self.features is None:
            states, following = np.asarray(t.states, np.int64), np.asarray(t.following, np.int64)
            _within("states", states, len(self.w_))
            _within("following", following, len(self.w_))
            return common | {"states": states, "actions": actions, "following": following}
        taken = self._featured(np.asarray(t.states))[np.arange(len(t)), actions]
        return common | {
            "taken": np.ascontiguousarray(taken),
            "offered": self._featured(np.asarray(t.following)),
        }

    def _buffers(self, t: Transitions) -> Sequence[IntArray]:
        """Return the indices of each buffer, in the order they are stepped on."""
        if self.buffer == "episode":
            cuts = np.flatnonzero(np.asarray(t.terminated) | np.asarray(t.truncated)) + 1
            parts = [p for p in np.split(np.arange(len(t)), cuts) if len(p)]
        else:
            size = int(self.buffer)
            starts = range(0, len(t), size + self.gap)
            parts = [np.arange(s, min(s + size, len(t))) for s in starts]
        return [np.ascontiguousarray(p[::-1]) for p in parts] if self.reverse else parts

    def _step_on(self, order: IntArray, columns: dict[str, Any]) -> None:
        """Freeze the target, step on some buffers."""
        run = table_pass if self.features is None else linear_pass
        goal = self.w_.copy()
        run(self.w_, goal, order, gamma=self.gamma, step=self.step, **columns)
        self.num_targets_ += 1
        if not np.abs(self.w_).max() <= 1e12:
            raise Diverged(
                f"the weights grew beyond 1e12 with step {self.step:.3g}: it must be below "
                "1 / (largest squared norm of a feature)"
            )
        self._tail.extend(self.w_[None])

    def _check_spaces(self, env: Any) -> None:
        """Refuse an environment that a table or these actions cannot hold."""
        if not hasattr(env.action_space, "n"):
            raise TypeError(f"actions must be discrete, got the space {env.action_space}")
        if int(env.action_space.n) != self.num_actions:
            raise ValueError(
                f"num_actions is {self.num_actions}, the environment has {env.action_space.n}"
            )
        if self.features is None and not hasattr(env.observation_space, "n"):
            raise TypeError(
                f"states must be discrete for a table, got the space {env.observation_space}; "
                "give features and num_features"
            )


def transitions_of(rows: Sequence[tuple[Any, ...]]) -> Transitions:
    """Return transitions from tuples (state, action, reward, next, terminated, truncated)."""
    s, a, r, n, done, cut = zip(*rows, strict=True)
    return Transitions(
        np.asarray(s), np.asarray(a, np.int64), np.asarray(r, np.float64), np.asarray(n),
        np.asarray(done, np.bool_), np.asarray(cut, np.bool_),
    )  # fmt: skip


def _within(name: str, values: IntArray, bound: int) -> None:
    """Refuse indices outside [0, bound)."""
    if values.min() < 0 or values.max() >= bound:
        raise ValueError(
            f"{name} must be in 0 .. {bound - 1}, got {values.min()} .. {values.max()}"
        )
