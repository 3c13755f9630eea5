"""Introspective replay for stable-baselines3: a replay buffer and the callback that feeds it.

model = DQN("MlpPolicy", env, replay_buffer_class=IntrospectiveReplayBuffer,
            replay_buffer_kwargs={"mode": "uier"}, train_freq=128, gradient_steps=64)
model.learn(100_000, callback=IntrospectionCallback())
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.replay.introspection import IntrospectiveSampler

__all__ = ["IntrospectionCallback", "IntrospectiveReplayBuffer"]

_ReplayBuffer: Any = object
_BaseCallback: Any = object
_samples: Any = None
with contextlib.suppress(ImportError):
    _ReplayBuffer = import_module("stable_baselines3.common.buffers").ReplayBuffer
    _BaseCallback = import_module("stable_baselines3.common.callbacks").BaseCallback
    _samples = import_module("stable_baselines3.common.type_aliases").ReplayBufferSamples


def _need() -> None:
    """Refuse to go on without the library."""
    if _samples is None:
        raise ImportError('stable-baselines3 is missing: pip install "recollect[rl]"')


class IntrospectiveReplayBuffer(_ReplayBuffer):  # type: ignore[misc]
    """A stable-baselines3 replay buffer whose batches look back from surprising transitions.

    Environments side by side are looked back in one by one, the write head is never crossed, and
    what was cut by a time limit is bootstrapped. Needs :class:`IntrospectionCallback`.

    Args:
        *args: as ``stable_baselines3.common.buffers.ReplayBuffer``.
        mode: as :class:`IntrospectiveSampler`, but for ``"per"`` (its weights cannot reach the
            loss of stable-baselines3).
        mix: share of look-backs in ``"uier"``.
        min_gap: least distance between pivots.
        respect_episodes: whether a look-back stops where the episode began.
        seed: of ties and uniform choices.
        **kwargs: as ``ReplayBuffer``.

    Raises:
        ImportError: without stable-baselines3.
        ValueError: for ``"per"`` or ``optimize_memory_usage``.
    """

    def __init__(
        self,
        *args: Any,
        mode: str = "ier",
        mix: float = 0.7,
        min_gap: int = 1,
        respect_episodes: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        _need()
        if mode == "per":
            raise ValueError("mode 'per' needs a weighted loss, which stable-baselines3 has not")
        if kwargs.get("optimize_memory_usage"):
            raise ValueError("optimize_memory_usage must be off: next observations are needed")
        super().__init__(*args, **kwargs)
        self.options: dict[str, Any] = {"mode": mode, "mix": mix, "min_gap": min_gap, "auto": True}
        self.options["respect_episodes"] = respect_episodes
        IntrospectiveSampler(1, 1, **self.options)  # refuses bad options at once
        self.seed, self.phases = seed, 0
        self.sampler: IntrospectiveSampler | None = None

    @property
    def remaining(self) -> int:
        """Batches left in this phase."""
        return self.sampler.remaining if self.sampler else 0

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the rows in the order of time, (n,), the oldest first."""
        start = self.pos if self.full else 0
        return np.asarray((start + np.arange(self.size())) % self.buffer_size)

    def begin_phase(self, surprise: npt.ArrayLike, batch_size: int, num_pivots: int) -> None:
        """Choose the pivots of the next ``num_pivots`` batches.

        Args:
            surprise: of the stored transitions in the order of time, (n, n_envs).
            batch_size: B.
            num_pivots: G.

        Raises:
            ValueError: if fewer than B rows are stored, or the shape or a number is wrong.
        """
        found = np.asarray(surprise)
        if found.shape != (self.size(), self.n_envs):
            raise ValueError(
                f"surprise must have shape {(self.size(), self.n_envs)}, got {found.shape}"
            )
        seed = seed_of(self.seed, "phase", self.phases)
        sampler = IntrospectiveSampler(batch_size, num_pivots, seed=seed, **self.options)
        sampler.refresh(found, self.dones[self.rows()] > 0)
        self.sampler, self.phases = sampler, self.phases + 1

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Return the next batch of the phase.

        Raises:
            RuntimeError: if no phase has begun (the callback is missing), or it has another
                batch size.
        """
        if self.sampler is None:
            raise RuntimeError(
                "no surprise is known yet: give learn(..., callback=IntrospectionCallback())"
            )
        if batch_size != self.sampler.batch_size:
            raise RuntimeError(
                f"the phase was begun for batches of {self.sampler.batch_size}, got {batch_size}"
            )
        times, columns = np.divmod(self.sampler.sample(), self.n_envs)
        return self.gather(times, columns, env)

    def gather(self, times: Any, columns: Any, env: Any = None) -> Any:
        """Return transitions by time (0: the oldest) and environment."""
        at = self.rows()[times]
        dones = self.dones[at, columns] * (1 - self.timeouts[at, columns])
        rewards = self._normalize_reward(self.rewards[at, columns].reshape(-1, 1), env)
        data = (
            self._normalize_obs(self.observations[at, columns, :], env),
            self.actions[at, columns, :],
            self._normalize_obs(self.next_observations[at, columns, :], env),
            dones.reshape(-1, 1),
            rewards,
        )
        return _samples(*tuple(map(self.to_torch, data)))


class IntrospectionCallback(_BaseCallback):  # type: ignore[misc]
    """Measures the surprise of all stored transitions at the start of each training phase.

    Args:
        num_pivots: gradient steps of a phase; the model's ``gradient_steps`` if None, or as many
            as it collects where that is -1. A larger number spans several rollouts, and saves
            passes over the buffer.
        surprise: (model, samples) -> (n,) absolute errors; if None, TD errors of DQN, TD3 or DDPG.
        chunk: transitions in one forward pass.

    Raises:
        ImportError: without stable-baselines3.
        ValueError: if a number is below 1.
    """

    def __init__(
        self,
        num_pivots: int | None = None,
        surprise: Callable[[Any, Any], torch.Tensor] | None = None,
        chunk: int = 4096,
    ) -> None:
        _need()
        super().__init__()
        if num_pivots is not None:
            check_integer("num_pivots", num_pivots, minimum=1)
        self.num_pivots, self.surprise = num_pivots, surprise or model_surprise
        self.chunk = check_integer("chunk", chunk, minimum=1)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Begin a phase if the last one is used up and training will follow."""
        buffer = self.model.replay_buffer
        if not isinstance(buffer, IntrospectiveReplayBuffer):
            raise TypeError(
                "IntrospectionCallback needs replay_buffer_class=IntrospectiveReplayBuffer, got "
                f"{type(buffer).__name__}"
            )
        wanted = self.num_pivots or self.model.gradient_steps
        if wanted < 1:  # -1: as many steps as were collected
            wanted = max(1, self.model.train_freq.frequency * buffer.n_envs)
        late = self.model.num_timesteps > self.model.learning_starts
        if not late or buffer.remaining >= max(1, self.model.gradient_steps):
            return
        cells = np.arange(buffer.size() * buffer.n_envs)
        found = []
        for part in np.split(cells, range(self.chunk, len(cells), self.chunk)):
            env = self.model._vec_normalize_env
            data = buffer.gather(*np.divmod(part, buffer.n_envs), env)
            with torch.no_grad():
                found.append(self.surprise(self.model, data).cpu().numpy().ravel())
        table = np.concatenate(found).reshape(-1, buffer.n_envs)
        buffer.begin_phase(table, self.model.batch_size, wanted)


def model_surprise(model: Any, data: Any) -> torch.Tensor:
    """Return |TD error|, (n,), of a DQN, TD3 or DDPG model.

    Raises:
        TypeError: for another kind of model.
    """
    if hasattr(model, "q_net_target"):
        following = model.q_net_target(data.next_observations).max(1, keepdim=True).values
        values = [model.q_net(data.observations).gather(1, data.actions.long())]
    elif hasattr(model, "actor_target") and hasattr(model, "critic_target"):
        actions = model.actor_target(data.next_observations)
        targets = model.critic_target(data.next_observations, actions)
        following = torch.cat(targets, 1).min(1, keepdim=True).values
        values = list(model.critic(data.observations, data.actions))
    else:
        raise TypeError(
            f"the TD error of {type(model).__name__} is not known here: give "
            "IntrospectionCallback(surprise=...)"
        )
    goal: torch.Tensor = data.rewards + (1 - data.dones) * model.gamma * following
    return (goal - torch.cat(values, 1)).abs().mean(1)
