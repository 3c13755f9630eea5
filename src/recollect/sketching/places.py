"""Where objects stand: the paths of a prior's glances, and what its objects look like there.

An object's attribute and its weight may go together (an expert that is asked for much of a picture
says something else than one that is asked for little of it), and so may an attribute and its
place. Sums of sketches need the mean of ``coefficient x attribute``: an error of it grows with the
glances, noise only with their root. So each place has a mean of its own.

Shape letters: G glances, m numbers of an attribute, d numbers of a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching.prior import ModuleStatistics
from recollect.sketching.unfolding import PathKey, glance_starts
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder

__all__ = ["Place", "Stood", "further", "stood_at"]

Floats = npt.NDArray[np.float64]
Key = tuple[PathKey, str]

# Siblings of a module beyond the most that the prior has seen in a glance.
FURTHER = 2
# Squared distances of a place's mean from the module's, in what chance explains, up to which the
# two are taken for one.
CHANCE = 2.0


@dataclass(frozen=True, eq=False)
class Place:
    """Where objects of one module may stand: a path, and how often they stand there.

    Attributes:
        path: from the output down.
        module: whose objects.
        columns: (m, d) float64, images of unit scaled attributes.
        statistics: of the module, raw units.
        scale: of the module.
        coefficient: mean of the coefficients' sum.
        square: mean of the sum of squared coefficients.
        mean: (m,) attribute here, weighted by the coefficients.
    """

    path: PathKey
    module: str
    columns: Tensor
    statistics: ModuleStatistics
    scale: float
    coefficient: float
    square: float
    mean: Tensor


@dataclass(frozen=True, eq=False)
class Stood:
    """The objects of one module that stood at one place.

    Attributes:
        total: (G,) sums of their coefficients.
        square: (G,) sums of the squared coefficients.
        coefficient: (n,) of each object.
        attributes: (n, m) float64.
    """

    total: Floats
    square: Floats
    coefficient: Floats
    attributes: Tensor

    def mean(self, statistics: ModuleStatistics) -> Tensor:
        """Return the (m,) mean attribute by coefficients, no further from the module's than shown.

        With the difference e of both means, and n objects of variance v, ``e^2 n / v`` is about 1
        where only chance makes them differ. Of the difference ``1 - CHANCE / (e^2 n / v)`` is
        kept, if that is positive: a sum repeats an error of the mean with every glance.
        (Shrinkage as of James and Stein, 1961.)
        """
        variance = statistics.factor.square().sum(0) + statistics.floor
        told = variance > 1e-12 * statistics.mean.square()
        c = torch.from_numpy(self.coefficient)
        if not len(c) or not bool(told.any()):
            return statistics.mean
        difference = (c @ self.attributes) / c.sum() - statistics.mean
        alone = c.sum().square() / c.square().sum()
        ratio = (difference.square() * alone / variance)[told].mean()
        kept = (1 - CHANCE / ratio.clamp_min(CHANCE)).to(difference.dtype)
        return statistics.mean + kept * difference


def stood_at(trace: Trace, decoder: Decoder, left_out: set[str]) -> dict[Key, Stood]:
    """Return (path, module) -> the objects that stood there.

    Args:
        trace: G glances.
        decoder: unfolds them.
        left_out: families that are of no interest.
    """
    if not set(trace.columns) - left_out:
        return {}
    begin = glance_starts(trace)
    member, row = (np.zeros(int(begin[-1]), dtype=np.int64) for _ in range(2))
    for c in trace.columns.values():
        place = begin[c.glance] + c.rank
        member[place], row[place] = c.member, np.arange(len(place))
    glances = trace.num_glances
    found: dict[Key, Stood] = {}
    for level in decoder.encoder.unfold(trace):
        path = level.path[level.pair]
        for number, key in enumerate(level.paths):
            family = key[-1][0]
            if family in left_out:
                continue
            column = trace.columns[family]
            pairs = np.flatnonzero(path == number)
            objects = level.object[pairs]
            glance, factor = level.glance[level.pair[pairs]], level.coefficient[pairs]
            for j in np.unique(member[objects]).tolist():
                some = member[objects] == j
                rows = torch.from_numpy(row[objects[some]])
                own = factor[some].astype(np.float64)
                found[(key, column.members[j])] = Stood(
                    np.bincount(glance[some], own, glances).astype(np.float64),
                    np.bincount(glance[some], own**2, glances).astype(np.float64),
                    own,
                    column.attributes[rows].to(torch.float64),
                )
    return found


def further(found: list[Key]) -> list[Key]:
    """Return the next siblings of each module that stands on some path."""
    last: dict[tuple[PathKey, str, str], int] = {}
    for path, module in found:
        ordinal = int(path[-1][1]) if len(path[-1]) > 1 else 0
        key = (path[:-1], path[-1][0], module)
        last[key] = max(last.get(key, 0), ordinal)
    return [
        ((*above, (family, str(ordinal + step))), module)
        for (above, family, module), ordinal in last.items()
        for step in range(1, FURTHER + 1)
    ]
