"""The loop: for any model, as a scikit-learn estimator, and in torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from recollect import selection
from recollect.selection import (
    Badge,
    IWeS,
    KCenter,
    Random,
    Selection,
    SubsetClassifier,
    Uncertain,
    WeightedLoss,
    WeightedSubset,
    grow,
)

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402


def blobs(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return np.eye(3)[y] * 3 + draws.standard_normal((n, 3)), y


class Recorder:
    """A model that knows nothing, and writes down what it was given."""

    def __init__(self, n: int = 40) -> None:
        self.calls: list[tuple[np.ndarray, np.ndarray, int]] = []
        self.p = np.random.default_rng(0).dirichlet(np.ones(3), (2, n))

    def fit(self, rows: np.ndarray, weights: np.ndarray, seed: int) -> int:
        self.calls.append((rows, weights, seed))
        return len(self.calls)

    def predict(self, model: int) -> np.ndarray:
        return self.p[model % 2]

    def grow(self, strategy: Any, sizes: list[int], **rest: Any) -> Any:
        n = self.p.shape[1]
        return grow(strategy, sizes, num_rows=n, fit=self.fit, predict=self.predict, **rest)


def test_rounds_grow_and_keep_what_they_have() -> None:
    recorder = Recorder()
    steps = list(recorder.grow(IWeS("entropy"), [5, 12, 40]))
    assert [len(s.selection) for s in steps] == [5, 12, 40]
    np.testing.assert_array_equal(steps[2].selection.indices[:12], steps[1].selection.indices)
    np.testing.assert_array_equal(steps[2].selection.weights[:12], steps[1].selection.weights)
    np.testing.assert_array_equal(steps[0].selection.weights, np.ones(5))
    assert sorted(steps[2].selection.indices.tolist()) == list(range(40))
    assert [s.model for s in steps] == [1, 2, 3]
    for _, weights, _ in recorder.calls:
        assert weights.mean() == pytest.approx(1)


def test_nothing_is_trained_before_it_is_asked_for() -> None:
    recorder = Recorder()
    steps = recorder.grow(Random(), [5, 10])
    assert not recorder.calls
    next(steps)
    assert len(recorder.calls) == 1


def test_a_second_model_is_trained_with_another_seed_only_where_it_is_needed() -> None:
    recorder = Recorder()
    list(recorder.grow(IWeS(), [5, 10], labels=np.zeros(40, int)))
    assert len(recorder.calls) == 3
    assert len({seed for *_, seed in recorder.calls}) == 3
    np.testing.assert_array_equal(recorder.calls[1][1], np.ones(5))
    again = Recorder()
    list(again.grow(IWeS(), [5, 10], bootstrap=True))
    np.testing.assert_array_equal(again.calls[0][0], again.calls[1][0])
    assert np.ptp(again.calls[1][1]) > 0


def test_features_may_come_from_the_model() -> None:
    seen = []

    def features(model: int) -> np.ndarray:
        seen.append(model)
        return np.random.default_rng(model).standard_normal((40, 2))

    list(Recorder().grow(Badge(), [5, 10, 15], features=features))
    assert seen == [1, 2]
    with pytest.raises(ValueError, match="KCenter needs features"):
        Recorder().grow(KCenter(), [5, 10])


def test_sizes_are_refused_with_reason() -> None:
    for sizes in ([], [5, 5], [9, 4]):
        with pytest.raises(ValueError, match="sizes must rise"):
            Recorder().grow(Random(), sizes)
    with pytest.raises(ValueError, match="more than the 40 rows of the pool"):
        Recorder().grow(Random(), [5, 41])
    with pytest.raises(TypeError, match="each of sizes must be an integer"):
        Recorder().grow(Random(), [0.5])  # type: ignore[list-item]


STRATEGIES = [None, IWeS(), IWeS("entropy", weights="exact"), Uncertain(), Badge(), KCenter()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_the_estimator_learns_from_a_part(strategy: Any) -> None:
    x, y = blobs()
    names = np.array(["ant", "bee", "cat"])
    model = SubsetClassifier(strategy=strategy, num_rows=40, rounds=3, random_state=0)
    model.fit(x, names[y])
    assert model.indices_.shape == model.weights_.shape == (40,)
    assert model.classes_.tolist() == ["ant", "bee", "cat"]
    test_x, test_y = blobs(seed=1)
    assert model.score(test_x, names[test_y]) > 0.9
    np.testing.assert_allclose(model.predict_proba(test_x).sum(1), 1)
    again = clone(model).fit(x, names[y])
    np.testing.assert_array_equal(model.indices_, again.indices_)
    assert (clone(model).set_params(random_state=1).fit(x, y).indices_ != model.indices_).any()


def test_the_estimator_on_everything_is_the_estimator() -> None:
    x, y = blobs()
    model = SubsetClassifier(num_rows=1.0, rounds=0).fit(x, y)
    plain = LogisticRegression().fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x), plain.predict_proba(x), atol=1e-3)


def test_a_class_that_the_start_missed_is_found() -> None:
    draws = np.random.default_rng(0)
    y = np.array([0] * 150 + [1] * 140 + [2] * 10)
    x = np.eye(3)[y] * 3 + 0.5 * draws.standard_normal((300, 3))
    model = SubsetClassifier(num_rows=60, rounds=5, random_state=2).fit(x, y)
    assert model.predict_proba(x).shape == (300, 3)
    assert np.isin(2, y[model.indices_])


def test_the_estimator_keeps_company() -> None:
    x, y = blobs()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SubsetClassifier(random_state=0)),
        {"subsetclassifier__num_rows": [0.3, 0.5]},
        cv=3,
    )
    assert search.fit(x, y).best_score_ > 0.9


def test_an_estimator_without_weights() -> None:
    x, y = blobs()
    with pytest.raises(ValueError, match=r"KNeighborsClassifier\.fit takes no sample_weight"):
        SubsetClassifier(KNeighborsClassifier(3), random_state=0).fit(x, y)
    calm = SubsetClassifier(KNeighborsClassifier(3), Uncertain(), random_state=0)
    assert calm.fit(x, y).score(x, y) > 0.85


def test_the_estimator_refuses_with_reason() -> None:
    x, y = blobs()
    with pytest.raises(ValueError, match="one class only"):
        SubsetClassifier().fit(x, np.zeros(120, int))
    with pytest.raises(ValueError, match="rows of the uniform start hold one class only"):
        SubsetClassifier(num_rows=6, rounds=5).fit(x, y)
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\], got 1\.5"):
        SubsetClassifier(num_rows=1.5).fit(x, y)
    with pytest.raises(ValueError, match="num_rows = 121 is more than the 120 rows"):
        SubsetClassifier(num_rows=121).fit(x, y)
    with pytest.raises(TypeError, match="rounds must be an integer"):
        SubsetClassifier(rounds=1.5).fit(x, y)
    with pytest.raises(NotFittedError):
        SubsetClassifier().predict(x)


def test_weighted_training_in_torch_is_weighted_least_squares() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.standard_normal((30, 2)), draws.standard_normal(30)
    s = Selection(np.arange(5, 25), draws.uniform(1, 10, 20), None, None, 30)
    pool = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    (inputs, targets, weights) = next(iter(DataLoader(WeightedSubset(pool, s), batch_size=20)))
    assert float(weights.mean()) == pytest.approx(1)
    rows, w = s.indices, np.sqrt(s.weights)
    exact = np.linalg.lstsq(x[rows] * w[:, None], y[rows] * w, rcond=None)[0]
    model = torch.from_numpy(exact).requires_grad_()
    for divide_by in ("rows", "weights"):
        loss = WeightedLoss(nn.MSELoss(reduction="none"), divide_by)
        (slope,) = torch.autograd.grad(loss(inputs @ model, targets, weights.double()), model)
        torch.testing.assert_close(slope, torch.zeros(2, dtype=slope.dtype), atol=1e-6, rtol=0)


def test_losses_of_many_numbers_are_averaged() -> None:
    loss = WeightedLoss(nn.MSELoss(reduction="none"))
    found = loss(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1.5, 0.5]))
    assert float(found) == 1


def test_torch_borders() -> None:
    pool = TensorDataset(torch.zeros(3))
    s = Selection(np.array([3]), np.ones(1), None, None, 4)
    with pytest.raises(ValueError, match="names row 3, the data set has 3"):
        WeightedSubset(pool, s)
    with pytest.raises(ValueError, match='build it with reduction="none"'):
        WeightedLoss(nn.MSELoss())(torch.zeros(2), torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"weights must have the shape \(2,\), got \(3,\)"):
        WeightedLoss(nn.MSELoss(reduction="none"))(torch.zeros(2), torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="divide_by must be one of 'rows', 'weights'"):
        WeightedLoss(nn.MSELoss(), "batch")


def test_the_door_is_light_and_complete() -> None:
    assert selection.__all__ == sorted(selection.__all__)
    for name in selection.__all__:
        assert (getattr(selection, name).__doc__ or "").strip()
    with pytest.raises(AttributeError, match="has no attribute 'choose'"):
        _ = selection.choose
    code = (
        "import sys\nfrom recollect.selection import IWeS\n"
        "IWeS('entropy').select(1, probabilities=[[0.5, 0.5]])\n"
        "assert not {'torch', 'sklearn', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
