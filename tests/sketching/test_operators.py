"""Laws of the operators: orthogonal, independent, usable by prefix, pinned by golden values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.sketching.operators import Operators, hadamard
from recollect.sketching.recipe import Recipe


def sylvester(width: int) -> torch.Tensor:
    """The Hadamard matrix by its definition, orthonormal."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < width:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h * width**-0.5


def attribute_matrix(op: Operators, size: int, module: str = "cat") -> torch.Tensor:
    z = torch.zeros(size, op.width)
    op.spread(torch.eye(size), (module,), z)
    return z


@pytest.mark.parametrize("width", [1, 2, 4, 16, 32, 64, 256, 1024])
def test_hadamard_is_sylvesters_matrix_and_its_own_inverse(width: int) -> None:
    x = torch.randn(5, width, generator=torch.manual_seed(0))
    y = hadamard(x)
    torch.testing.assert_close(y.double(), x.double() @ sylvester(width), atol=1e-5, rtol=0)
    torch.testing.assert_close(hadamard(y), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 100, 256])
def test_attribute_columns_are_orthonormal(size: int) -> None:
    z = attribute_matrix(Operators(Recipe(dim=256)), size)
    torch.testing.assert_close(z @ z.T, torch.eye(size), atol=1e-5, rtol=0)


def test_wide_attributes_are_cut_into_blocks_with_operators_of_their_own() -> None:
    z = attribute_matrix(Operators(Recipe(dim=64)), 150)
    for block in (z[:64], z[64:128], z[128:]):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)
    rms = float((z[:64] @ z[64:128].T).square().mean().sqrt())
    assert 0.8 / 8 < rms < 1.2 / 8


def test_mixing_is_orthogonal_and_differs_by_module() -> None:
    op = Operators(Recipe(dim=512))
    z = torch.randn(2, 512, generator=torch.manual_seed(1))
    a, b = op.mix(z, [("a",), ("a",)]), op.mix(z, [("b",), ("b",)])
    torch.testing.assert_close(a @ a.T, z @ z.T, atol=1e-3, rtol=0)
    for mixed in (a, b):
        assert abs(float((mixed[0] * z[0]).sum() / z[0].square().sum())) < 5 * 512**-0.5
    assert abs(float((a[0] * b[0]).sum() / z[0].square().sum())) < 5 * 512**-0.5


@pytest.mark.parametrize("size", [5, 64, 700])
def test_modules_interfere_like_random_vectors(size: int) -> None:
    """sqrt(d) times the rms inner product of two modules' columns is 1, as for Gaussian ones."""
    op = Operators(Recipe(dim=1024))
    a = op.leave(attribute_matrix(op, size, "a"))
    others = [op.leave(attribute_matrix(op, size, f"b{i}")) for i in range(1 + 200 // size)]
    rms = float(torch.stack([a @ b.T for b in others]).square().mean().sqrt()) * 1024**0.5
    assert 0.9 < rms < 1.1


@pytest.mark.parametrize(
    ("sizes", "dim"),
    [((128,) * 5, 1024), ((300, 300), 1024), ((100, 100), 256), ((16, 32, 64, 48, 24, 64), 512)],
)
def test_modules_share_no_direction_below_the_load(sizes: tuple[int, ...], dim: int) -> None:
    for seed in range(4):
        op = Operators(Recipe(dim=dim, seed=seed))
        parts = [attribute_matrix(op, m, f"module{i}") for i, m in enumerate(sizes)]
        a = op.leave(torch.cat(parts)).double()
        assert float(torch.linalg.eigvalsh(a @ a.T)[0]) > 1e-3


@pytest.mark.parametrize("kept", [64, 192, 256, 512])
def test_any_prefix_keeps_its_share_of_every_column(kept: int) -> None:
    op = Operators(Recipe(dim=1024))
    rows = op.leave(attribute_matrix(op, 300))[:, :kept]
    share = rows.square().sum(1) * 1024 / kept
    assert abs(float(share.mean()) - 1) < 0.05
    assert float(share.min()) > 0.4
    assert float(share.max()) < 1.9


def test_dim_below_the_working_width_keeps_the_norm_on_average() -> None:
    op = Operators(Recipe(dim=640))
    norms = op.leave(attribute_matrix(op, 200)).square().sum(1)
    assert abs(float(norms.mean()) - 1) < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 1000))
def test_spreading_is_row_wise_to_the_last_bit(size: int, rows: int, seed: int) -> None:
    op = Operators(Recipe(dim=64))
    x = torch.randn(rows, size, generator=torch.manual_seed(seed))
    whole = torch.zeros(rows, 64)
    op.spread(x, ("cat",), whole)
    for i in range(rows):
        one = torch.zeros(1, 64)
        op.spread(x[i : i + 1], ("cat",), one)
        assert torch.equal(one[0], whole[i])
        assert torch.equal(op.leave(one)[0], op.leave(whole)[i])


def test_seeds_and_modules_give_other_operators() -> None:
    one = attribute_matrix(Operators(Recipe(dim=64, seed=0)), 4)
    assert not torch.equal(one, attribute_matrix(Operators(Recipe(dim=64, seed=1)), 4))
    assert not torch.equal(one, attribute_matrix(Operators(Recipe(dim=64, seed=0)), 4, "dog"))


def test_golden_values_pin_the_operators() -> None:
    """A changed operator cannot pass silently: raise OPERATOR_VERSION and write new values."""
    op = Operators(Recipe(dim=64, seed=7))
    x = torch.arange(1.0, 6.0)[None]
    z = torch.zeros(1, 64)
    op.spread(x, ("cat",), z)
    sketch = op.leave(op.mix(z, [("room",)]))
    expected = GOLDEN
    np.testing.assert_allclose(sketch[0, :8].numpy(), expected, atol=1e-5)


GOLDEN = [0.0625, 0.875, 1.1875, 0.25, 0.3125, -0.625, 0.0625, -0.4375]
