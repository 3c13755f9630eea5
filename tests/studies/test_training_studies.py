"""The margins that the studies of training promise, on fixed seeds and small budgets."""

from __future__ import annotations

import pytest

from recollect.studies import clipping, locoprop


def test_locoprop_is_ahead_at_equal_batches_and_equal_to_its_rival_at_one_step() -> None:
    pytest.importorskip("sklearn")
    task = locoprop._digits(epochs=12)
    wanted = (
        "Adam",
        "RMSProp",
        "LocoProp-M, K = 1",
        "LocoProp-S, gamma 50",
        "LocoProp-M, gamma 50",
        "LocoProp-M, gamma 50, tenths",
    )
    builds = {name: build for _, name, build, repeats in locoprop._methods() if repeats == 1}
    found = {name: locoprop.train(task, builds[name], seed=0)[0] for name in wanted}
    assert found["LocoProp-M, gamma 50"] < found["RMSProp"] - 0.6
    assert found["LocoProp-M, gamma 50"] < found["Adam"] - 1.0
    assert found["LocoProp-M, gamma 50, tenths"] < found["RMSProp"] - 0.6
    assert found["LocoProp-S, gamma 50"] < found["RMSProp"] - 0.1
    assert found["LocoProp-M, K = 1"] == pytest.approx(found["RMSProp"], abs=0.15)


def test_clipped_sgd_recovers_from_a_bad_scale_without_any_state() -> None:
    pytest.importorskip("sklearn")
    text = clipping.read_text(None)
    methods = {m.name: m for m in clipping.METHODS}
    wanted = ("standard, AdamW", "invariant, SGD", "invariant, relative clip")
    found = {name: clipping.train(text, methods[name], 30.0, 0, 150)["loss"] for name in wanted}
    assert found["invariant, relative clip"] < found["standard, AdamW"] - 0.2
    assert found["invariant, relative clip"] < found["invariant, SGD"] - 0.05
    whole = clipping.train(text, methods["invariant, relative clip, head too"], 1.0, 0, 3)
    assert whole["state"] == 0


def test_studies_of_training_show_every_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    tiny, text = locoprop._digits(1), clipping.read_text(None)
    monkeypatch.setattr(locoprop, "_digits", lambda epochs: tiny)
    rows = list(locoprop.study(quick=True))
    assert {row["compared at"] for row in rows} == {
        "equal batches",
        "equal gradient steps",
        "equal time",
    }
    assert clipping._unigram(text) == pytest.approx(3.45, abs=0.05)
    monkeypatch.setattr(
        clipping,
        "train",
        lambda text, method, scale, seed, steps: {"loss": scale, "clipped": 0.0, "state": 0.0},
    )
    there = [m for m in clipping.METHODS if m.name not in clipping.RIVALS]
    quick = clipping.study(quick=True)
    assert len(quick) in (2 * len(there) + 2, 2 * len(clipping.METHODS) + 2)
    assert {row["position"] for row in quick} == {1, 8, 64}
    full = clipping.study()
    assert {row["task"] for row in full} == {"next symbol", "hidden symbols"}
