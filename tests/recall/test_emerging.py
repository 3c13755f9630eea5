"""Emerging concepts: planted ones are found, none is invented, names are counted honestly."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from recollect import Memory, Object, Sketcher, Trace, recall
from recollect._checks import CorruptMemory, NotRemembered
from recollect.recall.chance import expected_by_chance, fewest_members
from recollect.recall.lineages import ends_of, lineages_of
from recollect.recall.recurring import groups_of, links_to_earlier, nearest_among, rounded
from recollect.studies.planted import Planted, plant

HOUR = 3_600_000_000
BEGIN = 1_767_225_600_000_000  # 2026-01-01, UTC


def remember(path: object, world: Planted, **options: object) -> Memory:
    memory = Memory(str(path), Sketcher(dim=256), **options)  # type: ignore[arg-type]
    n = len(world.trace)
    memory.add(world.trace, [BEGIN + 2 * HOUR * i for i in range(n)], "hall", ids=range(n))
    return memory


@pytest.fixture(scope="module")
def world() -> Planted:
    return plant(3)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, world: Planted) -> Iterator[Memory]:
    with remember(tmp_path_factory.mktemp("planted") / "m", world) as made:
        yield made


@pytest.fixture(scope="module")
def found(memory: Memory) -> recall.Emerging:
    return recall.emerging(memory)


# -- groups -----------------------------------------------------------------------------------


def test_links_are_the_best_earlier_ones() -> None:
    codes = rounded(np.random.default_rng(0).normal(size=(60, 16)))
    links = links_to_earlier(codes, keep=5)
    x = codes.astype(float)
    cosine = x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
    for i in (1, 3, 20, 59):
        best = np.sort(cosine[i, :i])[::-1][:5]
        np.testing.assert_allclose(np.sort(links.cosine[links.late == i])[::-1], best, atol=1e-6)
    np.testing.assert_allclose(
        nearest_among(codes[:7], codes[7:], 3), -np.sort(-cosine[:7, 7:])[:, :3], atol=1e-6
    )


def test_what_was_known_of_the_first_stays_known() -> None:
    codes = rounded(np.random.default_rng(1).normal(size=(50, 8)))
    first, whole = links_to_earlier(codes[:30]), links_to_earlier(codes).up_to(30)
    np.testing.assert_array_equal(first.early, whole.early)
    np.testing.assert_array_equal(first.cosine, whole.cosine)


def test_two_hills_stay_apart_by_their_prominence() -> None:
    angle = np.r_[
        np.linspace(-0.02, 0.02, 6), np.linspace(0.05, 0.55, 6), 0.6 + np.linspace(-0.02, 0.02, 6)
    ]
    codes = rounded(np.c_[np.cos(angle), np.sin(angle)])
    links, low = links_to_earlier(codes), np.full(len(angle), 0.9)
    apart = groups_of(links, 4, low, prominence=1e-3)
    assert apart[0] != apart[-1]
    assert set(groups_of(links, 4, low, prominence=0.2).tolist()) == {0}


def test_a_group_needs_its_members() -> None:
    codes = rounded(np.eye(8)[[0, 0, 0, 0, 1, 1, 1, 2]])
    links = links_to_earlier(codes)
    found = groups_of(links, 4, np.full(8, 0.5), 0.1)
    assert found.tolist() == [0] * 4 + [-1] * 4


@pytest.mark.parametrize("glances", [80, 900, 20_000])
def test_the_chance_of_a_group_is_that_of_a_poisson_tail(glances: int) -> None:
    from math import exp, factorial

    m = fewest_members(glances, 0.01)
    mean = expected_by_chance(glances, m, 0.01)
    tail = 1 - sum(exp(-mean) * mean**k / factorial(k) for k in range(m - 1))
    assert tail == pytest.approx(0.01 / glances, rel=1e-3)


# -- lineages ---------------------------------------------------------------------------------


def test_groups_are_born_merged_and_retired() -> None:
    rng = np.random.default_rng(0)
    a, b = np.eye(6)[0], np.eye(6)[1]

    def near(x: np.ndarray) -> np.ndarray:
        return x + 0.02 * rng.normal(size=6)

    one = [near(a) for _ in range(10)] + [near(b) for _ in range(8)]
    between = [near(np.cos(t) * a + np.sin(t) * b) for t in np.linspace(0, np.pi / 2, 60)]
    rest = list(rng.normal(size=(400, 6)) * [0, 0, 1, 1, 1, 1])
    codes = rounded(np.array(one + between + rest))
    links, n = links_to_earlier(codes), len(codes)
    ends = [("one", 18), ("two", 78), ("three", n)]
    high = np.r_[np.full(78, 0.95), np.full(400, 1.1)]
    lines = lineages_of(links, 5, high, 0.05, ends, np.arange(n))
    kinds = [(e.window, e.kind) for line in lines for e in line.events]
    assert kinds == [("one", "born"), ("three", "retired"), ("one", "born"), ("two", "merged")]
    assert lines[1].events[-1].other == lines[0].name
    assert not lines[1].alive


def test_weeks_begin_on_monday_in_the_zone_of_the_calendar() -> None:
    sunday = 4 * 24 * HOUR - HOUR // 2  # 1970-01-04, 23:30 UTC, a Sunday
    assert ends_of(np.array([sunday]), "week", "UTC") == [("1969-12-29", 1)]
    assert ends_of(np.array([sunday]), "week", "Europe/Berlin") == [("1970-01-05", 1)]
    assert ends_of(np.array([0, sunday]), "month", "UTC") == [("1970-01-01", 2)]


# -- planted compounds ------------------------------------------------------------------------


def test_all_planted_compounds_are_found(found: recall.Emerging, world: Planted) -> None:
    assert len(found) == 6
    for row in found:
        kinds = world.compound[found.members(row["concept"])]
        assert len(set(kinds.tolist())) == 1
        assert kinds[0] >= 0
        assert len(kinds) >= 48
        assert row["made_of"] == " + ".join(world.made_of[kinds[0]])
    assert len({world.compound[found.members(c)[0]] for c in found["concept"]}) == 6


def test_it_is_the_same_when_asked_again(found: recall.Emerging, memory: Memory) -> None:
    again = recall.emerging(memory)
    assert again.columns == found.columns
    assert again.history.columns == found.history.columns


def test_another_seed_finds_the_same(found: recall.Emerging, memory: Memory) -> None:
    other = recall.emerging(memory, seed=1)
    sets = [sorted(sorted(f.members(c)) for c in f["concept"]) for f in (found, other)]
    shared = [max(len(set(a) & set(b)) / len(set(a) | set(b)) for b in sets[1]) for a in sets[0]]
    assert len(found) == len(other)
    assert min(shared) > 0.95


@pytest.mark.parametrize("seed", [11, 12])
def test_nothing_is_invented(tmp_path: object, seed: int) -> None:
    none = plant(seed, compounds=0, background=500)
    with remember(f"{tmp_path}/m", none) as memory:
        assert recall.emerging(memory)["concept"] == []


def test_a_concept_that_begins_is_new_and_one_that_ends_is_retired(tmp_path: object) -> None:
    world = plant(5, compounds=2, each=30, background=340)
    early = np.flatnonzero(world.compound == 0)
    late = np.flatnonzero(world.compound == 1)
    rest = np.flatnonzero(world.compound < 0)
    order = np.r_[rng_mix(early, rest[:170], 0), rng_mix(late, rest[170:], 1)]
    with Memory(f"{tmp_path}/m", Sketcher(dim=256)) as memory:
        memory.add(world.trace[order], [BEGIN + 2 * HOUR * i for i in range(400)], ids=order)
        found = recall.emerging(memory)
    state = {int(world.compound[found.members(r["concept"])[0]]): r["state"] for r in found}
    assert state == {0: "retired", 1: "new"}
    events = [
        (r["event"], int(world.compound[found.members(r["concept"])[0]])) for r in found.history
    ]
    assert sorted(events) == [("born", 0), ("born", 1), ("retired", 0)]


def rng_mix(a: np.ndarray, b: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.r_[a, b])


def test_the_objects_of_one_module_are_grouped_with_their_inputs(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    shown = rng.normal(0, 1, (2, 24))

    def scene(i: int) -> list[Object]:
        kind = i % 4  # two kinds of cat, told by the face
        face = shown[kind] if kind < 2 else rng.normal(0, 1, 24)
        own = Object("face", face + rng.normal(0, 0.2, 24))
        return [
            Object("cat", rng.normal(0, 0.3, 3), inputs=[own]),
            Object("dog", rng.normal(size=3)),
        ]

    t = Trace.from_objects([scene(i) for i in range(240)])
    with Memory(f"{tmp_path}/m", Sketcher(dim=256)) as memory:
        memory.add(t, [BEGIN + HOUR * i for i in range(240)], ids=range(240))
        found = recall.emerging(memory, module="cat")
    kinds = [np.bincount(np.array(found.members(c)) % 4, minlength=4) for c in found["concept"]]
    assert {int(k.argmax()) for k in kinds} >= {0, 1}
    for k in kinds:
        assert k.max() >= 0.9 * k.sum()


# -- names ------------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: object, world: Planted) -> Iterator[Memory]:
    with remember(f"{tmp_path}/m", world) as memory:
        yield memory


def test_a_named_concept_is_counted_like_a_module(named: Memory, world: Planted) -> None:
    few = np.flatnonzero(world.compound == 2)[:12].tolist()
    recall.name(named, few, "parcel on the mat")
    whole = recall.count(named, "parcel on the mat")
    assert whole["low"][0] <= 50 <= whole["high"][0]
    assert abs(whole["estimate"][0] - 50) < 2
    months = recall.count(named, "parcel on the mat", by="month", unit="glances")
    times = BEGIN + 2 * HOUR * np.flatnonzero(world.compound == 2)
    truth = np.bincount(
        times.astype("datetime64[us]").astype("datetime64[M]").astype(int) - 672,
        minlength=len(months),
    )
    assert np.abs(np.array(months["estimate"]) - truth).max() < 1.5
    assert named.info()["concepts"] == ["parcel on the mat"]


def test_a_name_after_few_examples_says_what_it_may_miss(named: Memory, world: Planted) -> None:
    own = np.flatnonzero(world.compound == 2).tolist()
    for count, said in ((5, True), (10, False)):
        recall.name(named, own[:count], f"after {count}")
        notes = " ".join(recall.count(named, f"after {count}").notes)
        assert ("fewer than 10 examples" in notes) is said


def test_intervals_of_hard_concepts_hold(tmp_path: object) -> None:
    inside = []
    for seed in range(3):
        world = plant(20 + seed, compounds=3, each=60, background=600, own_noise=0.6)
        hours = np.random.default_rng(seed).integers(0, 24, len(world.trace))
        with Memory(f"{tmp_path}/{seed}", Sketcher(dim=128)) as memory:
            memory.add(
                world.trace, BEGIN + HOUR * hours + np.arange(len(hours)), ids=range(len(hours))
            )
            for kind in range(3):
                own = world.compound == kind
                recall.name(memory, np.flatnonzero(own)[:20].tolist(), f"kind {kind}")
                got = recall.count(memory, f"kind {kind}", by="hour_of_day")
                truth = np.bincount(hours[own], minlength=24)
                inside += ((truth >= got["low"]) & (truth <= got["high"])).tolist()
    # Nine concepts by 24 hours; counts are whole, so more than 90 % is no fault.
    assert np.mean(inside) > 0.84


def test_names_are_kept_renamed_and_forgotten(tmp_path: object, world: Planted) -> None:
    with remember(f"{tmp_path}/m", world) as memory:
        found = recall.emerging(memory)
        kept = recall.name(memory, found["concept"][0], "first", found)
        assert kept.origin.startswith(found["concept"][0])
        recall.name(memory, found["concept"][1], "second", found)
        before = recall.count(memory, "first")["estimate"]
        reader = Memory(f"{tmp_path}/m", read_only=True)
        assert reader.concepts.names == ["first", "second"]
        assert recall.count(reader, "first")["estimate"] == before
        memory.concepts.rename("first", "the first")
        assert reader.concepts.names == ["the first", "second"]
        memory.concepts.forget("second")
        assert recall.count(memory, "the first")["estimate"] == before
    assert Memory(f"{tmp_path}/m").concepts.names == ["the first"]


def test_a_faded_past_is_counted_with_fewer_numbers(tmp_path: object, world: Planted) -> None:
    n = len(world.trace)
    with Memory(f"{tmp_path}/m", Sketcher(dim=256)) as memory:
        memory.add(world.trace, [BEGIN + HOUR * i for i in range(n)], ids=range(n))
        recall.name(memory, np.flatnonzero(world.compound == 1).tolist()[:15], "compound")
        # Half of the time keeps 128 numbers only.
        memory.fade(now="2026-02-20T00:00Z", policy="full for 30 days, 128 dims for ever")
        assert min(memory.kept(range(n))) == 128
        got = recall.count(memory, "compound")
    assert got["low"][0] <= 50 <= got["high"][0]


def test_a_writer_killed_while_naming_leaves_the_old_names(named: Memory, world: Planted) -> None:
    own = np.flatnonzero(world.compound == 0)[:10].tolist()
    recall.name(named, own, "kept")
    path = named.path / "concepts.npz"
    whole = path.read_bytes()
    path.with_name("concepts.npz.part").write_bytes(whole[:100])
    named.close()
    with Memory(named.path) as again:
        assert again.concepts.names == ["kept"]
        again.concepts.rename("kept", "still")  # a writer clears what was left behind
    assert not path.with_name("concepts.npz.part").exists()
    path.write_bytes(whole[:-50])
    with pytest.raises(CorruptMemory, match="the names that were given are lost"):
        _ = Memory(named.path).concepts.names
    os.remove(path)
    assert Memory(named.path).concepts.names == []


# -- refusals ---------------------------------------------------------------------------------


def test_what_cannot_be_found_is_refused(memory: Memory, found: recall.Emerging) -> None:
    with pytest.raises(NotRemembered, match="no module 'module/99'"):
        recall.emerging(memory, module="module/99")
    with pytest.raises(NotRemembered, match="no glance is chosen"):
        recall.emerging(memory, where="source = 'attic'")
    with pytest.raises(ValueError, match="by must be one of 'day', 'week', 'month'"):
        recall.emerging(memory, by="year")
    with pytest.raises(ValueError, match="chance is a probability"):
        recall.emerging(memory, chance=1.5)
    with pytest.raises(ValueError, match="at_least must be at least 3"):
        recall.emerging(memory, at_least=2)
    with pytest.raises(ValueError, match="cannot be told from chance; say at_least=10"):
        recall.emerging(memory, at_least=3)
    with pytest.raises(ValueError, match="too few to find"):
        recall.emerging(memory, until="2026-01-01T12:00Z")
    with pytest.raises(ValueError, match="within must be one of"):
        recall.emerging(memory, within="camera")
    with pytest.raises(NotRemembered, match="no emerging concept 'concept-x'"):
        found.members("concept-x")


def test_without_records_and_skeletons_chance_cannot_be_told(tmp_path: object) -> None:
    world = plant(1, compounds=0, background=40)
    with (
        remember(f"{tmp_path}/m", world, reservoir=0, keep_skeletons=False) as memory,
        pytest.raises(ValueError, match="keeps neither; make it with"),
    ):
        recall.emerging(memory)


def test_bad_names_are_refused(named: Memory, found: recall.Emerging) -> None:
    with pytest.raises(ValueError, match="3 glances or more, got 2"):
        recall.name(named, [1, 2], "two")
    with pytest.raises(NotRemembered, match="no glance has the id 123456"):
        recall.name(named, [1, 2, 123456], "gone")
    with pytest.raises(TypeError, match="give the answer too"):
        recall.name(named, found["concept"][0], "x")
    with pytest.raises(ValueError, match="is the name of a module"):
        recall.name(named, found["concept"][0], "module/1", found)
    with pytest.raises(ValueError, match="a text that is not empty"):
        recall.name(named, found["concept"][0], " ", found)
    recall.name(named, found["concept"][0], "once", found)
    with pytest.raises(ValueError, match="there is a concept 'once' already"):
        recall.name(named, found["concept"][1], "once", found)
    with pytest.raises(ValueError, match="it has no weights"):
        recall.count(named, "once", unit="weight")
    with pytest.raises(NotRemembered, match="no concept 'onec'"):
        named.concepts.forget("onec")
    with pytest.raises(NotRemembered, match="no module 'twice'"):
        recall.count(named, "twice")
