"""What comes out: the rows chosen, their weights, and what they say about the whole pool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.selection.borders import IntArray, array_of

__all__ = ["Selection"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows chosen from a pool, in the order in which they were accepted.

    Attributes:
        indices: (k,) row numbers of the pool, int64.
        weights: (k,) weights for training, float64.
        probabilities: (k,) acceptance probabilities p (or None: chosen without chance).
        inclusion: (k,) probabilities that the row is in the selection at all, from which totals
            of the pool are estimated (or None: chosen without chance).
        pool_size: rows that could have been chosen.
        passes: how often the remaining pool had to be gone through, on average.

    Example:
        >>> s = Selection(np.array([4, 1]), np.ones(2), np.ones(2), np.full(2, 0.5), 4, 1.0)
        >>> s.total([3.0, 1.0])
        (8.0, 4.47...)
    """

    indices: IntArray
    weights: Floats
    probabilities: Floats | None
    inclusion: Floats | None
    pool_size: int
    passes: float = 0.0

    def __len__(self) -> int:
        return len(self.indices)

    def total(self, values: Any) -> tuple[float, float]:
        r"""Estimate the sum of a quantity over the pool from the chosen rows.

        .. math:: \hat T = \sum_i v_i / \pi_i, \quad
                  \hat\sigma^2 = \sum_i v_i^2 (1 - \pi_i) / \pi_i^2

        Both are unbiased: for independent tosses by Horvitz and Thompson, for a fixed number of
        rows because the inclusion is conditioned on the first row left out (pairs of weights are
        then uncorrelated).

        Args:
            values: (k,) the quantity at the chosen rows, in the order of ``indices``.

        Returns:
            The estimate and its standard deviation.

        Raises:
            ValueError: if the rows were chosen without chance, or values do not fit them.

        Reference:
            Summarizing data using bottom-k sketches (Cohen and Kaplan, 2007), rank conditioning.
        """
        v = array_of(values).astype(np.float64)
        if self.inclusion is None:
            raise ValueError(
                "these rows were chosen without chance and say nothing about the rest; estimate "
                "from IWeS or Random"
            )
        if v.shape != self.indices.shape:
            raise ValueError(
                f"values must be one for each chosen row, shape {self.indices.shape}, got "
                f"{v.shape}"
            )
        pi = self.inclusion
        spread = np.sqrt(np.sum((v / pi) ** 2 * (1 - pi)))
        return float(np.sum(v / pi)), float(spread)

    def mean(self, values: Any) -> tuple[float, float]:
        """Estimate the mean of a quantity over the pool, with its standard deviation.

        The same as ``total`` divided by the size of the pool.

        Args:
            values: (k,) the quantity at the chosen rows.

        Raises:
            ValueError: as ``total``.
        """
        estimate, spread = self.total(values)
        return estimate / self.pool_size, spread / self.pool_size

    def then(self, later: Selection) -> Selection:
        """Join a later round to this one: weights for training stay as they are.

        The union has no inclusion probabilities of its own; each round estimates its own pool.

        >>> one = Selection(np.array([4]), np.ones(1), None, None, 9)
        >>> one.then(Selection(np.array([2]), np.full(1, 3.0), None, None, 8)).weights
        array([1., 3.])
        """
        one, other = self.probabilities, later.probabilities
        joined = None if one is None or other is None else np.concatenate([one, other])
        return replace(
            self,
            indices=np.concatenate([self.indices, later.indices]),
            weights=np.concatenate([self.weights, later.weights]),
            probabilities=joined,
            inclusion=None,
            passes=self.passes + later.passes,
        )
