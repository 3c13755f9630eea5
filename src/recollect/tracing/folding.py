"""From a module's output to attribute vectors, one row per glance.

Shape letters: B glances, k outputs per glance in the first axis (windows, time steps), C
channels, P positions, m numbers in an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recollect._checks import check_one_of

__all__ = ["Layout", "Reduce", "as_maps", "batch_size", "reduction", "tensors"]

# What `reduce=` takes: a name, several names, or a function from an output (B, ...) to (B, m).
Reduce = str | tuple[str, ...] | Callable[[Tensor], Tensor]


def tensors(output: Any) -> tuple[list[Tensor], int]:
    """Return the floating point tensors in a module's output, and how many leaves are not."""
    if isinstance(output, Tensor):
        return ([output], 0) if output.is_floating_point() else ([], 1)
    found: list[Tensor] = []
    others = 0
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            inside = [leaf]
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            inside = [getattr(leaf, f.name) for f in fields(leaf)]
        elif isinstance(leaf, Mapping):
            inside = list(leaf.values())
        else:
            others += leaf is not None
            continue
        kept = [t for t in inside if isinstance(t, Tensor) and t.is_floating_point()]
        others += len(inside) - len(kept)
        found += kept
    return found, others


def batch_size(args: tuple[Any, ...], kwargs: Mapping[str, Any], axis: int | None = None) -> int:
    """Return the number of glances in a network's arguments.

    It is the length of a leading list of tensors (as torchvision's detectors take them), else
    the size of the first tensor along the batch axis.

    Raises:
        ValueError: if there is no tensor, or the batch is empty.
    """
    if args and isinstance(args[0], list) and any(isinstance(t, Tensor) for t in args[0]):
        size = len(args[0])
    else:
        place = axis or 0
        leaves = [t for t in pytree.tree_leaves((args, dict(kwargs))) if isinstance(t, Tensor)]
        sizes = [t.shape[place] for t in leaves if t.dim() > place]
        if not sizes:
            raise ValueError(
                "the batch size cannot be read: the network was called without a tensor of at "
                f"least {place + 1} axes; pass a tensor, or a tuple or dict of arguments"
            )
        size = sizes[0]
    if size == 0:
        raise ValueError("a trace needs at least one glance, got an empty batch")
    return size


@dataclass(frozen=True)
class Layout:
    """Where batch, channels and positions are in the outputs of one forward.

    Attributes:
        batch: glances in it.
        batch_axis: axis of the glances where it is not the first.
        channel_axis: axis of the channels; None: 1 in maps, the last in sequences.
        square: whether the network's input is a square picture. Then its maps are square too,
            and a map (B, s, s, C) is recognised as having its channels last.
    """

    batch: int
    batch_axis: int | None = None
    channel_axis: int | None = None
    square: bool = False

    def fold(self, t: Tensor, module: nn.Module | None = None) -> Tensor | None:
        """Return an output as (B, C) or (B, C, P), None if it cannot be divided by the batch."""
        axis = self.batch_axis
        if axis is not None and t.dim() > axis and t.shape[axis] == self.batch:
            t = t.movedim(axis, 0)
        if t.dim() == 0 or t.numel() == 0 or t.shape[0] % self.batch:
            return None
        repeats = t.shape[0] // self.batch
        if t.dim() == 1:
            return t.reshape(self.batch, repeats)
        if t.dim() > 2:
            t = self.channels_first(t, module)
        if repeats == 1:
            return t if t.dim() == 2 else t.flatten(2)
        rows = t.reshape(self.batch, repeats, t.shape[1], -1)  # (B, k, C, P)
        return rows.transpose(1, 2).flatten(2)

    def channels_first(self, t: Tensor, module: nn.Module | None = None) -> Tensor:
        """Return an output with its channels on axis 1."""
        axis = self.channel_axis
        if axis is None:
            if t.dim() == 3:
                axis = 1 if isinstance(module, _ONE_DIMENSIONAL) else 2
            elif t.dim() == 4 and self.square and t.shape[1] == t.shape[2] != t.shape[3]:
                axis = 3
            else:
                axis = 1
        return t if axis == 1 else t.movedim(axis, 1)


_ONE_DIMENSIONAL = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)


def as_maps(t: Tensor, layout: Layout, module: nn.Module) -> Tensor | None:
    """Return an output as maps (B, C, h, w), None if it is none.

    Tokens are laid out again if they are a square number of patches behind at most five others.
    """
    if t.dim() == 4 and t.shape[0] == layout.batch:
        return layout.channels_first(t, module)
    if t.dim() == 3 and t.shape[0] == layout.batch:
        rows = layout.channels_first(t, module)  # (B, C, T)
        side = int(rows.shape[2] ** 0.5)
        extra = rows.shape[2] - side * side
        if side > 1 and extra <= 5:
            return rows[:, :, extra:].reshape(layout.batch, -1, side, side)
    return None


def reduction(reduce: Reduce) -> Callable[[Tensor], Tensor]:
    """Return the function from (B, C, P) to (B, m) that ``reduce`` names.

    Raises:
        ValueError: if a name is unknown.
    """
    names = (reduce,) if isinstance(reduce, str) else tuple(reduce)  # type: ignore[arg-type]
    if not names:
        raise ValueError("reduce needs at least one of 'mean', 'max', 'std', got none")
    functions = [_REDUCTIONS[check_one_of("reduce", name, _REDUCTIONS)] for name in names]
    if len(functions) == 1:
        return functions[0]
    return lambda t: torch.cat([f(t) for f in functions], 1)


def _mean(t: Tensor) -> Tensor:
    return t.mean(2, dtype=torch.float32)  # in float32 also where the network computes in less


def _max(t: Tensor) -> Tensor:
    return t.amax(2)


def _std(t: Tensor) -> Tensor:
    return t.float().std(2, correction=0)


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "max": _max, "std": _std}
