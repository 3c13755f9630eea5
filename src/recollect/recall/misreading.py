"""How often it is read wrongly whether a glance holds a module, judged on held-back glances."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from recollect.recall.presence import SURE, at_least_one, misread
from recollect.recall.reading import Decoder

__all__ = ["misread_of", "numbers_seen"]

IntArray = npt.NDArray[np.int64]

# Prior -> (module, numbers of a sketch) -> share of wrong decisions.
_MISREAD: WeakKeyDictionary[Any, dict[tuple[int, int], dict[str, float]]] = WeakKeyDictionary()
# Decisions on all modules are worth so many on the one that is asked about.
_SHARED = 64


def misread_of(decoder: Decoder, module: str, keep: int) -> float:
    """Share of wrong decisions on whether a glance holds a module, on held-back glances."""
    if decoder.prior is None or len(decoder.prior.sample) < 24:
        return 0.0
    known = _MISREAD.setdefault(decoder.prior, {})
    key = (id(decoder.memory.modules), keep)
    if key not in known:
        known[key] = _judged(decoder, keep)
    return known[key].get(module, known[key][""])


def _judged(decoder: Decoder, keep: int) -> dict[str, float]:
    """Share of wrong decisions for each module, and of all of them for ``""``."""
    assert decoder.prior is not None
    fitted, back = decoder.prior.hold_out(256)
    sketcher = decoder.memory.sketcher
    found = sketcher.decode(sketcher.encode(back).prefix(keep), prior=fitted)
    names, estimates, stds = found.count_estimates()
    judge = Decoder(decoder.memory, fitted, "")
    chance, happened = np.zeros((2, len(names), len(back)))
    for i, name in enumerate(names):
        seen = numbers_seen(judge, name)
        chance[i] = at_least_one(estimates[:, i], stds[:, i], seen)
        if name in back.modules:
            happened[i, back.objects(name).glance.numpy()] = 1.0
    pooled = misread(chance, happened > 0)
    shares = {"": pooled}
    for name, p, y in zip(names, chance, happened, strict=True):
        sure = np.minimum(p, 1 - p) < SURE
        wrong = ((p > 0.5) != (y > 0))[sure].sum()
        shares[name] = float((wrong + _SHARED * pooled) / (sure.sum() + _SHARED))
    return shares


def numbers_seen(decoder: Decoder, module: str) -> IntArray:
    """Return numbers of the module's objects in each of the prior's glances."""
    if decoder.prior is None:
        return np.zeros(0, dtype=np.int64)
    sample = decoder.prior.sample
    if module not in sample.modules:
        return np.zeros(len(sample), dtype=np.int64)
    glances = sample.objects(module).glance.numpy()
    return np.bincount(glances, minlength=len(sample)).astype(np.int64)
