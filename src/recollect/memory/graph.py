"""The knowledge graph of a memory: kept beside the glances, derived from them, repaired.

Two things are kept: every glance's most similar others (``memory.neighbours``) and which objects
are the same part (``memory.parts``). Signatures of objects stand in a column of the glances, in
the one commit that keeps a glance, because they cannot be told from a sketch again; all else is
computed from the rows. ``graph/graph.npz`` says what it covers by a digest of every glance: what
a killed writer, a deletion, a replacement or a merge left out of step is found and mended when
the graph is next followed.

Shape letters: n glances, o objects of all glances.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect.memory.layout import Folder
from recollect.memory.neighbours import NEIGHBOURS, Neighbours, digests
from recollect.memory.parts import BYTES, SHOWN, Parts
from recollect.memory.rows import Rows
from recollect.memory.structures import SkeletonTable
from recollect.memory.tables import PARTS
from recollect.sketching.skeletons import unpack_structure

if TYPE_CHECKING:
    from recollect.memory.engine import Engine
    from recollect.sketching.sketcher import Sketcher
    from recollect.tracing.columns import Trace

__all__ = ["Graph", "Occurrences", "signatures_of"]

IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]

_FILE = "graph/graph.npz"
# New glances for which the neighbours are looked up together.
_TOGETHER = 2048
# New glances after which the table is written while writing goes on.
_SAVED = 16_384


class Occurrences:
    """Which part occurs in which glance, above what: o objects.

    Attributes:
        glance: (o,) id of the glance.
        rank: (o,) rank in it.
        parent: (o,) place in these arrays of the object that it was an input of; -1 on top.
        part: (o,) number of its part.
        module: module id of each part.
        count: occurrences of each part.
    """

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        self.glance, self.rank, self.parent, self.part = none, none, none, none
        self.module, self.count = none, none
        self._by_glance: IntArray | None = None
        self._by_part: IntArray | None = None

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is kept on disk."""
        return {
            "part-glance": self.glance, "part-rank": self.rank.astype(np.int16),
            "part-parent": self.parent.astype(np.int32), "part-part": self.part.astype(np.int32),
            "part-module": self.module.astype(np.int32), "part-count": self.count,
        }  # fmt: skip

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Occurrences:
        """Read what ``to_arrays`` returned."""
        made = cls()
        for name in ("glance", "rank", "parent", "part", "module", "count"):
            setattr(made, name, arrays[f"part-{name}"].astype(np.int64))
        return made

    def of_glance(self, glance: int) -> IntArray:
        """Return the places of a glance's objects."""
        if self._by_glance is None:
            self._by_glance = np.argsort(self.glance, kind="stable")
        order = self._by_glance
        low = np.searchsorted(self.glance, glance, "left", sorter=order)
        high = np.searchsorted(self.glance, glance, "right", sorter=order)
        return order[low:high]

    def of_part(self, part: int) -> IntArray:
        """Return the places of a part's objects, in the order of time."""
        if self._by_part is None:
            self._by_part = np.argsort(self.part, kind="stable")
        order = self._by_part
        low = np.searchsorted(self.part, part, "left", sorter=order)
        high = np.searchsorted(self.part, part, "right", sorter=order)
        return order[low:high]


class Graph:
    """The graph of one open memory.

    Args:
        engine: of the memory.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: Rows = engine.rows
        self.folder: Folder = engine.folder
        self._table: Neighbours | None = None
        self._version = -1
        self._saved = -1
        self._saved_at = 0
        self._occurrences: tuple[int, Occurrences] = (-1, Occurrences())
        self._held: dict[tuple[int, int, int], Codes] = {}
        self._signed = 0

    # -- following ------------------------------------------------------------------------

    def follow(self) -> Neighbours:
        """Bring the neighbours into step with the glances, and return them."""
        version = self.rows.version
        if self._table is not None and self._version == version:
            return self._table
        ids, codes = self._now()
        if self._table is None:
            self._table = self._loaded(ids, codes)
        table = self._table
        at = table.places(ids)
        known = at >= 0
        same = np.zeros(len(ids), np.bool_)
        same[known] = (table.codes[at[known]] == codes[known]).all(1)
        stays = np.zeros(len(table), np.bool_)
        stays[at[same]] = True
        table.remove(table.ids[~stays])
        fresh = np.flatnonzero(~same)
        for start in range(0, len(fresh), _TOGETHER):
            part = fresh[start : start + _TOGETHER]
            table.add(ids[part], codes[part])
        self._version = version
        return table

    def keep_up(self) -> None:
        """Follow, if enough glances came since (the writer calls this after each commit)."""
        total = len(self.rows.index()[0])
        if self._table is None or abs(total - len(self._table)) >= _TOGETHER:
            self.follow()
            if total - self._saved_at >= max(_SAVED, self._saved_at // 2):
                self.save()

    def save(self) -> None:
        """Write what is kept, whole or not at all."""
        self.follow()
        if self._saved == self._version or self._table is None:
            return
        arrays = self._table.to_arrays() | self.occurrences().to_arrays()
        about = np.array([self._version, self._signed], np.int64)
        self.folder.write_arrays(_FILE, {**arrays, "about": about})
        self._saved, self._saved_at = self._version, len(self._table)

    def _loaded(self, ids: IntArray, codes: Codes) -> Neighbours:
        """Return what the file says of glances that are still what they were."""
        table = Neighbours(codes.shape[1])
        kept = self._file()
        if kept is None:
            return table  # derived: computed anew
        if kept.get("near", np.zeros((0, 0))).shape[1] != NEIGHBOURS:
            return table
        order = np.argsort(ids, kind="stable")
        at = np.searchsorted(ids, kept["ids"], sorter=order)
        at = order[np.minimum(at, max(len(ids) - 1, 0))] if len(ids) else at * 0
        there = ids[at] == kept["ids"] if len(ids) else np.zeros(len(at), np.bool_)
        there[there] = digests(codes[at[there]]) == kept["digests"][there]
        known = np.zeros((len(kept["ids"]), codes.shape[1]), np.int8)
        known[there] = codes[at[there]]
        table.take_over(kept["ids"], known, kept["near"], kept["cosine"])
        # What has changed goes, and those that had it for a neighbour look again.
        table.remove(kept["ids"][~there])
        return table

    def _now(self) -> tuple[IntArray, Codes]:
        """Return ids and first tiers as int8 of all glances, in the order of the rows."""
        ids = self.rows.index()[0]
        keys = self.rows.keys()
        fresh = [key for key in keys if key not in self._held]
        held = {key: self._held[key] for key in keys if key in self._held}
        for key, codes in zip(fresh, self._read(fresh), strict=True):
            held[key] = codes
        self._held = {key: held[key] for key in keys}
        width = self.rows.tiers["s0"].stop
        parts = [np.zeros((0, width), np.int8), *self._held.values()]
        return ids, np.concatenate(parts)

    def _read(self, keys: list[tuple[int, int, int]]) -> list[Codes]:
        if not keys:
            return []
        lengths = [rows - gone for _, rows, gone in keys]
        found = [
            _as_int8(self.rows.codes(table, ["s0"]))
            for table in self.rows.scan(["s0"], [key[0] for key in keys])
        ]
        whole = np.concatenate(found) if found else np.zeros((0, 1), np.int8)
        return np.split(whole, np.cumsum(lengths)[:-1])

    # -- parts ----------------------------------------------------------------------------

    def occurrences(self) -> Occurrences:
        """Return which part occurs where; objects of glances without signatures are left out."""
        version = self.rows.version
        if self._occurrences[0] != version:
            found = self._kept_occurrences(version)
            self._occurrences = (version, self._assigned() if found is None else found)
        return self._occurrences[1]

    def _kept_occurrences(self, version: int) -> Occurrences | None:
        """Return what the file says of parts, if it says it of this version."""
        kept = self._file()
        if kept is None or int(kept["about"][0]) != version:
            return None
        self._signed = int(kept["about"][1])
        return Occurrences.of_arrays(kept)

    def _file(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return what was kept; None if it is not there, or damaged."""
        try:
            data = io.BytesIO((self.folder / _FILE).read_bytes())
            with np.load(data, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def times(self, glances: IntArray) -> IntArray:
        """Return the times of some glances, microseconds UTC."""
        found: IntArray = self.rows.index()[1][self.rows.places(glances)]
        return found

    def unsigned(self) -> int:
        """Return how many glances were kept without signatures of their objects."""
        return len(self.rows.index()[0]) - self._signed

    def _assigned(self) -> Occurrences:
        found = Occurrences()
        data = self.rows.data()
        self._signed = 0
        if data is None or PARTS not in data.schema.names:
            return found
        blocks = [
            _objects(table, self.engine.skeletons)
            for table in self.rows.scan(["id", "time", "skeleton", PARTS])
        ]
        blocks = blocks or [_Objects.none()]
        self._signed = sum(b.signed for b in blocks)
        base = np.cumsum([0, *(len(b.glance) for b in blocks)])
        above = np.concatenate(
            [np.where(b.parent >= 0, b.parent + n, -1) for b, n in zip(blocks, base, strict=False)]
        )
        glance, rank, module, time = (
            np.concatenate([getattr(b, name) for b in blocks])
            for name in ("glance", "rank", "module", "time")
        )
        order = np.lexsort((rank, glance, time))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        found.glance, found.rank = glance[order], rank[order]
        found.parent = np.where(above[order] >= 0, place[np.maximum(above[order], 0)], -1)
        parts = Parts()
        found.part = parts.add(module[order], np.concatenate([b.signs for b in blocks])[order])
        found.module = np.array(parts.module, np.int64)
        found.count = np.array(parts.count, np.int64)
        return found


@dataclass(frozen=True, eq=False)
class _Objects:
    """The objects of some glances.

    Attributes:
        signed: how many of the glances have signatures.
        glance: (o,) id.
        rank: (o,) in the glance.
        parent: (o,) place here; -1 on top.
        module: (o,) id.
        time: (o,) of the glance.
        signs: (o, 16) signatures.
    """

    signed: int
    glance: IntArray
    rank: IntArray
    parent: IntArray
    module: IntArray
    time: IntArray
    signs: npt.NDArray[np.uint8]

    @classmethod
    def none(cls) -> _Objects:
        """No objects."""
        empty = np.zeros(0, np.int64)
        return cls(0, empty, empty, empty, empty, empty, np.zeros((0, BYTES), np.uint8))


def _objects(table: Any, skeletons: SkeletonTable) -> _Objects:
    """Return the objects of the glances in a ``pyarrow.Table``."""
    ids, numbers = (table.column(n).to_pylist() for n in ("id", "skeleton"))
    times, packed = table.column("time").cast("int64").to_pylist(), table.column(PARTS).to_pylist()
    found: dict[str, list[IntArray]] = {
        n: [] for n in ("glance", "rank", "parent", "module", "time")
    }
    raw: list[bytes] = []
    start = 0
    for number, skeleton, data, time in zip(ids, numbers, packed, times, strict=True):
        if data is None or skeleton < 0:
            continue
        size = len(data) // BYTES
        s = unpack_structure(skeletons.bytes_of(skeleton))
        above = np.full(len(s.modules), -1, np.int64)
        # The first parent of each object, as paths name it.
        above[s.child[::-1]] = s.parent[::-1]
        above = above[:size]
        found["glance"].append(np.full(size, number, np.int64))
        found["rank"].append(np.arange(size))
        found["parent"].append(np.where((above >= 0) & (above < size), above + start, -1))
        found["module"].append(s.modules[:size])
        found["time"].append(np.full(size, time, np.int64))
        raw.append(data)
        start += size
    if not raw:
        return _Objects.none()
    signs = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, BYTES)
    columns = {name: np.concatenate(parts) for name, parts in found.items()}
    return _Objects(signed=len(raw), signs=signs, **columns)


def signatures_of(sketcher: Sketcher, trace: Trace) -> list[bytes]:
    """Return the signatures of each glance's first objects, 16 bytes each, by rank."""
    counts = np.zeros(len(trace), np.int64)
    for c in trace.columns.values():
        counts += np.bincount(c.glance, minlength=len(trace))
    shown = np.minimum(counts, SHOWN)
    glance = np.repeat(np.arange(len(trace)), shown)
    rank = np.arange(len(glance)) - np.repeat(np.cumsum(shown) - shown, shown)
    packed = sketching.signatures(sketching.sub_sketches(sketcher, trace, glance, rank))
    if packed.shape[1] < BYTES:
        packed = np.pad(packed, ((0, 0), (0, BYTES - packed.shape[1])))
    ends = np.cumsum(shown)
    return [
        packed[e - n : e].tobytes() for e, n in zip(ends.tolist(), shown.tolist(), strict=True)
    ]


def _as_int8(codes: npt.NDArray[np.generic]) -> Codes:
    """Return the first tier as int8, each row with its largest number at 127."""
    if codes.dtype == np.int8:
        return np.asarray(codes, np.int8)
    x = codes.astype(np.float32)
    top = np.maximum(np.abs(x).max(1, initial=0.0, keepdims=True), 1e-30)
    return np.asarray(np.rint(x * (127 / top)), np.int8)
