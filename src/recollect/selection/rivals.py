"""Rivals of IWeS, called as it is: chance, doubt, and doubt with diversity (BADGE).

Shape letters: N rows of the pool, C classes, d features, k rows to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect._checks import check_one_of
from recollect.selection import criteria
from recollect.selection.borders import (
    FloatArray,
    IntArray,
    check_features,
    check_probabilities,
)
from recollect.selection.choosing import Chooser, Pool
from recollect.selection.chosen import Selection
from recollect.selection.sampling import race

__all__ = ["Badge", "Random", "Uncertain"]

MEASURES = ("margin", "entropy", "least_confidence")


@dataclass(frozen=True)
class Random(Chooser):
    """Choose uniformly: the rival that is never far off.

    Whichever argument is given says how many rows there are.

    Example:
        >>> s = Random().select(2, probabilities=np.full((5, 2), 0.5), chosen=[0], seed=0)
        >>> sorted(s.indices.tolist()), s.weights
        ([2, 3], array([1., 1.]))
    """

    def _choose(self, k: int, pool: Pool) -> Selection:
        p = np.ones(pool.size)
        p[pool.before] = 0
        found, inclusion, passes = race(p, k, pool.generator)
        return Selection(found, np.ones(k), np.ones(k), inclusion, pool.left, passes)


@dataclass(frozen=True)
class Uncertain(Chooser):
    """Choose the rows that the model doubts most; equal ones by the seed.

    Args:
        measure: ``"margin"``, ``"entropy"`` or ``"least_confidence"``.

    Raises:
        ValueError: if the measure is unknown.

    Example:
        >>> Uncertain("margin").select(1, probabilities=[[0.9, 0.1], [0.4, 0.6]]).indices
        array([1])
    """

    measure: str = "margin"

    needs = frozenset({"probabilities"})

    def __post_init__(self) -> None:
        check_one_of("measure", self.measure, MEASURES)

    def _choose(self, k: int, pool: Pool) -> Selection:
        """Take the most doubtful first."""
        if self.measure == "margin":
            doubt = -criteria.margin(pool.probabilities)
        elif self.measure == "entropy":
            doubt = criteria.entropy(pool.probabilities)
        else:
            doubt = criteria.least_confidence(pool.probabilities)
        return pool.without_chance(_largest(doubt, k, pool.before, pool.generator))


def _largest(
    score: FloatArray, k: int, before: IntArray, generator: np.random.Generator
) -> IntArray:
    """Return the k rows of largest score, largest first, ties in random order."""
    s = score.astype(np.float64)
    s[before] = -np.inf
    edge = np.partition(s, len(s) - k)[len(s) - k]
    able = np.flatnonzero(s >= edge)  # k rows, and those that tie with the last
    able = able[np.lexsort((generator.random(len(able)), -s[able]))]
    return able[:k].astype(np.int64)


@dataclass(frozen=True)
class Badge(Chooser):
    r"""Choose rows whose loss gradients are large and point in different directions.

    The gradient of row i with respect to the last layer, were its likeliest class the true one,
    is the outer product of :math:`a_i = p_i - e_{\hat y_i}` and the features :math:`h_i`. Rows are
    drawn by k-means++ on these products, which are never written out: inner products of outer
    products are products of inner products.

    Reference:
        Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds (Ash et al., 2020).

    Example:
        >>> p, h = [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        >>> Badge().select(2, probabilities=p, features=h, seed=0).indices
        array([0, 2])
    """

    needs = frozenset({"probabilities", "features"})

    def _choose(self, k: int, pool: Pool) -> Selection:
        """Take the largest gradient first. Time O(k N (C + d))."""
        a, h = check_probabilities(pool.probabilities).copy(), check_features(pool.features)
        a[np.arange(len(a)), a.argmax(1)] -= 1
        norms = _squares(a) * _squares(h)
        open_ = np.ones(len(a), bool)
        open_[pool.before] = False
        distance = norms.copy()
        rows = np.empty(k, np.int64)
        for n in range(k):
            weight = np.where(open_, distance, 0)
            total = weight.sum()
            if n == 0 and total > 0:
                j = int(weight.argmax())
            elif total > 0:
                j = int(np.searchsorted(weight.cumsum(), pool.generator.random() * total, "right"))
                j = min(j, len(a) - 1)
            else:  # all that is left lies on what is chosen
                j = int(pool.generator.choice(np.flatnonzero(open_)))
            rows[n], open_[j] = j, False
            away = norms + norms[j] - 2 * (a @ a[j]).astype(float) * (h @ h[j]).astype(float)
            away = np.where(away > 1e-6 * (norms + norms[j]), away, 0)  # rounding is no distance
            distance = away if n == 0 else np.minimum(distance, away)
        return pool.without_chance(rows)


def _squares(x: FloatArray) -> npt.NDArray[np.float64]:
    """Return the squared length of each row, float64."""
    return np.asarray(np.einsum("ij,ij->i", x, x), np.float64)
