"""Trained networks on real pictures: needs the data folder (RECOLLECT_DATA)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recollect import Prior, Sketcher, Trace, trace


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules benchmarks.networks and benchmarks.pictures."""
    pytest.importorskip("safetensors")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import networks, pictures

    yield networks, pictures
    for name in [n for n in sys.modules if n.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_mobilenet_names_pets(data_folder: Path, benchmarks: Any) -> None:
    networks, pictures = benchmarks
    model, preprocess = networks.mobilenet_v2(data_folder)
    pets = pictures.load("pets", data_folder)
    some = pets.subset(range(0, len(pets), 12))
    batch, records = next(some.batches(preprocess, len(some)))
    names = networks.labels("imagenet1001", data_folder)
    t = trace(model, batch, view="classes", labels=names, top=1)
    assert t.columns["classes"].size == 1280
    # ImageNet's cats are 282 to 286 here, its dogs 152 to 269 (0 is the background).
    kinds = ["cat" if 282 <= k <= 287 else "dog" for k in t.columns["classes"].member.tolist()]
    right = sum(k == r["species"] for k, r in zip(kinds, records, strict=True))
    assert right >= 0.9 * len(some)
    seen = trace(model, batch[:2], modules=["conv*", "add*"])
    assert sum(c.size for c in seen.columns.values()) == 18_849


def test_yolox_finds_pets_and_refers_to_its_stages(data_folder: Path, benchmarks: Any) -> None:
    networks, pictures = benchmarks
    model, preprocess = networks.yolox_nano(data_folder)
    pets = pictures.load("pets", data_folder)
    some = pets.subset(range(0, len(pets), 16))
    batch, records = next(some.batches(preprocess, len(some)))
    t = trace(model, batch, view="detections")
    right = sum(r["species"] in t[i].modules for i, r in enumerate(records))
    assert right >= 0.8 * len(some)
    dogs = t.objects("dog")
    assert dogs.attributes.shape[1] == 5 + 64
    assert bool((dogs.attributes[:, 3] > dogs.attributes[:, 1]).all())
    assert t.references is not None
    assert len(t.references) == sum(len(c) for n, c in t.columns.items() if n[:3] != "mul")


def test_the_strongest_kernels_survive_a_kilobyte(data_folder: Path, benchmarks: Any) -> None:
    networks, pictures = benchmarks
    model, _ = networks.resnet20(data_folder)
    x, _ = pictures.cifar10_exact(data_folder)
    parts = [trace(model, x[i : i + 80], view="kernels") for i in range(0, 400, 80)]
    past, now = Trace.concat(parts[:4]), parts[4]
    sketcher = Sketcher(dim=1024)
    sketcher.admit(past, measure_scales=True)
    told = sketcher.decode(sketcher.encode(now), prior=Prior.fit(past)).trace()
    shares = []
    for name, c in now.columns.items():
        true, guess = (
            t.columns[name].attributes.reshape(len(now), len(c.members), 3)[:, :, 0]
            for t in (now, told)
        )
        pairs = zip(true.topk(10, 1).indices, guess.topk(10, 1).indices, strict=True)
        shares.append(torch.tensor([float(len({*a.tolist()} & {*b.tolist()})) for a, b in pairs]))
    named = torch.stack(shares).mean(0)
    assert float((named >= 8).float().mean()) >= 0.9
