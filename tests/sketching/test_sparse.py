"""Sparse attributes are exact at four numbers for each non-zero, and refused beyond."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recollect import Object, Sketcher, Trace
from recollect.sketching.layout import stack_columns
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.solve import Solution, least_squares
from recollect.sketching.sparse import cosamp, omp


def system(
    dim: int, nonzeros: int, dtype: str, seed: int, depth: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Map, sketches without counts, rounding noise, and true attributes of 20 objects of 32."""
    rng = np.random.default_rng(seed)
    x = np.zeros(640)
    x[rng.choice(640, nonzeros, replace=False)] = rng.standard_normal(nonzeros)
    objects = [Object(f"m{i}", x[32 * i : 32 * i + 32]) for i in range(20)]
    if depth == 2:
        objects = [
            Object(o.module, o.attribute, inputs=[p])
            for o, p in zip(objects[:10], objects[10:], strict=True)
        ]
    sketcher = Sketcher(dim=dim, dtype=dtype)
    sketches = sketcher.encode(Trace.from_objects([objects]))
    decoder = sketcher.decoder(None, "joint", dim)
    layout = decoder.layout(sketches.skeletons.table[0])
    a = stack_columns(layout.unknowns, decoder.cache, dim)
    s = sketches.values.to(torch.float64) - layout.constant(dim)
    order = np.concatenate([x.reshape(20, 32)[int(u.module[1:])] for u in layout.unknowns])
    return a, s, rounding_variance(sketches), torch.from_numpy(order)


def solved(method: str, a: Tensor, s: Tensor, noise: Tensor, nonzeros: int) -> Solution:
    return omp(a, s, noise) if method == "omp" else cosamp(a, s, noise, nonzeros)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("method", ["omp", "cosamp"])
def test_exact_at_four_times_the_non_zeros(method: str, depth: int) -> None:
    """80 of 640 unknowns in 320 numbers."""
    for seed in range(3):
        a, s, noise, x = system(320, 80, "float32", seed, depth)
        found = solved(method, a, s, noise, 80)
        assert (found.mean[0] - x).norm() < 1e-4 * x.norm()
        assert torch.isnan(least_squares(a, s, noise).mean).all()


@pytest.mark.parametrize("method", ["omp", "cosamp"])
def test_deviations_hold_with_rounding(method: str) -> None:
    inside, seen = 0, 0
    for seed in range(4):
        a, s, noise, x = system(512, 40, "int8", seed)
        found = solved(method, a, s, noise, 40)
        support = found.mean[0] != 0
        inside += int(((found.mean[0] - x).abs() <= 1.645 * found.std[0])[support].sum())
        seen += int(support.sum())
    assert seen >= 100
    assert 0.8 < inside / seen < 0.97


@pytest.mark.parametrize("method", ["omp", "cosamp"])
def test_deviations_of_zeros_tell_of_what_was_too_small_to_be_seen(method: str) -> None:
    """With noise, a few numbers are lost: their power is what the deviations say."""
    lost = told = 0.0
    for seed in range(8):
        a, s, noise, x = system(512, 40, "float32", seed)
        level = 0.1 * float(a.square().sum(1).mean().sqrt())
        drawn = torch.randn(s.shape, generator=torch.manual_seed(seed), dtype=s.dtype)
        found = solved(method, a, s + level * drawn, noise + level**2, 40)
        if torch.isnan(found.mean).any():  # such a draw of noise is refused once in a while
            continue
        zero = found.mean[0] == 0
        lost += float(x[zero].square().sum())
        told += float(found.std[0][zero].square().sum())
    assert lost > 0
    assert 0.4 < told / lost < 2.5


@pytest.mark.parametrize("method", ["omp", "cosamp"])
def test_what_is_not_sparse_enough_is_refused(method: str) -> None:
    a, s, noise, _ = system(320, 500, "float32", 0)
    found = solved(method, a, s, noise, 100)
    assert torch.isnan(found.mean).all()
    assert torch.isinf(found.std).all()


def test_each_row_is_solved_alone_and_nothing_is_nothing() -> None:
    a, s, noise, x = system(320, 30, "float32", 1)
    rows = torch.cat([torch.zeros_like(s), s, 2 * s])
    found = omp(a, rows, noise.expand(3))
    assert (found.mean[0] == 0).all()
    assert torch.allclose(found.mean[1], x, atol=1e-4)
    assert torch.allclose(found.mean[2], 2 * x, atol=1e-4)


def test_duplicate_columns_do_not_break_the_pursuit() -> None:
    a, s, noise, _ = system(320, 10, "float32", 2)
    twice = torch.cat([a, a[:5]])
    found = omp(twice, s, noise)
    assert (found.mean[0] @ twice - s[0]).norm() < 1e-4 * s.norm()


def test_what_cannot_be_asked() -> None:
    a, s, noise, _ = system(320, 10, "float32", 0)
    with pytest.raises(ValueError, match="must be below the 320 numbers"):
        omp(a, s, noise, most=320)
    with pytest.raises(ValueError, match="three numbers for each"):
        cosamp(a, s, noise, 200)
    with pytest.raises(ValueError, match="nonzeros must be at least 1"):
        cosamp(a, s, noise, 0)
