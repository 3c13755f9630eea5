"""Sketches of which any numbers were lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import Object, Prior, RecipeMismatch, Sketcher, Trace
from recollect.sketching import Sketches


def scenes(count, seed=0):
    """Glances with a static part, objects that come and go, and inputs."""
    rng = np.random.default_rng(seed)

    def vector(size):
        return rng.normal(size=size).astype(np.float32)

    return Trace.from_objects(
        [
            [
                Object("eye", vector(6)),
                *[
                    Object("cat", vector(4), weight=0.5, inputs=[Object("face", vector(3))])
                    for _ in range(rng.integers(0, 3))
                ],
            ]
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("scheme", ["energy", "keyed", "paper"])
@pytest.mark.parametrize("with_prior", [False, True])
def test_a_mask_of_the_first_numbers_is_a_prefix(scheme, with_prior):
    t = scenes(30)
    sketcher = Sketcher(dim=256, scheme=scheme, dtype="float32")
    s = sketcher.encode(t)
    prior = Prior.fit(t) if with_prior else None
    a = sketcher.decode(s.prefix(128)[:4], prior=prior)
    b = sketcher.decode(s.masked(range(128))[:4], prior=prior)
    for name in t.modules:
        x, y = a.objects(name), b.objects(name)
        # The same numbers in the same order: the same answer, but for the calibration's rounding.
        assert torch.allclose(x.attributes, y.attributes, atol=1e-4)
        assert torch.allclose(x.std, y.std, rtol=1e-3, atol=1e-5)
    if with_prior:
        assert np.allclose(a.count_estimates()[1], b.count_estimates()[1], atol=1e-4)
        means = [r.sketches.sum() for r in (a, b)]
        x, y = (sketcher.decode(m, prior=prior).means("cat")[0] for m in means)
        assert torch.allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("scheme", ["energy", "keyed"])
def test_any_numbers_that_suffice_give_the_attributes_back(scheme):
    t = scenes(6)
    sketcher = Sketcher(dim=256, scheme=scheme, dtype="float32")
    s = sketcher.encode(t)
    for seed in range(3):
        lost = np.random.default_rng(seed).permutation(256)[: 256 - 64]
        left = np.delete(np.arange(256), lost)
        r = sketcher.decode(s.masked(left))
        for name in ("eye", "cat", "face"):
            assert torch.allclose(
                r.objects(name).attributes, t.objects(name).attributes, atol=2e-3
            )


def test_masks_compose_and_add():
    s = Sketcher(dim=128).encode(scenes(5))
    every = np.arange(128) % 3 > 0
    left = s.masked(every)
    assert left.dim == every.sum()
    assert left.kept.tolist() == np.flatnonzero(every).tolist()
    assert left.masked([0, 5]).equal(s.masked(np.flatnonzero(every)[[0, 5]]))
    assert left.prefix(10).equal(s.masked(np.flatnonzero(every)[:10]))
    assert left.sum().equal(s.sum().masked(every))
    assert left[1:3].kept.equal(left.kept)
    assert Sketches.concat([left[:2], left[2:]]).equal(left)
    assert left.cpu().equal(left)
    assert not left.equal(s.prefix(left.dim))
    assert (left[:1].sum() + left[1:2].sum()).equal(left[:2].sum())


def test_operators_are_kept_for_a_few_masks_only():
    sketcher = Sketcher(dim=64, dtype="float32")
    s = sketcher.encode(scenes(2))
    for start in range(12):
        _ = sketcher.decode(s.masked(range(start, 64))).objects("eye")
    assert len(sketcher._masked) == 8


def test_bad_masks():
    sketcher = Sketcher(dim=64)
    s = sketcher.encode(scenes(3))
    with pytest.raises(ValueError, match="nothing is left"):
        s.masked([])
    with pytest.raises(ValueError, match=r"lie in 0\.\.63, got 3\.\.64"):
        s.masked([3, 64])
    with pytest.raises(ValueError, match=r"lie in 0\.\.63, got -1"):
        s.masked([-1, 3])
    with pytest.raises(ValueError, match="given twice"):
        s.masked([3, 3])
    with pytest.raises(ValueError, match="has 64 entries"):
        s.masked(np.ones(63, bool))
    with pytest.raises(ValueError, match="keep different ones of their numbers"):
        _ = s.masked(range(10)).sum() + s.masked(range(1, 11)).sum()
    with pytest.raises(ValueError, match="keep different ones"):
        Sketches.concat([s.masked(range(10)), s.prefix(10)])
    with pytest.raises(RecipeMismatch):
        Sketcher(dim=64, seed=1).decode(s.masked(range(10)))
