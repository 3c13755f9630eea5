"""Glances by which decoders are judged: digit scenes, hand-built DAGs, a real static network."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect.studies.digit_scenes import LEARNED, DigitReader
from recollect.studies.trained_networks import mobilenet_on_cifar10
from recollect.tracing import Object, Trace

__all__ = ["World", "dags", "digit_scenes", "mobilenet", "words", "zeros"]

Pictures = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class World:
    """Glances that a prior may be fitted on, and others that are judged.

    Attributes:
        name: what they show.
        fit: known glances.
        judged: others.
    """

    name: str
    fit: Trace
    judged: Trace


def digit_scenes(known: int, judged: int) -> Callable[[int, bool], World]:
    """Return a maker of scenes of 2 to 12 handwritten digits, read by a small network.

    One module for each digit, 32 hidden units to an object. Every digit is turned, moved and
    dimmed afresh each time it is shown.

    Args:
        known: glances for the prior.
        judged: glances to judge.

    Returns:
        (seed, seen) -> World; with ``seen`` the judged scenes show the digits of the known ones
        (afresh), otherwise digits that neither the prior nor the network was ever shown.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    reader = DigitReader()
    x = np.concatenate([reader.learned_pictures, reader.pictures])
    y = np.concatenate([reader.learned_labels, reader.labels])
    half = (len(x) + LEARNED) // 2

    def made(seed: int, seen: bool) -> World:
        rng = np.random.default_rng([seed, int(seen)])
        # The prior may know what the network was trained on.
        new: tuple[Pictures, Labels] = (reader.pictures, reader.labels)
        first: tuple[Pictures, Labels] = new if seen else (x[:half], y[:half])
        second: tuple[Pictures, Labels] = new if seen else (x[half:], y[half:])
        name = f"scenes of digits {'shown before' if seen else 'never shown'}"
        return World(
            name, _scenes(reader, *first, known, rng), _scenes(reader, *second, judged, rng)
        )

    return made


def _scenes(
    reader: DigitReader,
    pictures: Pictures,
    labels: Labels,
    glances: int,
    rng: np.random.Generator,
) -> Trace:
    number = rng.integers(2, 13, glances)
    glance = np.repeat(np.arange(glances), number)
    picked = np.concatenate([rng.choice(len(labels), n, replace=False) for n in number])
    flat = np.stack([_afresh(pictures[i], rng) for i in picked])
    return reader.glances(flat, glance, glances)


def _afresh(picture: Pictures, rng: np.random.Generator) -> Pictures:
    """Turn a picture by up to 10 degrees, move it by up to half a pixel, and dim it."""
    ndimage: Any = importlib.import_module("scipy.ndimage")
    turned = ndimage.rotate(picture.reshape(8, 8), rng.uniform(-10, 10), reshape=False, order=1)
    moved: Pictures = ndimage.shift(turned, rng.uniform(-0.5, 0.5, 2), order=1)
    return (moved * rng.uniform(0.8, 1.0)).reshape(-1)


def words(known: int, judged: int, seed: int) -> World:
    """Make glances of 20 objects, each one of the 64 words (32 numbers) of its module."""
    rng = np.random.default_rng([seed, 64])
    books = rng.standard_normal((20, 64, 32)) / 32**0.5

    def glances(number: int) -> Trace:
        chosen = rng.integers(0, 64, (20, number))
        return Trace.from_columns(
            {
                f"m{i:02d}": torch.from_numpy(books[i, chosen[i]].astype(np.float32))
                for i in range(20)
            }
        )

    return World("20 of 64 words each", glances(known), glances(judged))


def zeros(known: int, judged: int, seed: int) -> World:
    """Make glances of 20 objects of 32 numbers, of which 80 of 640 are not zero."""
    rng = np.random.default_rng([seed, 80])

    def glances(number: int) -> Trace:
        x = np.zeros((number, 640), dtype=np.float32)
        for row in x:
            row[rng.choice(640, 80, replace=False)] = rng.standard_normal(80)
        parts = torch.split(torch.from_numpy(x), 32, 1)
        return Trace.from_columns({f"m{i:02d}": part for i, part in enumerate(parts)})

    return World("80 of 640 not zero", glances(known), glances(judged))


def dags(depth: int, known: int, judged: int, seed: int) -> World:
    """Make hand-built glances of ``depth`` levels, six objects on each, of three kinds.

    Two of each level are words (30 to a module), two are sparse (4 of 48 numbers are not zero),
    two are dense (normal, 24 numbers in a space of four directions). Every object of a level is
    an input of its like on the level above.
    """
    rng = np.random.default_rng([seed, depth])
    modules = [(level, kind, i) for level in range(depth) for kind in range(3) for i in range(2)]
    books = {m: rng.standard_normal((30, 24)) / 24**0.5 for m in modules}
    turns = {m: rng.standard_normal((4, 24)) / 96**0.5 for m in modules}

    def attribute(module: tuple[int, int, int]) -> Pictures:
        if module[1] == 0:
            word: Pictures = books[module][rng.integers(30)]
            return word
        if module[1] == 2:
            dense: Pictures = rng.standard_normal(4) @ turns[module]
            return dense
        x = np.zeros(48)
        x[rng.choice(48, 4, replace=False)] = rng.standard_normal(4) / 2
        return x

    def column(kind: int, i: int, level: int) -> Object:
        below = [column(kind, i, level + 1)] if level + 1 < depth else []
        name = f"{('word', 'sparse', 'dense')[kind]}/{level}{i}"
        return Object(name, attribute((level, kind, i)), inputs=below)

    def glances(number: int) -> Trace:
        places = [(kind, i) for kind in range(3) for i in range(2)]
        # One of the columns is missing in every glance, so that no module is in all of them.
        return Trace.from_objects(
            [
                [column(*places[j], 0) for j in range(6) if j != g % 6]
                for g in rng.permutation(number).tolist()
            ]
        )

    name = f"DAGs of {depth} level{'s' if depth > 1 else ''}"
    return World(name, glances(known), glances(judged))


def mobilenet(data: str, known: int, judged: int) -> Callable[[int], World]:
    """Return a maker of MobileNetV2's 63 modules, 18,849 numbers, at pictures of CIFAR-10.

    Raises:
        ImportError: outside a checkout, where ``benchmarks/networks.py`` is not.
        FileNotFoundError: if there is no such folder.
    """
    whole, _ = mobilenet_on_cifar10(data, known + judged)

    def made(seed: int) -> World:
        order = np.random.default_rng(seed).permutation(len(whole))
        return World("MobileNetV2, CIFAR-10", whole[order[:known]], whole[order[known:]])

    return made
