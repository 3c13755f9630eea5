"""Networks that assemble modules anew for every input: the layout is the glance's DAG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.columns import Column, Edges, Trace
from recollect.tracing.folding import Layout, Reduce, reduction, tensors
from recollect.tracing.tables import check_attributes
from recollect.tracing.views import Piece, Run, View

__all__ = ["LayoutView"]

IntArray = npt.NDArray[np.int64]


@dataclass(eq=False)
class _Applied:
    """A module applied once: to which outputs, for which glances.

    Attributes:
        name: of the module, with the words it was called with in brackets.
        attribute: (n, m), one row per glance concerned.
        glances: (n,) their numbers; None: not said.
        inputs: numbers of the applications whose outputs it took, in the order of its arguments.
    """

    name: str
    attribute: Tensor
    glances: tuple[int, ...] | None
    inputs: list[int]


class LayoutView(View):
    """Modules that a network puts together anew for every input: neural module networks.

    Every application of a module is an object. Its inputs are the applications whose outputs it
    took: a tensor that one module puts out and another takes, as it is or as a view of it, is an
    edge. Its attribute is its pooled output. So the layout that was chosen for a question is the
    glance's DAG; an output that two modules took is one shared object.

    Which glances an application is about: all of the batch, if the network says nothing. A
    network that runs the questions of each layout together keeps the numbers of their glances in
    ``layout_rows`` while it does so. One that runs question after question need not: the n-th
    tree of applications is the n-th question. A module that is told in words what to look for
    (``find(features, "black")``) appears as ``find[black]``.

    The modules are the members of the network's ``nn.ModuleDict``, under their names there, or
    those named in its attribute ``layout_modules``, or in ``modules=``.

    Args:
        reduce: how outputs with positions are pooled, as for ``view="modules"``; a function gets
            an output (n, ...) and returns (n, m).
        rows: function from the network to the numbers of the glances that the running modules
            are about, None for all; by default its attribute ``layout_rows``.

    Raises:
        ValueError: where the network holds no modules to assemble, or it cannot be told which
            glance an application belongs to, or no application took another's output.

    Reference: "Neural module networks" (Andreas, Rohrbach, Darrell and Klein, 2016).

    Example:
        >>> from recollect import trace
        >>> class Sums(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         parts = {"twice": nn.Linear(2, 2), "join": nn.Bilinear(2, 2, 1)}
        ...         self.parts = nn.ModuleDict(parts)
        ...     def forward(self, x):
        ...         y = self.parts["twice"](x)
        ...         return self.parts["join"](y, y)
        >>> t = trace(Sums(), torch.ones(3, 2), view="layout")
        >>> t.modules, t.objects("twice").path[0]
        (('join', 'twice'), ('join', 'twice'))
    """

    def __init__(
        self, reduce: Reduce = "mean", rows: Callable[[nn.Module], Any] | None = None
    ) -> None:
        self._own = reduce if callable(reduce) else None
        self._reduce = None if callable(reduce) else reduction(reduce)
        if rows is not None and not callable(rows):
            raise TypeError(
                f"rows must be a function from the network to glance numbers, got {rows!r}"
            )
        self._rows = rows or (lambda model: getattr(model, "layout_rows", None))
        self._model: nn.Module | None = None
        self._short: dict[str, str] = {}
        self._forget()

    def _forget(self) -> None:
        self._applied: list[_Applied] = []
        self._last: tuple[Any, tuple[int, ...]] | None = None  # rows as said, and as numbers
        self._made: dict[int, int] = {}  # storage of an output -> application
        self._alive: list[Tensor] = []  # so that no storage is used again within the forward

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the modules that are assembled: those asked for, or a ``ModuleDict``'s."""
        self._model = model
        self._forget()
        wished = modules if modules is not None else getattr(model, "layout_modules", None)
        chosen = choose_modules(model, wished) if wished else _members_of_dicts(model)
        self._short = _shortened(list(chosen))
        return chosen

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Note one application: what it took, what it put out, for which glances."""
        found, _ = tensors(output)
        name = run.calls[call].name.split("#")[0]
        if not found or self._model is None:
            run.no_tensor.add(name)
            return
        count = len(found[0]) if found[0].dim() else 0
        glances = self._said()
        if glances is None and count == run.batch:
            glances = tuple(range(run.batch))
        leaves = args if all(isinstance(a, Tensor) for a in args) else pytree.tree_leaves(args)
        words = [a for a in leaves if isinstance(a, str)]
        label = self._short[name] + (f"[{', '.join(words)}]" if words else "")
        _check_rows(label, glances, count, run.batch)
        attribute = self._pooled(label, found, count, module)
        inputs = _distinct(
            self._made[t.untyped_storage().data_ptr()]
            for t in leaves
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() in self._made
        )
        for t in found:
            self._made[t.untyped_storage().data_ptr()] = len(self._applied)
            self._alive.append(t)
        self._applied.append(_Applied(label, attribute, glances, inputs))

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects are put together when the forward is over."""
        return None

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Build the glances from the applications of this forward."""
        applied = self._applied
        self._forget()
        if not applied:
            return
        if any(a.glances is None for a in applied):
            _number_trees(applied, run.batch)
        if len({a.glances for a in applied}) < len(applied) and not any(a.inputs for a in applied):
            raise ValueError(
                "no module took what another put out, so the layout cannot be told: pass outputs "
                "from module to module as they are (a copy or a sum made in between breaks the "
                "chain; make the step a module too)"
            )
        run.built = _glances(applied, run.batch)
        run.times = dict.fromkeys(run.times, 1)

    def _said(self) -> tuple[int, ...] | None:
        """Return the glances that the network says its modules are about at the moment."""
        said = self._rows(self._model) if self._model is not None else None
        if said is None:
            return None
        if self._last is None or self._last[0] is not said:
            self._last = said, tuple(torch.as_tensor(said).reshape(-1).tolist())
        return self._last[1]

    def _pooled(self, label: str, found: list[Tensor], count: int, module: nn.Module) -> Tensor:
        """Return the (n, m) attributes of one application's outputs, joined."""
        if self._own is not None:
            rows = [self._own(t) for t in found]
        else:
            assert self._reduce is not None
            folded = [Layout(count).fold(t, module) for t in found]
            rows = [self._reduce(t) if t.dim() == 3 else t for t in folded if t is not None]
        if not rows or any(r.dim() != 2 or len(r) != count for r in rows):
            raise ValueError(
                f"the output of {label!r} cannot be pooled to one row per glance: shapes "
                f"{[tuple(t.shape) for t in found]} for {count}; pass reduce=, a function from "
                "an output (n, ...) to (n, numbers)"
            )
        return torch.cat([r.detach().float() for r in rows], 1).clone()


def _members_of_dicts(model: nn.Module) -> dict[str, nn.Module]:
    """Return the members of all ``ModuleDict``s of a network, by full name.

    Raises:
        ValueError: if there is none.
    """
    found = {
        f"{name}.{key}" if name else key: child
        for name, m in model.named_modules()
        if isinstance(m, nn.ModuleDict)
        for key, child in m.items()
    }
    if not found:
        raise ValueError(
            'view="layout" needs a network that assembles named modules by a layout; '
            f"{type(model).__name__} holds no torch.nn.ModuleDict: name the modules with "
            "modules=, or in its attribute layout_modules"
        )
    return found


def _shortened(names: list[str]) -> dict[str, str]:
    """Return full name -> the name without the holder's, where that is still unambiguous."""
    last = [n.rsplit(".", 1)[-1] for n in names]
    same = len(set(last)) < len(last)
    return {n: n if same else s for n, s in zip(names, last, strict=True)}


def _check_rows(label: str, glances: tuple[int, ...] | None, count: int, batch: int) -> None:
    """Refuse an output whose rows cannot be said to belong to glances."""
    if glances is None:
        if count != 1:
            raise ValueError(
                f"module {label!r} put out {count} rows in a batch of {batch}: which glances are "
                "they? Let the network keep their numbers in its attribute layout_rows while it "
                "runs a layout, or pass rows=, a function from the network to these numbers"
            )
        return
    if (
        len(glances) != count
        or len(set(glances)) < count
        or not all(0 <= g < batch for g in glances)
    ):
        raise ValueError(
            f"layout_rows must name one glance of the batch of {batch} for each of the {count} "
            f"rows that module {label!r} put out, each once; got {list(glances)[:8]}"
        )


def _distinct(numbers: Any) -> list[int]:
    return list(dict.fromkeys(numbers))


def _number_trees(applied: list[_Applied], batch: int) -> None:
    """Say which glance each application is about where the questions were run one by one.

    Raises:
        ValueError: if there are not as many trees as glances.
    """
    tree = list(range(len(applied)))

    def root(i: int) -> int:
        while tree[i] != i:
            i = tree[i]
        return i

    for i, a in enumerate(applied):
        for j in a.inputs:
            if a.glances is None and applied[j].glances is None:
                tree[root(i)] = root(j)
    open_ones = [i for i, a in enumerate(applied) if a.glances is None]
    order = {r: n for n, r in enumerate(_distinct(root(i) for i in open_ones))}
    if len(order) != batch:
        raise ValueError(
            f"the applications of one row each form {len(order)} trees, but the batch has {batch} "
            "glances: the network should keep the number of the running one in its attribute "
            "layout_rows, and pass outputs from module to module as they are"
        )
    for i in open_ones:
        applied[i].glances = (order[root(i)],)


@dataclass(eq=False)
class _Laid:
    """One layout and the glances that had it.

    Attributes:
        glances: (n,) their numbers.
        objects: places of the applications, depth first, in the list of all.
        edges: (E, 2) ranks of parent (-1: the output) and child, depth first.
    """

    glances: IntArray
    objects: list[int]
    edges: IntArray


def _glances(applied: Sequence[_Applied], batch: int) -> Trace:
    """Put the applications together to a trace."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, a in enumerate(applied):
        assert a.glances is not None
        groups.setdefault(a.glances, []).append(place)
    shared = _whole(groups, batch)
    laid = [_lay(applied, rows, members, shared) for rows, members in groups.items()]
    parts: dict[str, list[tuple[Tensor, IntArray, IntArray]]] = {}
    for one in laid:
        for rank, place in enumerate(one.objects):
            a = applied[place]
            rows = (
                a.attribute
                if a.glances == tuple(one.glances)
                else a.attribute[torch.from_numpy(one.glances)]
            )
            parts.setdefault(a.name, []).append(
                (rows, one.glances, np.full(len(one.glances), rank, dtype=np.int64))
            )
    columns = {name: _column(name, some) for name, some in parts.items()}
    return Trace(columns, batch, _edges(laid))


def _whole(groups: dict[tuple[int, ...], list[int]], batch: int) -> list[int]:
    """Take out the applications to the whole batch where others are to parts of it.

    What was computed for all (a stem) belongs to the layouts that took it.
    """
    everyone = tuple(range(batch))
    return groups.pop(everyone) if len(groups) > 1 and everyone in groups else []


def _lay(
    applied: Sequence[_Applied], rows: tuple[int, ...], members: list[int], shared: list[int]
) -> _Laid:
    """Rank one layout's applications depth first, from those that no other took."""
    own = set(members) | set(shared)
    taken = {i for place in members for i in applied[place].inputs}
    ranks: dict[int, int] = {}
    edges: list[tuple[int, int]] = []
    stack = [(-1, place) for place in reversed(members) if place not in taken]
    while stack:
        parent, place = stack.pop()
        known = place in ranks
        rank = ranks.setdefault(place, len(ranks))
        edges.append((parent, rank))
        if not known:
            stack.extend((rank, i) for i in reversed(applied[place].inputs) if i in own)
    return _Laid(np.array(rows, dtype=np.int64), list(ranks), np.array(edges, dtype=np.int64))


def _column(name: str, parts: Sequence[tuple[Tensor, IntArray, IntArray]]) -> Column:
    """Join the applications of one module, by glance, then rank."""
    sizes = {int(a.shape[1]) for a, _, _ in parts}
    if len(sizes) > 1:
        raise ValueError(
            f"module {name!r} put out {sorted(sizes)} numbers in different applications; a "
            "module's attributes keep one size: pool them alike with reduce="
        )
    glance = np.concatenate([g for _, g, _ in parts])
    rank = np.concatenate([r for _, _, r in parts])
    order = np.lexsort((rank, glance))
    attributes = torch.cat([a for a, _, _ in parts])[torch.from_numpy(order)]
    return Column(
        name, (name,), check_attributes(name, attributes), glance[order],
        np.zeros(len(order), dtype=np.int64), rank[order], np.ones(len(order), dtype=np.float32),
    )  # fmt: skip


def _edges(laid: Sequence[_Laid]) -> Edges:
    """Spell out the edges of all glances, by glance, then depth first."""
    glance = np.concatenate([np.repeat(one.glances, len(one.edges)) for one in laid])
    pairs = np.concatenate([np.tile(one.edges, (len(one.glances), 1)) for one in laid])
    order = np.argsort(glance, kind="stable")
    ones = np.ones(len(glance), dtype=np.float32)
    return Edges(glance[order], pairs[order, 0], pairs[order, 1], ones)
