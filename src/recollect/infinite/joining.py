"""Where branches meet: sums, products, concatenations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from recollect.infinite.states import Cross, Pair, Self, root

__all__ = ["Join", "Mixture", "PositionConcat", "Product", "Sum"]

States = Sequence[Self]


class Join:
    """One map of the kernels of several independent branches to one."""

    wants_means: ClassVar[bool] = False

    def places(self, places: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the sizes of the position axes; branches must agree."""
        if len(set(places)) > 1:
            raise ValueError(f"branches meet with different positions: {list(places)}")
        return places[0]

    def cross(self, ks: Sequence[Cross], pairs: Sequence[Pair]) -> Cross:
        """Map the kernels of pairs."""
        raise NotImplementedError

    def mean(self, states: States) -> Tensor | None:
        """Map the means over channels."""
        raise NotImplementedError

    def alone(self, states: States, *, full: bool) -> Self:
        """Map the states of single inputs."""
        pairs = [Pair(s, s, s, s, paired=True) for s in states]
        mask = reduce(_either, [s.mask for s in states])
        flats = [Cross(s.var[..., None], want_ntk=False) for s in states]
        var = self.cross(flats, pairs).nngp[..., 0]
        held = None
        if full:
            ks = []
            for s in states:
                assert s.full is not None
                ks.append(Cross(s.full, full=True, want_ntk=False))
            held = self.cross(ks, pairs).nngp
        return Self(var, held, None, mask)


def _either(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Join visible positions: what is seen in one branch is seen."""
    return None if a is None or b is None else a | b


def _total(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    return reduce(torch.add, present) if present else None


@dataclass(frozen=True)
class Sum(Join):
    """``sum_p c_p z_p`` of independent branches: K' = sum c^2 K + products of means.

    Args:
        coefficients: one per branch; a branch that is added twice counts with 2.
    """

    coefficients: tuple[float, ...]
    wants_means: ClassVar[bool] = True

    def cross(self, ks: Sequence[Cross], pairs: Sequence[Pair]) -> Cross:
        """Add the kernels and the products of different branches' means."""
        squares = [c * c for c in self.coefficients]
        scaled = [k.nngp if c == 1 else k.nngp * c for k, c in zip(ks, squares, strict=True)]
        nngp = reduce(torch.add, scaled)
        first = ks[0]
        sides = range(len(ks))
        gap = self._gap(ks, pairs, squares)
        for p, q in itertools.permutations(sides, 2):
            product = pairs[p].outer(pairs[p].a.mean, pairs[q].b.mean, full=first.full)
            if product is not None:
                gap = None
                nngp = nngp + product * (self.coefficients[p] * self.coefficients[q])
        ntk = _total(
            [
                k.ntk if k.ntk is None or c == 1 else k.ntk * c
                for k, c in zip(ks, squares, strict=True)
            ]
        )
        return first.each(nngp, ntk, gap)

    def _gap(
        self, ks: Sequence[Cross], pairs: Sequence[Pair], squares: list[float]
    ) -> Tensor | None:
        """Add the gaps, and what two deviations lose against each other (Lagrange).

        Branch by branch ``s - ab - cd = (ad - cb)^2 / (s + ab + cd)``, ``s = |(a, c)| |(b, d)|``.
        """
        if any(k.gap is None for k in ks):
            return None
        pair, full = pairs[0], ks[0].full
        total, a, b = None, None, None
        for k, p, square in zip(ks, pairs, squares, strict=True):
            assert k.gap is not None
            c, d = root(p.a.var * square), root(p.b.var * square)
            gap = k.gap * square
            if total is None or a is None or b is None:
                total, a, b = gap, c, d
                continue
            both1, both2 = torch.hypot(a, c), torch.hypot(b, d)
            a, c, out1 = (pair.left(v, full=full) for v in (a, c, both1))
            b, d, out2 = (pair.right(v, full=full) for v in (b, d, both2))
            turn = torch.square(a * d - c * b)
            below = (out1 * out2 + a * b + c * d).clamp_min(torch.finfo(turn.dtype).tiny)
            total = total + gap + turn / below
            a, b = both1, both2
        return total

    def mean(self, states: States) -> Tensor | None:
        """Add the means."""
        return _total(
            [
                None if s.mean is None else s.mean * c
                for s, c in zip(states, self.coefficients, strict=True)
            ]
        )


@dataclass(frozen=True)
class Product(Join):
    """Entrywise product of independent branches: K' = prod K, Theta' by the product rule."""

    def cross(self, ks: Sequence[Cross], pairs: Sequence[Pair]) -> Cross:
        """Multiply the kernels."""
        nngp = reduce(torch.mul, [k.nngp for k in ks])
        terms: list[Tensor | None] = []
        for i, k in enumerate(ks):
            if k.ntk is not None:
                others = [o.nngp for j, o in enumerate(ks) if j != i]
                terms.append(reduce(torch.mul, others, k.ntk))
        return ks[0].each(nngp, _total(terms))

    def mean(self, states: States) -> Tensor | None:
        """Multiply the means; one zero makes zero."""
        means = [s.mean for s in states]
        if any(m is None for m in means):
            return None
        return reduce(torch.mul, [m for m in means if m is not None])


@dataclass(frozen=True)
class Mixture(Join):
    """Concatenation of channels: kernels are averaged by width."""

    widths: tuple[int, ...]

    def _shares(self) -> list[float]:
        total = sum(self.widths)
        return [w / total for w in self.widths]

    def cross(self, ks: Sequence[Cross], pairs: Sequence[Pair]) -> Cross:
        """Average the kernels."""
        shares = self._shares()
        nngp = reduce(torch.add, [k.nngp * c for k, c in zip(ks, shares, strict=True)])
        ntk = _total(
            [None if k.ntk is None else k.ntk * c for k, c in zip(ks, shares, strict=True)]
        )
        return ks[0].each(nngp, ntk)

    def mean(self, states: States) -> Tensor | None:
        """Average the means."""
        return _total(
            [
                None if s.mean is None else s.mean * c
                for s, c in zip(states, self._shares(), strict=True)
            ]
        )


@dataclass(frozen=True)
class PositionConcat(Join):
    """Concatenation along a position axis of independent branches: blocks on the diagonal.

    Off the diagonal stand the products of the means.
    """

    axis: int
    wants_means: ClassVar[bool] = True

    def places(self, places: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Add the sizes along the axis."""
        rest = {p[: self.axis] + p[self.axis + 1 :] for p in places}
        if len(rest) > 1:
            raise ValueError(f"branches meet with different positions: {list(places)}")
        out = list(places[0])
        out[self.axis] = sum(p[self.axis] for p in places)
        return tuple(out)

    def cross(self, ks: Sequence[Cross], pairs: Sequence[Pair]) -> Cross:
        """Place the kernels as blocks."""
        if not ks[0].full:
            ntks = [k.ntk if k.ntk is not None else torch.zeros_like(k.nngp) for k in ks]
            ntk = None if all(k.ntk is None for k in ks) else torch.cat(ntks, self.axis)
            return ks[0].each(torch.cat([k.nngp for k in ks], self.axis), ntk)
        rank = pairs[0].a.rank
        rows: list[Tensor] = []
        tangents: list[Tensor] = []
        for i, k in enumerate(ks):
            row, tangent = [], []
            for j in range(len(ks)):
                if i == j:
                    row.append(k.nngp)
                    tangent.append(k.ntk if k.ntk is not None else torch.zeros_like(k.nngp))
                    continue
                block = self._between(k, pairs[i], pairs[j])
                row.append(block)
                tangent.append(torch.zeros_like(block))
            rows.append(torch.cat(row, rank + self.axis))
            tangents.append(torch.cat(tangent, rank + self.axis))
        none = all(k.ntk is None for k in ks)
        return ks[0].each(
            torch.cat(rows, self.axis), None if none else torch.cat(tangents, self.axis)
        )

    def _between(self, k: Cross, one: Pair, two: Pair) -> Tensor:
        """Return the block of two branches: zero, or the product of their means."""
        m1, m2 = one.a.mean, two.b.mean
        shape = (*one.a.var.shape[:-1], *two.b.var.shape[:-1], *k.nngp.shape[-2:])
        if m1 is None or m2 is None:
            return k.nngp.new_zeros(shape)
        return (one.left(m1, full=True) * two.right(m2, full=True)).expand(shape)

    def mean(self, states: States) -> Tensor | None:
        """Concatenate the means."""
        if all(s.mean is None for s in states):
            return None
        means = [torch.zeros_like(s.var) if s.mean is None else s.mean for s in states]
        return torch.cat(means, self.axis)


Axis = Literal["channels"] | int
