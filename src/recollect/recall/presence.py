"""Whether a glance held at least one object, from the estimate of how many it held."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from recollect.recall.windows import Windows

__all__ = ["at_least_one", "quantiles"]

FloatArray = npt.NDArray[np.float64]

_erf = np.vectorize(erf, otypes=[np.float64])


def normal_cdf(x: npt.ArrayLike) -> FloatArray:
    """Chance that a standard normal number is below ``x``.

    >>> float(normal_cdf(0.0))
    0.5
    """
    return np.asarray(0.5 * (1.0 + _erf(np.asarray(x, np.float64) / sqrt(2.0))))


def at_least_one(estimate: npt.ArrayLike, std: npt.ArrayLike) -> FloatArray:
    """Chance of at least one object, where their number is known as ``estimate -+ std``.

    A number of objects is whole, so what lies above one half counts as one or more. Where nothing
    is known (an infinite deviation) the chance is one half.

    >>> at_least_one([0.0, 1.0, 0.5], [0.1, 0.1, 3.0]).round(3).tolist()
    [0.0, 1.0, 0.5]
    """
    middle, spread = np.asarray(estimate, np.float64), np.asarray(std, np.float64)
    safe = np.maximum(np.where(np.isfinite(spread), spread, 1.0), 1e-9)
    chance = normal_cdf((middle - 0.5) / safe)
    return np.where(np.isfinite(spread), chance, 0.5)


def quantiles(chance: FloatArray, windows: Windows) -> tuple[FloatArray, FloatArray]:
    """Ends of the 90 % interval for how many of each window's events happened.

    The number of independent events with different chances has a known distribution (Poisson's
    binomial). It is computed exactly for what is uncertain, up to 2,000 events in a window, and
    by its normal limit beyond.

    Args:
        chance: (n,) chance of each event.
        windows: which window each event belongs to.

    Returns:
        low and high, (W,): whole numbers.
    """
    low, high = np.zeros(len(windows)), np.zeros(len(windows))
    for w in range(len(windows)):
        mine = chance[windows.index == w]
        sure = float((mine > 1 - 1e-6).sum())
        open_ = mine[(mine > 1e-6) & (mine <= 1 - 1e-6)]
        if len(open_) > 2000:
            middle, half = open_.sum(), 1.6449 * sqrt(float((open_ * (1 - open_)).sum()))
            ends = (np.floor(middle - half), np.ceil(middle + half))
        else:
            ends = _exact_ends(open_)
        low[w], high[w] = sure + ends[0], sure + ends[1]
    return low, high


def _exact_ends(chance: FloatArray) -> tuple[float, float]:
    """Smallest and largest number of events outside 5 % on either side."""
    mass = np.ones(1)
    for p in chance.tolist():
        mass = np.append(mass, 0.0) * (1 - p) + np.append(0.0, mass) * p
    below = np.cumsum(mass)
    return float(np.searchsorted(below, 0.05)), float(np.searchsorted(below, 0.95 - 1e-12))
