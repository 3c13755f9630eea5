"""Whitened probes: search for what stands out, not for what is everywhere.

The product of a probe p with a sketch is disturbed by everything else in it. Where that else is
known to lie mostly in certain directions, these can be discounted: with M the second moment of
the memory's own sketches,

    w = M^-1 p / (p' M^-1 p),      amount = <w, s>,

is the reading of least mean square over the memory that gives one for p itself (the beamformer of
Capon). It is one vector, made once, and searched for like any other. ``amount`` estimates how
much of p a glance holds, and ``1 / sqrt(p' M^-1 p)``, its root mean square over the memory, is
how far from zero it is for glances that hold nothing of it.

Reference: "High-resolution frequency-wavenumber spectrum analysis" (Capon, 1969); "A
well-conditioned estimator for large-dimensional covariance matrices" (Ledoit and Wolf, 2004).

Shape letters: d numbers in a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["Whitened", "second_moment", "whitened"]

FloatArray = npt.NDArray[np.float64]

# Glances whose sketches tell the second moment.
_SAMPLE = 4096
# Inverse of each memory's second moment, with the glances it held then.
_KEPT: WeakKeyDictionary[Memory, tuple[int, FloatArray]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Whitened:
    """A probe, whitened.

    Attributes:
        vector: (d,) float64, w.
        std: root mean square of the amount over the memory.
    """

    vector: FloatArray
    std: float

    def amounts(self, sketches: npt.NDArray[np.floating]) -> FloatArray:
        """Return how much of the probe each of (k, d) sketches holds, (k,)."""
        found: FloatArray = sketches.astype(np.float64) @ self.vector
        return found


def whitened(memory: Memory, probe: npt.NDArray[np.floating]) -> Whitened:
    """Whiten a probe by the second moment of up to 4,096 of a memory's sketches.

    Args:
        memory: whose sketches say what is everywhere.
        probe: (d,), not zero; as long as the memory's sketches.

    Raises:
        ValueError: if the memory is empty or the probe is a prefix.
    """
    if len(memory) == 0:
        raise ValueError("an empty memory cannot say what is usual; search with whiten=False")
    if len(probe) != memory.recipe.dim:
        raise ValueError(
            f"a probe of {len(probe)} numbers cannot be whitened, the memory's sketches have "
            f"{memory.recipe.dim}; search with the whole sketch, or with whiten=False"
        )
    turned = _inverse(memory) @ probe.astype(np.float64)
    power = float(probe.astype(np.float64) @ turned)
    return Whitened(turned / power, power**-0.5)


def _inverse(memory: Memory) -> FloatArray:
    """Return the inverse second moment of a memory's sketches, kept until glances come or go."""
    known = _KEPT.get(memory)
    if known is not None and known[0] == len(memory):
        return known[1]
    ids = memory.glances(columns=["id"])["id"].to_numpy()
    if len(ids) > _SAMPLE:
        ids = np.sort(np.random.default_rng(0).choice(ids, _SAMPLE, replace=False))
    values = memory.sketches(ids=ids).values.numpy().astype(np.float64)
    inverse = np.linalg.inv(second_moment(values)).astype(np.float64)
    _KEPT[memory] = (len(memory), inverse)
    return inverse


def second_moment(values: FloatArray) -> FloatArray:
    """Estimate the second moment of (n, d) rows, drawn towards a multiple of the identity.

    How far is told by how much the rows' own products differ: with few rows nearly all the way,
    and whitening then changes little.
    """
    n, d = values.shape
    moment = values.T @ values / n
    usual = float(np.trace(moment)) / d
    apart = float(np.square(moment).sum()) - d * usual**2
    noise = (
        float(np.square(np.square(values).sum(1)).mean()) - float(np.square(moment).sum())
    ) / n
    drawn = 1.0 if apart <= 0 else min(max(noise / apart, 1e-6), 1.0)
    shrunk: FloatArray = (1 - drawn) * moment
    shrunk[np.diag_indices(d)] += drawn * max(usual, 1e-30)
    return shrunk
