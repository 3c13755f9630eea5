"""Averages of any function of a module's attribute over a window, from the channel's sum alone.

The channel's sum over a window is ``y = sum_M n_M B_M' f_M + rounding``, with n_M objects of
module M, B_M the images of its features and f_M their mean. Objects that were kept whole (the
prior's sample) say how features and any function g go together: with P0 their smoothed
distribution, that of a window is one drawn around it (a Dirichlet process), so that

    E f = E_P0 phi,   cov(f, g) = kappa cov_P0(phi, g),   kappa = 1/n + 1/r + excess.

n is the number of objects in the window, r of those kept whole, and the *excess*, by how much
windows differ beyond chance, is read from the sum itself, by likelihood, for the module that is
asked about and for all others. The estimate of the mean of g is LMMSE: what the features tell of g
is taken from the window, the rest from what is usual, and the deviation says how much that is.

Shape letters: R reference points, m numbers in an attribute, D features, c numbers in a channel,
q functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.sketching.features import features_of
from recollect.sketching.prior import Prior
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.solve import misfit

__all__ = ["FEWEST", "Averages", "Reference", "TooFewRecords"]

FloatArray = npt.NDArray[np.float64]
Function = Callable[[FloatArray], npt.NDArray[Any]]

# Objects kept whole that a module needs before anything is said of its distribution.
FEWEST = 16
# Up to this excess a window is taken to hold nothing further out than records do.
USUAL_EXCESS = 0.03
EXCESSES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Load of a channel beyond which error bars are stretched.
CROWDED = 1.25
# Reference points: records as they are, smoothed ones, and ones further out than any record.
SMOOTH, FAR = 2000, 400
WEIGHTS = (0.45, 0.53, 0.02)
# Deviations of the smoothing, at most, in deviations of the attribute.
WIDEST = 0.15


class TooFewRecords(ValueError):
    """Too few objects of a module were kept whole to say how it is distributed."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The smoothed distribution of a module's attribute, as weighted points.

    Attributes:
        points: (R, m) raw attributes.
        weight: (R,) that add up to one.
        records: objects that they come from.
    """

    points: FloatArray
    weight: FloatArray
    records: int

    @property
    def near(self) -> FloatArray:
        """The weights (R,) without the points that lie further out than any record."""
        kept = self.weight.copy()
        kept[-FAR:] = 0
        near: FloatArray = kept / kept.sum()
        return near

    @classmethod
    def of(cls, kept: FloatArray) -> Reference:
        """Smooth (r, m) attributes of kept objects; the same points for the same objects."""
        r, m = kept.shape
        generator = np.random.Generator(np.random.PCG64(seed_of("reference", r, m)))
        mean, std = kept.mean(0), kept.std(0)
        width = min(WIDEST, r ** (-1 / (m + 4)) * (4 / (m + 2)) ** (1 / (m + 4)))
        chosen = kept[generator.integers(0, r, SMOOTH)]
        moved = width * _like(kept, SMOOTH, generator)
        smooth = mean + (chosen - mean + moved) / np.sqrt(1 + width**2)
        far = kept[generator.integers(0, r, FAR)]
        reach = generator.choice([2.0, 4.0], (FAR, 1))
        one = generator.integers(0, m, FAR)[:, None] == np.arange(m)
        whole = (np.arange(FAR) % 2 == 0)[:, None]
        out = np.where(whole | one, reach, 1.0)
        far = (
            mean + out * (far - mean) + np.where(one, std * generator.standard_normal((FAR, m)), 0)
        )
        weight = np.repeat(np.array(WEIGHTS) / [r, SMOOTH, FAR], [r, SMOOTH, FAR])
        return cls(np.concatenate([kept, smooth, far]), weight, r)


def _like(kept: FloatArray, number: int, generator: np.random.Generator) -> FloatArray:
    """Draw (number, m) centred normal numbers with the covariance of (r, m) objects."""
    mixed = generator.standard_normal((number, len(kept))) / np.sqrt(len(kept))
    drawn: FloatArray = mixed @ (kept - kept.mean(0))
    return drawn


@dataclass(frozen=True, eq=False)
class _Known:
    """What is usual of one module's features: mean (D,), covariance (D, D), records."""

    mean: Tensor
    covariance: Tensor
    records: int


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

    def _usual(self, module: str) -> _Known:
        """Mean and covariance of a module's features; anything, where hardly any was kept."""
        if module not in self._known:
            d = self.encoder.channel.features
            if len(self._kept(module)) < FEWEST:
                half = torch.eye(d, dtype=torch.float64) / 2
                self._known[module] = _Known(torch.zeros(d, dtype=torch.float64), half, 1)
            else:
                reference = self.reference(module)
                phi = self._phi(module, reference.points)
                weight = torch.from_numpy(reference.weight)
                mean = weight @ phi
                centred = (phi - mean) * weight.sqrt()[:, None]
                covariance = centred.T @ centred
                self._known[module] = _Known(mean, covariance, reference.records)
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
            values: (c,) float64, the channel's sum over the window.
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
        reference = self.reference(module)
        number = counts[module][0]
        if number <= 0:
            raise ValueError(f"no object of module {module!r} is in the window")
        own = self._usual(module)
        image = self.encoder.images(module, self.table)
        points = torch.from_numpy(reference.points)
        weight = torch.from_numpy(reference.weight)
        # What is seen of the module: its features in the channel, and its mean from the sketch.
        seen = (self._phi(module, reference.points) - own.mean) @ image * number
        chance, common = self._others(module, counts)
        away = torch.outer(own.mean @ image, own.mean @ image)
        chance = chance + counts[module][1] * away
        chance.diagonal().add_(self.usual_noise * max(glances, 1))
        difference = values - self._mean(counts)
        if known is not None:
            scale = self.table.family_of(self.table.id_of(module)).scale
            middle = weight @ points
            seen = torch.cat([seen, (points - middle) / scale], 1)
            told = (torch.from_numpy(known[0]) - middle) / scale
            difference = torch.cat([difference, told])
            unsure = torch.from_numpy(known[1] / scale).square().clamp_min(1e-12)
            chance = _beside(chance, torch.diag(unsure))
            common = _beside(common, torch.zeros(len(told), len(told)))
        mine = (seen * weight[:, None]).T @ seen  # (c, c)
        usual = 1 / number + 1 / own.records
        other, excess = _likeliest(chance, common, mine, usual, difference)
        kappa = min(usual + excess, 1.0)
        rest = chance + other * common
        factor = torch.linalg.cholesky(rest + kappa * mine)
        g = torch.from_numpy(np.asarray(function(reference.points), dtype=np.float64))
        usual_g = weight @ g
        centred = g - usual_g
        across = kappa * (centred * weight[:, None]).T @ seen  # (q, c)
        solved = torch.cholesky_solve(across.T, factor)  # (c, q)
        moved = usual_g + solved.T @ difference
        # What is seen leaves of g, among objects as they usually are if nothing is unusual.
        likely = weight if excess > USUAL_EXCESS else torch.from_numpy(reference.near)
        left = centred - seen @ solved
        variance = kappa * (likely @ left.square() - (likely @ left).square())
        variance += (solved * (rest @ solved)).sum(0)
        energy = (difference * torch.cholesky_solve(difference[:, None], factor)[:, 0]).sum()
        wider = float(misfit(energy[None], len(difference))[0])
        wider *= max(self.load(counts) / CROWDED, 1.0) ** 0.5
        return moved.numpy(), (variance.clamp_min(0).sqrt() * wider).numpy()

    def load(self, counts: Mapping[str, tuple[float, float]]) -> float:
        """Return the features of all modules in a window per number of the channel.

        Beyond ``CROWDED``, the parts of modules that all moved at once cannot be told apart for
        sure, and deviations are stretched by the root of what it is more.
        """
        present = sum(1 for name, (n, _) in counts.items() if n > 0 and self._followed(name))
        return present * self.encoder.channel.features / self.encoder.recipe.dim

    def _mean(self, counts: Mapping[str, tuple[float, float]]) -> Tensor:
        """Return the expected sum of the channel, (c,)."""
        total = torch.zeros(self.encoder.recipe.dim, dtype=torch.float64)
        for name, (number, _) in counts.items():
            if number > 0 and self._followed(name):
                total += number * self._usual(name).mean @ self.encoder.images(name, self.table)
        return total

    def _followed(self, module: str) -> bool:
        return self.encoder.channel.follows(self.table.family_of(self.table.id_of(module)).name)

    def _others(
        self, module: str, counts: Mapping[str, tuple[float, float]]
    ) -> tuple[Tensor, Tensor]:
        """Covariance (c, c) that all other modules add by chance, and per unit of excess."""
        c = self.encoder.recipe.dim
        chance, common = torch.zeros(2, c, c, dtype=torch.float64)
        for name, (number, unsure) in counts.items():
            if number <= 0 or name == module or not self._followed(name):
                continue
            usual = self._usual(name)
            image = self.encoder.images(name, self.table)
            spread = image.T @ usual.covariance @ image * number**2
            chance += spread * min(1 / number + 1 / usual.records, 1.0)
            common += spread
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
    chance: Tensor, common: Tensor, mine: Tensor, usual: float, difference: Tensor
) -> tuple[float, float]:
    """Choose the excess of the module asked about and of all others, by likelihood.

    Returns:
        the excess of the others, and that of the module.
    """
    found: dict[tuple[float, float], float] = {}

    def loss(other: float, own: float) -> float:
        if (other, own) not in found:
            kappa = min(usual + own, 1.0)
            factor = torch.linalg.cholesky(chance + other * common + kappa * mine)
            energy = float(difference @ torch.cholesky_solve(difference[:, None], factor)[:, 0])
            found[other, own] = energy / 2 + float(factor.diagonal().log().sum())
        return found[other, own]

    others = EXCESSES if float(common.abs().max()) > 0 else (0.0,)
    other, own = others[0], EXCESSES[3]
    for _ in range(2):  # one after the other: the two are nearly independent
        other = min((loss(e, own), e) for e in others)[1]
        own = min((loss(other, e), e) for e in EXCESSES)[1]
    return other, own
