"""DQN with all seeds side by side: S small networks as one, in S copies of an environment.

Weights are (S, in, out) tensors and every layer is one batched product, so that ten seeds take
little longer than one. Each seed has its own copy of the environment, its own sampler and its
own transitions; these lie in one ring, transition t of seed s at t S + s, so that a batch of every
seed is gathered at once.

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
from recollect.replay import Batch, IntrospectiveSampler, TransitionRing
from recollect.replay.introspection import BLIND

__all__ = ["Learned", "SideBySide", "train"]

FloatArray = npt.NDArray[np.float64]
COLLECT, LR, EARLIEST = 128, 1e-3, 1000
CHUNK = 2048  # transitions of each seed in one forward pass


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
    gamma: float = 0.98,
    lr: float = LR,
    hold: int = 1,
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
        gamma: discount of a step.
        lr: of Adam.
        hold: steps for which an action by chance is kept up; as many steps explore as with 1.
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
    optimizer = torch.optim.Adam(online.parameters(), lr, fused=True)
    ring = TransitionRing(steps * seeds, (d,), gamma=gamma)
    samplers = [
        IntrospectiveSampler(batch, updates, mode, mix, min_gap=min_gap, seed=s)
        for s in range(seeds)
    ]
    watch, walked = _Watch(seeds), _Walk(env, ring, seeds, sparse)
    for t in range(1, steps + 1):
        chance = max(0.05, 1 - t / (0.4 * steps))
        walked.step(walked.choose(online, chance, actions, hold), watch, t > 0.8 * steps)
        if t % COLLECT or t < EARLIEST:
            continue
        if mode not in BLIND or t + COLLECT > steps:
            watch.surprise = _refresh(ring, samplers, online, target)
        else:
            for sampler in samplers:
                sampler.refresh(np.zeros(t))
        for _ in range(updates):
            rows = np.stack([sampler.sample() for sampler in samplers])
            watch.batches.append(rows)
            _update(ring, rows, samplers, online, target, optimizer)
        watch.phase(ring)
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

    def phase(self, ring: TransitionRing) -> None:
        drawn = np.stack(self.batches, 1).reshape(len(self.now), -1)
        self.batches.clear()
        self.distinct += [len(np.unique(rows)) / len(rows) for rows in drawn]
        self.terminal.append(float((_gathered(ring, drawn).discounts == 0).mean()))

    def told(self) -> Learned:
        late = [np.mean(e) if e else n for e, n in zip(self.ended, self.now, strict=True)]
        return Learned(
            np.array(late, np.float64),
            float(np.mean(self.distinct)),
            float(np.mean(self.terminal)),
            self.surprise,
        )


class _Walk:
    """S copies of an environment, and the ring that keeps what happens in them."""

    def __init__(self, env: Any, ring: TransitionRing, seeds: int, sparse: bool) -> None:
        self.env, self.ring, self.sparse = env, ring, sparse
        self.rngs = [np.random.default_rng(seed_of(s, "actions")) for s in range(seeds)]
        begins = [seed_of(s, "environment") % 2**31 for s in range(seeds)]
        self.state, _ = env.reset(seed=begins)
        self.held, self.left = np.zeros((2, seeds), np.int64)

    @torch.no_grad()
    def choose(
        self, online: SideBySide, chance: float, actions: int, hold: int
    ) -> npt.NDArray[np.int64]:
        """Return an action for each seed: greedy, or by chance and then kept up for a while."""
        best = online(torch.from_numpy(self.state).float()[:, None]).argmax(2)[:, 0].numpy()
        begin = chance / (chance + hold * (1 - chance))
        tosses = [(rng.random(), rng.integers(actions)) for rng in self.rngs]
        drawn, guesses = (np.array(part) for part in zip(*tosses, strict=True))
        anew = (self.left == 0) & (drawn < begin)
        self.held, self.left = np.where(anew, guesses, self.held), np.where(anew, hold, self.left)
        explores = self.left > 0
        self.left = np.maximum(self.left - 1, 0)
        return np.where(explores, self.held, best)

    def step(self, action: npt.NDArray[np.int64], watch: _Watch, late: bool) -> None:
        """Act once in every copy."""
        after, reward, terminated, truncated, info = self.env.step(action)
        for s in range(len(self.rngs)):
            ended, cut = bool(terminated[s]), bool(truncated[s])
            then = info["final_obs"][s] if ended or cut else after[s]
            given = -float(ended) if self.sparse else float(reward[s])
            self.ring.add(self.state[s], action[s], given, then, ended, cut)
            watch.earn(s, float(reward[s]), ended or cut, late)
        self.state = after


def _gathered(ring: TransitionRing, rows: npt.NDArray[np.int64]) -> Batch:
    """Return transitions (S, n, ...) of every seed by their times (S, n)."""
    return ring.gather(rows * len(rows) + np.arange(len(rows))[:, None])


def _refresh(
    ring: TransitionRing,
    samplers: list[IntrospectiveSampler],
    online: SideBySide,
    target: SideBySide,
) -> FloatArray:
    """Measure |TD error| of all that is stored, and begin a phase; return its mean by seed."""
    seeds = len(samplers)
    times = np.arange(len(ring) // seeds)
    with torch.no_grad():
        parts = [
            _errors(_gathered(ring, np.tile(part, (seeds, 1))), online, target)
            for part in np.split(times, range(CHUNK, len(times), CHUNK))
        ]
    errors = torch.cat(parts, 1).abs().double().numpy()
    for sampler, found in zip(samplers, errors, strict=True):
        sampler.refresh(found)
    return np.asarray(errors.mean(1), np.float64)


def _errors(batch: Batch, online: SideBySide, target: SideBySide) -> Tensor:
    """Return values less targets, (S, n)."""
    x, a, r, then, discount = map(torch.from_numpy, batch)
    with torch.no_grad():
        goal = r + discount * target(then).amax(2)
    return torch.as_tensor(online(x).gather(2, a[..., None])[..., 0] - goal)


def _update(
    ring: TransitionRing,
    rows: npt.NDArray[np.int64],
    samplers: list[IntrospectiveSampler],
    online: SideBySide,
    target: SideBySide,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Take one gradient step for every seed, each with its own clipped gradient."""
    errors = _errors(_gathered(ring, rows), online, target)
    w = torch.from_numpy(np.stack([sampler.weights for sampler in samplers])).float()
    loss = F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none")
    optimizer.zero_grad()
    (loss * w).mean(1).sum().backward()  # type: ignore[no-untyped-call]
    slopes = [p.grad for p in online.parameters() if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in slopes]).norm(dim=0)
    scale = (10.0 / norms.clamp_min(1e-12)).clamp(max=1.0)[:, None, None]
    for g in slopes:
        g *= scale
    optimizer.step()
