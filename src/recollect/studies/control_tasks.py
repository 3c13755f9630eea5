"""Tasks of control for DQN, ten seeds side by side: CartPole, Acrobot, MountainCar, LunarLander.

Every method collects, explores and updates alike; only the choice of batches differs. What a
task is trained with was settled on uniform replay alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from recollect.studies import dqn
from recollect.studies.reliability import over_seeds
from recollect.studies.running import Journal

__all__ = ["METHODS", "MORE", "TASKS", "Control", "control"]

SEEDS = 10


@dataclass(frozen=True)
class Control:
    """One task.

    Attributes:
        env: name in gymnasium.
        steps: of each copy of the environment.
        arrived: return from which on a seed counts as having solved it.
        needs: module that the environment imports.
        keys: further keywords of ``dqn.train``.
    """

    env: str
    steps: int
    arrived: float
    needs: str = "gymnasium"
    keys: Mapping[str, Any] = field(default_factory=dict)


_SPARING = {"updates": 32, "gamma": 0.99}
TASKS = {
    "CartPole": Control("CartPole-v1", 8000, 195.0, keys={"updates": 64}),
    "Acrobot": Control("Acrobot-v1", 15_000, -100.0, keys=_SPARING),
    # Single actions by chance never reach the hill; kept up for 16 steps, in a tenth of episodes.
    "MountainCar": Control("MountainCar-v0", 30_000, -110.0, keys={**_SPARING, "hold": 16}),
    "LunarLander": Control("LunarLander-v3", 25_000, 200.0, "Box2D", _SPARING),
}
# What every task is learned with, and what CartPole is learned with as well.
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {"mode": "uer"},
    "prioritised": {"mode": "per"},
    "reverse": {"mode": "rer"},
    "introspective": {"mode": "ier"},
    "introspective, 30 % uniform": {"mode": "uier"},
}
MORE: dict[str, dict[str, Any]] = {
    "most surprising only": {"mode": "oer"},
    "introspective, 70 % uniform": {"mode": "uier", "mix": 0.3},
    "introspective, pivots 64 apart": {"mode": "ier", "min_gap": 64},
}


def control(quick: bool, journal: Journal) -> Iterator[dict[str, Any]]:
    """Yield one row for each task and method.

    Args:
        quick: CartPole only, fewer steps, two methods.
        journal: what is known already, and where more is written down.
    """
    for name, task in TASKS.items():
        if find_spec(task.needs) is None or (quick and name != "CartPole"):
            continue
        steps = 5000 if quick else task.steps
        methods = METHODS | MORE if name == "CartPole" else METHODS
        for method, keys in methods.items():
            if quick and method not in ("uniform", "introspective, 30 % uniform"):
                continue
            row = journal.row(
                {"task": name, "method": method, "steps": steps, "seeds": SEEDS, **task.keys},
                lambda: _row(name, method, task, steps, {**task.keys, **keys}),  # noqa: B023
            )
            assert row is not None
            yield row


def _row(
    name: str, method: str, task: Control, steps: int, keys: Mapping[str, Any]
) -> dict[str, Any]:
    """Train ten seeds with one method."""
    found = dqn.train(task.env, steps=steps, seeds=SEEDS, **keys)
    return {
        "task": f"{name}, DQN",
        "method": method,
        **over_seeds(found.returns >= task.arrived, found.returns),
        "distinct": found.distinct,
        "ends": found.ends,
    }
