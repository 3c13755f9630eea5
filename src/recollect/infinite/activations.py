"""Nonlinearities with closed forms.

For (u, v) Gaussian with covariance [[q11, q12], [q12, q22]]: ``K' = E[f(u) f(v)]`` and
``Theta' = Theta E[f'(u) f'(v)]``, where the second expectation is the derivative of the first
by q12. Letters: rho = q12 / sqrt(q11 q22) = cos(theta), delta = 1 - rho.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recollect.infinite.rectifiers import Activation, Dual
from recollect.infinite.states import root

__all__ = [
    "Cos",
    "Elementwise",
    "Erf",
    "Exp",
    "ExpNormalized",
    "Gabor",
    "Gaussian",
    "Gelu",
    "Hermite",
    "Monomial",
    "Polynomial",
    "Rbf",
    "SigmoidLike",
    "Sin",
]


@dataclass(frozen=True)
class Erf(Activation):
    """``a erf(b x) + c``.

    Reference: Computing with infinite networks (Williams, 1996).
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return self.a * torch.erf(self.b * x) + self.c

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the arc-sine form."""
        t = 2 * self.b**2
        d1, d2 = 1 + t * q11, 1 + t * q22
        below = d1 * d2
        top = t * q12
        nngp = torch.asin(top / below.sqrt()) * (2 * self.a**2 / math.pi) + self.c**2
        dot = (4 / math.pi * self.a**2 * self.b**2) / (below - top * top).sqrt()
        return nngp, dot

    def average(self, q: Tensor) -> Tensor:
        """Return c."""
        return torch.full_like(q, self.c)


def SigmoidLike() -> Erf:  # noqa: N802
    """Error function shaped like the logistic sigmoid."""
    return Erf(0.5, 1 / 2.4020563531719796, 0.5)


@dataclass(frozen=True)
class Gelu(Activation):
    """``x Phi(x)``, the exact GELU.

    Reference: Avoiding kernel fixed points (Tsuchida, Pearce, van der Heide, Roosta, 2021).
    """

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return torch.nn.functional.gelu(x)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        p = (1 + q11) * (1 + q22)
        d2 = p - q12 * q12
        d = d2.sqrt()
        tangent = torch.atan(q12 / d)
        both = q11 * q22
        nngp = q12 / 4 + (q12 * tangent + (q12 * q12 + both * d2) / (p * d)) / (2 * math.pi)
        dot = 0.25 + (tangent + (q12 / d) * (1 / d2 + (1 - both) / p + 1)) / (2 * math.pi)
        return nngp, dot

    def average(self, q: Tensor) -> Tensor:
        """Return q / sqrt(2 pi (1 + q))."""
        return q / (2 * math.pi * (1 + q)).sqrt()


@dataclass(frozen=True)
class Sin(Activation):
    """``a sin(b x + c)``."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return self.a * torch.sin(self.b * x + self.c)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        h = self.b**2 / 2
        total = q11 + q22
        near = torch.exp(-h * (total - 2 * q12))
        far = math.cos(2 * self.c) * torch.exp(-h * (total + 2 * q12))
        half = self.a**2 / 2
        return half * (near - far), half * self.b**2 * (near + far)

    def average(self, q: Tensor) -> Tensor:
        """Return a sin(c) exp(-b^2 q / 2)."""
        return self.a * math.sin(self.c) * torch.exp(-(self.b**2) / 2 * q)


def Cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Sin:  # noqa: N802
    """``a cos(b x + c)``."""
    return Sin(a, b, c + math.pi / 2)


def Rbf(gamma: float = 1.0) -> Sin:  # noqa: N802
    """``sqrt(2) sin(sqrt(2 gamma) x + pi/4)``: K' is the RBF kernel exp(-gamma |x - x'|^2)."""
    return Sin(math.sqrt(2), math.sqrt(2 * gamma), math.pi / 4)


@dataclass(frozen=True)
class Exp(Activation):
    """``a exp(b x)``."""

    a: float = 1.0
    b: float = 1.0

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return self.a * torch.exp(self.b * x)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        nngp = self.a**2 * torch.exp(self.b**2 / 2 * (q11 + q22 + 2 * q12))
        return nngp, self.b**2 * nngp

    def average(self, q: Tensor) -> Tensor:
        """Return a exp(b^2 q / 2)."""
        return self.a * torch.exp(self.b**2 / 2 * q)


@dataclass(frozen=True)
class Gaussian(Activation):
    """``a exp(b x^2)``, b negative (or small enough for the variances that occur)."""

    a: float = 1.0
    b: float = -1.0

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return self.a * torch.exp(self.b * x**2)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        d = (1 - 2 * self.b * q11) * (1 - 2 * self.b * q22) - 4 * self.b**2 * q12 * q12
        inverse = d.rsqrt()
        return self.a**2 * inverse, 4 * self.a**2 * self.b**2 * q12 * inverse / d

    def average(self, q: Tensor) -> Tensor:
        """Return a / sqrt(1 - 2 b q)."""
        return self.a * (1 - 2 * self.b * q).rsqrt()


@dataclass(frozen=True)
class Gabor(Activation):
    """``exp(-x^2) sin(x)``."""

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return torch.exp(-(x**2)) * torch.sin(x)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        both, square = q11 * q22, q12 * q12
        e = 4 * (both - square)
        total = q11 + q22
        d = 1 + 2 * total + e
        front = torch.exp(-(total + e + 2 * q12) / (2 * d))
        rise = torch.exp(2 * q12 / d)
        nngp = front * (rise - 1) / (2 * d.sqrt())
        a = 1 + 2 * total + 4 * (square + both)
        b = 4 * q12 * (e + 3 * total + 2)
        dot = front * ((a - b) + rise * (a + b)) / (2 * d**2.5)
        return nngp, dot

    def average(self, q: Tensor) -> Tensor:
        """Return 0: the function is odd."""
        return torch.zeros_like(q)


@dataclass(frozen=True)
class ExpNormalized(Activation):
    """``K' = sqrt(q11 q22) exp(gamma (rho + shift))``, known as a kernel only.

    Args:
        gamma: steepness.
        shift: added to the correlation.
        clip: keep the correlation within [-1, 1].
    """

    gamma: float = 1.0
    shift: float = -1.0
    clip: bool = False

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the closed form."""
        r = root(q11 * q22)
        rho = q12 / r.clamp_min(torch.finfo(r.dtype).tiny)
        if self.clip:
            rho = rho.clamp(-1, 1)
        e = torch.exp(self.gamma * (rho + self.shift))
        return r * e, self.gamma * e

    def average(self, q: Tensor) -> Tensor:
        """Refuse: there is no function behind this kernel."""
        raise ValueError("ExpNormalized is a kernel without a function: its mean is not defined")


@dataclass(frozen=True)
class Polynomial(Activation):
    """``c_0 + c_1 x + ... + c_n x^n``."""

    coefficients: tuple[float, ...]

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        out = torch.zeros_like(x)
        for c in reversed(self.coefficients):
            out = out * x + c
        return out

    def _loading(self, order: int, q: Tensor) -> Tensor:
        """Return t_l(q) = sum_i c_(2i+l) (2i+l)! / (2^i i! sqrt(l!)) q^i."""
        total = torch.zeros_like(q)
        for i in range((len(self.coefficients) - 1 - order) // 2 + 1):
            c = self.coefficients[2 * i + order]
            if c:
                scale = math.factorial(2 * i + order) / (2**i * math.factorial(i))
                total = total + q**i * (c * scale / math.sqrt(math.factorial(order)))
        return total

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return sum_l t_l(q11) t_l(q22) q12^l and its derivative."""
        nngp, dot = torch.zeros_like(q12), torch.zeros_like(q12)
        power = torch.ones_like(q12)
        for order in range(len(self.coefficients)):
            both = self._loading(order, q11) * self._loading(order, q22)
            if order:
                dot = dot + order * both * power
                power = power * q12
            nngp = nngp + both * power
        return nngp, dot

    def average(self, q: Tensor) -> Tensor:
        """Return t_0(q)."""
        return self._loading(0, q)


def Monomial(n: int) -> Polynomial:  # noqa: N802
    """``x^n`` for any n."""
    return Polynomial((0.0,) * n + (1.0,))


@dataclass(frozen=True)
class Hermite(Activation):
    """Normalised Hermite polynomial of degree n; inputs must have unit variance: K' = q12^n."""

    n: int

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return the powers."""
        if self.n == 0:
            return torch.ones_like(q12), torch.zeros_like(q12)
        return q12**self.n, self.n * q12 ** (self.n - 1)

    def average(self, q: Tensor) -> Tensor:
        """Return 0, or 1 for degree 0."""
        return torch.ones_like(q) if self.n == 0 else torch.zeros_like(q)


@dataclass(frozen=True)
class Elementwise(Activation):
    """A nonlinearity given by its own kernel function.

    Args:
        nngp: function of (q12, q11, q22) that returns E[f(u) f(v)].
        dot: function of the same that returns E[f'(u) f'(v)]; default: derivative of ``nngp``.
        function: f itself, for finite networks and means.
    """

    nngp: Callable[[Tensor, Tensor, Tensor], Tensor]
    dot: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    function: Callable[[Tensor], Tensor] | None = field(default=None)

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function if it was given."""
        if self.function is None:
            return super().apply(x)
        return self.function(x)

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Evaluate the functions, differentiating where no derivative is given."""
        q11, q22 = q11.expand_as(q12), q22.expand_as(q12)
        value = self.nngp(q12, q11, q22)
        if self.dot is not None:
            return value, self.dot(q12, q11, q22)
        with torch.enable_grad():
            point = q12.detach().requires_grad_()
            total = self.nngp(point, q11.detach(), q22.detach()).sum()
            (dot,) = torch.autograd.grad(total, point)
        return value, dot
