"""Some glances as columns, and filters that choose glances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.memory.sums import to_fixed_point

__all__ = ["Block", "Counted", "Where"]

IntArray = npt.NDArray[np.int64]
# Time, skeleton, fixed-point vectors and epoch of some glances: what a ledger counts in.
Counted = tuple[IntArray, IntArray, IntArray, IntArray | None]


@dataclass(frozen=True, eq=False)
class Block:
    """Some glances as NumPy columns.

    Attributes:
        ids: (B,) int64.
        time: (B,) int64 microseconds UTC.
        source: B strings or None.
        labels: name -> B values (str, float, bool or None).
        skeleton: (B,) int64, -1 where not kept.
        scale: (B,) float32, or None where the codes are no int8.
        codes: (B, d); zero beyond what is kept of a faded glance.
        channel: (B, c) int8 and (B,) float32, the distribution channel's codes and their scale;
            None where the recipe has none.
        kept: (B,) int64, numbers kept of each glance, or None where all are whole.
        epoch: (B,) int64, number of the epoch of each, or None where all are of the first.
        parts: B signatures of the glance's objects (16 bytes each, by rank), or None; None where
            the memory keeps no graph.
    """

    ids: IntArray
    time: IntArray
    source: Sequence[str | None]
    labels: dict[str, Sequence[Any]]
    skeleton: IntArray
    scale: npt.NDArray[np.float32] | None
    codes: npt.NDArray[Any]
    channel: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None = None
    kept: IntArray | None = None
    epoch: IntArray | None = None
    parts: Sequence[bytes | None] | None = None

    @property
    def fixed(self) -> IntArray:
        """Sketches, and behind them the channel, (B, d + c) in units of 2**-32."""
        sketch = to_fixed_point(self.codes, self.scale)
        if self.channel is None:
            return sketch
        return np.concatenate([sketch, to_fixed_point(*self.channel)], axis=1)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: IntArray) -> Block:
        """Return some rows."""
        chosen = rows.tolist()
        return Block(
            self.ids[rows],
            self.time[rows],
            [self.source[r] for r in chosen],
            {n: [v[r] for r in chosen] for n, v in self.labels.items()},
            self.skeleton[rows],
            None if self.scale is None else self.scale[rows],
            self.codes[rows],
            None if self.channel is None else (self.channel[0][rows], self.channel[1][rows]),
            None if self.kept is None else self.kept[rows],
            None if self.epoch is None else self.epoch[rows],
            None if self.parts is None else [self.parts[r] for r in chosen],
        )


@dataclass(frozen=True)
class Where:
    """A filter: an SQL expression, and a half-open span of time in microseconds UTC."""

    sql: str | None = None
    since: int | None = None
    until: int | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.sql is None and self.since is None and self.until is None
