"""Pictures for the study of the VAE: scikit-learn's digits, or MNIST of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.studies import pictures

__all__ = ["Task", "digits", "mnist"]


@dataclass(frozen=True, eq=False)
class Task:
    """Pictures with few labels, and how models of them are trained.

    Attributes:
        name: shown in the title.
        x: (N, 1, side, side) in [0, 1].
        y: (N,) all labels, of which models are shown some.
        test: pictures and labels kept apart.
        seeds: of weights, training and labels shown.
        epochs: passes over the pictures.
        model: keywords of every model.
        fitting: further keywords of ``fit``.
    """

    name: str
    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]
    seeds: Sequence[int] = (0,)
    epochs: int = 5
    model: Mapping[str, Any] = field(default_factory=dict)
    fitting: Mapping[str, Any] = field(default_factory=dict)

    def shown(self, each: int = 10, draw: int = 0) -> Tensor:
        """Return labels (N,), -1 but for a few of each class: the first, the next, ... ones."""
        y = torch.full_like(self.y, -1)
        for c in range(10):
            rows = torch.nonzero(self.y == c)[draw * each : (draw + 1) * each, 0]
            y[rows] = c
        return y


def digits(quick: bool) -> Task:
    """Return scikit-learn's digits: 1,400 pictures 8 x 8, 397 to test."""
    x, y = pictures.digits(seed_of(0, "digits"))
    return Task(
        "scikit-learn's digits", x[:1400], y[:1400], (x[1400:], y[1400:]),
        seeds=range(1 if quick else 3), epochs=4 if quick else 10,
        model={"width": 12 if quick else 32},
        fitting={"labelled_size": 20, "batch_size": 32, "lr": 3e-3 if quick else 1e-3},
    )  # fmt: skip


def mnist(folder: str, quick: bool, number: int = 10_000) -> Task:
    """Return MNIST: some pictures 28 x 28 (quick: 4,000), all 10,000 to test (quick: 2,000).

    Raises:
        FileNotFoundError: if the folder holds no ``mnist/mnist.npz``.
    """
    file = Path(folder) / "mnist" / "mnist.npz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give --data a folder with mnist/mnist.npz (x_train, y_train, "
            "x_test, y_test), or leave it out"
        )
    draws = np.random.default_rng(seed_of(0, "mnist"))
    some, tested = (4000, 2000) if quick else (number, 10_000)
    with np.load(file) as found:
        parts = []
        for kind, count in (("train", some), ("test", tested)):
            rows = draws.permutation(len(found[f"y_{kind}"]))[:count]
            x = torch.from_numpy(found[f"x_{kind}"][rows] / np.float32(255))[:, None]
            parts.append((x, torch.from_numpy(found[f"y_{kind}"][rows]).long()))
    return Task(
        "MNIST", *parts[0], parts[1], epochs=5,
        model={"image_shape": (1, 28, 28), "width": 16, "latent_dim": 16, "classes_summed": 2},
        fitting={"labelled_size": 25, "batch_size": 50, "alpha": 20.0},
    )  # fmt: skip
