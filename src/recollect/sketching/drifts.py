"""How the distribution of a module's attribute may differ from that of the objects kept whole.

A window (an hour, another season) holds objects that are not drawn from what was kept. What
changes is hardly ever rough: numbers move, spread, or some of them become commoner. So the
distribution P0 of a module is changed in many random ways, either moved,

    x  ->  e^c (mean + e^b (x - mean) + a),

with a along directions in which the attribute varies or along one axis, b of all numbers or of
one; or tilted, with weights ~ exp(t . z + u z_i^2) and z the standardised attribute. Numbers that
take few values (a width in pixels, a class) never move. The changes of any average, features' and
asked functions', over these versions say how they go together. They are not in proportion to how
far a distribution went, so there are versions of three sizes.

Shape letters: J versions, n points of each, m numbers in an attribute, q functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of

__all__ = ["Drifts", "few_values"]

FloatArray = npt.NDArray[np.float64]
Function = Callable[[FloatArray], npt.NDArray[Any]]

POINTS = 192
# Versions of one kind and size; sizes, as variances.
VERSIONS, SIZES = 64, (0.1, 1.0, 6.0)
# A number that repeats so often on average takes few values.
REPEATS = 4
# Deviations of shift (in deviations of the attribute), spread, and tilts, at size one.
SHIFT, SPREAD, TILT = 0.3, 0.2, 0.5
# Smallest deviation of a number, in those of all of an attribute.
LEAST = 0.02
# Numbers that a function returns at a time.
_AT_A_TIME = 4_000_000


@dataclass(frozen=True, eq=False)
class Drifts:
    """Changed versions of a distribution.

    Attributes:
        base: (n, m) points of the unchanged one, of equal weight.
        points: (J, n, m).
        weight: (J, n), each row adding up to one.
    """

    base: FloatArray
    points: FloatArray
    weight: FloatArray

    @classmethod
    def of(cls, kept: FloatArray) -> Drifts:
        """Change the distribution of (r, m) objects; the same way for the same shape.

        Example:
            >>> drifts = Drifts.of(np.random.default_rng(0).normal(size=(50, 2)))
            >>> drifts.points.shape, bool(np.allclose(drifts.weight.sum(1), 1))
            ((384, 50, 2), True)
            >>> drifts.changes(lambda x: x).shape  # of the means
            (384, 2)
            >>> Drifts.chosen(0.5, 0.0).nonzero()[0].tolist() == list(range(64, 128))
            True
        """
        r, m = kept.shape
        generator = np.random.Generator(np.random.PCG64(seed_of("drifts", r, m)))
        mean, std = kept.mean(0), deviation(kept)
        base = kept[generator.permutation(r)[:POINTS]]
        draw, centred = generator.standard_normal, base - mean
        total = 2 * len(SIZES) * VERSIONS
        size = np.tile(np.repeat(np.sqrt(SIZES), VERSIONS), 2)[:, None]
        moves = (np.arange(total) < total // 2)[:, None]
        axis = (generator.integers(0, m, total)[:, None] == np.arange(m)) * 1.0  # (J, m)
        free = size * moves * ~few_values(kept)  # (J, m)
        along = draw((total, r)) @ (kept - mean) / np.sqrt(r)
        shift = SHIFT * free * (along + draw((total, 1)) * axis * std)
        spread = SPREAD * free * (draw((total, 1)) + draw((total, 1)) * axis)
        whole = SPREAD * free * draw((total, 1))
        points = mean + np.exp(spread)[:, None] * centred + shift[:, None]
        points = points * np.exp(whole)[:, None]
        z = centred / std  # (n, m)
        direction = draw((total, m)) / np.sqrt(m) + axis * draw((total, 1))
        bend = np.square(axis @ z.T) * draw((total, 1)) / 2
        logits = TILT * size * ~moves * (direction @ z.T + bend)
        weight = np.exp(np.clip(logits, -4, 4))
        return cls(base, points, weight / weight.sum(1, keepdims=True))

    @staticmethod
    def chosen(moved: float, tilted: float) -> FloatArray:
        """Return weights (J,) of the versions for an excess of either kind, 0 for none.

        Of each kind those versions count whose size is nearest, in proportion.
        """
        weight = np.zeros((2, len(SIZES), VERSIONS))
        for kind, excess in enumerate((moved, tilted)):
            if excess > 0:
                nearest = int(np.argmin(np.abs(np.log(np.array(SIZES) / excess))))
                weight[kind, nearest] = excess / SIZES[nearest] / VERSIONS
        return weight.reshape(-1)

    def changes(self, function: Function) -> FloatArray:
        """Return by how much the averages of some functions change, (J, q).

        Args:
            function: takes (n, m) attributes to (n, q) numbers.
        """
        usual = np.asarray(function(self.base), np.float64)
        size, q = usual.shape
        step = max(1, _AT_A_TIME // (size * q))
        found = np.empty((len(self.points), q))
        for start in range(0, len(self.points), step):
            some = self.points[start : start + step]
            flat = np.asarray(function(some.reshape(-1, some.shape[2])), np.float64)
            each = flat.reshape(len(some), size, q)
            weight = self.weight[start : start + step]
            found[start : start + step] = np.einsum("jn,jnq->jq", weight, each)
        changed: FloatArray = found - usual.mean(0)
        return changed


def few_values(kept: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which numbers of (r, m) objects take few values, (m,).

    >>> few_values(np.array([[0.1, 1], [0.2, 2], [0.3, 1], [0.4, 2], [0.5, 1.0], [0.6, 1], [1, 1],
    ...                      [2, 2]])).tolist()
    [False, True]
    """
    values = np.array([len(np.unique(column)) for column in kept.T])
    found: npt.NDArray[np.bool_] = values * REPEATS <= len(kept)
    return found


def deviation(kept: FloatArray) -> FloatArray:
    """Return the deviations (m,) of (r, m) objects, none of them quite zero."""
    std = kept.std(0)
    least = LEAST * max(float(np.sqrt(np.square(kept).mean())), 1e-12)
    return np.asarray(np.maximum(std, least), np.float64)
