"""Glances that are worth a label: the doubtful ones, once each, with weights that add up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall

HOURS = np.datetime64("2026-01-01T00:00") + np.arange(40) * np.timedelta64(1, "h")


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """40 glances of two kinds that differ in their first number; the first ten have labels."""
    found = Memory(tmp_path / "m", Sketcher(dim=64), reservoir=0)
    kinds = np.arange(40) % 2
    shades = np.random.default_rng(0).normal(size=(40, 4))
    trace = Trace.from_objects(
        [[Object("cat", [3.0 * k - 1.5, *s])] for k, s in zip(kinds, shades, strict=True)]
    )
    names = [("day", "night")[k] if n < 10 else None for n, k in enumerate(kinds)]
    found.add(trace, HOURS, ids=range(100, 140), labels=[{"label": v} if v else {} for v in names])
    return found


def test_the_doubtful_ones_are_chosen_and_labelled_ones_are_not(memory: Memory) -> None:
    p = np.where(np.arange(40) % 4 == 1, 0.5, 0.9999)
    answers = [recall.label_next(memory, 3, p, seed=s) for s in range(30)]
    picked = np.concatenate([a["id"] for a in answers])
    assert picked.min() >= 110  # the first ten have a label
    assert all(len(set(a["id"])) == 3 for a in answers)
    assert np.mean(picked % 4 == 1) > 0.85  # 7 of 30 glances; the rest has the floor, 0.02
    for i, w, d in zip(*(answers[0][k] for k in ("id", "weight", "doubt")), strict=True):
        assert (w, d) == ((1.0, 1.0) if i % 4 == 1 else (10.0, 0.02))
    assert answers[0]["time"][0].startswith("2026-01-0")


def test_answers_of_concepts_and_tables_of_classes_will_do(memory: Memory) -> None:
    p = np.linspace(0.01, 0.99, 40)
    plain = recall.label_next(memory, 5, p, seed=1)
    asked = recall.label_next(memory, 5, SimpleNamespace(probability=p), seed=1)
    table = recall.label_next(memory, 5, np.stack([1 - p, p], 1), seed=1)
    assert plain["id"] == asked["id"] == table["id"]
    assert plain["probability"] == asked["probability"]
    picked = [i - 100 for i in plain["id"]]
    assert plain["likeliest"] == [int(p[i] > 0.5) for i in picked]
    assert plain["weight"] == pytest.approx([min(1 / d, 10) for d in plain["doubt"]])


def test_without_probabilities_the_known_labels_teach(memory: Memory) -> None:
    found = recall.label_next(memory, 30)
    right = [("day", "night")[i % 2] == c for i, c in zip(found["id"], found["likeliest"],
             strict=True)]  # fmt: skip
    assert np.mean(right) > 0.9
    assert "ridge classifier on the sketches, fitted to 10 labels" in found.notes[0]
    elsewhere = recall.label_next(memory, 3, label="none", labelled={100: 0, 101: 1})
    assert "fitted to 2 labels" in elsewhere.notes[0]
    assert not {100, 101} & set(elsewhere["id"])


def test_with_nothing_known_it_is_chance(memory: Memory) -> None:
    picked = [recall.label_next(memory, 10, label="other", seed=s) for s in range(30)]
    assert "by chance" in picked[0].notes[0]
    counts = np.bincount(np.concatenate([a["id"] for a in picked]), minlength=140)[100:]
    assert counts.sum() == 300
    assert counts.max() <= 18  # of 30; 7.5 expected
    assert picked[0]["id"] != picked[1]["id"]


def test_filters_hold(memory: Memory) -> None:
    found = recall.label_next(memory, 4, since="2026-01-02T00:00Z", until="2026-01-02T05:00Z")
    assert sorted(found["id"]) == sorted(set(found["id"]))
    assert set(found["id"]) <= {124, 125, 126, 127, 128}


def test_what_cannot_be_chosen_is_refused(memory: Memory) -> None:
    with pytest.raises(ValueError, match="k = 31 is more than the 30 glances without a 'label'"):
        recall.label_next(memory, 31)
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall.label_next(memory, 0)
    with pytest.raises(ValueError, match="there are 40 glances but probabilities of 3"):
        recall.label_next(memory, 1, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"row 0 sums to 0\.2"):
        recall.label_next(memory, 1, np.full((40, 2), 0.1))
    with pytest.raises(NotRemembered, match="no glance matches, where source = 'hall'"):
        recall.label_next(memory, 1, where="source = 'hall'")
