"""Channel and stream statistics of a memory: in step with its glances, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import CorruptMemory, Memory, NotRemembered, RecipeMismatch, Sketcher, Trace, recall
from recollect.memory import Follow, Following
from recollect.memory.cells import aged, day_of, month_of, pack_cells, spans_inside, unpack_cells
from recollect.memory.following import STATISTICS
from recollect.sketching import Channel

HOUR = 3_600_000_000
STREAMS = (
    Follow("quantiles", "number 0"),
    Follow("distinct", "values"),
    Follow("frequent", "largest"),
    Follow("second moment", "largest"),
    Follow("entropy", "largest"),
)


def words(number: int, seed: int = 0) -> Trace:
    """Glances of one word each: which of ten, as a row of ten numbers, the first noisy."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 11)
    chosen = rng.choice(10, number, p=share / share.sum())
    x = 5.0 * np.eye(10)[chosen]
    x[:, 0] += rng.standard_normal(number) * 0.1
    return Trace.from_columns({"word": torch.from_numpy(x.astype(np.float32))})


def make(path: Path, **options: object) -> Memory:
    options = {"statistics": Following(STREAMS), "reservoir": 32, **options}
    sketcher = Sketcher(dim=64, scales={"word": 5.0}, channel=Channel(64, 16))
    return Memory(path, sketcher=sketcher, **options)  # type: ignore[arg-type]


def shown(memory: Memory, **asked: object) -> dict[str, float]:
    found = recall.statistics(memory, "word", **asked)  # type: ignore[arg-type]
    return {
        f"{s} {i}" if i is not None else s: e
        for s, i, e in zip(found["statistic"], found["item"], found["estimate"], strict=True)
    }


def test_the_windows_merge_to_what_one_stream_would_have_seen(tmp_path: Path) -> None:
    trace = words(600)
    with make(tmp_path / "m") as m:
        for start in range(0, 600, 150):
            rows = np.arange(start, start + 150)
            m.add(trace[rows], time=rows * HOUR // 10)
        chosen = trace.objects("word").attributes.numpy()
        largest = chosen.argmax(1)
        share = np.bincount(largest, minlength=10) / 600
        found = shown(m)
        assert found["entropy (nats), of largest"] == pytest.approx(
            -(share[share > 0] * np.log(share[share > 0])).sum(), abs=0.05
        )
        assert found["second moment, of largest"] == pytest.approx(
            (np.bincount(largest) ** 2).sum(), rel=0.1
        )
        assert found["count, of largest 0"] == (largest == 0).sum()
        ranks = recall.statistics(m, "word", "quantiles", ranks=[0.5, 0.9])
        for row, true in zip(ranks, np.quantile(chosen[:, 0], [0.5, 0.9]), strict=False):
            assert row["low"] - 1e-6 <= true <= row["high"] + 1e-6
        distinct = len(np.unique(np.rint(chosen / (5 / 10**0.5 / 16)), axis=0))
        assert found["distinct items, of values"] == pytest.approx(distinct, rel=0.1)
        since, until = (np.datetime64(h * HOUR, "us") for h in (10, 20))
        some = shown(m, since=since, until=until)
        assert some["count, of largest 0"] == (largest[100:200] == 0).sum()
        assert m.verify().ok, m.verify()
        assert m.info()["bytes_by_part"]["statistics"] > 0


def test_reopened_and_compacted_it_is_the_same(tmp_path: Path) -> None:
    with make(tmp_path / "m") as m:
        for i in range(70):
            m.add(words(3, i), time=i * HOUR, ids=range(3 * i, 3 * i + 3))
        before = shown(m)
    files = list((tmp_path / "m" / "statistics").iterdir())
    assert len(files) == 1, "closing joins the parts"
    reader = Memory(tmp_path / "m", read_only=True)
    after = shown(reader)
    assert after.keys() == before.keys()
    for name in before:
        # Joined sketches draw lots about which numbers they keep: ranks agree, not numbers.
        assert after[name] == pytest.approx(before[name], rel=0.1, abs=0.1), name
    assert (reader.rollups().channel.sum(0) == reader.channels().sum().codes[0].numpy()).all()
    assert reader.verify().ok


def test_deleted_glances_are_told(tmp_path: Path) -> None:
    with make(tmp_path / "m") as m:
        m.add(words(40), time=np.arange(40) * HOUR // 10)
        m.delete("time < timestamp '1970-01-01 00:30:00'")
        found = recall.statistics(m, "word", "frequent")
        assert any("5 glances deleted since are still counted" in n for n in found.notes)
        assert m.verify().ok
        m.delete("time < timestamp '1970-01-01 01:00:00'")
        found = recall.statistics(m, "word", "frequent")
        assert sum(found["estimate"]) == 30, "a window that is gone is gone"
        assert not any("deleted" in n for n in found.notes)
        assert m.verify().ok
    with Memory(tmp_path / "m") as m:
        assert m.verify().ok
        assert (m.rollups().channel.sum(0) == m.channels().sum().codes[0].numpy()).all()


def test_a_window_can_be_dropped_with_its_first_deletion(tmp_path: Path) -> None:
    with make(tmp_path / "m", statistics=Following(STREAMS, on_deletion="drop")) as m:
        m.add(words(40), time=np.arange(40) * HOUR // 10)
        m.delete("time < timestamp '1970-01-01 00:30:00'")
        found = recall.statistics(m, "word", "frequent")
        assert sum(found["estimate"]) == 30
        assert any("5 glances of the window are not counted" in n for n in found.notes)
        assert m.verify().ok


def test_replaced_glances_are_not_counted_twice(tmp_path: Path) -> None:
    with make(tmp_path / "m") as m:
        for _ in range(2):
            m.add(words(40), time=np.arange(40) * HOUR // 10, ids=range(40))
        found = recall.statistics(m, "word", "frequent")
        assert sum(found["estimate"]) == 40
        assert any("40 glances replaced since" in n for n in found.notes)
        assert m.verify().ok


def test_sketches_alone_are_missing_and_said_to_be(tmp_path: Path) -> None:
    with make(tmp_path / "m") as m:
        m.add(words(10), time=np.arange(10))
        m._append(m.sketcher.encode(words(7, 1)), np.arange(7) + HOUR)
        found = recall.statistics(m, "word", "distinct")
        assert any("7 glances of the window are not counted" in n for n in found.notes)
        assert m.verify().ok
        plain = Sketcher(dim=64, scales={"word": 5.0})
        with pytest.raises(RecipeMismatch):
            m._append(plain.encode(words(3)), np.arange(3))
        bare = m.sketcher.encode(words(3))
        object.__setattr__(bare, "channel", None)
        with pytest.raises(RecipeMismatch, match="came without theirs"):
            m._append(bare, np.arange(3))


def test_merged_memories_merge_their_statistics(tmp_path: Path) -> None:
    with make(tmp_path / "a") as a, make(tmp_path / "b") as b:
        a.add(words(50), time=np.arange(50) * HOUR // 10, source="a")
        b.add(words(60, 1), time=np.arange(60) * HOUR // 10, source="b")
        a.merge(b)
        assert sum(recall.statistics(a, "word", "frequent")["estimate"]) == 110
        assert a.verify().ok, a.verify()
        a.merge(b)  # again: every glance replaces itself
        assert sum(recall.statistics(a, "word", "frequent")["estimate"]) == 110
        assert sum(recall.statistics(b, "word", "frequent")["estimate"]) == 60
        total = a.rollups().channel.sum(0)
        assert (total == a.channels().sum().codes[0].numpy()).all()
    with make(tmp_path / "c", statistics=None) as c, Memory(tmp_path / "a") as a:
        with pytest.raises(ValueError, match="cannot be made from sketches"):
            a.merge(c)
        assert c.merge(a).added == 110


KILLED = """
import os, sys
import numpy as np
from tests.memory.test_statistics import make, words, HOUR
m = make(sys.argv[1])
m.add(words(20), time=np.arange(20) * HOUR // 10)
rows = m._engine.rows
write = rows.write
def die(block, replace):
    if sys.argv[2] == "after":
        write(block, replace)
    os._exit(9)
rows.write = die
m.add(words(30, 1), time=np.arange(30) * HOUR // 10 + 1)
"""


@pytest.mark.parametrize(("when", "number"), [("before", 20), ("after", 50)])
def test_a_killed_writer_leaves_all_or_nothing(tmp_path: Path, when: str, number: int) -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "m"), when],
        cwd=root, env=environment, check=False, capture_output=True,
    )  # fmt: skip
    reader = Memory(tmp_path / "m", read_only=True)
    assert len(reader) == number
    assert sum(recall.statistics(reader, "word", "frequent")["estimate"]) == number
    assert reader.verify().ok, reader.verify()
    assert (reader.rollups().channel.sum(0) == reader.channels().sum().codes[0].numpy()).all()
    with Memory(tmp_path / "m") as m:
        m.add(words(5, 2), time=np.arange(5) + HOUR * 9)
        assert sum(recall.statistics(m, "word", "frequent")["estimate"]) == number + 5
        assert m.verify().ok


def test_a_join_that_was_killed_halfway_counts_nothing_twice(tmp_path: Path) -> None:
    m = make(tmp_path / "m")
    for i in range(3):
        m.add(words(4, i), time=np.arange(4) + i * HOUR)
    followed, version = m._engine.followed, m._engine.rows.version
    cells = pack_cells(followed.cells(version))
    (tmp_path / "m" / "statistics" / f"{version:012d}.all").write_bytes(cells)
    followed._loaded = None
    assert sum(recall.statistics(m, "word", "frequent")["estimate"]) == 12
    m.close()
    with Memory(tmp_path / "m") as again:
        again.add(words(1), time=0, ids=[5])
        assert sum(recall.statistics(again, "word", "frequent")["estimate"]) == 13


def test_old_hours_become_days_and_months_and_bytes_stay_bounded() -> None:
    def cells(span: tuple[int, int]) -> dict:
        from recollect.memory.cells import Cell

        quantiles = STREAMS[0].make()
        quantiles.update(np.arange(200.0))
        return {span: Cell(1, 0, 0, 0, {(0, "word"): quantiles})}

    joined: dict = {}
    for hour in range(24 * 400):
        if hour % 6 == 0:
            joined |= cells((hour, hour + 1))
        if hour % (24 * 20) == 0:
            joined = aged(joined, 48, 30)
    joined = aged(joined, 48, 30)
    lengths = [b - a for a, b in joined]
    assert sum(c.counted for c in joined.values()) == 1600
    assert lengths.count(1) <= 8 + 4
    assert lengths.count(24) <= 32
    assert len(joined) <= 12 + 32 + 14
    assert len(pack_cells(joined)) < len(joined) * STREAMS[0].size * 1.2 + 4096
    inside, cut = spans_inside(joined, 100, 24 * 400)
    assert cut == [month_of(0)]
    assert len(inside) == len(joined) - 1
    assert aged({}, 1, 1) == {}


def test_a_window_that_cuts_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "m", statistics=Following(STREAMS, hours=1, days=1)) as m:
        m.add(words(200), time=np.arange(200) * HOUR)
        m.compact()
        with pytest.raises(ValueError, match="the window cuts 1970-01-"):
            recall.statistics(m, "word", since=np.datetime64(12 * HOUR, "us"))
        with pytest.raises(ValueError, match="whole UTC hours"):
            recall.statistics(m, "word", since=np.datetime64(HOUR // 2, "us"))
        until = np.datetime64(day_of(0)[1] * HOUR * 365, "us")
        assert sum(recall.statistics(m, "word", "frequent", until=until)["estimate"]) == 200


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="statistic must be one of 'quantiles'"):
        Follow("median", "size")
    with pytest.raises(ValueError, match="'number 0', got 'number x'"):
        Follow("distinct", "number x")
    with pytest.raises(ValueError, match="has no order"):
        Follow("quantiles", "largest")
    with pytest.raises(ValueError, match="size must be at least 512"):
        Follow("distinct", "size", 100)
    with pytest.raises(ValueError, match="nothing is followed"):
        Following(())
    with pytest.raises(ValueError, match="followed twice"):
        Following((STREAMS[0], STREAMS[0]))
    with pytest.raises(ValueError, match="on_deletion must be one of"):
        Following(on_deletion="forget")
    with pytest.raises(TypeError, match="a list of Follow"):
        Memory(tmp_path / "x", statistics=["quantiles"])  # type: ignore[list-item]
    with make(tmp_path / "m", statistics=STREAMS) as m:
        m.add(words(10), time=0, ids=range(10))
        with pytest.raises(ValueError, match="of must be one of"):
            recall.statistics(m, "word", of="size")
        with pytest.raises(ValueError, match="entropy of values is not followed"):
            recall.statistics(m, "word", "entropy", of="values")
        with pytest.raises(ValueError, match="can be asked of one statistic"):
            recall.statistics(m, "word", ranks=[0.5])
        with pytest.raises(NotRemembered, match="no object of module 'word' was counted"):
            recall.statistics(m, "word", since=np.datetime64(HOUR, "us"))
    with pytest.raises(ValueError, match="was made with statistics="):
        make(tmp_path / "m", statistics=True)
    with make(tmp_path / "n", statistics=None) as m, pytest.raises(ValueError, match="keeps no"):
        m.streams()
    part = next((tmp_path / "m" / "statistics").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(CorruptMemory, match="glances stay, their statistics begin anew"):
        recall.statistics(Memory(tmp_path / "m"), "word")
    with pytest.raises(ValueError, match="newer format"):
        unpack_cells(b"nothing")


def test_every_statistic_can_be_made_and_reads_what_it_says() -> None:
    entry = make_entry()
    x = np.array([[3.0, 4.0], [0.0, -1.0]], dtype=np.float32)
    assert Follow("quantiles", "size").read(x, entry).tolist() == [5.0, 1.0]
    assert Follow("distinct", "largest").read(x, entry).tolist() == [1, 0]
    assert Follow("distinct", "number 1").read(x, entry).tolist() == [4.0, -1.0]
    assert Follow("distinct", "number 2").read(x, entry) is None
    assert Follow("distinct", "values").read(x, entry).shape == (2, 2)
    for statistic in STATISTICS:
        assert len(Follow(statistic, "size").make().to_bytes()) <= 1024


def make_entry() -> object:
    from recollect.sketching import ModuleTable

    return ModuleTable().add("eye", 2)
