"""Solving for attributes when the structure is known: transpose, least squares, LMMSE.

All work in scaled attributes u, with s = A' u + known + noise. Shape letters: B rows, K unknowns,
d numbers in a sketch; A is (K, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "least_squares", "misfit", "posterior", "transpose"]


@dataclass(frozen=True, eq=False)
class Solution:
    """Estimates and their standard deviations, both (B, K) float64, of scaled attributes."""

    mean: Tensor
    std: Tensor


def transpose(a: Tensor, residual: Tensor) -> Solution:
    """Read each unknown with its own column: the published decoder, noise beyond depth one.

    ``u_i = <a_i, s> / |a_i|^2``; everything else in the sketch is noise to it, of variance
    ``|s|^2 / (d |a_i|^2)``.
    """
    norm = a.square().sum(1).clamp_min(1e-300)
    mean = residual @ a.T / norm
    power = residual.square().mean(1, keepdim=True)
    return Solution(mean, (power / norm).sqrt())


def least_squares(a: Tensor, residual: Tensor, noise: Tensor) -> Solution:
    """Solve for all unknowns at once, without a prior.

    The standard deviation follows from the rounding noise, or from what the solution leaves over
    if that is more. With more unknowns than numbers nothing can be said: the estimates are NaN
    and their standard deviations infinite.

    Args:
        a: (K, d).
        residual: (B, d).
        noise: (B,) variance of rounding.
    """
    k, d = a.shape
    if k > d:
        empty = torch.full((len(residual), k), float("nan"), dtype=torch.float64)
        return Solution(empty, torch.full_like(empty, float("inf")))
    gram = a @ a.T
    factor, failed = torch.linalg.cholesky_ex(gram)
    steps = factor.diagonal().square()
    # The square of a diagonal entry is what an unknown has left when all before it are known.
    if k and (int(failed) or float(steps.min()) < 1e-9 * float(steps.max())):
        return _singular_least_squares(a, gram, residual, noise)
    mean = torch.cholesky_solve(a @ residual.T, factor).T
    spread = torch.cholesky_inverse(factor).diagonal()
    return Solution(mean, (_left_over(a, mean, residual, noise)[:, None] * spread).sqrt())


def _singular_least_squares(a: Tensor, gram: Tensor, residual: Tensor, noise: Tensor) -> Solution:
    """Least squares where some directions are not seen at all: these are refused."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values.max().clamp_min(1e-300) * 1e-12
    safe = torch.where(kept, values, torch.ones_like(values))
    inverse = torch.where(kept, 1 / safe, torch.zeros_like(values))
    mean = ((residual @ a.T) @ vectors * inverse) @ vectors.T
    spread = vectors.square() @ inverse
    std = (_left_over(a, mean, residual, noise)[:, None] * spread).sqrt()
    blind = (vectors.square() @ (~kept).to(torch.float64)) > 1e-6
    std[:, blind] = float("inf")
    mean[:, blind] = float("nan")
    return Solution(mean, std)


def _left_over(a: Tensor, mean: Tensor, residual: Tensor, noise: Tensor) -> Tensor:
    """Variance per number of a sketch: of rounding, or of what the solution leaves if more."""
    k, d = a.shape
    if d == k:
        return noise
    return torch.maximum(noise, (residual - mean @ a).square().sum(1) / (d - k))


def posterior(
    a: Tensor, mean: Tensor, roots: Sequence[Tensor], residual: Tensor, noise: float
) -> Solution:
    """LMMSE with independent prior blocks, through the K x K system.

    With the covariance of the unknowns L L' and T = L' A, ``u = mean + L v`` where
    ``v = (T T' + noise I)^-1 T (s - A' mean)``, of covariance ``noise (T T' + noise I)^-1``.

    Args:
        a: (K, d).
        mean: (K,) prior mean.
        roots: lower Cholesky factors of the blocks of the prior covariance, in order.
        residual: (B, d).
        noise: variance of rounding.

    Returns:
        Estimates, and deviations widened for each row by its ``misfit``.
    """
    noise = max(noise, 1e-13 * float(residual.square().mean()), 1e-30)
    sizes = [len(root) for root in roots]
    turned = torch.cat(
        [root.T @ part for root, part in zip(roots, torch.split(a, sizes), strict=True)]
    )
    inner = turned @ turned.T
    inner.diagonal().add_(noise)
    factor = torch.linalg.cholesky(inner)
    difference = residual - mean @ a
    seen = turned @ difference.T
    solved = torch.cholesky_solve(seen, factor)
    energy = (difference.square().sum(1) - (seen * solved).sum(0)) / noise
    inverse = torch.cholesky_inverse(factor)
    moved, spread, start = [], [], 0
    for root, part in zip(roots, torch.split(solved, sizes), strict=True):
        block = inverse[start : start + len(root), start : start + len(root)]
        moved.append(root @ part)
        spread.append(((root @ block) * root).sum(1))
        start += len(root)
    std = (noise * torch.cat(spread).clamp_min(0)).sqrt()
    return Solution(mean + torch.cat(moved).T, std * misfit(energy, a.shape[1])[:, None])


def misfit(energy: Tensor, dim: int) -> Tensor:
    """How many times further from what is usual sketches are than the prior expects, (B,).

    The root of the whitened energy per number of a sketch, at least one. Where the prior does not
    explain a sketch, everything read with its help is less sure.

    Args:
        energy: (B,) ``r' C^-1 r`` of sketches less their mean, C their covariance.
        dim: numbers in a sketch.
    """
    return (energy.clamp_min(0) / dim).sqrt().clamp_min(1.0)
