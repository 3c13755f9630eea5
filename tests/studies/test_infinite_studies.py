"""The studies of infinite width: their order, their agreement, and that both could fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from recollect import studies
from recollect.studies import infinite_cifar10, infinite_digits, wide_networks


def small() -> wide_networks.Setting:
    widths = {"fully connected": 128, "convolutional": 24, "wide residual": 24}
    return wide_networks.Setting((60, 120), 2, widths, network_seeds=1, steps=120)


def test_digits_stand_at_random_places_and_none_twice() -> None:
    found = infinite_digits.pictures(50, 30)
    assert found.train.shape == (50, 1, 12, 12)
    assert found.test.shape == (30, 1, 12, 12)
    together = torch.cat([found.train, found.test]).flatten(1)
    ink = together - together.min()
    assert len(torch.unique(ink, dim=0)) == 80
    rows = (ink.reshape(80, 12, 12).sum(2) > 0).float().argmax(1)
    assert len(torch.unique(rows)) >= 4
    assert float(found.train.mean()) == pytest.approx(0, abs=1e-5)


def test_the_order_of_architectures_is_that_of_both_kernels() -> None:
    answer = wide_networks.curves(infinite_digits.pictures(130, 150), small())
    assert len(answer) == 6
    last = {r["architecture"]: r for r in answer if r["pictures"] == 120}
    for column in ("NNGP", "NTK"):
        order = [last[n][column] for n in ("fully connected", "convolutional", "wide residual")]
        assert order[0] < order[2] - 10, column
        assert order[1] < order[2] - 5, column
    # One small network of 120 steps has learned something; its order takes the whole study.
    assert last["convolutional"]["network"] > 20
    first = {r["architecture"]: r for r in answer if r["pictures"] == 60}
    assert all(last[n]["NTK"] > first[n]["NTK"] for n in last)


def test_wide_ensembles_agree_over_training_and_narrow_ones_do_not() -> None:
    found = infinite_digits.pictures(16, 12)
    y = (found.train_label[:, None] % 2).float() * 2 - 1
    x, xt = found.train[:, :, ::3, ::3], found.test[:, :, ::3, ::3]
    wide = wide_networks.agreement(x, y, xt, width=192, times=(0.0, 1.0, 4.0))
    assert wide["train loss"][-1] < 0.5 * wide["train loss"][0]
    assert max(wide["mean off by"] + wide["variance off by"]) < 2
    narrow = wide_networks.agreement(x, y, xt, width=3, times=(4.0,))
    assert max(narrow["mean off by"] + narrow["variance off by"]) > 2.5


def test_the_ridge_is_that_of_leaving_one_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    k, y = x @ x.T + 0.1, x[:, :1] + 0.1 * torch.randn(30, 1, generator=generator)
    weights, ridge = wide_networks.fit_kernel(k, y.double())
    errors = []
    for r in wide_networks.RIDGES:
        system = k + r * k.diagonal().mean() * torch.eye(30)
        left = []
        for i in range(30):
            rest = [j for j in range(30) if j != i]
            guess = k[i, rest] @ torch.linalg.solve(system[rest][:, rest], y.double()[rest])
            left.append(float((guess - y[i]) ** 2))
        errors.append(np.mean(left))
    assert ridge == wide_networks.RIDGES[int(np.argmin(errors))]
    system = k + ridge * k.diagonal().mean() * torch.eye(30)
    assert torch.allclose(system @ weights, y.double(), atol=1e-8)


def test_cifar_needs_its_folder(tmp_path) -> None:
    assert {"infinite-cifar10", "infinite-digits"} <= set(studies.listed()["study"])
    with pytest.raises(ValueError, match="--data FOLDER"):
        studies.run("infinite-cifar10")
    with pytest.raises(FileNotFoundError, match="names the folder above cifar10"):
        studies.run("infinite-cifar10", data=str(tmp_path))


def test_cifar_is_cut_and_standardised(tmp_path) -> None:
    (tmp_path / "cifar10").mkdir()
    draws = np.random.default_rng(0)
    np.savez(
        tmp_path / "cifar10" / "cifar10_lossless_3000.npz",
        x=draws.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        y=np.arange(20, dtype=np.uint8) % 10,
    )
    found = infinite_cifar10.pictures(str(tmp_path), 12, 8, 16)
    assert found.train.shape == (12, 3, 16, 16)
    assert found.test.shape == (8, 3, 16, 16)
    assert torch.allclose(found.train.std((0, 2, 3)), torch.ones(3), atol=1e-5)
    with pytest.raises(ValueError, match="30 pictures are asked for"):
        infinite_cifar10.pictures(str(tmp_path), 20, 10, 16)
