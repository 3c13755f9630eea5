"""Solving with positive semi-definite matrices, and saying what had to be added to do so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factor", "all_finite", "factor", "solve_iteratively"]


def all_finite(values: Tensor) -> bool:
    """Say whether no number is NaN or infinite; copies nothing, unlike ``isfinite().all()``.

    >>> all_finite(torch.tensor([1.0, float("nan")])), all_finite(torch.empty(0))
    (False, True)
    """
    if not values.numel():
        return True
    least, largest = torch.aminmax(values.detach())
    return bool(torch.isfinite(least) & torch.isfinite(largest))


@dataclass(frozen=True)
class Factor:
    """A Cholesky factor of ``matrix + jitter * I``.

    Args:
        cholesky: lower triangular factor, (N, N).
        jitter: what was added to the diagonal, 0.0 if nothing had to be.
    """

    cholesky: Tensor
    jitter: float

    def solve(self, right: Tensor) -> Tensor:
        """Return ``(matrix + jitter I)^-1 right`` for right of shape (N,) or (N, M)."""
        if right.ndim == 1:
            return self.solve(right[:, None])[:, 0]
        solved: Tensor = torch.cholesky_solve(right, self.cholesky)
        return solved

    def solve_rows(self, rows: Tensor) -> Tensor:
        """Return ``rows (matrix + jitter I)^-1`` for rows of shape (M, N); they are not turned."""
        lower = self.cholesky
        half = torch.linalg.solve_triangular(lower.mT, rows, upper=True, left=False)
        solved: Tensor = torch.linalg.solve_triangular(lower, half, upper=False, left=False)
        return solved

    def half_solve(self, right: Tensor) -> Tensor:
        """Return ``L^-1 right``, (N, M): its Gram matrix is ``right^T matrix^-1 right``."""
        half: Tensor = torch.linalg.solve_triangular(self.cholesky, right, upper=False)
        return half

    def log_determinant(self) -> Tensor:
        """Return the logarithm of the determinant, shape ()."""
        value: Tensor = 2.0 * self.cholesky.diagonal().log().sum()
        return value


def factor(matrix: Tensor, *, largest_jitter: float = 1e-4) -> Factor:
    """Factor a positive semi-definite matrix, with the least jitter that succeeds.

    First nothing is added, then multiples of the mean of the diagonal: ``eps``, ``10 eps``, and
    so on up to ``largest_jitter``.

    Args:
        matrix: (N, N), symmetric.
        largest_jitter: relative to the mean of the diagonal.

    Raises:
        ValueError: if the matrix is not square, not finite or not positive enough.

    Example:
        >>> factor(torch.eye(2)).jitter
        0.0
        >>> factor(torch.ones(2, 2)).jitter > 0
        True
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {tuple(matrix.shape)}")
    if not all_finite(matrix):
        raise ValueError("the matrix holds NaN or infinite entries; check the inputs it came from")
    scale = float(matrix.detach().diagonal().mean()) if len(matrix) else 1.0
    eps = torch.finfo(matrix.dtype).eps
    relative = 0.0
    while relative <= largest_jitter:
        jitter = relative * scale
        shifted = (
            matrix
            if jitter == 0
            else matrix + jitter * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        )
        lower, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return Factor(lower, jitter)
        relative = 10 * relative or eps
    raise ValueError(
        f"the matrix is not positive definite even with {largest_jitter:g} of its mean diagonal "
        "added; use float64, remove contradictory repeats, or pass a larger regularisation"
    )


def solve_iteratively(
    matrix: Tensor,
    right: Tensor,
    *,
    diagonal: float = 0.0,
    tolerance: float = 1e-8,
    rank: int = 0,
    max_steps: int = 1000,
) -> tuple[Tensor, int, float]:
    """Solve ``(matrix + diagonal I) x = right`` by preconditioned conjugate gradients.

    Args:
        matrix: (N, N), symmetric positive semi-definite.
        right: (N, M).
        diagonal: what is added to the diagonal.
        tolerance: the largest relative residual that stops the iteration.
        rank: rows of a partial pivoted Cholesky preconditioner; 0: the diagonal.
        max_steps: gives up after so many products.

    Returns:
        The solution (N, M), the number of steps, and the largest relative residual.

    Example:
        >>> x, steps, residual = solve_iteratively(torch.diag(torch.tensor([1.0, 2.0])),
        ...                                        torch.ones(2, 1))
        >>> [round(v, 4) for v in x[:, 0].tolist()], steps
        ([1.0, 0.5], 1)
    """
    precondition = _preconditioner(matrix, diagonal, rank)
    norm = right.norm(dim=0).clamp_min(torch.finfo(right.dtype).tiny)
    x = torch.zeros_like(right)
    r = right.clone()
    z = precondition(r)
    p = z.clone()
    rz = (r * z).sum(0)
    residual = 1.0
    for step in range(1, max_steps + 1):
        q = matrix @ p + diagonal * p
        alpha = rz / (p * q).sum(0).clamp_min(torch.finfo(right.dtype).tiny)
        x = x + alpha * p
        r = r - alpha * q
        residual = float((r.norm(dim=0) / norm).max())
        if residual <= tolerance:
            return x, step, residual
        z = precondition(r)
        new = (r * z).sum(0)
        p = z + (new / rz.clamp_min(torch.finfo(right.dtype).tiny)) * p
        rz = new
    return x, max_steps, residual


class _preconditioner:  # noqa: N801 - used as a function
    """``(L L^T + (diagonal + rest) I)^-1`` with L from pivoted Cholesky; else the diagonal."""

    def __init__(self, matrix: Tensor, diagonal: float, rank: int) -> None:
        self.rest = matrix.diagonal() + diagonal
        self.lower: Tensor | None = None
        if rank > 0:
            self.lower, rest = pivoted_cholesky(matrix, rank)
            self.shift = diagonal + float(rest.mean())
            eye = torch.eye(self.lower.shape[1], dtype=matrix.dtype, device=matrix.device)
            inner = self.shift * eye + self.lower.T @ self.lower
            self.inner = factor(inner)

    def __call__(self, r: Tensor) -> Tensor:
        if self.lower is None:
            return r / self.rest[:, None]
        return (r - self.lower @ self.inner.solve(self.lower.T @ r)) / self.shift


def pivoted_cholesky(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return L (N, rank) with ``matrix ~ L L^T``, and the diagonal that is left, (N,)."""
    rest = matrix.diagonal().clone()
    columns: list[Tensor] = []
    for _ in range(min(rank, len(matrix))):
        pivot = int(rest.argmax())
        if float(rest[pivot]) <= 0:
            break
        column = matrix[:, pivot].clone()
        for other in columns:
            column -= other * other[pivot]
        column /= rest[pivot].sqrt()
        rest = (rest - column**2).clamp_min(0)
        columns.append(column)
    return torch.stack(columns, 1), rest
