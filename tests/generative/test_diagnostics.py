"""What batch normalisation does is measured, and is nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recollect.generative import (
    ConvM2,
    Path,
    Spectrum,
    class_similarity,
    context_similarity,
    decoder_dependence,
    decoder_jacobian,
    gated_similarity,
    gradient_correlation,
    rotate,
)


def images(n: int = 80) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8), torch.arange(n) % 10


@pytest.mark.parametrize("norm", ["none", "group", "layer"])
def test_without_batch_normalisation_examples_are_independent(norm: str) -> None:
    model = ConvM2(width=8, norm_encoder="batch", norm_decoder=norm)
    x, y = images(20)
    found = decoder_dependence(model, x, y, batch_size=8, n=5)
    assert found.train < 1e-5  # nats, of a likelihood of about 45: rounding
    assert found.eval < 1e-5
    assert decoder_jacobian(model, x[:6], y[:6]) < 1e-12
    assert gradient_correlation(model, x, y, 6).own == pytest.approx(1, abs=1e-9)


def test_batch_normalisation_of_the_decoder_makes_them_dependent() -> None:
    model = ConvM2(width=8, norm_decoder="batch")
    x, y = images()
    by_size = [decoder_dependence(model, x, y, batch_size=n) for n in (8, 24, 72)]
    trained = [d.train for d in by_size]
    assert trained[0] > trained[1] > trained[2] > 1e-3
    assert all(d.eval < 1e-5 for d in by_size)
    assert 0.001 < decoder_jacobian(model, x[:6], y[:6]) < 1
    few, many = gradient_correlation(model, x, y, 4), gradient_correlation(model, x, y, 16)
    assert few.own < many.own < 0.9999


@torch.no_grad()
def test_the_jacobian_is_that_of_finite_differences() -> None:
    model = ConvM2(width=4, latent_dim=2, norm_decoder="batch")
    x, y = images(3)
    z = torch.randn(3, 2)
    found = decoder_jacobian(model, x, y, z)
    twin = ConvM2(width=4, latent_dim=2, norm_decoder="batch").double()
    twin.load_state_dict(model.state_dict())
    lengths = torch.zeros(3, 3)
    for j in range(3):
        moved = []
        for k in range(2):
            ends = []
            for sign in (1, -1):
                at = z.double()
                at[j, k] += sign * 1e-5
                ends.append(twin.p_x(at, y).log_prob(x.double()))
            moved.append((ends[0] - ends[1]) / 2e-5)
        lengths[:, j] = torch.stack(moved).norm(dim=0).float()
    others = lengths.sum() - lengths.diagonal().sum()
    assert found == pytest.approx(float(others / 6 / lengths.diagonal().mean()), rel=1e-3)


def test_probes_leave_the_model_as_it_was() -> None:
    model = ConvM2(width=4, norm_encoder="batch", norm_decoder="batch").train()
    x, y = images(12)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    decoder_dependence(model, x, y, 4, n=3)
    decoder_jacobian(model, x, y)
    gradient_correlation(model, x, y, 4)
    context_similarity(model, x, 2, 8)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_probes_refuse_what_they_cannot_measure() -> None:
    model = ConvM2(width=4)
    x, y = images(6)
    with pytest.raises(ValueError, match="a batch of 9 needs as many examples, got 6"):
        decoder_dependence(model, x, y, 9)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        decoder_dependence(model, x, y, 1)
    with pytest.raises(ValueError, match="the number of examples must be at least 2"):
        decoder_jacobian(model, x[:1], y[:1])
    with pytest.raises(ValueError, match="batch_size must be at least 3"):
        gradient_correlation(model, x, y, 2)
    with pytest.raises(ValueError, match="a batch of 7 needs as many examples, got 6"):
        gradient_correlation(model, x, y, 7)
    model.decoder.layers.append(nn.Dropout(0.5))
    with pytest.raises(ValueError, match="the decoder has dropout"):
        decoder_jacobian(model, x, y)


def test_similarity_in_context() -> None:
    x, _ = images(5)
    model = ConvM2(width=4)
    same = context_similarity(model, x, 2, 8, [lambda v: v, lambda v: v])
    logits = model.eval()(x)
    assert torch.allclose(same, (logits[:, 2] - logits[:, 8]).mean().expand(2), atol=1e-5)
    gated = gated_similarity(model, x, 2, 8)
    assert float(gated.std()) > 1e-3  # depends on the picture
    alone = gated_similarity(ConvM2(width=4, class_embedding_dim=1), x, 2, 8)
    assert torch.allclose(alone.abs(), torch.ones(5))
    assert float(alone.std()) < 1e-6  # one number a class: the same in every context
    assert torch.allclose(class_similarity(model).diagonal(), torch.ones(10))
    with pytest.raises(ValueError, match=r"classes are 0\.\.9, got 10"):
        context_similarity(model, x, 2, 10)
    with pytest.raises(ValueError, match=r"classes are 0\.\.9, got -1"):
        gated_similarity(model, x, -1, 2)


def test_turning_is_turning() -> None:
    x = torch.rand(2, 1, 6, 6)
    assert torch.allclose(rotate(x, 90), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    assert torch.allclose(rotate(x, 360), x, atol=1e-4)
    assert torch.allclose(rotate(x, 0), x, atol=1e-6)
    high = torch.zeros(1, 1, 9, 5)
    high[..., 4, 4] = 1  # right of the middle goes up by as many pixels
    assert float(rotate(high, 90)[0, 0, 2, 2]) == pytest.approx(1, abs=1e-4)


def test_a_path_in_a_plane_has_two_dimensions() -> None:
    model = nn.Linear(400, 10)
    draws = torch.Generator().manual_seed(0)
    plane = torch.randn(2, model.weight.numel(), generator=draws)
    sketched, whole = Path(model, size=256), Path(model)
    origin = model.weight.detach().clone()
    for _ in range(30):
        where = torch.randn(2, generator=draws) @ plane
        model.weight.data = origin + where.view_as(origin)
        sketched.note()
        whole.note()
    for path in (sketched, whole):
        for of in ("points", "steps"):
            assert path.spectrum(of).dimension(0.999999) == 2
            assert 1.5 < path.spectrum(of).participation <= 2 + 1e-9
    ratio = sketched.spectrum().energies.sum() / whole.spectrum().energies.sum()
    assert ratio == pytest.approx(1, abs=5 * (2 / 256) ** 0.5)


def test_spectra_and_paths_refuse_what_tells_nothing() -> None:
    assert Spectrum(np.ones(7)).participation == pytest.approx(7)
    assert Spectrum(np.ones(7)).dimension(1.0) == 7
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 0"):
        Spectrum(np.ones(2)).dimension(0)
    path = Path(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="at least 3 notes of 'points' or 'steps', got 0"):
        path.spectrum()
    for _ in range(3):
        path.note()
    with pytest.raises(ValueError, match="have not moved"):
        path.spectrum()
    with pytest.raises(ValueError, match="size must be at least 2"):
        Path(nn.Linear(2, 1), size=1)
