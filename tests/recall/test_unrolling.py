"""One glance as a tree: the same objects, in order, with bars that hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall


def test_a_record_is_unrolled_exactly(memory: Memory, room: Any) -> None:
    ids, _ = memory.records()
    for number in ids[:10]:
        glance = int(number) - 1000
        tree = recall.unroll(memory, number)
        one = room.trace[glance]
        for module in one.modules:
            got, want = tree.to_trace().objects(module), one.objects(module)
            assert got.path == want.path
            torch.testing.assert_close(got.attributes, want.attributes, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(got.weight, want.weight)
        assert tree["low"] == tree["estimate"] == tree["high"]
        assert "exact, from its record" in tree.notes[0]


def test_a_sketch_is_unrolled_with_the_same_structure(memory: Memory, room: Any) -> None:
    inside = total = 0
    kept = set(memory.records()[0])
    others = [i for i in range(len(room)) if 1000 + i not in kept][:60]
    for i in others:
        tree = recall.unroll(memory, 1000 + i, source="sketch")
        one = room.trace[i]
        assert tree["depth"] == [len(p) for p in tree["path"]]
        assert tree["module"] == [p[-1] for p in tree["path"]]
        for module in one.modules:
            objects = one.objects(module)
            rows = [r for r in tree if r["module"] == module]
            assert [tuple(r["path"]) for r in rows] == objects.path
            assert [r["weight"] for r in rows] == objects.weight.tolist()
            for row, attribute in zip(rows, objects.attributes.tolist(), strict=True):
                for low, value, high in zip(row["low"], attribute, row["high"], strict=True):
                    inside += low <= value <= high
                    total += 1
        assert len(tree) == sum(len(one.objects(m)) for m in one.modules)
    print(f"coverage of unroll: {inside / total:.3f} of {total}")
    assert inside / total > 0.85


def test_the_tree_is_drawn() -> None:
    from recollect.recall.glances import Glance
    from recollect.recall.unrolling import Unrolled, _leaves

    face = Object("face", [0.5, -0.25, 0.125])
    cat = Object("cat", [1.0, 0.0, -2.0, 0.5], weight=0.5, inputs=[face, Object("tail", [1.0])])
    t = Trace.from_objects([[cat, Object("dog", [3.0], inputs=[face])]])
    tree = Unrolled(t, _leaves(Glance(t, None, [])), "glance 1", ["exact"], ["score", "x"])
    assert repr(tree).splitlines() == [
        "glance 1",
        "├─ cat x 0.5  [2] -2  score 1  [3] 0.5  (+1)",
        "│  ├─ face  score 0.5  x -0.25  [2] 0.125",
        "│  └─ tail  score 1",
        "└─ dog  score 3",
        "   └─ face  (shared, as above)",
        "exact",
    ]
    assert "<pre>├─ cat x 0.5" in tree._repr_html_()
    assert tree["strongest"][0] == [2, 0, 3, 1]
    assert tree["strength"][3] == 3.0
    assert tree.to_trace() is t
    assert [len(p) for p in tree["path"]] == [1, 2, 2, 1]


def test_large_families_show_their_strongest() -> None:
    from recollect.recall.glances import Glance
    from recollect.recall.unrolling import Unrolled, _leaves

    members = tuple(f"conv/{i}" for i in range(20))
    t = Trace.from_columns(
        {"conv": {"attributes": torch.arange(20.0)[:, None], "members": members}}
    )
    tree = Unrolled(t, _leaves(Glance(t, None, [])), "glance 1", [])
    lines = tree.tree().splitlines()
    assert lines[-1] == "└─ ... and 14 weaker of conv"
    assert [line.split()[1] for line in lines[:-1]] == list(members[-6:])
    assert len(tree) == 20


def test_it_goes_to_arrow_and_pandas(memory: Memory) -> None:
    tree = recall.unroll(memory, 1003, source="sketch")
    table = tree.to_arrow()
    assert table.num_rows == len(tree)
    assert set(table.column_names) >= {"path", "depth", "estimate", "low", "high", "std"}
    frame = tree.to_pandas()
    assert [len(a) for a in frame["estimate"]] == [len(a) for a in frame["std"]]
    assert tree.title.startswith("glance 1003 · 2025-10-16T")
    assert any("load" in note for note in tree.notes)


def test_without_prior_or_records_it_is_least_squares(remember: Any, build: Any) -> None:
    room = build(20, 6)
    m = remember(room, sketcher=Sketcher(dim=512, dtype="float32"))
    tree = recall.unroll(m, 1004)
    want = room.trace[4].objects("lamp").attributes[0].numpy()
    got = next(r for r in tree if r["module"] == "lamp")["estimate"]
    np.testing.assert_allclose(got, want, atol=1e-2)
    assert any("without a prior" in note for note in tree.notes)


def test_what_cannot_be_unrolled_is_refused(memory: Memory, remember: Any, room: Any) -> None:
    with pytest.raises(NotRemembered, match="no glance has the id 5"):
        recall.unroll(memory, 5)
    with pytest.raises(TypeError, match="the id of a glance must be an integer, got 'cat'"):
        recall.unroll(memory, "cat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source must be one of 'record', 'sketch'"):
        recall.unroll(memory, 1000, source="dream")
    m = remember(room, keep_skeletons=False)
    with pytest.raises(NotRemembered, match="glance 1000 is not among the 0 records"):
        recall.unroll(m, 1000, source="record")
    with pytest.raises(ValueError, match="only with its skeleton, which was not kept"):
        recall.unroll(m, 1000)
