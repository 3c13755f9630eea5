"""Memories that fade: roll-ups stay as they are, prefixes are prefixes, disks get smaller."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.making import HOUR, memory, sketches

from benchmarks.kill_nine_fading import rounds
from recollect import CorruptMemory, Trace
from recollect.memory import Memory, Retention, policies
from recollect.memory.sums import read_month, write_month
from recollect.memory.tiers import columns_of, kept_of, parts_of, tiers

DIM = 320
POLICY = "full for 10 hours, 100 dims for 20 hours, skeletons for 30 hours, roll-ups for ever"


def filled(path, hours=40, seed=0, each=3, dim=DIM, dtype="int8", channel=0, **options):
    """A memory with a few glances for every hour."""
    m = memory(path, dim=dim, dtype=dtype, channel=channel, **options)
    n = hours * each
    labels = {"hour": [float(i // each) for i in range(n)]}
    made, times = sketches(n, seed, dtype, dim, channel), np.arange(n) * HOUR // each
    m._append(made, times, "hall", labels, np.arange(n))
    return m


def state(m):
    """All that roll-ups know."""
    r = m.rollups()
    channel = None if r.channel is None else r.channel.tolist()
    return r.start.tolist(), r.n.tolist(), r.counts("weight").tolist(), r.sum.tolist(), channel


def same_where_known(m, before):
    """Whether roll-ups are as before, and all numbers of their sums known."""
    return state(m) == before and (m.rollups().kept == m.recipe.dim).all()


# -- the law ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_four_stages_and_roll_ups_do_not_change(tmp_path, dtype):
    m = filled(tmp_path / "m", dtype=dtype)
    before, whole = state(m), sketches(120, 0, dtype, DIM)
    told = m.fade(now=40 * HOUR, policy=POLICY)
    assert (told.faded, told.gone, told.glances) == ({0: 30, 100: 30}, 30, 90)
    assert same_where_known(m, before)
    assert m.verify().ok, m.verify()
    assert len(m) == 90
    assert m.forgotten() == 30
    kept = m.kept(range(30, 120))
    assert kept.tolist() == [0] * 30 + [100] * 30 + [DIM] * 30
    assert m.sketches(ids=range(90, 120)).equal(whole[90:120])
    assert m.sketches(ids=range(60, 90)).equal(whole[60:90].prefix(100))
    assert m.sketches(ids=range(60, 120)).equal(whole[60:120].prefix(100))
    assert m.sketches(ids=range(60, 120), prefix=64).equal(whole[60:120].prefix(64))
    m.close()
    again = Memory(tmp_path / "m")
    assert same_where_known(again, before)
    again.fade(now=1000 * HOUR)
    assert len(again) == 0
    assert again.forgotten() == 120
    assert same_where_known(again, before)
    assert again.verify().ok
    again._engine.close()
    assert same_where_known(Memory(tmp_path / "m", read_only=True), before)


@settings(max_examples=8, deadline=None)
@given(data=st.data(), channel=st.sampled_from([0, 64]))
def test_whatever_happens_roll_ups_are_the_sums_of_whole_sketches(tmp_path_factory, data, channel):
    """A twin that never fades is asked the same; what is not known is said."""
    folder = tmp_path_factory.mktemp("twins")
    ours, twin = (memory(folder / n, dim=DIM, channel=channel) for n in ("m", "twin"))
    policy = "full for 5 hours, 300 dims for 9 hours, 64 dims for 15 hours, roll-ups for ever"
    hour, held = 0, []
    rng = random.Random(data.draw(st.integers(0, 999)))
    for _ in range(12):
        step = rng.choice(["add", "add", "again", "other", "delete", "compact"])
        if step == "add" or not held:
            hour, held = hour + rng.randint(1, 4), [*held, hour]
            for m in (ours, twin):
                times = hour * HOUR + np.arange(4)
                m._append(sketches(4, hour, "int8", DIM, channel), times, ids=range_of(hour))
            held[-1] = hour
        elif step in ("again", "other"):
            which = rng.choice(held[-4:])
            if which in left(ours):
                seed = which + 500 * (step == "other")
                for m in (ours, twin):
                    times = which * HOUR + np.arange(4)
                    m._append(sketches(4, seed, "int8", DIM, channel), times, ids=range_of(which))
        elif step == "delete":
            which = rng.choice(held[-4:])
            if which in left(ours):
                for m in (ours, twin):
                    m.delete(f"id = {which * 10}")
        else:
            ours.compact()
        ours.fade(now=(hour + 1) * HOUR, policy=policy)
        assert ours.verify().ok, ours.verify()
        mine, theirs = ours.rollups(), twin.rollups()
        assert mine.start.tolist() == theirs.start.tolist()
        assert mine.n.tolist() == theirs.n.tolist()
        assert (mine.counts("weight") == theirs.counts("weight")).all()
        known = np.arange(DIM) < mine.kept[:, None]
        assert ((mine.sum == theirs.sum) | ~known).all()
        if channel:
            known = np.arange(channel) < mine.channel_kept[:, None]
            assert ((mine.channel == theirs.channel) | ~known).all()
        if step in ("add", "again", "compact"):
            assert (mine.kept < DIM).sum() <= len(held)
    for m in (ours, twin):
        m._engine.close()


def range_of(hour):
    return range(hour * 10, hour * 10 + 4)


def left(m):
    """Hours of which single glances are left (and were not deleted)."""
    return set((m._engine.rows.index()[1] // HOUR).tolist())


@pytest.mark.parametrize("channel", [0, 128])
def test_the_same_glance_again_is_taken_out_exactly(tmp_path, channel):
    m = filled(tmp_path / "m", channel=channel)
    before = state(m)
    m.fade(now=40 * HOUR, policy="full for 10 hours, 100 dims for ever")
    again = sketches(120, 0, "int8", DIM, channel)[60:70]
    m._append(again, np.arange(60, 70) * HOUR // 3, ids=range(60, 70))
    assert same_where_known(m, before)
    assert (m.kept(range(60, 70)) == DIM).all()
    m.fade(now=40 * HOUR)
    assert same_where_known(m, before)
    assert (m.kept(range(60, 70)) == 100).all()
    m._engine.close()


def test_deleting_a_faded_glance_leaves_the_first_numbers_of_its_hour(tmp_path):
    m, twin = filled(tmp_path / "m"), filled(tmp_path / "twin")
    m.fade(now=40 * HOUR, policy="full for 10 hours, 100 dims for ever")
    for each in (m, twin):
        assert each.delete("id = 30 or id = 119") == 2
    r, exact = m.rollups(), twin.rollups()
    assert r.kept.tolist() == [100 if h == 10 else DIM for h in range(40)]
    assert r.by("day").kept.tolist() == [100, DIM]
    known = np.arange(DIM) < r.kept[:, None]
    assert ((r.sum == exact.sum) | ~known).all()
    assert not r.sum[10, 100:].any()
    assert m.verify().ok
    assert any("of the sums of 1 hours" in line for line in m.info()["told"])
    m._engine.close()
    assert Memory(tmp_path / "m").rollups().kept[10] == 100


def test_windows_that_cut_a_faded_hour_say_what_they_know(tmp_path):
    m = filled(tmp_path / "m")
    m.fade(now=40 * HOUR, policy=POLICY)
    r = m.rollups(since=20 * HOUR + HOUR // 2, until=35 * HOUR + 1)
    assert r.kept.tolist() == [100, *[DIM] * 14, DIM]
    assert r.n[0] == 1
    half = m.rollups(since=5 * HOUR + 1, until=5 * HOUR + 2)
    assert len(half) == 0
    assert m.forgotten(since=5 * HOUR + 1, until=5 * HOUR + 2) == 3
    m._engine.close()


# -- merging ------------------------------------------------------------------------------


def pair(tmp_path, channel):
    """Two memories with other glances, and one that holds all and never fades."""
    parts = [memory(tmp_path / name, dim=DIM, channel=channel) for name in ("a", "b", "all")]
    for seed in (1, 2):
        for m in (parts[seed - 1], parts[2]):
            made, ids = sketches(60, seed, "int8", DIM, channel), np.arange(60) + 100 * seed
            m._append(made, np.arange(60) * HOUR, f"s{seed}", {"x": float(seed)}, ids)
    return parts


@pytest.mark.parametrize("channel", [0, 128])
def test_merging_what_has_faded_is_exact_and_happens_once(tmp_path, channel):
    a, b, both = pair(tmp_path, channel)
    a.fade(now=60 * HOUR, policy=POLICY)
    b.fade(now=55 * HOUR, policy="full for 3 hours, 64 dims for 40 hours, roll-ups for ever")
    assert a.merge(b).added == 45
    for _ in range(2):
        assert same_where_known(a, state(both))
        assert a.verify().ok, a.verify()
        a.merge(b)
    assert set(a.kept(range(200 + 15, 260)).tolist()) == {64, DIM}
    fresh = memory(tmp_path / "fresh", dim=DIM, channel=channel)
    fresh.merge(b)
    assert same_where_known(fresh, state(b))
    for m in (a, b, both, fresh):
        m._engine.close()


def test_a_faded_glance_does_not_replace_a_whole_one(tmp_path):
    a, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    before = state(a)
    other.fade(now=40 * HOUR, policy="full for 10 hours, 100 dims for ever")
    a.merge(other)
    assert same_where_known(a, before)
    assert (a.kept(range(120)) == DIM).all()
    other.merge(a)
    assert same_where_known(other, before)
    assert (other.kept(range(120)) == DIM).all()
    for m in (a, other):
        m._engine.close()


def test_equal_faded_glances_of_two_memories_leave_what_is_known(tmp_path):
    a, b, exact = (filled(tmp_path / n) for n in "abc")
    a.fade(now=40 * HOUR, policy="full for 10 hours, 100 dims for ever")
    b.fade(now=40 * HOUR, policy="full for 10 hours, 64 dims for ever")
    a.merge(b)
    r = a.rollups()
    assert r.kept.tolist() == [64] * 30 + [DIM] * 10
    assert ((r.sum == exact.rollups().sum) | (np.arange(DIM) >= r.kept[:, None])).all()
    assert a.verify().ok
    for m in (a, b, exact):
        m._engine.close()


# -- disks --------------------------------------------------------------------------------


def column_bytes(m):
    """Bytes of the glances on disk that are sketches: the others are written without them."""
    data = m._engine.rows.data()
    return sum(f.file_size_bytes for g in data.get_fragments() for f in g.metadata.files)


def test_fading_to_a_quarter_shrinks_the_disk_as_promised(tmp_path):
    n = 2400
    m = filled(tmp_path / "m", hours=60, each=40, dim=1024)
    m.compact()
    before, disk = column_bytes(m), m.info()["bytes"]
    none = filled(tmp_path / "none", hours=60, each=40, dim=1024)
    none.fade(now=1000 * HOUR, policy="skeletons for ever")
    rest = column_bytes(none)
    told = m.fade(now=1000 * HOUR, policy="full for 1 hour, 256 dims for ever")
    share = (column_bytes(m) - rest) / (before - rest)
    assert 0.24 < share <= 0.27
    assert told.sketch_bytes == (n * 1024, n * 256)
    # Roll-ups do not shrink; beside them the disk gives back what faded.
    assert disk - m.info()["bytes"] > 0.9 * n * 768
    assert told.bytes[1] == m.info()["bytes"]
    for each in (m, none):
        each._engine.close()


def test_compaction_keeps_lengths_apart(tmp_path):
    m = memory(tmp_path / "m", dim=DIM)
    for i in range(12):
        m._append(sketches(3, i, dim=DIM), i * HOUR + np.arange(3), ids=np.arange(3) + 10 * i)
        m.fade(now=(i + 1) * HOUR, policy="full for 3 hours, 100 dims for ever")
    assert len(m._engine.rows.keys()) > 2
    before = state(m)
    m.compact()
    assert m._engine.rows.keeps() == [100, DIM]
    assert state(m) == before
    assert m.verify().ok
    times = m._engine.rows.index()[1]
    assert (np.diff(times) > 0).all()
    m._engine.close()


@pytest.mark.parametrize("cuts", [(), (200,), (100, 200)])
def test_sums_leave_out_runs_of_zeros(tmp_path, cuts):
    rng = np.random.default_rng(0)
    sums = rng.integers(-(2**40), 2**40, (5, 300))
    sums[1, 100:] = 0
    sums[2, :150] = 0
    sums[3] = 0
    if cuts:  # a channel behind the sketch: a run of zeros at the end of either
        sums[4, 64:200] = sums[4, 264:] = 0
    with (tmp_path / "f").open("wb") as file:
        write_month(file, np.arange(5), sums, cuts)
    with (tmp_path / "f").open("rb") as file:
        hours, back = read_month(file)
    assert hours.tolist() == list(range(5))
    assert (back == sums).all()
    assert (tmp_path / "f").stat().st_size < 8 * 300 * (3 if cuts else 4) + 2000


def test_files_of_the_first_releases_are_read(tmp_path):
    sums = np.array([[4, -8], [2**40, 0]])
    with (tmp_path / "f").open("wb") as file:
        for array in (np.array([3, 9]), np.array([4, 2**40]), np.array([0, 0], np.int8)):
            np.save(file, array)
        np.save(file, np.array([[1, -2], [1, 0]], np.int8))
        for kind in (np.int16, np.int32, np.int64):
            np.save(file, np.zeros((0, 2), kind))
    with (tmp_path / "f").open("rb") as file:
        hours, back = read_month(file)
    assert hours.tolist() == [3, 9]
    assert (back == sums).all()


def test_columns_of_prefixes():
    for dim in (64, 256, 320, 1024, 2048):
        known = [*tiers(dim), "s1-100", "s0-64", "id"]
        for keep in (0, 1, 64, 255, 256, 257, 1000, dim):
            if keep <= dim:
                columns = columns_of(keep, dim)
                assert sum(p.stop - p.start for p in columns.values()) == keep
                assert kept_of(columns, known, dim) == keep
    assert parts_of("s0", ["s0-64", "s1-64", "s0"]) == {"s0-64": 64}


# -- the policy of a memory ---------------------------------------------------------------


def test_a_policy_is_kept_changed_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "_now", lambda: 40 * HOUR)
    m = filled(tmp_path / "m", retention=POLICY)
    assert m.retention == Retention(POLICY)
    assert json.loads((tmp_path / "m" / "meta.json").read_text())["retention"] == str(m.retention)
    m.close()  # a writer that closes fades
    m = Memory(tmp_path / "m")
    assert m.retention == Retention(POLICY)
    assert (len(m), m.forgotten()) == (90, 30)
    m.close()
    longer = "full for 15 hours, skeletons for 30 hours, roll-ups for ever"
    with pytest.raises(ValueError, match=r"would grow data.*asks for more than is kept of 15 "):
        Memory(tmp_path / "m", retention=longer)
    with pytest.raises(ValueError, match="that are left in roll-ups only"):
        m.fade(policy="full for 10 hours, 100 dims for 20 hours, skeletons for ever")
    assert m.retention == Retention(POLICY)
    shorter = "full for 5 hours, 64 dims for 20 hours, roll-ups for ever"
    assert m.fade(policy=shorter, dry_run=True).glances == 75
    assert m.retention == Retention(POLICY)
    assert m.fade(policy=shorter).glances == 75
    assert m.retention == Retention(shorter)
    m.close()
    with Memory(tmp_path / "m", retention="off") as m:
        assert m.retention is None
        with pytest.raises(ValueError, match="has no retention policy; give one"):
            m.fade()
        assert len(m) == 60


def test_what_close_does_not_fade(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "_now", lambda: 10_000 * HOUR)
    m = filled(tmp_path / "m")
    m.fade(now=40 * HOUR, policy=POLICY)
    m.close()  # faded once, by a clock that was given
    with Memory(tmp_path / "m") as m:
        assert len(m) == 90  # only read
    with Memory(tmp_path / "m", read_only=True) as m, pytest.raises(OSError, match="read_only"):
        m.fade()


def test_bad_policies_make_no_memory(tmp_path):
    with pytest.raises(ValueError, match="asks for 1024 numbers of sketches that have 320"):
        memory(tmp_path / "m", dim=DIM, retention="full for 1 day, 1024 dims for ever")
    with pytest.raises(ValueError, match="cannot be read"):
        memory(tmp_path / "m", dim=DIM, retention="some for a while")
    assert not (tmp_path / "m").exists()
    m = filled(tmp_path / "m", hours=2)
    with pytest.raises(ValueError, match="asks for 1024"):
        m.fade(policy="full for 1 day, 1024 dims for ever")
    m.close()


def test_bad_questions_to_a_faded_memory(tmp_path):
    m = filled(tmp_path / "m")
    m.fade(now=40 * HOUR, policy=POLICY)
    with pytest.raises(ValueError, match=r"128 numbers are asked for, but 30 .* keeps 100"):
        m.sketches(ids=range(60, 100), prefix=128)
    with pytest.raises(ValueError, match=f"glance 30 keeps 0 of {DIM}"):
        m.sketches(ids=[30])
    with pytest.raises(ValueError, match=r"3 of these glances fall into hours .* merge it"):
        m._append(sketches(4, 9, dim=DIM), np.array([1, 2, 3, 500 * HOUR]))
    assert len(m) == 90
    m._engine.close()


def test_a_policy_that_changes_nothing(tmp_path):
    m = filled(tmp_path / "m")
    files = sorted((tmp_path / "m" / "glances.lance").rglob("*"))
    told = m.fade(now=40 * HOUR, policy="full for ever")
    assert told.glances == 0
    assert repr(told) == "nothing has faded (keep full for ever)"
    assert sorted((tmp_path / "m" / "glances.lance").rglob("*")) == files
    with memory(tmp_path / "empty", dim=DIM, retention=POLICY) as empty:
        assert empty.fade().glances == 0
    m.close()


# -- what is said ---------------------------------------------------------------------------


def test_what_was_forgotten_is_said(tmp_path):
    m = filled(tmp_path / "m")
    assert m.info()["told"] == []
    told = m.fade(now=40 * HOUR, policy=POLICY)
    assert "30 glances now keep 100 numbers of their sketch" in repr(told)
    assert "30 glances now keep no sketch, but their structure" in repr(told)
    assert "30 glances now keep their share of the roll-ups only" in repr(told)
    info = m.info()
    assert info["numbers_kept"] == {"320": 30, "100": 30, "0": 30}
    assert info["forgotten"] == 30
    assert info["retention"] == str(Retention(POLICY))
    assert info["bytes_by_part"]["forgotten"] > 0
    said = repr(m.verify())
    for line in info["told"]:
        assert line in said
    assert "30 glances have faded: they keep 100 of 320 numbers" in said
    assert "30 glances are left in roll-ups only" in said
    m.export(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert sorted(table["kept"].to_pylist()) == [0] * 30 + [100] * 30 + [DIM] * 30
    m._engine.close()


def test_records_go_with_their_glance_and_a_prior_stays(tmp_path):
    torch = pytest.importorskip("torch")

    m = memory(tmp_path / "m", dim=64, reservoir=8)
    t = Trace.from_columns({"eye": torch.randn(30, 3, generator=torch.Generator().manual_seed(0))})
    m.add(t, np.arange(30) * HOUR, ids=range(30))
    m.fade(now=30 * HOUR, policy="full for 10 hours, roll-ups for ever")
    ids, _ = m.records()
    assert set(ids) <= set(range(20, 30))
    assert m.prior_versions == [1]
    assert m.prior().num_glances == 8
    m._engine.close()


# -- damage and interruptions -----------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_kill_nine_while_fading(tmp_path):
    turns = list(rounds(tmp_path, 2, 0.06, seed=2))
    assert [problems for *_, problems in turns] == [[], []]


@pytest.mark.parametrize("step", ["prepare", "rewrite", "settle", "clean", "save"])
def test_an_interruption_at_any_step_leaves_one_state_or_the_other(tmp_path, monkeypatch, step):
    from recollect.memory import fading
    from recollect.memory.engine import Engine
    from recollect.memory.forgotten import Forgotten
    from recollect.memory.rows import Rows

    m = filled(tmp_path / "m")
    before = state(m)
    owner = {"prepare": Forgotten, "rewrite": fading, "settle": Forgotten, "clean": Rows,
             "save": Engine}[step]  # fmt: skip

    def fail(*given, **more):
        raise OSError("pulled the plug")

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="pulled the plug"):
        m.fade(now=40 * HOUR, policy=POLICY)
    monkeypatch.undo()
    committed = step in ("settle", "clean", "save")
    states = (tmp_path / "m" / "forgotten").glob("*.npz")
    assert all(int(path.stem) <= m._engine.rows.version for path in states)
    other = Memory(tmp_path / "m", read_only=True)  # what a reader finds, the writer still open
    assert len(other) == len(m) == (90 if committed else 120)
    for each in (other, m):
        assert same_where_known(each, before)
        assert each.verify().ok, each.verify()
    m.fade(now=40 * HOUR)
    assert same_where_known(m, before)
    assert len(m) == 90
    assert len(list((tmp_path / "m" / "forgotten").glob("*.npz"))) == 1
    m._engine.close()


def test_a_state_that_a_killed_writer_left_does_not_count(tmp_path):
    m = filled(tmp_path / "m")
    m.fade(now=40 * HOUR, policy=POLICY)
    before, version = state(m), m._engine.rows.version
    m._engine.close()
    home = tmp_path / "m" / "forgotten"
    mine = sorted(home.glob("*.npz"))
    (home / f"{version + 1:012d}.npz").write_bytes(b"half a state")
    assert same_where_known(Memory(tmp_path / "m"), before)
    m = Memory(tmp_path / "m")
    m.delete("id = 119")
    assert m.verify().ok
    assert len(m.rollups()) == 40
    m._engine.close()
    assert sorted(home.glob("*.npz")) == mine


def test_lost_or_damaged_states_are_told(tmp_path):
    m = filled(tmp_path / "m")
    m.fade(now=40 * HOUR, policy=POLICY)
    m._engine.close()
    home = tmp_path / "m" / "forgotten"
    sums = next(home.glob("sums-*"))
    genuine = sums.read_bytes()
    sums.write_bytes(genuine[:-1] + b"x")
    assert any("is damaged; restore it" in p for p in Memory(tmp_path / "m").verify().problems)
    sums.unlink()
    with pytest.raises(CorruptMemory, match=sums.name):
        Memory(tmp_path / "m")
    sums.write_bytes(genuine)
    assert Memory(tmp_path / "m").verify().ok
    index = next(home.glob("*.npz"))
    state_bytes = index.read_bytes()
    index.write_bytes(b"nothing")
    with pytest.raises(CorruptMemory, match="is damaged; restore it from a copy"):
        Memory(tmp_path / "m")
    index.unlink()
    with pytest.raises(CorruptMemory, match=index.name):
        Memory(tmp_path / "m")
    (tmp_path / "m" / "rollups" / "hours.npz").unlink()
    with pytest.raises(CorruptMemory, match="forgotten is missing"):
        Memory(tmp_path / "m")
    index.write_bytes(state_bytes)
    assert Memory(tmp_path / "m").verify().ok


def test_a_reader_follows_a_memory_that_fades(tmp_path):
    m = filled(tmp_path / "m")
    reader = Memory(tmp_path / "m", read_only=True)
    before = state(reader)
    assert len(reader.search(np.ones(DIM), 3)[0]) == 3
    m.fade(now=40 * HOUR, policy=POLICY)
    assert same_where_known(reader, before)
    assert len(reader) == 90
    assert len(reader.sketches(ids=range(90, 120))) == 30
    m.fade(now=60 * HOUR)
    assert same_where_known(reader, before)
    assert len(reader) == 30
    m._engine.close()


# -- a lost tier ----------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["s0", "s1"])
def test_a_memory_that_lost_a_tier_answers_from_the_others(tmp_path, tier):
    m = filled(tmp_path / "m", hours=20, dim=1088, each=20)
    whole, before = sketches(400, 0, dim=1088), state(m)
    m.close()
    m._engine.rows.data().drop_columns([tier])
    m = Memory(tmp_path / "m")
    assert state(m) == before  # roll-ups hold what the rows have lost
    part = tiers(1088)[tier]
    left = [i for i in range(1088) if not part.start <= i < part.stop]
    assert m.sketches(ids=range(400)).equal(whole.masked(left))
    assert any(f"column {tier} of the sketches is gone" in p for p in m.verify().problems)
    values = whole.values[7].numpy().copy()
    ids, scores = m.search(values, 1)
    assert (ids[0], round(float(scores[0]), 5)) == (7, 1.0)
    m._append(sketches(5, 77, dim=1088), np.arange(5), ids=np.arange(5) + 1000)
    assert m.sketches(ids=range(1000, 1005)).equal(sketches(5, 77, dim=1088).masked(left))
    m._engine.close()


# -- search -----------------------------------------------------------------------------------


def test_search_compares_what_is_kept(tmp_path):
    m = filled(tmp_path / "m", hours=300)
    m.fade(now=300 * HOUR, policy="full for 60 hours, 100 dims for 200 hours, skeletons for ever")
    kept = m.kept(range(900))
    values = sketches(900, 0, dim=DIM).values.numpy()
    query = values[700] + values[400] + values[100]
    ids, scores = m.search(query, 40)
    assert set(ids[:2].tolist()) == {700, 400}
    assert 100 not in ids  # keeps no sketch
    for number, score in zip(ids.tolist(), scores.tolist(), strict=True):
        k = kept[number]
        a, b = query[:k], values[number, :k]
        assert score == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    cosines = np.full(900, -2.0)
    for number in np.flatnonzero(kept):
        a, b = query[: kept[number]], values[number, : kept[number]]
        cosines[number] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert set(ids.tolist()) == set(np.argsort(-cosines)[:40].tolist())
    short, _ = m.search(values[400, :64], 3)
    assert short[0] == 400
    m._engine.close()


# -- the distribution channel -----------------------------------------------------------------


def test_the_channel_fades_with_its_sketch(tmp_path):
    """Of a glance that keeps 100 of 320 numbers the channel keeps 40 of 128, then nothing."""
    m = filled(tmp_path / "m", channel=128)
    before, whole = state(m), sketches(120, 0, "int8", DIM, 128).channel
    told = m.fade(now=40 * HOUR, policy=POLICY)
    assert told.sketch_bytes == (120 * (DIM + 128), 30 * (DIM + 128) + 30 * (100 + 40))
    assert same_where_known(m, before)
    assert (m.rollups().channel_kept == 128).all()
    assert m.verify().ok, m.verify()
    assert any("100 of 320 numbers, 40 of 128 of the distribution" in x for x in m.info()["told"])
    assert m.channels(ids=range(90, 120)).equal(whole[90:120])
    assert m.channels(ids=range(60, 70)).equal(whole[60:70].prefix(40))
    assert m.channels(since=20 * HOUR).equal(whole[60:120].prefix(40))
    with pytest.raises(ValueError, match="30 of these glances have faded and keep nothing of the"):
        m.channels()
    with pytest.raises(ValueError, match="not both"):
        m.channels(ids=[60], where="id = 60")
    m.close()
    again = Memory(tmp_path / "m")
    assert same_where_known(again, before)
    again.compact()
    again.fade(now=1000 * HOUR)
    assert same_where_known(again, before)
    assert again.verify().ok
    again._engine.close()


def test_deleting_a_faded_glance_leaves_the_first_numbers_of_the_channel(tmp_path):
    m, twin = (filled(tmp_path / n, channel=128) for n in ("m", "twin"))
    m.fade(now=40 * HOUR, policy="full for 10 hours, 100 dims for ever")
    for each in (m, twin):
        each.delete("id = 30")
    r, exact = m.rollups(), twin.rollups()
    assert r.channel_kept.tolist() == [40 if h == 10 else 128 for h in range(40)]
    known = np.arange(128) < r.channel_kept[:, None]
    assert ((r.channel == exact.channel) | ~known).all()
    assert not r.channel[10, 40:].any()
    assert m.verify().ok
    m._engine.close()


def test_the_columns_of_a_channel_shrink_too(tmp_path):
    m, none = (filled(tmp_path / n, 60, each=40, dim=1024, channel=256) for n in ("m", "none"))
    m.compact()
    before, disk = column_bytes(m), m.info()["bytes"]
    none.fade(now=1000 * HOUR, policy="skeletons for ever")
    m.fade(now=1000 * HOUR, policy="256 dims for ever")
    rest = column_bytes(none)
    assert 0.24 < (column_bytes(m) - rest) / (before - rest) <= 0.27
    # What roll-ups hold stands on disk once, however it is divided.
    assert disk - m.info()["bytes"] > 0.9 * 2400 * (768 + 192)
    for each in (m, none):
        each._engine.close()
