"""Which glances are like this one: cosine of sketches, whole or of a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import Answer, interval
from recollect._checks import check_integer
from recollect.recall.faded import faded_notes, left_notes
from recollect.recall.parts import Part
from recollect.recall.probes import Probe, Wanted, probe_of, read_cosines
from recollect.recall.reading import Selection, glance_rows, plural
from recollect.recall.whitening import whitened
from recollect.sketching.sketches import Sketches
from recollect.tracing import Object, Trace

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import Recipe

__all__ = ["similar"]


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
    ``(1 - cosine^2) / sqrt(dim)`` of random projections. Once a prior is fitted, the records say
    how far cosines are off with this memory's operators (``sketching.Cosines``): whole queries
    are then corrected by it. A glance that has faded is compared by the numbers that it keeps,
    with a wider interval. Glances of all epochs are compared, each by the query's coordinates in
    its own recipe.

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
    probe = probe_of(wanted, query)
    if not any(np.linalg.norm(v) for v in probe.vectors.values()):
        raise ValueError(f"{probe.words} holds nothing to search for: its sketch is zero")
    title = f"most similar to {probe.words}{chosen.words}"
    if whiten:
        return _by_amount(memory, probe, k, chosen, title)
    ids, scores = _search(memory, probe, probe.queries(memory), k, chosen)
    notes = ["estimate is the cosine of the sketches", *probe.notes, *_left_out(probe)]
    notes += [*faded_notes(memory, ids), *left_notes(memory, chosen, counted=False)]
    known = sketching.Cosines.unknown()
    if wanted.part.is_whole and not anywhere:
        known = memory.cosines()
        notes[0] += known.note
    estimate, low, high = read_cosines(memory, probe, ids, scores, known)
    order = np.argsort(-estimate, kind="stable")  # faded glances may change places
    ends = (low[order], high[order])
    return _answer(memory, ids[order], estimate[order], ends, title, notes)


def _search(
    memory: Memory, probe: Probe, asked: Any, k: int, chosen: Selection
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return ids and cosines of the best glances but the queried one."""
    extra = 0 if probe.left_out is None else 1
    ids, found = memory.search(asked, k=k + extra, **chosen.arguments)
    kept = ids != probe.left_out if probe.left_out is not None else np.ones(len(ids), np.bool_)
    return ids[kept][:k], np.asarray(found, dtype=np.float64)[kept][:k]


def _by_amount(memory: Memory, probe: Probe, k: int, chosen: Selection, title: str) -> Answer:
    """Search with the whitened probe, and say how much of it each glance holds.

    Glances of different recipes, and those that keep different numbers, are searched apart: each
    by a probe that is whitened among its like.
    """
    ids, amounts, stds = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    for recipe, keep in _kinds(memory, probe):
        vector = probe.vectors[recipe][:keep]
        if not np.linalg.norm(vector):
            continue
        white = whitened(memory, vector, recipe)
        query = replace(
            memory.query(recipe, white.vector),
            kept=keep if _faded(memory) else None,
            products=True,
        )
        some, found = _search(memory, probe, [query], k, chosen)
        ids, amounts = np.r_[ids, some], np.r_[amounts, found]
        stds = np.r_[stds, np.full(len(some), white.std)]
    order = np.argsort(-amounts, kind="stable")[:k]
    ids, amounts, stds = ids[order], amounts[order], stds[order]
    size = f"{stds.max(initial=0.0):.2g}"
    notes = [
        "estimate is the amount of the query that a glance holds, 1 for all of it",
        f"over the whole memory the amount has a root mean square of {size}"
        + (" at most" if len(set(stds.tolist())) > 1 else ""),
        *probe.notes,
        *_left_out(probe),
        *faded_notes(memory, ids),
        *left_notes(memory, chosen, counted=False),
    ]
    return _answer(memory, ids, amounts, interval(amounts, stds), title, notes)


def _kinds(memory: Memory, probe: Probe) -> list[tuple[Recipe, int]]:
    """Return recipe and numbers kept of the kinds of glances there are.

    Raises:
        ValueError: if the query is a prefix, or the memory is empty.
    """
    dim = memory.recipe.dim
    shortest = min(len(v) for v in probe.vectors.values())
    if shortest < dim and probe.left_out is None:
        raise ValueError(
            f"a probe of {shortest} numbers cannot be whitened, the memory's sketches have "
            f"{dim}; search with the whole sketch, or with whiten=False"
        )
    if len(memory) == 0 or (not _faded(memory) and len(memory.recipes) == 1):
        return [(recipe, dim) for recipe in probe.vectors]
    ids = memory.glances(columns=["id"])["id"].to_numpy().astype(np.int64)
    found = {(memory.epochs[e].recipe, k) for e, k in zip(
        memory.epoch_of(ids.tolist()).tolist(), memory.kept(ids.tolist()).tolist(), strict=True
    )}  # fmt: skip
    return sorted(
        ((r, k) for r, k in found if k > 0 and r in probe.vectors),
        key=lambda kind: (memory.recipes.index(kind[0]), -kind[1]),
    )


def _faded(memory: Memory) -> bool:
    """Whether any glance keeps less than its whole sketch."""
    return set(memory.lengths) - {memory.recipe.dim} != set()


def _left_out(probe: Probe) -> list[str]:
    return [] if probe.left_out is None else [f"glance {probe.left_out} itself is left out"]


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
