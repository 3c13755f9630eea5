"""The stream statistics of a memory on disk, in step with its glances.

They cannot be computed from the rows again (those hold sketches), so each commit writes its own
part first, in a file named after the version of the glances that this commit makes: a file of a
version that does not exist was left by a killed writer and does not count. Parts are joined now
and then into one file of all up to a version; parts of older versions then no longer count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory
from recollect.memory.cells import (
    Cell,
    Cells,
    Key,
    aged,
    homes,
    join_cells,
    pack_cells,
    spans_inside,
    unpack_cells,
)
from recollect.memory.clock import HOUR, iso
from recollect.memory.following import Following
from recollect.memory.layout import Folder, void
from recollect.sketching.recipe import ModuleTable

if TYPE_CHECKING:
    from recollect.sketching.statistics import Statistic
    from recollect.tracing.columns import Trace

__all__ = ["Followed", "Streams"]

IntArray = npt.NDArray[np.int64]

_FOLDER = "statistics"
# Parts that are joined when there are more.
_PARTS = 64


class Followed:
    """The statistics of one memory.

    Args:
        folder: of the memory.
        following: what is followed.
    """

    def __init__(self, folder: Folder, following: Following) -> None:
        self.folder, self.following = folder, following
        self._loaded: list[Path] | None = None
        self._cells: Cells = {}

    # -- reading --------------------------------------------------------------------------

    def files(self, version: int) -> list[Path]:
        """Return the files that count at a version: one of all up to some version, later parts."""
        found = (
            sorted((self.folder / _FOLDER).glob("*.all")),
            sorted((self.folder / _FOLDER).glob("*.part-of")),
        )
        whole = [p for p in found[0] if _version(p) <= version][-1:]
        begin = _version(whole[0]) if whole else -1
        return [*whole, *(p for p in found[1] if begin < _version(p) <= version)]

    def cells(self, version: int) -> Cells:
        """Return all windows at a version of the glances.

        Raises:
            CorruptMemory: if a file is damaged.
        """
        files = self.files(version)
        if files != self._loaded:
            cells: Cells = {}
            for path in files:
                try:
                    join_cells(cells, unpack_cells(path.read_bytes()))
                except FileNotFoundError:  # a writer has just joined the parts
                    return self.cells(version)
                except ValueError as error:
                    raise CorruptMemory(
                        f"{path} is {error}; restore it from a copy, or delete the folder "
                        f"{self.folder / _FOLDER}: glances stay, their statistics begin anew"
                    ) from error
            self._cells, self._loaded = cells, files
        return self._cells

    def between(self, version: int, since: int | None, until: int | None) -> Streams:
        """Merge the windows inside since <= time < until, in microseconds UTC.

        Raises:
            ValueError: if a window would be cut.
        """
        cells = self.cells(version)
        hours = [None if t is None else t // HOUR for t in (since, until)]
        whole = all(t is None or t % HOUR == 0 for t in (since, until))
        inside, cut = spans_inside(cells, *hours)
        if cut or not whole:
            names = [f"{iso(a * HOUR)} to {iso(b * HOUR)}" for a, b in cut[:2]]
            raise ValueError(
                "stream statistics are kept by whole UTC hours, older ones by days and months; "
                f"{'the window cuts ' + ' and '.join(names) if cut else 'the window cuts an hour'}"
                "; let it begin and end between them, or ask recall.quantiles, which reads glances"
            )
        total = Cell()
        for span in inside:
            total.take(_copied(cells[span]))
        return Streams(self.following, total.statistics, *total.numbers, inside)

    # -- writing --------------------------------------------------------------------------

    def write(
        self,
        time: IntArray,
        trace: Trace | None,
        modules: ModuleTable,
        fresh: npt.NDArray[np.bool_],
        replaced: IntArray,
        version: int,
    ) -> Path:
        """Write what one commit adds, before it is made.

        A glance whose id is there already is not counted again: what was counted of the older
        one stays, and the window says how many were replaced.

        Args:
            time: (B,) microseconds UTC.
            trace: the B glances, or None if only their sketches came.
            modules: the module table.
            fresh: (B,) whether the glance's id is new.
            replaced: times of the glances that give way.
            version: of the glances that the commit makes.
        """
        hours = time // HOUR
        cells: Cells = {}
        for hour, number in Counter(hours[fresh].tolist()).items():
            numbers = (0, 0, 0, number) if trace is None else (number, 0, 0, 0)
            cells[hour, hour + 1] = Cell(*numbers)
        for hour, number in Counter((replaced // HOUR).tolist()).items():
            cells.setdefault((hour, hour + 1), Cell()).replaced += number
        if trace is not None:
            self._count(cells, hours, trace, modules, fresh)
        return self._write(cells, version)

    def _count(
        self,
        cells: Cells,
        hours: IntArray,
        trace: Trace,
        modules: ModuleTable,
        fresh: npt.NDArray[np.bool_],
    ) -> None:
        for hour in np.unique(hours[fresh]).tolist():
            part = trace[np.flatnonzero(fresh & (hours == hour))]
            cell = cells[hour, hour + 1]
            for name in part.modules:
                objects = part.objects(name)
                if not len(objects.glance):
                    continue
                entry = modules.family_of(modules.id_of(name))
                for number, stream in enumerate(self.following.streams):
                    made = cell.statistics.setdefault((number, name), stream.make())
                    stream.update(made, objects, entry)

    def write_deletion(self, time: IntArray, version: int) -> Path:
        """Write which hours lose glances, before the commit that deletes them."""
        cells = {
            (hour, hour + 1): Cell(deleted=number)
            for hour, number in Counter((time // HOUR).tolist()).items()
        }
        return self._write(cells, version)

    def absorb(self, other: Followed, version: int, theirs: int, replaced: int) -> None:
        """Take in the statistics of a memory that was merged, whole.

        Args:
            other: of the other memory, following the same.
            version: of our glances, after the merge.
            theirs: version of the other's glances.
            replaced: merged glances that replaced ours; they are counted on both sides.
        """
        cells = self.cells(version)
        fresh = unpack_cells(pack_cells(other.cells(theirs)))
        if replaced and fresh:
            first = min(fresh)
            fresh[first].replaced += replaced
        join_cells(cells, fresh)
        self._rewrite(cells, version)

    def _write(self, cells: Cells, version: int) -> Path:
        name = f"{_FOLDER}/{version:012d}.part-of"
        data = pack_cells(cells)
        self.folder.write(name, lambda file: void(file.write(data)))
        return self.folder / name

    # -- care -----------------------------------------------------------------------------

    def drop_newer(self, version: int) -> None:
        """Remove what a killed writer left, and what no longer counts (only the writer may)."""
        counts = set(self.files(version))
        for path in (self.folder / _FOLDER).glob("*.*"):
            if path not in counts:
                path.unlink(missing_ok=True)

    def settle(self, version: int) -> None:
        """Join the parts if they are many."""
        if len(self.files(version)) > _PARTS:
            self.compact(version)

    def deleted(self, version: int) -> None:
        """Forget what must be forgotten after a deletion."""
        self._rewrite(dict(self.cells(version)), version)

    def compact(self, version: int) -> None:
        """Join all parts; old hours become days, old days months."""
        cells = self.cells(version)
        where = homes(cells, self.following.hours, self.following.days)
        if len(self.files(version)) > 1 or any(span != home for span, home in where.items()):
            self._rewrite(dict(cells), version)

    def _rewrite(self, cells: Cells, version: int) -> None:
        old = self.files(version)
        self._loaded = None  # until it is on disk
        cells = aged(cells, self.following.hours, self.following.days)
        gone = [s for s, c in cells.items() if c.deleted and self._is_over(c)]
        for span in gone:
            # What is left says that something was here.
            cells[span] = Cell(missing=max(cells[span].counted - cells[span].deleted, 0)
                               + cells[span].missing)  # fmt: skip
        cells = {s: c for s, c in cells.items() if any(c.numbers)}
        name = f"{_FOLDER}/{version:012d}.all"
        data = pack_cells(cells)
        self.folder.write(name, lambda file: void(file.write(data)))
        kept = self.folder / name
        for path in old:
            if path != kept:
                path.unlink(missing_ok=True)
        self._cells, self._loaded = cells, [kept]

    def _is_over(self, cell: Cell) -> bool:
        """Whether nothing of a window may be kept: all glances gone, or it must be dropped."""
        return cell.deleted >= cell.counted or self.following.on_deletion == "drop"


@dataclass(frozen=True, eq=False)
class Streams:
    """Stream statistics of a window, merged.

    Attributes:
        following: what is followed.
        statistics: (place in ``following.streams``, module) -> statistic.
        counted: glances that they counted.
        deleted: of these, deleted since (datasketches cannot forget them).
        replaced: of these, replaced since by a newer glance of the same id.
        missing: glances in the window that were not counted.
        windows: (first hour, hour after the last) since 1970 of the windows that were merged.
    """

    following: Following
    statistics: dict[Key, Statistic]
    counted: int
    deleted: int
    replaced: int
    missing: int
    windows: list[tuple[int, int]]


def _copied(cell: Cell) -> Cell:
    """Return a cell that may be merged without changing the first one."""
    held = {key: type(s).from_bytes(s.to_bytes()) for key, s in cell.statistics.items()}
    return Cell(*cell.numbers, held)


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])
