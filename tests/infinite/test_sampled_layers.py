"""Sampled layers: they agree with closed forms where there are some, and with wide networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recollect import infinite as inf
from recollect.infinite import sampled_layers


def tokens(n: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, 4, generator=generator, dtype=torch.float64)


def test_the_formula_is_the_closed_one_where_weights_are_the_scores(monkeypatch) -> None:
    """With the identity in place of softmax the derivation must give the known rule."""
    options = {"query_std": 1.1, "key_std": 0.9, "value_std": 1.2, "out_std": 0.8, "bias_std": 0.3}
    dense = inf.Dense(weight_std=1.3, bias_std=0.2)
    monkeypatch.setattr(torch, "softmax", lambda scores, axis: scores)
    monkeypatch.setattr(
        sampled_layers, "_bent", lambda z1, k, b, z2: (k * b).sum().expand(len(k), len(k))
    )
    sampled = inf.SoftmaxAttention(**options, samples=10_000)
    exact = inf.Attention(**options, weights="identity", scaling="sqrt")
    x = tokens(2)
    found, known = (
        inf.twin(inf.Serial(dense, layer, inf.GlobalAvgPool(), dense)).kernel(x)
        for layer in (sampled, exact)
    )
    for name in ("nngp", "ntk"):
        a, b = getattr(found, name), getattr(known, name)
        assert (a - b).norm() < 0.06 * b.norm(), name


def test_bent_is_the_contraction_of_softmax_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    k, b = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    z1, z2 = torch.softmax(torch.randn(2, 5, 4, 4, generator=generator).double(), -1)
    naive = torch.zeros(4, 4, dtype=torch.float64)
    for s in range(5):
        for i in range(4):
            for j in range(4):
                one = torch.diag(z1[s, i]) - torch.outer(z1[s, i], z1[s, i])
                two = torch.diag(z2[s, j]) - torch.outer(z2[s, j], z2[s, j])
                naive[i, j] += (one.T @ k @ two * b).sum() / 5
    assert torch.allclose(sampled_layers._bent(z1, k, b, z2), naive)


def test_a_wide_attention_layer_has_the_sampled_nngp() -> None:
    """Many heads with keys of many dimensions, drawn and run."""
    x, heads, size = tokens(3)[:, :, :3], 3000, 64
    generator = torch.Generator().manual_seed(1)
    channels = x.shape[1]
    flat = x.mT  # (n, P, c)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / channels**0.5

    total = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    for _ in range(heads // 100):
        q, k = (flat[:, None] @ weights(100, channels, size) * 1.4 for _ in range(2))
        v = flat[:, None] @ weights(100, channels, 16)
        out = torch.softmax(q @ k.mT / size**0.5, -1) @ v
        total += torch.einsum("nhio,mhko->nmik", out, out)
    layer = inf.SoftmaxAttention(query_std=1.4, key_std=1.4, samples=4000)
    found = inf.twin(layer).kernel(x, get="nngp").nngp
    error = (found - total / heads / 16).norm() / found.norm()
    assert error < 0.06, error


def test_sampled_attention_is_a_kernel_and_errs_as_said() -> None:
    dense = inf.Dense(weight_std=1.3, bias_std=0.2)
    x = tokens(3)

    def estimate(seed: int, samples: int = 300) -> torch.Tensor:
        layer = inf.SoftmaxAttention(samples=samples, seed=seed)
        net = inf.Serial(dense, inf.Relu(), layer, inf.GlobalAvgPool(), dense)
        return inf.twin(net).kernel(x).ntk

    mean, error = inf.standard_error(estimate, 6)
    better = estimate(99, 6000)
    assert ((mean - better).abs() < 5 * error + 1e-3 * better).all()
    assert torch.linalg.eigvalsh(estimate(0))[0] > 0
    assert torch.equal(estimate(1), estimate(1))
    assert not torch.equal(estimate(1), estimate(2))


def test_attention_of_a_module_can_be_sampled() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x, x, x)[0]

    x = tokens(2).mT
    found = inf.twin(Attend(), attention="sampled", sampling=50, channel_axis=-1).kernel(x).nngp
    layer = inf.SoftmaxAttention(samples=50, bias_std=0.0)
    assert torch.allclose(found, inf.twin(layer).kernel(x.mT).nngp)
    with pytest.raises(ValueError, match="needs sampling="):
        inf.twin(Attend(), attention="sampled")
    with pytest.raises(ValueError, match="attention='sampled' with sampling=1000"):
        inf.twin(Attend(), channel_axis=-1).kernel(x)
    with pytest.raises(ValueError, match="attention needs positions"):
        inf.twin(layer).kernel(x[:, 0])


def test_batch_norm_in_training_agrees_with_a_wide_network() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    twin = inf.twin(inf.Dense(weight_std=1.5, bias_std=0.3))
    found, error = inf.sampled_batch_norm(twin.kernel(x), torch.relu, samples=8000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide, norm = nn.Linear(3, 40_000).double(), nn.BatchNorm1d(40_000).double()
        nn.init.normal_(wide.weight, std=1.5 / 3**0.5)
        nn.init.normal_(wide.bias, std=0.3)
    hidden = torch.relu(norm(wide(x)))
    real = (hidden @ hidden.T / 40_000).detach()
    assert ((found.nngp - real).abs() < 4 * error.nngp + 0.01).all()
    more, less = inf.sampled_batch_norm(twin.kernel(x), torch.relu, samples=2000)
    assert ((found.ntk - more.ntk).abs() < 5 * (error.ntk + less.ntk)).all()
    assert (less.nngp > 1.5 * error.nngp).all(), "errors fall with the root of the draws"


def test_batch_norm_of_the_tangent_kernel_is_its_derivative() -> None:
    """With Theta = K the tangent kernel is the mean of J K J^T, by finite differences."""
    k = torch.tensor([[1.0, 0.3, 0.1], [0.3, 2.0, -0.4], [0.1, -0.4, 1.5]], dtype=torch.float64)
    found, _ = inf.sampled_batch_norm(inf.Kernel(k, k), torch.tanh, samples=20, seed=3)
    values, vectors = torch.linalg.eigh(k)
    half = vectors * values.sqrt()
    generator = torch.Generator().manual_seed(sampled_layers.seed_of(3, "infinite", "batch norm"))
    total = torch.zeros(3, 3, dtype=torch.float64)
    for noise in torch.randn(20, 3, generator=generator, dtype=torch.float64):
        z = half @ noise

        def f(z: torch.Tensor) -> torch.Tensor:
            u = z - z.mean()
            return torch.tanh(u / (u.var(correction=0) + 1e-5).sqrt())

        columns = [(f(z + 1e-6 * e) - f(z - 1e-6 * e)) / 2e-6 for e in torch.eye(3).double()]
        jacobian = torch.stack(columns, 1)
        total += jacobian @ k @ jacobian.T / 20
    assert torch.allclose(found.ntk, total, atol=1e-6)


def test_batch_norm_refuses_what_is_no_batch() -> None:
    with pytest.raises(ValueError, match="one batch of two inputs or more"):
        inf.sampled_batch_norm(inf.Kernel(torch.ones(2, 3)), torch.relu)
    with pytest.raises(ValueError, match="got None"):
        inf.sampled_batch_norm(inf.Kernel(), torch.relu)
    with pytest.raises(ValueError, match=r"sampled_batch_norm"):
        inf.twin(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).kernel(torch.ones(2, 3))
