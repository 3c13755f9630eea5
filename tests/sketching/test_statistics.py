"""Stream statistics hold their bounds, merge like one stream, and survive being written."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import NotRemembered, Trace
from recollect.sketching.statistics import (
    Distinct,
    Entropy,
    Frequent,
    PerModule,
    Quantiles,
    SecondMoment,
    Statistic,
    read_statistic,
)
from recollect.sketching.streams import count_items, hash_items, mixed

KINDS = (Quantiles, Distinct, Frequent, SecondMoment, Entropy)


def zipf_words(number: int, vocabulary: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, vocabulary + 1)
    return [f"word{i}" for i in rng.choice(vocabulary, number, p=share / share.sum()).tolist()]


WORDS = zipf_words(30_000, 3000)
COUNTS = Counter(WORDS)
NUMBERS = np.random.default_rng(3).standard_normal(40_000).astype(np.float32)


def true_entropy(counts: Counter[str]) -> float:
    share = np.array(list(counts.values())) / sum(counts.values())
    return float(-(share * np.log(share)).sum())


def true_second_moment(counts: Counter[str]) -> int:
    return sum(c * c for c in counts.values())


def feed(statistic: Statistic, part: int = 0, parts: int = 1) -> Statistic:
    """Give a statistic its share of the stream."""
    stream = NUMBERS if isinstance(statistic, Quantiles) else WORDS
    statistic.update(stream[part::parts])
    return statistic


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("written", [False, True])
def test_bars_in_four_kilobytes_with_and_without_shards(shards: int, written: bool) -> None:
    def made(kind: type[Statistic]) -> Statistic:
        parts = [feed(kind(), part, shards) for part in range(shards)]
        for p in parts:
            assert len(p.to_bytes()) <= 4096
        if written:
            parts = [read_statistic(p.to_bytes()) for p in parts]
        for other in parts[1:]:
            parts[0].merge(other)
        return parts[0]

    moment = made(SecondMoment).answer()
    truth = true_second_moment(COUNTS)
    assert moment["estimate"][0] == pytest.approx(truth, rel=0.02)
    assert made(Distinct).answer()["estimate"][0] == pytest.approx(len(COUNTS), rel=0.05)
    assert made(Entropy).answer()["estimate"][0] == pytest.approx(true_entropy(COUNTS), abs=0.05)
    quantiles = made(Quantiles)
    assert isinstance(quantiles, Quantiles)
    assert 0 < quantiles.rank_error < 0.01
    for number in np.linspace(-2, 2, 21):
        true_rank = float((number >= NUMBERS).mean())
        assert abs(quantiles.rank(number) - true_rank) <= quantiles.rank_error
    frequent = made(Frequent).answer(10)
    for item, low, high in zip(frequent["item"], frequent["low"], frequent["high"], strict=True):
        assert low <= COUNTS[item] <= high
    assert set(frequent["item"][:3]) == {w for w, _ in COUNTS.most_common(3)}


def test_quantiles_lie_between_their_bounds_and_the_spread_is_theirs() -> None:
    found = feed(Quantiles()).answer([0.1, 0.5, 0.9])
    for row, rank in enumerate((0.1, 0.5, 0.9)):
        assert found["low"][row] <= np.quantile(NUMBERS, rank) <= found["high"][row]
    spread = float(np.quantile(NUMBERS, 0.75) - np.quantile(NUMBERS, 0.25))
    assert found["statistic"][-1] == "inter-quartile range"
    assert found["low"][-1] <= spread <= found["high"][-1]
    assert found["high"][-1] - found["low"][-1] < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_alike(kind: type[Statistic]) -> None:
    statistic = feed(kind())
    once = kind.from_bytes(statistic.to_bytes())
    # The entropy's counters are rounded once; all else stays to the last bit.
    twice = kind.from_bytes(once.to_bytes())
    tolerance = 0.01 if kind is Entropy else 0.0
    for a, b in ((statistic, once), (once, twice)):
        assert a.answer()["estimate"] == pytest.approx(b.answer()["estimate"], abs=tolerance)
    assert repr(once) == repr(statistic)


def test_linear_statistics_merge_to_the_last_bit() -> None:
    whole, parts = feed(SecondMoment()), [feed(SecondMoment(), p, 4) for p in range(4)]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        merged = SecondMoment()
        for p in order:
            merged.merge(parts[p])
        assert np.array_equal(merged.counters, whole.counters)
    entropy = Entropy()
    for p in (1, 0):
        entropy.merge(feed(Entropy(), p, 2))
    assert np.allclose(entropy.counters, feed(Entropy()).counters, rtol=1e-9, atol=1e-6)


def test_moments_average_to_the_truth_over_seeds_without_common_items() -> None:
    rng = np.random.default_rng(0)
    counts = {int(i): int(c) for i, c in enumerate(rng.integers(1, 30, 400))}
    moments, entropies = [], []
    for seed in range(12):
        s, e = SecondMoment(1024, seed, heavy=0), Entropy(1024, seed, heavy=0)
        s.update(counts)
        e.update(counts)
        moments.append(s.answer()["estimate"][0])
        entropies.append(e.answer()["estimate"][0])
    truth = Counter({str(k): v for k, v in counts.items()})
    k = s.counters.size
    deviation = true_second_moment(truth) * math.sqrt(2 / k)
    assert abs(np.mean(moments) - true_second_moment(truth)) < 3 * deviation / math.sqrt(12)
    assert np.std(moments) < 1.6 * deviation
    own = math.sqrt(3 / len(e.counters))
    assert abs(np.mean(entropies) - true_entropy(truth)) < 3 * own / math.sqrt(12)
    assert 0.5 * own < np.std(entropies) < 1.6 * own


def test_intervals_of_the_moments_cover_nine_times_in_ten() -> None:
    counts = {w: COUNTS[w] for w in sorted(COUNTS)[:600]}
    truth = (true_second_moment(Counter(counts)), true_entropy(Counter(counts)))
    inside = np.zeros(2)
    for seed in range(60):
        for i, kind in enumerate((SecondMoment, Entropy)):
            s = kind(512, seed, heavy=6)
            s.update(counts)
            found = s.answer()
            inside[i] += found["low"][0] <= truth[i] <= found["high"][0]
    assert (inside / 60 >= 0.8).all()


def test_a_count_sketch_answers_for_single_items() -> None:
    s = feed(SecondMoment())
    assert isinstance(s, SecondMoment)
    common, _ = COUNTS.most_common(1)[0]
    assert s.frequency(common)["estimate"] == [COUNTS[common]]
    covered = [
        row["low"][0] <= COUNTS[word] <= row["high"][0]
        for word in sorted(COUNTS)[:300]
        for row in [s.frequency(word)]
    ]
    assert np.mean(covered) > 0.9


def test_commonest_items_arriving_late_keep_honest_counts() -> None:
    """The kept counts are bounds, whatever the order of arrival."""
    e = Entropy(heavy=4)
    e.update({f"early{i}": 5 for i in range(100)})
    for _ in range(10):
        e.update({"late": 100, **{f"more{i}": 1 for i in range(40)}})
    ids = hash_items(count_items("late"), e.seed) & np.uint64(0xFFFFFFFF)
    count, lacking = e.common.items[int(ids[0])]
    assert count <= 1000 <= count + lacking
    assert lacking <= 5
    truth = Counter({f"early{i}": 5 for i in range(100)} | {f"more{i}": 10 for i in range(40)})
    truth["late"] = 1000
    assert e.answer()["estimate"][0] == pytest.approx(true_entropy(truth), abs=0.06)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=5), st.integers(-9, 9), st.binary(max_size=3))))
def test_items_keep_their_kind_and_number(items: list[object]) -> None:
    assert sum(count_items(items).values()) == len(items)
    assert len(count_items(items)) == len({(type(i), i) for i in items})


def test_items_of_arrays_rows_and_numbers() -> None:
    assert count_items(np.array([1, 1, 2])) == count_items([1, 1, 2])
    assert count_items(torch.tensor([-0.0, 0.0])) == {"f:0.0": 2}
    rows = count_items(torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]))
    assert sorted(rows.values()) == [1, 2]
    # Pinned: a changed hash would silently spoil what is stored.
    assert hash_items(["s:cat", "i:5"], 0).tolist() == [2493402773263004012, 16003587376162249650]
    assert mixed(np.arange(1, dtype=np.uint64)).tolist() == [16294208416658607535]


def test_every_module_has_its_own_and_they_merge() -> None:
    t = Trace.from_columns({"eye": torch.eye(4), "ear": 3 * torch.ones(4, 2)})
    whole, a, b = PerModule(Distinct, lambda o: o.attributes), PerModule(Quantiles), None
    whole.update(t)
    assert [round(whole[m].answer()["estimate"][0]) for m in whole.modules] == [1, 4]
    a.update(t[:2])
    b = PerModule(Quantiles)
    b.update(t[2:])
    back = PerModule(Quantiles).read_bytes(a.merge(b).to_bytes())
    assert back["ear"].answer([0.5])["estimate"][0] == pytest.approx(18**0.5)
    assert set(back.answer()["module"]) == {"ear", "eye"}
    with pytest.raises(NotRemembered, match="no module 'nose'"):
        back["nose"]
    with pytest.raises(ValueError, match="end too early"):
        PerModule(Quantiles).read_bytes(b"\1")


def test_nothing_seen_says_nothing() -> None:
    entropy = Entropy().answer()
    assert math.isnan(entropy["estimate"][0])
    assert entropy["high"] == [math.inf]
    assert math.isnan(Quantiles().answer([0.5])["estimate"][0])
    assert Distinct().answer()["estimate"] == [0.0]
    assert len(Frequent().answer()) == 0
    assert SecondMoment().answer()["estimate"][0] == 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be merged; make both with the same"):
        SecondMoment(seed=1).merge(SecondMoment(seed=2))
    with pytest.raises(ValueError, match="cannot be merged"):
        Distinct().merge(Entropy())
    with pytest.raises(ValueError, match="not a stream statistic"):
        read_statistic(b"no")
    with pytest.raises(ValueError, match="format 9"):
        read_statistic(b"RSt\x09\x01")
    with pytest.raises(ValueError, match="hold Distinct"):
        Entropy.from_bytes(Distinct().to_bytes())
    for kind in KINDS:
        data = feed(kind()).to_bytes()
        with pytest.raises(ValueError, match="damaged"):
            read_statistic(data[: len(data) // 2])
    with pytest.raises(ValueError, match="NaN has no rank"):
        Quantiles().update([1.0, math.nan])
    with pytest.raises(ValueError, match="NaN is no item"):
        count_items([math.nan])
    with pytest.raises(ValueError, match="NaN or infinity"):
        count_items(np.array([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="positive integer"):
        count_items({"a": 0})
    with pytest.raises(TypeError, match="strings, numbers"):
        count_items([object()])
    with pytest.raises(TypeError, match="strings, numbers"):
        count_items(object())
    with pytest.raises(ValueError, match="between 0 and 1"):
        Quantiles().answer([2.0])
    with pytest.raises(ValueError, match="leave no room"):
        Entropy(size=512, heavy=64)
