"""Many points: through landmarks, by random features, by conjugate gradients, beside the exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recollect import infinite as inf

DENSE = inf.Dense(weight_std=1.5, bias_std=0.1)
TWIN = inf.twin(inf.Serial(DENSE, inf.Relu(), DENSE))


def points(n: int = 160, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.stack([torch.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]], 1)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_all_points_as_landmarks_are_exact(kernel: str) -> None:
    x, y = points()
    xt, _ = points(30, 1)
    fit = inf.nystroem(TWIN, x, y, x, kernel=kernel, regularization=1e-2, batch=37)
    exact = inf.ensemble(TWIN, x, y, regularization=1e-2).predict(
        xt, get=("mean", "variance"), kernel="nngp" if kernel == "nngp" else "ntkgp"
    )
    found = fit.predict(xt, batch=7)
    assert fit.left_over == pytest.approx(0, abs=1e-9)
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.variance, exact.variance, atol=1e-8)


def test_more_landmarks_err_less_and_say_so() -> None:
    x, y = points(400)
    xt, _ = points(50, 1)
    exact = inf.ensemble(TWIN, x, y, regularization=1e-2).predict(xt, get="mean").mean
    errors, left = [], []
    for number in (10, 80, 320):
        fit = inf.nystroem(TWIN, x, y, number, regularization=1e-2)
        errors.append(float((fit.predict(xt).mean - exact).norm() / exact.norm()))
        left.append(fit.left_over)
    print("error by landmarks 10, 80, 320:", errors, "left over:", left)
    assert errors[0] > 1.5 * errors[1] > 4 * errors[2]
    assert left[0] > left[1] > left[2] > 0
    flat = inf.nystroem(TWIN, x, y[:, 0], 40, regularization=1e-2).predict(xt)
    assert torch.allclose(flat.mean, inf.nystroem(
        TWIN, x, y, 40, regularization=1e-2).predict(xt).mean[:, 0])  # fmt: skip


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_random_features_converge_to_the_kernel(kernel: str) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 384), nn.ReLU(), nn.Linear(384, 32)).double()

    x = points(12)[0]
    exact = getattr(inf.twin(model(), weight_std=1.5, bias_std=0.1).kernel(x), kernel)
    errors = []
    for number in (256, 2048):
        f = inf.random_features(
            model, x, number, kernel=kernel, weight_std=1.5, bias_std=0.1, networks=8
        )
        assert f.shape[1] >= number
        errors.append(float((f @ f.T - exact).norm() / exact.norm()))
    assert errors[1] < 0.1, errors
    assert errors[1] < 0.6 * errors[0]


def test_random_features_of_a_convolution_predict_like_the_kernel() -> None:
    def model() -> nn.Module:
        body = [nn.Conv2d(1, 96, 3, padding=1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(96 * 16, 32)).double()

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    y = x.flatten(1)[:, :1]
    exact = inf.ensemble(inf.twin(model()), x[:30], y[:30], regularization=0.1).predict(x[30:])
    f = inf.random_features(model, x, 4096, networks=4)
    square = f[:30] @ f[:30].T
    square += 0.1 * square.diagonal().mean() * torch.eye(30)
    mean = f[30:] @ f[:30].T @ torch.linalg.solve(square, y[:30])
    assert (mean - exact.mean).norm() / exact.mean.norm() < 0.12
    parts = [inf.random_features(model, part, 128) for part in (x[:7], x[7:])]
    assert torch.allclose(torch.cat(parts), inf.random_features(model, x, 128)), "same seed"


def test_conjugate_gradients_reach_the_exact_mean_from_a_kernel_on_disk(tmp_path) -> None:
    from recollect._linalg import solve_iteratively

    x, y = points()
    xt, _ = points(20, 1)
    fit = inf.ensemble(TWIN, x, y, regularization=1e-3)
    exact = fit.predict(xt, get="mean").mean
    mean, steps = fit.predict_iteratively(xt, tolerance=1e-10)
    assert torch.allclose(mean, exact, atol=1e-7)
    assert steps < len(x)
    stored = TWIN.kernel(x, get="ntk", path=tmp_path / "k", tile=50).ntk
    ridge = 1e-3 * float(stored.diagonal().mean())
    weights, _, residual = solve_iteratively(stored, y, diagonal=ridge, tolerance=1e-10, rank=40)
    assert residual <= 1e-10
    assert torch.allclose(TWIN.kernel(xt, x, get="ntk").ntk @ weights, exact, atol=1e-7)


def test_what_landmarks_and_features_refuse() -> None:
    x, y = points(10)
    with pytest.raises(ValueError, match="11 landmarks are asked for, there are 10"):
        inf.nystroem(TWIN, x, y, 11)
    with pytest.raises(ValueError, match="regularization must be positive, got 0"):
        inf.nystroem(TWIN, x, y, 5, regularization=0)
    with pytest.raises(ValueError, match="10 inputs need as many targets, got 4"):
        inf.nystroem(TWIN, x, y[:4], 5)
    with pytest.raises(ValueError, match="kernel must be one of"):
        inf.nystroem(TWIN, x, y, 5, kernel="rbf")
    with pytest.raises(ValueError, match="number must be at least 1"):
        inf.random_features(lambda: nn.Linear(4, 2), x.float(), 0)
    with pytest.raises(ValueError, match="which has no fan-in"):
        inf.random_features(lambda: nn.LayerNorm(4), x.float(), 8)
