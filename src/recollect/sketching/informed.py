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
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._checks import RecipeMismatch, check_integer
from recollect.sketching.informed_reading import InformedRecollection, Reader, Reading
from recollect.sketching.prior import Prior
from recollect.sketching.recipe import ModuleTable, Recipe
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.sketches import Sketches, quantize
from recollect.tracing import Trace

__all__ = ["InformedSketcher", "Reading", "first_tier"]

# Bits that attributes and directions are cut to before they are multiplied.
ATTRIBUTE_BITS, DIRECTION_BITS = 20, 15
# Share of the largest deviation below which a direction's gain grows no more.
LEAST_DEVIATION = 0.02


Arrays = dict[str, npt.NDArray[Any]]


def first_tier(dim: int, share: float = 0.75) -> int:
    """Return how many numbers lead: a share of all, in steps of 64, and 64 left at least.

    Raises:
        ValueError: if the share is not between 0 and 1, or there is no room for two tiers.

    Example:
        >>> first_tier(256), first_tier(1024, 0.5), first_tier(128, 0.9)
        (192, 512, 64)
    """
    check_integer("dim", dim, minimum=128)
    if not 0 < share < 1:
        raise ValueError(f"the first tier's share must lie between 0 and 1, got {share}")
    return min(max(64, int(share * dim) // 64 * 64), dim - 64)


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
        chosen = first_tier(dim) if leading is None else leading
        if not prior.static:
            raise ValueError(
                "an informed recipe needs families that every glance of the prior holds exactly "
                "once; this prior has none (objects that come and go stay with a plain Sketcher)"
            )
        only = _static_part(prior)
        check_integer("leading", chosen, minimum=64)
        if chosen % 64 or chosen >= dim:
            raise ValueError(f"leading must be a multiple of 64 below dim={dim}, got {chosen}")
        self._begin(prior, prior.static, chosen, Sketcher(dim - chosen, seed, dtype="float32"))
        self.rest.scales = dict(scales or {})
        self.rest.admit(only)
        self._fit_directions(self.flat(only))
        self.recipe = replace(
            Recipe(dim, seed, "energy", dtype), leading=chosen, basis=self._digest()
        )

    def _begin(
        self,
        prior: Prior | Callable[[], Prior],
        families: tuple[str, ...],
        leading: int,
        rest: Sketcher,
    ) -> None:
        self._prior, self.families, self.leading, self.rest = prior, families, leading, rest
        self.reader = Reader(self)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        recipe: Recipe,
        modules: ModuleTable,
        prior: Prior | Callable[[], Prior],
    ) -> InformedSketcher:
        """Make the sketcher again whose ``to_arrays`` these are, bit by bit, on any machine.

        Args:
            arrays: mean, directions, gains, and the names of the families.
            recipe: its recipe.
            modules: table with the families' sizes, members and scales.
            prior: that it stands on, or what fetches it when it is first needed.

        Raises:
            RecipeMismatch: if the arrays are not those of the recipe, or a family's size is not
                that of the table.
        """
        made = cls.__new__(cls)
        families = tuple(json.loads(arrays["families"].tobytes()))
        rest = Sketcher(recipe.dim - recipe.leading, recipe.seed, dtype="float32")
        for name in families:
            if name in modules:
                e = modules[name]
                rest.modules.add(e.name, e.size, e.members, e.scale)
        made._begin(prior, families, recipe.leading, rest)
        made.recipe = recipe
        made.mean = torch.from_numpy(arrays["mean"].copy())
        held = torch.from_numpy(arrays["directions"].astype(np.float64))
        made.directions = torch.zeros(recipe.leading, len(made.mean), dtype=torch.float64)
        made.directions[: len(held)] = held
        made.gains = torch.from_numpy(arrays["gains"].copy())
        numbers = sum(e.size * len(e.members) for e in rest.modules)
        if numbers != len(made.mean) or made._digest() != recipe.basis:
            raise RecipeMismatch(
                f"these directions (basis {made._digest()}, of {len(made.mean)} numbers) are not "
                f"those of the recipe (basis {recipe.basis}, {numbers} numbers): restore the "
                "file from a copy"
            )
        made._set_images(len(held))
        return made

    def to_arrays(self) -> Arrays:
        """Return what the recipe's digest stands for, as plain arrays.

        Eigenvectors differ in their last bits, and in their signs, from machine to machine: they
        are kept, not computed again from the prior.
        """
        some = self.directions[: self._used].numpy()
        narrow = np.abs(some).max(initial=0) < 2**15
        return {
            "families": np.frombuffer(json.dumps(self.families).encode(), np.uint8),
            "mean": self.mean.numpy(),
            "directions": some.astype(np.int16 if narrow else np.int32),
            "gains": self.gains.numpy(),
        }

    def _digest(self) -> str:
        digest = hashlib.sha256(self.directions.to(torch.int32).numpy().tobytes())
        digest.update(self.gains.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def prior(self) -> Prior:
        """What the recipe stands on."""
        if callable(self._prior):
            self._prior = self._prior()
        return self._prior

    def __repr__(self) -> str:
        r = self.recipe
        return (
            f"InformedSketcher({self.leading} leading of dim={r.dim}, seed={r.seed}, "
            f"dtype={r.dtype!r}, {len(self.families)} modules)"
        )

    def stands_on(self, prior: Prior) -> bool:
        """Whether a prior is the one that the directions were fitted to (it may be lost)."""
        try:
            return prior is self.prior
        except (KeyError, OSError):
            return False

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
        self._set_images(len(axes))
        self.gains = torch.ones(self.recipe_dim, dtype=torch.float64)
        self.gains = self._measured_gains(u)

    @property
    def recipe_dim(self) -> int:
        """Numbers in a sketch."""
        return self.leading + self.rest.recipe.dim

    def _set_images(self, number: int) -> None:
        """Keep the (leading, d - p) oblivious images of the directions, without counts."""
        out = torch.zeros(self.leading, self.rest.recipe.dim, dtype=torch.float64)
        axes = (self.directions[:number] * 2.0**-DIRECTION_BITS).to(torch.float32)
        out[:number] = self._oblivious(axes).to(torch.float64)
        self._images, self._used = torch.round(out * 2.0**DIRECTION_BITS), number

    def _measured_gains(self, u: Tensor) -> Tensor:
        """One over the deviations; of the rest as of glances that the directions do not know."""
        image = self.centred_image(u)
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

    def flat(self, trace: Trace) -> Tensor:
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

    def centred_image(self, u: Tensor) -> Tensor:
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
                "recipe takes these only (begin an epoch with a prior that knows it, or a plain "
                "one: memory.new_epoch(informed=False))"
            )
        values = (self.centred_image(self.flat(trace)) * self.gains).to(torch.float32)
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
        return values + sketches.count[:, None] * self.offset[:d]

    @cached_property
    def offset(self) -> Tensor:
        """(d,) what the prior's mean adds to every glance's coordinates: its image around zero."""
        return -self.centred_image(torch.zeros(1, len(self.mean)))[0]

    def image(self, trace: Trace) -> Tensor:
        """Return the (B, d) float64 coordinates of glances that are not sketched."""
        return self.centred_image(self.flat(trace)) + self.offset

    def probe(self, trace: Trace) -> Tensor:
        """Return the (B, d) float64 coordinates of parts of glances: whatever is missing is zero.

        What the prior's static families do not hold is left out: nothing here can be like it.

        Raises:
            ValueError: if the objects are made of others: an informed recipe knows none.
        """
        if trace.edges is not None:
            raise ValueError(
                "an informed recipe sketches flat glances, and these objects are made of others; "
                "ask for a module of theirs"
            )
        u = torch.zeros(len(trace), len(self.mean))
        start = 0
        for name in self.families:
            entry = self.rest.modules[name]
            k = len(entry.members)
            if name in trace.columns:
                c = trace.columns[name]
                rows = (
                    c.attributes.cpu() / entry.scale * torch.from_numpy(c.weight)[:, None].sqrt()
                )
                part = torch.zeros(len(trace) * k, entry.size)
                part.index_add_(0, torch.from_numpy(c.glance * k + c.member), rows)
                u[:, start : start + k * entry.size] = part.view(len(trace), -1)
            start += k * entry.size
        return self.centred_image(u) + self.offset

    def decode(self, sketches: Sketches, prior: Prior | None = None) -> Reading:
        """Estimate all attributes, each with a standard deviation.

        Args:
            sketches: of this recipe; prefixes are welcome, and sums, of which the mean glance is
                read.
            prior: of the same network; the recipe's own if None. A later one reads better.

        Raises:
            RecipeMismatch: if the sketches were made with another recipe.
            ValueError: if the prior's modules or sizes differ.
        """
        self.recipe.check_same(sketches.recipe)
        mean, std = self.reader.read(sketches.cpu(), prior or self.prior)
        return Reading(self._trace(mean), self._trace(std))

    def recollect(self, sketches: Sketches, prior: Prior | None = None) -> InformedRecollection:
        """Return what sketches are read to hold, as ``Sketcher.decode`` does.

        Args:
            sketches: as for ``decode``.
            prior: as for ``decode``.

        Raises:
            RecipeMismatch: if the sketches were made with another recipe.
            ValueError: if the prior's modules or sizes differ.
        """
        self.recipe.check_same(sketches.recipe)
        return InformedRecollection(self, sketches.cpu(), prior or self.prior)


def _static_part(prior: Prior) -> Trace:
    """Return the static families of a prior's glances."""
    return Trace({k: prior.sample.columns[k] for k in prior.static}, len(prior.sample))


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
