"""Candidates for a search of structure: places, and their scores without their columns.

The adjoint of the operators takes a residual to the working space, where the operator of every
module is a vector of signs: ten thousand modules are scored by one small product each.

Shape letters: F families of one width, k members, m numbers in an attribute, p its next power of
two, t = W / p copies, W working width, d numbers in a sketch, n parents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from recollect.sketching.encode import SIBLING, count_gain
from recollect.sketching.operators import GROUP, _mix, hadamard, next_power_of_two
from recollect.sketching.recipe import ModuleEntry
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.unfolding import PathKey, Step

__all__ = ["Bank", "Place", "bank_of"]


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


class Width:
    """Families of one width, their operators side by side.

    Args:
        entries: families, all of k m = width numbers.
        signs: (F, W) their operators' signs.
        copies: (F, W) which of the p numbers stands in each place of the working space.
    """

    def __init__(self, entries: list[ModuleEntry], signs: Tensor, copies: Tensor) -> None:
        self.entries = entries
        self.ids = torch.tensor(
            [[e.first_id + j for j in range(len(e.members))] for e in entries]
        )  # (F, k)
        width = entries[0].size * len(entries[0].members)
        p, working = next_power_of_two(width), signs.shape[1]
        # Where each of the p numbers stands in the working space, copy by copy, (F, p, t).
        order = copies.view(len(entries), working // p, p).argsort(2)
        order += p * torch.arange(working // p)[:, None]
        places = order.transpose(1, 2).reshape(len(entries), working)
        self.shape = (len(entries), p, working // p)
        self.signs = signs.gather(1, places).view(self.shape)
        self.places = places.to(torch.int32).reshape(-1)
        # The inner transform, (width, p), with the factor that makes columns orthonormal.
        self.inner = _mix(torch.eye(width), p) * (working / p * min(p, GROUP)) ** -0.5

    def energies(self, z: Tensor) -> Tensor:
        """Return the energy of the residual along each family's members: (n, F, k).

        Args:
            z: (n, W) the residual taken back to the working space of n parents.
        """
        families, k = len(self.entries), len(self.entries[0].members)
        found = torch.empty(len(z), families, k)
        for i, row in enumerate(z):
            copies = row.index_select(0, self.places).view(self.shape)
            x = (copies * self.signs).sum(2) @ self.inner.T  # (F, k m)
            found[i] = x.view(families, k, -1).square().sum(2)
        return found


class Bank:
    """The operators of all modules of a sketcher, ready to score a residual."""

    def __init__(self, sketcher: Sketcher, dim: int) -> None:
        self.sketcher, self.dim = sketcher, dim
        self.operators = sketcher.encoder().operators
        self.keyed = sketcher.recipe.scheme == "keyed"
        table = sketcher.modules
        self.entries = [e for e in table if e.size * len(e.members) <= self.operators.width]
        self._classes: dict[PathKey, list[Width]] = {}
        self._counts: dict[str, Tensor] = {}
        self.classes(())

    def classes(self, above: PathKey) -> list[Width]:
        """Return the families by width; below a parent if operators are keyed by path."""
        if not self.keyed:
            above = ()
        if above not in self._classes:
            by_width: dict[tuple[int, int], list[ModuleEntry]] = {}
            for e in self.entries:
                by_width.setdefault((e.size, len(e.members)), []).append(e)
            self._classes[above] = [self._width(above, es) for es in by_width.values()]
        return self._classes[above]

    def _width(self, above: PathKey, entries: list[ModuleEntry]) -> Width:
        """Gather the operators of families of one width below a parent."""
        width = self.operators.width
        p = next_power_of_two(entries[0].size * len(entries[0].members))
        signs, copies = [], []
        for e in entries:
            path = (*above, (e.name,))
            key = tuple("/".join(step) for step in path) if self.keyed else (e.name,)
            signs.append(self.operators.signs(width, "attribute", *key, 0))
            whole = p >= width
            copies.append(torch.arange(width) if whole else self.operators._copies(p, *key, 0))
        return Width(entries, torch.stack(signs), torch.stack(copies))

    def enter(self, residual: Tensor) -> Tensor:
        """Take a (d,) residual back to the working space: the adjoint of ``leave``, (W,)."""
        full = torch.zeros(self.operators.width)
        full[self.operators._rows[: self.dim]] = residual.to(torch.float32)
        return hadamard(full[None])[0] * math.sqrt(self.operators.width / self.operators.dim)

    def below(self, z: Tensor, step: Step) -> Tensor:
        """Take (W,) of a parent's level to the level of the inputs of an object at ``step``."""
        if self.keyed:
            return z
        if len(step) > 1:
            z = self._transparent(z, [("slot", step[1])], SIBLING)[0]
        return self._transparent(z, [step[:1]])[0]

    def below_each(self, z: Tensor, steps: Sequence[Step]) -> Tensor:
        """Take (W,) to the level below every one of n plain steps, (n, W)."""
        if self.keyed or not steps:
            return z.expand(len(steps), -1)
        return self._transparent(z, steps)

    def _transparent(self, z: Tensor, keys: Sequence[Step], kept: float = 2**-0.5) -> Tensor:
        """Adjoint of ``kept I + sqrt(1 - kept^2) R`` for R of n keys, (n, W)."""
        width = self.operators.width
        own = torch.stack([self.operators.signs(width, "mixing", *key) for key in keys])
        common = self.operators.signs(width, "mixing")
        turned = hadamard(common * hadamard(z[None])) * own
        entered: Tensor = z * kept + turned * (1 - kept**2) ** 0.5
        return entered

    def columns(self, place: Place) -> Tensor:
        """Return the (m, d) float64 columns of a place."""
        rows = slice(place.member * place.entry.size, (place.member + 1) * place.entry.size)
        full = self.sketcher.column_cache.columns(place.path, place.entry)
        return full[rows, : self.dim].to(torch.float64)

    def count_energies(self, residual: Tensor) -> Tensor:
        """Return the energy of a (d,) residual along the count column of every module, (P,)."""
        columns = self.operators.count_columns(self.sketcher.modules.names)[:, : self.dim]
        along: Tensor = columns @ residual.to(torch.float32)
        return along.square() / self.dim

    def count(self, module: str) -> Tensor:
        """Return the (d,) float64 image of one object's count."""
        if module not in self._counts:
            table = self.sketcher.modules
            entry = table.family_of(table.id_of(module))
            column = self.operators.count_columns((module,))[0, : self.dim]
            gain = count_gain(len(entry.members), self.operators.dim)
            self._counts[module] = column.to(torch.float64) * gain
        return self._counts[module]


_BANKS: WeakKeyDictionary[Sketcher, dict[tuple[int, int], Bank]] = WeakKeyDictionary()


def bank_of(sketcher: Sketcher, dim: int) -> Bank:
    """Return the bank of a sketcher, kept while the sketcher lives and meets no new module."""
    kept = _BANKS.setdefault(sketcher, {})
    key = (dim, len(sketcher.modules))
    if key not in kept:
        kept.clear()
        kept[key] = Bank(sketcher, dim)
    return kept[key]
