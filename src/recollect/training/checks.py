"""Two checks that a loss ignores the scale of some parameters, whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["gradient_radiality", "scale_deviation"]


@torch.no_grad()
def scale_deviation(
    output: Callable[[], Tensor], params: Iterable[Tensor], factors: Sequence[float] = (0.1, 7.0)
) -> float:
    """Return how much an output changes when parameters are multiplied, relative to its norm.

    max over factors c of ||output(c x) - output(x)|| / ||output(x)||; the parameters come back
    bit by bit.

    Args:
        output: computes the output (a loss, or features) with the parameters as they are; it must
            be deterministic.
        params: what is multiplied, all by the same factor.
        factors: positive.

    Raises:
        ValueError: for factors that are not positive, no parameters, or an output that is not
            finite or differs between two calls.

    >>> x = torch.tensor([1.0, 2.0])
    >>> scale_deviation(lambda: x / x.norm(), [x]) < 1e-6
    True
    >>> round(scale_deviation(lambda: x, [x], factors=[3.0]), 6)
    2.0
    """
    params = list(params)
    if not params:
        raise ValueError("expected parameters to multiply, got none")
    if any(not c > 0 for c in factors):
        raise ValueError(f"factors must be positive, got {list(factors)}")
    plain, again = output().double(), output().double()
    if not bool(plain.isfinite().all()):
        raise ValueError("the output is not finite before any change")
    if not torch.equal(plain, again):
        raise ValueError("the output differs between two calls: switch dropout off with .eval()")
    kept = [p.detach().clone() for p in params]
    worst = 0.0
    try:
        for factor in factors:
            for p, old in zip(params, kept, strict=True):
                p.copy_(old * factor)
            worst = max(worst, float((output().double() - plain).norm() / plain.norm()))
    finally:
        for p, old in zip(params, kept, strict=True):
            p.copy_(old)
    return worst


def gradient_radiality(loss: Callable[[], Tensor], params: Iterable[Tensor]) -> float:
    """Return |<g, x>| / (||g|| ||x||), which Euler's theorem makes 0 for a scale-invariant loss.

    Args:
        loss: computes a scalar with the parameters as they are.
        params: x, all concatenated.

    Raises:
        ValueError: for no parameters.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradient_radiality(lambda: (x / x.norm())[0], [x]) < 1e-6
    True
    """
    params = list(params)
    if not params:
        raise ValueError("expected parameters, got none")
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(), params)
    x = torch.cat([p.detach().flatten().double() for p in params])
    g = torch.cat([q.flatten().double() for q in grads])
    return float((g @ x).abs() / (g.norm() * x.norm()).clamp_min(torch.finfo(x.dtype).tiny))
