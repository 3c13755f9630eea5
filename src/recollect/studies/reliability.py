"""How results over seeds are told: the middle, its interval, and how steady it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrapped", "middle_mean", "over_seeds", "steadiest"]

FloatArray = npt.NDArray[np.float64]


def middle_mean(values: npt.ArrayLike) -> float:
    """Return the mean of the middle half (the inter-quartile mean).

    >>> middle_mean([0.0, 1.0, 2.0, 99.0])
    1.5
    """
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrapped(values: Sequence[float] | FloatArray, draws: int = 1000) -> tuple[float, float]:
    """Return the ends of the 90 % bootstrap interval of the inter-quartile mean over seeds."""
    rng, found = np.random.default_rng(0), np.asarray(values, np.float64)
    means = [middle_mean(rng.choice(found, len(found))) for _ in range(draws)]
    low, high = np.quantile(means, [0.05, 0.95])
    return float(low), float(high)


def over_seeds(solved: npt.ArrayLike, earned: npt.ArrayLike) -> dict[str, Any]:
    """Return the columns of one method: share solved, and what was earned, over its seeds.

    Args:
        solved: (S,) share solved by each seed, in [0, 1].
        earned: (S,) return of each seed.
    """
    share, found = np.asarray(solved, np.float64), np.asarray(earned, np.float64)
    low, high = bootstrapped(found)
    return {
        "solved": float(share.mean()),
        "deviation": float(share.std(ddof=1) / len(share) ** 0.5),
        "estimate": middle_mean(found),
        "low": low,
        "high": high,
        "median": float(np.median(found)),
        "quartile range": float(np.subtract(*np.quantile(found, [0.75, 0.25]))),
        "lower decile": float(np.quantile(found, 0.1)),
        "seeds": len(found),
    }


def steadiest(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float, int]]:
    """Return by method in how many tasks it is the steadiest, and how many tasks there are.

    Args:
        rows: of ``over_seeds`` with ``task`` and ``method``. A task counts if all methods stand
            in it; k methods that are level in it share it, 1 / k each.

    Returns:
        Of each method: tasks with the smallest quartile range, tasks with the highest lower
        decile (a method that always fails is steady too, but low), tasks in all.

    Example:
        >>> a, b = over_seeds([0, 0], [1.0, 9.0]), over_seeds([0, 0], [2.0, 2.0])
        >>> steadiest([{"task": "t", "method": "a", **a}, {"task": "t", "method": "b", **b}])
        {'a': (0.0, 0.0, 1), 'b': (1.0, 1.0, 1)}
    """
    tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], {})[row["method"]] = row
    methods = list(dict.fromkeys(m for found in tasks.values() for m in found))
    whole = [found for found in tasks.values() if len(found) == len(methods)]
    counts = {m: [0.0, 0.0] for m in methods}
    for found in whole:
        for place, (column, sign) in enumerate((("quartile range", -1), ("lower decile", 1))):
            best = max(sign * r[column] for r in found.values())
            level = [m for m, r in found.items() if sign * r[column] >= best - 1e-12]
            for m in level:
                counts[m][place] += 1 / len(level)
    return {m: (narrow, high, len(whole)) for m, (narrow, high) in counts.items()}
