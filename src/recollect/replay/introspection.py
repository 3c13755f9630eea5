"""Introspective experience replay: look back from where one was surprised.

At the start of a phase of G gradient steps the surprise of every stored transition is measured,
usually its absolute TD error. The G most surprising are the *pivots*; step j trains on pivot j
and the transitions just before it, whatever the surprise of those. So a reward that was found
by chance is carried backwards along the way that led to it.

Indices here count in the order of time: 0 is the oldest transition still stored, so that looking
back can never run past the write head of a ring buffer into the newest ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.replay.compiling import compiled

__all__ = ["MODES", "IntrospectiveSampler"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
MODES = ("ier", "uier", "forward", "rer", "oer", "uer", "per")
BLIND = ("uer", "rer")  # modes that look at no surprise


@compiled
def spread_out(order: IntArray, wanted: int, gap: int, columns: int, size: int) -> IntArray:
    """Take the first ``wanted`` of ``order`` that lie at least ``gap`` apart in their column."""
    chosen = np.empty(wanted, np.int64)
    blocked = np.zeros(size, np.bool_)
    count = 0
    for p in order:
        if count == wanted:
            break
        if not blocked[p]:
            chosen[count] = p
            count += 1
            for k in range(-gap + 1, gap):
                if 0 <= p + k * columns < size:
                    blocked[p + k * columns] = True
    return chosen[:count]


class IntrospectiveSampler:
    """Batches for one phase of gradient steps, chosen by what surprised.

    Call ``refresh`` with the surprise of every stored transition, then ``sample`` once for each
    gradient step.

    Args:
        batch_size: B, transitions of a batch.
        num_pivots: G, gradient steps of a phase.
        mode: ``"ier"`` looks back from the pivots; ``"uier"`` does so for a share ``mix`` of the
            phase and samples uniformly for the rest; ``"forward"`` takes what came after the
            pivots (a control); ``"rer"`` walks back from the newest transition; ``"oer"`` takes
            the most surprising transitions themselves, batch after batch; ``"uer"`` samples
            uniformly; ``"per"`` with probability ~ (surprise + 0.01)^alpha.
        mix: share of look-backs in ``"uier"``.
        respect_episodes: whether a look-back stops at the beginning of the pivot's episode
            (batches may then be shorter than B); needs ``ends`` in ``refresh``.
        min_gap: least distance between pivots; 1 allows neighbours, whose batches overlap.
        alpha: of ``"per"``.
        beta: of the importance weights of ``"per"``; may be changed as training goes on.
        auto: whether to begin the pivots again when all were used, instead of refusing.
        seed: of ties and of uniform choices.

    Raises:
        ValueError: if a number is out of range or the mode unknown.

    Example:
        >>> sampler = IntrospectiveSampler(batch_size=3, num_pivots=2)
        >>> sampler.refresh([0.1, 0.2, 0.9, 0.1, 0.1, 0.5, 0.3])
        >>> sampler.sample().tolist(), sampler.sample().tolist()
        ([2, 1, 0], [5, 4, 3])

    Reference: Introspective Experience Replay: Look Back When Surprised (Kumar, Nagaraj, 2022).
    """

    def __init__(
        self,
        batch_size: int,
        num_pivots: int,
        mode: str = "ier",
        mix: float = 0.7,
        respect_episodes: bool = False,
        *,
        min_gap: int = 1,
        alpha: float = 0.6,
        beta: float = 0.4,
        auto: bool = False,
        seed: int = 0,
    ) -> None:
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self.num_pivots = check_integer("num_pivots", num_pivots, minimum=1)
        self.mode = check_one_of("mode", mode, MODES)
        self.min_gap = check_integer("min_gap", min_gap, minimum=1)
        if not 0 <= mix <= 1:
            raise ValueError(f"mix must be in [0, 1], got {mix!r}")
        if not (alpha >= 0 and beta >= 0):
            raise ValueError(f"alpha and beta must be at least 0, got {alpha!r} and {beta!r}")
        self.mix, self.alpha, self.beta = float(mix), float(alpha), float(beta)
        self.respect_episodes, self.auto = bool(respect_episodes), bool(auto)
        self.weights = np.ones(self.batch_size)
        self._rng = np.random.default_rng(seed_of(seed, "introspection"))
        self._size = self._columns = self._used = 0
        self._ranked: IntArray = np.empty(0, np.int64)
        self._chances: FloatArray = np.empty(0)
        self._sums: FloatArray = np.empty(0)  # of the chances, so that a draw costs log(size)
        self._begins: IntArray | None = None

    @property
    def remaining(self) -> int:
        """Batches left in this phase."""
        return self.num_pivots - self._used if self._size else 0

    def refresh(self, surprise: Any, ends: Any = None) -> None:
        """Begin a phase.

        Args:
            surprise: of every stored transition in the order of time, (n,); or (n, E) of E
                environments side by side, each looked back in on its own. Sign is ignored.
            ends: of the same shape, whether an episode ended with the transition.

        Raises:
            ValueError: if there are fewer than ``batch_size`` transitions (in a column), a number
                is not finite, or ``ends`` is missing or of another shape.
        """
        found = np.abs(np.asarray(surprise, np.float64))
        if found.ndim not in (1, 2):
            raise ValueError(f"surprise must have shape (n,) or (n, E), got {found.shape}")
        if len(found) < self.batch_size:
            raise ValueError(
                f"a batch of {self.batch_size} needs as many stored transitions, got "
                f"{len(found)}; begin to train later"
            )
        if not np.isfinite(found).all():
            raise ValueError(
                f"surprise must be finite, {int((~np.isfinite(found)).sum())} of {found.size} "
                "numbers are not: has the network diverged?"
            )
        self._begins = self._episode_begins(found.shape, ends) if self.respect_episodes else None
        self._columns = 1 if found.ndim == 1 else found.shape[1]
        self._size, self._used = found.size, 0
        self._rank(found.ravel())

    def sample(self) -> IntArray:
        """Return the next batch: indices into the flattened surprise, the pivot first.

        ``weights`` holds the importance weights of the batch (all 1 but for ``"per"``).

        Raises:
            RuntimeError: before the first ``refresh``, or when the phase is over.
        """
        if not self._size:
            raise RuntimeError("sample() before refresh(): nothing is known of any surprise yet")
        if self._used >= self.num_pivots:
            if not self.auto:
                raise RuntimeError(
                    f"all {self.num_pivots} batches of the phase are used: call refresh() with "
                    "new surprises, or set auto=True to begin again with the old ones"
                )
            self._used = 0
        step, self._used = self._used, self._used + 1
        indices = self._batch(step)
        self.weights = np.ones(len(indices))
        if self.mode == "per":
            weights = (self._size * self._chances[indices]) ** -self.beta
            self.weights = weights / weights.max()
        return indices

    def _rank(self, surprise: FloatArray) -> None:
        """Find what the mode needs: pivots, a ranking, or chances."""
        self._ranked = np.empty(0, np.int64)
        wanted = self.num_pivots * (self.batch_size if self.mode == "oer" else 1)
        if self.mode == "per":
            raised = (surprise + 0.01) ** self.alpha
            self._chances = raised / raised.sum()
            self._sums = self._chances.cumsum()
        elif self.mode in ("ier", "uier", "forward", "oer"):
            shuffled = self._rng.permutation(self._size)  # ties fall by chance
            values, wanted = -surprise[shuffled], min(wanted, self._size)
            if self.min_gap == 1 and wanted < self._size:
                top = np.argpartition(values, wanted - 1)[:wanted]
                top = top[np.argsort(values[top], kind="stable")]
            else:
                top = np.argsort(values, kind="stable")
            ranked = shuffled[top]
            if self.min_gap > 1 and self.mode != "oer":
                ranked = spread_out(ranked, wanted, self.min_gap, self._columns, self._size)
            self._ranked = ranked[:wanted]

    def _batch(self, step: int) -> IntArray:
        """Return the indices of the batch of one step."""
        B, E = self.batch_size, self._columns
        looks_back = self.mode == "ier" or (
            self.mode == "uier" and step < round(self.mix * self.num_pivots)
        )
        if looks_back or self.mode == "forward":
            time, column = divmod(int(self._ranked[step % len(self._ranked)]), E)
            if self.mode == "forward":
                first = min(time, self._size // E - B)
                return np.asarray((first + np.arange(B)) * E + column)
            begin = int(self._begins[time * E + column]) if self._begins is not None else 0
            if self._begins is None:
                time = max(time, B - 1)
            return np.asarray(np.arange(time, max(time - B, begin - 1), -1) * E + column)
        if self.mode == "rer":
            length, walk, column = self._size // E, step // E, step % E
            return np.asarray((length - 1 - (walk * B + np.arange(B)) % length) * E + column)
        if self.mode == "oer":
            places = (step * B + np.arange(B)) % len(self._ranked)
            return self._ranked[places]
        if self.mode == "per":
            drawn = self._sums.searchsorted(self._rng.random(B) * self._sums[-1], side="right")
            return np.asarray(np.minimum(drawn, self._size - 1))
        return self._rng.integers(self._size, size=B)

    def _episode_begins(self, shape: tuple[int, ...], ends: Any) -> IntArray:
        """Return, flattened, the time at which each transition's episode began."""
        if ends is None or np.shape(ends) != shape:
            raise ValueError(
                f"respect_episodes needs ends of shape {shape}, got "
                f"{None if ends is None else np.shape(ends)}"
            )
        flags = np.asarray(ends, np.bool_).reshape(shape[0], -1)
        times = np.arange(shape[0])[:, None]
        begun = np.zeros_like(flags, dtype=np.int64)
        begun[1:] = np.where(flags[:-1], times[1:], 0)
        return np.asarray(np.maximum.accumulate(begun, 0).ravel())
