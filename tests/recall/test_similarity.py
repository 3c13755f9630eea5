"""Similar glances: the right order, honest scores, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recollect import (
    Memory,
    NotRemembered,
    Object,
    RecipeMismatch,
    Sketcher,
    Sketches,
    Trace,
    recall,
)


def cosines(memory: Memory, vector: np.ndarray) -> dict[int, float]:
    """Cosine of every glance with a vector, the slow way."""
    ids = memory.glances()["id"].to_pylist()
    values = memory.sketches().values.numpy().astype(np.float64)
    norm = np.linalg.norm(values, axis=1) * np.linalg.norm(vector)
    return dict(zip(ids, values @ vector.astype(np.float64) / norm, strict=True))


def check_order(memory: Memory, answer: Any, truth: dict[int, float], k: int) -> None:
    """The nearest by the cosine of sketches, their estimates corrected as records tell."""
    assert answer["estimate"] == sorted(answer["estimate"], reverse=True)
    found = [truth[i] for i in answer["glance"]]
    np.testing.assert_allclose(found, sorted(truth.values(), reverse=True)[:k], atol=1e-5)
    corrected = memory.cosines().read(found, memory.recipe.dim)[0]
    np.testing.assert_allclose(answer["estimate"], corrected, atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_a_glance_finds_the_nearest_and_leaves_itself_out(memory: Memory, k: int) -> None:
    truth = cosines(memory, memory.sketches(ids=[1007]).values[0].numpy())
    del truth[1007]
    answer = recall.similar(memory, 1007, k=k)
    assert len(answer) == min(k, 319)
    assert 1007 not in answer["glance"]
    check_order(memory, answer, truth, k)
    assert "glance 1007 itself is left out" in answer.notes


def test_a_glance_outside_the_filter_loses_no_answer(memory: Memory, room: Any) -> None:
    attic = room.ids[[s == "attic" for s in room.sources]]
    outside = int(room.ids[[s == "hall" for s in room.sources]][0])
    answer = recall.similar(memory, outside, k=5, where="source = 'attic'")
    assert len(answer) == 5
    assert set(answer["glance"]) <= set(attic.tolist())
    assert set(answer["source"]) == {"attic"}


def test_a_trace_and_its_sketch_find_the_glance_itself(memory: Memory, room: Any) -> None:
    trace = room.trace[42]
    for query in (trace, memory.sketcher.encode(trace)):
        answer = recall.similar(memory, query, k=3)
        assert answer["glance"][0] == 1042
        assert answer["estimate"][0] == pytest.approx(1.0, abs=1e-4)
        assert answer["time"][0].startswith(room.times[42].strftime("%Y"))
        assert answer["door"][0] in ("open", "shut")


def test_a_prefix_is_compared_with_prefixes(memory: Memory, room: Any) -> None:
    query = memory.sketcher.encode(room.trace[42]).prefix(128)
    assert recall.similar(memory, query, k=1)["glance"] == [1042]


def test_a_planted_twin_is_found_by_one_module_alone(remember: Any, build: Any) -> None:
    """Two glances share a cat and nothing else."""
    room = build(60, 5)
    rng = np.random.default_rng(1)
    box = [3.0, -20.0, 15.0, 9.0, -4.0]
    twins = [
        [Object("cat", box), Object("lamp", rng.normal(0, 1, 4)), Object("dog", [0.0, 0.0, 1.0])]
        for _ in range(2)
    ]
    room.trace = Trace.concat([room.trace[:58], Trace.from_objects(twins)])
    m = remember(room, reservoir=60)
    m.fit_prior()
    for query in (1058, room.trace[58], Object("cat", box)):
        found = recall.similar(m, query, k=2, module="cat")
        expected = {1059} if query == 1058 else {1058, 1059}
        assert expected <= set(found["glance"])
        assert len(found) == 2
    by_sketch = recall.similar(m, m.sketches(ids=[1058]), k=2, module="cat")
    assert set(by_sketch["glance"]) == {1058, 1059}


def test_an_object_finds_what_holds_it(memory: Memory, room: Any) -> None:
    cats = room.trace.objects("cat")
    alone = [int(g) for g in cats.glance if int((cats.glance == g).sum()) == 1]
    for glance in alone[:5]:
        box = cats.attributes[int(torch.nonzero(cats.glance == glance)[0, 0])]
        scores = cosines(memory, memory.sketcher.probe(Object("cat", box)).numpy())
        answer = recall.similar(memory, Object("cat", box), k=10)
        check_order(memory, answer, scores, 10)


def test_the_bar_holds_the_cosine_of_long_sketches(build: Any, remember: Any) -> None:
    """The same glances at 4,096 numbers are nearly without noise."""
    room = build(150, 3)
    long = remember(room, sketcher=Sketcher(dim=4096, dtype="float32"))
    inside = total = 0
    for seed in range(3):
        short = remember(room, sketcher=Sketcher(dim=128, seed=seed, dtype="float32"))
        for query in range(1000, 1150, 15):
            truth = recall.similar(long, query, k=149)
            exact = dict(zip(truth["glance"], truth["estimate"], strict=True))
            for row in recall.similar(short, query, k=149):
                inside += row["low"] <= exact[row["glance"]] <= row["high"]
                total += 1
    print(f"coverage of similarity: {inside / total:.3f} of {total}")
    assert inside / total > 0.87


def test_a_trace_with_a_new_module_may_ask_but_teaches_nothing(memory: Memory) -> None:
    before = memory.modules.names
    t = Trace.from_objects([[Object("lamp", [1.0, -2.0, 0.5, 0.0]), Object("unicorn", [1.0])]])
    answer = recall.similar(memory, t, k=2)
    assert any("never seen 'unicorn'" in note for note in answer.notes)
    assert memory.modules.names == before
    assert memory.sketcher.modules.names == before


def test_an_empty_memory_has_nothing_alike(remember: Any, room: Any) -> None:
    m = remember(room)
    answer = recall.similar(m, room.trace[0], where="source = 'nowhere'")
    assert len(answer) == 0
    assert "estimate" in answer.columns


# -- refusals -------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused(memory: Memory, room: Any) -> None:
    with pytest.raises(NotRemembered, match="no glance has the id 77"):
        recall.similar(memory, 77)
    with pytest.raises(NotRemembered, match="no module 'cta' .*did you mean 'cat'"):  # noqa: RUF043
        recall.similar(memory, 1000, module="cta")
    with pytest.raises(NotRemembered, match="no module 'unicorn' is remembered"):
        recall.similar(memory, Object("unicorn", [1.0]))
    with pytest.raises(NotRemembered, match="the query holds no object of module 'face'"):
        recall.similar(memory, Object("cat", [1.0] * 5), module="face")
    with pytest.raises(ValueError, match="a query is one glance, got a trace of 3"):
        recall.similar(memory, room.trace[:3])
    with pytest.raises(ValueError, match="a query is one glance, got a sketch of 320"):
        recall.similar(memory, memory.sketches())
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall.similar(memory, 1000, k=0)
    with pytest.raises(TypeError, match="a query is the id of a glance, .* got str"):  # noqa: RUF043
        recall.similar(memory, "cat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 5 numbers"):
        recall.similar(memory, Object("cat", [1.0, 2.0]))
    with pytest.raises(ValueError, match="holds nothing to search for"):
        recall.similar(memory, Object("cat", [0.0] * 5))


def test_sketches_made_otherwise_are_refused(memory: Memory, room: Any) -> None:
    def made(**options: Any) -> Sketches:
        return Sketcher(**{"dim": 256, **options}).encode(room.trace[0])

    with pytest.raises(RecipeMismatch, match=r"(?s)two recipes differ.*memory\.sketcher"):
        recall.similar(memory, made(seed=1))
    with pytest.raises(RecipeMismatch, match=r"module '\w+' has scale 1 there .*memory\.sketcher"):
        recall.similar(memory, made())
