"""A ring buffer of transitions that is read in the order of time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer

__all__ = ["Batch", "TransitionRing"]

IntArray = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Transitions, one a row.

    ``discounts`` (n,) multiply the value of ``following``: gamma^m after m steps, and 0 where the
    episode truly ended. A truncated episode is bootstrapped.
    """

    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    following: npt.NDArray[Any]
    discounts: npt.NDArray[np.float32]


class TransitionRing:
    """The latest transitions of one environment; the oldest is forgotten when it is full.

    Args:
        capacity: transitions kept.
        observation_shape: of one observation; () for a discrete state.
        observation_dtype: of observations.
        action_shape: of one action; () for a discrete one.
        action_dtype: of actions.
        gamma: discount, in [0, 1].
        num_steps: m, how many rewards are added up before bootstrapping. The sum stops early at
            the end of an episode, at a truncation and at the newest transition.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> ring = TransitionRing(3, (), np.int64, gamma=0.5)
        >>> for state in range(5):
        ...     ring.add(state, 0, 1.0, state + 1, terminated=state == 4)
        >>> len(ring), ring.gather([0, 2]).observations.tolist()
        (3, [2, 4])
        >>> ring.gather([0, 2]).discounts.tolist()
        [0.5, 0.0]
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, ...],
        observation_dtype: npt.DTypeLike = np.float32,
        action_shape: tuple[int, ...] = (),
        action_dtype: npt.DTypeLike = np.int64,
        *,
        gamma: float = 0.99,
        num_steps: int = 1,
    ) -> None:
        self.capacity = check_integer("capacity", capacity, minimum=1)
        self.num_steps = check_integer("num_steps", num_steps, minimum=1)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma!r}")
        self.gamma = float(gamma)
        self._observations = np.zeros((capacity, *observation_shape), observation_dtype)
        self._following = np.zeros((capacity, *observation_shape), observation_dtype)
        self._actions = np.zeros((capacity, *action_shape), action_dtype)
        self._rewards = np.zeros(capacity, np.float32)
        self._terminated, self._truncated = np.zeros((2, capacity), np.bool_)
        self.num_added = 0

    def __len__(self) -> int:
        return min(self.num_added, self.capacity)

    def add(
        self,
        observation: Any,
        action: Any,
        reward: float,
        following: Any,
        terminated: bool,
        truncated: bool = False,
    ) -> None:
        """Store one transition at the write head."""
        at = self.num_added % self.capacity
        self._observations[at], self._following[at] = observation, following
        self._actions[at], self._rewards[at] = action, reward
        self._terminated[at], self._truncated[at] = terminated, truncated
        self.num_added += 1

    def places(self, indices: Any) -> IntArray:
        """Return where transitions lie in the ring: index 0 is the oldest still stored.

        Raises:
            IndexError: if an index is not in 0 .. len - 1.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(
                f"indices must be in 0 .. {len(self) - 1} (0: the oldest stored), got "
                f"{wanted.min()} .. {wanted.max()}"
            )
        return np.asarray((wanted + self.num_added - len(self)) % self.capacity)

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """Whether an episode ended with each transition, (n,), in the order of time."""
        at = self.places(np.arange(len(self)))
        return np.asarray(self._terminated[at] | self._truncated[at])

    def gather(self, indices: Any) -> Batch:
        """Return transitions by their index in time.

        Raises:
            IndexError: if an index is not in 0 .. len - 1.
        """
        first = self.places(indices)
        last, more = first, np.ones(first.shape, np.bool_)
        rewards = self._rewards[first].astype(np.float64)
        discounts = np.full(first.shape, self.gamma)
        newest = (self.num_added - 1) % self.capacity
        for _ in range(1, self.num_steps):
            more = more & ~self._terminated[last] & ~self._truncated[last] & (last != newest)
            last = np.where(more, (last + 1) % self.capacity, last)
            rewards += np.where(more, discounts * self._rewards[last], 0.0)
            discounts = np.where(more, discounts * self.gamma, discounts)
        discounts = np.where(self._terminated[last], 0.0, discounts)
        return Batch(
            self._observations[first],
            self._actions[first],
            rewards.astype(np.float32),
            self._following[last],
            discounts.astype(np.float32),
        )
