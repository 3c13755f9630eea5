"""Look-ups in embedding tables: a sentence, or a walk, as the rows that it looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.columns import Column, Trace
from recollect.tracing.folding import Layout
from recollect.tracing.tables import check_attributes, check_weights
from recollect.tracing.views import Piece, Run, View

__all__ = ["LookupsView"]

IntArray = npt.NDArray[np.int64]
Names = Sequence[str] | Mapping[str, Sequence[str]] | None
_TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(eq=False)
class _LookedUp:
    """The look-ups of one call of a table, sorted by module once: columns are slices of them.

    Attributes:
        table: name of the table.
        place: (n,) number of each look-up's module, ascending.
        glance: (n,) ascending within a module.
        nth: (n,) place among the call's look-ups of its glance.
        weight: (n,) of the look-ups.
        vectors: (n, m) what was found.
        counts: (B,) look-ups of each glance.
    """

    table: str
    place: npt.NDArray[Any]
    glance: IntArray
    nth: IntArray
    weight: npt.NDArray[np.float32]
    vectors: Tensor
    counts: IntArray


class LookupsView(View):
    """Each row looked up in an embedding table is an object: words of a sentence, nodes of a walk.

    The attribute is the row's vector. The first ``named`` rows (vocabularies begin with what is
    frequent) are modules of their own, so that they are counted; all others are objects of one
    module, the table's ``other``, and told apart by their attributes. Objects stand in the order
    of the look-ups. The row of ``padding_idx`` is left out.

    Args:
        names: what the rows are called, by number; a mapping table -> names for several tables;
            None: ``row 0``, ``row 1``, ...
        named: how many of the first rows, or which rows, are modules of their own.
        skip: rows that are left out, besides the padding.

    Raises:
        ValueError: if the network has no embedding table, names are missing or occur twice, or
            rows were looked up that belong to no item of the batch.

    Example:
        >>> from recollect import trace
        >>> net = nn.Sequential(nn.Embedding(5, 2), nn.Flatten())
        >>> t = trace(net, torch.tensor([[0, 1], [1, 4]]), view="lookups", named=2,
        ...           names=["the", "cat", "sat", "on", "mat"])
        >>> t, t.modules, t.objects("cat").glance.tolist()
        (Trace(2 glances, 3 modules, 4 objects), ('the', 'cat', 'other'), [0, 1])
    """

    def __init__(
        self, names: Names = None, named: int | Iterable[int] = 256, skip: Iterable[int] = ()
    ) -> None:
        self._names, self._skip = names, frozenset(int(r) for r in skip)
        if isinstance(named, Iterable):
            self._named: range | list[int] = [check_integer("named", r, minimum=0) for r in named]
        else:
            self._named = range(check_integer("named", named, minimum=0))
        self._tables: dict[str, _Table] = {}
        self._found: list[_LookedUp] = []

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the embedding tables."""
        chosen: dict[str, nn.Module]
        if modules is None:
            found = model.named_modules()
            chosen = {n or type(m).__name__: m for n, m in found if isinstance(m, _TABLES)}
        else:
            chosen = choose_modules(model, modules)
        wrong = [n for n, m in chosen.items() if not isinstance(m, _TABLES)]
        if wrong or not chosen:
            what = f"{wrong[0]!r} is none" if wrong else f"{type(model).__name__} holds none"
            raise ValueError(
                'view="lookups" needs embedding tables, torch.nn.Embedding or EmbeddingBag; '
                f"{what}. Look-ups by indexing or torch.nn.functional.embedding cannot be seen"
            )
        self._found = []
        several = len(chosen) > 1
        self._tables = {n: self._table(n, m, several) for n, m in chosen.items()}
        return chosen

    def _table(self, name: str, module: nn.Module, several: bool) -> _Table:
        """Name a table's rows."""
        size = int(module.num_embeddings)  # type: ignore[arg-type]
        names = self._names.get(name) if isinstance(self._names, Mapping) else self._names
        if names is not None and len(names) != size:
            raise ValueError(
                f"table {name!r} has {size} rows, but {len(names)} names are given; name every row"
                + (", with a mapping from tables to names" if several else "")
            )
        rows = [r for r in self._named if r < size]
        prefix = f"{name}/" if several else ""
        called = [prefix + (f"row {r}" if names is None else str(names[r])) for r in rows]
        other = f"{prefix}other"
        if len(set(called)) < len(called) or other in called:
            twice = next((c for c in called if called.count(c) > 1), other)
            raise ValueError(
                f"two rows of table {name!r} are called {twice!r}; give each row a name of its "
                f"own ({other!r} is the module of the rows without one)"
            )
        padding = getattr(module, "padding_idx", None)
        left_out = self._skip | ({int(padding)} if padding is not None else set())
        place = np.full(size, len(rows), dtype=np.int64)
        place[rows] = np.arange(len(rows))
        place[[r for r in left_out if r < size]] = -1
        # Few modules are sorted by their digits, in linear time.
        small = place.astype(np.int16) if len(rows) < 2**15 else place
        return _Table((*called, other), small)

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Note which rows were looked up, for which glance."""
        name = run.calls[call].name.split("#")[0]
        ids = args[0] if args else None
        if not isinstance(ids, Tensor):
            raise ValueError(
                f"table {name!r} was not given its rows as its first argument; call it as "
                "table(rows), not with named arguments only"
            )
        weight: Tensor | None = None
        if isinstance(module, nn.EmbeddingBag):
            offsets = args[1] if len(args) > 1 else None
            weight = args[2] if len(args) > 2 else None
            if ids.dim() == 1:
                bags = _bags(name, offsets, len(ids), module.include_last_offset)
                run.layout = replace(run.layout, batch=bags[1])
                glance = bags[0]
            else:
                glance = np.repeat(np.arange(len(ids)), ids.shape[1])
        else:
            each = ids[0].numel() if ids.dim() else 1
            glance = np.repeat(np.arange(len(ids) if ids.dim() else 1), each)
        if (len(glance) and int(glance[-1]) >= run.batch) or (
            ids.dim() > 1 and len(ids) != run.batch
        ):
            run.not_folded.append((name, tuple(ids.shape)))
            return
        rows = ids.reshape(-1).cpu().numpy()
        self._found.append(self._sorted(name, module, rows, glance, weight, run.batch))

    def _sorted(
        self,
        name: str,
        module: nn.Module,
        rows: IntArray,
        glance: IntArray,
        weight: Tensor | None,
        batch: int,
    ) -> _LookedUp:
        """Sort look-ups by module, and find their vectors in that order."""
        place = self._tables[name].place[rows]
        kept = np.flatnonzero(place >= 0)
        place, glance = place[kept], glance[kept]
        counts = np.bincount(glance, minlength=batch)
        nth = np.arange(len(kept)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = np.argsort(place, kind="stable")
        chosen = kept[order]
        heavy = np.ones(len(kept), dtype=np.float32)
        if weight is not None:
            heavy = check_weights(name, weight.reshape(-1).cpu().numpy(), len(rows))[chosen]
        table: Any = module.weight
        vectors = table.detach()[torch.from_numpy(rows[chosen]).to(table.device)]
        return _LookedUp(
            name, place[order], glance[order], nth[order], heavy,
            check_attributes(name, vectors), counts,
        )  # fmt: skip

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects are put together when the forward is over."""
        return None

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Rank the look-ups of all tables in their order."""
        found, self._found = self._found, []
        if not found and run.not_folded:
            name, shape = run.not_folded[0]
            raise ValueError(
                f"rows of shape {shape} were looked up in {name!r}, but the batch has {run.batch} "
                "items: the first axis must be that of the batch"
            )
        begin = np.zeros(run.batch, dtype=np.int64)
        columns: dict[str, Column] = {}
        for one in found:
            self._split(one, one.nth + begin[one.glance], columns)
            begin = begin + one.counts
        run.built = Trace(columns, run.batch)

    def _split(self, one: _LookedUp, rank: IntArray, columns: dict[str, Column]) -> None:
        """Make a column of every module that was looked up."""
        names = self._tables[one.table].names
        number = len(one.place)
        cuts = [0, *(np.flatnonzero(np.diff(one.place)) + 1).tolist(), number] if number else []
        member = np.zeros(number, dtype=np.int64)
        vectors = torch.split(one.vectors, np.diff(cuts).tolist()) if cuts else ()
        for (a, b), own in zip(pairwise(cuts), vectors, strict=True):
            name = names[one.place[a]]
            made = Column(name, (name,), own, one.glance[a:b], member[a:b], rank[a:b],
                          one.weight[a:b])  # fmt: skip
            columns[name] = made if name not in columns else _joined(columns[name], made)


@dataclass(frozen=True, eq=False)
class _Table:
    """Names of a table's modules, and the place of each row's among them (-1: left out)."""

    names: tuple[str, ...]
    place: npt.NDArray[Any]


def _bags(name: str, offsets: Any, total: int, has_end: bool) -> tuple[IntArray, int]:
    """Return the bag of each look-up, and how many bags there are."""
    if not isinstance(offsets, Tensor):
        raise ValueError(
            f"table {name!r} took rows in one line without offsets, so it cannot be told which "
            "glance they belong to; pass offsets, or rows of shape (batch, rows)"
        )
    starts = offsets.cpu().numpy().astype(np.int64)
    ends = np.append(starts[1:], total) if not has_end else starts[1:]
    starts = starts[: len(ends)]
    return np.repeat(np.arange(len(starts)), ends - starts), len(starts)


def _joined(a: Column, b: Column) -> Column:
    """Join two columns of one module of one forward, by glance, then rank."""
    glance, rank = np.concatenate([a.glance, b.glance]), np.concatenate([a.rank, b.rank])
    order = np.lexsort((rank, glance))
    return replace(
        a, attributes=torch.cat([a.attributes, b.attributes])[torch.from_numpy(order)],
        glance=glance[order], member=np.zeros(len(order), dtype=np.int64), rank=rank[order],
        weight=np.concatenate([a.weight, b.weight])[order],
    )  # fmt: skip
