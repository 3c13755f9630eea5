"""Questions read all epochs together: exact counts, honest intervals, the twin's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
)

from recollect import Memory, Object, Prior, RecipeMismatch, Sketcher, Trace, recall
from recollect.memory import Memory as _Memory
from recollect.recall.reading import Decoder
from recollect.recall.whitening import whitened
from recollect.replay import Remembered
from recollect.sketching import Channel, InformedSketcher
from recollect.sketching.epochs import similar_across


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    with two_epochs(tmp_path_factory.mktemp("epochs") / "room", read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """Two epochs whose glances are in no record: everything comes from sketches."""
    with Memory(tmp_path_factory.mktemp("bare") / "room", Sketcher(dim=DIM), reservoir=0) as made:
        made.add(OLD, TIMES[:USUAL], "hall", ids=IDS[:USUAL])
        made.new_epoch(prior=Prior.fit(OLD))
        made.add(NEW, TIMES[USUAL:], "room", ids=IDS[USUAL:])
        yield made


def scaled(memory: Memory, t: Trace) -> np.ndarray:
    return np.concatenate(
        [t.columns[e.name].attributes.numpy() / e.scale for e in memory.modules], axis=1
    ).astype(np.float64)


def cosines(memory: Memory, one: int) -> np.ndarray:
    x = scaled(memory, ALL)
    return x @ x[one] / (np.linalg.norm(x, axis=1) * np.linalg.norm(x[one]))


# -- counts and means -----------------------------------------------------------------------


def test_counts_before_and_after_add_up_to_the_exact_ones(memory: Memory) -> None:
    change = int(TIMES[USUAL - USUAL % 8])
    for module in (None, "one", "three"):
        parts = [recall.count(memory, module, **window)["estimate"][0]
                 for window in ({"until": change}, {"since": change})]  # fmt: skip
        assert sum(parts) == recall.count(memory, module)["estimate"][0] == len(IDS)
    by_hour = recall.count(memory, "two", by="hour")
    assert by_hour["estimate"] == np.bincount((TIMES - START) // HOUR).astype(float).tolist()
    assert recall.count(memory, "two", by="source")["estimate"] == [USUAL, LATER]


def test_counts_from_sketches_alone_add_what_each_epoch_tells(unrecorded: Memory) -> None:
    found = recall.count(unrecorded, "one", source="sketch")
    assert found["low"][0] <= len(IDS) <= found["high"][0]
    late = recall.count(unrecorded, "one", source="sketch", where="source = 'room'")
    assert late["low"] == late["estimate"] == late["high"] == [float(LATER)]
    seen = recall.count(unrecorded, "one", source="sketch", unit="glances")
    assert seen["estimate"][0] == pytest.approx(len(IDS), abs=1)


def test_means_over_both_epochs_hold_the_truth(unrecorded: Memory) -> None:
    inside = []
    for window in (
        {},
        {"since": int(TIMES[96]), "until": int(TIMES[144])},
        {"where": "id % 3 = 1"},
    ):
        rows = np.arange(len(IDS)) if not window else np.arange(96, 144)
        rows = np.flatnonzero(IDS % 3 == 1) if "where" in window else rows
        for name, c in ALL.columns.items():
            found = recall.attribute(unrecorded, name, **window)
            true = c.attributes.numpy()[rows].mean(0)
            inside.append((np.array(found["low"]) <= true) & (true <= np.array(found["high"])))
    assert 0.8 < np.concatenate(inside).mean() <= 1


@pytest.mark.parametrize("move", [0.0, 0.6])
def test_means_from_the_sums_of_both_epochs(tmp_path: Path, move: float) -> None:
    """Without skeletons only sums are read; also of glances unlike the prior."""
    late = glances(LATER, 11, move=move)
    with Memory(tmp_path / "m", Sketcher(dim=DIM), reservoir=0, keep_skeletons=False) as memory:
        memory.add(OLD, TIMES[:USUAL], ids=IDS[:USUAL])
        memory.new_epoch(prior=Prior.fit(OLD))
        memory.add(late, TIMES[USUAL:], ids=IDS[USUAL:])
        memory._priors.keep(Prior.fit(OLD))
        both, inside = Trace.concat([OLD, late]), []
        for rows in (np.arange(len(IDS)), np.arange(USUAL, len(IDS)), np.arange(80, 128)):
            window = {"since": int(TIMES[rows[0]]), "until": int(TIMES[rows[-1]]) + HOUR // 8}
            for name, c in both.columns.items():
                found = recall.attribute(memory, name, **window)
                true = c.attributes.numpy()[rows].mean(0)
                inside.append((np.array(found["low"]) <= true) & (true <= np.array(found["high"])))
        assert np.concatenate(inside).mean() > 0.8
        counted = recall.count(memory, "one")
        assert counted["low"][0] <= len(IDS) <= counted["high"][0]
        read = recall.unroll(memory, USUAL + 3)  # an informed epoch needs no skeleton
        assert sorted(read["module"]) == ["one", "three", "two"]
        with pytest.raises(ValueError, match="only with its skeleton"):
            recall.unroll(memory, 3)


def test_means_of_what_is_left_in_roll_ups_only(tmp_path: Path) -> None:
    with two_epochs(tmp_path / "m") as memory:
        now = np.datetime64(int(TIMES[-1]) + 40 * 24 * HOUR, "us")
        memory.fade(now, "full for 10 days, roll-ups for ever")
        for name, c in ALL.columns.items():
            found = recall.attribute(memory, name)
            error = np.array(found["estimate"]) - c.attributes.numpy().mean(0)
            assert np.abs(error).max() < 0.25 * c.attributes.numpy().std()


def test_decoding_is_the_twins(unrecorded: Memory) -> None:
    prior = unrecorded.prior(1)
    twin = InformedSketcher(prior, DIM, scales=plain(unrecorded).scales)
    read = twin.decode(twin.encode(NEW))
    found = recall.unroll(unrecorded, USUAL + 7)
    for name, estimate, std in zip(found["module"], found["estimate"], found["std"], strict=True):
        np.testing.assert_allclose(
            estimate, read.trace.columns[name].attributes[7], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            std, read.deviations.columns[name].attributes[7], rtol=1e-4, atol=1e-5
        )


def test_quantiles_hold_the_truth_over_both(unrecorded: Memory) -> None:
    found = recall.quantiles(unrecorded, "two", [0.25, 0.5, 0.75], feature=3)
    true = np.quantile(ALL.columns["two"].attributes[:, 3].numpy(), [0.25, 0.5, 0.75])
    wide = 0.1 * ALL.columns["two"].attributes[:, 3].numpy().std()
    assert (
        (np.array(found["low"]) - wide <= true) & (true <= np.array(found["high"]) + wide)
    ).all()


def test_the_distribution_channel_runs_through(tmp_path: Path) -> None:
    """Its sums are of one recipe whatever the epoch."""
    sketcher = Sketcher(dim=DIM, channel=Channel(size=128, modules=("three",)))
    with Memory(tmp_path / "m", sketcher, reservoir=USUAL) as memory:
        memory.add(OLD, TIMES[:USUAL], ids=IDS[:USUAL])
        memory.fit_prior()
        memory.new_epoch()
        memory.add(NEW, TIMES[USUAL:], ids=IDS[USUAL:])
        kept = memory.channels()
        assert kept.equal(plain(memory, channel=sketcher.recipe.channel).encode(ALL).channel)
        assert np.array_equal(memory.rollups().channel.sum(0), kept.sum().codes[0].numpy())
        found = recall.fraction_above(memory, "three", 1.0, feature=2, source="channel")
        true = float((ALL.columns["three"].attributes[:, 2] > 1.0).float().mean())
        assert found["low"][0] - 0.02 <= true <= found["high"][0] + 0.02
        assert memory.verify().ok


# -- similarity -----------------------------------------------------------------------------


@pytest.mark.parametrize("one", [5, USUAL + 5])
def test_a_trace_finds_its_like_in_both_epochs(memory: Memory, one: int) -> None:
    found = recall.similar(memory, ALL[one], k=len(IDS))
    assert found["glance"][0] == one
    epochs = [(plain(memory), memory.sketches(ids=IDS[:USUAL])),
              (memory.sketcher_of(1), memory.sketches(ids=IDS[USUAL:]))]  # fmt: skip
    twin = similar_across(epochs, ALL[one], k=len(IDS))
    scores = {USUAL * epoch + row: score for epoch, row, score in twin}
    ours = dict(zip(found["glance"], found["estimate"], strict=True))
    assert max(abs(ours[i] - scores[i]) for i in IDS.tolist()) < 0.02  # the query is rounded
    new = [i for i in found["glance"] if i >= USUAL]
    assert new == sorted(new, key=lambda i: -scores[i])


def test_intervals_of_cosines_hold_in_both_epochs(memory: Memory) -> None:
    inside: dict[int, list[bool]] = {0: [], 1: []}
    width: dict[int, list[float]] = {0: [], 1: []}
    for one in [*range(0, USUAL, 12), *range(USUAL, len(IDS), 6)]:
        true = cosines(memory, one)
        found = recall.similar(memory, ALL[one], k=len(IDS))
        for i, low, high in zip(found["glance"], found["low"], found["high"], strict=True):
            if i != one:
                inside[int(i >= USUAL)].append(low <= true[i] <= high)
                width[int(i >= USUAL)].append(high - low)
    assert np.mean(inside[0]) > 0.85
    assert np.mean(inside[1]) > 0.85
    assert np.mean(width[1]) < 0.8 * np.mean(width[0])  # leading directions are not projected


@pytest.mark.parametrize("one", [5, USUAL + 5])
def test_a_glance_that_was_not_kept_whole_is_read_back_for_the_other_epoch(
    unrecorded: Memory, one: int
) -> None:
    found = recall.similar(unrecorded, one, k=len(IDS))
    assert len(found) == len(IDS) - 1
    assert one not in found["glance"]
    assert any("in the other epochs it is searched for as read back" in n for n in found.notes)
    true = cosines(unrecorded, one)
    order = np.argsort(-true)[1:11]
    assert len(set(order.tolist()) & set(found["glance"][:10])) >= 6
    held = [low <= true[i] <= high for i, low, high in zip(
        found["glance"], found["low"], found["high"], strict=True)]  # fmt: skip
    assert np.mean(held) > 0.85


def test_parts_and_objects_are_found_in_both_epochs(memory: Memory) -> None:
    trace = ALL[USUAL + 9]
    ours = recall.similar(memory, trace, k=len(IDS), module="two")
    x = scaled(memory, ALL)[:, 30:80]
    whole = np.linalg.norm(scaled(memory, ALL), axis=1)
    true = x @ x[USUAL + 9] / (whole * np.linalg.norm(x[USUAL + 9]))
    error = np.array(ours["estimate"]) - true[ours["glance"]]
    new = np.array(ours["glance"]) >= USUAL
    assert error[new].std() < 0.12
    assert abs(error[new].mean()) < 0.1
    thing = Object("two", ALL.columns["two"].attributes[USUAL + 9].tolist())
    same = recall.similar(memory, thing, k=len(IDS))
    found = dict(zip(same["glance"], same["estimate"], strict=True))
    for i, estimate in zip(ours["glance"], ours["estimate"], strict=True):
        if i >= USUAL:
            assert found[i] == pytest.approx(estimate, abs=1e-4)
    by_id = recall.similar(memory, USUAL + 9, k=5, path="two", anywhere=True)
    assert len(by_id) == 5
    nested = Object("two", [0.0] * 50, inputs=[Object("three", [1.0] * 9)])
    only_old = recall.similar(memory, nested, k=len(IDS))
    assert max(only_old["glance"]) < USUAL  # no glance of the new epoch is made of others


def test_a_sketch_of_either_epoch_is_a_query(memory: Memory) -> None:
    for one in (7, USUAL + 7):
        sketch = memory.sketches(ids=[one])
        assert recall.similar(memory, sketch, k=3)["glance"][0] == one
    with pytest.raises(RecipeMismatch, match=r"encode the query with memory\.sketcher"):
        recall.similar(memory, Sketcher(dim=DIM, seed=4).encode(NEW[0]))


@pytest.mark.parametrize("pair", [(3, 9), (USUAL + 3, USUAL + 9), (3, USUAL + 9)])
def test_why_adds_up_within_and_across_epochs(
    unrecorded: Memory, memory: Memory, pair: tuple[int, int]
) -> None:
    for asked in (memory, unrecorded):
        found = recall.why(asked, *pair)
        estimate = dict(zip(found["path"], found["estimate"], strict=True))
        total = estimate.pop("(total)")
        assert sum(estimate.values()) == pytest.approx(total, abs=1e-9)
        assert {"one", "two", "three"} <= set(estimate)
        assert abs(estimate["(residual)"]) < 0.35
        assert abs(total - cosines(asked, pair[0])[pair[1]]) < 0.3


def test_search_in_two_stages_is_that_in_one(tmp_path: Path) -> None:
    """More glances than are read at once, whole and faded, against all cosines."""
    with begun(tmp_path / "m") as memory:
        many = glances(500, 21)
        memory.add(many, TIMES[-1], ids=range(1000, 1500))
        ids = [*IDS[:USUAL].tolist(), *range(1000, 1500)]
        for query in (many[3], OLD[3]):
            found, scores = memory.search(memory.queries(query), 620)
            assert sorted(found.tolist()) == ids
            best, top = memory.search(memory.queries(query), 7)
            assert best.tolist() == found[:7].tolist()
            np.testing.assert_allclose(top, scores[:7], atol=1e-6)
            some, _ = memory.search(memory.queries(query), 5, where="id % 2 = 1")
            assert some.tolist() == [i for i in found.tolist() if i % 2][:5]


# -- whitened -------------------------------------------------------------------------------


def test_whitened_amounts_in_both_epochs(memory: Memory) -> None:
    found = recall.similar(memory, ALL[USUAL + 2], k=4, whiten=True)
    assert found["glance"][0] == USUAL + 2
    assert found["estimate"][0] == pytest.approx(1, abs=0.1)
    assert recall.similar(memory, ALL[2], k=4, whiten=True)["glance"][0] == 2


def test_whitened_search_of_faded_glances(tmp_path: Path) -> None:
    """Each length is whitened among its like; the amounts are those of a full scan."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 40)) * 3
    x += 0.3 * rng.standard_normal((300, 40))
    mark = rng.standard_normal(40)
    hit = rng.random(300) < 0.1
    x[hit] += 0.9 * mark
    t = Trace.from_columns({"a": torch.from_numpy(x).float()})
    hours = np.arange(300) // 3
    with _Memory(tmp_path / "m", Sketcher(dim=256), reservoir=0) as memory:
        memory.add(t, START + hours * HOUR, ids=range(300))
        now = np.datetime64(START + 300 * HOUR, "us")
        memory.fade(now, "full for 10 days, 128 dims for 11 days, skeletons for ever")
        kept = memory.kept(range(300))
        assert set(kept.tolist()) == {0, 128, 256}
        probe = memory.sketcher.probe(Object("a", mark)).numpy()
        found = recall.similar(memory, Object("a", mark), k=300, whiten=True)
        assert sorted(found["glance"]) == np.flatnonzero(kept > 0).tolist()
        amount = dict(zip(found["glance"], found["estimate"], strict=True))
        for length in (128, 256):
            ids = np.flatnonzero(kept == length)
            white = whitened(memory, probe[:length])
            values = memory.sketches(ids=ids, prefix=length).values.numpy()
            np.testing.assert_allclose(
                [amount[i] for i in ids.tolist()], values @ white.vector, atol=1e-6
            )
        ranked = hit[found["glance"]]
        top = int(ranked.sum())
        assert ranked[:top].mean() > 0.7  # one in ten by chance
        assert any("have faded to 128 of 256" in note for note in found.notes)
        old = int(np.flatnonzero(kept == 128)[0])
        assert len(recall.similar(memory, old, k=3, whiten=True)) == 3
        memory.delete(f"id IN ({', '.join(map(str, np.flatnonzero(kept == 256)))})")
        with pytest.raises(ValueError, match="no glance keeps 200 numbers"):
            whitened(memory, probe[:200])


# -- everything else ------------------------------------------------------------------------


def test_learning_from_both_epochs(memory: Memory) -> None:
    x = scaled(memory, ALL)
    side = x @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]
    high = side > np.median(side)
    yes, no = np.flatnonzero(high)[::9].tolist(), np.flatnonzero(~high)[::9].tolist()
    for over in ("sketches", "attributes"):
        found = recall.concept(memory, yes, no, over=over)
        right = [(p > 0.5) == high[i] for i, p in zip(
            found["glance"], found["estimate"], strict=True)]  # fmt: skip
        assert np.mean(right) > 0.85
    labelled = {**dict.fromkeys(yes, "high"), **dict.fromkeys(no, "low")}
    assert len(recall.label_next(memory, 3, labelled=labelled)) == 3
    sketches, _ = Remembered(memory, {3: 0, USUAL + 3: 1}).batch([3, USUAL + 3])
    true = memory.sketcher.unrounded(ALL[[3, USUAL + 3]])
    assert ((sketches - true).norm(dim=1) < 0.5 * true.norm(dim=1)).all()


def test_drift_over_the_change_of_epochs_is_no_drift_of_the_world(tmp_path: Path) -> None:
    change = int(TIMES[USUAL])
    windows = ((START, change), (change, int(TIMES[-1]) + HOUR))
    with two_epochs(tmp_path / "same") as memory:
        for module in (None, "two"):
            assert (
                recall.drift(memory, *windows, module=module, unit="glance")["p_value"][0] > 0.01
            )
        hours = tuple((a // HOUR * HOUR, b // HOUR * HOUR) for a, b in windows)
        assert recall.drift(memory, *hours, unit="hour")["p_value"][0] > 0.01
    with begun(tmp_path / "moved") as memory:
        memory.add(glances(LATER, 1, move=0.8), TIMES[USUAL:], ids=IDS[USUAL:])
        assert recall.drift(memory, *windows, unit="glance")["p_value"][0] < 0.01


def test_a_later_prior_that_lacks_a_module_does_not_stop_the_reading(tmp_path: Path) -> None:
    with two_epochs(tmp_path / "m") as memory:
        columns = {k: c.attributes for k, c in glances(90, 2).columns.items() if k != "two"}
        memory._priors.keep(Prior.fit(Trace.from_columns(columns)))
        read = Decoder.of(memory).decode(memory.sketches(ids=IDS[USUAL:]))
        assert read.prior is memory.prior(1)
        assert len(read.objects("two").attributes) == LATER
