"""Windows as units that can be dealt out anew: glances, hours or days with their features.

Shape letters: u units, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect.recall.faded import by_length, sums_over_hours
from recollect.recall.reading import Decoder, Selection, chunks, microseconds_of, plural
from recollect.recall.windows import by_time, fits_hours

if TYPE_CHECKING:
    from recollect.memory import Memory, RollUps

__all__ = ["Units", "glances_as_units", "units_of", "units_of_each"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Glances of a window that are read one by one, at most.
MOST = 50_000
# Features of decoded attributes.
FEATURES = 128
# Glances of a window that are looked at one by one for what they show.
SHOWN = 4_096
# Numbers that the features of several modules may take while glances are decoded once for all.
HELD = 1 << 26


@dataclass(frozen=True, eq=False)
class Units:
    """Vectors of the units of two windows.

    Attributes:
        values: (u, D) sums of features.
        weight: (u,) objects (or glances) in each.
        first: (u,) whether the unit is in the first window.
        kept: how many numbers of their sketches were compared, where sketches were.
    """

    values: FloatArray
    weight: FloatArray
    first: npt.NDArray[np.bool_]
    kept: int = 0

    def beside(self, sums: FloatArray) -> Units:
        """Return the same units with further features: sums of m numbers over objects, (u, m).

        Each number counts for one m-th of an object's square, whatever its size: it is measured
        in its own deviation over the units of both windows, which dealing them out leaves alone.
        """
        total = max(float(self.weight.sum()), 1e-300)
        away = sums - np.outer(self.weight, sums.sum(0) / total)
        deviation = np.sqrt(np.square(away).sum(0) / total)
        unit = np.where(deviation > 0, deviation, 1.0) * sums.shape[1] ** 0.5
        values = np.concatenate([self.values, away / unit], 1)
        return Units(values, self.weight, self.first, self.kept)


def units_of(
    memory: Memory,
    module: str | None,
    windows: tuple[Selection, Selection],
    unit: str,
    source: str | None,
) -> tuple[Units, list[str]]:
    """Read the units of both windows."""
    read_channel = _reads_channel(memory, module, source)
    summed = unit != "glance" and all(w.is_hours for w in windows)
    if module is not None and not read_channel:
        read = _from_decoded(memory, [module], windows, unit)[module]
        if isinstance(read, ValueError):
            raise read
        return read
    if summed:
        found = _from_rollups(memory, module, windows, unit, read_channel)
        if found is not None:
            return found
    return _from_rows(memory, module, windows, unit, read_channel)


def units_of_each(
    memory: Memory, names: Sequence[str | None], windows: tuple[Selection, Selection], unit: str
) -> Iterator[tuple[str | None, tuple[Units, list[str]] | ValueError]]:
    """Yield the units of each module, in order, or why they cannot be read.

    Where objects must be decoded, every glance is decoded once for as many modules as fit
    ``HELD`` numbers, not once for each.
    """
    decoding = [n for n in names if n is not None and not _reads_channel(memory, n, None)]
    longest = max((len(memory.glances(**w.arguments, columns=["id"])) for w in windows), default=0)
    together = max(1, HELD // (FEATURES * max(longest, 1)))
    decoded: dict[str, tuple[Units, list[str]] | ValueError] = {}
    for name in names:
        if name not in decoding:
            try:
                yield name, units_of(memory, name, windows, unit, None)
            except ValueError as error:
                yield name, error
            continue
        if name not in decoded:
            start = decoding.index(name)
            some = decoding[start : start + together]
            try:
                decoded = _from_decoded(memory, some, windows, unit)
            except ValueError as error:
                decoded = dict.fromkeys(some, error)
        yield name, decoded[name]


def glances_as_units(
    memory: Memory, module: str | None, window: Selection, like: Units, source: str | None = None
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return (n,) ids, (n, D) features and (n,) weights of a window's glances, one by one.

    The features are the first ones of ``like``, units of this window. Of a module only glances
    that hold it are returned; of more than ``SHOWN`` glances so many, evenly spread; and none
    that keep less than was compared.
    """
    counts = memory.skeleton_counts(**window.arguments)
    weight = np.ones(len(counts)) if module is None else counts.count(module)
    rows = np.flatnonzero(weight > 0)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SHOWN)).astype(np.int64)]
    kept = memory.kept(counts.ids[rows].tolist())
    rows = rows[(kept > 0) & (kept >= like.kept)]
    ids, weight = counts.ids[rows], weight[rows]
    channel = _reads_channel(memory, module, source)
    if module is not None and not channel:
        return ids, _Decoded(memory, [module]).of(ids, module)[0], weight
    unmix = _Unmixed(memory, module, channel, like.kept)
    values = [np.zeros((0, unmix.width))]
    for some in chunks(ids):
        sketch = None
        if module is None:
            sketch = memory.values(some, prefix=like.kept).astype(np.float64)
        codes = memory.channels(ids=some).fixed_point().numpy() if channel else None
        values.append(unmix(sketch, codes))
    return ids, np.concatenate(values), weight


def _reads_channel(memory: Memory, module: str | None, source: str | None) -> bool:
    """Whether features come from the channel.

    Raises:
        ValueError: if it is asked for and does not follow the module.
    """
    if memory.recipe.channel is None or source == "sketch":
        return False
    if module is None:
        return True
    family = memory.modules.family_of(memory.modules.id_of(module)).name
    followed = memory.recipe.channel.follows(family)
    if source == "channel" and not followed:
        raise ValueError(f"the distribution channel does not follow module {module!r}")
    return followed


def _from_rollups(
    memory: Memory,
    module: str | None,
    windows: tuple[Selection, Selection],
    unit: str,
    channel: bool,
) -> tuple[Units, list[str]] | None:
    """Units from roll-ups alone; None if a local day cuts their hours, or counts are missing."""
    parts = [memory.rollups(since=w.since, until=w.until) for w in windows]
    recipe = memory.recipe
    keep = min([recipe.dim, *(int(p.kept.min()) for p in parts if len(p))])
    if not all(fits_hours(p.start, memory.timezone) for p in parts):
        return None
    if module is not None and any((p.known < p.n).any() for p in parts):
        return None
    unmix = _Unmixed(memory, module, channel, keep)
    means = None if module is None else _Means.of(memory, module)
    gathered, told = [], []
    for side, p in enumerate(parts):
        sums = unmix(None if module else _aligned_sums(memory, p), p.channel if channel else None)
        weight = p.n.astype(np.float64) if module is None else p.count(module)
        gathered.append(_group(sums, weight, p.start, side == 0, unit, memory.timezone))
        if means is not None:
            index = by_time(p.start, unit, memory.timezone).index
            told.append(means(p, index, gathered[-1].weight))
    units = _joined(gathered, keep)
    read = [t for t in told if t is not None]
    if read and len(read) == len(parts):
        units = units.beside(np.concatenate(read))
    return units, [*unmix.notes, "from roll-ups alone"]


def _aligned_sums(memory: Memory, rollups: RollUps) -> FloatArray:
    """Return the sums of sketches, (W, d), in the coordinates of the first recipe.

    Of an informed epoch the mean glance is decoded and sketched again.
    """
    total = np.zeros((len(rollups), memory.recipe.dim))
    window = np.arange(len(rollups))
    decoder = Decoder.of(memory)
    for part in sums_over_hours(memory, rollups, window, len(rollups)):
        if not part.recipe.leading:
            total += part.sums * 2.0**-32
            continue
        for rows, found in part.decode(decoder):
            mean = memory.sketcher.unrounded(found.trace()).numpy().astype(np.float64)
            total[rows] += mean * part.glances[rows, None]
    return total


def _from_rows(
    memory: Memory,
    module: str | None,
    windows: tuple[Selection, Selection],
    unit: str,
    channel: bool,
) -> tuple[Units, list[str]]:
    """Units from the sketches and the channel of single glances.

    Raises:
        ValueError: if there are too many glances to deal out one by one.
    """
    keep = _left(memory, windows)
    unmix = _Unmixed(memory, module, channel, keep)
    gathered = []
    for side, w in enumerate(windows):
        counts = memory.skeleton_counts(**w.arguments)
        _check_number(len(counts), unit)
        weight = np.ones(len(counts))
        if module is not None:
            if not counts.known.all():
                raise ValueError(
                    "the drift of one module needs the number of its objects, and skeletons were "
                    "not kept for all glances of these windows; ask for everything (module=None)"
                )
            weight = counts.count(module)
        parts, start = [], 0
        codes = memory.channels(**w.arguments).fixed_point().numpy() if channel else None
        for some in chunks(counts.ids):
            rows = slice(start, start + len(some))
            sketch = None if module else memory.values(some, prefix=keep).astype(np.float64)
            parts.append(unmix(sketch, None if codes is None else codes[rows]))
            start += len(some)
        values = np.concatenate(parts) if parts else np.zeros((0, unmix.width))
        gathered.append(_group(values, weight, counts.time, side == 0, unit, memory.timezone))
    return _joined(gathered, keep), unmix.notes


def _from_decoded(
    memory: Memory, modules: Sequence[str], windows: tuple[Selection, Selection], unit: str
) -> dict[str, tuple[Units, list[str]] | ValueError]:
    """Units from decoded glances: random features of the modules' estimated attributes."""
    features = _Decoded(memory, modules)
    gathered: dict[str, list[Units]] = {name: [] for name in modules}
    for side, w in enumerate(windows):
        table = memory.glances(**w.arguments, columns=["id", "time"])
        ids, times = table["id"].to_numpy().astype(np.int64), microseconds_of(table["time"])
        _check_number(len(ids), unit)
        for name, (values, weight) in features(ids).items():
            units = _group(values, weight, times, side == 0, unit, memory.timezone)
            gathered[name].append(units)
    said = ["features of decoded attributes", features.note]
    return {
        name: features.refused.get(name) or (_joined(gathered[name]), said) for name in modules
    }


class _Decoded:
    """Random features of modules' attributes as they are decoded from sketches.

    Called with the ids of b glances, it returns for each module (b, ``FEATURES``) sums over the
    objects of each glance and (b,) their numbers. ``refused`` holds the modules that cannot be
    decoded, and why.
    """

    def __init__(self, memory: Memory, modules: Sequence[str]) -> None:
        self._memory = memory
        self._decoder = Decoder.of(memory)
        self._entries = {m: memory.modules.family_of(memory.modules.id_of(m)) for m in modules}
        self._features = sketching.Channel(features=FEATURES)
        self.note = self._decoder.note
        self.refused: dict[str, ValueError] = {}

    def of(self, ids: IntArray, module: str) -> tuple[FloatArray, FloatArray]:
        """Return what calling gives of one module.

        Raises:
            ValueError: if it cannot be decoded.
        """
        found = self(ids)
        if module in self.refused:
            raise self.refused[module]
        return found[module]

    def __call__(self, ids: IntArray) -> dict[str, tuple[FloatArray, FloatArray]]:
        import torch

        out = {m: (np.zeros((len(ids), FEATURES)), np.zeros(len(ids))) for m in self._entries}
        for _, part in by_length(self._memory, ids):
            found = self._decoder.decode(self._memory.sketches(ids=ids[part]))
            for module, (values, weight) in out.items():
                objects = found.objects(module)
                if module in self.refused or bool(torch.isnan(objects.attributes).any()):
                    self._refuse(module)
                    continue
                entry = self._entries[module]
                phi = sketching.features_of(objects.attributes, entry, self._features, 0).numpy()
                place = part[objects.glance.numpy()]
                np.add.at(values, place, phi * (2 / FEATURES) ** 0.5)
                np.add.at(weight, place, 1.0)
        return out

    def _refuse(self, module: str) -> None:
        self.refused[module] = ValueError(
            f"objects of module {module!r} cannot be decoded: more unknowns than numbers and no "
            "prior; fit one, or keep a distribution channel"
        )


class _Means:
    """A module's attributes summed over windows, from the sums of sketches.

    A shift of a number that is small beside the others of its module hardly shows in a channel,
    and is plain to see here.
    """

    def __init__(self, decoder: Decoder, module: str) -> None:
        self._decoder, self._module = decoder, module

    @classmethod
    def of(cls, memory: Memory, module: str) -> _Means | None:
        """Return what reads them; None without a prior that knows the module.

        Nor with epochs of several recipes, whose means differ in how sure they are.
        """
        decoder = Decoder.of(memory)
        known = decoder.prior is not None and module in decoder.prior.modules
        return cls(decoder, module) if known and len(memory.recipes) == 1 else None

    def __call__(
        self, rollups: RollUps, window: IntArray, objects: FloatArray
    ) -> FloatArray | None:
        """Return (u, m) sums of attributes over (u,) objects; None if some sums are forgotten."""
        memory, size = self._decoder.memory, len(objects)
        read, out = 0, None
        for part in sums_over_hours(memory, rollups, window, size):
            for rows, found in part.decode(self._decoder):
                mean, _ = found.means(self._module, np.maximum(objects[rows], 1.0))
                out = np.zeros((size, mean.shape[1])) if out is None else out
                out[rows] = mean.numpy().astype(np.float64) * objects[rows, None]
                read += len(rows)
        return out if read == size else None


def _left(memory: Memory, windows: tuple[Selection, Selection]) -> int:
    """Return how many numbers of their sketches all glances of both windows keep.

    Raises:
        ValueError: if one keeps none.
    """
    keep = memory.recipe.dim
    for w in windows:
        ids = memory.glances(**w.arguments, columns=["id"])["id"].to_pylist()
        kept = memory.kept(ids)
        if (kept == 0).any():
            raise ValueError(
                f"{plural(int((kept == 0).sum()), 'glance')} of these windows have faded to their "
                "structure and cannot be compared one by one; take whole hours and unit='hour', "
                "which reads roll-ups"
            )
        keep = min([keep, *kept.tolist()])
    return keep


def _check_number(glances: int, unit: str) -> None:
    if glances > MOST:
        raise ValueError(
            f"{plural(glances, 'glance')} in a window are too many to be read one by one; take "
            "whole hours and unit='hour', which reads roll-ups"
            if unit == "glance"
            else f"{plural(glances, 'glance')} in a window are too many to be read one by one; "
            "let the windows begin and end on whole hours, without a filter"
        )


class _Unmixed:
    """Takes sketches and fixed-point channel vectors to features of unit size per object.

    For one module its features are solved for together with those of all others that the table
    knows; where these are more than the channel has numbers, what others add to them is only
    reduced, and the notes say so.
    """

    def __init__(self, memory: Memory, module: str | None, channel: bool, keep: int) -> None:
        self.notes: list[str] = []
        self.width = self._sketch = keep
        if keep < memory.recipe.dim:
            self.notes.append(
                f"glances have faded: compared by {keep} of {memory.recipe.dim} numbers"
            )
        self._map: FloatArray | None = None
        self._unit = 1.0
        if channel:
            assert memory.recipe.channel is not None
            self._unit = (2 / memory.recipe.channel.features) ** 0.5
            self.width = memory.recipe.channel.features
            self._channel = keep * memory.recipe.channel.size // memory.recipe.dim
            if self._channel == 0:
                raise ValueError("nothing is left of the distribution channel in these windows")
            if module is None:
                self.width = keep + self._channel
            else:
                self._map = self._solve(memory, module)

    def _solve(self, memory: Memory, module: str) -> FloatArray:
        encoder = memory.sketcher.channel_encoder()
        names = [
            name
            for entry in memory.modules
            if encoder.channel.follows(entry.name)
            for name in entry.members
        ]
        images = np.concatenate([encoder.images(n, memory.modules).numpy() for n in names])
        images = images[:, : self._channel]
        d = encoder.channel.features
        start = names.index(module) * d
        load = len(images) / self._channel
        if load > 1:
            self.notes.append(
                f"load of the channel {load:.2g}: a change of other modules may show a little in "
                "this one"
            )
        # Ridge: the features' own variance is a half, rounding's far below it.
        spread = images.T @ images + 1e-3 * np.eye(images.shape[1])
        solved: FloatArray = np.linalg.solve(spread, images[start : start + d].T)
        return solved

    def __call__(self, sketch: FloatArray | None, channel: IntArray | None) -> FloatArray:
        parts = []
        if sketch is not None:
            parts.append(sketch[:, : self._sketch])
        if channel is not None:
            vectors = channel[:, : self._channel].astype(np.float64) * (2.0**-32 * self._unit)
            parts.append(vectors if self._map is None else vectors @ self._map)
        return np.concatenate(parts, axis=1)


def _group(
    values: FloatArray, weight: FloatArray, time: IntArray, first: bool, unit: str, timezone: str
) -> Units:
    """Add glances (or hours) up to units."""
    if unit != "glance" and len(time):
        windows = by_time(time, unit, timezone)
        values, weight = windows.total(values), windows.total(weight)
    return Units(values, weight, np.full(len(weight), first))


def _joined(parts: list[Units], kept: int = 0) -> Units:
    return Units(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.weight for p in parts]),
        np.concatenate([p.first for p in parts]),
        kept,
    )
