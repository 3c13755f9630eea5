"""The unknowns of one structure, and their columns in the linear map from attributes to sketch.

With the structure of a glance known, its sketch is linear in its scaled attributes:
``s = sum_o A_o' u_o + counts``. A row of A_o is the image of one unit attribute of object o, over
all paths on which the object is met.

Shape letters: K unknowns, d numbers in a sketch (a prefix keeps the first), m of an attribute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recollect.sketching.encode import Encoder
from recollect.sketching.recipe import ModuleEntry, ModuleTable
from recollect.sketching.skeletons import Structure
from recollect.sketching.unfolding import PathKey, unfold_edges

__all__ = ["ColumnCache", "Layout", "Unknown"]


class ColumnCache:
    """Keeps the columns of recently used paths, at most ``limit`` bytes of them."""

    def __init__(self, encoder: Encoder, limit: int = 256 << 20) -> None:
        self.encoder, self.limit = encoder, limit
        self._kept: OrderedDict[tuple[PathKey, str], Tensor] = OrderedDict()
        self._bytes = 0

    def columns(self, path: PathKey, entry: ModuleEntry) -> Tensor:
        """Return (k m, d) float32 images of unit scaled attributes at a path."""
        key = (path, entry.name)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self.encoder.columns(path, entry)
        self._kept[key] = made
        self._bytes += made.numel() * 4
        while self._bytes > self.limit and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.numel() * 4
        return made


@dataclass(frozen=True, eq=False)
class Unknown:
    """One object whose attribute is to be found.

    Attributes:
        module: name of the module.
        entry: its family.
        member: place in the family.
        rank: place of the object in its glance.
        names: its first path as module names from the output down.
        weight: weight of the first edge that leads to it.
        occurrences: (path, coefficient) of every path on which it is met.
    """

    module: str
    entry: ModuleEntry
    member: int
    rank: int
    names: tuple[str, ...]
    weight: float
    occurrences: tuple[tuple[PathKey, float], ...]

    def columns(self, cache: ColumnCache, dim: int) -> Tensor:
        """Return the (m, d) images of its unit scaled attributes."""
        rows = slice(self.member * self.entry.size, (self.member + 1) * self.entry.size)
        parts = [
            cache.columns(path, self.entry)[rows, :dim] * coefficient
            for path, coefficient in self.occurrences
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    @property
    def is_plain(self) -> bool:
        """Whether it is one top-level object of weight one, the first of its module."""
        return self.occurrences == ((((self.entry.name,),), 1.0),)


class Layout:
    """The unknowns of one structure, in depth-first order.

    Args:
        structure: of a glance.
        table: names the module ids.
        encoder: makes the columns.
    """

    def __init__(self, structure: Structure, table: ModuleTable, encoder: Encoder) -> None:
        self.structure, self.table, self.encoder = structure, table, encoder
        self.entries = [table.family_of(i) for i in structure.modules.tolist()]
        self.members = [
            i - e.first_id for i, e in zip(structure.modules.tolist(), self.entries, strict=True)
        ]

    @cached_property
    def unknowns(self) -> list[Unknown]:
        """One ``Unknown`` per object, by rank."""
        met = self._occurrences()
        names, weights = self._first_paths()
        return [
            Unknown(entry.members[j], entry, j, rank, names[rank], weights[rank], tuple(met[rank]))
            for rank, (entry, j) in enumerate(zip(self.entries, self.members, strict=True))
        ]

    def _occurrences(self) -> list[list[tuple[PathKey, float]]]:
        s = self.structure
        families = sorted({e.name for e in self.entries})
        place = {name: i for i, name in enumerate(families)}
        paper = self.encoder.scheme == "paper"
        levels = unfold_edges(
            s.parent, s.child, np.zeros(len(s.parent), dtype=np.int64),
            s.weight.astype(np.float64),
            np.array([place[e.name] for e in self.entries], dtype=np.int64),
            np.array(self.members, dtype=np.int64), families,
            power=1.0 if paper else 0.5, slots=self.encoder.slots or paper,
        )  # fmt: skip
        met: list[list[tuple[PathKey, float]]] = [[] for _ in self.entries]
        for level in levels:
            for o, pair, c in zip(
                level.object.tolist(), level.pair.tolist(), level.coefficient.tolist(), strict=True
            ):
                met[o].append((level.paths[int(level.path[pair])], c))
        return met

    def _first_paths(self) -> tuple[list[tuple[str, ...]], list[float]]:
        s = self.structure
        parent = [-2] * len(self.entries)
        weight = [1.0] * len(self.entries)
        for p, c, w in zip(s.parent.tolist(), s.child.tolist(), s.weight.tolist(), strict=True):
            if parent[c] == -2:
                parent[c], weight[c] = p, w
        names: list[tuple[str, ...]] = []
        for rank, (entry, j) in enumerate(zip(self.entries, self.members, strict=True)):
            above = names[parent[rank]] if parent[rank] >= 0 else ()
            names.append((*above, entry.members[j]))
        return names, weight

    def constant(self, dim: int) -> Tensor:
        """Return what the counts alone contribute to the sketch, (d,) float64."""
        if self.encoder.scheme == "paper":
            total = torch.zeros(self.encoder.operators.dim, dtype=torch.float64)
            for unknown in self.unknowns:
                for path, coefficient in unknown.occurrences:
                    total += self.encoder.counter(path).to(torch.float64) * coefficient
            return total[:dim]
        counts: dict[
            str, tuple[tuple[str, ...], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
        ]
        counts = {}
        for entry, j in zip(self.entries, self.members, strict=True):
            if entry.name not in counts:
                counts[entry.name] = (
                    entry.members, np.zeros((1, len(entry.members)), dtype=np.float32)
                )  # fmt: skip
            counts[entry.name][1][0, j] += 1
        return self.encoder.count_image(counts, 1)[0, :dim].to(torch.float64)


def stack_columns(unknowns: Sequence[Unknown], cache: ColumnCache, dim: int) -> Tensor:
    """Return the (K, d) float64 map of some unknowns, side by side."""
    if not unknowns:
        return torch.zeros(0, dim, dtype=torch.float64)
    return torch.cat([u.columns(cache, dim) for u in unknowns]).to(torch.float64)
