r"""Chance with given probabilities: one toss for each row, or a race until k are accepted.

The published loop draws rows uniformly, with those refused put back, and accepts row i with
probability :math:`p_i` until k are accepted. In continuous time every row is visited at rate 1, so
the time of its acceptance is exponential with rate :math:`p_i`: the loop's outcome is the k
earliest of N independent exponential times. That is one vector operation, with exactly the
distribution of the loop, order included. Given the time :math:`\tau` of the earliest row left out,
row i was included with probability :math:`1 - e^{-p_i \tau}`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect.selection.borders import IntArray, array_of

__all__ = ["race", "toss"]

Floats = npt.NDArray[np.float64]


def _check_rates(p: Any) -> Floats:
    """Return acceptance probabilities as float64 (N,), or refuse them."""
    x = array_of(p).astype(np.float64, copy=False)
    if x.ndim != 1:
        raise ValueError(f"acceptance probabilities must have the shape (rows,), got {x.shape}")
    if not (x >= 0).all() or (x > 1).any():
        raise ValueError("acceptance probabilities must lie in [0, 1] (none may be NaN)")
    return x


def toss(p: Any, generator: np.random.Generator) -> IntArray:
    """Accept each row by its own independent toss; how many are accepted is left to chance.

    Rows tossed one by one from the same generator are accepted as they are all at once.

    Args:
        p: (N,) acceptance probabilities.
        generator: of the tosses; N numbers are taken.

    Returns:
        (k,) the rows accepted, ascending.

    Raises:
        ValueError: if a probability is not in [0, 1].

    >>> toss([1.0, 0.0, 1.0], np.random.default_rng(0)).tolist()
    [0, 2]
    """
    x = _check_rates(p)
    return np.flatnonzero(generator.random(len(x)) < x).astype(np.int64, copy=False)


def race(p: Any, k: int, generator: np.random.Generator) -> tuple[IntArray, Floats, float]:
    """Accept exactly k rows, distributed as in the loop that draws until k are accepted.

    Args:
        p: (N,) acceptance probabilities; rows with 0 are never accepted.
        k: rows to accept.
        generator: of the times; N numbers are taken.

    Returns:
        The rows in the order of acceptance (k,), their inclusion probabilities (k,) given the
        earliest row left out, and the number of passes over the remaining pool that the loop
        would have taken on average.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if fewer than k rows can be accepted, or a probability is not in [0, 1].

    Reference:
        Weighted random sampling with a reservoir (Efraimidis and Spirakis, 2006); Summarizing
        data using bottom-k sketches (Cohen and Kaplan, 2007).

    >>> rows, inclusion, _ = race([1.0, 0.5], 2, np.random.default_rng(0))
    >>> sorted(rows.tolist()), inclusion.tolist()
    ([0, 1], [1.0, 1.0])
    """
    x = _check_rates(p)
    k = check_integer("k", k, minimum=1)
    able = int(np.count_nonzero(x))
    if k > able:
        raise ValueError(
            f"{k} rows are wanted but only {able} of {len(x)} can be accepted (probability > 0); "
            "take fewer, or raise p_min"
        )
    times = np.full(len(x), np.inf)
    np.divide(generator.standard_exponential(len(x)), x, out=times, where=x > 0)
    if k < len(x):
        first = np.argpartition(times, k)[: k + 1]
        first = first[np.argsort(times[first], kind="stable")]
        rows, tau = first[:k], float(times[first[k]])
    else:
        rows, tau = np.argsort(times, kind="stable"), np.inf
    return rows.astype(np.int64), -np.expm1(-x[rows] * tau), float(times[rows[-1]])
