"""Why two glances are alike: shares that add up, and point at what is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall


def cosine(memory: Memory, a: int, b: int) -> float:
    x, y = memory.sketches(ids=[a, b]).values.numpy().astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(("a", "b"), [(1000, 1001), (1050, 1120), (1007, 1007), (1200, 1019)])
def test_the_shares_add_up_to_the_cosine(memory: Memory, a: int, b: int) -> None:
    answer = recall.why(memory, a, b)
    *shares, total = answer["estimate"]
    assert answer["path"][-2:] == ["(residual)", "(total)"]
    assert total == pytest.approx(cosine(memory, a, b), abs=1e-6)
    assert sum(shares) == pytest.approx(total, abs=1e-9)
    sizes = [abs(s) for s in shares[:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert abs(shares[-1]) < 0.1
    assert all(low <= s <= high for low, s, high in
               zip(answer["low"], answer["estimate"], answer["high"], strict=True))  # fmt: skip


def test_it_does_not_matter_who_is_asked_first(memory: Memory) -> None:
    one, other = recall.why(memory, 1003, 1004), recall.why(memory, 1004, 1003)
    a = dict(zip(one["path"], one["estimate"], strict=True))
    b = dict(zip(other["path"], other["estimate"], strict=True))
    assert a == pytest.approx(b)
    assert one.title.startswith("why glance 1003 · ")


def test_what_is_shared_is_named(remember: Any, build: Any) -> None:
    room = build(40, 9)
    rng = np.random.default_rng(3)

    def scene(face: list[float]) -> list[Object]:
        cat = Object("cat", rng.normal(0, 5, 5), inputs=[Object("face", face)])
        return [cat, Object("lamp", rng.normal(0, 1, 4))]

    face = [9.0, -9.0, 9.0]
    room.trace = Trace.concat([room.trace[:38], Trace.from_objects([scene(face), scene(face)])])
    for reservoir in (0, 40):
        m = remember(room, reservoir=reservoir, sketcher=Sketcher(dim=1024))
        answer = recall.why(m, 1038, 1039)
        assert answer["path"][0] == "cat / face"
        assert answer["estimate"][0] > 0.3
        assert {"cat", "lamp", "(counts)"} <= set(answer["path"])


def test_the_class_that_two_glances_share_is_named(tmp_path: Path) -> None:
    """Of a classifier's thousand classes a glance holds a few; they are told apart."""
    rng = np.random.default_rng(5)
    kinds = [f"kind {i}" for i in range(30)]
    trace = Trace.from_columns(
        {
            "classes": {
                "members": kinds,
                "attributes": torch.from_numpy(rng.normal(size=(4, 16)).astype(np.float32)),
                "glance": [0, 0, 1, 1],
                "member": [3, 8, 3, 21],
                "weight": [0.9, 0.2, 0.8, 0.3],
            }
        },
        num_glances=2,
    )
    trace.columns["classes"].attributes[2] = trace.columns["classes"].attributes[0]
    with Memory(tmp_path / "m") as m:
        m.add(trace, time="2026-01-01T08:00Z", ids=[1, 2])
        answer = recall.why(m, 1, 2)
    assert answer["path"][0] == "kind 3"
    assert "classes" not in answer["path"]


@pytest.mark.parametrize("reservoir", [0, 150])
def test_the_bars_hold_the_shares_of_long_sketches(
    remember: Any, build: Any, reservoir: int
) -> None:
    room = build(150, 13)
    long = remember(room, reservoir=150, sketcher=Sketcher(dim=4096, dtype="float32"))
    short = remember(room, reservoir=reservoir, sketcher=Sketcher(dim=192))
    inside = total = 0
    for a in range(1000, 1100, 3):
        exact = recall.why(long, a, a + 31)
        truth = dict(zip(exact["path"], exact["estimate"], strict=True))
        for row in recall.why(short, a, a + 31):
            if row["path"] not in ("(residual)", "(counts)"):
                inside += row["low"] <= truth[row["path"]] <= row["high"]
                total += 1
    print(f"coverage of why: {inside / total:.3f} of {total}")
    assert inside / total > 0.85


def test_what_cannot_be_explained_is_refused(memory: Memory, remember: Any, room: Any) -> None:
    with pytest.raises(NotRemembered, match="no glance has the id 3"):
        recall.why(memory, 1000, 3)
    m = remember(room, keep_skeletons=False)
    with pytest.raises(ValueError, match="only with its skeleton, which was not kept"):
        recall.why(m, 1000, 1001)
