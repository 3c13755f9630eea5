"""Fixed random features of attributes, and their image in the distribution channel.

With z the attribute in units of its module's scale, so that its numbers are of size one, the
features are

    phi(z) = (cos w_k . z, sin w_k . z),   k = 1 .. features / 2.

Where there are at least four frequencies for each number, each w_k lies along one axis, with
lengths from 1/2 to 64 in equal ratios (their phase drawn once): whatever the spread of a number,
some fit it, and no batch must be seen first. The other frequencies, and all of wide attributes,
have random directions and lengths from 1/4 to 4. The mean of phi over a window is the
characteristic function of the attributes there, at these frequencies.

The features of all objects of a glance are added up, each module's with orthonormal columns of
its own, to one vector of ``size`` numbers. Features are rounded to 2**-10, so that such sums are
exact in any order.

Reference: "Random features for large-scale kernel machines" (Rahimi and Recht, NeurIPS 2007).

Shape letters: B glances, n objects, m numbers in an attribute, D features, c numbers in a channel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.sketching.channel import Channel
from recollect.sketching.operators import Operators
from recollect.sketching.recipe import ModuleEntry, ModuleTable, Recipe, channel_recipe
from recollect.tracing import Trace

__all__ = ["ChannelEncoder", "features_of", "frequencies"]

FloatArray = npt.NDArray[np.float64]

# Lengths of frequencies along one axis, and in random directions.
AXIS_LENGTHS, DIRECTION_LENGTHS = (0.5, 64.0), (0.25, 4.0)
# Frequencies along each axis without which all directions are random.
PER_AXIS = 4
# Features are whole multiples of its inverse.
STEPS = 1024


@lru_cache(maxsize=256)
def frequencies(size: int, features: int, seed: int) -> FloatArray:
    """Return the (features / 2, m) frequencies for attributes of m = ``size`` numbers.

    >>> w = frequencies(2, 24, seed=0)
    >>> w.shape, bool(((w != 0).sum(1) == 1).all())
    ((12, 2), True)
    """
    pairs = features // 2
    generator = np.random.Generator(np.random.PCG64(seed_of(seed, "frequencies", size, features)))
    steps = pairs // size if pairs >= PER_AXIS * size else 0
    w = np.zeros((pairs, size))
    for axis in range(size if steps else 0):
        rows = slice(axis * steps, (axis + 1) * steps)
        w[rows, axis] = _lengths(steps, *AXIS_LENGTHS, generator)
    rest = pairs - steps * size
    if rest:
        turned = generator.standard_normal((rest, size))
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        w[steps * size :] = turned * _lengths(rest, *DIRECTION_LENGTHS, generator)[:, None]
    w.setflags(write=False)
    return w


def _lengths(number: int, low: float, high: float, generator: np.random.Generator) -> FloatArray:
    """Lengths in equal ratios between low and high, their common phase drawn."""
    place = (np.arange(number) + generator.uniform()) / number
    lengths: FloatArray = low * (high / low) ** place
    return lengths


def features_of(attributes: Tensor, entry: ModuleEntry, channel: Channel, seed: int) -> Tensor:
    """Return the (n, D) float32 features of (n, m) attributes of a family: cosines, then sines.

    Args:
        attributes: raw, on any device.
        entry: the family, with its scale.
        channel: how many features.
        seed: of the recipe.
    """
    w = torch.from_numpy(frequencies(entry.size, channel.features, seed).copy())
    w = w.to(attributes.device) * (math.sqrt(entry.size) / entry.scale)
    phase = attributes.detach().to(torch.float64) @ w.T  # (n, D / 2)
    waves = torch.cat([torch.cos(phase), torch.sin(phase)], 1)
    return (torch.round(waves * STEPS) / STEPS).to(torch.float32)


class ChannelEncoder:
    """Makes the channel's vectors of one recipe on one device.

    Args:
        recipe: with a channel.
        device: where the operators live.
    """

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu") -> None:
        self.recipe = channel_recipe(recipe)
        assert recipe.channel is not None
        self.channel, self.seed = recipe.channel, recipe.seed
        self.operators = Operators(self.recipe, device)
        self._images: dict[str, Tensor] = {}

    def encode(self, trace: Trace, table: ModuleTable) -> Tensor:
        """Return the (B, c) float32 sums of features, before they are rounded.

        Every object counts once, whatever its weight and wherever it stands.
        """
        device = self.operators.device
        into = torch.zeros(trace.num_glances, self.operators.width, device=device)
        for name in sorted(trace.columns):
            c = trace.columns[name]
            if len(c) == 0 or not self.channel.follows(name):
                continue
            phi = features_of(c.attributes.to(device), table[name], self.channel, self.seed)
            k = len(c.members)
            glances, place = np.unique(c.glance, return_inverse=True)
            bag = torch.zeros(len(glances) * k, phi.shape[1], device=device)
            # Multiples of 2**-10: exact in any order.
            bag.index_add_(0, torch.from_numpy(place * k + c.member).to(device), phi)
            picked = torch.from_numpy(glances).to(device)
            some = into.index_select(0, picked)
            self.operators.spread(bag.view(len(glances), -1), (name,), some)
            into.index_copy_(0, picked, some)
        return self.operators.leave(into)

    def images(self, module: str, table: ModuleTable) -> Tensor:
        """Return the (D, c) float64 images of one module's unit features."""
        entry = table.family_of(table.id_of(module))
        if entry.name not in self._images:
            size = self.channel.features * len(entry.members)
            z = torch.zeros(size, self.operators.width, device=self.operators.device)
            self.operators.spread(torch.eye(size, device=z.device), (entry.name,), z)
            self._images[entry.name] = self.operators.leave(z).to(torch.float64).cpu()
        start = entry.members.index(module) * self.channel.features
        return self._images[entry.name][start : start + self.channel.features]
