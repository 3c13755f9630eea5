"""The studies of infinite width: their order, their agreement, and that both could fail."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn")

from recollect import studies
from recollect.studies import infinite_cifar10, infinite_digits, wide_ensembles, wide_networks
from recollect.studies.running import Journal
from recollect.studies.wide_architectures import architectures
from recollect.studies.wide_ensembles import agreement


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
    answer = wide_networks.curves(
        infinite_digits.pictures(130, 150), small(), architectures(1, 12, 10)
    )
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
    wide = agreement(x, y, xt, width=192, times=(0.0, 1.0, 4.0))
    assert wide["train loss"][-1] < 0.5 * wide["train loss"][0]
    assert max(wide["mean off by"] + wide["variance off by"]) < 2
    narrow = agreement(x, y, xt, width=3, times=(4.0,))
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


def cifar(folder) -> None:
    """Write thirty pictures of noise in the form that the data folder has them in."""
    draws = np.random.default_rng(0)
    stored = {}
    for part, count in (("train", 20), ("test", 10)):
        blobs = []
        for _ in range(count):
            file = io.BytesIO()
            noise = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(file, "JPEG", quality=75)
            blobs.append(np.frombuffer(file.getvalue(), np.uint8))
        stored[f"{part}_blob"] = np.concatenate(blobs)
        stored[f"{part}_offset"] = np.cumsum([0, *map(len, blobs)])
        stored[f"{part}_label"] = (np.arange(count) % 10).astype(np.uint8)
    (folder / "cifar10").mkdir()
    np.savez(folder / "cifar10" / "cifar10_jpeg.npz", **stored)


def test_cifar_is_cut_into_patches_and_test_pictures_come_from_the_test(tmp_path) -> None:
    cifar(tmp_path)
    found = infinite_cifar10.pictures(str(tmp_path), 12, 8)
    assert found.train.shape == (12, 12, 8, 8)
    assert found.test.shape == (8, 12, 8, 8)
    assert float(found.train.std()) == pytest.approx(1, abs=1e-4)
    # The same pictures, whichever are judged: nothing is fitted to those of the test.
    assert torch.equal(found.train, infinite_cifar10.pictures(str(tmp_path), 12, 2).train)
    with pytest.raises(ValueError, match="11 test pictures are asked for, there are 10"):
        infinite_cifar10.pictures(str(tmp_path), 20, 11)


def test_whitening_evens_out_what_it_is_fitted_to() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(2000, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    x = mixed.reshape(2000, 3, 2, 2)
    whole = infinite_cifar10.whitened(x, x[:5], 1e-6)[0].flatten(1).double()
    values = torch.linalg.eigvalsh(whole.T @ whole / 2000)
    # One direction is lost with the mean of every picture; the others are of one size.
    assert float(values[0]) < 1e-3
    assert float(values[-1] / values[1]) == pytest.approx(1, abs=1e-2)
    much = infinite_cifar10.whitened(x, x[:5], 1e6)[0].flatten(1).double()
    unit = mixed - mixed.mean(1, keepdim=True)
    unit = (unit / unit.norm(dim=1, keepdim=True)).double()
    unit = unit - unit.mean(0)
    assert torch.allclose(much, unit / unit.std(), atol=1e-3)
    first, second = infinite_cifar10.whitened(x, x[:5])
    assert torch.allclose(first[:5], second)


def test_strips_are_the_kernels_of_the_twin(tmp_path) -> None:
    seen = infinite_digits.pictures(11, 5)
    setting = wide_networks.Setting((8,), 1, strip=4)
    for name, build in architectures(1, 12, 10).items():
        task = wide_networks.Task(name, build, seen, setting, Journal(tmp_path, "digits"))
        own, side = task.strips()
        whole = task.twin.kernel(task.pictures.train.double())
        other = task.twin.kernel(task.pictures.test.double(), task.pictures.train.double())
        for kernel in ("nngp", "ntk"):
            assert torch.allclose(own[kernel].double(), getattr(whole, kernel), rtol=1e-4)
            assert torch.allclose(side[kernel].double(), getattr(other, kernel), rtol=1e-4)


def test_a_run_that_was_broken_off_goes_on_and_others_are_not_mistaken_for_it(
    tmp_path, monkeypatch
) -> None:
    seen, nets = infinite_digits.pictures(22, 10), architectures(1, 12, 10)
    setting = wide_networks.Setting((10, 20), 1, network_seeds=1, steps=3, rates=(1e-3, 1e-2))

    def found():
        return list(wide_networks.curves(seen, setting, nets, Journal(tmp_path, "digits")))

    first = found()
    kept = [json.loads(line) for line in (tmp_path / "digits.jsonl").read_text().splitlines()]
    assert len(kept) == 3 * (2 * 2 + 2 + 1)
    assert {r["row"]["rate"] for r in kept if r["about"]["of"] == "rate"} <= {1e-3, 1e-2}
    with monkeypatch.context() as patch:
        patch.setattr(wide_networks, "train", lambda *a, **k: pytest.fail("trained again"))
        patch.setattr(wide_networks.Task, "_beside", lambda *a: pytest.fail("computed again"))
        assert found() == first
    # Other pictures have a name of their own.
    seen = infinite_digits.pictures(22, 10, seed=1)
    assert found() != first


def test_the_rate_is_that_of_held_out_training_pictures(monkeypatch) -> None:
    seen = infinite_digits.pictures(20, 10)
    looked = []

    def train(build, width, held, *, steps, rate, seed) -> float:
        looked.append(held)
        return {1e-3: 10.0, 3e-3: 30.0, 1e-2: 20.0}[rate]

    monkeypatch.setattr(wide_networks, "train", train)
    setting = wide_networks.Setting((6, 12, 16), 1, rates=(1e-3, 3e-3, 1e-2))
    name, build = next(iter(architectures(1, 12, 10).items()))
    task = wide_networks.Task(name, build, seen, setting, Journal(None, ""))
    assert task.rate() == 3e-3
    one = {tuple(row) for row in looked[0].train.flatten(1).tolist()}
    two = {tuple(row) for row in looked[0].test.flatten(1).tolist()}
    assert len(one) == 12
    assert len(two) == 8
    assert not one & two
    assert one | two == {tuple(row) for row in seen.train.flatten(1).tolist()}
    assert wide_networks.choose_rate(build, 4, seen, (5e-3,), steps=1) == 5e-3
    assert len(looked) == 3


def test_both_tables_are_drawn_and_written(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    seen = infinite_digits.pictures(22, 10)
    setting = wide_networks.Setting((10, 20), 2, network_seeds=1, steps=2)
    table = wide_networks.curves(seen, setting, architectures(1, 12, 10))
    y = (seen.train_label[:8, None] % 2).float()
    few = partial(agreement, width=16, networks=4, times=(0.0, 1.0))
    monkeypatch.setattr(wide_ensembles, "agreement", few)
    answer = wide_ensembles.beside(table, seen, Journal(tmp_path, "digits"), y)
    monkeypatch.setattr(wide_ensembles, "agreement", lambda *a: pytest.fail("trained again"))
    again = wide_ensembles.beside(table, seen, Journal(tmp_path, "digits"), y)
    assert answer.to_dict() == again.to_dict()
    assert answer.to_dict()["agreement"]["rows"][1]["time"] == 1.0
    assert "Monte-Carlo" in repr(answer)
    infinite_digits.draw(answer, str(tmp_path / "a.svg"))
    written = (tmp_path / "a.svg").read_text()
    assert "wide residual" in written
    assert "infinitely wide, NTK" in written
    with pytest.raises(TypeError, match="a study of infinite width"):
        infinite_digits.draw(table, str(tmp_path / "b.svg"))
