"""Sketches: one short vector per glance, kept as int8, float16 or float32, that add exactly.

Shape letters: B rows, d numbers in a sketch (the recipe's dim, or a prefix of it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.sketching.masking import check_kept
from recollect.sketching.recipe import ModuleTable, Recipe
from recollect.sketching.skeletons import Skeletons

__all__ = ["FIXED_POINT_BITS", "Sketches", "quantize"]

# Sums are kept as 64-bit integers in units of 2**-32, so that addition is exact in any order.
FIXED_POINT_BITS = 32


@dataclass(frozen=True, eq=False)
class Sketches:
    """Sketches of B glances, or sums of sketches.

    Attributes:
        codes: (B, d) int8, float16 or float32 as the recipe says; int64 fixed point for sums.
        scale: (B,) float32, what an int8 code is multiplied with (exactly a bfloat16); None for
            the other kinds.
        count: (B,) int64, glances in each row (1, or more in a sum).
        skeletons: structure of each glance; None for sums or where it was not kept.
        modules: name, size and scale of the modules that were sketched.
        recipe: what made the sketches.
        channel: the same glances' distribution channel, itself sketches of its own recipe; None
            where there is none or it was not read.
        kept: (d,) int64, which of their numbers these are after ``masked``; None for the first d.

    Example:
        >>> from recollect import Sketcher, Trace
        >>> s = Sketcher(dim=64).encode(Trace.from_columns({"eye": torch.eye(3)}))
        >>> s
        Sketches(3 of 64 int8 numbers, energy, seed 0)
        >>> (s[:1].sum() + s[1:].sum()).equal(s.sum())
        True
    """

    codes: Tensor
    scale: Tensor | None
    count: Tensor
    skeletons: Skeletons | None
    modules: ModuleTable
    recipe: Recipe
    channel: Sketches | None = None
    kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        kind = "summed" if self.is_sum else self.recipe.dtype
        r = self.recipe
        return f"Sketches({len(self)} of {self.dim} {kind} numbers, {r.scheme}, seed {r.seed})"

    @property
    def dim(self) -> int:
        """Numbers in each sketch (smaller than the recipe's dim after ``prefix``)."""
        return int(self.codes.shape[1])

    @property
    def is_sum(self) -> bool:
        """Whether the rows are sums in 64-bit fixed point."""
        return self.codes.dtype == torch.int64

    @property
    def values(self) -> Tensor:
        """The sketches as (B, d) float32."""
        if self.is_sum:
            return (self.codes.to(torch.float64) * 2.0**-FIXED_POINT_BITS).to(torch.float32)
        if self.scale is not None:
            return self.codes.to(torch.float32) * self.scale[:, None]
        return self.codes.to(torch.float32)

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray[np.int64]) -> Sketches:
        rows = np.atleast_1d(np.arange(len(self))[index])
        kept = torch.from_numpy(rows)
        return replace(
            self,
            codes=self.codes[kept],
            scale=None if self.scale is None else self.scale[kept],
            count=self.count[kept],
            skeletons=None if self.skeletons is None else self.skeletons.select(rows),
            channel=None if self.channel is None else self.channel[rows],
        )

    def prefix(self, dim: int) -> Sketches:
        """Return the coarser sketches that the first ``dim`` numbers are.

        Raises:
            ValueError: if ``dim`` is larger than the sketches are.
        """
        check_integer("dim", dim, minimum=1)
        if dim > self.dim:
            raise ValueError(f"a prefix of {dim} numbers is asked of sketches of {self.dim}")
        kept = None if self.kept is None else self.kept[:dim]
        return replace(self, codes=self.codes[:, :dim].contiguous(), kept=kept)

    def masked(
        self, kept: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_] | Tensor
    ) -> Sketches:
        """Return the coarser sketches that any of the numbers are, whichever were lost.

        They decode, add and compare like a prefix of the same length.

        Args:
            kept: places of the numbers that are left, or (d,) booleans.

        Raises:
            ValueError: if none is left, or a place is out of range or there twice.

        Example:
            >>> from recollect import Sketcher, Trace
            >>> sketcher = Sketcher(dim=128, dtype="float32")
            >>> s = sketcher.encode(Trace.from_columns({"cat": torch.tensor([[1.0, 2.0]])}))
            >>> left = s.masked([i for i in range(128) if i % 3])
            >>> sketcher.decode(left).objects("cat").attributes.round(decimals=3).tolist()
            [[1.0, 2.0]]
        """
        places = check_kept(kept, self.dim).to(self.codes.device)
        return replace(
            self,
            codes=self.codes.index_select(1, places),
            kept=places if self.kept is None else self.kept[places],
        )

    def fixed_point(self) -> Tensor:
        """Return the sketches as (B, d) int64 in units of 2**-32 (what sums are made of).

        Raises:
            ValueError: if a number does not fit.
        """
        if self.is_sum:
            return self.codes
        exact = self.codes.to(torch.float64)
        if self.scale is not None:
            exact = exact * self.scale.to(torch.float64)[:, None]
        _check_fits(exact, 2.0 ** (63 - FIXED_POINT_BITS))
        return torch.round(exact * 2.0**FIXED_POINT_BITS).to(torch.int64)

    def sum(self) -> Sketches:
        """Return the exact sum of all rows: one row, with ``count`` the glances in it.

        Integer addition is associative, so any order and any grouping gives the same bits.

        Raises:
            ValueError: if the sum does not fit 64-bit fixed point.
        """
        exact = self.fixed_point()
        _check_fits(exact.to(torch.float64).sum(0), 2.0**63)
        return replace(
            self,
            codes=exact.sum(0, keepdim=True),
            scale=None,
            count=self.count.sum(0, keepdim=True),
            skeletons=None,
            channel=None if self.channel is None else self.channel.sum(),
        )

    def __add__(self, other: Sketches) -> Sketches:
        """Add two sums (or single sketches), row by row.

        Raises:
            RecipeMismatch: if they were made with different recipes.
            ValueError: if their sizes or module tables differ, or a sum does not fit.
        """
        self._check_compatible(other)
        if len(self) != len(other):
            raise ValueError(f"{len(self)} and {len(other)} sketches cannot be added row by row")
        a, b = self.fixed_point(), other.fixed_point()
        _check_fits(a.to(torch.float64) + b.to(torch.float64), 2.0**63)
        return replace(
            self,
            codes=a + b,
            scale=None,
            count=self.count + other.count,
            skeletons=None,
            modules=_wider(self.modules, other.modules),
            channel=_both(self.channel, other.channel, lambda a, b: a + b),
        )

    @classmethod
    def concat(cls, parts: Sequence[Sketches]) -> Sketches:
        """Join sketches of one recipe, row after row.

        Raises:
            ValueError: if there is none, or they cannot be joined.
        """
        if not parts:
            raise ValueError("Sketches.concat needs at least one part, got none")
        first = parts[0]
        table = first.modules
        for p in parts[1:]:
            first._check_compatible(p)
            table = _wider(table, p.modules)
        skeletons = None
        if all(p.skeletons is not None for p in parts):
            packed = [b for p in parts if p.skeletons is not None for b in p.skeletons.packed()]
            skeletons = Skeletons.from_packed(packed)
        summed = any(p.is_sum for p in parts)
        codes = torch.cat([p.fixed_point() if summed else p.codes for p in parts])
        scales = [p.scale for p in parts if p.scale is not None]
        scale = torch.cat(scales) if scales and not summed else None
        count = torch.cat([p.count for p in parts])
        channels = [p.channel for p in parts if p.channel is not None]
        channel = cls.concat(channels) if len(channels) == len(parts) else None
        return cls(codes, scale, count, skeletons, table, first.recipe, channel, first.kept)

    def equal(self, other: Sketches) -> bool:
        """Whether the two hold the same bits, made with one recipe."""
        same_scale = (self.scale is None) == (other.scale is None) and (
            self.scale is None or other.scale is None or torch.equal(self.scale, other.scale)
        )
        return (
            same_scale
            and self.recipe == other.recipe
            and self.codes.dtype == other.codes.dtype
            and _same_numbers(self.kept, other.kept)
            and torch.equal(self.codes, other.codes)
            and torch.equal(self.count, other.count)
            and (self.channel is None) == (other.channel is None)
            and (
                self.channel is None or other.channel is None or self.channel.equal(other.channel)
            )
        )

    def cpu(self) -> Sketches:
        """Return the sketches on the host."""
        scale = None if self.scale is None else self.scale.cpu()
        channel = None if self.channel is None else self.channel.cpu()
        kept = None if self.kept is None else self.kept.cpu()
        codes, count = self.codes.cpu(), self.count.cpu()
        return replace(self, codes=codes, scale=scale, count=count, channel=channel, kept=kept)

    def _check_compatible(self, other: Sketches) -> None:
        self.recipe.check_same(other.recipe)
        if self.dim != other.dim:
            raise ValueError(f"sketches of {self.dim} and {other.dim} numbers cannot be mixed")
        if not _same_numbers(self.kept, other.kept):
            raise ValueError(
                "these sketches keep different ones of their numbers; mask both alike first"
            )


def _same_numbers(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def _both(
    a: Sketches | None, b: Sketches | None, join: Callable[[Sketches, Sketches], Sketches]
) -> Sketches | None:
    """Join two channels; None if either is missing."""
    return None if a is None or b is None else join(a, b)


def _check_fits(values: Tensor, limit: float) -> None:
    """Refuse float64 values that would run over as fixed-point integers."""
    if values.numel() and bool(values.abs().amax() >= limit):
        raise ValueError(
            f"sketches hold numbers too large to be added exactly (2**{63 - FIXED_POINT_BITS}); "
            "give the Sketcher scales, so that attributes are of size one"
        )


def _wider(a: ModuleTable, b: ModuleTable) -> ModuleTable:
    """Return the table that contains the other.

    Raises:
        ValueError: if neither continues the other.
    """
    if a is b:
        return a
    short, long = sorted((a, b), key=len)
    rows = long.to_list()
    if short.to_list() != rows[: len(short.to_list())]:
        raise ValueError(
            "these sketches come from different module tables; encode them with one Sketcher, or "
            "through one Memory, so that ids and scales agree"
        )
    return long


def quantize(values: Tensor, dtype: str) -> tuple[Tensor, Tensor | None]:
    """Round sketches to their kept form, row by row.

    int8 codes are ``round(value / scale)`` with one scale per row, the largest absolute value
    over 127, rounded up to a bfloat16, so that no code is clipped.

    Args:
        values: (B, d) float32.
        dtype: ``"int8"``, ``"float16"`` or ``"float32"``.

    Returns:
        codes (B, d) and scale (B,) float32, or None where there is none.

    Raises:
        ValueError: if a value does not fit a float16.

    Example:
        >>> codes, scale = quantize(torch.tensor([[1.0, -0.5]]), "int8")
        >>> codes.tolist(), (codes * scale[:, None]).round(decimals=2).tolist()
        ([[126, -63]], [[1.0, -0.5]])
    """
    if dtype == "float32":
        return values, None
    if dtype == "float16":
        if bool((values.abs() > 65504).any()):
            raise ValueError(
                "a sketch holds numbers beyond float16 (65504); give the Sketcher scales, or "
                'use dtype="float32" or "int8"'
            )
        return values.to(torch.float16), None
    scale = _bfloat16_up(values.abs().amax(1) / 127)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(values / safe[:, None]).to(torch.int8), scale


def _bfloat16_up(positive: Tensor) -> Tensor:
    """Round non-negative float32 up to the next number that a bfloat16 holds."""
    bits = positive.contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)
