"""Real shifts of domain for DAFT: photographs of pets and their copies, streets by day and night.

A picture is what MobileNetV2 makes of it before its last layer. Pets tell their breed; they are
learned as photographs and in grey, and judged, other pets, spoiled (dark, blurred and noisy) or
stylised (few colours, no texture). Streets are learned by day and at twilight, and judged by
night: how dense the traffic is.

Shape letters: N pictures, d = 1280 features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from recollect._seeds import seed_of
from recollect.studies.running import Journal
from recollect.studies.trained_networks import loaders

__all__ = ["COPIES", "FEATURES", "Photographs", "photo_settings", "photographs", "seen", "watched"]

Domains = dict[str, Dataset[Any]]
Photographs = dict[str, dict[str, np.ndarray[Any, Any]]]
FEATURES = 1280
Copy = Callable[[Image.Image, np.random.Generator], Image.Image]
HELD = 3  # of the 8 pets of a breed, judged only


def _spoiled(picture: Image.Image, draws: np.random.Generator) -> Image.Image:
    """A third of the light, blurred, and noise as of a fast film."""
    soft = ImageEnhance.Brightness(picture.filter(ImageFilter.GaussianBlur(2))).enhance(0.35)
    pixels = np.asarray(soft, np.float64)
    noisy = pixels + draws.normal(0, 12, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _stylised(picture: Image.Image, draws: np.random.Generator) -> Image.Image:
    """Flat areas of few colours, with their outlines darkened."""
    flat = ImageOps.posterize(picture.filter(ImageFilter.MedianFilter(7)), 2)
    lines = ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES))
    shade = np.asarray(lines, np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(flat, np.float32) * shade**2).astype(np.uint8))


COPIES: dict[str, Copy] = {
    "photograph": lambda picture, draws: picture,
    "grey": lambda picture, draws: ImageOps.grayscale(picture).convert("RGB"),
    "spoiled": _spoiled,
    "stylised": _stylised,
}


@torch.no_grad()
def _embedded(network: Any, pictures: list[Tensor]) -> np.ndarray[Any, Any]:
    """What stands before the last layer of MobileNetV2: (N, d)."""
    kept: list[Tensor] = []
    pool = next(m for n, m in network.named_modules() if n.startswith("gap"))
    handle = pool.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        for part in torch.split(torch.stack(pictures), 8):
            network(part)
    finally:
        handle.remove()
    return torch.cat(kept).flatten(1).numpy()


def seen(data: str | Path, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return features of all pets in one kind of copy: ``x`` (N, d), ``y`` breeds (N,).

    Args:
        data: folder with ``scenes`` and ``weights``.
        kind: of ``COPIES``.

    Raises:
        ImportError: outside a checkout of the repository.
        FileNotFoundError: if the folder lacks the pictures.
    """
    networks, pictures = loaders("networks"), loaders("pictures")
    network, preprocess = networks.mobilenet_v2(data)
    pets = pictures.load("pets", data)
    draws = np.random.default_rng(seed_of("copies", kind))
    breeds = sorted({record["breed"] for _, record in pets})
    shown = [preprocess(COPIES[kind](picture, draws)) for picture, _ in pets]
    y = np.array([breeds.index(record["breed"]) for _, record in pets])
    return {"x": _embedded(network, shown), "y": y}


def watched(data: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return features of the street pictures whose traffic is known.

    ``x`` (N, d), ``light`` (N,) as words, ``density`` (N,): 0 free, 1 moderate, 2 dense.

    Args:
        data: folder with ``scenes`` and ``weights``.

    Raises:
        ImportError: outside a checkout of the repository.
        FileNotFoundError: if the folder lacks the pictures.
    """
    networks, pictures = loaders("networks"), loaders("pictures")
    network, preprocess = networks.mobilenet_v2(data)
    known = pictures.load("street_stream", data).where(
        lambda record: record["labels"].get("density") is not None
    )
    shown = list(known)
    return {
        "x": _embedded(network, [preprocess(picture) for picture, _ in shown]),
        "light": np.array([record["labels"]["light"] for _, record in shown]),
        "density": np.array([record["labels"]["density"] for _, record in shown]),
    }


def photographs(data: str | Path, journal: Journal | None = None) -> Photographs:
    """Return what MobileNetV2 sees: each kind of copy of the pets, and ``"streets"``.

    Args:
        data: folder with ``scenes`` and ``weights``.
        journal: keeps the features.

    Raises:
        ImportError: outside a checkout of the repository.
        FileNotFoundError: if the folder lacks the pictures.
    """
    journal = journal or Journal(None, "")
    found = {
        kind: journal.arrays(f"photographs-{kind}", partial(seen, data, kind)) for kind in COPIES
    }
    return {**found, "streets": journal.arrays("photographs-streets", partial(watched, data))}


def photo_settings(found: Photographs, seed: int) -> dict[str, Domains]:
    """Return judged domain -> its source domains and itself, features standardised by the sources.

    Args:
        found: of ``photographs``.
        seed: of the pets that are judged.
    """
    settings: dict[str, Domains] = {}
    y = torch.from_numpy(found["photograph"]["y"])
    learn, held = _parted(y, seed)
    standard = _standard(torch.from_numpy(found["photograph"]["x"])[learn])
    rows = {"photograph": learn, "grey": learn, "spoiled": held, "stylised": held}
    pets = {
        kind: TensorDataset(standard(torch.from_numpy(found[kind]["x"])[chosen]), y[chosen])
        for kind, chosen in rows.items()
    }
    for kind in ("spoiled", "stylised"):
        settings[f"pets, {kind}"] = {k: pets[k] for k in ("photograph", "grey", kind)}
    streets = found["streets"]
    x, light = torch.from_numpy(streets["x"]), streets["light"]
    standard = _standard(x[torch.from_numpy(light != "night")])
    label = torch.from_numpy(streets["density"])
    settings["streets by night"] = {
        hour: TensorDataset(standard(x[light == hour]), label[light == hour])
        for hour in ("day", "twilight", "night")
    }
    return settings


def _parted(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to learn and rows to judge, ``HELD`` of each class."""
    draws = torch.Generator().manual_seed(seed_of(seed, "pets"))
    learn, held = [], []
    for kind in range(int(y.max()) + 1):
        rows = (y == kind).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        held.append(rows[:HELD])
        learn.append(rows[HELD:])
    return torch.cat(learn), torch.cat(held)


def _standard(sources: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what gives each feature mean 0 and deviation 1 over the sources."""
    mean, deviation = sources.mean(0), sources.std(0)
    deviation = deviation.clamp_min(0.1 * float(deviation.mean()))
    return lambda x: (x - mean) / deviation
