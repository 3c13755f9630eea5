"""Drift: uniform p-values where nothing changed, small ones where something did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.recall.test_distributions import HOUR, hours, keep, scenes

from recollect import Memory, NotRemembered, Trace, recall
from recollect.recall.drifting import Units, compare

MIDDLE = np.datetime64(30 * HOUR, "us")
WAYS: dict[str, dict[str, Any]] = {
    "all": {},
    "hours": {"unit": "hour"},
    "module": {"module": "m1"},
    "module by hours": {"module": "m1", "unit": "hour"},
    "decoded": {"module": "m1", "source": "sketch"},
}


def halves(memory: Memory, **asked: Any) -> Any:
    return recall.drift(memory, (None, MIDDLE), (MIDDLE, None), **asked)


def uniform(p: list[float]) -> float:
    """Largest distance of the distribution of p-values from the uniform one (Kolmogorov)."""
    p = sorted(p)
    n = len(p)
    return max(max((i + 1) / n - v, v - i / n) for i, v in enumerate(p))


def test_p_values_are_uniform_where_nothing_changed() -> None:
    """The statistic by itself, 300 times, with unequal weights and few units."""
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        weight = rng.poisson(1.5, 24).astype(float)
        values = rng.gamma(1.0, size=(24, 6)) * weight[:, None]
        first = np.arange(24) < 9
        p.append(compare(Units(values, weight, first), 99, seed)["p_value"])
    # The 0.1 % critical distance for 300 values is 0.112; p-values are multiples of 0.01.
    assert uniform(p) < 0.112
    assert 0.05 < np.mean(np.array(p) <= 0.1) < 0.16


@pytest.mark.parametrize("rate", [0.3, 1.0, 12.0])
@pytest.mark.parametrize("together", [0.0, 0.5])
def test_a_change_of_number_alone_is_no_change_of_looks(rate: float, together: float) -> None:
    """Few objects now, many before (or the other way), all alike, whole days somewhat so.

    Without the division by V up to nine of ten p-values fall below 0.05.
    """
    p = []
    for seed in range(200):
        rng = np.random.default_rng([9, seed])
        first = np.arange(28) < 21
        weight = rng.poisson(np.where(first, 6.0, rate)).astype(float)
        if weight[~first].sum() == 0:
            continue
        values = [rng.standard_normal((int(n), 6)).sum(0) for n in weight]
        values += together * weight[:, None] * rng.standard_normal((28, 6))
        p.append(compare(Units(np.array(values), weight, first), 99, seed)["p_value"])
    # Three deviations of 200 draws above 0.05 and 0.2.
    assert np.mean(np.array(p) <= 0.05) < 0.096
    assert np.mean(np.array(p) <= 0.2) < 0.285


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_asking_is_calibrated(tmp_path: Any, way: str) -> None:
    p = []
    for seed in range(24 if way != "decoded" else 10):
        with keep(tmp_path / f"{seed}", scenes(80, 50 + seed), reservoir=30) as m:
            window = np.datetime64(10 * HOUR, "us")
            found = recall.drift(m, (None, window), (window, None), permutations=49, **WAYS[way])
            p.append(found["p_value"][0])
    # 0.1 % critical distances.
    assert uniform(p) < {24: 0.388, 10: 0.58}[len(p)] + 0.02


@pytest.mark.parametrize("way", WAYS)
def test_what_changed_is_seen(tmp_path: Any, way: str) -> None:
    changed = Trace.concat([scenes(120, 1), scenes(120, 2, shift=0.8)])
    with keep(tmp_path / "m", changed) as m:
        found = halves(m, permutations=199, **WAYS[way])
        assert found["p_value"] == [1 / 200]
        assert 0 < found["low"][0] <= found["estimate"][0] <= found["high"][0] < 1.5
        assert set(found.columns) >= {"module", "estimate", "low", "high", "p_value", "units"}


def test_a_change_of_shape_alone_is_seen_by_the_channel(tmp_path: Any) -> None:
    """Same mean, same covariance, another shape: whole sketches without a channel are blind."""
    trace = scenes(800, 3)
    glance = trace.columns["m0"].glance
    x = trace.columns["m0"].attributes
    rng = np.random.default_rng(0)
    late = glance >= 400
    import torch

    normal = rng.standard_normal(x.shape)
    signs = rng.choice([-1.0, 1.0], x.shape)
    x[:] = torch.from_numpy(np.where(late[:, None], signs, normal).astype(np.float32))
    middle = np.datetime64(100 * HOUR, "us")
    with keep(tmp_path / "m", trace, dim=64) as m:
        asked: dict[str, Any] = {"permutations": 199}
        shape = recall.drift(m, (None, middle), (middle, None), "m0", **asked)
        blind = recall.drift(m, (None, middle), (middle, None), source="sketch", **asked)
        other = recall.drift(m, (None, middle), (middle, None), ["m1", "m2"], **asked)
        assert shape["p_value"] == [0.005]
        assert blind["p_value"][0] > 0.02
        assert min(other["p_value"]) > 0.02, "the others stay as they are"
        assert any("2 tests" in n for n in other.notes)


def test_hours_are_read_from_roll_ups_alone(tmp_path: Any) -> None:
    with keep(tmp_path / "m", scenes(240, 1)) as m:
        rows = halves(m, module="m1", unit="hour", where="true", permutations=49)
        by_rows = halves(m, module="m1", unit="hour", permutations=49)
        m._engine.rows.take = None  # type: ignore[assignment,method-assign]
        found = halves(m, module="m1", unit="hour", permutations=49)
        assert found["estimate"] == pytest.approx(by_rows["estimate"], abs=1e-9)
        assert "from roll-ups alone" in found.notes
        assert rows["units"] == found["units"]


def test_the_distance_is_unbiased_and_its_interval_holds() -> None:
    """Means a fixed distance apart; the estimate's square averages to its square."""
    squares, inside = [], []
    for seed in range(120):
        rng = np.random.default_rng([1, seed])
        values = rng.standard_normal((80, 5)) + 0.4 * (np.arange(80) < 40)[:, None]
        found = compare(Units(values, np.ones(80), np.arange(80) < 40), 99, seed)
        squares.append(found["estimate"] ** 2)
        inside.append(found["low"] <= 0.4 * 5**0.5 <= found["high"])
    assert np.mean(squares) == pytest.approx(0.16 * 5, rel=0.08)
    assert 0.83 <= np.mean(inside) <= 0.97


def test_the_same_seed_gives_the_same_answer(tmp_path: Any) -> None:
    with keep(tmp_path / "m", scenes(160, 1)) as m:
        first = halves(m, permutations=49, seed=1)
        assert first.columns == halves(m, permutations=49, seed=1).columns
        assert first.columns != halves(m, permutations=49, seed=2).columns


def test_what_cannot_be_answered_is_refused(tmp_path: Any) -> None:
    with keep(tmp_path / "m", scenes(160, 1)) as m:
        with pytest.raises(ValueError, match="the windows overlap"):
            recall.drift(m, (None, MIDDLE), (None, None))
        with pytest.raises(TypeError, match=r"a pair \(since, until\)"):
            recall.drift(m, "2026-01-01", (MIDDLE, None))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at least 4 days in each window, there are 2 and 1"):
            halves(m, unit="day")
        with pytest.raises(ValueError, match="unit must be one of"):
            halves(m, unit="week")
        with pytest.raises(ValueError, match="permutations must be at least 19"):
            halves(m, permutations=9)
        with pytest.raises(ValueError, match="source must be one of"):
            halves(m, source="record")
        with pytest.raises(NotRemembered, match="did you mean"):
            halves(m, module="m7")
        late = hours(900, 901)
        with pytest.raises(NotRemembered, match="no glance is in one of the windows"):
            recall.drift(m, (None, MIDDLE), (late["since"], late["until"]))
    with keep(tmp_path / "plain", scenes(160, 1), channel=None) as plain:
        with pytest.raises(ValueError, match="keeps no distribution channel"):
            halves(plain, source="channel")
        assert "features of decoded attributes" in halves(plain, module="m0").notes


def test_a_shift_of_a_small_number_beside_large_ones_is_seen_in_rollups(tmp_path: Any) -> None:
    """A channel measures a module by one scale; means read from sums know each number's own."""
    import torch

    rng = np.random.default_rng(2)
    x = rng.standard_normal((320, 4)) * [12.0, 12.0, 12.0, 0.05]
    x[160:, 3] += 0.03
    attributes = torch.from_numpy(x.astype(np.float32))
    with keep(tmp_path / "m", Trace.from_columns({"m0": attributes})) as m:
        m.fit_prior()
        middle = np.datetime64(40 * HOUR, "us")
        found = recall.drift(m, (None, middle), (middle, None), "m0", unit="hour")
        assert found["p_value"][0] < 0.01
        assert "from roll-ups alone" in found.notes


def test_what_units_are_measured_in_does_not_know_the_windows() -> None:
    rng = np.random.default_rng(0)
    weight, sums = rng.poisson(2.0, 12).astype(float), rng.standard_normal((12, 3))
    first = np.arange(12) < 5
    one = Units(np.zeros((12, 1)), weight, first).beside(sums)
    other = Units(np.zeros((12, 1)), weight, ~first).beside(7 * sums + weight[:, None])
    np.testing.assert_allclose(one.values, other.values, atol=1e-12)
    # An object's square adds up to one over the numbers.
    assert np.square(one.values).sum() / weight.sum() == pytest.approx(1.0)
