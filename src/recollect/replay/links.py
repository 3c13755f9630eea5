"""Links: the known, increasing function f in x[t + 1] = f(A x[t]) + noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect._checks import check_one_of
from recollect.replay.kernels import IDENTITY, LEAKY, SIGMOID, TANH

__all__ = ["Link", "LinkLike", "link_of"]

FloatArray = npt.NDArray[np.float64]
LinkLike = str | float | Callable[[FloatArray], FloatArray] | None
_NAMES = ("identity", "leaky_relu", "relu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Link:
    """A link as the loops want it: a number for its kind and a slope, or a function.

    ``Link(...)(z)`` applies it to an array.
    """

    name: str
    kind: int
    slope: float = 1.0
    function: Callable[[FloatArray], FloatArray] | None = None

    def __call__(self, z: FloatArray) -> FloatArray:
        """Return f(z), elementwise."""
        if self.function is not None:
            return np.asarray(self.function(z), np.float64)
        if self.kind == LEAKY:
            return np.where(z >= 0, z, self.slope * z)
        if self.kind == TANH:
            return np.tanh(z)
        if self.kind == SIGMOID:
            return 1.0 / (1.0 + np.exp(-z))
        return z


def link_of(link: LinkLike) -> Link:
    """Return the link that was asked for.

    Args:
        link: None or ``"identity"`` (a linear system); a number in (0, 1], the slope of a leaky
            ReLU below zero; ``"leaky_relu"`` (slope 0.5); ``"relu"``, ``"tanh"``, ``"sigmoid"``
            (these lose information where they are flat: a warning); or an increasing function of
            NumPy arrays (slow: its loop is not compiled).

    Raises:
        ValueError: if the name is unknown, the slope outside (0, 1], or the function decreases
            somewhere on [-20, 20].

    >>> link_of(0.5)(np.array([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    if link is None:
        return Link("identity", IDENTITY)
    if callable(link):
        return Link("function", -1, function=_increasing(link))
    if isinstance(link, int | float) and not isinstance(link, bool):
        if not 0 < link <= 1:
            raise ValueError(f"a link's slope must be above 0 and at most 1, got {link!r}")
        return Link("leaky_relu", LEAKY, float(link))
    name = check_one_of("link", link, _NAMES)
    if name in ("relu", "tanh", "sigmoid"):
        warnings.warn(
            f"the link {name!r} is flat somewhere: what falls there tells nothing of A, and the "
            "number of steps needed can be exponential in d; a leaky ReLU (a number) is safe",
            UserWarning,
            stacklevel=3,
        )
    return {
        "identity": Link(name, IDENTITY),
        "leaky_relu": Link(name, LEAKY, 0.5),
        "relu": Link(name, LEAKY, 0.0),
        "tanh": Link(name, TANH),
        "sigmoid": Link(name, SIGMOID),
    }[name]


def _increasing(link: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """Return a function of arrays that does not decrease, or refuse it."""
    grid = np.linspace(-20.0, 20.0, 401)
    values = np.asarray(link(grid), np.float64)
    if values.shape != grid.shape or not np.isfinite(values).all():
        raise ValueError(
            "a link must map an array to finite numbers of the same shape, got shape "
            f"{values.shape} for {grid.shape}"
        )
    if (np.diff(values) < 0).any():
        where = float(grid[int(np.argmin(np.diff(values)))])
        raise ValueError(
            f"a link must not decrease, this one falls near {where:.3g}; without that the "
            "gradient steps need not lead to A"
        )
    return link
