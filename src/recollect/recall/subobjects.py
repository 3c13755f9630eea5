"""The sub-sketches of one module's objects: from records where they were kept, else decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._checks import NotRemembered
from recollect.recall.reading import Decoder, chunks, load_note, plural, records_of
from recollect.sketching.subsketches import sub_sketches

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.tracing import Trace

__all__ = ["SubSketches", "sub_sketches_of"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SubSketches:
    """Objects, each with all that it was made from, sketched on its own.

    Attributes:
        vectors: (n, d) float32.
        glance: (n,) place of each object's glance among those asked for, ascending.
        notes: where they come from.
    """

    vectors: npt.NDArray[np.float32]
    glance: IntArray
    notes: list[str]


def sub_sketches_of(memory: Memory, module: str, ids: IntArray) -> SubSketches:
    """Return the sub-sketches of a module's objects in some glances.

    Raises:
        NotRemembered: if none of them holds such an object.
        ValueError: if a glance must be decoded and its skeleton was not kept.
    """
    place = {number: i for i, number in enumerate(ids.tolist())}
    recorded, records = records_of(memory, ids)
    found = []
    if records is not None:
        places = np.array([place[i] for i in recorded.tolist()], dtype=np.int64)
        found.append(_of_trace(memory, module, records, places))
    rest = np.setdiff1d(ids, recorded)
    notes = [f"{plural(len(recorded), 'glance')} read from records"] if len(recorded) else []
    if len(rest):
        decoder, loads = Decoder.of(memory), []
        for part in chunks(rest):
            sketches = memory.sketches(ids=part.tolist())
            if sketches.skeletons is None:
                raise ValueError(
                    "objects are read from sketches with their skeletons, which were not kept "
                    "here; leave module out to compare whole glances"
                )
            read = decoder.decode(sketches)
            loads.append(float(np.max(read.load)))
            places = np.array([place[i] for i in part.tolist()], dtype=np.int64)
            found.append(_of_trace(memory, module, read.trace(), places))
        notes += [decoder.note, load_note(loads)]
    vectors = np.concatenate([v for v, _ in found])
    glance = np.concatenate([g for _, g in found])
    if len(glance) == 0:
        raise NotRemembered(f"none of these glances holds an object of {module!r}")
    order = np.argsort(glance, kind="stable")
    return SubSketches(vectors[order], glance[order], notes)


def _of_trace(
    memory: Memory, module: str, trace: Trace, places: IntArray
) -> tuple[npt.NDArray[np.float32], IntArray]:
    rows = [
        (
            c.glance[c.member == c.members.index(module)],
            c.rank[c.member == c.members.index(module)],
        )
        for c in trace.columns.values()
        if module in c.members
    ]
    if not rows:
        return np.zeros((0, memory.recipe.dim), np.float32), np.zeros(0, np.int64)
    glance, rank = rows[0]
    return sub_sketches(memory.sketcher, trace, glance, rank), places[glance]
