"""Relative clipping against its definition, and the theory of its equilibrium."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from recollect.training import RelativeClipSGD, equilibrium_norm


def invariant_loss(x: Tensor, a: Tensor) -> Tensor:
    """A function of the direction of x only."""
    u = x / x.norm()
    return u @ a @ u


def test_step_is_the_definition() -> None:
    x, y = (nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (4, 3))
    z = nn.Parameter(torch.randn(2, dtype=torch.float64))
    groups = [{"params": [x]}, {"params": [y], "lr": 0.3}, {"params": [z], "scope": "none"}]
    optimizer = RelativeClipSGD(groups, lr=0.1, weight_decay=0.02, clip=1.5)
    cuts = []
    for size in (0.01, 100.0, 1.0):
        old = [p.detach().clone() for p in (x, y, z)]
        for p in (x, y, z):
            p.grad = size * torch.randn_like(p)
        g = torch.cat([x.grad, y.grad]).norm()
        norm = torch.cat(old[:2]).norm()
        optimizer.step()
        for p, before, lr in zip((x, y), old[:2], (0.1, 0.3), strict=True):
            factor = min(1.0, float(1.5 * math.sqrt(2 * 0.02 / lr) * norm / g))
            cuts.append(factor)
            torch.testing.assert_close(p, (1 - lr * 0.02) * before - lr * factor * p.grad)
        torch.testing.assert_close(z, (1 - 0.1 * 0.02) * old[2] - 0.1 * z.grad)
        assert optimizer.last_clip_coef == pytest.approx(min(cuts[-2:]))
    cut = [min(pair) < 1 for pair in zip(cuts[::2], cuts[1::2], strict=True)]
    assert optimizer.clip_rate == pytest.approx(sum(cut) / 3)
    assert 0 < sum(cut) < 3
    assert not optimizer.state


def test_without_clip_it_is_sgd_with_decoupled_decay() -> None:
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    a = RelativeClipSGD(ours.parameters(), lr=0.1, weight_decay=0.0, clip=None)
    b = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        data = torch.randn(5, 3)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(data).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert a.clip_rate == 0.0
    assert a.last_clip_coef == 1.0


def test_scope_of_a_group_is_its_own_norm() -> None:
    x, y = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = RelativeClipSGD(
        [{"params": [x]}, {"params": [y], "scope": "group"}], lr=1.0, weight_decay=0.02, clip=1.0
    )
    x.grad, y.grad = torch.full((4,), 100.0), torch.full((4,), 0.1)
    optimizer.step()
    torch.testing.assert_close(y.detach(), torch.full((4,), 0.98 - 0.1))
    torch.testing.assert_close(x.detach(), torch.full((4,), 0.98 - 0.2))


def test_the_scheduler_moves_the_threshold() -> None:
    x = nn.Parameter(torch.ones(1))
    optimizer = RelativeClipSGD([x], lr=1.0, weight_decay=0.02, clip=1.0)
    optimizer.param_groups[0]["lr"] = 0.25
    x.grad = torch.tensor([100.0])
    optimizer.step()
    # threshold sqrt(2 * .02 / .25) = .4
    torch.testing.assert_close(x.detach(), torch.tensor([1 - 0.25 * 0.02 - 0.25 * 0.4]))


@pytest.mark.parametrize("start", [0.1, 1.0, 5.0])
def test_norms_settle_where_theory_says(start: float) -> None:
    """A gradient of constant norm sigma / ||x||, orthogonal to x: the synthetic case."""
    lr, decay, sigma = 0.5, 0.02, 3.0
    x = nn.Parameter(torch.randn(50, dtype=torch.float64))
    x.data *= start / x.data.norm()
    optimizer = RelativeClipSGD([x], lr=lr, weight_decay=decay, clip=None)
    for _ in range(int(4 / (lr * decay))):
        g = torch.randn_like(x)
        g -= (g @ x) * x / (x @ x)
        x.grad = (g * sigma / g.norm() / x.norm()).detach()
        optimizer.step()
    settled = float(x.detach().norm())
    assert settled == pytest.approx(equilibrium_norm(sigma, lr, decay), rel=1e-2)
    # There the gradient has the norm that the threshold with clip 1 allows.
    assert sigma / settled == pytest.approx(math.sqrt(2 * decay / lr) * settled, rel=2e-2)


def trajectory(
    scale: float, start: Tensor, lr: float, decay: float, a: Tensor, clip: float | None
) -> list[Tensor]:
    x = nn.Parameter(start.clone())
    optimizer = RelativeClipSGD([x], lr=lr, weight_decay=decay, clip=clip)
    directions, cuts = [], 0
    for step in range(50):
        optimizer.zero_grad()
        (scale * (20.0 if step % 7 == 0 else 1.0) * invariant_loss(x, a)).backward()
        optimizer.step()
        cuts += optimizer.last_clip_coef < 1
        directions.append((x / x.norm()).detach())
    assert clip is None or 0 < cuts < 50
    return directions


@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("c", [(3.0, 1.0, 1.0, 1.0), (1.0, 1.0, 4.0, 1.0), (2.0, 0.7, 0.6, 1.7)])
def test_equivalent_settings_train_alike_in_direction(clip, c) -> None:
    """(c1 L, c2 x0, c3 lr, c4 decay) is (L, c2 / sqrt(c1 c3) x0, lr, c3 c4 decay)."""
    c1, c2, c3, c4 = c
    a = torch.randn(6, 6, dtype=torch.float64)
    start = torch.randn(6, dtype=torch.float64) / 2
    lr, decay = 0.05, 0.1
    one = trajectory(c1, c2 * start, c3 * lr, c4 * decay, a, clip)
    two = trajectory(1.0, c2 / math.sqrt(c1 * c3) * start, lr, c3 * c4 * decay, a, clip)
    for u, v in zip(one, two, strict=True):
        torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-10)


def test_zero_gradients_and_zero_weights_do_no_harm() -> None:
    x = nn.Parameter(torch.zeros(3))
    optimizer = RelativeClipSGD([x], lr=0.1)
    x.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(x.detach(), torch.zeros(3))
    assert optimizer.last_clip_coef == 1.0


def test_a_gradient_that_is_not_finite_stays_visible() -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = RelativeClipSGD([x], lr=0.1)
    x.grad = torch.tensor([1.0, float("nan"), 1.0])
    optimizer.step()
    assert x.isnan().any()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"lr": 0.1, "weight_decay": 0.0}, "give a positive weight_decay, or clip=None"),
        ({"lr": 0.1, "clip": 0.5}, "must be at least 1"),
        ({"lr": 0.1, "scope": "layer"}, "scope must be one of 'global', 'group', 'none'"),
    ],
)
def test_numbers_out_of_range_are_refused(how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeClipSGD([nn.Parameter(torch.ones(1))], **how)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="dense gradients"):
        RelativeClipSGD(table.parameters(), lr=0.1).step()


def test_equilibrium_needs_sensible_numbers() -> None:
    with pytest.raises(ValueError, match=r"lr \* weight_decay < 2, got 1.0, 3.0 and 1.0"):
        equilibrium_norm(1.0, 3.0, 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE")
def test_a_gpu_steps_alike() -> None:
    ends = []
    for device in ("cpu", "cuda"):
        x = nn.Parameter(torch.ones(3, device=device))
        optimizer = RelativeClipSGD([x], lr=0.1)
        x.grad = torch.tensor([50.0, 1.0, -3.0], device=device)
        optimizer.step()
        ends.append(x.detach().cpu())
    torch.testing.assert_close(*ends)
