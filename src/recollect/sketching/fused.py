"""The operators of a flat glance in one pass over memory, compiled with numba where it is there.

The same additions and products, in the same order, as the tensor operations of ``operators.py``:
a row has the same bits either way. ``LANES`` rows are taken side by side, so that each number of
theirs is one vector register: a butterfly, or a copy into its random place, is one instruction
for all of them, and a glance's working space stays in the processor's cache.

Shape letters: n rows, m numbers in an attribute, p its next power of two, W working width,
d = dim, b blocks of ``LANES`` rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "available", "sketch_rows"]

FloatArray = npt.NDArray[np.float32]

LANES = 16  # rows side by side: 16 float32 numbers fill the widest vector registers
TASK_ROWS = 128  # rows of one task: their working spaces fit a core's second cache


@dataclass(frozen=True)
class Block:
    """One attribute operator (or one block of a wide one) and the rows that it is applied to.

    Attributes:
        rows: (n, M) attributes, C-contiguous.
        start, stop: which of the M numbers this block takes.
        padded: p, the next power of two of stop - start.
        last: smallest stride of the inner butterflies.
        order: (W,) the place among the p numbers that each working number copies.
        signs: (W,) +1 or -1.
        scale: what the attributes are multiplied with.
    """

    rows: FloatArray
    start: int
    stop: int
    padded: int
    last: int
    order: npt.NDArray[np.uint32]
    signs: FloatArray
    scale: np.float32


def available() -> bool:
    """Whether numba is installed (``pip install recollect[fast]``); it is not imported yet."""
    return find_spec("numba") is not None


def sketch_rows(
    blocks: Sequence[Block],
    n: int,
    width: int,
    kept: npt.NDArray[np.int64],
    gain: float,
    threads: int,
) -> FloatArray:
    """Return ``gain P H sum_blocks E x`` for each row, (n, d).

    Args:
        blocks: the attribute operators with their rows, in the order in which they are added.
        n: rows.
        width: W.
        kept: (d,) the rows of the Hadamard transform that a sketch keeps.
        gain: factor of the result, ``sqrt(W / d)``.
        threads: how many tasks may run at once.
    """
    spread, leave = _kernels()
    out = np.empty((n, len(kept)), dtype=np.float32)
    root, last_gain = np.float32(width**-0.5), np.float32(gain)

    def task(first: int, end: int) -> None:
        z = np.zeros((-(-(end - first) // LANES), width, LANES), dtype=np.float32)
        for k in blocks:
            rows = k.rows[first:end]
            spread(rows, k.start, k.stop, k.padded, k.last, k.order, k.signs, k.scale, z)
        leave(z, kept, root, last_gain, out[first:end])

    share = -(-n // max(threads, 1))
    step = min(max(-(-share // LANES) * LANES, LANES), TASK_ROWS)
    firsts = range(0, n, step)
    if len(firsts) <= 1 or threads <= 1:
        for first in firsts:
            task(first, min(first + step, n))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(task, firsts, [min(first + step, n) for first in firsts]))
    return out


@functools.cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile the two kernels, or load them from numba's cache beside the source."""
    numba = import_module("numba")

    def compiled(function: Callable[..., None]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        except RuntimeError:  # nowhere to keep compiled code: a read-only installation
            return numba.njit(nogil=True, error_model="numpy")(function)

    butterfly = compiled(_butterfly)
    return compiled(_spread_with(butterfly)), compiled(_leave_with(butterfly))


def _butterfly(numbers: FloatArray, half: int) -> None:
    """Apply one round of butterflies to flat numbers; ``half`` is stride times lanes."""
    for base in range(0, len(numbers), 2 * half):
        u, v = numbers[base : base + half], numbers[base + half : base + 2 * half]
        for i in range(half):
            a, b = u[i], v[i]
            u[i] = a + b
            v[i] = a - b


def _spread_with(butterfly: Callable[..., None]) -> Callable[..., None]:
    def spread(
        rows: FloatArray,
        start: int,
        stop: int,
        padded: int,
        last: int,
        order: npt.NDArray[np.uint32],
        signs: FloatArray,
        scale: np.float32,
        z: FloatArray,
    ) -> None:
        """Add the attribute operator's image of (n, M) rows to the (b, W, LANES) space z."""
        mixed = np.zeros((padded, z.shape[2]), np.float32)
        for block in range(z.shape[0]):
            first = block * z.shape[2]
            for lane in range(min(z.shape[2], len(rows) - first)):
                for j in range(stop - start):
                    mixed[j, lane] = rows[first + lane, start + j] * scale
            mixed[stop - start :] = 0
            stride = padded // 2
            while stride >= last:
                butterfly(mixed.reshape(-1), stride * z.shape[2])
                stride //= 2
            space = z[block]
            for w in range(space.shape[0]):
                sign, to, what = signs[w], space[w], mixed[order[w]]
                for lane in range(len(to)):
                    to[lane] += sign * what[lane]

    return spread


def _leave_with(butterfly: Callable[..., None]) -> Callable[..., None]:
    def leave(
        z: FloatArray,
        kept: npt.NDArray[np.int64],
        root: np.float32,
        gain: np.float32,
        out: FloatArray,
    ) -> None:
        """Write the kept rows of each space's Hadamard transform to (n, d) out; z is lost."""
        for block in range(z.shape[0]):
            space, first = z[block], block * z.shape[2]
            stride = space.shape[0] // 2
            while stride >= 1:
                butterfly(space.reshape(-1), stride * z.shape[2])
                stride //= 2
            for lane in range(min(z.shape[2], len(out) - first)):
                for k in range(len(kept)):
                    out[first + lane, k] = space[kept[k], lane] * root * gain

    return leave
