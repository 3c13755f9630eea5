"""The plain linear sketch, and regression on it: identities, bounds, an independent library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import Object, Sketcher, Trace
from recollect.sketching.linear import LinearSketch, SketchedRegression
from recollect.sketching.recipe import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_sketch_of_one_module(family: str) -> None:
    x = torch.randn(3, 50, generator=torch.manual_seed(0))
    sketcher = Sketcher(dim=128, seed=3, operators=family)
    sketcher.admit(Trace.from_columns({"eye": x}))
    y = LinearSketch(50, 128, seed=3, operators=family, name="eye")(x)
    for row, own in zip(y, x, strict=True):
        assert torch.equal(row, sketcher.probe(Object("eye", own)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_is_the_map_and_its_transpose_the_adjoint(family: str) -> None:
    sketch = LinearSketch(90, 64, operators=family)
    x, y = torch.randn(5, 90), torch.randn(5, 64)
    torch.testing.assert_close(sketch(x), x @ sketch.matrix.T, atol=1e-4, rtol=0)
    left, right = (sketch(x) * y).sum(1), (x * sketch.transpose(y)).sum(1)
    torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(sketch(x[0]), sketch(x)[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["orthogonal", "gaussian", "block-sparse"]))
def test_inner_products_are_kept_within_the_bound(seed: int, family: str) -> None:
    """Six deviations: (1 + cos^2) / d is the variance for Gaussian columns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(2, 300, generator=generator), dim=1)
    y = LinearSketch(300, 256, seed=seed, operators=family)(x)
    assert abs(float(y[0] @ y[1] - x[0] @ x[1])) < 6 * (2 / 256) ** 0.5


def test_numbers_are_read_back_without_bias_and_within_the_bound() -> None:
    x = torch.randn(400, generator=torch.manual_seed(1))
    back = torch.stack([(s := LinearSketch(400, 128, seed=k)).transpose(s(x)) for k in range(40)])
    error = back - x
    assert float(error.mean(0).abs().max()) < 5 * float(x.norm()) / (40 * 128) ** 0.5
    assert 0.7 < float(error.square().mean().sqrt() / (x.norm() / 128**0.5)) < 1.2


# -- regression -----------------------------------------------------------------------------


def examples(number: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, n, generator=generator)
    t = 5 + 3 * x[:, 7] - 2 * x[:, n - 5] + 0.1 * torch.randn(number, generator=generator)
    return x, t


def test_with_enough_numbers_it_is_ordinary_least_squares() -> None:
    """With A orthonormal and d >= n, A'v are the weights of an independent solver."""
    x, t = examples(300, 40)
    sketch = LinearSketch(40, 64)
    fitted = SketchedRegression.of(sketch(x), t)
    design = np.c_[x.numpy(), np.ones(300)].astype(np.float64)
    expected = np.linalg.lstsq(design, t.numpy(), rcond=None)[0]
    found = fitted.weights(sketch, ridge=0.0).numpy()
    np.testing.assert_allclose(found, expected[:-1], atol=2e-3)
    v, b = fitted.fit(0.0)
    predicted = sketch(x).double() @ v + b
    np.testing.assert_allclose(predicted.numpy(), design @ expected, atol=1e-2)


def test_shards_add_to_the_whole() -> None:
    x, t = examples(400, 200)
    y = LinearSketch(200, 64)(x)
    whole = SketchedRegression.of(y, t)
    parts = SketchedRegression.of(y[:150], t[:150]) + SketchedRegression.of(y[150:], t[150:])
    torch.testing.assert_close(parts.gram, whole.gram)
    torch.testing.assert_close(parts.moment, whole.moment)
    assert (parts.count, parts.square) == (400, pytest.approx(whole.square))


def test_the_important_dimensions_are_found_among_many() -> None:
    x, t = examples(3000, 1000)
    hits = 0
    for seed in range(5):
        sketch = LinearSketch(1000, 256, seed=seed)
        fitted = SketchedRegression.of(sketch(x), t)
        hits += fitted.important(sketch, 2).tolist() == [7, 995]
        weights = fitted.weights(sketch)
        # Each weight is scaled by about d / n: the projection on the row space of A.
        assert float(weights[7]) / 3 == pytest.approx(256 / 1000, rel=0.35)
    assert hits == 5


def test_what_cannot_be_sketched_or_fitted_is_refused() -> None:
    sketch = LinearSketch(10, 64)
    with pytest.raises(ValueError, match="vectors of 10 numbers are expected"):
        sketch(torch.ones(3, 11))
    with pytest.raises(ValueError, match="sketches of 64 numbers are expected, got 10"):
        sketch.transpose(torch.ones(10))
    with pytest.raises(ValueError, match="dim must be a multiple of 64"):
        LinearSketch(10, 100)
    y = sketch(torch.randn(4, 10))
    with pytest.raises(ValueError, match=r"\(B, d\) sketches and \(B,\) targets"):
        SketchedRegression.of(y, torch.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        SketchedRegression.of(y, torch.tensor([1.0, float("nan"), 0.0, 0.0]))
    one = SketchedRegression.of(y[:1], torch.ones(1))
    with pytest.raises(ValueError, match="at least two examples are needed, got 1"):
        one.fit()
    with pytest.raises(ValueError, match="ridge must be zero or a positive number, got -1"):
        SketchedRegression.of(y, torch.ones(4)).fit(-1)
    with pytest.raises(ValueError, match="sketches of 64 and 128 numbers cannot be fitted"):
        _ = one + SketchedRegression.of(torch.ones(1, 128), torch.ones(1))
