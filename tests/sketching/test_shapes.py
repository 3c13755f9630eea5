"""Mixtures of Gaussians as priors of attributes; counts where there is no prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recollect import NotRemembered, Object, Sketcher, Trace
from recollect.sketching.decoder import _of_shapes
from recollect.sketching.shapes import Shapes
from recollect.sketching.sites import Kernels, Normal

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize("precision", [0.0, 0.3, 40.0])
def test_tilted_moments_are_those_of_the_integral(precision: float) -> None:
    """Components of different widths and weights, against sums over a fine grid."""
    grid = torch.linspace(-12, 12, 48_001, dtype=DOUBLE)
    shift = 0.7 * min(precision, 1.0)
    heard = torch.exp(-0.5 * precision * grid.square() + shift * grid)
    centres, widths, weights = (-1.0, 0.2, 2.0), (0.3, 0.05, 1.0), (0.2, 0.5, 0.3)
    prior = sum(
        w / s * torch.exp(-0.5 * ((grid - c) / s).square())
        for c, s, w in zip(centres, widths, weights, strict=True)
    )
    density = prior * heard / (prior * heard).sum()
    mean = float((density * grid).sum())
    variance = float((density * (grid - mean).square()).sum())
    site = Shapes(
        torch.tensor(centres, dtype=DOUBLE)[:, None],
        torch.tensor(widths, dtype=DOUBLE).square()[:, None, None],
        torch.tensor(weights, dtype=DOUBLE),
    )
    found = site.tilt(
        torch.full((1, 1), precision, dtype=DOUBLE), torch.full((1,), shift).double()
    )
    assert float(found.mean) == pytest.approx(mean, abs=1e-6)
    assert float(found.covariance) == pytest.approx(variance, abs=1e-6)


def test_components_of_one_covariance_are_kernels() -> None:
    """In three dimensions, against the other implementation; one component is a normal site."""
    centres, c = normal(7, 3), normal(3, 3, seed=1)
    spread, precision, shift = 0.2 * c @ c.T + 0.1 * torch.eye(3), c.T @ c, normal(3, seed=2)
    weights = torch.softmax(normal(7, seed=3), 0)
    pairs = [
        (Shapes(centres, spread.expand(7, 3, 3), weights), Kernels(centres, weights, spread)),
        (Shapes(centres[:1], spread[None], torch.ones(1).double()), Normal(centres[0], spread)),
    ]
    for site, twin in pairs:
        torch.testing.assert_close(site.mean, twin.mean)
        torch.testing.assert_close(site.covariance, twin.covariance)
        found, expected = site.tilt(precision, shift), twin.tilt(precision, shift)
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.covariance, expected.covariance)


def test_normal_attributes_need_one_component_and_clusters_more() -> None:
    floor = torch.full((4,), 1e-6, dtype=DOUBLE)
    x = normal(400, 4) @ normal(4, 4, seed=1)
    assert len(Shapes.of(x, floor)) == 1
    apart = x + 20 * normal(4, 4, seed=2)[torch.arange(400) % 4]
    many = Shapes.of(apart, floor)
    assert len(many) > 1
    torch.testing.assert_close(many.mean, apart.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(
        many.covariance.trace(), apart.var(0, unbiased=False).sum(), atol=0, rtol=0.1
    )


def test_a_fit_is_the_same_every_time_and_stays_on_its_plane() -> None:
    """Attributes of two dimensions in six: no component is wider than its floor elsewhere."""
    flat = torch.cat(
        [normal(300, 2).sign() + 0.1 * normal(300, 2, seed=1), torch.zeros(300, 4)], 1
    )
    floor = torch.full((6,), 1e-8, dtype=DOUBLE)
    first, second = Shapes.of(flat, floor), Shapes.of(flat, floor)
    assert torch.equal(first.roots, second.roots)
    assert len(first) > 1
    assert float(first.roots[:, 2:].abs().max()) < 1.1e-4
    wide = (first.centres[:, :2].abs() - 1).abs().amax(1)
    assert float(wide.median()) < 0.2


def test_bars_grow_as_asked_and_shrink_by_three_quarters() -> None:
    errors = {"a": torch.zeros(2, 100_000), "b": torch.zeros(2, 100_000), "c": torch.zeros(2, 10)}
    found = _of_shapes({"a": 2.0, "b": 0.5, "c": 9.0}, errors)
    assert found["a"] == pytest.approx(2.0, rel=0.02)
    assert found["b"] == pytest.approx(math.exp(0.75 * math.log(0.5)), rel=0.02)
    assert found["c"] == pytest.approx(1.0, abs=0.05)  # ten numbers say nothing by themselves
    assert _of_shapes({}, errors) == {}


@pytest.mark.parametrize("scheme", ["paper", "energy", "keyed"])
def test_counts_without_a_prior(scheme: str) -> None:
    """Cats in two thirds of the glances; also of their sum, and by name."""
    rng = np.random.default_rng(0)
    glances = [
        [Object("dog", rng.standard_normal(3) / 2)]
        + [Object("cat", rng.standard_normal(4) / 2)] * (g % 3 > 0)
        for g in range(6)
    ]
    true = np.array([[1.0, float(g % 3 > 0)] for g in range(6)])
    sketcher = Sketcher(dim=4096, scheme=scheme, dtype="float32")
    s = sketcher.encode(Trace.from_objects(glances))
    names, estimate, std = sketcher.decode(s).count_estimates()
    true = true[:, [("dog", "cat").index(name) for name in names]]
    assert (np.abs(estimate - true) <= 4 * std + 1e-3).all()
    assert np.abs(estimate - true).max() < 0.3
    total = sketcher.decode(s.sum()).count_estimates(("cat",))
    assert total[0] == ("cat",)
    assert abs(float(total[1][0, 0]) - 4) < 4 * float(total[2][0, 0]) + 1e-2
    assert sketcher.decode(s).counts()["module"][:2] == list(names)
    with pytest.raises(NotRemembered, match="did you mean 'cat'"):
        sketcher.decode(s).count_estimates(("cats",))
