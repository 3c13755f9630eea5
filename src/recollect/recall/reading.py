"""How a question reads a memory: single glances, records, the prior, sums of sketches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import check_integer
from recollect.memory.clock import HOUR, iso, microseconds
from recollect.recall.windows import written

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import InformedRecollection, Prior, Recipe, Recollection, Sketches
    from recollect.tracing import Trace

__all__ = [
    "CHUNK",
    "Decoder",
    "Selection",
    "chunks",
    "describe",
    "glance_row",
    "glance_rows",
    "load_note",
    "microseconds_of",
    "plural",
    "record_of",
    "records_of",
    "single_sketch",
    "sums_of",
]

IntArray = npt.NDArray[np.int64]

# Glances that are decoded at a time.
CHUNK = 2048


@dataclass(frozen=True)
class Selection:
    """Which glances a question is about.

    Attributes:
        where: SQL expression over time, source and labels, or None.
        since: microseconds UTC, first moment, or None.
        until: microseconds UTC, first moment after, or None.
    """

    where: str | None
    since: int | None
    until: int | None

    @classmethod
    def of(cls, where: str | None, since: Any, until: Any) -> Selection:
        """Read the border's times.

        Raises:
            ValueError: if a time has no zone, or ``until`` is before ``since``.
        """
        start = None if since is None else microseconds(since)
        end = None if until is None else microseconds(until)
        if start is not None and end is not None and end < start:
            raise ValueError(
                f"until ({iso(end)}) is before since ({iso(start)}); a window goes from since up "
                "to, and without, until"
            )
        return cls(where, start, end)

    @property
    def arguments(self) -> dict[str, Any]:
        """As the methods of a memory take it."""
        return {"where": self.where, "since": self.since, "until": self.until}

    @property
    def is_hours(self) -> bool:
        """Whether the selection is made of whole UTC hours."""
        return self.where is None and all(
            t is None or t % HOUR == 0 for t in (self.since, self.until)
        )

    @property
    def words(self) -> str:
        """The selection, written after a title."""
        parts = [f"where {self.where}"] if self.where else []
        parts += [f"since {iso(self.since)}"] if self.since is not None else []
        parts += [f"until {iso(self.until)}"] if self.until is not None else []
        return "".join(", " + p for p in parts)


@dataclass(frozen=True, eq=False)
class Decoder:
    """The memory's sketcher with its latest prior, and what to say about it.

    Attributes:
        memory: whose sketches are decoded.
        prior: the latest kept prior; where none was kept, one fitted from the records; or None.
        note: a sentence for the reader.
    """

    memory: Memory
    prior: Prior | None
    note: str

    @classmethod
    def of(cls, memory: Memory) -> Decoder:
        """Choose the prior: the latest kept one, else one from the records, else none."""
        prior = memory.prior()
        if prior is not None:
            glances = plural(prior.num_glances, "glance")
            version = memory.prior_versions[-1]
            note = f"decoded with the memory's prior (version {version}, {glances})"
            return cls(memory, prior, note)
        ids, trace = memory.records()
        if trace is not None and len(ids) >= 2:
            note = (
                f"no prior is kept yet: decoded with one fitted from {plural(len(ids), 'record')} "
                "for this answer (memory.fit_prior() keeps one)"
            )
            return cls(memory, sketching.Prior.fit(trace), note)
        return cls(memory, None, "decoded without a prior (no records are kept to fit one)")

    def decode(self, sketches: Sketches) -> Recollection | InformedRecollection:
        """Decode with the chosen prior; sketches of an informed epoch by their own directions.

        Where the chosen prior does not know all of an informed epoch's modules, the one that
        the epoch stands on is taken.
        """
        sketcher = self.memory.sketcher_of(sketches.recipe)
        if not isinstance(sketcher, sketching.InformedSketcher):
            return sketcher.decode(sketches, prior=self.prior)
        known = self.prior is not None and set(sketcher.families) <= set(self.prior.static)
        return sketcher.recollect(sketches, self.prior if known else None)


def plural(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> plural(1, "glance"), plural(2000, "glance")
    ('1 glance', '2,000 glances')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def load_note(load: float | Sequence[float]) -> str:
    """Say how full the sketches are: unknowns for each of their numbers."""
    return f"load {float(np.max(load)):.2g} (unknowns / numbers in a sketch)"


def chunks(ids: IntArray, size: int = CHUNK) -> Iterator[IntArray]:
    """Cut ids into pieces."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def single_sketch(memory: Memory, glance: int) -> Sketches:
    """Return the sketch of one glance.

    Raises:
        NotRemembered: if there is no such glance.
    """
    return memory.sketches(ids=[check_integer("the id of a glance", glance, minimum=-(2**63))])


def record_of(memory: Memory, glance: int) -> Trace | None:
    """Return the glance's record, exact, if the reservoir holds it."""
    ids, trace = memory.records()
    place = np.flatnonzero(np.asarray(ids, dtype=np.int64) == int(glance))
    return trace[int(place[0])] if len(place) and trace is not None else None


def records_of(memory: Memory, glances: IntArray) -> tuple[IntArray, Trace | None]:
    """Return the ids among ``glances`` that the reservoir holds whole, and their records."""
    ids, trace = memory.records()
    kept = np.asarray(ids, dtype=np.int64)
    rows = np.flatnonzero(np.isin(kept, glances))
    if trace is None or len(rows) == 0:
        return np.zeros(0, dtype=np.int64), None
    return kept[rows], trace[rows]


def glance_row(memory: Memory, glance: int) -> dict[str, Any]:
    """Return time (written in the memory's calendar), source and labels of one glance."""
    return {name: values[0] for name, values in glance_rows(memory, [glance]).items()}


def glance_rows(memory: Memory, ids: Sequence[int]) -> dict[str, list[Any]]:
    """Return time (written in the memory's calendar), source and labels, in the order of ids.

    Raises:
        NotRemembered: if a glance is not there.
    """
    wanted = [int(i) for i in ids]
    if not wanted:
        return {}
    table = memory.glances(ids=wanted)
    columns: dict[str, list[Any]] = {
        "time": written(microseconds_of(table["time"]), memory.timezone)
    }
    for name in table.column_names:
        if name not in ("id", "time", "skeleton"):
            columns[name] = table[name].to_pylist()
    return columns


def describe(row: dict[str, Any], glance: int) -> str:
    """Write a glance in one line: id, time, source."""
    known = (row.get("time"), row.get("source"))
    return " · ".join([f"glance {glance}", *(str(v) for v in known if v is not None)])


def sums_of(
    memory: Memory, codes: IntArray, count: IntArray, recipe: Recipe | None = None
) -> Sketches:
    """Make sums of sketches, (W, d) in units of 2**-32 with (W,) glances each, decodable.

    Args:
        memory: whose module table they have.
        codes: the sums.
        count: how many glances each adds up.
        recipe: of the sketches; the first epoch's if None.
    """
    import torch

    return sketching.Sketches(
        torch.from_numpy(np.ascontiguousarray(codes)),
        None,
        torch.from_numpy(np.asarray(count, dtype=np.int64)),
        None,
        memory.modules,
        memory.recipe if recipe is None else recipe,
    )


def microseconds_of(column: Any) -> IntArray:
    """Return an Arrow column of times as (n,) int64 microseconds UTC."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(column.to_numpy(), dtype=np.int64)
