"""Sketches as vectors: prefixes, exact sums, joining, rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import RecipeMismatch, Sketches
from recollect.sketching import ModuleTable, Recipe, Skeletons
from recollect.sketching.sketches import FIXED_POINT_BITS, quantize

DTYPES = ["int8", "float16", "float32"]


def table_of(*names: str) -> ModuleTable:
    table = ModuleTable()
    for name in names:
        table.add(name, 3)
    return table


TABLE = table_of("eye", "cat")


def random_sketches(
    rows: int, dtype: str = "int8", seed: int = 0, table: ModuleTable = TABLE, dim: int = 64
) -> Sketches:
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    values *= 10.0 ** torch.linspace(-2, 2, rows)[:, None]
    codes, scale = quantize(values, dtype)
    skeletons = Skeletons.from_packed([bytes([0, 1, i % 2, 3]) for i in range(rows)])
    count = torch.ones(rows, dtype=torch.int64)
    return Sketches(codes, scale, count, skeletons, table, Recipe(dim=dim, dtype=dtype))


# -- rounding -------------------------------------------------------------------------------

finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=5))
def test_int8_never_clips_and_errs_by_half_a_step(rows: list[list[float]]) -> None:
    values = torch.tensor(rows, dtype=torch.float32)
    codes, scale = quantize(values, "int8")
    assert scale is not None
    assert codes.dtype == torch.int8
    assert int(codes.to(torch.int32).abs().max()) <= 127
    exact = codes.to(torch.float64) * scale.to(torch.float64)[:, None]
    error = (exact - values.to(torch.float64)).abs()
    # below the smallest normal number there is no relative precision left to ask for
    assert bool((error <= 0.5 * scale.to(torch.float64)[:, None] * 1.0001 + 1e-38).all())


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_scale_is_the_next_bfloat16(top: float) -> None:
    _, scale = quantize(torch.tensor([[top, 0.0]]), "int8")
    assert scale is not None
    assert torch.equal(scale, scale.to(torch.bfloat16).to(torch.float32))
    needed = float(np.float32(top) / np.float32(127))
    assert needed <= float(scale) <= needed * (1 + 2**-7)


def test_a_row_of_zeros_stays_zero() -> None:
    codes, scale = quantize(torch.zeros(2, 8), "int8")
    assert scale is not None
    assert not codes.any()
    assert scale.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_row_wise(dtype: str) -> None:
    values = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    whole, scales = quantize(values, dtype)
    for i in range(7):
        one, scale = quantize(values[i : i + 1], dtype)
        assert torch.equal(one[0], whole[i])
        if scales is not None and scale is not None:
            assert torch.equal(scale[0], scales[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_what_was_rounded_changes_nothing(dtype: str) -> None:
    s = random_sketches(5, dtype)
    codes, scale = quantize(s.values, dtype)
    again = (codes.float() if scale is None else codes.float() * scale[:, None]).to(torch.float32)
    torch.testing.assert_close(again, s.values, rtol=0.01 if dtype == "int8" else 0, atol=0.01)


def test_a_number_beyond_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beyond float16 .65504.; give the Sketcher scales"):
        quantize(torch.tensor([[1e5, 0.0]]), "float16")


# -- prefixes and rows ----------------------------------------------------------------------


@given(st.integers(1, 64), st.sampled_from(DTYPES))
def test_a_prefix_is_the_first_numbers(dim: int, dtype: str) -> None:
    s = random_sketches(4, dtype)
    coarse = s.prefix(dim)
    assert coarse.dim == dim
    assert torch.equal(coarse.values, s.values[:, :dim])
    assert coarse.prefix(1).equal(s.prefix(1))
    assert s.prefix(64).equal(s)
    # fading and adding may be done in either order
    assert s.sum().prefix(dim).equal(coarse.sum())


@pytest.mark.parametrize("bad", [0, 65])
def test_no_prefix_of_nothing_or_too_much(bad: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1, got 0|65 numbers is asked of sketches"):
        random_sketches(2).prefix(bad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_chosen_like_those_of_an_array(dtype: str) -> None:
    s = random_sketches(6, dtype)
    for index in (2, -1, slice(1, 5, 2), [4, 0, 4], np.array([3])):
        chosen = s[index]
        rows = np.atleast_1d(np.arange(6)[index])
        assert torch.equal(chosen.values, s.values[torch.from_numpy(rows)])
        assert chosen.skeletons is not None
        assert s.skeletons is not None
        assert chosen.skeletons.packed() == [s.skeletons.packed()[r] for r in rows]
    with pytest.raises(IndexError):
        _ = s[6]


# -- sums -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.permutations(range(9)), st.integers(1, 8), st.sampled_from(DTYPES))
def test_a_sum_has_the_same_bits_in_any_order_and_grouping(
    order: list[int], cut: int, dtype: str
) -> None:
    s = random_sketches(9, dtype)
    total = s.sum()
    shuffled = s[order]
    assert shuffled.sum().equal(total)
    assert (shuffled[:cut].sum() + shuffled[cut:].sum()).equal(total)
    assert Sketches.concat([shuffled[:cut].sum(), shuffled[cut:]]).sum().equal(total)
    assert total.count.tolist() == [9]
    assert total.skeletons is None
    assert total.is_sum
    assert total.sum().equal(total)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_the_sum(dtype: str) -> None:
    s = random_sketches(50, dtype)
    exact = s.values.to(torch.float64).sum(0)
    got = s.sum().codes[0].to(torch.float64) * 2.0**-FIXED_POINT_BITS
    torch.testing.assert_close(got, exact, rtol=0, atol=50 * 2.0 ** -(FIXED_POINT_BITS + 1))


def test_an_int8_sketch_is_exact_in_fixed_point() -> None:
    s = random_sketches(8)
    back = s.fixed_point().to(torch.float64) * 2.0**-FIXED_POINT_BITS
    assert s.scale is not None
    assert torch.equal(back, s.codes.double() * s.scale.double()[:, None])


def test_addition_is_row_by_row() -> None:
    s = random_sketches(4)
    both = s + s
    assert torch.equal(both.codes, 2 * s.fixed_point())
    assert both.count.tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="4 and 3 sketches cannot be added row by row"):
        _ = s + s[:3]


def test_a_sum_of_nothing_is_zero() -> None:
    empty = random_sketches(3)[:0]
    assert empty.sum().count.tolist() == [0]
    assert not empty.sum().codes.any()


@pytest.mark.parametrize("value", [3e9, 1e30])
def test_what_does_not_fit_the_fixed_point_is_refused(value: float) -> None:
    s = random_sketches(1, "float32")
    large = Sketches(
        torch.full_like(s.codes, value), None, s.count, s.skeletons, s.modules, s.recipe
    )
    with pytest.raises(ValueError, match="too large to be added exactly"):
        large.sum()


def test_a_sum_that_would_run_over_is_refused() -> None:
    s = random_sketches(1, "float32")
    rows = Sketches(
        torch.full((4, 64), 1e9), None, torch.ones(4, dtype=torch.int64), None, TABLE, s.recipe
    )
    with pytest.raises(ValueError, match="too large to be added exactly"):
        rows.sum()
    half = rows[:2].sum()
    with pytest.raises(ValueError, match="too large to be added exactly"):
        _ = half + half


# -- joining --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_joining_undoes_cutting(dtype: str) -> None:
    s = random_sketches(7, dtype)
    joined = Sketches.concat([s[:3], s[3:4], s[4:]])
    assert joined.equal(s)
    assert joined.skeletons is not None
    assert s.skeletons is not None
    assert joined.skeletons.packed() == s.skeletons.packed()


def test_joining_takes_the_table_that_goes_on() -> None:
    longer = table_of("eye", "cat", "dog")
    a, b = random_sketches(2), random_sketches(2, table=longer)
    assert Sketches.concat([a, b]).modules is longer
    assert Sketches.concat([b, a]).modules is longer
    assert (a + b).modules is longer


def test_what_does_not_belong_together_is_refused() -> None:
    s = random_sketches(2)
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        _ = s + random_sketches(2, "float32")
    with pytest.raises(ValueError, match="sketches of 64 and 32 numbers cannot be mixed"):
        Sketches.concat([s, s.prefix(32)])
    with pytest.raises(ValueError, match="different module tables"):
        _ = s + random_sketches(2, table=table_of("dog"))
    with pytest.raises(ValueError, match="at least one part, got none"):
        Sketches.concat([])


def test_equal_means_equal_bits_of_one_recipe() -> None:
    s = random_sketches(3)
    assert s.equal(s[:])
    assert not s.equal(s[[0, 1, 1]])
    assert not s.equal(s.sum())
    assert not s.equal(random_sketches(3, "float16"))


def test_sketches_say_what_they_are() -> None:
    s = random_sketches(3)
    assert repr(s) == "Sketches(3 of 64 int8 numbers, energy, seed 0)"
    assert repr(s.sum()) == "Sketches(1 of 64 summed numbers, energy, seed 0)"
    assert s.cpu().equal(s)
