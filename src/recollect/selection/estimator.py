"""The loop as a scikit-learn estimator: a classifier that trains on the rows it chose itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect.selection.growing import Strategy, grow
from recollect.selection.iwes import IWeS

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data
except ImportError as error:
    raise ImportError(
        'SubsetClassifier is a scikit-learn estimator: pip install "recollect[demo]"'
    ) from error

__all__ = ["SubsetClassifier"]


class SubsetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Train a classifier on a part of the rows, chosen in rounds by the classifier itself.

    Only labels of chosen rows are looked at, unless the strategy is ``IWeS("disagreement")``,
    which may see all. To scale inputs, put it last in a pipeline.

    Args:
        estimator: any classifier with ``predict_proba``; None is a logistic regression.
        strategy: ``IWeS(...)`` (None: with the entropy) or one of its rivals; those that need
            features are given the inputs.
        num_rows: rows to train on in the end, or a fraction of them.
        rounds: how often to choose after the uniform start; all parts are equally large.
        bootstrap: whether the second model, for the disagreement, also weighs its rows anew; a
            deterministic estimator needs it.
        random_state: None, an integer or a ``numpy.random.RandomState``.

    Attributes:
        classes_: (C,) the labels.
        estimator_: the trained classifier.
        selection_: the ``Selection``.
        indices_: (k,) rows that it was trained on.
        weights_: (k,) their weights.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> from sklearn.linear_model import LogisticRegression
        >>> chooser = SubsetClassifier(LogisticRegression(max_iter=500), num_rows=0.2,
        ...                            random_state=0)
        >>> chooser.fit(X[:1300] / 16, y[:1300]).indices_.shape
        (260,)
        >>> chooser.score(X[1300:] / 16, y[1300:]) > 0.84
        True
    """

    def __init__(
        self,
        estimator: Any = None,
        strategy: Strategy | None = None,
        num_rows: float = 0.2,
        rounds: int = 5,
        bootstrap: bool = True,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.strategy = strategy
        self.num_rows = num_rows
        self.rounds = rounds
        self.bootstrap = bootstrap
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> SubsetClassifier:
        """Choose rows and train on them.

        Args:
            X: (N, d) inputs.
            y: (N,) labels.

        Returns:
            Itself.

        Raises:
            TypeError: if rounds is not an integer.
            ValueError: if num_rows is out of range, there is one class only (in all rows, or in
                the uniform start), or the estimator cannot take the weights it would get.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"choosing needs at least two classes, got one class only: {self.classes_[0]!r}"
            )
        base = LogisticRegression() if self.estimator is None else self.estimator
        strategy = IWeS("entropy") if self.strategy is None else self.strategy
        weighted = has_fit_parameter(base, "sample_weight")

        def learn(rows: Any, weights: Any, seed: int) -> Any:
            model = clone(base)
            if "random_state" in model.get_params():
                model.set_params(random_state=seed)
            if len(np.unique(labels[rows])) < 2:
                raise ValueError(
                    f"the {len(rows)} rows of the uniform start hold one class only; raise "
                    "num_rows or take fewer rounds"
                )
            if weighted:
                return model.fit(X[rows], y[rows], sample_weight=weights)
            if np.ptp(weights) > 0:
                raise ValueError(
                    f"{type(base).__name__}.fit takes no sample_weight; choose with "
                    "IWeS(weights='ones') or a rival (and bootstrap=False), or take an estimator "
                    "that does"
                )
            return model.fit(X[rows], y[rows])

        for step in grow(
            strategy,
            self._sizes(len(X)),
            num_rows=len(X),
            fit=learn,
            predict=lambda model: self._spread(model, X),
            labels=labels,
            features=X,
            bootstrap=self.bootstrap,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
        ):
            self.selection_, self.estimator_ = step.selection, step.model
        self.indices_, self.weights_ = self.selection_.indices, self.selection_.weights
        return self

    def _sizes(self, rows: int) -> list[int]:
        """Return the rising sizes of the rounds."""
        rounds = check_integer("rounds", self.rounds, minimum=0)
        n = self.num_rows
        if isinstance(n, float | np.floating):
            if not 0 < n <= 1:
                raise ValueError(f"num_rows as a fraction must lie in (0, 1], got {n}")
            n = max(1, round(n * rows))
        final = check_integer("num_rows", n, minimum=1)
        if final > rows:
            raise ValueError(f"num_rows = {final} is more than the {rows} rows there are")
        sizes = np.unique(np.linspace(0, final, rounds + 2)[1:].round().astype(int))
        return [int(s) for s in sizes if s > 0]

    def _spread(self, model: Any, X: Any) -> npt.NDArray[np.floating[Any]]:
        """Return probabilities for all classes; those the model has not met get none."""
        found = model.predict_proba(X)
        whole = np.zeros((len(X), len(self.classes_)), found.dtype)
        whole[:, np.searchsorted(self.classes_, model.classes_)] = found
        return whole

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities (N, C), in the order of ``classes_``."""
        check_is_fitted(self)
        return self._spread(self.estimator_, validate_data(self, X, reset=False))

    def predict(self, X: Any) -> Any:
        """Return the likeliest label of each row (N,)."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]
