"""Rivals of IWeS, called as it is: chance, doubt, and doubt with diversity (BADGE).

Shape letters: N rows of the pool, C classes, d features, k rows to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect.selection import criteria
from recollect.selection.borders import (
    FloatArray,
    IntArray,
    array_of,
    check_features,
    check_probabilities,
    check_rows,
    generator_of,
)
from recollect.selection.chosen import Selection
from recollect.selection.sampling import race

__all__ = ["Badge", "Random", "Uncertain", "left_of", "without_chance"]

MEASURES = ("margin", "entropy", "least_confidence")


def left_of(k: Any, rows: int, chosen: Any) -> tuple[int, IntArray]:
    """Return k and the rows chosen before, or refuse them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if k is less than 1 or more than what is left.
    """
    before = check_rows(chosen, rows)
    if check_integer("k", k, minimum=1) > rows - len(before):
        raise ValueError(
            f"k = {k} is more than the {rows - len(before)} rows that are left of {rows}"
        )
    return int(k), before


def without_chance(rows: IntArray, pool_size: int) -> Selection:
    """Return a selection whose rows weigh one each and have no inclusion probabilities."""
    return Selection(rows, np.ones(len(rows)), None, None, pool_size)


@dataclass(frozen=True)
class Random:
    """Choose uniformly: the rival that is never far off.

    Example:
        >>> s = Random().select(2, probabilities=np.full((5, 2), 0.5), chosen=[0], seed=0)
        >>> sorted(s.indices.tolist()), s.weights
        ([2, 3], array([1., 1.]))
    """

    needs = frozenset[str]()

    def select(
        self,
        k: int,
        *,
        probabilities: Any = None,
        second: Any = None,
        labels: Any = None,
        features: Any = None,
        chosen: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Selection:
        """Choose k rows; whichever argument is given says how many rows there are.

        Args:
            k: how many.
            probabilities: (N, C), or
            second: (N, C), or
            labels: (N,), or
            features: (N, d).
            chosen: rows chosen before, which stay out.
            seed: an integer, or a ``numpy.random.Generator`` that goes on.

        Raises:
            TypeError: if k or chosen are not integers.
            ValueError: if nothing says how many rows there are, or k is more than is left.
        """
        given = [x for x in (probabilities, features, labels, second) if x is not None]
        if not given:
            raise ValueError(
                "nothing says how many rows there are; give probabilities, features or labels"
            )
        rows = len(array_of(given[0]))
        k, before = left_of(k, rows, chosen)
        p = np.ones(rows)
        p[before] = 0
        found, inclusion, passes = race(p, k, generator_of(seed))
        return Selection(found, np.ones(k), np.ones(k), inclusion, rows - len(before), passes)


@dataclass(frozen=True)
class Uncertain:
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

    def select(
        self,
        k: int,
        *,
        probabilities: Any,
        second: Any = None,
        labels: Any = None,
        features: Any = None,
        chosen: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Selection:
        """Choose the k most doubtful rows, the most doubtful first.

        Args:
            k: how many.
            probabilities: (N, C) of the model.
            second: not used.
            labels: not used.
            features: not used.
            chosen: rows chosen before, which stay out.
            seed: an integer, or a ``numpy.random.Generator`` that goes on; breaks ties.

        Raises:
            TypeError: if k or chosen are not integers.
            ValueError: if rows are no distributions, or k is more than is left.
        """
        if self.measure == "margin":
            doubt = -criteria.margin(probabilities)
        elif self.measure == "entropy":
            doubt = criteria.entropy(probabilities)
        else:
            doubt = criteria.least_confidence(probabilities)
        k, before = left_of(k, len(doubt), chosen)
        return without_chance(
            _largest(doubt, k, before, generator_of(seed)), len(doubt) - len(before)
        )


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
class Badge:
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

    def select(
        self,
        k: int,
        *,
        probabilities: Any,
        features: Any,
        second: Any = None,
        labels: Any = None,
        chosen: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Selection:
        """Choose k rows, the one of the largest gradient first. Time O(k N (C + d)).

        Args:
            k: how many.
            probabilities: (N, C) of the model.
            features: (N, d) that its last layer sees.
            second: not used.
            labels: not used.
            chosen: rows chosen before, which stay out.
            seed: an integer, or a ``numpy.random.Generator`` that goes on.

        Raises:
            TypeError: if k or chosen are not integers.
            ValueError: if rows are no distributions, features do not fit them, or k is more than
                is left.
        """
        a = check_probabilities(probabilities).copy()
        h = check_features(features)
        if len(a) != len(h):
            raise ValueError(f"probabilities and features differ in rows: {len(a)}, {len(h)}")
        k, before = left_of(k, len(a), chosen)
        generator = generator_of(seed)
        a[np.arange(len(a)), a.argmax(1)] -= 1
        norms = _squares(a) * _squares(h)
        open_ = np.ones(len(a), bool)
        open_[before] = False
        distance = norms.copy()
        rows = np.empty(k, np.int64)
        for n in range(k):
            weight = np.where(open_, distance, 0)
            total = weight.sum()
            if n == 0 and total > 0:
                j = int(weight.argmax())
            elif total > 0:
                j = int(np.searchsorted(weight.cumsum(), generator.random() * total, "right"))
                j = min(j, len(a) - 1)
            else:  # all that is left lies on what is chosen
                j = int(generator.choice(np.flatnonzero(open_)))
            rows[n], open_[j] = j, False
            away = norms + norms[j] - 2 * (a @ a[j]).astype(float) * (h @ h[j]).astype(float)
            away = np.where(away > 1e-6 * (norms + norms[j]), away, 0)  # rounding is no distance
            distance = away if n == 0 else np.minimum(distance, away)
        return without_chance(rows, len(a) - len(before))


def _squares(x: FloatArray) -> npt.NDArray[np.float64]:
    """Return the squared length of each row, float64."""
    return np.asarray(np.einsum("ij,ij->i", x, x), np.float64)
