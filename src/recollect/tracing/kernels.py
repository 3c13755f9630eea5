"""Every kernel of a convolution as a module, as one reads a convolutional network."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from recollect._checks import check_one_of
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, as_maps
from recollect.tracing.views import Piece, View

__all__ = ["KernelsView"]


class KernelsView(View):
    """One object per kernel: how strongly it fired, and where.

    The attribute is ``(s, s y, s x)``: the strength ``s`` is the mean of the positive part of the
    kernel's map, and ``(y, x)`` the centre of that positive part, from -1 (top, left) to 1. Where
    comes multiplied by how strongly, so that a kernel that is silent says nothing about places,
    and so that attributes can be averaged: the ratio of the means is the centre over all
    glances. The kernels of one convolution are a family with members ``conv/0``, ``conv/1``, ...

    Args:
        where: keep where each kernel fired (else the attribute is the strength alone).
        strength: ``"positive"`` (mean positive part), ``"mean"``, ``"max"`` or ``"rms"``.

    Example:
        >>> from recollect import trace
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
        >>> t = trace(net, torch.ones(2, 1, 8, 8), view="kernels", where=False)
        >>> t.modules, t
        (('0/0', '0/1', '0/2', '0/3'), Trace(2 glances, 4 modules, 8 objects))
    """

    def __init__(self, where: bool = True, strength: str = "positive") -> None:
        self._where = where
        self._strength = check_one_of("strength", strength, ("positive", "mean", "max", "rms"))

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the convolutions, or whatever modules are asked for."""
        if modules is not None:
            return choose_modules(model, modules)
        return choose_modules(model, _is_convolution)

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return one object per kernel and glance."""
        maps = as_maps(t, layout, module)
        if maps is None:
            return None
        rows = maps.float().flatten(2).flatten(0, 1)  # (B C, P)
        places = _places(maps.shape[2], maps.shape[3], rows.device)
        # This order of the product is three times faster on the CPU than rows @ places.T.
        moments = (places @ rows.clamp_min(0).t()).t()  # (B C, 3)
        if self._strength != "positive":
            moments[:, 0] = _strength(rows, self._strength)
        kept = moments if self._where else moments[:, :1]
        return Piece(name, kept.contiguous(), _members(name, maps.shape[1]))


def _is_convolution(name: str, module: nn.Module) -> bool:
    """Whether a module has convolution kernels (two spatial axes) of its own."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 4


def _strength(rows: Tensor, kind: str) -> Tensor:
    if kind == "mean":
        return rows.mean(1)
    return rows.amax(1) if kind == "max" else rows.square().mean(1).sqrt()


@lru_cache(maxsize=64)
def _places(height: int, width: int, device: torch.device) -> Tensor:
    """Rows 1, y, x over the positions of a map, divided by their number, (3, P)."""
    y = torch.linspace(-1, 1, height) if height > 1 else torch.zeros(1)
    x = torch.linspace(-1, 1, width) if width > 1 else torch.zeros(1)
    ones = torch.ones(height, width)
    table = torch.stack([ones, y[:, None] * ones, x[None] * ones])
    return (table.flatten(1) / (height * width)).to(device)


@lru_cache(maxsize=1024)
def _members(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}/{k}" for k in range(count))
