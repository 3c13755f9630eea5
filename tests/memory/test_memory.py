from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.memory.making import HOUR, memory, sketches

from recollect import CorruptMemory, NotRemembered, RecipeMismatch, Sketcher
from recollect.memory import Memory


def add(m, count=20, seed=0, **more):
    rng = np.random.default_rng(seed + 100)
    time = rng.integers(0, 50 * HOUR, count)
    s = sketches(count, seed, m.recipe.dtype, m.recipe.dim)
    return s, time, m._append(s, time, **more)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("dim", [64, 1088])
def test_what_was_added_is_there_after_reopening(tmp_path, dtype, dim):
    with memory(tmp_path / "m", dtype, dim) as m:
        s, time, added = add(m, source="hall", labels={"weather": "rain", "lux": 3})
        assert (added.added, added.replaced, len(m)) == (20, 0, 20)
    again = Memory(tmp_path / "m")
    assert len(again) == 20
    assert again.recipe == s.recipe
    assert again.sketches(ids=added.ids).equal(s)
    assert again.sketches(ids=added.ids).skeletons.packed() == s.skeletons.packed()
    table = again.glances()
    assert table.column_names == ["id", "time", "source", "weather", "lux", "skeleton"]
    assert table["time"].cast("int64").to_pylist() == sorted(time.tolist())
    assert set(table["weather"].to_pylist()) == {"rain"}
    assert again.verify().ok, again.verify()
    if dim > 256:
        assert again.sketches(ids=added.ids, prefix=300).equal(s.prefix(300))


def test_rollups_equal_the_sums_of_sketches(tmp_path):
    with memory(tmp_path / "m") as m:
        s, time, _ = add(m, 60)
    r = Memory(tmp_path / "m").rollups()
    hours = time // HOUR
    assert r.start.tolist() == (np.unique(hours) * HOUR).tolist()
    for row, hour in enumerate(np.unique(hours)):
        part = s[np.flatnonzero(hours == hour)]
        assert torch.equal(torch.from_numpy(r.sum[row]), part.sum().codes[0])
        assert r.n[row] == len(part)
        ids = [x.modules for x in (part.skeletons[i] for i in range(len(part)))]
        assert r.count("dog")[row] == sum((i == 1).sum() for i in ids)
        assert r.count("dog", "glances")[row] == sum((i == 1).any() for i in ids)
    for unit in ("objects", "glances", "weight"):
        stacked = np.stack([r.count(n, unit) for n in r.modules.names], 1)
        assert np.array_equal(r.counts(unit), stacked)
    day, everything = r.by("day"), r.by("all")
    assert day.n.sum() == everything.n.sum() == 60
    assert np.array_equal(everything.sum[0], r.sum.sum(0))
    assert np.array_equal(day.by("month").sum, r.by("month").sum)
    with pytest.raises(ValueError, match="cannot be split"):
        day.by("hour")


def test_filters_agree(tmp_path):
    with memory(tmp_path / "m") as m:
        _, time, added = add(m, 40, source=["hall", "room"] * 20)
        ids = np.array(added.ids)
        chosen = m.glances(where="source = 'hall'", since=5 * HOUR, until=30 * HOUR)
        wanted = (np.arange(40) % 2 == 0) & (time >= 5 * HOUR) & (time < 30 * HOUR)
        assert set(chosen["id"].to_pylist()) == set(ids[wanted].tolist())
        counts = m.skeleton_counts(where="source = 'hall'")
        assert counts.ids.tolist() == m.glances(where="source = 'hall'")["id"].to_pylist()
        every = m.skeleton_counts()
        assert every.count("cat").sum() == m.rollups().count("cat").sum()
        assert every.count("cat", "weight").sum() == pytest.approx(
            m.rollups().count("cat", "weight").sum(), rel=1e-12
        )
        with pytest.raises(ValueError, match=r"cannot be read.*sorce.*[^.?][.?] It is"):
            m.glances(where="sorce = 'hall'")
        with pytest.raises(NotRemembered, match="no glance has the id 17"):
            m.sketches(ids=[17])


@pytest.mark.parametrize("since", [None, 0, 5 * HOUR, 5 * HOUR + 1, 7 * HOUR - 9, 90 * HOUR])
@pytest.mark.parametrize("until", [None, 7 * HOUR, 7 * HOUR - 3, 30 * HOUR + HOUR // 2, 0])
def test_rollups_of_a_span_equal_its_glances(tmp_path, since, until):
    with memory(tmp_path / "m") as m:
        s, time, _ = add(m, 300)
        if since is None:
            m.close()
        kept = np.full(300, True)
        if since is not None:
            kept &= time >= since
        if until is not None:
            kept &= time < until
        r = m.rollups(since, until)
        assert r.n.tolist() == np.unique(time[kept] // HOUR, return_counts=True)[1].tolist()
        if kept.any():
            whole = s[np.flatnonzero(kept)].sum().codes[0].numpy()
            assert np.array_equal(r.by("all").sum[0], whole)
        counts = m.skeleton_counts(since=since, until=until)
        for unit in ("objects", "weight"):
            assert r.count("face", unit).sum() == pytest.approx(counts.count("face", unit).sum())


def test_replacing_and_deleting_is_followed_exactly(tmp_path):
    with memory(tmp_path / "m") as m:
        _, time, added = add(m, 30, source="a")
        fresh = sketches(30, 5)
        again = m._append(fresh, time, source="a")
        assert (again.ids, again.added, again.replaced) == (added.ids, 0, 30)
        assert len(m) == 30
        assert m.sketches(ids=added.ids).equal(fresh)
        assert m.verify().ok, m.verify()
        early = int((time < 20 * HOUR).sum())
        assert m.delete("time < timestamp '1970-01-01 20:00:00'") == early
        assert len(m) == 30 - early
        assert m.verify().ok, m.verify()
    assert Memory(tmp_path / "m").verify().ok


def test_a_writer_that_did_not_close_is_repaired(tmp_path):
    m = memory(tmp_path / "m")
    add(m, 30)
    add(m, 30, seed=1)
    reader = Memory(tmp_path / "m")
    assert len(reader) == 60
    assert reader.verify().ok
    add(m, 5, seed=2)
    assert len(reader) == 65
    m.close()
    assert len(reader) == 65


def test_refusals(tmp_path):
    with memory(tmp_path / "m") as m:
        add(m)
    with pytest.raises(RecipeMismatch, match=r"dim=64(.|\n)*dim=128"):
        Memory(tmp_path / "m", sketcher=Sketcher(dim=128))
    (tmp_path / "m" / "modules.json").rename(tmp_path / "modules.json")
    with pytest.raises(CorruptMemory, match=r"modules\.json is missing"):
        Memory(tmp_path / "m")
