"""The roll-ups of a memory on disk: kept while glances come and go, repaired when needed.

``rollups/hours.npz`` names the version of the glances that it covers, the fragments and files of
that version, and the counts; the sketch sums stand in one file per month. Both are derived from
the glances: whatever is missing or behind is computed again, so a killed writer harms nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory
from recollect.memory.clock import HOUR
from recollect.memory.layout import Folder
from recollect.memory.rollups import RollUps, place_of
from recollect.memory.structures import BagTable, SkeletonTable
from recollect.memory.sums import distinct, group_sums, months_of, read_month, write_month
from recollect.memory.tally import Tally
from recollect.sketching.recipe import ModuleTable

__all__ = ["Cover", "Ledger", "widened"]

IntArray = npt.NDArray[np.int64]
Arrays = tuple[IntArray, IntArray, IntArray]

_INDEX = "rollups/hours.npz"

# Hours whose sums may wait in memory (8 KB each at 1,024 numbers) before they are written.
_WAITING = 2048


@dataclass(frozen=True)
class Cover:
    """What the roll-ups on disk cover.

    Attributes:
        version: version of the glances; 0 before the first.
        fragments: fragment id -> (rows, deleted rows), as text keys.
        files: files of that version, relative to the memory.
        skeletons: number of skeletons then known.
    """

    version: int = 0
    fragments: dict[str, list[int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    skeletons: int = 0


class Ledger:
    """Counts and sums per UTC hour.

    Sums of different epochs are never added: an hour's vector holds the sum of the first
    epoch's sketches, behind it the sum of the distribution channel, then those of the later
    epochs, one after another. Runs of zeros are not written.

    Args:
        folder: of the memory.
        dim: numbers in a sketch.
        channel: numbers in the distribution channel, which all epochs share.
        home: folder in the memory for its files.
        epochs: how many epochs there are.
    """

    def __init__(
        self,
        folder: Folder,
        dim: int,
        channel: int = 0,
        home: str = "rollups",
        epochs: int = 1,
    ) -> None:
        self.folder = folder
        self.dim = dim
        self.channel = channel
        self.epochs = epochs
        self.home = home
        self.changes = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything (before computing it again)."""
        self.cover = Cover()
        self.bags = BagTable()
        self.counts = Tally()
        self.extra = Tally()
        self.later = Tally()  # (hour, epoch after the first) -> glances
        self._bag_ids: dict[int, int] = {}
        self._months: dict[str, str] = {}
        self._waiting: dict[int, IntArray] = {}
        self._generation = 0
        self._dirty = False
        self.total = 0
        self.changes += 1

    # -- epochs ---------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Numbers of an hour's vector."""
        return self.dim * self.epochs + self.channel

    def place(self, epoch: int) -> slice:
        """Return where the sum of an epoch's sketches stands in an hour's vector."""
        return place_of(epoch, self.dim, self.channel)

    def widen(self, epochs: int) -> None:
        """Make room for epochs that have begun."""
        if epochs > self.epochs:
            self.epochs = epochs
            self._waiting = {h: widened(v, self.width) for h, v in self._waiting.items()}
            self.changes += 1

    # -- on disk --------------------------------------------------------------------------

    def load(self) -> bool:
        """Read the ledger from disk; return whether there was a whole one."""
        path = self.folder / _INDEX
        self.clear()
        if not path.exists():
            return False
        try:
            self.cover = Cover(**self._read_index(path)["cover"])
        except (ValueError, KeyError, TypeError, EOFError, OSError, BadZipFile):
            self.clear()
            return False
        if not all((self.folder / name).exists() for name in self._months.values()):
            self.clear()
            return False
        return True

    def _read_index(self, path: Path) -> dict[str, Any]:
        """Read counts and the names of the months' files; return the index's head."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head: dict[str, Any] = json.loads(arrays["head"].tobytes())
        self._months = head["months"]
        self._generation = head["generation"]
        self.bags = BagTable.from_flat(head["bags"], *_three(arrays, "bag"))
        self.counts = Tally(*_three(arrays, "count"))
        self.extra = Tally(*_three(arrays, "extra"))
        self.later = Tally(*_three(arrays, "later"))
        self.total = int(self.counts.arrays()[2].sum())
        return head

    def save(self, cover: Cover) -> None:
        """Write everything that waits, covering the given version of the glances."""
        if not self._dirty and cover == self.cover and (self.folder / _INDEX).exists():
            return
        self._write(_INDEX, {"cover": vars(cover)})
        self.cover = cover
        self._remove_old()

    def _write(self, index: str, more: dict[str, Any]) -> None:
        """Write the sums that wait, then the index with ``more`` in its head."""
        generation = self._generation + 1
        months = dict(self._months)
        waiting = np.array(sorted(self._waiting), np.int64)
        for month, rows in months_of(waiting).items():
            hours, sums = self._month(month, waiting[rows])
            months.pop(month, None)
            if len(hours):
                months[month] = self._write_month(month, generation, hours, sums)
        head = {
            **more,
            "months": months,
            "generation": generation,
            "bags": len(self.bags),
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8)
        }
        for name, part in (
            ("bag", self.bags.flat()),
            ("count", self.counts.arrays()),
            ("extra", self.extra.arrays()),
            ("later", self.later.arrays()),
        ):
            arrays |= {f"{name}{i}": a for i, a in enumerate(part)}
        self.folder.write_arrays(index, arrays)
        self._months, self._generation = months, generation
        self._waiting, self._dirty = {}, False

    def _write_month(self, month: str, generation: int, hours: IntArray, sums: IntArray) -> str:
        name = f"{self.home}/sums-{month}-{generation}.npys"
        cuts = [self.place(epoch).start for epoch in range(1, self.epochs)]
        cuts = [self.dim, *cuts] if self.channel else cuts
        self.folder.write(name, lambda file: write_month(file, hours, sums, cuts))
        return name

    def _remove_old(self) -> None:
        """Remove the files of months that no longer count."""
        used = set(self._months.values())
        for path in (self.folder / self.home).glob("sums-*"):
            if f"{self.home}/{path.name}" not in used:
                path.unlink(missing_ok=True)

    # -- changing -------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether so many sums wait that they should be written."""
        return len(self._waiting) > _WAITING

    def add(
        self,
        time: IntArray,
        skeleton: IntArray,
        fixed: IntArray,
        epoch: IntArray | None,
        table: SkeletonTable,
        sign: int = 1,
    ) -> None:
        """Count glances in (``sign`` 1) or out (-1).

        Args:
            time: (B,) microseconds UTC.
            skeleton: (B,) ids, -1 where not kept.
            fixed: (B, d + c) sketches in units of 2**-32, the channel behind them.
            epoch: (B,) number of the epoch that each was made in; None: all in the first.
            table: where the skeletons are.
            sign: 1 or -1.
        """
        if len(time) == 0:
            return
        hour = time // HOUR
        self.total += sign * len(hour)
        bags = np.array([self._bag(s, table) for s in skeleton.tolist()], np.int64)
        self.counts.add(hour, bags, np.full(len(hour), sign, np.int64))
        for h, s in zip(hour.tolist(), skeleton.tolist(), strict=True):
            if s >= 0 and (bag := table.bag(s)).extra.any():
                rows = np.flatnonzero(bag.extra)
                self.extra.add(
                    np.full(len(rows), h, np.int64), bag.modules[rows], sign * bag.extra[rows]
                )
        if epoch is not None and (rows := np.flatnonzero(epoch)).size:
            self.later.add(hour[rows], epoch[rows], np.full(len(rows), sign, np.int64))
        self.add_sums(hour, fixed, sign, epoch)

    def add_sums(
        self, hour: IntArray, fixed: IntArray, sign: int = 1, epoch: IntArray | None = None
    ) -> None:
        """Add sketches (B, d + c) of some epochs to the sums of their hours (B,) alone."""
        if epoch is None or not epoch.any():
            self._add_vectors(hour, fixed, sign, 0)
        else:
            for number in distinct(epoch)[0].tolist():
                rows = np.flatnonzero(epoch == number)
                self._add_vectors(hour[rows], fixed[rows], sign, number)
        self._dirty = True
        self.changes += 1

    def _add_vectors(self, hour: IntArray, fixed: IntArray, sign: int, epoch: int) -> None:
        """Add (B, d + c), or as whole vectors (B, width), all of one epoch."""
        whole = fixed.shape[1] == self.width
        self.widen(epoch + 1)
        for h, total in zip(*group_sums(hour, fixed), strict=True):
            known = self._waiting.get(int(h))
            if known is None:
                known = self._waiting[int(h)] = np.zeros(self.width, np.int64)
            if whole and epoch == 0:
                known += sign * total
            else:
                known[self.place(epoch)] += sign * total[: self.dim]
                known[self.dim : self.dim + self.channel] += sign * total[self.dim :]

    def _bag(self, skeleton: int, table: SkeletonTable) -> int:
        if skeleton < 0:
            return 0
        if skeleton not in self._bag_ids:
            self._bag_ids[skeleton] = self.bags.add(table.bag(skeleton))
        return self._bag_ids[skeleton]

    # -- reading --------------------------------------------------------------------------

    def hours(self) -> IntArray:
        """Return the hours with glances, ascending."""
        return distinct(self.counts.arrays()[0])[0]

    @property
    def stale(self) -> bool:
        """Whether this is a view of something that has changed since."""
        return False

    def like(self) -> Ledger:
        """Return an empty ledger, in memory only, that shares the table of bags."""
        other = Ledger(self.folder, self.dim, self.channel, epochs=self.epochs)
        other.bags, other._bag_ids = self.bags, self._bag_ids
        return other

    def between(
        self,
        first: int | None,
        last: int | None,
        modules: ModuleTable,
        more: Ledger | None = None,
        lost: Ledger | None = None,
        kept: Callable[[IntArray], IntArray] | None = None,
    ) -> RollUps:
        """Return the roll-ups of the hours first <= hour < last.

        Args:
            first: hour since 1970.
            last: hour since 1970.
            modules: the module table.
            more: ``like`` this one, holding other hours that are counted in.
            lost: ``like`` this one, holding what faded glances had of the same hours.
            kept: how many numbers are known of the sums of some hours (H,); default all.
        """
        counts, extra, later = (_cut(t.arrays(), first, last) for t in self._tallies)
        if lost is not None:
            counts, extra, later = (
                _join(ours, _cut(t.arrays(), first, last))
                for ours, t in zip((counts, extra, later), lost._tallies, strict=True)
            )
        mine = distinct(counts[0])[0]
        if more is not None:
            counts, extra, later = (
                Tally(*_join(ours, t.arrays())).arrays()
                for ours, t in zip((counts, extra, later), more._tallies, strict=True)
            )
        hour, bag, value = counts
        starts, place = distinct(hour)
        n, known = np.zeros((2, len(starts)), np.int64)
        np.add.at(n, place, value)
        np.add.at(known, place, value * (bag > 0))
        changes = self.changes

        def sums() -> IntArray:
            if self.changes != changes or (lost is not None and lost.stale):
                raise RuntimeError(
                    "the memory has changed since these roll-ups were made; call rollups() again"
                )
            out = self.sums(mine) if lost is None else self.sums(mine) + lost.sums(mine)
            if more is None:
                return out
            joined = more.sums(starts)
            joined[np.searchsorted(starts, mine)] += out
            return joined

        return RollUps(
            starts * HOUR, n, known, modules, "hour", (place, bag, value), self.bags,
            (np.searchsorted(starts, extra[0]), extra[1], extra[2]), sums,
            np.full(len(starts), self.dim) if kept is None else kept(starts),
            self.channel, self.dim,
            (np.searchsorted(starts, later[0]), later[1], later[2]),
        )  # fmt: skip

    @property
    def _tallies(self) -> tuple[Tally, Tally, Tally]:
        return self.counts, self.extra, self.later

    def sums(self, hours: IntArray) -> IntArray:
        """Return the vectors (H, width) of ascending hours (H,); zero where there is none."""
        out = np.zeros((len(hours), self.width), np.int64)
        for month, rows in months_of(hours).items():
            self._fill(month, hours[rows], out, rows)
        return out

    def _fill(self, month: str, wanted: IntArray, out: IntArray, rows: IntArray) -> None:
        hours, sums = self._stored(month)
        place = np.searchsorted(hours, wanted)
        place[place == len(hours)] = 0
        if len(hours):
            found = hours[place] == wanted
            out[rows[found]] = (
                sums if found.all() and len(place) == len(hours) else sums[place[found]]
            )
        for row, hour in zip(rows.tolist(), wanted.tolist(), strict=True):
            if hour in self._waiting:
                out[row] += self._waiting[hour]

    def _month(self, month: str, waiting: IntArray) -> tuple[IntArray, IntArray]:
        """Hours and sums of a month with what waits; hours without glances are left out."""
        stored, _ = self._stored(month)
        hours = np.intersect1d(np.union1d(stored, waiting), self.hours())
        return hours, self.sums(hours)

    def _stored(self, month: str) -> tuple[IntArray, IntArray]:
        name = self._months.get(month)
        if name is None:
            return np.zeros(0, np.int64), np.zeros((0, self.width), np.int64)
        try:
            with (self.folder / name).open("rb") as file:
                hours, sums = read_month(file)
                return hours, widened(sums, self.width)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> OSError:
        return CorruptMemory(
            f"{self.folder / name} is missing or damaged; delete the folder "
            f"{self.folder / 'rollups'}, it is computed again from the glances"
        )

    def same_as(self, other: Ledger) -> list[str]:
        """Return what differs from another ledger of the same glances, in words."""
        found = []
        mine, theirs = self._spelled(), other._spelled()
        if mine != theirs:
            wrong_hours = sorted({k[0] for k, _ in mine.items() ^ theirs.items()})
            found.append(f"counts differ (hours since 1970: {wrong_hours[:5]})")
        if not self.extra.equal(other.extra):
            found.append("sums of weights differ")
        if not self.later.equal(other.later):
            found.append("numbers of glances by epoch differ")
        hours = np.union1d(self.hours(), other.hours())
        for start in range(0, len(hours), 512):
            part = hours[start : start + 512]
            wrong = (self.sums(part) != other.sums(part)).any(1)
            if wrong.any():
                found.append(f"sketch sums differ (hours since 1970: {part[wrong][:5].tolist()})")
        return found

    def _spelled(self) -> dict[tuple[int, Any], int]:
        """(hour, bag spelled out) -> glances, which does not depend on the order of arrival."""
        return {
            (h, self.bags.key(b)): n
            for h, b, n in zip(*(a.tolist() for a in self.counts.arrays()), strict=True)
        }


def _three(arrays: dict[str, Any], name: str) -> tuple[IntArray, IntArray, IntArray]:
    if f"{name}0" not in arrays:  # written before there were epochs
        return (np.zeros(0, np.int64),) * 3
    return arrays[f"{name}0"], arrays[f"{name}1"], arrays[f"{name}2"]


def widened(vectors: IntArray, width: int) -> IntArray:
    """Return vectors (..., w) with zeros behind them, up to a width."""
    short = width - vectors.shape[-1]
    if short <= 0:
        return vectors
    return np.pad(vectors, [*[(0, 0)] * (vectors.ndim - 1), (0, short)])


def _join(a: Arrays, b: Arrays) -> Arrays:
    hour, key, value = (np.concatenate([x, y]) for x, y in zip(a, b, strict=True))
    order = np.lexsort((key, hour))
    return hour[order], key[order], value[order]


def _cut(arrays: Arrays, first: int | None, last: int | None) -> Arrays:
    hour = arrays[0]
    start = 0 if first is None else int(np.searchsorted(hour, first))
    stop = len(hour) if last is None else int(np.searchsorted(hour, last))
    stop = max(start, stop)
    return arrays[0][start:stop], arrays[1][start:stop], arrays[2][start:stop]
