"""The studies of concepts by example and of architecture search: scores, worlds, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect._answers import Answer
from recollect.studies import concepts, search
from recollect.studies.architectures import linear_cka


@pytest.fixture(scope="module")
def task() -> Any:
    pytest.importorskip("sklearn")
    tasks = concepts._digits((3,), 1)
    yield next(tasks)
    tasks.close()


def test_examples_are_what_they_are_said_to_be(task: concepts.Task) -> None:
    assert task.truth[task.positive].all()
    assert not task.truth[task.negative].any()
    assert len(task.known) == concepts.SHOWN + concepts.OTHERS
    assert 0.05 < task.truth.mean() < 0.15
    # Every module of the exact activations counts alike, as in a sketch.
    assert np.square(task.exact - task.exact.mean(0)).sum(1).mean() == pytest.approx(2.0)


def test_every_way_finds_more_than_chance(task: concepts.Task) -> None:
    for way, ask in concepts.WAYS.items():
        found = concepts._judged(task, ask)
        assert found["average precision"] > 3 * task.truth.mean(), way
        assert np.isnan(found["Brier score"]) == way.startswith("nearest"), way


def test_the_glances_that_were_given_are_not_judged(task: concepts.Task) -> None:
    """Whoever only repeats the examples knows nothing of the rest."""

    def repeats(given: concepts.Task) -> np.ndarray:
        chance = np.zeros(len(given.truth))
        chance[given.positive] = 1.0
        return chance

    found = concepts._judged(task, repeats)
    rest = np.setdiff1d(np.arange(len(task.truth)), task.known)
    assert found["average precision"] == pytest.approx(task.truth[rest].mean())


def test_calibration_error_is_the_mean_distance_in_tenths() -> None:
    chance = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    truth = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    expected = (2 * abs(0.05 - 0.5) + abs(2.9 - 3.0)) / 5
    assert concepts.calibration_error(chance, truth) == pytest.approx(expected)


def test_alikeness_is_linear_cka_of_every_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(30, m, generator=generator) for m in (3, 5, 8)]
    table = search.alikeness(parts)
    for i, a in enumerate(parts):
        for j, b in enumerate(parts):
            assert table[i, j] == pytest.approx(linear_cka(a, b), abs=1e-9)


def test_a_ranking_is_judged_by_the_end() -> None:
    """A perfect one: no regret; the early part of all and the late part of five is paid."""
    runs = [
        search.Run(v, early=0.1, final=0.5 + i / 100, seconds=(1.0, 4.0))
        for i, v in enumerate(search.variants(20, 0))
    ]
    found = search._judged(runs, lambda r, _: np.array([x.final for x in r]), 0)
    assert found["rank correlation"] == pytest.approx(1.0)
    assert (found["regret"], found["best found"]) == (0.0, 1.0)
    assert found["saved"] == pytest.approx(1 - (20 + 15) / 80, abs=0.01)
    worst = search._judged(runs, lambda r, _: -np.array([x.final for x in r]), 0)
    assert worst["rank correlation"] == pytest.approx(-1.0)
    assert worst["regret"] == pytest.approx(0.15)


def test_a_half_trained_variant_is_remembered_as_it_was_early() -> None:
    pytest.importorskip("sklearn")
    pictures = search._digits()
    variant = search.Variant(2, 8, "relu", 0.3, 3e-3)
    first, again = (search._run(variant, pictures, 1, e, 0) for e in (1, 2))
    assert torch.equal(first.sketches, again.sketches)  # epochs after the early one change nothing
    assert first.early == again.early
    assert first.sketches.shape == (300, search.DIM)
    assert first.parameters == 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10


def test_pictures(tmp_path: Path) -> None:
    rows = [
        {"concept": "x", "way": w, "average precision": 0.5, "calibration error": float("nan")}
        for w in concepts.WAYS
    ]
    answer = Answer({k: [r[k] for r in rows] for k in rows[0]})
    concepts.draw(answer, str(tmp_path / "concepts.svg"))
    assert "nearest neighbour, sketches" in (tmp_path / "concepts.svg").read_text()
    rows = [{"ranking": r, "rank correlation": 0.5, "regret": 0.0} for r in search.RANKINGS]
    search.draw(Answer({k: [r[k] for r in rows] for k in rows[0]}), str(tmp_path / "search.svg"))
    assert "successive halving" in (tmp_path / "search.svg").read_text()
