"""The study of drift: what is planted is there, ways name what changed, real rows are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect._answers import Answer
from recollect.studies import drift, street_tree, trained_networks
from recollect.studies.drift import BEFORE, CHANGED, CHANGES, WAYS, WINDOW, Year


@pytest.fixture(scope="module")
def scenes() -> Any:
    pytest.importorskip("sklearn")
    return drift.DigitScenes(epochs=3)


def test_the_changed_kind_is_changed_and_no_other(scenes: Any) -> None:
    usual = CHANGES["nothing"](scenes, 1)
    for name, plant in CHANGES.items():
        trace = plant(scenes, 1)
        assert len(trace) == BEFORE + WINDOW
        for module in usual.modules:
            a, b = usual.objects(module), trace.objects(module)
            same = len(a.glance) == len(b.glance) and bool((a.attributes == b.attributes).all())
            assert same == (name == "nothing" or module != CHANGED), (name, module)


def test_a_new_kind_is_named_by_every_way_and_nothing_else(scenes: Any, tmp_path: Path) -> None:
    trace = CHANGES["one kind is new"](scenes, 2)
    with drift._memory(str(tmp_path), trace, 2) as memory:
        year = Year(trace, memory)
        for way, ask in WAYS.items():
            assert ask(year, 2) == {CHANGED}, way
        sizes = drift._sizes(year)
    assert sizes["every object, Kolmogorov-Smirnov"] == pytest.approx(5 * 7, rel=0.1)
    assert all(size > 0 for size in sizes.values())


def test_the_table_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"change": c, "way": w, "found": 0.5, "false alarm": 0.0} for c in CHANGES for w in WAYS
    ]
    answer = Answer({k: [r[k] for r in rows] for k in rows[0]})
    drift.draw(answer, str(tmp_path / "drift.svg"))
    shown = (tmp_path / "drift.svg").read_text()
    assert all(way in shown for way in WAYS)


def test_streets_outside_a_checkout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(trained_networks.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="from a checkout of the repository"):
        street_tree.street_rows(Path("data"))


def test_a_module_has_unit_deviation_whatever_its_size() -> None:
    x = np.random.default_rng(0).standard_normal((500, 3)) * [1.0, 10.0, 100.0]
    scaled = x / street_tree._scales(x)
    assert np.square(scaled - scaled.mean(0)).sum(1).mean() == pytest.approx(1.0)
