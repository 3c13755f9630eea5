"""A bounded sample of glances kept whole, for priors and calibration.

A glance belongs to the sample if the hash of its id is among the smallest, so the sample is
uniform and the same whatever the order or the batching in which glances arrive. Deleted glances
leave it; a glance that was turned away does not come back.

Each file holds the sampled glances of one commit and is named after the version of the glances
that this commit makes: a file of a version that does not exist was left by a killed writer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.memory.layout import Folder, Moved

if TYPE_CHECKING:
    from recollect.tracing.columns import Trace

__all__ = ["Reservoir"]

IntArray = npt.NDArray[np.int64]

_STATE = "reservoir/state.json"
# Many small files, or many records that were turned away since, are written anew as one file.
_FILES = 64


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
        self._written = 0

    # -- members --------------------------------------------------------------------------

    def load(self, version: int) -> None:
        """Read which glances are kept, as of a version of the glances."""
        files = self._files(version)
        if files == self._loaded:
            return
        self._members, self._written = {}, 0
        for path in files:
            with np.load(path, allow_pickle=False) as file:
                held = file["ids"].tolist()
            self._members |= {number: (_place(number), path) for number in held}
            self._written += len(held)
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
        arrays = {"ids": np.array(ids, np.int64), **_pack(trace)}
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
        self._written += len(ids)
        if self._written > 2 * self.size:
            self.rewrite(_version(path))

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
        """Join the files when they are many or hold much that is not in the sample."""
        spare = self._written - len(self._members)
        if self._loaded and (len(self._loaded) > _FILES or spare > len(self._members) // 4):
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
        self._written = len(ids)

    # -- reading --------------------------------------------------------------------------

    def records(self, alive: Collection[int] | None = None) -> tuple[list[int], Trace | None]:
        """Return ids and records in the order of their hashes; None if there is none.

        Raises:
            Moved: if a writer has just joined the files.
        """
        ids = [n for n in self.members if alive is None or n in alive]
        if not ids:
            return [], None
        parts, found = [], []
        wanted = set(ids)
        for path in dict.fromkeys(self._members[n][1] for n in ids):
            if not path.exists():
                self._loaded = None
                raise Moved(f"{path} was joined with others")
            with np.load(path, allow_pickle=False) as file:
                held = file["ids"].tolist()
                here = [
                    r for r, n in enumerate(held) if n in wanted and self._members[n][1] == path
                ]
                parts.append(_unpack({k: file[k] for k in file.files})[here])
                found += [held[r] for r in here]
        row = {number: r for r, number in enumerate(found)}
        joined = import_module("recollect.tracing").Trace.concat(parts)
        return ids, joined[[row[n] for n in ids]]


@lru_cache(maxsize=1 << 14)
def _place(number: int) -> int:
    """Hash of an id, which decides whether it is in the sample."""
    return seed_of("reservoir", number)


def _version(path: Path) -> int:
    return int(path.stem)


def _pack(trace: Trace) -> dict[str, npt.NDArray[Any]]:
    """Return a trace as arrays; attributes as float16 if they all fit."""
    arrays = import_module("recollect.tracing.arrays")
    packed: dict[str, npt.NDArray[Any]] = arrays.trace_to_arrays(
        trace, arrays.half_if_it_fits(trace)
    )
    return packed


def _unpack(arrays: dict[str, npt.NDArray[Any]]) -> Trace:
    trace: Trace = import_module("recollect.tracing.arrays").trace_from_arrays(arrays)
    return trace
