"""What comes in: images and labels, checked once at the border."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["UNLABELLED", "check_images", "check_labels", "check_vectors"]

UNLABELLED = -1


def check_images(x: Any, shape: tuple[int, int, int]) -> Tensor:
    """Return images (B, C, H, W) in [0, 1], or refuse them.

    Raises:
        TypeError: if they are no floating-point tensor.
        ValueError: if the shape differs, or a number is not in [0, 1].
    """
    found = _floating(x, "images")
    if found.ndim != 4 or tuple(found.shape[1:]) != shape:
        raise ValueError(
            f"images must have the shape (B, {', '.join(map(str, shape))}), got "
            f"{tuple(found.shape)}"
        )
    _check_pixels(found)
    return found


def _check_pixels(x: Tensor) -> None:
    """Refuse numbers that are no chances."""
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            "pixels must lie in [0, 1] for a Bernoulli likelihood (none may be NaN), got "
            f"{float(x.min()):.4g} to {float(x.max()):.4g}; divide by the largest value"
        )


def check_vectors(x: Any, size: int, *, pixels: bool = False) -> Tensor:
    """Return vectors (B, d), finite and as ``pixels`` in [0, 1], or refuse them.

    Raises:
        TypeError: if they are no floating-point tensor.
        ValueError: if the shape differs, or a number is out of range.
    """
    found = _floating(x, "vectors")
    if found.ndim != 2 or found.shape[1] != size:
        raise ValueError(f"vectors must have the shape (B, {size}), got {tuple(found.shape)}")
    if pixels:
        _check_pixels(found)
    elif not torch.isfinite(found).all():
        raise ValueError("vectors must be finite, got NaN or infinity")
    return found


def check_labels(y: Any, rows: int, classes: int, *, missing: bool = False) -> Tensor:
    """Return labels (B,) in 0..classes - 1, and -1 where ``missing`` is allowed, or refuse them.

    Raises:
        TypeError: if they are no integer tensor.
        ValueError: if there are not as many as rows, or one is out of range.
    """
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        what = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"labels must be a tensor of integers, got {what}")
    if tuple(y.shape) != (rows,):
        raise ValueError(f"labels must have the shape ({rows},), got {tuple(y.shape)}")
    lowest = UNLABELLED if missing else 0
    if rows and not (int(y.min()) >= lowest and int(y.max()) < classes):
        raise ValueError(
            f"labels must lie in {lowest}..{classes - 1}"
            + (" (-1: unlabelled)" if missing else "")
            + f", got {int(y.min())}..{int(y.max())}"
        )
    return y.long()


def _floating(x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a tensor of floating-point numbers, got {what}")
    return x
