"""Laws of the operator families: norms, independence, names in words, bits of a row, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import random_dag, random_sizes

from recollect import Memory, Object, RecipeMismatch, Sketcher, Trace
from recollect.sketching import families
from recollect.sketching.families import BLOCK, columns, read_words, signature
from recollect.sketching.recipe import FAMILIES, Recipe

DENSE = [f for f in FAMILIES if f != "hadamard"]
SCHEMES = ("energy", "keyed", "paper")


@pytest.mark.parametrize("width", [64, 1024])
def test_orthogonal_columns_are_orthonormal(width: int) -> None:
    r = columns("orthogonal", 60, width, 0, "cat").astype(np.float64)
    np.testing.assert_allclose(r @ r.T, np.eye(60), atol=1e-6)


def test_gaussian_numbers_are_normal_of_variance_one_over_the_width() -> None:
    x = columns("gaussian", 64, 1024, 0, "cat").reshape(-1).astype(np.float64) * 32
    n = len(x)
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs(np.corrcoef(x[: n // 2], x[n // 2 :])[0, 1]) < 4 / (n / 2) ** 0.5


@pytest.mark.parametrize("width", [64, 1024])
def test_every_block_sparse_column_reaches_a_quarter_of_the_blocks(width: int) -> None:
    r = columns("block-sparse", 32, width, 3, "cat").reshape(32, -1, BLOCK)
    reached = (r != 0).any(2)
    assert (reached.sum(1) == max(1, width // BLOCK // 4)).all()
    assert ((r != 0).all(2) == reached).all(), "a block is a whole word or empty"
    np.testing.assert_allclose(np.square(r).sum((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("family", DENSE)
def test_columns_of_two_operators_are_strangers(family: str) -> None:
    """sqrt(W) times the rms inner product is 1, as for random directions."""
    a, b = (columns(family, 200, 1024, 0, name).astype(np.float64) for name in ("a", "b"))
    assert 0.93 < np.sqrt(np.square(a @ b.T).mean() * 1024) < 1.07


def test_words_with_names_are_no_more_alike_than_random_signs() -> None:
    """Names written plainly would make this 2 to 4 (break: let ``_codes`` return ones)."""
    r = columns("block-sparse", 200, 4096, 0, "cat").astype(np.float64)
    apart = (r @ r.T)[~np.eye(200, dtype=bool)]
    assert 0.9 < np.sqrt(np.square(apart).mean() * 4096) < 1.2


@pytest.mark.parametrize("size", [1, 7, 128])
def test_names_are_read_from_words_of_any_sign_and_amplitude(size: int) -> None:
    rng = np.random.default_rng(size)
    r = columns("block-sparse", size, 1024, 5, "attribute", "cat", 0).reshape(size, -1, BLOCK)
    place, block = np.nonzero((r != 0).any(2))
    words = r[place, block] * rng.normal(0, 3, len(place))[:, None]
    signs, read = read_words(words)
    np.testing.assert_array_equal(read, place)
    assert (signs == signature(5, "attribute", "cat", 0)).all()
    assert not (signs == signature(5, "attribute", "dog", 0)).all()


def test_a_flat_sketch_names_the_module_and_the_number_that_was_active() -> None:
    sketcher = Sketcher(dim=1024, scheme="keyed", operators="block-sparse", dtype="float32")
    sketcher.encode(Trace.from_columns({"cat": torch.ones(1, 40)}))
    active = torch.zeros(40)
    active[23] = -0.7
    blocks = sketcher.probe(Object("cat", active)).numpy().reshape(-1, BLOCK)
    signs, place = read_words(blocks[(blocks != 0).any(1)])
    assert set(place.tolist()) == {23}
    assert (signs == signature(0, "attribute", "cat", 0)).all()


def test_words_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 32 numbers, got shape \\(2, 16\\)"):
        read_words(np.ones((2, 16)))


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_does_not_depend_on_its_batch(family: str, scheme: str) -> None:
    rng = np.random.default_rng(3)
    sizes = random_sizes(rng, 5)
    trace = Trace.from_objects([random_dag(rng, int(rng.integers(1, 4)), sizes) for _ in range(5)])
    s = Sketcher(dim=192, scheme=scheme, operators=family).encode(trace)
    for i in range(len(trace)):
        alone = Sketcher(dim=192, scheme=scheme, operators=family).encode(trace[i])
        assert alone.equal(s[i])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_family_is_read_back_exactly_above_the_load(family: str, scheme: str) -> None:
    rng = np.random.default_rng(11)
    names = iter([f"module{i}" for i in range(9)])
    tops = [
        Object(next(names), rng.standard_normal(6), 0.5,
               [Object(next(names), rng.standard_normal(5), 0.5) for _ in range(2)])
        for _ in range(3)
    ]  # fmt: skip
    trace = Trace.from_objects([tops])
    sketcher = Sketcher(dim=512, scheme=scheme, operators=family, dtype="float32")
    found = sketcher.decode(sketcher.encode(trace))
    for module in trace.modules:
        true, read = trace.objects(module).attributes, found.objects(module).attributes
        torch.testing.assert_close(read, true, atol=2e-3, rtol=0)


@pytest.mark.parametrize("family", DENSE)
def test_seeds_and_paths_give_other_operators(family: str) -> None:
    one = columns(family, 4, 64, 0, "cat")
    np.testing.assert_array_equal(one, columns(family, 4, 64, 0, "cat"))
    for other in (columns(family, 4, 64, 1, "cat"), columns(family, 4, 64, 0, "dog")):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("family", DENSE)
def test_golden_values_pin_the_families(family: str) -> None:
    """A changed family cannot pass silently: raise OPERATOR_VERSION and write new values."""
    r = columns(family, 3, 64, 7, "attribute", "cat", 0)
    np.testing.assert_allclose(r @ np.arange(64), GOLDEN[family], atol=1e-4)


GOLDEN = {
    "orthogonal": [-33.05168, 17.26641, -33.93914],
    "gaussian": [-28.00203, 16.67205, -25.89787],
    "block-sparse": [3.88909, 10.6066, -23.33452],
}


def test_more_columns_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="has at most 64 columns, asked for 65"):
        columns("gaussian", 65, 64, 0)


@pytest.mark.parametrize("family", DENSE)
def test_wide_attributes_are_cut_into_blocks(family: str) -> None:
    x = torch.randn(2, 150, generator=torch.manual_seed(0))
    sketcher = Sketcher(dim=256, operators=family, dtype="float32")
    found = sketcher.decode(sketcher.encode(Trace.from_columns({"a": x})))
    torch.testing.assert_close(found.objects("a").attributes, x, atol=1e-3, rtol=0)


# -- the recipe -----------------------------------------------------------------------------


def test_families_are_part_of_the_recipe() -> None:
    trace = Trace.from_columns({"cat": torch.ones(1, 4)})
    s = Sketcher(dim=64, operators="gaussian").encode(trace)
    with pytest.raises(RecipeMismatch, match=r"two recipes differ(.|\n)*gaussian"):
        Sketcher(dim=64).decode(s)
    with pytest.raises(ValueError, match="operators must be one of 'hadamard', 'orthogonal'"):
        Sketcher(operators="magic")


def test_the_usual_family_is_not_mentioned_and_others_are() -> None:
    assert "operators" not in Recipe().to_dict()
    for family in FAMILIES:
        recipe = Recipe(operators=family)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_memory_knows_its_family(tmp_path: Path) -> None:
    trace = Trace.from_columns({"cat": torch.eye(3, 5)})
    with Memory(tmp_path / "m", Sketcher(dim=64, operators="orthogonal")) as memory:
        memory.add(trace, time="2026-01-01T00:00Z", ids=[1, 2, 3], source="a")
        kept = memory.sketches()
    with Memory(tmp_path / "m") as memory:
        assert memory.recipe.operators == "orthogonal"
        assert memory.sketcher.encode(trace).equal(kept)
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        Memory(tmp_path / "m", Sketcher(dim=64))


def test_all_families_are_named() -> None:
    assert set(families._FAMILIES) | {"hadamard"} == set(FAMILIES)
