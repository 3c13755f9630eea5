"""Glances as Arrow tables: from blocks to the columns of the dataset, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.memory.blocks import Block, Counted
from recollect.memory.sums import to_fixed_point
from recollect.memory.tiers import CHANNEL, is_part, matrix_of, parts_of, tiers

__all__ = ["EPOCH", "FIXED", "PARTS", "Tables", "epochs_of", "integers"]

IntArray = npt.NDArray[np.int64]

# The epoch, and signatures of a glance's objects where the memory keeps a graph; no label can
# have such names.
EPOCH = "sketch-epoch"
PARTS = "part-signatures"
# Columns that are ours; every other column is a label.
FIXED = ("id", "time", "source", "skeleton", "scale", "s0", "s1", "s2", *CHANNEL, EPOCH, PARTS)


class Tables:
    """The columns in which a memory's glances stand.

    Args:
        dim: numbers in a sketch.
        dtype: ``"int8"``, ``"float16"`` or ``"float32"``.
        channel: numbers in the distribution channel; 0 for none.
    """

    def __init__(self, dim: int, dtype: str, channel: int = 0) -> None:
        self.dim = dim
        self.channel = channel
        self.dtype = np.dtype(dtype)
        self.tiers = tiers(dim)
        # Whether signatures of objects are kept.
        self.signed = False

    # -- from a table ---------------------------------------------------------------------

    def sketch_part(self, table: Any) -> Counted:
        """Return of ``sketch_columns`` what a ledger counts in."""
        scale = table.column("scale").to_numpy() if "scale" in table.column_names else None
        time, skeleton = integers(table.column("time")), integers(table.column("skeleton"))
        fixed = to_fixed_point(self.codes(table), scale)
        if self.channel:
            fixed = np.concatenate([fixed, to_fixed_point(*self.channel_part(table))], axis=1)
        return time, skeleton, fixed, epochs_of(table)

    def channel_part(self, table: Any) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """Return the channel's codes (B, c) and scales (B,) of a table that holds them.

        What a faded glance does not keep is zero.
        """
        codes = self._joined(table, CHANNEL[0], self.channel, np.dtype(np.int8))
        return codes, table.column(CHANNEL[1]).to_numpy().astype(np.float32)

    def codes(self, table: Any, columns: Sequence[str] | None = None) -> npt.NDArray[Any]:
        """Return the sketches (B, d) of a table that holds (some of) the tiers.

        What a faded glance does not keep, or no glance any more, is zero.
        """
        parts = [self._tier(table, c) for c in columns or self.tiers]
        return np.ascontiguousarray(np.concatenate(parts, axis=1)) if len(parts) > 1 else parts[0]

    def _tier(self, table: Any, name: str) -> npt.NDArray[Any]:
        size = self.tiers[name].stop - self.tiers[name].start
        return self._joined(table, name, size, self.dtype)

    def _joined(self, table: Any, name: str, size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """A column and the columns of its first parts as one matrix (B, size)."""
        parts = parts_of(name, table.column_names)
        whole = None
        if name in table.column_names:
            whole = matrix_of(table.column(name), dtype)
            if not parts:
                return whole
        out = np.zeros((len(table), size), dtype) if whole is None else whole.copy()
        for column, width in parts.items():
            out[:, :width] += matrix_of(table.column(column), dtype)
        return out

    def block(self, table: Any) -> Block:
        """Return a table that holds all columns as a ``Block``."""
        names = [n for n in table.column_names if n not in FIXED and not is_part(n)]
        scale = None
        if "scale" in table.column_names:
            scale = table.column("scale").to_numpy().astype(np.float32)
        return Block(
            integers(table.column("id")),
            integers(table.column("time")),
            table.column("source").to_pylist(),
            {n: table.column(n).to_pylist() for n in names},
            integers(table.column("skeleton")),
            scale,
            self.codes(table),
            self.channel_part(table) if self.channel else None,
            epoch=epochs_of(table),
            parts=table.column(PARTS).to_pylist() if PARTS in table.column_names else None,
        )

    # -- to a table -----------------------------------------------------------------------

    def none(self) -> Block:
        """Return a block of no rows."""
        number = np.zeros(0, np.int64)
        scale = np.zeros(0, np.float32) if self.dtype == np.int8 else None
        codes = np.zeros((0, self.dim), self.dtype)
        channel = np.zeros((0, self.channel), np.int8), np.zeros(0, np.float32)
        return Block(
            number, number, [], {}, number, scale, codes, channel if self.channel else None
        )

    def to_table(self, block: Block, schema: Any, types: Mapping[str, Any]) -> Any:
        """Return a block as a ``pyarrow.Table``.

        Args:
            block: the glances.
            schema: of the dataset, whose order of columns is kept; None before the first row.
            types: label -> its Arrow type in the dataset.
        """
        import pyarrow as pa

        size = len(block)
        columns: dict[str, Any] = {
            "id": pa.array(block.ids, pa.int64()),
            "time": pa.array(block.time, pa.timestamp("us", "UTC")),
            "source": pa.array(list(block.source), pa.string()),
            "skeleton": pa.array(block.skeleton, pa.int32()),
        }
        if self.dtype == np.int8:
            columns["scale"] = pa.array(block.scale, pa.float32())
        for name, part in self.tiers.items():
            flat = np.ascontiguousarray(block.codes[:, part], dtype=self.dtype).reshape(-1)
            width = part.stop - part.start
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        if block.channel is not None:
            codes, scale = block.channel
            flat = pa.array(np.ascontiguousarray(codes).reshape(-1))
            columns[CHANNEL[0]] = pa.FixedSizeListArray.from_arrays(flat, self.channel)
            columns[CHANNEL[1]] = pa.array(scale, pa.float32())
        if block.epoch is not None and (schema is None or EPOCH in schema.names):
            columns[EPOCH] = pa.array(block.epoch, pa.int16())
        if self.signed or (schema is not None and PARTS in schema.names):
            columns[PARTS] = pa.array(list(block.parts or [None] * size), pa.binary())
        for name in [*types, *[n for n in block.labels if n not in types]]:
            values = list(block.labels.get(name, [None] * size))
            columns[name] = pa.array(values, types.get(name) or _label_type(pa, values))
        table = pa.table(columns)
        if schema is None:
            return table
        return table.select([n for n in schema.names if n in table.column_names])


def epochs_of(table: Any) -> IntArray | None:
    """Return the epoch of each row of a table, (N,) int64; None where no column tells."""
    if EPOCH not in table.column_names:
        return None
    import pyarrow.compute as pc

    found: IntArray = pc.fill_null(table.column(EPOCH), 0).to_numpy().astype(np.int64)
    return found


def _label_type(pa: Any, values: Sequence[Any]) -> Any:
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {bool} and kinds:
        return pa.bool_()
    return pa.float64() if kinds <= {float} and kinds else pa.string()


def integers(column: Any) -> IntArray:
    """Return an integer or time column as (N,) int64."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    array: IntArray = column.to_numpy().astype(np.int64)
    return array
