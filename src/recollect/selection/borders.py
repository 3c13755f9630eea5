"""What comes in: probabilities, labels, features and rows, checked and turned into arrays.

Everything may be a NumPy array, a nested list or a torch tensor (on any device); torch itself is
not imported here. Large tables of probabilities are read in blocks that fit the cache.

Shape letters: N rows of the pool, C classes, d features, k rows chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FloatArray",
    "IntArray",
    "array_of",
    "blocks",
    "check_features",
    "check_labels",
    "check_probabilities",
    "check_rows",
    "generator_of",
]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

# Rows of probabilities are refused if they miss 1 by more (half precision misses it by 1e-3).
TOLERANCE = 5e-3
BLOCK = 1 << 17  # numbers of one block: half a megabyte of float32


def array_of(thing: Any) -> npt.NDArray[Any]:
    """Return a NumPy array of an array, a list or a torch tensor."""
    if hasattr(thing, "detach"):
        thing = thing.detach().cpu()
        if str(thing.dtype) == "torch.bfloat16":  # NumPy has no such type
            thing = thing.float()
        thing = thing.numpy()
    return np.asarray(thing)


def generator_of(seed: int | np.random.Generator) -> np.random.Generator:
    """Return a generator: the given one, or a fresh one of the seed.

    Raises:
        TypeError: if it is neither an integer nor a ``numpy.random.Generator``.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer or a numpy.random.Generator, got {seed!r}")
    return np.random.default_rng(seed)


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of the rows, each of about half a megabyte."""
    step = max(1, BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def check_probabilities(probabilities: Any, name: str = "probabilities") -> FloatArray:
    """Return class probabilities as a floating array (N, C), or refuse them.

    Raises:
        ValueError: if the shape is not (N, C) with C >= 2, or a row is no distribution.
    """
    x = array_of(probabilities)
    if x.ndim != 2:
        raise ValueError(f"{name} must have the shape (rows, classes), got {x.shape}")
    if x.shape[1] < 2:
        raise ValueError(
            f"{name} has {x.shape[1]} class; choosing needs at least two (for a binary model give "
            "both columns, 1 - p and p)"
        )
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    elif x.dtype.itemsize < 4:
        x = x.astype(np.float32)
    ones = np.ones(x.shape[1], x.dtype)
    for rows in blocks(*x.shape):
        block = x[rows]
        wrong = ~(np.abs(block @ ones - 1) <= TOLERANCE)
        if wrong.any() or block.min(initial=0) < 0:
            _refuse_row(x, rows, name)
    return x


def _refuse_row(x: FloatArray, rows: slice, name: str) -> None:
    """Raise for the first row of a block that is no distribution."""
    block = x[rows]
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(block.sum(1) - 1) <= TOLERANCE) | (block < 0).any(1)
    first = int(np.argmax(wrong))
    row = block[first]
    if np.isnan(row).any():
        what = "holds NaN"
    elif (row < 0).any():
        what = f"is negative ({row.min():.4g})"
    else:
        what = f"sums to {row.sum():.4g}, not 1"
    raise ValueError(
        f"{name}: row {rows.start + first} {what}; give probabilities, for instance the softmax "
        "of the logits"
    )


def check_labels(labels: Any, rows: int, classes: int) -> IntArray:
    """Return labels as integers (N,) in [0, C), or refuse them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if there are not as many as rows, or one is out of range.
    """
    y = array_of(labels)
    if y.shape != (rows,):
        raise ValueError(f"labels must have the shape ({rows},), got {y.shape}")
    if y.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers (the column of the class), got {y.dtype}")
    if rows and (y.min() < 0 or y.max() >= classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {y.min()}..{y.max()}")
    return y.astype(np.int64, copy=False)


def check_features(features: Any, name: str = "features") -> FloatArray:
    """Return features as a floating array (N, d), or refuse them.

    Raises:
        ValueError: if the shape is not (N, d) or a number is not finite.
    """
    x = array_of(features)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (rows, features), got {x.shape}")
    if x.dtype.kind != "f" or x.dtype.itemsize < 4:
        x = x.astype(np.float32)
    for rows in blocks(*x.shape):
        if not np.isfinite(x[rows]).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity in rows {rows}")
    return x


def check_rows(chosen: Any, rows: int) -> IntArray:
    """Return row numbers as integers (k,), or refuse them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if one is out of range or comes twice.
    """
    if chosen is None:
        return np.empty(0, np.int64)
    c = array_of(chosen)
    if c.size == 0:
        return np.empty(0, np.int64)
    if c.ndim != 1 or c.dtype.kind not in "iu":
        raise TypeError(
            f"chosen must be a list of row numbers, got {c.dtype} of shape {c.shape} (for a mask "
            "give numpy.flatnonzero(mask))"
        )
    if c.min() < 0 or c.max() >= rows:
        raise ValueError(f"chosen must lie in 0..{rows - 1}, got {c.min()}..{c.max()}")
    if len(np.unique(c)) < len(c):
        raise ValueError("chosen names a row twice; give each row once")
    return c.astype(np.int64, copy=False)
