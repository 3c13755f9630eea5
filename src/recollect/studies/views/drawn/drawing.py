"""Scenes drawn in the style of the NLVR data, with sentences whose truth is worked out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from recollect._seeds import seed_of
from recollect.studies.views.drawn.scenes import HEIGHTS, Example, Item, halved
from recollect.studies.views.drawn.sentences import COLOURS, SHAPES, SIZES, Layout, parse
from recollect.studies.views.drawn.truth import executed

__all__ = ["drawn_scenes"]

_INK = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
_GREY = (211, 211, 211)
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
    found = []
    for number in range(count):
        template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
        wanted = bool(rng.integers(2))
        for _ in range(20):  # until the truth is the wanted one; else as it comes
            boxes = _towers(rng) if "tower" in template or "block" in template else _scatter(rng)
            sentence = _filled(template, rng)
            layout = _known(sentence)
            if executed(layout, boxes) == wanted:
                break
        truth = executed(layout, boxes)
        found.append(Example(boxes, _draw(boxes), sentence, layout, truth, f"drawn-{number}"))
    return found


def _known(sentence: str) -> Layout:
    layout = parse(sentence)
    assert layout is not None, sentence
    return layout


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
            size = HEIGHTS[SIZES[rng.integers(3)]]
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
    return halved(np.stack(panels))
