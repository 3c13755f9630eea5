"""What all strategies share: how they are called, and what may not be asked of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recollect._checks import check_integer
from recollect.selection.borders import IntArray, array_of, check_rows, generator_of
from recollect.selection.chosen import Selection

__all__ = ["Chooser", "Pool", "left_of"]


def left_of(k: Any, rows: int, chosen: Any) -> tuple[int, IntArray]:
    """Return k and the rows chosen before, or refuse them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if k is less than 1 or more than what is left.
    """
    before = check_rows(chosen, rows)
    if check_integer("k", k, minimum=1) > rows - len(before):
        raise ValueError(
            f"k = {k} is more than the {rows - len(before)} rows that are left of {rows}"
        )
    return int(k), before


@dataclass(frozen=True, eq=False)
class Pool:
    """What there is to choose from.

    Attributes:
        size: N rows.
        before: rows chosen before.
        probabilities: (N, C) of the model, or None.
        features: (N, d), or None.
        generator: of whatever is left to chance.
    """

    size: int
    before: IntArray
    probabilities: Any
    features: Any
    generator: np.random.Generator

    @property
    def left(self) -> int:
        """Rows that may still be chosen."""
        return self.size - len(self.before)

    def without_chance(self, rows: IntArray) -> Selection:
        """Return a selection whose rows weigh one each and have no inclusion probabilities."""
        return Selection(rows, np.ones(len(rows)), None, None, self.left)


class Chooser(ABC):
    """A strategy: it says what it needs, and chooses."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def select(
        self,
        k: int,
        *,
        probabilities: Any = None,
        second: Any = None,
        labels: Any = None,
        features: Any = None,
        chosen: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Selection:
        """Choose k rows that were not chosen before, the best first.

        All strategies are called alike; what is not in ``needs`` is not looked at.

        Args:
            k: how many.
            probabilities: (N, C) of the model.
            second: (N, C) of a second model.
            labels: (N,) integers.
            features: (N, d), for instance what the model's last layer sees.
            chosen: rows chosen before, which stay out.
            seed: an integer, or a ``numpy.random.Generator`` that goes on.

        Raises:
            TypeError: if k or chosen are not integers.
            ValueError: if something needed is missing or does not fit, or k is more than is left.
        """
        given = {
            "probabilities": probabilities,
            "features": features,
            "labels": labels,
            "second": second,
        }
        rows = self._rows(given)
        k, before = left_of(k, rows, chosen)
        return self._choose(k, Pool(rows, before, probabilities, features, generator_of(seed)))

    @abstractmethod
    def _choose(self, k: int, pool: Pool) -> Selection:
        """Choose k rows of a pool that has them."""

    def _rows(self, given: dict[str, Any]) -> int:
        """Return how many rows there are, or refuse what is missing or does not fit."""
        sizes = {n: len(array_of(x)) for n, x in given.items() if x is not None}
        missing = sorted(self.needs - sizes.keys())
        if missing:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}: give them")
        if not sizes:
            raise ValueError(
                "nothing says how many rows there are; give probabilities, features or labels"
            )
        wanted = {n: size for n, size in sizes.items() if n in self.needs}
        if len(set(wanted.values())) > 1:
            raise ValueError(
                f"{' and '.join(wanted)} differ in rows: {', '.join(map(str, wanted.values()))}"
            )
        return next(iter((wanted or sizes).values()))
