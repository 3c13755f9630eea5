"""Whether a glance held at least one object, from the estimate of how many it held."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from recollect.recall.windows import Windows

__all__ = ["at_least_one", "misread", "quantiles", "told_by_windows", "usual_chance"]

FloatArray = npt.NDArray[np.float64]

# Rates of a window's events that are weighed, as log odds. The usual rate is believed in as if it
# had been seen in so many events: the window is as usual, or anything, equally likely.
LOG_ODDS = np.linspace(-7.0, 7.0, 57)
BELIEFS = (200.0, 2.0)
# A chance this close to zero or one is a decision, and may be wrong.
SURE = 0.02
# Beyond so many open events their number is taken as normal.
MOST_EXACT = 400

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


def usual_chance(seen: npt.ArrayLike) -> float:
    """Chance of at least one object as the prior's glances show it, one half without any.

    >>> usual_chance([0, 0, 1]), usual_chance([])
    (0.4444444444444444, 0.5)
    """
    numbers = np.asarray(seen, np.int64)
    if len(numbers) == 0:
        return 0.5
    # As in at_least_one: what was never seen is not impossible.
    often = np.append(np.bincount(numbers, minlength=2), 0.0) + 0.5
    return float(1 - often[0] / often.sum())


def misread(chance: npt.ArrayLike, happened: npt.ArrayLike) -> float:
    """How often decisions, chances close to zero or one, are wrong, judged on known events.

    Half a mistake is added: of n decisions without any, one in 2 n may still be wrong.

    >>> misread([0.999, 0.001, 0.5, 0.0], [True, True, True, False])
    0.375
    """
    p, y = np.asarray(chance, np.float64), np.asarray(happened, np.bool_)
    sure = np.minimum(p, 1 - p) < SURE
    wrong = (p > 0.5) != y
    return float((wrong[sure].sum() + 0.5) / (sure.sum() + 1))


def told_by_windows(
    chance: FloatArray, usual: float, wrong: float, windows: Windows
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """How many of each window's events happened: the mean, and the ends of the 90 % interval.

    A window may be unlike the whole: its own rate r of events is not known. With the odds
    ``l_i = odds(p_i) / odds(usual)`` that a sketch alone gives an event,

        P(r | sketches) ~ P(r) prod_i (1 - r + r l_i),   P(event i | r) = r l_i / (1 - r + r l_i),

    and the number of events is a mixture over r of Poisson's binomials.

    Args:
        chance: (n,) chance of each event, if the window is as usual.
        usual: the usual rate, which these chances went by.
        wrong: share of decisions that turn out wrong (``misread``): no sketch alone tells more
            than that, whatever is usual.
        windows: which window each event belongs to.

    Returns:
        estimate, low and high, (W,); the ends are whole numbers.
    """
    found = np.zeros((3, len(windows)))
    p = np.clip(chance, 1e-12, 1 - 1e-12)
    base = min(max(usual, 1e-3), 1 - 1e-3)
    most = np.log((1 - wrong) / max(wrong, 1e-12))
    log_odds = np.clip(np.log(p / (1 - p)) - np.log(base / (1 - base)), -most, most)
    rate = 1 / (1 + np.exp(-LOG_ODDS))
    about = base * np.log(rate) + (1 - base) * np.log1p(-rate)
    prior = sum(
        np.exp(b * (about - about.max())) / np.exp(b * (about - about.max())).sum()
        for b in BELIEFS
    )
    log_prior = np.log(np.maximum(prior, 1e-300))
    for w in range(len(windows)):
        mine = log_odds[windows.index == w]
        if len(mine) == 0:
            continue
        # log(1 - r + r l), stable for large odds.
        each = np.logaddexp(np.log1p(-rate)[:, None], np.log(rate)[:, None] + mine)  # (R, n)
        weight = log_prior + each.sum(1)
        weight = np.exp(weight - weight.max())
        weight /= weight.sum()
        chances = np.exp(np.log(rate)[:, None] + mine - each)
        mass = np.zeros(len(mine) + 1)
        for i in np.flatnonzero(weight > 1e-4).tolist():
            mass += weight[i] * _number(chances[i])
        below = np.cumsum(mass / mass.sum())
        found[:, w] = (
            mass @ np.arange(len(mass)) / mass.sum(),
            np.searchsorted(below, 0.05),
            np.searchsorted(below, 0.95 - 1e-12),
        )
    return found[0], found[1], found[2]


def _number(chance: FloatArray) -> FloatArray:
    """Distribution (n + 1,) of how many independent events happen."""
    open_ = chance[(chance > 1e-9) & (chance < 1 - 1e-9)]
    sure = int((chance >= 1 - 1e-9).sum())
    mass = np.zeros(len(chance) + 1)
    if len(open_) > MOST_EXACT:
        std = max(sqrt(float((open_ * (1 - open_)).sum())), 1e-6)
        edges = normal_cdf((np.arange(len(open_) + 2) - 0.5 - open_.sum()) / std)
        edges[0], edges[-1] = 0.0, 1.0
        mass[sure : sure + len(open_) + 1] = np.diff(edges)
        return mass
    mass[sure] = 1.0
    for p in open_.tolist():
        mass[1:], mass[0] = mass[1:] * (1 - p) + mass[:-1] * p, mass[0] * (1 - p)
    return mass
