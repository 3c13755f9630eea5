"""A trace: the glances of a batch, in columns.

One ``Column`` holds every object of one module (or of the members of one family of modules, such
as the kernels of one convolution) over all glances; no Python object exists per activation.
Attributes are tensors and stay on the device where they were computed; the structure (which
glance, which weight, which inputs) is NumPy on the host.

Shape letters: B glances, n objects in a column, m numbers in an attribute, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._checks import unknown_name
from recollect.tracing.objects import Entry, Object, flatten
from recollect.tracing.tables import check_attributes, check_weights, flat_ranks, spell_out

__all__ = ["Column", "Edges", "Objects", "Trace"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Path = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Column:
    """All objects of one family of modules in a batch of glances.

    Most families have one member, the module itself. The kernels of one convolution, or the
    cells of one map, are a family with many members that share one operator.

    Attributes:
        name: name of the family (of the module, where it is the only member).
        members: names of the modules, in the order of ``member``.
        attributes: (n, m) float32.
        glance: (n,) int64, ascending.
        member: (n,) int64, index into ``members``.
        rank: (n,) int64, place of the object in its glance, depth first.
        weight: (n,) float32, weight of the first edge that leads to the object.
    """

    name: str
    members: tuple[str, ...]
    attributes: Tensor
    glance: IntArray
    member: IntArray
    rank: IntArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.glance)

    @property
    def size(self) -> int:
        """Numbers in one attribute (m)."""
        return int(self.attributes.shape[1])

    def is_dense(self, num_glances: int) -> bool:
        """Whether every glance has every member exactly once, in order."""
        return len(self) == num_glances * len(self.members) and self._is_regular

    def is_static(self, num_glances: int) -> bool:
        """Whether, besides, every weight is one."""
        return self.is_dense(num_glances) and self._has_unit_weights

    @cached_property
    def _is_regular(self) -> bool:
        k = len(self.members)
        number = np.arange(len(self))
        if k == 1:
            return bool((self.glance == number).all() and not self.member.any())
        return bool((self.glance == number // k).all() and (self.member == number % k).all())

    @cached_property
    def _has_unit_weights(self) -> bool:
        return bool((self.weight == 1).all())


@dataclass(frozen=True, eq=False)
class Edges:
    """Who was made from whom: E edges of all glances, by glance, then depth first.

    Attributes:
        glance: (E,) int64.
        parent: (E,) int64, rank of the parent in the glance; -1 is the output pseudo-object.
        child: (E,) int64, rank of the child.
        weight: (E,) float32, non-negative; used as given, never renormalised.
    """

    glance: IntArray
    parent: IntArray
    child: IntArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.glance)


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one module, by glance, then depth first.

    Attributes:
        module: name of the module.
        attributes: (n, m) tensor.
        glance: (n,) int64 tensor.
        weight: (n,) float32 tensor, the weight of the first edge that leads to the object.
        path: n tuples of module names from the output down (the first path of a shared object).
        std: (n, m) standard deviations where the attributes are estimates, else None.
    """

    module: str
    attributes: Tensor
    glance: Tensor
    weight: Tensor
    path: list[Path]
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.glance)

    def __repr__(self) -> str:
        kind = "estimated" if self.std is not None else "recorded"
        n, m = self.attributes.shape
        glances = len(torch.unique(self.glance))
        return f"Objects({self.module!r}: {n} {kind} of {m} numbers in {glances} glances)"


@dataclass(frozen=True, eq=False)
class Trace:
    """The glances of a batch: what every module saw, with attributes, weights and inputs.

    Made by ``recollect.trace``, ``recollect.capture``, ``Trace.from_objects`` or
    ``Trace.from_columns``.

    Attributes:
        columns: family name -> ``Column``.
        num_glances: B.
        edges: who was made from whom; None if every object is a top-level object.
        coverage: what the tracing saw and left out, where a network was watched.
        references: which object (``parent``) refers to which other (``child``) without being made
            of it: a detection and the stages that it was read from. Kept beside the glance, never
            sketched.

    Example:
        >>> t = Trace.from_columns({"eye": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
        >>> t
        Trace(2 glances, 1 module, 2 objects)
        >>> t.objects("eye").attributes[1].tolist()
        [3.0, 4.0]
    """

    columns: Mapping[str, Column]
    num_glances: int
    edges: Edges | None = None
    coverage: Any = field(default=None, repr=False)
    references: Edges | None = field(default=None, repr=False)

    # -- making ---------------------------------------------------------------------------

    @classmethod
    def from_objects(cls, glances: Sequence[Sequence[Object]]) -> Trace:
        """Build a trace from hand-made objects: one list of top-level objects per glance.

        Raises:
            ValueError: on an empty batch, a cycle, or a module whose attributes differ in size.
            TypeError: if something else than an ``Object`` is met.
        """
        entries, edges = flatten(glances)
        columns = {name: _object_column(name, rows) for name, rows in entries.items()}
        table = np.array(edges, dtype=np.float64).reshape(-1, 4)
        glance, parent, child = table[:, :3].astype(np.int64).T
        flat = bool((parent == -1).all()) and len(table) == sum(map(len, columns.values()))
        built = None if flat else Edges(glance, parent, child, table[:, 3].astype(np.float32))
        return cls(columns, len(glances), built)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Any], num_glances: int | None = None, coverage: Any = None
    ) -> Trace:
        """Build a flat trace from one table per module.

        Args:
            columns: module name -> either a (B, m) tensor, one object in every glance, or a
                mapping with ``attributes`` (n, m), ``glance`` (n,) and optionally ``weight``
                (n,), ``members`` (names) and ``member`` (n,).
            num_glances: B; needed only if the last glances hold no object.
            coverage: kept with the trace as it is.

        Raises:
            ValueError: on sizes that disagree, values that are not finite, negative weights.
        """
        tables = {name: spell_out(name, value) for name, value in columns.items()}
        families: dict[str, str] = {}
        for name, t in tables.items():
            for member in t["members"]:
                if families.setdefault(member, name) != name:
                    raise ValueError(
                        f"two modules are called {member!r}, in the columns {families[member]!r} "
                        f"and {name!r}; give every module a name of its own"
                    )
        least = max(
            (int(t["glance"].max()) + 1 for t in tables.values() if len(t["glance"])), default=0
        )
        total = least if num_glances is None else num_glances
        if total < least:
            raise ValueError(f"num_glances is {total}, but a glance number {least - 1} is given")
        if total < 1:
            raise ValueError("a trace needs at least one glance, got an empty batch")
        ranks = flat_ranks(list(tables.values()), total)
        built = {
            name: Column(
                name, t["members"], t["attributes"], t["glance"], t["member"], rank, t["weight"]
            )
            for (name, t), rank in zip(tables.items(), ranks, strict=True)
        }
        return cls(built, total, None, coverage)

    @classmethod
    def concat(cls, traces: Sequence[Trace]) -> Trace:
        """Join traces, glance after glance.

        Raises:
            ValueError: if there is none, or a module's attribute size or members differ.
        """
        if not traces:
            raise ValueError("Trace.concat needs at least one trace, got none")
        starts = np.concatenate([[0], np.cumsum([len(t) for t in traces])])
        names = list(dict.fromkeys(name for t in traces for name in t.columns))
        columns = {name: _join(name, traces, starts) for name in names}
        edges = None
        if any(t.edges is not None for t in traces):
            edges = _join_edges([t.all_edges() for t in traces], starts)
        references = None
        if any(t.references is not None for t in traces):
            references = _join_edges([t.references for t in traces], starts)
        return cls(columns, int(starts[-1]), edges, references=references)

    # -- reading --------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.num_glances

    def __iter__(self) -> Iterator[Trace]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | IntArray) -> Trace:
        """Return the glance, or the glances, at ``index`` as a trace of their own.

        Raises:
            IndexError: if there is no such glance, or a mask has another length.
            ValueError: if nothing is selected.
        """
        mask = np.asarray(index) if not isinstance(index, slice | int) else None
        if isinstance(index, slice) or (mask is not None and mask.dtype == bool):
            if mask is not None and mask.shape != (len(self),):
                raise IndexError(
                    f"a mask of shape {mask.shape} for a trace of {len(self)} glances"
                )
            wanted = np.arange(len(self))[index]
        else:
            wanted = np.atleast_1d(np.asarray(index, dtype=np.int64))
            if ((wanted < -len(self)) | (wanted >= len(self))).any():
                raise IndexError(f"glance {index} of a trace of {len(self)} glances")
            wanted = wanted % len(self)
        if len(wanted) == 0:
            raise ValueError("a trace needs at least one glance, the selection is empty")
        columns = {}
        for name, c in self.columns.items():
            rows, glance = _select_rows(c.glance, wanted, len(self))
            if len(rows):
                columns[name] = Column(
                    name, c.members, c.attributes[torch.from_numpy(rows)], glance,
                    c.member[rows], c.rank[rows], c.weight[rows],
                )  # fmt: skip
        edges = _select_edges(self.edges, wanted, len(self))
        references = _select_edges(self.references, wanted, len(self))
        return Trace(columns, len(wanted), edges, references=references)

    def __repr__(self) -> str:
        objects = sum(len(c) for c in self.columns.values())
        plural = "s" if len(self) != 1 else ""
        names = len(self.modules)
        return (
            f"Trace({len(self)} glance{plural}, {names} module{'s' if names != 1 else ''}, "
            f"{objects} objects)"
        )

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Names of all modules that saw anything, in order of first appearance."""
        return tuple(member for c in self.columns.values() for member in c.members)

    @cached_property
    def _place(self) -> dict[str, tuple[str, int]]:
        """Module name -> (family, member)."""
        return {m: (c.name, j) for c in self.columns.values() for j, m in enumerate(c.members)}

    def objects(self, module: str) -> Objects:
        """Return the objects of one module, by glance, then depth first.

        Raises:
            NotRemembered: if the trace holds no such module (the nearest names are suggested).
        """
        if module not in self._place:
            raise unknown_name("module", module, self._place)
        family, member = self._place[module]
        c = self.columns[family]
        rows = np.flatnonzero(c.member == member)
        rows = rows[np.lexsort((c.rank[rows], c.glance[rows]))]
        return Objects(
            module,
            c.attributes[torch.from_numpy(rows)],
            torch.from_numpy(c.glance[rows]),
            torch.from_numpy(c.weight[rows]),
            self.paths(c.glance[rows], c.rank[rows]),
        )

    def all_edges(self) -> Edges:
        """Return the edges, spelled out also for a flat trace (each object under the output)."""
        if self.edges is not None:
            return self.edges
        glance = np.concatenate(
            [c.glance for c in self.columns.values()] or [np.zeros(0, np.int64)]
        )
        rank = np.concatenate([c.rank for c in self.columns.values()] or [np.zeros(0, np.int64)])
        weight = np.concatenate(
            [c.weight for c in self.columns.values()] or [np.zeros(0, np.float32)]
        )
        order = np.lexsort((rank, glance))
        parent = np.full(len(glance), -1, dtype=np.int64)
        return Edges(glance[order], parent, rank[order], weight[order])

    def paths(self, glance: IntArray, rank: IntArray) -> list[Path]:
        """Return the first path, from the output down, of each object (glance, rank)."""
        if self.edges is None:
            return [
                (self._names[(g, r)],) for g, r in zip(glance.tolist(), rank.tolist(), strict=True)
            ]
        up = self._first_parent
        paths = []
        for g, r in zip(glance.tolist(), rank.tolist(), strict=True):
            path: list[str] = []
            while r >= 0:
                path.append(self._names[(g, r)])
                r = up[(g, r)]
            paths.append(tuple(reversed(path)))
        return paths

    @cached_property
    def _names(self) -> dict[tuple[int, int], str]:
        """(glance, rank) -> module name."""
        return {
            (g, r): c.members[j]
            for c in self.columns.values()
            for g, r, j in zip(c.glance.tolist(), c.rank.tolist(), c.member.tolist(), strict=True)
        }

    @cached_property
    def _first_parent(self) -> dict[tuple[int, int], int]:
        """(glance, rank of child) -> rank of its first parent."""
        e = self.all_edges()
        first: dict[tuple[int, int], int] = {}
        for g, p, c in zip(e.glance.tolist(), e.parent.tolist(), e.child.tolist(), strict=True):
            first.setdefault((g, c), p)
        return first

    def cpu(self) -> Trace:
        """Return the trace with its attributes on the host."""
        return self._map(lambda a: a.cpu())

    def _map(self, function: Any) -> Trace:
        columns = {
            name: Column(
                name, c.members, function(c.attributes), c.glance, c.member, c.rank, c.weight
            )
            for name, c in self.columns.items()
        }
        return Trace(columns, self.num_glances, self.edges, self.coverage, self.references)


def _object_column(name: str, entries: Sequence[Entry]) -> Column:
    """Make the column of one module from its hand-built objects."""
    sizes = {len(attribute) for *_, attribute in entries}
    if len(sizes) > 1:
        raise ValueError(
            f"objects of module {name!r} have attributes of {sorted(sizes)} numbers; a module's "
            "attributes must all have one size"
        )
    return Column(
        name,
        (name,),
        check_attributes(name, torch.stack([attribute for *_, attribute in entries])),
        np.array([glance for glance, *_ in entries], dtype=np.int64),
        np.zeros(len(entries), dtype=np.int64),
        np.array([rank for _, rank, *_ in entries], dtype=np.int64),
        check_weights(name, [weight for _, _, weight, _ in entries], len(entries)),
    )


def _join(name: str, traces: Sequence[Trace], starts: IntArray) -> Column:
    """Join one family's columns of several traces."""
    parts = [
        (t.columns[name], int(s))
        for t, s in zip(traces, starts, strict=False)
        if name in t.columns
    ]
    first = parts[0][0]
    for c, _ in parts[1:]:
        if c.size != first.size or c.members != first.members:
            raise ValueError(
                f"module {name!r} has attributes of {c.size} numbers in one trace and "
                f"{first.size} in another; traces of different networks cannot be joined"
            )
    return Column(
        name,
        first.members,
        torch.cat([c.attributes for c, _ in parts]),
        np.concatenate([c.glance + s for c, s in parts]),
        np.concatenate([c.member for c, _ in parts]),
        np.concatenate([c.rank for c, _ in parts]),
        np.concatenate([c.weight for c, _ in parts]),
    )


def _join_edges(parts: Sequence[Edges | None], starts: IntArray) -> Edges:
    """Join edges of several traces, glance after glance."""
    given = [(e, int(s)) for e, s in zip(parts, starts, strict=False) if e is not None]
    return Edges(
        np.concatenate([e.glance + s for e, s in given]),
        np.concatenate([e.parent for e, _ in given]),
        np.concatenate([e.child for e, _ in given]),
        np.concatenate([e.weight for e, _ in given]),
    )


def _select_edges(edges: Edges | None, wanted: IntArray, total: int) -> Edges | None:
    """Edges of the wanted glances, in the wanted order."""
    if edges is None:
        return None
    rows, glance = _select_rows(edges.glance, wanted, total)
    return Edges(glance, edges.parent[rows], edges.child[rows], edges.weight[rows])


def _select_rows(glance: IntArray, wanted: IntArray, total: int) -> tuple[IntArray, IntArray]:
    """Rows whose glance is wanted, in the wanted order, and their new glance numbers."""
    counts = np.bincount(glance, minlength=total)
    begin = np.concatenate([[0], np.cumsum(counts)])
    lengths = counts[wanted]
    new = np.repeat(np.arange(len(wanted)), lengths)
    within = np.arange(len(new)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return begin[wanted][new] + within, new
