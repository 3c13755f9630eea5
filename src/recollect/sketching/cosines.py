"""How far cosines of sketches are from those of what was sketched, for one draw of the operators.

With random operators the cosine c' of two sketches of k numbers estimates the true one, c:

    c - c' ~ e (1 - c'^2) / sqrt(k),   e of mean 0 and deviation 1 over all draws of operators.

A memory has one draw. Where glances differ in few directions (those of a static network do), all
pairs share its luck: e then has a mean of its own and a smaller spread, and the intervals above
hold for a third of the pairs or for all of them. Glances that were kept whole tell: their true
cosines (from much longer sketches, of another seed) and those of their sketches are compared, and
the 5 %, 50 % and 95 % quantiles of e over all pairs are what corrects a cosine and bounds it.

Shape letters: G glances, K lengths, n cosines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._answers import Z90
from recollect._seeds import seed_of

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.tracing import Trace

__all__ = ["Cosines", "compared"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Glances kept whole that are compared, at least and at most.
FEWEST, MOST = 48, 192
# Numbers of the sketches by which true cosines are known: so many, or so many times longer.
WIDE, LONGER = 16_384, 8
# Pairs that are alike to this have no error to be told.
ALIKE = 1e-6


@dataclass(frozen=True, eq=False)
class Cosines:
    """What corrects and bounds the cosines of sketches.

    Attributes:
        lengths: (K,) numbers of a sketch, ascending, for which it is known.
        ends: (K, 3) the 5 %, 50 % and 95 % quantiles of e.

    Example:
        >>> estimate, low, high = Cosines.unknown().read([0.0, 0.6], 100)
        >>> estimate.tolist(), low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.6], [-0.164, 0.495], [0.164, 0.705])
    """

    lengths: IntArray
    ends: FloatArray

    @classmethod
    def unknown(cls) -> Cosines:
        """Return what holds over all draws of the operators, without any glance kept whole."""
        return cls(np.array([1]), np.array([[-Z90, 0.0, Z90]]))

    @classmethod
    def fit(
        cls, sketcher: Sketcher, trace: Trace, lengths: Iterable[int] | None = None
    ) -> Cosines:
        """Compare the cosines of glances kept whole with those of their sketches.

        Args:
            sketcher: whose sketches are asked about.
            trace: glances like those, not sketches; the first 192 are compared.
            lengths: prefixes of which to know it; by default all multiples of 64, and 32 and 16.

        Example:
            >>> import torch
            >>> from recollect import Sketcher, Trace
            >>> x = torch.randn(96, 40, generator=torch.manual_seed(0)) + 2
            >>> known = Cosines.fit(Sketcher(dim=64), Trace.from_columns({"eye": x}))
            >>> known.lengths.tolist(), known.ends.shape
            ([16, 32, 64], (3, 3))
        """
        dim = sketcher.recipe.dim
        asked = {16, 32, *range(64, dim + 1, 64)} if lengths is None else set(lengths)
        some = trace[np.arange(min(len(trace), MOST))]
        if len(some) < FEWEST:
            return cls.unknown()
        sketches, true = sketcher.encode(some), true_cosines(sketcher, some)
        known = sorted(n for n in asked if n <= dim)
        ends = [compared(sketches.prefix(n), true) for n in known]
        return cls(np.array(known, np.int64), np.array(ends))

    def read(
        self, cosine: npt.ArrayLike, length: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return estimate, low and high (90 %), (n,) each, of cosines of sketches.

        Args:
            cosine: (n,) of sketches.
            length: (n,) or one: numbers of the sketches that were compared.
        """
        c = np.clip(np.asarray(cosine, np.float64), -1.0, 1.0)
        k = np.maximum(np.asarray(length, np.float64), 1.0)
        known = np.log(self.lengths)
        unit = (1 - np.square(c)) / np.sqrt(k)
        low, middle, high = (
            np.clip(c + np.interp(np.log(k), known, self.ends[:, i]) * unit, -1.0, 1.0)
            for i in range(3)
        )
        return middle, low, high

    @property
    def note(self) -> str:
        """What to say of a cosine that was read: nothing, or that it was corrected."""
        return ", corrected as records tell" if len(self.lengths) > 1 else ""

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what ``from_arrays`` reads."""
        return {"lengths": self.lengths, "ends": self.ends}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Cosines:
        """Read what ``to_arrays`` made."""
        return cls(arrays["lengths"].astype(np.int64), arrays["ends"].astype(np.float64))


def true_cosines(sketcher: Sketcher, trace: Trace) -> FloatArray:
    """Return (G, G) cosines of what glances hold, by long sketches with a seed of their own."""
    recipe = sketcher.recipe
    long = replace(
        recipe,
        dim=max(WIDE, LONGER * recipe.dim),
        seed=seed_of(recipe.seed, "cosines"),
        dtype="float32",
        operators="hadamard",
        channel=None,
    )
    return _cosines(type(sketcher).from_recipe(long, sketcher.modules).encode(trace))


def compared(sketches: Sketches, true: FloatArray) -> FloatArray:
    """Return the 5 %, 50 % and 95 % quantiles of e over all pairs of some glances.

    Args:
        sketches: G of them, or prefixes, or what a mask leaves.
        true: (G, G) cosines of what they hold, from long sketches.
    """
    pairs = np.triu_indices(len(sketches), 1)
    found, told = _cosines(sketches)[pairs], true[pairs]
    room = 1 - np.square(found)
    apart = room > ALIKE
    if apart.sum() < FEWEST:
        return np.asarray(Cosines.unknown().ends[0], np.float64)
    k = sketches.dim
    e = np.sqrt(k) * (told - found)[apart] / room[apart]
    ends = np.quantile(e, [0.05, 0.5, 0.95])
    # Long sketches share a draw of their own, which moves all of their cosines likewise: by as
    # much less as they are longer than these.
    wide = max(WIDE, LONGER * sketches.recipe.dim)
    shared = Z90 * abs(float(ends[1])) * np.sqrt(k / wide)
    half = np.hypot(ends - ends[1], shared * np.array([1.0, 0.0, 1.0]))
    # Quantiles over the pairs of G glances vary as those of G draws do, for pairs share glances.
    half *= 1 + 0.5 / np.sqrt(len(sketches))
    widened: FloatArray = ends[1] + np.sign(ends - ends[1]) * half
    return widened


def _cosines(sketches: Sketches) -> FloatArray:
    values = sketches.values.cpu().numpy().astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
    found: FloatArray = values @ values.T
    return found
