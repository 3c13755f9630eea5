"""Which columns hold which numbers of a sketch, whole or faded.

A whole sketch stands in sibling columns ``s0`` (the first 256 numbers), ``s1`` (the next 768) and
``s2`` (the rest): a prefix of a fixed-size list column cannot be read alone. A faded sketch
stands in fewer of them, and where its length falls inside a tier, in a column of its own for
that part: ``s1-256`` holds the first 256 numbers of ``s1``. Glances that keep equally much share
fragments, and a fragment has no file for the columns that it lacks, so these cost nothing.

The distribution channel (``channel-codes``) is a sketch of its own and fades with the sketch: of a
glance that keeps ``k`` of ``d`` numbers, the channel keeps the first ``k c / d`` of its ``c``,
rounded down; ``channel-codes-64`` holds the first 64.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CHANNEL", "channel_columns", "channel_kept", "columns_of", "is_part", "kept_of", "matrix_of",
    "parts_of", "tiers", "within",
]  # fmt: skip

IntArray = npt.NDArray[np.int64]

# The channel's codes and their scale; no label can have such names.
CHANNEL = ("channel-codes", "channel-scale")

_PART = re.compile(r"(s[012]|channel-codes)-(\d+)")


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


def channel_kept(keep: IntArray, dim: int, channel: int) -> IntArray:
    """Return how many numbers of the channel are kept beside some numbers of a sketch, (n,).

    >>> channel_kept(np.array([1024, 256, 100, 0]), 1024, 256).tolist()
    [256, 64, 25, 0]
    """
    found: IntArray = np.asarray(keep, np.int64) * channel // dim
    return found


def channel_columns(keep: int, dim: int, channel: int) -> dict[str, slice]:
    """Return the column of the channel's first numbers, beside ``keep`` numbers of a sketch.

    >>> channel_columns(256, 1024, 256), channel_columns(0, 1024, 256)
    ({'channel-codes-64': slice(0, 64, None)}, {})
    """
    size = int(channel_kept(np.array([keep]), dim, channel)[0])
    if size == 0:
        return {}
    return {CHANNEL[0] if size == channel else f"{CHANNEL[0]}-{size}": slice(0, size)}


def within(kept: IntArray, dim: int, channel: int) -> npt.NDArray[np.bool_]:
    """Return which numbers of sketch and channel, (B, d + c), glances keep.

    Args:
        kept: (B,) numbers kept of the sketches.
        dim: numbers in a whole sketch, d.
        channel: numbers in a whole channel, c; 0 for none.
    """
    of_sketch = np.arange(dim) < np.asarray(kept)[:, None]
    if not channel:
        return of_sketch
    of_channel = np.arange(channel) < channel_kept(kept, dim, channel)[:, None]
    return np.concatenate([of_sketch, of_channel], axis=1)


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
