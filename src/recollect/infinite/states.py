"""What flows through an infinitely wide network: variances of single inputs, covariances of pairs.

Letters: S positions (none for vectors), n1 and n2 numbers of inputs, q = K(x, x). Tensors hold
positions first and pairs last, see :mod:`recollect.infinite.positions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from recollect.infinite.positions import diagonal_of

__all__ = ["Cross", "Kernel", "Layer", "Pair", "Scalar", "Self", "Style"]

Scalar = float | Tensor
Style = Literal["affine", "pointwise", "positional", "joint"]


class Kernel(NamedTuple):
    """Kernels between two sets of inputs; the fields that were not asked for are None.

    Args:
        nngp: covariance of an output over random networks, (n1, n2), or (n1, n2, H, H', W, W')
            and the like for networks with positions left.
        ntk: neural tangent kernel, the same shape.
    """

    nngp: Tensor | None = None
    ntk: Tensor | None = None


@dataclass(frozen=True)
class Self:
    """Each input with itself, at one place of the network.

    Args:
        var: second moment at every position, (*S, n).
        full: between all positions of the same input, (*S, *S, n, 1), where it is needed.
        mean: mean over channels, (*S, n); None stands for zero (or not needed).
        mask: visible positions, (*S, n), None if all are.
        extra: what a layer wants to keep for later, last axis n.
        deviation: :attr:`root`, kept for all tiles; None: not yet computed.
        level: :attr:`rms`, likewise.
    """

    var: Tensor
    full: Tensor | None = None
    mean: Tensor | None = None
    mask: Tensor | None = None
    extra: Tensor | None = None
    deviation: Tensor | None = None
    level: Tensor | None = None

    @property
    def rms(self) -> Tensor:
        """Root of the variance averaged over positions, (n,); never zero."""
        if self.level is not None:
            return self.level
        axes = list(range(self.rank))
        return self.root.square().mean(axes).sqrt() if axes else self.root

    @property
    def root(self) -> Tensor:
        """Root of the variance, (*S, n); zero counts as so small that products are positive."""
        if self.deviation is not None:
            return self.deviation
        floor = 1.1 * math.sqrt(torch.finfo(self.var.dtype).tiny)
        return root(self.var).clamp_min(floor)

    @property
    def rank(self) -> int:
        """Number of position axes."""
        return self.var.ndim - 1

    def rows(self, start: int, stop: int) -> Self:
        """Return the inputs start to stop."""

        def cut(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[..., start:stop]

        full = None if self.full is None else self.full[..., start:stop, :]
        return Self(
            self.var[..., start:stop],
            full,
            cut(self.mean),
            cut(self.mask),
            cut(self.extra),
            cut(self.deviation),
            cut(self.level),
        )


@dataclass(frozen=True)
class Cross:
    """Two sets of inputs with each other, at one place of the network.

    Args:
        nngp: second moments, (*S, n1, n2), or (*S, *S', n1, n2) if ``full``.
        ntk: tangent kernel of the same shape; None while it is zero or not wanted.
        gap: ``sqrt(q11 q22) - nngp``, kept where it is known better than by subtraction.
        full: whether all pairs of positions are held.
        want_ntk: whether layers should compute the tangent kernel.
        compiled: whether layers may use :mod:`recollect.infinite.fused`.
        fresh: whether the tensors belong to this value alone and may be overwritten by the only
            layer that reads it: memory that was just used is still in the cache.
    """

    nngp: Tensor
    ntk: Tensor | None = None
    gap: Tensor | None = None
    full: bool = False
    want_ntk: bool = True
    compiled: bool = False
    fresh: bool = False

    def each(
        self,
        nngp: Tensor,
        ntk: Tensor | None,
        gap: Tensor | None = None,
        *,
        fresh: bool = False,
    ) -> Cross:
        """Return a copy with other numbers."""
        return replace(self, nngp=nngp, ntk=ntk, gap=gap, fresh=fresh)


@dataclass(frozen=True)
class Pair:
    """The single-input states around one layer: ``a`` of x1, ``b`` of x2, before and after.

    ``paired`` means that input i meets only itself, so that both sides vary along one axis.
    """

    a: Self
    b: Self
    a_out: Self
    b_out: Self
    paired: bool = False

    def left(self, v: Tensor, *, full: bool) -> Tensor:
        """Spread a (*S, n1) tensor of x1 over pairs."""
        rank = v.ndim - 1
        shape = (*v.shape[:-1], *([1] * rank if full else []), v.shape[-1], 1)
        return v.reshape(shape)

    def right(self, v: Tensor, *, full: bool) -> Tensor:
        """Spread a (*S, n2) tensor of x2 over pairs."""
        rank = v.ndim - 1
        tail = (v.shape[-1], 1) if self.paired else (1, v.shape[-1])
        return v.reshape((*([1] * rank if full else []), *v.shape[:-1], *tail))

    def outer(self, v1: Tensor | None, v2: Tensor | None, *, full: bool) -> Tensor | None:
        """Return the products of two (*S, n) tensors over pairs, None if either is None."""
        if v1 is None or v2 is None:
            return None
        return self.left(v1, full=full) * self.right(v2, full=full)


class Layer:
    """One map of kernels. Subclasses are frozen dataclasses and final.

    ``style`` says how a layer meets a concatenation of channels: an ``affine`` layer mixes
    channels, ``pointwise`` acts on every entry alone, ``positional`` maps positions the same way
    in every channel, ``joint`` looks at the statistics of all channels.
    """

    style: ClassVar[Style]

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes of the position axes after the layer."""
        return places

    def needs_full(self, full: bool) -> bool:
        """Say whether the input must hold all pairs of positions for such an output."""
        return full

    def keeps_full(self) -> bool:
        """Say whether pairs of x1 and x2 need ``Self.full`` of each."""
        return False

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Map the kernels of pairs."""
        raise NotImplementedError

    def mean(self, state: Self) -> Tensor | None:
        """Map the mean over channels, given the state before the layer."""
        return state.mean

    def mask(self, mask: Tensor) -> Tensor:
        """Map the visible positions."""
        return mask

    def alone(self, state: Self, *, full: bool) -> Self:
        """Map the state of single inputs; ``full`` asks for all pairs of positions after it."""
        mask = None if state.mask is None else self.mask(state.mask)
        if full or self.needs_full(False):
            held = state.full if state.full is not None else state.var[..., None]
            k = Cross(held, full=state.full is not None, want_ntk=False)
            out = self.cross(k, self._pair(state))
            nngp = out.nngp if mask is None else _hide(out.nngp, mask, out.full)
            if not out.full:
                return Self(nngp[..., 0], None, None, mask)
            rank = (nngp.ndim - 2) // 2
            var = diagonal_of(nngp, rank)[..., 0]
            return Self(var, nngp if full else None, None, mask)
        k = Cross(state.var[..., None], want_ntk=False)
        out = self.cross(k, self._pair(state))
        var = out.nngp[..., 0] if mask is None else out.nngp[..., 0] * mask
        return Self(var, None, None, mask)

    def _pair(self, state: Self) -> Pair:
        return Pair(state, state, state, state, paired=True)


def _hide(nngp: Tensor, mask: Tensor, full: bool) -> Tensor:
    rank = mask.ndim - 1
    ones = [1] * rank if full else []
    left = mask.reshape((*mask.shape[:-1], *ones, mask.shape[-1], 1))
    right = mask.reshape((*ones, *mask.shape[:-1], mask.shape[-1], 1))
    return nngp * (left & right)


def square(value: Scalar) -> Scalar:
    """Return the square of a number or a scalar tensor."""
    return value * value


def is_zero(value: Scalar) -> bool:
    """Say whether a constant is zero; a tensor never counts as zero, its gradient matters."""
    return not isinstance(value, Tensor) and value == 0


def root(v: Tensor) -> Tensor:
    """Square root with a finite derivative at zero.

    >>> float(root(torch.tensor(4.0)))
    2.0
    """
    if not v.requires_grad:
        return v.sqrt()
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)
