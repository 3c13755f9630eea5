"""Drawn scenes of three boxes with known items: read from the NLVR data, or drawn here alike.

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
from PIL import Image, ImageDraw
from torch import Tensor

from recollect._seeds import seed_of
from recollect.studies.views.drawn.sentences import COLOURS, SHAPES, SIZES, Layout, parse

__all__ = ["SIDE", "Example", "Item", "drawn_scenes", "nlvr_scenes", "pictures_of"]

# Pixels of a box as the network sees it; every second one of the data's.
SIDE = 50
_INK = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
_GREY, _HEIGHTS = (211, 211, 211), {"small": 10, "medium": 20, "large": 30}


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
        size = next((s for s, h in _HEIGHTS.items() if abs(self.bottom - self.top - h) <= 2), "")
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
        tuple(map(tuple, boxes)), _halved(panels), sentence, parse(sentence),
        bool(record["true"]), str(record["group"]),
    )  # fmt: skip


def _halved(panels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """Return (3, 100, 100, 3) pixels as (3, 3, SIDE, SIDE), means of two by two."""
    means = panels.reshape(3, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    return torch.from_numpy(means.transpose(0, 3, 1, 2).round().astype(np.uint8))


# -- drawn --------------------------------------------------------------------------------

_TEMPLATES = (
    "there is a tower with a {c} block at the top",
    "there is a tower with a {c} block at the base",
    "there is exactly one tower with a {c} block at the top",
    "there are two towers with a {c} block at the base",
    "there is a tower with {n} blocks",
    "there is a {c} block as the top of a tower with at least two blocks",
    "there is a {c} block above a {d} block",
    "each tower has at least 1 {c} block",
    "there is a box with {n} items",
    "there is a box with {n} {c} items",
    "there is a box with items of only {c} color",
    "there is a box with a {c} {s} and a {d} {s}",
    "there are exactly {n} {c} {s}s not touching any edge",
    "there are at least {n} {s}s",
    "there is a {c} {s} touching the wall",
    "there is at least one {c} block on a {d} block",
)


def drawn_scenes(count: int, seed: int) -> list[Example]:
    """Draw scenes in the style of the data, with sentences about half of which are true.

    Args:
        count: how many.
        seed: of the scenes and the sentences.
    """
    rng = np.random.default_rng(seed_of(seed, "drawn scenes"))
    from recollect.studies.views.drawn.truth import executed

    found = []
    for number in range(count):
        template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
        wanted = bool(rng.integers(2))
        for _ in range(20):  # until the truth is the wanted one; else as it comes
            boxes = _towers(rng) if "tower" in template or "block" in template else _scatter(rng)
            sentence = _filled(template, rng)
            layout = parse(sentence)
            assert layout is not None
            if executed(layout, boxes) == wanted:
                break
        truth = executed(layout, boxes)
        found.append(Example(boxes, _draw(boxes), sentence, layout, truth, f"drawn-{number}"))
    return found


def _filled(template: str, rng: np.random.Generator) -> str:
    c, d = rng.choice(COLOURS, 2, replace=False)
    return template.format(
        c=c, d=d, s=rng.choice(SHAPES), n=("one", "two", "three")[rng.integers(3)]
    )


def _towers(rng: np.random.Generator) -> tuple[tuple[Item, ...], ...]:
    return tuple(
        tuple(
            Item("square", str(rng.choice(COLOURS)), 40, 80 - 21 * k, 60, 100 - 21 * k)
            for k in range(rng.integers(1, 5))
        )
        for _ in range(3)
    )


def _scatter(rng: np.random.Generator) -> tuple[tuple[Item, ...], ...]:
    """Throw items into boxes so that none covers another; many touch an edge."""
    boxes = []
    for _ in range(3):
        items: list[Item] = []
        for _ in range(rng.integers(1, 6)):
            size = _HEIGHTS[SIZES[rng.integers(3)]]
            for _ in range(10):
                left, top = (int(v) for v in rng.integers(0, 101 - size, 2))
                if rng.random() < 0.3:
                    left = int(rng.choice([0, 100 - size]))
                box = left, top, left + size, top + size
                if all(_apart(box, o) for o in items):
                    items.append(Item(str(rng.choice(SHAPES)), str(rng.choice(COLOURS)), *box))
                    break
        boxes.append(tuple(items))
    return tuple(boxes)


def _apart(box: tuple[int, int, int, int], o: Item) -> bool:
    left, top, right, bottom = box
    return right < o.left or left > o.right or bottom < o.top or top > o.bottom


def _draw(boxes: Sequence[Sequence[Item]]) -> Tensor:
    panels = []
    for box in boxes:
        picture = Image.new("RGB", (100, 100), _GREY)
        pen = ImageDraw.Draw(picture)
        for o in box:
            corners = (o.left, o.top, o.right - 1, o.bottom - 1)
            if o.shape == "circle":
                pen.ellipse(corners, fill=_INK[o.colour])
            elif o.shape == "square":
                pen.rectangle(corners, fill=_INK[o.colour])
            else:
                middle = (o.left + o.right - 1) / 2
                pen.polygon(
                    [(o.left, o.bottom - 1), (o.right - 1, o.bottom - 1), (middle, o.top)],
                    fill=_INK[o.colour],
                )
        panels.append(np.asarray(picture))
    return _halved(np.stack(panels))
