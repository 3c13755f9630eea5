"""Queries, and sketches compared as coordinates.

Sketches of different recipes stand in different coordinates. Those of an informed epoch are, of
codes c with scale s,

    x = s c f + o,

with a factor f for each number (one over its gain) and an offset o (what the prior's mean adds);
inner products of x estimate those of scaled attributes. The cosine with a query v needs three
products with the codes: with f v, with f o, and of their squares with f^2.

Shape letters: n rows, w numbers of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NOTHING", "Query", "framed_scores"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

# Rows that are turned to floating point at a time.
_ROWS = 16_384
# Score of a glance that keeps nothing to compare.
NOTHING = np.float32(-1e30)


@dataclass(frozen=True, eq=False)
class Query:
    """What is compared with the sketches of some glances.

    Attributes:
        vector: (d,) coordinates; fewer compare prefixes.
        epochs: numbers of the epochs whose glances it is for; None for all.
        factor: (d,) what stored numbers are multiplied with to be coordinates; None for one.
        offset: (d,) what is then added; None for nothing.
        kept: it is for glances that keep exactly so many numbers; None for all.
        strength: what scores are multiplied with.
        products: whether products with the vector are asked for, not cosines: then long
            sketches come first.
    """

    vector: Any
    epochs: tuple[int, ...] | None = None
    factor: npt.NDArray[np.floating] | None = None
    offset: npt.NDArray[np.floating] | None = None
    kept: int | None = None
    strength: float = 1.0
    products: bool = False

    def unit(self, dim: int) -> Query:
        """Return the query with a vector of length one, float32.

        Raises:
            ValueError: if it has more numbers than a sketch, is zero, or not finite.
        """
        vector = np.array(self.vector, np.float32).reshape(-1)
        if not 0 < len(vector) <= dim:
            raise ValueError(
                f"a vector of {dim} numbers (or a prefix) is expected, got {len(vector)}"
            )
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0:
            raise ValueError("the vector to search for must be finite and not zero")
        return replace(self, vector=(vector / norm).astype(np.float32))


def framed_scores(
    query: Query,
    codes: npt.NDArray[Any],
    scale: FloatArray,
    kept: IntArray | None = None,
) -> FloatArray:
    """Return the cosines (or products), (n,), of a query with the coordinates of some rows.

    Args:
        query: with factor and offset.
        codes: (n, w) as they are stored, zero beyond what a row keeps.
        scale: (n,) what they are multiplied with.
        kept: (n,) how many numbers each row keeps; None for all. A row that keeps none
            scores ``NOTHING``.

    Example:
        >>> q = Query(np.array([1.0, 1.0]), None, np.array([1.0, 2.0]), np.array([0.0, 1.0]))
        >>> codes = np.array([[1, 0], [1, -1]], np.int8)
        >>> framed_scores(q, codes, np.ones(2, np.float32)).round(3).tolist()
        [1.0, 0.0]
    """
    width = codes.shape[1]
    if kept is None:
        return _scores(query, codes, scale, min(width, len(query.vector)))
    out = np.full(len(codes), NOTHING, np.float32)
    left = np.minimum(kept, min(width, len(query.vector)))
    for length in np.unique(left[left > 0]).tolist():
        rows = np.flatnonzero(left == length)
        out[rows] = _scores(query, codes[rows], scale[rows], length)
    return out


def _scores(query: Query, codes: npt.NDArray[Any], scale: FloatArray, width: int) -> FloatArray:
    """Cosines, or products, of the first ``width`` numbers."""
    assert query.factor is not None
    assert query.offset is not None
    v = np.asarray(query.vector[:width], np.float64)
    f, o = query.factor[:width].astype(np.float64), query.offset[:width].astype(np.float64)
    both = np.column_stack([f * v, f * o]).astype(np.float32)
    squares = np.square(f).astype(np.float32)
    at, length = float(o @ v), float(o @ o)
    size = max(float(np.linalg.norm(v)), 1e-30)
    out = np.zeros(len(codes), np.float32)
    for start in range(0, len(codes), _ROWS):
        rows = slice(start, start + _ROWS)
        x = codes[rows, :width].astype(np.float32)
        s = scale[rows].astype(np.float64)
        ahead, along = (x @ both).T.astype(np.float64)
        if query.products:
            out[rows] = ahead * s + at
            continue
        norm = np.square(x) @ squares * np.square(s) + 2 * along * s + length
        out[rows] = (ahead * s + at) / np.sqrt(np.maximum(norm, 1e-30)) / size
    return out
