"""Nothing that was acknowledged is lost, and nothing half-written is ever seen."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.memory.making import HOUR, memory, sketches

from benchmarks.kill_nine import rounds
from recollect import CorruptMemory, MemoryBusy
from recollect.memory import Memory
from recollect.memory.layout import Moved
from recollect.memory.migrations import FORMAT, migrate

FULL = """
import resource, sys
from recollect.memory import Memory
from tests.memory.making import sketches
import numpy as np
m = Memory(sys.argv[1])
m._append(sketches(5, 7), np.arange(5), "before")
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    m._append(sketches(400, 8), np.arange(400), "full")
except OSError as error:
    print(error.errno, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
assert len(m) == 15, len(m)
assert m.verify().ok, m.verify()
m._append(sketches(3, 9), np.arange(3), "after")
print(len(m))
m.close()
"""


def filled(path, **options):
    with memory(path, **options) as m:
        m._append(sketches(10), np.arange(10) * HOUR, "hall")
        m._append(sketches(10, 1), np.arange(10) * HOUR, "room")
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
@pytest.mark.parametrize("durability", ["process", "power"])
def test_kill_nine_loses_nothing(tmp_path, durability):
    turns = list(rounds(tmp_path, 2, 0.3, durability, seed=4))
    assert [problems for *_, problems in turns] == [[], []]
    assert turns[-1][2] > 0


def test_a_forgotten_memory_frees_its_lock(tmp_path):
    path = filled(tmp_path / "m")
    Memory(path).delete("source = 'room'")
    with Memory(path, busy_timeout=0) as m:
        assert m._append(sketches(1, 3), [3]).added == 1


def hold(path, ready, done):
    m = Memory(path)
    m._append(sketches(2, 3), np.arange(2), "held")
    ready.set()
    done.wait(30)


def test_a_second_writer_waits_and_is_told(tmp_path):
    path = filled(tmp_path / "m")
    context = multiprocessing.get_context("forkserver")
    ready, done = context.Event(), context.Event()
    child = context.Process(target=hold, args=(path, ready, done), daemon=True)
    child.start()
    assert ready.wait(30)
    second = Memory(path, busy_timeout=0.2)
    assert len(second) == 22  # reading needs no lock
    begin = time.monotonic()
    with pytest.raises(MemoryBusy, match=r"another writer holds .* did not finish within 0\.2 s"):
        second._append(sketches(2, 4), np.arange(2), "late")
    assert time.monotonic() - begin < 5
    child.kill()  # a killed writer frees the lock
    child.join()
    assert second._append(sketches(2, 4), np.arange(2), "late").added == 2
    assert second.verify().ok, second.verify()
    second.close()
    assert len(Memory(path)) == 24


def test_two_writers_in_one_process(tmp_path):
    first = memory(tmp_path / "m")
    first._append(sketches(2), np.arange(2))
    second = Memory(tmp_path / "m", busy_timeout=0.05)
    with pytest.raises(MemoryBusy, match="busy_timeout"):
        second.delete("true")
    first.close()
    assert second.delete("true") == 2
    assert len(second) == len(first) == 0
    assert len(second.rollups()) == 0


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path):
    pytest.importorskip("resource")
    root = Path(__file__).parents[2]
    path = filled(tmp_path / "m")
    Memory(path).delete("source = 'room'")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True, text=True, cwd=root, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(str(errno.ENOSPC))
    assert "no room" in first
    assert "nothing of this call was stored" in first
    assert second == "18"
    assert Memory(path).verify().ok
    assert not list(path.rglob("*.part"))


@pytest.mark.parametrize("step", ["skeletons.bin", "modules.json", "reservoir", "rollups"])
def test_an_interruption_at_any_file_leaves_the_memory_as_it_was(tmp_path, monkeypatch, step):
    from recollect import Trace

    def trace(seed):
        torch = pytest.importorskip("torch")
        g = torch.Generator().manual_seed(seed)
        extra = {"new": torch.randn(4, 2, generator=g)} if seed else {}
        return Trace.from_columns({"eye": torch.randn(4, 3, generator=g), **extra})

    m = memory(tmp_path / "m", reservoir=3)
    m.add(trace(0), np.arange(4) * HOUR, ids=[1, 2, 3, 4])
    genuine = Path.open

    def failing(self, mode="r", *rest, **more):
        if step in str(self) and mode != "rb" and mode != "r":
            raise OSError(errno.ENOSPC, "No space left on device")
        return genuine(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", failing)
    if step == "rollups":  # derived: the addition itself stands
        m.add(trace(1), np.arange(4), ids=[5, 6, 7, 8])
        with pytest.raises(OSError, match="no room"):
            m.close()
    else:
        ids = [n for n in range(5, 4000) if m._engine.reservoir.wanted([n])][:4]
        with pytest.raises(OSError, match="no room"):
            m.add(trace(1), np.arange(4), ids=ids)
        assert len(m) == 4
    monkeypatch.undo()
    m.close()
    again = Memory(tmp_path / "m")
    assert len(again) == (8 if step == "rollups" else 4)
    assert again.verify().ok, again.verify()
    assert again.add(trace(1), np.arange(4), ids=[11, 12, 13, 14]).added == 4
    assert again.verify().ok
    again.close()


def test_lost_files_are_named(tmp_path):
    path = filled(tmp_path / "m")
    data = next((path / "glances.lance" / "data").iterdir())
    data.rename(tmp_path / "kept")
    with pytest.raises(CorruptMemory, match=data.name):
        Memory(path)
    (tmp_path / "kept").rename(data)
    assert len(Memory(path)) == 20

    newest = min((path / "glances.lance" / "_versions").glob("*.manifest"))
    newest.rename(tmp_path / "kept")
    with pytest.raises(CorruptMemory, match="lost its newest manifest"):
        Memory(path)
    (tmp_path / "kept").rename(newest)

    (path / "glances.lance").rename(tmp_path / "kept")
    with pytest.raises(CorruptMemory, match="lost its newest manifest"):
        Memory(path)
    (tmp_path / "kept").rename(path / "glances.lance")

    (path / "skeletons.bin").rename(tmp_path / "kept")
    with pytest.raises(CorruptMemory, match=r"skeletons\.bin is missing"):
        Memory(path)


def test_lost_files_are_named_when_rollups_are_behind(tmp_path):
    path = tmp_path / "m"
    m = memory(path)
    m._append(sketches(10), np.arange(10) * HOUR, "hall")
    data = next((path / "glances.lance" / "data").iterdir())
    data.rename(tmp_path / "kept")
    with pytest.raises(CorruptMemory, match=data.name):
        Memory(path)


def test_damaged_rollups_are_computed_again(tmp_path):
    path = filled(tmp_path / "m")
    right = Memory(path).rollups()
    for name in ("hours.npz", next((path / "rollups").glob("sums-*")).name):
        (path / "rollups" / name).unlink()
        r = Memory(path).rollups()
        assert np.array_equal(r.sum, right.sum)
        assert np.array_equal(r.counts("weight"), right.counts("weight"))
    (path / "rollups" / "hours.npz").write_bytes(b"no archive")
    with Memory(path) as m:
        m._append(sketches(1, 5), [0], "yard")
    assert Memory(path).verify().ok


def test_a_damaged_skeleton_is_told(tmp_path):
    path = filled(tmp_path / "m")
    data = bytearray((path / "skeletons.bin").read_bytes())
    data[9] ^= 255
    (path / "skeletons.bin").write_bytes(data)
    with pytest.raises(CorruptMemory, match="damaged at byte 0"):
        Memory(path).skeleton_counts()
    assert Memory(path, read_only=True).rollups().n.sum() == 20


def test_an_unfinished_skeleton_is_dropped(tmp_path):
    path = filled(tmp_path / "m")
    size = (path / "skeletons.bin").stat().st_size
    with (path / "skeletons.bin").open("ab") as file:
        file.write(b"\x20\0\0\0half")
    assert Memory(path).verify().ok
    with Memory(path) as m:
        m._append(sketches(10)[:1], [5], "yard")
    assert (path / "skeletons.bin").stat().st_size == size


def test_what_is_no_memory_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(CorruptMemory, match=r"is not a memory: it holds cat\.jpg"):
        Memory(tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    with pytest.raises(CorruptMemory, match="is a file"):
        Memory(tmp_path / "photos" / "cat.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "meta.json").write_text("{}")
    with pytest.raises(CorruptMemory, match="another program's"):
        Memory(tmp_path / "other")
    (tmp_path / "other" / "meta.json").write_text("{")
    with pytest.raises(CorruptMemory, match="is no JSON"):
        Memory(tmp_path / "other")
    with pytest.raises(CorruptMemory, match="makes none"):
        Memory(tmp_path / "nothing", read_only=True)
    (tmp_path / "empty").mkdir()
    assert len(Memory(tmp_path / "empty")) == 0


def test_a_newer_format_is_refused_and_an_older_one_is_migrated(tmp_path):
    path = filled(tmp_path / "m")
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"format": FORMAT + 1}))
    with pytest.raises(CorruptMemory, match=f"format version {FORMAT + 1}.*newer release"):
        Memory(path)
    (path / "meta.json").write_text(json.dumps(meta | {"format": None}))
    with pytest.raises(CorruptMemory, match="names no format version"):
        Memory(path)
    steps = {FORMAT - 1: lambda folder, old: old | {"added": str(folder)}}
    assert migrate(path, {"format": FORMAT - 1}, steps) == {"format": FORMAT, "added": str(path)}


def test_read_only_writes_nothing(tmp_path):
    path = filled(tmp_path / "m")
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    with Memory(path, read_only=True) as m:
        assert m.verify().ok
        with pytest.raises(OSError, match="read_only=True"):
            m.delete("true")
    assert sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*")) == before


def test_other_options_are_refused(tmp_path):
    filled(tmp_path / "m", timezone="Europe/Berlin", reservoir=5)
    assert Memory(tmp_path / "m").timezone == "Europe/Berlin"
    with pytest.raises(ValueError, match="was made with reservoir=5, now 7"):
        Memory(tmp_path / "m", reservoir=7)
    with pytest.raises(ValueError, match="durability must be one of"):
        Memory(tmp_path / "m", durability="never")


@pytest.mark.parametrize("closed", [True, False])
def test_rollups_follow_what_a_killed_writer_deleted(tmp_path, closed):
    m = memory(tmp_path / "m")
    m._append(sketches(10), np.arange(10) * HOUR, "hall")
    if closed:
        m.close()
    data = m._engine.rows.data()
    data.delete("time < timestamp '1970-01-01 04:00:00'")  # and killed before the roll-ups
    again = Memory(tmp_path / "m", read_only=True)
    assert len(again) == 6
    assert again.verify().ok, again.verify()
    assert again.rollups().start.tolist() == [h * HOUR for h in range(4, 10)]


def test_a_scan_of_joined_files_is_read_again(tmp_path):
    writer = memory(tmp_path / "m")
    for i in range(5):
        writer._append(sketches(50, i), np.arange(50) + 1000 * i)
    reader = Memory(tmp_path / "m", read_only=True)
    rows = reader._engine.rows
    rows.data()
    writer.compact()
    for read in (lambda: rows.take(np.arange(3), ["s0"]), lambda: list(rows.scan(["s0"]))):
        with pytest.raises(Moved):
            read()
    assert len(reader.search(np.ones(64), 7)[0]) == 7
    assert reader.verify().ok
    writer.close()


def test_compaction_keeps_readers_alive(tmp_path):
    path = tmp_path / "m"
    writer = memory(path)
    reader = None
    for i in range(12):
        writer._append(sketches(4, i), np.arange(4) * HOUR + i, "hall")
        if i == 5:
            reader = Memory(path, read_only=True)
            assert len(reader.sketches()) == 24
    writer.compact()
    assert len(reader.sketches()) == 48
    assert len(list((path / "glances.lance" / "data").iterdir())) == 1
    writer.close()
