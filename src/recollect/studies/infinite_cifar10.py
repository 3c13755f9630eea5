"""Infinitely wide networks beside trained ones, on CIFAR-10 pictures of a data folder.

On a processor the pictures are averaged down to 16 x 16 and the exact pixels of 3,000 pictures are
used; on a GPU they keep 32 x 32 and come from the whole set, which the folder holds as JPEG.
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

from recollect._answers import Answer
from recollect.studies.wide_networks import Pictures, Setting, agreement, curves

__all__ = ["pictures", "study"]

WIDTHS = {"fully connected": 1024, "convolutional": 64, "wide residual": 64}
# About thirty minutes on two cores, of which the wide residual kernel takes two thirds.
PROCESSOR = Setting((250, 500, 1000), 3, WIDTHS, steps=600, blocks=2)
QUICK = Setting((125, 250, 500), 3, WIDTHS, steps=200)
GPU = Setting((1000, 4000, 16000, 45000), 2, WIDTHS, steps=6000, blocks=2)


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return learning curves of three architectures, infinitely wide and trained.

    Args:
        quick: 8 x 8 pictures, at most 500 of them.
        data: folder with ``cifar10/``.

    Raises:
        ValueError: without a folder.
        FileNotFoundError: if the pictures are not in it.
    """
    if data is None:
        raise ValueError(
            "this study reads CIFAR-10: recollect study infinite-cifar10 --data FOLDER, with "
            "FOLDER/cifar10/cifar10_lossless_3000.npz in it; infinite-digits needs no data"
        )
    gpu = torch.cuda.is_available() and not quick
    setting = GPU if gpu else QUICK if quick else PROCESSOR
    side, test = (32, 5000) if gpu else (8, 400) if quick else (16, 500)
    largest = setting.sizes[-1]
    chosen = pictures(data, largest + largest // 10, test, side, whole=gpu)
    if gpu:
        chosen = chosen.to("cuda")
    answer = curves(chosen, setting)
    animals = torch.isin(chosen.train_label[:32].cpu(), torch.tensor([2, 3, 4, 5, 6, 7]))
    target = animals[:, None].float() * 2 - 1
    together = agreement(chosen.train[:32].cpu(), target, chosen.test[:32].cpu())
    answer.notes += ["", *repr(together).splitlines()]
    return answer


def pictures(
    folder: str, train: int, test: int, side: int, *, whole: bool = False, seed: int = 0
) -> Pictures:
    """Return CIFAR-10 pictures, averaged down and standardised in every channel.

    Args:
        folder: that holds ``cifar10/``.
        train: how many to learn from.
        test: how many others.
        side: 32, 16 or 8 pixels.
        whole: read the JPEG files of all pictures instead of the 3,000 exact ones.
        seed: of the choice.

    Raises:
        FileNotFoundError: if the pictures are not in the folder.
        ValueError: if more are asked for than there are.
    """
    name = "cifar10_jpeg.npz" if whole else "cifar10_lossless_3000.npz"
    file = Path(folder) / "cifar10" / name
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; --data names the folder above cifar10/")
    draws = np.random.default_rng(seed)
    with np.load(file) as stored:
        if whole:
            (x, y), (u, v) = (
                _jpeg(stored, part, n, draws) for part, n in (("train", train), ("test", test))
            )
        else:
            if train + test > len(stored["y"]):
                raise ValueError(f"{train + test} pictures are asked for, {name} has 3,000")
            rows = draws.permutation(len(stored["y"]))[: train + test]
            pixels, labels = stored["x"][rows], stored["y"][rows]
            x, y, u, v = pixels[:train], labels[:train], pixels[train:], labels[train:]
    first, second = _smaller(x, side), _smaller(u, side)
    mean, spread = first.mean((0, 2, 3), keepdim=True), first.std((0, 2, 3), keepdim=True)
    return Pictures(
        f"CIFAR-10, {side} x {side}{', JPEG' if whole else ''}",
        (first - mean) / spread,
        torch.from_numpy(y.astype(np.int64)),
        (second - mean) / spread,
        torch.from_numpy(v.astype(np.int64)),
    )


def _jpeg(
    stored: Mapping[str, npt.NDArray[Any]], part: str, number: int, draws: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Decode some pictures of a part, (n, 32, 32, 3) and their labels."""
    blob, offset, label = (stored[f"{part}_{k}"] for k in ("blob", "offset", "label"))
    if number > len(label):
        raise ValueError(f"{number} {part} pictures are asked for, there are {len(label)}")
    rows = draws.permutation(len(label))[:number]
    decoded = [
        np.asarray(Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]].tobytes()))) for i in rows
    ]
    return np.stack(decoded), label[rows]


def _smaller(pixels: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Average (n, 32, 32, 3) down to (n, 3, side, side)."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.avg_pool2d(x, 32 // side).contiguous()
