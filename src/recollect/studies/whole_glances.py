"""What keeps a glance itself, to compare sketches with: all attributes, their mean, the counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from recollect.tracing import Object

__all__ = ["KEEPERS", "Kept", "cosine"]

# Name -> numbers: a sparse vector in blocks.
Kept = dict[str, npt.NDArray[np.float64]]


def _exact(glance: Sequence[Object], path: str = "", weight: float = 1.0) -> Kept:
    """All attributes, each at its path, siblings of a module in order, weighted as in a sketch."""
    found: Kept = {}
    for place, o in enumerate(glance):
        name = f"{path}/{o.module}"
        name = f"{name}#{place}" if name in found else name
        share = weight * o.weight
        found[name] = o.attribute.double().numpy() * share**0.5
        found |= _exact(o.inputs, name, share)
    return found


def _listed(glance: Sequence[Object]) -> list[Object]:
    return [o for top in glance for o in [top, *_listed(top.inputs)]]


def _pooled(glance: Sequence[Object]) -> Kept:
    """The mean attribute of all objects."""
    return {"mean": torch.stack([o.attribute for o in _listed(glance)]).double().mean(0).numpy()}


def _histogram(glance: Sequence[Object]) -> Kept:
    """How many objects there are of each module."""
    found: Kept = {}
    for o in _listed(glance):
        found[o.module] = found.get(o.module, np.zeros(1)) + 1
    return found


KEEPERS: dict[str, Callable[[Sequence[Object]], Kept]] = {
    "exact": _exact,
    "pooled": _pooled,
    "histogram": _histogram,
}


def cosine(a: Kept, b: Kept) -> float:
    """Return the cosine of two kept glances."""
    dot = sum(float(a[k] @ b[k]) for k in a.keys() & b.keys())
    norms = [sum(float(v @ v) for v in x.values()) ** 0.5 for x in (a, b)]
    return float(dot / max(norms[0] * norms[1], 1e-30))
