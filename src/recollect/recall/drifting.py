"""Drift: do two windows differ, by how much, and could that be chance?

Every unit (a glance, an hour, a day) is a vector v and a weight n: the sum of features of its
objects and their number. Two windows are as far apart as their mean features,

    T = | m_a - m_b |^2,   m = sum v / sum n,

the squared maximum mean discrepancy of these features. Chance alone gives T the mean
V = V_a + V_b, the variances of both means, estimated from how the k units of a window differ,

    V_a = max( k / (k - 1)  sum |v - n m|^2 / (sum n)^2,   s^2 / sum n ),

s^2 the variance per object over both windows: few units tell little of their own. Under no change
the units could have stood in either window, so T / V is compared with its values for units dealt
out anew: the p-value is exact then. Divided by V it also holds where the windows differ in the
number of their objects alone, which is no change of what these look like: T by itself would take
a window with few objects for a changed one.

References: "A kernel two-sample test" (Gretton, Borgwardt, Rasch, Schoelkopf and Smola, 2012);
permutation tests of what is divided by its deviation: Janssen (1997), Chung and Romano (2013).

Shape letters: u units, D features, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.recall.reading import Selection
from recollect.recall.units import Units, units_of

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["FEWEST", "UNITS", "compare", "drift"]

FloatArray = npt.NDArray[np.float64]

UNITS = ("glance", "hour", "day")
SOURCES = ("sketch", "channel")
# Units in each window without which no p-value could be small.
FEWEST = 4
BOOTSTRAPS = 200


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
        >>> t = Trace.from_objects([[Object("cat", [x])] for x in [1.0, 1.1] * 8 + [3.0] * 16])
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
        units, said = units_of(memory, name, windows, unit, source)
        _check_enough(units, name, unit)
        found = compare(units, permutations, seed)
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


def compare(units: Units, permutations: int, seed: int) -> dict[str, float]:
    """Compare the units of two windows.

    Args:
        units: of both windows.
        permutations: how often they are dealt out anew.
        seed: of the permutations.

    Returns:
        ``estimate`` of the distance, ``low``, ``high`` and ``p_value``.

    Example:
        >>> import numpy as np
        >>> values, first = np.r_[np.ones(8), np.zeros(8)][:, None], np.arange(16) < 8
        >>> compare(Units(values, np.ones(16), first), 99, seed=0)["p_value"]
        0.01
    """
    generator = np.random.Generator(np.random.PCG64(seed_of(seed, "permutations")))
    first = units.first
    apart, chance = _distances(units, first[None].astype(np.float64), (~first)[None] * 1.0)
    observed, off = float(apart[0]), float(chance[0])
    least = float(np.finfo(np.float64).tiny)
    above = 0
    for some in _pieces(permutations, len(first)):
        sides = np.stack([generator.permutation(first) for _ in range(some)]).astype(np.float64)
        dealt, variance = _distances(units, sides, 1.0 - sides)
        ratio = dealt / np.maximum(variance, least)
        above += int((ratio >= observed / max(off, least) * (1 - 1e-9)).sum())
    again = []
    for some in _pieces(BOOTSTRAPS, len(first)):
        drawn = [_draws(side, some, generator) for side in (first, ~first)]
        again.append(_distances(units, drawn[0], drawn[1])[0])
    # Drawing again adds the same chance once more.
    told = np.concatenate(again)
    spread = told[np.isfinite(told)] - 2 * off
    low, high = np.sqrt(np.maximum(np.quantile(spread, [0.05, 0.95]), 0.0)).tolist()
    estimate = math.sqrt(max(observed - off, 0.0))
    return {
        "estimate": estimate,
        "low": min(low, estimate),
        "high": max(high, estimate),
        "p_value": (1 + above) / (1 + permutations),
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


def _distances(
    units: Units, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> tuple[FloatArray, FloatArray]:
    """Return T and V, (k,) each, for rows of how often each unit stands in the windows, (k, u)."""
    v, n = units.values, units.weight
    # Rounding must not make a variance of what is constant.
    floor = 1e-12 * float(np.square(v).sum()) / max(float(n.sum()), 1.0) ** 2
    size, square, mixed = np.square(v).sum(1), np.square(n), v * n[:, None]
    means, rests, totals, helds = [], [], [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in (a, b):
            total = side @ n
            mean = side @ v / total[:, None]
            rest = side @ size - 2 * ((side @ mixed) * mean).sum(1)
            rest += side @ square * np.square(mean).sum(1)
            means.append(mean)
            rests.append(np.maximum(rest, 0.0))
            totals.append(total)
            helds.append(side @ (n > 0))
        held = helds[0] + helds[1]
        each = held / np.maximum(held - 2, 1) * (rests[0] + rests[1]) / (totals[0] + totals[1])
        variance = np.full(len(a), floor)
        for rest, total, k in zip(rests, totals, helds, strict=True):
            own = np.nan_to_num(k / (k - 1) * rest / np.square(total), posinf=0.0)
            variance += np.nan_to_num(np.maximum(own, each / total), posinf=0.0)
        apart: FloatArray = np.square(means[0] - means[1]).sum(1)
    return np.nan_to_num(apart, nan=np.inf), variance
