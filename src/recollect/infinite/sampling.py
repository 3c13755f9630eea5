"""Layers without a closed form, estimated by sampling: max pooling.

The Gaussian process before the layer is drawn for each pair of inputs, the layer is applied to
the draws, and second moments are averaged. The error falls with the root of the number of
samples; :func:`standard_error` states it from independent repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.infinite.positions import Window
from recollect.infinite.states import Cross, Layer, Pair, Self, Style

__all__ = ["MaxPool", "by_pairs", "standard_error"]


def _draw(joint: Tensor, samples: int, seed: int) -> Tensor:
    """Draw from Gaussians with covariances (..., m, m): (..., samples, m)."""
    generator = torch.Generator(device="cpu").manual_seed(seed_of(seed, "infinite", "draw"))
    values, vectors = torch.linalg.eigh(joint.double())
    half = vectors * values.clamp_min(0).sqrt()[..., None, :]
    # Antithetic normals, the same for every pair: kernels stay smooth and symmetric.
    noise = torch.randn(
        samples // 2 + 1, joint.shape[-1], generator=generator, dtype=torch.float64
    )
    noise = torch.cat([noise, -noise])[:samples].to(joint.device)
    return torch.einsum("...ij,sj->...si", half, noise)


@dataclass(frozen=True, kw_only=True)
class MaxPool(Layer):
    """Max pooling over windows, estimated by sampling.

    The tangent kernel follows the position that wins: ``Theta' = E[Theta(argmax, argmax')]``.

    Args:
        size: window per axis.
        stride: default: the window.
        padding: positions of minus infinity around.
        samples: number of draws per pair.
        seed: of the draws.
    """

    size: int | tuple[int, ...] = 2
    stride: int | tuple[int, ...] | None = None
    padding: int | tuple[int, ...] = 0
    samples: int = 1000
    seed: int = 0
    style: ClassVar[Style] = "positional"

    def _windows(self, rank: int) -> list[Window]:
        def spread(v: Any) -> tuple[int, ...]:
            return tuple(v) if isinstance(v, tuple | list) else (v,) * rank

        strides = self.size if self.stride is None else self.stride
        return [
            Window(f, s, 1, p, p)
            for f, s, p in zip(
                spread(self.size), spread(strides), spread(self.padding), strict=True
            )
        ]

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of windows along each axis."""
        if not places:
            raise ValueError("pooling needs positions, got inputs of shape (batch, channels)")
        return tuple(w.length(n) for w, n in zip(self._windows(len(places)), places, strict=True))

    def needs_full(self, full: bool) -> bool:
        """The draws need all pairs of positions."""
        return True

    def keeps_full(self) -> bool:
        """The draws need each input's own covariance."""
        return True

    def _taps(self, places: tuple[int, ...]) -> Tensor:
        """Return the positions of each window, (windows, taps), -1 for padding."""
        grid = torch.arange(len(torch.empty(places).flatten())).reshape(places)
        out = grid.double()[None] + 1
        for d, window in enumerate(self._windows(len(places))):
            pads = [0, 0] * (len(places) - 1 - d) + [window.low, window.high]
            out = torch.nn.functional.pad(out, pads)
            out = out.unfold(d + 1, window.size, window.stride)
        count = 1
        for n in self.places(places):
            count *= n
        return out.reshape(count, -1).long() - 1

    def _winners(self, draws: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest value of each window and its position, (..., samples, windows)."""
        values = draws[..., taps.clamp_min(0)]
        values = values.masked_fill(taps < 0, -torch.inf)
        best, which = values.max(-1)
        index = taps.expand(*which.shape, taps.shape[-1]).gather(-1, which[..., None])[..., 0]
        return best, index

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over draws, pair by pair."""
        return by_pairs(k, pair, self.places(pair.a.var.shape[:-1]), self._moments)

    def _moments(
        self, joint: Tensor, theta: Tensor | None, places: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        count = joint.shape[-1] // 2
        draws = _draw(joint, self.samples, self.seed)
        taps = self._taps(places)
        u, i = self._winners(draws[:, :count], taps)
        v, j = self._winners(draws[:, count:], taps)
        nngp = u.T @ v / len(draws)
        if theta is None:
            return nngp, None
        tangent = torch.stack([theta[i[:, a], :].gather(1, j).mean(0) for a in range(i.shape[1])])
        return nngp, tangent

    def mean(self, state: Self) -> Tensor | None:
        """Average the winners."""
        assert state.full is not None
        places = tuple(state.var.shape[:-1])
        count = state.var[..., 0].numel()
        means = []
        for n in range(state.var.shape[-1]):
            own = state.full[..., n, 0].reshape(count, count)
            best, _ = self._winners(_draw(own, self.samples, self.seed), self._taps(places))
            means.append(best.mean(0).reshape(self.places(places)))
        return torch.stack(means, -1).to(state.var)


def by_pairs(
    k: Cross,
    pair: Pair,
    places: tuple[int, ...],
    moments: Callable[[Tensor, Tensor | None, tuple[int, ...]], tuple[Tensor, Tensor | None]],
) -> Cross:
    """Run a sampled layer over each pair of inputs."""
    before = tuple(pair.a.var.shape[:-1])
    count = pair.a.var[..., 0].numel()
    n1, n2 = k.nngp.shape[-2:]
    a, b = pair.a.full, pair.b.full
    if pair.paired:
        a = b = k.nngp
    assert a is not None
    assert b is not None
    shape = (*places, *places, n1, n2)
    nngp = k.nngp.new_zeros(shape)
    ntk = None if k.ntk is None else k.nngp.new_zeros(shape)
    for i in range(n1):
        for j in range(n2):
            other = i if pair.paired else j
            q = k.nngp[..., i, j].reshape(count, count)
            own = a[..., i, 0].reshape(count, count)
            his = b[..., other, 0].reshape(count, count)
            joint = torch.cat([torch.cat([own, q], 1), torch.cat([q.T, his], 1)])
            theta = None if k.ntk is None else k.ntk[..., i, j].reshape(count, count)
            one, two = moments(joint, theta, before)
            nngp[..., i, j] = one.reshape(*places, *places).to(nngp)
            if ntk is not None and two is not None:
                ntk[..., i, j] = two.reshape(*places, *places).to(nngp)
    return k.each(nngp, ntk)


def standard_error(estimate: Callable[[int], Tensor], repeats: int = 8) -> tuple[Tensor, Tensor]:
    """Return the mean of independent estimates, and its standard error.

    Args:
        estimate: function of a seed.
        repeats: number of seeds.

    Example:
        >>> mean, error = standard_error(lambda seed: torch.tensor(float(seed % 2)), 4)
        >>> float(mean)
        0.5
    """
    values = torch.stack([estimate(seed) for seed in range(repeats)])
    return values.mean(0), values.std(0) / repeats**0.5
