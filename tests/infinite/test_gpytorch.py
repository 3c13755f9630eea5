"""The kernel for GPyTorch: the same posterior as ours, where GPyTorch is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from recollect import infinite as inf

WIDTH = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
DENSE = inf.Dense(weight_std=WIDTH, bias_std=0.1)
TWIN = inf.twin(inf.Serial(DENSE, inf.Relu(), DENSE))


@pytest.mark.skipif(importlib.util.find_spec("gpytorch") is not None, reason="it is installed")
def test_without_gpytorch_it_says_how_to_get_it() -> None:
    with pytest.raises(ImportError, match="pip install recollect\\[gpytorch"):
        inf.InfiniteKernel(TWIN)


def test_the_posterior_is_ours() -> None:
    gpytorch = pytest.importorskip("gpytorch")
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y, xt = torch.sin(3 * x[:, 0]), torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = inf.InfiniteKernel(TWIN)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(x), self.covar_module(x)
            )

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = 0.01
    model = Model(likelihood).double()
    model.train()
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)(model(x), y)
    evidence.backward()
    assert WIDTH.grad is not None
    assert abs(float(WIDTH.grad)) > 0
    ours = inf.ensemble(TWIN, x, y, regularization=0.01, absolute=True)
    log_evidence = ours.log_marginal_likelihood(0.01).detach()
    assert float(evidence.detach()) * 12 == pytest.approx(float(log_evidence))
    assert any(p is WIDTH for p in model.parameters())
    model.eval()
    with torch.no_grad():
        found, exact = model(xt), ours.predict(xt, get=("mean", "variance"), kernel="nngp")
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.variance, exact.variance, atol=1e-8)
    for kernel in ("nngp", "ntk"):
        covariance = inf.InfiniteKernel(TWIN, kernel)
        with torch.no_grad():
            assert torch.allclose(covariance(xt).to_dense().diagonal(), covariance(xt, diag=True))
    with pytest.raises(ValueError, match="without batch axes"):
        covariance(xt[None]).to_dense()
