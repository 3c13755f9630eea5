"""Handwritten digits for the views' examples: MNIST from the data folder, else scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["digits", "mnist"]


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits in a random order: (1797, 1, 8, 8) from 0 to 1, and (1797,).

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
    order = np.random.default_rng(seed).permutation(len(found.target))
    pictures = torch.from_numpy((found.images[order] / 16).astype(np.float32))[:, None]
    return pictures, torch.from_numpy(found.target[order].astype(np.int64))


def mnist(data: Path, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return some of MNIST: (count, 1, 28, 28) from 0 to 1, and (count,).

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    path = data / "mnist" / "mnist.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; leave --data out for scikit-learn's digits")
    with np.load(path) as file:
        pictures, labels = file["x_train"], file["y_train"]
    rows = np.random.default_rng(seed).permutation(len(labels))[:count]
    x = torch.from_numpy(pictures[rows].astype(np.float32) / 255)[:, None]
    return x, torch.from_numpy(labels[rows].astype(np.int64))
