"""Writing rows anew, those that keep equally much of their sketch side by side.

A fragment of a memory that fades holds glances of one length only, in the order of time and at
most ``ROWS`` of them: then what a fragment lacks costs nothing on disk, and a day's fading
rewrites little. New fragments are written first and take the old ones' place in one commit, so
that a killed writer leaves either the old rows or the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.memory.rows import FOLDER, Rows, lance
from recollect.memory.tables import EPOCH, PARTS
from recollect.memory.tiers import CHANNEL, channel_columns, columns_of, is_part

__all__ = ["ROWS", "add_parts", "append", "join", "rewrite"]

IntArray = npt.NDArray[np.int64]
# (numbers kept, places of the rows)
Group = tuple[int, IntArray]

# Rows of a fragment at most, and rows that are read at a time.
ROWS = 65_536
_BATCH = 4096
# Fragments with fewer rows are joined while writing goes on.
_SMALL = 4096


def add_parts(rows: Rows, keeps: Iterable[int]) -> None:
    """Add the columns that sketches of some lengths need; old rows are not touched."""
    import pyarrow as pa

    data = rows.data()
    fresh: dict[str, Any] = {}
    for keep in keeps:
        of_sketch, of_channel = columns_of(keep, rows.dim), _channel(rows, keep)
        for wanted, kind in ((of_sketch, rows.dtype), (of_channel, np.dtype(np.int8))):
            for name, part in wanted.items():
                if name not in data.schema.names and name not in rows.lost:
                    width = part.stop - part.start
                    fresh[name] = pa.list_(pa.from_numpy_dtype(kind), width)
    if fresh:
        data.add_columns(pa.schema([pa.field(n, t) for n, t in fresh.items()]))
        rows.refresh()


def rewrite(rows: Rows, fragments: Sequence[int], groups: Sequence[Group]) -> None:
    """Put new fragments in the place of old ones, in one commit.

    Args:
        rows: of the memory.
        fragments: ids of the fragments that go.
        groups: what comes: how many numbers are kept, and the places of the rows that keep so
            many, in the order in which they are written. The columns must be there.
    """
    engine = lance()
    path = str(rows.folder / FOLDER)
    data = rows.data()
    made: list[Any] = []
    for keep, places in groups:
        if len(places):
            made += _write(rows, path, _tables(rows, places, keep))
    rows.folder.flush_new(FOLDER)
    update = engine.LanceOperation.Update(
        removed_fragment_ids=list(fragments), updated_fragments=[], new_fragments=made,
        fields_modified=[],
    )  # fmt: skip
    engine.LanceDataset.commit(path, update, read_version=data.version)
    rows.folder.flush_new(FOLDER)
    rows.refresh()


def append(rows: Rows, table: Any, keep: int) -> None:
    """Add rows that keep only their first numbers, in one commit; ``table`` has whole ones."""
    engine = lance()
    path = str(rows.folder / FOLDER)
    data = rows.data()
    made = _write(rows, path, iter([_cut(rows, table, keep)]))
    rows.folder.flush_new(FOLDER)
    commit = engine.LanceOperation.Append(made)
    engine.LanceDataset.commit(path, commit, read_version=data.version)
    rows.folder.flush_new(FOLDER)
    rows.refresh()


def join(rows: Rows, everything: bool) -> None:
    """Join small fragments of equal lengths, and drop deleted rows."""
    keys, keeps = rows.keys(), rows.keeps()
    small = ROWS if everything else _SMALL
    starts = np.cumsum([0, *(n - gone for _, n, gone in keys)])
    time, ids = rows.index()[1], rows.index()[0]
    fragments: list[int] = []
    groups: list[Group] = []
    for keep in sorted(set(keeps)):
        chosen = [
            i
            for i, (_, n, gone) in enumerate(keys)
            if keeps[i] == keep and (n - gone < small or 10 * gone > n)
        ]
        if len(chosen) < 2 and not any(keys[i][2] for i in chosen):
            continue
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        groups.append((keep, places[np.lexsort((ids[places], time[places]))]))
        fragments += [keys[i][0] for i in chosen]
    if fragments:
        rewrite(rows, fragments, groups)


def _write(rows: Rows, path: str, tables: Iterator[Any]) -> list[Any]:
    import pyarrow as pa

    first = next(tables)

    def batches() -> Iterator[Any]:
        yield from first.to_batches()
        for table in tables:
            yield from table.to_batches()

    reader = pa.RecordBatchReader.from_batches(first.schema, batches())
    made: list[Any] = lance().fragment.write_fragments(
        reader, path, mode="append", max_rows_per_file=ROWS
    )
    return made


def _tables(rows: Rows, places: IntArray, keep: int) -> Iterator[Any]:
    scaled = ["scale"] if rows.dtype == np.int8 else []
    names = rows.data().schema.names
    more = [n for n in (EPOCH, PARTS) if n in names]
    vectors = [*rows.tiers, *(CHANNEL if rows.channel else ())]
    chosen = [
        "id", "time", "source", "skeleton", *scaled, *more, *rows.label_names(), *vectors
    ]  # fmt: skip
    for start in range(0, len(places), _BATCH):
        part = places[start : start + _BATCH]
        yield _cut(rows, rows.take(part, chosen), keep)


def _cut(rows: Rows, table: Any, keep: int) -> Any:
    """Return a table with the sketches, and the channel, cut to their first numbers."""
    import pyarrow as pa

    vectors = [(rows.codes(table), columns_of(keep, rows.dim))]
    if rows.channel:
        vectors.append((rows.channel_part(table)[0], _channel(rows, keep)))
    whole = [n for n in table.column_names if n in (*rows.tiers, CHANNEL[0]) or is_part(n)]
    table = table.drop_columns(whole).combine_chunks()
    for codes, columns in vectors:
        for name, part in columns.items():
            if name in rows.lost:
                continue
            flat = np.ascontiguousarray(codes[:, part]).reshape(-1)
            column = pa.FixedSizeListArray.from_arrays(pa.array(flat), part.stop - part.start)
            table = table.append_column(name, column)
    return table


def _channel(rows: Rows, keep: int) -> dict[str, slice]:
    """Columns of the channel's numbers that are kept."""
    return channel_columns(keep, rows.dim, rows.channel) if rows.channel else {}
