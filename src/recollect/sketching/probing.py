"""Probes: which glances hold something like this, without reading any of them.

A probe is one product of every sketch with a vector. The plain one is the sketch ``a`` of the
thing that is asked for; everything else in a sketch disturbs it, and not in all directions alike.
With the mean ``mu`` and the covariance C of the repository's own sketches the whitened probe is

    w = (C + ridge I)^-1 a,      score = w' (s - mu),

the linear score that best tells glances with the thing from glances without it (Fisher's
discriminant for one rare class). It costs one d x d solve for a repository and one product for
a glance.

Shape letters: N sketches, d numbers of a sketch.

Reference: "The use of multiple measurements in taxonomic problems" (Fisher, 1936).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._linalg import Factor, factor
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.sketches import Sketches
from recollect.tracing import Object, Trace

__all__ = ["Prober"]

# Sketches that are float32 at a time: few enough to stay in the cache.
BLOCK = 2048
# Sketches that the covariance is measured on, at most.
SAMPLE = 20_000


class Prober:
    """Asks sketches for things, each question one product a sketch.

    Args:
        sketcher: made the sketches.
        sketches: the repository, or a sample of it: N single glances (or prefixes of them).
        ridge: share of the mean variance that is added to the covariance; small repositories
            (N of a few d) need more.

    Raises:
        RecipeMismatch: if another sketcher made them.
        ValueError: if they are fewer than 2, or sums, or the ridge is not positive.

    Example:
        >>> x = torch.randn(200, 4, generator=torch.manual_seed(0))
        >>> sketcher = Sketcher(dim=64)
        >>> s = sketcher.encode(Trace.from_columns({"cat": x}))
        >>> scores = Prober(sketcher, s).scores(s, Object("cat", x[7].tolist()))
        >>> bool(scores[7] > scores.mean())
        True
    """

    def __init__(self, sketcher: Sketcher, sketches: Sketches, ridge: float = 1e-3) -> None:
        sketcher.recipe.check_same(sketches.recipe)
        if len(sketches) < 2 or sketches.is_sum:
            raise ValueError(
                f"a prober learns from single sketches, two at least, got {sketches!r}; give it "
                "the sketches of some hundred glances"
            )
        if not ridge > 0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        self.sketcher, self.ridge, self.dim = sketcher, ridge, sketches.dim
        step = -(-len(sketches) // SAMPLE)
        values = sketches[::step].values.to(torch.float64)
        self.mean = values.mean(0)
        self._centred = values - self.mean

    @cached_property
    def _factor(self) -> Factor:
        spread = self._centred.T @ self._centred / len(self._centred)
        spread.diagonal().add_(self.ridge * float(spread.diagonal().mean()) + 1e-30)
        return factor(spread)

    def vector(self, thing: Object | Trace, *, whitened: bool = True) -> Tensor:
        """Return the vector that the sketches are multiplied with, (d,) float32.

        Args:
            thing: an object (with its inputs), or a trace whose first glance is meant. Its
                counts are part of the probe.
            whitened: whether the covariance of the sketches is undone.

        Raises:
            NotRemembered: if its module has never been seen.
        """
        trace = Trace.from_objects([[thing]]) if isinstance(thing, Object) else thing[0]
        for name in trace.columns:
            if name not in self.sketcher.modules:
                self.sketcher.modules.id_of(name)
        image = self.sketcher.unrounded(trace)[0, : self.dim].to(torch.float64)
        found = self._factor.solve(image) if whitened else image
        return found.to(torch.float32)

    def scores(
        self, sketches: Sketches, thing: Object | Trace, *, whitened: bool = True
    ) -> npt.NDArray[np.float32]:
        """Return the (N,) scores of sketches, high where they hold the thing.

        Raises:
            RecipeMismatch: if they were made with another recipe.
            ValueError: if they are of another size.
        """
        self.sketcher.recipe.check_same(sketches.recipe)
        if sketches.dim != self.dim:
            raise ValueError(
                f"this prober knows sketches of {self.dim} numbers, got {sketches.dim}; use a "
                "prober of the same prefix"
            )
        probe = self.vector(thing, whitened=whitened)
        found = _products(sketches.codes, probe)
        if sketches.scale is not None:
            found = found * sketches.scale.numpy()
        return found - float(self.mean.to(torch.float32) @ probe)


def _products(codes: Tensor, probe: Tensor) -> npt.NDArray[np.float32]:
    """Multiply (N, d) codes with a (d,) vector, block by block."""
    kept, vector = codes.numpy(), probe.numpy()
    out = np.empty(len(kept), np.float32)
    block = np.empty((min(BLOCK, len(kept)), kept.shape[1]), np.float32)
    for start in range(0, len(kept), BLOCK):
        part = block[: min(BLOCK, len(kept) - start)]
        np.copyto(part, kept[start : start + BLOCK], casting="unsafe")
        np.dot(part, vector, out=out[start : start + BLOCK])
    return out
