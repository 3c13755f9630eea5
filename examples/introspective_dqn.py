"""DQN on CartPole in one file, with batches that look back from surprising transitions.

    python examples/introspective_dqn.py --mode uier --seed 0

Modes: uer (uniform), per, rer (reverse), ier, uier, forward, oer. Needs gymnasium.
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn

from recollect.replay import IntrospectiveSampler, TransitionRing, td_errors, td_targets


def train(
    env_name: str = "CartPole-v1",
    mode: str = "uier",
    seed: int = 0,
    steps: int = 20_000,
    *,
    collect: int = 128,
    updates: int = 64,
    batch: int = 64,
    target_every: int = 4,
    gamma: float = 0.98,
    lr: float = 1e-3,
) -> list[float]:
    """Train a small network; return the return of every episode."""
    env = gymnasium.make(env_name)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size, num_actions = env.observation_space.shape[0], int(env.action_space.n)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                             nn.Linear(64, num_actions))  # fmt: skip

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=lr)
    ring = TransitionRing(50_000, (size,), gamma=gamma)
    sampler = IntrospectiveSampler(batch, updates, mode, seed=seed)
    returns, earned = [], 0.0
    state, _ = env.reset(seed=seed)
    for t in range(1, steps + 1):
        if rng.random() < max(0.05, 1 - t / (0.4 * steps)):
            action = int(rng.integers(num_actions))
        else:
            with torch.no_grad():
                action = int(online(torch.from_numpy(state)).argmax())
        after, reward, terminated, truncated, _ = env.step(action)
        ring.add(state, action, float(reward), after, terminated, truncated)
        state, earned = after, earned + float(reward)
        if terminated or truncated:
            returns.append(earned)
            state, earned = env.reset()[0], 0.0
        if t % collect or t < 1000:
            continue
        sampler.refresh(td_errors(ring, online, target))
        for _ in range(updates):
            rows = ring.gather(sampler.sample())
            taken = torch.from_numpy(rows.actions)[:, None]
            values = online(torch.from_numpy(rows.observations)).gather(1, taken)[:, 0]
            losses = nn.functional.smooth_l1_loss(
                values, td_targets(rows, target), reduction="none"
            )
            loss = (losses * torch.from_numpy(sampler.weights).float()).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(online.parameters(), 10.0)
            optimizer.step()
        if t // collect % target_every == 0:
            target.load_state_dict(online.state_dict())
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--mode", default="uier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20_000)
    given = parser.parse_args()
    returns = train(given.env, given.mode, given.seed, given.steps)
    print(f"{len(returns)} episodes; mean return of the last fifth: "
          f"{np.mean(returns[-max(1, len(returns) // 5):]):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
