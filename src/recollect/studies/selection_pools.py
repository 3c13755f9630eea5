"""Pools of pictures, or of their embeddings, that the study of subset selection chooses from.

Shape letters: N rows of the pool, d numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._seeds import seed_of
from recollect.studies.pictures import digits as digit_pictures
from recollect.studies.trained_networks import loaders
from recollect.tracing.classes import find_head

__all__ = ["POOLS", "Pool", "digits", "embeddings", "make_pool", "mnist"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
POOLS = ("clean", "noisy", "imbalanced")


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures (N, side, side) in [0, 1] with the labels one would get, and clean ones apart.

    Or embeddings (N, d) in their place.
    """

    pictures: Floats
    labels: Ints
    test_pictures: Floats
    test_labels: Ints


def make_pool(pictures: Floats, labels: Ints, kind: str, run: int) -> Pool:
    """Split off 500 pictures for the test, and make the rest clean, noisy or imbalanced."""
    draws = np.random.default_rng(seed_of(run, "pool", kind))
    order = draws.permutation(len(labels))
    test, rest = order[:500], order[500:]
    x, y = pictures[rest], labels[rest].copy()
    if kind == "noisy":
        wrong = draws.random(len(y)) < 0.2
        y[wrong] = (y[wrong] + draws.integers(1, 10, wrong.sum())) % 10
    elif kind == "imbalanced":
        many, few = np.flatnonzero(y < 5), np.flatnonzero(y >= 5)
        rows = np.concatenate([np.repeat(many, 6), few[: round(0.4 * len(few))]])
        x, y = x[rows], y[rows]
        noise = 0.05 * draws.standard_normal(x.shape)
        x = np.clip(x + noise, x.min(), x.max()).astype(np.float32)
    return Pool(x, y, pictures[test], labels[test])


def digits() -> tuple[Floats, Ints]:
    """Return scikit-learn's digits: (N, 8, 8) in [0, 1] and (N,)."""
    x, y = digit_pictures()
    return x[:, 0].numpy(), y.numpy()


def mnist(folder: Path) -> tuple[Floats, Ints]:
    """Return 3,500 MNIST pictures, halved in size: (N, 14, 14) in [0, 1] and (N,)."""
    file = folder / "mnist" / "mnist.npz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give --data a folder with mnist/mnist.npz (x_train, y_train), "
            "or leave it out"
        )
    with np.load(file) as found:
        x, y = found["x_train"], found["y_train"]  # may be sorted by class
    some = np.random.default_rng(0).permutation(len(y))[:3500]
    x, y = x[some], y[some]
    small = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return small.astype(np.float32), y.astype(np.int64)


def embeddings(folder: str | Path, number: int = 3000, batch: int = 25) -> tuple[Floats, Ints]:
    """Return what MobileNetV2 sees in exact pictures of CIFAR-10: (N, 1280) and (N,).

    The numbers that its classifier reads, divided by the deviation of all of them.

    Args:
        folder: with ``weights/`` and ``cifar10/``.
        number: N, at most 3,000.
        batch: pictures of one forward pass.

    Raises:
        ImportError: outside a checkout of the repository.
        FileNotFoundError: if there is no such folder.
    """
    from PIL import Image

    networks = loaders("networks")
    named = networks.data_folder(folder)
    model, preprocess = networks.mobilenet_v2(named)
    with np.load(named / "cifar10" / "cifar10_lossless_3000.npz") as stored:
        x, y = stored["x"][:number], stored["y"][:number].astype(np.int64)
    seen: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].flatten(1))

    (head,) = find_head(model).values()
    handle = head.register_forward_pre_hook(note)
    try:
        with torch.no_grad():
            for start in range(0, len(x), batch):
                shown = [preprocess(Image.fromarray(p)) for p in x[start : start + batch]]
                model(torch.stack(shown))
    finally:
        handle.remove()
    found = torch.cat(seen)
    return (found / found.std()).numpy(), y
