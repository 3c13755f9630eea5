"""Distinct skeletons on disk, and what they say about how often each module put out objects.

``skeletons.bin`` holds one record per distinct skeleton: length and CRC-32 as little-endian
32-bit integers, then the packed bytes. Its place in the file is a skeleton's id. A record that a
killed writer left unfinished at the end is dropped; no row refers to it, because rows are
written after their skeletons.

A *bag* is what counting needs of a skeleton: module ids and how many objects each has.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory, check_one_of
from recollect.sketching.recipe import ModuleTable
from recollect.sketching.skeletons import Structure, unpack_structure

__all__ = ["UNITS", "WEIGHT_BITS", "Bag", "BagTable", "SkeletonCounts", "SkeletonTable", "bag_of"]

IntArray = npt.NDArray[np.int64]

UNITS = ("objects", "glances", "weight")

# Kept weights are float16, hence multiples of 2**-24: their sums are exact as integers.
WEIGHT_BITS = 24


@dataclass(frozen=True, eq=False)
class Bag:
    """What counting needs of one skeleton.

    Attributes:
        modules: (k,) int64, ids of the modules with objects, ascending.
        objects: (k,) int64, how many objects each has.
        extra: (k,) int64, sum of the objects' weights beyond one each, in units of 2**-24.
    """

    modules: IntArray
    objects: IntArray
    extra: IntArray

    @property
    def key(self) -> bytes:
        """Bytes that are equal for equal modules and objects."""
        return self.modules.tobytes() + self.objects.tobytes()


def bag_of(structure: Structure) -> Bag:
    """Count a skeleton's objects and weights per module.

    The weight of an object is the weight of the first edge that leads to it.
    """
    modules, inverse, objects = np.unique(
        structure.modules, return_inverse=True, return_counts=True
    )
    extra = np.zeros(len(modules), np.int64)
    if (structure.weight != 1).any():
        reached, first = np.unique(structure.child, return_index=True)
        weight = np.minimum(structure.weight[first].astype(np.float64), 65504.0)
        fixed = np.rint((weight - 1.0) * 2.0**WEIGHT_BITS).astype(np.int64)
        np.add.at(extra, inverse[reached], fixed)
    return Bag(modules.astype(np.int64), objects.astype(np.int64), extra)


class SkeletonTable:
    """The distinct skeletons of a memory, by id.

    Args:
        path: of ``skeletons.bin``; it need not exist yet.
        power: whether additions are flushed to the disk.
    """

    def __init__(self, path: Path, power: bool = False) -> None:
        self.path = path
        self.power = power
        self.packed: list[bytes] = []
        self._ids: dict[bytes, int] = {}
        self._bags: dict[int, Bag] = {}
        self._end = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self.packed)

    def refresh(self) -> None:
        """Read what was appended since the last reading.

        Raises:
            CorruptMemory: if a record in the middle is damaged.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            data = file.read()
        place = 0
        while place + 8 <= len(data):
            length = int.from_bytes(data[place : place + 4], "little")
            record = data[place + 8 : place + 8 + length]
            if len(record) < length:
                break
            if zlib.crc32(record) != int.from_bytes(data[place + 4 : place + 8], "little"):
                raise CorruptMemory(
                    f"{self.path} is damaged at byte {self._end + place} (skeleton "
                    f"{len(self.packed)}); restore it from a copy"
                )
            self._ids.setdefault(record, len(self.packed))
            self.packed.append(record)
            place += 8 + length
        self._end += place

    def trim(self) -> None:
        """Cut off an unfinished record at the end (only the writer may)."""
        self.refresh()
        if self.path.exists() and self.path.stat().st_size > self._end:
            os.truncate(self.path, self._end)

    def add(self, packed: Sequence[bytes]) -> IntArray:
        """Return the ids of skeletons, after appending those that are new to the file."""
        fresh = [p for p in dict.fromkeys(packed) if p not in self._ids]
        if fresh:
            data = b"".join(
                len(p).to_bytes(4, "little") + zlib.crc32(p).to_bytes(4, "little") + p
                for p in fresh
            )
            self._append(data)
            for p in fresh:
                self._ids[p] = len(self.packed)
                self.packed.append(p)
        return np.array([self._ids[p] for p in packed], dtype=np.int64)

    def _append(self, data: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                if self.power:
                    os.fsync(file.fileno())
        except BaseException:
            if self.path.exists():
                os.truncate(self.path, self._end)
            raise
        self._end += len(data)

    def bag(self, skeleton: int) -> Bag:
        """Return the bag of a skeleton."""
        if skeleton not in self._bags:
            self._bags[skeleton] = bag_of(unpack_structure(self.bytes_of(skeleton)))
        return self._bags[skeleton]

    def bytes_of(self, skeleton: int) -> bytes:
        """Return a packed skeleton.

        Raises:
            CorruptMemory: if rows refer to a skeleton that the file does not hold.
        """
        if not 0 <= skeleton < len(self.packed):
            raise CorruptMemory(
                f"a glance has skeleton {skeleton}, but {self.path} holds only "
                f"{len(self.packed)}; the file lost its end or is missing"
            )
        return self.packed[skeleton]


class BagTable:
    """The distinct bags of a memory; bag 0 stands for glances whose skeleton was not kept."""

    def __init__(self) -> None:
        self._bags: list[tuple[IntArray, IntArray]] = [(np.zeros(0, np.int64),) * 2]
        self._ids: dict[bytes, int] = {}
        self._flat: tuple[IntArray, IntArray, IntArray] | None = None

    def __len__(self) -> int:
        return len(self._bags)

    def add(self, bag: Bag) -> int:
        """Return the id of a bag."""
        key = bag.key
        if key not in self._ids:
            self._ids[key] = len(self._bags)
            self._bags.append((bag.modules, bag.objects))
            self._flat = None
        return self._ids[key]

    def key(self, bag: int) -> bytes | None:
        """Return bytes that are equal for equal bags; None for bag 0."""
        modules, objects = self._bags[bag]
        return Bag(modules, objects, objects).key if bag else None

    def flat(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return all bags as (bag, module, objects), three arrays of one length."""
        if self._flat is None:
            lengths = [len(m) for m, _ in self._bags]
            self._flat = (
                np.repeat(np.arange(len(self._bags)), lengths),
                np.concatenate([m for m, _ in self._bags]),
                np.concatenate([o for _, o in self._bags]),
            )
        return self._flat

    @classmethod
    def from_flat(cls, count: int, bag: IntArray, module: IntArray, objects: IntArray) -> BagTable:
        """Read what ``flat`` returned."""
        table = cls()
        bounds = np.searchsorted(bag, np.arange(1, count + 1))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            none = np.zeros(0, np.int64)
            table.add(Bag(module[start:stop], objects[start:stop], none))
        return table


@dataclass(frozen=True, eq=False)
class SkeletonCounts:
    """Counts per glance, from skeletons alone: exact, without decoding.

    Attributes:
        ids: (N,) int64, ids of the glances, ordered by time.
        time: (N,) int64 microseconds UTC.
        known: (N,) bool, whether the glance's skeleton was kept.
        modules: the module table.
    """

    ids: IntArray
    time: IntArray
    known: npt.NDArray[np.bool_]
    modules: ModuleTable
    _index: IntArray
    _bags: Sequence[Bag]

    def __len__(self) -> int:
        return len(self.ids)

    def present(self) -> tuple[IntArray, IntArray]:
        """Return glance (its place in ``ids``) and module id of all that was there, (P,) each."""
        bags = [b.modules for b in self._bags] + [np.zeros(0, np.int64)]
        many = np.array([len(m) for m in bags])
        flat, first = np.concatenate(bags), np.cumsum(many) - many
        each = many[self._index]
        glance = np.repeat(np.arange(len(self.ids)), each)
        within = np.arange(len(glance)) - np.repeat(np.cumsum(each) - each, each)
        return glance, flat[np.repeat(first[self._index], each) + within]

    def count(self, module: str, unit: str = "objects") -> npt.NDArray[np.float64]:
        """Return (N,) counts of a module; zero where the skeleton is not known.

        Raises:
            NotRemembered: if the module was never seen.
            ValueError: if the unit is none of ``UNITS``.
        """
        check_one_of("unit", unit, UNITS)
        number = self.modules.id_of(module)
        table = np.zeros(len(self._bags) + 1)
        for row, bag in enumerate(self._bags):
            place = int(np.searchsorted(bag.modules, number))
            if place < len(bag.modules) and bag.modules[place] == number:
                objects = float(bag.objects[place])
                extra = float(bag.extra[place]) * 2.0**-WEIGHT_BITS
                table[row] = {"objects": objects, "glances": 1.0, "weight": objects + extra}[unit]
        return table[self._index]
