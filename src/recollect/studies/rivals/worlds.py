"""Where the rivals meet: digit scenes on any machine, real networks from the data folder.

Shape letters: B glances, m numbers of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recollect.studies.digit_scenes import DigitReader
from recollect.studies.running import Arrays, Journal
from recollect.studies.trained_networks import loaders, mobilenet_on_cifar10
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

    @classmethod
    def kept(cls, journal: Journal, name: str, make: Callable[[], World]) -> World:
        """Return a world that a journal keeps, made once.

        Args:
            journal: of the study.
            name: of its arrays there.
            make: makes it.
        """
        arrays = journal.arrays(name, lambda: make().arrays())
        fit, judged = (_flat_trace(arrays, part) for part in ("fit", "judged"))
        return cls(str(arrays["name"]), fit, judged, arrays["days"], bool(arrays["static"]))

    def arrays(self) -> Arrays:
        """Return all that it holds as named arrays; static modules in order of execution."""
        found: Arrays = {
            "name": np.array(self.name), "days": self.days, "static": np.array(self.static)
        }  # fmt: skip
        for part, t in (("fit", self.fit), ("judged", self.judged)):
            found[f"{part}/glances"] = np.array(len(t))
            names = list(t.columns)
            if self.static:
                names.sort(key=lambda name: int(t.columns[name].rank[0]))
            for name in names:
                c = t.columns[name]
                found[f"{part}/attributes/{name}"] = c.attributes.numpy()
                found[f"{part}/glance/{name}"] = c.glance
        return found


def _flat_trace(arrays: Arrays, part: str) -> Trace:
    head = f"{part}/attributes/"
    columns = {
        k.removeprefix(head): {
            "attributes": torch.from_numpy(x),
            "glance": arrays[f"{part}/glance/{k.removeprefix(head)}"],
        }
        for k, x in arrays.items()
        if k.startswith(head)
    }
    return Trace.from_columns(columns, num_glances=int(arrays[f"{part}/glances"]))


def digit_scenes(quick: bool) -> World:
    """Scenes of 2 to 12 handwritten digits, read by a small network trained on the spot.

    One module for each digit, 32 hidden units to an object. Which digits there are depends on
    the hour; a day of the table is all scenes of one hour.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    reader = DigitReader()
    x, y = reader.pictures, reader.labels
    # Every digit comes back moved and dimmed; those of the judged scenes are others.
    half = len(x) // 2
    sizes = (600, 240) if quick else (1000, 600)
    parts = []
    for seed, (part, number) in enumerate(
        zip(((x[:half], y[:half]), (x[half:], y[half:])), sizes, strict=True)
    ):
        parts.append(_scenes(reader, *part, number, np.random.default_rng(seed)))
    hours = np.arange(sizes[1]) % HOURS
    return World("digit scenes", parts[0], parts[1], hours, static=False)


def _scenes(
    reader: DigitReader,
    pictures: npt.NDArray[np.float64],
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
    return reader.glances(hidden.reshape(len(hidden), -1), glance, glances)


def real_networks(data: str, quick: bool) -> dict[str, Callable[[], World]]:
    """Return makers of MobileNetV2, ResNet-56 and YOLOX-nano at the data folder's pictures.

    Raises:
        ImportError: outside a checkout, where ``benchmarks/networks.py`` is not.
        FileNotFoundError: if there is no such folder.
    """
    folder = loaders("networks").data_folder(data)
    return {
        "mobilenet-v2": partial(_mobilenet, folder, quick),
        "resnet-56": partial(_resnet, folder, quick),
        "yolox-nano": partial(_yolox, folder, quick),
    }


def _split(name: str, t: Trace, share: float, days: Ints | None, static: bool) -> World:
    order = np.random.default_rng(0).permutation(len(t))
    cut = int(share * len(t))
    judged = np.sort(order[cut:])
    day = np.zeros(len(judged), np.int64) if days is None else days[judged]
    return World(name, t[np.sort(order[:cut])], t[judged], day, static)


def _mobilenet(folder: Path, quick: bool) -> World:
    """All convolution and sum outputs of MobileNetV2; a day is mostly of two kinds."""
    t, labels = mobilenet_on_cifar10(folder, 300 if quick else 1500)
    return _split("MobileNetV2, CIFAR-10", t, 0.67, labels // 2, True)


def _resnet(folder: Path, quick: bool) -> World:
    """The blocks of ResNet-56."""
    model, _ = loaders("networks").resnet56(folder)
    x, y = loaders("pictures").cifar10_exact(folder)
    x, y = (x[:900], y[:900]) if quick else (x, y)
    t = Trace.concat([trace(model, part) for part in torch.split(x, 100)])
    return _split("ResNet-56, CIFAR-10", t, 0.75, y.numpy() // 2, True)


def _yolox(folder: Path, quick: bool) -> World:
    """What YOLOX-nano detects on streets; a day is one camera."""
    model, preprocess = loaders("networks").yolox_nano(folder, 960, 544)
    shown = loaders("pictures").load("street_stream", folder)
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
