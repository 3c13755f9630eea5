"""IWeS: choose a batch by importance, carry the weights that keep training honest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_one_of
from recollect.selection import criteria
from recollect.selection.borders import array_of, check_rows, generator_of
from recollect.selection.choosing import left_of
from recollect.selection.chosen import Selection
from recollect.selection.sampling import race, toss

__all__ = ["IWeS"]

Floats = npt.NDArray[np.float64]
Criterion = Callable[[Any, Any, Any], Any]
CRITERIA = ("disagreement", "entropy")
WEIGHTS = ("capped", "inverse", "exact", "ones")


@dataclass(frozen=True)
class IWeS:
    r"""Importance-weighted subset selection for models that are retrained between batches.

    Each row has an acceptance probability p. Rows are drawn uniformly and accepted with
    probability p until the batch is full; an accepted row gets a weight of about 1/p, so that the
    weighted loss of the batch stands for the loss of the pool.

    Args:
        criterion: ``"disagreement"`` of two models about the label (without labels: about any
            class), ``"entropy"`` of one model (never looks at labels), or a function
            ``(probabilities, second, labels) -> (N,)`` of numbers in [0, 1].
        cap: largest weight with ``weights="capped"``.
        p_min: floor under p. The published rule has none (0) and then never finds a class to
            which both models give no probability; 0.02 finds it at little cost.
        weights: ``"capped"``: min(1/p, cap), as published; ``"inverse"``: 1/p; ``"exact"``: one
            over the probability of being in the batch, so that weighted sums are unbiased for
            sums over the pool; ``"ones"``: no weights.
        max_passes: the selection fails if the loop would go through the pool more often.

    Raises:
        TypeError: if the criterion is no name and no function.
        ValueError: if cap < 1, p_min is not in [0, 1), or a name is unknown.

    Reference:
        Leveraging Importance Weights in Subset Selection (Citovsky et al., 2023).

    Example:
        >>> p = np.array([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0], [0.6, 0.4]])
        >>> s = IWeS("entropy").select(2, probabilities=p, seed=0)
        >>> s.indices, s.weights.round(2)
        (array([3, 0]), array([1.03, 1.  ]))
    """

    criterion: str | Criterion = "disagreement"
    cap: float = 10.0
    p_min: float = 0.02
    weights: str = "capped"
    max_passes: float = 1e4

    def __post_init__(self) -> None:
        if not callable(self.criterion):
            if not isinstance(self.criterion, str):
                raise TypeError(f"criterion must be a name or a function, got {self.criterion!r}")
            check_one_of("criterion", self.criterion, CRITERIA)
        check_one_of("weights", self.weights, WEIGHTS)
        if not self.cap >= 1:
            raise ValueError(f"cap must be at least 1 (weights are at least 1), got {self.cap}")
        if not 0 <= self.p_min < 1:
            raise ValueError(f"p_min must lie in [0, 1), got {self.p_min}")
        if not self.max_passes > 0:
            raise ValueError(f"max_passes must be positive, got {self.max_passes}")

    @property
    def needs(self) -> frozenset[str]:
        """What ``select`` cannot do without."""
        both = self.criterion == "disagreement"
        return frozenset({"probabilities", "second"} if both else {"probabilities"})

    def acceptance(self, probabilities: Any, second: Any = None, labels: Any = None) -> Floats:
        """Return the acceptance probability of each row, floor included.

        Args:
            probabilities: (N, C) of the model.
            second: (N, C) of the second model, for the disagreement.
            labels: (N,) integers; the entropy does not look at them.

        Returns:
            (N,) float64 in [0, 1].

        Raises:
            TypeError: if labels are not integers.
            ValueError: if the second model is missing or agrees everywhere, shapes differ, rows
                are no distributions, or a function's values leave [0, 1].
        """
        p = self._score(probabilities, second, labels)
        return np.maximum(p, self.p_min, out=p)

    def _score(self, probabilities: Any, second: Any, labels: Any) -> Floats:
        if self.criterion == "entropy":
            return criteria.entropy(probabilities).astype(np.float64)
        if self.criterion == "disagreement":
            if second is None:
                raise ValueError(
                    "the disagreement needs a second model's probabilities (second=...): train "
                    "one from another start, or take criterion='entropy'"
                )
            p = criteria.disagreement(probabilities, second, labels)
            if len(p) and not p.any():
                raise ValueError(
                    "the two models agree everywhere; train the second from another start and in "
                    "another order of the data, or on a bootstrap of it"
                )
            return p
        assert callable(self.criterion)
        p = array_of(self.criterion(probabilities, second, labels)).astype(np.float64)
        if p.shape != (len(array_of(probabilities)),):
            raise ValueError(f"the criterion must return one number for each row, got {p.shape}")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("the criterion must return numbers in [0, 1] (none may be NaN)")
        return p

    def select(
        self,
        k: int | None,
        *,
        probabilities: Any,
        second: Any = None,
        labels: Any = None,
        features: Any = None,
        chosen: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Selection:
        """Choose k rows that were not chosen before.

        Args:
            k: how many; None tosses once for each row and takes whatever is accepted.
            probabilities: (N, C) of the model.
            second: (N, C) of the second model, for the disagreement.
            labels: (N,) integers, if they are known; only the disagreement looks at them.
            features: not used; here so that all strategies are called alike.
            chosen: rows chosen before, which stay out.
            seed: an integer, or a ``numpy.random.Generator`` that goes on.

        Returns:
            The selection, in the order of acceptance (ascending if k is None).

        Raises:
            TypeError: if k, chosen or labels are not integers.
            ValueError: as ``acceptance``; if k is larger than what is left; or if the loop would
                need more than ``max_passes``.
        """
        p = self.acceptance(probabilities, second, labels)
        out = check_rows(chosen, len(p)) if k is None else left_of(k, len(p), chosen)[1]
        left = len(p) - len(out)
        p[out] = 0
        generator = generator_of(seed)
        if k is None:
            rows, passes = toss(p, generator), 1.0
            inclusion = p[rows]
        else:
            rows, inclusion, passes = race(p, k, generator)
        if passes > self.max_passes:
            raise ValueError(
                f"{k} rows were accepted only after {passes:.3g} passes (max_passes = "
                f"{self.max_passes:g}): the mean acceptance probability is {p.sum() / left:.3g}; "
                "raise p_min or take fewer"
            )
        return Selection(rows, self._weights(p[rows], inclusion), p[rows], inclusion, left, passes)

    def _weights(self, p: Floats, inclusion: Floats) -> Floats:
        """Return the training weights of accepted rows."""
        if self.weights == "ones":
            return np.ones_like(p)
        if self.weights == "exact":
            return 1 / inclusion
        return np.minimum(1 / p, self.cap if self.weights == "capped" else math.inf)
