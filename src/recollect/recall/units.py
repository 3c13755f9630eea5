"""Windows as units that can be dealt out anew: glances, hours or days with their features.

Shape letters: u units, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect.recall.reading import CHUNK, Decoder, Selection, chunks, microseconds_of, plural
from recollect.recall.windows import by_time, fits_hours

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["Units", "units_of"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Glances of a window that are read one by one, at most.
MOST = 50_000
# Features of decoded attributes.
FEATURES = 128


@dataclass(frozen=True, eq=False)
class Units:
    """Vectors of the units of two windows.

    Attributes:
        values: (u, D) sums of features.
        weight: (u,) objects (or glances) in each.
        first: (u,) whether the unit is in the first window.
    """

    values: FloatArray
    weight: FloatArray
    first: npt.NDArray[np.bool_]


def units_of(
    memory: Memory,
    module: str | None,
    windows: tuple[Selection, Selection],
    unit: str,
    source: str | None,
) -> tuple[Units, list[str]]:
    """Read the units of both windows."""
    read_channel = memory.recipe.channel is not None and source != "sketch"
    if module is not None and read_channel:
        family = memory.modules.family_of(memory.modules.id_of(module)).name
        followed = memory.recipe.channel is not None and memory.recipe.channel.follows(family)
        if source == "channel" and not followed:
            raise ValueError(f"the distribution channel does not follow module {module!r}")
        read_channel = followed
    summed = unit != "glance" and all(w.is_hours for w in windows)
    if module is not None and not read_channel:
        return _from_decoded(memory, module, windows, unit)
    if summed:
        found = _from_rollups(memory, module, windows, unit, read_channel)
        if found is not None:
            return found
    return _from_rows(memory, module, windows, unit, read_channel)


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
    gathered = []
    for side, p in enumerate(parts):
        sums = unmix(None if module else p.sum, p.channel if channel else None)
        weight = p.n.astype(np.float64) if module is None else p.count(module)
        gathered.append(_group(sums, weight, p.start, side == 0, unit, memory.timezone))
    return _joined(gathered), [*unmix.notes, "from roll-ups alone"]


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
            sketch = None
            if not module:
                sketch = memory.sketches(ids=some, prefix=keep).fixed_point().numpy()
            parts.append(unmix(sketch, None if codes is None else codes[rows]))
            start += len(some)
        values = np.concatenate(parts) if parts else np.zeros((0, unmix.width))
        gathered.append(_group(values, weight, counts.time, side == 0, unit, memory.timezone))
    return _joined(gathered), unmix.notes


def _from_decoded(
    memory: Memory, module: str, windows: tuple[Selection, Selection], unit: str
) -> tuple[Units, list[str]]:
    """Units from decoded glances: random features of the module's estimated attributes."""
    import torch

    decoder = Decoder.of(memory)
    entry = memory.modules.family_of(memory.modules.id_of(module))
    of_features = sketching.Channel(features=FEATURES)
    gathered = []
    for side, w in enumerate(windows):
        table = memory.glances(**w.arguments, columns=["id", "time"])
        ids, times = table["id"].to_numpy().astype(np.int64), microseconds_of(table["time"])
        _check_number(len(ids), unit)
        values, weight = np.zeros((len(ids), FEATURES)), np.zeros(len(ids))
        for number, part in enumerate(chunks(ids)):
            found = decoder.decode(memory.sketches(ids=part)).objects(module)
            if bool(torch.isnan(found.attributes).any()):
                raise ValueError(
                    f"objects of module {module!r} cannot be decoded: more unknowns than numbers "
                    "and no prior; fit one, or keep a distribution channel"
                )
            phi = sketching.features_of(found.attributes, entry, of_features, 0).numpy()
            place = found.glance.numpy() + number * CHUNK
            np.add.at(values, place, phi * (2 / FEATURES) ** 0.5)
            np.add.at(weight, place, 1.0)
        gathered.append(_group(values, weight, times, side == 0, unit, memory.timezone))
    return _joined(gathered), ["features of decoded attributes", decoder.note]


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
    """Takes fixed-point sketches and channel vectors to features of unit size per object.

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

    def __call__(self, sketch: IntArray | None, channel: IntArray | None) -> FloatArray:
        parts = []
        if sketch is not None:
            parts.append(sketch[:, : self._sketch].astype(np.float64) * 2.0**-32)
        if channel is not None:
            vectors = np.asarray(channel[:, : self._channel], np.float64)
            vectors = vectors * (2.0**-32 * self._unit)
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


def _joined(parts: list[Units]) -> Units:
    return Units(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.weight for p in parts]),
        np.concatenate([p.first for p in parts]),
    )
