"""Training: repeatable, learns from few labels, refuses what cannot work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recollect.generative import ConvM2, evaluate, fit, sweep


def stripes(n: int = 240) -> tuple[Tensor, Tensor]:
    """Images of three classes: a bright band at one of three heights, and noise."""
    y = torch.arange(n) % 3
    x = 0.3 * torch.rand(n, 1, 8, 8)
    for i, c in enumerate(y.tolist()):
        x[i, 0, 2 * c + 1 : 2 * c + 3] += 0.6
    return x, y


def shown(y: Tensor, count: int = 6) -> Tensor:
    return torch.where(torch.arange(len(y)) < count, y, -1)


def small(**keys: object) -> ConvM2:
    return ConvM2(**{"num_classes": 3, "width": 4, "latent_dim": 2, **keys})  # type: ignore[arg-type]


def test_two_labels_a_class_are_enough_for_stripes() -> None:
    x, y = stripes()
    model = small(norm_encoder="batch", norm_decoder="batch")
    history = fit(model, x[60:], shown(y[60:]), epochs=6, batch_size=20, lr=1e-2,
                  test=(x[:60], y[:60]))  # fmt: skip
    first, last = history[0].judged, history[-1].judged
    assert first is not None
    assert last is not None
    assert last.elbo > first.elbo + 1
    assert last.accuracy > 0.95
    assert not model.training
    assert history[-1].seconds > history[0].seconds > 0


def test_the_same_seed_gives_the_same_model() -> None:
    x, y = stripes(60)
    rows = sweep(small, [{}, {}, {"width": 5}], x, shown(y), (x, y), seeds=(0, 1), epochs=2)
    elbo = [r["elbo"] for r in rows]
    assert [r["seed"] for r in rows] == [0, 1] * 3
    assert elbo[:2] == elbo[2:4]
    assert len({round(e, 4) for e in (elbo[0], elbo[1], elbo[4])}) == 3


def test_judging_leaves_the_model_as_it_was() -> None:
    x, y = stripes(50)
    model = small(norm_decoder="batch").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = evaluate(model, x, y, chunk=7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert found.gap == pytest.approx(found.elbo - found.elbo_train)
    assert found.gap != 0
    assert evaluate(small(), x, y).gap == 0


def test_every_step_is_told_and_labels_alone_will_do() -> None:
    x, y = stripes(60)
    steps: list[int] = []
    fit(small(), x, y, epochs=2, batch_size=0, labelled_size=20, after_step=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_class_without_a_label_is_pointed_out() -> None:
    x, y = stripes(30)
    with pytest.warns(UserWarning, match="no example of class 2 is labelled"):
        fit(small(), x, torch.where(y == 2, -1, y), epochs=1)


def test_what_cannot_be_trained_is_refused() -> None:
    x, y = stripes(30)
    with pytest.raises(ValueError, match="no example is labelled"):
        fit(small(), x, torch.full((30,), -1))
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        fit(small(), x, y, epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 0"):
        fit(small(), x, y, batch_size=-1)
    with pytest.raises(ValueError, match="labelled_size must be at least 1"):
        fit(small(), x, y, labelled_size=0)
    with pytest.raises(ValueError, match="no examples to judge"):
        evaluate(small(), x[:0], y[:0])
    with pytest.raises(RuntimeError, match="training has diverged"):
        fit(small(), x, y, epochs=3, optimizer=lambda p: torch.optim.SGD(p, 1e4))
