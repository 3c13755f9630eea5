"""Rounding: how much of a sketch it may account for, and when a residual is larger than that."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from recollect.sketching.sketches import Sketches

__all__ = ["ARITHMETIC", "chi_squared_quantile", "rounding_variance"]

# Arithmetic in float32 leaves this share of the power, even where nothing was rounded.
ARITHMETIC = 1e-11


def rounding_variance(sketches: Sketches) -> Tensor:
    """Return the (B,) variance that rounding added to each number of a sketch."""
    if sketches.scale is not None:
        return sketches.scale.to(torch.float64).square() / 12
    power = sketches.values.to(torch.float64).square().mean(1)
    count = sketches.count.to(torch.float64)
    dtype = sketches.recipe.dtype
    if sketches.is_sum and dtype == "int8":
        # One glance's scale is about four deviations over 127.
        return power / count.clamp_min(1) * (4 / 127) ** 2 / 12
    return power * {"int8": 0.0, "float16": 2.0**-22, "float32": 2.0**-46}[dtype] / 3


def chi_squared_quantile(free: int, probability: float) -> float:
    """Return a quantile of the chi-squared distribution (Wilson and Hilferty's approximation).

    Example:
        >>> round(chi_squared_quantile(100, 0.95), 1)
        124.3
    """
    a = 2 / (9 * max(free, 1))
    return max(free, 1) * (1 - a + NormalDist().inv_cdf(probability) * math.sqrt(a)) ** 3
