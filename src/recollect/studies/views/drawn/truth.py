"""What a layout says of a scene whose objects are known: the modules, done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recollect.studies.views.drawn.scenes import Item
from recollect.studies.views.drawn.sentences import Layout

__all__ = ["executed"]

# The places in its box of the items that a module found, box by box.
Found = list[list[int]]


def executed(layout: Layout, boxes: Sequence[Sequence[Item]]) -> bool:
    """Return whether a sentence's layout is true of a scene.

    Args:
        layout: of a sentence.
        boxes: the items of each box.

    Example:
        >>> box = [Item("circle", "black", 10, 10, 30, 30)]
        >>> executed(Layout("at_least[1]", (Layout("total", (Layout("find[black]"),)),)), [box])
        True
    """
    return bool(_run(layout, boxes))


def _run(layout: Layout, boxes: Sequence[Sequence[Item]]) -> Any:
    kind, _, word = layout.module.removeprefix("box_").rstrip("]").partition("[")
    inputs = [_run(part, boxes) for part in layout.inputs]
    if kind in ("find", "filter", "except", "both", "relate"):
        return _places(kind, word, inputs, boxes)
    if kind == "count":
        return [len(s) for s in inputs[0]]
    if kind == "total":
        return sum(len(s) for s in inputs[0])
    if kind == "colours":
        return [len({b[i].colour for i in s}) for s, b in zip(inputs[0], boxes, strict=True)]
    if kind == "exists":
        return [len(s) > 0 for s in inputs[0]]
    if kind == "and":
        return [x and y for x, y in zip(*inputs, strict=True)]
    if kind in ("boxes", "some", "every"):
        truths = [bool(t) for t in inputs[0]]
        return sum(truths) if kind == "boxes" else any(truths) if kind == "some" else all(truths)
    number = int(word)
    numbers = inputs[0] if isinstance(inputs[0], list) else [inputs[0]]
    held = {
        "exactly": [v == number for v in numbers],
        "at_least": [v >= number for v in numbers],
        "at_most": [v <= number for v in numbers],
    }[kind]
    return held if isinstance(inputs[0], list) else held[0]


def _places(kind: str, word: str, inputs: list[Found], boxes: Sequence[Sequence[Item]]) -> Found:
    """Return the places of the items that a module of maps finds."""
    if kind == "find":
        return [
            [i for i, o in enumerate(b) if word == "item" or word in o.properties(b)]
            for b in boxes
        ]
    if kind == "both":
        return [[i for i in s if i in t] for s, t in zip(*inputs, strict=True)]
    if kind == "relate":
        return [
            [i for i, o in enumerate(b) if any(o.is_next(b[j], word) for j in s)]
            for s, b in zip(inputs[0], boxes, strict=True)
        ]
    wanted = kind == "filter"
    return [
        [i for i in s if (word in b[i].properties(b)) == wanted]
        for s, b in zip(inputs[0], boxes, strict=True)
    ]
