"""Scores agree with their formulas row by row, in blocks, in all precisions; bad input is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from recollect.selection import IWeS, disagreement, entropy, least_confidence, margin
from recollect.selection import borders as borders_file
from recollect.selection.criteria import DISAGREEMENT_BOUND


def rows_of(n: int, c: int, seed: int = 0) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.full(c, 0.3), n)
    p[0] = np.arange(c) == 0
    return p


def naive_disagreement(f: np.ndarray, g: np.ndarray, y: int) -> float:
    a, b = float(f[y]), float(g[y])
    return abs((a * math.log2(a) if a else 0) - (b * math.log2(b) if b else 0))


SHAPES = [
    *[(dtype, n, c) for dtype in (np.float32, np.float64) for n, c in ((700, 64), (3, 300_000))],
    *[(dtype, 5, 2) for dtype in (np.float16, np.float32, np.float64)],
    (np.float16, 700, 64),  # half precision cannot hold 300,000 classes
]


@pytest.mark.parametrize(("dtype", "n", "c"), SHAPES)
def test_scores_are_their_formulas(dtype: type, n: int, c: int) -> None:
    p, g = rows_of(n, c), rows_of(n, c, 1)
    given_p, given_g = p.astype(dtype), g.astype(dtype)
    near = {np.float16: 1e-2, np.float32: 1e-5, np.float64: 1e-10}[dtype]
    np.testing.assert_allclose(entropy(given_p), scipy_entropy(p.T) / np.log(c), atol=near)
    ordered = np.sort(p, 1)
    np.testing.assert_allclose(margin(given_p), ordered[:, -1] - ordered[:, -2], atol=near)
    np.testing.assert_allclose(least_confidence(given_p), 1 - p.max(1), atol=near)
    y = np.arange(n) % c
    naive = [naive_disagreement(p[i], g[i], y[i]) for i in range(n)]
    np.testing.assert_allclose(disagreement(given_p, given_g, y), naive, atol=near)
    if c < 100:
        most = [max(naive_disagreement(p[i], g[i], k) for k in range(c)) for i in range(n)]
        np.testing.assert_allclose(disagreement(given_p, given_g), most, atol=3 * near)


@settings(max_examples=50, deadline=None)
@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_disagreement_is_symmetric_and_bounded(a: float, b: float) -> None:
    f, g = [[a, 1 - a]], [[b, 1 - b]]
    there, back = disagreement(f, g, [0])[0], disagreement(g, f, [0])[0]
    assert there == back
    assert 0 <= there <= DISAGREEMENT_BOUND + 1e-12
    assert there <= disagreement(f, g)[0] + 1e-12


def test_the_bound_is_reached() -> None:
    e = 1 / math.e
    assert disagreement([[e, 1 - e]], [[0.0, 1.0]], [0])[0] == pytest.approx(DISAGREEMENT_BOUND)


def test_entropy_at_its_ends() -> None:
    np.testing.assert_array_equal(entropy(np.eye(4)), np.zeros(4))
    np.testing.assert_allclose(entropy(np.full((3, 7), 1 / 7)), 1, atol=1e-12)


def test_tensors_and_lists_are_arrays() -> None:
    p = rows_of(6, 3)
    for given_p in (torch.from_numpy(p).requires_grad_(), p.tolist()):
        np.testing.assert_array_equal(entropy(given_p), entropy(p))
    rounded = torch.from_numpy(p).bfloat16()
    np.testing.assert_allclose(entropy(rounded), entropy(p), atol=2e-2)
    assert len(IWeS("entropy").select(2, probabilities=torch.from_numpy(p))) == 2


def test_acceptance_has_its_floor() -> None:
    p = rows_of(50, 4)
    assert IWeS("entropy").acceptance(p).min() == 0.02
    assert IWeS("entropy", p_min=0).acceptance(p).min() == 0
    f, g = np.array([[0.0, 1.0], [0.4, 0.6]]), np.array([[0.0, 1.0], [0.2, 0.8]])
    found = IWeS().acceptance(f, g, [0, 0])  # both deny the label of row 0: the blind spot
    assert found[0] == 0.02
    assert found[1] == pytest.approx(naive_disagreement(f[1], g[1], 0))


def test_the_entropy_never_looks_at_labels() -> None:
    p = rows_of(30, 4)
    one = IWeS("entropy").select(5, probabilities=p, labels=np.zeros(30, int))
    two = IWeS("entropy").select(5, probabilities=p, labels=None)
    np.testing.assert_array_equal(one.indices, two.indices)


def test_a_criterion_of_ones_own() -> None:
    p = rows_of(40, 3)
    own = IWeS(lambda f, g, y: 1 - f.max(1), p_min=0)
    np.testing.assert_allclose(own.acceptance(p), 1 - p.max(1))
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\]"):
        IWeS(lambda f, g, y: np.full(len(f), 2.0)).acceptance(p)
    with pytest.raises(ValueError, match=r"one number for each row, got \(3,\)"):
        IWeS(lambda f, g, y: np.ones(3)).acceptance(p)


def test_weights_are_named() -> None:
    p = rows_of(400, 4)
    kinds = {w: IWeS("entropy", weights=w, cap=3) for w in ("capped", "inverse", "exact", "ones")}
    found = {w: s.select(50, probabilities=p, seed=3) for w, s in kinds.items()}
    a = found["inverse"].probabilities
    assert a is not None
    np.testing.assert_allclose(found["inverse"].weights, 1 / a)
    np.testing.assert_allclose(found["capped"].weights, np.minimum(1 / a, 3))
    np.testing.assert_array_equal(found["ones"].weights, 1)
    assert (found["exact"].weights > found["inverse"].weights).all()  # one of many was taken


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.5], r"shape \(rows, classes\), got \(2,\)"),
        ([[1.0], [1.0]], "has 1 class; choosing needs at least two"),
        ([[0.5, 0.5], [0.5, 0.6]], r"row 1 sums to 1\.1, not 1; .* softmax"),
        ([[0.5, 0.5], [1.5, -0.5]], r"row 1 is negative \(-0\.5\)"),
        ([[np.nan, 0.5], [0.5, 0.5]], "row 0 holds NaN"),
        ([[np.inf, 0.0]], "row 0 sums to inf"),
    ],
)
def test_what_is_no_distribution_is_refused(p: list, message: str) -> None:
    for score in (entropy, margin, least_confidence):
        with pytest.raises(ValueError, match=message):
            score(p)
    with pytest.raises(ValueError, match=message):
        disagreement(p, p)


def test_the_wrong_row_is_named_in_a_late_block() -> None:
    p = np.full((3 * borders_file.BLOCK // 2, 2), 0.5, np.float32)
    p[-2, 0] = 0.9
    with pytest.raises(ValueError, match=f"probabilities: row {len(p) - 2} sums to 1.4"):
        entropy(p)


def test_two_models_must_fit_and_differ() -> None:
    p = rows_of(5, 3)
    with pytest.raises(ValueError, match="needs a second model's probabilities"):
        IWeS().select(1, probabilities=p)
    with pytest.raises(ValueError, match="the two models agree everywhere"):
        IWeS().select(1, probabilities=p, second=p)
    with pytest.raises(ValueError, match=r"same rows and classes: \(5, 3\), \(4, 3\)"):
        disagreement(p, p[:4])
    with pytest.raises(ValueError, match="second: row 0 sums to 3"):
        disagreement(p, np.ones((5, 3)))


def test_labels_must_be_columns() -> None:
    p, g = rows_of(3, 2), rows_of(3, 2, 1)
    with pytest.raises(ValueError, match=r"labels must have the shape \(3,\), got \(2,\)"):
        disagreement(p, g, [0, 1])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got 0\.\.2"):
        disagreement(p, g, [0, 1, 2])
    with pytest.raises(TypeError, match="labels must be integers"):
        disagreement(p, g, [0.0, 1.0, 1.0])


def test_settings_are_refused_with_reason() -> None:
    with pytest.raises(ValueError, match="criterion must be one of 'disagreement', 'entropy'"):
        IWeS("entropie")
    with pytest.raises(TypeError, match="a name or a function, got 3"):
        IWeS(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cap must be at least 1"):
        IWeS(cap=0.5)
    with pytest.raises(ValueError, match=r"p_min must lie in \[0, 1\), got 1"):
        IWeS(p_min=1)
    with pytest.raises(ValueError, match="weights must be one of"):
        IWeS(weights="none")
    with pytest.raises(ValueError, match="max_passes must be positive"):
        IWeS(max_passes=0)


def test_a_stall_is_told_with_the_mean_probability() -> None:
    p = np.tile([1 - 1e-6, 1e-6], (100, 1))
    with pytest.raises(ValueError, match=r"max_passes = 10.*mean acceptance .* is 2\.\d+"):
        IWeS("entropy", p_min=0, max_passes=10).select(50, probabilities=p)


def test_rows_and_seeds_are_refused_with_reason() -> None:
    p = rows_of(4, 2)
    choose = IWeS("entropy").select
    with pytest.raises(ValueError, match="k = 4 is more than the 3 rows that are left of 4"):
        choose(4, probabilities=p, chosen=[0])
    with pytest.raises(ValueError, match=r"chosen must lie in 0\.\.3, got 0\.\.4"):
        choose(1, probabilities=p, chosen=[0, 4])
    with pytest.raises(ValueError, match="chosen names a row twice"):
        choose(1, probabilities=p, chosen=[0, 0])
    with pytest.raises(TypeError, match=r"for a mask give numpy\.flatnonzero"):
        choose(1, probabilities=p, chosen=[True, False, False, False])
    with pytest.raises(TypeError, match="k must be an integer"):
        choose(1.5, probabilities=p)
    with pytest.raises(TypeError, match=r"seed must be an integer or a numpy\.random\.Generator"):
        choose(1, probabilities=p, seed=None)
