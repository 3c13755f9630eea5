"""Sketches of different epochs as rows of one table, in the coordinates of the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect import sketching

if TYPE_CHECKING:
    from recollect.memory.readable import Readable
    from recollect.sketching.sketches import Sketches

__all__ = ["values_of"]

IntArray = npt.NDArray[np.int64]

# Informed sketches that are decoded at a time.
_ROWS = 1024


def values_of(memory: Readable, ids: IntArray, prefix: int | None) -> npt.NDArray[np.float32]:
    """Return the numbers of sketches, (n, d); see ``Memory.values``."""
    if len(memory.recipes) == 1:
        return np.asarray(memory.sketches(ids=ids.tolist(), prefix=prefix).values.numpy())
    dim = prefix
    if dim is None:
        dim = int(memory.kept(ids.tolist()).min(initial=memory.recipe.dim)) or memory.recipe.dim
    epoch = memory.epoch_of(ids.tolist())
    out = np.zeros((len(ids), dim), np.float32)
    for number in np.unique(epoch).tolist():
        mine = np.flatnonzero(epoch == number)
        for start in range(0, len(mine), _ROWS):
            places = mine[start : start + _ROWS]
            sketches = memory.sketches(ids=ids[places].tolist(), prefix=dim)
            out[places] = _numbers(memory, sketches)
    return out


def _numbers(memory: Readable, sketches: Sketches) -> npt.NDArray[np.float32]:
    """Return sketches of one recipe in the first one's coordinates, (n, d)."""
    sketcher = memory.sketcher_of(sketches.recipe)
    if not isinstance(sketcher, sketching.InformedSketcher):
        return np.asarray(sketches.values.numpy())
    prior = memory.prior()
    if prior is not None and not set(sketcher.families) <= set(prior.static):
        prior = None
    trace = sketcher.recollect(sketches, prior).trace()
    return np.asarray(memory.sketcher.unrounded(trace)[:, : sketches.dim].numpy())
