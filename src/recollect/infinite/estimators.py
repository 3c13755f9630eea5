"""Infinite ensembles as scikit-learn estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect.infinite.affine import Dense
from recollect.infinite.composing import Repeat, Serial
from recollect.infinite.lifting import twin
from recollect.infinite.predict import Ensemble, ensemble
from recollect.infinite.rectifiers import Relu
from recollect.infinite.twins import Twin

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError(
        "InfiniteRegressor and InfiniteClassifier need scikit-learn: pip install 'recollect[demo]'"
    ) from error

__all__ = ["InfiniteClassifier", "InfiniteRegressor"]

Array = npt.NDArray[Any]


class _Infinite(BaseEstimator):  # type: ignore[misc]
    """What both estimators share."""

    def __init__(
        self,
        network: Any = None,
        *,
        depth: int = 2,
        weight_std: float = 2**0.5,
        bias_std: float = 0.1,
        kernel: str = "ntk",
        regularization: float = 1e-3,
        time: float | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.network = network
        self.depth = depth
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.kernel = kernel
        self.regularization = regularization
        self.time = time
        self.shape = shape

    def _twin(self) -> Twin:
        network = self.network
        if isinstance(network, Twin):
            return network
        if network is None:
            dense = Dense(weight_std=self.weight_std, bias_std=self.bias_std)
            return twin(Serial(Repeat(Serial(dense, Relu()), self.depth), dense))
        if not isinstance(network, nn.Module) and callable(network):
            network = network()
        if isinstance(network, Twin):
            return network
        return twin(network, weight_std=self.weight_std, bias_std=self.bias_std)

    def _tensor(self, X: Array) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64))
        return x if self.shape is None else x.reshape(len(x), *self.shape)

    def _fit(self, X: Array, y: Array) -> Ensemble:
        self.ensemble_ = ensemble(
            self._twin(),
            self._tensor(X),
            torch.from_numpy(np.asarray(y, dtype=np.float64)),
            regularization=self.regularization,
        )
        return self.ensemble_

    def _predict(self, X: Array, *, spread: bool) -> tuple[Array, Array | None]:
        check_is_fitted(self, "ensemble_")
        X = validate_data(self, X, reset=False)
        get = ("mean", "variance") if spread else ("mean",)
        found = self.ensemble_.predict(self._tensor(X), t=self.time, get=get, kernel=self.kernel)
        assert found.mean is not None
        return found.mean.numpy(), found.std.numpy() if spread else None


class InfiniteRegressor(RegressorMixin, _Infinite):  # type: ignore[misc]
    """Regression by the ensemble of infinitely wide networks.

    Args:
        network: a module, a composition of layers, a :class:`Twin`, or a function that returns
            one; None: a ReLU network.
        depth: number of hidden layers of the default network.
        weight_std: deviation of the weights.
        bias_std: deviation of the biases.
        kernel: ``"ntk"``, ``"nngp"`` or ``"ntkgp"``.
        regularization: added to the diagonal of the training kernel, relative to its mean.
        time: of training; None: to the end.
        shape: of one input, if the network wants more than a vector.

    Example:
        >>> X = np.linspace(-1, 1, 20)[:, None]
        >>> model = InfiniteRegressor().fit(X, X[:, 0] ** 2)
        >>> bool(model.score(X, X[:, 0] ** 2) > 0.99)
        True
    """

    def fit(self, X: Array, y: Array) -> InfiniteRegressor:
        """Fit to inputs (N, D) and targets (N,) or (N, O)."""
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True)
        self.offset_ = np.mean(y, axis=0)
        self._fit(X, y - self.offset_)
        return self

    def predict(self, X: Array, return_std: bool = False) -> Any:
        """Return means, and deviations if asked."""
        mean, std = self._predict(X, spread=return_std)
        mean = mean + self.offset_
        return (mean, std) if return_std else mean

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class InfiniteClassifier(ClassifierMixin, _Infinite):  # type: ignore[misc]
    """Classification by the ensemble, regressing centred one-hot targets.

    Probabilities are those of each class being the largest, from the ensemble's mean and
    variance by a probit-like approximation; arguments as :class:`InfiniteRegressor`.

    Example:
        >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
        >>> InfiniteClassifier().fit(X, ["a", "a", "b", "b"]).predict([[-1.5], [1.5]]).tolist()
        ['a', 'b']
    """

    def fit(self, X: Array, y: Array) -> InfiniteClassifier:
        """Fit to inputs (N, D) and labels (N,)."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(
                f"classification needs at least two classes, the data has {count} class"
            )
        self._fit(X, np.eye(count)[codes] - 1.0 / count)
        return self

    def predict_proba(self, X: Array) -> Array:
        """Return probabilities of the classes, (M, C)."""
        mean, std = self._predict(X, spread=True)
        assert std is not None
        # Deviation of a difference of two outputs, widened by the resolution of the targets.
        scale = np.sqrt(2 * (std**2 + 0.1**2))[:, None]
        logits = 1.702 * mean / scale
        logits = logits - logits.max(1, keepdims=True)
        odds = np.exp(logits)
        found: Array = odds / odds.sum(1, keepdims=True)
        return found

    def predict(self, X: Array) -> Array:
        """Return the most probable labels."""
        mean, _ = self._predict(X, spread=False)
        found: Array = self.classes_[mean.argmax(1)]
        return found
