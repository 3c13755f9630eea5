"""What roll-ups hold of glances that have faded: it can no longer be counted from the rows.

Roll-ups are exact sums, and the roll-up of an hour is

    sum over its rows of what they keep  +  what faded from it,

so that fading changes no roll-up: the second part grows by what the first one loses. The first
part is derived (``ledger``); the second is kept here, and is as precious as the rows.

``forgotten/000000000042.npz`` is the state that belongs to version 42 of the glances and to all
later ones up to the next such file. It is written before the commit that makes its version: a
file of a version that does not exist was left by a killed writer and does not count. It names
the files of its sums, one per month, with their checksums.

Where glances that had faded are deleted, or come again with other content, what they had beyond
their prefix cannot be taken out of the sum: from there on only the first numbers of that hour's
sum are known (``known``).
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from recollect._checks import CorruptMemory
from recollect.memory.layout import Folder, Moved
from recollect.memory.ledger import Ledger, widened
from recollect.memory.structures import Bag
from recollect.memory.tiers import channel_kept

__all__ = ["Forgotten"]

IntArray = npt.NDArray[np.int64]

_HOME = "forgotten"


class Forgotten(Ledger):
    """Counts and sums of what faded, per UTC hour.

    Args:
        folder: of the memory.
        dim: numbers in a sketch.
        channel: numbers in the distribution channel, which stands behind it in the sums.
    """

    def __init__(self, folder: Folder, dim: int, channel: int = 0) -> None:
        self._checks: dict[str, int] = {}
        super().__init__(folder, dim, channel, home=_HOME)

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.version = 0
        self.merged: list[str] = []
        self._known: dict[int, int] = {}
        self._checks = {}
        self._view: _View | None = None

    # -- on disk --------------------------------------------------------------------------

    def states(self, version: int) -> list[Path]:
        """Return the states up to a version of the glances, oldest first."""
        files = sorted((self.folder / _HOME).glob("*.npz"), key=_number)
        return [f for f in files if _number(f) <= version]

    def open(self, version: int) -> None:
        """Read the state that belongs to a version of the glances.

        Raises:
            CorruptMemory: if it is damaged, or lost a file.
            Moved: if a writer has just replaced it.
        """
        states = self.states(version)
        newest = _number(states[-1]) if states else 0
        if newest == self.version and not self._dirty:
            return
        changes = self.changes
        self.clear()
        self.changes = changes + 1
        if not states:
            return
        try:
            head = self._read_index(states[-1])
            self._known = {int(h): k for h, k in head["known"].items()}
            self._checks = head["checks"]
            self.merged = head["merged"]
        except FileNotFoundError as error:
            raise Moved(f"{states[-1]} was replaced") from error
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise CorruptMemory(
                f"{states[-1]} is damaged; restore it from a copy: it holds what roll-ups know "
                "of glances that have faded"
            ) from error
        self.version = newest
        self._dirty = False
        self.check_files(version)

    def check_files(self, version: int) -> None:
        """Check that the files of the sums are there.

        Raises:
            CorruptMemory: naming those that are not.
            Moved: if a writer has just replaced them.
        """
        lost = [n for n in self._months.values() if not (self.folder / n).exists()]
        if not lost:
            return
        newest = self.states(version)
        if newest and _number(newest[-1]) != self.version:
            raise Moved(f"{lost[0]} was replaced")
        raise CorruptMemory(
            f"{self.folder.path} lost {', '.join(lost[:5])}; restore it from a copy: it holds "
            "what roll-ups know of glances that have faded"
        )

    def prepare(self, version: int) -> None:
        """Write the state that a coming version of the glances will have."""
        name = f"{_HOME}/{version:012d}.npz"
        self._checks = {n: c for n, c in self._checks.items() if n in self._months.values()}
        self._write(name, {
            "known": self._known, "checks": self._checks, "merged": self.merged
        })  # fmt: skip
        self.version = version

    def _write_month(self, month: str, generation: int, hours: IntArray, sums: IntArray) -> str:
        # A generation that a killed writer left is written over, never read.
        name = super()._write_month(month, generation, hours, sums)
        self._checks[name] = zlib.crc32((self.folder / name).read_bytes())
        return name

    def _month(self, month: str, waiting: IntArray) -> tuple[IntArray, IntArray]:
        stored, _ = self._stored(month)
        hours = np.union1d(stored, waiting)
        sums = self.sums(hours)
        there = (sums != 0).any(1)
        return hours[there], sums[there]

    def settle(self) -> None:
        """Remove older states, after the commit."""
        for path in self.states(self.version - 1):
            path.unlink(missing_ok=True)
        self._remove_old()

    def drop_newer(self, version: int) -> None:
        """Remove states of versions that were never made (only the writer may)."""
        for path in (self.folder / _HOME).glob("*.npz"):
            if _number(path) > version:
                path.unlink(missing_ok=True)

    def damaged(self) -> list[str]:
        """Return the files of sums whose checksum is wrong."""
        return [
            n for n in self._months.values()
            if zlib.crc32((self.folder / n).read_bytes()) != self._checks.get(n)
        ]  # fmt: skip

    # -- changing -------------------------------------------------------------------------

    def narrow(self, hour: IntArray, kept: IntArray) -> None:
        """Note that of the sums of some hours (B,) only the first ``kept`` (B,) are known.

        Of the channel's sums as many as are kept beside so many numbers of a sketch.
        """
        for h, k in zip(hour.tolist(), kept.tolist(), strict=True):
            self._known[h] = min(k, self._known.get(h, self.dim))
        for h in set(hour.tolist()):
            sums = self.sums(np.array([h]))
            beside = int(channel_kept(np.array([self._known[h]]), self.dim, self.channel)[0])
            for epoch in range(self.epochs):
                start = self.place(epoch).start
                sums[:, start : start + self._known[h]] = 0
            sums[:, self.dim : self.dim + beside] = 0
            self._add_vectors(np.array([h]), sums, -1, 0)
        self._dirty = True
        self.changes += 1

    def take(self, other: Forgotten, modules: IntArray, epochs: IntArray) -> None:
        """Take over what another memory has forgotten.

        Args:
            other: of that memory.
            modules: for each of its module ids the id here.
            epochs: for each of its epochs the number here.
        """
        bag, module, objects = other.bags.flat()
        ids = np.zeros(len(other.bags), np.int64)
        for number in range(1, len(other.bags)):
            mine = modules[module[bag == number]]
            order = np.argsort(mine)
            here = Bag(mine[order], objects[bag == number][order], np.zeros(len(mine), np.int64))
            ids[number] = self.bags.add(here)
        hour, key, value = other.counts.arrays()
        self.counts.add(hour, ids[key], value)
        self.total += int(value.sum())
        hour, key, value = other.extra.arrays()
        self.extra.add(hour, modules[key], value)
        hour, key, value = other.later.arrays()
        self.later.add(hour, epochs[key], value)
        for months in other._months:
            hours, sums = other._stored(months)
            for epoch in range(other.epochs):
                vectors = np.zeros((len(hours), self.dim + self.channel), np.int64)
                vectors[:, : self.dim] = sums[:, other.place(epoch)]
                if epoch == 0:
                    vectors[:, self.dim :] = sums[:, self.dim : self.dim + self.channel]
                self._add_vectors(hours, vectors, 1, int(epochs[epoch]))
        self._dirty = True
        self.changes += 1
        self.merged += [m for m in other.merged if m not in self.merged]
        for h, k in other._known.items():
            self.narrow(np.array([h]), np.array([k]))

    # -- reading --------------------------------------------------------------------------

    @property
    def any(self) -> bool:
        """Whether anything has faded."""
        return self.version > 0

    @property
    def mark(self) -> str:
        """A fingerprint of what was forgotten, equal for equal counts and sums."""
        parts = [*self.counts.arrays(), *self.extra.arrays(), *self.later.arrays()]
        sums = sorted((Path(n).name[:12], c) for n, c in self._checks.items())
        told = b"".join(a.tobytes() for a in parts) + repr((sums, self._known)).encode()
        return hashlib.sha256(told).hexdigest()[:32]

    @property
    def files(self) -> list[str]:
        """Files of the state that was read, relative to the memory."""
        if not self.version:
            return []
        return [f"{_HOME}/{self.version:012d}.npz", *self._months.values()]

    @property
    def narrowed(self) -> int:
        """Number of hours of whose sums only the first numbers are known."""
        return len(self._known)

    def known(self, hours: IntArray) -> IntArray:
        """Return how many numbers are known of the sums of some hours (H,)."""
        if not self._known:
            return np.full(len(hours), self.dim, np.int64)
        return np.array([self._known.get(h, self.dim) for h in hours.tolist()], np.int64)

    def count(self, first: int | None = None, last: int | None = None) -> int:
        """Return the glances of the hours first <= hour < last that are gone but for roll-ups."""
        hour, _, value = self.counts.arrays()
        here = np.ones(len(hour), np.bool_)
        if first is not None:
            here &= hour >= first
        if last is not None:
            here &= hour < last
        return int(value[here].sum())

    def view(self, ledger: Ledger) -> Ledger:
        """Return the same counts and sums with the bags of another ledger."""
        if self._view is None or self._view.of != (self.changes, ledger, ledger.bags):
            self._view = _View(self, ledger)
        return self._view

    def _damaged(self, name: str) -> OSError:
        if not (self.folder / name).exists() and name in self._months.values():
            return Moved(f"{self.folder / name} was replaced")
        return CorruptMemory(
            f"{self.folder / name} is damaged; restore it from a copy: it holds what roll-ups "
            "know of glances that have faded"
        )


class _View(Ledger):
    """What was forgotten, with the bags of another ledger."""

    def __init__(self, forgotten: Forgotten, ledger: Ledger) -> None:
        super().__init__(ledger.folder, ledger.dim, ledger.channel, epochs=ledger.epochs)
        self.of = (forgotten.changes, ledger, ledger.bags)
        self._forgotten = forgotten
        self.bags = ledger.bags
        bag, module, objects = forgotten.bags.flat()
        none = np.zeros(0, np.int64)
        ids = [0] + [
            self.bags.add(Bag(module[bag == b], objects[bag == b], none))
            for b in range(1, len(forgotten.bags))
        ]
        hour, which, value = forgotten.counts.arrays()
        self.counts.add(hour, np.array(ids, np.int64)[which], value)
        self.extra.add(*forgotten.extra.arrays())
        self.later.add(*forgotten.later.arrays())

    @property
    def stale(self) -> bool:
        """Whether more was forgotten since."""
        return self._forgotten.changes != self.of[0]

    def sums(self, hours: IntArray) -> IntArray:
        """Return the vectors (H, width) of hours (H,)."""
        return widened(self._forgotten.sums(hours), self.width)


def _number(path: Path) -> int:
    return int(path.stem)
