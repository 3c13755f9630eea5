"""The glances on disk: one Lance row each, the sketch cut into prefix tiers (see ``tiers``).

Where the recipe has a distribution channel, its vector stands in a column of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory
from recollect.memory.blocks import Block, Where
from recollect.memory.index import Columns, Index, Key, fragment_keys
from recollect.memory.layout import Folder, Moved
from recollect.memory.tables import EPOCH, FIXED, PARTS, Tables, epochs_of, integers
from recollect.memory.tiers import CHANNEL, is_part, kept_of, parts_of

__all__ = ["FOLDER", "Rows", "newest_version"]

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")

FOLDER = "glances.lance"

# Fragments of this many rows are left alone when small ones are joined. Joining encodes them
# again, and part of the memory that this takes is never given back: more rows, more of it.
_SETTLED = 4096
_ALL_SETTLED = 1 << 20
_NEWEST = (1 << 64) - 1
_BATCH = 8192


def lance() -> Any:
    """Import Lance, quietly (it warns on every first write otherwise)."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lance

    return lance


def newest_version(path: Path) -> int:
    """Return the newest version of the glances by the names of its manifests; 0 if none.

    This needs no Lance, and so keeps counting light.
    """
    folder = path / FOLDER / "_versions"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    numbers = [int(n.removesuffix(".manifest")) for n in names if n.endswith(".manifest")]
    if not numbers:
        return 0
    # Twenty digits count down from the largest number (the newest sorts first); fewer count up.
    return max(_NEWEST - n if n > _NEWEST // 2 else n for n in numbers)


class Rows(Tables):
    """The rows of a memory.

    Args:
        folder: of the memory.
        dim: numbers in a sketch.
        dtype: ``"int8"``, ``"float16"`` or ``"float32"``.
        channel: numbers in the distribution channel; 0 for none.
    """

    def __init__(self, folder: Folder, dim: int, dtype: str, channel: int = 0) -> None:
        super().__init__(dim, dtype, channel)
        self.folder = folder
        self._data: Any = None
        self._index = Index()
        self._keys: tuple[int, list[Key]] = (-1, [])
        self._keeps: tuple[int, list[int]] = (-1, [])

    # -- versions -------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Newest version on disk; 0 before the first row."""
        return newest_version(self.folder.path)

    def data(self) -> Any:
        """Return the version that is being read, as a Lance dataset; None before the first row.

        It stays the same until ``refresh``, so that places keep their meaning.

        Raises:
            CorruptMemory: if it cannot be opened.
        """
        if self._data is None and self.version > 0:
            try:
                self._data = lance().dataset(str(self.folder / FOLDER))
            except (OSError, ValueError, RuntimeError) as error:
                raise CorruptMemory(f"{self.folder / FOLDER} cannot be opened: {error}") from error
        return self._data

    def refresh(self) -> None:
        """Read the newest version from now on."""
        if self._data is not None and self._data.version != self.version:
            self._data = None

    def cover(self) -> tuple[int, dict[str, list[int]], list[str]]:
        """Return version, fragments (rows, deleted) and files (relative) of the newest version.

        Raises:
            CorruptMemory: naming files that are missing.
        """
        data = self.data()
        if data is None:
            return 0, {}, []
        fragments, files = {}, []
        for f in data.get_fragments():
            meta = f.metadata
            gone = meta.deletion_file.num_deleted_rows if meta.deletion_file else 0
            fragments[str(meta.id)] = [meta.physical_rows, gone]
            files += [f"{FOLDER}/data/{d.path}" for d in meta.files]
            if meta.deletion_file:
                files.append(f"{FOLDER}/{meta.deletion_file.path(meta.id)}")
        self.check_files(files)
        return int(data.version), fragments, files

    def check_files(self, files: Sequence[str]) -> None:
        """Check that files are there.

        Raises:
            CorruptMemory: naming those that are not.
        """
        lost = [name for name in files if not (self.folder / name).exists()]
        if lost:
            raise CorruptMemory(
                f"{self.folder.path} lost {len(lost)} of its files: {', '.join(lost[:5])}; "
                "restore them from a copy"
            )

    # -- reading --------------------------------------------------------------------------

    def index(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return id, time and skeleton of all rows, (N,) each, in the order of the rows."""
        self._index.update(self.keys(), self._fragment_index)
        return self._index.arrays[:3]

    def epochs(self) -> IntArray:
        """Return the epoch in which each row was sketched, (N,), in the order of the rows."""
        self.index()
        return self._index.arrays[3]

    @property
    def has_epochs(self) -> bool:
        """Whether a column tells the epoch of a row; else all are of the first."""
        data = self.data()
        return data is not None and EPOCH in data.schema.names

    def keys(self) -> list[Key]:
        """Return the fragments that are being read, in the order of the rows."""
        data = self.data()
        if data is None:
            return []
        if self._keys[0] != data.version:
            self._keys = (data.version, fragment_keys(data))
        return self._keys[1]

    def keeps(self) -> list[int]:
        """Return how many numbers of a sketch each fragment keeps, in the order of ``keys``."""
        data = self.data()
        if data is None:
            return []
        if self._keeps[0] != data.version:
            names = {f.id(): f.name() for f in data.lance_schema.fields()}
            held = (
                [names[i] for d in f.metadata.files for i in d.fields if i in names]
                for f in data.get_fragments()
            )
            known = data.schema.names
            self._keeps = (data.version, [kept_of(h, known, self.dim) for h in held])
        return self._keeps[1]

    def kept(self) -> IntArray:
        """Return how many numbers of its sketch each row keeps, (N,)."""
        rows = [n - gone for _, n, gone in self.keys()]
        return np.repeat(np.array(self.keeps(), np.int64), rows)

    @property
    def faded(self) -> bool:
        """Whether any glance keeps less than its whole sketch."""
        return min(self.keeps(), default=self.dim) < self.dim

    @property
    def lost(self) -> list[str]:
        """Tiers that no glance has any more, because their column is gone."""
        data = self.data()
        return [] if data is None else [n for n in self.tiers if n not in data.schema.names]

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """Columns to read: of a tier its parts too, of a lost tier nothing."""
        names = self.data().schema.names
        found = []
        for column in columns:
            if column not in self.tiers and column != CHANNEL[0]:
                found.append(column)
                continue
            found += [column] if column in names else []
            found += parts_of(column, names)
        return found or ["id"]

    def _fragment_index(self, fragments: list[int]) -> Columns:
        known = [EPOCH] if self.has_epochs else []
        parts = list(self.scan(["id", "time", "skeleton", *known], fragments))
        none = np.zeros(0, np.int64)
        ids, time, skeleton = (
            np.concatenate([none, *(integers(t.column(i)) for t in parts)]) for i in range(3)
        )
        told = [epochs_of(t) for t in parts]
        epoch = [
            np.zeros(len(t), np.int64) if e is None else e
            for t, e in zip(parts, told, strict=True)
        ]
        return ids, time, skeleton, np.concatenate([none, *epoch])

    def label_names(self) -> list[str]:
        """Return the names of the label columns."""
        data = self.data()
        if data is None:
            return []
        return [n for n in data.schema.names if n not in FIXED and not is_part(n)]

    def label_kinds(self) -> dict[str, str]:
        """Return the SQL type of each label column."""
        kinds = {"string": "string", "double": "double", "bool": "boolean"}
        schema = self.data().schema
        return {n: kinds.get(str(schema.field(n).type), "other") for n in self.label_names()}

    def find(self, where: Where) -> IntArray:
        """Return the places of matching rows, ordered by time, then id.

        Raises:
            ValueError: if the expression is none, or names an unknown column.
        """
        ids, time, _ = self.index()
        if where.sql is None:
            places = np.arange(len(ids))
        elif len(ids) == 0:
            return np.zeros(0, np.int64)
        else:
            places = self.places(self._matching(where.sql))
        if where.since is not None:
            places = places[time[places] >= where.since]
        if where.until is not None:
            places = places[time[places] < where.until]
        return places[np.lexsort((ids[places], time[places]))]

    def _matching(self, sql: str) -> IntArray:
        """Ids of the rows that an SQL expression selects."""
        try:
            table = self._read(lambda d: d.to_table(columns=["id"], filter=sql))
        except ValueError as error:
            reason = str(error).split(", /")[0].removeprefix("Invalid user input: ").rstrip(". ")
            reason += "" if reason.endswith("?") else "."
            known = ["id", "time", "source", *self.label_names()]
            raise ValueError(
                f"where={sql!r} cannot be read: {reason} It is an SQL expression over "
                f"{', '.join(known)}, for example \"source = 'hall'\""
            ) from error
        return integers(table.column("id"))

    def places(self, wanted: IntArray) -> IntArray:
        """Return the place of each id; -1 where there is none."""
        self.index()
        return self._index.places(wanted)

    def ids_at(self, places: IntArray) -> IntArray:
        """Return the ids of the rows at some places (without reading the ids of all)."""
        if self._index.holds(self.keys()):
            return self._index.arrays[0][places]
        return integers(self.take(places, ["id"]).column(0))

    def empty(self, columns: Sequence[str]) -> Any:
        """Return a table without rows, for a memory that has none yet."""
        import pyarrow as pa

        types = {"id": pa.int64(), "time": pa.timestamp("us", "UTC"), "skeleton": pa.int32()}
        return pa.table({c: pa.array([], types.get(c, pa.string())) for c in columns})

    def take(self, places: IntArray, columns: Sequence[str]) -> Any:
        """Return a ``pyarrow.Table`` of the rows at some places, in that order."""
        columns = self._stored(columns)
        if len(places) > sum(rows - gone for _, rows, gone in self.keys()) // 4:
            whole = self._read(lambda d: d.to_table(columns=list(columns)))
            return whole.take(places)
        order = np.argsort(places, kind="stable")
        sorted_places = places[order].tolist()
        table = self._read(lambda d: d.take(sorted_places, columns=list(columns)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return table.take(back)

    def blocks(self, places: IntArray, size: int = 4096) -> Iterator[Block]:
        """Return the rows at some places, a few thousand at a time."""
        kept = self.kept() if self.faded else None
        for start in range(0, len(places), size):
            part = np.sort(places[start : start + size])
            block = self.block(self._read(partial(_all_columns, part.tolist())))
            yield block if kept is None else replace(block, kept=kept[part])

    def scan(
        self, columns: Sequence[str], fragments: Sequence[int] | None = None
    ) -> Iterator[Any]:
        """Return all rows (or those of some fragments) as tables, a few thousand at a time."""
        import pyarrow as pa

        data = self.data()
        if data is None:
            return
        chosen = None if fragments is None else [data.get_fragment(f) for f in fragments]
        stored = self._stored(columns)
        reader = self._read(
            lambda d: d.scanner(
                columns=stored, fragments=chosen, batch_size=_BATCH, scan_in_order=True
            ).to_reader()
        )
        while True:
            try:
                batch = self._read(lambda _: reader.read_next_batch())
            except StopIteration:
                return
            yield pa.Table.from_batches([batch])

    @property
    def sketch_columns(self) -> list[str]:
        """Columns from which sums are computed."""
        scaled = ["scale"] if self.dtype == np.int8 else []
        epoch = [EPOCH] if self.has_epochs else []
        return [
            "time", "skeleton", *scaled, *self.tiers, *(CHANNEL if self.channel else ()), *epoch
        ]  # fmt: skip

    def _read(self, read: Callable[[Any], T]) -> T:
        """Read from the dataset.

        Raises:
            Moved: if a writer has just removed the files of the version that is being read.
            CorruptMemory: if files of the newest version are missing.
        """
        try:
            return read(self.data())
        except (OSError, RuntimeError, ValueError) as error:
            # A scan reports a missing file as a ValueError of Arrow, as it does a wrong filter.
            if isinstance(error, ValueError) and "Not found" not in str(error):
                raise
            if self._data is None or self._data.version != self.version:
                raise Moved("a writer has joined the files that were being read") from error
            self.cover()
            raise

    # -- writing --------------------------------------------------------------------------

    def table(self, block: Block) -> Any:
        """Return a block as a ``pyarrow.Table`` with the columns of the dataset."""
        data = self.data()
        if data is None:
            return self.to_table(block, None, {})
        types = {n: data.schema.field(n).type for n in self.label_names()}
        return self.to_table(block, data.schema, types)

    def write(self, block: Block, replace: bool) -> None:
        """Add rows in one commit; with ``replace`` rows of the same id give way to them."""
        table = self.table(block)
        engine = lance()
        path = str(self.folder / FOLDER)
        data = self.data()
        if data is None:
            engine.write_dataset(table, path, mode="create")
        elif replace:
            merge = data.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(self._filled(table))
        else:
            fragments = engine.fragment.write_fragments(table, path, schema=data.schema)
            self.folder.flush_new(FOLDER)
            append = engine.LanceOperation.Append(fragments)
            # Opening the new version again would take as long as writing it.
            self._data = engine.LanceDataset.commit(path, append, read_version=data.version)
            self._know(block)
        self.folder.flush_new(FOLDER)
        self.refresh()

    def _know(self, block: Block) -> None:
        """Tell the index what was appended, if it stands in one fragment of its own."""
        key = fragment_keys(self._data)[-1]
        if key[1:] == (len(block), 0):
            epoch = np.zeros(len(block)) if block.epoch is None else block.epoch
            columns = (block.ids, block.time, block.skeleton, epoch)
            self._index.know(key, tuple(np.asarray(c, np.int64) for c in columns))  # type: ignore[arg-type]

    def delete(self, sql: str) -> None:
        """Delete rows in one commit."""
        self.data().delete(sql)
        self.folder.flush_new(FOLDER)
        self.refresh()

    def add_labels(self, kinds: dict[str, str]) -> None:
        """Add label columns, empty so far; values are SQL types."""
        data = self.data()
        if data is not None and kinds:
            data.add_columns({f: f"CAST(NULL AS {kind})" for f, kind in kinds.items()})
            self.refresh()

    def add_epochs(self) -> None:
        """Add the column that tells a row's epoch; rows that are there are of the first."""
        data = self.data()
        if data is not None and not self.has_epochs:
            data.add_columns({EPOCH: "CAST(NULL AS SMALLINT)"})
            self.folder.flush_new(FOLDER)
            self.refresh()

    def add_part_signatures(self) -> None:
        """Add the column of signatures, empty so far, if it is missing."""
        import pyarrow as pa

        data = self.data()
        if data is not None and PARTS not in data.schema.names:
            data.add_columns(pa.schema([pa.field(PARTS, pa.binary())]))
            self.refresh()

    def compact(self, everything: bool = False) -> None:
        """Join small fragments, drop deleted rows, and remove what no version needs."""
        data = self.data()
        if data is None:
            return
        rows = _ALL_SETTLED if everything else _SETTLED
        data.optimize.compact_files(target_rows_per_fragment=rows)
        self.folder.flush_new(FOLDER)
        self.refresh()
        self.clean()

    def clean(self) -> None:
        """Remove the files that only older versions need."""
        self.data().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        self.refresh()

    def _filled(self, table: Any) -> Any:
        """Return a table with all columns of the dataset; parts of faded sketches are null."""
        import pyarrow as pa

        schema = self.data().schema
        for name in schema.names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names)


def _all_columns(places: list[int], data: Any) -> Any:
    return data.take(places)
