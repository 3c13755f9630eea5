"""The view of paths, on a PathNet that learns the digits 0 to 4, then 5 to 9.

After every generation each path of the population looks at the same digits, and the whole look is
one glance. With ``data`` the digits are MNIST's, else scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as Folder

import numpy as np
import torch
from torch import Tensor

from recollect.studies.pictures import digits
from recollect.studies.views.evolving import (
    Generation,
    Path,
    PathNet,
    Task,
    accuracy,
    evolve,
)
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, raw_vectors, score
from recollect.tracing import Trace, capture, trace

__all__ = ["Life", "live", "measure", "tasks"]

DIM, LOOKED_AT = 256, 64
# Glances that are scored, half of them as the past.
MOST = 480


@dataclass(eq=False)
class Life:
    """What a network went through.

    Attributes:
        network: trained on all tasks.
        best: task -> its best path.
        right: task -> accuracy on held-out digits, measured at the end.
        glances: one trace for each generation, a glance for each path of the population.
        generations: (task, generation) in the same order.
    """

    network: PathNet
    best: dict[str, Path] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    glances: list[Trace] = field(default_factory=list)
    generations: list[tuple[str, Generation]] = field(default_factory=list)


def live(known: list[Task], generations: int, seed: int) -> Life:
    """Let a network learn tasks one after the other, and watch its paths.

    Args:
        known: tasks.
        generations: of each task.
        seed: of the network and the evolution.
    """
    life = Life(PathNet(known[0].x.shape[1], seed=seed))
    for task in known:
        life.network.add_task(task)

        def watch(generation: Generation, task: Task = task) -> None:
            seen = [_look(life.network, task, path) for path in generation.population]
            life.glances.append(Trace.concat(seen))
            life.generations.append((task.name, generation))

        life.best[task.name] = evolve(life.network, task, generations, seed, watch=watch)
        life.network.freeze(life.best[task.name], task.name)
    for task in known:
        life.right[task.name] = accuracy(life.network, task, life.best[task.name])
    return life


def tasks(data: Folder | None = None, seed: int = 0) -> list[Task]:
    """Return two tasks: the digits 0 to 4, and 5 to 9.

    Args:
        data: folder with MNIST; None: scikit-learn's digits.
        seed: of the order.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    if data is None:
        x, y = digits(seed)
        x = x.flatten(1)
    else:
        stored = np.load(data / "mnist/mnist.npz")
        order = np.random.default_rng(seed).permutation(len(stored["y_train"]))[:12_000]
        x = torch.from_numpy((stored["x_train"][order].reshape(-1, 784) / 255).astype(np.float32))
        y = torch.from_numpy(stored["y_train"][order].astype(np.int64))
    return [_task("0 to 4", x, y, 0), _task("5 to 9", x, y, 5)]


def measure(quick: bool, data: Folder | None, seed: int) -> ViewRow:
    """Let a network learn two tasks, and return the view's row."""
    known = tasks(data, seed)
    generations = 24 if quick else 80
    life = live(known, generations, seed)
    fresh = live([known[1]], generations, seed + 1).right[known[1].name]
    every = Trace.concat(life.glances)
    paths = [str(p) for _, g in life.generations for p in g.population]
    order = np.random.default_rng(seed).permutation(len(every))[:MOST]
    half = len(order) // 2
    past, now = every[np.sort(order[:half])], every[np.sort(order[half:])]
    labels = np.array(paths)[np.sort(order[half:])]
    first = known[0]
    common = max(float((t.truth == k).float().mean()) for t in known for k in range(5))
    batch = first.seen[:256], first.name, life.best[first.name]
    right = ", ".join(f"{name}: {share:.3f}" for name, share in life.right.items())
    return score(
        "path", past, now, [Likeness(labels, raw_vectors(now))], dim=DIM, seed=seed,
        overhead=overhead_of(life.network, batch, partial(capture, life.network, view="path")),
        notes=f"PathNet, {'MNIST' if data else 'digits'}, {generations} generations a task; right "
        f"on held-out digits {right} (second task alone {fresh:.3f}, commonest class "
        f"{common:.3f}); a glance is a path of the population, label: the path",
    )  # fmt: skip


def _look(network: PathNet, task: Task, path: Path) -> Trace:
    """Let a path look at some held-out digits: one glance."""
    batch = (task.seen[:LOOKED_AT], task.name, path)
    return trace(network, batch, view="path", per="forward")


def _task(name: str, x: Tensor, y: Tensor, first: int) -> Task:
    own = (y >= first) & (y < first + 5)
    x, y = x[own], y[own] - first
    cut = int(0.7 * len(x))
    return Task(name, x[:cut], y[:cut], x[cut:], y[cut:])
