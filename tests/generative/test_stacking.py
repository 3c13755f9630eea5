"""One model on the latents of another: examples that are distributions, and the stack."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recollect.generative import ConvM2, DenseM2, fit, posterior


def halves(n: int = 300) -> tuple[Tensor, Tensor]:
    """Pixels (n, 12) of two classes: the first or the second half is bright."""
    y = torch.arange(n) % 2
    bright = torch.arange(12) // 6 == y[:, None]
    return (0.25 * torch.rand(n, 12) + 0.7 * bright).clamp(0, 1), y


def test_dense_pixels_have_a_bernoulli_likelihood() -> None:
    model = DenseM2(5, num_classes=2, latent_dim=3, width=8, pixels=True)
    x, z, y = torch.rand(4, 5), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    out = model.decoder(torch.cat([z, model.classes(y)], 1))
    wanted = -F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1)
    torch.testing.assert_close(model.p_x(z, y).log_prob(x), wanted)
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        model.q_y(x + 1)
    with pytest.raises(ValueError, match="pixels must lie"):
        model.q_y(x * math.nan)


@pytest.mark.parametrize("chunk", [3, 100])
def test_the_posterior_is_that_of_the_model(chunk: int) -> None:
    model = ConvM2(num_classes=3, latent_dim=2, width=4, norm_encoder="batch").train()
    x = torch.rand(7, 1, 8, 8)
    mean, spread = posterior(model, x, chunk=chunk)
    assert model.training
    model.eval()
    q = model.q_z(x, model.classify(x))
    torch.testing.assert_close(mean, q.mean)
    torch.testing.assert_close(spread, q.stddev)
    other = (model.classify(x) + 1) % 3
    torch.testing.assert_close(posterior(model, x, other)[0], model.q_z(x, other).mean)


def test_examples_with_a_spread_are_drawn_anew_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = DenseM2(2, num_classes=2, width=4)
    seen: list[Tensor] = []
    loss = model.loss

    def noted(batch: tuple[Tensor, Tensor], *weights: float) -> Tensor:
        seen.append(batch[0])
        return loss(batch, *weights)

    monkeypatch.setattr(model, "loss", noted)
    x = torch.tensor([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0]])
    spread = torch.tensor([[0.0, 2.0]]).repeat(4, 1)
    y = torch.tensor([0, 1, -1, -1])
    fit(model, x, y, spread=spread, epochs=150, batch_size=4, lr=1e-9)
    drawn = torch.cat(seen)
    assert len(drawn) == 150 * 6
    assert not drawn[:, 0].any()
    assert len(drawn[:, 1].unique()) > 890
    assert float(drawn[:, 1].mean()) == pytest.approx(5.0, abs=5 * 2 / 900**0.5)
    assert float(drawn[:, 1].std()) == pytest.approx(2.0, abs=5 * 2 / 1800**0.5)


def test_two_labels_are_enough_for_a_stack() -> None:
    torch.manual_seed(1)  # one in three starts never uses a latent
    x, y = halves()
    first = DenseM2(12, num_classes=1, latent_dim=2, width=16, pixels=True)
    fit(first, x, torch.zeros_like(y), epochs=40, batch_size=0, labelled_size=20, alpha=0.0,
        lr=1e-2)  # fmt: skip
    mean, spread = posterior(first, x)
    second = DenseM2(2, num_classes=2, width=16, latent_dim=1)
    some = torch.where(torch.arange(len(y)) < 2, y, -1)
    fit(second, mean, some, spread=spread, epochs=20, batch_size=30, alpha=1.0, beta=0.01, lr=1e-2)
    assert float((second.classify(mean) == y).float().mean()) > 0.95


def test_what_does_not_fit_is_refused() -> None:
    model, x, y = DenseM2(2, num_classes=2, width=4), torch.zeros(4, 2), torch.arange(4) % 2
    for wrong in (torch.zeros(4, 1), -torch.ones(4, 2), torch.full((4, 2), math.nan)):
        with pytest.raises(ValueError, match=r"deviations \(at least 0\) of the shape"):
            fit(model, x, y, spread=wrong, epochs=1)
    with pytest.raises(ValueError, match="there are no examples"):
        posterior(model, x[:0])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        posterior(model, x, chunk=0)
