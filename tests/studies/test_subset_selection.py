"""The study of subset selection: its pools are what they say, its table is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from recollect.selection import IWeS
from recollect.studies import subset_selection as study


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
    pictures, labels = study._mnist(tmp_path)
    assert pictures.shape == (3500, 14, 14)
    assert len(set(labels[:200].tolist())) == 10
    np.testing.assert_allclose(pictures[:, 3, 3] * 255, labels * 25, atol=1e-3)
