"""One glance, read back: from its record where that was kept, else decoded from its sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recollect._checks import NotRemembered, check_one_of
from recollect.recall.reading import Decoder, load_note, record_of, single_sketch
from recollect.sketching.sketches import Sketches
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import InformedRecollection, Recollection

__all__ = ["SOURCES", "Glance"]

SOURCES = ("record", "sketch")


@dataclass(frozen=True, eq=False)
class Glance:
    """What is known of one glance.

    Attributes:
        trace: its objects, recorded or estimated.
        recollection: what estimated them; None for a record, which is exact.
        notes: where it comes from.
    """

    trace: Trace
    recollection: Recollection | InformedRecollection | None
    notes: list[str]

    @classmethod
    def read(cls, memory: Memory, glance: int, source: str | None = None) -> Glance:
        """Read a glance from its record if one is kept, else from its sketch.

        Args:
            memory: that holds it.
            glance: its id.
            source: ``"record"`` or ``"sketch"`` to insist on one.

        Raises:
            NotRemembered: if there is no such glance, or no record where one is asked for.
            ValueError: if the sketch must be decoded but the skeleton was not kept.
        """
        if source is not None:
            check_one_of("source", source, SOURCES)
        sketch = single_sketch(memory, glance)
        record = record_of(memory, glance) if source != "sketch" else None
        if record is not None:
            return cls(record, None, [f"glance {glance} is kept whole: exact, from its record"])
        if source == "record":
            raise NotRemembered(
                f"glance {glance} is not among the {len(memory.records()[0])} records that are "
                "kept whole; ask its sketch"
            )
        return cls.decode(memory, sketch, f"glance {glance}: ")

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
