"""Roll-ups: what is known of a window without its glances -- n, counts per module, sketch sum.

Shape letters: W windows, P modules, d numbers in a sketch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recollect._checks import check_one_of
from recollect.memory.clock import HOUR
from recollect.memory.structures import UNITS, WEIGHT_BITS, BagTable
from recollect.memory.sums import distinct
from recollect.memory.tiers import channel_kept
from recollect.sketching.recipe import ModuleTable

__all__ = ["EpochSums", "RollUps", "fold_windows", "place_of"]

IntArray = npt.NDArray[np.int64]
Sparse = tuple[IntArray, IntArray, IntArray]


def place_of(epoch: int, dim: int, channel: int) -> slice:
    """Return where the sum of an epoch's sketches stands in a window's vector.

    >>> place_of(0, 64, 8), place_of(2, 64, 8)
    (slice(0, 64, None), slice(136, 200, None))
    """
    start = 0 if epoch == 0 else dim * epoch + channel
    return slice(start, start + dim)


@dataclass(frozen=True, eq=False)
class EpochSums:
    """What one epoch adds to W windows.

    Attributes:
        epoch: its number.
        n: (W,) int64, its glances.
        sum: (W, d) int64, the sum of their sketches in units of 2**-32.
        kept: (W,) int64, how many numbers of each sum are known.
    """

    epoch: int
    n: IntArray
    sum: IntArray
    kept: IntArray


@dataclass(frozen=True, eq=False)
class RollUps:
    """The roll-ups of W windows in time order; windows without glances are left out.

    Everything is exact. Counts come from the skeletons; where those were not kept (``known``
    smaller than ``n``) they count only the glances with a skeleton.

    Attributes:
        start: (W,) int64, start of each window in microseconds since 1970 UTC.
        n: (W,) int64, glances in it.
        known: (W,) int64, glances in it whose skeleton was kept.
        modules: the module table; ``modules.names[p]`` is the module of column p.
        window: ``"hour"``, ``"day"``, ``"month"`` (UTC) or ``"all"``.
        kept: (W,) int64, how many numbers of each window's sum are known: all of them, unless
            glances that had faded were deleted, or the window cuts an hour that has faded.

    Example:
        >>> from recollect import Memory, Object, Trace
        >>> t = Trace.from_objects([[Object("cat", [1.0])], [Object("cat", [2.0])]])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time=["2026-01-01T08:10Z", "2026-01-01T09:20Z"])
        ...     rollups = memory.rollups()
        ...     print(rollups, rollups.count("cat").tolist())
        RollUps(2 windows of one hour, 2 glances) [1.0, 1.0]
    """

    start: IntArray
    n: IntArray
    known: IntArray
    modules: ModuleTable
    window: str
    _bags: Sparse = field(repr=False)
    _table: BagTable = field(repr=False)
    _extra: Sparse = field(repr=False)
    _sum: Callable[[], IntArray] = field(repr=False)
    kept: IntArray = field(repr=False)
    _channel: int = field(repr=False, default=0)
    _dim: int = field(repr=False, default=0)
    _later: Sparse = field(repr=False, default=(np.zeros(0, np.int64),) * 3)

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return f"RollUps({len(self)} windows of one {self.window}, {int(self.n.sum())} glances)"

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """(W,) starts of the windows as datetime64[us], UTC."""
        return self.start.astype("datetime64[us]")

    @property
    def epochs(self) -> list[int]:
        """Numbers of the epochs whose glances these windows hold, ascending."""
        later = distinct(self._later[1])[0].tolist()
        first = int(self.n.sum()) > int(self._later[2].sum())
        return [*([0] if first or not later else []), *later]

    def of_epoch(self, epoch: int) -> EpochSums:
        """Return what one epoch adds to each window; sums of two epochs are never added.

        Raises:
            RuntimeError: if the memory has changed since these roll-ups were made.
        """
        place = place_of(epoch, self._dim, self._channel)
        return EpochSums(epoch, self.counted_in(epoch), self._vectors[:, place], self.kept)

    def counted_in(self, epoch: int) -> IntArray:
        """Return (W,) the glances of one epoch."""
        window, number, value = self._later
        if epoch == 0:
            return self.n - _fold(value, window, len(self))
        rows = number == epoch
        return _fold(value[rows], window[rows], len(self))

    @property
    def sum(self) -> IntArray:
        """(W, d) int64: sum of the sketches in units of 2**-32; read when first asked for.

        Only the first ``kept`` numbers of a row are known.

        Raises:
            RuntimeError: if the memory has changed since these roll-ups were made.
            ValueError: if the windows hold glances of later epochs, whose sketches do not add
                to the first ones'.
        """
        later = [e for e in self.epochs if e]
        if later:
            raise ValueError(
                f"these windows hold glances of epoch {later[0]}, whose sketches are of another "
                f"recipe: sums of epochs do not mix; ask rollups.of_epoch(n), n in {self.epochs}"
            )
        return self._vectors[:, : self._dim]

    @property
    def channel(self) -> IntArray | None:
        """(W, c) int64: sum of the distribution channel in units of 2**-32; None without one.

        Only the first ``channel_kept`` numbers of a row are known.

        Raises:
            RuntimeError: if the memory has changed since these roll-ups were made.
        """
        if not self._channel:
            return None
        return self._vectors[:, self._dim : self._dim + self._channel]

    @property
    def channel_kept(self) -> IntArray:
        """(W,) int64: how many numbers of each window's sum of the channel are known."""
        return channel_kept(self.kept, self._vectors.shape[1] - self._channel, self._channel)

    @cached_property
    def _vectors(self) -> IntArray:
        """(W, width): all epochs and the channel, read together."""
        return self._sum()

    def count(self, module: str, unit: str = "objects") -> npt.NDArray[np.float64]:
        """Return (W,) counts of one module.

        Args:
            module: its name.
            unit: ``"objects"``, ``"glances"`` (with at least one object) or ``"weight"``.

        Raises:
            NotRemembered: if the module was never seen.
            ValueError: if the unit is another.
        """
        check_one_of("unit", unit, UNITS)
        number = self.modules.id_of(module)
        bag, modules, objects = self._table.flat()
        in_bag = np.zeros(len(self._table), np.int64)
        rows = modules == number
        in_bag[bag[rows]] = 1 if unit == "glances" else objects[rows]
        window, bags, times = self._bags
        counted = _fold(times * in_bag[bags], window, len(self)).astype(np.float64)
        if unit == "weight":
            window, module_id, value = self._extra
            rows = module_id == number
            extra = _fold(value[rows], window[rows], len(self))
            counted += extra.astype(np.float64) * 2.0**-WEIGHT_BITS
        return counted

    def counts(self, unit: str = "objects") -> npt.NDArray[np.float64]:
        """Return (W, P) counts of all modules.

        Raises:
            ValueError: if the unit is none of "objects", "glances", "weight".
        """
        check_one_of("unit", unit, UNITS)
        out = np.zeros((len(self), len(self.modules)))
        bag, modules, objects = self._table.flat()
        starts = np.searchsorted(bag, np.arange(len(self._table) + 1))
        window, bags, times = self._bags
        for w, b, n in zip(window.tolist(), bags.tolist(), times.tolist(), strict=True):
            rows = slice(starts[b], starts[b + 1])
            out[w, modules[rows]] += n if unit == "glances" else n * objects[rows]
        if unit == "weight":
            window, module_id, value = self._extra
            np.add.at(out, (window, module_id), value * 2.0**-WEIGHT_BITS)
        return out

    def by(self, window: str) -> RollUps:
        """Add the windows up to days, months (both UTC) or to one window of all.

        Raises:
            ValueError: if the window is finer than these, or another word.
        """
        order = ("hour", "day", "month", "all")
        check_one_of("window", window, order)
        if order.index(window) < order.index(self.window):
            raise ValueError(f"roll-ups by {self.window} cannot be split into {window}s")
        start, place = fold_windows(self.start, window)
        size = len(start)

        def total() -> IntArray:
            cuts = np.searchsorted(place, np.arange(size + 1))
            parts = [self._vectors[a:b].sum(0) for a, b in pairwise(cuts.tolist())]
            return np.stack(parts) if parts else self._vectors

        return RollUps(
            start,
            _fold(self.n, place, size),
            _fold(self.known, place, size),
            self.modules,
            window,
            _move(self._bags, place),
            self._table,
            _move(self._extra, place),
            total,
            _least(self.kept, place, size),
            self._channel,
            self._dim,
            _move(self._later, place),
        )


def fold_windows(start: IntArray, window: str) -> tuple[IntArray, IntArray]:
    """Return the distinct longer windows that hold the given starts, and which holds which."""
    if window == "hour":
        folded = start // HOUR * HOUR
    elif window == "day":
        folded = start // (24 * HOUR) * (24 * HOUR)
    elif window == "month":
        months = start.astype("datetime64[us]").astype("datetime64[M]")
        folded = months.astype("datetime64[us]").astype(np.int64)
    else:
        folded = np.full_like(start, start[0] if len(start) else 0)
    return distinct(folded)


def _fold(values: IntArray, place: IntArray, size: int) -> IntArray:
    out = np.zeros(size, np.int64)
    np.add.at(out, place, values)
    return out


def _least(values: IntArray, place: IntArray, size: int) -> IntArray:
    out = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(out, place, values)
    return out


def _move(sparse: Sparse, place: IntArray) -> Sparse:
    window, key, value = sparse
    return place[window] if len(window) else window, key, value
