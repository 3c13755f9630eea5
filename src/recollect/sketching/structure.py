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

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer, interval
from recollect._checks import check_integer
from recollect.sketching.candidates import Bank, Place, bank_of
from recollect.sketching.rounding import ARITHMETIC, chi_squared_quantile, rounding_variance
from recollect.sketching.skeletons import Skeletons, Structure, pack_structure
from recollect.sketching.sketches import Sketches
from recollect.sketching.unfolding import PathKey

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Discovered", "Place", "find_structure"]

# A structure may take up this share of a sketch's numbers: the rest is needed to test it.
MOST_LOAD = 0.75
# Candidates whose gain is computed exactly in each step.
FINALISTS = 8
# Up to so many pairs of modules, all are tried as parent and input before a parent is found.
PAIRS = 1 << 16


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


@dataclass(frozen=True, eq=False)
class _Result:
    places: tuple[Place, ...]
    refused: bool
    left: float
    norms: list[float]
    deviations: list[float]


def _find(bank: Bank, sketch: Tensor, noise: float, max_depth: int, level: float) -> _Result:
    """Search at all depths at once; where that fails, among shallower places alone.

    A transparent operator leaves half of what it lifts unchanged, so that more levels mean more
    candidates that look like each other.
    """
    result = _Search(bank, sketch, noise, max_depth, level).run()
    for depth in range(max_depth - 1, 0, -1):
        if not result.refused:
            break
        result = _Search(bank, sketch, noise, depth, level).run()
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


# -- the search in one glance ------------------------------------------------------------------


class _Search:
    """Group orthogonal matching pursuit in one sketch.

    Args:
        bank: operators.
        sketch: (d,) float64.
        noise: variance of rounding.
        max_depth: deepest level.
        level: of the residual test.
    """

    def __init__(
        self, bank: Bank, sketch: Tensor, noise: float, max_depth: int, level: float
    ) -> None:
        self.bank, self.sketch, self.noise = bank, sketch, noise
        self.max_depth, self.level = max_depth, level
        self.places: list[Place] = []
        self.basis = torch.zeros(bank.dim, 0, dtype=torch.float64)
        self.residual = sketch
        modules = sum(len(e.members) for e in bank.entries)
        self.all_pairs = max_depth > 1 and modules * modules <= PAIRS

    def run(self) -> _Result:
        """Search, prune, test."""
        while not self._explained(self.residual, self.basis.shape[1]):
            best = self._best()
            if best is None:
                return self._refuse()
            self._accept(best)
        places = self._prune()
        fixed, x, factor = self._refit(places)
        if not self._explained(fixed, len(x)):
            return self._refuse()
        order = sorted(range(len(places)), key=lambda i: _depth_first(places[i]))
        norms, deviations, start = [0.0] * len(places), [0.0] * len(places), 0
        spread = torch.cholesky_inverse(factor) * self.noise if len(x) else factor
        for i, place in enumerate(places):
            where = slice(start, start + place.entry.size)
            start += place.entry.size
            norms[i] = float(x[where].norm())
            unit = x[where] / max(norms[i], 1e-300)
            deviations[i] = float((unit @ spread[where, where] @ unit).clamp_min(0).sqrt())
        left = float(fixed.square().sum()) / (self.noise * max(self.bank.dim - len(x), 1))
        return _Result(
            tuple(places[i] for i in order), False, left,
            [norms[i] for i in order], [deviations[i] for i in order],
        )  # fmt: skip

    def _refuse(self) -> _Result:
        free = max(self.bank.dim - self.basis.shape[1], 1)
        return _Result((), True, float(self.residual.square().sum()) / self.noise / free, [], [])

    def _explained(self, residual: Tensor, unknowns: int) -> bool:
        """Whether a residual is no larger than rounding makes it, but for ``level`` of cases."""
        free = self.bank.dim - unknowns
        return float(residual.square().sum()) <= self.noise * chi_squared_quantile(
            free, 1 - self.level
        )

    # -- candidates -----------------------------------------------------------------------

    def _best(self) -> list[Place] | None:
        """Return the place that explains most, with the parents that it needs."""
        finalists = self._finalists()
        room = MOST_LOAD * self.bank.dim - self.basis.shape[1]
        found: tuple[float, list[Place]] | None = None
        for places in finalists:
            size = sum(p.entry.size for p in places)
            if size + len(places) > room:
                continue
            score = self._score(self._gain(places), size)
            if found is None or score > found[0]:
                found = (score, places)
        return found[1] if found else None

    def _score(self, gain: Any, size: int) -> Any:
        """How far a gain is above what chance gives a group of this size, in deviations."""
        free = self.bank.dim - self.basis.shape[1]
        usual = float(self.residual.square().sum()) / free
        return (gain - size * usual) / (usual * math.sqrt(2 * size))

    def _finalists(self) -> list[list[Place]]:
        """Return the candidates of the highest approximate scores."""
        top = self.bank.enter(self.residual)
        levels: list[tuple[PathKey, Tensor]] = [((), top)]
        taken = {p.path for p in self.places}
        for path in sorted(taken, key=len):
            if len(path) < self.max_depth:
                z = top
                for step in path:
                    z = self.bank.below(z, step)
                levels.append((path, z))
        if self.all_pairs:
            free = [((e.name,),) for e in self.bank.entries if ((e.name,),) not in taken]
            levels += zip(free, self.bank.below_each(top, [p[0] for p in free]), strict=True)
        scored = self._scored_levels(levels) + self._scored_repeats()
        scored.sort(key=lambda s: -s[0])
        return [self._with_parents(place) for _, place in scored[:FINALISTS]]

    def _scored_levels(self, levels: list[tuple[PathKey, Tensor]]) -> list[tuple[float, Place]]:
        """Score every module below every parent; only the best of each are returned."""
        occupied = {(p.path, p.module) for p in self.places}
        counts = self.bank.count_energies(self.residual)
        counts[[p.entry.first_id + p.member for p in self.places]] = 0
        scored = []
        groups = [[level] for level in levels] if self.bank.keyed else [levels]
        for group in groups:
            z = torch.stack([level[1] for level in group])
            for kind in self.bank.classes(group[0][0]):
                size, k = kind.entries[0].size, len(kind.entries[0].members)
                energies = kind.energies(z) + counts[kind.ids]
                flat = self._score(energies, size + 1).reshape(-1)
                most = min(len(flat), FINALISTS + len(occupied))
                for score, i in zip(*(v.tolist() for v in flat.topk(most)), strict=True):
                    parent, rest = divmod(i, len(kind.entries) * k)
                    entry = kind.entries[rest // k]
                    place = Place((*group[parent][0], (entry.name,)), entry, rest % k)
                    if (place.path, place.module) not in occupied:
                        scored.append((score, place))
        return scored

    def _scored_repeats(self) -> list[tuple[float, Place]]:
        """Score one more object of each module that was already found beside its siblings."""
        scored = []
        occupied = {(p.path, p.module) for p in self.places}
        for p in self.places:
            step = (p.entry.name, str(p.ordinal + 1))
            again = Place((*p.path[:-1], step), p.entry, p.member)
            if (again.path, again.module) not in occupied:
                energy = float((self.bank.columns(again) @ self.residual).square().sum())
                scored.append((self._score(energy, p.entry.size), again))
        return scored

    def _with_parents(self, place: Place) -> list[Place]:
        """Return a place and the parents above it that are not accepted yet."""
        taken = {p.path for p in self.places}
        needed = [place]
        for length in range(len(place.path) - 1, 0, -1):
            path = place.path[:length]
            if path not in taken:
                entry = self.bank.table[path[-1][0]]
                needed.insert(0, Place(path, entry, 0))
        return needed

    # -- fitting --------------------------------------------------------------------------

    def _fresh(self, places: Sequence[Place]) -> Tensor:
        """Return the columns (d, .) that places add: attributes, and counts of new modules."""
        known = {p.module for p in self.places}
        parts = [self.bank.columns(p) for p in places]
        modules = dict.fromkeys(p.module for p in places if p.module not in known)
        parts += [self.bank.count(m)[None] for m in modules]
        return torch.cat(parts).T

    def _gain(self, places: Sequence[Place]) -> float:
        """How much of the residual's power places would explain, all refitted."""
        fresh = self._fresh(places)
        known, along = self.basis.T @ fresh, fresh.T @ self.residual
        gram = fresh.T @ fresh
        least = 1e-9 * gram.diagonal().mean()
        gram -= known.T @ known
        gram.diagonal().add_(least)
        # What is left of a column after a basis that nearly contains it is no evidence.
        return float(along @ torch.linalg.solve(gram, along))

    def _extension(self, places: Sequence[Place]) -> Tensor:
        """Return an orthonormal basis of what places add to the basis."""
        fresh = self._fresh(places)
        for _ in range(2):
            fresh = fresh - self.basis @ (self.basis.T @ fresh)
        extension: Tensor = torch.linalg.qr(fresh).Q
        return extension

    def _accept(self, places: Sequence[Place]) -> None:
        added = self._extension(places)
        self.residual = self.residual - added @ (added.T @ self.residual)
        self.basis = torch.cat([self.basis, added], 1)
        self.places += places

    def _prune(self) -> list[Place]:
        """Drop the places without which the sketch is explained as well, least first."""
        places = list(self.places)
        while places:
            _, x, factor = self._refit(places, counts_known=False)
            losses = _losses(places, x, torch.cholesky_inverse(factor))
            leaves = [i for i in range(len(places)) if _is_leaf(places[i], places)]
            weakest = min(leaves, key=lambda i: losses[i])
            rest = places[:weakest] + places[weakest + 1 :]
            residual, x, _ = self._refit(rest, counts_known=False)
            if not self._explained(residual, len(x)):
                break
            places = rest
        return places

    def _refit(
        self, places: Sequence[Place], *, counts_known: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fit all attributes: residual (d,), x (K,), Cholesky factor of the system.

        Args:
            places: whose attributes.
            counts_known: whether every object counts exactly one; otherwise the counts of the
                modules are fitted too, behind the attributes.
        """
        target = self.sketch.clone()
        if not places:
            nothing = torch.zeros(0, dtype=torch.float64)
            return target, nothing, nothing.view(0, 0)
        rows = [self.bank.columns(p) for p in places]
        if counts_known:
            for p in places:
                target -= self.bank.count(p.module)
        else:
            rows += [self.bank.count(m)[None] for m in dict.fromkeys(p.module for p in places)]
        a = torch.cat(rows)
        gram = a @ a.T
        gram.diagonal().mul_(1 + 1e-12)
        factor: Tensor = torch.linalg.cholesky(gram)
        x = torch.cholesky_solve((a @ target)[:, None], factor)[:, 0]
        return target - x @ a, x, factor


def _losses(places: Sequence[Place], x: Tensor, inverse: Tensor) -> list[float]:
    """How much power each place's attribute explains that no other can."""
    losses, start = [], 0
    for p in places:
        where = slice(start, start + p.entry.size)
        start += p.entry.size
        losses.append(float(x[where] @ torch.linalg.solve(inverse[where, where], x[where])))
    return losses


def _is_leaf(place: Place, places: Sequence[Place]) -> bool:
    """Whether no other place stands below it, or after it in its row of like siblings."""
    n = len(place.path)
    return not any(
        (len(p.path) > n and p.path[:n] == place.path)
        or (
            p.path[:-1] == place.path[:-1]
            and p.module == place.module
            and p.ordinal > place.ordinal
        )
        for p in places
    )


def _depth_first(place: Place) -> tuple[Any, ...]:
    """Order places depth first, like siblings by ordinal."""
    steps = [(s[0], int(s[1]) if len(s) > 1 else 0) for s in place.path]
    # A prefix sorts before what continues it; the member comes last.
    return (steps, place.member)
