"""Directions along which a few glances stand out: found in any light, not invented by tails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recollect import Memory, Sketcher, Trace, recall
from recollect.recall import compared
from recollect.recall.pursuit import _gumbel, directions_of, highest, leading
from recollect.recall.recurring import links_to_earlier, rounded, told_apart
from recollect.studies.planted import plant

HOUR = 3_600_000_000
BEGIN = 1_767_225_600_000_000
Make = Callable[[np.random.Generator, int], np.ndarray]


def lights(rng: np.random.Generator, n: int, d: int = 48) -> np.ndarray:
    """Day and night, brightness, and noise: what all glances have more or less of."""
    night = (rng.random((n, 1)) < 0.6) * rng.standard_normal((1, d)) * 3
    return (
        night
        + rng.standard_normal((n, 2)) @ rng.standard_normal((2, d)) * 2
        + (0.3 * rng.standard_normal((n, d)))
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_thing_that_few_glances_share_is_found_in_any_light(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = lights(rng, 100)
    own = np.sort(rng.permutation(100)[:8])
    x[own] += rng.uniform(0.6, 1.4, (8, 1)) * rng.standard_normal(48)
    x -= x.mean(0)
    found = directions_of(x, 5, 0.01, seed)
    assert found[0].has(x)[own].sum() >= 7
    assert found[0].has(x).sum() <= 10
    # As wholes they are no more alike than others of their light.
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T), axis=1)[own, 1]
    assert np.isin(nearest, own).mean() < 0.7


@pytest.mark.parametrize(
    "make",
    [
        lights,
        lambda rng, n: rng.standard_normal((n, 40)) / np.arange(1, 41),
        lambda rng, n: rng.standard_t(3, (n, 1)) * rng.standard_normal((n, 40)),
        lambda rng, n: rng.standard_exponential((n, 4)) @ rng.standard_normal((4, 40)),
    ],
    ids=["lights", "normal", "unusual glances", "exponential tails"],
)
def test_nothing_is_invented(make: Make) -> None:
    found = 0
    for seed in range(3):
        x = make(np.random.default_rng(seed), 90)
        found += len(directions_of(x - x.mean(0), 5, 0.01, seed))
    assert found == 0


def test_the_climb_reaches_what_all_directions_reach() -> None:
    """Against a fine fan of directions in the plane."""
    for seed in range(4):
        z = np.random.default_rng(seed).standard_normal((60, 2))
        height, direction = highest(z, 5)
        angle = np.linspace(0, 2 * np.pi, 4000)
        fan = np.sort(z @ np.stack([np.cos(angle), np.sin(angle)]), axis=0)[-5]
        assert np.linalg.norm(direction) == pytest.approx(1.0)
        assert np.sort(z @ direction)[-5] == pytest.approx(height)
        assert 0.97 * fan.max() <= height <= fan.max() + 1e-3


def test_weak_components_beside_strong_ones_are_counted_in_the_second_way() -> None:
    rng = np.random.default_rng(0)
    strong = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 60)) * 10
    weak = rng.standard_normal((200, 1)) @ rng.standard_normal((1, 60))
    axes, ranks = leading(strong + weak + 0.3 * rng.standard_normal((200, 60)), 0)
    assert ranks == [2, 3]
    assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-8)
    assert leading(rng.standard_normal((200, 60)), 0)[1] == []


def test_the_level_is_the_quantile_of_the_largest() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.gumbel(5.0, 0.4, (4000, 1))
    level = _gumbel(drawn, 0.01)[0]
    assert (rng.gumbel(5.0, 0.4, 200_000) > level).mean() == pytest.approx(0.01, abs=0.002)


# -- in a memory ----------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path: object) -> Memory:
    """A static network that sees a rare thing, by night and by day."""
    rng = np.random.default_rng(3)
    n = 120
    code = np.c_[rng.random((n, 1)) < 0.5, rng.standard_normal((n, 2))]
    code = np.c_[code * [6.0, 3.0, 2.0], np.zeros(n)]
    own = np.array([20, 41, 57, 60, 88, 93, 110])
    code[own, 3] = rng.uniform(2.5, 4.0, len(own))
    columns = {
        name: (code @ rng.standard_normal((4, 30)) + 0.3 * rng.standard_normal((n, 30))).astype(
            np.float32
        )
        for name in ("one", "two", "three")
    }
    with Memory(f"{tmp_path}/street", Sketcher(dim=256)) as memory:
        memory.add(Trace.from_columns(columns), [BEGIN + HOUR * i for i in range(n)], ids=range(n))
        yield memory


OWN = [20, 41, 57, 60, 88, 93, 110]


def test_what_is_shared_in_part_gets_a_name_and_is_counted(street: Memory) -> None:
    assert len(recall.emerging(street, by="day")) == 0
    found = recall.emerging(street, by="day", alike="part")
    assert found.alike == "part"
    concept = found["concept"][0]
    assert found.members(concept) == OWN
    assert found.history["event"][0] == "born"
    assert found.history["window"][0] == "2026-01-04"  # of the fifth, the 88th hour
    recall.name(street, concept, "the rare thing", found)
    count = recall.count(street, "the rare thing")
    assert count["low"][0] <= len(OWN) <= count["high"][0]
    again = recall.emerging(street, by="day", alike="part")
    assert again.columns == found.columns


def test_more_glances_than_are_compared_follow_those_that_are(
    street: Memory, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "MOST", 110)
    monkeypatch.setattr(compared, "TOGETHER", 16)
    found = recall.emerging(street, alike="part")
    assert set(found.members(found["concept"][0])) >= set(OWN[:-1])
    assert any("110 glances, drawn at random, were compared each" in n for n in found.notes)
    by_module = recall.emerging(street, module="two", alike="part")
    assert any("objects, drawn at random" in n for n in by_module.notes)
    assert set(by_module.members(by_module["concept"][0])) >= set(OWN[:-1])
    world = plant(4, compounds=3, each=40, background=300)
    monkeypatch.setattr(compared, "MOST", 300)
    n = len(world.trace)
    with Memory(f"{tmp_path}/m", Sketcher(dim=256)) as memory:
        memory.add(world.trace, [BEGIN + HOUR * i for i in range(n)], ids=range(n))
        found = recall.emerging(memory)
    assert len(found) == 3
    for concept in found["concept"]:
        kinds = np.bincount(world.compound[found.members(concept)] + 1, minlength=4)
        assert kinds.max() >= 38
        assert kinds.sum() - kinds.max() <= 1
    assert sum(found["share"]) == pytest.approx(sum(found["glances"]) / n)


def test_further_vectors_go_to_the_group_that_they_are_like() -> None:
    rng = np.random.default_rng(0)
    x = np.r_[np.eye(8)[0] + 0.1 * rng.standard_normal((9, 8)),
              np.eye(8)[1] + 0.1 * rng.standard_normal((9, 8))]  # fmt: skip
    groups = [np.arange(9), np.arange(9, 18)]
    more = rounded(np.r_[np.eye(8)[:3], -np.eye(8)[:1], np.eye(8)[:1] + np.eye(8)[1:2]])
    told = told_apart(more, rounded(x), groups, 5, np.full(18, 0.8))
    assert told.tolist() == [[True, False], [False, True], *[[False, False]] * 3]
    assert links_to_earlier(rounded(x)).count == 18
    assert told_apart(more, rounded(x), [], 5, np.full(18, 0.8)).shape == (5, 0)


def test_how_glances_are_alike_is_one_of_two_words(street: Memory) -> None:
    with pytest.raises(ValueError, match="alike must be one of 'whole', 'part'"):
        recall.emerging(street, alike="half")
