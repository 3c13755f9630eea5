"""The study of subset selection: its pools are what they say, its table is whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from recollect import studies
from recollect.selection import IWeS
from recollect.studies import selection_pools
from recollect.studies import subset_selection as study
from recollect.studies.running import Journal
from recollect.studies.selection_learners import Convolutional


def pictures(n: int = 900) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    y = np.arange(n) % 10
    x = np.zeros((n, 64), np.float32)
    x[np.arange(n), y * 6] = 1
    x += draws.uniform(0, 0.3, x.shape).astype(np.float32)
    return np.clip(x, 0, 1).reshape(n, 8, 8), y


def test_pools_are_what_they_say() -> None:
    x, y = pictures()
    clean, noisy, imbalanced = (study.make_pool(x, y, k, 0) for k in study.POOLS)
    assert len(clean.labels) == len(noisy.labels) == 400
    true = noisy.pictures.reshape(400, -1)[:, :60:6].argmax(1)
    assert np.mean(true != noisy.labels) == pytest.approx(0.2, abs=0.06)
    share = np.bincount(imbalanced.labels, minlength=10) / len(imbalanced.labels)
    assert share[:5].sum() > 0.9
    assert imbalanced.pictures.min() >= 0
    assert imbalanced.pictures.max() <= 1


@pytest.mark.parametrize("family", study.FAMILIES)
def test_a_comparison_has_every_method_and_learns(family: str) -> None:
    x, y = pictures()
    rows = study.compare((x, y), "pool", "clean", [0], [family], ("random", "IWeS entropy"),
                         sizes=(40, 280))  # fmt: skip
    assert [r["labels chosen by"] for r in rows] == ["random", "IWeS entropy", "all data"]
    assert all(r[f"{family} @ 280"] > 0.9 for r in rows)
    assert rows[0][f"{family} within 1 point"] in ("40 (10%)", "280 (70%)")


def test_many_rows_are_gone_through_as_often_as_few(monkeypatch) -> None:
    learner = Convolutional(study.make_pool(*pictures(1700), "clean", 0))
    monkeypatch.setattr(Convolutional, "STEPS", 3)
    network, sizes = learner.network, []

    def counted() -> torch.nn.Sequential:
        made = network()
        made.register_forward_hook(lambda _, given, out: sizes.append(len(out)))
        return made

    monkeypatch.setattr(learner, "network", counted)
    for many, steps in ((100, [100] * 3), (600, [512] * 3), (1200, [512] * 6)):
        sizes.clear()
        learner.fit(np.arange(many), np.ones(many), 0)
        assert sizes == steps


def test_rows_that_arrive_one_at_a_time() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    stream = study.Arriving(IWeS("entropy"))
    first = stream.select(10, chosen=np.array([], int), seed=0, probabilities=p, features=None)
    place = stream.place
    rest = stream.select(40, chosen=first.indices, seed=1, probabilities=p, features=None)
    assert 0 < place < 50
    assert stream.laps > 0
    both = np.concatenate([first.indices, rest.indices])
    assert sorted(both.tolist()) == list(range(50))


def test_mnist_is_asked_for_kindly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give --data a folder with mnist/mnist\.npz"):
        study.study(quick=True, data=str(tmp_path))


def test_mnist_is_read_in_mixed_order(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    y = np.repeat(np.arange(10, dtype=np.uint8), 500)
    x = np.broadcast_to((y * 25)[:, None, None], (5000, 28, 28))
    np.savez(tmp_path / "mnist" / "mnist.npz", x_train=x, y_train=y)
    pictures, labels = study.mnist(tmp_path)
    assert pictures.shape == (3500, 14, 14)
    assert len(set(labels[:200].tolist())) == 10
    np.testing.assert_allclose(pictures[:, 3, 3] * 255, labels * 25, atol=1e-3)


def test_embeddings_are_what_the_classifier_reads(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "cifar10" / "cifar10_lossless_3000.npz", x=x, y=np.arange(7) % 3)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
    )
    model = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(5, 4))

    def preprocess(picture):
        return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)

    networks = SimpleNamespace(data_folder=Path, mobilenet_v2=lambda folder: (model, preprocess))
    monkeypatch.setattr(selection_pools, "loaders", lambda name: networks)
    found, labels = selection_pools.embeddings(tmp_path, 6, batch=4)
    seen = body(torch.from_numpy(x[:6] / np.float32(255)).permute(0, 3, 1, 2)).flatten(1).detach()
    np.testing.assert_allclose(found, (seen / seen.std()).numpy(), rtol=1e-5)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert not model[2]._forward_pre_hooks


def test_embeddings_are_learned_from_and_a_run_goes_on(monkeypatch, tmp_path: Path) -> None:
    x, y = pictures()
    flat = 3 * x.reshape(len(x), -1)  # beyond 1, as embeddings are
    imbalanced = study.make_pool(flat, y, "imbalanced", 0).pictures
    assert 2 < imbalanced.max() <= flat.max()
    given = {"families": ["dense"], "methods": ("random",), "sizes": (40, 280)}
    rows = study.compare((flat, y), "pool", "clean", [0], journal=Journal(tmp_path, "s"), **given)
    assert rows[0]["dense @ 280"] > 0.9
    assert rows[0]["dense curve"].split(", ")[1] == f"{rows[0]['dense @ 280']:.3f}"
    monkeypatch.setattr(study, "LEARNERS", {})
    again = study.compare((flat, y), "pool", "clean", [0], journal=Journal(tmp_path, "s"), **given)
    assert again == rows


def test_the_study_makes_one_table_and_is_drawn(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study, "digits", pictures)
    monkeypatch.setattr(study, "METHODS", {"random": study.METHODS["random"]})
    monkeypatch.setattr(study, "FAMILIES", ("logistic",))
    monkeypatch.setattr(study, "POOLS", ("clean", "imbalanced"))
    compare = study.compare
    monkeypatch.setattr(study, "compare", lambda *a, **k: compare(*a, methods=["random"], **k))
    found = studies.run("subset-selection", quick=True, picture=str(tmp_path / "it.svg"))
    assert len(found["pool"]) == 4
    assert "digits, imbalanced: logistic" in (tmp_path / "it.svg").read_text()
