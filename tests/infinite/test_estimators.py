"""The scikit-learn estimators and the picture."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from recollect import infinite as inf

pytest.importorskip("sklearn", reason="needs scikit-learn (extra: demo)")
pytest.importorskip("matplotlib", reason="needs matplotlib (extra: demo)")

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import check_estimator


@pytest.mark.parametrize(
    "estimator",
    [inf.InfiniteRegressor(), inf.InfiniteClassifier()],
    ids=lambda e: type(e).__name__,
)
def test_scikit_learn_accepts_the_estimators(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that do not apply warn that they are skipped
        check_estimator(estimator)


def test_digits():
    images, labels = load_digits(return_X_y=True)
    x, xt, y, yt = train_test_split(images / 16, labels, train_size=400, random_state=0)
    model = inf.InfiniteClassifier().fit(x, y)
    assert model.score(xt, yt) > 0.94
    odds = model.predict_proba(xt)
    np.testing.assert_allclose(odds.sum(1), 1)
    sure = odds.max(1) > 0.6
    right = model.predict(xt) == yt
    assert right[sure].mean() > right[~sure].mean()


def test_networks_of_all_kinds():
    x = np.random.default_rng(0).normal(size=(30, 9))
    y = x[:, 0] - x[:, 1]
    module = nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 1))
    image = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    for model in (
        inf.InfiniteRegressor(module),
        inf.InfiniteRegressor(lambda: module),
        inf.InfiniteRegressor(inf.twin(module), kernel="nngp"),
        inf.InfiniteRegressor(image, shape=(1, 3, 3)),
        inf.InfiniteRegressor(module, time=1e4),
    ):
        assert model.fit(x, y).score(x, y) > 0.8
        mean, std = model.predict(x, return_std=True)
        assert mean.shape == std.shape == (30,)


def test_the_picture(monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    x = torch.linspace(-1, 1, 5)[:, None]
    xt = torch.linspace(-1.5, 1.5, 20)[:, None]

    def make():
        return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    fit = inf.ensemble(inf.twin(make(), weight_std=1.5, bias_std=0.1), x, torch.sin(3 * x))
    many = inf.FiniteEnsemble(make, 5, weight_std=1.5, bias_std=0.1)
    history = many.train(x, torch.sin(3 * x), [0.0, 5.0], learning_rate=0.5, x_test=xt)
    figure = inf.plot_training(
        fit, xt, torch.logspace(-1, 2, 8), history=history, y_test=torch.sin(3 * xt)
    )
    assert len(figure.axes) == 2
    assert len(figure.axes[0].lines) == 3
    matplotlib.pyplot.close(figure)
