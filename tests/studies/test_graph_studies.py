"""The studies of emerging concepts and of the graph, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recollect.studies import emerging, graph, planted

pytest.importorskip("sklearn")


def test_the_judge_knows_found_from_invented() -> None:
    truth = np.r_[np.repeat([0, 1], 10), np.full(20, -1)]
    right = np.where(truth >= 0, truth, -1)
    assert emerging._judge(right, truth) == (2.0, 0.0, 1.0)
    half = right.copy()
    half[:6] = -1  # less than half of the first compound
    assert emerging._judge(half, truth)[:2] == (1.0, 0.0)
    merged = np.zeros(40, np.int64)
    assert emerging._judge(merged, truth)[:2] == (0.0, 1.0)
    assert emerging._judge(right, np.full(40, -1))[:2] == (0.0, 2.0)


def test_a_world_is_judged_by_every_method(tmp_path: Path) -> None:
    rows = emerging._table(
        "prototypes",
        lambda s: planted.plant(s, compounds=2, each=40, background=150),
        256,
        range(1),
    )
    by = {r["method"]: r for r in rows}
    assert {"emerging", "HDBSCAN", "DBSCAN", "components > .5"} <= set(by)
    assert by["emerging"]["found"] == 2
    assert by["emerging"]["invented"] == 0
    json.dumps(rows)


def test_scenes_with_one_picture_are_found_through_its_part(tmp_path: Path) -> None:
    found = graph._run(0, 0.02, 720)
    through, whole = found["graph, through parts"], found["neighbours"]
    assert through[0] > 0.7 > whole[0]
    assert through[1] > found["buckets of objects"][1]
