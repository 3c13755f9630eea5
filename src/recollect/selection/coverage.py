"""Rivals of IWeS that cover the pool: k-center, and submodular facility location.

Neither looks at a model's probabilities: they need features only, and find rows that lie near
everything else. Shape letters: N rows of the pool, d features, M targets, k rows to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect.selection.borders import FloatArray, IntArray, check_features
from recollect.selection.choosing import Chooser, Pool
from recollect.selection.chosen import Selection

__all__ = ["FacilityLocation", "KCenter"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KCenter(Chooser):
    """Choose the row farthest from all chosen ones, again and again (the coreset rule).

    The largest distance of a row to its nearest centre is at most twice the smallest possible.

    Reference:
        Clustering to minimize the maximum intercluster distance (Gonzalez, 1985); Active Learning
        for Convolutional Neural Networks: A Core-Set Approach (Sener and Savarese, 2018).

    Example:
        >>> KCenter().select(2, features=[[0.0], [0.1], [5.0]], chosen=[0]).indices
        array([2, 1])
    """

    needs = frozenset({"features"})

    def _choose(self, k: int, pool: Pool) -> Selection:
        """Time O((k + chosen) N d). Without earlier rows the first is drawn by the seed."""
        x = check_features(pool.features)
        x = x - x.mean(0)  # distances from products lose less near the origin
        squares = np.einsum("ij,ij->i", x, x)
        distance = np.full(len(x), np.inf, x.dtype)
        for j in pool.before:
            np.minimum(distance, _away(x, squares, int(j)), out=distance)
        distance[pool.before] = -np.inf
        rows = np.empty(k, np.int64)
        for n in range(k):
            first = n == 0 and len(pool.before) == 0
            j = int(pool.generator.integers(len(x))) if first else int(distance.argmax())
            rows[n] = j
            np.minimum(distance, _away(x, squares, j), out=distance)
            distance[j] = -np.inf
        return pool.without_chance(rows)


def _away(x: FloatArray, squares: FloatArray, j: int) -> FloatArray:
    """Return squared distances of all rows to row j."""
    return np.asarray(np.maximum(squares + squares[j] - 2 * (x @ x[j]), 0))


@dataclass(frozen=True)
class FacilityLocation(Chooser):
    r"""Choose rows so that every row of the pool has a similar one among them.

    Greedily maximises :math:`F(S) = \sum_i \max_{j \in S} s_{ij}` with
    :math:`s_{ij} = (1 + \cos(x_i, x_j)) / 2`, within :math:`1 - 1/e` of the best. Gains only fall
    as S grows, so most of them need not be computed again (lazy greedy).

    Args:
        targets: rows that stand for the pool in the sum; a larger pool is represented by that
            many of its rows, drawn by the seed.

    Raises:
        TypeError: if targets is not an integer.
        ValueError: if targets is less than 1.

    Reference:
        An analysis of approximations for maximizing submodular set functions (Nemhauser et al.,
        1978); Accelerated greedy algorithms (Minoux, 1978).

    Example:
        >>> x = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [-1.0, 1.0]]
        >>> FacilityLocation().select(2, features=x).indices
        array([2, 3])
    """

    targets: int = 4096

    needs = frozenset({"features"})

    def __post_init__(self) -> None:
        check_integer("targets", self.targets, minimum=1)

    def _choose(self, k: int, pool: Pool) -> Selection:
        """Take the most representative first. Time O(N M d) and a little for each row."""
        x = check_features(pool.features)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        if not lengths.all():
            raise ValueError(
                f"row {int(lengths[:, 0].argmin())} of features is zero and has no direction; "
                "leave such rows out, or add a constant feature"
            )
        x = x / lengths
        if len(x) > self.targets:
            goal = x[pool.generator.choice(len(x), self.targets, replace=False)]
        else:
            goal = x
        return pool.without_chance(_lazy_greedy(x, goal, k, pool.before))


def _similar(goal: FloatArray, x: FloatArray) -> FloatArray:
    """Return similarities in [0, 1] of every target to every row: (M, rows)."""
    return np.asarray((1 + goal @ x.T) / 2)


def _lazy_greedy(x: FloatArray, goal: FloatArray, k: int, before: IntArray) -> IntArray:
    """Return k rows by greedy gain, computing a gain again only where it may be the best."""
    cover = np.zeros(len(goal), x.dtype)
    for j in before:
        np.maximum(cover, _similar(goal, x[j : j + 1])[:, 0], out=cover)
    step = max(1, (1 << 22) // len(goal))
    bound = np.concatenate(  # gains when nothing is chosen yet: the highest they will ever be
        [_gains(goal, x[a : a + step], cover) for a in range(0, len(x), step)]
    )
    bound[before] = -np.inf
    rows = np.empty(k, np.int64)
    fresh = np.zeros(len(x), np.int64)  # round in which the bound was exact
    for n in range(k):
        while fresh[j := int(bound.argmax())] != n:
            few = np.argpartition(bound, -8)[-8:] if len(x) > 8 else np.arange(len(x))
            few = np.union1d(few[(fresh[few] != n) & (bound[few] > -np.inf)], j)  # ties may hide j
            bound[few], fresh[few] = _gains(goal, x[few], cover), n
        rows[n], bound[j] = j, -np.inf
        np.maximum(cover, _similar(goal, x[j : j + 1])[:, 0], out=cover)
    return rows


def _gains(goal: FloatArray, x: FloatArray, cover: FloatArray) -> Floats:
    """Return how much each row would add to the sum of coverage, float64."""
    gain = _similar(goal, x)
    gain -= cover[:, None]
    return np.asarray(np.maximum(gain, 0, out=gain).sum(0, dtype=np.float64))
