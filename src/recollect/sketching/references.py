"""The distribution of a module's attribute, smoothed, from the objects that were kept whole.

Shape letters: R reference points, r objects kept whole, m numbers in an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.sketching.drifts import deviation, few_values

__all__ = ["Reference"]

FloatArray = npt.NDArray[np.float64]

# Reference points: records as they are, smoothed ones, and ones further out than any record.
SMOOTH, FAR = 2000, 400
WEIGHTS = (0.45, 0.53, 0.02)
# Deviations of the smoothing, at most, in deviations of the attribute.
WIDEST = 0.15


@dataclass(frozen=True, eq=False)
class Reference:
    """The smoothed distribution of a module's attribute, as weighted points.

    Attributes:
        points: (R, m) raw attributes.
        weight: (R,) that add up to one.
        records: objects that they come from.
    """

    points: FloatArray
    weight: FloatArray
    records: int

    @property
    def near(self) -> FloatArray:
        """The weights (R,) without the points that lie further out than any record."""
        kept = self.weight.copy()
        kept[-FAR:] = 0
        near: FloatArray = kept / kept.sum()
        return near

    @classmethod
    def of(cls, kept: FloatArray) -> Reference:
        """Smooth (r, m) attributes of kept objects; the same points for the same objects."""
        r, m = kept.shape
        generator = np.random.Generator(np.random.PCG64(seed_of("reference", r, m)))
        mean, std = kept.mean(0), deviation(kept)
        width = min(WIDEST, r ** (-1 / (m + 4)) * (4 / (m + 2)) ** (1 / (m + 4)))
        chosen = kept[generator.integers(0, r, SMOOTH)]
        moved = width * _like(kept, SMOOTH, generator)
        smooth = mean + (chosen - mean + moved) / np.sqrt(1 + width**2)
        smooth = np.where(few_values(kept), chosen, smooth)
        far = kept[generator.integers(0, r, FAR)]
        reach = generator.choice([2.0, 4.0], (FAR, 1))
        one = generator.integers(0, m, FAR)[:, None] == np.arange(m)
        whole = (np.arange(FAR) % 2 == 0)[:, None]
        out = np.where(whole | one, reach, 1.0)
        far = (
            mean + out * (far - mean) + np.where(one, std * generator.standard_normal((FAR, m)), 0)
        )
        weight = np.repeat(np.array(WEIGHTS) / [r, SMOOTH, FAR], [r, SMOOTH, FAR])
        return cls(np.concatenate([kept, smooth, far]), weight, r)


def _like(kept: FloatArray, number: int, generator: np.random.Generator) -> FloatArray:
    """Draw (number, m) centred normal numbers with the covariance of (r, m) objects."""
    mixed = generator.standard_normal((number, len(kept))) / np.sqrt(len(kept))
    drawn: FloatArray = mixed @ (kept - kept.mean(0))
    return drawn
