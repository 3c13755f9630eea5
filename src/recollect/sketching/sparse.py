"""Sparse attributes: few numbers of many are not zero, so fewer numbers of a sketch will do.

Least squares needs as many numbers as unknowns; where only z of K unknowns are not zero, about
4 z numbers are enough. Two decoders with the return type of the other solvers:

* ``omp``: orthogonal matching pursuit adds the unknown that fits best and refits all found;
* ``cosamp``: keeps a support of fixed size and exchanges its members until nothing changes.

Reference: "Signal recovery from random measurements via orthogonal matching pursuit" (Tropp and
Gilbert, 2007); "CoSaMP: iterative signal recovery from incomplete and inaccurate samples"
(Needell and Tropp, 2009).

Shape letters: B rows, K unknowns, d numbers in a sketch, z non-zeros; A is (K, d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.sketching.solve import Solution

__all__ = ["cosamp", "omp"]


def omp(a: Tensor, residual: Tensor, noise: Tensor, most: int | None = None) -> Solution:
    """Decode sparse attributes by orthogonal matching pursuit, row by row.

    Stops when what is left is no more than rounding (three deviations of its power), or after
    ``most`` steps. A row that is not explained by then is refused: NaN, infinitely uncertain.

    Args:
        a: (K, d) float64 map, as ``stack_columns`` makes it.
        residual: (B, d) float64 sketches without what is known.
        noise: (B,) variance of rounding.
        most: largest number of non-zeros; d / 2 if None.

    Returns:
        (B, K); an unknown outside the support is estimated as zero, with the deviation of what
        may be there and be lost in rounding.

    Raises:
        ValueError: if ``most`` is not below d.

    Example:
        >>> a = torch.eye(6, dtype=torch.float64)
        >>> s = torch.tensor([[0.0, 2.0, 0.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
        >>> omp(a, s, torch.zeros(1)).mean.round(decimals=6).tolist()
        [[0.0, 2.0, 0.0, 0.0, -1.0, 0.0]]
    """
    most = _checked(a, most)
    norms = a.square().sum(1).sqrt().clamp_min(1e-300)
    rows = [
        _omp_row(a, norms, s, v, most)
        for s, v in zip(residual, _floor(residual, noise).tolist(), strict=True)
    ]
    return _stacked(a, rows)


def cosamp(
    a: Tensor, residual: Tensor, noise: Tensor, nonzeros: int, *, sweeps: int = 50
) -> Solution:
    """Decode attributes of a known sparsity by compressive sampling matching pursuit.

    Args:
        a: (K, d) float64 map.
        residual: (B, d) float64 sketches without what is known.
        noise: (B,) variance of rounding.
        nonzeros: size of the support; larger than the truth is safe, up to d / 3.
        sweeps: most exchanges of a row.

    Returns:
        (B, K); a row that is not explained is refused: NaN, infinitely uncertain.

    Raises:
        ValueError: if three times ``nonzeros`` is more than d.
    """
    check_integer("nonzeros", nonzeros, minimum=1)
    k, d = a.shape
    if 3 * nonzeros > d:
        raise ValueError(
            f"{nonzeros} non-zeros cannot be found in {d} numbers, three numbers for each are "
            "needed at least; use a larger dim or omp"
        )
    norms = a.square().sum(1).sqrt().clamp_min(1e-300)
    rows = []
    for s, v in zip(residual, _floor(residual, noise).tolist(), strict=True):
        support = torch.zeros(0, dtype=torch.int64)
        left, best = s, float(s.square().sum())
        for _ in range(sweeps):
            if best <= _limit(v, d, len(support)):
                break
            proxy = (a @ left).abs() / norms
            fresh = proxy.topk(min(2 * nonzeros, k)).indices
            merged = torch.unique(torch.cat([support, fresh]))
            x = _fit(a[merged], s)[0]
            kept = merged[(x.abs() * norms[merged]).topk(min(nonzeros, len(x))).indices]
            x, _ = _fit(a[kept], s)
            now = s - x @ a[kept]
            if float(now.square().sum()) >= best * (1 - 1e-9):
                break
            support, left, best = kept, now, float(now.square().sum())
        rows.append(_finished(a, s, support, v))
    return _stacked(a, rows)


def _omp_row(
    a: Tensor, norms: Tensor, s: Tensor, noise: float, most: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return support, values and deviations of one row, or None."""
    d = a.shape[1]
    basis = torch.zeros(d, most, dtype=a.dtype)
    support: list[int] = []
    free = torch.ones(len(a), dtype=torch.bool)
    left = s
    # What the columns have left outside the span of the support (their squared norms).
    apart = norms.square().clone()
    while float(left.square().sum()) > _limit(noise, d, len(support)) and len(support) < most:
        score = (a @ left).square() / apart.clamp_min(1e-9 * norms.square())
        best = int(torch.where(free, score, -1.0).argmax())
        free[best] = False
        fresh = a[best]
        for _ in range(2):
            fresh = fresh - basis[:, : len(support)] @ (basis[:, : len(support)].T @ fresh)
        length = float(fresh.norm())
        if length <= 1e-7 * float(norms[best]):
            continue
        fresh = fresh / length
        basis[:, len(support)] = fresh
        apart -= (a @ fresh).square()
        left = left - fresh * (fresh @ left)
        support.append(best)
    return _finished(a, s, torch.tensor(support, dtype=torch.int64), noise)


def _finished(
    a: Tensor, s: Tensor, support: Tensor, noise: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Refit a support: it, its values, the deviations of all unknowns; None if unexplained."""
    x, spread = _fit(a[support], s)
    left = s - x @ a[support]
    if float(left.square().sum()) > _limit(noise, a.shape[1], len(support)):
        return None
    std = _overlooked(a, left, support, x, noise)
    std[support] = (noise * spread).sqrt()
    return support, x, std


def _overlooked(a: Tensor, left: Tensor, support: Tensor, x: Tensor, noise: float) -> Tensor:
    """Deviation (K,) of numbers that were taken for zero: some may be there, but too small to see.

    A number is there as often as the support is large, with the variance v of what was found.
    Alone it would be read as y with the variance g, so that it is there with the odds
    ``share / (1 - share) * sqrt(g / (g + v)) * exp(y^2 v / (2 g (g + v)))``.
    """
    k, found = len(a), len(support)
    basis = torch.linalg.qr(a[support].T).Q if found else a.new_zeros(a.shape[1], 0)
    apart = a.square().sum(1) - (a @ basis).square().sum(1)
    apart = apart.clamp_min(1e-9 * float(a.square().sum(1).max().clamp_min(1e-300)))
    y, g = (a @ left) / apart, noise / apart
    v = torch.maximum(x.square().mean(), g.median()) if found else g.median()
    share = (found + 0.5) / (k + 1)
    odds = torch.logit(torch.tensor(share, dtype=a.dtype)) - 0.5 * torch.log1p(v / g)
    there = torch.sigmoid(odds + 0.5 * y.square() * v / (g * (g + v)))
    kept = v / (g + v)
    return (there * (g * kept + (y * kept).square())).sqrt()


def _fit(a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on some columns: values, and the diagonal of the inverse system."""
    gram = a @ a.T
    gram.diagonal().mul_(1 + 1e-12)
    factor = torch.linalg.cholesky(gram)
    x = torch.cholesky_solve((a @ s)[:, None], factor)[:, 0]
    return x, torch.cholesky_inverse(factor).diagonal()


def _stacked(a: Tensor, rows: list[tuple[Tensor, Tensor, Tensor] | None]) -> Solution:
    mean = torch.zeros(len(rows), len(a), dtype=torch.float64)
    std = torch.zeros_like(mean)
    for i, row in enumerate(rows):
        if row is None:
            mean[i], std[i] = float("nan"), float("inf")
        else:
            mean[i, row[0]], std[i] = row[1], row[2]
    return Solution(mean, std)


def _limit(noise: float, d: int, found: int) -> float:
    """Power of what rounding leaves, with three deviations of it."""
    free = max(d - found, 1)
    return noise * (free + 3 * math.sqrt(2 * free))


def _floor(residual: Tensor, noise: Tensor) -> Tensor:
    """Return the noise, at least what arithmetic in float32 leaves of the power."""
    floor: Tensor = noise.to(torch.float64) + 1e-11 * residual.square().mean(1) + 1e-300
    return floor


def _checked(a: Tensor, most: int | None) -> int:
    d = a.shape[1]
    if most is None:
        return min(max(d // 2, 1), len(a))
    check_integer("most", most, minimum=1)
    if most >= d:
        raise ValueError(f"most must be below the {d} numbers of a sketch, got {most}")
    return min(most, len(a))
