"""How often, and when: counts of glances, objects and weights, exact or from sketches alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer, interval
from recollect._checks import check_one_of
from recollect.recall.faded import Sums, by_length, left_notes, sums_over, sums_over_hours
from recollect.recall.misreading import misread_of, numbers_seen
from recollect.recall.naming import probabilities
from recollect.recall.presence import at_least_one, quantiles, told_by_windows, usual_chance
from recollect.recall.reading import (
    Decoder,
    Selection,
    load_note,
    microseconds_of,
    plural,
)
from recollect.recall.windows import CALENDAR, Windows, by_label, by_time, fits_hours

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["UNITS", "count"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNITS = ("objects", "glances", "weight")


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted in W windows: glances, and the thing asked for with its interval."""

    windows: Windows
    glances: IntArray
    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    notes: Sequence[str] = ()


def count(
    memory: Memory,
    module: str | None = None,
    *,
    by: str | None = None,
    unit: str = "objects",
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    source: str | None = None,
) -> Answer:
    """Count a module's objects (or the glances), all together or window by window.

    Args:
        memory: a Memory.
        module: name of the module, or of a named concept (``recall.name``; it is there once in
            a glance or not at all); None counts the glances themselves.
        by: None for one number; ``"hour"`` (of the calendar), ``"day"``, ``"month"``;
            ``"weekday"`` and ``"hour_of_day"`` fold the calendar and show empty windows too, as
            months between the first and the last do; or a column: ``"source"``, a label.
        unit: ``"objects"``; ``"glances"``, those with at least one object; or ``"weight"``, the
            sum of the objects' weights.
        where: SQL expression over time, source and labels, such as ``"source = 'hall'"``.
        since: first moment (a datetime with zone, an ISO string with zone).
        until: first moment that is left out.
        source: ``"skeleton"`` is exact, ``"sketch"`` estimates from the sketches or their
            roll-ups; None takes the skeletons where they were kept.

    Returns:
        An Answer with the window, ``estimate``, ``low``, ``high``, ``glances`` (all glances of
        the window) and ``share`` = estimate / glances (with ``unit="objects"`` or ``"weight"``
        that is the mean per glance; without a module the share of all glances counted). A share
        of no glances is NaN.

    Raises:
        NotRemembered: if the module was never seen (the nearest names are shown).
        ValueError: on an unknown ``by``, ``unit`` or ``source``, a time without zone, weights
            asked of sketches, or exact counts where skeletons were not kept.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> cat, dogs = Object("cat", [1.0]), [Object("dog", [2.0]), Object("dog", [3.0])]
        >>> t = Trace.from_objects([[cat], [cat, dogs[0]], dogs])
        >>> times = ["2026-01-01T08:00Z", "2026-01-02T08:30Z", "2026-01-02T20:00Z"]
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time=times)
        ...     print(recall.count(memory, "dog", by="day"))
        objects of 'dog' by day
               day  estimate  low  high  glances  share
        2026-01-01         0    0     0        1      0
        2026-01-02         3    3     3        2    1.5
        exact, from roll-ups of skeletons
    """
    check_one_of("unit", unit, UNITS)
    if source is not None:
        check_one_of("source", source, ("skeleton", "sketch"))
    chosen = Selection.of(where, since, until)
    if module is None:
        counted = _count_glances(memory, by, chosen)
    elif module not in memory.modules.names and module in memory.concepts:
        counted = _count_concept(memory, module, by, unit, chosen, source)
    else:
        memory.modules.id_of(module)
        counted = _count_module(memory, module, by, unit, chosen, source)
    return _answer(counted, module, by, unit, chosen)


def _count_module(
    memory: Memory, module: str, by: str | None, unit: str, chosen: Selection, source: str | None
) -> Counted:
    if source == "sketch":
        return _estimate(memory, module, by, unit, chosen)
    found = _from_rollups(memory, module, by, unit, chosen)
    if found is None:
        found = _from_skeletons(memory, module, by, unit, chosen)
    counted, unknown = found
    if not unknown:
        return counted
    if source == "skeleton" or unit == "weight":
        raise ValueError(
            f"{plural(unknown, 'glance')} of {int(counted.glances.sum()):,} were kept without "
            "skeletons, so that nothing exact is known of them; ask source='sketch' (objects or "
            "glances)"
        )
    return _estimate(memory, module, by, unit, chosen)


# -- exact ----------------------------------------------------------------------------------


def _count_glances(memory: Memory, by: str | None, chosen: Selection) -> Counted:
    if by is None or by in CALENDAR:
        rollups = _hourly(memory, by, chosen)
        if rollups is not None:
            windows = _by_time(rollups.start, by, memory.timezone)
            left = left_notes(memory, chosen, counted=True)
            return _exact(windows, windows.total(rollups.n), None, "exact, from roll-ups", *left)
    _, windows = _glances(memory, by, chosen)
    left = left_notes(memory, chosen, counted=False)
    return _exact(windows, _sizes(windows), None, "exact", *left)


def _from_rollups(
    memory: Memory, module: str, by: str | None, unit: str, chosen: Selection
) -> tuple[Counted, int] | None:
    """Count in the hourly roll-ups, or return None if the question cuts hours."""
    rollups = _hourly(memory, by, chosen)
    if rollups is None:
        return None
    windows = _by_time(rollups.start, by, memory.timezone)
    values = windows.total(rollups.count(module, unit))
    notes = ["exact, from roll-ups of skeletons", *left_notes(memory, chosen, counted=True)]
    unknown = int((rollups.n - rollups.known).sum())
    return _exact(windows, windows.total(rollups.n), values, *notes), unknown


def _from_skeletons(
    memory: Memory, module: str, by: str | None, unit: str, chosen: Selection
) -> tuple[Counted, int]:
    counts = memory.skeleton_counts(**chosen.arguments)
    if by is None or by in CALENDAR:
        windows = _by_time(counts.time, by, memory.timezone)
    else:
        ids, windows = _glances(memory, by, chosen)
        windows = _reorder(windows, ids, counts.ids)
    values = windows.total(counts.count(module, unit))
    unknown = int((~counts.known).sum())
    notes = ["exact, from skeletons", *left_notes(memory, chosen, counted=False)]
    return _exact(windows, _sizes(windows), values, *notes), unknown


def _exact(windows: Windows, glances: IntArray, values: FloatArray | None, *notes: str) -> Counted:
    numbers = (glances if values is None else values).astype(np.float64)
    return Counted(windows, glances, numbers, numbers, numbers, notes)


# -- from sketches alone --------------------------------------------------------------------


def _estimate(
    memory: Memory, module: str, by: str | None, unit: str, chosen: Selection
) -> Counted:
    if unit == "weight":
        raise ValueError(
            "a sketch counts one per object whatever its weight; ask unit='objects' or 'glances', "
            "or source='skeleton' for weights"
        )
    decoder = Decoder.of(memory)
    if decoder.prior is not None and module not in decoder.prior.modules:
        return _refused(memory, module, by, unit, chosen)
    if unit == "glances":
        return _estimate_presence(memory, module, by, chosen, decoder)
    return _estimate_objects(memory, module, by, chosen, decoder)


def _refused(memory: Memory, module: str, by: str | None, unit: str, chosen: Selection) -> Counted:
    """Say nothing of a module that the prior has never met: it joined later."""
    _, windows = _glances(memory, by, chosen)
    glances = _sizes(windows)
    most = glances.astype(np.float64) if unit == "glances" else np.full(len(glances), np.inf)
    note = (
        f"the memory's prior has never met {module!r}, which joined later: nothing can be told of "
        "it; fit_prior() anew, or ask source='skeleton'"
    )
    return Counted(
        windows, glances, np.full(len(glances), np.nan), np.zeros(len(glances)), most, [note]
    )


def _estimate_objects(
    memory: Memory, module: str, by: str | None, chosen: Selection, decoder: Decoder
) -> Counted:
    """Decode the exact sum of each window's sketches."""
    windows, parts, left = _window_sums(memory, by, chosen)
    estimate, variance = np.zeros(len(windows)), np.zeros(len(windows))
    glances = np.zeros(len(windows), dtype=np.int64)
    notes, loads = ["estimated from sums of sketches", decoder.note], []
    for sums in parts:
        glances += sums.glances
        unknown = (sums.glances > 0) & (sums.known == 0)
        estimate[unknown], variance[unknown] = np.nan, np.inf
        for rows, recollection in sums.decode(decoder):
            names, estimates, stds = recollection.count_estimates()
            place = list(names).index(module)
            estimate[rows] += np.maximum(estimates[:, place], 0.0)  # NaN stays: nothing is known
            variance[rows] += np.square(stds[:, place])
            loads.append(recollection.load)
            notes += [n for n in recollection.notes if n not in notes]
    std = np.sqrt(variance)
    notes += [load_note(loads)] if loads else []
    low, high = interval(estimate, std, floor=0.0)
    # A count is a whole number: the nearest one always belongs to the interval.
    nearest = np.rint(estimate)
    return Counted(
        windows,
        glances,
        estimate,
        np.fmin(low, nearest),
        np.fmax(high, nearest),
        [*notes, *left],
    )


def _window_sums(
    memory: Memory, by: str | None, chosen: Selection
) -> tuple[Windows, list[Sums], list[str]]:
    """Return the windows, the exact sums of their sketches, and what was forgotten."""
    rollups = _hourly(memory, by, chosen)
    if rollups is not None:
        windows = _by_time(rollups.start, by, memory.timezone)
        notes = left_notes(memory, chosen, counted=True)
        return windows, sums_over_hours(memory, rollups, windows.index, len(windows)), notes
    ids, windows = _glances(memory, by, chosen)
    sums, left_out = sums_over(memory, ids, windows.index, len(windows))
    notes = left_notes(memory, chosen, counted=False)
    dim = memory.recipe.dim
    least = min((int(part.known.min(initial=dim)) for part in sums), default=dim)
    if least < dim:
        notes.append(f"glances have faded: sums are read up to {least} of {dim} numbers")
    if left_out:
        notes.append(f"{plural(left_out, 'glance')} keep no sketch: left out")
    return windows, sums, notes


def _estimate_presence(
    memory: Memory, module: str, by: str | None, chosen: Selection, decoder: Decoder
) -> Counted:
    """Add up, glance by glance, how likely there was at least one object."""
    ids, windows = _glances(memory, by, chosen)
    seen = numbers_seen(decoder, module)
    chance, loads, said = np.zeros(len(ids)), [0.0], left_notes(memory, chosen, counted=False)
    wrong = 0.0
    for keep, part in by_length(memory, ids):
        if keep == 0:
            chance[part] = at_least_one(np.full(len(part), np.nan), np.inf, seen)
            said.append(f"{plural(len(part), 'glance')} keep no sketch: as likely as usual")
            continue
        recollection = decoder.decode(memory.sketches(ids=ids[part].tolist()))
        names, estimates, stds = recollection.count_estimates()
        place = list(names).index(module)
        chance[part] = at_least_one(estimates[:, place], stds[:, place], seen)
        wrong = max(wrong, misread_of(decoder, module, keep))
        loads.append(float(np.max(recollection.load)))
        said += [n for n in recollection.notes if n not in said]
    estimate, low, high = told_by_windows(chance, usual_chance(seen), wrong, windows)
    notes = ["estimated glance by glance: the sum of the chances of at least one", decoder.note]
    return Counted(
        windows,
        _sizes(windows),
        estimate,
        low,
        high,
        [*notes, load_note(loads), *said],
    )


# -- named concepts ---------------------------------------------------------------------------


def _count_concept(
    memory: Memory, name: str, by: str | None, unit: str, chosen: Selection, source: str | None
) -> Counted:
    """Add up, glance by glance, how likely a named concept is there."""
    if unit == "weight" or source == "skeleton":
        raise ValueError(
            f"{name!r} is a named concept, read from sketches: it has no weights and stands in no "
            "skeleton; ask unit='glances' and leave source out"
        )
    ids, windows = _glances(memory, by, chosen)
    chance, notes = probabilities(memory, memory.concepts[name], ids)
    low, high = quantiles(chance, windows)
    notes += left_notes(memory, chosen, counted=False)
    return Counted(windows, _sizes(windows), windows.total(chance), low, high, notes)


# -- windows --------------------------------------------------------------------------------


def _hourly(memory: Memory, by: str | None, chosen: Selection) -> Any:
    """Return the hourly roll-ups if they can answer the question, else None."""
    if not chosen.is_hours or not (by is None or by in CALENDAR):
        return None
    rollups = memory.rollups(since=chosen.since, until=chosen.until)
    return rollups if by is None or fits_hours(rollups.start, memory.timezone) else None


def _by_time(times: IntArray, by: str | None, timezone: str) -> Windows:
    if by is None:
        return Windows(["all"], np.zeros(len(times), dtype=np.int64))
    return by_time(times, by, timezone)


def _glances(memory: Memory, by: str | None, chosen: Selection) -> tuple[IntArray, Windows]:
    """Return the ids of the chosen glances in order of time, and their windows.

    Raises:
        ValueError: if ``by`` is neither a window of the calendar nor a column.
    """
    table = memory.glances(**chosen.arguments)
    ids = table["id"].to_numpy().astype(np.int64)
    if by is None or by in CALENDAR:
        return ids, _by_time(microseconds_of(table["time"]), by, memory.timezone)
    columns = [c for c in table.column_names if c not in ("id", "time", "skeleton")]
    check_one_of("by", by, [*CALENDAR, *columns])
    return ids, by_label(table[by].to_pylist())


def _reorder(windows: Windows, ids: IntArray, wanted: IntArray) -> Windows:
    """Bring the windows of ``ids`` into the order of ``wanted``, the same ids."""
    order = np.argsort(ids)
    return Windows(
        windows.labels, windows.index[order[np.searchsorted(ids, wanted, sorter=order)]]
    )


def _sizes(windows: Windows) -> IntArray:
    return np.bincount(windows.index, minlength=len(windows)).astype(np.int64)


# -- the table ------------------------------------------------------------------------------


def _answer(
    counted: Counted, module: str | None, by: str | None, unit: str, chosen: Selection
) -> Answer:
    total = (
        counted.glances
        if module is not None
        else np.full_like(counted.glances, counted.glances.sum())
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, counted.estimate / total, np.nan)
    columns: dict[str, Any] = {}
    if by is not None:
        columns[by] = counted.windows.labels
    columns |= {"estimate": counted.estimate, "low": counted.low, "high": counted.high}
    if module is not None:
        columns["glances"] = counted.glances
    columns["share"] = share
    what = {"objects": "objects of", "glances": "glances with", "weight": "weight of"}[unit]
    asked = "glances" if module is None else f"{what} {module!r}"
    title = asked + (f" by {by}" if by else "") + chosen.words
    return Answer(columns, title=title, notes=counted.notes)
