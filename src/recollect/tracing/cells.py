"""An n x n grid over every map, so that position survives."""

from __future__ import annotations

from functools import lru_cache

import torch.nn.functional as F
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect.tracing.folding import Layout, as_maps
from recollect.tracing.views import ModulesView, Piece, View

__all__ = ["CellsView"]


class CellsView(View):
    """One object per cell of an n x n grid: the channel means inside it.

    The cells of one map are a family with members ``name/r,c`` (row and column, from the top
    left). What is no map (a vector, tokens that are no grid) stays one object.

    Args:
        cells: n.

    Raises:
        ValueError: if n is smaller than 1.

    Example:
        >>> import torch
        >>> from recollect import trace
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3))
        >>> t = trace(net, torch.ones(1, 1, 8, 8), view="cells", cells=2)
        >>> t.modules, t.objects("0/1,0").attributes.shape
        (('0/0,0', '0/0,1', '0/1,0', '0/1,1'), torch.Size([1, 3]))
    """

    def __init__(self, cells: int = 4) -> None:
        self._cells = check_integer("cells", cells, minimum=1)
        self._plain = ModulesView("mean")

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return one object per cell and glance."""
        maps = as_maps(t, layout, module)
        if maps is None or maps.shape[2] * maps.shape[3] == 1:
            return self._plain.piece(name, t, layout, module)
        pooled = F.adaptive_avg_pool2d(maps.float(), self._cells)  # (B, C, n, n)
        rows = pooled.flatten(2).transpose(1, 2).flatten(0, 1)  # (B n n, C)
        return Piece(name, rows.contiguous(), _members(name, self._cells))


@lru_cache(maxsize=1024)
def _members(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}/{r},{c}" for r in range(n) for c in range(n))
