"""Stochastic gradient descent with reverse experience replay, over a stream of states.

Steps on a single trajectory in the order of time are biased: the noise in x[t + 1] is already in
the iterate when x[t + 1] becomes an input. Taking a buffer of transitions from its last to its
first removes that coupling, a gap between buffers makes them nearly independent, and averaging
the iterates at buffer ends gives an error like that of least squares, in one pass and O(d^2)
memory.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect.replay.averaging import TailMean
from recollect.replay.kernels import buffers_pass
from recollect.replay.links import LinkLike, link_of
from recollect.replay.systems import as_states

__all__ = ["SGDRER", "Diverged"]

FloatArray = npt.NDArray[np.float64]
GROWTH = 1e6  # an entry beyond this multiple of where it began counts as divergence
CHUNK = 1024  # buffers whose ends are held at a time


class Diverged(ArithmeticError):
    """Gradient steps grew beyond all bounds: the step is too long for these states."""


class SGDRER:
    """Estimate A of x[t + 1] = f(A x[t]) + noise from a stream, with reverse experience replay.

    The stream is cut into segments of ``buffer + gap`` transitions. The first ``buffer`` of each
    are used from the last to the first, A <- A - 2 step (f(A x) - y) x^T; the rest are skipped.

    Attributes:
        A_: the estimate (d, d) so far, averaged as asked; may be read at any time.
        step_: the step in use, NaN until it is known.
        radius_: R, the mean squared norm of the states it was chosen by, NaN until known.
        num_transitions_: transitions seen; num_buffers_: buffers stepped on.

    Args:
        dim: d, numbers of a state.
        buffer: B, transitions replayed backwards at a time; at least ten gaps is a good choice.
        gap: u, transitions skipped between buffers; a few times log T / log(1 / radius).
        step: a number, or ``"auto"``: ``scale / (2 R)``, R measured on the second half of the
            first two segments (at least 200 states), past the beginning where a system started
            at rest is still small.
        link: f, as in :func:`link_of`; None for a linear system.
        average: ``"tail"`` (second half of the buffer ends), ``"polyak"`` (all), None (the last).
        reverse: False steps through each buffer in the order of time: the control.
        scale: of the automatic step; smaller is slower and less noisy.

    Raises:
        ValueError: if a number is out of range or a name unknown.

    Example:
        >>> from recollect.replay import random_system, simulate_lti
        >>> A = random_system(3, 0.9)
        >>> model = SGDRER(3)
        >>> for block in np.array_split(simulate_lti(A, 50_000), 7):
        ...     model = model.partial_fit(block)
        >>> bool(np.abs(model.finalize().A_ - A).max() < 0.03)
        True

    Reference: Streaming Linear System Identification with Reverse Experience Replay (Jain,
    Kowshik, Nagaraj, Netrapalli, 2021); Near-optimal Offline and Streaming Algorithms for
    Learning Non-Linear Dynamical Systems (the same, 2021).
    """

    def __init__(
        self,
        dim: int,
        buffer: int = 100,
        gap: int = 10,
        step: float | str = "auto",
        link: LinkLike = None,
        average: str | None = "tail",
        reverse: bool = True,
        *,
        scale: float = 0.05,
    ) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        self.buffer = check_integer("buffer", buffer, minimum=1)
        self.gap = check_integer("gap", gap, minimum=0)
        if step != "auto" and not (isinstance(step, int | float) and 0 < step < np.inf):
            raise ValueError(f"step must be a positive number or 'auto', got {step!r}")
        if not 0 < scale < np.inf:
            raise ValueError(f"scale must be a positive number, got {scale!r}")
        self.average = average if average is None else check_one_of("average", average, _AVERAGES)
        self.link, self.reverse = link_of(link), bool(reverse)
        self.scale = float(scale)
        self.step_ = float("nan") if step == "auto" else float(step)
        self.radius_ = float("nan")
        self._energy = np.zeros(2)  # sum of squared norms and number of the first states
        self.num_transitions_ = self.num_buffers_ = 0
        self._M = np.zeros((self.dim, self.dim))  # A transposed
        self._tail = TailMean((self.dim, self.dim))
        self._pending = np.empty((0, self.dim))  # rows from the next segment's first on
        self._skip = 0  # rows of a gap still to come
        self._under_way = False  # whether a trajectory has begun
        self._warned = False

    def partial_fit(self, x: Any) -> SGDRER:
        """Take in the next block of states, (T, d), which follows the one before.

        Blocks of any length give the same numbers as the whole stream at once; long ones are
        faster.

        Raises:
            ValueError: if the block is not (T, d) and finite.
            Diverged: if the iterate grows beyond 10^6 times what it was.
        """
        rows = as_states(x, self.dim)
        if not len(rows):
            return self
        self.num_transitions_ += len(rows) - (0 if self._under_way else 1)
        self._under_way = True
        skipped = min(self._skip, len(rows))
        rows, self._skip = rows[skipped:], self._skip - skipped
        if not len(rows):  # all of it lies in a gap
            return self
        if not np.isnan(self.step_):
            self._check_step(rows)
        else:
            rows, self._pending = np.concatenate([self._pending, rows]), rows[:0]
            if len(rows) <= self._early:
                self._pending = rows
                return self
            self._choose_step(rows)
        self._watch_growth(rows)
        self._consume(rows)
        return self

    def finalize(self) -> SGDRER:
        """Step on the unfinished last buffer, and end the trajectory.

        A later ``partial_fit`` begins another trajectory of the same system.

        Raises:
            ValueError: if fewer than two segments of transitions came in all.
        """
        if self.num_transitions_ < 2 * self._stride:
            raise ValueError(
                f"the stream must be at least 2 (buffer + gap) = {2 * self._stride} transitions "
                f"long, got {self.num_transitions_}; give more, or a shorter buffer"
            )
        if np.isnan(self.step_):
            rows, self._pending = self._pending, self._pending[:0]
            self._choose_step(rows)
            self._consume(rows)
        if len(self._pending) > 1:
            self._run(self._pending, 0, 1, len(self._pending) - 1)
        self._pending, self._skip, self._under_way = self._pending[:0], 0, False
        return self

    @property
    def A_(self) -> FloatArray:  # noqa: N802 (scikit-learn's sign for what was learned)
        """The estimate so far, (d, d)."""
        if self.average is None or not self._tail.count:
            return np.array(self._M.T)
        return self._tail.mean(whole=self.average == "polyak")

    def predict(self, x: Any) -> FloatArray:
        """Return f(A x) for each state, (T, d) -> (T, d).

        Raises:
            ValueError: if the block is not (T, d) and finite.
        """
        return self.link(as_states(x, self.dim) @ self.A_.T)

    def state_dict(self) -> dict[str, FloatArray]:
        """Return all that was learned and is pending, as arrays (for ``np.savez``)."""
        counts = [self.step_, self.radius_, self.num_transitions_, self.num_buffers_]
        counts += [self._skip, self._under_way, *self._energy]
        tail = {f"tail_{k}": v for k, v in self._tail.state_dict().items()}
        return {"counts": np.array(counts), "M": self._M.copy(), "pending": self._pending} | tail

    def load_state_dict(self, state: dict[str, FloatArray]) -> SGDRER:
        """Go on from a saved state; the settings must be those it was saved with.

        Raises:
            ValueError: if the matrix is of another size.
        """
        if np.shape(state["M"]) != (self.dim, self.dim):
            raise ValueError(
                f"the saved matrix has shape {np.shape(state['M'])}, this one needs "
                f"{(self.dim, self.dim)}"
            )
        counts = [float(v) for v in state["counts"]]
        self.step_, self.radius_ = counts[:2]
        self.num_transitions_, self.num_buffers_, self._skip = (int(v) for v in counts[2:5])
        self._under_way, self._energy = bool(counts[5]), np.array(counts[6:])
        self._M, self._pending = np.array(state["M"]), np.array(state["pending"])
        tail = {k.removeprefix("tail_"): v for k, v in state.items() if k.startswith("tail_")}
        self._tail.load_state_dict(tail)
        return self

    @property
    def _stride(self) -> int:
        return self.buffer + self.gap

    @property
    def _early(self) -> int:
        return max(2 * self._stride, 200)

    def _choose_step(self, rows: FloatArray) -> None:
        """Measure R past the beginning and fix the step."""
        early = rows[min(self._early, len(rows)) // 2 : self._early]
        self.radius_ = float((early**2).sum(1).mean())
        if self.radius_ == 0:
            raise ValueError(
                f"the first {len(rows[: self._early])} states are zero in their second half: "
                "nothing can be learned from them"
            )
        self.step_ = self.scale / (2 * self.radius_)

    def _check_step(self, rows: FloatArray) -> None:
        """Measure R for a step that was given, and warn if the step is too long for it."""
        if np.isnan(self.radius_) and len(rows):
            early = rows[: self._early - int(self._energy[1])]
            self._energy += [(early**2).sum(), len(early)]
            if self._energy[1] < self._early:
                return
            self.radius_ = float(self._energy[0] / self._energy[1])
            if self.step_ * self.radius_ >= 1:
                warnings.warn(
                    f"step {self.step_:.3g} is at least 1 / R = {1 / self.radius_:.3g} (R: mean "
                    f"squared norm of the first states) and will probably diverge; "
                    f"try {self.scale / (2 * self.radius_):.3g}",
                    UserWarning,
                    stacklevel=4,
                )

    def _watch_growth(self, rows: FloatArray) -> None:
        """Warn once if states are far larger than those the step was chosen by."""
        if not self._warned and len(rows):
            largest = float(np.abs(rows).max()) ** 2
            if largest > 1e4 * self.radius_:
                self._warned = True
                warnings.warn(
                    f"a state has a squared number of {largest:.3g}, the step was chosen for "
                    f"R = {self.radius_:.3g}: the stream grows (an unstable system?)",
                    UserWarning,
                    stacklevel=3,
                )

    def _consume(self, rows: FloatArray) -> None:
        """Step on every full buffer; keep the rows of the unfinished one."""
        held, need = len(self._pending), self.buffer + 1
        start = 0
        if held:
            # The one segment that began in an earlier block; `rows` goes on where it stopped.
            joined = np.concatenate([self._pending, rows[:need]])
            if len(joined) < need:
                self._pending = joined
                return
            self._run(joined, 0, 1, self.buffer)
            start = self._stride - held
        available = len(rows) - start
        count = max((available - need) // self._stride + 1, 0) if available >= need else 0
        self._run(rows, start, count, self.buffer)
        start += count * self._stride
        self._skip = max(start - len(rows), 0)
        self._pending = np.array(rows[min(start, len(rows)) :])

    def _run(self, rows: FloatArray, start: int, count: int, length: int) -> None:
        """Step on ``count`` buffers of ``length`` transitions and average their ends."""
        ends = np.empty((min(count, CHUNK), self.dim, self.dim))
        bound = GROWTH * (1.0 + float(np.abs(self._M).max()))
        for first in range(0, count, CHUNK):
            wanted = ends[: min(CHUNK, count - first)]
            at = start + first * self._stride
            done = self._pass(rows, at, length, bound, wanted)
            self._tail.extend(wanted[:done])
            self.num_buffers_ += done
            if done < len(wanted):
                self._refuse(rows[at : at + (done + 1) * self._stride])

    def _pass(self, rows: FloatArray, at: int, length: int, bound: float, ends: FloatArray) -> int:
        """Run the compiled loop, or the plain one for a link that is a function."""
        twice = 2 * self.step_
        if self.link.function is None:
            return buffers_pass(
                self._M, rows, at, length, self._stride, twice,
                self.link.kind, self.link.slope, self.reverse, bound, ends,
            )  # fmt: skip
        for k in range(len(ends)):
            order = range(length - 1, -1, -1) if self.reverse else range(length)
            for t in (at + k * self._stride + s for s in order):
                error = self.link(rows[t] @ self._M) - rows[t + 1]
                self._M -= twice * np.outer(rows[t], error)
            if not np.abs(self._M).max() <= bound:
                return k
            ends[k] = self._M.T
        return len(ends)

    def _refuse(self, rows: FloatArray) -> None:
        """Say that the steps diverged, and which step would not."""
        largest = float((rows**2).sum(1).max())
        raise Diverged(
            f"the iterate grew beyond {GROWTH:.0e} times its size after {self.num_buffers_} "
            f"buffers: step {self.step_:.3g}, R {self.radius_:.3g}, largest squared norm near "
            f"here {largest:.3g}; try step={0.1 / (2 * max(largest, 1e-300)):.3g}, or a longer "
            "gap if the system is nearly unstable"
        )


_AVERAGES = ("tail", "polyak")
