"""What was new in a window: modules that came, went, or began to look otherwise.

Every module is asked two things of the window and of all that came before it: is its rate (objects
a glance) another one, and are its attributes distributed otherwise? Both are permutation tests of
``recollect.recall.drifting``: a rate is the mean of a single feature, the number of objects.
The p-values are corrected for the number of tests (Holm), so that in a memory in which nothing
has changed anything at all is reported with the probability ``level`` at most.

References: "A simple sequentially rejective multiple test procedure" (Holm, 1979); the witness
function that picks the glances: "A kernel two-sample test" (Gretton et al., 2012), section 2.3.

Shape letters: u units, P modules, n glances, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Z90, Answer
from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect.recall.drifting import FEWEST, UNITS, compare
from recollect.recall.faded import left_notes
from recollect.recall.reading import Selection, plural
from recollect.recall.units import Units, glances_as_units, units_of_each
from recollect.recall.windows import by_time, fits_hours

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["what_was_new"]

FloatArray = npt.NDArray[np.float64]

# The first look at every test; the few that may hold are asked again with more permutations.
FIRST, MOST = 499, 100_000
# Ways of dealing out units that a test needs for each p-value that it might have to reach.
ENOUGH = 20


@dataclass(frozen=True, eq=False)
class Change:
    """One test: a module, what was compared, and what came out.

    Attributes:
        module: its name; None for all of the glances.
        units: what was compared.
        rate: whether the number of objects was compared, else their attributes.
        found: estimate, low, high and p_value of ``drifting.compare``.
    """

    module: str | None
    units: Units
    rate: bool
    found: dict[str, float]

    @property
    def rates(self) -> tuple[float, float]:
        """Objects a glance, before and in the window."""
        sides = (self.units.first, ~self.units.first)
        before, now = (
            float(self.units.values[s, 0].sum() / self.units.weight[s].sum()) for s in sides
        )
        return before, now

    @property
    def half_width(self) -> float:
        """Of the 90 % interval of the difference of the rates: Welch's, units being the draws."""
        variances, degrees = [], 0.0
        for side in (self.units.first, ~self.units.first):
            v, n = self.units.values[side, 0], self.units.weight[side]
            k = len(n)
            rest = float(np.square(v - n * (v.sum() / n.sum())).sum() / n.sum() ** 2)
            variances.append(rest * k / (k - 1))
            degrees += variances[-1] ** 2 / (k - 1)
        variance = sum(variances)
        # Student's quantile to first order in one over its degrees of freedom.
        wider = 1 + (Z90**2 + 1) / 4 * (degrees / variance**2) if variance else 1.0
        return Z90 * wider * math.sqrt(variance)

    @property
    def what(self) -> str:
        """What has changed, in words."""
        if not self.rate:
            return "glances are otherwise" if self.module is None else "looks otherwise"
        before, now = self.rates
        if before == 0:
            return "first seen"
        if now == 0:
            return "no longer seen"
        return "more often" if now > before else "less often"


def what_was_new(
    memory: Memory,
    since: Any,
    until: Any = None,
    *,
    before: Any = None,
    where: str | None = None,
    modules: Sequence[str] | None = None,
    unit: str | None = None,
    looks: bool = True,
    level: float = 0.05,
    show: int = 3,
    everything: bool = False,
    seed: int = 0,
) -> Answer:
    """List what a window holds that what came before it did not, and the glances that show it.

    Args:
        memory: a Memory.
        since: first moment of the window (with zone).
        until: first moment after it; None for open.
        before: first moment of what it is compared with; None for all that came before.
        where: SQL expression over time, source and labels, for both.
        modules: which to ask; None for all of them, and for the glances as wholes.
        unit: what is dealt out anew: ``"glance"``, ``"hour"`` or ``"day"``. Glances that depend on
            the ones before them need longer units. None takes the longest unit that leaves
            enough of them to tell anything.
        looks: whether attributes are compared as well: from the distribution channel, or
            decoded.
        level: below which corrected p-values are listed.
        show: how many glances to name for each change.
        everything: list every test, whatever came out.
        seed: of the permutations.

    Returns:
        An Answer, a row for each change, the surest first: ``module``, ``what`` (first seen, no
        longer seen, more often, less often, looks otherwise), ``before`` and ``now`` (objects a
        glance), ``estimate``, ``low``, ``high`` (of the difference of these; where it looks
        otherwise, of the distance of the distributions, as in ``recall.drift``),
        ``p_value`` (corrected) and ``glances`` (ids). "First seen" is listed always: it
        is a fact and no test.

    Raises:
        NotRemembered: if a module was never seen, or one of the windows is empty.
        TypeError: if ``modules`` is one word.
        ValueError: if there are too few units, a level or word is unknown, or skeletons were not
            kept.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> cats = [[Object("cat", [1.0 + 0.1 * (i % 3)])] for i in range(12)]
        >>> t = Trace.from_objects([*cats, *[[*c, Object("dog", [2.0])] for c in cats]])
        >>> times = [f"2026-01-{1 + i // 12:02d}T{i % 12:02d}:00Z" for i in range(24)]
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     ids = memory.add(t, time=times).ids
        ...     found = recall.what_was_new(memory, "2026-01-02T00:00Z", unit="glance")
        >>> found["module"], found["what"], found["now"]
        (['dog', 'all'], ['first seen', 'glances are otherwise'], [1.0, nan])
    """
    check_integer("show", show, minimum=0)
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, such as 0.05, got {level!r}")
    if unit is not None:
        check_one_of("unit", unit, UNITS)
    window = Selection.of(where, since, until)
    history = Selection.of(where, before, since)
    names = _names(memory, modules)
    tests = len(names) * (1 + looks) + (modules is None)
    windows = (history, window)
    counted = _counted(memory, windows, names, unit)
    if unit is None:
        unit = _unit(counted, tests, memory.timezone)
        if unit == "glance":
            counted = _counted(memory, windows, names, unit)
    _check_enough(counted, unit, memory.timezone)
    changes = _rates(memory, counted, names, unit, seed)
    number = [int(c.glances.sum()) for c in counted]
    notes = [f"{plural(number[1], 'glance')} compared with {number[0]:,} before"]
    span = Selection.of(where, before, until)
    notes += left_notes(memory, span, counted=counted[0].hourly)
    if looks or modules is None:
        asked: list[str | None] = [*([None] if modules is None else []), *(names if looks else [])]
        more, said = _looks(memory, asked, windows, unit, seed)
        changes, notes = changes + more, notes + said
    changes = _sharpened(changes, level, seed)
    corrected = _holm([c.found["p_value"] for c in changes])
    notes.append(
        f"{plural(len(changes), 'test')}, p-values corrected for their number (Holm), from "
        f"{unit}s dealt out anew"
    )
    rows = [
        _row(memory, change, p, window, history, show)
        for change, p in zip(changes, corrected, strict=True)
        if everything or p <= level or change.what == "first seen"
    ]
    rows.sort(key=lambda r: (r["what"] != "first seen", r["p_value"], -abs(r["estimate"])))
    return Answer(
        {key: [r[key] for r in rows] for key in _COLUMNS},
        title="what was new" + window.words,
        notes=notes,
    )


_COLUMNS = ("module", "what", "before", "now", "estimate", "low", "high", "p_value", "glances")


def _names(memory: Memory, modules: Sequence[str] | None) -> list[str]:
    """Return the modules that are asked, each once.

    Raises:
        NotRemembered: if one was never seen.
        TypeError: if ``modules`` is one word.
    """
    if isinstance(modules, str):
        raise TypeError(f"modules is a list of names, got {modules!r}; write [{modules!r}]")
    names = list(memory.modules.names if modules is None else dict.fromkeys(modules))
    for name in names:
        memory.modules.id_of(name)
    return names


# -- units ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted in one window, glance by glance or hour by hour.

    Attributes:
        times: (n,) microseconds UTC, of glances or of the starts of hours.
        glances: (n,) in each.
        objects: (n, P) of each module.
        hourly: whether these are hours, from roll-ups: then glances that are left in roll-ups only
            are among them.
    """

    times: npt.NDArray[np.int64]
    glances: npt.NDArray[np.int64]
    objects: FloatArray
    hourly: bool


def _counted(
    memory: Memory, windows: tuple[Selection, Selection], names: Sequence[str], unit: str | None
) -> list[Counted]:
    """Count both windows: in roll-ups where these answer, else in skeletons.

    Raises:
        NotRemembered: if a window is empty.
        ValueError: if skeletons were not kept.
    """
    found = None
    if unit != "glance" and all(w.is_hours for w in windows):
        found = _in_hours(memory, windows, names)
    if found is None:
        found = [_in_glances(memory, w, names) for w in windows]
    for words, w, one in zip(("before the window", "in the window"), windows, found, strict=True):
        if len(one.times) == 0:
            raise NotRemembered(f"no glance is {words}{w.words}; widen it, or the filter")
    return found


def _in_hours(
    memory: Memory, windows: tuple[Selection, Selection], names: Sequence[str]
) -> list[Counted] | None:
    """Count in roll-ups; None if a local day cuts their hours, or skeletons are missing."""
    parts = [memory.rollups(since=w.since, until=w.until) for w in windows]
    if not all(fits_hours(p.start, memory.timezone) and (p.known == p.n).all() for p in parts):
        return None
    places = [memory.modules.id_of(n) for n in names]
    return [Counted(p.start, p.n, p.counts()[:, places], True) for p in parts]


def _in_glances(memory: Memory, window: Selection, names: Sequence[str]) -> Counted:
    """Count in the skeletons of single glances."""
    found = memory.skeleton_counts(**window.arguments)
    unknown = int((~found.known).sum())
    if unknown:
        raise ValueError(
            f"{plural(unknown, 'glance')}{window.words} were kept without skeletons, so that the "
            "number of objects is not known; recall.drift(memory, ...) compares whole sketches"
        )
    objects = [found.count(n) for n in names]
    table = np.stack(objects, 1) if objects else np.zeros((len(found), 0))
    return Counted(found.time, np.ones(len(found), np.int64), table, False)


def _number(counted: Counted, unit: str, timezone: str) -> int:
    if unit == "glance":
        return int(counted.glances.sum())
    return len(by_time(counted.times, unit, timezone))


def _unit(counted: Sequence[Counted], tests: int, timezone: str) -> str:
    """Choose the longest unit with which the surest of all tests could still be told."""
    for unit in ("day", "hour"):
        a, b = (_number(c, unit, timezone) for c in counted)
        if min(a, b) >= FEWEST and math.comb(a + b, a) >= ENOUGH * ENOUGH * tests:
            return unit
    return "glance"


def _check_enough(counted: Sequence[Counted], unit: str, timezone: str) -> None:
    """Refuse windows in which nothing could be told.

    Raises:
        ValueError: if there are too few units.
    """
    a, b = (_number(c, unit, timezone) for c in counted)
    if min(a, b) < FEWEST:
        raise ValueError(
            f"a p-value needs at least {FEWEST} {unit}s before the window and in it, there are "
            f"{a} and {b}; take a longer window or a shorter unit"
        )


# -- tests ----------------------------------------------------------------------------------


def _rates(
    memory: Memory, counted: Sequence[Counted], names: Sequence[str], unit: str, seed: int
) -> list[Change]:
    """Compare how many objects of each module a glance has."""
    totals, weights = [], []
    for c in counted:
        objects, glances = c.objects, c.glances.astype(np.float64)
        if unit != "glance":
            span = by_time(c.times, unit, memory.timezone)
            objects, glances = span.total(objects), span.total(glances)
        totals.append(objects)
        weights.append(glances)
    first = np.repeat([True, False], [len(w) for w in weights])
    total, weight = np.concatenate(totals), np.concatenate(weights)
    out = []
    for place, name in enumerate(names):
        units = Units(total[:, [place]], weight, first)
        out.append(Change(name, units, True, compare(units, FIRST, seed)))
    return out


def _looks(
    memory: Memory,
    names: Sequence[str | None],
    windows: tuple[Selection, Selection],
    unit: str,
    seed: int,
) -> tuple[list[Change], list[str]]:
    """Compare the attributes of each module (of None: whole sketches)."""
    out, notes, silent = [], [], []
    for name, found in units_of_each(memory, names, windows, unit):
        if isinstance(found, ValueError):
            silent.append(str(found))
            continue
        units, said = found
        held = [int((units.weight[s] > 0).sum()) for s in (units.first, ~units.first)]
        if min(held) < FEWEST:
            continue
        notes += [s for s in said if s not in notes]
        out.append(Change(name, units, False, compare(units, FIRST, seed)))
    if silent:
        notes.append(f"attributes of {plural(len(silent), 'module')} not compared: {silent[0]}")
    return out, notes


def _sharpened(changes: list[Change], level: float, seed: int) -> list[Change]:
    """Ask tests that may hold again, with as many permutations as their correction needs."""
    needed = min(MOST, math.ceil(ENOUGH * len(changes) / level))
    if needed <= FIRST:
        return changes
    likely = 5 / (1 + FIRST)
    return [
        replace(c, found=c.found | {"p_value": compare(c.units, needed, seed + 1)["p_value"]})
        if c.found["p_value"] <= likely
        else c
        for c in changes
    ]


def _holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number.

    >>> [round(p, 3) for p in _holm([0.01, 0.2, 0.02])]
    [0.03, 0.2, 0.04]
    """
    out, above = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        above = max(above, min(1.0, (len(p_values) - rank) * p_values[place]))
        out[place] = above
    return out


# -- what to show ---------------------------------------------------------------------------


def _row(
    memory: Memory, change: Change, p: float, window: Selection, history: Selection, show: int
) -> dict[str, Any]:
    """Write one change as a row, with the glances that show it."""
    before, now = change.rates if change.rate else (math.nan, math.nan)
    if change.rate:
        apart, half = now - before, change.half_width
        ends = apart, apart - half, apart + half
    else:
        ends = change.found["estimate"], change.found["low"], change.found["high"]
    fewer = change.rate and now < before
    glances = _most(memory, change, history if fewer else window, show) if show else []
    return {
        "module": change.module or "all",
        "what": change.what,
        "before": before,
        "now": now,
        "estimate": ends[0],
        "low": ends[1],
        "high": ends[2],
        "p_value": p,
        "glances": glances,
    }


def _most(memory: Memory, change: Change, where: Selection, show: int) -> list[int]:
    """Return the glances that show a change most: the most objects, or the highest witness."""
    if change.rate:
        assert change.module is not None, "rates are those of modules"
        found = memory.skeleton_counts(**where.arguments)
        score, ids = found.count(change.module), found.ids
        ids, score = ids[score > 0], score[score > 0]
    else:
        units = change.units
        apart = [
            units.values[s].sum(0) / units.weight[s].sum() for s in (~units.first, units.first)
        ]
        ids, values, weight = glances_as_units(memory, change.module, where, units)
        # Single glances are told by the features that they have in common with the units.
        score = values @ (apart[0] - apart[1])[: values.shape[1]] / weight
    # Of equals the latest.
    return [int(i) for i in ids[::-1][np.argsort(-score[::-1], kind="stable")][:show]]
