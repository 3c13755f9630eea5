"""Ensembles: reference numbers, limits in time, agreement with real networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recollect import infinite as inf

D = inf.Dense(weight_std=1.5, bias_std=0.1)
NET = inf.Serial(D, inf.Relu(), D, inf.Relu(), D, inf.Relu(), D)
SMOOTH = inf.Serial(D, inf.Erf(), D)


def data(n=6, m=5, d=3, o=2):
    g = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    return draw(n, d), draw(n, o), draw(m, d)


@pytest.fixture(scope="module")
def oracle():
    folder = os.environ.get("RECOLLECT_ORACLE")
    if not folder:
        pytest.skip("set RECOLLECT_ORACLE to the folder of nt_reference.npz")
    with np.load(Path(folder) / "nt_reference.npz") as file:
        arrays = dict(file)
    return lambda key: torch.from_numpy(arrays[key])


def near(a, b, rtol=1e-6):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


CASES = [
    (kernel, where, reg, end)
    for kernel in ("nngp", "ntk")
    for where in ("test", "train")
    for reg in ("r0", "r1")
    for end in ([False, True] if where == "test" else [False])
]


@pytest.mark.parametrize(("kernel", "where", "reg", "end"), CASES)
def test_reference_ensembles(oracle, kernel, where, reg, end):
    fit = inf.ensemble(
        inf.twin(NET),
        oracle("in/fc1"),
        oracle("in/tr_y"),
        regularization={"r0": 0.0, "r1": 1e-2}[reg],
    )
    p = fit.predict(
        oracle("in/te_x") if where == "test" else None,
        t=None if end else oracle("p/times"),
        kernel=kernel,
    )
    name = f"p/ens_{kernel}_{where}_{reg}_lr1" + ("_inf" if end else "")
    # The oracle's tangent kernels of training inputs err by 1e-9 on the diagonal.
    rtol = 1e-10 if kernel == "nngp" else 1e-6
    near(p.mean, oracle(name + "_mean"), rtol)
    near(p.covariance, oracle(name + "_cov"), rtol)


@pytest.mark.parametrize("kernel", ["nngp", "ntk", "ntkgp"])
def test_reference_posteriors(oracle, kernel):
    fit = inf.ensemble(inf.twin(NET), oracle("in/fc1"), oracle("in/tr_y"), regularization=1e-2)
    p = fit.predict(oracle("in/te_x"), kernel=kernel)
    near(p.mean, oracle(f"p/gp_{kernel}_mean"))
    near(p.covariance, oracle(f"p/gp_{kernel}_cov"))


def half_square(f, y):
    return 0.5 * ((f - y) ** 2).mean()


def cross_entropy(f, y):
    hot = nn.functional.one_hot(y.argmax(1), y.shape[1])
    return -(hot * torch.log_softmax(f, 1)).sum(1).mean()


@pytest.mark.parametrize(
    ("name", "loss", "momentum"),
    [("mse", half_square, None), ("mse_mom", half_square, 0.9), ("xent", cross_entropy, None)],
)
def test_reference_flows(oracle, name, loss, momentum):
    flow = inf.gradient_flow(
        loss,
        oracle("p/k_dd_ntk"),
        oracle("in/tr_y"),
        oracle("p/times")[1:4],
        f_train=oracle("in/fx_tr0"),
        f_test=oracle("in/fx_te0"),
        k_test_train=oracle("p/k_td_ntk"),
        learning_rate=0.5,
        momentum=momentum,
    )
    near(flow.train, oracle(f"p/ode_{name}_train"), 1e-5)
    near(flow.test, oracle(f"p/ode_{name}_test"), 1e-5)


def test_reference_closed_flow_and_learning_rate(oracle):
    kernel, y = oracle("p/k_dd_ntk"), oracle("in/tr_y")
    for t, end in ((oracle("p/times"), ""), (None, "_inf")):
        flow = inf.mean_squared_flow(
            kernel,
            y,
            t,
            f_train=oracle("in/fx_tr0"),
            f_test=oracle("in/fx_te0"),
            k_test_train=oracle("p/k_td_ntk"),
            learning_rate=0.5,
            regularization=1e-3,
        )
        near(flow.train, oracle(f"p/mse_train{end}"), 1e-9)
        near(flow.test, oracle(f"p/mse_test{end}"), 1e-9)
    assert inf.max_learning_rate(kernel, y.numel()) == pytest.approx(float(oracle("p/max_lr")))
    assert inf.max_learning_rate(kernel, y.numel(), 0.9) == pytest.approx(
        float(oracle("p/max_lr_mom"))
    )


# --- limits and identities -----------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_limits_in_time(kernel):
    x, y, xt = data()
    fit = inf.ensemble(inf.twin(NET), x, y)
    start = fit.predict(xt, t=0.0, kernel=kernel)
    near(start.mean, torch.zeros_like(start.mean), 1e-12)
    near(start.covariance, inf.twin(NET).kernel(xt).nngp, 1e-12)
    late, end = fit.predict(xt, t=1e7, kernel=kernel), fit.predict(xt, kernel=kernel)
    near(late.mean, end.mean, 1e-6)
    near(late.covariance, end.covariance, 1e-6)
    known = fit.predict(None, kernel=kernel)
    near(known.mean, y, 1e-8)
    assert float(known.std.max()) < 1e-4


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_training_inputs_are_test_inputs(kernel):
    x, y, _ = data()
    fit = inf.ensemble(inf.twin(NET), x, y)
    t = [0.1, 3.0, 100.0]
    a, b = fit.predict(None, t=t, kernel=kernel), fit.predict(x, t=t, kernel=kernel)
    near(a.mean, b.mean)
    near(a.covariance, b.covariance)


def test_the_posterior_is_the_textbook_formula():
    x, y, xt = data()
    twin = inf.twin(NET)
    p = inf.ensemble(twin, x, y, regularization=0.1, absolute=True).predict(xt, kernel="nngp")
    k = twin.kernel(torch.cat([x, xt])).nngp
    inverse = torch.linalg.inv(k[:6, :6] + 0.1 * torch.eye(6, dtype=torch.float64))
    near(p.mean, k[6:, :6] @ inverse @ y, 1e-10)
    near(p.covariance, k[6:, 6:] - k[6:, :6] @ inverse @ k[:6, 6:], 1e-10)


def test_shapes_and_parts():
    x, y, xt = data()
    twin = inf.twin(NET)
    assert inf.ensemble(twin, x, y[:, 0]).predict(xt).mean.shape == (5,)
    p = inf.ensemble(twin, x, y).predict(xt, t=[1.0, 2.0], get=("variance",))
    assert p.mean is None
    assert p.covariance is None
    assert p.variance.shape == (2, 5)
    near(p.std**2, p.variance)
    assert inf.ensemble(twin, x.float(), y).predict(xt.float()).mean.dtype == torch.float32
    with pytest.raises(ValueError, match="ask for the covariance"):
        _ = inf.ensemble(twin, x, y).predict(xt, get="mean").std


def test_singular_kernels_use_the_pseudo_inverse_and_say_so():
    x, y, xt = data()
    twin = inf.twin(NET)
    fit = inf.ensemble(twin, torch.cat([x, x[:1]]), torch.cat([y, y[:1] + 2]))
    with pytest.warns(inf.SingularKernel, match="rank 6 of 7"):
        p = fit.predict(xt)
    middle = y.clone()
    middle[0] += 1  # contradictory targets meet in the middle
    near(p.mean, inf.ensemble(twin, x, middle).predict(xt).mean, 1e-6)
    zero = inf.Serial(inf.Dense(), inf.Relu(), inf.Dense())
    held = inf.ensemble(inf.twin(zero), torch.cat([x, 0 * x[:1]]), torch.cat([y, y[:1]]))
    assert torch.isfinite(held.predict(xt, t=[1.0, 1e6]).covariance).all()


def test_flow_in_closed_form_and_by_the_solver_agree():
    x, y, xt = data()
    k, kt = inf.twin(SMOOTH).kernel(x).ntk, inf.twin(SMOOTH).kernel(xt, x).ntk
    times = [0.5, 5.0]
    a = inf.gradient_flow(half_square, k, y, times, k_test_train=kt)
    b = inf.mean_squared_flow(k, y, times, k_test_train=kt)
    near(a.train, b.train)
    near(a.test, b.test)
    first = inf.gradient_flow(half_square, k, y, [2.0], momentum=0.5)
    second = inf.gradient_flow(
        half_square,
        k,
        y,
        [3.0],
        f_train=first.train[-1],
        momentum=0.5,
        velocity_train=first.velocity_train,
    )
    whole = inf.gradient_flow(half_square, k, y, [5.0], momentum=0.5)
    near(second.train, whole.train)


def test_marginal_likelihood_and_its_gradient():
    x, y, _ = data()
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    noise = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def value(w, noise):
        net = inf.Serial(inf.Dense(weight_std=w), inf.Relu(), inf.Dense(weight_std=w))
        return inf.ensemble(inf.twin(net), x, y).log_marginal_likelihood(noise)

    assert torch.autograd.gradcheck(value, (w, noise))
    net = inf.Serial(inf.Dense(weight_std=1.3), inf.Relu(), inf.Dense(weight_std=1.3))
    k = inf.twin(net).kernel(x).nngp + 0.2 * torch.eye(6, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), k)
    assert float(value(w, noise).detach()) == pytest.approx(float(normal.log_prob(y.T).sum()))


def test_conjugate_gradients_agree_with_the_factorisation():
    x, y, xt = data(40, 5)
    fit = inf.ensemble(inf.twin(NET), x, y, regularization=1e-3)
    mean, steps = fit.predict_iteratively(xt, rank=10)
    near(mean, fit.predict(xt, get="mean").mean)
    assert steps < 40


def test_real_networks_follow_the_infinite_ensemble():
    """100 networks of width 256: mean and variance over training within sampling error."""
    x = torch.linspace(-1.5, 1.5, 5)[:, None]
    y = torch.sin(2 * x)
    xt = torch.linspace(-2, 2, 7)[:, None]

    def make():
        return nn.Sequential(nn.Linear(1, 256), nn.Tanh(), nn.Linear(256, 1))

    twin = inf.twin(make(), weight_std=1.5, bias_std=0.3)
    rate = 0.5 * inf.max_learning_rate(twin.kernel(x).ntk, 5)
    times = [0.0, 10 * rate, 60 * rate]
    many = inf.FiniteEnsemble(make, 100, weight_std=1.5, bias_std=0.3, seed=1)
    history = many.train(x, y, times, learning_rate=rate, x_test=xt)
    p = inf.ensemble(twin, x, y).predict(xt, t=times)
    error = p.std[..., None] / 10
    assert float(((history.mean() - p.mean).abs() / (error + 0.02)).max()) < 4
    ratio = (
        history.variance()[..., 0] / p.variance
        if p.variance is not None
        else (history.variance()[..., 0] / p.std**2)
    )
    assert float(ratio[:2].min()) > 0.5
    assert float(ratio[:2].max()) < 1.8


def test_quality_of_uncertainty():
    g = torch.Generator().manual_seed(0)
    std = torch.rand(4000, generator=g, dtype=torch.float64) + 0.1
    error = std * torch.randn(4000, generator=g, dtype=torch.float64)
    assert inf.interval_coverage(torch.zeros(4000), std, error) == pytest.approx(0.9, abs=0.02)
    assert inf.rank_correlation(std, error) > 0.3
    assert inf.unfamiliarity(std, std) == pytest.approx(0.5)


def test_refusals():
    x, y, xt = data()
    twin = inf.twin(NET)
    fit = inf.ensemble(twin, x, y)
    with pytest.raises(ValueError, match="not negative"):
        fit.predict(xt, t=-1.0)
    with pytest.raises(ValueError, match="end of training only"):
        fit.predict(xt, t=1.0, kernel="ntkgp")
    with pytest.raises(ValueError, match="kernel must be one of"):
        fit.predict(xt, kernel="rbf")
    with pytest.raises(ValueError, match="targets must be"):
        inf.ensemble(twin, x, y[:3])
    with pytest.raises(ValueError, match="targets hold NaN"):
        inf.ensemble(twin, x, y * torch.nan)
    with pytest.raises(ValueError, match="learning_rate"):
        inf.ensemble(twin, x, y, learning_rate=0)
    with pytest.raises(ValueError, match="regularization"):
        inf.ensemble(twin, x, y, regularization=-1)
    with pytest.raises(ValueError, match="increasing"):
        inf.gradient_flow(half_square, torch.eye(2), torch.ones(2, 1), [1.0, 0.5])
    many = inf.FiniteEnsemble(lambda: nn.Linear(3, 2), 2)
    with pytest.raises(ValueError, match="diverged"):
        many.train(x.float(), y.float(), [1e6], learning_rate=1e4)
    with pytest.raises(ValueError, match="linear, convolutional"):
        inf.FiniteEnsemble(lambda: nn.LayerNorm(3), 2)
