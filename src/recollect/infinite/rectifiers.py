"""The base of all nonlinearities, and those with a kink: rectifiers, sign, their powers.

Letters: rho = q12 / sqrt(q11 q22) = cos(theta), delta = 1 - rho.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recollect.infinite.fused import fused_rectifier
from recollect.infinite.states import Cross, Layer, Pair, Self, Style, root

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "Dual",
    "LeakyRelu",
    "RectifiedMonomial",
    "Relu",
    "Sign",
    "angles",
]

Dual = tuple[Tensor, Tensor]


class Activation(Layer):
    """Base of the nonlinearities: subclasses give :meth:`dual` and :meth:`apply`."""

    style: ClassVar[Style] = "pointwise"

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself, as a finite network would."""
        raise NotImplementedError(f"{type(self).__name__} is known as a kernel only")

    def dual(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Dual:
        """Return E[f(u) f(v)] and E[f'(u) f'(v)]."""
        raise NotImplementedError

    def variance(self, q: Tensor) -> Tensor:
        """Return E[f(u)^2] for a variance q."""
        return self.dual(q, q, q)[0]

    def average(self, q: Tensor) -> Tensor:
        """Return E[f(u)] for a variance q, by quadrature unless a subclass knows better."""
        z = torch.linspace(-12.0, 12.0, 961, dtype=torch.float64, device=q.device)
        weight = torch.exp(-0.5 * z**2) * (0.025 / math.sqrt(2 * math.pi))
        values = self.apply(root(q)[..., None].double() * z)
        return (values * weight).sum(-1).to(q.dtype)

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the dual at every pair."""
        q11, q22 = pair.left(pair.a.var, full=k.full), pair.right(pair.b.var, full=k.full)
        nngp, dot = self.dual(k.nngp, q11, q22)
        return k.each(nngp, None if k.ntk is None else k.ntk * dot)

    def mean(self, state: Self) -> Tensor | None:
        """Return the mean over channels."""
        return self.average(state.var)

    def alone(self, state: Self, *, full: bool) -> Self:
        """Use the exact variance; pairs of positions only if asked for."""
        out = super().alone(state, full=True) if full else state
        var = self.variance(state.var)
        if state.mask is not None:
            var = var * state.mask
        return Self(var, out.full if full else None, None, state.mask)


def angles(
    q12: Tensor, v1: Tensor, v2: Tensor, gap: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return delta, theta, sin(theta) and sqrt(q11 q22), exact on repeats and safe at any scale.

    Variances are scaled by powers of two, so that their product neither overflows nor loses
    bits, and equal rows give delta = 0 exactly. A zero row counts as parallel to everything.

    Args:
        q12: covariances.
        v1: variances of x1, in a shape that spreads over q12.
        v2: variances of x2, likewise.
        gap: ``sqrt(q11 q22) - q12`` if it is known better than by subtraction.
    """
    if not torch.is_grad_enabled() and _is_usual(v1) and _is_usual(v2):
        return _usual_angles(q12, v1, v2, gap)
    p1, p2 = _power(v1), _power(v2)
    s = (v1 * p1 * p1) * (v2 * p2 * p2)
    s = root(s) if s.requires_grad else s.sqrt_()
    tiny = torch.finfo(s.dtype).tiny
    grad = torch.is_grad_enabled() and (q12.requires_grad or s.requires_grad)
    if grad:
        base = s - q12 * p1 * p2 if gap is None else gap * p1 * p2
        delta = (base / s.clamp_min(tiny)).clamp(0.0, 2.0)
        theta = 2.0 * _differentiable_asin(0.5 * delta)
        sin = root(delta * (2.0 - delta))
        return delta, theta, sin, s / p1 / p2
    known = gap is not None
    delta = ((gap if known else q12) * p1).mul_(p2)  # type: ignore[operator]
    delta = delta if known else delta.neg_().add_(s)
    delta = delta.div_(s.clamp_min(tiny)).clamp_(0.0, 2.0)
    theta = (delta * 0.5).sqrt_().asin_().mul_(2.0)
    sin = (2.0 - delta).mul_(delta).sqrt_()
    return delta, theta, sin, s.div_(p1).div_(p2)


def _is_usual(v: Tensor) -> bool:
    """Say whether products of such variances neither overflow nor vanish."""
    room = torch.finfo(v.dtype).max ** 0.45
    return v.numel() > 0 and float(v.max()) < room and float(v.min()) > 1 / room


def _usual_angles(
    q12: Tensor, v1: Tensor, v2: Tensor, gap: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what :func:`angles` does where no scaling is needed, in fewer passes."""
    s = (v1 * v2).sqrt_()
    delta = torch.div(gap, s) if gap is not None else (s - q12).div_(s)
    delta.clamp_(0.0, 2.0)
    theta = (delta * 0.5).sqrt_().asin_().mul_(2.0)
    sin = (2.0 - delta).mul_(delta).sqrt_()
    return delta, theta, sin, s


def _power(v: Tensor) -> Tensor:
    """Return 2^-e with v about 4^e; 1 for zero."""
    safe = torch.where(v > 0, v, torch.ones_like(v)).detach()
    return torch.exp2(-torch.floor(0.5 * torch.log2(safe)))


def _differentiable_asin(half: Tensor) -> Tensor:
    """Return asin(sqrt(half)), with a derivative of zero at 0 and 1 instead of infinity."""
    inside = (half > 0) & (half < 1)
    safe = torch.where(inside, half, torch.full_like(half, 0.5))
    edge = torch.where(half <= 0, torch.zeros_like(half), torch.full_like(half, math.pi / 2))
    return torch.where(inside, safe.sqrt().asin(), edge)


@dataclass(frozen=True)
class ABRelu(Activation):
    """``a min(x, 0) + b max(x, 0)``: ReLU (0, 1), leaky ReLU (slope, 1), modulus (-1, 1).

    ``K' = (a-b)^2/(2 pi) s sin(theta) + D q12`` with ``D = (a^2+b^2)/2 - (a-b)^2 theta/(2 pi)``.

    Reference: Kernel methods for deep learning (Cho, Saul, 2009).

    Example:
        >>> q = torch.ones(1, dtype=torch.float64)
        >>> ABRelu(0.0, 1.0).variance(q).item()
        0.5
    """

    a: float = 0.0
    b: float = 1.0

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return self.a * x.clamp_max(0) + self.b * x.clamp_min(0)

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the closed form, carrying the gap along if there is one."""
        v1, v2 = pair.left(pair.a.var, full=k.full), pair.right(pair.b.var, full=k.full)
        bend = (self.a - self.b) ** 2 / (2 * math.pi)
        flat = (self.a**2 + self.b**2) / 2
        if bend == 0:
            ntk = None if k.ntk is None else k.ntk * flat
            return k.each(k.nngp * flat, ntk, None if k.gap is None else k.gap * flat)
        if k.compiled and k.gap is not None:
            sides = pair.a.root, pair.b.root
            held = fused_rectifier(k.nngp, k.gap, k.ntk, sides, self.a, self.b)
            return k.each(held[0], held[2], held[1])
        if k.gap is not None and not torch.is_grad_enabled():
            return self._with_gap(k, k.gap, pair)
        delta, theta, sin, s = angles(k.nngp, v1, v2, k.gap)
        if not torch.is_grad_enabled():
            return self._in_place(k, delta, theta, sin, s)
        dot = flat - bend * theta
        gap = None
        if k.gap is not None:
            turn = sin - theta * (1.0 - delta)
            gap = (flat * k.gap - bend * s * turn).clamp_min(0)
        nngp = torch.addcmul(dot * k.nngp, s, sin, value=bend)
        ntk = None if k.ntk is None else dot * k.ntk
        return k.each(nngp, ntk, gap)

    def _in_place(self, k: Cross, delta: Tensor, theta: Tensor, sin: Tensor, s: Tensor) -> Cross:
        """Apply the closed form, overwriting the angles: memory is what limits speed here."""
        bend = (self.a - self.b) ** 2 / (2 * math.pi)
        flat = (self.a**2 + self.b**2) / 2
        dot = theta.mul_(-bend).add_(flat)
        nngp = (dot * k.nngp).addcmul_(s, sin, value=bend)
        return k.each(nngp, None if k.ntk is None else dot.mul_(k.ntk))

    def _with_gap(self, k: Cross, gap: Tensor, pair: Pair) -> Cross:
        """Apply the closed form to kernels at equal positions, in as few passes as can be.

        h = delta / 2 = sin^2(theta / 2), so that theta / 2 = asin(sqrt h).
        """
        bend = (self.a - self.b) ** 2 / (2 * math.pi)
        flat = (self.a**2 + self.b**2) / 2
        s = torch.mul(
            pair.left(2.0 * pair.a.root, full=False), pair.right(pair.b.root, full=False)
        )
        h = torch.div(gap, s).clamp_max_(1.0)
        half = h.sqrt().asin_()
        sin = torch.rsub(h, 1.0).mul_(h).sqrt_()  # half of it as well, and s is twice
        turn = torch.sub(sin, h.mul_(-2.0).add_(1.0).mul_(half), out=h)
        own = k.fresh and k.ntk is not k.nngp
        apart = gap.mul_(flat) if own else gap * flat
        apart.addcmul_(s, turn, value=-bend).clamp_min_(0)
        dot = half.mul_(-2 * bend).add_(flat)
        nngp = k.nngp.mul_(dot) if own else dot * k.nngp
        nngp.addcmul_(s, sin, value=bend)
        return k.each(nngp, None if k.ntk is None else dot.mul_(k.ntk), apart, fresh=True)

    def variance(self, q: Tensor) -> Tensor:
        """Return (a^2 + b^2)/2 q."""
        return q * ((self.a**2 + self.b**2) / 2)

    def average(self, q: Tensor) -> Tensor:
        """Return (b - a) sqrt(q / 2 pi)."""
        return (self.b - self.a) * root(q / (2 * math.pi))


def Relu() -> ABRelu:  # noqa: N802 - a layer like the others
    """Rectifier, max(x, 0)."""
    return ABRelu(0.0, 1.0)


def LeakyRelu(slope: float = 0.01) -> ABRelu:  # noqa: N802
    """Rectifier with a slope below zero."""
    return ABRelu(slope, 1.0)


def Abs() -> ABRelu:  # noqa: N802
    """Modulus."""
    return ABRelu(-1.0, 1.0)


@dataclass(frozen=True)
class Sign(Activation):
    """``sign(x)``: K' = 1 - 2 theta / pi; its derivative counts as zero."""

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return torch.sign(x)

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the closed form; the tangent kernel ends here."""
        v1, v2 = pair.left(pair.a.var, full=k.full), pair.right(pair.b.var, full=k.full)
        _, theta, _, _ = angles(k.nngp, v1, v2, k.gap)
        nngp = 1.0 - theta * (2 / math.pi)
        return k.each(nngp, None if k.ntk is None else torch.zeros_like(nngp))

    def variance(self, q: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(q)

    def average(self, q: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(q)


@dataclass(frozen=True)
class RectifiedMonomial(Activation):
    """``max(x, 0)^n`` (a step for n = 0), any n.

    ``K' = (q11 q22)^(n/2) J_n(theta) / (2 pi)``, the arc-cosine kernels. J_n is a polynomial in
    sin and cos; on exact repeats it equals pi (2n-1)!!.

    Reference: Kernel methods for deep learning (Cho, Saul, 2009).
    """

    n: int

    def apply(self, x: Tensor) -> Tensor:
        """Apply the function itself."""
        return (x >= 0).to(x) * x**self.n

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the closed form."""
        v1, v2 = pair.left(pair.a.var, full=k.full), pair.right(pair.b.var, full=k.full)
        delta, theta, sin, s = angles(k.nngp, v1, v2, k.gap)
        nngp = s**self.n * _arc(self.n, theta, 1.0 - delta, sin) / (2 * math.pi)
        if k.ntk is None:
            return k.each(nngp, None)
        if self.n == 0:
            return k.each(nngp, torch.zeros_like(nngp))
        lower = s ** (self.n - 1) * _arc(self.n - 1, theta, 1.0 - delta, sin)
        return k.each(nngp, k.ntk * lower * (self.n**2 / (2 * math.pi)))

    def variance(self, q: Tensor) -> Tensor:
        """Return (2n-1)!! q^n / 2."""
        return q**self.n * (math.prod(range(1, 2 * self.n, 2)) / 2)

    def average(self, q: Tensor) -> Tensor:
        """Return the half moment E[max(u, 0)^n]."""
        n = self.n
        moment = 2 ** (n / 2) * math.gamma((n + 1) / 2) / (2 * math.sqrt(math.pi))
        return q ** (n / 2) * moment


def _arc(n: int, theta: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Return J_n = A_n (pi - theta) + B_n with polynomials in c = cos, s = sin.

    J_n = (-1)^n s^(2n+1) ((1/s) d/d theta)^n ((pi - theta)/s) is expanded by the recursion of
    the bivariate moments E[u^n v^n; u, v > 0], which divides by nothing.
    """
    return 2 * math.pi * _orthant_moment(n, n, theta, c, s, {})


def _orthant_moment(
    m: int, n: int, theta: Tensor, c: Tensor, s: Tensor, known: dict[tuple[int, int], Tensor]
) -> Tensor:
    """Return E[u^m v^n; u, v > 0] for unit variances and correlation c (Gaussian integration)."""
    if (m, n) in known:
        return known[m, n]
    if m == 0 and n == 0:
        value = (math.pi - theta) / (2 * math.pi)
    elif m == 0:
        # By parts in v: (n-1) E[v^(n-2)] plus the edge u = 0, where v is N(0, s^2).
        value = c * _edge(n - 1, s)
        if n >= 2:
            value = value + (n - 1) * _orthant_moment(0, n - 2, theta, c, s, known)
        if n == 1:
            value = value + 1 / (2 * math.sqrt(2 * math.pi))
    elif n == 0:
        value = _orthant_moment(0, m, theta, c, s, known)
    else:
        # E[u g(u, v)] = E[g_u] + c E[g_v] with g = u^(m-1) v^n on the quadrant.
        value = c * n * _orthant_moment(m - 1, n - 1, theta, c, s, known)
        if m >= 2:
            value = value + (m - 1) * _orthant_moment(m - 2, n, theta, c, s, known)
        else:
            value = value + _edge(n, s)
    known[m, n] = value
    return value


def _edge(n: int, s: Tensor) -> Tensor:
    """Return the density of u at 0 times E[v^n; v > 0 | u = 0], v ~ N(0, s^2)."""
    half = 2 ** (n / 2) * math.gamma((n + 1) / 2) / (2 * math.sqrt(math.pi))
    return s**n * (half / math.sqrt(2 * math.pi))
