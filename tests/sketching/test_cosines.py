"""Cosines of sketches, corrected and bounded by what glances kept whole tell of one draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import Sketcher, Trace
from recollect.sketching import Cosines, cosines


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "WIDE", 4096)


def nearly_alike(glances: int, seed: int) -> Trace:
    """A static network whose glances differ in three directions only."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    mean, directions = fixed.normal(size=60), fixed.normal(size=(3, 60))
    x = (
        mean
        + 0.3 * rng.normal(size=(glances, 3)) @ directions
        + 0.02 * rng.normal(size=(glances, 60))
    )
    return Trace.from_columns({"net": torch.from_numpy(x.astype(np.float32))})


def of(values: np.ndarray) -> np.ndarray:
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def test_nine_in_ten_intervals_hold_with_every_draw_of_the_operators() -> None:
    covered, textbook, better = [], [], []
    for seed in range(16):
        sketcher = Sketcher(dim=64, seed=seed, dtype="float32")
        kept, judged = nearly_alike(192, seed), nearly_alike(80, 100 + seed)
        sketcher.admit(kept)
        true = of(judged.columns["net"].attributes.double().numpy())
        found = of(sketcher.encode(judged).values.numpy().astype(np.float64))
        known = Cosines.fit(sketcher, kept, lengths=[64])
        estimate, low, high = known.read(found, 64)
        covered.append(np.mean((low <= true) & (true <= high)))
        _, least, most = Cosines.unknown().read(found, 64)
        textbook.append(float((high - low).mean() / (most - least).mean()))
        better.append(np.abs(estimate - true).mean() / np.abs(found - true).mean())
    assert 0.87 <= np.mean(covered) <= 0.93
    assert min(covered) >= 0.65
    # Glances that are nearly alike: without the records intervals would be far too wide.
    assert max(textbook) < 0.5
    assert np.mean(better) < 0.8


def test_lengths_between_are_interpolated_and_ends_stay_cosines() -> None:
    known = Cosines(np.array([16, 64]), np.array([[-2.0, -0.5, 1.0], [-1.0, 0.5, 2.0]]))
    middle, low, high = known.read([0.0, 0.0, 0.0], [16, 32, 1024])
    assert middle == pytest.approx([-0.5 / 4, 0.0, 0.5 / 32])
    assert low == pytest.approx([-2 / 4, -1.5 / 32**0.5, -1 / 32])
    assert high[2] == pytest.approx(2 / 32)
    assert Cosines.unknown().read([0.9], 1)[2] <= 1
    again = Cosines.from_arrays(known.to_arrays())
    assert (again.ends == known.ends).all()
    assert (again.lengths == known.lengths).all()


def test_few_or_equal_glances_tell_nothing() -> None:
    sketcher = Sketcher(dim=64)
    assert len(Cosines.fit(sketcher, nearly_alike(20, 0)).lengths) == 1
    equal = Trace.from_columns({"net": torch.ones(60, 60)})
    known = Cosines.fit(Sketcher(dim=64), equal, lengths=[64])
    assert (known.ends[0] == Cosines.unknown().ends[0]).all()
