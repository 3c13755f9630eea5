"""Laws: whatever the order, the batching and what was replaced or deleted, the result is one."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.making import HOUR, memory, sketches

from recollect import Trace
from recollect.memory import Memory
from recollect.memory.layout import Folder
from recollect.memory.ledger import Cover, Ledger
from recollect.memory.structures import SkeletonTable, bag_of
from recollect.memory.sums import group_sums, read_month, to_fixed_point, write_month
from recollect.memory.tally import Tally
from recollect.sketching import Structure

COUNT = 24
TIME = np.random.default_rng(5).integers(0, 1000 * HOUR, COUNT)
SOURCE = ["hall", "room", "yard"] * (COUNT // 3)
ORDERS = st.permutations(range(COUNT))
CUTS = st.lists(st.integers(1, COUNT - 1), max_size=3).map(lambda c: sorted({0, *c, COUNT}))


def trace_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Trace.from_columns(
        {
            "eye": torch.randn(count, 5, generator=generator),
            "ear": torch.randn(count, 3, generator=generator) * 100,
        }
    )


def state(m):
    """All that a memory knows, in an order of its own."""
    r = m.rollups()
    table = m.glances(columns=["id", "time", "source"])
    return (
        table.to_pydict(),
        m.sketches().codes.tolist(),
        r.start.tolist(),
        r.n.tolist(),
        r.sum.tolist(),
        [r.counts(u).tolist() for u in ("objects", "glances", "weight")],
    )


@settings(max_examples=8, deadline=None)
@given(order=ORDERS, cuts=CUTS, victims=st.sets(st.sampled_from(SOURCE), max_size=2))
def test_order_batching_upsert_and_delete_do_not_matter(order, cuts, victims):
    s, stale = sketches(COUNT, 1), sketches(COUNT, 2)
    ids = np.arange(COUNT) + 1000
    with tempfile.TemporaryDirectory() as folder:
        once, parts = memory(Path(folder, "once")), memory(Path(folder, "parts"))
        kept = [i for i in range(COUNT) if SOURCE[i] not in victims]
        if kept:
            once._append(s[kept], TIME[kept], [SOURCE[i] for i in kept], ids=ids[kept])
        for start, stop in pairwise(cuts):
            rows = order[start:stop]
            names = [SOURCE[i] for i in rows]
            half = rows[: len(rows) // 2]
            parts._append(stale[half], TIME[half] + HOUR, "early", ids=ids[half])
            parts._append(s[rows], TIME[rows], names, ids=ids[rows])
        for victim in victims:
            parts.delete(f"source = '{victim}'")
        assert parts.verify().ok, parts.verify()
        if kept:
            assert state(parts) == state(once)
        parts.close()
        again = Memory(parts.path)
        assert again.verify().ok, again.verify()
        if kept:
            assert state(again) == state(once)
        once.close()


@settings(max_examples=6, deadline=None)
@given(order=ORDERS, cuts=CUTS)
def test_the_reservoir_does_not_depend_on_order_or_batching(order, cuts):
    trace = trace_of(COUNT)
    with tempfile.TemporaryDirectory() as folder:
        kept = []
        for name, parts in (("a", [range(COUNT)]), ("b", list(pairwise(cuts)))):
            with memory(Path(folder, name), reservoir=7) as m:
                m.sketcher.admit(trace)
                for part in parts:
                    rows = list(part) if name == "a" else [order[i] for i in range(*part)]
                    m.add(trace[rows], TIME[rows], ids=[int(i) + 1 for i in rows])
            ids, records = Memory(Path(folder, name)).records()
            assert len(ids) == 7
            exact = trace[[i - 1 for i in ids]].columns["ear"].attributes
            assert torch.equal(records.columns["ear"].attributes, exact.half().float())
            kept.append(ids)
        assert kept[0] == kept[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-3, 3)), max_size=60))
def test_a_tally_equals_a_dictionary(changes):
    tally, plain = Tally(), {}
    for hour, key, value in changes:
        tally.add([hour], [key], [value])
        plain[hour, key] = plain.get((hour, key), 0) + value
    spelled = {(h, k): v for h, k, v in zip(*(a.tolist() for a in tally.arrays()), strict=True)}
    assert spelled == {key: v for key, v in plain.items() if v}


def test_a_bag_equals_counting_one_by_one():
    # cat(0) is reached twice: the first edge's weight counts; dog(1) twice; face(2) once.
    modules, parent = np.array([0, 2, 1, 1]), np.array([-1, 0, -1, 2, 3])
    child = np.array([0, 1, 2, 3, 1])
    weight = np.array([0.5, 0.25, 1.0, 3.0, 9.0], np.float32)
    bag = bag_of(Structure(modules, parent, child, weight))
    assert bag.modules.tolist() == [0, 1, 2]
    assert bag.objects.tolist() == [1, 2, 1]
    weights = bag.objects + bag.extra * 2.0**-24
    assert weights.tolist() == [0.5, 4.0, 0.25]


def test_fixed_point_is_the_sketches_own():
    for dtype in ("int8", "float16", "float32"):
        s = sketches(9, 3, dtype)
        scale = None if s.scale is None else s.scale.numpy()
        assert np.array_equal(to_fixed_point(s.codes.numpy(), scale), s.fixed_point().numpy())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([1, 3, 1 << 20, 1 << 52]))
def test_a_months_file_keeps_every_bit(seed, hours, size):
    rng = np.random.default_rng(seed)
    sums = rng.integers(-size, size + 1, (hours, 64)) * rng.choice([1, 3 << 9], (hours, 1))
    sums[0] = 0
    with tempfile.TemporaryFile() as file:
        write_month(file, np.arange(hours), sums)
        file.seek(0)
        where, back = read_month(file)
    assert np.array_equal(where, np.arange(hours))
    assert np.array_equal(back, sums)


def test_a_sum_of_one_int8_sketch_is_kept_in_one_byte_a_number(tmp_path):
    s = sketches(4, 4)
    with (tmp_path / "month").open("wb") as file:
        write_month(file, np.arange(4), s.fixed_point().numpy())
    assert (tmp_path / "month").stat().st_size < 4 * 64 + 1200


def test_what_waits_and_what_is_written_add_up(tmp_path):
    folder = Folder(tmp_path)
    table = SkeletonTable(tmp_path / "skeletons.bin")
    s = sketches(COUNT)
    number = table.add(s.skeletons.packed())
    ledger = Ledger(folder, 64)
    fixed = s.fixed_point().numpy()
    ledger.add(TIME, number, fixed, None, table)
    ledger.save(Cover(1))
    ledger.add(TIME[:5], number[:5], fixed[:5], None, table, sign=-1)
    ledger.add(TIME[:5], number[:5], fixed[:5], None, table)
    ledger.add(TIME, number, fixed, None, table)
    hours, sums = group_sums(TIME // HOUR, fixed)
    assert np.array_equal(ledger.sums(hours), 2 * sums)
    ledger.save(Cover(2))
    again = Ledger(folder, 64)
    assert again.load()
    assert again.same_as(ledger) == []
    assert len(list((tmp_path / "rollups").glob("sums-*"))) == len(again._months)
    ledger.add(TIME, number, 2 * fixed, None, table, sign=-1)
    assert any(
        "sketch sums differ" in found or "counts" in found for found in again.same_as(ledger)
    )
