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


def at_least_one(
    estimate: npt.ArrayLike, std: npt.ArrayLike, seen: npt.ArrayLike = ()
) -> FloatArray:
    """Chance of at least one object, where their number is estimated as ``estimate -+ std``.

    An estimate was pulled towards what is usual, as if numbers were normal: mean and variance of
    the numbers ``seen`` in the prior's glances. That pull is undone, which gives an observation
    with normal noise, and the observation is weighed with how often each number was seen
    (Bayes' rule over whole numbers). Without them, what lies above one half counts as one or
    more. Where nothing is known the chance is that of the prior, or one half.

    Args:
        estimate: (n,) estimated numbers of objects.
        std: (n,) their standard deviations.
        seen: numbers of objects in the prior's glances.

    Example:
        >>> at_least_one([0.0, 1.0, 0.5], [0.1, 0.1, 3.0]).round(3).tolist()
        [0.0, 1.0, 0.5]
        >>> at_least_one([0.3], [0.25], seen=[0] * 98 + [1] * 2).round(2).tolist()
        [0.03]
    """
    middle, spread = np.asarray(estimate, np.float64), np.asarray(std, np.float64)
    known = np.isfinite(spread) & np.isfinite(middle)
    spread = np.maximum(np.where(known, spread, 1.0), 1e-9)
    middle = np.where(known, middle, 0.0)
    numbers = np.asarray(seen, dtype=np.int64)
    if len(numbers) == 0:
        return np.where(known, normal_cdf((middle - 0.5) / spread), 0.5)
    often = np.bincount(numbers, minlength=2).astype(np.float64)
    # What was never seen is not impossible.
    often = np.append(often, 0.0) + 0.5
    often /= often.sum()
    usual, variance = float(numbers.mean()), float(numbers.var())
    moved = np.square(middle - usual)
    told = 1 - np.square(spread) / max(variance, 1e-12)
    # A deviation beyond the usual one (it may have been widened): go by the move itself.
    told = np.where(told > 0.05, told, np.maximum(moved / (moved + np.square(spread)), 0.05))
    observed = usual + (middle - usual) / told
    noise = np.square(spread) / told
    whole = np.arange(len(often))
    fit = -np.square(observed[:, None] - whole) / (2 * noise[:, None]) + np.log(often)
    mass = np.exp(fit - fit.max(1, keepdims=True))
    return np.asarray(np.where(known, 1 - mass[:, 0] / mass.sum(1), 1 - often[0]))


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
