"""Scikit-learn's handwritten digits in a random order, and small networks that read them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["shuffled_digits", "trained_reader"]


def shuffled_digits(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the digits in a random order: pictures (B, 64) from 0 to 1, and labels (B,).

    Raises:
        ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(found.data))
    pictures = torch.from_numpy((found.data[order] / 16).astype(np.float32))
    return pictures, torch.from_numpy(found.target[order].astype(np.int64))


def trained_reader(
    widths: Sequence[int],
    pictures: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    rate: float,
    batch: int = 64,
    seed: int = 0,
) -> nn.Sequential:
    """Train a plain rectified network to read digits.

    Args:
        widths: numbers of its layers, 64 first and 10 last.
        pictures: (B, 64), or (B, 1, 8, 8): then the network begins by flattening them.
        labels: (B,).
        epochs: passes over the pictures.
        rate: of Adam.
        batch: pictures in a step.
        seed: of the weights and the order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()] if pictures.ndim > 2 else []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(pictures)), batch):
                loss = nn.functional.cross_entropy(network(pictures[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return network.eval()
