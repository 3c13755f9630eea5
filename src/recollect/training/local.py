"""Local problems: what one layer minimises after a forward and backward pass, by itself.

Shape letters: L layers updated together, B rows (examples times positions), n inputs, m outputs.
"""

from __future__ import annotations

from itertools import chain, cycle

import torch
from torch import Tensor
from torch.nn import functional as F

from recollect.training.layers import Layer

__all__ = ["buckets", "problem_of", "solve_squared"]


class Problem:
    """The local problem of one linear layer, or of several of one shape stacked."""

    def __init__(
        self, layers: list[Layer], gamma: float, prox: float, steps: int, share: float = 1.0
    ) -> None:
        self.layers, self.prox, self.transfer = layers, prox, layers[0].transfer
        responses = [layer.response() for layer in layers]
        pairs = [layer.rows() for layer in layers]
        self.x, g = (_stacked(list(part)) for part in zip(*pairs, strict=True))  # (L?, B, n|m)
        self.has_bias = len(layers[0].params) == 2
        weight, bias = self._current()
        self.start = (weight.clone(), None if bias is None else bias.clone()) if prox else None
        rows, n, m = self.x.shape[-2], self.x.shape[-1], g.shape[-1]
        self.parts = cycle(parts_of(rows, share))
        self.target: Tensor | None = None
        # The gradient of the first local step is gamma times BackProp's: written here, so that
        # g need not be kept.
        self.is_written = True
        pays = n * m + rows * (n + m) / steps < 2 * rows * m
        if self.transfer.is_identity and share == 1 and pays:
            # The gradient of the squared loss is affine in the weights: only x'x is needed.
            x = F.pad(self.x, (0, 1), value=1.0) if self.has_bias else self.x
            self.gram = x.mT @ x  # (n + 1, n + 1)
            self.slope = (g.mT @ x).mul_(gamma)  # (m, n + 1)
            del x, g, pairs  # let go of the inputs
            self.x = self.x.new_empty(0)
            joined = self._joined(weight, bias)
            self.origin = joined if self.has_bias else joined.clone()
            self._write(*self._parted(self.slope.clone()))
        else:
            by_bias = g.sum(-2).mul_(gamma) if self.has_bias else None
            self._write((g.mT @ self.x).mul_(gamma), by_bias)
            known = [r for r in responses if r is not None]
            if len(known) == len(layers):
                self.target = torch.sub(_stacked(known), g, alpha=gamma)
            else:
                self.target = self.transfer.apply(self._forward(self.x, weight, bias))
                self.target.sub_(g, alpha=gamma)  # in place: memory is what this method lacks

    @staticmethod
    def _joined(weight: Tensor, bias: Tensor | None) -> Tensor:
        return weight if bias is None else torch.cat([weight, bias.unsqueeze(-1)], -1)

    def _current(self) -> tuple[Tensor, Tensor | None]:
        """Weights (L?, m, n) and biases (L?, m) as they are now."""
        weight = _stacked([layer.params[0] for layer in self.layers])
        return weight, _stacked([la.params[1] for la in self.layers]) if self.has_bias else None

    @staticmethod
    def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pre-activations (L?, B, m)."""
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        if bias is None:
            return torch.bmm(x, weight.mT)
        return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)

    def loss(self) -> Tensor:
        """Local loss of each layer, up to a constant: (L,)."""
        weight, bias = self._current()
        if self.target is None:
            step = self._joined(weight, bias) - self.origin
            value = (step * (self.slope + 0.5 * step @ self.gram)).sum((-2, -1))
        else:
            a = self._forward(self.x, weight, bias)
            value = self.transfer.potential(a).sum((-2, -1)) - (a * self.target).sum((-2, -1))
        if self.start is not None:
            for now, old in zip((weight, bias), self.start, strict=True):
                if now is not None and old is not None:
                    away = (now - old) ** 2
                    value = value + 0.5 * self.prox * away.flatten(weight.ndim - 2).sum(-1)
        return value.reshape(len(self.layers))

    def write_gradients(self) -> None:
        """Put the gradient of the local loss (summed over rows) into each parameter's ``grad``.

        The first is that of all rows; later ones are estimates from one part of them after the
        other.
        """
        if self.is_written:
            self.is_written = False
            return
        weight, bias = self._current()
        by_bias: Tensor | None = None
        if self.target is None:
            step = self._joined(weight, bias) - self.origin
            by_weight, by_bias = self._parted(torch.add(self.slope, step @ self.gram))
        else:
            part = next(self.parts)
            x = self.x[..., part, :]
            delta = self.transfer.apply(self._forward(x, weight, bias))
            delta.sub_(self.target[..., part, :])
            if x.shape[-2] < self.x.shape[-2]:
                delta.mul_(self.x.shape[-2] / x.shape[-2])
            by_weight = delta.mT @ x
            by_bias = delta.sum(-2) if self.has_bias else None
        if self.start is not None:
            by_weight = by_weight.add(weight - self.start[0], alpha=self.prox)
            if bias is not None and by_bias is not None and self.start[1] is not None:
                by_bias = by_bias.add(bias - self.start[1], alpha=self.prox)
        self._write(by_weight, by_bias)

    def _parted(self, joint: Tensor) -> tuple[Tensor, Tensor | None]:
        """Part what ``_joined`` joins."""
        return (joint[..., :-1], joint[..., -1]) if self.has_bias else (joint, None)

    def _write(self, by_weight: Tensor, by_bias: Tensor | None) -> None:
        for i, layer in enumerate(self.layers):
            one = len(self.layers) == 1
            layer.params[0].grad = by_weight if one else by_weight[i]
            if by_bias is not None:
                layer.params[1].grad = by_bias if one else by_bias[i]


class GeneralProblem:
    """The local problem of any layer, its gradient by automatic differentiation."""

    def __init__(self, layer: Layer, gamma: float, prox: float, share: float = 1.0) -> None:
        self.layers, self.prox = [layer], prox
        self.x, g = layer.take()
        self.start = [p.detach().clone() for p in layer.params] if prox else None
        self.target = layer.transfer.apply(self._forward(self.x)) - gamma * g
        # The first gradient is that of the whole batch.
        self.parts = chain([slice(None)], cycle(parts_of(len(self.x), share)))

    def _forward(self, x: Tensor) -> Tensor:
        # The module's own forward: no hooks, and parametrisations are respected.
        return torch.as_tensor(self.layers[0].module.forward(x))

    def loss(self) -> Tensor:
        """Local loss, up to a constant: (1,)."""
        a = self._forward(self.x)
        value = self.layers[0].transfer.potential(a).sum() - (a * self.target).sum()
        if self.start is not None:
            for p, old in zip(self.layers[0].params, self.start, strict=True):
                value = value + 0.5 * self.prox * ((p - old) ** 2).sum()
        return value.reshape(1)

    def write_gradients(self) -> None:
        """Put the gradient of the local loss (summed over rows) into each parameter's ``grad``."""
        layer, part = self.layers[0], next(self.parts)
        x = self.x[part]
        with torch.enable_grad():
            a = self._forward(x)
            delta = layer.transfer.apply(a.detach().clone()).sub_(self.target[part])
            delta.mul_(len(self.x) / len(x))
            found = torch.autograd.grad(a, layer.params, delta)
        for i, (p, gradient) in enumerate(zip(layer.params, found, strict=True)):
            p.grad = gradient
            if self.start is not None:
                p.grad = gradient.add(p.detach() - self.start[i], alpha=self.prox)


def parts_of(rows: int, share: float) -> list[slice]:
    """Return slices of ``share`` of the rows each, which together are all rows.

    >>> parts_of(10, 0.4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    size = max(1, round(rows * share))
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def _stacked(tensors: list[Tensor]) -> Tensor:
    """One tensor as it is, several stacked."""
    return tensors[0].detach() if len(tensors) == 1 else torch.stack([t.detach() for t in tensors])


def buckets(layers: list[Layer], batched: bool) -> list[list[Layer]]:
    """Return the layers, those of equal shapes and transfer together if ``batched``."""
    found: dict[object, list[Layer]] = {}
    for i, layer in enumerate(layers):
        assert layer.inputs is not None
        w = layer.params[0]
        key: object = i
        if batched and layer.is_plain_linear:
            kind = (layer.transfer.name, len(layer.params), w.dtype, w.device)
            key = (*kind, tuple(w.shape), layer.inputs.shape[:-1].numel())
        found.setdefault(key, []).append(layer)
    return list(found.values())


def problem_of(
    bucket: list[Layer], gamma: float, prox: float, steps: int, share: float = 1.0
) -> Problem | GeneralProblem:
    """Return the local problem of one layer, or of several plain linear ones of one shape."""
    if bucket[0].is_plain_linear:
        return Problem(bucket, gamma, prox, steps, share)
    return GeneralProblem(bucket[0], gamma, prox, share)


def solve_squared(layer: Layer, gamma: float, prox: float) -> None:
    """Minimise the squared local loss with its proximal term exactly, in place.

    W <- W - gamma (prox I + x'x)^-1 x'g: the BackProp gradient preconditioned by the input
    covariance, one of the two factors of K-FAC. The bias is the weight of a constant input.
    """
    x, g = layer.rows()
    has_bias = len(layer.params) == 2
    if has_bias:
        x = F.pad(x, (0, 1), value=1.0)
    rows, n = x.shape
    if rows < n:  # push-through identity: a smaller system, the same answer
        small = (x @ x.mT).diagonal_scatter((x * x).sum(1) + prox)
        step = x.mT @ torch.cholesky_solve(g, torch.linalg.cholesky(small))
    else:
        gram = x.mT @ x
        gram.diagonal().add_(prox)
        step = torch.cholesky_solve(x.mT @ g, torch.linalg.cholesky(gram))  # (n, m)
    weight = layer.params[0]
    flat = step[:-1] if has_bias else step
    weight.sub_(flat.mT.reshape(weight.shape), alpha=gamma)
    if has_bias:
        layer.params[1].sub_(step[-1], alpha=gamma)
