"""Identities, limits and special cases of the closed-form kernels."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recollect import infinite as inf
from recollect.infinite import tiling

S, R = inf.Serial, inf.Relu()
F64 = torch.float64


def dense(w=1.3, b=0.2, **options):
    return inf.Dense(weight_std=w, bias_std=b, **options)


def conv(w=1.3, b=0.2, **options):
    return inf.Conv(weight_std=w, bias_std=b, **options)


def rows(n=6, *shape, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *(shape or (5,)), generator=generator, dtype=dtype)


def close(a, b, rtol=1e-11):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


ACTIVATIONS = [
    inf.Relu(),
    inf.LeakyRelu(0.3),
    inf.Abs(),
    inf.Sign(),
    inf.Erf(0.8, 1.2, 0.3),
    inf.Gelu(),
    inf.Sin(1.1, 0.9, 0.4),
    inf.Cos(),
    inf.Rbf(0.7),
    inf.Exp(0.5, 0.6),
    inf.Gaussian(1.0, -0.8),
    inf.Gabor(),
    inf.Monomial(2),
    inf.Monomial(3),
    inf.Polynomial((0.2, -0.5, 0.1, 0.3)),
    inf.RectifiedMonomial(0),
    inf.RectifiedMonomial(2),
    inf.RectifiedMonomial(3),
    inf.Expansion(torch.tanh),
    inf.Expansion(torch.nn.functional.silu),
    inf.SigmoidLike(),
]


def called(layer: object) -> str:
    """Name a layer without the address of a function in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(layer))


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=called)
def test_closed_forms_are_the_integrals_they_claim(layer):
    """Two-dimensional trapezoidal rule against the closed form, variance and mean."""
    q11, q22, q12 = 0.9, 1.4, 0.6
    z = torch.linspace(-9, 9, 1441, dtype=F64)
    step = float(z[1] - z[0])
    weight = torch.exp(-0.5 * z**2) * (step / math.sqrt(2 * math.pi))
    u = math.sqrt(q11) * z[:, None]
    v = q12 / math.sqrt(q11) * z[:, None] + math.sqrt(q22 - q12**2 / q11) * z[None]
    values = layer.apply(u) * layer.apply(v)
    expected = (values * weight[:, None] * weight[None]).sum()
    # Inputs with exactly these covariances, through a layer that changes nothing.
    factor = torch.linalg.cholesky(torch.tensor([[q11, q12], [q12, q22]], dtype=F64))
    x = factor * math.sqrt(2)
    k = inf.twin(S(inf.Dense(), layer)).kernel(x).nngp
    jump = isinstance(layer, inf.Sign) or getattr(layer, "n", 1) == 0
    assert float(k[0, 1]) == pytest.approx(float(expected), rel=2e-2 if jump else 1e-4, abs=1e-6)
    once = (layer.apply(math.sqrt(q11) * z) * weight).sum()
    mean = layer.average(torch.tensor(q11, dtype=F64))
    assert float(mean) == pytest.approx(float(once), abs=1e-2 if jump else 1e-5)


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=called)
def test_the_tangent_kernel_is_the_derivative_by_the_covariance(layer):
    if isinstance(layer, inf.Sign) or getattr(layer, "n", 1) == 0:
        return  # by convention their derivative counts as zero

    def kernels(rho):
        x = torch.tensor([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]], dtype=F64) * math.sqrt(2)
        return inf.twin(S(inf.Dense(), layer)).kernel(x)

    h = 1e-5
    slope = (kernels(0.3 + h).nngp - kernels(0.3 - h).nngp)[0, 1] / (2 * h)
    tangent = kernels(0.3).ntk[0, 1] / 0.3  # Theta before the layer equals K = 0.3
    assert float(tangent) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


NETS = {
    "dense": (S(dense(), R, dense(), inf.Erf(), dense()), (5,)),
    "pooled": (
        S(conv(), R, inf.AvgPool(size=2), conv(stride=2), R, inf.GlobalAvgPool(), dense()),
        (2, 6, 6),
    ),
    "flat": (
        S(conv(padding="valid"), R, conv(circular=True), inf.Gelu(), inf.Flatten(), dense()),
        (2, 5, 6),
    ),
    "residual": (
        S(conv(), inf.Residual(S(R, conv())), R, inf.GlobalAvgPool(), dense()),
        (2, 4, 4),
    ),
    "attention": (S(dense(), inf.Attention(), R, inf.LayerNorm(), inf.Flatten(), dense()), (3, 5)),
    "local": (S(inf.ConvLocal(bias_std=0.1), R, inf.GlobalAvgPool(), dense()), (2, 6)),
    "transposed": (
        S(inf.ConvTranspose(kernel_size=2, stride=2), R, inf.Flatten(), dense()),
        (2, 4),
    ),
    "volume": (S(conv(), R, inf.AvgPool(size=2), inf.Flatten(), dense()), (1, 4, 4, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_kernels_are_symmetric_positive_and_independent_of_tiles(name):
    net, shape = NETS[name]
    x = rows(7, *shape)
    twin = inf.twin(net)
    whole = twin.kernel(x)
    for k in whole:
        close(k, k.T)
        assert float(torch.linalg.eigvalsh(k)[0]) > -1e-10 * float(k.diagonal().max())
    for tile in (1, 3, (2, 5), 100):
        tiled = twin.kernel(x, x.clone(), tile=tile)
        close(tiled.nngp, whole.nngp)
        close(tiled.ntk, whole.ntk, 1e-7)
    diagonal = twin.kernel(x, diagonal=True)
    close(diagonal.ntk, whole.ntk.diagonal(), 1e-7)
    close(twin.kernel(x, get="nngp").nngp, whole.nngp)
    assert twin.kernel(x, get="nngp").ntk is None


@pytest.mark.parametrize("name", ["dense", "pooled", "flat", "residual", "transposed", "volume"])
def test_wide_random_networks_converge_to_the_kernel(name):
    """Second moments over real networks with the same layers, at width 256."""
    from torch import nn

    def block(a, b, **o):
        return nn.Conv2d(a, b, 3, padding=1, **o)

    w = 256

    class Res(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.ReLU(), block(w, w))

        def forward(self, x):
            return x + self.body(x)

    models = {
        "dense": [nn.Linear(5, w), nn.ReLU(), nn.Linear(w, w), nn.Tanh(), nn.Linear(w, w)],
        "pooled": [
            block(2, w),
            nn.ReLU(),
            nn.AvgPool2d(2),
            block(w, w, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(w, w),
        ],
        "flat": [
            nn.Conv2d(2, w, 3),
            nn.ReLU(),
            nn.Conv2d(w, w, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(w * 12, w),
        ],
        "residual": [
            block(2, w),
            Res(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(w, w),
        ],
        "transposed": [
            nn.ConvTranspose1d(2, w, 2, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(w * 8, w),
        ],
        "volume": [
            nn.Conv3d(1, w, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool3d(2),
            nn.Flatten(),
            nn.Linear(w * 4, w),
        ],
    }
    shape = NETS[name][1]
    model = nn.Sequential(*models[name])
    x = rows(3, *shape, dtype=torch.float32)
    expected = inf.twin(model, weight_std=1.3, bias_std=0.2).kernel(x).nngp
    generator = torch.Generator().manual_seed(0)
    total, count = torch.zeros(3, 3), 24
    for _ in range(count):
        net = inf.reparameterize(model, weight_std=1.3, bias_std=0.2, generator=generator)
        with torch.no_grad():
            f = net(x)
        total += f @ f.T / f.shape[1] / count
    scale = float(expected.diagonal().mean())
    assert float((total - expected).abs().max()) < 0.1 * scale


def test_float32_does_not_lie():
    """Depth 20: 2e-6 on generic pairs and exact repeats, 1e-4 near collinear, nothing is NaN."""
    for b in (None, 0.1):
        net = S(inf.Repeat(S(dense(2**0.5, b), R), 20), dense(2**0.5, b))
        twin = inf.twin(net)
        x = rows(12, 300, dtype=torch.float32)
        turn = rows(12, 300, seed=1, dtype=torch.float32)
        turn *= x.norm(dim=1, keepdim=True) / turn.norm(dim=1, keepdim=True)
        x = torch.cat([x, x[:4], x + 1e-2 * turn, 3 * x + 1e-3 * turn, x + 1e-5 * turn])
        for mine, true in zip(twin.kernel(x), twin.kernel(x.double()), strict=True):
            error = (mine - true).abs() / true.abs()
            assert float(error.max()) < 1e-5
            assert float(error[:16, :16].max()) < 2e-6
        odd = torch.stack([x[0], x[0], -x[0], 0 * x[0]])
        for k in twin.kernel(odd):
            assert torch.isfinite(k).all()
            assert torch.equal(k[0, 0], k[0, 1])


def test_float32_repeats_in_convolutional_networks():
    net = S(inf.Repeat(S(conv(2**0.5, None), R), 8), inf.GlobalAvgPool(), dense())
    x = rows(3, 3, 6, 6, dtype=torch.float32)
    a, b = inf.twin(net).kernel(x).ntk, inf.twin(net).kernel(x.double()).ntk
    assert float(((a - b).abs() / b).max()) < 2e-6


def test_huge_and_tiny_scales_do_not_overflow():
    net = S(inf.Repeat(S(dense(10.0, None), R), 20), dense())
    x = rows(3, dtype=torch.float32)
    ratio = inf.twin(net).kernel(x).nngp / inf.twin(net).kernel(x.double()).nngp
    assert float((ratio - 1).abs().max()) < 1e-4
    assert torch.isfinite(inf.twin(net).kernel(x * 1e-12).ntk).all()


# --- branches ------------------------------------------------------------------------------


def test_a_branch_that_meets_itself_counts_fully():
    x = rows()
    single = inf.twin(dense()).kernel(x)
    double = inf.twin(S(dense(), inf.Add(S(), S()))).kernel(x)
    close(double.nngp, 4 * single.nngp)
    close(double.ntk, 4 * single.ntk)
    zero = S(dense(), inf.Add(S(), S(), coefficients=(1.0, -1.0)))
    with pytest.raises(ValueError, match="cancel"):
        inf.twin(zero).kernel(x)


def test_sums_see_through_sums():
    """(a + b) + a is 2a + b: kernels 4 and 1."""
    x = rows()
    net = S(dense(), inf.Add(inf.Residual(S(R, dense())), S()))
    a = inf.twin(dense()).kernel(x)
    b = inf.twin(S(dense(), R, dense())).kernel(x)
    close(inf.twin(net).kernel(x).nngp, 4 * a.nngp + b.nngp)
    close(inf.twin(net).kernel(x).ntk, 4 * a.ntk + b.ntk, 1e-7)


def test_sums_after_nonlinearities_use_means():
    """relu(u) + relu(v) of independent u, v: cross terms are products of means."""
    x = rows()
    branch = S(dense(1.0, None), R)
    k = inf.twin(inf.Add(branch, branch)).kernel(x).nngp
    single = inf.twin(branch).kernel(x).nngp
    mean = (inf.twin(dense(1.0, None)).kernel(x).nngp.diagonal() / (2 * math.pi)).sqrt()
    close(k, 2 * single + 2 * mean[:, None] * mean[None])


def test_functions_of_one_gaussian_are_one_nonlinearity():
    x = rows()
    silu = S(dense(), inf.Multiply(S(), inf.Expansion(torch.sigmoid)), dense())
    close(
        inf.twin(silu).kernel(x).ntk,
        inf.twin(S(dense(), inf.Expansion(torch.nn.functional.silu), dense())).kernel(x).ntk,
    )


def test_functions_of_functions():
    x = rows()
    twice = inf.twin(S(dense(), R, R, dense())).kernel(x)
    close(twice.ntk, inf.twin(S(dense(), R, dense())).kernel(x).ntk)
    sine = S(dense(), inf.Expansion(torch.tanh), inf.Sin(), dense())
    one = S(dense(), inf.Expansion(lambda x: torch.sin(torch.tanh(x))), dense())
    close(inf.twin(sine).kernel(x).ntk, inf.twin(one).kernel(x).ntk)


def test_dependent_branches_are_refused():
    net = S(dense(), inf.Add(S(R, inf.Dropout(0.5)), S()))
    with pytest.raises(ValueError, match="depend on the same random layer"):
        inf.twin(net).kernel(rows())
    with pytest.raises(ValueError, match="not Gaussian"):
        inf.twin(S(dense(), inf.Dropout(0.5), R)).kernel(rows())
    with pytest.raises(ValueError, match="raw inputs"):
        inf.twin(R).kernel(rows())


def test_nonlinearity_after_concatenation_and_after_flattening():
    x = rows(4, 2, 5)
    a, b = dense(1.1, width=3), dense(0.7, width=5)
    after = S(inf.Concatenate(a, b), R, inf.Flatten(), dense())
    before = S(inf.Concatenate(S(a, R), S(b, R)), inf.Flatten(), dense())
    close(inf.twin(after).kernel(x).ntk, inf.twin(before).kernel(x).ntk)
    flat = S(conv(), inf.Flatten(), R, dense())
    plain = S(conv(), R, inf.Flatten(), dense())
    close(inf.twin(flat).kernel(x).ntk, inf.twin(plain).kernel(x).ntk)


def test_concatenation_along_positions():
    x = rows(4, 2, 5)
    net = S(inf.Concatenate(S(dense(), R), S(dense(), R), axis=0), inf.GlobalAvgPool(), dense())
    half = S(
        inf.Add(
            S(dense(), R, inf.GlobalAvgPool()),
            S(dense(), R, inf.GlobalAvgPool()),
            coefficients=(0.5, 0.5),
        ),
        dense(),
    )
    close(inf.twin(net).kernel(x).nngp, inf.twin(half).kernel(x).nngp)


def test_layer_norm_removes_means():
    """After a ReLU with known mean: (K - m m') / (s s')."""
    x = rows()
    k = inf.twin(S(dense(1.0, None), R)).kernel(x).nngp
    q = inf.twin(dense(1.0, None)).kernel(x).nngp.diagonal()
    m = (q / (2 * math.pi)).sqrt()
    s = (k.diagonal() - m**2).sqrt()
    expected = (k - m[:, None] * m) / (s[:, None] * s)
    close(inf.twin(S(dense(1.0, None), R, inf.LayerNorm(eps=0.0))).kernel(x).nngp, expected)


# --- special cases equal general ones ------------------------------------------------------


def test_special_cases():
    x = rows(3, 2, 6, 6)
    one = S(conv(kernel_size=1), R, inf.GlobalAvgPool(), dense())
    close(
        inf.twin(one).kernel(x).ntk,
        inf.twin(S(dense(), R, inf.GlobalAvgPool(), dense())).kernel(x).ntk,
    )
    pools = S(conv(), R, inf.AvgPool(size=6), inf.Flatten(), dense())
    close(
        inf.twin(pools).kernel(x).ntk,
        inf.twin(S(conv(), R, inf.GlobalAvgPool(), dense())).kernel(x).ntk,
    )
    eye = S(
        conv(), R, inf.LinearMap((torch.ones(1, 6, dtype=F64) / 6,) * 2), inf.Flatten(), dense()
    )
    close(inf.twin(eye).kernel(x).ntk, inf.twin(pools).kernel(x).ntk)
    close(
        inf.twin(S(dense(), inf.Expansion(torch.erf), dense())).kernel(rows()).ntk,
        inf.twin(S(dense(), inf.Erf(), dense())).kernel(rows()).ntk,
    )


def test_positions_left_at_the_end():
    x = rows(3, 2, 4, 5)
    net = S(conv(), R)
    full = inf.twin(net).kernel(x).nngp
    assert full.shape == (3, 3, 4, 4, 5, 5)
    equal = inf.twin(net).kernel(x, positions="equal").nngp
    close(equal, full.diagonal(dim1=2, dim2=3).diagonal(dim1=2, dim2=3))
    tiled = inf.twin(net).kernel(x, tile=2).nngp
    close(tiled, full)


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["same", "valid", 1, ((2, 0),)]),
    circular=st.booleans(),
)
def test_convolutions_of_all_kinds(size, stride, dilation, padding, circular):
    """One linear convolution against the covariance written out with an explicit matrix."""
    x = rows(2, 2, 7)
    layer = inf.Conv(
        kernel_size=size, stride=stride, dilation=dilation, padding=padding, circular=circular
    )
    window = layer.windows((7,))[0]
    taps = torch.zeros(size, window.length(7), 7, dtype=F64)
    for f in range(size):
        for i in range(window.length(7)):
            place = i * stride + f * dilation - window.low
            if circular:
                place %= 7
            if 0 <= place < 7:
                taps[f, i, place] = 1
    q = torch.einsum("ncp,mcq->nmpq", x, x) / 2
    expected = torch.einsum("fip,nmpq,fjq->nmij", taps, q, taps) / size
    close(inf.twin(layer).kernel(x).nngp, expected)


def test_gradients_for_hyperparameters():
    x = rows(3)

    def value(w, b):
        net = S(inf.Dense(weight_std=w, bias_std=b), R, inf.Dense(weight_std=w))
        return inf.twin(net).kernel(x).ntk

    w = torch.tensor(1.2, dtype=F64, requires_grad=True)
    b = torch.tensor(0.3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (w, b))


# --- bad input -----------------------------------------------------------------------------


def test_refusals(tmp_path):
    twin = inf.twin(S(dense(), R, dense()))
    x = rows()
    for bad, kind, text in [
        ((x.long(),), TypeError, "floating-point"),
        (([[1.0]],), TypeError, "torch.Tensor"),
        ((x[0],), ValueError, "batch of shape"),
        ((x * torch.nan,), ValueError, "NaN"),
        ((x, x.float()), TypeError, "share dtype"),
        ((x, x[:, :2]), ValueError, "equal channels"),
        ((rows(2, 3, 4), rows(2, 3, 5)), ValueError, "equal positions"),
    ]:
        with pytest.raises(kind, match=text):
            twin.kernel(*bad)
    with pytest.raises(ValueError, match="'nngp', 'ntk' or both"):
        twin.kernel(x, get="cov")
    with pytest.raises(ValueError, match="leave x2 out"):
        twin.kernel(x, x, diagonal=True)
    with pytest.raises(ValueError, match="boolean of shape"):
        twin.kernel(rows(2, 3, 4), mask1=torch.ones(2, 3))
    with pytest.raises(MemoryError, match=r"tile=\d+ fits"):
        inf.twin(S(conv(), inf.GlobalAvgPool())).kernel(torch.zeros(3000, 1, 48, 48), tile=3000)
    with pytest.raises(ValueError, match="needs positions"):
        inf.twin(conv()).kernel(x)
    with pytest.raises(ValueError, match="Aggregate needs graphs"):
        inf.twin(inf.Aggregate()).kernel(rows(2, 3, 4))
    with pytest.raises(ValueError, match="no closed form"):
        inf.Attention(scaling="sqrt")
    with pytest.raises(ValueError, match="keep probability"):
        inf.Dropout(0.0)
    with pytest.raises(ValueError, match="kink"):
        inf.twin(S(dense(), inf.Expansion(torch.relu), dense())).kernel(x)
    with pytest.raises(ValueError, match="fan_in"):
        inf.twin(dense(parameterization="standard")).kernel(x)


def test_kernels_on_disk_are_resumed_and_guarded(tmp_path):
    x = rows(7)
    twin = inf.twin(S(dense(), R, dense()))
    first = twin.kernel(x, path=tmp_path / "k", tile=3)
    close(first.ntk, twin.kernel(x).ntk)
    calls = []
    graph = twin.graph((5,))
    again = inf.Twin(
        lambda shape: calls.append(shape) or graph, lambda t: t, description=twin.description
    )
    close(again.kernel(x, path=tmp_path / "k", tile=3).ntk, first.ntk)
    assert first.ntk is not None
    close(twin.kernel(x, path=tmp_path / "k").ntk, first.ntk)  # the tile is remembered
    with pytest.raises(ValueError, match="another kernel"):
        twin.kernel(x + 1, path=tmp_path / "k", tile=3)
    with pytest.raises(ValueError, match=r"another kernel \(different: names\)"):
        inf.twin(S(dense(1.31), R, dense())).kernel(x, path=tmp_path / "k")
    width = torch.tensor(1.3, dtype=F64, requires_grad=True)
    learned = inf.twin(S(dense(width), R, dense()))
    learned.kernel(x, path=tmp_path / "learned")
    with torch.no_grad():
        width += 1e-9
    with pytest.raises(ValueError, match="another kernel"):
        learned.kernel(x, path=tmp_path / "learned")


def test_an_interrupted_kernel_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Four of nine tiles are done when the power fails; the other five are computed later."""
    x, x2 = rows(6), rows(6, seed=1)
    twin = inf.twin(S(dense(), R, dense()))
    real, computed = tiling._one_tile, []

    def failing(*args):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(args[-1])
        return real(*args)

    monkeypatch.setattr(tiling, "_one_tile", failing)
    with pytest.raises(KeyboardInterrupt):
        twin.kernel(x, x2, path=tmp_path / "k", tile=2)
    before = len(computed)
    monkeypatch.setattr(
        tiling, "_one_tile", lambda *args: computed.append(args[-1]) or real(*args)
    )
    found = twin.kernel(x, x2, path=tmp_path / "k")
    assert len(set(computed)) == 9
    assert len(computed) - before < 9
    close(found.ntk, twin.kernel(x, x2).ntk)


def test_masks_belong_to_a_kernel_on_disk(tmp_path):
    x = rows(3, 2, 4)
    x[..., 2:] = 0
    shown = torch.ones(3, 4, dtype=torch.bool)
    half = shown.clone()
    half[:, 2:] = False
    twin = inf.twin(S(conv(), R, inf.GlobalAvgPool()))
    twin.kernel(x, mask1=shown, path=tmp_path / "k")
    with pytest.raises(ValueError, match=r"another kernel \(different: inputs\)"):
        twin.kernel(x, mask1=half, path=tmp_path / "k")


def test_a_progress_bar_counts_tiles(capsys):
    twin = inf.twin(S(dense(), R, dense()))
    twin.kernel(rows(6), tile=2)
    assert capsys.readouterr().out == ""
    plain = twin.kernel(rows(6), rows(6, seed=1), tile=2)
    seen = twin.kernel(rows(6), rows(6, seed=1), tile=2, progress=True)
    shown = capsys.readouterr().out
    assert "kernel tiles" in shown
    assert "100%" in shown
    close(seen.ntk, plain.ntk)


def test_max_pooling_by_sampling_is_labelled_and_converges():
    """Two positions that are independent: E max(u, v)^2 = q, and E max = sqrt(q / pi)."""
    x = torch.eye(2, dtype=F64)[None] * math.sqrt(2)
    net = inf.MaxPool(size=2, samples=20000)
    k = inf.twin(S(inf.Dense(), net)).kernel(x).nngp
    assert float(k) == pytest.approx(1.0, rel=0.03)
    mean, error = inf.standard_error(
        lambda seed: (
            inf.twin(S(inf.Dense(), inf.MaxPool(size=2, samples=500, seed=seed))).kernel(x).nngp
        ),
        6,
    )
    assert abs(float(mean) - 1) < 5 * float(error)


def test_pictures_that_are_flattened_first_are_rows():
    """Nothing is computed position by position; two branches that flatten count as well."""
    x, x2 = rows(5, 3, 4, 4), rows(3, 3, 4, 4, seed=1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 1))
    twin = inf.twin(net, weight_std=1.3, bias_std=0.2)
    found = twin.kernel(x, x2)
    plain = inf.twin(net[1:], weight_std=1.3, bias_std=0.2)
    wanted = plain.kernel(x.flatten(1), x2.flatten(1))
    close(found.nngp, wanted.nngp)
    close(found.ntk, wanted.ntk)
    assert twin.graph((3, 4, 4)).flattened().nodes[0].places == ()
    close(twin.kernel(x).ntk, plain.kernel(x.flatten(1)).ntk)
    close(twin.kernel(x, diagonal=True).ntk, plain.kernel(x.flatten(1), diagonal=True).ntk)
    hidden = torch.ones(5, 4, 4, dtype=torch.bool)
    close(twin.kernel(x, mask1=hidden, mask2=hidden[:3], x2=x2).ntk, wanted.ntk)


def test_inputs_that_convolutions_read_keep_their_positions():
    assert not inf.twin(S(conv(), R, inf.Flatten(), dense())).graph((3, 4, 4)).flattens_input
    assert inf.twin(S(inf.Flatten(), dense())).graph((3, 4, 4)).flattens_input
    both = inf.Residual(S(conv(), R, inf.Flatten(), dense()), S(inf.Flatten(), dense()))
    assert not inf.twin(both).graph((3, 4, 4)).flattens_input
