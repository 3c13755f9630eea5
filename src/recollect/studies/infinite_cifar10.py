"""Infinitely wide networks beside trained ones, on CIFAR-10 pictures of a data folder.

The pictures are averaged down to 16 x 16, each is made free of its mean and of length one, and all
are whitened with much regularisation by the training pictures (ZCA; "Finite versus infinite
neural networks", Lee and others, 2020). Networks see them as 8 x 8 patches of 2 x 2 pixels, so
that all pairs of positions, which pooling asks for, are 4,096.

Depths, strides, whitening and the size of pictures were chosen by the leave-one-out error of
kernels, and steps of the networks by held-out pictures, all of them training pictures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from recollect._answers import Answer
from recollect.studies.running import Journal
from recollect.studies.wide_architectures import (
    CONVOLUTIONAL,
    DENSE,
    RESIDUAL,
    Build,
    architectures,
)
from recollect.studies.wide_ensembles import beside
from recollect.studies.wide_figures import draw_curves
from recollect.studies.wide_networks import Pictures, Setting, curves

__all__ = ["draw", "networks", "pictures", "study", "whitened"]

SIDE, PATCH = 16, 2
WIDTHS = {DENSE: 1024, CONVOLUTIONAL: 64, RESIDUAL: 128}
RATES = (1e-3, 3e-3)
PROCESSOR = Setting((250, 500, 1000, 2000), 3, WIDTHS, steps=800, rates=RATES)
QUICK = Setting((125, 250, 500), 3, WIDTHS, steps=100)
GPU = Setting((750, 3000, 12000, 45000), 3, WIDTHS, steps=4000, rates=RATES, strip=2500)

draw = draw_curves


def study(quick: bool = False, data: str | None = None, keep: str | None = None) -> Answer:
    """Return learning curves of three architectures, infinitely wide and trained.

    Args:
        quick: at most 500 pictures.
        data: folder with ``cifar10/``.
        keep: folder that rows and kernels are written to; a run that was broken off goes on there.

    Raises:
        ValueError: without a folder of data.
        FileNotFoundError: if the pictures are not in it.
    """
    if data is None:
        raise ValueError(
            "this study reads CIFAR-10: recollect study infinite-cifar10 --data FOLDER, with "
            "FOLDER/cifar10/cifar10_jpeg.npz in it; infinite-digits needs no data"
        )
    gpu = torch.cuda.is_available() and not quick
    setting = GPU if gpu else QUICK if quick else PROCESSOR
    largest = setting.sizes[-1]
    chosen = pictures(data, largest + largest // 10, 5000 if gpu else 400 if quick else 1000)
    journal = Journal(keep, "infinite-cifar10")
    found = curves(chosen.to("cuda") if gpu else chosen, setting, networks(), journal)
    return beside(found, chosen, journal, _animals(chosen.train_label[:32]))


def networks() -> dict[str, Build]:
    """Return the three architectures: four, four and six layers deep.

    >>> [type(build(4)).__name__ for build in networks().values()]
    ['Sequential', 'Sequential', 'Sequential']
    """
    return architectures(
        3 * PATCH**2, SIDE // PATCH, 10, stem=1, convolutions=3, average=1, strides=(2, 1)
    )


def _animals(label: Tensor) -> Tensor:
    """Return 1 for animals and -1 for vehicles, (n, 1)."""
    return torch.isin(label, torch.tensor([2, 3, 4, 5, 6, 7]))[:, None].float() * 2 - 1


def pictures(folder: str, train: int, test: int, seed: int = 0) -> Pictures:
    """Return CIFAR-10 pictures, averaged down, whitened and cut into patches.

    Args:
        folder: that holds ``cifar10/``.
        train: how many of the training pictures.
        test: how many of the test pictures.
        seed: of the choice.

    Returns:
        Pictures of (12, 8, 8).

    Raises:
        FileNotFoundError: if the pictures are not in the folder.
        ValueError: if more are asked for than there are.
    """
    file = Path(folder) / "cifar10" / "cifar10_jpeg.npz"
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; --data names the folder above cifar10/")
    draws = np.random.default_rng(seed)
    with np.load(file) as stored:
        x, label = _decoded(stored, "train", train, draws)
        u, test_label = _decoded(stored, "test", test, draws)
    learned, judged = whitened(_smaller(x), _smaller(u))
    learned, judged = F.pixel_unshuffle(learned, PATCH), F.pixel_unshuffle(judged, PATCH)
    return Pictures(f"CIFAR-10, {SIDE} x {SIDE}", learned, label, judged, test_label)


def _decoded(
    stored: Mapping[str, npt.NDArray[Any]], part: str, number: int, draws: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Decode some pictures of a part, (n, 32, 32, 3) and their labels."""
    blob, offset, label = (stored[f"{part}_{k}"] for k in ("blob", "offset", "label"))
    if number > len(label):
        raise ValueError(f"{number} {part} pictures are asked for, there are {len(label)}")
    rows = draws.permutation(len(label))[:number]
    decoded = [
        np.asarray(Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]].tobytes()))) for i in rows
    ]
    return np.stack(decoded), torch.from_numpy(label[rows].astype(np.int64))


def _smaller(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Average (n, 32, 32, 3) down to (n, 3, SIDE, SIDE)."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return F.avg_pool2d(x, 32 // SIDE).contiguous()


def whitened(
    learned: Tensor, judged: Tensor, regularization: float = 10.0
) -> tuple[Tensor, Tensor]:
    """Return two sets of pictures, whitened by the first.

    Each picture x is made free of its mean and of length one, then ``x (C + r c I)^(-1/2)`` with
    the covariance C of the first set and the mean c of its eigenvalues; values have deviation one.

    Args:
        learned: (N, c, s, s).
        judged: (M, c, s, s).
        regularization: r; 0 whitens altogether, much leaves the pictures as they are.

    Example:
        >>> draws = torch.randn(400, 1, 2, 2, generator=torch.manual_seed(0))
        >>> x = draws * torch.tensor([3.0, 1.0])
        >>> flat = whitened(x, x[:2], 0.01)[0].flatten(1)
        >>> (flat.T @ flat / 400).diagonal().round(decimals=1).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    one, two = (_unit(x.flatten(1).double()) for x in (learned, judged))
    mean = one.mean(0)
    values, vectors = torch.linalg.eigh((one - mean).T @ (one - mean) / len(one))
    floor = regularization * values.mean().clamp_min(1e-12)
    turn = vectors @ torch.diag((values.clamp_min(0) + floor).rsqrt()) @ vectors.T
    one, two = ((x - mean) @ turn for x in (one, two))
    scale = one.std()
    first, second = ((x / scale).float() for x in (one, two))
    return first.reshape(learned.shape), second.reshape(judged.shape)


def _unit(x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    length: Tensor = centred.norm(dim=1, keepdim=True)
    return centred / length.clamp_min(1e-6)
