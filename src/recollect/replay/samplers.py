"""Orders in which any model may be trained on a stream: indices for a data loader."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = ["ReverseBufferSampler"]


class ReverseBufferSampler(Sampler[int]):
    """Indices of a data set in time order, buffer by buffer, each buffer from last to first.

    Give it to a ``DataLoader`` as ``sampler`` (leave ``shuffle`` off: it would undo the order).
    The last, shorter buffer is used as well.

    Args:
        length: of the data set.
        buffer: indices replayed backwards at a time.
        gap: indices skipped after each buffer.
        reverse: False keeps the order of time: the control.
        shuffle_buffers: whether the buffers themselves come in random order, another one each
            time the sampler is iterated over.
        seed: of that order.

    Raises:
        ValueError: if a number is out of range, or there is nothing to sample.

    Example:
        >>> list(ReverseBufferSampler(11, buffer=4, gap=1))
        [3, 2, 1, 0, 8, 7, 6, 5, 10]
    """

    def __init__(
        self,
        length: int,
        buffer: int = 100,
        gap: int = 10,
        reverse: bool = True,
        *,
        shuffle_buffers: bool = False,
        seed: int = 0,
    ) -> None:
        self.length = check_integer("length", length, minimum=1)
        self.buffer = check_integer("buffer", buffer, minimum=1)
        self.gap = check_integer("gap", gap, minimum=0)
        self.reverse, self.shuffle_buffers, self.seed = reverse, shuffle_buffers, seed
        self.passes = 0

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.buffer + self.gap)
        return full * self.buffer + min(rest, self.buffer)

    def __iter__(self) -> Iterator[int]:
        starts = np.arange(0, self.length, self.buffer + self.gap)
        if self.shuffle_buffers:
            rng = np.random.default_rng(seed_of(self.seed, "buffers", self.passes))
            starts = rng.permutation(starts)
        self.passes += 1
        for start in starts.tolist():
            stop = min(start + self.buffer, self.length)
            yield from range(stop - 1, start - 1, -1) if self.reverse else range(start, stop)
