"""One glance, read back: from its record where that was kept, else decoded from its sketch.

Of a glance that has faded to its skeleton only the structure comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect.recall.reading import Decoder, load_note, record_of, single_sketch
from recollect.sketching.recipe import ModuleTable
from recollect.sketching.skeletons import Structure
from recollect.sketching.sketches import Sketches
from recollect.tracing import Column, Edges, Trace

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import InformedRecollection, Recollection

__all__ = ["SOURCES", "Glance", "hollow"]

SOURCES = ("record", "sketch")


@dataclass(frozen=True, eq=False)
class Glance:
    """What is known of one glance.

    Attributes:
        trace: its objects, recorded or estimated.
        recollection: what estimated them; None for a record, which is exact.
        notes: where it comes from.
        hollow: whether only the structure is known; all attributes are NaN then.
    """

    trace: Trace
    recollection: Recollection | InformedRecollection | None
    notes: list[str]
    hollow: bool = False

    @classmethod
    def read(
        cls, memory: Memory, glance: int, source: str | None = None, *, hollow: bool = False
    ) -> Glance:
        """Read a glance from its record if one is kept, else from its sketch.

        Args:
            memory: that holds it.
            glance: its id.
            source: ``"record"`` or ``"sketch"`` to insist on one.
            hollow: whether its structure will do where no sketch is left (unless a source is
                insisted on).

        Raises:
            NotRemembered: if there is no such glance, or no record where one is asked for.
            ValueError: if the sketch must be decoded but the skeleton, or the sketch, is gone.
        """
        if source is not None:
            check_one_of("source", source, SOURCES)
        number = check_integer("the id of a glance", glance, minimum=-(2**63))
        keeps = int(memory.kept([number])[0])
        record = record_of(memory, number) if source != "sketch" else None
        if record is not None:
            return cls(record, None, [f"glance {glance} is kept whole: exact, from its record"])
        if source == "record":
            raise NotRemembered(
                f"glance {glance} is not among the {len(memory.records()[0])} records that are "
                "kept whole; ask its sketch"
            )
        if keeps == 0 and hollow and source is None:
            return cls._hollow(memory, number)
        return cls.decode(memory, single_sketch(memory, number), f"glance {glance}: ")

    @classmethod
    def _hollow(cls, memory: Memory, glance: int) -> Glance:
        skeletons = memory.skeletons([glance])
        if skeletons is None:
            raise ValueError(
                f"glance {glance} keeps neither sketch nor skeleton, only its row; ask for counts "
                "over windows, which roll-ups keep"
            )
        note = (
            f"glance {glance} has faded to its structure: modules, paths and weights are exact, "
            "its attributes are forgotten (NaN, bounds infinite)"
        )
        return cls(hollow(skeletons[0], memory.modules), None, [note], hollow=True)

    @classmethod
    def decode(cls, memory: Memory, sketch: Sketches, name: str = "") -> Glance:
        """Decode one sketch with the memory's prior.

        Raises:
            ValueError: if its skeleton was not kept.
        """
        if (sketch.skeletons is None and not sketch.recipe.leading) or sketch.is_sum:
            raise ValueError(
                "objects can be read from a sketch only with its skeleton, which was not kept "
                "here; ask for counts and means instead"
            )
        decoder = Decoder.of(memory)
        recollection = decoder.decode(sketch)
        notes = [name + decoder.note, load_note(recollection.load), *recollection.notes]
        if sketch.dim < memory.recipe.dim:
            notes.append(f"read from {sketch.dim} of {memory.recipe.dim} numbers")
        return cls(recollection.trace(), recollection, notes)


def hollow(structure: Structure, modules: ModuleTable) -> Trace:
    """Return a structure as a trace of one glance whose attributes are all NaN.

    Args:
        structure: which objects there are, and what each was made from.
        modules: name and size of each module.
    """
    ids, rank = structure.modules, np.arange(len(structure.modules))
    first = dict(zip(structure.child[::-1].tolist(), structure.weight[::-1].tolist(), strict=True))
    weight = np.array([first[r] for r in rank.tolist()], np.float32)
    families = [modules.family_of(int(i)) for i in ids]
    columns = {}
    for entry in dict.fromkeys(families):
        rows = np.array([f is entry for f in families])
        columns[entry.name] = Column(
            entry.name, entry.members, torch.full((int(rows.sum()), entry.size), float("nan")),
            np.zeros(int(rows.sum()), np.int64), ids[rows] - entry.first_id, rank[rows],
            weight[rows],
        )  # fmt: skip
    edges = Edges(
        np.zeros(len(structure.child), np.int64), structure.parent, structure.child,
        structure.weight,
    )  # fmt: skip
    return Trace(columns, 1, None if structure.is_flat else edges)
