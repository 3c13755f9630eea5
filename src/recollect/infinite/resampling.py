"""Other linear maps of positions: matrices, resizing, choosing, reordering, graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recollect.infinite.pooling import on_both
from recollect.infinite.positions import map_axis
from recollect.infinite.states import Cross, Layer, Pair, Style

__all__ = ["Aggregate", "Index", "LinearMap", "Resize", "Transpose"]


@dataclass(frozen=True, eq=False)
class LinearMap(Layer):
    """Any linear map of positions: one matrix (out, in) per axis, None for the identity.

    Adaptive pooling, interpolation and reordering are of this kind.

    Raises:
        ValueError: if a matrix does not fit on its axis.
    """

    matrices: tuple[Tensor | None, ...]
    style: ClassVar[Style] = "positional"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes after the map."""
        if len(places) != len(self.matrices):
            raise ValueError(f"{len(self.matrices)} matrices do not fit on positions {places}")
        for n, m in zip(places, self.matrices, strict=True):
            if m is not None and m.shape[1] != n:
                raise ValueError(
                    f"a matrix of shape {tuple(m.shape)} does not fit on {n} positions"
                )
        return tuple(
            n if m is None else m.shape[0] for n, m in zip(places, self.matrices, strict=True)
        )

    def needs_full(self, full: bool) -> bool:
        """Sums of covariances need all pairs of positions."""
        return True

    def _move(self, t: Tensor, first: int) -> Tensor:
        for d, matrix in enumerate(self.matrices):
            if matrix is not None:
                t = map_axis(t, first + d, matrix)
        return t

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the matrices on both sides."""
        return on_both(k, len(self.matrices), self._move)

    def mean(self, state: Any) -> Tensor | None:
        """Apply the matrices."""
        return None if state.mean is None else self._move(state.mean, 0)

    def mask(self, mask: Tensor) -> Tensor:
        """Visible where anything visible arrives."""
        moved = mask.double()
        for d, matrix in enumerate(self.matrices):
            if matrix is not None:
                moved = map_axis(moved, d, matrix.abs())
        return moved > 0


@dataclass(frozen=True)
class Resize(Layer):
    """Interpolate to other sizes: ``"nearest"``, ``"linear"`` (with antialias when shrinking).

    Args:
        sizes: one per position axis.
        method: ``"nearest"`` or ``"linear"``.
        antialias: widen the linear filter when shrinking.
    """

    sizes: tuple[int, ...]
    method: str = "nearest"
    antialias: bool = True
    align_corners: bool = False
    style: ClassVar[Style] = "positional"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes asked for."""
        if len(places) != len(self.sizes):
            raise ValueError(f"sizes {self.sizes} do not fit on positions {places}")
        return self.sizes

    def needs_full(self, full: bool) -> bool:
        """Linear interpolation mixes positions, nearest only chooses."""
        return full if self.method == "nearest" else True

    def _matrix(self, count: int, size: int) -> Tensor:
        out = torch.arange(size, dtype=torch.float64)
        if self.method == "nearest":
            chosen = ((out + 0.5) * count / size).floor().long().clamp(0, count - 1)
            return torch.nn.functional.one_hot(chosen, count).double()
        if self.method != "linear":
            raise ValueError(f"method must be 'nearest' or 'linear', got {self.method!r}")
        if self.align_corners:
            centre = out * (count - 1) / max(size - 1, 1)
        else:
            centre = (out + 0.5) * count / size - 0.5
        width = max(count / size, 1.0) if self.antialias else 1.0
        if not self.antialias:
            centre = centre.clamp(0, count - 1)
        places = torch.arange(count, dtype=torch.float64)
        weight = (1 - (places[None, :] - centre[:, None]).abs() / width).clamp_min(0)
        return weight / weight.sum(1, keepdim=True)

    def _move(self, t: Tensor, first: int) -> Tensor:
        for d, size in enumerate(self.sizes):
            matrix = self._matrix(t.shape[first + d], size)
            if self.method == "nearest":
                t = t.index_select(first + d, matrix.argmax(1).to(t.device))
            else:
                t = map_axis(t, first + d, matrix)
        return t

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Interpolate on both sides."""
        return on_both(k, len(self.sizes), self._move)

    def mean(self, state: Any) -> Tensor | None:
        """Interpolate the mean."""
        return None if state.mean is None else self._move(state.mean, 0)

    def mask(self, mask: Tensor) -> Tensor:
        """Visible where anything visible arrives."""
        return self._move(mask.double(), 0) > 0


@dataclass(frozen=True, eq=False)
class Index(Layer):
    """Choose positions: one slice or integer per position axis.

    >>> Index((slice(1, 6, 2), slice(None, None, -1))).places((8, 8))
    (3, 8)
    """

    index: tuple[slice | int, ...]
    style: ClassVar[Style] = "positional"

    def _chosen(self, places: tuple[int, ...]) -> list[list[int] | int]:
        if len(self.index) > len(places):
            raise ValueError(f"{len(self.index)} indices do not fit on positions {places}")
        index = (*self.index, *[slice(None)] * (len(places) - len(self.index)))
        return [
            i % n if isinstance(i, int) else list(range(*i.indices(n)))
            for i, n in zip(index, places, strict=True)
        ]

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of chosen positions; integers drop their axis."""
        chosen = self._chosen(places)
        if any(isinstance(c, list) and not c for c in chosen):
            raise ValueError(f"index {self.index} keeps nothing of positions {places}")
        return tuple(len(c) for c in chosen if isinstance(c, list))

    def _move(self, t: Tensor, first: int, places: tuple[int, ...]) -> Tensor:
        chosen = self._chosen(places)
        for d in reversed(range(len(places))):
            c = chosen[d]
            if isinstance(c, int):
                t = t.select(first + d, c)
            elif c != list(range(places[d])):
                t = t.index_select(first + d, torch.tensor(c, device=t.device))
        return t

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Choose on both sides."""
        places = tuple(pair.a.var.shape[:-1])
        out = on_both(k, len(places), lambda t, first: self._move(t, first, places))
        full = k.full and bool(self.places(places))
        return Cross(out.nngp, out.ntk, None, full, k.want_ntk, k.compiled)

    def mean(self, state: Any) -> Tensor | None:
        """Choose the mean."""
        if state.mean is None:
            return None
        return self._move(state.mean, 0, tuple(state.var.shape[:-1]))

    def mask(self, mask: Tensor) -> Tensor:
        """Choose the mask."""
        return self._move(mask, 0, tuple(mask.shape[:-1]))


@dataclass(frozen=True)
class Transpose(Layer):
    """Reorder the position axes."""

    order: tuple[int, ...]
    style: ClassVar[Style] = "positional"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes in the new order."""
        return tuple(places[i] for i in self.order)

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Reorder on both sides."""
        rank = len(self.order)
        axes = list(self.order) + ([rank + i for i in self.order] if k.full else [])

        def move(t: Tensor) -> Tensor:
            return t.permute(*axes, t.ndim - 2, t.ndim - 1).contiguous()

        return k.each(move(k.nngp), None if k.ntk is None else move(k.ntk))

    def mean(self, state: Any) -> Tensor | None:
        """Reorder the mean."""
        return None if state.mean is None else state.mean.permute(*self.order, -1)

    def mask(self, mask: Tensor) -> Tensor:
        """Reorder the mask."""
        return mask.permute(*self.order, -1)


@dataclass(frozen=True)
class Aggregate(Layer):
    """Sum over the neighbours in a graph of positions, one graph per input.

    ``K' = P1^T K P2``; the graphs are given at call time, ``kernel(..., pattern1=, pattern2=)``,
    as dense matrices (n, V, V) or padded edge lists (n, E, 2) of (sender, receiver), -1 ignored.
    """

    style: ClassVar[Style] = "positional"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Nodes stay nodes."""
        if len(places) != 1:
            raise ValueError(f"aggregation needs one axis of nodes, got positions {places}")
        return places

    def needs_full(self, full: bool) -> bool:
        """Sums of covariances need all pairs of positions."""
        return True

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Multiply by both patterns, one pair of inputs at a time."""
        one, two = pair.a_out.extra, pair.b_out.extra
        if one is None or two is None:
            raise ValueError(
                "Aggregate needs graphs: call kernel(x1, x2, pattern1=..., pattern2=...)"
            )
        form = "vwnm,xwm->vxnm" if not pair.paired else "vwnm,xwn->vxnm"

        def move(t: Tensor) -> Tensor:
            t = torch.einsum("vwnm,xvn->xwnm", t, one.to(t))
            return torch.einsum(form, t, two.to(t))

        return k.each(move(k.nngp), None if k.ntk is None else move(k.ntk))

    def mean(self, state: Any) -> Tensor | None:
        """Sum the mean over the neighbours."""
        if state.mean is None or state.extra is None:
            return None
        return torch.einsum("vn,xvn->xn", state.mean, state.extra.to(state.mean))
