"""The tuned comparison on MNIST: what it tries, chooses, compares, keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect import studies
from recollect.studies import autoencoders, locoprop_mnist, second_order
from recollect.studies.autoencoders import Task, mnist, rmsprop, train
from recollect.studies.locoprop_mnist import METHODS, SAME, TENTHS, TUNED_WITH, Bench
from recollect.studies.running import Journal

WIDTHS = (6, 5, 2, 5, 6)


def task(epochs: int = 3) -> Task:
    x = torch.rand(90, 6, generator=torch.Generator().manual_seed(0)).round()
    return Task("bits", {"train": x[:60], "test": x[60:], "fashion": x[:4]}, WIDTHS, 20, epochs)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs that take no time: the third setting of each method is best, the fourth diverges.

    The third of Adam fails in long runs.
    """
    made: list[Any] = []

    def pretended(
        task: Task, build: Any, seed: int, *, epochs: int, repeats: int = 1
    ) -> dict[str, float]:
        name, setting = build
        at = METHODS[METHODS[name].tuned_as or name].grid.index(setting)
        made.append((name, at, seed, epochs, repeats))
        loss = (3.0, 2.0, 1.0, float("inf"))[at] + 0.5 * seed / epochs
        if (name, at) == ("Adam", 2) and epochs == 10:
            loss = 90.0
        seconds = {TENTHS: 2.4, "LocoProp-M": 8.0}.get(name, 1.0) * epochs
        return {**dict.fromkeys(task.parts, loss), "seconds": seconds, "epochs": epochs}

    def building(name: str) -> Callable[..., Any]:
        return lambda **setting: (name, setting)

    for name, method in METHODS.items():
        object.__setattr__(method, "build", building(name))
    monkeypatch.setattr(locoprop_mnist, "train", pretended)
    monkeypatch.setattr(locoprop_mnist, "mnist", lambda folder, epochs: task(epochs))
    everything = dict.fromkeys(("curvlinops", "pytorch_optimizer"), True)
    for module in (locoprop_mnist, second_order):
        monkeypatch.setattr(module, "installed", lambda: everything)
    return made


@pytest.fixture(autouse=True)
def _as_they_were() -> Any:
    """Give the methods their optimisers back."""
    kept = {name: method.build for name, method in METHODS.items()}
    yield
    for name, method in METHODS.items():
        object.__setattr__(method, "build", kept[name])


def test_every_method_tries_four_settings_and_is_judged_with_the_best(calls: list[Any]) -> None:
    answer = locoprop_mnist.study("folder")
    rows = {(r["compared at"], r["method"]): r for r in answer}
    assert {name for at, name in rows if at == SAME} == set(METHODS)
    for name, method in METHODS.items():
        tried = [c for c in calls if c[0] == name and c[2] == TUNED_WITH]
        assert len(tried) == len(method.grid) == (0 if method.tuned_as else 4)
        judged = [c for c in calls if c[0] == name and c[2] != TUNED_WITH and c[3:] == (10, 1)]
        row = rows[SAME, name]
        if name == "Adam":
            assert judged == [(name, at, seed, 10, 1) for at, seed in ((2, 0), (1, 0), (1, 1))]
            assert row["setting"] == "lr 0.001"
            continue
        assert judged == [(name, 2, 0, 10, 1), (name, 2, 1, 10, 1)]
        assert row["train"] == pytest.approx(1.025)  # seeds 0 and 1
        assert row["deviation"] == pytest.approx(0.05 / 2**0.5)
        assert row["tried, one epoch"].count(";") == 3
        assert "inf" in row["tried, one epoch"]
    assert ("RMSProp", 2, 0, 24, 1) in calls  # as long as LocoProp-M in tenths
    assert ("RMSProp", 2, 0, 80, 1) in calls
    assert ("RMSProp", 2, 0, 10, 10) in calls
    assert rows[SAME, TENTHS]["step, RMSProp = 1"] == pytest.approx(2.4)
    assert max(i for i, c in enumerate(calls) if c[2] == 0) < min(
        i for i, c in enumerate(calls) if c[2] == 1
    )
    order = list(dict.fromkeys(c[0] for c in calls if c[2] == 0))
    assert order == list(METHODS)


def test_a_quick_run_is_one_epoch_of_what_the_claim_is_about(calls: list[Any]) -> None:
    answer = locoprop_mnist.study("folder", quick=True)
    assert tuple(answer["method"]) == locoprop_mnist.BAR
    assert [c[1:] for c in calls] == [(METHODS[m].usual, 0, 1, 1) for m in locoprop_mnist.BAR]


def test_a_broken_off_study_shows_its_rows_and_goes_on(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real: Any = locoprop_mnist.train

    def interrupted(*given: Any, **named: Any) -> Any:
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(locoprop_mnist, "train", interrupted)
    answer = studies.run("locoprop", data="folder", keep=str(tmp_path))
    assert answer["method"] == ["RMSProp", TENTHS]
    assert answer["seeds"] == [1, 1]
    assert answer.notes[-1].startswith("broken off")
    before = list(calls)
    calls.clear()
    monkeypatch.setattr(locoprop_mnist, "train", real)
    whole = studies.run("locoprop", data="folder", keep=str(tmp_path))
    assert not set(before) & set(calls)
    assert set(whole["seeds"]) == {2}
    assert "broken off" not in whole.notes[-1]
    with pytest.raises(ValueError, match="runs on digits take minutes and are not kept"):
        studies.run("locoprop", keep=str(tmp_path))


def test_every_method_learns(tmp_path: Path) -> None:
    """Each with its real optimiser, on a network of five layers."""
    bench = Bench(task(15), Journal(tmp_path, "bits"))
    untrained = train(bench.task, rmsprop(1e-12), 0)["train"]
    for method in bench.methods:
        setting = dict(METHODS[method.tuned_as or method.name].grid[1])
        if "gamma" in setting:
            setting["gamma"] /= 50  # as is the batch
        if "damping" in setting:
            setting = {"lr": 0.1, "damping": 0.1}  # a curvature of 20 rows is rough
        assert bench.run(method, setting, 0, 15)["train"] < untrained - 0.02, method.name


def test_a_run_that_diverges_has_an_infinite_loss() -> None:
    def build(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), 1e38)

    found = train(task(), build, 0)
    assert found["train"] == found["fashion"] == float("inf")
    assert found["seconds"] > 0


def test_mnist_is_read_with_pictures_of_another_kind(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    stored = {k: draws.integers(0, 256, (n, 28, 28)).astype(np.uint8)
              for k, n in (("x_train", 5), ("x_test", 3), ("x", 2))}  # fmt: skip
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist.npz", **{k: stored[k] for k in ("x_train", "x_test")})
    with pytest.raises(FileNotFoundError, match="fashion900"):
        mnist(str(tmp_path), 1)
    (tmp_path / "fashion_mnist").mkdir()
    np.savez(tmp_path / "fashion_mnist" / "fashion900.npz", x=stored["x"])
    read = mnist(str(tmp_path), 7).parts
    assert {k: len(v) for k, v in read.items()} == {"train": 5, "test": 3, "fashion": 2}
    assert np.array_equal(read["fashion"].numpy() * 255, stored["x"].reshape(2, -1))


def test_whole_losses_are_those_of_one_piece() -> None:
    model = autoencoders.autoencoder(WIDTHS)
    x = torch.rand(5003, 6)
    with torch.no_grad():
        whole = float(autoencoders._loss(model, x))
    assert autoencoders._whole_loss(model, x) == pytest.approx(whole, rel=1e-5)


def test_gaps_are_told_behind_the_better_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = (("LocoProp-M", 3.0), (TENTHS, 3.5), ("RMSProp", 5.0), ("K-FAC", 2.0),
              ("Shampoo", 4.0))  # fmt: skip
    rows = [{"method": m, "train": t, "seconds": 2.0 if m == TENTHS else 1.0} for m, t in losses]
    everything = dict.fromkeys(("curvlinops", "pytorch_optimizer"), True)
    monkeypatch.setattr(second_order, "installed", lambda: everything)
    (note,) = second_order.behind_second_order(rows, (TENTHS, "LocoProp-M"))
    assert note.startswith("behind K-FAC, the better of K-FAC and Shampoo: RMSProp +3.00 nats")
    assert f"{TENTHS} +1.50 nats, in 2.00 of its time" in note
    assert second_order.behind_second_order(rows[:3], ("LocoProp-M",)) == []
    monkeypatch.setattr(second_order, "installed", lambda: {**everything, "curvlinops": False})
    (note,) = second_order.behind_second_order(rows, ("LocoProp-M",))
    assert note == "second-order rivals left out, for want of curvlinops"
    assert "K-FAC" not in second_order.rivals()
