"""Named concepts come over with a merge, and a name never comes to mean two things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recollect import Memory, Object, Sketcher, Trace, recall
from recollect.memory.concepts import NamedConcept, Reading
from recollect.studies.planted import plant

HOUR = 3_600_000_000
DIM = 64


def concept(name: str, seed: int = 0, size: int = DIM) -> NamedConcept:
    """A concept that is read by a random direction."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 2, 16)
    reading = Reading(rng.normal(size=size).astype(np.float32), 0.25, grid, 4 * grid)
    return NamedConcept(name, 0.1, (1, 2, 3), {size: reading}, "glances chosen by hand")


def room(path: Path, ids: range, *concepts: NamedConcept, module: str = "cat") -> Memory:
    memory = Memory(path, Sketcher(dim=DIM, scales={"cat": 1.0, "dog": 1.0}))
    glances = [[Object(module, [float(i), 1.0])] for i in ids]
    memory.add(Trace.from_objects(glances), [HOUR * i for i in ids], ids=ids)
    for one in concepts:
        memory.concepts.add(one)
    return memory


def test_concepts_come_over_once(tmp_path: Path) -> None:
    theirs = concept("parcel", 1), concept("ladder", 2)
    with (
        room(tmp_path / "a", range(5), concept("ours")) as a,
        room(tmp_path / "b", range(5, 9), *theirs) as b,
    ):
        a.merge(b)
        assert a.concepts.names == ["ours", "parcel", "ladder"]
        for one in theirs:
            kept = a.concepts[one.name]
            assert kept.reads_like(one)
            assert (kept.share, kept.examples, kept.origin) == (0.1, (1, 2, 3), one.origin)
        a.merge(b)  # again: they are here
        assert a.concepts.names == ["ours", "parcel", "ladder"]
        assert b.concepts.names == ["parcel", "ladder"]
        b.merge(a)
        assert b.concepts.names == ["parcel", "ladder", "ours"]
        reader = Memory(tmp_path / "a", read_only=True)
        assert reader.concepts.names == a.concepts.names


def test_reading_otherwise_is_another_concept() -> None:
    one = concept("x")
    assert one.reads_like(concept("another name"))
    assert not one.reads_like(concept("x", seed=1))
    assert not one.reads_like(concept("x", size=DIM // 2))


@pytest.mark.parametrize(
    ("ours", "theirs", "module", "message"),
    [
        ([concept("x")], [concept("x", 1)], "cat", r"named after other glances here than there"),
        ([], [concept("cat")], "dog", r"a module here and a named concept there.*other\.concepts"),
        ([concept("dog")], [], "dog", r"a named concept here and a module there.*memory\.concep"),
    ],
)
def test_a_name_with_two_meanings_is_refused_before_anything_changes(
    tmp_path: Path,
    ours: list[NamedConcept],
    theirs: list[NamedConcept],
    module: str,
    message: str,
) -> None:
    with (
        room(tmp_path / "a", range(5), *ours) as a,
        room(tmp_path / "b", range(5, 9), *theirs, module=module) as b,
    ):
        with pytest.raises(ValueError, match=message):
            a.merge(b)
        assert len(a) == 5
        assert a.modules.names == ("cat",)
        assert a.concepts.names == [c.name for c in ours]
        where = a if ours else b
        where.concepts.rename(where.concepts.names[0], "something else")
        assert a.merge(b).added == 4
        assert "something else" in a.concepts


def test_a_concept_named_in_one_half_is_counted_in_both(tmp_path: Path) -> None:
    world = plant(2, compounds=2, each=60, background=400)
    half = len(world.trace) // 2
    times = HOUR * np.arange(len(world.trace))
    sketcher = Sketcher(dim=256, scales=dict.fromkeys(world.trace.modules, 1.0))
    with Memory(tmp_path / "a", sketcher) as a, Memory(tmp_path / "b", sketcher) as b:
        a.add(world.trace[:half], times[:half], ids=range(half))
        b.add(world.trace[half:], times[half:], ids=range(half, len(times)))
        late = half + np.flatnonzero(world.compound[half:] == 0)
        recall.name(b, late[:10].tolist(), "parcel")
        a.merge(b)
        got = recall.count(a, "parcel")
        assert got["low"][0] <= 60 <= got["high"][0]
        assert got["estimate"][0] == pytest.approx(60, abs=3)
