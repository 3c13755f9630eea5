"""Systems that make streams: linear, or linear behind a link, driven by Gaussian noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.replay.kernels import simulate_pass
from recollect.replay.links import LinkLike, link_of

__all__ = ["as_states", "random_system", "simulate_glm", "simulate_lti"]

FloatArray = npt.NDArray[np.float64]


def random_system(dim: int, radius: float = 0.9, seed: int = 0) -> FloatArray:
    """Return a symmetric matrix (d, d): half its eigenvalues ``radius``, the rest a third of it.

    Args:
        dim: d.
        radius: spectral radius, in [0, 1) for a stable system.
        seed: of the random axes.

    Raises:
        ValueError: if ``dim`` < 1 or the radius is not in [0, 1).

    >>> round(float(np.abs(np.linalg.eigvals(random_system(5, 0.98))).max()), 6)
    0.98
    """
    check_integer("dim", dim, minimum=1)
    if not 0 <= radius < 1:
        raise ValueError(f"radius must be in [0, 1) for a stable system, got {radius!r}")
    rng = np.random.default_rng(seed_of(seed, "system", dim))
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    values = np.where(np.arange(dim) < (dim + 1) // 2, radius, radius / 3)
    return np.asarray(axes * values @ axes.T)


def simulate_lti(
    A: npt.ArrayLike, num_steps: int, noise: float = 1.0, start: Any = None, seed: int = 0
) -> FloatArray:
    """Return the states (T + 1, d) of x[t + 1] = A x[t] + noise * N(0, I).

    Args:
        A: (d, d).
        num_steps: T.
        noise: standard deviation, per coordinate.
        start: x[0], shape (d,); zero if None. Give the last state to go on with a stream.
        seed: of the noise.

    Raises:
        ValueError: if A is not square and finite, or a number is out of range.

    >>> simulate_lti([[0.5]], 3, noise=0.0, start=[8.0]).ravel().tolist()
    [8.0, 4.0, 2.0, 1.0]
    """
    return simulate_glm(A, num_steps, None, noise, start, seed)


def simulate_glm(
    A: npt.ArrayLike,
    num_steps: int,
    link: LinkLike = 0.5,
    noise: float = 1.0,
    start: Any = None,
    seed: int = 0,
) -> FloatArray:
    """Return the states (T + 1, d) of x[t + 1] = f(A x[t]) + noise * N(0, I).

    Args:
        A: (d, d).
        num_steps: T.
        link: f, as in :func:`link_of`.
        noise: standard deviation, per coordinate.
        start: x[0], shape (d,); zero if None.
        seed: of the noise.

    Raises:
        ValueError: if A is not square and finite, or a number is out of range.

    >>> simulate_glm([[-1.0]], 3, 0.5, noise=0.0, start=[8.0]).ravel().tolist()
    [8.0, -4.0, 4.0, -2.0]
    """
    matrix = np.ascontiguousarray(A, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"A must be a finite square matrix, got shape {matrix.shape}")
    check_integer("num_steps", num_steps, minimum=1)
    if not noise >= 0:
        raise ValueError(f"noise must be a standard deviation, at least 0, got {noise!r}")
    dim, f = len(matrix), link_of(link)
    x = np.zeros((num_steps + 1, dim))
    if start is not None:
        x[0] = as_states([start], dim, "start")[0]
    rng = np.random.default_rng(seed_of(seed, "noise"))
    drawn = noise * rng.standard_normal((num_steps, dim))
    if f.function is None:
        simulate_pass(matrix, drawn, f.kind, f.slope, x)
    else:
        for t in range(num_steps):
            x[t + 1] = f(matrix @ x[t]) + drawn[t]
    return x


def as_states(x: Any, dim: int | None, name: str = "x") -> FloatArray:
    """Return a block of states as float64, (T, d); tensors and lists are taken as well.

    Raises:
        ValueError: if it is not (T, d) or holds a number that is not finite.
    """
    if hasattr(x, "detach"):  # a torch tensor, without importing torch
        x = x.detach().cpu().numpy()
    states = np.ascontiguousarray(x, np.float64)
    if states.ndim != 2 or (dim is not None and states.shape[1] != dim):
        raise ValueError(
            f"{name} must be a block of states (T, {dim or 'd'}), one row a time step, "
            f"got shape {states.shape}"
        )
    if not np.isfinite(states).all():
        bad = np.flatnonzero(~np.isfinite(states).all(1))
        raise ValueError(
            f"{name} must be finite, row {bad[0]} is not ({len(bad)} rows in all); cut the "
            "stream there: call finalize() and go on with what follows"
        )
    return states
