"""Dominoes of real pictures: digits under strips, and MNIST over CIFAR-10 of a folder.

Shape letters: N dominoes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recollect._seeds import seed_of
from recollect.studies.pictures import cifar, digits, mnist
from recollect.training import Dominoes

__all__ = ["Task", "of_folder", "strips"]

Halves = tuple[Tensor, Tensor]


class Task:
    """Dominoes of one seed: training data, data without the correlation, tests, and networks."""

    def __init__(
        self,
        train: tuple[Halves, Halves],
        test: tuple[Halves, Halves],
        seed: int,
        network: Callable[[int], nn.Sequential],
        epochs: int,
        eps: float,
        correlation: float = 1.0,
    ) -> None:
        self.data = Dominoes(*train, correlation=correlation, seed=seed)
        self.train = self.data.tensors()
        self.fair = Dominoes(*train, randomise="simple", seed=seed).tensors()
        self.held = {
            r: Dominoes(*test, randomise=r, seed=seed) for r in ("none", "simple", "complex")
        }
        self.tests = {name: held.tensors() for name, held in self.held.items()}
        self.network, self.epochs, self.eps = network, epochs, eps
        self.classes = int(self.train[1].max()) + 1


def strips(seed: int, share: float = 1.0) -> Task:
    """Handwritten digits under strips whose brightness tells the digit, with noise."""
    x, y = digits()
    draws = torch.Generator().manual_seed(seed_of(seed, "strips"))
    order = torch.randperm(len(y), generator=draws)
    bright = (y.float() / 9)[:, None, None, None].expand(-1, 1, 4, 8)
    strip = bright + 0.2 * torch.randn(bright.shape, generator=draws)
    strip = strip.clamp(0, 1)
    learn, held = order[: round(1400 * share)], order[1400:]
    parts = [((strip[rows], y[rows]), (x[rows], y[rows])) for rows in (learn, held)]

    def network(width: int) -> nn.Sequential:
        backbone = nn.Sequential(
            nn.Flatten(),
            nn.Linear(96, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
            nn.ReLU(),
        )
        return nn.Sequential(backbone, nn.Linear(width, 10))

    return Task(parts[0], parts[1], seed, network, round(40 / share**0.5), 0.5)


def of_folder(folder: str) -> tuple[str, Callable[..., Task]]:
    """MNIST 0 and 1 over automobiles and trucks, each half 16 x 16; 95 % agree."""
    upper, lower = mnist(folder), cifar(folder)

    def chosen(
        source: dict[str, Halves], part: str, kinds: tuple[int, int], n: int, s: int
    ) -> Any:
        x, y = source[part]
        draws = torch.Generator().manual_seed(seed_of(s, part, str(kinds)))
        rows, labels = [], []
        for number, kind in enumerate(kinds):
            of_kind = (y == kind).nonzero()[:, 0]
            rows.append(of_kind[torch.randperm(len(of_kind), generator=draws)[:n]])
            labels.append(torch.full((len(rows[-1]),), number))
        return x[torch.cat(rows)], torch.cat(labels)

    def network(width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        channels = [3, width // 4, width // 2, width // 2]
        for a, b in pairwise(channels):
            layers += [
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        backbone = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels[-1] * 8, width), nn.ReLU()
        )
        return nn.Sequential(backbone, nn.Linear(width, 2))

    def task(seed: int, share: float = 1.0) -> Task:
        n = round(2000 * share)
        train = chosen(upper, "train", (0, 1), n, seed), chosen(lower, "train", (1, 9), n, seed)
        test = chosen(upper, "test", (0, 1), 500, 0), chosen(lower, "test", (1, 9), 500, 0)
        return Task(train, test, seed, network, round(6 / share**0.5), 0.5, 0.95)

    return "MNIST | CIFAR-10 dominoes", task
