"""Hand-built glances: any DAG of objects, as plain Python values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Object", "flatten"]


@dataclass(eq=False)
class Object:
    """One thing that a module put out in one glance.

    Args:
        module: name of the module.
        attribute: m numbers; the same m for every object of a module.
        weight: importance for the object (or output) that it is an input of, not negative.
        inputs: the objects it was made from. The same instance under two parents is one shared
            object: listed once, sketched once per path, its weight the same on both edges.

    Raises:
        ValueError: on an empty or non-finite attribute, or a negative weight.

    Example:
        >>> face = Object("face", [0.1, 0.9])
        >>> Object("cat", [1.0, 0.0, 2.0], weight=0.7, inputs=[face]).module
        'cat'
    """

    module: str
    attribute: Any
    weight: float = 1.0
    inputs: Sequence[Object] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.attribute, dtype=torch.float32).detach().reshape(-1)
        if not isinstance(self.module, str) or not self.module:
            raise TypeError(f"an object's module must be a non-empty name, got {self.module!r}")
        if values.numel() == 0 or not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"the attribute of an object of {self.module!r} must be one or more finite "
                f"numbers, got {values.tolist()[:8]}"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"the weight of an object of {self.module!r} must be finite and not negative, "
                f"got {self.weight}"
            )
        self.attribute = values
        self.weight = float(self.weight)
        self.inputs = list(self.inputs)


# One object as it is listed: glance, rank, weight of its first edge, attribute.
Entry = tuple[int, int, float, torch.Tensor]
# One edge: glance, rank of the parent (-1: the output), rank of the child, weight.
Edge = tuple[int, int, int, float]


def flatten(glances: Sequence[Sequence[Object]]) -> tuple[dict[str, list[Entry]], list[Edge]]:
    """List the objects of each module and the edges of all glances, depth first.

    Raises:
        ValueError: on an empty batch or a cycle.
        TypeError: if something else than an ``Object`` is met.
    """
    if len(glances) == 0:
        raise ValueError("a trace needs at least one glance, got an empty batch")
    entries: dict[str, list[Entry]] = {}
    edges: list[Edge] = []
    for number, top in enumerate(glances):
        _walk(number, top, entries, edges)
    return entries, edges


def _walk(
    number: int,
    top: Sequence[Object],
    entries: dict[str, list[Entry]],
    edges: list[Edge],
) -> None:
    """Number one glance's objects depth first and note their edges (without recursion)."""
    ranks: dict[int, int] = {}
    being_unfolded: set[int] = set()
    if isinstance(top, Object):
        raise TypeError(f"glance {number} must be a list of its top objects, got one Object")
    stack: list[tuple[bool, Object, int]] = [(True, o, -1) for o in reversed(list(top))]
    while stack:
        entering, thing, parent = stack.pop()
        if not isinstance(thing, Object):
            raise TypeError(f"a glance is a list of Object, got {type(thing).__name__}")
        if not entering:
            being_unfolded.discard(id(thing))
            continue
        if id(thing) in being_unfolded:
            raise ValueError(
                f"the objects of glance {number} form a cycle through {thing.module!r}; an "
                "object cannot be made from itself"
            )
        known = id(thing) in ranks
        rank = ranks.setdefault(id(thing), len(ranks))
        edges.append((number, parent, rank, thing.weight))
        if known:
            continue
        entries.setdefault(thing.module, []).append((number, rank, thing.weight, thing.attribute))
        being_unfolded.add(id(thing))
        stack.append((False, thing, rank))
        stack.extend((True, child, rank) for child in reversed(thing.inputs))
