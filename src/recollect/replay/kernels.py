"""Compiled loops of stochastic gradient steps and of simulated systems.

The matrix is held transposed, ``M[j, i] = A[i, j]``, so that the inner loops run over memory in
order. A step on the pair (x, y) with link f is

    A <- A - 2 step (f(A x) - y) x^T

without the derivative of f, as for generalised linear models with a matching loss.

Shape letters: T states, d numbers of a state, K buffers, B transitions of a buffer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.replay.compiling import compiled

__all__ = [
    "IDENTITY",
    "LEAKY",
    "SIGMOID",
    "TANH",
    "buffers_pass",
    "interpreted",
    "ordered_pass",
    "recursive_pass",
    "simulate_pass",
]

FloatArray = npt.NDArray[np.float64]
IDENTITY, LEAKY, TANH, SIGMOID = 0, 1, 2, 3


@compiled
def apply_link(kind: int, slope: float, z: float) -> float:
    """Return f(z) of a named link; ``slope`` is that of a leaky ReLU below zero."""
    if kind == 1:
        return z if z >= 0.0 else slope * z
    if kind == 2:
        return math.tanh(z)
    if kind == 3:
        return 1.0 / (1.0 + math.exp(-z))
    return z


@compiled
def one_step(
    M: FloatArray, x: FloatArray, t: int, rate: float, kind: int, slope: float, r: FloatArray
) -> None:
    """Step on the pair (x[t], x[t + 1]); ``rate`` is twice the step, ``r`` scratch of (d,)."""
    d = M.shape[0]
    for i in range(d):
        r[i] = M[0, i] * x[t, 0]
    for j in range(1, d):
        v = x[t, j]
        for i in range(d):
            r[i] += M[j, i] * v
    if kind != 0:
        for i in range(d):
            r[i] = apply_link(kind, slope, r[i])
    for i in range(d):
        r[i] = rate * (r[i] - x[t + 1, i])
    for j in range(d):
        v = x[t, j]
        for i in range(d):
            M[j, i] -= v * r[i]


@compiled
def too_large(M: FloatArray, bound: float) -> bool:
    """Return whether an entry is beyond the bound or not a number."""
    for j in range(M.shape[0]):
        for i in range(M.shape[1]):
            if not abs(M[j, i]) <= bound:
                return True
    return False


@compiled
def buffers_pass(
    M: FloatArray,
    x: FloatArray,
    first: int,
    buffer: int,
    stride: int,
    rate: float,
    kind: int,
    slope: float,
    reverse: bool,
    bound: float,
    ends: FloatArray,
) -> int:
    """Run ``len(ends)`` buffers over x (T, d) from row ``first``; return how many stayed bounded.

    ``ends`` (K, d, d) receives A (not transposed) after each buffer; M is changed in place.
    """
    d = M.shape[0]
    r = np.empty(d)
    for k in range(ends.shape[0]):
        start = first + k * stride
        for s in range(buffer):
            t = start + buffer - 1 - s if reverse else start + s
            one_step(M, x, t, rate, kind, slope, r)
        if too_large(M, bound):
            return k
        for j in range(d):
            for i in range(d):
                ends[k, i, j] = M[j, i]
    return int(ends.shape[0])


@compiled
def ordered_pass(
    M: FloatArray,
    x: FloatArray,
    order: npt.NDArray[np.int64],
    rate: float,
    kind: int,
    slope: float,
    bound: float,
    ends: FloatArray,
) -> int:
    """Step on the transitions named by ``order`` (K,), keeping A after each: ends (K, d, d)."""
    d = M.shape[0]
    r = np.empty(d)
    for k in range(order.shape[0]):
        one_step(M, x, order[k], rate, kind, slope, r)
        if too_large(M, bound):
            return k
        for j in range(d):
            for i in range(d):
                ends[k, i, j] = M[j, i]
    return int(order.shape[0])


@compiled
def recursive_pass(A: FloatArray, P: FloatArray, x: FloatArray, keep: float) -> None:
    """Recursive least squares over all pairs of x (T, d); A (d, d), P (d, d) change in place."""
    d = A.shape[0]
    g = np.empty(d)
    for t in range(x.shape[0] - 1):
        scale = keep
        for i in range(d):
            g[i] = 0.0
            for j in range(d):
                g[i] += P[i, j] * x[t, j]
            scale += g[i] * x[t, i]
        for i in range(d):
            error = x[t + 1, i]
            for j in range(d):
                error -= A[i, j] * x[t, j]
            for j in range(d):
                A[i, j] += error * g[j] / scale
        for i in range(d):
            for j in range(i + 1):  # symmetric by construction, not by luck
                P[i, j] = (P[i, j] - g[i] * g[j] / scale) / keep
                P[j, i] = P[i, j]


@compiled
def simulate_pass(
    A: FloatArray, noise: FloatArray, kind: int, slope: float, x: FloatArray
) -> None:
    """Fill x (T + 1, d) from its first row with x[t + 1] = f(A x[t]) + noise[t]."""
    d = A.shape[0]
    for t in range(noise.shape[0]):
        for i in range(d):
            z = 0.0
            for j in range(d):
                z += A[i, j] * x[t, j]
            x[t + 1, i] = apply_link(kind, slope, z) + noise[t, i]


def interpreted(function: Any) -> Any:
    """Return the uncompiled twin of a compiled function."""
    return getattr(function, "py_func", function)
