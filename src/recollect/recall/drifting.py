"""Drift: do two windows differ, by how much, and could that be chance?

Every unit (a glance, an hour, a day) is a vector v and a weight n: the sum of features of its
objects and their number. Two windows are as far apart as their mean features,

    T = | sum_a v / sum_a n - sum_b v / sum_b n |^2,

the squared maximum mean discrepancy of these features. Under no change the units could have
stood in either window, so T is compared with its values for units dealt out anew: the p-value
is exact, whatever the distribution. What chance alone gives on average is taken off T.

Reference: "A kernel two-sample test" (Gretton, Borgwardt, Rasch, Schoelkopf and Smola, 2012).

Shape letters: u units, D features, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import Answer
from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.recall.reading import CHUNK, Decoder, Selection, chunks, microseconds_of, plural
from recollect.recall.windows import by_time, fits_hours

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["drift"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNITS = ("glance", "hour", "day")
SOURCES = ("sketch", "channel")
# Units in each window without which no p-value could be small.
FEWEST = 4
MOST = 50_000
BOOTSTRAPS = 200
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


def drift(
    memory: Memory,
    first: tuple[Any, Any],
    second: tuple[Any, Any],
    module: str | Sequence[str] | None = None,
    *,
    where: str | None = None,
    unit: str = "glance",
    source: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Answer:
    """Estimate how far two windows are apart, with a p-value for "nothing has changed".

    Without a module, whole sketches are compared (which modules put out what, on average), and
    the distribution channel with them where there is one. With a module it is the distribution
    of its attributes, whatever the number of objects: its features are read from the channel, or
    computed from decoded glances.

    Args:
        memory: a Memory.
        first: (since, until), moments with zone; None for open.
        second: the same of the other window.
        module: a name, several (one row each), or None for everything.
        where: SQL expression over time, source and labels, for both windows.
        unit: what is dealt out anew: ``"glance"``, ``"hour"`` or ``"day"`` (of the calendar).
            Glances that depend on the ones before them need longer units, or chance is
            underestimated. By hours, and without ``where``, only roll-ups are read.
        source: ``"channel"``, ``"sketch"`` (of a module: decoded glances), None for the channel
            where there is one.
        permutations: how often units are dealt out anew; the smallest p-value is one over this.
        seed: of the permutations.

    Returns:
        An Answer, one row per module: ``module``, ``estimate`` of the distance (0: alike; the
        root of two: nothing in common), ``low``, ``high``, ``p_value``, ``units``.

    Raises:
        NotRemembered: if a module was never seen, or is missing in one of the windows.
        ValueError: if the windows overlap, hold too few units, or a word is unknown.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("cat", [x, 1.0])] for x in [1.0, 1.1] * 8 + [3.0] * 16])
        >>> times = [f"2026-01-{1 + i // 16:02d}T{i % 16:02d}:00Z" for i in range(32)]
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time=times)
        ...     noon = "2026-01-01T20:00Z"
        ...     found = recall.drift(memory, (None, noon), (noon, None), "cat")
        >>> found["p_value"], found["low"][0] > 0.1
        ([0.001], True)
    """
    check_one_of("unit", unit, UNITS)
    if source is not None:
        check_one_of("source", source, SOURCES)
    check_integer("permutations", permutations, minimum=19)
    windows = _windows(first, second, where)
    wanted: list[str | None] = [module] if module is None or isinstance(module, str) else [*module]
    for name in wanted:
        if name is not None:
            memory.modules.id_of(name)
    if source == "channel" and memory.recipe.channel is None:
        raise ValueError(
            f"{memory.path} keeps no distribution channel; leave source out, or make the memory "
            "with Sketcher(channel=True)"
        )
    rows = []
    notes: list[str] = []
    for name in wanted:
        units, said = _units(memory, name, windows, unit, source)
        _check_enough(units, name, unit)
        found = _compare(units, permutations, seed)
        number = int(units.first.sum()), int((~units.first).sum())
        rows.append({"module": name or "all", **found, "units": f"{number[0]} + {number[1]}"})
        notes += [s for s in said if s not in notes]
    notes.append(f"p-values from {permutations} ways of dealing out {unit}s anew")
    if len(rows) > 1:
        notes.append(f"{len(rows)} tests: about {0.05 * len(rows):.2g} fall below 0.05 by chance")
    columns = {key: [r[key] for r in rows] for key in rows[0]}
    return Answer(columns, title=f"distance of two windows{_words(windows)}", notes=notes)


def _windows(
    first: tuple[Any, Any], second: tuple[Any, Any], where: str | None
) -> tuple[Selection, Selection]:
    """Read both windows.

    Raises:
        TypeError: if a window is no pair.
        ValueError: if they overlap.
    """
    for window in (first, second):
        if isinstance(window, str) or len(window) != 2:
            raise TypeError(f"a window is a pair (since, until), got {window!r}")
    a, b = Selection.of(where, *first), Selection.of(where, *second)

    def ends_before(x: Selection, y: Selection) -> bool:
        return x.until is not None and y.since is not None and x.until <= y.since

    if not (ends_before(a, b) or ends_before(b, a)):
        raise ValueError(
            f"the windows overlap ({a.words.strip(', ')} / {b.words.strip(', ')}): a glance in "
            "both cannot tell them apart; let one end where the other begins, or before"
        )
    return a, b


def _words(windows: tuple[Selection, Selection]) -> str:
    where = f", where {windows[0].where}" if windows[0].where else ""
    spans = [Selection(None, w.since, w.until).words.strip(", ") or "all" for w in windows]
    return f": {spans[0]} | {spans[1]}{where}"


def _check_enough(units: Units, module: str | None, unit: str) -> None:
    """Refuse windows in which nothing could be told.

    Raises:
        NotRemembered: if a window holds nothing of the module.
        ValueError: if there are too few units.
    """
    held = [float(units.weight[side].sum()) for side in (units.first, ~units.first)]
    if min(held) <= 0:
        what = "glance" if module is None else f"object of module {module!r}"
        raise NotRemembered(f"no {what} is in one of the windows; widen it, or the filter")
    number = [int((units.weight[side] > 0).sum()) for side in (units.first, ~units.first)]
    if min(number) < FEWEST:
        raise ValueError(
            f"a p-value needs at least {FEWEST} {unit}s in each window, there are {number[0]} "
            f"and {number[1]}; take longer windows or a shorter unit"
        )


def _compare(units: Units, permutations: int, seed: int) -> dict[str, float]:
    """Return distance, its interval and the p-value."""
    generator = np.random.Generator(np.random.PCG64(seed_of(seed, "permutations")))
    v, n, first = units.values, units.weight, units.first
    observed = float(_distances(v, n, first[None].astype(np.float64), (~first)[None] * 1.0)[0])
    dealt = []
    for some in _pieces(permutations, len(n)):
        sides = np.stack([generator.permutation(first) for _ in range(some)]).astype(np.float64)
        dealt.append(_distances(v, n, sides, 1.0 - sides))
    chance = np.concatenate(dealt)
    p = (1 + int((chance >= observed * (1 - 1e-12)).sum())) / (1 + permutations)
    again = []
    for some in _pieces(BOOTSTRAPS, len(n)):
        drawn = [_draws(side, some, generator) for side in (first, ~first)]
        again.append(_distances(v, n, drawn[0], drawn[1]))
    # Drawing again adds the same chance once more.
    off = float(chance.mean())
    spread = np.concatenate(again) - 2 * off
    low, high = np.sqrt(np.maximum(np.quantile(spread, [0.05, 0.95]), 0.0)).tolist()
    estimate = math.sqrt(max(observed - off, 0.0))
    return {
        "estimate": estimate,
        "low": min(low, estimate),
        "high": max(high, estimate),
        "p_value": p,
    }


def _pieces(number: int, units: int) -> list[int]:
    """Cut a number of permutations so that their tables stay small."""
    size = max(1, min(number, 20_000_000 // max(units, 1)))
    return [min(size, number - start) for start in range(0, number, size)]


def _draws(side: npt.NDArray[np.bool_], number: int, generator: np.random.Generator) -> FloatArray:
    """Return (number, u) how often each unit of one window is drawn, with replacement."""
    units = np.flatnonzero(side)
    out = np.zeros((number, len(side)))
    out[:, units] = generator.multinomial(len(units), np.full(len(units), 1 / len(units)), number)
    return out


def _distances(v: FloatArray, n: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Return T for rows of unit counts a, b (k, u)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = a @ v / (a @ n)[:, None] - b @ v / (b @ n)[:, None]
    squared: FloatArray = np.nan_to_num(np.square(apart).sum(1), nan=np.inf)
    return squared


# -- vectors --------------------------------------------------------------------------------


def _units(
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
    if not all(fits_hours(p.start, memory.timezone) for p in parts):
        return None
    if module is not None and any((p.known < p.n).any() for p in parts):
        return None
    unmix = _Unmixed(memory, module, channel)
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
    unmix = _Unmixed(memory, module, channel)
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
            sketch = None if module else memory.sketches(ids=some).fixed_point().numpy()
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

    def __init__(self, memory: Memory, module: str | None, channel: bool) -> None:
        self.notes: list[str] = []
        self.width = memory.recipe.dim
        self._map: FloatArray | None = None
        self._unit = 1.0
        if channel:
            assert memory.recipe.channel is not None
            self._unit = (2 / memory.recipe.channel.features) ** 0.5
            self.width = memory.recipe.channel.features
            if module is None:
                self.width = memory.recipe.dim + memory.recipe.channel.size
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
        d = encoder.channel.features
        start = names.index(module) * d
        load = len(images) / encoder.recipe.dim
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
            parts.append(sketch.astype(np.float64) * 2.0**-32)
        if channel is not None:
            vectors = channel.astype(np.float64) * (2.0**-32 * self._unit)
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
