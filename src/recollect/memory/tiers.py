"""Which columns hold which numbers of a sketch, whole or faded.

A whole sketch stands in sibling columns ``s0`` (the first 256 numbers), ``s1`` (the next 768) and
``s2`` (the rest): a prefix of a fixed-size list column cannot be read alone. A faded sketch
stands in fewer of them, and where its length falls inside a tier, in a column of its own for
that part: ``s1-256`` holds the first 256 numbers of ``s1``. Glances that keep equally much share
fragments, and a fragment has no file for the columns that it lacks, so these cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["columns_of", "is_part", "kept_of", "matrix_of", "parts_of", "tiers"]

_PART = re.compile(r"(s[012])-(\d+)")


def tiers(dim: int) -> dict[str, slice]:
    """Return the columns of a sketch and which of its numbers they hold.

    >>> tiers(1024)
    {'s0': slice(0, 256, None), 's1': slice(256, 1024, None)}
    """
    cuts = (("s0", 0, 256), ("s1", 256, 1024), ("s2", 1024, dim))
    return {name: slice(start, min(stop, dim)) for name, start, stop in cuts if start < dim}


def columns_of(keep: int, dim: int) -> dict[str, slice]:
    """Return the columns of sketches that keep their first numbers only.

    >>> columns_of(512, 1024)
    {'s0': slice(0, 256, None), 's1-256': slice(256, 512, None)}
    """
    found = {}
    for name, part in tiers(dim).items():
        if part.stop <= keep:
            found[name] = part
        elif part.start < keep:
            found[f"{name}-{keep - part.start}"] = slice(part.start, keep)
    return found


def is_part(name: str) -> bool:
    """Whether a column holds a part of a tier (no label can have such a name)."""
    return _PART.fullmatch(name) is not None


def parts_of(tier: str, names: Iterable[str]) -> dict[str, int]:
    """Return the columns among ``names`` that hold a part of a tier, and how many numbers.

    >>> parts_of("s1", ["id", "s0", "s1", "s1-256", "s0-64"])
    {'s1-256': 256}
    """
    found = ((n, _PART.fullmatch(n)) for n in names)
    return {n: int(m[2]) for n, m in found if m is not None and m[1] == tier}


def kept_of(present: Iterable[str], known: Iterable[str], dim: int) -> int:
    """Return how many numbers the columns of a fragment hold.

    Args:
        present: names of the columns that the fragment has files for.
        known: names of all columns; a tier that is not among them was lost everywhere.
        dim: numbers in a whole sketch.
    """
    here, everywhere = set(present), set(known)
    keep = 0
    for name, part in tiers(dim).items():
        if name in here:
            keep = part.stop
        elif name in everywhere:
            partial = parts_of(name, here)
            return part.start + max(partial.values()) if partial else keep
    return keep


def matrix_of(column: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a fixed-size list column as a matrix, zero where there is none.

    Nothing is copied where the column is one chunk without gaps.
    """
    width = column.type.list_size
    parts = [_chunk(c, width, dtype) for c in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([*parts, np.zeros((0, width), dtype)])


def _chunk(chunk: Any, width: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if chunk.null_count == 0:
        flat = chunk.flatten().to_numpy(zero_copy_only=True)
        return np.frombuffer(memoryview(flat), dtype).reshape(-1, width)
    out = np.zeros((len(chunk), width), dtype)
    if chunk.null_count < len(chunk):
        there = ~np.asarray(chunk.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)
        flat = chunk.drop_null().flatten().to_numpy(zero_copy_only=True)
        out[there] = np.frombuffer(memoryview(flat), dtype).reshape(-1, width)
    return out
