"""Nonlinearities without a closed form, by expansion or quadrature, to a stated accuracy.

With the normalised Hermite polynomials h_n and ``a_n(q) = E[f(sqrt(q) z) h_n(z)]``,
``E[f(u) f(v)] = sum_n a_n(q11) a_n(q22) rho^n`` (Mehler), and the derivative by q12 follows
term by term, so f' is never needed. What is cut off is bounded by the energy that is left,
``E[f^2] - sum a_n^2``; the order grows until that is negligible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect.infinite.rectifiers import Activation, Dual
from recollect.infinite.states import Cross, Pair, Self, root

__all__ = ["Expansion", "Numerical", "hermite_basis"]

HIGHEST = 512


def hermite_basis(order: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return nodes z (M,) and weighted polynomials (M, order): ``a_n = sum_z f(z) basis[z, n]``.

    The trapezoidal rule on the whole line is used: for smooth functions its error falls
    exponentially with the step, and unlike Gauss-Hermite rules it has no limit of order.

    >>> z, basis = hermite_basis(4)
    >>> [round(v, 6) for v in (z**2 @ basis)[::2].tolist()]
    [1.0, 1.414214]
    """
    step = 0.6 / math.sqrt(order + 16)
    count = math.ceil(13.5 / step)
    z = torch.arange(-count, count + 1, dtype=torch.float64, device=device) * step
    envelope = torch.exp(-0.25 * z**2)
    rows = [envelope]
    if order > 1:
        rows.append(z * envelope)
    for n in range(1, order - 1):
        rows.append((z * rows[n] - math.sqrt(n) * rows[n - 1]) / math.sqrt(n + 1))
    weight = envelope * (step / math.sqrt(2 * math.pi))
    return z, torch.stack(rows[:order], 1) * weight[:, None]


def _project(fn: Callable[[Tensor], Tensor], q: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return coefficients (order, Q) and energies (Q,) for variances (Q,), in float64."""
    z, basis = hermite_basis(order, q.device)
    weight = torch.exp(-0.5 * z**2) * ((z[1] - z[0]) / math.sqrt(2 * math.pi))
    coefficients, energies = [], []
    for part in torch.split(q.double(), 4096):
        values = fn(root(part)[:, None] * z)
        coefficients.append((values @ basis).T)
        energies.append((values**2) @ weight)
    return torch.cat(coefficients, 1), torch.cat(energies)


@dataclass(frozen=True)
class Expansion(Activation):
    """Any smooth scalar function: tanh, SiLU, softplus, ELU, the user's own.

    Args:
        function: acts elementwise on a tensor.
        order: number of terms; None: as many as needed, at most 512.
        tolerance: relative error of a variance that is accepted; None: 1e-12 in float64 and
            1e-7 in float32 (1e-8 at the highest order). A function with a kink needs a larger
            one, or its closed form.
        name: shown in messages.

    Raises:
        ValueError: at the first kernel, if the tolerance is not reached.

    Example:
        >>> layer = Expansion(torch.tanh)
        >>> round(layer.variance(torch.ones(1, dtype=torch.float64)).item(), 6)
        0.394294
    """

    function: Callable[[Tensor], Tensor]
    order: int | None = None
    tolerance: float | None = None
    name: str = "function"

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)

    def _coefficients(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients (n, *q.shape) and E[f^2], with as many terms as needed."""
        flat = q.reshape(-1)
        order = self.order
        if order is None:
            order = self._enough(flat.detach())
        coefficients, energy = _project(self.function, flat, order)
        return (
            coefficients.to(q.dtype).reshape(order, *q.shape),
            energy.to(q.dtype).reshape(q.shape),
        )

    def _enough(self, q: Tensor) -> int:
        """Find the order at which the energy left is within tolerance, at the largest variance."""
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = 1e-12 if q.dtype == torch.float64 else 1e-7
        some = torch.stack([q.max(), q.median(), q.min()]) if q.numel() else q.new_ones(1)
        left = 1.0
        for order in (24, 48, 96, 192, 384, HIGHEST):
            coefficients, energy = _project(self.function, some, order)
            scale = energy.clamp_min(torch.finfo(torch.float64).tiny)
            # The last third stands for the tail: subtracting energies cannot see below 1e-16.
            last = coefficients[-(order // 3) :]
            left = float(((last**2).sum(0) / scale).max())
            if left <= tolerance * min(tolerance, 1e-6):
                return order
        rest = float(((energy - (coefficients**2).sum(0)) / scale).max())
        tolerance = max(tolerance, 1e-8) if self.tolerance is None else tolerance
        if rest <= tolerance:
            return HIGHEST
        raise ValueError(
            f"{self.name}: {HIGHEST} Hermite terms leave {rest:.1e} of the variance, more than "
            f"the tolerance {tolerance:.0e}; a kink is best given by its closed form (ABRelu, "
            "Sign, RectifiedMonomial), else pass a tolerance that you accept"
        )

    def variance(self, q: Tensor) -> Tensor:
        """Return E[f(u)^2]."""
        return self._coefficients(q)[1]

    def average(self, q: Tensor) -> Tensor:
        """Return E[f(u)]."""
        return self._coefficients(q)[0][0]

    def alone(self, state: Self, *, full: bool) -> Self:
        """Keep the coefficients for the pairs."""
        coefficients, var = self._coefficients(state.var)
        mask = state.mask
        held = None
        if full:
            kept = replace(state, extra=coefficients)
            k = Cross(state.full, full=True, want_ntk=False) if state.full is not None else None
            assert k is not None
            held = self.cross(k, Pair(state, state, kept, kept, paired=True)).nngp
        if mask is not None:
            var = var * mask
        return Self(var, held, None, mask, coefficients)

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Sum the series with the coefficients of both sides."""
        one, two = pair.a_out.extra, pair.b_out.extra
        assert one is not None
        assert two is not None
        v1, v2 = pair.left(pair.a.var, full=k.full), pair.right(pair.b.var, full=k.full)
        inverse = _inverse_root(v1) * _inverse_root(v2)
        rho = (k.nngp * inverse).clamp(-1.0, 1.0)
        nngp, dot = torch.zeros_like(rho), torch.zeros_like(rho)
        power = torch.ones_like(rho)
        scale = torch.finfo(rho.dtype).eps ** 2
        for n in range(min(len(one), len(two))):
            if not (float(one[n].abs().max()) * float(two[n].abs().max()) > scale):
                power = power * rho if n else power
                continue
            both = pair.left(one[n], full=k.full) * pair.right(two[n], full=k.full)
            if n:
                if k.ntk is not None:
                    dot = torch.addcmul(dot, both, power, value=float(n))
                power = power * rho
            nngp = torch.addcmul(nngp, both, power)
        ntk = None if k.ntk is None else k.ntk * dot * inverse
        return k.each(nngp, ntk)


def _inverse_root(v: Tensor) -> Tensor:
    safe = torch.where(v > 0, v, torch.ones_like(v))
    return torch.where(v > 0, safe.rsqrt(), torch.zeros_like(v))


@dataclass(frozen=True)
class Numerical(Activation):
    """Any scalar function by a Gauss-Hermite grid of fixed order, as the old library does.

    Slower than :class:`Expansion` and without its check of accuracy; the same numbers as the
    library it replaces.

    Args:
        function: acts elementwise on a tensor.
        order: points per axis.
        derivative: f'; default: by automatic differentiation.
    """

    function: Callable[[Tensor], Tensor]
    order: int = 25
    derivative: Callable[[Tensor], Tensor] | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)

    def _slope(self, x: Tensor) -> Tensor:
        if self.derivative is not None:
            return self.derivative(x)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(point).sum(), point)
        return slope

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Sum over the grid of nodes."""
        nodes, weights = np.polynomial.hermite.hermgauss(self.order)
        safe = torch.where(q11 > 0, q11, torch.ones_like(q11))
        rest = root((q22 - q12**2 / safe).clamp_min(0) * 2)
        slope = q12 * (2 / safe).sqrt()
        spread = root(2 * q11)
        nngp, dot = torch.zeros_like(q12), torch.zeros_like(q12)
        for x, wx in zip(nodes.tolist(), weights.tolist(), strict=True):
            u = spread * x
            fu, du = self.function(u) * wx, self._slope(u) * wx
            for y, wy in zip(nodes.tolist(), weights.tolist(), strict=True):
                v = slope * x + rest * y
                nngp = nngp + fu * self.function(v) * wy
                dot = dot + du * self._slope(v) * wy
        return nngp / math.pi, dot / math.pi

    def average(self, q: Tensor) -> Tensor:
        """Return E[f(u)] on the same nodes."""
        nodes, weights = np.polynomial.hermite.hermgauss(self.order)
        total: Any = 0.0
        for x, w in zip(nodes.tolist(), weights.tolist(), strict=True):
            total = total + self.function(root(2 * q) * x) * (w / math.sqrt(math.pi))
        out: Tensor = total
        return out
