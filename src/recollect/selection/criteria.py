r"""How much a row is worth looking at: one number in [0, 1] each, computed in blocks.

Shape letters: N rows of the pool, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.selection.borders import FloatArray, blocks, check_labels, check_probabilities

__all__ = ["DISAGREEMENT_BOUND", "disagreement", "entropy", "least_confidence", "margin"]

# The largest value of |a log2 a - b log2 b| for a, b in [0, 1]: at a = 1/e, b = 0 or 1.
DISAGREEMENT_BOUND = 1 / (math.e * math.log(2))


def entropy(probabilities: Any) -> FloatArray:
    r"""Return the normalised entropy of each row: 0 is certain, 1 knows nothing.

    .. math:: h = -\sum_y p_y \log p_y / \log C

    Args:
        probabilities: (N, C), rows sum to 1.

    Returns:
        (N,), in the precision of the probabilities.

    Raises:
        ValueError: if the rows are no distributions.

    Reference:
        Leveraging Importance Weights in Subset Selection (Citovsky et al., 2023), IWeS-ent.

    >>> entropy([[0.5, 0.5], [1.0, 0.0]])
    array([1., 0.])
    """
    p = check_probabilities(probabilities)
    n, c = p.shape
    out = np.empty(n, p.dtype)
    ones = np.full(c, -1 / math.log(c), p.dtype)
    for rows in blocks(n, c):
        out[rows] = (_logs(p[rows]) * p[rows]) @ ones
    return np.clip(out, 0, 1, out=out)


def disagreement(probabilities: Any, second: Any, labels: Any = None) -> npt.NDArray[np.float64]:
    r"""Return how differently two models see the label of each row, in bits.

    .. math:: |f_y \log_2 f_y - g_y \log_2 g_y| \le 1 / (e \ln 2) \approx 0.531

    Without labels the largest disagreement over the classes is returned: what the row could be
    worth, whatever its label turns out to be.

    Args:
        probabilities: (N, C) of the first model, f.
        second: (N, C) of the second model, g: the same data, another start.
        labels: (N,) integers, or None.

    Returns:
        (N,) float64.

    Raises:
        TypeError: if labels are not integers.
        ValueError: if shapes differ, rows are no distributions, or labels are out of range.

    Reference:
        Leveraging Importance Weights in Subset Selection (Citovsky et al., 2023), IWeS-dis.

    >>> disagreement([[0.5, 0.5]], [[0.0, 1.0]], [0])
    array([0.5])
    """
    f, g = check_probabilities(probabilities), check_probabilities(second, "second")
    if f.shape != g.shape:
        raise ValueError(f"both models must see the same rows and classes: {f.shape}, {g.shape}")
    n, c = f.shape
    if labels is not None:
        y, rows = check_labels(labels, n, c), np.arange(n)
        return np.abs(_bits(f[rows, y]) - _bits(g[rows, y]))
    out = np.empty(n)
    for part in blocks(n, c):
        apart = np.abs(_logs(f[part]) * f[part] - _logs(g[part]) * g[part])
        out[part] = apart.max(1, initial=0) / math.log(2)
    return out


def margin(probabilities: Any) -> FloatArray:
    """Return the lead of the likeliest class over the next one: small is doubtful.

    Args:
        probabilities: (N, C), rows sum to 1.

    Returns:
        (N,), in the precision of the probabilities.

    Raises:
        ValueError: if the rows are no distributions.

    >>> margin([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])
    array([0.5, 0. ])
    """
    p = check_probabilities(probabilities)
    n, c = p.shape
    out = np.empty(n, p.dtype)
    for rows in blocks(n, c):
        ordered = np.partition(p[rows], c - 2, axis=1)
        out[rows] = ordered[:, -1] - ordered[:, -2]
    return out


def least_confidence(probabilities: Any) -> FloatArray:
    """Return the probability that the likeliest class is wrong.

    Args:
        probabilities: (N, C), rows sum to 1.

    Returns:
        (N,), in the precision of the probabilities.

    Raises:
        ValueError: if the rows are no distributions.

    >>> least_confidence([[0.75, 0.25], [0.5, 0.5]])
    array([0.25, 0.5 ])
    """
    p = check_probabilities(probabilities)
    return np.asarray(1 - p.max(1))


def _logs(p: FloatArray) -> FloatArray:
    """Return natural logarithms, finite where p is 0 (they are multiplied by p)."""
    safe = np.maximum(p, np.finfo(p.dtype).tiny)
    return np.asarray(np.log(safe, out=safe))


def _bits(p: FloatArray) -> npt.NDArray[np.float64]:
    """Return -p log2 p, 0 at 0."""
    exact = p.astype(np.float64)
    return np.asarray(-exact * np.log2(np.maximum(exact, np.finfo(np.float64).tiny)))
