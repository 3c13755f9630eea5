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

__all__ = ["drift"]

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


def _distances(
    v: FloatArray, n: FloatArray, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> FloatArray:
    """Return T for rows of unit counts a, b (k, u)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = a @ v / (a @ n)[:, None] - b @ v / (b @ n)[:, None]
    squared: FloatArray = np.nan_to_num(np.square(apart).sum(1), nan=np.inf)
    return squared
