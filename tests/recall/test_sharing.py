"""What two kinds of glance share is found, nothing else is; too little to compare is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recollect import Memory, Sketcher, Trace, recall
from recollect._checks import NotRemembered

TIME = "2026-01-01T08:00Z"
KINDS = np.array(["cat"] * 60 + ["person"] * 60 + ["chair"] * 80)


def world(seed: int, planted: bool) -> Tensor:
    """(200, 4, 3): cat and person share number 1 of module 2, cat alone has 0 of module 0."""
    x = torch.randn(200, 4, 3, generator=torch.manual_seed(seed))
    if planted:
        x[:120, 2, 1] += 1.5
        x[:60, 0, 0] += 1.5
        x[60:120, 1, 2] += 1.5
        x[:120, 3, 0] -= 1.5  # both lack it: not a part that they use
    return x


def remember(path: Path, x: Tensor, **options: Any) -> Memory:
    t = Trace.from_columns({f"module{i}": x[:, i] for i in range(4)})
    memory = Memory(path, sketcher=Sketcher(dim=64, seed=1), **options)
    memory.add(t, time=TIME, labels={"kind": KINDS.tolist()})
    return memory


A, B = "kind = 'cat'", "kind = 'person'"


def test_the_shared_part_is_found_and_nothing_else(tmp_path: Path) -> None:
    with remember(tmp_path / "m", world(0, planted=True)) as memory:
        memory.fit_prior()
        answer = recall.shared(memory, A, B)
        assert list(zip(answer["module"], answer["number"], strict=True)) == [("module2", 1)]
        x = world(0, planted=True)[:, 2, 1].double().numpy()
        raw = [x[k == KINDS].mean() for k in ("cat", "person", "chair")]
        truth = (min(raw[:2]) - raw[2]) / x[KINDS == "chair"].std()
        assert answer["low"][0] < truth < answer["high"][0]
        np.testing.assert_allclose([answer[c][0] for c in ("a", "b", "others")], raw, atol=0.1)
        assert len(recall.shared(memory, A, B, numbers=[0])["module"]) == 0
        same = recall.shared(memory, A, B, rest="kind = 'chair'")
        assert same["estimate"] == answer["estimate"]


def test_nothing_is_named_where_nothing_is_shared(tmp_path: Path) -> None:
    named = 0
    for seed in range(4):
        with remember(tmp_path / str(seed), world(seed + 10, planted=False)) as memory:
            named += len(recall.shared(memory, A, B)["module"])
    assert named == 0


def test_kinds_may_be_modules_that_come_and_go(tmp_path: Path) -> None:
    x = world(0, planted=True)
    part = {"attributes": x[:, 2], "glance": np.arange(200)}
    one = torch.ones(60, 1) + 0.1 * torch.randn(60, 1, generator=torch.manual_seed(1))
    t = Trace.from_columns(
        {
            "parts": part,
            "cat": {"attributes": one, "glance": np.arange(60)},
            "person": {"attributes": one, "glance": np.arange(60, 120)},
        }
    )
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=64)) as memory:
        memory.add(t, time=TIME)
        answer = recall.shared(memory, "cat", "person")
        assert list(zip(answer["module"], answer["number"], strict=True)) == [("parts", 1)]


def test_it_refuses(tmp_path: Path) -> None:
    with remember(tmp_path / "m", world(0, planted=True)) as memory:
        with pytest.raises(NotRemembered, match="0 glances of \"kind = 'cow'\"; at least two"):
            recall.shared(memory, A, "kind = 'cow'")
        with pytest.raises(NotRemembered, match="0 glances of neither kind, to compare with"):
            recall.shared(memory, A, "kind <> 'cat'")
        with pytest.raises(ValueError, match="level must be a probability between 0 and 1, got 2"):
            recall.shared(memory, A, B, level=2)
    with (
        remember(tmp_path / "n", world(0, planted=True), reservoir=0) as bare,
        pytest.raises(ValueError, match="neither one nor records to fit it"),
    ):
        recall.shared(bare, A, B)
