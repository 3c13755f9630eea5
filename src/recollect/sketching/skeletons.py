"""Skeletons: the structure of a glance without attributes, in a few bytes.

A skeleton says which modules put out objects, in depth-first order, and which object was made
from which with what weight. Glances of a static network all share one skeleton.

Format, version 1: one byte of flags (1: has edges below the top level, 2: has weights that are
not one); the module ids as runs ``(first id, 2 * length + step)``, where step 0 repeats an id and
step 1 counts up; with flag 1 the edges as ``(parent + 1, child)``; with flag 2 one little-endian
float16 per edge (per object, if there are no edges). Integers are LEB128 varints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Skeletons", "Structure", "pack_structure", "unpack_structure"]

IntArray = npt.NDArray[np.int64]
_EDGES, _WEIGHTS = 1, 2
# More objects or edges than any glance has: what claims more is no skeleton.
_MOST = 1 << 24


@dataclass(frozen=True, eq=False)
class Structure:
    """One glance's structure, spelled out.

    Attributes:
        modules: (n,) int64, module ids in depth-first order (the rank of an object is its place).
        parent: (E,) int64, rank of the parent, -1 for the output.
        child: (E,) int64, rank of the child.
        weight: (E,) float32, as kept (float16 precision).
    """

    modules: IntArray
    parent: IntArray
    child: IntArray
    weight: npt.NDArray[np.float32]

    @property
    def is_flat(self) -> bool:
        """Whether every object is a top-level object."""
        return bool((self.parent == -1).all()) and len(self.parent) == len(self.modules)


def pack_structure(structure: Structure) -> bytes:
    """Write a structure as bytes; ``unpack_structure`` reads them back exactly.

    Weights are rounded to float16.

    Raises:
        ValueError: if a weight does not fit a float16.

    Example:
        >>> flat = Structure(np.arange(3), np.full(3, -1), np.arange(3), np.ones(3, np.float32))
        >>> pack_structure(flat).hex(), unpack_structure(pack_structure(flat)).modules.tolist()
        ('00010007', [0, 1, 2])
    """
    top = float(structure.weight.max(initial=0.0))
    if top > 65504:
        raise ValueError(
            f"a weight of {top:g} is too large for a skeleton, weights are at most 65504; divide "
            "the weights of all glances by one number"
        )
    flat = structure.is_flat and bool(
        np.array_equal(structure.child, np.arange(len(structure.modules)))
    )
    weighted = bool((structure.weight != 1).any())
    out = bytearray([(0 if flat else _EDGES) | (_WEIGHTS if weighted else 0)])
    runs = _runs(structure.modules)
    _varint(out, len(runs))
    for first, length, step in runs:
        _varint(out, first)
        _varint(out, 2 * length + step)
    if not flat:
        _varint(out, len(structure.parent))
        for parent, child in zip(structure.parent.tolist(), structure.child.tolist(), strict=True):
            _varint(out, parent + 1)
            _varint(out, child)
    if weighted:
        out += structure.weight.astype("<f2").tobytes()
    return bytes(out)


@lru_cache(maxsize=65536)
def unpack_structure(data: bytes) -> Structure:
    """Read what ``pack_structure`` wrote.

    Raises:
        ValueError: if the bytes are not a skeleton.
    """
    try:
        flags, place = data[0], 1
        if flags & ~(_EDGES | _WEIGHTS):
            raise ValueError(f"unknown flags {flags}")
        num_runs, place = _read(data, place)
        parts, total = [], 0
        for _ in range(num_runs):
            first, place = _read(data, place)
            code, place = _read(data, place)
            length, step = code >> 1, code & 1
            total += length
            if total > _MOST or first + length >= 2**63:
                raise ValueError("too many objects")
            parts.append(first + step * np.arange(length, dtype=np.int64))
        modules = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if flags & _EDGES:
            count, place = _read(data, place)
            if count > _MOST:
                raise ValueError("too many edges")
            pairs = np.empty((count, 2), dtype=np.int64)
            for row in range(count):
                pairs[row, 0], place = _read(data, place)
                pairs[row, 1], place = _read(data, place)
            parent, child = pairs[:, 0] - 1, pairs[:, 1].copy()
        else:
            parent = np.full(len(modules), -1, dtype=np.int64)
            child = np.arange(len(modules), dtype=np.int64)
        weight = np.ones(len(parent), dtype=np.float32)
        if flags & _WEIGHTS:
            kept = np.frombuffer(data, dtype="<f2", count=len(parent), offset=place)
            weight = kept.astype(np.float32)
            place += 2 * len(parent)
        if place != len(data):
            raise ValueError("bytes are left over")
    except (IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"these {len(data)} bytes are not a skeleton") from error
    return Structure(modules, parent, child, weight)


@dataclass(frozen=True, eq=False)
class Skeletons:
    """The skeletons of a batch: the distinct ones, and which glance has which.

    Attributes:
        table: distinct skeletons, packed.
        index: (B,) int64, place in ``table`` of each glance's skeleton.
    """

    table: tuple[bytes, ...]
    index: IntArray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, glance: int) -> Structure:
        return unpack_structure(self.table[int(self.index[glance])])

    def __repr__(self) -> str:
        size = sum(len(self.table[i]) for i in self.index)
        return f"Skeletons({len(self)} glances, {len(self.table)} distinct, {size} bytes)"

    def packed(self) -> list[bytes]:
        """Return each glance's skeleton as bytes."""
        return [self.table[i] for i in self.index.tolist()]

    def select(self, rows: IntArray) -> Skeletons:
        """Return the skeletons of some glances."""
        return Skeletons.from_packed([self.table[i] for i in self.index[rows].tolist()])

    @classmethod
    def from_packed(cls, packed: Sequence[bytes]) -> Skeletons:
        """Collect packed skeletons, one per glance."""
        places: dict[bytes, int] = {}
        index = np.array([places.setdefault(p, len(places)) for p in packed], dtype=np.int64)
        return cls(tuple(places), index)


def _runs(ids: IntArray) -> list[tuple[int, int, int]]:
    """Split ids into runs (first, length, step), step 0 or 1, greedily."""
    values = ids.tolist()
    runs: list[tuple[int, int, int]] = []
    start = 0
    while start < len(values):
        stop, step = start + 1, 0
        if stop < len(values) and values[stop] - values[start] in (0, 1):
            step = values[stop] - values[start]
            while stop < len(values) and values[stop] - values[stop - 1] == step:
                stop += 1
        runs.append((values[start], stop - start, step))
        start = stop
    return runs


def _varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
