"""Layers that look at statistics of whole inputs: normalisation, dropout, attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recollect.infinite.positions import diagonal_of
from recollect.infinite.states import Cross, Layer, Pair, Scalar, Self, Style, root, square

__all__ = ["Attention", "Dropout", "LayerNorm"]


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Layer):
    """Subtract the mean and divide by the deviation, over channels and the given positions.

    Args:
        axes: position axes that are normalised together with the channels; ``()``: channels
            only; None: all axes.
        eps: added to the variance.
        affine: count trainable gains and shifts in the tangent kernel, at their initial values
            one and zero: Theta' gains K' + 1.
        centre: subtract the mean; False is RMS normalisation.
    """

    axes: tuple[int, ...] | None = ()
    eps: float = 1e-5
    affine: bool = False
    centre: bool = True
    style: ClassVar[Style] = "joint"

    def _axes(self, rank: int) -> list[int]:
        return list(range(rank)) if self.axes is None else [a % rank for a in self.axes]

    def _moments(self, state: Self) -> tuple[Tensor, Tensor | None]:
        """Return the deviation and the mean over the normalised axes, (*S or 1, n)."""
        axes = self._axes(state.rank)
        visible = None if state.mask is None else state.mask.to(state.var)

        def average(t: Tensor) -> Tensor:
            if not axes:
                return t
            if visible is None:
                return t.mean(axes, keepdim=True)
            return (t * visible).sum(axes, keepdim=True) / visible.sum(
                axes, keepdim=True
            ).clamp_min(1)

        second = average(state.var + self.eps)
        mean = None if state.mean is None or not self.centre else average(state.mean)
        if mean is not None:
            second = second - mean**2
        return root(second), mean

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Divide by both deviations, after taking out the means."""
        (s1, m1), (s2, m2) = self._moments(pair.a), self._moments(pair.b)
        below = pair.left(1 / s1, full=k.full) * pair.right(1 / s2, full=k.full)
        nngp = k.nngp
        if m1 is not None and m2 is not None:
            assert pair.a.mean is not None
            assert pair.b.mean is not None
            c1 = pair.left(pair.a.mean - m1, full=k.full)
            c2 = pair.right(pair.b.mean - m2, full=k.full)
            f1 = pair.left(pair.a.mean, full=k.full)
            f2 = pair.right(pair.b.mean, full=k.full)
            nngp = nngp - f1 * f2 + c1 * c2
        nngp = nngp * below
        ntk = None if k.ntk is None else k.ntk * below
        if self.affine and k.want_ntk:
            ntk = nngp + 1 if ntk is None else ntk + nngp + 1
        gap = None
        if k.gap is not None and m1 is None and self.eps == 0 and not self._axes(pair.a.rank):
            gap = k.gap * below
        return k.each(nngp, ntk, gap)

    def mean(self, state: Self) -> Tensor | None:
        """Centre and divide the mean."""
        if state.mean is None:
            return None
        deviation, mean = self._moments(state)
        return (state.mean if mean is None else state.mean - mean) / deviation


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout in training: an entry of a point with itself is divided by the keep probability.

    Args:
        keep: probability that a unit is kept.

    Raises:
        ValueError: if ``keep`` is not in (0, 1].
    """

    keep: float = 0.5
    style: ClassVar[Style] = "pointwise"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"the keep probability must be in (0, 1], got {self.keep}")

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Leave pairs of different points as they are."""
        if not pair.paired:
            return replace(k, gap=None)
        return k.each(self._same(k.nngp, k.full), None)

    def _same(self, t: Tensor, full: bool) -> Tensor:
        if not full:
            return t / self.keep
        rank = (t.ndim - 2) // 2
        count = t.shape[:rank].numel()
        flat = t.reshape(count, count, *t.shape[2 * rank :])
        eye = torch.eye(count, dtype=t.dtype, device=t.device)
        eye = eye.reshape(count, count, *[1] * (t.ndim - 2 * rank))
        return (flat * (1 + eye * (1 / self.keep - 1))).reshape(t.shape)

    def cross_same(self, k: Cross, i: Tensor, j: Tensor) -> Cross:
        """Divide the entries of the pairs (i, j) that are the same input."""

        def change(t: Tensor | None) -> Tensor | None:
            if t is None or not len(i):
                return t
            t = t.clone()
            t[..., i, j] = self._same(t[..., i, j][..., None], k.full)[..., 0]
            return t

        nngp = change(k.nngp)
        assert nngp is not None
        return k.each(nngp, change(k.ntk))


@dataclass(frozen=True, kw_only=True)
class Attention(Layer):
    """Self-attention with infinitely many heads of infinite width, over one or more axes.

    ``scaling="linear"`` divides scores by the key size, with tied keys and queries: the scores
    converge to the covariance, ``G(x) = weights(c_qk cov(x))``, and
    ``K' = c_ov^2 G K G'^T + b^2``, ``Theta' = c_ov^2 G Theta G'^T + b^2 + 2 (K' - b^2)``.
    ``scaling="sqrt"`` divides by its root as usual; then only ``weights="identity"`` has a closed
    form, ``K' = s <K, K> K + b^2`` with ``s = (c_qk c_ov)^2``.

    Args:
        weights: ``"softmax"``, ``"identity"``, ``"abs"`` or ``"relu"``.
        scaling: ``"linear"`` or ``"sqrt"``.
        key_std: deviation of the key weights, and so on; None of ``bias_std``: no bias.
        position: ``"none"``, ``"sum"`` or ``"concat"``: how a positional embedding enters.
        position_std: deviation of its weights.
        position_decay: function of squared distances between positions that gives the
            embedding's covariance; None: the identity.
        position_share: for ``"concat"``, the share of channels that is the embedding.
        position_in_values: let values see the embedding too.

    Raises:
        ValueError: for 1/sqrt(d) scaling of anything but the identity.

    Reference: Infinite attention (Hron, Bahri, Sohl-Dickstein, Novak, 2020).
    """

    weights: Literal["softmax", "identity", "abs", "relu"] = "softmax"
    scaling: Literal["linear", "sqrt"] = "linear"
    query_std: Scalar = 1.0
    key_std: Scalar = 1.0
    value_std: Scalar = 1.0
    out_std: Scalar = 1.0
    bias_std: Scalar | None = None
    position: Literal["none", "sum", "concat"] = "none"
    position_std: Scalar = 1.0
    position_decay: Callable[[Tensor], Tensor] | None = None
    position_share: float = 0.5
    position_in_values: bool = False
    style: ClassVar[Style] = "affine"

    def __post_init__(self) -> None:
        if self.scaling == "sqrt" and self.weights != "identity":
            raise ValueError(
                f"attention with {self.weights} weights and 1/sqrt(d) scaling has no closed form; "
                "use scaling='linear', or weights='identity'"
            )

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Positions stay."""
        if not places:
            raise ValueError("attention needs positions, got inputs of shape (batch, channels)")
        return places

    def needs_full(self, full: bool) -> bool:
        """Attention mixes positions."""
        return True

    def keeps_full(self) -> bool:
        """Each input attends by its own covariance."""
        return True

    def _embedding(self, like: Tensor) -> Tensor:
        """Return R, the covariance of the positional embedding, (*S, *S)."""
        rank = (like.ndim - 2) // 2
        places = like.shape[:rank]
        grid = torch.cartesian_prod(*[torch.arange(float(n)) for n in places])
        grid = grid.reshape(-1, rank).to(like)
        squared = ((grid[:, None] - grid[None]) ** 2).sum(-1)
        cov = (
            (squared == 0).to(like)
            if self.position_decay is None
            else (self.position_decay(squared))
        )
        return cov.reshape(*places, *places, 1, 1)

    def _embed(self, t: Tensor) -> Tensor:
        """Mix a covariance of all pairs of positions with that of the embedding."""
        if self.position == "none":
            return t
        w2 = square(self.position_std)
        if self.position == "sum":
            return t + self._embedding(t) * w2
        share = self.position_share
        return (1 - share) * t + self._embedding(t) * (share * w2)

    def _attend(self, state: Self) -> Tensor:
        """Return G, flattened, (n, P, P)."""
        assert state.full is not None
        count = state.var.shape[:-1].numel()
        scores = self._embed(state.full)[..., 0].reshape(count, count, -1).permute(2, 0, 1)
        scores = scores * (self.query_std * self.key_std)
        if self.weights == "identity":
            g = scores
        elif self.weights == "abs":
            g = scores.abs()
        elif self.weights == "relu":
            g = scores.clamp_min(0)
        elif state.mask is not None:
            visible = state.mask.reshape(count, -1).T[:, None, :]
            g = torch.softmax(scores.masked_fill(~visible, -torch.inf), -1).nan_to_num(0.0)
        else:
            g = torch.softmax(scores, -1)
        if state.mask is not None:
            g = g * state.mask.reshape(count, -1).T[:, None, :]
        return g

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the rules above."""
        shape = k.nngp.shape
        count = pair.a.var.shape[:-1].numel()

        def flat(t: Tensor) -> Tensor:
            return t.reshape(count, count, *shape[-2:])

        values = self._embed(k.nngp) if self.position_in_values else k.nngp
        tangent = k.ntk
        if self.position_in_values and k.want_ntk:
            # The embedding is trained like a weight: its covariance is its own tangent kernel.
            tangent = self._embed(torch.zeros_like(k.nngp) if tangent is None else tangent)
        b2 = 0.0 if self.bias_std is None else square(self.bias_std)
        if self.scaling == "sqrt":
            return self._by_root(k, flat(values), tangent, flat, b2)
        one, two = self._attend(pair.a), self._attend(pair.b)
        form = "nij,jknm,mlk->ilnm" if not pair.paired else "nij,jknm,nlk->ilnm"
        c2 = square(self.value_std * self.out_std)

        def move(t: Tensor) -> Tensor:
            return (torch.einsum(form, one, flat(t), two) * c2).reshape(shape)

        inner = move(values)
        nngp = inner + b2
        if not k.want_ntk:
            return k.each(nngp, None)
        ntk = inner * 2 + b2
        return k.each(nngp, ntk if tangent is None else ntk + move(tangent))

    def _by_root(
        self,
        k: Cross,
        values: Tensor,
        tangent: Tensor | None,
        flat: Callable[[Tensor], Tensor],
        b2: Any,
    ) -> Cross:
        """Apply the 1/sqrt(d) rule, in which K itself weighs the positions."""
        s = square(self.query_std * self.key_std * self.value_std * self.out_std)
        keys = flat(self._embed(k.nngp))
        # One score per pair of queries and of keys: its covariance is K(i, i') K(j, j').
        strength = (keys * values).sum((0, 1))
        nngp = keys * strength * s
        shape = k.nngp.shape
        out = nngp.reshape(shape) + b2
        if not k.want_ntk:
            return k.each(out, None)
        ntk = 4 * nngp
        # Queries and keys see the embedding, which is trained, even where values do not.
        bare = torch.zeros_like(k.nngp) if k.ntk is None else k.ntk
        turning = None if self.position == "none" and k.ntk is None else flat(self._embed(bare))
        moved = keys.new_zeros(()) if tangent is None else (keys * flat(tangent)).sum((0, 1))
        if turning is not None:
            moved = moved + (values * turning).sum((0, 1))
            ntk = ntk + s * (moved * keys + strength * turning)
        return k.each(out, ntk.reshape(shape) + b2)

    def mean(self, state: Self) -> Tensor | None:
        """Weights have zero mean."""
        return None


def diagonal_state(full: Tensor, rank: int) -> Tensor:
    """Return the variances held in a full state, (*S, n)."""
    return diagonal_of(full, rank)[..., 0]
