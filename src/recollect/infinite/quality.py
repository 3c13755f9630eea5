"""How good an ensemble's uncertainty is: coverage, ranking, unfamiliar data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["interval_coverage", "rank_correlation", "unfamiliarity"]


def interval_coverage(mean: Tensor, std: Tensor, y: Tensor, level: float = 0.9) -> float:
    """Return the share of targets within the central interval of a Gaussian prediction.

    Args:
        mean: (M,) or (M, O).
        std: (M,).
        y: targets, shaped as the mean.
        level: what the interval claims to cover.

    Example:
        >>> interval_coverage(torch.zeros(2), torch.ones(2), torch.tensor([0.5, 3.0]))
        0.5
    """
    half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    width = std if mean.ndim == std.ndim else std[..., None]
    return float(((y - mean).abs() <= half * width).double().mean())


def _ranks(values: Tensor) -> Tensor:
    """Return ranks, ties sharing their mean."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks: Tensor = (ends - (counts.double() - 1) / 2)[inverse]
    return ranks


def rank_correlation(std: Tensor, error: Tensor) -> float:
    """Return Spearman's correlation of deviations with absolute errors, both (M,).

    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 5.0, 9.0])), 6)
    1.0
    """
    a, b = _ranks(std.flatten()), _ranks(error.abs().flatten())
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-300))


def unfamiliarity(known: Tensor, unknown: Tensor) -> float:
    """Return the AUROC of telling unknown from known inputs by their deviations.

    Args:
        known: deviations on data like the training data, (M,).
        unknown: deviations on other data, (L,).

    Example:
        >>> unfamiliarity(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
        1.0
    """
    ranks = _ranks(torch.cat([known, unknown]))
    m, n = len(known), len(unknown)
    return float((ranks[m:].sum() - n * (n + 1) / 2) / (m * n))
