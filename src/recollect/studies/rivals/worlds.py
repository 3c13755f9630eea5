"""Where the rivals meet: digit scenes on any machine, real networks from the data folder.

Shape letters: B glances, m numbers of a module.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from recollect.tracing import Trace, trace

__all__ = ["World", "digit_scenes", "real_networks"]

HOURS = 12
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class World:
    """Glances of one network: those that are known, and those that are judged.

    Attributes:
        name: of the network and its pictures.
        fit: what every method may learn from.
        judged: what is coded and read again.
        days: (B,) which day a judged glance belongs to; the days are unlike each other.
        static: whether every module is in every glance.
    """

    name: str
    fit: Trace
    judged: Trace
    days: Ints
    static: bool


def digit_scenes(quick: bool) -> World:
    """Scenes of 2 to 12 handwritten digits, read by a small network trained on the spot.

    One module for each digit, 32 hidden units to an object. Which digits there are depends on
    the hour; a day of the table is all scenes of one hour.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16, y[order]
    network = MLPClassifier((64, 32), max_iter=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.fit(x[:600], y[:600])
    # Every digit comes back moved and dimmed; those of the judged scenes are others.
    half = 600 + (len(x) - 600) // 2
    sizes = (600, 240) if quick else (1000, 600)
    parts = []
    for seed, (part, number) in enumerate(
        zip(((x[600:half], y[600:half]), (x[half:], y[half:])), sizes, strict=True)
    ):
        parts.append(_scenes(network, *part, number, np.random.default_rng(seed)))
    hours = np.arange(sizes[1]) % HOURS
    return World("digit scenes", parts[0], parts[1], hours, static=False)


def _scenes(
    network: Any,
    pictures: npt.NDArray[Any],
    labels: Ints,
    glances: int,
    rng: np.random.Generator,
) -> Trace:
    picked, where = [], []
    for g in range(glances):
        number = int(rng.integers(2, 13))
        liking = np.exp(1.2 * np.cos(2 * np.pi * (g % HOURS / HOURS - np.arange(10) / 10)))
        share = liking[labels] / liking[labels].sum()
        picked.append(rng.choice(len(labels), number, replace=False, p=share))
        where.append(np.full(number, g))
    glance = np.concatenate(where)
    hidden = pictures[np.concatenate(picked)].reshape(-1, 8, 8)
    moved = np.roll(hidden, 1, axis=2)
    moved[:, :, 0] = 0
    shift = rng.uniform(0, 0.5, (len(hidden), 1, 1))
    hidden = ((1 - shift) * hidden + shift * moved) * rng.uniform(0.8, 1, (len(hidden), 1, 1))
    flat = hidden.reshape(len(hidden), -1)
    read = network.predict(flat)
    for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        flat = np.maximum(flat @ weight + bias, 0)
    attributes = torch.from_numpy(flat.astype(np.float32))
    columns = {
        f"digit/{d}": {"attributes": attributes[read == d], "glance": glance[read == d]}
        for d in range(10)
    }
    return Trace.from_columns(columns, num_glances=glances)


def real_networks(data: str, quick: bool) -> Iterator[World]:
    """Yield MobileNetV2, ResNet-56 and YOLOX-nano at the pictures of the data folder.

    Raises:
        ImportError: outside a checkout, where ``benchmarks/networks.py`` is not.
        FileNotFoundError: if there is no such folder.
    """
    networks, pictures = _benchmarks("networks"), _benchmarks("pictures")
    folder = networks.data_folder(data)
    yield _mobilenet(networks, folder, quick)
    yield _resnet(networks, pictures, folder, quick)
    yield _yolox(networks, pictures, folder, quick)


def _benchmarks(name: str) -> Any:
    """Import a module of the repository's ``benchmarks`` folder."""
    if (Path.cwd() / "benchmarks").is_dir() and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "the networks of the data folder are read by benchmarks/networks.py: run this study "
            "from a checkout of the repository"
        ) from error


def _split(name: str, t: Trace, share: float, days: Ints | None, static: bool) -> World:
    order = np.random.default_rng(0).permutation(len(t))
    cut = int(share * len(t))
    judged = np.sort(order[cut:])
    day = np.zeros(len(judged), np.int64) if days is None else days[judged]
    return World(name, t[np.sort(order[:cut])], t[judged], day, static)


def _mobilenet(networks: Any, folder: Path, quick: bool) -> World:
    """All convolution and sum outputs of MobileNetV2; a day is mostly of two kinds."""
    model, preprocess = networks.mobilenet_v2(folder)
    wanted = [n for n, _ in model.named_modules() if n.startswith(("conv", "add"))]
    stored = np.load(folder / "cifar10/cifar10_lossless_3000.npz")
    number = 300 if quick else 1500
    shown = [preprocess(Image.fromarray(x)) for x in stored["x"][:number]]
    parts = [trace(model, x, modules=wanted) for x in torch.split(torch.stack(shown), 25)]
    days = stored["y"][:number].astype(np.int64) // 2
    return _split("MobileNetV2, CIFAR-10", Trace.concat(parts), 0.67, days, True)


def _resnet(networks: Any, pictures: Any, folder: Path, quick: bool) -> World:
    """The blocks of ResNet-56."""
    model, _ = networks.resnet56(folder)
    x, y = pictures.cifar10_exact(folder)
    x, y = (x[:900], y[:900]) if quick else (x, y)
    t = Trace.concat([trace(model, part) for part in torch.split(x, 100)])
    return _split("ResNet-56, CIFAR-10", t, 0.75, y.numpy() // 2, True)


def _yolox(networks: Any, pictures: Any, folder: Path, quick: bool) -> World:
    """What YOLOX-nano detects on streets; a day is one camera."""
    model, preprocess = networks.yolox_nano(folder, 960, 544)
    shown = pictures.load("street_stream", folder)
    shown = shown.subset(range(0, len(shown), 4)) if quick else shown
    parts = [trace(model, x, view="detections") for x, _ in shown.batches(preprocess, 3)]
    whole = Trace.concat(parts)
    _, days = np.unique([r["camera"] for r in shown.records], return_inverse=True)
    return detected("YOLOX-nano, street", whole, days.astype(np.int64))


def detected(name: str, whole: Trace, days: Ints) -> World:
    """Leave out a detector's stages, and kinds that the known glances hold less than 5 times."""
    objects = {k: c for k, c in whole.columns.items() if not c.is_dense(len(whole))}
    world = _split(name, _only(whole, objects), 0.67, days, False)
    kept = {k: c for k, c in world.fit.columns.items() if len(c) >= 5}
    return World(name, _only(world.fit, kept), _only(world.judged, kept), world.days, False)


def _only(t: Trace, names: Iterable[str]) -> Trace:
    """Return a flat trace with some of the modules."""
    columns = {
        k: {"attributes": t.columns[k].attributes, "glance": t.columns[k].glance}
        for k in names
        if k in t.columns
    }
    return Trace.from_columns(columns, num_glances=len(t))
