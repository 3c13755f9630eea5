"""Which glances are like this one: cosine of sketches, whole or of a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import Answer, interval
from recollect._checks import RecipeMismatch, check_integer
from recollect.recall.faded import faded_notes, left_notes, vector_of
from recollect.recall.glances import Glance
from recollect.recall.parts import Part
from recollect.recall.reading import (
    Selection,
    describe,
    glance_row,
    glance_rows,
    plural,
    single_sketch,
)
from recollect.recall.whitening import whitened
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


@dataclass(frozen=True, eq=False)
class Wanted:
    """What of a query is searched for, and where.

    Attributes:
        memory: that is searched.
        part: of the query.
        anywhere: whether the part may stand at any place.
    """

    memory: Memory
    part: Part
    anywhere: bool

    @property
    def words(self) -> str:
        """What is meant, written before the name of the query."""
        if not self.anywhere:
            return self.part.words
        return f"{self.part.words.removesuffix(' of ') or 'all'}, wherever it stands, of "

    def image(self, trace: Trace) -> npt.NDArray[np.float32]:
        """Return the part's contribution to a sketch, or its sketch as if it stood alone."""
        sketcher = self.memory.sketcher
        if self.anywhere:
            image = sketcher.probe(self.part.lifted(trace))
        else:
            image = sketcher.probe(self.part.masked(trace))
            if self.memory.recipe.scheme == "paper":
                # Its counters stand inside the recursion and are there without any attribute.
                image = image - sketcher.probe(_silent(trace))
        return np.asarray(image.cpu().numpy(), np.float32)


def similar(
    memory: Memory,
    query: int | Trace | Sketches | Object,
    k: int = 10,
    module: str | None = None,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    *,
    path: str | Sequence[str] | None = None,
    level: int | None = None,
    anywhere: bool = False,
    whiten: bool = False,
) -> Answer:
    """Find the glances most similar to a glance, a trace, a sketch or an object.

    The score is the cosine of the sketches. It estimates the cosine of everything that the two
    glances hold; low and high say within which that lies (90 %), from the deviation
    ``(1 - cosine^2) / sqrt(dim)`` of random projections. A glance that has faded is compared by
    the numbers that it keeps, with a wider interval.

    With ``module``, ``path`` or ``level`` only a part of the query is searched for, in whole
    sketches: a glance with more else in it scores lower. What the part holds stands in the sketch
    under the operators of its place. They are half transparent, so the same objects at another
    place are seen too, fainter: with about 0.7 of the strength one level deeper or higher, half
    under another parent. ``anywhere`` searches with the part as it would look at the top, which
    treats all places below alike.

    Args:
        memory: a Memory.
        query: id of a glance (which is left out of the answer), a trace of one glance, one
            sketch made with ``memory.sketcher`` (whole, or a prefix: then prefixes are compared),
            or a hand-built object.
        k: how many glances.
        module: search only for what this module saw.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.
        path: search only for the object at this path with all that it was made from: names from
            the output down, ``"cat / face"`` (as ``why`` writes them) or ``("cat", "face")``.
        level: search only for objects at this depth; 1 is the top.
        anywhere: whether the chosen objects may stand at any place, not only where they stand in
            the query.
        whiten: whether to discount what most sketches of this memory hold. The answer is then
            ordered by, and ``estimate`` is, the amount of the query that a glance holds: 1 for as
            much as the query, 0 for none; low and high are 1.645 times the amount's root mean
            square over the memory away. The better way to find one object among many others.

    Returns:
        An Answer ordered by score: ``glance`` (id), ``time``, ``source`` and labels,
        ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the glance or the module is not known, or the query holds nothing of it
            or nothing at the path (the nearest are suggested).
        RecipeMismatch: if a sketch was made with another recipe, or with other scales.
        ValueError: if the query is not exactly one glance, ``k`` is less than 1, the level lies
            below the query's deepest objects, ``anywhere`` is asked of a memory whose scheme is
            ``keyed``, or ``whiten`` of a prefix or an empty memory.
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
        >>> recall.similar(memory, 1, k=2, path="cat / face")["glance"]
        [3, 2]
        >>> memory.close()
    """
    check_integer("k", k, minimum=1)
    if module is not None:
        memory.modules.id_of(module)
    wanted = Wanted(memory, Part.of(module, path, level), anywhere)
    if anywhere and memory.recipe.scheme == "keyed":
        raise ValueError(
            'this memory\'s scheme is "keyed": every path has operators of its own, and nothing '
            'is visible at another place; make the memory with scheme="energy" for that'
        )
    chosen = Selection.of(where, since, until)
    probe = _probe(wanted, query)
    norm = float(np.linalg.norm(probe.vector))
    if norm == 0:
        raise ValueError(f"{probe.words} holds nothing to search for: its sketch is zero")
    title = f"most similar to {probe.words}{chosen.words}"
    if whiten:
        return _by_amount(memory, probe, k, chosen, title)
    ids, scores = _search(memory, probe, probe.vector, k, chosen)
    notes = ["estimate is the cosine of the sketches", *probe.notes, *_left_out(probe)]
    notes += [*faded_notes(memory, ids), *left_notes(memory, chosen, counted=False)]
    dim = np.minimum(memory.kept(ids.tolist()), len(probe.vector))
    std = (1 - np.clip(np.square(scores), 0, 1)) / np.sqrt(np.maximum(dim, 1))
    low, high = interval(scores, std)
    ends = (np.maximum(low, -1.0), np.minimum(high, 1.0))
    return _answer(memory, ids, scores, ends, title, notes)


def _search(
    memory: Memory, probe: Probe, vector: npt.NDArray[np.floating], k: int, chosen: Selection,
    by: str = "cosine",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:  # fmt: skip
    """Return ids and cosines (or products) of the best glances but the queried one."""
    extra = 0 if probe.left_out is None else 1
    ids, found = memory.search(vector, k=k + extra, by=by, **chosen.arguments)
    kept = ids != probe.left_out if probe.left_out is not None else np.ones(len(ids), np.bool_)
    return ids[kept][:k], np.asarray(found, dtype=np.float64)[kept][:k]


def _by_amount(memory: Memory, probe: Probe, k: int, chosen: Selection, title: str) -> Answer:
    """Search with the whitened probe, and say how much of it each glance holds."""
    white = whitened(memory, probe.vector)
    ids, amounts = _search(memory, probe, white.vector, k, chosen, by="product")
    notes = [
        "estimate is the amount of the query that a glance holds, 1 for all of it",
        f"over the whole memory the amount has a root mean square of {white.std:.2g}",
        *probe.notes,
        *_left_out(probe),
        *left_notes(memory, chosen, counted=False),
    ]
    used, dim = len(white.vector), memory.recipe.dim
    if used < dim:
        notes.append(f"some glances have faded: all are compared by {used} of {dim} numbers")
    ends = interval(amounts, np.full(len(amounts), white.std))
    return _answer(memory, ids, amounts, ends, title, notes)


def _left_out(probe: Probe) -> list[str]:
    return [] if probe.left_out is None else [f"glance {probe.left_out} itself is left out"]


def _probe(wanted: Wanted, query: int | Trace | Sketches | Object) -> Probe:
    memory, is_whole = wanted.memory, wanted.part.is_whole and not wanted.anywhere
    if isinstance(query, Object):
        return _of_object(wanted, query)
    if isinstance(query, Trace):
        _one(len(query), "trace")
        notes = _new(memory, query)
        vector = _of_trace(memory, query) if is_whole else wanted.image(query)
        return Probe(vector, f"{wanted.words}the given trace", notes=notes)
    if isinstance(query, Sketches):
        _one(len(query), "sketch")
        _check_scales(memory, query)
        if is_whole:
            return Probe(vector_of(query), "the given sketch")
        glance = Glance.decode(memory, query)
        vector = wanted.image(glance.trace)
        notes = [_own_score(vector, query), *glance.notes]
        return Probe(vector, f"{wanted.words}the given sketch", notes=notes)
    if isinstance(query, bool) or not hasattr(query, "__index__"):
        raise TypeError(
            "a query is the id of a glance, a Trace, Sketches or an Object, got "
            f"{type(query).__name__}"
        )
    number = int(query.__index__())
    words = wanted.words + describe(glance_row(memory, number), number)
    sketch = single_sketch(memory, number)
    if is_whole:
        return Probe(vector_of(sketch), words, number)
    glance = Glance.read(memory, number)
    vector = wanted.image(glance.trace)
    return Probe(vector, words, number, [_own_score(vector, sketch), *glance.notes])


def _of_object(wanted: Wanted, query: Object) -> Probe:
    """Search for an object (with its inputs), or for a part of it."""
    trace = Trace.from_objects([[query]])
    for name in trace.modules:
        wanted.memory.modules.id_of(name)
    if wanted.part.is_whole:
        vector = wanted.memory.sketcher.probe(trace).cpu().numpy()
    else:
        vector = wanted.image(trace)
    return Probe(vector, f"{wanted.words}the given object of {query.module!r}")


def _of_trace(memory: Memory, trace: Trace) -> npt.NDArray[np.float32]:
    sketcher = memory.sketcher
    if _new(memory, trace):
        # A question must not add modules to the memory: use a table of its own.
        sketcher = sketching.Sketcher.from_recipe(memory.recipe, memory.modules.copy())
    return np.asarray(sketcher.encode(trace).values[0].cpu().numpy(), np.float32)


def _silent(trace: Trace) -> Trace:
    """Return the trace with every attribute zero."""
    columns = {name: replace(c, attributes=c.attributes * 0) for name, c in trace.columns.items()}
    return Trace(columns, trace.num_glances, trace.edges)


def _own_score(vector: npt.NDArray[np.float32], sketch: Sketches) -> str:
    """Say what a part scores in the glance that it comes from: how high a score can be."""
    whole = vector_of(sketch)
    vector = vector[: len(whole)]
    norms = float(np.linalg.norm(vector) * np.linalg.norm(whole))
    score = float(vector @ whole) / max(norms, 1e-30)
    return f"the part scores {score:.2f} in the query itself: the rest of it is not searched for"


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
    estimate: npt.NDArray[np.float64],
    ends: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    title: str,
    notes: list[str],
) -> Answer:
    return Answer(
        {
            "glance": ids,
            **glance_rows(memory, ids.tolist()),
            "estimate": estimate,
            "low": ends[0],
            "high": ends[1],
        },
        title=f"{plural(len(ids), 'glance')} {title}",
        notes=notes,
    )
