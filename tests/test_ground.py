"""The ground: seeds, checks at the border, answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect import _checks
from recollect._answers import Z90, Answer, interval
from recollect._checks import NotRemembered, check_integer, check_one_of, unknown_name
from recollect._seeds import seed_of, signs

# -- seeds ----------------------------------------------------------------------------------

GOLDEN_SEEDS = {
    (0,): 89806688433709921,
    ("0",): 1351875808566442232,
    (7, "attribute", "layer1.conv"): 1529784784394247518,
    (7, "attribute", "layer1.conv", 3): 564830830376519707,
}

parts = st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=6))
paths = st.lists(parts, min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize(("path", "seed"), GOLDEN_SEEDS.items())
def test_a_seed_never_changes(path: tuple[int | str, ...], seed: int) -> None:
    assert seed_of(*path) == seed


def test_signs_never_change() -> None:
    drawn = signs(24, 7, "attribute", "layer1.conv")
    assert "".join("+" if s > 0 else "-" for s in drawn) == "-+----+--+---+-+++---+--"
    assert drawn.dtype == np.float32
    assert len(signs(0, 7)) == 0


@given(paths, paths)
def test_different_paths_have_different_seeds(a: tuple, b: tuple) -> None:
    assert (seed_of(*a) == seed_of(*b)) == (a == b)
    assert 0 <= seed_of(*a) < 2**63


def test_the_paths_that_confuse_a_joined_string_are_kept_apart() -> None:
    confusing = [("ab", "c"), ("a", "bc"), ("abc",), (1, 23), (12, 3), ("1", 23), (123,), ("",)]
    assert len({seed_of(*p) for p in confusing}) == len(confusing)
    # seed + 1000 * block, the mistake this exists for
    assert seed_of(0, 1) != seed_of(1000, 0)


@given(st.integers(0, 2**31 - 1))
def test_an_integer_is_the_same_seed_whatever_library_holds_it(value: int) -> None:
    assert seed_of(np.int64(value), "x") == seed_of(value, "x") == seed_of(np.uint32(value), "x")


@pytest.mark.parametrize("bad", [1.0, True, None, b"x", np.float32(1)])
def test_what_is_no_seed_part_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="integers and strings"):
        seed_of(0, bad)  # type: ignore[arg-type]


@given(st.integers(0, 300), st.integers(0, 300))
def test_fewer_signs_are_a_prefix_of_more(a: int, b: int) -> None:
    few, many = sorted((a, b))
    np.testing.assert_array_equal(signs(few, 3, "x"), signs(many, 3, "x")[:few])


def test_signs_are_balanced_and_independent() -> None:
    n = 1 << 16
    rows = np.stack([signs(n, seed, "attribute", name) for seed in (0, 1) for name in "abcd"])
    assert set(np.unique(rows)) == {-1.0, 1.0}
    products = rows @ rows.T / np.sqrt(n)
    np.testing.assert_allclose(np.diag(products), np.sqrt(n))
    # 28 pairs and 8 means of standard normal size: five deviations never happen by chance
    assert np.abs(products - np.diag(np.diag(products))).max() < 5
    assert np.abs(rows.sum(1) / np.sqrt(n)).max() < 5
    assert np.abs((rows[:, 1:] * rows[:, :-1]).sum(1) / np.sqrt(n)).max() < 5


# -- checks ---------------------------------------------------------------------------------


def test_an_integer_is_taken_from_any_library() -> None:
    assert check_integer("k", np.int32(3), minimum=1) == 3
    assert type(check_integer("k", np.int32(3), minimum=1)) is int


@pytest.mark.parametrize("bad", [1.0, "3", None, True, np.float64(2)])
def test_what_is_no_integer_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match=r"k must be an integer, got .*\(\w+\)"):
        check_integer("k", bad, minimum=0)


def test_too_small_an_integer_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 2, got 1"):
        check_integer("k", 1, minimum=2)


def test_a_choice_is_one_of_the_list() -> None:
    assert check_one_of("unit", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match="unit must be one of 'a', 'b', got 'c'"):
        check_one_of("unit", "c", ("a", "b"))


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert "did you mean 'layer1.conv2' or" in str(
        unknown_name("module", "layer1.conv", ["layer1.conv2", "layer2.conv1", "head"])
    )
    many = [f"module{i}" for i in range(12)]
    assert "and 4 more" in str(unknown_name("module", "zzz", many))
    assert "nothing has been seen yet" in str(unknown_name("module", "cat", []))


def test_the_exceptions_are_also_what_a_caller_would_catch() -> None:
    assert issubclass(NotRemembered, KeyError)
    assert issubclass(_checks.RecipeMismatch, ValueError)
    assert issubclass(_checks.CorruptMemory, OSError)
    assert issubclass(_checks.MemoryBusy, OSError)
    # KeyError would show the message in quotes
    assert str(NotRemembered("no cat")) == "no cat"
    assert str(NotRemembered()) == ""


# -- answers --------------------------------------------------------------------------------


def test_an_interval_covers_ninety_percent_of_a_normal() -> None:
    draws = np.random.default_rng(0).normal(2.0, 3.0, 200_000)
    low, high = interval(2.0, 3.0)
    assert ((draws >= low) & (draws <= high)).mean() == pytest.approx(0.9, abs=0.003)
    assert high - low == pytest.approx(2 * Z90 * 3.0)


def test_an_interval_stays_above_its_floor() -> None:
    low, high = interval([1.0, 0.0, -50.0], [2.0, np.inf, 1.0], floor=0.0)
    assert low.tolist() == [0.0, 0.0, 0.0]
    assert high[1] == np.inf
    assert high[2] == 0.0


def test_where_nothing_is_known_the_interval_is_everything() -> None:
    low, high = interval([np.nan, 1.0], [np.inf, np.inf])
    assert low.tolist() == [-np.inf, -np.inf]
    assert high.tolist() == [np.inf, np.inf]
    assert interval(np.nan, np.inf, floor=0.0)[0] == 0.0


def make_answer() -> Answer:
    return Answer(
        {
            "hour": np.array([8, 9]),
            "estimate": [np.float32(3.25), 4.0],
            "low": [3.0, float("-inf")],
            "high": [3.5, float("nan")],
            "path": [("cat", "face"), ()],
        },
        title="<cat>",
        notes=["one & all"],
    )


def test_an_answer_is_rows_and_columns() -> None:
    answer = make_answer()
    assert len(answer) == 2
    assert answer["hour"] == [8, 9]
    assert [row["estimate"] for row in answer] == [3.25, 4.0]
    assert answer.to_dict()["rows"][0]["path"] == ("cat", "face")
    assert all(type(v) is float for v in answer["estimate"])
    assert len(Answer({})) == 0


def test_an_answer_goes_to_arrow_and_pandas() -> None:
    table = make_answer().to_arrow()
    assert table.column_names == ["hour", "estimate", "low", "high", "path"]
    assert table["path"].to_pylist() == [["cat", "face"], []]
    frame = make_answer().to_pandas()
    assert frame["estimate"].tolist() == [3.25, 4.0]
    assert frame["high"].isna().tolist() == [False, True]


def test_an_answer_is_readable() -> None:
    text = repr(make_answer())
    assert text.splitlines()[0] == "<cat>"
    assert "cat / face" in text
    assert text.splitlines()[-1] == "one & all"
    long = repr(Answer({"n": range(100)}))
    assert long.endswith("... and 60 more rows")


def test_an_answer_escapes_what_it_shows_in_a_page() -> None:
    page = make_answer()._repr_html_()
    assert "<caption>&lt;cat&gt;</caption>" in page
    assert "<p>one &amp; all</p>" in page
    assert page.count("<tr>") == 3
    assert "60 more rows" in Answer({"n": range(100)})._repr_html_()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one length, got \{'a': 1, 'b': 2\}"):
        Answer({"a": [1], "b": [1, 2]})
