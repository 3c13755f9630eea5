"""The studies of the VAE and of continual learning: their parts are what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from recollect._answers import Answer
from recollect.studies import continual, vae, vae_stack, vae_tasks
from recollect.studies.running import Journal


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> continual.Year:
    return continual.make_year(str(tmp_path_factory.mktemp("year")), 0)


def test_a_year_drifts_and_is_remembered(year: continual.Year) -> None:
    assert len(year.memory) == 1200
    ids = year.memory.glances(columns=["id"])["id"].to_pylist()
    assert ids == list(range(1200))
    kept = year.memory.sketches(ids=[0, 1199]).values
    again = year.sketched(torch.stack([year.pictures[0, 0], year.pictures[11, 99]]))
    assert torch.equal(kept, again)
    mixes = torch.stack([torch.bincount(c, minlength=10) for c in year.classes]).float()
    assert float(torch.corrcoef(mixes[[0, 6]])[0, 1]) < 0  # other classes half a year later
    assert year.bytes > 1200 * 66


def test_more_steps_teach_more_and_forgetting_shows(year: continual.Year) -> None:
    few, many = (continual.learn(year, 0, steps=s) for s in (2, 60))
    assert many[1] > few[1] + 0.1
    forgets = continual.from_pictures(year, 0, 0, 60, False)
    assert forgets[1] < many[1] - 0.1


def test_the_year_is_drawn(tmp_path: Path) -> None:
    methods = ["memory, uniform", "memory, reverse", "memory, surprise", "reservoir, head",
               "reservoir, whole network", "nothing kept, head"]  # fmt: skip
    parts = [f"all labels, {s} steps a month" for s in (5, 20) for _ in methods]
    columns = {"part": parts, "learned from": methods * 2, "this month": [0.5] * 12}
    continual.draw(Answer({**columns, "whole year": [0.4] * 12}), str(tmp_path / "year.svg"))
    drawn = (tmp_path / "year.svg").read_text()
    assert all(m in drawn for m in methods)


def test_a_reservoir_is_a_fair_sample() -> None:
    rng, counts = np.random.default_rng(0), np.zeros(60)
    for _ in range(400):
        kept = np.empty(0, np.int64)
        for start in range(0, 60, 20):
            kept = continual._reservoir(kept, np.arange(start, start + 20), 15, rng)
        assert len(set(kept.tolist())) == 15
        counts[kept] += 1
    assert np.abs(counts / 400 - 15 / 60).max() < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_labels_are_chosen_within_the_month(year: continual.Year) -> None:
    head = continual._head(continual.DIM)
    for name, choose in continual.CHOICES.items():
        found = choose(year, head, {}, 11, 0)
        assert len({i for i, _ in found}) == 10, name
        assert all(1100 <= i < 1200 for i, _ in found), name
        assert all(w == 1 for _, w in found) == (name != "IWeS") or name == "IWeS"


def test_a_year_that_was_lived_is_not_lived_again(
    year: continual.Year, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = {("all labels", f"memory, {n}"): lambda n=n: (n / 4, n / 8) for n in range(3)}
    monkeypatch.setattr(continual, "make_year", lambda folder, seed: year)
    monkeypatch.setattr(continual, "_runs", lambda *given: runs)
    found = continual.study(quick=True, keep=str(tmp_path))
    assert found["this month"] == [0.0, 0.25, 0.5]
    assert found["seeds"] == [2, 2, 2]
    assert found["kept"][0].startswith("1200 sketches")
    monkeypatch.setattr(continual, "make_year", None)
    again = continual.study(quick=True, keep=str(tmp_path))
    assert again["whole year"] == found["whole year"] == [0.0, 0.125, 0.25]


def test_only_a_few_labels_are_shown() -> None:
    task = vae_tasks.digits(True)
    y = task.shown(3)
    assert torch.equal(torch.bincount(y[y >= 0]), torch.full((10,), 3))
    assert torch.equal(y[y >= 0], task.y[y >= 0])
    assert not ((y >= 0) & (task.shown(3, draw=1) >= 0)).any()  # another draw, other pictures
    assert len(task.x) == 1400
    assert float(task.x.max()) == 1.0


def test_the_study_of_the_vae_makes_one_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = vae_tasks.digits(True)
    task = replace(
        whole, x=whole.x[:120], y=whole.y[:120], test=(whole.test[0][:70], whole.test[1][:70]),
        epochs=1, model={"width": 4},
    )  # fmt: skip
    monkeypatch.setattr(vae, "digits", lambda quick: task)
    threads = torch.get_num_threads()
    found = vae.study(quick=True, keep=str(tmp_path))
    monkeypatch.setattr(vae, "compare", None)  # what is known is not trained again
    monkeypatch.setattr(vae, "fit", None)
    again = vae.study(quick=True, keep=str(tmp_path))
    assert all(again[column] == found[column] for column in vae.COLUMNS)
    assert torch.get_num_threads() == threads
    assert len(set(found["part"])) == 9
    told = {r["setting"]: r["measured"] for r in found if r["part"] == "where it normalises"}
    assert list(told) == list(vae.PLACEMENTS)
    for name, text in told.items():
        independent = "decoder" not in name and name != "batch, both"
        assert ("dependence 0.000 -> 0.000; Jacobian 0.000; cosine 1.0000" in text) == independent
    vae.draw(found, str(tmp_path / "vae.svg"))
    assert "<svg" in (tmp_path / "vae.svg").read_text()
    with pytest.raises(ValueError, match="did not place any normalisation"):
        vae.draw(Answer({"part": ["M2"]}), str(tmp_path / "none.svg"))
    tilted = [r for r in found if r["part"].startswith("tilted")]
    assert all("sign turns" in r["measured"] for r in tilted)


def test_the_stack_and_its_rivals_learn_from_the_same_latents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = vae_tasks.digits(True)
    task = replace(whole, x=whole.x[:300], y=whole.y[:300])
    how = vae_stack.Stack(16, 4, first=1, batch=30, second=15, hidden=32, draws=2)
    monkeypatch.setattr(vae_stack, "USED", 0.0)
    with pytest.raises(RuntimeError, match="uses none of its latents"):
        next(iter(vae_stack.stacked(task, how, Journal(None, ""))))[1]()

    def of_classes(task: vae_tasks.Task, how: vae_stack.Stack) -> dict[str, np.ndarray]:
        noise = torch.randn(len(task.y), 10, generator=torch.Generator().manual_seed(0))
        mean = 3 * torch.eye(10)[task.y] + 0.3 * noise
        test = (3 * torch.eye(10)[task.test[1]]).numpy()
        spread = np.full((300, 10), 0.1, np.float32)
        return {"mean": mean.numpy(), "spread": spread, "test": test, "seconds": np.array(7.0)}

    def rows() -> dict[str, dict[str, object]]:
        return {n: find() for n, find in vae_stack.stacked(task, how, Journal(tmp_path, "vae"))}

    monkeypatch.setattr(vae_stack, "_latents", of_classes)
    found = rows()
    assert all(r["seeds"] == 2 and r["accuracy"] > 0.9 for r in found.values())
    stack, *rivals = found.values()
    assert "300 pictures, 397 tested, 10 of 4 latents used; 7 s of" in str(stack["measured"])
    assert stack["ELBO"] != "-"
    assert all(r["ELBO"] == "-" for r in rivals)
    # M1 is trained once, and every draw as well.
    for name in ("fit", "_logistic", "_spread"):
        monkeypatch.setattr(vae_stack, name, None)
    assert rows() == found


def test_mnist_is_asked_for_kindly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give --data a folder with mnist/mnist\.npz"):
        vae.study(quick=True, data=str(tmp_path))
