"""Linear maps of positions (pixels, tokens), applied to covariances axis by axis.

Letters: S the position axes of x1, S' those of x2, n1 and n2 the numbers of inputs. Covariances
are stored positions first, pairs last: (*S, n1, n2) if only equal positions are kept, and
(*S, *S', n1, n2) if all pairs of positions are. With the pairs innermost every shift below runs
along contiguous memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Window", "diagonal_of", "map_axis", "resolve_padding", "window_scatter", "window_sum"]


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis.

    Args:
        size: number of taps.
        stride: step between windows.
        dilation: step between taps.
        low: zeros (or wrapped positions) before the first position.
        high: the same after the last.
        wrap: whether the padding is circular.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    wrap: bool = False

    def length(self, length: int) -> int:
        """Return the number of windows along an axis of the given length.

        >>> Window(3, stride=2, low=1, high=1).length(8)
        4
        """
        span = (self.size - 1) * self.dilation + 1
        return (length + self.low + self.high - span) // self.stride + 1

    def counts(self, length: int, *, include_padding: bool, windows: int) -> list[int]:
        """Return how many positions each window covers."""
        first, last = (-self.low, length + self.high) if include_padding else (0, length)
        return [
            sum(
                first <= i * self.stride - self.low + f * self.dilation < last
                for f in range(self.size)
            )
            for i in range(windows)
        ]


def resolve_padding(
    padding: str | int | tuple[int, int], length: int, size: int, stride: int, dilation: int
) -> tuple[int, int]:
    """Return the padding before and after an axis.

    ``"same"`` keeps ``ceil(length / stride)`` windows, with the odd zero at the end; ``"valid"``
    pads nothing.

    >>> resolve_padding("same", 8, 3, 2, 1), resolve_padding("same", 8, 3, 1, 1)
    ((0, 1), (1, 1))
    """
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding != "same":
            raise ValueError(f"padding must be 'same', 'valid' or numbers, got {padding!r}")
        span = (size - 1) * dilation + 1
        total = max((-(-length // stride) - 1) * stride + span - length, 0)
        return total // 2, total - total // 2
    if isinstance(padding, int):
        return padding, padding
    return padding


def window_sum(k: Tensor, axes: tuple[int, ...], window: Window) -> Tensor:
    """Sum over a window that moves along several axes together.

    ``out[i, i'] = sum_f k[i s + f d - low, i' s + f d - low]`` for two axes; for one axis the
    same with one index. Positions outside count as zero, or wrap around.

    >>> window_sum(torch.ones(4), (0,), Window(3, low=1, high=1)).tolist()
    [2.0, 3.0, 3.0, 2.0]
    """
    lengths = [k.shape[a] for a in axes]
    outs = [window.length(n) for n in lengths]
    if window.wrap:
        return _wrapped_sum(k, axes, window, outs)
    taps = []
    for f in range(window.size):
        offset = f * window.dilation - window.low
        ranges = [_valid(n, m, offset, window.stride) for n, m in zip(lengths, outs, strict=True)]
        if all(low < high for low, high, _ in ranges):
            covers = all(r[:2] == (0, m) for r, m in zip(ranges, outs, strict=True))
            taps.append((not covers, ranges))
    taps.sort(key=lambda t: t[0])
    out: Tensor | None = None
    if not taps or taps[0][0]:
        shape = list(k.shape)
        for a, m in zip(axes, outs, strict=True):
            shape[a] = m
        out = k.new_zeros(shape)
    for _, ranges in taps:
        source = k
        for a, (low, high, start) in zip(axes, ranges, strict=True):
            stop = start + (high - low - 1) * window.stride + 1
            source = _slice(source, a, start, stop, window.stride)
        if out is None:
            out = source.clone(memory_format=torch.contiguous_format)
            continue
        target = out
        for a, (low, high, _) in zip(axes, ranges, strict=True):
            target = target.narrow(a, low, high - low)
        target += source
    assert out is not None
    return out


def _valid(length: int, count: int, offset: int, stride: int) -> tuple[int, int, int]:
    """Return first window, end window and first source position of a tap inside the axis."""
    low = max(0, -(offset // stride)) if offset < 0 else 0
    high = min(count, (length - 1 - offset) // stride + 1)
    return low, high, low * stride + offset


def _slice(k: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    index = [slice(None)] * k.ndim
    index[axis] = slice(start, stop, step)
    return k[tuple(index)]


def _wrapped_sum(k: Tensor, axes: tuple[int, ...], window: Window, outs: list[int]) -> Tensor:
    """Sum over a circular window by gathering."""
    out: Tensor | None = None
    for f in range(window.size):
        tap = k
        for a, m in zip(axes, outs, strict=True):
            index = torch.arange(m, device=k.device) * window.stride
            index = (index + f * window.dilation - window.low) % k.shape[a]
            tap = tap.index_select(a, index)
        out = tap if out is None else out + tap
    assert out is not None
    return out


def window_scatter(
    k: Tensor, axes: tuple[int, ...], window: Window, lengths: tuple[int, ...]
) -> Tensor:
    """Transpose of :func:`window_sum`: spread every position over its window.

    ``out[i s + f d - low, ...] += k[i, ...]``; what falls outside ``lengths`` is dropped.

    >>> window_scatter(torch.ones(2), (0,), Window(2, stride=2), (4,)).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    shape = list(k.shape)
    for a, m in zip(axes, lengths, strict=True):
        shape[a] = m
    out = k.new_zeros(shape)
    for f in range(window.size):
        offset = f * window.dilation - window.low
        source, target = k, out
        for a, m in zip(axes, lengths, strict=True):
            low, high, start = _valid(m, k.shape[a], offset, window.stride)
            if low >= high:
                break
            source = source.narrow(a, low, high - low)
            stop = start + (high - low - 1) * window.stride + 1
            target = _slice(target, a, start, stop, window.stride)
        else:
            target += source
    return out


def map_axis(k: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix (out, in) along one axis.

    >>> map_axis(torch.ones(3, 2), 0, torch.ones(1, 3)).tolist()
    [[3.0, 3.0]]
    """
    moved = k.movedim(axis, 0)
    out = matrix.to(k) @ moved.reshape(moved.shape[0], -1)
    return out.reshape(matrix.shape[0], *moved.shape[1:]).movedim(0, axis)


def diagonal_of(full: Tensor, rank: int) -> Tensor:
    """Keep equal positions only: (*S, *S, ...) -> (*S, ...).

    >>> diagonal_of(torch.arange(4.0).reshape(2, 2, 1), 1).tolist()
    [[0.0], [3.0]]
    """
    if rank == 0:
        return full
    places = full.shape[:rank]
    rest = full.shape[2 * rank :]
    count = places.numel()
    flat = full.reshape(count, count, *rest)
    kept = torch.diagonal(flat, dim1=0, dim2=1).movedim(-1, 0)
    return kept.reshape(*places, *rest).contiguous()
