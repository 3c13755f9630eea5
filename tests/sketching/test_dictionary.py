"""Unknown operators are recovered from sketches, with names where the sketches carry them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recollect import Object, Sketcher, Trace
from recollect.sketching.dictionary import (
    BlockSparse,
    fit_columns,
    match_columns,
    read_signatures,
    recover_columns,
)
from recollect.sketching.layout import stack_columns


def sparse_attributes(number: int, size: int, active: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    places = torch.rand(number, size, generator=g).argsort(1)[:, :active]
    values = torch.randn(number, active, generator=g, dtype=torch.float64)
    return torch.zeros(number, size, dtype=torch.float64).scatter(1, places, values)


def noisy(s: Tensor, share: float) -> Tensor:
    g = torch.Generator().manual_seed(5)
    own = s.norm(dim=1, keepdim=True) / s.shape[1] ** 0.5
    return s + share * own * torch.randn(s.shape, generator=g, dtype=torch.float64)


def aligned(true: Tensor, found: Tensor) -> Tensor:
    """Absolute cosine of each column with the one that has its name."""
    size = (true.norm(dim=0) * found.norm(dim=0)).clamp_min(1e-12)
    return (true * found).sum(0).abs() / size


@pytest.mark.parametrize(
    ("active", "dim", "q", "noise"), [(4, 518, 0.1, 0.0), (8, 518, 0.1, 0.0), (8, 2044, 0.05, 0.2)]
)
def test_columns_are_named_from_two_thousand_sketches(
    active: int, dim: int, q: float, noise: float
) -> None:
    maps = BlockSparse(modules=16, size=16, dim=dim, q=q)
    true = maps.matrix()
    s = noisy(sparse_attributes(2000, 256, active, 0) @ true.T, noise)
    found = read_signatures(s, maps)
    there = (true != 0).any(0)
    assert (aligned(true, found.columns)[there] > 0.95).double().mean() >= 0.99
    assert torch.equal(found.found, there)
    assert (found.reads[~there] == 0).all()


def test_signature_operators_are_what_they_promise() -> None:
    maps = BlockSparse(modules=5, size=3, dim=110, q=0.5, seed=3)
    d = maps.matrix()
    assert torch.equal(d, BlockSparse(5, 3, 110, 0.5, 3).matrix())
    assert not torch.equal(d, BlockSparse(5, 3, 110, 0.5, 4).matrix())
    blocks = d.T.reshape(15, -1, maps.block)
    there = (blocks != 0).any(2)
    assert torch.equal(there, (blocks != 0).all(2))
    assert 0.3 < there.double().mean() < 0.7
    assert torch.allclose(d.abs()[d != 0], torch.tensor(55.0, dtype=torch.float64) ** -0.5)


def test_least_squares_is_exact_and_its_error_follows_the_noise() -> None:
    g = torch.Generator().manual_seed(0)
    true = torch.randn(96, 64, generator=g, dtype=torch.float64)
    x = torch.randn(512, 64, generator=g, dtype=torch.float64)
    s = x @ true.T
    assert (fit_columns(x, s) - true).norm() < 1e-9 * true.norm()
    error = (fit_columns(x, noisy(s, 0.1)) - true).norm() / true.norm()
    assert error == pytest.approx(0.1 * (64 / (512 - 64)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("depth", [3, 4])
def test_recursive_operators_are_recovered_at_every_depth(depth: int) -> None:
    """Four modules in a chain, or one of three beside it: int8 energy sketches, eight times K."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 64)) * (rng.random((512, 64)) < 0.15)

    def glance(row: np.ndarray) -> list[Object]:
        a, b, c, d = (np.asarray(part) for part in row.reshape(4, 16))
        last = Object("d", d)
        third = Object("c", c, inputs=[last] if depth == 4 else [])
        beside = [] if depth == 4 else [last]
        return [Object("a", a, inputs=[Object("b", b, inputs=[third]), *beside])]

    sketcher = Sketcher(dim=128)
    sketches = sketcher.encode(Trace.from_objects([glance(row) for row in x]))
    decoder = sketcher.decoder(None, "joint", 128)
    unknowns = decoder.layout(sketches.skeletons.table[0]).unknowns
    true = stack_columns(unknowns, decoder.cache, 128).T
    found = recover_columns(sketches.values, 64)
    assert (match_columns(true, found) > 0.95).double().mean() >= 0.99
    assert torch.allclose(found.norm(dim=0), torch.ones(64, dtype=torch.float64))
    # Refitting is what makes them exact.
    plain = recover_columns(sketches.values, 64, rounds=0)
    assert match_columns(true, found).mean() > match_columns(true, plain).mean()


def test_gaussian_attributes_are_not_claimed() -> None:
    """Without sparsity there is nothing to find: directions come out at random."""
    g = torch.Generator().manual_seed(1)
    true = torch.randn(64, 32, generator=g, dtype=torch.float64)
    s = torch.randn(512, 32, generator=g, dtype=torch.float64) @ true.T
    assert (match_columns(true, recover_columns(s, 32)) > 0.95).double().mean() < 0.2


def test_too_little_is_refused_with_what_is_needed() -> None:
    maps = BlockSparse(modules=4, size=4, dim=120)
    with pytest.raises(ValueError, match="at least 16 are needed"):
        read_signatures(torch.zeros(10, 120), maps)
    with pytest.raises(ValueError, match="sketches of 120 numbers are expected"):
        read_signatures(torch.zeros(100, 60), maps)
    with pytest.raises(ValueError, match="at least 64 are needed, 256 or more are good"):
        recover_columns(torch.zeros(20, 64), 32)
    with pytest.raises(ValueError, match="vary in fewer directions"):
        recover_columns(torch.zeros(100, 64), 32)
    with pytest.raises(ValueError, match="at least 8 are needed"):
        fit_columns(torch.zeros(4, 8), torch.zeros(4, 16))
    x = torch.randn(50, 3)
    with pytest.raises(ValueError, match="copies of others"):
        fit_columns(torch.cat([x, x[:, :1]], 1), torch.randn(50, 16))
    with pytest.raises(ValueError, match="multiple of 10, the length of a word"):
        BlockSparse(modules=4, size=4, dim=64)
    with pytest.raises(ValueError, match="q must be in"):
        BlockSparse(modules=4, size=4, dim=120, q=0.0)
