"""Real pictures for the studies of training, and how they are walked in batches.

Shape letters: N pictures, C channels, d features.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of

__all__ = ["Shuffled", "cifar", "digits", "file_of", "mnist", "refit"]

Labelled = tuple[Tensor, Tensor]


def digits(seed: int | None = None) -> Labelled:
    """Return scikit-learn's handwritten digits: (N, 1, 8, 8) in [0, 1] and (N,).

    Args:
        seed: of a random order; None: as they are stored.

    Raises:
        ImportError: if scikit-learn is missing.

    >>> digits()[0].shape
    torch.Size([1797, 1, 8, 8])
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits()
    pictures = torch.from_numpy((found.images / 16).astype(np.float32))[:, None]
    labels = torch.from_numpy(found.target.astype(np.int64))
    if seed is None:
        return pictures, labels
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    return pictures[order], labels[order]


def mnist(folder: str, side: int = 16) -> dict[str, Labelled]:
    """Return MNIST, padded, (N, 1, side, side) in [0, 1], as ``train`` and ``test``.

    Args:
        folder: with ``mnist/mnist.npz``.
        side: 16 (halved) or 32.

    Raises:
        FileNotFoundError: if the folder has no ``mnist/mnist.npz``.
    """
    with np.load(file_of(folder, "mnist/mnist.npz")) as stored:
        found = {}
        for part in ("train", "test"):
            x = torch.from_numpy(stored[f"x_{part}"])[:, None].float() / 255
            small = F.avg_pool2d(F.pad(x, (2, 2, 2, 2)), 32 // side)
            found[part] = small, torch.from_numpy(stored[f"y_{part}"].astype(np.int64))
    return found


def cifar(folder: str, kinds: tuple[int, ...] = (1, 9), side: int = 16) -> dict[str, Labelled]:
    """Return classes of CIFAR-10, (N, 3, side, side) in [0, 1], as ``train`` and ``test``.

    Args:
        folder: with ``cifar10/cifar10_jpeg.npz``: pictures as JPEG, end to end.
        kinds: classes that are read; the labels stay 0 to 9.
        side: 16 (halved) or 32.

    Raises:
        FileNotFoundError: if the file is missing.
    """
    from PIL import Image

    found = {}
    with np.load(file_of(folder, "cifar10/cifar10_jpeg.npz")) as stored:
        for part in ("train", "test"):
            blob, offset, label = (stored[f"{part}_{k}"] for k in ("blob", "offset", "label"))
            rows = np.flatnonzero(np.isin(label, kinds))
            x = np.stack(
                [
                    np.asarray(
                        Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]].tobytes())),
                        np.float32,
                    )
                    for i in rows
                ]
            )
            small = F.avg_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2) / 255, 32 // side)
            found[part] = small, torch.from_numpy(label[rows].astype(np.int64))
    return found


def file_of(folder: str, name: str) -> Path:
    """Return a file of a folder of data.

    Raises:
        FileNotFoundError: if it is not there.
    """
    file = Path(folder) / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give --data a folder with {name}, or leave it out"
        )
    return file


class Shuffled:
    """Batches of tensors in a fresh order each epoch; every walk is the same.

    Args:
        x: inputs (N, ...).
        y: labels (N,).
        batch: examples in one batch.
        epochs: orders that one walk goes through.
        seed: of the orders.

    Example:
        >>> walk = Shuffled(torch.arange(4.0), torch.arange(4), 2, epochs=3, seed=0)
        >>> len(list(walk)), sum(len(y) for _, y in walk)
        (6, 12)
    """

    def __init__(self, x: Tensor, y: Tensor, batch: int, epochs: int, seed: int) -> None:
        self.x, self.y, self.batch, self.epochs, self.seed = x, y, batch, epochs, seed

    def __iter__(self) -> Iterator[Labelled]:
        draws = torch.Generator().manual_seed(seed_of(self.seed, "batches"))
        for _ in range(self.epochs):
            order = torch.randperm(len(self.y), generator=draws)
            for rows in torch.split(order, self.batch):
                yield self.x[rows], self.y[rows]


def refit(
    z: Tensor, y: Tensor, seed: int, *, steps: int = 300, weight_decay: float = 0.0
) -> nn.Linear:
    """Return a linear classifier of features (N, d) that was trained from the start.

    The features are standardised while it learns; the result takes them as they are.
    """
    mean, deviation = z.mean(0), z.std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "refit"))
        linear = nn.Linear(z.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(linear.parameters(), 1e-2, weight_decay=weight_decay)
    standard = (z - mean) / deviation
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(linear(standard), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        linear.weight.div_(deviation)
        linear.bias.sub_(linear.weight @ mean)
    return linear
