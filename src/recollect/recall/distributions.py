"""How a module's attributes are distributed: quantiles, histograms, shares, covariances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from recollect._answers import Z90, Answer, interval
from recollect._checks import check_integer, check_one_of
from recollect.recall.channelled import population_of
from recollect.recall.populations import SOURCES, Decoded, Feature, Population, feature_of
from recollect.recall.reading import Selection

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["covariance", "fraction_above", "histogram", "quantiles"]

FloatArray = npt.NDArray[np.float64]


class Asked(TypedDict, total=False):
    """What every question about one number of a module's attribute may say.

    Attributes:
        feature: place of the number, its name among ``names``, ``"size"`` (the attribute's norm;
            the usual), a direction to project on, or a function of (n, m) attributes.
        names: what the numbers are called.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.
        source: ``"sketch"`` decodes the glances, ``"channel"`` reads the sum of the distribution
            channel; None chooses (the channel for more than 2,048 glances).
    """

    feature: Any
    names: Sequence[str] | None
    where: str | None
    since: Any
    until: Any
    source: str | None


# Thresholds between which a quantile is looked for.
GRID = 257


def quantiles(
    memory: Memory,
    module: str,
    q: npt.ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95),
    **asked: Unpack[Asked],
) -> Answer:
    """Estimate quantiles of one number of a module's attribute.

    The share F(t) of objects at or below t is estimated for many t, each with its deviation s(t);
    the quantile is where F crosses q, and its interval is where F + 1.645 s and F - 1.645 s do.
    Of decoded glances they are the mean and the deviation of the quantiles of draws from all
    objects' error bars.

    Args:
        memory: a Memory.
        module: name of the module.
        q: ranks between 0 and 1.
        **asked: which number of which objects, and how it is read (see ``Asked``): ``feature``,
            ``names``, ``where``, ``since``, ``until``, ``source``.

    Returns:
        An Answer, one row per rank: ``quantile``, ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: on a rank outside 0 to 1, an unknown feature or source, or where nothing can
            be said (see the notes of ``Sketcher(channel=...)``).

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("cat", [float(x)])] for x in range(21)])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time="2026-01-01T08:00Z", ids=range(21))
        ...     print(recall.quantiles(memory, "cat", [0.25, 0.5]))
        quantiles of number 0 of 'cat'
        quantile  estimate  low  high
            0.25         5    5     5
             0.5        10   10    10
        21 objects in 21 glances
        21 of 21 glances read from records
    """
    ranks = np.asarray(q, dtype=np.float64).reshape(-1)
    if len(ranks) == 0 or not ((ranks >= 0) & (ranks <= 1)).all():
        raise ValueError(f"ranks lie between 0 and 1, got {ranks.tolist()}")
    number, found, chosen = _ask(memory, module, **asked)
    if isinstance(found, Decoded):
        estimate, std = found.quantiles(number.read, ranks)
        low, high = interval(estimate, std)
    else:
        thresholds = _grid(found, number)
        share, std = found.average(lambda x: number.read(x)[:, None] <= thresholds)
        estimate = _cross(thresholds, share, ranks)
        low = _cross(thresholds, share + Z90 * std, ranks)
        high = _cross(thresholds, share - Z90 * std, ranks)
    return Answer(
        {"quantile": ranks, "estimate": estimate, "low": low, "high": high},
        title=f"quantiles of {number.name} of {module!r}{chosen.words}",
        notes=found.notes,
    )


def fraction_above(
    memory: Memory,
    module: str,
    threshold: npt.ArrayLike,
    **asked: Unpack[Asked],
) -> Answer:
    """Estimate the share of a module's objects with a number above a threshold.

    Args:
        memory: a Memory.
        module: name of the module.
        threshold: one or several.
        **asked: as in ``quantiles``.

    Returns:
        An Answer, one row per threshold: ``above``, ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: on a threshold that is no number, or as ``quantiles``.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("cat", [float(x)])] for x in range(20)])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time="2026-01-01T08:00Z", ids=range(20))
        ...     recall.fraction_above(memory, "cat", 14.5)["estimate"]
        [0.25]
    """
    above = np.asarray(threshold, dtype=np.float64).reshape(-1)
    if not np.isfinite(above).all():
        raise ValueError(f"thresholds must be numbers, got {above.tolist()}")
    number, found, chosen = _ask(memory, module, **asked)
    share, std = found.average(lambda x: number.read(x)[:, None] > above)
    return Answer(
        {"above": above, **_shares(share, std)},
        title=f"share of {module!r} by {number.name}{chosen.words}",
        notes=found.notes,
    )


def histogram(
    memory: Memory,
    module: str,
    bins: int | npt.ArrayLike = 10,
    **asked: Unpack[Asked],
) -> Answer:
    """Estimate a histogram of one number of a module's attribute.

    Args:
        memory: a Memory.
        module: name of the module.
        bins: how many, of equal width between the 0.005 and the 0.995 quantile; or their edges.
            What lies outside is in the first and the last row.
        **asked: as in ``quantiles``.

    Returns:
        An Answer, one row per bin: ``above``, ``up_to``, and the share of objects in it as
        ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: if edges do not ascend, or as ``quantiles``.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("cat", [float(x)])] for x in range(20)])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time="2026-01-01T08:00Z", ids=range(20))
        ...     print(recall.histogram(memory, "cat", [4.5, 9.5]))
        histogram of number 0 of 'cat'
        above  up_to  estimate   low  high
         -inf    4.5      0.25  0.25  0.25
          4.5    9.5      0.25  0.25  0.25
          9.5    inf       0.5   0.5   0.5
        20 objects in 20 glances
        20 of 20 glances read from records
    """
    counted = isinstance(bins, int)
    edges = np.zeros(0)
    if counted:
        check_integer("bins", bins, minimum=1)
    else:
        edges = np.asarray(bins, dtype=np.float64).reshape(-1)
        if len(edges) == 0 or not (np.diff(edges) > 0).all() or not np.isfinite(edges).all():
            raise ValueError(f"edges must be ascending numbers, got {edges.tolist()}")
    number, found, chosen = _ask(memory, module, **asked)
    if counted:
        thresholds = _grid(found, number)
        share, _ = found.average(lambda x: number.read(x)[:, None] <= thresholds)
        first, last = _cross(thresholds, share, np.array([0.005, 0.995]))
        edges = np.linspace(first, last, int(bins) + 1)  # type: ignore[arg-type]
        edges = edges[1:-1] if len(edges) > 2 else edges[:0]
    ends = np.concatenate([[-np.inf], edges, [np.inf]])

    def inside(x: FloatArray) -> npt.NDArray[np.bool_]:
        u = number.read(x)[:, None]
        return (u > ends[:-1]) & (u <= ends[1:])

    share, std = found.average(inside)
    return Answer(
        {"above": ends[:-1], "up_to": ends[1:], **_shares(share, std)},
        title=f"histogram of {number.name} of {module!r}{chosen.words}",
        notes=found.notes,
    )


def covariance(
    memory: Memory,
    module: str,
    *,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    names: Sequence[str] | None = None,
    source: str | None = None,
) -> Answer:
    """Estimate variances and covariances of the numbers of a module's attribute.

    They are the means of ``(x_i - a_i)(x_j - a_j)`` with a the estimated means: over draws from
    the error bars of decoded glances (the law of total covariance), or from the channel's sum.

    Args:
        memory: a Memory.
        module: name of the module.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.
        names: what the numbers are called.
        source: as in ``quantiles``.

    Returns:
        An Answer, one row per pair of numbers (a number with itself: its variance): ``first``,
        ``second``, ``estimate``, ``low``, ``high``.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: as ``quantiles``.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("cat", [x, -x])] for x in (1.0, 2.0, 3.0)])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time="2026-01-01T08:00Z", ids=range(3))
        ...     [round(v, 3) for v in recall.covariance(memory, "cat")["estimate"]]
        [0.667, -0.667, 0.667]
    """
    chosen, found = _chosen(memory, module, where, since, until, source)
    size = memory.modules.family_of(memory.modules.id_of(module)).size
    given = list(names or [])
    if len(given) > size:
        raise ValueError(f"{len(given)} names are given for the {size} numbers of {module!r}")
    called: list[Any] = [*given, *range(len(given), size)]
    first, second = np.triu_indices(size)
    mean, _ = found.average(lambda x: x)
    estimate, std = found.average(lambda x: (x - mean)[:, first] * (x - mean)[:, second])
    same = first == second
    low, high = interval(estimate, std)
    columns = {
        "first": [str(called[i]) for i in first.tolist()],
        "second": [str(called[j]) for j in second.tolist()],
        "estimate": np.where(same, np.maximum(estimate, 0), estimate),
        "low": np.where(same, np.maximum(low, 0), low),
        "high": np.where(same, np.maximum(high, 0), high),
    }
    return Answer(columns, title=f"covariance of {module!r}{chosen.words}", notes=found.notes)


def _chosen(
    memory: Memory, module: str, where: str | None, since: Any, until: Any, source: str | None
) -> tuple[Selection, Population]:
    if source is not None:
        check_one_of("source", source, SOURCES)
    memory.modules.id_of(module)
    chosen = Selection.of(where, since, until)
    return chosen, population_of(memory, module, chosen, source)


def _ask(
    memory: Memory, module: str, **asked: Unpack[Asked]
) -> tuple[Feature, Population, Selection]:
    """Check what is asked, then find the objects.

    Raises:
        TypeError: on a word that is none of ``Asked``.
    """
    wrong = sorted(set(asked) - set(Asked.__annotations__))
    if wrong:
        known = ", ".join(Asked.__annotations__)
        raise TypeError(f"unexpected argument {wrong[0]!r}; a distribution is asked with {known}")
    size = memory.modules.family_of(memory.modules.id_of(module)).size
    number = feature_of(asked.get("feature"), size, asked.get("names"))
    window = (asked.get("where"), asked.get("since"), asked.get("until"))
    chosen, found = _chosen(memory, module, *window, asked.get("source"))
    return number, found, chosen


def _grid(found: Population, number: Feature) -> FloatArray:
    """Thresholds (t,) ascending, close together where objects may be."""
    points, weight = found.points()
    values = number.read(points)
    order = np.argsort(values)
    place = np.cumsum(weight[order]) - weight[order] / 2
    ranks = np.linspace(0, 1, GRID)
    grid = np.interp(ranks, place / place[-1], values[order])
    far = np.linspace(values[order[0]], values[order[-1]], GRID // 4)
    return np.unique(np.concatenate([grid, far]))


def _cross(thresholds: FloatArray, share: FloatArray, asked: FloatArray) -> FloatArray:
    """Where a share, made to ascend, crosses the asked ranks; an end where it never does."""
    rising = np.clip(np.maximum.accumulate(share), 0, 1)
    rising = (rising + np.clip(np.minimum.accumulate(share[::-1])[::-1], 0, 1)) / 2
    steps = np.maximum.accumulate(rising) + np.arange(len(rising)) * 1e-12
    return np.asarray(np.interp(asked, steps, thresholds), dtype=np.float64)


def _shares(share: FloatArray, std: FloatArray) -> dict[str, FloatArray]:
    """Estimate, low and high of shares, between nothing and all."""
    low, high = interval(share, std)
    ends = {"estimate": share, "low": low, "high": high}
    return {name: np.clip(value, 0.0, 1.0) for name, value in ends.items()}
