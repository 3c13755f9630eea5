"""The loop of training and choosing, for any model: a few functions say how it learns.

Shape letters: N rows of the pool, C classes, d features, k rows chosen so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.selection.borders import IntArray
from recollect.selection.chosen import Selection
from recollect.selection.rivals import Random

__all__ = ["Round", "Strategy", "grow"]

Floats = npt.NDArray[np.float64]
Fit = Callable[[IntArray, Floats, int], Any]


class Strategy(Protocol):
    """What chooses: it says what it needs, and selects."""

    @property
    def needs(self) -> frozenset[str]:
        """Of ``"probabilities"``, ``"second"`` and ``"features"``, what it cannot do without."""

    def select(
        self,
        k: int,
        *,
        probabilities: Any,
        second: Any,
        labels: Any,
        features: Any,
        chosen: Any,
        seed: int,
    ) -> Selection:
        """Choose k rows that were not chosen before."""


@dataclass(frozen=True, eq=False)
class Round:
    """A model, and the rows that it was trained on.

    Attributes:
        selection: all rows chosen so far, with their weights.
        model: what ``fit`` returned for them.
    """

    selection: Selection
    model: Any


def grow(
    strategy: Strategy,
    sizes: Sequence[int],
    *,
    num_rows: int,
    fit: Fit,
    predict: Callable[[Any], Any],
    labels: Any = None,
    features: Any = None,
    bootstrap: bool = False,
    seed: int = 0,
) -> Iterator[Round]:
    """Train, choose more rows, train again from the start: yield a round for each size.

    The first rows are drawn uniformly, and weigh one each; rows chosen later keep the weights of
    their round. Nothing is computed before the next round is asked for, so the loop may be left
    at any size.

    Args:
        strategy: ``IWeS(...)`` or one of its rivals.
        sizes: rows to have in each round, rising; the first is the uniform start.
        num_rows: N, rows of the pool.
        fit: ``(rows, weights, seed) -> model``: trains a new model on these rows; weights are
            scaled to a mean of 1, so that learning rates and penalties keep their meaning. This
            is where labels are looked up: only chosen rows need any.
        predict: ``model -> (N, C)`` probabilities of the whole pool.
        labels: (N,) integers if all are visible, for the disagreement; else None.
        features: (N, d), or a function ``model -> (N, d)``, for strategies that need them.
        bootstrap: whether a second model also sees its rows weighted anew, by exponential
            numbers (the Bayesian bootstrap): for models that ignore their seed.
        seed: of the choices, and of the seeds given to ``fit``.

    Yields:
        Rounds, one for each size.

    Raises:
        TypeError: if a size or num_rows is not an integer.
        ValueError: if sizes do not rise or exceed num_rows; if the strategy needs features and
            there are none; or as the strategy's ``select``.

    Example:
        >>> x = np.linspace(-1, 1, 50); y = (x > 0).astype(int)
        >>> def fit(rows, weights, seed):  # a threshold between the classes
        ...     return x[rows][y[rows] == 1].min() / 2 + x[rows][y[rows] == 0].max() / 2
        >>> def predict(threshold):
        ...     p = 1 / (1 + np.exp(-20 * (x - threshold)))
        ...     return np.stack([1 - p, p], 1)
        >>> from recollect.selection import IWeS
        >>> for r in grow(IWeS("entropy"), [5, 10], num_rows=50, fit=fit, predict=predict):
        ...     print(len(r.selection), bool(abs(r.model) < 0.05))
        5 True
        10 True
    """
    checked = _check_sizes(sizes, num_rows)
    if "features" in strategy.needs and features is None:
        raise ValueError(
            f"{type(strategy).__name__} needs features: give an array (rows, features), or a "
            "function of the model"
        )
    return _rounds(strategy, checked, num_rows, fit, predict, labels, features, bootstrap, seed)


def _rounds(
    strategy: Strategy,
    sizes: list[int],
    num_rows: int,
    fit: Fit,
    predict: Callable[[Any], Any],
    labels: Any,
    features: Any,
    bootstrap: bool,
    seed: int,
) -> Iterator[Round]:
    """Yield the rounds; arguments as ``grow``, checked."""
    start = seed_of(seed, "start")
    have = Random().select(sizes[0], features=np.empty((num_rows, 1)), seed=start)
    model: Any = None
    for number, size in enumerate(sizes):
        if number:
            given: dict[str, Any] = dict.fromkeys(("probabilities", "second", "features"))
            if "probabilities" in strategy.needs:
                given["probabilities"] = predict(model)
            if "second" in strategy.needs:
                weights = _scaled(have.weights)
                if bootstrap:
                    draws = np.random.default_rng(seed_of(seed, "bootstrap", number))
                    weights = _scaled(weights * draws.standard_exponential(len(weights)))
                other = fit(have.indices, weights, seed_of(seed, "second", number) % 2**32)
                given["second"] = predict(other)
            if "features" in strategy.needs:
                given["features"] = features(model) if callable(features) else features
            more = strategy.select(
                size - len(have),
                labels=labels,
                chosen=have.indices,
                seed=seed_of(seed, "choose", number),
                **given,
            )
            have = have.then(more)
        model = fit(have.indices, _scaled(have.weights), seed_of(seed, "fit", number) % 2**32)
        yield Round(have, model)


def _scaled(weights: Floats) -> Floats:
    """Return weights with a mean of 1."""
    return np.asarray(weights / weights.mean())


def _check_sizes(sizes: Sequence[int], num_rows: int) -> list[int]:
    """Return the sizes as integers, or refuse them."""
    limit = check_integer("num_rows", num_rows, minimum=1)
    checked = [check_integer("each of sizes", n, minimum=1) for n in sizes]
    if not checked or any(a >= b for a, b in pairwise(checked)):
        raise ValueError(f"sizes must rise, and be at least one, got {checked}")
    if checked[-1] > limit:
        raise ValueError(f"sizes end at {checked[-1]}, more than the {limit} rows of the pool")
    return checked
