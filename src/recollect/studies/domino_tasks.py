"""Dominoes of real pictures: digits under strips, and MNIST over CIFAR-10 of a folder.

The latter are read by a network that learns all by itself, or by one that has learned CIFAR-10.

Shape letters: N dominoes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from recollect._seeds import seed_of
from recollect.studies.pictures import cifar, digits, mnist
from recollect.studies.trained_networks import loaders
from recollect.training import Dominoes

__all__ = ["Task", "of_folder", "of_folder_known", "strips"]

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
        lr: float = 1e-3,
    ) -> None:
        self.data = Dominoes(*train, correlation=correlation, seed=seed)
        self.train = self.data.tensors()
        self.fair = Dominoes(*train, randomise="simple", seed=seed).tensors()
        self.held = {
            r: Dominoes(*test, randomise=r, seed=seed) for r in ("none", "simple", "complex")
        }
        self.tests = {name: held.tensors() for name, held in self.held.items()}
        self.network, self.epochs, self.eps, self.lr = network, epochs, eps, lr
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


def _chosen(
    source: dict[str, Halves], part: str, kinds: tuple[int, ...], n: int, seed: int, skip: int = 0
) -> Halves:
    """Draw n pictures of each kind, numbered 0, 1, ..., after some that are skipped."""
    x, y = source[part]
    draws = torch.Generator().manual_seed(seed_of(seed, part, str(kinds)))
    rows, labels = [], []
    for number, kind in enumerate(kinds):
        of_kind = (y == kind).nonzero()[:, 0]
        rows.append(of_kind[torch.randperm(len(of_kind), generator=draws)[skip:][:n]])
        labels.append(torch.full((len(rows[-1]),), number))
    return x[torch.cat(rows)], torch.cat(labels)


def of_folder(folder: str) -> tuple[str, Callable[..., Task]]:
    """MNIST 0 and 1 over automobiles and trucks, each half 16 x 16; 95 % agree."""
    upper, lower = mnist(folder), cifar(folder)

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
        train = _chosen(upper, "train", (0, 1), n, seed), _chosen(lower, "train", (1, 9), n, seed)
        test = _chosen(upper, "test", (0, 1), 500, 0), _chosen(lower, "test", (1, 9), 500, 0)
        return Task(train, test, seed, network, round(6 / share**0.5), 0.5, 0.95)

    return "MNIST | CIFAR-10 dominoes", task


class _Seen(nn.Module):
    """What a residual network for CIFAR-10 makes of pictures before its last layer: (N, 64)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        network.linear = nn.Identity()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of pictures (N, 3, H, W) in [0, 1]."""
        found: Tensor = self.network((x - self.mean) / self.deviation)
        return found


def of_folder_known(folder: str) -> tuple[str, Callable[[int], Task]]:
    """The same dominoes, halves 32 x 32 that always agree, for a ResNet-20 that knows CIFAR-10.

    It is trained on for one epoch at a fifth of the rate: as where networks come trained. Settings
    of the heads were chosen on the first 250 test pictures of each kind: the others judge.

    Raises:
        ImportError: outside a checkout of the repository.
    """
    networks = loaders("networks")
    upper, lower = mnist(folder, 32), cifar(folder, side=32)

    def network(width: int) -> nn.Sequential:
        model, _ = networks.resnet20(folder)
        return nn.Sequential(_Seen(model), nn.Linear(64, 2)).train()

    def task(seed: int) -> Task:
        train = (
            _chosen(upper, "train", (0, 1), 600, seed),
            _chosen(lower, "train", (1, 9), 600, seed),
        )
        test = (
            _chosen(upper, "test", (0, 1), 550, 0, skip=250),
            _chosen(lower, "test", (1, 9), 550, 0, skip=250),
        )
        return Task(train, test, seed, network, 1, 0.5, 1.0, lr=2e-4)

    return "MNIST | CIFAR-10 dominoes, a network that knew CIFAR-10", task
