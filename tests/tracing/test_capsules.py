"""Capsules are objects, made from the capsules that were routed to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recollect import trace
from recollect.studies.views.capsules import CapsuleNetwork, squash


@pytest.fixture
def net() -> CapsuleNetwork:
    torch.manual_seed(0)
    return CapsuleNetwork(8).eval()


def routed(net: CapsuleNetwork, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Poses below (B, I, d), coefficients (B, I, J) and poses (B, J, D), by loops."""
    layer = net.digits
    with torch.no_grad():
        u = net.primary(net.edges(x).relu())
        votes = torch.stack(
            [
                torch.stack([layer.weight[i] @ u[b, i] for i in range(u.shape[1])])
                for b in range(len(u))
            ]
        )
        b = torch.zeros(votes.shape[:3])
        for _ in range(layer.rounds):
            c = b.softmax(2)
            v = squash((c[..., None] * votes).sum(1))
            b = b + (votes * v[:, None]).sum(3)
    return u, c, v


def test_poses_and_coefficients_are_those_of_the_last_round(net: CapsuleNetwork) -> None:
    x = torch.rand(3, 1, 8, 8)
    u, c, v = routed(net, x)
    with torch.no_grad():
        plain = net(x)
    t = trace(net, x, view="capsules", top=10, parts=5)
    with torch.no_grad():
        assert torch.equal(net(x), plain)
    share = c / c.sum(1, keepdim=True)
    for j in (0, 7):
        capsule = t.objects(f"digits/{j}")
        torch.testing.assert_close(capsule.attributes, v[:, j], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(capsule.weight, v[:, j].norm(dim=1), atol=1e-5, rtol=1e-4)
        parts, rest = t.objects(f"digits/{j}/part"), t.objects(f"digits/{j}/rest")
        assert len(parts) == 15
        assert set(parts.path) == {(f"digits/{j}", f"digits/{j}/part")}
        heavy = share[:, :, j].topk(5, 1).values
        torch.testing.assert_close(parts.weight.view(3, 5), heavy, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(
            parts.weight.view(3, 5).sum(1) + rest.weight, torch.ones(3), atol=1e-5, rtol=0
        )
        # The weighted inputs are the mean pose of what was routed here.
        total = (parts.weight[:, None] * parts.attributes).view(3, 5, -1).sum(1)
        total = total + rest.weight[:, None] * rest.attributes
        torch.testing.assert_close(
            total, torch.einsum("bi,bid->bd", share[:, :, j], u), atol=1e-5, rtol=1e-4
        )


def test_only_long_capsules_are_kept(net: CapsuleNetwork) -> None:
    x = torch.rand(6, 1, 8, 8)
    _, _, v = routed(net, x)
    length = v.norm(dim=2)
    least = float(length.median())
    kept = trace(net, x, view="capsules", top=4, least=least).columns["digits"]
    expected = [min(4, max(1, int((row >= least).sum()))) for row in length]
    assert np.bincount(kept.glance, minlength=6).tolist() == expected
    high = trace(net, x, view="capsules", least=2.0).columns["digits"]
    assert high.member.tolist() == length.argmax(1).tolist()


def test_returned_coefficients_are_taken_and_labels_are_names() -> None:
    class Layer(nn.Module):
        def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
            c = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).expand(len(u), -1, -1)
            return torch.einsum("bij,bid->bjd", c, u), c

    u = torch.rand(2, 3, 4)
    t = trace(nn.Sequential(Layer()), u, view="capsules", modules="0", labels=["cat", "dog"],
              parts=1)  # fmt: skip
    cat = t.objects("0/cat/part")
    np.testing.assert_allclose(cat.weight, 0.9 / 1.6, rtol=1e-5)
    torch.testing.assert_close(cat.attributes, u[:, 0])


class Unrouted(nn.Module):
    """Puts poses out without routing."""

    def forward(self, u: Tensor) -> Tensor:
        return u[:, :2]


@pytest.mark.parametrize(
    ("model", "batch", "options", "match"),
    [
        (nn.Sequential(nn.Linear(4, 2)), (2, 3, 4), {}, "needs a capsule network"),
        (nn.Sequential(Unrouted()), (2, 3, 4), {"modules": "0"},
         r"found no routing coefficients in '0'.*\(2, 3, 2\)"),
        (nn.Sequential(nn.Linear(4, 2)), (2, 4), {"modules": "0"}, r"must take poses \(batch"),
        (CapsuleNetwork(8), (2, 1, 8, 8), {"labels": ["a"]}, "10 capsules, but 1 labels"),
        (CapsuleNetwork(8), (2, 1, 8, 8), {"least": -1.0}, "least must be a length"),
        (CapsuleNetwork(8), (2, 1, 8, 8), {"top": 0}, "top must be at least 1"),
    ],
)  # fmt: skip
def test_capsules_refuse(
    model: nn.Module, batch: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        trace(model, torch.rand(batch), view="capsules", **options)
    assert all("forward" not in m.__dict__ for m in model.modules())
