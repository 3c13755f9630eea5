"""Candidates for a search of structure: places, and their scores without their columns.

The adjoint of the operators takes a residual to the working space, where the operator of every
module is a vector of signs: ten thousand modules are scored by one small product each.

Shape letters: F families of one width, k members, m numbers in an attribute, p its next power of
two, t = W / p copies, W working width, d numbers in a sketch, n parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from recollect.sketching.encode import SIBLING, count_gain
from recollect.sketching.recipe import ModuleEntry
from recollect.sketching.unfolding import PathKey, Step

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Bank", "Place", "bank_of"]

# Numbers that are added up at once: few enough to stay in a processor's cache.
BLOCK = 1 << 18


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
        entries: F families, all of k m = width numbers.
        copies: (F, p, t) where each operator puts its copies, see ``Operators.copies``.
        inner: (k m, p) the transform that comes before the copies.
    """

    def __init__(self, entries: list[ModuleEntry], copies: Tensor, inner: Tensor) -> None:
        self.entries, self.inner = entries, inner
        self.ids = torch.tensor(
            [[e.first_id + j for j in range(len(e.members))] for e in entries]
        )  # (F, k)
        self.copies = copies.flatten(0, 1)

    def energies(self, z: Tensor) -> Tensor:
        """Return the energy of the residual along each family's members: (n, F, k).

        A bag of embeddings adds the copies of all parents at once: an entry that is read costs
        hardly more for ten parents than for one.

        Args:
            z: (n, W) the residual taken back to the working space of n parents.
        """
        n, families, k = len(z), len(self.entries), len(self.entries[0].members)
        # Bags of single numbers have no fast path; two are as cheap as eight.
        wide = z if n > 1 else z.expand(2, -1)
        signed = torch.cat([wide, -wide], 1).T.contiguous()  # (2 W, n)
        found = torch.empty(n, families, k)
        p = self.inner.shape[1]
        step = max(BLOCK // (p * len(wide)), 1)
        for start in range(0, families, step):
            stop = min(start + step, families)
            bags = functional.embedding_bag(self.copies[start * p : stop * p], signed, mode="sum")
            x = torch.einsum("fpn,mp->nfm", bags.view(stop - start, p, -1)[:, :, :n], self.inner)
            found[:, start:stop] = x.reshape(n, stop - start, k, -1).square().sum(3)
        return found


class Bank:
    """The operators of all modules of a sketcher, ready to score a residual.

    It keeps what it needs of the sketcher, not the sketcher itself, so that both can be freed.
    """

    def __init__(self, sketcher: Sketcher, dim: int) -> None:
        self.dim, self.table = dim, sketcher.modules
        self.operators = sketcher.encoder().operators
        self.cache = sketcher.column_cache
        self.keyed = sketcher.recipe.scheme == "keyed"
        self.entries = [e for e in self.table if e.size * len(e.members) <= self.operators.width]
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
        width = entries[0].size * len(entries[0].members)
        copies = []
        for e in entries:
            path = (*above, (e.name,))
            key = tuple("/".join(step) for step in path) if self.keyed else (e.name,)
            copies.append(self.operators.copies(width, key))
        return Width(entries, torch.stack(copies), self.operators.inner(width))

    def enter(self, residual: Tensor) -> Tensor:
        """Take a (d,) residual back to the working space: the adjoint of ``leave``, (W,)."""
        return self.operators.enter(residual.to(torch.float32)[None])[0]

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
        turned = self.operators.unmix(z[None], keys)
        entered: Tensor = z * kept + turned * (1 - kept**2) ** 0.5
        return entered

    def columns(self, place: Place) -> Tensor:
        """Return the (m, d) float64 columns of a place."""
        rows = slice(place.member * place.entry.size, (place.member + 1) * place.entry.size)
        full = self.cache.columns(place.path, place.entry)
        return full[rows, : self.dim].to(torch.float64)

    def count_energies(self, residual: Tensor) -> Tensor:
        """Return the energy of a (d,) residual along the count column of every module, (P,)."""
        columns = self.operators.count_columns(self.table.names)[:, : self.dim]
        along: Tensor = columns @ residual.to(torch.float32)
        return along.square() / self.dim

    def count(self, module: str) -> Tensor:
        """Return the (d,) float64 image of one object's count."""
        if module not in self._counts:
            entry = self.table.family_of(self.table.id_of(module))
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
