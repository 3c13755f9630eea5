"""Unknown structure: which modules, at which paths, does a sketch hold?

Where no skeleton was kept, the structure is searched for. A candidate is a *place*: a path and a
module, that is a group of columns of the linear map. Group orthogonal matching pursuit adds the
place that explains most of what is left, refits all, and goes on until what is left is no more
than rounding; places that are not needed are then dropped. The search is hierarchical: the
inputs of every accepted object are candidates too.

A structure is reported only if it explains the sketch down to the rounding (a chi-squared test of
the residual) with every count exactly one per object; otherwise the glance is *refused*. As each
object has a count column of its own, of known length, what is missing or too much shows.

Candidates are scored all at once without their columns: the adjoint of the operators takes the
residual to the working space, where a place's operator is a vector of signs.

Reference: "Block-sparse signals: uncertainty relations and efficient recovery" (Eldar, Kuppinger
and Bölcskei, 2010).

Shape letters: F families of one width, k members, m numbers in an attribute, p its next power of
two, t = W / p, W working width, d numbers in a sketch, K unknowns, n parents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer, interval
from recollect._checks import check_integer
from recollect.sketching.decode import rounding_variance
from recollect.sketching.encode import count_gain
from recollect.sketching.operators import _mix, hadamard, next_power_of_two
from recollect.sketching.recipe import ModuleEntry
from recollect.sketching.skeletons import Skeletons, Structure, pack_structure
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.sketches import Sketches
from recollect.sketching.unfolding import PathKey

__all__ = ["Discovered", "Place", "find_structure"]

# A structure may take up this share of a sketch's numbers: the rest is needed to test it.
MOST_LOAD = 0.75
# Candidates whose gain is computed exactly in each step.
FINALISTS = 8
# Up to so many pairs of modules, all are tried as parent and input before a parent is found.
PAIRS = 1 << 16
# Arithmetic in float32 leaves this share of the power, even where nothing was rounded.
ARITHMETIC = 1e-11


@dataclass(frozen=True)
class Place:
    """An object that may be in a glance.

    Attributes:
        path: family steps from the output down.
        entry: its family.
        member: place in the family.
    """

    path: PathKey
    entry: ModuleEntry
    member: int

    @property
    def module(self) -> str:
        """Name of the module."""
        return self.entry.members[self.member]

    @property
    def ordinal(self) -> int:
        """How many objects of this module stand before it among its siblings."""
        return int(self.path[-1][1]) if len(self.path[-1]) > 1 else 0

    def __str__(self) -> str:
        above = ["#".join(step) for step in self.path[:-1]]
        return "/".join([*above, "#".join([self.module, *self.path[-1][1:]])])


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
        >>> from recollect import Object, Trace
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
    bank = _bank(sketcher, sketches.dim)
    values = sketches.cpu().values.to(torch.float64)
    noise = rounding_variance(sketches.cpu())
    noise = noise + ARITHMETIC * values.square().mean(1) + 1e-300
    results = [
        _Search(bank, s, v, max_depth, level).run()
        for s, v in zip(values, noise.tolist(), strict=True)
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


# -- all candidates of one level at once -------------------------------------------------------


class _Class:
    """Families of one width, their signs side by side.

    Args:
        entries: families, all of k m = width numbers.
        signs: (F, W) their operators' signs.
    """

    def __init__(self, entries: list[ModuleEntry], signs: Tensor) -> None:
        self.entries = entries
        width = entries[0].size * len(entries[0].members)
        p, working = next_power_of_two(width), signs.shape[1]
        self.signs = signs.view(len(entries), working // p, p).permute(2, 0, 1).contiguous()
        # The inner transform, (width, p), with the factor that makes columns orthonormal.
        self.inner = _mix(torch.eye(width), p) * (working / p * min(p, 16)) ** -0.5

    def energies(self, z: Tensor) -> Tensor:
        """Return the energy of the residual along each family's members: (n, F, k).

        Args:
            z: (n, W) the residual taken back to the working space of n parents.
        """
        p, families, t = self.signs.shape
        tiles = z.view(len(z), t, p).permute(2, 1, 0)  # (p, t, n)
        sums = torch.bmm(self.signs, tiles)  # (p, F, n)
        x = torch.einsum("wp,pfn->nfw", self.inner, sums)
        k = len(self.entries[0].members)
        return x.view(len(z), families, k, -1).square().sum(3)


class _Bank:
    """The operators of all modules of a sketcher, ready to score a residual."""

    def __init__(self, sketcher: Sketcher, dim: int) -> None:
        self.sketcher, self.dim = sketcher, dim
        self.operators = sketcher.encoder().operators
        self.keyed = sketcher.recipe.scheme == "keyed"
        table = sketcher.modules
        self.entries = [e for e in table if e.size * len(e.members) <= self.operators.width]
        self._classes: dict[PathKey, list[_Class]] = {}
        self._counts: dict[str, Tensor] = {}
        self.classes(())

    def classes(self, above: PathKey) -> list[_Class]:
        """Return the families by width; below a parent if operators are keyed by path."""
        if not self.keyed:
            above = ()
        if above not in self._classes:
            by_width: dict[tuple[int, int], list[ModuleEntry]] = {}
            for e in self.entries:
                by_width.setdefault((e.size, len(e.members)), []).append(e)
            self._classes[above] = [
                _Class(entries, torch.stack([self._signs((*above, (e.name,))) for e in entries]))
                for entries in by_width.values()
            ]
        return self._classes[above]

    def _signs(self, path: PathKey) -> Tensor:
        key = tuple("/".join(step) for step in path) if self.keyed else path[-1][:1]
        return self.operators.signs(self.operators.width, "attribute", *key, 0)

    def enter(self, residual: Tensor) -> Tensor:
        """Take a (d,) residual back to the working space: the adjoint of ``leave``, (W,)."""
        full = torch.zeros(self.operators.width)
        full[self.operators._rows[: self.dim]] = residual.to(torch.float32)
        return hadamard(full[None])[0] * math.sqrt(self.operators.width / self.operators.dim)

    def below(self, z: Tensor, step: tuple[str, ...]) -> Tensor:
        """Take (W,) of a parent's level to the level of the inputs of an object at ``step``."""
        if self.keyed:
            return z
        if len(step) > 1:
            z = self._transparent(z, ("slot", step[1]))
        return self._transparent(z, step[:1])

    def _transparent(self, z: Tensor, key: tuple[str, ...]) -> Tensor:
        """Adjoint of (I + R) / sqrt(2)."""
        own = self.operators.signs(self.operators.width, "mixing", *key)
        common = self.operators.signs(self.operators.width, "mixing")
        turned = hadamard(common * hadamard(z[None]))[0] * own
        return (z + turned) * 2**-0.5

    def columns(self, place: Place) -> Tensor:
        """Return the (m, d) float64 columns of a place."""
        rows = slice(place.member * place.entry.size, (place.member + 1) * place.entry.size)
        full = self.sketcher.column_cache.columns(place.path, place.entry)
        return full[rows, : self.dim].to(torch.float64)

    def count(self, module: str) -> Tensor:
        """Return the (d,) float64 image of one object's count."""
        if module not in self._counts:
            table = self.sketcher.modules
            entry = table.family_of(table.id_of(module))
            column = self.operators.count_columns((module,))[0, : self.dim]
            gain = count_gain(len(entry.members), self.operators.dim)
            self._counts[module] = column.to(torch.float64) * gain
        return self._counts[module]


_BANKS: WeakKeyDictionary[Sketcher, dict[tuple[int, int], _Bank]] = WeakKeyDictionary()


def _bank(sketcher: Sketcher, dim: int) -> _Bank:
    """Return the bank of a sketcher, kept while the sketcher lives and meets no new module."""
    kept = _BANKS.setdefault(sketcher, {})
    key = (dim, len(sketcher.modules))
    if key not in kept:
        kept.clear()
        kept[key] = _Bank(sketcher, dim)
    return kept[key]


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
        self, bank: _Bank, sketch: Tensor, noise: float, max_depth: int, level: float
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
        return float(residual.square().sum()) <= self.noise * _chi_squared(free, 1 - self.level)

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
            for e in self.bank.entries:
                path = ((e.name,),)
                if path not in taken:
                    levels.append((path, self.bank.below(top, path[0])))
        scored = self._scored_levels(levels) + self._scored_repeats()
        scored.sort(key=lambda s: -s[0])
        return [self._with_parents(place) for _, place in scored[:FINALISTS]]

    def _scored_levels(self, levels: list[tuple[PathKey, Tensor]]) -> list[tuple[float, Place]]:
        """Score every module below every parent; only the best of each are returned."""
        occupied = {(p.path, p.module) for p in self.places}
        scored = []
        groups = [[level] for level in levels] if self.bank.keyed else [levels]
        for group in groups:
            z = torch.stack([level[1] for level in group])
            for kind in self.bank.classes(group[0][0]):
                size, k = kind.entries[0].size, len(kind.entries[0].members)
                energies = self._score(kind.energies(z), size)
                flat = energies.reshape(-1)
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
                entry = self.bank.sketcher.modules[path[-1][0]]
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
        return float((self._extension(places).T @ self.residual).square().sum())

    def _extension(self, places: Sequence[Place]) -> Tensor:
        """Return an orthonormal basis of what places add to the basis."""
        fresh = self._fresh(places)
        for _ in range(2):
            fresh = fresh - self.basis @ (self.basis.T @ fresh)
        return torch.linalg.qr(fresh).Q

    def _accept(self, places: Sequence[Place]) -> None:
        added = self._extension(places)
        self.residual = self.residual - added @ (added.T @ self.residual)
        self.basis = torch.cat([self.basis, added], 1)
        self.places += places

    def _prune(self) -> list[Place]:
        """Drop the places without which the sketch is explained as well, least first."""
        places = list(self.places)
        while places:
            leaves = [p for p in places if _is_leaf(p, places)]
            sizes = self._losses(places)
            weakest = min(leaves, key=lambda p: sizes[places.index(p)])
            rest = [p for p in places if p is not weakest]
            residual, x, _ = self._refit(rest)
            if not self._explained(residual, len(x)):
                break
            places = rest
        return places

    def _losses(self, places: list[Place]) -> list[float]:
        """How much power each place's attribute explains that no other can."""
        _, x, factor = self._refit(places)
        inverse, losses, start = torch.cholesky_inverse(factor), [], 0
        for p in places:
            where = slice(start, start + p.entry.size)
            start += p.entry.size
            own = torch.linalg.solve(inverse[where, where], x[where])
            losses.append(float(x[where] @ own))
        return losses

    def _refit(self, places: Sequence[Place]) -> tuple[Tensor, Tensor, Tensor]:
        """Fit all attributes, each count being one: residual (d,), x (K,), Cholesky factor."""
        target = self.sketch.clone()
        for p in places:
            target -= self.bank.count(p.module)
        if not places:
            nothing = torch.zeros(0, dtype=torch.float64)
            return target, nothing, nothing.view(0, 0)
        a = torch.cat([self.bank.columns(p) for p in places])
        gram = a @ a.T
        gram.diagonal().add_(1e-12 * float(gram.diagonal().mean()))
        factor = torch.linalg.cholesky(gram)
        x = torch.cholesky_solve((a @ target)[:, None], factor)[:, 0]
        return target - x @ a, x, factor


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


def _chi_squared(free: int, probability: float) -> float:
    """Quantile of the chi-squared distribution (Wilson and Hilferty's approximation)."""
    a = 2 / (9 * max(free, 1))
    return max(free, 1) * (1 - a + NormalDist().inv_cdf(probability) * math.sqrt(a)) ** 3
