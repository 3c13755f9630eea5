"""Glances come back from a memory in the order that was asked for."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from recollect import Memory, NotRemembered, Object, Sketcher, Trace
from recollect.replay import MemorySampler, Remembered

HOURS = np.datetime64("2026-01-01T00:00") + np.arange(23) * np.timedelta64(1, "h")


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """23 glances, one an hour, ids 100 .. 122, stored in another order than that of time."""
    found = Memory(tmp_path / "m", Sketcher(dim=64, dtype="float32"), reservoir=0)
    order = np.random.default_rng(0).permutation(23)
    trace = Trace.from_objects([[Object("cat", [float(n), 1.0])] for n in order])
    found.add(trace, HOURS[order], ids=(100 + order).tolist())
    return found


def test_reverse_goes_back_from_the_newest(memory: Memory) -> None:
    batches = list(MemorySampler(memory, "reverse", 5))
    assert list(chain(*batches)) == list(range(122, 99, -1))
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    again = list(MemorySampler(memory, "reverse", 5, num_batches=7))
    assert len(again) == 7
    assert again[5] == again[0]


def test_uniform_takes_each_once_a_pass(memory: Memory) -> None:
    sampler = MemorySampler(memory, "uniform", 4, seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(100, 123))
    assert first != second
    assert first == list(MemorySampler(memory, "uniform", 4, seed=3))
    assert first != list(MemorySampler(memory, "uniform", 4, seed=4))
    assert len(sampler) == len(first) == 6


def test_surprise_looks_back_from_what_surprised(memory: Memory) -> None:
    asked: list[list[int]] = []

    def surprise(ids: list[int]) -> torch.Tensor:
        asked.append(ids)
        return torch.tensor([9.0 if i == 110 else 5.0 if i == 120 else 0.1 for i in ids])

    sampler = MemorySampler(memory, "surprise", 4, surprise=surprise, num_batches=3)
    batches = list(sampler)
    assert asked == [list(range(100, 123))]
    assert batches[:2] == [[110, 109, 108, 107], [120, 119, 118, 117]]
    list(sampler)
    assert len(asked) == 2  # surprise is measured anew at every pass


def test_what_is_added_takes_part_in_the_next_pass(memory: Memory) -> None:
    sampler = MemorySampler(memory, "reverse", 4)
    assert next(iter(sampler))[0] == 122
    memory.add(Trace.from_objects([[Object("cat", [0.0, 0.0])]]), "2026-02-01T00:00Z", ids=[7])
    assert next(iter(sampler))[0] == 7
    assert len(sampler) == 6


def test_filters_and_ids_restrict(memory: Memory) -> None:
    early = MemorySampler(memory, "reverse", 50, until="2026-01-01T03:00Z")
    assert list(early) == [[102, 101, 100]]
    assert list(MemorySampler(memory, "reverse", 2, ids=[105, 101, 999])) == [[105, 101]]
    few = MemorySampler(memory, "surprise", 50, surprise=len_of, ids=[105, 101], num_batches=1)
    assert sorted(next(iter(few))) == [101, 105]
    with pytest.raises(NotRemembered, match="no glance is there to be replayed"):
        list(MemorySampler(memory, ids=[999]))


def len_of(ids: list[int]) -> list[float]:
    return [1.0] * len(ids)


def test_a_data_loader_takes_sampler_and_glances(memory: Memory) -> None:
    targets = {i: i % 3 for i in range(100, 123, 2)}
    remembered = Remembered(memory, targets)
    loader = DataLoader(remembered, batch_sampler=MemorySampler(memory, "reverse", 5, ids=targets))
    seen: Counter[int] = Counter()
    for sketches, classes in loader:
        assert sketches.shape == (len(classes), 64)
        seen.update(classes.tolist())
    assert seen == Counter(targets.values())
    whole, classes = remembered.batch([104, 100])
    assert torch.equal(whole, memory.sketches(ids=[104, 100]).values)
    assert classes.tolist() == [104 % 3, 100 % 3]
    assert Remembered(memory, targets, prefix=64)[100][0].shape == (64,)
    assert len(remembered) == 12


def test_what_makes_no_sense_is_refused(memory: Memory) -> None:
    with pytest.raises(ValueError, match="order must be one of 'uniform', 'reverse', 'surprise'"):
        MemorySampler(memory, "random")
    with pytest.raises(ValueError, match="must know what surprises"):
        MemorySampler(memory, "surprise")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        MemorySampler(memory, batch_size=0)
    with pytest.raises(ValueError, match="num_batches must be at least 1"):
        MemorySampler(memory, num_batches=0)
    with pytest.raises(ValueError, match="one number for each of 23 glances"):
        list(MemorySampler(memory, "surprise", surprise=lambda ids: [1.0]))
    with pytest.raises(ValueError, match="there are no targets"):
        Remembered(memory, {})
    with pytest.raises(NotRemembered, match="no glance has the id 5"):
        Remembered(memory, {5: 0})
    with pytest.raises(NotRemembered, match="glance 101 has no target here"):
        Remembered(memory, {100: 0})[101]
