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

from recollect import sketching

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import Recipe, Sketches

__all__ = ["Whitened", "coordinates_of", "second_moment", "whitened"]

FloatArray = npt.NDArray[np.float64]

# Glances whose sketches tell the second moment: so many, that they are many times the numbers
# of a short sketch, and that the product of a long one takes no longer.
_LEAST, _MOST, _NUMBERS = 4096, 16_384, 1 << 22
# Inverse of each memory's second moment, with the glances it held then.
_KEPT: WeakKeyDictionary[Memory, dict[tuple[Recipe, int], tuple[int, FloatArray]]]
_KEPT = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Whitened:
    """A probe, whitened.

    Attributes:
        vector: (d,) float64, w.
        std: root mean square of the amount over the memory.
    """

    vector: FloatArray
    std: float


def whitened(
    memory: Memory,
    probe: npt.NDArray[np.floating],
    recipe: Recipe | None = None,
) -> Whitened:
    """Whiten a probe by the second moment of some thousands of a memory's sketches.

    Args:
        memory: whose sketches say what is everywhere.
        probe: (d,), not zero; as many numbers of coordinates as are compared. Glances that keep
            fewer say nothing of them, and the others are cut.
        recipe: of the sketches that are searched, the first epoch's if None.

    Raises:
        ValueError: if the memory is empty, or no glance keeps so many numbers.
    """
    if len(memory) == 0:
        raise ValueError("an empty memory cannot say what is usual; search with whiten=False")
    turned = _inverse(memory, recipe or memory.recipe, len(probe)) @ probe.astype(np.float64)
    power = float(probe.astype(np.float64) @ turned)
    return Whitened(turned / power, power**-0.5)


def _inverse(memory: Memory, recipe: Recipe, dim: int) -> FloatArray:
    """Return the inverse second moment of some sketches, kept until glances come or go."""
    known = _KEPT.setdefault(memory, {})
    found = known.get((recipe, dim))
    if found is not None and found[0] == len(memory):
        return found[1]
    ids = memory.glances(columns=["id"])["id"].to_numpy()
    whole = memory.kept(ids.tolist()) >= dim
    if len(memory.recipes) > 1:
        numbers = [e.number for e in memory.epochs if e.recipe == recipe]
        whole &= np.isin(memory.epoch_of(ids.tolist()), numbers)
    ids = ids[whole]
    if len(ids) == 0:
        raise ValueError(
            f"no glance keeps {dim} numbers of its sketch any more, so none can say what is "
            "usual among them; search with whiten=False"
        )
    most = min(max(_LEAST, _NUMBERS // dim), _MOST)
    if len(ids) > most:
        ids = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
    prefix = None if dim == memory.recipe.dim else dim
    values = coordinates_of(memory, memory.sketches(ids=ids, prefix=prefix))
    inverse = np.linalg.inv(second_moment(values)).astype(np.float64)
    known[recipe, dim] = (len(memory), inverse)
    return inverse


def coordinates_of(memory: Memory, sketches: Sketches) -> FloatArray:
    """Return what sketches of one recipe are compared by, (n, d)."""
    sketcher = memory.sketcher_of(sketches.recipe)
    if isinstance(sketcher, sketching.InformedSketcher):
        return sketcher.coordinates(sketches).numpy()
    return sketches.values.numpy().astype(np.float64)


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
