"""float32 on every path: tensor operations, depthwise sums and compiled loops, against float64."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from recollect import infinite as inf
from recollect.infinite import affine, fused, tiling
from recollect.infinite.evaluation import Inputs, Plan

S, R = inf.Serial, inf.Relu()


@pytest.fixture(params=["tensors", "compiled"])
def path(request, monkeypatch):
    """Take one path, whatever the size of the kernel."""
    if request.param == "compiled" and importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed (pip install recollect[fast]): loops not tested")
    calls = []
    real = fused._loops
    monkeypatch.setattr(fused, "_loops", lambda: calls.append(1) or real())
    monkeypatch.setattr(tiling, "COMPILED_FROM", 0 if request.param == "compiled" else math.inf)
    yield request.param
    assert bool(calls) == (request.param == "compiled")


def dense(b=0.1):
    return inf.Dense(weight_std=2**0.5, bias_std=b)


def conv(b=0.1, **options):
    return inf.Conv(weight_std=2**0.5, bias_std=b, **options)


def rows(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def errors(net, x, x2=None, **options):
    """Return the relative errors of the float32 kernels, NNGP and NTK."""
    twin = inf.twin(net)
    other = None if x2 is None else x2.double()
    mine, true = twin.kernel(x, x2, **options), twin.kernel(x.double(), other, **options)
    # An entry that vanishes by cancellation is judged by the size of the others.
    least = [0.02 * b.abs().max() for b in true]
    return [
        (a - b).abs() / b.abs().clamp_min(c) for a, b, c in zip(mine, true, least, strict=True)
    ]


@pytest.mark.parametrize("b", [None, 0.1])
def test_depth_twenty_dense(path, b):
    """2e-6 on generic pairs and exact repeats, 1e-4 down to angles of 1e-5."""
    net = S(inf.Repeat(S(dense(b), R), 20), dense(b))
    x, turn = rows(12, 300), rows(12, 300, seed=1)
    turn *= x.norm(dim=1, keepdim=True) / turn.norm(dim=1, keepdim=True)
    x = torch.cat([x, x[:4], x + 1e-2 * turn, 3 * x + 1e-3 * turn, x + 1e-5 * turn])
    for error in errors(net, x):
        assert float(error.max()) < 1e-5
        assert float(error[:16, :16].max()) < 2e-6
        assert float(error.diagonal().max()) < 2e-6


@pytest.mark.parametrize("b", [None, 0.1])
def test_depth_twenty_convolutional(path, b):
    """The same through convolutions, with pictures that are repeated, scaled and half empty."""
    net = S(inf.Repeat(S(conv(b), R), 20), inf.Flatten(), dense(b))
    x, turn = rows(8, 3, 8, 8), rows(8, 3, 8, 8, seed=1)
    empty = x[:2].clone()
    empty[..., 4:] = 0
    x = torch.cat([x, x[:2], empty, 100 * x[:2], x[:4] + 1e-2 * turn[:4], x[:4] + 1e-4 * turn[:4]])
    for error in errors(net, x):
        assert float(error.max()) < 1e-4
        assert float(error[:14, :14].max()) < 2e-6


def test_odd_rows_are_finite(path):
    x = rows(3, 40)
    odd = torch.stack([x[0], x[0], -x[0], 0 * x[0], 1e-12 * x[1], 1e12 * x[2]])
    for b in (None, 0.1):
        net = S(inf.Repeat(S(dense(b), R), 3), dense(b))
        for k in inf.twin(net).kernel(odd):
            assert bool(torch.isfinite(k).all())
            assert torch.equal(k[0, 0], k[0, 1])
        if b is None:
            assert bool((k[3] == 0).all())


NETS = {
    "leaky": (S(dense(), inf.LeakyRelu(0.2), dense(), inf.Abs(), dense()), (7,)),
    "residual": (S(dense(), inf.Residual(S(R, dense())), R, dense()), (7,)),
    "strided": (S(conv(stride=2), R, conv(), R, inf.Flatten(), dense()), (2, 7, 6)),
    "dilated": (S(conv(dilation=2), R, conv(padding=(0, (2, 1))), R, inf.Flatten()), (3, 6, 7)),
    "valid": (S(conv(padding="valid"), R, conv(kernel_size=(1, 3)), R, inf.Flatten()), (1, 6, 5)),
    "sequence": (S(conv(), R, conv(stride=2), R, inf.Flatten(), dense()), (4, 9)),
    "circular": (S(conv(), R, conv(circular=True), R, inf.Flatten()), (2, 5, 5)),
    "wide": (S(conv(), R, inf.Flatten(), dense()), (20, 4, 4)),
    "pooled": (S(conv(), R, inf.GlobalAvgPool(), dense(), R, dense()), (2, 4, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_paths_agree_with_float64(name, monkeypatch):
    """Compiled loops, depthwise sums (64 pairs in a tile) and shifted sums (6 pairs)."""
    net, shape = NETS[name]
    x, x2 = rows(4, *shape), rows(16, *shape, seed=1)
    x2[0] = x[0]
    starts = [math.inf] if importlib.util.find_spec("numba") is None else [math.inf, 0]
    for start in starts:
        monkeypatch.setattr(tiling, "COMPILED_FROM", start)
        for tile in ((4, 16), (2, 3)):
            for error in errors(net, x, x2, tile=tile):
                assert float(error.max()) < 2e-6


def pooled(b):
    """Return networks whose rectifiers also come after positions were mixed."""
    block = S(conv(b), R)
    pool = inf.AvgPool(size=2)
    return {
        "middle": S(inf.Repeat(block, 8), pool, inf.Repeat(block, 8), inf.Flatten(), dense(b)),
        "end": S(inf.Repeat(block, 4), inf.GlobalAvgPool(), inf.Repeat(S(dense(b), R), 16)),
        "identity": S(conv(b), inf.Repeat(inf.Residual(S(R, conv(b))), 5), R, inf.GlobalAvgPool()),
        "norm": S(inf.Flatten(), inf.Repeat(S(dense(b), inf.LayerNorm(), R), 20), dense(b)),
    }


@pytest.mark.parametrize("b", [None, 0.1])
@pytest.mark.parametrize("name", ["middle", "end", "identity", "norm"])
def test_near_pictures_after_positions_were_mixed(name, b):
    """Real digits, whose borders are empty, repeats, and pictures at angles of 1e-2 to 1e-5."""
    images = pytest.importorskip("sklearn.datasets").load_digits().images[:5]
    x, turn = torch.from_numpy(images / 16).float()[:, None], rows(5, 1, 8, 8)
    near = [3 * x[:2], x[:2], *(x[:2] + eps * turn[:2] for eps in (1e-2, 1e-3, 1e-5))]
    for error in errors(pooled(b)[name], torch.cat([x, *near])):
        assert float(error.max()) < 1e-6


@torch.no_grad()
def test_float64_only_where_float32_would_lie():
    """Pooling at the end loses no angle; masks and pooling before a rectifier do."""
    nets, x = pooled(0.1), rows(2, 1, 8, 8)
    plain = inf.Repeat(S(conv(), R), 2)
    cheap = [S(plain, inf.GlobalAvgPool(), dense()), S(plain, inf.Flatten()), nets["identity"]]
    costly = [nets["middle"], nets["end"]]
    for net, wanted in [(n, False) for n in cheap] + [(n, True) for n in costly]:
        plan = Plan.of(inf.twin(net).graph((1, 8, 8)), full=False)
        assert plan.wants_float64(Inputs(x)) is wanted
        assert not plan.wants_float64(Inputs(x.double()))
        assert plan.wants_float64(Inputs(x, torch.ones(2, 8, 8, dtype=torch.bool)))
    assert inf.twin(nets["end"]).kernel(x).ntk.dtype == torch.float32
    assert inf.twin(nets["end"]).kernel(x, diagonal=True).nngp.dtype == torch.float32


def test_depthwise_sums_are_the_shifted_sums(monkeypatch):
    x, x2 = rows(8, 2, 7, 6).double(), rows(8, 2, 7, 6, seed=1).double()
    net = S(conv(stride=2, padding=1), R, conv(dilation=2, padding=2), R, inf.Flatten(), dense())
    fast = inf.twin(net).kernel(x, x2)
    monkeypatch.setattr(affine, "DEPTHWISE_FROM", math.inf)
    for a, b in zip(fast, inf.twin(net).kernel(x, x2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_large_kernels_take_the_loops(monkeypatch):
    """The choice is by the numbers in all tiles, and never for float64 or gradients."""
    pytest.importorskip("numba", reason="loops need numba (pip install recollect[fast])")
    taken = []
    real = fused._loops
    monkeypatch.setattr(fused, "_loops", lambda: taken.append(1) or real())
    monkeypatch.setattr(tiling, "COMPILED_FROM", 100)
    twin = inf.twin(S(dense(), R, dense()))
    twin.kernel(rows(9, 5))
    twin.kernel(rows(10, 5).double())
    twin.kernel(rows(10, 5).requires_grad_())
    assert not taken
    twin.kernel(rows(10, 5))
    assert taken
