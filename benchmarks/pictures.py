"""The picture sets of the data folder: pictures with what is known about them.

Each loader takes the data folder and returns a ``Pictures``: ``len``, ``[i]`` -> (RGB picture,
record), decoded when asked for.

    pets = pictures.load("pets", "../shared/data")
    image, record = pets[0]          # record["species"] == "cat"
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.networks import data_folder

Record = dict[str, Any]


class Pictures:
    """Encoded pictures and one record each; slices and lists of numbers give subsets."""

    def __init__(self, encoded: Sequence[bytes], records: Sequence[Record]) -> None:
        self.encoded, self.records = list(encoded), list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Image.Image, Record]:
        return Image.open(io.BytesIO(self.encoded[index])).convert("RGB"), self.records[index]

    def __iter__(self) -> Iterator[tuple[Image.Image, Record]]:
        return (self[i] for i in range(len(self)))

    def subset(self, rows: Sequence[int]) -> Pictures:
        """Return some of the pictures."""
        return Pictures([self.encoded[i] for i in rows], [self.records[i] for i in rows])

    def where(self, keep: Callable[[Record], bool]) -> Pictures:
        """Return the pictures whose record passes a test."""
        return self.subset([i for i, r in enumerate(self.records) if keep(r)])

    def batches(
        self, preprocess: Callable[[Image.Image], Tensor], size: int = 16
    ) -> Iterator[tuple[Tensor, list[Record]]]:
        """Yield (batch, records), preprocessed, in order."""
        for first in range(0, len(self), size):
            rows = range(first, min(first + size, len(self)))
            yield (
                torch.stack([preprocess(self[i][0]) for i in rows]),
                self.records[first : rows.stop],
            )


def _scene(name: str, folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a tar and the table beside it."""
    with tarfile.open(folder / f"scenes/{name}.tar") as tar:
        files = {}
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                files[member.name] = stream.read()
    return files, json.loads((folder / f"scenes/{name}.json").read_text())


def _records(name: str, folder: Path) -> Pictures:
    """A set whose table lists one record per picture; times become datetimes with zone."""
    files, table = _scene(name, folder)
    records = [
        {**r, "time": datetime.fromisoformat(r["time"])} if "time" in r else r
        for r in table["records"]
    ]
    return Pictures([files[r["file"]] for r in records], records)


def _coco_free(folder: Path) -> Pictures:
    """COCO pictures; ``objects`` are (name, left, top, right, bottom) as fractions."""
    files, table = _scene("coco_free", folder)
    names = {c["id"]: c["name"] for c in table["categories"]}
    found: dict[int, list[Record]] = {}
    for a in table["annotations"]:
        found.setdefault(a["image_id"], []).append(a)
    records = []
    for image in table["images"]:
        width, height = image["width"], image["height"]
        boxes = [(names[a["category_id"]], *a["bbox"]) for a in found.get(image["id"], [])]
        objects = [
            [name, x / width, y / height, (x + w) / width, (y + h) / height]
            for name, x, y, w, h in boxes
        ]
        records.append({**image, "file": image["file_name"], "objects": objects})
    return Pictures([files[r["file"]] for r in records], records)


def _cifar10(folder: Path, split: str) -> Pictures:
    """CIFAR-10 as JPEG; ``split`` is ``train`` or ``test``."""
    stored = np.load(folder / "cifar10/cifar10_jpeg.npz")
    blob, offset = stored[f"{split}_blob"].tobytes(), stored[f"{split}_offset"].tolist()
    label = stored[f"{split}_label"].tolist()
    encoded = [blob[a:b] for a, b in pairwise(offset)]
    return Pictures(encoded, [{"file": f"{split}/{i}", "label": k} for i, k in enumerate(label)])


def cifar10_exact(folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """3,000 exact CIFAR-10 pictures, normalised for the ResNets: (N, 3, 32, 32), labels (N,)."""
    stored = np.load(data_folder(folder) / "cifar10/cifar10_lossless_3000.npz")
    pixels = torch.from_numpy(stored["x"]).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    return (pixels - mean) / std, torch.from_numpy(stored["y"]).long()


def mnist(folder: str | Path | None = None, split: str = "train") -> tuple[Tensor, Tensor]:
    """MNIST: (N, 1, 28, 28) from 0 to 1, labels (N,)."""
    stored = np.load(data_folder(folder) / "mnist/mnist.npz")
    pixels = torch.from_numpy(stored[f"x_{split}"])[:, None].float() / 255
    return pixels, torch.from_numpy(stored[f"y_{split}"]).long()


_LOADERS: dict[str, Callable[[Path], Pictures]] = {
    "pets": lambda f: _records("pets", f),
    "cards": lambda f: _records("cards", f),
    "street_stream": lambda f: _records("street_stream", f),
    "street_places": lambda f: _records("street_places", f),
    "coco_free": _coco_free,
    "cifar10": lambda f: _cifar10(f, "train"),
    "cifar10_test": lambda f: _cifar10(f, "test"),
}


def load(name: str, folder: str | Path | None = None) -> Pictures:
    """Return a picture set by name: pets, cards, street_stream, coco_free, cifar10, ..."""
    if name not in _LOADERS:
        raise ValueError(f"no picture set {name!r}; there are {', '.join(_LOADERS)}")
    return _LOADERS[name](data_folder(folder))
