"""Checks of attributes and weights, and the tables that ``Trace.from_columns`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["check_attributes", "check_weights", "flat_ranks", "spell_out"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def check_attributes(name: str, attributes: Tensor) -> Tensor:
    """Return attributes as an (n, m) float32 tensor, or refuse them.

    Raises:
        ValueError: if they have another shape or hold NaN or infinite numbers.
    """
    if attributes.dim() != 2 or attributes.shape[1] == 0:
        raise ValueError(
            f"attributes of module {name!r} must have shape (objects, numbers), got "
            f"{tuple(attributes.shape)}"
        )
    attributes = attributes.detach().to(torch.float32).contiguous()
    # One pass: a sum is finite only if every term is (an overflow is looked at again).
    if not bool(torch.isfinite(attributes.sum())) and not bool(torch.isfinite(attributes).all()):
        row = int((~torch.isfinite(attributes)).any(1).nonzero()[0, 0])
        raise ValueError(
            f"attributes of module {name!r} must be finite, object {row} holds NaN or infinity; "
            "look for a division by zero or an overflow in the network"
        )
    return attributes


def check_weights(name: str, weight: npt.ArrayLike, count: int) -> FloatArray:
    """Return weights as (n,) float32, or refuse them.

    Raises:
        ValueError: if their number differs from ``count``, or one is negative or not finite.
    """
    array = np.asarray(weight, dtype=np.float32).reshape(-1)
    if len(array) != count:
        raise ValueError(f"module {name!r} has {count} objects but {len(array)} weights")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        bad = array[~(np.isfinite(array) & (array >= 0))][0]
        raise ValueError(f"weights of module {name!r} must be finite and not negative, got {bad}")
    return array


def spell_out(name: str, value: Any) -> dict[str, Any]:
    """Spell out one entry of ``from_columns``: attributes, glance, member, weight, members."""
    if isinstance(value, Mapping):
        unknown = set(value) - {"attributes", "glance", "weight", "members", "member"}
        if unknown or "attributes" not in value:
            raise ValueError(
                f"column {name!r} takes attributes, glance, weight, members, member; got "
                f"{sorted(value)}"
            )
        given = dict(value)
    else:
        given = {"attributes": value}
    attributes = check_attributes(name, torch.as_tensor(given["attributes"]))
    members = tuple(given.get("members") or (name,))
    k, n = len(members), len(attributes)
    if "glance" in given:
        glance = np.asarray(given["glance"], dtype=np.int64).reshape(-1)
    else:
        glance = np.repeat(np.arange(n // k), k)
    member = np.asarray(given["member"], np.int64) if "member" in given else np.arange(n) % k
    if len(glance) != n or len(member) != n:
        raise ValueError(
            f"column {name!r} has {n} attributes, {len(glance)} glance numbers and "
            f"{len(member)} member numbers; they must agree"
        )
    if n and (glance.min() < 0 or member.min() < 0 or member.max() >= k):
        raise ValueError(f"column {name!r}: glance and member numbers must not be out of range")
    weight = (
        np.ones(n, np.float32)
        if "weight" not in given or given["weight"] is None
        else given["weight"]
    )
    weight = check_weights(name, weight, n)
    if n and (np.diff(glance) < 0).any():
        order = np.argsort(glance, kind="stable")
        attributes = attributes[torch.from_numpy(order)]
        glance, member, weight = glance[order], member[order], weight[order]
    return {"attributes": attributes, "glance": glance, "member": member,
            "weight": weight, "members": members}  # fmt: skip


def flat_ranks(tables: Sequence[Mapping[str, Any]], num_glances: int) -> list[IntArray]:
    """Rank the objects of a flat trace: column after column within each glance."""
    filled = np.zeros(num_glances, dtype=np.int64)
    ranks = []
    for t in tables:
        counts = np.bincount(t["glance"], minlength=num_glances)
        first = np.concatenate([[0], np.cumsum(counts)])[t["glance"]]
        ranks.append(filled[t["glance"]] + np.arange(len(t["glance"])) - first)
        filled = filled + counts
    return ranks
