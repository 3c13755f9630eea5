"""How results over seeds are told: the middle, its interval, and how steady it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrapped", "middle_mean", "over_seeds"]

FloatArray = npt.NDArray[np.float64]


def middle_mean(values: npt.ArrayLike) -> float:
    """Return the mean of the middle half (the inter-quartile mean).

    >>> middle_mean([0.0, 1.0, 2.0, 99.0])
    1.5
    """
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrapped(values: Sequence[float] | FloatArray, draws: int = 1000) -> tuple[float, float]:
    """Return the ends of the 90 % bootstrap interval of the inter-quartile mean over seeds."""
    rng, found = np.random.default_rng(0), np.asarray(values, np.float64)
    means = [middle_mean(rng.choice(found, len(found))) for _ in range(draws)]
    low, high = np.quantile(means, [0.05, 0.95])
    return float(low), float(high)


def over_seeds(solved: npt.ArrayLike, earned: npt.ArrayLike) -> dict[str, Any]:
    """Return the columns of one method: share solved, and what was earned, over its seeds.

    Args:
        solved: (S,) share solved by each seed, in [0, 1].
        earned: (S,) return of each seed.
    """
    share, found = np.asarray(solved, np.float64), np.asarray(earned, np.float64)
    low, high = bootstrapped(found)
    return {
        "solved": float(share.mean()),
        "deviation": float(share.std(ddof=1) / len(share) ** 0.5),
        "estimate": middle_mean(found),
        "low": low,
        "high": high,
        "median": float(np.median(found)),
        "quartile range": float(np.subtract(*np.quantile(found, [0.75, 0.25]))),
        "lower decile": float(np.quantile(found, 0.1)),
        "seeds": len(found),
    }
