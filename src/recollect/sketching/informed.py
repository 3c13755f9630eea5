"""Informed recipes: a first tier of the prior's leading directions, then an oblivious residual.

An oblivious sketch spends its numbers on all directions alike. Once a prior exists, a new *epoch*
of a memory may spend its first p numbers on what usually varies: with V the (p, K) leading
directions of the prior's static families, c their mean and S the oblivious operator of dim - p
numbers, a glance u becomes

    [ g (V (u - c)) ,  h S (I - V' V) (u - c) ],

with fixed gains g (one a direction) and h, so that all numbers are of one size when they are
rounded. It is affine in u with the same constant for every glance, so sums and counts add as
before; the directions stand in order, so prefixes are coarser sketches as before; and what the
prior has never seen is in the residual, so a later prior can still read it.

Products with V are sums of whole numbers (attributes are cut to 21 bits of the glance's largest,
directions to 16 bits) and so are exact in any order: row i does not depend on the batch.

Only families that are in every glance exactly once enter the first tier; objects that come and
go, and counts, are not taken by an informed recipe.

Shape letters: B glances, G glances of the prior, K numbers of all static families, p leading
directions, d numbers of a sketch.

Reference: our own; the residual is sketched as in "Frequent directions" and in range finders with
oblivious corrections ("Finding structure with randomness", Halko, Martinsson and Tropp, 2011).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.sketching.joint import JointPrior
from recollect.sketching.prior import Prior
from recollect.sketching.recipe import Recipe
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.sketches import Sketches, quantize
from recollect.tracing import Trace

__all__ = ["InformedSketcher", "Reading"]

# Bits that attributes and directions are cut to before they are multiplied.
ATTRIBUTE_BITS, DIRECTION_BITS = 20, 15
# Factors of the first tier against the rest, of which leave-one-out errors choose.
TIER_WEIGHTS = (1.0, 4.0, 16.0)
# Share of the largest deviation below which a direction's gain grows no more.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True, eq=False)
class Reading:
    """What informed sketches are read to hold.

    Attributes:
        trace: estimated attributes of every static family.
        deviations: their standard deviations, as a trace of the same structure.
    """

    trace: Trace
    deviations: Trace


@dataclass(frozen=True, eq=False)
class _Weighted:
    """A joint prior, and what a sketch's numbers are multiplied with before it reads them."""

    joint: JointPrior
    weight: Tensor


class InformedSketcher:
    """Makes sketches whose first numbers are the prior's leading directions.

    Args:
        prior: what is usual; its static families are what is sketched.
        dim: numbers in a sketch, a multiple of 64, at least 128.
        leading: numbers of the first tier, a multiple of 64; three quarters of ``dim`` if None,
            fewer where the prior has fewer directions.
        seed: of the oblivious rest.
        dtype: ``"int8"``, ``"float16"`` or ``"float32"``.
        scales: module -> what its attributes are divided by, as for a ``Sketcher``.

    Raises:
        ValueError: if the prior has no static family, its glances are all alike, or the sizes do
            not fit.

    Example:
        >>> g = torch.manual_seed(0)
        >>> x = torch.randn(200, 3, generator=g) @ torch.randn(3, 40, generator=g)
        >>> sketcher = InformedSketcher(Prior.fit(Trace.from_columns({"layer": x[:150]})), dim=128)
        >>> t = Trace.from_columns({"layer": x[150:]})
        >>> read = sketcher.decode(sketcher.encode(t)).trace.objects("layer").attributes
        >>> bool(((read - x[150:]).norm() / x[150:].norm()) < 0.01)
        True
    """

    def __init__(
        self,
        prior: Prior,
        dim: int = 1024,
        leading: int | None = None,
        seed: int = 0,
        dtype: str = "int8",
        scales: Mapping[str, float] | None = None,
    ) -> None:
        check_integer("dim", dim, minimum=128)
        if not prior.static:
            raise ValueError(
                "an informed recipe needs families that every glance of the prior holds exactly "
                "once; this prior has none (objects that come and go stay with a plain Sketcher)"
            )
        self.prior, self.families = prior, prior.static
        only = Trace({k: prior.sample.columns[k] for k in self.families}, len(prior.sample))
        chosen = max(64, 3 * dim // 4 // 64 * 64) if leading is None else leading
        check_integer("leading", chosen, minimum=64)
        if chosen % 64 or chosen >= dim:
            raise ValueError(f"leading must be a multiple of 64 below dim={dim}, got {chosen}")
        self.leading = chosen
        self.rest = Sketcher(dim - chosen, seed, dtype="float32", scales=scales)
        self.rest.admit(only)
        u = self._flat(only)
        self._fit_directions(u)
        digest = hashlib.sha256(self.directions.to(torch.int32).numpy().tobytes())
        digest.update(self.gains.numpy().tobytes())
        self.recipe = replace(
            Recipe(dim, seed, "energy", dtype), leading=chosen, basis=digest.hexdigest()[:16]
        )

    def __repr__(self) -> str:
        r = self.recipe
        return (
            f"InformedSketcher({self.leading} leading of dim={r.dim}, seed={r.seed}, "
            f"dtype={r.dtype!r}, {len(self.families)} modules)"
        )

    # -- the basis ------------------------------------------------------------------------

    def _fit_directions(self, u: Tensor) -> None:
        """Fix mean, directions (whole numbers), gains and the images of the directions."""
        self.mean = u.mean(0)
        centred = (u - self.mean).to(torch.float64)
        squares, left = torch.linalg.eigh(centred @ centred.T)
        kept = int((squares > squares[-1] * 1e-8).sum()) if float(squares[-1]) > 0 else 0
        if kept == 0:
            raise ValueError(
                "all glances of this prior are alike: there is no direction to lead with; fit it "
                "on varied glances"
            )
        order = torch.arange(len(u) - 1, len(u) - 1 - min(kept, self.leading), -1)
        axes = (left[:, order] / squares[order].sqrt()).T @ centred
        whole = torch.zeros(self.leading, u.shape[1], dtype=torch.float64)
        whole[: len(axes)] = torch.round(axes * 2.0**DIRECTION_BITS)
        self.directions = whole
        units = self._units(torch.eye(len(axes), dtype=torch.float64), len(axes))
        self._images = torch.round(units * 2.0**DIRECTION_BITS)
        self.gains = torch.ones(self.recipe_dim, dtype=torch.float64)
        self.gains = self._measured_gains(u)

    @property
    def recipe_dim(self) -> int:
        """Numbers in a sketch."""
        return self.leading + self.rest.recipe.dim

    def _units(self, _: Tensor, number: int) -> Tensor:
        """Return the (leading, d - p) oblivious images of the directions, without counts."""
        out = torch.zeros(self.leading, self.rest.recipe.dim, dtype=torch.float64)
        axes = (self.directions[:number] * 2.0**-DIRECTION_BITS).to(torch.float32)
        out[:number] = self._oblivious(axes).to(torch.float64)
        return out

    def _measured_gains(self, u: Tensor) -> Tensor:
        """One over the deviations; of the rest as of glances that the directions do not know."""
        image = self._image(u)
        lead = image[:, : self.leading].std(0)
        lead = lead.clamp_min(LEAST_DEVIATION * float(lead.max()))
        # What is left of a glance by the directions of the others: halves judge each other.
        half = len(u) // 2
        centred = (u - u[:half].mean(0)).to(torch.float64)
        basis = torch.linalg.qr(centred[:half].T, mode="reduced").Q[:, : self.leading]
        out = centred[half:] - centred[half:] @ basis @ basis.T
        size = float(out.square().sum(1).mean().sqrt()) / self.rest.recipe.dim**0.5
        rest = max(size, LEAST_DEVIATION * float(lead.max()))
        return 1 / torch.cat([lead, torch.full((self.rest.recipe.dim,), rest, dtype=lead.dtype)])

    # -- encoding -------------------------------------------------------------------------

    def _flat(self, trace: Trace) -> Tensor:
        """Return the (B, K) scaled attributes of the static families, float32."""
        parts = []
        for name in self.families:
            if name not in trace.columns or not trace.columns[name].is_static(len(trace)):
                raise ValueError(
                    f"module {name!r} is in every glance of the prior, but not of this trace; "
                    "an informed recipe is for the network that its prior was fitted on"
                )
            c, entry = trace.columns[name], self.rest.modules[name]
            if (c.size, c.members) != (entry.size, entry.members):
                raise ValueError(
                    f"the prior knows module {name!r} with attributes of {entry.size} numbers "
                    f"({len(entry.members)} members), these have {c.size} ({len(c.members)}); fit "
                    "the prior on the same network"
                )
            parts.append(c.attributes.cpu().reshape(len(trace), -1) / entry.scale)
        return torch.cat(parts, 1)

    def _trace(self, u: Tensor) -> Trace:
        """Return the trace whose scaled attributes are the rows of (B, K)."""
        columns, start = {}, 0
        for name in self.families:
            entry = self.rest.modules[name]
            k = entry.size * len(entry.members)
            part = (u[:, start : start + k] * entry.scale).reshape(-1, entry.size)
            start += k
            columns[name] = {
                "attributes": part.to(torch.float32),
                "glance": np.repeat(np.arange(len(u)), len(entry.members)),
                "members": list(entry.members),
                "member": np.tile(np.arange(len(entry.members)), len(u)),
            }
        return Trace.from_columns(columns, num_glances=len(u))

    def _oblivious(self, u: Tensor) -> Tensor:
        """Return the (B, d - p) oblivious images of scaled attributes, without counts."""
        encoder = self.rest.encoder()
        return encoder.operators.leave(encoder.working(self._trace(u), self.rest.modules))

    def _image(self, u: Tensor) -> Tensor:
        """Return the (B, d) images of u - c in float64, before the gains."""
        off = (u - self.mean).to(torch.float32)
        lead = _exact_product(off.to(torch.float64), self.directions)
        rest = self._oblivious(off).to(torch.float64) - _exact_product(lead, self._images.T)
        return torch.cat([lead, rest], 1)

    def encode(self, trace: Trace) -> Sketches:
        """Return one sketch per glance; row i depends on glance i alone.

        Args:
            trace: of the prior's network: each of its static families in every glance, and
                nothing else.

        Raises:
            ValueError: if families are missing, of another size, or there are others.
        """
        others = sorted(set(trace.columns) - set(self.families))
        if others:
            raise ValueError(
                f"module {others[0]!r} is not one of the prior's static families; an informed "
                "recipe takes these only (start an epoch with a prior that knows it)"
            )
        values = (self._image(self._flat(trace)) * self.gains).to(torch.float32)
        codes, scale = quantize(values, self.recipe.dtype)
        count = torch.ones(len(trace), dtype=torch.int64)
        return Sketches(codes, scale, count, None, self.rest.modules, self.recipe)

    # -- reading --------------------------------------------------------------------------

    def coordinates(self, sketches: Sketches) -> Tensor:
        """Return (B, d) float64 whose inner products estimate those of scaled attributes.

        Gains are undone and the prior's mean is put back (for every glance of a sum), so that
        they compare with the images of another epoch.

        Raises:
            RecipeMismatch: if the sketches were made with another recipe.
        """
        self.recipe.check_same(sketches.recipe)
        d = sketches.dim
        values = sketches.cpu().values.to(torch.float64) / self.gains[:d]
        return values + sketches.count[:, None] * self._mean_image[:d]

    @cached_property
    def _mean_image(self) -> Tensor:
        """(d,) what the prior's mean would add: its image around zero."""
        return -self._image(torch.zeros(1, len(self.mean)))[0]

    def image(self, trace: Trace) -> Tensor:
        """Return the (B, d) float64 coordinates of glances that are not sketched."""
        return self._image(self._flat(trace)) + self._mean_image

    def decode(self, sketches: Sketches, prior: Prior | None = None) -> Reading:
        """Estimate all attributes, each with a standard deviation.

        Args:
            sketches: of this recipe; prefixes are welcome, and sums, of which the mean glance is
                read (its deviations are those of single glances, hence too large).
            prior: of the same network; the recipe's own if None. A later one reads better.

        Raises:
            RecipeMismatch: if the sketches were made with another recipe.
            ValueError: if the prior's modules or sizes differ.
        """
        self.recipe.check_same(sketches.recipe)
        whole, rest = self._joint(prior or self.prior, sketches.dim)
        count = sketches.count.to(torch.float64)[:, None]
        values = sketches.cpu().values.to(torch.float64) / count
        mean = self.mean + self._led(values / self.gains[: sketches.dim])
        if rest is not None:
            mean = mean + rest.joint.estimate(values * rest.weight)
        rounding = rounding_variance(sketches.cpu()) / count[:, 0].square()
        std = whole.joint.std(rounding * float(whole.weight.square().mean()))
        return Reading(self._trace(mean), self._trace(std))

    def _led(self, image: Tensor) -> Tensor:
        """Return the (B, K) part of u - c that the first tier alone tells, float32."""
        lead = image[:, : self.leading]
        axes = self.directions[: lead.shape[1]].to(torch.float32) * 2.0**-DIRECTION_BITS
        led: Tensor = lead.to(torch.float32) @ axes
        return led

    def _joint(self, prior: Prior, dim: int) -> tuple[_Weighted, _Weighted | None]:
        """Return the joint priors of a prefix: over all of u, and over what V leaves of it.

        The second reads (the first tier is taken as it is), the first says how sure that is: its
        leave-one-out errors do not forget that V has seen the recipe's own prior.
        """
        key = (id(prior), dim)
        if key not in self._joints:
            missing = [k for k in self.families if k not in prior.static]
            if missing:
                raise ValueError(
                    f"the prior does not know module {missing[0]!r} as one of every glance; "
                    "decode with a prior of the same network"
                )
            only = Trace({k: prior.sample.columns[k] for k in self.families}, len(prior.sample))
            u = self._flat(only)
            image = self._image(u)[:, :dim]
            left = u - self.mean - self._led(image)
            small = float(left.square().sum()) < 1e-6 * float((u - self.mean).square().sum())
            gained = image * self.gains[:dim]
            self._joints[key] = (
                prior,
                self._best_weighted(u, gained),
                None if small else self._best_weighted(left, gained),
            )
        return self._joints[key][1:]

    def _best_weighted(self, rows: Tensor, images: Tensor) -> _Weighted:
        """Weigh the first tier against the rest by leave-one-out errors."""
        best: tuple[float, _Weighted] | None = None
        for factor in TIER_WEIGHTS:
            weight = 1 / self.gains[: images.shape[1]]
            weight[: self.leading] *= factor
            joint = self._weighted(rows, images, weight)
            error = float(joint.residuals().square().mean())
            if best is None or error < best[0]:
                best = (error, _Weighted(joint, weight))
        assert best is not None
        return best[1]

    @cached_property
    def _joints(self) -> dict[tuple[int, int], tuple[Prior, _Weighted, _Weighted | None]]:
        return {}

    def _weighted(self, u: Tensor, images: Tensor, weight: Tensor) -> JointPrior:
        slices, start = {}, 0
        for name in self.families:
            entry = self.rest.modules[name]
            k = entry.size * len(entry.members)
            slices[name] = slice(start, start + k)
            start += k
        _, scale = quantize(images[:32].to(torch.float32), self.recipe.dtype)
        noise = 0.0 if scale is None else float((scale.double().square() / 12).mean())
        weighted = images * weight
        mean = weighted.mean(0)
        return JointPrior(
            slices, u.mean(0), u - u.mean(0), mean, weighted - mean,
            noise * float(weight.square().mean()),
        )  # fmt: skip


def _exact_product(x: Tensor, whole: Tensor) -> Tensor:
    """Return x times the transpose of whole numbers / 2^15, exact in any order of addition.

    Args:
        x: (B, k) float64, cut to ``ATTRIBUTE_BITS`` bits of each row's largest.
        whole: (q, k) float64 whole numbers.
    """
    largest = x.abs().amax(1, keepdim=True).clamp_min(2.0**-100)
    unit = torch.exp2(torch.ceil(torch.log2(largest)) - ATTRIBUTE_BITS)
    product: Tensor = torch.round(x / unit) @ whole.T
    return product * (unit * 2.0**-DIRECTION_BITS)
