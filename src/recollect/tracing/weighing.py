"""Objects that weigh many inputs: the heaviest are kept one by one, the rest as one.

Shape letters: B glances, R rows (glances, or windows of glances), H modules, Q objects of each, S
inputs, k kept inputs, d numbers of an input, n of an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.tracing.linking import Link
from recollect.tracing.views import Piece, Run

__all__ = ["Weighed", "add_weighed", "objects_of"]

BoolArray = npt.NDArray[np.bool_]


class Weighed:
    """Which objects of H modules are kept, and how they are called.

    Args:
        run: that they belong to.
        name: of the family.
        members: H names.
        kept: (R, Q, H) whether an object is kept.
    """

    def __init__(self, run: Run, name: str, members: Sequence[str], kept: BoolArray) -> None:
        self.run, self.name, self.members = run, name, tuple(members)
        row, query, self.member = np.nonzero(kept)
        self.glance = row // (len(kept) // run.batch)
        self._places = (row, self.member, query)

    def pick(self, t: Tensor) -> Tensor:
        """Return the kept rows of (R, H, Q, ...) as (objects, ...)."""
        return t[tuple(_index(p, t) for p in self._places)]


def add_weighed(
    kept: Weighed,
    attributes: Tensor,
    weights: Tensor,
    value: Tensor,
    top: int,
    least: float = 0.0,
    importance: Tensor | None = None,
    words: tuple[str, str] = ("token", "rest"),
) -> None:
    """Add objects and their inputs, weights of which sum to one (or to nothing).

    Args:
        kept: which objects.
        attributes: (R, H, Q, n) of the objects.
        weights: (R, H, Q, S), not negative.
        value: (R, H, S, d) attributes of the inputs.
        top: how many inputs are kept one by one, at most.
        least: weight below which an input belongs to the rest.
        importance: (R, H, Q) weights of the objects themselves; None: one.
        words: what an input is called, and the rest.
    """
    run = kept.run
    run.pieces.append(objects_of(kept, attributes, importance=importance))
    keys = weights.shape[3]
    k = min(top, keys)
    heavy, place = weights.topk(k, 3)  # (R, H, Q, k)
    index = place.flatten(2)[..., None].expand(-1, -1, -1, value.shape[3])
    inputs = value.gather(2, index).reshape(*place.shape, -1)  # (R, H, Q, k, d)
    light = heavy < least
    _add_inputs(kept, words[0], kept.pick(inputs), kept.pick(heavy.masked_fill(light, 0.0)))
    if k < keys or least > 0:
        rest = weights.scatter(3, place, heavy * light)
        mass = rest.sum(3)  # (R, H, Q)
        mean = (rest @ value) / mass.clamp_min(1e-12)[..., None]
        _add_inputs(kept, words[1], kept.pick(mean)[:, None], kept.pick(mass)[:, None])


def objects_of(
    kept: Weighed, attributes: Tensor, what: str = "", importance: Tensor | None = None
) -> Piece:
    """Return the kept objects of (R, H, Q, n) attributes as a family.

    Args:
        kept: which objects.
        attributes: of them.
        what: appended to the names of family and members, where it is not empty.
        importance: (R, H, Q) their weights; None: one.
    """
    ending = f"/{what}" if what else ""
    return Piece(
        kept.name + ending,
        kept.pick(attributes).contiguous(),
        tuple(m + ending for m in kept.members),
        glance=kept.glance,
        member=kept.member,
        weight=None if importance is None else kept.pick(importance).cpu().numpy(),
    )


def _add_inputs(kept: Weighed, what: str, values: Tensor, weights: Tensor) -> None:
    """Add the inputs (objects, k, d) of weights (objects, k); what weighs nothing is none."""
    k = weights.shape[1]
    heavy = weights.flatten().cpu().numpy().astype(np.float32)
    some = np.flatnonzero(heavy > 0)
    parent = some // k
    family = f"{kept.name}/{what}"
    kept.run.pieces.append(
        Piece(
            family,
            values.flatten(0, 1)[_index(some, values)],
            tuple(f"{m}/{what}" for m in kept.members),
            glance=kept.glance[parent],
            member=kept.member[parent],
        )
    )
    kept.run.links.append(Link(kept.name, family, parent, np.arange(len(some)), heavy[some]))


def _index(places: npt.NDArray[np.integer], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(places)).to(like.device)
