"""The graph beside a memory: it depends on the glances alone, whatever happened to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import Memory, Object, Sketcher, Trace
from recollect.memory.graph import signatures_of
from recollect.memory.neighbours import Neighbours
from recollect.memory.parts import RADIUS, Parts, cosine_of
from recollect.studies.planted import plant

HOUR = 3_600_000_000


def rows_of(memory: Memory) -> dict[int, tuple[list[int], list[float]]]:
    table = memory.graph.follow()
    return {int(i): table.of(int(i)) for i in table.ids}


def parts_of(memory: Memory) -> list[list[int]]:
    found = memory.graph.occurrences()
    return [x.tolist() for x in (found.glance, found.rank, found.parent, found.part)]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return plant(0, compounds=2, each=20, background=80).trace


def fill(
    path: object, trace: Trace, order: np.ndarray, batch: int = 30, **options: object
) -> Memory:
    scales = dict.fromkeys(trace.columns, 1.0)
    sketcher = Sketcher(dim=320, scales=scales)
    memory = Memory(str(path), sketcher, graph=True, **options)  # type: ignore[arg-type]
    for start in range(0, len(order), batch):
        ids = order[start : start + batch]
        memory.add(trace[ids], [int(i) * HOUR for i in ids], ids=ids)
    return memory


# -- neighbours -------------------------------------------------------------------------------


def naive(ids: np.ndarray, codes: np.ndarray, keep: int) -> dict[int, list[int]]:
    x = codes.astype(np.float64)
    norm = np.maximum(np.linalg.norm(x, axis=1), 1e-30)
    # As float32, so that what is equal there is equal here.
    own = np.divide(
        1,
        np.sqrt(np.square(codes.astype(np.float32)).sum(1)),
        where=np.any(codes, 1),
        out=np.zeros(len(codes), np.float32),
    )
    del norm
    cosine = (x @ x.T).astype(np.float32) * (own[:, None] * own)
    out = {}
    for i, number in enumerate(ids.tolist()):
        others = [j for j in range(len(ids)) if j != i]
        others.sort(key=lambda j, i=i: (-cosine[i, j], ids[j]))
        out[number] = [int(ids[j]) for j in others[:keep]]
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 9), st.data())
def test_neighbours_are_those_of_all_glances_in_any_order(
    seed: int, number: int, cuts: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    # Few different rows: many cosines are equal.
    codes = rng.integers(-2, 3, (number, 4)).astype(np.int8)
    ids = rng.permutation(1000)[:number]
    table = Neighbours(width=4, keep=3)
    for part in np.array_split(rng.permutation(number), cuts):
        table.add(ids[part], codes[part])
    gone = data.draw(st.sets(st.integers(0, number - 1), max_size=number // 2))
    table.remove(ids[sorted(gone)])
    left = np.setdiff1d(np.arange(number), sorted(gone))
    found = {int(i): table.of(int(i))[0] for i in table.ids}
    assert found == naive(ids[left], codes[left], 3)


# -- parts ------------------------------------------------------------------------------------


def test_parts_do_not_depend_on_how_objects_are_cut_into_calls() -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (7, 16), dtype=np.uint8)
    signature = centres[rng.integers(0, 7, 300)] ^ np.packbits(
        rng.random((300, 128)) < 0.05, axis=1
    )
    module = rng.integers(0, 2, 300)
    whole, cut = Parts(), Parts()
    once = whole.add(module, signature)
    twice = np.r_[cut.add(module[:77], signature[:77]), cut.add(module[77:], signature[77:])]
    # Numbers may differ, what belongs together may not.
    same = once[:, None] == once
    np.testing.assert_array_equal(same, twice[:, None] == twice)
    assert len(whole) == 14
    np.testing.assert_array_equal(np.bincount(once), whole.count)


def test_signatures_tell_the_cosine_of_sub_sketches() -> None:
    rng = np.random.default_rng(1)
    base, other = rng.normal(size=(2, 24))
    shares = np.linspace(0, np.pi / 2, 9)
    t = Trace.from_objects([[Object("cat", np.cos(a) * base + np.sin(a) * other)] for a in shares])
    bits = [np.unpackbits(np.frombuffer(s, np.uint8)) for s in signatures_of(Sketcher(dim=256), t)]
    differ = [int((bits[0] != b).sum()) for b in bits]
    x = np.cos(shares)[:, None] * base + np.sin(shares)[:, None] * other
    exact = x @ x[0] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[0])
    np.testing.assert_allclose(cosine_of(differ), exact, atol=0.3)
    assert differ[0] == 0
    assert RADIUS < 45


# -- beside the memory ------------------------------------------------------------------------


def test_the_order_of_arrival_does_not_matter(tmp_path: object, trace: Trace) -> None:
    order = np.arange(60)
    mixed = np.random.default_rng(0).permutation(60)
    with fill(f"{tmp_path}/a", trace, order) as a, fill(f"{tmp_path}/b", trace, mixed, 23) as b:
        assert rows_of(a) == rows_of(b)
        one, other = parts_of(a), parts_of(b)
        assert one[:3] == other[:3]
        # Modules are numbered by arrival; what belongs together does not change.
        same = [np.array(p)[:, None] == np.array(p) for p in (one[3], other[3])]
        np.testing.assert_array_equal(*same)


def test_it_follows_what_happens_to_glances(tmp_path: object, trace: Trace) -> None:
    with fill(f"{tmp_path}/m", trace, np.arange(len(trace))) as memory:
        rows_of(memory)
        memory.delete("id < 20")
        memory.add(trace[np.arange(10)], [n * HOUR for n in range(40, 50)], ids=range(40, 50))
        memory.add(trace[np.arange(5)], [n * HOUR for n in range(5)], ids=range(200, 205))
        kept = rows_of(memory)
        assert set(kept) == (set(range(20, 120)) | set(range(200, 205)))
        memory.compact()
        assert rows_of(memory) == kept
        held = parts_of(memory)
    with Memory(f"{tmp_path}/m") as again:
        assert rows_of(again) == kept
        assert parts_of(again) == held
    (again.path / "graph" / "graph.npz").unlink()
    fresh = Memory(f"{tmp_path}/m", read_only=True)
    assert rows_of(fresh) == kept
    assert parts_of(fresh) == held
    assert not (fresh.path / "graph" / "graph.npz").exists()


def test_a_graph_that_lags_or_is_damaged_is_repaired(tmp_path: object, trace: Trace) -> None:
    path = f"{tmp_path}/m"
    with fill(path, trace, np.arange(60)) as memory:
        pass
    file = memory.path / "graph" / "graph.npz"
    old = file.read_bytes()
    with Memory(path) as memory:
        memory.add(trace[np.arange(60, 90)], [n * HOUR for n in range(60, 90)], ids=range(60, 90))
        memory.delete("id < 10")
        memory.add(trace[np.arange(20)], [n * HOUR for n in range(30, 50)], ids=range(30, 50))
        truth, parts = rows_of(memory), parts_of(memory)
    for left in (old, old[: len(old) // 2], b""):
        file.write_bytes(left)
        # As a writer that was killed after its commits would have left it.
        assert rows_of(Memory(path, read_only=True)) == truth
        assert parts_of(Memory(path, read_only=True)) == parts


def test_fading_and_merging_take_parts_along(tmp_path: object, trace: Trace) -> None:
    with fill(f"{tmp_path}/m", trace, np.arange(100)) as memory:
        parts = parts_of(memory)
        memory.fade(now=100 * HOUR, policy="full for 1 day, 256 dims for ever")
        assert min(memory.kept(range(100))) == 256
        assert parts_of(memory) == parts
        with Memory(f"{tmp_path}/n", memory.sketcher, graph=True) as other:
            other.merge(memory)
            assert parts_of(other) == parts
            assert rows_of(other) == rows_of(memory)
        assert memory.verify().ok


def test_an_older_memory_may_begin_a_graph(tmp_path: object, trace: Trace) -> None:
    path = f"{tmp_path}/m"
    with Memory(path, Sketcher(dim=320)) as memory:
        memory.add(trace[np.arange(40)], [n * HOUR for n in range(40)], ids=range(40))
        assert not memory.keeps_graph
    with Memory(path, graph=True) as memory:
        memory.add(trace[np.arange(40, 60)], [n * HOUR for n in range(40, 60)], ids=range(40, 60))
        assert len(rows_of(memory)) == 60
        assert set(memory.graph.occurrences().glance.tolist()) == set(range(40, 60))
        assert memory.graph.unsigned() == 40
    assert Memory(path).keeps_graph
    assert memory.verify().ok


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sketches_of_other_kinds_have_neighbours_too(
    tmp_path: object, trace: Trace, dtype: str
) -> None:
    with Memory(f"{tmp_path}/m", Sketcher(dim=128, dtype=dtype), graph=True) as memory:
        memory.add(trace[np.arange(50)], [n * HOUR for n in range(50)], ids=range(50))
        x = memory.sketches(ids=range(50)).values.numpy()
        cosine = x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
        np.fill_diagonal(cosine, -2)
        near, told = memory.graph.follow().of(7)
        assert near[0] == int(cosine[7].argmax())
        assert told[0] == pytest.approx(cosine[7].max(), abs=0.02)
