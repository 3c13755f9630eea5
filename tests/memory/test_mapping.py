"""Mapped tiers hold what Lance reads; searching them finds what a naive twin finds."""

from __future__ import annotations

import numpy as np
import pytest
from tests.memory.making import HOUR, memory, sketches

from recollect.memory import Memory
from recollect.memory.blocks import Where
from recollect.memory.mapping import map_tiers
from recollect.memory.rows import FOLDER, Rows
from recollect.memory.search import Searcher

COUNT, DIM = 5000, 512


@pytest.fixture(params=["int8", "float16", "float32"])
def stored(request, tmp_path):
    """A closed memory whose only fragment is large enough to be mapped, and its values."""
    s = sketches(COUNT, seed=5, dtype=request.param, dim=DIM)
    with memory(tmp_path / "m", dtype=request.param, dim=DIM, reservoir=0) as m:
        m._append(s, np.arange(COUNT) * HOUR, source="hall")
    with Memory(tmp_path / "m", read_only=True) as m:
        yield m, s.values.numpy()


def rows_of(m: Memory) -> Rows:
    return m._engine.rows


def test_mapped_tiers_hold_what_lance_reads(stored) -> None:
    rows = rows_of(stored[0])
    widths = {name: part.stop - part.start for name, part in rows.tiers.items()}
    (fragment,) = rows.data().get_fragments()
    mapped = map_tiers(fragment, rows.folder / FOLDER / "data", widths, rows.dtype)
    assert set(mapped) == {"s0", "s1"}
    for name, pieces in mapped.items():
        read = rows.codes(rows.data().to_table(columns=[name]), [name])
        np.testing.assert_array_equal(np.concatenate(pieces), read)


def test_what_is_not_as_expected_is_not_mapped(stored) -> None:
    rows = rows_of(stored[0])
    (fragment,) = rows.data().get_fragments()
    data = rows.folder / FOLDER / "data"
    assert map_tiers(fragment, data, {"s0": 128}, rows.dtype) == {}
    assert map_tiers(fragment, data, {"s0": 256}, np.dtype(np.int64)) == {}
    assert map_tiers(fragment, rows.folder.path, {"s0": 256}, rows.dtype) == {}


def test_search_is_the_same_mapped_or_read(stored, monkeypatch) -> None:
    m, values = stored
    rng = np.random.default_rng(1)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    ids = np.array(m.glances(columns=["id"])["id"].to_pylist())
    reading = Searcher(rows_of(m))
    monkeypatch.setattr(reading, "_mapped", lambda key: {})
    for row in rng.integers(0, COUNT, 5):
        query = unit[row] + 0.5 * rng.normal(size=DIM).astype(np.float32) / DIM**0.5
        cosine = unit @ (query / np.linalg.norm(query))
        expected = np.argsort(-cosine)[:5]
        for searcher in (m._searcher, reading):
            found, scores = searcher.search(query, 5, Where())
            np.testing.assert_allclose(scores, cosine[expected], atol=1e-5)
            assert set(found) == set(ids[expected])
        some = Where() if row % 2 else Where("source = 'hall'", None, None)
        np.testing.assert_array_equal(m._searcher.search(query, 5, some)[0], found)


def test_rows_that_were_deleted_are_not_found(tmp_path) -> None:
    s = sketches(COUNT, seed=5, dim=DIM)
    with memory(tmp_path / "m", dim=DIM, reservoir=0) as m:
        m._append(s, np.arange(COUNT) * HOUR, source="hall")
        best = m.search(s.values[70].numpy(), 1)[0]
        m.delete(where=f"id = {best[0]}")
        again = m.search(s.values[70].numpy(), 3)[0]
        assert best[0] not in again
        m.compact()
        np.testing.assert_array_equal(m.search(s.values[70].numpy(), 3)[0], again)
