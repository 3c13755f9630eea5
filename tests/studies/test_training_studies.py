"""The margins that the studies of training promise, on fixed seeds and small budgets."""

from __future__ import annotations

import pytest

from recollect.studies import locoprop


def test_locoprop_is_ahead_at_equal_batches_and_equal_to_its_rival_at_one_step() -> None:
    pytest.importorskip("sklearn")
    task = locoprop._digits(epochs=12)
    wanted = (
        "Adam",
        "RMSProp",
        "LocoProp-M, K = 1",
        "LocoProp-S, gamma 50",
        "LocoProp-M, gamma 50",
    )
    builds = {name: build for _, name, build, repeats in locoprop._methods() if repeats == 1}
    found = {name: locoprop.train(task, builds[name], seed=0)[0] for name in wanted}
    assert found["LocoProp-M, gamma 50"] < found["RMSProp"] - 0.6
    assert found["LocoProp-M, gamma 50"] < found["Adam"] - 1.0
    assert found["LocoProp-S, gamma 50"] < found["RMSProp"] - 0.1
    assert found["LocoProp-M, K = 1"] == pytest.approx(found["RMSProp"], abs=0.15)
