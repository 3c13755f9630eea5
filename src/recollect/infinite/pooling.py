"""Pooling and flattening: maps of positions without parameters.

A linear map C of positions takes K to ``C K C^T`` and Theta likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recollect.infinite.affine import Padding
from recollect.infinite.positions import Window, resolve_padding, window_sum
from recollect.infinite.states import Cross, Layer, Pair, Style

__all__ = [
    "AvgPool",
    "Flatten",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Identity",
    "Scale",
    "SumPool",
    "on_both",
]


def on_both(k: Cross, rank: int, one: Callable[[Tensor, int], Tensor]) -> Cross:
    """Apply ``one(tensor, first axis)`` to the positions of x1, then to those of x2."""

    def both(t: Tensor) -> Tensor:
        return one(one(t, rank), 0) if k.full else one(t, 0)

    return k.each(both(k.nngp), None if k.ntk is None else both(k.ntk))


@dataclass(frozen=True)
class Identity(Layer):
    """Do nothing."""

    style: ClassVar[Style] = "pointwise"

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Return the kernels as they are."""
        return k


@dataclass(frozen=True)
class Scale(Layer):
    """Multiply by a constant: K and Theta by its square."""

    factor: float
    style: ClassVar[Style] = "positional"

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Multiply by the square."""
        c = self.factor**2
        ntk = None if k.ntk is None else k.ntk * c
        return k.each(k.nngp * c, ntk, None if k.gap is None else k.gap * c)

    def mean(self, state: Any) -> Tensor | None:
        """Multiply by the factor."""
        return None if state.mean is None else state.mean * self.factor


@dataclass(frozen=True, kw_only=True)
class AvgPool(Layer):
    """Average over windows.

    Args:
        size: window per axis.
        stride: default: the window.
        padding: as in :class:`~recollect.infinite.affine.Conv`.
        circular: wrap around instead of padding with zeros.
        normalize_edges: divide by the visible part of the window instead of the whole of it.
        ceil_mode: keep a last window that hangs over the end.
        total: sum instead of averaging.
    """

    size: int | tuple[int, ...] = 2
    stride: int | tuple[int, ...] | None = None
    padding: Padding = "valid"
    circular: bool = False
    normalize_edges: bool = False
    ceil_mode: bool = False
    total: bool = False
    style: ClassVar[Style] = "positional"

    def _windows(self, places: tuple[int, ...]) -> list[tuple[Window, int]]:
        """Return the window of each axis, and the padding that counts as inside."""
        rank = len(places)
        strides = self.size if self.stride is None else self.stride
        result = []
        for n, f, s, p in zip(
            places,
            _spread(self.size, rank),
            _spread(strides, rank),
            _spread(self.padding, rank),
            strict=True,
        ):
            low, high = resolve_padding(p, n, f, s, 1)
            extra = 0
            if self.ceil_mode:
                count = -(-(n + low + high - f) // s) + 1
                if (count - 1) * s >= n + low:
                    count -= 1
                extra = max(0, (count - 1) * s + f - (n + low + high))
            result.append((Window(f, s, 1, low, high + extra, self.circular), extra))
        return result

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of windows along each axis."""
        if not places:
            raise ValueError("pooling needs positions, got inputs of shape (batch, channels)")
        out = tuple(w.length(n) for (w, _), n in zip(self._windows(places), places, strict=True))
        if min(out) < 1:
            raise ValueError(f"pooling over {self.size} does not fit on positions {places}")
        return out

    def needs_full(self, full: bool) -> bool:
        """Averages of covariances need all pairs of positions."""
        return True

    def _move(self, t: Tensor, first: int, places: tuple[int, ...]) -> Tensor:
        for d, (window, extra) in enumerate(self._windows(places)):
            axis = first + d
            n = places[d]
            t = window_sum(t, (axis,), window)
            if self.total:
                continue
            if self.normalize_edges or extra:
                inside = Window(window.size, window.stride, 1, window.low, window.high - extra)
                counts = inside.counts(
                    n, include_padding=not self.normalize_edges, windows=t.shape[axis]
                )
                shape = [1] * t.ndim
                shape[axis] = len(counts)
                t = t / torch.tensor(counts, dtype=t.dtype, device=t.device).reshape(shape)
            else:
                t = t / window.size
        return t

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over both windows."""
        places = tuple(pair.a.var.shape[:-1])
        return on_both(k, len(places), lambda t, first: self._move(t, first, places))

    def mean(self, state: Any) -> Tensor | None:
        """Average the mean."""
        if state.mean is None:
            return None
        return self._move(state.mean, 0, tuple(state.var.shape[:-1]))

    def mask(self, mask: Tensor) -> Tensor:
        """A window is visible if any position in it is."""
        places = tuple(mask.shape[:-1])
        moved = mask.double()
        for d, (window, _) in enumerate(self._windows(places)):
            moved = window_sum(moved, (d,), window)
        return moved > 0


def _spread(value: Any, rank: int) -> tuple[Any, ...]:
    if isinstance(value, tuple | list):
        if len(value) != rank:
            raise ValueError(f"expected {rank} numbers, one per position axis, got {value}")
        return tuple(value)
    return (value,) * rank


def SumPool(  # noqa: N802 - a layer like the others
    *,
    size: int | tuple[int, ...] = 2,
    stride: int | tuple[int, ...] | None = None,
    padding: Padding = "valid",
    circular: bool = False,
) -> AvgPool:
    """Sum over windows; arguments of :class:`AvgPool`."""
    return AvgPool(size=size, stride=stride, padding=padding, circular=circular, total=True)


@dataclass(frozen=True, kw_only=True)
class GlobalAvgPool(Layer):
    """Average over positions: over all axes, or the ``axes`` given (counted without batch)."""

    axes: tuple[int, ...] | None = None
    total: bool = False
    keepdim: bool = False
    style: ClassVar[Style] = "positional"

    def _axes(self, rank: int) -> list[int]:
        return list(range(rank)) if self.axes is None else [a % rank for a in self.axes]

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Drop the pooled axes."""
        if not places:
            raise ValueError(
                "global pooling needs positions, got inputs of shape (batch, channels)"
            )
        pooled = self._axes(len(places))
        if self.keepdim:
            return tuple(1 if i in pooled else n for i, n in enumerate(places))
        return tuple(n for i, n in enumerate(places) if i not in pooled)

    def needs_full(self, full: bool) -> bool:
        """Averages of covariances need all pairs of positions."""
        return True

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over all pairs of positions, or of visible ones."""
        rank = pair.a.rank
        axes = self._axes(rank)
        both = axes + [rank + a for a in axes]
        places = pair.a.var.shape[:-1]
        count = math.prod(places[a] for a in axes)
        below: Any = 1.0 if self.total else float(count) ** 2
        if not self.total and pair.a.mask is not None and pair.b.mask is not None:
            one, two = self._visible(pair.a.mask), self._visible(pair.b.mask)
            below = pair.left(one.to(k.nngp), full=True) * pair.right(two.to(k.nngp), full=True)

        def pool(t: Tensor) -> Tensor:
            t = _wide_sum(t, both).to(t.dtype) / below
            return t if self.keepdim else _drop(t, both)

        out = k.each(pool(k.nngp), None if k.ntk is None else pool(k.ntk))
        left = self.places(tuple(places))
        return out if left else Cross(out.nngp, out.ntk, None, False, k.want_ntk, k.compiled)

    def _visible(self, mask: Tensor) -> Tensor:
        return mask.sum(self._axes(mask.ndim - 1), keepdim=True).clamp_min(1)

    def mean(self, state: Any) -> Tensor | None:
        """Average the mean."""
        if state.mean is None:
            return None
        axes = self._axes(state.rank)
        total = state.mean.sum(axes, keepdim=True)
        if not self.total:
            if state.mask is not None:
                total = total / self._visible(state.mask)
            else:
                total = total / math.prod(state.var.shape[a] for a in axes)
        return total if self.keepdim else _drop(total, axes)

    def mask(self, mask: Tensor) -> Tensor:
        """Visible if any position is."""
        axes = self._axes(mask.ndim - 1)
        for axis in sorted(axes, reverse=True):
            mask = mask.any(axis, keepdim=self.keepdim)
        return mask


def GlobalSumPool(*, axes: tuple[int, ...] | None = None) -> GlobalAvgPool:  # noqa: N802
    """Sum over positions; ``axes`` as in :class:`GlobalAvgPool`."""
    return GlobalAvgPool(axes=axes, total=True)


def _wide_sum(t: Tensor, axes: list[int]) -> Tensor:
    """Sum in float64, so that repeats agree to the last bit with the variances, part by part."""
    first = axes[0]
    step = max(1, 2**18 * t.shape[first] // max(1, t.numel()))
    total: Tensor | None = None
    for part in torch.split(t, step, first):
        summed = part.sum(axes, keepdim=True, dtype=torch.float64)
        total = summed if total is None else total + summed
    assert total is not None
    return total


def _drop(t: Tensor, axes: list[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        t = t.squeeze(axis)
    return t


@dataclass(frozen=True)
class Flatten(Layer):
    """Make channels of all positions: the kernels are averaged over equal positions."""

    style: ClassVar[Style] = "joint"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """No positions are left."""
        return ()

    def needs_full(self, full: bool) -> bool:
        """Only equal positions matter."""
        return False

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over equal positions."""
        axes = list(range(pair.a.rank))
        if not axes:
            return k
        ntk = None if k.ntk is None else k.ntk.mean(axes)
        gap = None
        if k.gap is not None:
            gap = self._gap(k, k.gap, pair, axes)
        return k.each(k.nngp.mean(axes), ntk, gap)

    def _gap(self, k: Cross, gap: Tensor, pair: Pair, axes: list[int]) -> Tensor:
        """Return mean(gap) + o1 o2 / 2 mean((r1 / o1 - r2 / o2)^2): nothing is subtracted."""
        o1, o2 = pair.a_out.root, pair.b_out.root
        r1 = pair.left(pair.a.root / o1, full=False)
        r2 = pair.right(pair.b.root / o2, full=False)
        turn = torch.sub(r1, r2).square_().mean(axes)
        return gap.mean(axes).addcmul_(turn, o1[:, None] * o2[None], value=0.5)

    def mean(self, state: Any) -> Tensor | None:
        """Average the mean."""
        if state.mean is None or state.rank == 0:
            return state.mean  # type: ignore[no-any-return]
        return state.mean.mean(list(range(state.rank)))  # type: ignore[no-any-return]

    def mask(self, mask: Tensor) -> Tensor:
        """Visible if any position is."""
        return mask.reshape(-1, mask.shape[-1]).any(0)
