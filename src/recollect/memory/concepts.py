"""Concepts that a user has named: how each is read from a sketch, kept with the memory.

All of them stand in one file, ``concepts.npz``, which is written whole or not at all. A concept
is a few directions and what their readings mean; glances are not touched, so that it is counted
in the past as well as in the future.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory, unknown_name
from recollect.memory.engine import Engine
from recollect.memory.layout import Folder

__all__ = ["NamedConcept", "NamedConcepts", "Reading"]

FloatArray = npt.NDArray[np.float64]
_FILE = "concepts.npz"


@dataclass(frozen=True, eq=False)
class Reading:
    """How a concept is read from the first L numbers of a sketch, and what readings mean.

    Attributes:
        vector: (L,) float32; the reading of a sketch s is ``vector @ s - offset``.
        offset: see above; readings are near 0 without and near 1 with the concept.
        grid: (g,) readings, ascending.
        ratio: (g,) logarithm of how many times likelier each is with the concept than without.
    """

    vector: npt.NDArray[np.float32]
    offset: float
    grid: FloatArray
    ratio: FloatArray

    def of(self, sketches: npt.NDArray[np.floating]) -> FloatArray:
        """Return the readings of (n, L) sketches, (n,)."""
        found: FloatArray = sketches.astype(np.float64) @ self.vector - self.offset
        return found

    def evidence(self, readings: FloatArray) -> FloatArray:
        """Return the logarithm of how many times likelier readings are with the concept."""
        return np.interp(readings, self.grid, self.ratio)


@dataclass(frozen=True, eq=False)
class NamedConcept:
    """A concept with a name.

    Attributes:
        name: given by the user.
        share: of all glances that had it when it was named.
        examples: ids of the glances that it was named after.
        readings: number of first numbers -> how it is read from them.
        origin: in words: where it comes from.
    """

    name: str
    share: float
    examples: tuple[int, ...]
    readings: dict[int, Reading] = field(default_factory=dict)
    origin: str = ""

    def reads_like(self, other: NamedConcept) -> bool:
        """Whether both are read from a sketch in the same way, whatever they are called."""
        mine, theirs = self.readings, other.readings
        return mine.keys() == theirs.keys() and all(
            np.array_equal(getattr(r, part), getattr(theirs[size], part))
            for size, r in mine.items()
            for part in ("vector", "offset", "grid", "ratio")
        )

    def reading(self, kept: int) -> Reading | None:
        """Return how it is read from sketches that keep some numbers; None if they are too few."""
        fitting = [size for size in self.readings if size <= kept]
        return self.readings[max(fitting)] if fitting else None


class NamedConcepts:
    """The named concepts of a memory.

    Args:
        engine: of the memory.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: tuple[tuple[int, int] | None, dict[str, NamedConcept]] = (None, {})

    @property
    def names(self) -> list[str]:
        """Names, in the order in which they were given."""
        return list(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, name: str) -> NamedConcept:
        """Return a concept.

        Raises:
            NotRemembered: if there is none of that name.
        """
        found = self._all()
        if name not in found:
            raise unknown_name("concept", name, found)
        return found[name]

    def add(self, concept: NamedConcept) -> None:
        """Keep a concept.

        Raises:
            ValueError: if the name is empty, or taken by a concept or a module.
        """
        with self._engine.writing():
            found = self._all()
            self._check(concept.name)
            self._store({**found, concept.name: concept})

    def rename(self, old: str, new: str) -> None:
        """Give a concept another name.

        Raises:
            NotRemembered: if there is none of the old name.
            ValueError: if the new one is empty or taken.
        """
        with self._engine.writing():
            kept = self[old]
            self._check(new)
            self._store({
                (new if n == old else n): (replace(kept, name=new) if n == old else c)
                for n, c in self._all().items()
            })  # fmt: skip

    def forget(self, name: str) -> None:
        """Forget a concept; glances stay as they are.

        Raises:
            NotRemembered: if there is none of that name.
        """
        with self._engine.writing():
            found = self._all()
            _ = self[name]
            self._store({n: c for n, c in found.items() if n != name})

    def taken_over(self, other: NamedConcepts) -> dict[str, NamedConcept]:
        """Return another memory's concepts that are not here: what ``take_over`` would add.

        A concept of the same name and the same readings is here already.

        Raises:
            ValueError: if a name means two things, one here and one there.
        """
        ours, theirs = self._all(), other._all()
        for name in theirs:
            if name in self._engine.modules.names:
                raise _clash(name, "a module here and a named concept there", "other")
            if name in ours and not ours[name].reads_like(theirs[name]):
                raise _clash(name, "named after other glances here than there", "memory")
        for name in ours:
            if name in other._engine.modules.names:
                raise _clash(name, "a named concept here and a module there", "memory")
        return {n: c for n, c in theirs.items() if n not in ours}

    def take_over(self, concepts: dict[str, NamedConcept]) -> None:
        """Keep concepts of another memory, whose readings fit sketches of the same recipe."""
        if concepts:
            with self._engine.writing():
                self._store({**self._all(), **concepts})

    def _check(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a concept's name is a text that is not empty, got {name!r}")
        if name in self._engine.modules.names:
            raise ValueError(
                f"{name!r} is the name of a module, which is counted under it; choose another"
            )
        if name in self._all():
            raise ValueError(
                f"there is a concept {name!r} already; forget or rename it first, or choose "
                "another name"
            )

    # -- on disk --------------------------------------------------------------------------

    def _all(self) -> dict[str, NamedConcept]:
        path = self._engine.folder / _FILE
        if not path.exists():
            return {}
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if self._held[0] != stamp:
            self._held = (stamp, _read(path))
        return self._held[1]

    def _store(self, concepts: dict[str, NamedConcept]) -> None:
        _write(self._engine.folder, concepts)
        self._held = (None, {})


def _clash(name: str, meaning: str, where: str) -> ValueError:
    """Say which name means two things, and in which memory to change it."""
    return ValueError(
        f"{name!r} is {meaning}, and after a merge it could mean one thing only; give the concept "
        f"another name first, {where}.concepts.rename({name!r}, ...), or forget it"
    )


def _write(folder: Folder, concepts: dict[str, NamedConcept]) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    about = []
    for i, c in enumerate(concepts.values()):
        about.append({"name": c.name, "share": c.share, "origin": c.origin,
                      "sizes": list(c.readings)})  # fmt: skip
        arrays[f"{i}-examples"] = np.array(c.examples, np.int64)
        for size, r in c.readings.items():
            arrays[f"{i}-{size}-vector"] = r.vector
            arrays[f"{i}-{size}-meaning"] = np.stack([r.grid, r.ratio])
            arrays[f"{i}-{size}-offset"] = np.array(r.offset)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    folder.write_arrays(_FILE, arrays)


def _read(path: Path) -> dict[str, NamedConcept]:
    try:
        # A damaged archive would leave the file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = {}
            for i, row in enumerate(json.loads(file["about"].tobytes())):
                readings = {}
                for size in row["sizes"]:
                    grid, ratio = file[f"{i}-{size}-meaning"]
                    offset = float(file[f"{i}-{size}-offset"])
                    readings[size] = Reading(file[f"{i}-{size}-vector"], offset, grid, ratio)
                examples = tuple(file[f"{i}-examples"].tolist())
                found[row["name"]] = NamedConcept(
                    row["name"], row["share"], examples, readings, row["origin"]
                )
            return found
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CorruptMemory(
            f"{path} is damaged ({error}); restore it from a copy, or delete it: glances stay, "
            "the names that were given are lost"
        ) from error
