"""DQN with all seeds side by side: S small networks as one, in S copies of an environment.

Weights are (S, in, out) tensors and every layer is one batched product, so that ten seeds take
little longer than one. Each seed has its own ring of transitions and its own sampler; nothing but
the clock is shared.

Shape letters: S seeds, B transitions of a batch, d numbers of an observation, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of
from recollect.replay import IntrospectiveSampler, TransitionRing

__all__ = ["Learned", "SideBySide", "train"]

FloatArray = npt.NDArray[np.float64]
COLLECT, GAMMA, LR = 128, 0.98, 1e-3


class SideBySide(nn.Module):
    """S networks d - 64 - 64 - A with weights of their own.

    Args:
        seeds: S, begun from seeds 0 .. S - 1.
        d: numbers of an observation.
        actions: A.
        hidden: units of the two hidden layers.
    """

    def __init__(self, seeds: int, d: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        sizes = [(d, hidden), (hidden, hidden), (hidden, actions)]
        layers: list[list[Tensor]] = []
        for seed in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(seed, "side by side"))
                linear = [nn.Linear(a, b) for a, b in sizes]
            layers.append([t.detach() for m in linear for t in (m.weight.T, m.bias[None])])
        self.tensors = nn.ParameterList(
            [torch.stack(parts).contiguous() for parts in zip(*layers, strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map observations (S, n, d) to values (S, n, A)."""
        W1, b1, W2, b2, W3, b3 = self.tensors
        h = torch.relu(torch.baddbmm(b1, x, W1))
        h = torch.relu(torch.baddbmm(b2, h, W2))
        return torch.as_tensor(torch.baddbmm(b3, h, W3))


@dataclass(frozen=True, eq=False)
class Learned:
    """What S seeds came to.

    Attributes:
        returns: (S,) mean return of the episodes that ended in the last fifth of the steps.
        distinct: share of the transitions of a phase's batches that are distinct, mean.
        ends: share of transitions in the batches with which an episode terminated, mean.
        surprise: (S,) mean |TD error| over everything stored, in the last phase.
    """

    returns: FloatArray
    distinct: float
    ends: float
    surprise: FloatArray


def train(
    env_name: str = "CartPole-v1",
    mode: str = "uer",
    seeds: int = 10,
    steps: int = 8000,
    *,
    updates: int = 64,
    batch: int = 64,
    target_every: int = 4,
    min_gap: int = 1,
    mix: float = 0.7,
    sparse: bool = False,
) -> Learned:
    """Train S networks; see ``examples/introspective_dqn.py`` for one.

    Args:
        env_name: of gymnasium, with a vector of numbers as observation and discrete actions.
        mode: of ``IntrospectiveSampler``.
        seeds: S.
        steps: of each copy of the environment.
        updates: gradient steps a phase of 128 steps.
        batch: B.
        target_every: phases between copies of the target network.
        min_gap: between pivots.
        mix: share of look-backs in ``"uier"``.
        sparse: whether all rewards are 0 but -1 where an episode terminates, for learning; the
            returns that are told are the environment's.

    Raises:
        ImportError: if gymnasium is missing.
    """
    import gymnasium

    same = gymnasium.vector.AutoresetMode.SAME_STEP
    env = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make(env_name)] * seeds, autoreset_mode=same
    )
    seen: Any = env.single_observation_space
    possible: Any = env.single_action_space
    d, actions = seen.shape[0], int(possible.n)
    online, target = SideBySide(seeds, d, actions), SideBySide(seeds, d, actions)
    optimizer = torch.optim.Adam(online.parameters(), LR, foreach=True)
    rings = [TransitionRing(steps, (d,), gamma=GAMMA) for _ in range(seeds)]
    samplers = [
        IntrospectiveSampler(batch, updates, mode, mix, min_gap=min_gap, seed=s)
        for s in range(seeds)
    ]
    watch, walked = _Watch(seeds), _Walk(env, rings, seeds, sparse)
    for t in range(1, steps + 1):
        chance = max(0.05, 1 - t / (0.4 * steps))
        moves = _act(online, walked.state, walked.rngs, chance, actions)
        walked.step(moves, watch, t > 0.8 * steps)
        if t % COLLECT or t < 1000:
            continue
        watch.surprise = _refresh(rings, samplers, online, target)
        for _ in range(updates):
            rows = [sampler.sample() for sampler in samplers]
            watch.batches.append(np.stack(rows))
            _update(rings, rows, samplers, online, target, optimizer)
        watch.phase(rings)
        if t // COLLECT % target_every == 0:
            target.load_state_dict(online.state_dict())
    env.close()
    return watch.told()


class _Watch:
    """Counts what happens while training."""

    def __init__(self, seeds: int) -> None:
        self.now, self.ended = np.zeros(seeds), [[] for _ in range(seeds)]  # type: ignore[var-annotated]
        self.batches: list[npt.NDArray[Any]] = []
        self.distinct: list[float] = []
        self.terminal: list[float] = []
        self.surprise: FloatArray = np.zeros(seeds)

    def earn(self, seed: int, reward: float, over: bool, late: bool) -> None:
        self.now[seed] += reward
        if over:
            if late:
                self.ended[seed].append(self.now[seed])
            self.now[seed] = 0.0

    def phase(self, rings: list[TransitionRing]) -> None:
        drawn = np.stack(self.batches, 1).reshape(len(rings), -1)
        self.batches.clear()
        for ring, rows in zip(rings, drawn, strict=True):
            self.distinct.append(len(np.unique(rows)) / len(rows))
            self.terminal.append(float((ring.gather(rows).discounts == 0).mean()))

    def told(self) -> Learned:
        late = [np.mean(e) if e else n for e, n in zip(self.ended, self.now, strict=True)]
        return Learned(
            np.array(late, np.float64),
            float(np.mean(self.distinct)),
            float(np.mean(self.terminal)),
            self.surprise,
        )


class _Walk:
    """S copies of an environment, and the rings that keep what happens in them."""

    def __init__(self, env: Any, rings: list[TransitionRing], seeds: int, sparse: bool) -> None:
        self.env, self.rings, self.sparse = env, rings, sparse
        self.rngs = [np.random.default_rng(seed_of(s, "actions")) for s in range(seeds)]
        begins = [seed_of(s, "environment") % 2**31 for s in range(seeds)]
        self.state, _ = env.reset(seed=begins)

    def step(self, action: npt.NDArray[np.int64], watch: _Watch, late: bool) -> None:
        """Act once in every copy."""
        after, reward, terminated, truncated, info = self.env.step(action)
        for s, ring in enumerate(self.rings):
            ended, cut = bool(terminated[s]), bool(truncated[s])
            then = info["final_obs"][s] if ended or cut else after[s]
            given = -float(ended) if self.sparse else float(reward[s])
            ring.add(self.state[s], action[s], given, then, ended, cut)
            watch.earn(s, float(reward[s]), ended or cut, late)
        self.state = after


@torch.no_grad()
def _act(
    online: SideBySide, state: Any, rngs: list[np.random.Generator], chance: float, actions: int
) -> npt.NDArray[np.int64]:
    """Return an action for each seed: greedy, or by chance."""
    best = online(torch.from_numpy(state).float()[:, None]).argmax(2)[:, 0].numpy()
    tosses = [(rng.random(), rng.integers(actions)) for rng in rngs]
    return np.array([b if u < chance else a for a, (u, b) in zip(best, tosses, strict=True)])


def _refresh(
    rings: list[TransitionRing],
    samplers: list[IntrospectiveSampler],
    online: SideBySide,
    target: SideBySide,
) -> FloatArray:
    """Measure |TD error| of all that is stored, and begin a phase; return its mean by seed."""
    every = [ring.gather(np.arange(len(ring))) for ring in rings]
    with torch.no_grad():
        errors = _errors(every, online, target).abs().double().numpy()
    for sampler, found in zip(samplers, errors, strict=True):
        sampler.refresh(found)
    return np.asarray(errors.mean(1), np.float64)


def _errors(batches: list[Any], online: SideBySide, target: SideBySide) -> Tensor:
    """Return values less targets, (S, n)."""
    x, a, r, then, discount = (
        torch.from_numpy(np.stack(part)) for part in zip(*batches, strict=True)
    )
    with torch.no_grad():
        goal = r + discount * target(then).amax(2)
    return torch.as_tensor(online(x).gather(2, a[..., None])[..., 0] - goal)


def _update(
    rings: list[TransitionRing],
    rows: list[Any],
    samplers: list[IntrospectiveSampler],
    online: SideBySide,
    target: SideBySide,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Take one gradient step for every seed, each with its own clipped gradient."""
    batches = [ring.gather(some) for ring, some in zip(rings, rows, strict=True)]
    errors = _errors(batches, online, target)
    w = torch.from_numpy(np.stack([sampler.weights for sampler in samplers])).float()
    loss = F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none")
    optimizer.zero_grad()
    (loss * w).mean(1).sum().backward()  # type: ignore[no-untyped-call]
    squares = [(p.grad**2).sum((1, 2)) for p in online.parameters() if p.grad is not None]
    scale = (10.0 / torch.stack(squares).sum(0).sqrt().clamp_min(1e-12)).clamp(max=1.0)
    for p in online.parameters():
        if p.grad is not None:
            p.grad *= scale[:, None, None]
    optimizer.step()
