"""How views are scored: what whole-numbered intervals should hold, constant modules, costs."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recollect import Memory, Prior, Sketcher, Trace, recall
from recollect.studies import views
from recollect.studies.views import scoring, shared_parts
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import _held, attributes_read, counted, overhead_of


@pytest.mark.parametrize("deviation", [0.05, 0.25, 0.4, 1.0, 3.0])
def test_ideal_intervals_hold_what_normal_errors_ask_for(deviation: float) -> None:
    """The nearest whole number is always inside, so that small deviations hold more than 90 %."""
    rng = np.random.default_rng(0)
    true = rng.integers(5, 50, 40_000).astype(float)
    estimate = true + deviation * rng.standard_normal(len(true))
    inside, ideal = _held(estimate, np.full(len(true), deviation), true)
    assert inside == pytest.approx(ideal, abs=0.01)
    assert ideal >= 0.9
    assert (ideal > 0.95) == (deviation < 0.255)
    wide, _ = _held(estimate, np.full(len(true), 3 * deviation), true)
    assert wide > 0.995


def words(glances: int, seed: int) -> Trace:
    """One word in every glance, two in some of it; their vectors are fixed; and a free module."""
    rng = np.random.default_rng(seed)
    vectors = np.random.default_rng(9).standard_normal((3, 4)).astype(np.float32)
    columns: dict[str, Any] = {
        "free": {"attributes": torch.from_numpy(rng.standard_normal((glances, 5))).float()}
    }
    for k, name in enumerate(("always", "often", "seldom")):
        there = np.flatnonzero(rng.random(glances) < (1.0, 0.6, 0.3)[k])
        x = torch.from_numpy(np.repeat(vectors[k : k + 1], len(there), 0))
        columns[name] = {"attributes": x, "glance": there}
    return Trace.from_columns(columns, num_glances=glances)


def test_constant_modules_are_counted_apart() -> None:
    past, now = words(200, 1), words(100, 2)
    sketcher, prior = Sketcher(dim=128), Prior.fit(past)
    sketcher.admit(past, measure_scales=True)
    counts = counted(sketcher, prior, now)
    assert counts.constant == 2  # "always" and "free"
    assert 0.8 <= counts.coverage <= 1.0
    assert counts.error < counts.prior
    read = attributes_read(sketcher, prior, past, now)
    assert read.fixed == 3
    assert read.r2 > 0.9  # of "free" alone; words have no variance to explain
    only = now.columns["always"]
    alone = Trace.from_columns({"always": {"attributes": only.attributes}}, num_glances=100)
    bare = Sketcher(dim=64)
    bare.admit(alone, measure_scales=True)
    nothing = attributes_read(bare, Prior.fit(alone), alone, alone)
    assert nothing.fixed == 1
    assert np.isnan([nothing.r2, nothing.r2_mean]).all()
    assert nothing.coverage == 1.0
    steady = counted(bare, Prior.fit(alone), alone)
    assert np.isnan([steady.coverage, steady.ideal]).all()
    assert (steady.constant, steady.error) == (1, pytest.approx(0.0, abs=1e-6))


def test_overhead_is_the_watched_time_over_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: a forward takes two seconds, its trace three."""
    clock = [0.0]
    monkeypatch.setattr(scoring.time, "process_time", lambda: clock[0])

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock[0] += 2.0
            return x

    class Watch:
        def trace(self) -> None:
            clock[0] += 3.0

    @contextmanager
    def watch() -> Any:
        yield Watch()

    assert overhead_of(Slow(), torch.zeros(1), watch) == pytest.approx(1.5)
    free = Watch()
    free.trace = lambda: None  # type: ignore[method-assign]
    assert overhead_of(Slow(), (torch.zeros(1),), lambda: nullcontext(free)) == 0.0


def test_kernels_answer_like_every_view(tmp_path: Path) -> None:
    """Shared parts: counts, attributes, similarity and why, from 66 bytes a glance."""
    case = shared_parts.digit_case(quick=True, seed=0)
    past, now = case.trace(case.past[:150]), case.trace(case.seen[:120])
    assert now.coverage is None or now.coverage.never_fired == ()
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=64), reservoir=150) as memory:
        memory.add(past, time="2026-01-01T08:00Z", source="past")
        memory.fit_prior()
        memory.add(now, time="2026-01-02T08:00Z", source="now", ids=range(1, 121))
        module = now.modules[5]
        told = recall.count(memory, module, since="2026-01-02T00:00Z", source="sketch")
        assert told["low"][0] <= 120 <= told["high"][0]
        mean = recall.attribute(memory, module, where="source = 'now'")
        true = float(now.objects(module).attributes.double().mean())
        slack = 0.02 * abs(true)
        assert mean["low"][0] - slack <= true <= mean["high"][0] + slack
        near = [recall.similar(memory, i, k=5, where="source = 'now'")["glance"]
                for i in range(1, 21)]  # fmt: skip
        same = [np.mean(case.kinds[np.array(g) - 1] == case.kinds[i]) for i, g in enumerate(near)]
        assert np.mean(same) >= 0.4  # by chance 0.1
        why = recall.why(memory, 1, near[0][0])
        assert sum(why["estimate"][:-1]) == pytest.approx(why["estimate"][-1], abs=1e-9)


def test_a_study_goes_on_from_its_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def row(name: str, quick: bool = True, data: str | None = None, seed: int = 0) -> ViewRow:
        asked.append((name, seed))
        return ViewRow(name, 3, 20, float("nan"), 0.1, 0.8, 0.9, 0.7, 0.2, "drawn")

    monkeypatch.setattr(views, "measure", row)
    first = views.study(quick=False, keep=str(tmp_path))
    assert len(asked) == 3 * len(views.VIEWS)
    again = views.study(quick=False, keep=str(tmp_path))
    assert len(asked) == 3 * len(views.VIEWS)
    assert list(again["R2"]) == list(first["R2"])
    assert np.isnan(again["counts"]).all()  # also through JSON
