"""A module's number of objects and their mean, from its own subspace, by one projection.

Every module owns a few directions of a sketch: the image of each number of an attribute, and the
image of its counter. The product of a sketch with these directions tells how many objects of the
module it holds and what their attributes sum to, without solving for anything else. What else is
in the sketch is noise to this reading, of variance ``|s|^2 / (d |a|^2)`` for a direction a, and
so are, at deeper levels, the operators on the way up, which the reading passes on their
transparent branch: it needs to know neither the slot of an object nor what it is an input of.

With g the transparent branch's share (``paper``: a half for the slot, and a sixteenth for every
level below the first; ``energy``: 1 / sqrt(2) for every level), w the weight of the objects:

    number = <c, s> / (g w |c|^2)      sum_i = <a_i, s> / (g w' |a_i|^2)      mean = sum / number

(w' is w, or its root where the scheme has square-root weights; the counters of ``energy`` and
``keyed`` stand outside the recursion: their g and w are one). All is linear in the sketch, so it
works on sums of sketches as well: a roll-up over a year is read by the same few products.

Reference: the summary statistics of "Recursive Sketches for Modular Deep Learning" (Ghazi,
Panigrahy and Wang, ICML 2019).

Shape letters: B rows, m numbers in an attribute, d numbers in a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.sketching.recipe import ModuleEntry
from recollect.sketching.sketches import Sketches

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["ModuleReading", "Projection"]

# A mean is refused where the number of objects is not this many deviations away from zero.
_CLEAR = 2.0


@dataclass(frozen=True, eq=False)
class ModuleReading:
    """What the own subspace of a module tells about each row.

    Attributes:
        number: (B,) float64, how many objects of the module there are.
        number_std: (B,) its standard deviation.
        sum: (B, m) float64, sum of their attributes, in the attributes' units.
        sum_std: (B, m) its standard deviation.
    """

    number: Tensor
    number_std: Tensor
    sum: Tensor
    sum_std: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean attribute (B, m); NaN where the number cannot be told from zero."""
        return torch.where(self._clear, self.sum / self.number[:, None], torch.nan)

    @property
    def mean_std(self) -> Tensor:
        """Its standard deviation (B, m), to first order; infinite where the mean is refused."""
        relative = (self.number_std / self.number).square()[:, None] * self.mean.square()
        std = (relative + (self.sum_std / self.number[:, None]).square()).sqrt()
        return torch.where(self._clear, std, torch.inf)

    @property
    def _clear(self) -> Tensor:
        return (self.number > _CLEAR * self.number_std)[:, None]


class Projection:
    """Reads one module's objects at one level, by their own directions.

    Meant for glances whose objects of the module stand at one level with one weight. In
    ``energy`` and ``keyed`` further siblings of one module under one parent are turned away from
    the first and hardly seen here; ask ``Recollection.means`` for those.

    Args:
        sketcher: that made the sketches.
        module: whose objects are read.
        level: how deep they stand; 1 is the top.
        weight: effective weight of each object (the product of the weights down to it).

    Raises:
        NotRemembered: if the module has never been seen (the nearest names are suggested).
        ValueError: on a level below the first where the scheme is ``keyed``, whose operators
            belong to whole paths, or a weight that is not positive.

    Example:
        >>> from recollect import Object, Sketcher, Trace
        >>> cats = [Object("cat", [1.0, 2.0], weight=0.5), Object("cat", [3.0, 2.0], weight=0.5)]
        >>> sketcher = Sketcher(dim=16384, scheme="paper", dtype="float32")
        >>> s = sketcher.encode(Trace.from_objects([cats]))
        >>> read = Projection(sketcher, "cat", weight=0.5).read(s)
        >>> round(float(read.number[0])), [round(x) for x in read.mean[0].tolist()]
        (2, [2, 2])
    """

    def __init__(
        self, sketcher: Sketcher, module: str, *, level: int = 1, weight: float = 1.0
    ) -> None:
        number = sketcher.modules.id_of(module)
        self.sketcher, self.module = sketcher, module
        self.entry: ModuleEntry = sketcher.modules.family_of(number)
        self.member = number - self.entry.first_id
        self.level = check_integer("level", level, minimum=1)
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight must be a positive number, got {weight}")
        self.weight = float(weight)
        if self.level > 1 and sketcher.recipe.scheme == "keyed":
            raise ValueError(
                'scheme "keyed" gives every path an operator of its own: below the first level '
                'nothing is visible without the whole path; decode, or use scheme="energy"'
            )

    def __repr__(self) -> str:
        return f"Projection({self.module!r}, level={self.level}, weight={self.weight:g})"

    @cached_property
    def columns(self) -> Tensor:
        """Directions of the m numbers of an attribute, and of the counter: (m + 1, d) float64."""
        encoder = self.sketcher.encoder()
        operators, m = encoder.operators, self.entry.size
        family = (self.entry.name,)
        if encoder.scheme != "paper":
            rows = slice(self.member * m, (self.member + 1) * m)
            one = np.zeros((1, len(self.entry.members)), dtype=np.float32)
            one[0, self.member] = 1
            counter = encoder.count_image({self.entry.name: (self.entry.members, one)}, 1)
            attributes = encoder.columns((family,), self.entry)[rows]
            return torch.cat([attributes, counter]).to(torch.float64)
        size = m * len(self.entry.members)
        z = torch.zeros(size, operators.width)
        operators.spread(torch.eye(size), family, z)
        own = z[self.member * m : (self.member + 1) * m]
        z = torch.cat([own, operators.counter(self.entry.name)[None]]) / 2
        z = (z + operators.mix(z, [("attribute slot",)] * len(z))) / 4
        z = (z + operators.mix(z, [family] * len(z))) / 2
        return operators.leave(z).to(torch.float64)

    @property
    def shares(self) -> tuple[float, float]:
        """What arrives of an attribute and of a counter on the transparent branch, weighted."""
        scheme, deeper = self.sketcher.recipe.scheme, self.level - 1
        if scheme == "paper":
            return (self.weight * 2.0 ** -(1 + 4 * deeper),) * 2
        return self.weight**0.5 * 2.0 ** (-deeper / 2), 1.0

    def read(self, sketches: Sketches) -> ModuleReading:
        """Read each row: single glances, prefixes, or sums of many glances.

        Args:
            sketches: B rows.

        Raises:
            RecipeMismatch: if they were made with another recipe.
        """
        self.sketcher.recipe.check_same(sketches.recipe)
        a = self.columns[:, : sketches.dim]
        values = sketches.cpu().values.to(torch.float64)
        power = a.square().sum(1)
        attribute, counter = self.shares
        share = torch.full((len(a),), attribute, dtype=torch.float64)
        share[-1] = counter
        found = values @ a.T / (power * share)
        noise = values.square().mean(1, keepdim=True)
        std = (noise / power).sqrt() / share
        scale = self.entry.scale
        return ModuleReading(found[:, -1], std[:, -1], found[:, :-1] * scale, std[:, :-1] * scale)
