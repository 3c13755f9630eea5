"""The models: bounds are bounds, parts add up, what does not fit is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recollect.generative import M2, ConvM2, DenseM2
from recollect.generative.networks import Broadcast, ConvDecoder, halvings, normalisation


def images(n: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8), torch.arange(n) % 3


def tiny(**keys: object) -> ConvM2:
    return ConvM2(**{"num_classes": 3, "width": 4, "latent_dim": 1, **keys})  # type: ignore[arg-type]


def on_grid(model: M2, x: Tensor, y: int) -> tuple[Tensor, Tensor]:
    """Return log p(x, y) and KL(q(z | x, y) || p(z | x, y)), by quadrature over z: (B,)."""
    z = torch.linspace(-9, 9, 3601)
    step, same = float(z[1] - z[0]), torch.full((len(z),), y)
    labels = torch.full((len(x),), y)
    joint = torch.stack(
        [
            model.p_x(z[:, None], same).log_prob(one.expand(len(z), -1, -1, -1))
            - z**2 / 2 - math.log(2 * math.pi) / 2 - math.log(model.num_classes)
            for one in x
        ]
    )  # fmt: skip
    evidence = torch.logsumexp(joint, 1) + math.log(step)
    q = model.q_z(x, labels)
    log_q = torch.stack([q.log_prob(v.expand(len(x), 1)) for v in z], 1)  # (B, grid)
    inner = log_q.exp() * (log_q - (joint - evidence[:, None]))
    return evidence, inner.sum(1) * step


def many(bound: Callable[..., Tensor], x: Tensor, *y: Tensor, n: int = 1500) -> Tensor:
    """A bound n times over, with fresh latents: (n, B)."""
    return bound(x.repeat(n, 1, 1, 1), *[v.repeat(n) for v in y]).view(n, len(x))


@torch.no_grad()
def test_the_bound_misses_the_evidence_by_the_divergence_of_the_posteriors() -> None:
    model = tiny().eval()
    x, y = images(3)
    found = many(model.elbo_labelled, x, y, n=4000)
    for c in range(3):
        evidence, divergence = on_grid(model, x[c : c + 1], c)
        error = 5 * float(found[:, c].std()) / len(found) ** 0.5
        assert float(found[:, c].mean()) == pytest.approx(float(evidence - divergence), abs=error)
        assert float(divergence) > 0


@torch.no_grad()
def test_summing_over_fewer_classes_is_a_bound_too() -> None:
    torch.manual_seed(1)
    x, _ = images(4)
    model = tiny().eval()
    model.classes.weight.mul_(4)  # a classifier with an opinion
    truth = torch.logsumexp(torch.stack([on_grid(model, x, c)[0] for c in range(3)]), 0)
    for few in (1, 2, 3):
        model.classes_summed = few
        found = many(model.elbo_unlabelled, x, n=500)
        assert (found.mean(0) <= truth + 5 * found.std(0) / len(found) ** 0.5).all()


@torch.no_grad()
def test_the_unlabelled_bound_is_its_definition() -> None:
    model = tiny().eval()
    x, _ = images(4)
    found = many(model.elbo_unlabelled, x)
    q = model.q_y(x)
    said = [many(model.elbo_labelled, x, torch.full((4,), c)).mean(0) for c in range(3)]
    wanted = sum(q.probs[:, c] * said[c] for c in range(3)) + q.entropy()
    assert torch.allclose(found.mean(0), wanted, atol=5 * float(found.std(0).max()) / 1500**0.5)


@torch.no_grad()
def test_the_loss_is_the_sum_of_its_parts() -> None:
    model = tiny(norm_encoder="none")
    x, y = images(6)
    some = torch.where(torch.arange(6) < 2, y, -1)
    torch.manual_seed(3)
    whole = model.loss((x, some), alpha=2.0)
    torch.manual_seed(3)
    labelled = model.elbo_labelled(x[:2], y[:2]).mean()
    unlabelled = model.elbo_unlabelled(x[2:]).mean()
    right = model.q_y(x[:2]).log_prob(y[:2]).mean()
    assert float(whole) == pytest.approx(float(-labelled - unlabelled - 2 * right), rel=1e-5)
    torch.manual_seed(3)
    less = model.loss((x, some), alpha=2.0, beta=0.1)
    assert float(less) == pytest.approx(float(whole + 0.9 * labelled), rel=1e-5)
    torch.manual_seed(3)
    alone = model.loss((x[:2], y[:2]), alpha=2.0)
    assert float(alone) == pytest.approx(float(-labelled - 2 * right), rel=1e-5)


def test_classifier_and_generator_share_the_embedding_of_classes() -> None:
    model = tiny()
    x, y = images()
    made = model.p_x(torch.zeros(6, 1), y)
    for value in (model.q_y(x).log_prob(y).sum(), made.log_prob(x).sum()):
        model.zero_grad()
        value.backward()
        assert float(model.classes.weight.grad.abs().sum()) > 0


def test_every_parameter_learns() -> None:
    x, y = images(12)
    for model in (tiny(position_embedding_dim=2, depth=1, norm_decoder="group"),
                  ConvM2(num_classes=3, width=4, norm_encoder="layer")):  # fmt: skip
        y[3:] = -1
        model.loss((x, y)).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
    fixed = tiny(onehot=True)
    assert not fixed.classes.weight.requires_grad
    assert torch.equal(fixed.classes.weight, torch.eye(3))


@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
def test_chunks_of_the_decoding_matter_under_batch_normalisation_only(norm: str) -> None:
    x, _ = images(8)
    torch.manual_seed(0)
    whole = tiny(norm_decoder=norm)
    torch.manual_seed(0)
    parts = tiny(norm_decoder=norm, decode_chunk="per_class")
    found = []
    for model in (whole, parts):
        torch.manual_seed(5)
        found.append(model.elbo_unlabelled(x))
    assert torch.allclose(*found, atol=1e-4) == (norm != "batch")


def test_with_one_class_it_is_an_ordinary_autoencoder() -> None:
    model = tiny(num_classes=1)
    x, _ = images(5)
    torch.manual_seed(2)
    found = model.elbo_unlabelled(x)
    torch.manual_seed(2)
    assert torch.allclose(found, model.elbo_labelled(x, torch.zeros(5, dtype=torch.int64)))


def test_using_a_model_leaves_it_as_it_was() -> None:
    model = tiny(norm_encoder="batch", norm_decoder="batch").train()
    x, y = images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    shown = model.generate(y, seed=4)
    again = model.reconstruct(x, y)
    assert model.training
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k]), k
    assert torch.equal(shown, model.generate(y, seed=4))
    assert not torch.equal(shown, model.generate(y, seed=5))
    assert again.shape == x.shape
    assert 0 <= float(again.min()) <= float(again.max()) <= 1


@torch.no_grad()
def test_places_without_embeddings_are_all_alike() -> None:
    grid = Broadcast(5, 4, (3, 3), 2)
    code = torch.randn(2, 5)
    assert float(grid(code).std(dim=(2, 3)).min()) > 0
    nn.init.zeros_(grid.positions.weight)
    assert float(grid(code).std(dim=(2, 3)).max()) < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 3))
def test_stages_halve_until_seven(side: int, stages: int) -> None:
    shape = (1, side * 2**stages, side * 2**stages)
    assert halvings(shape, stages) == stages
    image = torch.zeros(1, *shape)
    if side <= 7:
        out = ConvDecoder(3, shape, 2, stages, normalisation("none"))(torch.zeros(1, 3))
        assert out.shape == image.shape


def test_vectors_are_modelled_alike() -> None:
    model = DenseM2(5, num_classes=3, width=8, latent_dim=2)
    x, y = torch.randn(7, 5), torch.tensor([0, 1, 2, -1, -1, -1, -1])
    assert torch.isfinite(model.loss((x, y)))
    assert model.reconstruct(x).shape == x.shape
    with pytest.raises(ValueError, match=r"vectors must have the shape \(B, 5\)"):
        model.q_y(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="vectors must be finite"):
        model.q_y(torch.full((2, 5), math.nan))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_embedding_dim": 0}, "class_embedding_dim must be at least 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"position_embedding_dim": 0}, "position_embedding_dim must be at least 1"),
        ({"norm_decoder": "instance"}, "norm must be one of 'none', 'batch'"),
        ({"norm_encoder": "batch", "momentum": 0.0}, r"momentum must lie in \(0, 1\]"),
        ({"image_shape": (1, 9, 9)}, "divisible by 2 .1 strides of 2., got 9 x 9"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(channels, height, width\)"),
        ({"decode_chunk": "half"}, "decode_chunk must be one of"),
        ({"classes_summed": 4}, "classes_summed must be at most the 3 classes, got 4"),
    ],
)
def test_what_cannot_be_built_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**keys)


def test_what_does_not_fit_is_refused() -> None:
    model = tiny()
    x, y = images()
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        model.elbo_unlabelled(x * 16)
    with pytest.raises(ValueError, match="pixels must lie"):
        model.elbo_unlabelled(x * math.nan)
    with pytest.raises(ValueError, match=r"images must have the shape \(B, 1, 8, 8\)"):
        model.classify(x[:, 0])
    with pytest.raises(TypeError, match="images must be a tensor of floating-point"):
        model.classify(x.to(torch.uint8))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 0\.\.3"):
        model.elbo_labelled(x, y + torch.tensor([0, 0, 0, 0, 0, 1]))
    with pytest.raises(ValueError, match=r"labels must lie in -1\.\.2 .-1: unlabelled., got -2"):
        model.loss((x, y - 2))
    with pytest.raises(TypeError, match="labels must be a tensor of integers"):
        model.elbo_labelled(x, y.float())
    with pytest.raises(ValueError, match=r"labels must have the shape \(6,\)"):
        model.elbo_labelled(x, y[:3])
    with pytest.raises(ValueError, match="no labelled example"):
        model.loss((x, torch.full((6,), -1)))
    alone = tiny(norm_decoder="batch")
    with pytest.raises(ValueError, match="a batch of one example has no spread"):
        alone.p_x(torch.zeros(1, 1), y[:1])
    assert alone.eval().p_x(torch.zeros(1, 1), y[:1]).mean.shape == (1, 1, 8, 8)
