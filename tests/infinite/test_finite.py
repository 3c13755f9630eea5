"""Empirical kernels: three ways that agree, reference numbers, convergence to the twin."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recollect import infinite as inf


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def models():
    torch.manual_seed(0)
    return {
        "dense": (nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3, bias=False)), (4,)),
        "images": (
            nn.Sequential(
                nn.Conv2d(2, 5, 3, padding="same"),
                nn.ReLU(),
                nn.Conv2d(5, 4, (3, 2), stride=2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            ),
            (2, 6, 6),
        ),
        "sequences": (
            nn.Sequential(
                nn.Conv1d(2, 5, 3, padding=2, dilation=2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(40, 2),
            ),
            (2, 8),
        ),
        "positions": (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), (3, 4)),
    }


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("outputs", ["trace", "diagonal", "full"])
def test_all_methods_agree(name, outputs):
    model, shape = models()[name]
    model = model.double()
    x1, x2 = rows(5, *shape), rows(3, *shape) + 1
    for other in (x2, None):
        found = [
            inf.empirical_kernel(model, x1, other, "ntk", outputs=outputs, method=m).ntk
            for m in ("jacobian", "product", "structured", "auto")
        ]
        for k in found[1:]:
            torch.testing.assert_close(k, found[0])


def test_vector_products_are_the_kernel_times_a_vector():
    model, shape = models()["dense"]
    model = model.double()
    x1, x2, v = rows(5, *shape), rows(3, *shape) + 1, rows(3, 3)
    k = inf.empirical_kernel(model, x1, x2, "ntk", outputs="full").ntk
    torch.testing.assert_close(
        inf.ntk_vector_product(model, x1, x2, v), torch.einsum("nmab,mb->na", k, v)
    )


def test_other_layers_fall_back_and_strict_mode_refuses():
    model = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Linear(7, 3)).double()
    x = rows(3, 4)
    torch.testing.assert_close(
        inf.empirical_kernel(model, x).ntk, inf.empirical_kernel(model, x, method="product").ntk
    )
    with pytest.raises(ValueError, match="use method='jacobian'"):
        inf.empirical_kernel(model, x, method="structured")
    with pytest.raises(ValueError, match="outputs must be one of"):
        inf.empirical_kernel(model, x, outputs="some")


def test_taylor_polynomials_converge():
    model = models()["dense"][0].double()
    x = rows(5, 4)
    start = {k: v.detach() for k, v in model.named_parameters()}
    moved = {k: v + 0.05 * torch.randn_like(v) for k, v in start.items()}
    true = torch.func.functional_call(model, moved, (x,))
    errors = [float((inf.taylor_expand(model, d)(moved, x) - true).norm()) for d in range(4)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 20 * errors[3]
    linear = inf.linearize(model)(moved, x)
    torch.testing.assert_close(linear, inf.taylor_expand(model, 1)(moved, x))


def test_samples_converge_to_the_twin():
    x = rows(4, 3).float()

    def make():
        net = nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 8))
        return inf.reparameterize(net, weight_std=1.4, bias_std=0.2)

    torch.manual_seed(0)
    twin = inf.twin(
        nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 8)),
        weight_std=1.4,
        bias_std=0.2,
    ).kernel(x)
    mean, error = inf.sample_kernel(make, x, num_samples=12, method="jacobian")
    assert float(((mean.ntk - twin.ntk).abs() / (error.ntk + 0.02 * twin.ntk.max())).max()) < 4
    assert float(((mean.nngp - twin.nngp).abs() / error.nngp).max()) < 5


class Reference(nn.Module):
    """The network of the reference file."""

    def __init__(self, load):
        super().__init__()
        for i in "123":
            for letter in "Wb":
                self.register_parameter(f"{letter}{i}", nn.Parameter(load(f"e/mlp/{letter}{i}")))

    def forward(self, x):
        h = torch.tanh(x @ self.W1 / 7**0.5 + 0.1 * self.b1)
        h = torch.tanh(h @ self.W2 / 3 + 0.1 * self.b2)
        return h @ self.W3 / 8**0.5 + 0.1 * self.b3


def test_reference_numbers():
    folder = os.environ.get("RECOLLECT_ORACLE")
    if not folder:
        pytest.skip("set RECOLLECT_ORACLE to the folder of nt_reference.npz")
    with np.load(Path(folder) / "nt_reference.npz") as file:
        arrays = dict(file)

    def load(key):
        return torch.from_numpy(arrays[key])

    model, x1, x2 = Reference(load), load("in/fc1"), load("in/fc2")
    for outputs, key in (("full", "full"), ("trace", "trace"), ("diagonal", "diag")):
        k = inf.empirical_kernel(model, x1, x2, outputs=outputs)
        torch.testing.assert_close(k.ntk, load(f"e/mlp/ntk_{key}"), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        inf.empirical_kernel(model, x1, x2).nngp, load("e/mlp/nngp_trace"), rtol=1e-10, atol=1e-12
    )
    moved = {k: v.detach() + load(f"e/mlp/d{k}") for k, v in model.named_parameters()}
    for degree in range(4):
        torch.testing.assert_close(
            inf.taylor_expand(model, degree)(moved, x1),
            load(f"e/mlp/taylor{degree}"),
            rtol=1e-10,
            atol=1e-12,
        )
    torch.testing.assert_close(
        inf.ntk_vector_product(model, x1, x2, load("e/mlp/vp_in")),
        load("e/mlp/vp_out"),
        rtol=1e-10,
        atol=1e-12,
    )


def test_the_cheaper_way_is_chosen_and_is_the_cheaper_one(monkeypatch):
    """By operations, counted by torch itself, and by memory."""
    from torch.utils.flop_counter import FlopCounterMode

    from recollect.infinite import costs, finite

    chosen = {}
    for outputs in (40, 1):
        model = nn.Sequential(
            nn.Linear(6, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, outputs)
        ).double()
        x = rows(9, 6)
        p = {k: v.detach() for k, v in model.named_parameters()}
        counts = {}
        for way, run in (("jacobian", finite._by_jacobian), ("product", finite._by_product)):
            with FlopCounterMode(display=False) as counter:
                run(model, p, x, x.clone())
            counts[way] = counter.get_total_flops()
        chosen[outputs] = costs.cheaper_way(model, p, x, x)
        assert counts[chosen[outputs]] <= costs.HANDICAP * min(counts.values())
        with FlopCounterMode(display=False) as counter:
            inf.empirical_kernel(model, x, x.clone(), get="ntk")
        extra = counter.get_total_flops() - counts[chosen[outputs]]
        assert 0 <= extra < 0.2 * min(counts.values())  # looking at one example, no more
    assert chosen == {1: "jacobian", 40: "product"}
    monkeypatch.setattr(costs, "free_memory", lambda device: 1000)
    assert costs.cheaper_way(model, p, x, x) == "product"


def test_a_gram_matrix_by_strips_is_the_product():
    from recollect.infinite.structured import _gram

    for count in (255, 256, 301):
        x = rows(count, 7)
        torch.testing.assert_close(_gram(x), x @ x.T)
