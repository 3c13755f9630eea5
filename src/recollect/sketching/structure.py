"""Unknown structure: which modules, at which paths, does a sketch hold?

Where no skeleton was kept, the structure is searched for. A candidate is a *place*: a path and a
module, that is a group of columns of the linear map. Group orthogonal matching pursuit adds the
place that explains most of what is left, refits all, and goes on until what is left is no more
than rounding; places that are not needed are then dropped. The search is hierarchical: the
inputs of every accepted object are candidates too.

A structure is reported only if it explains the sketch down to the rounding (a chi-squared test of
the residual) with every count exactly one per object; otherwise the glance is *refused*. As each
object has a count column of its own, of known length, what is missing or too much shows.

Reference: "Block-sparse signals: uncertainty relations and efficient recovery" (Eldar, Kuppinger
and Bölcskei, 2010).

Shape letters: B glances, m numbers in an attribute, d numbers in a sketch, K unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer, interval
from recollect._checks import check_integer
from recollect.sketching.candidates import Bank, Place, bank_of
from recollect.sketching.rounding import ARITHMETIC, rounding_variance
from recollect.sketching.searching import Result, Search
from recollect.sketching.skeletons import Skeletons, Structure, pack_structure
from recollect.sketching.sketches import Sketches

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Discovered", "Place", "find_structure"]


@dataclass(frozen=True, eq=False)
class Discovered:
    """What was found in each glance.

    Attributes:
        sketches: the same sketches with the skeletons found, ready for ``Sketcher.decode``; all
            weights are one, so that attributes come multiplied with the root of their weight.
            Refused glances have an empty skeleton.
        places: the places of each glance, depth first; empty where refused.
        refused: (B,) bool.
        left: (B,) power of what is left over the power of rounding (about 1 if explained).
        norms: per glance, the norm of each place's attribute, in scaled units.
        deviations: per glance, its standard deviation.
    """

    sketches: Sketches
    places: list[tuple[Place, ...]]
    refused: npt.NDArray[np.bool_]
    left: npt.NDArray[np.float64]
    norms: list[list[float]] = field(repr=False)
    deviations: list[list[float]] = field(repr=False)

    def answer(self) -> Answer:
        """Return one row per object found: glance, path, module, size of the attribute."""
        rows = [
            (g, str(p), p.module, norm, std)
            for g, found in enumerate(self.places)
            for p, norm, std in zip(found, self.norms[g], self.deviations[g], strict=True)
        ]
        norms, stds = [r[3] for r in rows], [r[4] for r in rows]
        low, high = interval(norms, stds, floor=0.0)
        notes = []
        if self.refused.any():
            worst = ", ".join(str(g) for g in np.flatnonzero(self.refused)[:8].tolist())
            notes.append(
                f"{int(self.refused.sum())} of {len(self.refused)} glances refused ({worst}): no "
                "structure explains them down to rounding; use a larger dim or keep skeletons"
            )
        return Answer(
            {
                "glance": [r[0] for r in rows],
                "path": [r[1] for r in rows],
                "module": [r[2] for r in rows],
                "estimate": norms,
                "low": low,
                "high": high,
            },
            title="objects found, with the size of their attributes",
            notes=notes,
        )


def find_structure(
    sketcher: Sketcher, sketches: Sketches, *, max_depth: int = 2, level: float = 1e-4
) -> Discovered:
    """Find which modules at which paths each sketch holds, or refuse.

    Args:
        sketcher: the one that made the sketches; its module table lists the candidates.
        sketches: of single glances; prefixes are welcome, skeletons are not looked at.
        max_depth: deepest level to look at.
        level: how often a true structure may be refused because rounding was unusually large.

    Raises:
        RecipeMismatch: if the sketches were made with another recipe.
        ValueError: on sums, on ``scheme="paper"`` or ``slots=True``, or a level not in (0, 1).

    Example:
        >>> from recollect import Object, Sketcher, Trace
        >>> cat = Object("cat", [1.0, 2.0], inputs=[Object("face", [0.5, -0.5])])
        >>> sketcher = Sketcher(dim=128)
        >>> s = sketcher.encode(Trace.from_objects([[cat], [Object("dog", [3.0])]]))
        >>> [[str(p) for p in places] for places in find_structure(sketcher, s).places]
        [['cat', 'cat/face'], ['dog']]
    """
    recipe = sketcher.recipe
    recipe.check_same(sketches.recipe)
    check_integer("max_depth", max_depth, minimum=1)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if recipe.scheme == "paper" or recipe.slots:
        raise ValueError(
            "structure is found in sketches of the schemes 'energy' and 'keyed' without slots; "
            f"these are {recipe.scheme!r}{' with slots' if recipe.slots else ''}: keep skeletons"
        )
    if sketches.is_sum:
        raise ValueError(
            "a sum of sketches has no single structure; ask decode(...).counts() of it instead"
        )
    bank = bank_of(sketcher, sketches.dim)
    values = sketches.cpu().values.to(torch.float64)
    noise = rounding_variance(sketches.cpu())
    noise = noise + ARITHMETIC * values.square().mean(1) + 1e-300
    results = [
        _find(bank, s, v, max_depth, level) for s, v in zip(values, noise.tolist(), strict=True)
    ]
    packed = [pack_structure(_structure(r.places)) for r in results]
    return Discovered(
        replace(sketches, skeletons=Skeletons.from_packed(packed)),
        [r.places for r in results],
        np.array([r.refused for r in results], dtype=bool),
        np.array([r.left for r in results], dtype=np.float64),
        [r.norms for r in results],
        [r.deviations for r in results],
    )


def _find(bank: Bank, sketch: Tensor, noise: float, max_depth: int, level: float) -> Result:
    """Search at all depths at once; where that fails, among shallower places alone.

    A transparent operator leaves half of what it lifts unchanged, so that more levels mean more
    candidates that look like each other. Where that fails too, the search starts again, weighs
    more candidates and reconsiders all that it has accepted at every step: several times as long.
    """
    tries = [(depth, False) for depth in range(max_depth, 0, -1)] + [(max_depth, True)]
    for depth, careful in tries:
        result = Search(bank, sketch, noise, depth, level, careful).run()
        if not result.refused:
            break
    return result


def _structure(places: Sequence[Place]) -> Structure:
    """Spell out places (depth first) as a structure with weights of one."""
    rank = {p.path: i for i, p in reversed(list(enumerate(places)))}
    ids = [p.entry.first_id + p.member for p in places]
    parent = [rank[p.path[:-1]] if len(p.path) > 1 else -1 for p in places]
    # Edges come in the order of their children; an object's own place is its rank.
    return Structure(
        np.array(ids, dtype=np.int64),
        np.array(parent, dtype=np.int64),
        np.arange(len(places), dtype=np.int64),
        np.ones(len(places), dtype=np.float32),
    )
