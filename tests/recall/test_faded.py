"""Questions to memories of which different amounts are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall

HOUR = 3_600_000_000
POLICY = "full for 20 hours, 64 dims for 40 hours, skeletons for 50 hours, roll-ups for ever"


def scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(8, 2)).astype(np.float32)

    def cat():
        x = (base @ rng.normal(size=2) + 0.05 * rng.normal(size=8)).astype(np.float32)
        return Object("cat", x, inputs=[Object("face", x[:3])])

    def eye():
        return Object("eye", rng.normal(size=4).astype(np.float32))

    return Trace.from_objects(
        [[eye(), cat()] if rng.random() < 0.6 else [eye()] for _ in range(count)]
    )


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A memory that has faded in four stages, the same memory whole, and the truth."""
    folder = tmp_path_factory.mktemp("room")
    t = scenes(240)
    made = []
    for name in ("faded", "whole"):
        m = Memory(folder / name, sketcher=Sketcher(dim=256), reservoir=100)
        source = ["hall" if i % 2 else "yard" for i in range(240)]
        m.add(t, np.arange(240) * HOUR // 4, source, ids=range(240))
        m.fit_prior()
        made.append(m)
    made[0].fade(now=60 * HOUR, policy=POLICY)
    yield made[0], made[1], t
    for m in made:
        m._engine.close()


def test_exact_counts_know_what_is_gone(room):
    m, whole, _ = room
    for unit in ("objects", "glances", "weight"):
        a, b = (recall.count(x, "cat", by="day", unit=unit) for x in (m, whole))
        assert a["estimate"] == b["estimate"]
        assert a["glances"] == b["glances"]
    a = recall.count(m, "cat")
    assert "40 glances of these are left in roll-ups only; they are counted" in a.notes
    assert recall.count(m)["estimate"] == [240]
    late = recall.count(m, "cat", since="1970-01-02T00:00Z")
    assert not any("roll-ups only" in n for n in late.notes)
    some, all_ = (recall.count(x, "cat", where="source = 'hall'") for x in (m, whole))
    assert some["glances"][0] == all_["glances"][0] - 20
    assert any("40 glances of this time are left in roll-ups only" in n for n in some.notes)
    # Structure outlives the sketch.
    span = {"where": "source = 'hall'", "since": "1970-01-01T12:00Z"}
    a, b = (recall.count(x, "cat", **span) for x in (m, whole))
    assert a["estimate"] == b["estimate"]


def test_estimated_counts_hold_the_truth(room):
    m, whole, _ = room
    a, b = (recall.count(x, "cat", source="sketch") for x in (m, whole))
    assert a["estimate"] == b["estimate"]  # the same roll-up, bit for bit
    truth = recall.count(whole, "cat", where="source = 'hall'", by="day")
    found = recall.count(m, "cat", where="source = 'hall'", by="day", source="sketch")
    for window, low, high, glances in zip(
        found["day"], found["low"], found["high"], found["glances"], strict=True
    ):
        row = truth["day"].index(window)
        if glances == truth["glances"][row]:
            assert low <= truth["estimate"][row] <= high
    assert any("up to 64 of 256 numbers" in n for n in found.notes)
    assert any("keep no sketch: left out" in n for n in found.notes)
    likely = recall.count(m, "cat", where="source = 'hall'", unit="glances", source="sketch")
    exact = recall.count(m, "cat", where="source = 'hall'", unit="glances")
    assert likely["low"][0] <= exact["estimate"][0] <= likely["high"][0]
    assert any("as likely as usual" in n for n in likely.notes)


def test_attributes_get_wider_bars(room):
    m, whole, t = room
    new = "1970-01-02T16:00Z"
    spans = {"faded": ("1970-01-01T20:00Z", new), "new": (new, None)}
    width = {}
    for name, (since, until) in spans.items():
        a, b = (recall.attribute(x, "eye", since=since, until=until) for x in (m, whole))
        width[name] = np.mean(np.subtract(a["high"], a["low"]))
        assert np.abs(np.subtract(a["estimate"], b["estimate"])).max() < 0.5
    assert width["faded"] > width["new"]
    faded = recall.attribute(m, "eye", since=spans["faded"][0], until=spans["faded"][1])
    assert any("have faded to 64 of 256 numbers" in n for n in faded.notes)
    everything = recall.attribute(m, "eye")
    assert any("roll-ups" in n for n in everything.notes)
    truth = t.objects("eye").attributes.numpy().mean(0)
    half = np.subtract(everything["high"], everything["low"]) / 2
    assert (np.abs(np.subtract(everything["estimate"], truth)) < 3 * half).all()
    by_filter = recall.attribute(m, "eye", where="source = 'hall'")
    assert any("left in roll-ups only" in n for n in by_filter.notes)
    with pytest.raises(NotRemembered, match="only their structure is left"):
        recall.attribute(m, "eye", where=f"id = {unrecorded(m, range(45, 79))}")


def unrecorded(m, among):
    """A glance that is not kept whole."""
    kept = set(m.records()[0])
    return next(i for i in among if i not in kept)


def test_similar_glances_of_different_lengths(room):
    m, _, _ = room
    answer = recall.similar(m, 230, k=60)
    kept = m.kept(answer["glance"])
    assert set(kept.tolist()) == {64, 256}
    score, low, high = (np.array(answer[c]) for c in ("estimate", "low", "high"))
    free = (low > -1) & (high < 1)
    width = (high - low) / (1 - score**2)
    # Widths follow (1 - cosine^2) / sqrt(numbers); e is a little other at each length.
    known = m.cosines()
    for keep in (64, 256):
        e = np.ptp(known.ends[known.lengths == keep][0])
        some = width[free & (kept == keep)]
        assert some == pytest.approx(np.full(len(some), e / np.sqrt(keep)), rel=0.1)
    assert any("have faded to 64 of 256 numbers" in n for n in answer.notes)
    assert any("left in roll-ups only" in n for n in answer.notes)
    short = recall.similar(m, 100, k=5)  # a query that has faded itself
    assert len(short) == 5
    part = recall.similar(m, unrecorded(m, range(80, 160)), k=3, module="eye")
    assert len(part) == 3


def test_unroll_and_why_read_what_is_left(room):
    m, whole, _ = room
    number = unrecorded(m, range(85, 160))
    a, b = recall.unroll(m, number), recall.unroll(whole, number, source="sketch")
    assert a["path"] == b["path"]
    assert np.mean([np.mean(s) for s in a["std"]]) > np.mean([np.mean(s) for s in b["std"]])
    assert "read from 64 of 256 numbers" in a.notes
    other = unrecorded(m, range(165, 239))
    answer = recall.why(m, number, other)
    assert sum(answer["estimate"][:-1]) == pytest.approx(answer["estimate"][-1], abs=1e-9)
    assert answer["low"][-1] <= recall.why(whole, number, other)["high"][-1]
    with pytest.raises(ValueError, match="keeps 0 of 256"):
        recall.unroll(m, unrecorded(m, range(45, 79)), source="sketch")
    with pytest.raises(NotRemembered):
        recall.unroll(m, 3)


def test_a_skeleton_unrolls_to_its_structure(room):
    m, whole, _ = room
    number = unrecorded(m, range(45, 79))
    assert m.kept([number]).tolist() == [0]
    tree, sketch = recall.unroll(m, number), recall.unroll(whole, number, source="sketch")
    for column in ("path", "depth", "module", "weight"):
        assert tree[column] == sketch[column]
    for row, other in zip(tree, sketch, strict=True):
        assert len(row["estimate"]) == len(other["estimate"])
        assert np.isnan(row["estimate"]).all()
        assert np.isposinf(row["std"]).all()
        assert np.isneginf(row["low"]).all()
        assert np.isposinf(row["high"]).all()
    (note,) = tree.notes
    assert "faded to its structure: modules, paths and weights are exact" in note
    assert "└─ " in tree.tree()
    assert "(4 numbers, forgotten)" in tree.tree()
    assert "nan" not in tree.tree()
    counts = {k: tree["module"].count(k) for k in set(tree["module"])}
    assert counts == {k: sketch["module"].count(k) for k in counts}
    assert tree.to_trace().modules == sketch.to_trace().modules
    # Whoever needs attributes is refused still.
    with pytest.raises(ValueError, match="keeps 0 of 256"):
        recall.why(m, number, 239)


def test_a_record_outlives_the_sketch(room):
    m, _, t = room
    kept = set(m.records()[0])
    number = next(i for i in range(45, 79) if i in kept)
    tree = recall.unroll(m, number)
    assert "exact, from its record" in tree.notes[0]
    truth = t[number].objects("eye").attributes[0].tolist()
    assert tree["estimate"][tree["module"].index("eye")] == pytest.approx(truth, rel=1e-3)


def test_shared_objects_and_members_keep_their_places(tmp_path):
    face = Object("face", [0.5, 0.25])
    first = [Object("cat", [1.0], weight=0.5, inputs=[face]), Object("dog", [2.0], inputs=[face])]
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=128), reservoir=0) as m:
        m.add(Trace.from_objects([first, first]), np.arange(2) * HOUR, ids=[1, 2])
        drawn = recall.unroll(m, 1).tree(strongest=0)
        m.fade(now=100 * HOUR, policy="full for 1 hours, skeletons for ever")
        tree = recall.unroll(m, 1)
    assert tree.tree(strongest=0) == drawn
    assert tree["path"] == [["cat"], ["cat", "face"], ["dog"]]


def test_a_lost_tier_still_answers(tmp_path):
    t = scenes(60)
    m = Memory(tmp_path / "m", sketcher=Sketcher(dim=512), reservoir=20)
    m.add(t, np.arange(60) * HOUR // 4, "hall", ids=range(60))
    m.fit_prior()
    m.close()
    m._engine.rows.data().drop_columns(["s0"])
    m = Memory(tmp_path / "m")
    number = unrecorded(m, range(60))
    tree = recall.unroll(m, number)
    truth = t[number].objects("eye").attributes[0].numpy()
    row = tree["module"].index("eye")
    assert np.abs(tree["estimate"][row] - truth).max() < 0.3
    assert recall.similar(m, number, k=1)["glance"] != [number]
    counted = recall.count(m, "cat", source="sketch", where="source = 'hall'")
    exact = recall.count(m, "cat", where="source = 'hall'")
    assert counted["low"][0] <= exact["estimate"][0] <= counted["high"][0]
    assert recall.attribute(m, "eye")["number"] == [0, 1, 2, 3]
    assert torch.is_tensor(m.sketches(ids=[number]).kept)
    m._engine.close()
