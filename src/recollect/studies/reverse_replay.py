"""Reverse replay: one pass over a trajectory, in which order, beside exact estimates.

Systems with five numbers, noise of variance 1, a spectral radius of 0.9 or 0.98, linear or behind
a leaky ReLU. The error is |A_found - A|^2 (squared Frobenius norm).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect.replay import (
    SGDRER,
    RecursiveLeastSquares,
    ols,
    quasi_newton_glm,
    random_system,
    sgd,
    sgd_er,
    simulate_glm,
)
from recollect.studies.replay_figures import draw_reverse as draw

__all__ = ["draw", "study"]

FloatArray = npt.NDArray[np.float64]
Method = Callable[[FloatArray], FloatArray]
SYSTEMS: dict[str, tuple[float | None, float]] = {
    "linear, 0.9": (None, 0.9),
    "linear, 0.98": (None, 0.98),
    "leaky ReLU 0.5, 0.98": (0.5, 0.98),
}

QUICK_SEEDS = 5


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return errors by system, length of the stream and method.

    Args:
        quick: 5 seeds and 100,000 steps, instead of 10 seeds and up to 1,000,000.
        data: not used; the systems are simulated.
    """
    rows: list[dict[str, Any]] = []
    for system, (link, radius) in SYSTEMS.items():
        for steps in (20_000, 100_000) if quick else (20_000, 100_000, 1_000_000):
            errors: dict[str, list[float]] = {}
            for seed in range(QUICK_SEEDS if quick else 10):
                A = random_system(5, radius, seed)
                x = simulate_glm(A, steps, link, seed=seed)
                for name, method in methods(link).items():
                    errors.setdefault(name, []).append(float(((method(x) - A) ** 2).sum()))
            best = float(np.mean(next(iter(errors.values()))))
            rows += [
                {
                    "system": system,
                    "steps": steps,
                    "method": name,
                    "error": float(np.mean(found)),
                    "deviation": float(np.std(found, ddof=1)),
                    "times exact": float(np.mean(found)) / best,
                    "seeds": len(found),
                }
                for name, found in errors.items()
            ]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="squared error of A from one pass over one trajectory",
        notes=[
            "buffers of 100 (linear) or 240 (leaky) with gaps of 10, step 0.05 / (2 R), mean of "
            "the second half; all but the exact methods keep O(d^2) numbers and a buffer",
            "recursive least squares is as exact as least squares and streams too, at a few "
            "times the cost a step; it has no counterpart behind a link",
        ],
    )


def methods(link: float | None) -> dict[str, Method]:
    """Return the methods, the exact one first."""
    exact: dict[str, Method] = (
        {
            "least squares (all data)": ols,
            "recursive least squares": lambda x: RecursiveLeastSquares(5).partial_fit(x).A_,
        }
        if link is None
        else {"quasi-Newton (all data)": lambda x: quasi_newton_glm(x, link)}
    )
    buffer = 100 if link is None else 240

    def replay(reverse: bool) -> Method:
        return lambda x: (
            SGDRER(5, buffer, 10, link=link, reverse=reverse).partial_fit(x).finalize().A_
        )

    return exact | {
        "reverse replay": replay(True),
        "the same buffers forward": replay(False),
        "plain descent": lambda x: sgd(x, link=link),
        "uniform replay of the last 1000": lambda x: sgd_er(x, link=link),
    }
