"""What stands behind a memory: its files, in step with each other, whatever happens.

The order of a commit: module table, skeletons, records and stream statistics first (harmless if
nothing follows),
then the rows in one atomic Lance commit, which is the acknowledgement. Roll-ups are derived from
the rows: they know the version that they cover, and what is missing is computed on opening.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory
from recollect.memory.blocks import Block, Counted, Where
from recollect.memory.epochs import Epoch, epochs_of
from recollect.memory.fading import take_back
from recollect.memory.followed import Followed
from recollect.memory.following import Following
from recollect.memory.forgotten import Forgotten
from recollect.memory.intake import SQL_KINDS, kind_of
from recollect.memory.layout import Folder, Moved, disk_errors
from recollect.memory.ledger import Cover, Ledger
from recollect.memory.lock import WriterLock
from recollect.memory.reservoir import Reservoir
from recollect.memory.rewriting import join
from recollect.memory.rollups import RollUps
from recollect.memory.rows import FOLDER, Rows
from recollect.memory.structures import SkeletonTable
from recollect.sketching.recipe import ModuleTable, Recipe

if TYPE_CHECKING:
    from recollect.tracing.columns import Trace

__all__ = ["Engine"]

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")

# Commits after which small fragments are joined and the roll-ups written.
_COMMITS = 100
# More fragments than this are joined to large ones when the memory is closed.
_MANY_FRAGMENTS = 8


class Engine:
    """The files of one open memory.

    Args:
        folder: the memory's folder.
        recipe: of its sketches.
        reservoir: how many records are kept.
        busy_timeout: seconds to wait for another writer.
        read_only: whether writing is refused.
        following: the stream statistics that are kept, or None.
    """

    def __init__(
        self,
        folder: Folder,
        recipe: Recipe,
        reservoir: int,
        busy_timeout: float,
        read_only: bool,
        following: Following | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.busy_timeout = busy_timeout
        self.read_only = read_only
        self.lock = WriterLock(folder / "lock")
        self.modules = ModuleTable()
        self.epochs: tuple[Epoch, ...] = (Epoch.first(recipe),)
        self._epochs_stamp: tuple[int, int] | None = None
        channel = 0 if recipe.channel is None else recipe.channel.size
        self.rows = Rows(folder, recipe.dim, recipe.dtype, channel)
        self.ledger = Ledger(folder, recipe.dim, channel)
        self.forgotten = Forgotten(folder, recipe.dim, channel)
        self.reservoir = Reservoir(folder, reservoir)
        self.followed = None if following is None else Followed(folder, following)
        self._skeletons: SkeletonTable | None = None
        self._seen: int | None = None
        self._written = 0
        self._stored_modules = 0
        self._modules_stamp: tuple[int, int] | None = None
        self.sync()

    @property
    def skeletons(self) -> SkeletonTable:
        """The distinct skeletons (read when first needed)."""
        if self._skeletons is None:
            self._skeletons = SkeletonTable(self.folder / "skeletons.bin", self.folder.power)
        return self._skeletons

    # -- staying in step ------------------------------------------------------------------

    def sync(self) -> None:
        """Take note of what another process has written.

        Raises:
            CorruptMemory: if files are missing.
        """
        self._read_epochs()
        newest = self.rows.version
        if newest == self._seen:
            return
        self._read_modules()
        if self._skeletons is not None:
            self._skeletons.refresh()
        self.rows.refresh()
        self.ledger.load()
        self.forgotten.open(newest)
        covered = self.ledger.cover
        if newest < covered.version:
            raise CorruptMemory(
                f"{self.folder / FOLDER} lost its newest manifest: version {covered.version} was "
                f"written, the newest left is {newest or 'none'}; restore it from a copy"
            )
        if newest == covered.version:
            self.rows.check_files(covered.files)
            self._check_skeletons(covered)
        else:
            self._repair(covered)
        self._seen = newest

    def reading(self, read: Callable[[], T]) -> T:
        """Run a reading step on the newest version; again if a writer moved its files."""
        for _ in range(5):
            self.sync()
            try:
                return read()
            except Moved:
                self._seen = None
        self.sync()
        return read()

    def _read_epochs(self) -> None:
        """Take note of epochs that have begun; meta.json is written before their first row."""
        stat = (self.folder / "meta.json").stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp != self._epochs_stamp:
            self.take_epochs(self.folder.read_json("meta.json"))
            self._epochs_stamp = stamp

    def take_epochs(self, meta: Mapping[str, Any]) -> None:
        """Go by the epochs that meta.json tells."""
        self.epochs = epochs_of(meta, self.recipe)
        self.ledger.widen(len(self.epochs))
        self.forgotten.widen(len(self.epochs))

    def _read_modules(self) -> None:
        path = self.folder / "modules.json"
        if not path.exists():
            if self.rows.version:
                raise CorruptMemory(f"{path} is missing; the memory lost its module table")
            return
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp == self._modules_stamp:
            return
        for row in self.folder.read_json("modules.json"):
            self.modules.add(row["name"], row["size"], row["members"], row["scale"])
        self._stored_modules = sum(1 for _ in self.modules)
        self._modules_stamp = stamp

    def _check_skeletons(self, cover: Cover) -> None:
        path = self.folder / "skeletons.bin"
        if cover.skeletons and not path.exists():
            raise CorruptMemory(
                f"{path} is missing, it held {cover.skeletons} skeletons; restore it from a copy"
            )

    def _repair(self, covered: Cover) -> None:
        """Count in what came after the version that the roll-ups cover, or count anew."""
        version, fragments, files = self.rows.cover()
        if self.rows.faded and not self.forgotten.any:
            raise CorruptMemory(
                f"{self.folder / 'forgotten'} is missing; it held what roll-ups know of glances "
                "that have faded; restore it from a copy"
            )
        files += self.forgotten.files
        grown = all(fragments.get(k) == v for k, v in covered.fragments.items())
        new = [int(k) for k in fragments if k not in covered.fragments]
        if not grown:
            self.ledger.clear()
            new = [int(k) for k in fragments]
        self.count(self.ledger, new)
        self.ledger.cover = Cover(version, fragments, files, len(self.skeletons))

    def count(self, ledger: Ledger, fragments: list[int] | None = None) -> int:
        """Count the rows of some fragments (None: of all) into a ledger; return how many."""
        total = 0
        if fragments == []:
            return 0
        for table in self.rows.scan(self.rows.sketch_columns, fragments):
            part = self.rows.sketch_part(table)
            ledger.add(*part, self.skeletons)
            total += len(part[0])
        return total

    # -- writing --------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock (it stays held until the memory is closed).

        Raises:
            MemoryBusy: if another writer holds it.
            OSError: if the disk is full (nothing of the call is stored).
        """
        if self.read_only:
            raise OSError(f"{self.folder.path} was opened with read_only=True; open it without")
        fresh = not self.lock.held
        self.lock.acquire(self.busy_timeout)
        with disk_errors(self.folder.path):
            if fresh:
                self._take_over()
            self.sync()
            try:
                yield
            except BaseException:
                self._seen = None
                self.forgotten.drop_newer(self.rows.version)
                raise

    def _take_over(self) -> None:
        """Clear what a killed writer left behind."""
        self.folder.remove_partial()
        self.skeletons.trim()
        self.sync()
        version = self.rows.version
        self.forgotten.drop_newer(version)
        self.reservoir.drop_newer(version)
        self.reservoir.load(version)
        alive = self.rows.places(np.array(self.reservoir.members, np.int64)) >= 0
        gone = [n for n, here in zip(self.reservoir.members, alive, strict=True) if not here]
        self.reservoir.remove(gone, version)
        if self.followed is not None:
            self.followed.drop_newer(version)

    def store_modules(self) -> None:
        """Write the module table if it has grown."""
        count = sum(1 for _ in self.modules)
        if count != self._stored_modules or not (self.folder / "modules.json").exists():
            self.folder.write_json("modules.json", self.modules.to_list())
            self._stored_modules = count

    def commit(self, block: Block, trace: Trace | None, rows: list[int] | None = None) -> int:
        """Write glances; return how many were there before and have been replaced.

        Args:
            block: the glances.
            trace: what they were sketched from, or what is known of it.
            rows: row of the block for each glance of the trace; by default all in order.
        """
        self.add_label_columns(block)
        self.add_epoch_column(block)
        places = self.rows.places(block.ids)
        old = places[places >= 0]
        blocks = list(self.rows.blocks(old))
        before = [self.fixed(b) for b in blocks]
        chosen, path = self._write_records(block, trace, rows)
        written = [] if path is None else [path]
        taken = take_back(self.forgotten, blocks, block, self.rows.version + 1)
        try:
            if self.followed is not None and rows is None:
                written.append(self._follow(block, trace, places))
            self.rows.write(block, replace=len(old) > 0)
        except BaseException:
            for done in written:
                done.unlink(missing_ok=True)
            raise
        for part in before:
            self.ledger.add(*part, self.skeletons, sign=-1)
        self.ledger.add(*self.fixed(block), self.skeletons)
        self.note()
        if taken:
            self.forgotten.settle()
        if path is not None:
            self.reservoir.committed(chosen, path)
        if len(old):
            stale = set(block.ids.tolist()) - set(chosen)
            self.reservoir.remove(stale, self.rows.version)
        self._settle()
        return len(old)

    def _follow(self, block: Block, trace: Trace | None, places: IntArray) -> Path:
        """Write what a commit adds to the stream statistics; return the file."""
        assert self.followed is not None
        replaced = self.rows.index()[1][places[places >= 0]]
        return self.followed.write(
            block.time, trace, self.modules, places < 0, replaced, self.rows.version + 1
        )

    def _write_records(
        self, block: Block, trace: Trace | None, rows: list[int] | None
    ) -> tuple[list[int], Path | None]:
        """Write the records that belong to the sample; return their ids and file."""
        if trace is None:
            return [], None
        ids = block.ids if rows is None else block.ids[rows]
        chosen = self.reservoir.wanted(ids.tolist())
        if not chosen:
            return [], None
        numbers = ids[chosen].tolist()
        return numbers, self.reservoir.write(numbers, trace[chosen], self.rows.version + 1)

    def between(
        self,
        first: int | None,
        last: int | None,
        more: Ledger | None = None,
        narrow: dict[int, int] | None = None,
    ) -> RollUps:
        """Return the roll-ups of the hours first <= hour < last.

        Args:
            first: hour since 1970.
            last: hour since 1970.
            more: other hours that are counted in.
            narrow: of which of these how many numbers are known.
        """
        if not self.forgotten.any:
            return self.ledger.between(first, last, self.modules, more)

        def known(hours: IntArray) -> IntArray:
            found = self.forgotten.known(hours)
            for hour, kept in (narrow or {}).items():
                found[hours == hour] = kept
            return found

        lost = self.forgotten.view(self.ledger)
        return self.ledger.between(first, last, self.modules, more, lost, known)

    def count_where(self, parts: list[Where]) -> Ledger:
        """Return a ledger, in memory, of the glances in some filters."""
        ledger = self.ledger.like()
        for where in parts:
            for block in self.rows.blocks(self.rows.find(where)):
                ledger.add(*self.fixed(block), self.skeletons)
        return ledger

    def delete(self, sql: str) -> int:
        """Delete the rows that an SQL expression selects; return how many."""
        places = self.rows.find(Where(sql))
        if len(places) == 0:
            return 0
        gone = self.rows.index()[0][places].tolist()
        blocks = list(self.rows.blocks(places))
        before = [self.fixed(b) for b in blocks]
        taken = take_back(self.forgotten, blocks, None, self.rows.version + 1)
        marked = None
        if self.followed is not None:
            times = self.rows.index()[1][places]
            marked = self.followed.write_deletion(times, self.rows.version + 1)
        try:
            self.rows.delete(sql)
        except BaseException:
            if marked is not None:
                marked.unlink(missing_ok=True)
            raise
        if taken:
            self.forgotten.settle()
        for part in before:
            self.ledger.add(*part, self.skeletons, sign=-1)
        self.note()
        self.reservoir.remove(gone, self.rows.version)
        if self.followed is not None:
            self.followed.deleted(self.rows.version)
        self.save()
        return len(gone)

    def fixed(self, block: Block) -> Counted:
        """Return what a ledger counts in of a block."""
        return block.time, block.skeleton, block.fixed, block.epoch

    def note(self) -> None:
        """The ledger now stands at the newest version."""
        self._seen = self.rows.version
        self._written += 1

    def _settle(self) -> None:
        if self.followed is not None:
            self.followed.settle(self.rows.version)
        if self._written >= _COMMITS:
            self.compact()
        elif self.ledger.is_full:
            self.save()

    def add_epoch_column(self, block: Block) -> None:
        """Make room for the epoch of rows, if any is of a later one."""
        if block.epoch is not None and block.epoch.any():
            self.make_room_for_epochs()

    def make_room_for_epochs(self) -> None:
        """Add the column that tells a row's epoch, if there are rows without it."""
        if self.rows.data() is not None and not self.rows.has_epochs:
            self.rows.add_epochs()
            self._seen = self.rows.version

    def add_label_columns(self, block: Block) -> None:
        """Make room for new labels, and refuse values of another kind.

        Raises:
            ValueError: if a label's values were of another kind before.
        """
        if self.rows.data() is None:
            return
        known = self.rows.label_kinds()
        fresh = {}
        for name, values in block.labels.items():
            kind = kind_of(values)
            if kind is None:
                continue
            sql = SQL_KINDS[kind]
            if name not in known:
                fresh[name] = sql
            elif known[name] != sql:
                raise ValueError(
                    f"label {name!r} holds values of type {known[name]}, now {sql} is given; a "
                    "label keeps one kind of value"
                )
        if fresh:
            self.rows.add_labels(fresh)
            self._seen = self.rows.version

    def save(self) -> None:
        """Write the roll-ups, covering the newest version."""
        version, fragments, files = self.rows.cover()
        files += self.forgotten.files
        self.ledger.save(Cover(version, fragments, files, len(self.skeletons)))

    def compact(self, everything: bool = False) -> None:
        """Join small files and write the roll-ups."""
        if self.rows.faded:
            join(self.rows, everything)
            self.rows.clean()
        else:
            self.rows.compact(everything)
        self._seen = self.rows.version
        self.reservoir.compact(self._seen)
        if self.followed is not None:
            self.followed.compact(self._seen)
        self.save()
        self._written = 0

    def close(self) -> None:
        """Write what waits, and let the next writer in."""
        if not self.lock.held:
            return
        try:
            with disk_errors(self.folder.path):
                self.sync()
                if self._written:
                    # The end of the work, where memory that joining takes is no matter: larger
                    # fragments are read faster.
                    self.compact(everything=len(self.rows.keys()) > _MANY_FRAGMENTS)
                else:
                    self.save()
        finally:
            self.lock.release()
