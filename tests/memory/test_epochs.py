"""Epochs on disk: old sketches stay, sums are kept apart, and everything follows both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.memory.epochs_made import (
    ALL,
    DIM,
    HOUR,
    IDS,
    LATER,
    NEW,
    OLD,
    START,
    TIMES,
    USUAL,
    begun,
    glances,
    plain,
    two_epochs,
    usual,
)

from recollect import CorruptMemory, Memory, Object, Prior, RecipeMismatch, Sketcher, Trace
from recollect.memory.migrations import FORMAT, migrate
from recollect.sketching import InformedSketcher


def sums_of(memory, epoch):
    """Sums of an epoch's sketches, hour by hour, from the rows."""
    ids = IDS[(memory.epoch_of(IDS) == epoch)]
    fixed = memory.sketches(ids=ids).fixed_point().numpy()
    out = np.zeros((len(memory.rollups()), DIM), np.int64)
    np.add.at(out, (TIMES[ids] - START) // HOUR, fixed)
    return out


# -- what is stored -------------------------------------------------------------------------


def test_old_sketches_stay_and_new_ones_are_those_of_the_informed_sketcher(tmp_path):
    with begun(tmp_path / "m") as memory:
        before = memory.sketches()
        memory.add(NEW, TIMES[USUAL:], "room", ids=IDS[USUAL:])
        epoch = memory.epochs[1]
        assert (epoch.prior, epoch.glances, epoch.informed) == (1, USUAL, True)
    with Memory(tmp_path / "m", read_only=True) as memory:
        assert memory.epochs[1] == epoch
        assert memory.sketches(ids=IDS[:USUAL]).equal(before)
        assert plain(memory).encode(OLD).codes.equal(before.codes)
        twin = InformedSketcher(memory.prior(1), DIM, scales=plain(memory).scales)
        stored = memory.sketches(ids=IDS[USUAL:])
        assert stored.equal(twin.encode(NEW))
        mine, theirs = memory.sketcher_of(1).decode(stored), twin.decode(stored)
        for name, c in mine.trace.columns.items():
            assert torch.equal(c.attributes, theirs.trace.columns[name].attributes)
            assert torch.equal(mine.deviations.columns[name].attributes,
                               theirs.deviations.columns[name].attributes)  # fmt: skip
        assert memory.skeleton_counts().count("two").tolist() == [1.0] * len(IDS)


def test_roll_ups_hold_one_sum_for_each_epoch(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        rollups = memory.rollups()
        assert rollups.epochs == [0, 1]
        assert rollups.n.sum() == len(IDS)
        for epoch, number in ((0, USUAL), (1, LATER)):
            found = rollups.of_epoch(epoch)
            assert found.n.sum() == number
            assert np.array_equal(found.sum, sums_of(memory, epoch))
        days = rollups.by("all")
        assert np.array_equal(days.of_epoch(1).sum[0], sums_of(memory, 1).sum(0))
        assert days.count("one").tolist() == [len(IDS)]
        with pytest.raises(ValueError, match=r"epoch 1.*sums of epochs do not mix"):
            _ = rollups.sum
        early = memory.rollups(until=int(TIMES[64]))
        assert early.epochs == [0]
        assert early.sum.shape == (8, DIM)
        # Where a window cuts the hour in which both epochs stand, it is counted from glances.
        cut = memory.rollups(since=int(TIMES[USUAL - 3]), until=int(TIMES[USUAL + 3]))
        assert [cut.of_epoch(e).n.sum() for e in (0, 1)] == [3, 3]


def test_two_epochs_in_one_hour_keep_their_sums(tmp_path):
    with begun(tmp_path / "m") as memory:
        memory.add(NEW, START, ids=IDS[USUAL:])
        first = memory.rollups()
        assert first.n[0] == 8 + LATER
        assert [first.of_epoch(e).n[0] for e in (0, 1)] == [8, LATER]
        sketches = memory.sketches(ids=IDS[USUAL:])
        assert np.array_equal(first.of_epoch(1).sum[0], sketches.sum().codes[0].numpy())


def test_an_id_that_comes_again_moves_to_the_new_epoch(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        added = memory.add(OLD[:10], TIMES[:10], "hall", ids=IDS[:10])
        assert (added.added, added.replaced) == (0, 10)
        assert memory.epoch_of(IDS[:12]).tolist() == [1] * 10 + [0] * 2
        assert memory.rollups().of_epoch(1).n.sum() == LATER + 10
        assert memory.verify().ok, memory.verify()


def test_deleting_follows_in_both_epochs(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        assert memory.delete(f"id % 3 = 0 AND id < {USUAL} OR kind = 'late' AND id % 2 = 1") == 70
        left = memory.rollups()
        assert [left.of_epoch(e).n.sum() for e in (0, 1)] == [80, 30]
        memory.compact()
        assert memory.verify().ok, memory.verify()
    (tmp_path / "m/rollups/hours.npz").unlink()
    with Memory(tmp_path / "m") as memory:
        again = memory.rollups()
        assert [again.of_epoch(e).n.sum() for e in (0, 1)] == [80, 30]
        for epoch in (0, 1):
            assert np.array_equal(again.of_epoch(epoch).sum, left.of_epoch(epoch).sum)


def test_more_epochs_and_back_to_the_first_recipe(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        assert memory.new_epoch(informed=False).recipe == memory.recipe
        again = memory.new_epoch(prior=1, share=0.5)
        assert (again.recipe.leading, again.prior) == (64, 1)
        memory.add(glances(4, 5), START, ids=range(800, 804))
        memory.new_epoch(informed=False)
        wide = {k: c.attributes for k, c in glances(6, 3).columns.items()}
        wide["fresh"] = torch.ones(6, 4)
        memory.add(Trace.from_columns(wide), START, ids=range(900, 906))
        with pytest.raises(ValueError, match="'fresh' is known to the memory, but not to the pri"):
            memory.new_epoch(prior=1)
    with Memory(tmp_path / "m") as memory:
        assert [e.number for e in memory.epochs] == [0, 1, 2, 3, 4]
        assert len(memory.recipes) == 2  # a half of 128 leads with as many as three quarters do
        assert memory.epoch_of([0, USUAL, 800, 900]).tolist() == [0, 1, 3, 4]
        # Sketches of one recipe are one table, whatever the epochs.
        both = memory.sketches(ids=[USUAL, 800])
        assert both.recipe == memory.epochs[3].recipe
        assert len(both) == 2
        assert [memory.rollups().of_epoch(e).n.sum() for e in range(5)] == [USUAL, LATER, 0, 4, 6]
        assert memory.verify().ok


# -- fading, merging, export ----------------------------------------------------------------


def test_fading_keeps_roll_ups_and_prefixes_of_both_epochs(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        before = memory.rollups()
        sums = [before.of_epoch(e).sum.copy() for e in (0, 1)]
        whole = memory.sketches(ids=IDS[USUAL:])
        now = int(TIMES[-1]) + 40 * 24 * HOUR
        memory.fade(np.datetime64(now, "us"), "full for 10 days, 64 dims for a year, "
                    "roll-ups for ever")  # fmt: skip
        assert set(memory.kept(IDS)) == {64}
        assert torch.equal(memory.sketches(ids=IDS[USUAL:]).codes, whole.codes[:, :64])
        after = memory.rollups()
        for e in (0, 1):
            assert np.array_equal(after.of_epoch(e).sum, sums[e])
            assert np.array_equal(after.of_epoch(e).n, before.of_epoch(e).n)
        assert memory.verify().ok, memory.verify()
        later = now + 400 * 24 * HOUR
        memory.fade(np.datetime64(later, "us"))
        assert len(memory) == 0
        assert memory.forgotten() == len(IDS)
        gone = memory.rollups()
        for e in (0, 1):
            assert np.array_equal(gone.of_epoch(e).sum, sums[e])
        assert gone.count("three").sum() == len(IDS)


def test_a_faded_glance_deleted_narrows_its_hour_in_both_epochs(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        memory.add(glances(1, 4), TIMES[USUAL - 1], ids=[700])  # both epochs in one hour
        now = int(TIMES[-1]) + 40 * 24 * HOUR
        memory.fade(np.datetime64(now, "us"), "full for 10 days, 64 dims for ever")
        memory.delete("id = 700")
        rollups = memory.rollups()
        hour = int((TIMES[USUAL - 1] - START) // HOUR)
        assert rollups.kept[hour] == 64
        assert (np.delete(rollups.kept, hour) == DIM).all()
        for epoch in (0, 1):
            assert not rollups.of_epoch(epoch).sum[hour, 64:].any()
        assert rollups.of_epoch(0).sum[hour, :64].any()
        assert not rollups.of_epoch(1).sum[hour].any()
        assert memory.verify().ok, memory.verify()


def test_merging_adds_epoch_by_epoch_in_any_order(tmp_path):
    """Two halves merged, either way round, are bit for bit what one memory of all holds."""
    whole = two_epochs(tmp_path / "whole", read_only=True)
    for first, second in ((0, 1), (1, 0)):
        for half in (first, second):
            with two_epochs(tmp_path / f"{first}{half}") as memory:
                memory.delete(f"id % 2 = {1 - half}")
        with (
            Memory(tmp_path / f"{first}{first}") as memory,
            Memory(tmp_path / f"{first}{second}", read_only=True) as other,
        ):
            assert memory.merge(other).added == len(IDS) // 2
            assert memory.epoch_of(IDS).tolist() == [0] * USUAL + [1] * LATER
            assert memory.verify().ok, memory.verify()
            for epoch in (0, 1):
                assert np.array_equal(
                    memory.rollups().of_epoch(epoch).sum, whole.rollups().of_epoch(epoch).sum
                )
            assert memory.sketches(ids=IDS[USUAL:]).equal(whole.sketches(ids=IDS[USUAL:]))


def test_merging_what_has_faded_keeps_epochs_apart(tmp_path):
    with two_epochs(tmp_path / "a") as a, two_epochs(tmp_path / "b") as b:
        sums = [b.rollups().of_epoch(e).sum.sum(0) for e in (0, 1)]
        now = np.datetime64(int(TIMES[-1]) + 40 * 24 * HOUR, "us")
        b.fade(now, "full for 10 days, roll-ups for ever")
        a.delete("true")
        a.merge(b)
        for e in (0, 1):
            assert np.array_equal(a.rollups().of_epoch(e).sum.sum(0), sums[e])
        assert a.rollups().of_epoch(1).n.sum() == LATER


def test_a_memory_without_the_epoch_refuses_and_can_take_it_over(tmp_path):
    with two_epochs(tmp_path / "a") as a:
        with Memory(tmp_path / "b", plain(a), reservoir=10) as b:
            with pytest.raises(RecipeMismatch, match=r"an epoch that .*new_epoch\(like=other\)"):
                b.merge(a)
            assert len(b) == 0
            assert b.new_epoch(like=a).recipe == a.epochs[1].recipe
            b.add(glances(5, 8), START, ids=range(500, 505))
            b.merge(a)
            assert b.epoch_of([500, 0, USUAL]).tolist() == [1, 0, 1]
            assert b.sketches(ids=IDS[USUAL:]).equal(a.sketches(ids=IDS[USUAL:]))
            assert b.rollups().of_epoch(1).n.sum() == LATER + 5
            assert b.verify().ok
        a.merge(Memory(tmp_path / "b", read_only=True))
        assert a.rollups().of_epoch(1).n.sum() == LATER + 5
        with (
            Memory(tmp_path / "c", Sketcher(dim=DIM)) as c,
            pytest.raises(ValueError, match=r"newest epoch of .* is not informed"),
        ):
            c.new_epoch(like=c)


def test_export_tells_the_epoch(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        memory.export(tmp_path / "all.parquet")
        table = pq.read_table(tmp_path / "all.parquet")
        by_id = dict(zip(table["id"].to_pylist(), table["epoch"].to_pylist(), strict=True))
        assert by_id == {i: int(i >= USUAL) for i in IDS.tolist()}
        told = json.loads(table.schema.metadata[b"recollect.epochs"])
        assert [e["number"] for e in told] == [0, 1]
        assert told[1]["prior"] == 1
        assert memory.info()["epochs"][1]["glances"] == LATER


# -- formats, other processes, killed writers -----------------------------------------------


def test_older_formats_are_one_epoch_and_become_new_when_one_begins(tmp_path):
    path = tmp_path / "m"
    usual(path).close()
    meta = json.loads((path / "meta.json").read_text())
    assert (meta["format"], meta["epochs"]) == (FORMAT, [])
    assert FORMAT == 3
    old = {k: v for k, v in meta.items() if k != "epochs"} | {"format": 2}
    assert migrate(path, dict(old)) == meta
    (path / "meta.json").write_text(json.dumps(old))
    with np.load(path / "rollups/hours.npz") as file:
        known = {k: file[k] for k in file.files if not k.startswith("later")}
    np.savez(path / "rollups/hours.npz", **known)
    with Memory(path, read_only=True) as memory:
        assert len(memory.epochs) == 1
        assert memory.rollups().n.sum() == USUAL
    with Memory(path) as memory:
        memory.fit_prior()
        assert json.loads((path / "meta.json").read_text())["format"] == 2
        memory.new_epoch()
        assert json.loads((path / "meta.json").read_text())["format"] == 3
        memory.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:])
        assert memory.verify().ok


def test_a_reader_that_is_open_follows(tmp_path):
    path = tmp_path / "m"
    with usual(path) as memory, Memory(path, read_only=True) as reader:
        assert reader.rollups().epochs == [0]
        memory.new_epoch()
        memory.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:])
        assert reader.rollups().of_epoch(1).n.sum() == LATER
        assert reader.sketches(ids=IDS[USUAL:]).equal(memory.sketches(ids=IDS[USUAL:]))


def test_a_writer_that_was_open_writes_into_the_epoch_that_another_began(tmp_path):
    path = tmp_path / "m"
    usual(path).close()
    first, second = Memory(path), Memory(path)
    first.new_epoch()
    first.close()
    second.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:])
    assert second.epoch_of(IDS[USUAL:]).tolist() == [1] * LATER
    second.close()


@pytest.mark.parametrize("step", ["keep", "make_room_for_epochs", "write_json"])
def test_an_interruption_leaves_the_old_epochs_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "m"
    with usual(path) as memory:
        place = {"keep": memory._informed, "make_room_for_epochs": memory._engine,
                 "write_json": memory._folder}[step]  # fmt: skip
        real = getattr(place, step)

        def stop(*arguments):
            if step == "make_room_for_epochs":
                real(*arguments)  # the column is there, but no epoch
            raise KeyboardInterrupt

        monkeypatch.setattr(place, step, stop)
        with pytest.raises(KeyboardInterrupt):
            memory.new_epoch()
        monkeypatch.undo()
        assert len(memory.epochs) == 1
        memory.add(NEW[:5], TIMES[USUAL : USUAL + 5], ids=IDS[USUAL : USUAL + 5])
        assert memory.epoch_of(IDS[: USUAL + 5]).tolist() == [0] * (USUAL + 5)
        assert memory.verify().ok
        memory.new_epoch()
        memory.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:])
        assert memory.epoch_of(IDS[USUAL:]).tolist() == [1] * LATER
        assert memory.verify().ok, memory.verify()


KILLED = """
import sys
from tests.memory.epochs_made import *
memory = begun(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    memory.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:] + 1000 * number)
    number += 1
    print(number, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_loses_nothing_of_either_epoch(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "m")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.getcwd()])},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(4)]
        child.kill()
        lines += child.stdout.read().split()
    acknowledged = int(lines[-1])
    with Memory(tmp_path / "m") as memory:
        assert memory.verify().ok, memory.verify()
        n = [int(memory.rollups().of_epoch(e).n.sum()) for e in (0, 1)]
        assert n[0] == USUAL
        assert n[1] // LATER in (acknowledged, acknowledged + 1)


def test_lost_and_damaged_files_are_told(tmp_path):
    path = tmp_path / "m"
    two_epochs(path).close()
    basis = path / "epochs/epoch-0001.npz"
    whole = basis.read_bytes()
    basis.write_bytes(whole[: len(whole) // 2])
    with Memory(path) as memory:
        assert any("epoch-0001.npz is missing or damaged" in p for p in memory.verify().problems)
        with pytest.raises(CorruptMemory, match="missing or damaged; it holds the directions"):
            memory.sketcher_of(1)
        with pytest.raises(CorruptMemory, match="restore it from a copy"):
            memory.add(NEW, START, ids=IDS[USUAL:])
        assert len(memory) == len(IDS)
    basis.write_bytes(whole)
    (path / "priors/prior-0001.npz").rename(path / "priors/kept")
    with Memory(path, read_only=True) as memory:
        problems = memory.verify().problems
        assert problems == ["priors/prior-0001.npz is missing, on which epoch 1 stands"]
        # The directions are kept, not computed from the prior: what is stored stays readable.
        later = Prior.fit(glances(200, 9))
        read = memory.sketcher_of(1).decode(memory.sketches(ids=IDS[USUAL:]), prior=later)
        true = NEW.columns["two"].attributes
        error = (read.trace.columns["two"].attributes - true).square().sum()
        assert error < 0.3 * (true - true.mean(0)).square().sum()
    meta = json.loads((path / "meta.json").read_text())
    meta["epochs"][0]["number"] = 4
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CorruptMemory, match="not numbered through"):
        Memory(path)


def test_directions_of_another_epoch_are_refused(tmp_path):
    path = tmp_path / "m"
    with two_epochs(path) as memory:
        memory.new_epoch(prior=Prior.fit(glances(90, 4)))
    (path / "epochs/epoch-0002.npz").replace(path / "epochs/epoch-0001.npz")
    with Memory(path) as memory:
        assert len(memory.sketches(ids=IDS[USUAL:])) == LATER
        with pytest.raises(RecipeMismatch, match="are not those of the recipe"):
            memory.sketcher_of(1)


# -- refusals -------------------------------------------------------------------------------


def test_what_cannot_begin_is_refused(tmp_path):
    with Memory(tmp_path / "m", Sketcher(dim=DIM), reservoir=USUAL) as memory:
        with pytest.raises(ValueError, match="keeps no prior yet"):
            memory.new_epoch()
        memory.add(OLD, TIMES[:USUAL], ids=IDS[:USUAL])
        with pytest.raises(ValueError, match="keeps no prior yet"):
            memory.new_epoch()
        few = Prior.fit(OLD[:40])
        with pytest.raises(ValueError, match=r"this prior holds 40 glances.*needs 65"):
            memory.new_epoch(prior=few)
        columns = {k: c.attributes for k, c in OLD.columns.items()}
        wrong = Prior.fit(Trace.from_columns({**columns, "two": columns["two"][:, :7]}))
        with pytest.raises(ValueError, match=r"module 'two' with attributes of 7 numbers.*50"):
            memory.new_epoch(prior=wrong)
        less = Prior.fit(Trace.from_columns({k: columns[k] for k in ("one", "two")}))
        with pytest.raises(ValueError, match="'three' is known to the memory, but not to the pri"):
            memory.new_epoch(prior=less)
        more = Prior.fit(Trace.from_columns({**columns, "other": columns["two"]}))
        with pytest.raises(ValueError, match="'other' is known to the prior, but not here"):
            memory.new_epoch(prior=more)
        loose = Trace.from_objects([[Object("cat", [float(i)])] * (i % 2) for i in range(100)])
        with pytest.raises(ValueError, match="'cat' is not in every glance of the prior"):
            memory.new_epoch(prior=Prior.fit(loose))
        with pytest.raises(ValueError, match=r"share must lie between 0 and 1, got 1\.5"):
            memory.new_epoch(prior=Prior.fit(OLD), share=1.5)
        with pytest.raises(KeyError, match="no prior of version 7"):
            memory.new_epoch(prior=7)
        with pytest.raises(ValueError, match="nothing would change: epoch 0"):
            memory.new_epoch(informed=False)
        assert memory.prior_versions == []
        assert len(memory.epochs) == 1
        assert not (tmp_path / "m/epochs").exists()
        memory.fit_prior()
        memory.new_epoch()
        with pytest.raises(ValueError, match="nothing would change: epoch 1"):
            memory.new_epoch()
        for trace, said in (
            (Trace.from_columns({**columns, "other": columns["two"]}), r"informed=False\)"),
            (Trace.from_columns({"one": columns["one"]}), "but not of this trace"),
        ):
            with pytest.raises(ValueError, match=said):
                memory.add(trace, START)
        assert len(memory) == USUAL
        assert "other" not in memory.modules
    with (
        Memory(tmp_path / "m", read_only=True) as memory,
        pytest.raises(OSError, match="opened with read_only=True"),
    ):
        memory.new_epoch()


def test_short_sketches_and_the_published_scheme_are_refused(tmp_path):
    for name, sketcher, said in (
        ("short", Sketcher(dim=64), "dim must be at least 128"),
        ("paper", Sketcher(dim=128, scheme="paper"), 'the scheme "paper" mixes counters'),
    ):
        with Memory(tmp_path / name, sketcher) as memory:
            memory.add(OLD, START, ids=IDS[:USUAL])
            with pytest.raises(ValueError, match=said):
                memory.new_epoch(prior=Prior.fit(OLD))


def test_mixed_epochs_are_no_one_table_of_sketches(tmp_path):
    with two_epochs(tmp_path / "m") as memory:
        with pytest.raises(
            ValueError, match="sketches of two recipes are no one table: 120 of ep"
        ):
            memory.sketches()
        with pytest.raises(ValueError, match=r"one vector cannot .*memory.queries\(trace\)"):
            memory.search(np.ones(DIM))
        with pytest.raises(ValueError, match="there is no epoch 5; this memory has epochs 0 to 1"):
            memory.sketcher_of(5)
        with pytest.raises(RecipeMismatch, match="two recipes differ"):
            memory.sketcher_of(Sketcher(dim=DIM, seed=3).recipe)
        values = memory.values(IDS)
        assert np.array_equal(values[:USUAL], memory.sketches(ids=IDS[:USUAL]).values.numpy())
        true = memory.sketcher.unrounded(ALL).numpy()
        lost = np.square(values[USUAL:] - true[USUAL:]).sum() / np.square(true[USUAL:]).sum()
        assert lost < 0.1


@pytest.mark.parametrize(
    ("sketcher", "message"),
    [("informed", "a memory begins with a Sketcher, got InformedSketcher"), (256, "got int")],
)
def test_a_memory_begins_with_a_plain_sketcher(tmp_path, sketcher, message):
    prior = Prior.fit(glances(80, 1))
    given = InformedSketcher(prior, dim=128) if sketcher == "informed" else sketcher
    with pytest.raises(TypeError, match=message):
        Memory(tmp_path / "m", given)
    assert not (tmp_path / "m").exists()
