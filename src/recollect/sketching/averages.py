"""Averages of any function of a module's attribute over a window, from the channel's sum alone.

The channel's sum over a window is ``y = sum_M n_M B_M' f_M + rounding``, with n_M objects of
module M, B_M the images of its features and f_M their mean. Objects that were kept whole (the
prior's sample) say how features and any function g go together: with P0 their smoothed
distribution, that of a window is one drawn around it, and moved as a whole:

    E f = E_P0 phi,   cov(f, g) = (1/n + 1/r) cov_P0(phi, g) + excess C(phi, g).

n is the number of objects in the window, r of those kept whole. C says how averages go together
where a distribution moves, spreads or tilts (``drifts``). The *excess*, by how much windows differ
beyond chance, is read from the sum itself, by likelihood, for the module that is asked about and
for all others. The estimate of the mean of g is LMMSE: what the features tell of g is taken from
the window, the rest from what is usual, and the deviation says how much that is.

Shape letters: R reference points, m numbers in an attribute, D features, c numbers in a channel,
q functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching.drifts import Drifts
from recollect.sketching.features import features_of
from recollect.sketching.prior import Prior
from recollect.sketching.references import Reference
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.solve import misfit

__all__ = ["FEWEST", "Averages", "Reference", "TooFewRecords"]

FloatArray = npt.NDArray[np.float64]
Function = Callable[[FloatArray], npt.NDArray[Any]]

# Objects kept whole that a module needs before anything is said of its distribution.
FEWEST = 16
# Up to this excess a window is taken to hold nothing further out than records do.
USUAL_EXCESS = 0.1
EXCESSES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Deviations are this much larger than the model's: on 48 windows of two worlds each
# (benchmarks/distribution_channel.py) some intervals held 82 to 85 % without it.
STRETCH = 1.06
# Numbers of a mean whose errors, told by the sum of the sketches, may be one and the same.
TOGETHER = 4
# Share of an excess that may be rough: drawn anew from what was kept.
ROUGH = 0.01
# Load of a channel beyond which error bars are stretched.
CROWDED = 1.25


class TooFewRecords(ValueError):
    """Too few objects of a module were kept whole to say how it is distributed."""


@dataclass(frozen=True, eq=False)
class _Known:
    """What is usual of one module's features: mean (D,), covariance (D, D), records.

    ``moved`` (D, D) is the covariance of what drifts change the mean by.
    """

    mean: Tensor
    covariance: Tensor
    records: int
    moved: Tensor


@dataclass(frozen=True, eq=False)
class _Model:
    """What a window's sum sees of a module's objects: of points (R, c), of drifts (J, c)."""

    weight: Tensor
    seen: Tensor
    moved: Tensor


@dataclass(frozen=True, eq=False)
class Window:
    """A window's sum beside what is usual.

    Attributes:
        module: that is asked about.
        model: of the module that is asked about.
        difference: (c,) of the sum from its expectation.
        rest: (c, c) covariance of all that is not this module.
        factor: (c, c) Cholesky factor of the whole covariance.
        excess: (J,) weight of each version that the module's distribution may have moved to.
        rough: share of the module's variance that the mean of its objects has anew.
        wider: by which deviations are stretched.
        unusual: whether it may hold objects further out than any record.
    """

    module: str
    model: _Model
    difference: Tensor
    rest: Tensor
    factor: Tensor
    excess: Tensor
    rough: float
    wider: float
    unusual: bool


class Averages:
    """Reads averages of functions from sums of the channel, with what a prior kept whole.

    Args:
        sketcher: of a recipe with a channel.
        prior: whose sample says how features and functions go together.

    Example:
        >>> from recollect import Sketcher, Trace
        >>> x = torch.randn(600, 2, generator=torch.manual_seed(0))
        >>> t = Trace.from_columns({"eye": x})
        >>> sketcher = Sketcher(channel=True)
        >>> total = sketcher.encode(t[300:]).sum().channel.values[0].double()
        >>> averages = Averages(sketcher, Prior.fit(t[:300]))
        >>> mean, std = averages.of("eye", lambda x: x[:, :1] > 0.5, total, 300, {"eye": (300, 0)})
        >>> truth = (x[300:, 0] > 0.5).double().mean()
        >>> bool(abs(mean[0] - truth) < 3 * std[0]), bool(std[0] < 0.02)
        (True, True)
    """

    def __init__(self, sketcher: Sketcher, prior: Prior) -> None:
        self.sketcher, self.prior = sketcher, prior
        self.encoder = sketcher.channel_encoder()
        self.table = sketcher.modules
        self._known: dict[str, _Known] = {}
        self._references: dict[str, Reference] = {}
        self._drifts: dict[str, tuple[Drifts, Tensor]] = {}

    @cached_property
    def usual_noise(self) -> float:
        """Variance that rounding adds to each number of one glance's channel."""
        some = self.prior.sample[np.arange(min(len(self.prior.sample), 64))]
        kept = self.sketcher.encode(some).channel
        assert kept is not None
        return max(float(rounding_variance(kept).mean()), 1e-12)

    def reference(self, module: str) -> Reference:
        """Return a module's smoothed distribution.

        Raises:
            NotRemembered: if the module was never seen.
            TooFewRecords: if fewer than ``FEWEST`` of its objects were kept whole.
            ValueError: if the channel does not follow it.
        """
        if module not in self._references:
            entry = self.table.family_of(self.table.id_of(module))
            if not self.encoder.channel.follows(entry.name):
                raise ValueError(
                    f"the distribution channel does not follow module {module!r}, only "
                    f"{', '.join(self.encoder.channel.modules or ())}; its single glances can "
                    "still be decoded (source='sketch')"
                )
            kept = self._kept(module)
            if len(kept) < FEWEST:
                raise TooFewRecords(
                    f"{len(kept)} objects of module {module!r} were kept whole, and its "
                    f"distribution needs {FEWEST}; keep more records (Memory(..., reservoir=...))"
                    " or fit a prior on more glances"
                )
            self._references[module] = Reference.of(kept)
        return self._references[module]

    def _kept(self, module: str) -> FloatArray:
        if module not in self.prior.modules:
            return np.zeros((0, 1))
        return np.asarray(self.prior.sample.objects(module).attributes.numpy(), np.float64)

    def _phi(self, module: str, points: FloatArray) -> Tensor:
        entry = self.table.family_of(self.table.id_of(module))
        x = torch.from_numpy(points)
        return features_of(x, entry, self.encoder.channel, self.encoder.seed).to(torch.float64)

    def _drifting(self, module: str) -> tuple[Drifts, Tensor]:
        """Versions of a module's distribution, and what they change its features by, (J, D)."""
        if module not in self._drifts:
            drifts = Drifts.of(self._kept(module))
            changes = drifts.changes(lambda x: self._phi(module, x).numpy())
            self._drifts[module] = drifts, torch.from_numpy(changes)
        return self._drifts[module]

    def _usual(self, module: str) -> _Known:
        """Mean and covariance of a module's features; anything, where hardly any was kept."""
        if module not in self._known:
            d = self.encoder.channel.features
            if len(self._kept(module)) < FEWEST:
                half = torch.eye(d, dtype=torch.float64) / 2
                self._known[module] = _Known(torch.zeros(d, dtype=torch.float64), half, 1, half)
            else:
                reference = self.reference(module)
                phi = self._phi(module, reference.points)
                weight = torch.from_numpy(reference.near)
                mean = weight @ phi
                centred = (phi - mean) * weight.sqrt()[:, None]
                covariance = centred.T @ centred
                changes = self._drifting(module)[1]
                one = torch.from_numpy(Drifts.chosen(0.5, 0.5))[:, None]
                moved = (changes * one).T @ changes + ROUGH * covariance
                self._known[module] = _Known(mean, covariance, reference.records, moved)
        return self._known[module]

    def of(
        self,
        module: str,
        function: Function,
        values: Tensor,
        glances: int,
        counts: Mapping[str, tuple[float, float]],
        known: tuple[FloatArray, FloatArray] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Estimate the mean of some functions over a window's objects of a module.

        Args:
            module: whose objects.
            function: takes (n, m) raw attributes to (n, q) numbers.
            values: (c,) float64, the channel's sum over the window, or its first numbers.
            glances: how many it sums.
            counts: module -> number of its objects in the window, and its variance.
            known: (m,) mean of the attribute as the sum of the sketches tells it, and (m,) its
                deviation.

        Returns:
            means (q,) and standard deviations (q,).

        Raises:
            NotRemembered: if the module was never seen.
            TooFewRecords: if fewer than ``FEWEST`` of its objects were kept whole.
            ValueError: if the channel does not follow it, or it has no object in the window.
        """
        return self.within(self.window(module, values, glances, counts, known), function)

    def within(self, window: Window, function: Function) -> tuple[FloatArray, FloatArray]:
        """Estimate the means (q,) of some functions over a window, and their deviations."""
        model, excess = window.model, window.excess
        reference = self.reference(window.module)
        g = torch.from_numpy(np.asarray(function(reference.points), dtype=np.float64))
        usual_g = model.weight @ g
        centred = g - usual_g
        changes = torch.from_numpy(self._drifting(window.module)[0].changes(function))
        # What the window's sum has in common with the averages, and what it tells of them.
        rough = (centred * model.weight[:, None]).T @ model.seen
        across = window.rough * rough + (changes * excess[:, None]).T @ model.moved
        solved = torch.cholesky_solve(across.T, window.factor)  # (c, q)
        estimate = usual_g + solved.T @ window.difference
        left, still = centred - model.seen @ solved, changes - model.moved @ solved
        likely = torch.from_numpy(reference.weight) if window.unusual else model.weight
        variance = window.rough * (likely @ left.square() - (likely @ left).square())
        variance += excess @ still.square() + (solved * (window.rest @ solved)).sum(0)
        std = variance.clamp_min(0).sqrt() * (window.wider * STRETCH)
        return estimate.numpy(), std.numpy()

    def window(
        self,
        module: str,
        values: Tensor,
        glances: int,
        counts: Mapping[str, tuple[float, float]],
        known: tuple[FloatArray, FloatArray] | None = None,
    ) -> Window:
        """Choose the excesses of a window, and say how its sum differs from the usual.

        Arguments and refusals are those of ``of``; ``within`` reads averages from it.
        """
        reference = self.reference(module)
        number, width = counts[module][0], len(values)
        if number <= 0:
            raise ValueError(f"no object of module {module!r} is in the window")
        own = self._usual(module)
        drifts, changes = self._drifting(module)
        image = self.encoder.images(module, self.table)[:, :width]
        points, weight = torch.from_numpy(reference.points), torch.from_numpy(reference.near)
        # What is seen of the module: its features in the channel, and its mean from the sketch.
        seen = (self._phi(module, reference.points) - own.mean) @ image * number
        moved = changes @ image * number
        chance, common = self._others(module, counts, width)
        place = own.mean @ image
        chance = chance + counts[module][1] * torch.outer(place, place)
        chance.diagonal().add_(self.usual_noise * max(glances, 1))
        difference = values - self._mean(counts, width)
        if known is not None:
            scale = self.table.family_of(self.table.id_of(module)).scale
            middle = weight @ points
            seen = torch.cat([seen, (points - middle) / scale], 1)
            shifts = torch.from_numpy(drifts.changes(lambda x: x))
            moved = torch.cat([moved, shifts / scale], 1)
            difference = torch.cat([difference, (torch.from_numpy(known[0]) - middle) / scale])
            # Errors of the numbers go together (all larger, or all smaller): not so many are told.
            told = min(len(known[1]), TOGETHER)
            unsure = torch.from_numpy(known[1] / scale).square().clamp_min(1e-12) * told
            chance = _beside(chance, torch.diag(unsure))
            common = _beside(common, torch.zeros(len(unsure), len(unsure)))
        model = _Model(weight, seen, moved)
        usual = 1 / number + 1 / own.records
        found = _likeliest(chance, common, model, usual, difference)
        stretched = max(self.load(counts, width) / CROWDED, 1.0) ** 0.5
        return replace(found, module=module, wider=found.wider * stretched)

    def load(self, counts: Mapping[str, tuple[float, float]], numbers: int | None = None) -> float:
        """Return the features of all modules in a window per number of the channel.

        Beyond ``CROWDED``, the parts of modules that all moved at once cannot be told apart for
        sure, and deviations are stretched by the root of what it is more.
        """
        present = sum(1 for name, (n, _) in counts.items() if n > 0 and self._followed(name))
        return present * self.encoder.channel.features / (numbers or self.encoder.recipe.dim)

    def _mean(self, counts: Mapping[str, tuple[float, float]], width: int) -> Tensor:
        """Return the expected sum of the channel's first numbers, (c,)."""
        total = torch.zeros(width, dtype=torch.float64)
        for name, (number, _) in counts.items():
            if number > 0 and self._followed(name):
                total += (
                    number
                    * self._usual(name).mean
                    @ self.encoder.images(name, self.table)[:, :width]
                )
        return total

    def _followed(self, module: str) -> bool:
        return self.encoder.channel.follows(self.table.family_of(self.table.id_of(module)).name)

    def _others(
        self, module: str, counts: Mapping[str, tuple[float, float]], width: int
    ) -> tuple[Tensor, Tensor]:
        """Covariance (c, c) that all other modules add by chance, and per unit of excess."""
        chance, common = torch.zeros(2, width, width, dtype=torch.float64)
        for name, (number, unsure) in counts.items():
            if number <= 0 or name == module or not self._followed(name):
                continue
            usual = self._usual(name)
            image = self.encoder.images(name, self.table)[:, :width]
            spread = image.T @ usual.covariance @ image * number**2
            chance += spread * min(1 / number + 1 / usual.records, 1.0)
            common += image.T @ usual.moved @ image * number**2
            if unsure > 0:
                place = usual.mean @ image
                chance += unsure * torch.outer(place, place)
        return chance, common


def _beside(a: Tensor, b: Tensor) -> Tensor:
    """Return the covariance of two things that have nothing in common."""
    joined = torch.zeros(len(a) + len(b), len(a) + len(b), dtype=torch.float64)
    joined[: len(a), : len(a)], joined[len(a) :, len(a) :] = a, b
    return joined


def _likeliest(
    chance: Tensor, common: Tensor, model: _Model, usual: float, difference: Tensor
) -> Window:
    """Choose the excess of all other modules, and how far the one asked about moved and tilted."""
    mine = (model.seen * model.weight[:, None]).T @ model.seen
    base = chance + min(usual, 1.0) * mine
    parts = {(e, kind): _drift_of(model, mine, e, kind) for e in EXCESSES for kind in (1, 2)}
    found: dict[tuple[float, ...], float] = {}

    def factor_of(e: tuple[float, ...]) -> Tensor:
        total = base + e[0] * common + parts[e[1], 1] + parts[e[2], 2]
        factor: Tensor = torch.linalg.cholesky(total)
        return factor

    def loss(e: tuple[float, ...]) -> float:
        if e not in found:
            factor = factor_of(e)
            energy = float(difference @ torch.cholesky_solve(difference[:, None], factor)[:, 0])
            found[e] = energy / 2 + float(factor.diagonal().log().sum())
        return found[e]

    best: tuple[float, ...] = (0.0, EXCESSES[2], EXCESSES[2])
    for _ in range(2):  # one after the other: they are nearly independent
        for i in range(3):
            if i or float(common.abs().max()) > 0:
                tried = [(*best[:i], e, *best[i + 1 :]) for e in EXCESSES]
                best = min((loss(e), e) for e in tried)[1]
    factor = factor_of(best)
    energy = (difference * torch.cholesky_solve(difference[:, None], factor)[:, 0]).sum()
    wider = float(misfit(energy[None], len(difference))[0])
    rough = min(usual, 1.0) + ROUGH * (best[1] + best[2])
    excess = torch.from_numpy(Drifts.chosen(best[1], best[2]))
    return Window(
        "", model, difference, chance + best[0] * common, factor, excess, rough, wider,
        max(best[1:]) > USUAL_EXCESS,
    )  # fmt: skip


def _drift_of(model: _Model, mine: Tensor, excess: float, kind: int) -> Tensor:
    """Covariance (c, c) of the sum where a module moved (kind 1) or tilted (2) so far."""
    weight = torch.from_numpy(Drifts.chosen(*((excess, 0.0) if kind == 1 else (0.0, excess))))
    some = weight > 0
    moved = model.moved[some]
    found: Tensor = (moved * weight[some, None]).T @ moved + ROUGH * excess * mine
    return found
