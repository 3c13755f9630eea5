"""Sketches and memories made by hand, quickly."""

from __future__ import annotations

import numpy as np
import torch

from recollect import Sketcher
from recollect.memory import Memory
from recollect.sketching import (
    Channel,
    ModuleTable,
    Recipe,
    Skeletons,
    Sketches,
    Structure,
    channel_recipe,
)
from recollect.sketching.skeletons import pack_structure
from recollect.sketching.sketches import quantize

HOUR = 3_600_000_000


def recipe(dtype="int8", dim=64, channel=0):
    return Recipe(dim=dim, dtype=dtype, channel=Channel(channel, 8) if channel else None)


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


def sketches(count, seed=0, dtype="int8", dim=64, channel=0):
    """Random sketches with random skeletons of up to four objects; with a channel of a size."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(count, dim)).astype(np.float32))
    codes, scale = quantize(values, dtype)
    packed = []
    for _ in range(count):
        modules = np.sort(rng.integers(0, 3, rng.integers(0, 5)))
        weight = rng.choice([1.0, 0.5, 0.1], len(modules))
        packed.append(pack_structure(structure(modules, weight)))
    made, one = recipe(dtype, dim, channel), torch.ones(count, dtype=torch.int64)
    beside = None
    if channel:
        drawn = torch.from_numpy(rng.normal(size=(count, channel)).astype(np.float32))
        beside = Sketches(
            *quantize(drawn, "int8"), one, None, table(), channel_recipe(made)
        )  # fmt: skip
    return Sketches(codes, scale, one, Skeletons.from_packed(packed), table(), made, beside)


def memory(path, dtype="int8", dim=64, channel=0, **options):
    kept = Channel(channel, 8) if channel else None
    return Memory(path, sketcher=Sketcher(dtype=dtype, dim=dim, channel=kept), **options)
