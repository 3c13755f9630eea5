"""Which glances are like this one: cosine of sketches, whole or of one module's part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import Answer, interval
from recollect._checks import RecipeMismatch, check_integer
from recollect.recall.faded import faded_notes, left_notes, vector_of
from recollect.recall.glances import Glance, only
from recollect.recall.reading import (
    Selection,
    describe,
    glance_row,
    glance_rows,
    plural,
    single_sketch,
)
from recollect.sketching.sketches import Sketches
from recollect.tracing import Object, Trace

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["similar"]


@dataclass(frozen=True, eq=False)
class Probe:
    """The vector that is searched for.

    Attributes:
        vector: (d,) float32.
        words: what it is.
        left_out: id of the queried glance, or None.
        notes: what the reader should know.
    """

    vector: npt.NDArray[np.float32]
    words: str
    left_out: int | None = None
    notes: Sequence[str] = ()


def similar(
    memory: Memory,
    query: int | Trace | Sketches | Object,
    k: int = 10,
    module: str | None = None,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
) -> Answer:
    """Find the glances most similar to a glance, a trace, a sketch or an object.

    The score is the cosine of the sketches. It estimates the cosine of everything that the two
    glances hold; low and high say within which that lies (90 %), from the deviation
    ``(1 - cosine^2) / sqrt(dim)`` of random projections. A glance that has faded is compared by
    the numbers that it keeps, with a wider interval.

    Args:
        memory: a Memory.
        query: id of a glance (which is left out of the answer), a trace of one glance, one
            sketch made with ``memory.sketcher`` (whole, or a prefix: then prefixes are compared),
            or a hand-built object.
        k: how many glances.
        module: compare only what this module saw: the query's part of that module is searched
            for in whole sketches, so a glance with more else in it scores lower.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.

    Returns:
        An Answer ordered by score: ``glance`` (id), ``time``, ``source`` and labels,
        ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the glance or the module is not known, or the query holds nothing of it.
        RecipeMismatch: if a sketch was made with another recipe, or with other scales.
        ValueError: if the query is not exactly one glance, or ``k`` is less than 1.
        TypeError: if it is something else.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> def scene(x):
        ...     face = Object("face", [x])
        ...     return [Object("cat", [x, 1.0], weight=0.5, inputs=[face])]
        >>> t = Trace.from_objects([scene(x) for x in (1.0, 1.1, 5.0)])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3], source="hall")
        >>> recall.similar(memory, 1, k=1)
        1 glance most similar to glance 1 · 2026-01-01T08:00:00+00:00 · hall
        glance                       time  source  estimate     low   high
             2  2026-01-01T08:00:00+00:00    hall    0.99...  0.99...  0.99...
        estimate is the cosine of the sketches
        glance 1 itself is left out
        >>> memory.close()
    """
    check_integer("k", k, minimum=1)
    if module is not None:
        memory.modules.id_of(module)
    chosen = Selection.of(where, since, until)
    probe = _probe(memory, query, module)
    norm = float(np.linalg.norm(probe.vector))
    if norm == 0:
        raise ValueError(f"{probe.words} holds nothing to search for: its sketch is zero")
    extra = 0 if probe.left_out is None else 1
    ids, found = memory.search(probe.vector, k=k + extra, **chosen.arguments)
    scores = np.asarray(found, dtype=np.float64)
    notes = ["estimate is the cosine of the sketches", *probe.notes]
    if probe.left_out is not None:
        kept = ids != probe.left_out
        ids, scores = ids[kept][:k], scores[kept][:k]
        notes.append(f"glance {probe.left_out} itself is left out")
    title = f"{plural(len(ids), 'glance')} most similar to {probe.words}{chosen.words}"
    notes += [*faded_notes(memory, ids), *left_notes(memory, chosen, counted=False)]
    dim = np.minimum(memory.kept(ids.tolist()), len(probe.vector))
    return _answer(memory, ids, scores, dim, title, notes)


def _probe(memory: Memory, query: int | Trace | Sketches | Object, module: str | None) -> Probe:
    part = f"module {module!r} of " if module else ""
    if isinstance(query, Object):
        return _of_object(memory, query, module)
    if isinstance(query, Trace):
        _one(len(query), "trace")
        return Probe(
            _of_trace(memory, query, module), f"{part}the given trace", notes=_new(memory, query)
        )
    if isinstance(query, Sketches):
        _one(len(query), "sketch")
        _check_scales(memory, query)
        if module is None:
            return Probe(vector_of(query), "the given sketch")
        glance = Glance.decode(memory, query)
        vector = _of_trace(memory, glance.trace, module)
        return Probe(vector, f"{part}the given sketch", notes=glance.notes)
    if isinstance(query, bool) or not hasattr(query, "__index__"):
        raise TypeError(
            "a query is the id of a glance, a Trace, Sketches or an Object, got "
            f"{type(query).__name__}"
        )
    number = int(query.__index__())
    words = part + describe(glance_row(memory, number), number)
    if module is None:
        return Probe(vector_of(single_sketch(memory, number)), words, number)
    glance = Glance.read(memory, number)
    return Probe(_of_trace(memory, glance.trace, module), words, number, glance.notes)


def _of_object(memory: Memory, query: Object, module: str | None) -> Probe:
    """Search for an object (with its inputs), or for one module's part of it."""
    trace = Trace.from_objects([[query]])
    for name in trace.modules:
        memory.modules.id_of(name)
    chosen = trace if module is None else only(trace, module)
    part = f"module {module!r} of " if module else ""
    vector = memory.sketcher.probe(chosen).cpu().numpy()
    return Probe(vector, f"{part}the given object of {query.module!r}")


def _of_trace(memory: Memory, trace: Trace, module: str | None) -> npt.NDArray[np.float32]:
    if module is not None:
        return np.asarray(memory.sketcher.probe(only(trace, module)).cpu().numpy(), np.float32)
    sketcher = memory.sketcher
    if _new(memory, trace):
        # A question must not add modules to the memory: use a table of its own.
        sketcher = sketching.Sketcher.from_recipe(memory.recipe, memory.modules.copy())
    return np.asarray(sketcher.encode(trace).values[0].cpu().numpy(), np.float32)


def _new(memory: Memory, trace: Trace) -> list[str]:
    """Say which modules of a query the memory has never seen."""
    new = [repr(name) for name in trace.columns if name not in memory.modules]
    if not new:
        return []
    return [
        f"the memory has never seen {', '.join(new[:5])}{' ...' if len(new) > 5 else ''}: nothing "
        "can be like it there, and all scores are lower for it"
    ]


def _one(number: int, kind: str) -> None:
    if number != 1:
        raise ValueError(
            f"a query is one glance, got a {kind} of {number}; choose one: query[i], or "
            f"{'sum() for all of them' if kind == 'sketch' else 'ask one by one'}"
        )


def _check_scales(memory: Memory, query: Sketches) -> None:
    """Refuse sketches that were not made as this memory makes them.

    Raises:
        RecipeMismatch: on another recipe, or other scales.
    """
    hint = "encode the query with memory.sketcher"
    try:
        memory.recipe.check_same(query.recipe)
    except RecipeMismatch as error:
        raise RecipeMismatch(f"{error}\n{hint}") from error
    if query.modules is memory.modules:
        return
    for entry in query.modules:
        known = "is unknown to it"
        if entry.name in memory.modules:
            mine = memory.modules[entry.name]
            if (mine.scale, mine.size, mine.members) == (entry.scale, entry.size, entry.members):
                continue
            known = f"has scale {mine.scale:.6g} in it"
        raise RecipeMismatch(
            f"the query was not made like this memory's sketches: module {entry.name!r} has scale "
            f"{entry.scale:.6g} there and {known}; {hint}"
        )


def _answer(
    memory: Memory,
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
    dim: npt.NDArray[np.int64],
    title: str,
    notes: list[str],
) -> Answer:
    std = (1 - np.clip(np.square(scores), 0, 1)) / np.sqrt(dim)
    low, high = interval(scores, std)
    return Answer(
        {
            "glance": ids,
            **glance_rows(memory, ids.tolist()),
            "estimate": scores,
            "low": np.maximum(low, -1.0),
            "high": np.minimum(high, 1.0),
        },
        title=title,
        notes=notes,
    )
