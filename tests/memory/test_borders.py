"""What comes in and what goes out: times, sources, labels, ids, merging, export, records."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.memory.making import HOUR, memory, sketches

from recollect import NotRemembered, RecipeMismatch, Sketcher, Trace
from recollect.memory import Memory
from recollect.memory.clock import iso, microseconds, microseconds_of_all


def trace(count, seed=0, names=("eye", "ear")):
    g = torch.Generator().manual_seed(seed)
    return Trace.from_columns(
        {n: torch.randn(count, 3, generator=g) * (i + 1) for i, n in enumerate(names)}
    )


def test_every_way_to_tell_a_time_agrees():
    moment = datetime(2026, 3, 29, 1, 30, 0, 7, tzinfo=timezone(timedelta(hours=2)))
    ways = [
        moment,
        moment.isoformat(),
        "2026-03-28T23:30:00.000007Z",
        np.datetime64("2026-03-28T23:30:00.000007"),
        microseconds(moment),
        np.int64(microseconds(moment)),
    ]
    assert len({microseconds(w) for w in ways}) == 1
    assert datetime.fromisoformat(iso(microseconds(moment))) == moment
    assert microseconds(datetime(1969, 12, 31, 23, tzinfo=UTC)) == -HOUR
    assert microseconds_of_all(moment, 3).tolist() == [microseconds(moment)] * 3


@pytest.mark.parametrize(
    ("time", "error", "message"),
    [
        (datetime(2026, 1, 1), ValueError, "has no zone"),
        ("2026-01-01T08:00:00", ValueError, "has no zone"),
        ("yesterday", ValueError, "not an ISO 8601 time"),
        (np.datetime64("NaT"), ValueError, "NaT"),
        (1.5, TypeError, "must be a datetime with zone"),
        (None, TypeError, "must be a datetime with zone"),
        (True, TypeError, "must be a datetime with zone"),
        (1 << 62, ValueError, "another unit"),
    ],
)
def test_times_that_are_refused(tmp_path, time, error, message):
    with pytest.raises(error, match=message):
        microseconds(time)
    with memory(tmp_path / "m") as m:
        with pytest.raises(error, match=message):
            m.add(trace(1), [time])
        assert len(m) == 0
        if time is not None:
            with pytest.raises(error, match=message):
                m.rollups(since=time)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"time": [0]}, ValueError, "3 glances need 3 times"),
        ({"source": ["a"]}, ValueError, "3 glances need 3 sources"),
        ({"source": [1, 2, 3]}, TypeError, "source must be a string"),
        ({"ids": [1]}, ValueError, "3 glances need 3 ids"),
        ({"ids": [1, 2, 1]}, ValueError, "must differ, 1 is given more than once"),
        ({"ids": [1, 2, 1 << 63]}, ValueError, "64-bit"),
        ({"ids": [1, 2, 0.5]}, TypeError, "must be an integer"),
        ({"labels": {"x": [1, 2]}}, ValueError, "3 values of label 'x'"),
        ({"labels": [{"x": 1}]}, ValueError, "3 sets of labels"),
        ({"labels": {"no good": 1}}, ValueError, "letters, digits and underscores"),
        ({"labels": {"source": "a"}}, ValueError, "column of every glance"),
        ({"labels": {"x": [1, "a", None]}}, ValueError, "mixes float, str"),
        ({"labels": {"x": {"y": 1}.keys}}, TypeError, "string, number, boolean or None"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, given, error, message):
    with memory(tmp_path / "m") as m:
        with pytest.raises(error, match=message):
            m.add(trace(3), **({"time": [0, 1, 2]} | given))
        assert len(m) == 0


def test_ids_are_the_hash_of_source_time_and_ordinal(tmp_path):
    with memory(tmp_path / "a") as a, memory(tmp_path / "b") as b:
        one = a.add(trace(3), [5, 5, 6], ["x", "x", None]).ids
        two = [b.add(trace(1), [6]).ids[0], *b.add(trace(2), [5, 5], "x").ids]
        assert len(set(one)) == 3
        assert one == [two[1], two[2], two[0]]
        assert one[0] == 5589212029601593363  # golden: a changed hash must not pass silently


def test_labels_come_and_go(tmp_path):
    with memory(tmp_path / "m") as m:
        m.add(trace(2), [0, 1])
        m.add(trace(2), [2, 3], labels={"Weather": ["rain", None], "lux": np.arange(2)})
        m.add(trace(2), [4, 5], labels=[{"indoor": True}, {"Weather": "sun"}])
        t = m.glances()
        assert t["Weather"].to_pylist() == [None, None, "rain", None, None, "sun"]
        assert t["lux"].to_pylist() == [None, None, 0.0, 1.0, None, None]
        assert t["indoor"].to_pylist() == [None] * 4 + [True, None]
        assert len(m.glances(where="Weather = 'rain' and lux < 0.5")) == 1
        assert len(m.glances(where="indoor", columns=["time"])) == 1
        with pytest.raises(ValueError, match="'lux' holds values of type double, now string"):
            m.add(trace(1), [9], labels={"lux": "dark"})
        with pytest.raises(ValueError, match="a column must be one of"):
            m.glances(columns=["nothing"])
        assert len(m) == 6
        assert m.verify().ok


def test_delete_needs_a_filter(tmp_path):
    with memory(tmp_path / "m") as m:
        with pytest.raises(ValueError, match="for all glances say"):
            m.delete("")
        assert m.delete("source = 'x'") == 0
        assert m.glances().num_rows == 0
        assert len(m.sketches()) == 0
        assert len(m.search(np.ones(64))[0]) == 0


def test_a_module_that_changes_its_size_is_refused(tmp_path):
    with memory(tmp_path / "m") as m:
        m.add(trace(2), [0, 1])
        wide = Trace.from_columns({"new": torch.ones(1, 2), "eye": torch.ones(1, 4)})
        with pytest.raises(ValueError, match="was the network changed"):
            m.add(wide, [2])
        assert len(m) == 2
        assert m.modules.names == ("eye", "ear")


def test_scales_are_measured_once_or_given(tmp_path):
    with memory(tmp_path / "a") as m:
        m.add(trace(64), list(range(64)))
        first = [e.scale for e in m.modules]
        assert first[1] == pytest.approx(2 * first[0], rel=0.3)
        m.add(trace(64, 1), list(range(64, 128)))
    assert [e.scale for e in Memory(tmp_path / "a").modules] == first
    with Memory(tmp_path / "b", Sketcher(dim=64, scales={"ear": 7.0})) as m:
        m.add(trace(4), range(4))
    with Memory(tmp_path / "b") as m:
        m.add(trace(4, names=("late",)), range(4, 8))
        assert [e.scale for e in m.modules] == [1.0, 7.0, 1.0]


def test_merging_equals_adding(tmp_path):
    whole = trace(40)
    both = memory(tmp_path / "both", reservoir=12)
    both.add(whole[:20], range(20), "a", {"n": list(range(20))})
    left = Memory(tmp_path / "left", both.sketcher, reservoir=12)
    right = Memory(tmp_path / "right", both.sketcher, reservoir=12)
    both.add(whole[20:], range(20, 40), "b")
    left.add(whole[:25][:20], range(20), "a", {"n": list(range(20))})
    right.add(whole[20:], range(20, 40), "b")
    right.add(whole[:5], range(5), "a", {"n": list(range(5))})
    done = left.merge(right)
    assert (done.added, done.replaced) == (20, 5)
    assert left.glances(columns=["id", "time", "source", "n"]).equals(
        both.glances(columns=["id", "time", "source", "n"])
    )
    assert left.sketches().equal(both.sketches())
    assert np.array_equal(left.rollups().sum, both.rollups().sum)
    assert np.array_equal(left.rollups().counts(), both.rollups().counts())
    assert left.records()[0] == both.records()[0]
    assert left.verify().ok, left.verify()
    for m in (left, right, both):
        m.close()


def test_merging_translates_module_ids(tmp_path):
    scales = {"eye": 1.0, "ear": 1.0, "nose": 1.0}
    a = Memory(tmp_path / "a", Sketcher(dim=64, scales=scales))
    b = Memory(tmp_path / "b", Sketcher(dim=64, scales=scales))
    a.add(trace(3, names=("ear", "nose")), range(3))
    b.add(trace(3, names=("eye", "ear")), range(10, 13))
    a.merge(b)
    assert a.modules.names == ("ear", "nose", "eye")
    assert [int(a.rollups().count(n).sum()) for n in a.modules.names] == [6, 3, 3]
    assert a.verify().ok
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        a.merge(memory(tmp_path / "c", dim=128))
    other = Memory(tmp_path / "d", Sketcher(dim=64, scales={"ear": 2.0}))
    other.add(trace(3, names=("ear",)), range(3))
    with pytest.raises(ValueError, match="different scales cannot be mixed"):
        a.merge(other)
    for m in (a, b, other):
        m.close()


def test_a_memory_without_skeletons_and_records(tmp_path):
    with memory(tmp_path / "m", keep_skeletons=False, reservoir=0) as m:
        m.add(trace(5), range(5))
        assert m.sketches().skeletons is None
        r = m.rollups()
        assert (int(r.n.sum()), int(r.known.sum()), r.count("eye").sum()) == (5, 0, 0)
        counts = m.skeleton_counts()
        assert not counts.known.any()
        assert counts.count("eye").tolist() == [0] * 5
        assert m.records() == ([], None)
        with pytest.raises(ValueError, match="keeps no records"):
            m.fit_prior()
        assert m.info()["numbers_per_glance"] is None
    assert Memory(tmp_path / "m").verify().ok


def test_priors_have_versions(tmp_path):
    with memory(tmp_path / "m") as m:
        assert m.prior() is None
        m.add(trace(9), range(9))
        assert m.fit_prior() == 1
        m.add(trace(9, 1), range(9, 18))
        assert m.fit_prior() == 2
    m = Memory(tmp_path / "m")
    assert m.prior_versions == [1, 2]
    assert (m.prior(1).num_glances, m.prior().num_glances) == (9, 18)
    with pytest.raises(NotRemembered, match="no prior of version 3"):
        m.prior(3)
    back = m.sketcher.decode(m.sketches(), m.prior())
    assert back.objects("eye").attributes.shape == (18, 3)


def test_records_hold_any_structure_and_large_numbers(tmp_path):
    from recollect import Object

    face = Object("face", [1e6, 2.0], weight=0.5)
    glances = [[Object("cat", [1.0], inputs=[face]), face], [Object("dog", [3.0, 4.0])]]
    given = Trace.from_objects(glances)
    with memory(tmp_path / "m") as m:
        ids = m.add(given, [0, 1]).ids
        kept, records = m.records()
        assert sorted(kept) == sorted(ids)
        back = records[[kept.index(i) for i in ids]]
        for name in ("cat", "dog", "face"):
            a, b = given.objects(name), back.objects(name)
            assert torch.equal(a.attributes, b.attributes)
            assert (a.path, a.weight.tolist()) == (b.path, b.weight.tolist())


def test_deleted_glances_leave_the_records(tmp_path):
    with memory(tmp_path / "m", reservoir=6) as m:
        m.add(trace(30), range(30), ["a", "b"] * 15)
        before = m.records()[0]
        gone = set(m.glances(where="source = 'a'")["id"].to_pylist())
        m.delete("source = 'a'")
        left = [i for i in before if i not in gone]
        assert m.records()[0] == left
        held = next((tmp_path / "m" / "reservoir").glob("*.npz"))
        assert np.load(held)["ids"].tolist() == left
        m.add(trace(400, 2), range(100, 500), "c")
        assert len(m.records()[0]) <= 6
    assert Memory(tmp_path / "m").verify().ok


def test_watching_a_network(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    loader = [
        (torch.randn(8, 4), {"time": np.arange(8) + 8 * i, "source": "desk"}) for i in range(3)
    ]
    seen = []
    with memory(tmp_path / "m") as m:
        assert m.watch(model, loader, progress=seen.append) == 24
        assert (seen, len(m)) == ([8, 16, 24], 24)
        assert m.watch(model, loader) == 24
        assert len(m) == 24
        assert len(m.modules) > 0


def test_export_is_readable_without_us(tmp_path):
    with memory(tmp_path / "m") as m:
        s = sketches(7)
        added = m._append(s, np.arange(7)[::-1], "hall", {"lux": 2})
        assert m.export(tmp_path / "all.parquet") == 7
    t = pq.read_table(tmp_path / "all.parquet").sort_by([("time", "descending")])
    assert t["id"].to_pylist() == added.ids
    assert np.array_equal(np.array(t["sketch"].to_pylist(), np.float32), s.values.numpy())
    assert t["skeleton"].to_pylist() == s.skeletons.packed()
    assert t["lux"].to_pylist() == [2.0] * 7
    assert json.loads(t.schema.metadata[b"recollect.recipe"])["dim"] == 64
    assert [e["name"] for e in json.loads(t.schema.metadata[b"recollect.modules"])] == [
        "cat", "dog", "face"
    ]  # fmt: skip


def test_info_counts_every_byte(tmp_path):
    with memory(tmp_path / "m") as m:
        m.add(trace(9), range(9))
        m.fit_prior()
    info = Memory(tmp_path / "m").info()
    total = sum(f.stat().st_size for f in (tmp_path / "m").rglob("*") if f.is_file())
    assert info["bytes"] == total == sum(info["bytes_by_part"].values())
    assert (info["glances"], info["records"], info["priors"]) == (9, 9, [1])
    assert info["numbers_per_glance"] == 6
    assert (info["first"], info["last"]) == (iso(0), iso(8))
    json.dumps(info)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_search_finds_the_true_best(tmp_path, dtype):
    with memory(tmp_path / "m", dtype, 512) as m:
        for seed in range(5):
            m._append(
                sketches(300, seed, dtype, 512), np.arange(300) + 1000 * seed, f"s{seed % 2}"
            )
        table = m.glances()
        ids = np.array(table["id"].to_pylist())
        values = m.sketches().values.numpy()
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        rng = np.random.default_rng(0)
        for where in (None, "source = 's1'", "time < timestamp '1970-01-01 00:00:00.000100'"):
            kept = np.isin(ids, m.glances(where=where)["id"].to_pylist())
            for row in rng.integers(0, 1500, 5):
                query = values[row] + 0.3 * rng.normal(size=512).astype(np.float32) / 22
                found, scores = m.search(query, 5, where=where)
                exact = values @ (query / np.linalg.norm(query))
                exact[~kept] = -2
                best = np.argsort(-exact)[:5]
                assert found[0] == ids[best[0]]
                assert len(set(found.tolist()) & set(ids[best].tolist())) >= 4
                place = [int(np.flatnonzero(ids == i)[0]) for i in found]
                assert scores == pytest.approx(exact[place], abs=1e-5)
        with pytest.raises(ValueError, match="finite and not zero"):
            m.search(np.zeros(512))
        with pytest.raises(ValueError, match="512 numbers"):
            m.search(np.ones(513))
        assert len(m.search(values[0][:256], 3)[0]) == 3


def test_counting_needs_neither_torch_nor_lance(tmp_path):
    with memory(tmp_path / "m") as m:
        m._append(sketches(9), np.arange(9) * HOUR, "hall")
    code = (
        "import sys; from recollect import Memory; r = Memory(sys.argv[1]).rollups();"
        "print(int(r.count('cat').sum()), r.sum.shape, r.by('day').n.tolist(),"
        "[n for n in ('torch', 'lance', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        check=True,
    )
    cats = int(Memory(tmp_path / "m").rollups().count("cat").sum())
    assert done.stdout.strip() == f"{cats} (9, 64) [9] []"


def test_rollups_that_are_out_of_date_say_so(tmp_path):
    with memory(tmp_path / "m") as m:
        m._append(sketches(3), np.arange(3))
        r = m.rollups()
        assert repr(r) == "RollUps(1 windows of one hour, 3 glances)"
        m._append(sketches(3, 1), np.arange(3) + 10)
        with pytest.raises(RuntimeError, match=r"call rollups\(\) again"):
            _ = r.sum
        with pytest.raises(NotRemembered, match="did you mean 'cat'"):
            r.count("cta")
        with pytest.raises(ValueError, match="unit must be one of"):
            r.count("cat", "pounds")
