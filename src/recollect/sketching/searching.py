"""The search for the structure of one glance: group orthogonal matching pursuit, and again.

Shape letters: m numbers in an attribute, d numbers in a sketch, K unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recollect.sketching.candidates import Bank, Place
from recollect.sketching.rounding import chi_squared_quantile
from recollect.sketching.unfolding import PathKey

__all__ = ["Result", "Search"]

# A structure may take up this share of a sketch's numbers: the rest is needed to test it.
MOST_LOAD = 0.75
# Candidates whose gain is computed exactly in each step, and in each of a careful search.
FINALISTS, CAREFUL_FINALISTS = 8, 48
# Rounds of second thoughts after each step of a careful search, and numbers of a sketch that there
# must be for each unknown in it.
EXCHANGES, CAREFUL_RATIO = 2, 2.0
# Up to so many pairs of modules, all are tried as parent and input before a parent is found.
PAIRS = 1 << 16


@dataclass(frozen=True, eq=False)
class Result:
    """Places, depth first, and what ``structure.Discovered`` tells of one glance."""

    places: tuple[Place, ...]
    refused: bool
    left: float
    norms: list[float]
    deviations: list[float]


class Search:
    """Group orthogonal matching pursuit in one sketch.

    Args:
        bank: operators.
        sketch: (d,) float64.
        noise: variance of rounding.
        max_depth: deepest level.
        level: of the residual test.
        careful: whether to weigh more candidates, and to exchange what was accepted.
    """

    def __init__(
        self,
        bank: Bank,
        sketch: Tensor,
        noise: float,
        max_depth: int,
        level: float,
        careful: bool = False,
    ) -> None:
        self.bank, self.sketch, self.noise = bank, sketch, noise
        self.max_depth, self.level, self.careful = max_depth, level, careful
        self.finalists = CAREFUL_FINALISTS if careful else FINALISTS
        self.places: list[Place] = []
        self.basis = torch.zeros(bank.dim, 0, dtype=torch.float64)
        self.residual = sketch
        modules = sum(len(e.members) for e in bank.entries)
        self.all_pairs = max_depth > 1 and modules * modules <= PAIRS

    def run(self) -> Result:
        """Search, prune, test; a careful search exchanges places after each step."""
        while not self._explained(self.residual, self.basis.shape[1]):
            best = self._best()
            if best is None:
                return self._refuse()
            self._accept(best)
            if self.careful:
                if len(self.places) > self.most:
                    return self._refuse()
                self._exchange()
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
        return Result(
            tuple(places[i] for i in order), False, left,
            [norms[i] for i in order], [deviations[i] for i in order],
        )  # fmt: skip

    def _refuse(self) -> Result:
        free = max(self.bank.dim - self.basis.shape[1], 1)
        return Result((), True, float(self.residual.square().sum()) / self.noise / free, [], [])

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
        return [self._with_parents(place) for _, place in scored[: self.finalists]]

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
                most = min(len(flat), self.finalists + len(occupied))
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

    # -- second thoughts ------------------------------------------------------------------

    @property
    def most(self) -> int:
        """Places that a careful search may hold: a third of a sketch's numbers."""
        smallest = min((e.size + 1 for e in self.bank.entries), default=1)
        return max(int(self.bank.dim / CAREFUL_RATIO / smallest), 1)

    def _exchange(self) -> None:
        """Take out each place with all below it in turn; keep what explains more instead."""
        for _ in range(EXCHANGES):
            changed = False
            for place in list(self.places):
                if place in self.places and len(self.places) > 1:
                    changed |= self._replaced(place)
            if not changed:
                return

    def _replaced(self, place: Place) -> bool:
        """Choose anew what stands for a place and for all that needs it."""
        n = len(place.path)
        out = [
            p
            for p in self.places
            if p is place or p.path[:n] == place.path or not _is_leaf(place, [place, p])
        ]
        before = (list(self.places), self.basis, self.residual)
        self._restart([p for p in self.places if p not in out])
        while len(self.places) < len(before[0]):
            best = self._best()
            if best is None or len(self.places) + len(best) > len(before[0]):
                break
            self._accept(best)
        power = [float(r.square().sum()) for r in (self.residual, before[2])]
        if power[0] < (1 - 1e-9) * power[1]:
            return True
        self.places, self.basis, self.residual = before
        return False

    def _restart(self, places: Sequence[Place]) -> None:
        """Begin again with these places accepted."""
        self.places, self.residual = [], self.sketch
        self.basis = torch.zeros(self.bank.dim, 0, dtype=torch.float64)
        if places:
            self._accept(places)

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
