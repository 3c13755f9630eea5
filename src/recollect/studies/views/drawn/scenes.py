"""Drawn scenes of three boxes with known items: as the NLVR data holds them.

Lengths are those of the data: a box is 100 wide and high, y goes down.

Reference: "A corpus of natural language for visual reasoning" (Suhr, Lewis, Yeh and Artzi, 2017).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recollect.studies.views.drawn.sentences import Layout, parse

__all__ = ["HEIGHTS", "SIDE", "Example", "Item", "halved", "nlvr_scenes", "pictures_of"]

# Pixels of a box as the network sees it; every second one of the data's.
SIDE = 50
# Heights of the items of each size.
HEIGHTS = {"small": 10, "medium": 20, "large": 30}


@dataclass(frozen=True)
class Item:
    """One thing in a box.

    Example:
        >>> sorted(Item("circle", "blue", 0, 40, 20, 60).properties([]))
        ['blue', 'circle', 'edge', 'medium']
    """

    shape: str
    colour: str
    left: int
    top: int
    right: int
    bottom: int

    def properties(self, box: Sequence[Item]) -> frozenset[str]:
        """Return all that is true of it among the items of its box."""
        sides = [self.left <= 1 or self.right >= 99, self.top <= 1 or self.bottom >= 99]
        held = {
            "edge": any(sides),
            "corner": all(sides),
            "floor": self.bottom >= 99,
            "top": bool(box) and self.top == min(o.top for o in box),
            "base": bool(box) and self.bottom == max(o.bottom for o in box),
        }
        size = next((s for s, h in HEIGHTS.items() if abs(self.bottom - self.top - h) <= 2), "")
        return frozenset({self.shape, self.colour, size, *(k for k, v in held.items() if v)})

    def is_next(self, other: Item, relation: str) -> bool:
        """Whether it stands directly above, or below, another."""
        upper, lower = (self, other) if relation == "above" else (other, self)
        beside = min(upper.right, lower.right) > max(upper.left, lower.left)
        return self is not other and beside and abs(lower.top - upper.bottom) <= 2

    @property
    def centre(self) -> tuple[float, float]:
        """Where its middle is, (y, x)."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2


@dataclass(frozen=True, eq=False)
class Example:
    """A scene and a sentence.

    Attributes:
        boxes: the items of each of the three boxes.
        picture: (3 boxes, 3 colours, SIDE, SIDE) uint8.
        sentence: in English.
        layout: of the sentence; None where the grammar does not know it.
        is_true: whether it is true of the scene, as people said.
        group: of examples with one sentence.
    """

    boxes: tuple[tuple[Item, ...], ...]
    picture: Tensor
    sentence: str
    layout: Layout | None
    is_true: bool
    group: str


def pictures_of(examples: Sequence[Example]) -> Tensor:
    """Return (B, 3, 3, SIDE, SIDE) float32 from 0 to 1."""
    return torch.stack([e.picture for e in examples]).float() / 255


# -- read ---------------------------------------------------------------------------------


def nlvr_scenes(data: Path, limit: int | None = None) -> list[Example]:
    """Read the scenes of ``data/scenes/nlvr.json`` and their pictures.

    Raises:
        FileNotFoundError: if the data is not there.
    """
    records = json.loads((data / "scenes/nlvr.json").read_text())["records"][:limit]
    with tarfile.open(data / "scenes/nlvr.tar.gz") as archive:
        wanted = {r["file"] for r in records}
        stored = {
            m.name: archive.extractfile(m).read()  # type: ignore[union-attr]
            for m in archive if m.name in wanted
        }  # fmt: skip
    return [_example(r, stored[r["file"]]) for r in records]


def _example(record: dict[str, object], png: bytes) -> Example:
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))  # (100, 400, 3)
    boxes: list[list[Item]] = [[], [], []]
    for shape, colour, panel, *corners in record["objects"]:  # type: ignore[attr-defined]
        left, top, right, bottom = corners
        boxes[panel].append(
            Item(shape, colour, left - 150 * panel, top, right - 150 * panel, bottom)
        )
    panels = np.stack([picture[:, 150 * p : 150 * p + 100] for p in range(3)])
    sentence = str(record["sentence"])
    return Example(
        tuple(map(tuple, boxes)), halved(panels), sentence, parse(sentence),
        bool(record["true"]), str(record["group"]),
    )  # fmt: skip


def halved(panels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """Return (3, 100, 100, 3) pixels as (3, 3, SIDE, SIDE), means of two by two."""
    means = panels.reshape(3, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    return torch.from_numpy(means.transpose(0, 3, 1, 2).round().astype(np.uint8))
