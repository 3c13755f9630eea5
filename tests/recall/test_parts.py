"""Similarity of parts: by path and level, at another position, at another depth; whitened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall
from recollect.recall.parts import Part
from recollect.recall.whitening import whitened

FACE = [4.0, -4.0, 4.0, 2.0]
# One face among many: 64 numbers, so that two faces are nearly orthogonal by chance.
THIS = (3 * np.random.default_rng(77).standard_normal(64)).tolist()


def tree() -> Trace:
    eye = Object("eye", [1.0, 2.0])
    face = Object("face", FACE, 0.5, inputs=[eye, Object("eye", [3.0, 1.0])])
    cat = Object("cat", [1.0, 1.0, 1.0], inputs=[face])
    return Trace.from_objects(
        [[cat, Object("dog", [2.0], 0.5, inputs=[face]), Object("lamp", [7.0])]]
    )


def values(t: Trace) -> dict[str, list[Any]]:
    return {m: t.objects(m).attributes.tolist() for m in t.modules}


# -- parts ----------------------------------------------------------------------------------


def test_a_path_is_the_object_with_all_that_it_was_made_from() -> None:
    kept = values(Part.of(path="cat / face").masked(tree()))
    assert kept["face"] == [FACE]
    assert kept["eye"] == [[1.0, 2.0], [3.0, 1.0]]
    assert kept["cat"] == [[0.0, 0.0, 0.0]]
    assert kept["lamp"] == [[0.0]]


def test_module_and_level_narrow_a_path_down() -> None:
    only = values(Part.of(module="face", path=("cat",)).masked(tree()))
    assert (only["face"], only["eye"]) == ([FACE], [[0.0, 0.0], [0.0, 0.0]])
    third = values(Part.of(level=3).masked(tree()))
    assert (third["face"], third["eye"]) == ([[0.0] * 4], [[1.0, 2.0], [3.0, 1.0]])
    assert values(Part.of(path="dog / face", level=2).masked(tree()))["face"] == [FACE]


@pytest.mark.parametrize("scheme", ["energy", "keyed"])
def test_levels_add_up_to_the_whole(scheme: str) -> None:
    sketcher = Sketcher(dim=256, scheme=scheme)
    sketcher.admit(tree())
    parts = [sketcher.probe(Part.of(level=k).masked(tree())) for k in (1, 2, 3)]
    torch.testing.assert_close(sum(parts), sketcher.probe(tree()), atol=1e-4, rtol=0)


def test_a_lifted_part_is_the_object_alone() -> None:
    eyes = [Object("eye", [1.0, 2.0]), Object("eye", [3.0, 1.0])]
    alone = Object("face", FACE, 0.5, inputs=eyes)
    sketcher = Sketcher(dim=256)
    sketcher.admit(tree())
    for path in ("cat / face", "dog / face"):
        lifted = Part.of(path=path).lifted(tree())
        assert lifted.objects("face").path == [("face",)]
        assert lifted.objects("eye").path == [("face", "eye")] * 2
        torch.testing.assert_close(sketcher.probe(lifted), sketcher.probe(alone))
    flat = Part.of(module="eye").lifted(tree())
    assert flat.edges is None
    assert flat.objects("eye").path == [("eye",)] * 2


def test_members_of_a_family_are_found_by_either_name() -> None:
    t = Trace.from_columns(
        {"conv": {"attributes": torch.arange(1.0, 4.0)[:, None], "glance": np.zeros(3, np.int64),
                  "members": ("conv/0", "conv/1", "conv/2"), "member": np.arange(3)},
         "lamp": torch.ones(1, 2)}
    )  # fmt: skip
    assert Part.of(path="conv").masked(t).columns["conv"].attributes.tolist() == [[1], [2], [3]]
    lifted = Part.of(path="conv/1").lifted(t)
    assert lifted.columns["conv"].attributes.tolist() == [[2.0]]
    assert lifted.columns["conv"].members == ("conv/0", "conv/1", "conv/2")


# -- in a memory ----------------------------------------------------------------------------


def rooms(seed: int = 0, number: int = 60) -> list[list[Object]]:
    """Rooms that share nothing with each other but modules; attributes are random."""
    rng = np.random.default_rng(seed)

    def thing(name: str, size: int, *inputs: Object) -> Object:
        return Object(name, rng.normal(0, 3, size), inputs=list(inputs))

    return [
        [thing("cat", 16, thing("face", 64)), thing("dog", 16, thing("face", 64)),
         thing("lamp", 32), thing("chair", 32)]
        for _ in range(number)
    ]  # fmt: skip


def shared_face() -> list[list[Object]]:
    """The same face under a cat, under another cat, under a dog, on top, and two levels down."""
    a, b, c, d, e = (rooms(9, 5)[k] for k in range(5))
    a[0].inputs = [Object("face", THIS)]
    b[0].inputs = [Object("face", THIS)]
    c[1].inputs = [Object("face", THIS)]
    d.append(Object("face", THIS))
    e.append(
        Object(
            "room", [0.5, 0.5], inputs=[Object("cat", [1.0] * 16, inputs=[Object("face", THIS)])]
        )
    )
    return [a, b, c, d, e]


A, SAME, OTHER_PARENT, ON_TOP, DEEPER = range(5)


def remembered(path: Path, scheme: str = "energy", dim: int = 2048, **options: Any) -> Memory:
    listed = [*shared_face(), *rooms()]
    memory = Memory(path, Sketcher(dim=dim, scheme=scheme), reservoir=len(listed), **options)
    memory.add(Trace.from_objects(listed), time="2026-01-01T00:00Z", ids=range(len(listed)),
               source="room")  # fmt: skip
    return memory


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with remembered(tmp_path_factory.mktemp("parts") / "m") as made:
        yield made


def test_a_shared_object_is_found_at_another_position_and_another_depth(memory: Memory) -> None:
    found = recall.similar(memory, A, k=4, path="cat / face", anywhere=True)
    assert set(found["glance"]) == {SAME, OTHER_PARENT, ON_TOP, DEEPER}
    fifth = recall.similar(memory, A, k=5, path="cat / face", anywhere=True)["estimate"][-1]
    assert min(found["estimate"]) > fifth + 2 / 2048**0.5
    whole = recall.similar(memory, A, k=4)["glance"]
    assert set(whole) != {SAME, OTHER_PARENT, ON_TOP, DEEPER}, "the whole cosine is no detector"


def test_the_same_place_is_seen_best_and_others_fainter(memory: Memory) -> None:
    answer = recall.similar(memory, A, k=64, path="cat / face")
    scores = dict(zip(answer["glance"], answer["estimate"], strict=True))
    rest = np.array([scores[g] for g in range(5, 65)])
    assert scores[SAME] > scores[ON_TOP] > scores[OTHER_PARENT] > rest.mean() + 2 * rest.std()
    assert answer.title.startswith("64 glances most similar to path 'cat / face' of glance 0")
    assert any(n.startswith("the part scores 0.") for n in answer.notes)


def test_module_path_and_level_agree_where_they_mean_the_same(memory: Memory) -> None:
    by_path = recall.similar(memory, A, path="lamp")
    by_module = recall.similar(memory, A, module="lamp")
    assert by_path["estimate"] == by_module["estimate"]
    faces = recall.similar(memory, A, level=2)
    assert faces["estimate"] == recall.similar(memory, A, module="face")["estimate"]


def test_objects_traces_and_sketches_have_parts_too(memory: Memory) -> None:
    cat = Object("cat", [1.0] * 16, inputs=[Object("face", THIS)])
    for query in (cat, Trace.from_objects([[cat]]), memory.sketches(ids=[A])):
        found = recall.similar(memory, query, k=5, path="cat / face", anywhere=True)
        assert set(found["glance"]) == set(range(5))


def test_keyed_sees_the_same_path_only(tmp_path: Path) -> None:
    with remembered(tmp_path / "m", "keyed") as memory:
        answer = recall.similar(memory, A, k=64, path="cat / face")
        scores = dict(zip(answer["glance"], answer["estimate"], strict=True))
        rest = np.array([scores[g] for g in range(5, 65)])
        assert scores[SAME] > rest.mean() + 5 * rest.std()
        assert abs(scores[OTHER_PARENT] - rest.mean()) < 3 * rest.std()
        with pytest.raises(ValueError, match='scheme is "keyed".*scheme="energy"'):  # noqa: RUF043
            recall.similar(memory, A, path="cat / face", anywhere=True)


def test_parts_of_the_published_scheme_hold_no_counters(tmp_path: Path) -> None:
    from recollect.recall.similarity import Wanted

    with remembered(tmp_path / "m", "paper", dim=256) as memory:
        wanted = Wanted(memory, Part.of(module="lamp"), anywhere=False)
        one, two = (
            Trace.from_objects([[Object("lamp", [k * 1.0] * 32), Object("chair", [1.0] * 32)]])
            for k in (1, 2)
        )
        np.testing.assert_allclose(2 * wanted.image(one), wanted.image(two), atol=1e-6)


# -- whitened -------------------------------------------------------------------------------


def test_whitened_amounts_are_one_for_what_is_held_and_their_size_is_told(memory: Memory) -> None:
    probe = memory.sketcher.probe(Object("face", THIS)).numpy()
    white = whitened(memory, probe)
    assert probe @ white.vector == pytest.approx(1, abs=1e-5)
    amounts = memory.sketches().values.numpy() @ white.vector
    answer = recall.similar(memory, Object("face", THIS), k=6, whiten=True)
    assert answer["estimate"] == sorted(answer["estimate"], reverse=True)
    by_id = dict(zip(memory.glances()["id"].to_pylist(), amounts, strict=True))
    assert answer["estimate"] == pytest.approx([by_id[g] for g in answer["glance"]], abs=1e-6)
    assert "the amount of the query" in answer.notes[0]


def test_whitening_finds_more_in_short_sketches(tmp_path: Path) -> None:
    """Average precision of one kind of thing among few directions that are in every sketch."""
    rng = np.random.default_rng(0)
    usual = rng.standard_normal((3, 40)) * 3
    x = rng.standard_normal((400, 3)) @ usual + 0.3 * rng.standard_normal((400, 40))
    hit = rng.random(400) < 0.05
    mark = rng.standard_normal(40)
    x[hit] += 0.8 * mark
    t = Trace.from_columns({"a": torch.from_numpy(x).float(), "b": torch.ones(400, 4)})
    with Memory(tmp_path / "m", Sketcher(dim=64), reservoir=0) as memory:
        memory.add(t, time="2026-01-01T00:00Z", ids=range(400), source="s")

        def precision(whiten: bool) -> float:
            found = recall.similar(memory, Object("a", mark), k=int(hit.sum()), whiten=whiten)
            return float(hit[found["glance"]].mean())

        assert precision(True) > precision(False) + 0.3
        white = whitened(memory, memory.sketcher.probe(Object("a", mark)).numpy())
        amounts = memory.sketches().values.numpy() @ white.vector
        assert np.sqrt(np.square(amounts).mean()) == pytest.approx(white.std, rel=0.2)


def test_what_cannot_be_whitened_is_refused(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a probe of 128 numbers cannot be whitened"):
        recall.similar(memory, memory.sketches(ids=[A]).prefix(128), whiten=True)
    with Memory(tmp_path / "empty", Sketcher(dim=64)) as empty:
        empty.modules.add("face", 64)
        with pytest.raises(ValueError, match="an empty memory cannot say what is usual"):
            recall.similar(empty, Object("face", THIS), whiten=True)


# -- why, across paths ----------------------------------------------------------------------


def test_why_names_both_places_of_a_shared_object(memory: Memory) -> None:
    for other, place in ((OTHER_PARENT, "dog / face"), (ON_TOP, "face")):
        answer = recall.why(memory, A, other, across=True)
        pairs = list(zip(answer["path"], answer["other"], strict=True))
        best = next(p for p in pairs if p[0] != "(counts)")
        assert best == ("cat / face", place)
        *shares, total = answer["estimate"]
        assert sum(shares) == pytest.approx(total, abs=1e-9)
        assert answer["path"][-3:] == ["(others)", "(residual)", "(total)"]


def test_pairs_add_up_to_the_shares_by_path(memory: Memory) -> None:
    """Summed over the other side, pairs are the shares of ``why`` but for what is left over."""
    pairs = recall.why(memory, A, SAME, across=True)
    plain = recall.why(memory, A, SAME)
    assert pairs["estimate"][-1] == pytest.approx(plain["estimate"][-1])
    assert pairs["estimate"][-2] == pytest.approx(plain["estimate"][-2], abs=0.02)


# -- refusals -------------------------------------------------------------------------------


def test_paths_and_levels_that_are_not_there_are_refused(memory: Memory) -> None:
    with pytest.raises(NotRemembered, match="no path 'cat / fase'; did you mean 'cat / face'"):
        recall.similar(memory, A, path="cat / fase")
    with pytest.raises(NotRemembered, match="no path 'unicorn'; known are"):
        recall.similar(memory, A, path="unicorn")
    with pytest.raises(
        ValueError, match=r"level 3 is asked for.*stand on 2 levels \(1 is the top"
    ):
        recall.similar(memory, A, level=3)
    with pytest.raises(ValueError, match="level must be at least 1, got 0"):
        recall.similar(memory, A, level=0)
    with pytest.raises(TypeError, match="level must be an integer"):
        recall.similar(memory, A, level=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a path names modules from the output down"):
        recall.similar(memory, A, path="cat / ")
    with pytest.raises(TypeError, match="a path is a string such as 'cat / face'"):
        recall.similar(memory, A, path=3)  # type: ignore[arg-type]
    with pytest.raises(NotRemembered, match="holds no object of module 'lamp' at path 'cat'"):
        recall.similar(memory, A, path="cat", module="lamp")
    with pytest.raises(NotRemembered, match="holds no object at path 'lamp', level 2"):
        recall.similar(memory, A, path="lamp", level=2)
