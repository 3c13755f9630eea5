"""Watching any ``nn.Module`` through forward hooks that reduce at once and hold nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recollect._checks import check_one_of
from recollect.tracing.assembling import assemble
from recollect.tracing.attention import AttentionView
from recollect.tracing.capsules import CapsulesView
from recollect.tracing.cells import CellsView
from recollect.tracing.choosing import Modules, original
from recollect.tracing.classes import ClassesView
from recollect.tracing.columns import Trace
from recollect.tracing.coverage import Coverage
from recollect.tracing.detections import DetectionsView
from recollect.tracing.experts import ExpertsView
from recollect.tracing.folding import Layout, Reduce, batch_size
from recollect.tracing.kernels import KernelsView
from recollect.tracing.layouts import LayoutView
from recollect.tracing.lookups import LookupsView
from recollect.tracing.paths import PathView
from recollect.tracing.views import ModulesView, Run, View

__all__ = ["Capture", "capture", "trace"]

_VIEWS: dict[str, type[View]] = {
    "modules": ModulesView,
    "kernels": KernelsView,
    "cells": CellsView,
    "classes": ClassesView,
    "detections": DetectionsView,
    "attention": AttentionView,
    "experts": ExpertsView,
    "capsules": CapsulesView,
    "layout": LayoutView,
    "lookups": LookupsView,
    "path": PathView,
}
# Views that take ``reduce=``.
_REDUCED = ("modules", "layout", "path")


class Capture:
    """Hooks on a network, as long as the ``with`` block lasts. Made by ``capture``."""

    def __init__(
        self,
        model: nn.Module,
        modules: Modules,
        view: View,
        nested: bool,
        layout: Layout,
    ) -> None:
        self._outer, self._model = model, original(model)
        self._view, self._nested, self._layout = view, nested, layout
        self._watched = view.choose(self._model, modules, nested)
        self._handles: list[Any] = []
        self._run: Run | None = None
        self._done: list[Run] = []
        self._outside: set[str] = set()

    def __repr__(self) -> str:
        waiting = sum(r.batch for r in self._done)
        return f"Capture({len(self._watched)} modules watched, {waiting} glances waiting)"

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the watched modules."""
        return tuple(self._watched)

    def __enter__(self) -> Capture:
        if self._handles:
            raise RuntimeError("this capture is already open; make a second one with capture()")
        # A compiled network that was compiled before calls no inner hook: its shell is watched,
        # so that the coverage can say so.
        shells = {id(m): m for m in (self._outer, self._model)}.values()
        for shell in shells:
            begin = shell.register_forward_pre_hook(self._begin, with_kwargs=True)
            self._handles.append(begin)
        for name, module in self._watched.items():
            if self._nested:
                self._handles.append(module.register_forward_pre_hook(self._enter(name)))
            self._handles.append(self._view.attach(module, self._leave(name)))
        for shell in shells:
            self._handles.append(shell.register_forward_hook(self._end))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._run = None

    def trace(self) -> Trace:
        """Return the glances seen since the last call, and forget them.

        May be called inside the ``with`` block, after each batch, so that a long loop holds
        nothing, and once after it.

        Raises:
            ValueError: if no forward was seen, or an attribute is NaN or infinite.
        """
        if not self._done:
            raise ValueError(
                "no forward of the network was seen since the last trace(); call the captured "
                "model itself inside the with block, not model.forward or another copy"
            )
        runs, self._done = self._done, []
        traces = [assemble(run, self._nested) for run in runs]
        joined = traces[0] if len(traces) == 1 else Trace.concat(traces)
        return replace(joined, coverage=self._coverage(runs))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._handles and (self._run is None or module is self._outer):
            batch = batch_size(args, kwargs, self._layout.batch_axis)
            square = _is_square(args, kwargs)
            self._run = Run(replace(self._layout, batch=batch, square=square), args, kwargs)

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            run = self._run
            if run is not None:
                run.stack.append(run.enter(name))

        return enter

    def _leave(self, name: str) -> Any:
        see, nested = self._view.see, self._nested

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            run = self._run
            if run is None:
                self._outside.add(name)
                return
            call = run.leave(name) if nested else run.enter(name)
            with torch.no_grad():
                see(run, call, module, args, output)

        return leave

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        run = self._run
        if run is None or module is not self._outer:
            return
        self._run = None
        with torch.no_grad():
            self._view.conclude(run, self._model, output)
        run.args, run.kwargs = (), {}
        self._done.append(run)

    def _coverage(self, runs: list[Run]) -> Coverage:
        most: dict[str, int] = {}
        for run in runs:
            for name, times in run.times.items():
                most[name] = max(most.get(name, 0), times)
        notes = list(dict.fromkeys(note for run in runs for note in run.notes))
        if not most:
            notes.append(
                "nothing fired: a network that was compiled before the capture calls no hooks; "
                "capture first and compile inside, or watch the uncompiled module"
            )
        if outside := self._outside - set(most):
            notes.append(f"ran outside of a forward of the network: {', '.join(sorted(outside))}")
        return Coverage(
            forwards=len(runs),
            glances=sum(run.batch for run in runs),
            fired=tuple(n for n in self._watched if n in most),
            never_fired=tuple(n for n in self._watched if n not in most),
            repeated=tuple((n, k) for n, k in most.items() if k > 1),
            no_tensor=tuple(sorted(set().union(*(run.no_tensor for run in runs)))),
            not_folded=tuple(dict.fromkeys(x for run in runs for x in run.not_folded)),
            notes=tuple(notes),
        )


def capture(
    model: nn.Module,
    modules: Modules = None,
    view: str | View = "modules",
    reduce: Reduce = "mean",
    batch_axis: int | None = None,
    structure: str = "flat",
    channel_axis: int | None = None,
    **options: Any,
) -> Capture:
    """Watch a network inside a loop that exists already.

    Every forward of ``model`` inside the ``with`` block adds its glances. ``c.trace()`` returns
    what was seen since it was last called; hooks are gone when the block is left, also by an
    exception. Gradients, training mode and the network itself are left alone. Compile the network
    inside the block (``torch.compile``), not before it.

    Args:
        model: any network.
        modules: which modules are watched: None for its blocks, a name, a pattern, a type, a
            predicate ``(name, module) -> bool``, or several of the former.
        view: ``"modules"``, ``"kernels"``, ``"cells"``, ``"classes"``, ``"detections"``,
            ``"attention"``, ``"experts"``, ``"capsules"``, ``"layout"``, ``"path"``, ``"lookups"``
            or a view.
        reduce: for views ``"modules"``, ``"layout"`` and ``"path"``: ``"mean"``, ``"max"``,
            ``"std"``, several, or a function from an output (B, ...) to (B, numbers).
        batch_axis: axis of the glances in inputs and outputs; None: the first, folding outputs
            whose first size is a multiple of the batch.
        structure: ``"flat"``, or ``"containment"`` to nest stages, blocks and layers.
        channel_axis: axis of the channels in maps and sequences; None: the second in maps, the
            last in sequences.
        **options: of the view: ``where``, ``strength`` (kernels), ``cells`` (cells), ``labels``,
            ``top``, ``head``, ``least`` (classes), ``detect``, ``features``, ``labels``,
            ``threshold`` (detections); of the other views see their classes.

    Returns:
        A context manager with ``trace()``.

    Raises:
        ValueError: if nothing is watched or an option is wrong.
        NotRemembered: if a module name is not in the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with capture(net) as c:
        ...     for batch in torch.ones(2, 4, 2):
        ...         _ = net(batch)
        >>> c.trace()
        Trace(8 glances, 2 modules, 16 objects)
    """
    nested = check_one_of("structure", structure, ("flat", "containment")) == "containment"
    layout = Layout(1, batch_axis, channel_axis)
    return Capture(model, modules, _view(view, reduce, nested, options), nested, layout)


def trace(
    model: nn.Module,
    batch: Any,
    modules: Modules = None,
    view: str | View = "modules",
    reduce: Reduce = "mean",
    batch_axis: int | None = None,
    structure: str = "flat",
    channel_axis: int | None = None,
    **options: Any,
) -> Trace:
    """Run a network once, in evaluation mode and without gradients, and return what it saw.

    The network is left exactly as it was: its training mode, hooks and attributes.

    Args:
        model: any network; of a compiled one the original is run.
        batch: its input: a tensor (or list), a tuple of arguments, or a dict of named ones.
        modules: see ``capture``, as all that follow.
        view: see ``capture``.
        reduce: see ``capture``.
        batch_axis: see ``capture``.
        structure: see ``capture``.
        channel_axis: see ``capture``.
        **options: see ``capture``.

    Raises:
        ValueError: on an empty batch, if nothing is watched, or on NaN or infinite attributes.
        NotRemembered: if a module name is not in the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> t = trace(net, torch.ones(4, 2))
        >>> t, t.coverage
        (Trace(4 glances, 2 modules, 8 objects),
         Coverage: 2 of 2 watched modules ran, 1 forward of 4 glances)
    """
    inner = original(model)
    args, kwargs = _arguments(batch)
    batch_size(args, kwargs, batch_axis)
    watch = capture(inner, modules, view, reduce, batch_axis, structure, channel_axis, **options)
    with watch, _evaluating(inner), torch.no_grad():
        inner(*args, **kwargs)
    return watch.trace()


def _view(view: str | View, reduce: Reduce, nested: bool, options: dict[str, Any]) -> View:
    """Return the view that is asked for, with its options."""
    if isinstance(view, View):
        if options:
            raise TypeError(f"options {sorted(options)} belong to a view named by a string")
        return view
    check_one_of("view", view, _VIEWS)
    if nested and view != "modules":
        raise ValueError(f'structure="containment" nests view="modules", not view={view!r}')
    if view in _REDUCED:
        options = {"reduce": reduce, **options}
    try:
        return _VIEWS[view](**options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise TypeError(f"view={view!r}: {str(error).split('__init__() ')[-1]}") from None


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and named arguments that a batch stands for."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (batch if isinstance(batch, tuple) else (batch,)), {}


def _is_square(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the first tensor that goes in is a batch of square pictures."""
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            return leaf.dim() == 4 and leaf.shape[2] == leaf.shape[3]
    return False


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, flag by flag, and put every flag back."""
    training = [m for m in model.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True
