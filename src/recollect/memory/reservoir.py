"""A bounded sample of glances kept whole, for priors and calibration.

A glance belongs to the sample if the hash of its id is among the smallest, so the sample is
uniform and the same whatever the order or the batching in which glances arrive. Deleted glances
leave it; a glance that was turned away does not come back.

Each file holds the sampled glances of one commit and is named after the version of the glances
that this commit makes: a file of a version that does not exist was left by a killed writer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.memory.layout import Folder

if TYPE_CHECKING:
    from recollect.tracing.columns import Column, Trace

__all__ = ["Reservoir", "pack_trace", "unpack_trace"]

IntArray = npt.NDArray[np.int64]

_STATE = "reservoir/state.json"
_FILES = 64
_HALF = 65504.0


class Reservoir:
    """The sample of a memory.

    Args:
        folder: of the memory.
        size: at most so many records; 0 switches it off.
    """

    def __init__(self, folder: Folder, size: int) -> None:
        self.folder = folder
        self.size = size
        self._members: dict[int, tuple[int, Path]] = {}
        self._limit: int | None = None
        self._loaded: list[Path] | None = None

    # -- members --------------------------------------------------------------------------

    def load(self, version: int) -> None:
        """Read which glances are kept, as of a version of the glances."""
        files = self._files(version)
        if files == self._loaded:
            return
        self._members = {}
        for path in files:
            with np.load(path, allow_pickle=False) as file:
                for number in file["ids"].tolist():
                    self._members[number] = (_place(number), path)
        for number in self._turned_away(self._members):
            del self._members[number]
        state = self.folder / _STATE
        self._limit = self.folder.read_json(_STATE)["limit"] if state.exists() else None
        self._loaded = files

    def drop_newer(self, version: int) -> None:
        """Remove the files that a killed writer left (only the writer may)."""
        for path in (self.folder / "reservoir").glob("*.npz"):
            if _version(path) > version:
                path.unlink()

    @property
    def members(self) -> list[int]:
        """Ids in the sample, in the order of their hashes."""
        return sorted(self._members, key=lambda number: self._members[number][0])

    def _files(self, version: int) -> list[Path]:
        files = sorted((self.folder / "reservoir").glob("*.npz"), key=_version)
        return [f for f in files if _version(f) <= version]

    def _turned_away(self, members: Iterable[int]) -> list[int]:
        return sorted(members, key=_place)[self.size :]

    def wanted(self, ids: Sequence[int]) -> list[int]:
        """Return the rows of a batch that belong to the sample."""
        if self.size == 0:
            return []
        places = {number: _place(number) for number in ids}
        limit = self.bound()
        near = [n for n in ids if limit is None or places[n] <= limit]
        if not near:
            return []
        away = set(self._turned_away({*self._members, *near}))
        return [row for row, n in enumerate(ids) if n not in away and n in set(near)]

    def lower(self, limit: int | None, version: int) -> None:
        """Keep only what a second sample, with its own bound, would also have kept."""
        if limit is None or (self._limit is not None and self._limit <= limit):
            return
        self._limit = limit
        self.folder.write_json(_STATE, {"limit": limit})
        above = [n for n, (place, _) in self._members.items() if place > limit]
        for number in above:
            del self._members[number]
        if above:
            self.rewrite(version)

    def bound(self) -> int | None:
        """Largest hash that can enter; None if there is no bound yet."""
        if self._members and len(self._members) >= self.size:
            largest = max(place for place, _ in self._members.values())
            return largest if self._limit is None else min(largest, self._limit)
        return self._limit

    # -- writing --------------------------------------------------------------------------

    def write(self, ids: Sequence[int], trace: Trace, version: int) -> Path:
        """Write the records of one commit, before it is made."""
        name = f"reservoir/{version:012d}.npz"
        arrays = {"ids": np.array(ids, np.int64), **pack_trace(trace)}
        self.folder.write_arrays(name, arrays)
        return self.folder / name

    def committed(self, ids: Sequence[int], path: Path) -> None:
        """Count records as members after their commit."""
        for number in ids:
            self._members[number] = (_place(number), path)
        for number in self._turned_away(self._members):
            del self._members[number]
        if self._loaded is not None and path not in self._loaded:
            self._loaded.append(path)

    def remove(self, gone: Collection[int], version: int) -> None:
        """Forget the records of deleted glances, on disk too."""
        leaving = [n for n in gone if n in self._members]
        if not leaving:
            return
        self._limit = self.bound()
        self.folder.write_json(_STATE, {"limit": self._limit})
        for number in leaving:
            del self._members[number]
        self.rewrite(version)

    def compact(self, version: int) -> None:
        """Join the files when they are many."""
        if self._loaded is not None and len(self._loaded) > _FILES:
            self.rewrite(version)

    def rewrite(self, version: int) -> None:
        """Write all records into one file and remove the others."""
        old = self._files(version)
        ids, trace = self.records()
        kept = None
        if trace is not None:
            kept = self.write(ids, trace, version)
            self._members = {n: (_place(n), kept) for n in ids}
        for path in old:
            if path != kept:
                path.unlink(missing_ok=True)
        self._loaded = [kept] if kept else []

    # -- reading --------------------------------------------------------------------------

    def records(self, alive: Collection[int] | None = None) -> tuple[list[int], Trace | None]:
        """Return ids and records in the order of their hashes; None if there is none."""
        ids = [n for n in self.members if alive is None or n in alive]
        if not ids:
            return [], None
        parts, found = [], []
        wanted = set(ids)
        for path in dict.fromkeys(self._members[n][1] for n in ids):
            with np.load(path, allow_pickle=False) as file:
                held = file["ids"].tolist()
                here = [
                    r for r, n in enumerate(held) if n in wanted and self._members[n][1] == path
                ]
                parts.append(unpack_trace({k: file[k] for k in file.files})[here])
                found += [held[r] for r in here]
        row = {number: r for r, number in enumerate(found)}
        joined = import_module("recollect.tracing").Trace.concat(parts)
        return ids, joined[[row[n] for n in ids]]


def _place(number: int) -> int:
    """Hash of an id, which decides whether it is in the sample."""
    return seed_of("reservoir", number)


def _version(path: Path) -> int:
    return int(path.stem)


def pack_trace(trace: Trace) -> dict[str, npt.NDArray[Any]]:
    """Return a trace as plain arrays; attributes as float16 where they fit.

    What a static network repeats in every glance is left out: the rows of a dense column and
    weights of one.
    """
    half: list[npt.NDArray[Any]] = []
    full: list[npt.NDArray[Any]] = []
    whole: list[npt.NDArray[Any]] = []
    weights: list[npt.NDArray[Any]] = []
    heads = []
    for column in trace.columns.values():
        values = column.attributes.detach().cpu().numpy()
        fits = not values.size or float(np.abs(values).max()) <= _HALF
        (half if fits else full).append(values.astype(np.float16 if fits else np.float32).ravel())
        dense = column.is_dense(len(trace))
        ranks = column.rank.reshape(len(trace), -1) if dense else column.rank
        steady = bool(dense and (ranks == ranks[0]).all())
        unit = bool((column.weight == 1).all())
        whole += [] if dense else [column.glance, column.member]
        whole.append(ranks[0] if steady else column.rank)
        weights += [] if unit else [column.weight]
        heads.append({"name": column.name, "members": list(column.members), "rows": len(column),
                      "size": column.size, "half": fits, "dense": dense, "steady": steady,
                      "unit": unit})  # fmt: skip
    edges = trace.edges
    head: dict[str, Any] = {"glances": len(trace), "columns": heads, "edges": None}
    if edges is not None:
        head["edges"] = len(edges)
        whole += [edges.glance, edges.parent, edges.child]
        weights.append(edges.weight)
    return {
        "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        "half": np.concatenate([*half, np.zeros(0, np.float16)]),
        "full": np.concatenate([*full, np.zeros(0, np.float32)]),
        "whole": np.concatenate([*whole, np.zeros(0, np.int64)]).astype(np.int32),
        "weights": np.concatenate([*weights, np.zeros(0, np.float32)]),
    }


class _Reader:
    """Hands out one array piece by piece."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array, self.place = array, 0

    def take(self, count: int) -> npt.NDArray[Any]:
        self.place += count
        return self.array[self.place - count : self.place]


def unpack_trace(arrays: dict[str, npt.NDArray[Any]]) -> Trace:
    """Read what ``pack_trace`` returned."""
    tracing = import_module("recollect.tracing")
    head = json.loads(arrays["head"].tobytes())
    readers = {k: _Reader(arrays[k]) for k in ("half", "full", "whole", "weights")}
    total = head["glances"]
    columns = {h["name"]: _column(h, total, readers) for h in head["columns"]}
    edges = None
    if head["edges"] is not None:
        count = head["edges"]
        parts = [readers["whole"].take(count).astype(np.int64) for _ in range(3)]
        edges = tracing.Edges(*parts, readers["weights"].take(count))
    trace: Trace = tracing.Trace(columns, total, edges)
    return trace


def _column(head: dict[str, Any], total: int, readers: dict[str, _Reader]) -> Column:
    import torch

    tracing = import_module("recollect.tracing")
    rows, members = head["rows"], len(head["members"])
    values = readers["half" if head["half"] else "full"].take(rows * head["size"])
    if head["dense"]:
        glance = np.repeat(np.arange(total), members)
        member = np.tile(np.arange(members), total)
    else:
        glance = readers["whole"].take(rows).astype(np.int64)
        member = readers["whole"].take(rows).astype(np.int64)
    rank = readers["whole"].take(members if head["steady"] else rows).astype(np.int64)
    weight = np.ones(rows, np.float32) if head["unit"] else readers["weights"].take(rows)
    column: Column = tracing.Column(
        head["name"],
        tuple(head["members"]),
        torch.from_numpy(values.astype(np.float32).reshape(rows, head["size"])),
        glance,
        member,
        np.tile(rank, total) if head["steady"] else rank,
        weight,
    )
    return column
