"""The mean of the second half of a stream whose end nobody knows, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["TailMean"]

FloatArray = npt.NDArray[np.float64]


class TailMean:
    """Running mean of the last half of everything that came.

    Cumulative sums are kept at evenly spaced places, at most ``places`` of them; when there are
    more, every second one is dropped. The mean then begins at the last kept place before the
    middle: exactly there while few values came, later at most one part in ``places`` / 4 early.

    Args:
        shape: of one value.
        places: how many cumulative sums to keep at most.

    Example:
        >>> tail = TailMean(())
        >>> tail.extend(np.arange(10.0))
        >>> tail.count, float(tail.mean())
        (10, 7.0)
    """

    def __init__(self, shape: tuple[int, ...], places: int = 64) -> None:
        self.total: FloatArray = np.zeros(shape)
        self.count = 0
        self.every = 1
        self.places = places
        self.sums: list[FloatArray] = [np.zeros(shape)]  # sum of the first i * every values

    def extend(self, values: FloatArray) -> None:
        """Take in values (K, *shape), in order."""
        sums = self.total + np.cumsum(values, 0)
        numbers = np.arange(self.count + 1, self.count + len(values) + 1)
        while (self.count + len(values)) // self.every > self.places:
            self.sums, self.every = self.sums[::2], 2 * self.every
        self.sums += [np.array(s) for s in sums[numbers % self.every == 0]]
        if len(values):
            self.total, self.count = np.array(sums[-1]), self.count + len(values)

    def mean(self, *, whole: bool = False) -> FloatArray:
        """Return the mean of the second half, or of the whole.

        Raises:
            ValueError: if nothing has come yet.
        """
        if not self.count:
            raise ValueError("there is no mean yet: no value has come")
        place = 0 if whole else self.count // 2 // self.every
        return np.asarray((self.total - self.sums[place]) / (self.count - place * self.every))

    def state_dict(self) -> dict[str, FloatArray]:
        """Return everything as arrays."""
        numbers = np.array([self.count, self.every, self.places], np.float64)
        return {"numbers": numbers, "total": self.total.copy(), "sums": np.stack(self.sums)}

    def load_state_dict(self, state: dict[str, FloatArray]) -> None:
        """Become the mean that was saved."""
        self.count, self.every, self.places = (int(v) for v in state["numbers"])
        self.total, self.sums = np.array(state["total"]), [np.array(s) for s in state["sums"]]
