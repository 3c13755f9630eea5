"""Sketches and memories made by hand, quickly."""

from __future__ import annotations

import numpy as np
import torch

from recollect import Sketcher
from recollect.memory import Memory
from recollect.sketching import ModuleTable, Recipe, Skeletons, Sketches, Structure
from recollect.sketching.skeletons import pack_structure
from recollect.sketching.sketches import quantize

HOUR = 3_600_000_000


def recipe(dtype="int8", dim=64):
    return Recipe(dim=dim, dtype=dtype)


def table():
    modules = ModuleTable()
    for name, size in (("cat", 3), ("dog", 2), ("face", 4)):
        modules.add(name, size)
    return modules


def structure(modules, weight=None):
    """A flat structure."""
    n = len(modules)
    return Structure(
        np.array(modules, np.int64),
        np.full(n, -1),
        np.arange(n),
        np.ones(n, np.float32) if weight is None else np.array(weight, np.float32),
    )


def sketches(count, seed=0, dtype="int8", dim=64):
    """Random sketches with random skeletons of up to four objects."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(count, dim)).astype(np.float32))
    codes, scale = quantize(values, dtype)
    packed = []
    for _ in range(count):
        modules = np.sort(rng.integers(0, 3, rng.integers(0, 5)))
        weight = rng.choice([1.0, 0.5, 0.1], len(modules))
        packed.append(pack_structure(structure(modules, weight)))
    return Sketches(
        codes,
        scale,
        torch.ones(count, dtype=torch.int64),
        Skeletons.from_packed(packed),
        table(),
        recipe(dtype, dim),
    )


def memory(path, dtype="int8", dim=64, **options):
    return Memory(path, sketcher=Sketcher(dtype=dtype, dim=dim), **options)
