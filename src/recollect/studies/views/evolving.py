"""PathNet: stages of interchangeable modules, and paths through them that evolve by tournament.

Reference: "PathNet: evolution channels gradient descent in super neural networks" (Fernando,
Banarse, Blundell, Zwols, Ha, Rusu, Pritzel and Wierstra, 2017).

Shape letters: B inputs, L stages, M modules in each, N modules of a stage that a path may take,
P paths in the population.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect._seeds import seed_of

__all__ = ["Generation", "Path", "PathNet", "Task", "accuracy", "evolve"]

# For each stage the modules taken, each once, ascending.
Path = tuple[tuple[int, ...], ...]
Genes = npt.NDArray[np.int64]  # (L, N), with repeats


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs and classes.

    Attributes:
        name: of the task, and of its head.
        x: (B, numbers) to learn from.
        y: (B,) classes from 0.
        seen: (b, numbers) held out.
        truth: (b,).
    """

    name: str
    x: Tensor
    y: Tensor
    seen: Tensor
    truth: Tensor

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.y.max()) + 1


class PathNet(nn.Module):
    """L stages of M modules; a stage puts out the sum of its modules on the path.

    Args:
        inputs: numbers that go in.
        stages: L.
        modules: M.
        width: numbers between stages.
        seed: of the weights, also of those drawn anew later.
    """

    def __init__(
        self, inputs: int, stages: int = 3, modules: int = 10, width: int = 20, seed: int = 0
    ) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed_of(seed, "path net"))
        sizes = [inputs] + [width] * (stages - 1)
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Sequential(nn.Linear(n, width), nn.ReLU()) for _ in range(modules))
            for n in sizes
        )
        self.heads = nn.ModuleDict()
        self.frozen: set[tuple[int, int]] = set()
        self._draw(self.stages.modules())

    def forward(self, x: Tensor, task: str, path: Path) -> Tensor:
        """Return (B, classes) logits of a task along a path."""
        for stage, taken in zip(self.stages, path, strict=True):
            x = torch.stack([stage[k](x) for k in taken]).sum(0)  # type: ignore[index]
        logits: Tensor = self.heads[task](x)
        return logits

    def add_task(self, task: Task) -> None:
        """Give a task a head of its own; draw all that is not frozen anew.

        Raises:
            ValueError: if there is a task of that name.
        """
        if task.name in self.heads:
            raise ValueError(
                f"task {task.name!r} has a head already; give the new one its own name"
            )
        last: nn.Linear = self.stages[-1][0][0]  # type: ignore[index]
        head = nn.Linear(last.out_features, task.classes)
        self.heads[task.name] = head
        free = [m for (s, k), m in self.places() if (s, k) not in self.frozen]
        self._draw([*(part for m in free for part in m.modules()), head])

    def freeze(self, path: Path, task: str) -> None:
        """Let nothing change any more along a path, the task's head included."""
        self.frozen |= {(s, k) for s, taken in enumerate(path) for k in taken}
        for place, m in self.places():
            if place in self.frozen:
                m.requires_grad_(False)
        self.heads[task].requires_grad_(False)

    def places(self) -> list[tuple[tuple[int, int], nn.Module]]:
        """Return each module with its stage and number."""
        return [
            ((s, k), m) for s, stage in enumerate(self.stages)
            for k, m in enumerate(stage.children())
        ]  # fmt: skip

    def _draw(self, modules: Iterable[nn.Module]) -> None:
        """Draw new weights of all linear layers among them."""
        for m in modules:
            if isinstance(m, nn.Linear):
                nn.init.kaiming_uniform_(m.weight, generator=self._generator)
                nn.init.zeros_(m.bias)


@dataclass(frozen=True)
class Generation:
    """One tournament of two paths.

    Attributes:
        number: of the generation, from 0.
        winner: the better path.
        fitness: its accuracy while it was trained.
        population: all P paths afterwards.
    """

    number: int
    winner: Path
    fitness: float
    population: tuple[Path, ...]


def evolve(
    network: PathNet,
    task: Task,
    generations: int,
    seed: int,
    *,
    population: int = 10,
    active: int = 3,
    steps: int = 20,
    size: int = 32,
    rate: float = 0.05,
    watch: Callable[[Generation], None] | None = None,
) -> Path:
    """Let paths through the network compete for a task; return the best one.

    In each generation two paths are drawn and trained for a few steps; the loser is overwritten
    by a mutated copy of the winner. Modules that are frozen are used and not changed.

    Args:
        network: with a head for the task.
        task: to be learned.
        generations: tournaments.
        seed: of everything random here.
        population: P.
        active: N.
        steps: of gradient descent for each of the two.
        size: inputs in a batch.
        rate: of gradient descent.
        watch: called after each generation.
    """
    rng = np.random.default_rng(seed_of(seed, "evolve", task.name))
    stages, modules = len(network.stages), len(network.stages[0])  # type: ignore[arg-type]
    genes = rng.integers(0, modules, (population, stages, active))
    fitness = np.full(population, -1.0)
    for number in range(generations):
        pair = rng.choice(population, 2, replace=False)
        for one in pair:
            fitness[one] = _train(network, task, _path(genes[one]), rng, steps, size, rate)
        best, worst = pair if fitness[pair[0]] >= fitness[pair[1]] else pair[::-1]
        won = float(fitness[best])
        genes[worst] = _mutated(genes[best], modules, rng)
        fitness[worst] = -1.0
        if watch is not None:
            paths = tuple(_path(g) for g in genes)
            watch(Generation(number, _path(genes[best]), won, paths))
    return _path(genes[int(fitness.argmax())])


def accuracy(network: PathNet, task: Task, path: Path) -> float:
    """Return the share of held-out inputs that are classified rightly along a path."""
    with torch.no_grad():
        told = network(task.seen, task.name, path).argmax(1)
    return float((told == task.truth).float().mean())


def _path(genes: Genes) -> Path:
    """Return the path that genes stand for: each module of a stage once."""
    return tuple(tuple(sorted({int(k) for k in stage})) for stage in genes)


def _mutated(genes: Genes, modules: int, rng: np.random.Generator) -> Genes:
    """Move each gene by -2 to 2 with the chance 1 / (L N)."""
    moved = rng.random(genes.shape) < 1 / genes.size
    shift = rng.integers(-2, 3, genes.shape)
    return np.asarray((genes + moved * shift) % modules, dtype=np.int64)


def _train(
    network: PathNet, task: Task, path: Path, rng: np.random.Generator, steps: int, size: int,
    rate: float,
) -> float:  # fmt: skip
    """Train a path for some steps; return its accuracy on the way."""
    on_path = [network.stages[s][k] for s, taken in enumerate(path) for k in taken]  # type: ignore[index]
    free = [
        p for m in [*on_path, network.heads[task.name]] for p in m.parameters() if p.requires_grad
    ]
    right = 0.0
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(task.x), size))
        logits = network(task.x[rows], task.name, path)
        loss = F.cross_entropy(logits, task.y[rows])
        slopes = torch.autograd.grad(loss, free)
        with torch.no_grad():
            for p, slope in zip(free, slopes, strict=True):
                p -= rate * slope
        right += float((logits.argmax(1) == task.y[rows]).float().mean())
    return right / steps
