"""A year of pictures that drifts, and a memory of it: what the study of continual learning lives.

A camera sees one handwritten digit at a time, somewhere in a picture of 24 x 24; through the year
the digits turn by 120 degrees, and each month some classes are commoner than others. A network
that was trained on other, upright digits looks at every picture, and its 64 features are
sketched.

Shape letters: N pictures, d numbers of a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of
from recollect.generative import rotate
from recollect.memory import Memory
from recollect.sketching import Sketcher
from recollect.studies import pictures
from recollect.tracing import Trace

__all__ = ["A_MONTH", "BATCH", "DIM", "FEATURES", "MONTHS", "SIDE", "Year", "features", "glances",
           "make_year", "step"]  # fmt: skip

MONTHS, A_MONTH, TESTED = 12, 100, 60
SIDE, FEATURES, DIM = 24, 64, 64
BATCH = 32


@dataclass(frozen=True, eq=False)
class Year:
    """Pictures by month, what a watching network makes of them, and the memory of it.

    Attributes:
        pictures: (12, 100, 1, 24, 24) seen, in the order of time.
        classes: (12, 100).
        test: (12, 60, 1, 24, 24) of the same months, not seen.
        test_classes: (12, 60).
        network: pictures (N, 1, 24, 24) -> features (N, 64).
        memory: of the pictures seen; glance m * 100 + n is picture n of month m.
        bytes: of the memory on disk.
    """

    pictures: Tensor
    classes: Tensor
    test: Tensor
    test_classes: Tensor
    network: nn.Module
    memory: Memory
    bytes: int

    @torch.no_grad()
    def sketched(self, pictures: Tensor) -> Tensor:
        """Return what the memory would keep of pictures: (N, d)."""
        return self.memory.sketcher.encode(glances(self.network, pictures)).values


def make_year(folder: str, seed: int) -> Year:
    """Live through a year, and remember it in a folder.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    digits, classes = _digits(seed)
    network = _train(digits[:400], classes[:400], seed)
    rng = np.random.default_rng(seed_of(seed, "year"))
    seen = [_month(digits[400:1200], classes[400:1200], m, A_MONTH, rng) for m in range(MONTHS)]
    test = [_month(digits[1200:], classes[1200:], m, TESTED, rng) for m in range(MONTHS)]
    memory = Memory(f"{folder}/year", Sketcher(dim=DIM, seed=seed), reservoir=0)
    with memory:
        for month, (x, _) in enumerate(seen):
            start = np.datetime64(f"2026-{month + 1:02d}-10T08:00")
            times = start + 6 * np.arange(A_MONTH) * np.timedelta64(1, "m")
            ids = range(month * A_MONTH, (month + 1) * A_MONTH)
            memory.add(glances(network, x), times, ids=ids)
        memory.compact()
    size = int(memory.info()["bytes"])
    x, y = (torch.stack(part) for part in zip(*seen, strict=True))
    x_test, y_test = (torch.stack(part) for part in zip(*test, strict=True))
    return Year(x, y, x_test, y_test, network, memory, size)


def glances(network: nn.Module, pictures: Tensor) -> Trace:
    """Return what the network makes of pictures: one object a glance, its features."""
    return Trace.from_columns({"features": features(network, pictures)})


@torch.no_grad()
def features(network: nn.Module, pictures: Tensor) -> Tensor:
    """Return what a network makes of pictures (N, 1, 24, 24): (N, 64)."""
    return torch.as_tensor(network(pictures))


def _month(
    digits: Tensor, classes: Tensor, month: int, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures (count, 1, 24, 24) and classes of one month: turned, and unbalanced."""
    common = np.exp(1.5 * np.cos(2 * np.pi * (np.arange(10) / 10 - month / MONTHS)))
    chance = common[classes.numpy()]
    rows = torch.from_numpy(rng.choice(len(digits), count, p=chance / chance.sum()))
    angle = 120 * month / (MONTHS - 1)
    return _placed(rotate(digits[rows], angle), rng), classes[rows]


def _placed(digits: Tensor, rng: np.random.Generator) -> Tensor:
    """Put digits (N, 1, 8, 8), twice as large, somewhere in noisy pictures (N, 1, 24, 24)."""
    large = F.interpolate(digits, scale_factor=2, mode="bilinear")
    noise = 0.2 * torch.from_numpy(rng.random((len(digits), 1, SIDE, SIDE))).float()
    for n, (top, left) in enumerate(rng.integers(0, SIDE - 15, (len(digits), 2))):
        noise[n, :, top : top + 16, left : left + 16] += large[n]
    return noise.clamp(0, 1)


def _train(digits: Tensor, classes: Tensor, seed: int, epochs: int = 12) -> nn.Module:
    """Train a network to read upright digits, and return it up to its 64 features."""
    rng = np.random.default_rng(seed_of(seed, "before the year"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "network"))
        body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(32, FEATURES, 3, 2, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        )  # fmt: skip
        model = nn.Sequential(body, nn.Linear(FEATURES, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(epochs):
            x = _placed(digits, rng)
            order = torch.randperm(len(x))
            for rows in (order[i : i + BATCH] for i in range(0, len(x), BATCH)):
                step(optimizer, model(x[rows]), classes[rows], torch.ones(len(rows)))
    return body.eval()


def _digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits in random order: (1797, 1, 8, 8) in [0, 1], and (1797,)."""
    x, classes = pictures.digits()
    order = torch.from_numpy(
        np.random.default_rng(seed_of(seed, "digits")).permutation(len(classes))
    )
    return x[order], classes[order]


def step(optimizer: torch.optim.Optimizer, out: Tensor, y: Tensor, w: Tensor) -> None:
    """Take one step on the weighted cross-entropy of outputs (N, K)."""
    optimizer.zero_grad()
    loss = (F.cross_entropy(out, y, reduction="none") * w).sum() / w.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
