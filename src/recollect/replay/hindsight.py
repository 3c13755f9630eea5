"""Hindsight: what was reached stands in for the goal that was missed.

Where reward comes only at a goal, an episode that misses it teaches nothing about that goal, but
much about the places it did reach.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of

__all__ = ["hindsight"]

IntArray = npt.NDArray[np.int64]
STRATEGIES = ("walks", "future", "final")


def hindsight(
    length: int, num_goals: int = 4, strategy: str = "walks", *, generator: np.random.Generator
) -> tuple[IntArray, IntArray]:
    r"""Choose what an episode of n steps is to be told again with, under other goals.

    Transition ``rows[i]`` is stored once more, with what was achieved after step ``ends[i]`` as
    its goal; its reward and its end follow from whether it reached that.

    Args:
        length: n, steps of the episode.
        num_goals: k, new goals.
        strategy: ``"future"``, the published one: every transition k times, each with something
            achieved later, chosen on its own; ``"walks"``: k times an end is chosen, and all steps
            up to it are told again with what was achieved there, so that order in time still
            leads to the reward (what reverse and introspective replay need); ``"final"``: one
            walk, to the end of the episode.
        generator: of the choices.

    Returns:
        rows (m,) and ends (m,), with rows <= ends < n: m = n k for ``"future"``, n for
        ``"final"``, and n k / 2 or so for ``"walks"``. Walks stand one after the other.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if a number is below 1 or the strategy unknown.

    Reference:
        Hindsight Experience Replay (Andrychowicz et al., 2017).

    Example:
        >>> rows, ends = hindsight(3, 1, "final", generator=np.random.default_rng(0))
        >>> rows.tolist(), ends.tolist()
        ([0, 1, 2], [2, 2, 2])
    """
    n = check_integer("length", length, minimum=1)
    k = check_integer("num_goals", num_goals, minimum=1)
    check_one_of("strategy", strategy, STRATEGIES)
    every = np.arange(n)
    if strategy == "final":
        return every, np.full(n, n - 1)
    if strategy == "future":
        rows = np.repeat(every, k)
        return rows, generator.integers(rows, n)
    stops = generator.integers(0, n, k)
    rows = np.concatenate([every[: stop + 1] for stop in stops])
    return rows, np.repeat(stops, stops + 1)
