"""The study of erasure: its measures against naive twins, its verdicts, its picture."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest

from recollect.sketching import Prior
from recollect.studies import erasure, erasure_tasks
from recollect.studies.erasure import ANY, FEWER, OURS, PARTS, PCA, Properties

GOOD = Properties(0.01, 0.9, 0.1, 0.9, 0.02, 0.9, 0.9)


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("sklearn")
    wide = erasure_tasks.WIDE
    erasure_tasks.WIDE = 1024
    yield erasure_tasks.digit_task(0, (60, 20))
    erasure_tasks.WIDE = wide


def test_the_task_holds_what_it_says(task):
    assert (len(task.fit), len(task.judged)) == (60, 20)
    objects = task.counts.sum(1)
    assert objects.min() >= 2
    assert objects.max() <= 12
    assert sum(len(x) for x in task.attributes.values()) == objects.sum()
    assert task.count_of(task.bags[1]) == pytest.approx(task.counts)
    assert np.diagonal(task.cosines) == pytest.approx(np.ones(20))
    assert task.pairs.sum() == 20 * 19
    # Slots hold the same objects, less the means of their modules.
    size = erasure_tasks.HIDDEN
    assert task.slots[1].shape == (20, erasure_tasks.SLOTS * size)
    filled = np.abs(task.slots[1].reshape(20, -1, size)).sum(2) > 0
    assert (filled.sum(1) == objects).all()


def test_a_sketch_and_its_parts_are_measured(task):
    prior = Prior.fit(task.fit)
    whole = task.sketcher.encode(task.judged)
    r = task.sketcher.decode(whole, prior=prior)
    full, part = (erasure._sketched(task, prior, whole.prefix(n)) for n in (512, 64))
    _, counted, _ = r.count_estimates(task.names)
    assert full.count_error == pytest.approx(np.abs(counted - task.counts).mean())
    assert full.attribute_error < part.attribute_error
    assert full.cosine_error < part.cosine_error
    few = erasure._fewer(task, whole, full, 4, 0)
    assert few.attribute_error == pytest.approx(0.25 * full.attribute_error + 0.75)
    assert few.recall < full.recall
    assert erasure._fewer(task, whole, full, 1, 0).recall == pytest.approx(full.recall)


def test_pca_of_all_axes_is_exact_but_for_rounding(task):
    # Axes of few glances cannot span what was never seen: let them see what is judged.
    told = replace(task, slots=(task.slots[1], task.slots[1]), bags=(task.bags[1], task.bags[1]))
    every, few = (erasure._pca(told, size) for size in (10_000, 4))
    assert every.attribute_error < 1e-3
    assert every.count_error < 0.05
    assert few.attribute_error > every.attribute_error
    assert few.count_error > every.count_error


def made(**changes):
    """Measurements of two seeds that get worse as they should, with some changed."""
    found = []
    for seed in range(2):
        one = {}
        for method in (OURS, ANY, PCA, FEWER):
            for part in PARTS:
                bad = Properties(0.01 * part, 0.9, 0.1 * part, 0.9, 0.02 * part, 0.9, 0.9 / part)
                one[method, part] = replace(bad, **changes) if (method, part) == (OURS, 8) else bad
        one = {k: Properties(*(x * (1 + 0.01 * seed) for x in astuple(v))) for k, v in one.items()}
        found.append(one)
    return found


def test_verdicts():
    notes = erasure.tabled(made(), "a test", 512).notes
    assert notes[0].startswith("every error grows as less is kept")
    assert notes[1] == "all 90 % intervals hold 87 to 93 % of the truth"
    notes = erasure.tabled(made(attribute_error=0.001, recall=0.95), "a test", 512).notes
    assert notes[0].endswith("attribute_error at 1/8, recall at 1/8")
    notes = erasure.tabled(made(cosine_covers=0.8), "a test", 512).notes
    assert notes[1] == f"outside of 87 to 93 %: cosine 80.4% ({OURS}, 1/8)"


def test_table_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    answer = erasure.tabled(made(), "a test", 512)
    assert answer["bytes"][:5] == [512, 256, 128, 64, 32]
    assert answer["recall"][1] == pytest.approx(0.45 * 1.005)
    assert answer["recall ±"][1] == pytest.approx(0.45 * 0.01 / np.sqrt(2))
    erasure.draw(answer, str(tmp_path / "picture.svg"))
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()


def test_data_needs_the_repository(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "benchmarks.static_network", None)
    with pytest.raises(ImportError, match=r"PYTHONPATH=\. recollect study erasure --data DIR"):
        erasure.study(quick=True, data=str(tmp_path))
