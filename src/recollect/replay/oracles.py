"""What reverse replay is measured against: exact estimates, and steps in other orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.replay.averaging import TailMean
from recollect.replay.kernels import ordered_pass, recursive_pass
from recollect.replay.links import LinkLike, link_of
from recollect.replay.reverse import SGDRER, Diverged
from recollect.replay.systems import as_states

__all__ = ["RecursiveLeastSquares", "ols", "quasi_newton_glm", "sgd", "sgd_er"]

FloatArray = npt.NDArray[np.float64]


def ols(x: Any, ridge: float = 0.0) -> FloatArray:
    """Return the least-squares estimate of A, (d, d), from states (T + 1, d).

    It minimises sum_t |A x[t] - x[t + 1]|^2 + ridge |A|^2.

    Raises:
        ValueError: if the states are not (T, d) and finite, or fewer than d + 1 without a ridge.

    >>> ols([[8.0], [4.0], [2.0]]).tolist()
    [[0.5]]
    """
    states = _enough(x, ridge)
    before, after = states[:-1], states[1:]
    if ridge:
        gram = before.T @ before + ridge * np.eye(states.shape[1])
        return np.asarray(np.linalg.solve(gram, before.T @ after).T)
    return np.asarray(np.linalg.lstsq(before, after, rcond=None)[0].T)


def sgd(x: Any, step: float | str = "auto", link: LinkLike = None, **settings: Any) -> FloatArray:
    """Return A by plain steps in the order of time, averaged over the second half.

    It is reverse replay with buffers of one and no gap; biased on a single trajectory.

    Args:
        x: states (T + 1, d).
        step: a number, or ``"auto"`` as :class:`SGDRER` (from the second hundred of states).
        link: f.
        **settings: ``average``, ``scale`` as :class:`SGDRER`.

    Raises:
        ValueError: as :class:`SGDRER`.
        Diverged: if the iterate grows without bound.
    """
    states = as_states(x, None)
    model = SGDRER(states.shape[1], 1, 0, automatic_step(states, step, **settings), link,
                   settings.get("average", "tail"))  # fmt: skip
    return model.partial_fit(states).finalize().A_


def sgd_er(
    x: Any,
    step: float | str = "auto",
    link: LinkLike = None,
    window: int = 1000,
    seed: int = 0,
    scale: float = 0.05,
) -> FloatArray:
    """Return A by uniform experience replay: each step on one of the latest transitions.

    Args:
        x: states (T + 1, d).
        step: a number, or ``"auto"`` as :func:`sgd`.
        link: f, named (not a function).
        window: how many of the latest transitions are kept.
        seed: of the choices.
        scale: of the automatic step.

    Raises:
        ValueError: if a number is out of range.
        Diverged: if the iterate grows without bound.
    """
    states = _enough(x, 1.0)
    check_integer("window", window, minimum=1)
    f, dim = link_of(link), states.shape[1]
    if f.function is not None:
        raise ValueError("sgd_er takes a named link, got a function; use SGDRER or sgd")
    time = np.arange(len(states) - 1)
    drawn = np.random.default_rng(seed_of(seed, "replay")).random(len(time))
    order = time - (drawn * np.minimum(window, time + 1)).astype(np.int64)
    rate = 2 * automatic_step(states, step, scale=scale)
    M, tail = np.zeros((dim, dim)), TailMean((dim, dim))
    ends = np.empty((8192, dim, dim))
    for part in np.split(order, range(len(ends), len(order), len(ends))):
        here = ends[: len(part)]
        done = ordered_pass(M, states, part, rate, f.kind, f.slope, 1e6, here)
        if done < len(part):
            raise Diverged(f"experience replay grew without bound with step {rate / 2:.3g}")
        tail.extend(here)
    return tail.mean()


def automatic_step(states: FloatArray, step: float | str, **settings: Any) -> float:
    """Return the step that :class:`SGDRER` with its usual segments would choose."""
    if step != "auto":
        return float(step)
    radius = float((states[110:220] ** 2).sum(1).mean()) if len(states) > 110 else 0.0
    if radius == 0:
        raise ValueError(
            "step='auto' needs at least 111 states that are not zero; give a number, below "
            "1 / (mean squared norm of a state)"
        )
    return float(settings.get("scale", 0.05)) / (2 * radius)


def quasi_newton_glm(
    x: Any, link: LinkLike = 0.5, iterations: int = 200, tolerance: float = 1e-10
) -> FloatArray:
    """Return the offline estimate of A, (d, d): all the data in every iteration.

    A <- A - G(A) S^-1 with G = mean (f(A x) - y) x^T and S = mean x x^T, until the largest
    change is below ``tolerance``. For the identity link it is least squares in one iteration.

    Args:
        x: states (T + 1, d).
        link: f, its derivative at most 1.
        iterations: at most this many.
        tolerance: largest change of an entry that counts as none.

    Raises:
        ValueError: if the states are too few or not finite.
        Diverged: if the iterate grows without bound (a link steeper than 1).

    Reference: Near-optimal Offline and Streaming Algorithms for Learning Non-Linear Dynamical
    Systems (Jain, Kowshik, Nagaraj, Netrapalli, 2021).
    """
    check_integer("iterations", iterations, minimum=1)
    states, f = _enough(x, 0.0), link_of(link)
    before, after = states[:-1], states[1:]
    second = before.T @ before / len(before)
    values, axes = np.linalg.eigh(second)
    floor = max(float(values[-1]), 1e-300) * 1e-10
    inverse = (axes / np.maximum(values, floor)) @ axes.T
    A = np.zeros_like(second)
    for _ in range(iterations):
        change = (f(before @ A.T) - after).T @ before / len(before) @ inverse
        A = A - change
        if not np.abs(A).max() < 1e6:
            raise Diverged("quasi-Newton grew without bound: is the link steeper than 1?")
        if np.abs(change).max() < tolerance:
            break
    return A


class RecursiveLeastSquares:
    """Least squares over a stream: exact, O(d^2) a step, an inverse matrix carried along.

    After any number of states ``A_`` equals ``ols(x, ridge)`` of all of them (``forget`` = 1).

    Args:
        dim: d.
        ridge: of the estimate, above 0.
        forget: factor in (0, 1] by which the past fades each step.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from recollect.replay import random_system, simulate_lti
        >>> x = simulate_lti(random_system(3), 500)
        >>> found = RecursiveLeastSquares(3).partial_fit(x[:200]).partial_fit(x[200:])
        >>> bool(np.allclose(found.A_, ols(x, ridge=1e-3)))
        True
    """

    def __init__(self, dim: int, ridge: float = 1e-3, forget: float = 1.0) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        if not 0 < ridge < np.inf:
            raise ValueError(f"ridge must be above 0, got {ridge!r}")
        if not 0 < forget <= 1:
            raise ValueError(f"forget must be above 0 and at most 1, got {forget!r}")
        self.ridge, self.forget = float(ridge), float(forget)
        self.A_ = np.zeros((dim, dim))
        self._P = np.eye(dim) / ridge
        self._last = np.empty((0, dim))

    def partial_fit(self, x: Any) -> RecursiveLeastSquares:
        """Take in the next block of states, (T, d), which follows the one before.

        Raises:
            ValueError: if the block is not (T, d) and finite.
        """
        rows = np.concatenate([self._last, as_states(x, self.dim)])
        recursive_pass(self.A_, self._P, rows, self.forget)
        self._last = rows[-1:].copy()
        return self

    def finalize(self) -> RecursiveLeastSquares:
        """End the trajectory: the next block begins another one of the same system."""
        self._last = self._last[:0]
        return self

    def predict(self, x: Any) -> FloatArray:
        """Return A x for each state, (T, d) -> (T, d).

        Raises:
            ValueError: if the block is not (T, d) and finite.
        """
        return as_states(x, self.dim) @ self.A_.T


def _enough(x: Any, ridge: float) -> FloatArray:
    """Return the states, or refuse too few of them."""
    states = as_states(x, None)
    least = 2 if ridge else states.shape[1] + 1
    if len(states) < least:
        raise ValueError(f"at least {least} states are needed, got {len(states)}")
    return states
