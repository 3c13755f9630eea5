"""Recipes and module tables: what must never be guessed, and never change."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect import NotRemembered, RecipeMismatch
from recollect.sketching import ModuleTable, Recipe

recipes = st.builds(
    Recipe,
    dim=st.integers(1, 64).map(lambda n: 64 * n),
    seed=st.integers(0, 2**62),
    scheme=st.sampled_from(["energy", "keyed", "paper"]),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    slots=st.booleans(),
)


@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@given(recipes, recipes)
def test_only_the_same_recipe_passes(a: Recipe, b: Recipe) -> None:
    a.check_same(replace(a))
    if a != b:
        with pytest.raises(RecipeMismatch, match="two recipes differ") as caught:
            a.check_same(b)
        assert repr(a) in str(caught.value)
        assert repr(b) in str(caught.value)


@pytest.mark.parametrize(("dtype", "size"), [("int8", 130), ("float16", 256), ("float32", 512)])
def test_bytes_of_a_sketch(dtype: str, size: int) -> None:
    assert Recipe(dim=128, dtype=dtype).bytes == size


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"dim": 100}, ValueError, "multiple of 64, got 100"),
        ({"dim": 0}, ValueError, "dim must be at least 64"),
        ({"dim": 64.0}, TypeError, "dim must be an integer"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"scheme": "magic"}, ValueError, "scheme must be one of 'energy'"),
        ({"dtype": "int4"}, ValueError, "dtype must be one of 'int8'"),
        ({"version": 99}, RecipeMismatch, "operators of version 99"),
    ],
)
def test_a_bad_recipe_is_refused(bad: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Recipe(**bad)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Recipe().dim = 128  # type: ignore[misc]


# -- module tables --------------------------------------------------------------------------

families = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 5), st.floats(1e-3, 1e3)), max_size=8
)


def table_of(rows: list[tuple[int, int, float]]) -> ModuleTable:
    table = ModuleTable()
    for number, (size, members, scale) in enumerate(rows):
        names = [f"f{number}/{j}" for j in range(members)] if members > 1 else None
        table.add(f"f{number}", size, names, scale)
    return table


@given(families)
def test_a_table_survives_json_and_copying(rows: list[tuple[int, int, float]]) -> None:
    table = table_of(rows)
    read = ModuleTable.from_list(json.loads(json.dumps(table.to_list())))
    for other in (read, table.copy()):
        assert other.to_list() == table.to_list()
        assert other.names == table.names
    read.add("one more", 3)
    assert "one more" not in table


@given(families)
def test_ids_count_through_the_table(rows: list[tuple[int, int, float]]) -> None:
    table = table_of(rows)
    assert len(table) == len(table.names) == sum(members for _, members, _ in rows)
    for place, name in enumerate(table.names):
        assert table.id_of(name) == place
        assert table.name_of(place) == name
        entry = table.family_of(place)
        assert entry.members[place - entry.first_id] == name
        assert table[entry.name] is entry


def test_a_known_family_is_given_back_and_its_scale_stays() -> None:
    table = ModuleTable()
    first = table.add("cat", 5, scale=2.0)
    assert table.add("cat", 5, scale=3.0) is first
    assert len(table) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("cat", 6), "attributes of 5 numbers .* now they are 6"),
        (("cat", 5, ["a", "b"]), "1 members.* 5 .2.; a module's attributes keep one size"),
        (("group", 5, ["cat"]), "module 'cat' of family 'group' already has an entry"),
        (("dog", 5, None, 0.0), "scale of module 'dog' must be a positive number, got 0.0"),
        (("dog", 5, None, float("inf")), "must be a positive number, got inf"),
        (("dog", 5, None, float("nan")), "must be a positive number, got nan"),
        (("dog", 5, ["d", "d"]), "members of family 'dog' must have different names"),
        (("dog", 0), "size must be at least 1, got 0"),
    ],
)
def test_a_changed_module_is_refused_and_leaves_the_table_alone(call: tuple, words: str) -> None:
    table = ModuleTable()
    table.add("cat", 5)
    before = table.to_list()
    with pytest.raises(ValueError, match=words):
        table.add(*call)
    assert table.to_list() == before
    assert table.names == ("cat",)


def test_an_unknown_module_suggests_the_nearest() -> None:
    table = ModuleTable()
    table.add("cat", 5)
    with pytest.raises(NotRemembered, match=r"no module 'cta' .* did you mean 'cat'"):
        table.id_of("cta")
