"""Bags: counts and sums of attributes, read from a sketch (or a sum of sketches) alone.

Without a skeleton the unknowns are, for each path p, the coefficients' sum c_p of its objects, and
the numbers n_M of objects of each module. Given these, a sketch has the mean

    E[s | c, n] = sum_p c_p A_p' mu_M(p) + gain sum_M n_M k_M + static part,

and around it the covariance of the attributes. The prior's sample gives mean and covariance of
(c, n) and how much the attributes vary; the estimate is LMMSE. For a sum of N sketches all
covariances grow with N. What a whole window has in common (its hours are unlike the year) grows
with N^2. How freely the counts moved, between the two, and how much more the attributes vary than
those of N glances drawn alone, their *excess*, are read from the sum itself, by likelihood. So is
whether a single glance holds more objects of a module than any glance of the prior did.

Shape letters: B rows, d numbers, F features (paths, then modules), P modules, G glances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching.calibration import Stretch, calibrate
from recollect.sketching.joint import JointPrior
from recollect.sketching.places import Place, Stood, further, stood_at
from recollect.sketching.prior import Prior
from recollect.sketching.solve import misfit
from recollect.sketching.unfolding import PathKey
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder

__all__ = ["Bags"]

Floats = npt.NDArray[np.float64]

# How much more the attributes of a window may vary than those of glances drawn alone, beside
# what the prior's means are uncertain by.
EXCESSES = (0.0, 0.5, 2.0, 8.0, 64.0)
# For means: counts are told by columns of their own, and their bars would only become too wide.
FAR_EXCESSES = (512.0, 4096.0)
# Variance of an attribute's size as a whole, in its mean's, at an excess of one: a window may be
# darker than the prior's glances, which never varied in that way.
INTENSITY = 0.1
# Counts of a window are held to those of glances drawn alone only where that is so much likelier
# (logarithm) than that they moved together.
FREEDOM = 5.0
# How likely a glance is to hold more siblings of a module than the prior has seen in any.
SURPRISE = 1e-4


class _Key(NamedTuple):
    """What a model of a sum depends on.

    Attributes:
        size: how freely the counts moved: their covariance in the sum, over that of as many
            glances drawn alone; at most the glances in the sum, as powers of two.
        excess: of the attributes' variance.
        rare: expected objects of each kind that no glance of the prior held.
        whole: whether attributes may be larger or smaller as a whole, more so with the excess.
    """

    size: int
    excess: float
    rare: float
    whole: bool = False


@dataclass(frozen=True, eq=False)
class _Window:
    """Rows that are sums of the same number of sketches, and vary alike."""

    rows: Tensor
    centred: Tensor
    number: int
    system: _Key


class Bags:
    """Linear estimates of counts and of mean attributes.

    Args:
        decoder: of the recipe and prefix.
        prior: what is usual.
        joint: the prior of the static families, or None.
        names: modules that are counted; None: all that the prior has met. A module that it has
            not met changes nothing, so that old answers stay when modules join a memory.
    """

    def __init__(
        self,
        decoder: Decoder,
        prior: Prior,
        joint: JointPrior | None,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.decoder, self.prior, self.joint = decoder, prior, joint
        self.dim = decoder.dim
        self.table = decoder.sketcher.modules
        met = [e for e in self.table if e.name in prior.sample.columns]
        self.names = tuple(m for e in met for m in e.members) if names is None else names
        self.place = {name: i for i, name in enumerate(self.names)}
        self._systems: dict[_Key, tuple[Tensor, Tensor]] = {}
        self._features()

    # -- the model ------------------------------------------------------------------------

    def _features(self) -> None:
        """Collect paths, counts, their mean and covariance, from the prior's sample."""
        static = set(self.joint.slices) if self.joint is not None else set()
        glances = len(self.prior.sample)
        counts = self.true_counts(self.prior.sample)
        left_out = static | {name for name in self.prior.sample.columns if name not in self.table}
        found = stood_at(self.prior.sample, self.decoder, left_out)
        siblings_have_ordinals = not (
            self.decoder.encoder.slots or self.decoder.encoder.scheme == "paper"
        )
        rare = further(list(found)) if siblings_have_ordinals else []
        nowhere = Stood(np.zeros(glances), np.zeros(glances), np.zeros(0), torch.zeros(0, 0))
        found |= dict.fromkeys(rare, nowhere)
        self.places = [self._place(key, stood) for key, stood in sorted(found.items(), key=_key)]
        sums = [torch.from_numpy(stood.total) for _, stood in sorted(found.items(), key=_key)]
        every = torch.cat([torch.stack(sums, 1), counts], 1) if sums else counts
        self.mean = every.mean(0)
        centred = every - self.mean
        covariance = centred.T @ centred / max(glances - 1, 1)
        self._rare = [i for i, p in enumerate(self.places) if (p.path, p.module) in set(rare)]
        # A place may be taken a little more often than the sample shows: half an object in G
        # glances, counted and standing there at once.
        seen = [i for i in range(len(self.places)) if i not in set(self._rare)]
        self.covariance = covariance + self._objects_at(seen) * 0.5 / glances

    def _place(self, key: tuple[PathKey, str], stood: Stood) -> Place:
        """Describe a place by the objects of the sample that stood there."""
        path, module = key
        entry = self.table.family_of(self.table.id_of(module))
        j = entry.members.index(module)
        columns = self.decoder.cache.columns(path, entry)
        rows = columns[j * entry.size : (j + 1) * entry.size, : self.dim].to(torch.float64)
        statistics = self.prior.statistics[module]
        return Place(path, module, rows, statistics, entry.scale, float(stood.total.mean()),
                     float(stood.square.mean()), stood.mean(statistics))  # fmt: skip

    @cached_property
    def map(self) -> Tensor:
        """(F, d) images of the features: mean attributes at a path, then count columns."""
        rows = []
        paper = self.decoder.encoder.scheme == "paper"
        for p in self.places:
            image = (p.mean / p.scale) @ p.columns
            if paper:
                image = image + self.decoder.encoder.counter(p.path)[: self.dim]
            rows.append(image)
        columns = torch.zeros(len(self.names), self.dim, dtype=torch.float64)
        if not paper:
            for entry in (e for e in self.table if e.members[0] in self.place):
                k, first = len(entry.members), self.place[entry.members[0]]
                counts = {entry.name: (entry.members, np.eye(k, dtype=np.float32))}
                columns[first : first + k] = self.decoder.encoder.count_image(counts, k)[
                    :, : self.dim
                ].to(torch.float64)
        return torch.cat([torch.stack(rows), columns]) if rows else columns

    @cached_property
    def _sketch_mean(self) -> Tensor:
        mean = self.mean @ self.map
        return mean if self.joint is None else mean + self.joint.sketch_mean

    @cached_property
    def _spread(self) -> Tensor:
        """(d, d) covariance of the attributes around their means, in one glance."""
        total = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        for p in self.places:
            rows = (
                torch.cat([p.statistics.factor, torch.diag(p.statistics.floor.sqrt())])
                @ p.columns
                * (p.square**0.5 / p.scale)
            )
            total += rows.T @ rows
        return total if self.joint is None else total + self.joint.covariance()

    @cached_property
    def _intensity(self) -> Tensor:
        """(d, d) covariance where attributes of a window are larger or smaller as a whole."""
        total = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        for p in self.places:
            image = (p.mean / p.scale) @ p.columns
            total += INTENSITY * p.square * torch.outer(image, image)
        return total

    @cached_property
    def _rare_parts(self) -> tuple[Tensor, Tensor]:
        """(F, F) and (d, d): what objects beyond the usual number add to both covariances."""
        spread = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        for i in self._rare:
            p = self.places[i]
            rows = torch.cat([p.statistics.factor, torch.diag(p.statistics.floor.sqrt())])
            image = rows @ p.columns / p.scale
            spread += image.T @ image
        return self._objects_at(self._rare), spread

    def _objects_at(self, places: list[int]) -> Tensor:
        """(F, F) covariance of one object more or less at each of some places."""
        total = len(self.places) + len(self.names)
        covariance = torch.zeros(total, total, dtype=torch.float64)
        for i in places:
            module = len(self.places) + self.place[self.places[i].module]
            both = torch.tensor([i, module])
            covariance[both[:, None], both] += 1
        return covariance

    def _features_covariance(self, key: _Key) -> Tensor:
        """(F, F) covariance of the features of a sum, over N."""
        return key.size * self.covariance + key.rare * self._rare_parts[0]

    def _system(self, key: _Key) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of a sum's covariance over N, and the (F, d) cross terms."""
        if key not in self._systems:
            noise = self.decoder.usual_noise
            if self.joint is not None:
                noise = max(noise, self.joint.ridge / max(len(self.joint.rows) - 1, 1))
            cross = self._features_covariance(key) @ self.map
            total = self.map.T @ cross + (1 + key.excess) * self._spread
            if key.whole:
                total += key.excess * self._intensity
            total += key.rare * self._rare_parts[1]
            total = (total + total.T) / 2
            total.diagonal().add_(max(noise, 1e-12 * float(total.diagonal().mean()), 1e-30))
            if len(self._systems) > 64:
                self._systems.clear()
            self._systems[key] = (torch.linalg.cholesky(total), cross)
        return self._systems[key]

    def _windows(self, values: Tensor, count: Tensor, *, whole: bool = False) -> Iterator[_Window]:
        """Group rows by their size, and by the excess that makes them most likely."""
        for number in torch.unique(count).tolist():
            rows = torch.nonzero(count == number)[:, 0]
            centred = values[rows] - number * self._sketch_mean
            # So many powers of two that few systems are factored; only the counts' prior
            # depends on it.
            size = 1 << max(round(math.log2(max(number, 1))), 0)
            keys = self._candidates(number, size, whole)
            likelihood = torch.stack([self._likelihood(centred, number, key) for key in keys])
            likelihood[[key.rare == 1 for key in keys]] += math.log(SURPRISE)
            best = likelihood.argmax(0)
            for i in torch.unique(best).tolist():
                some = torch.nonzero(best == i)[:, 0]
                yield from self._tightened(rows[some], centred[some], number, keys[i])

    def _tightened(
        self, rows: Tensor, centred: Tensor, number: int, key: _Key
    ) -> Iterator[_Window]:
        """Group rows by how freely their counts moved, see ``_Key``."""
        # The prior's own means are uncertain: a sum of as many glances moves twice as freely.
        least = 1 << round(math.log2(1 + number / max(self.prior.num_glances, 1)))
        sizes = [key.size, *(s for s in (key.size // 4, key.size // 16) if s > least)]
        sizes += [least] if least < key.size else []
        if len(sizes) == 1:
            yield _Window(rows, centred, number, key)
            return
        keys = [key._replace(size=s) for s in sizes]
        likelihood = torch.stack([self._likelihood(centred, number, k) for k in keys])
        likelihood[0] += FREEDOM
        best = likelihood.argmax(0)
        for i in torch.unique(best).tolist():
            some = best == i
            yield _Window(rows[some], centred[some], number, keys[i])

    def _candidates(self, number: int, size: int, whole: bool) -> list[_Key]:
        """The models that a sum of ``number`` sketches may follow."""
        usual = 1 / max(len(self.prior.sample), 1)
        if number == 1:
            return [_Key(1, 0.0, usual), *([_Key(1, 0.0, 1.0)] if self._rare else [])]
        unsure = size / max(self.prior.num_glances, size)
        excesses = EXCESSES + FAR_EXCESSES if whole else EXCESSES
        return [_Key(size, unsure + e, usual, whole) for e in excesses]

    def _likelihood(self, centred: Tensor, number: int, key: _Key) -> Tensor:
        """Log-likelihood (up to a constant) of centred sums of ``number`` sketches."""
        factor, _ = self._system(key)
        white = torch.linalg.solve_triangular(factor, centred.T, upper=False)
        found: Tensor = -0.5 * white.square().sum(0) / number - factor.diagonal().log().sum()
        return found

    # -- questions ------------------------------------------------------------------------

    def counts(self, values: Tensor, count: Tensor) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """Estimate how many objects of each module the rows hold.

        Args:
            values: (B, d) float64.
            count: (B,) glances in each row.

        Returns:
            names, estimate (B, P), std (B, P).
        """
        estimate, std, wider, freed = self._estimates(values, count)
        # Sums of held-back glances allow narrower bars, but not where counts moved together.
        sums = self.stretch.sums + max(1 - self.stretch.sums, 0.0) * freed
        factor = torch.where(count == 1, self.stretch.single, sums) * wider
        return self.names, estimate, std * factor[:, None]

    def _estimates(self, values: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return estimates (B, P), the model's deviations (B, P), misfits (B,) and freedoms (B,).

        The last, (B,), is 0 where counts moved as those of glances drawn alone, 1 where together.
        """
        first = len(self.places)
        estimate = torch.empty(len(values), len(self.names), dtype=torch.float64)
        std = torch.empty_like(estimate)
        wider, freed = (torch.empty(len(values), dtype=torch.float64) for _ in range(2))
        for w in self._windows(values, count):
            factor, cross = self._system(w.system)
            gain = torch.cholesky_solve(cross[first:].T, factor)
            estimate[w.rows] = w.number * self.mean[first:] + w.centred @ gain
            own = self._features_covariance(w.system).diagonal()[first:]
            told = (cross[first:] * gain.T).sum(1)
            std[w.rows] = ((own - told).clamp_min(0) * w.number).sqrt()
            white = torch.linalg.solve_triangular(factor, w.centred.T, upper=False)
            wider[w.rows] = misfit(white.square().sum(0) / w.number, self.dim)
            freed[w.rows] = math.log(w.system.size) / max(math.log(w.number), 1e-9)
        return estimate, std, wider, freed.clamp(0, 1)

    @cached_property
    def stretch(self) -> Stretch:
        """Factors for the standard deviations, from held-back glances of the prior."""
        return calibrate(self)

    def fitted_on(self, prior: Prior) -> Bags:
        """Return the same estimates with another prior."""
        return Bags(self.decoder, prior, self._joint_of(prior), self.names)

    def errors(self, values: Tensor, count: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors of the counts (B, P), and the deviations that are expected."""
        estimate, std, wider, _ = self._estimates(values, count)
        return estimate - truth, std * wider[:, None]

    def true_counts(self, trace: Trace) -> Tensor:
        """(B, P) objects of each module in each glance."""
        counts = torch.zeros(len(trace), len(self.names), dtype=torch.float64)
        for c in trace.columns.values():
            if c.members[0] in self.place:
                module = torch.from_numpy(self.place[c.members[0]] + c.member)
                one = torch.tensor(1.0, dtype=torch.float64)
                counts.index_put_((torch.from_numpy(c.glance), module), one, accumulate=True)
        return counts

    def _joint_of(self, prior: Prior) -> JointPrior | None:
        """Return the joint prior of the same static families from another prior's glances."""
        if self.joint is None:
            return None
        encoder, families = self.decoder.encoder, tuple(self.joint.slices)
        return JointPrior.build(
            prior.sample, families, encoder, self.table, self.dim, self.decoder.usual_noise
        )

    def means(
        self, module: str, values: Tensor, count: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Estimate a module's mean attribute in each row (see ``Recollection.means``)."""
        if self.joint is not None:
            entry = self.table.family_of(self.table.id_of(module))
            if entry.name in self.joint.slices:
                return self._static_means(module, values, count)
        places = [p for p in self.places if p.module == module]
        entry = self.table.family_of(self.table.id_of(module))
        if not places:
            nothing = torch.full((len(values), entry.size), float("nan"), dtype=torch.float64)
            return nothing, torch.full_like(nothing, float("inf"))
        objects = known if known is not None else self._number(module, values, count)
        mean, std = self.means_among(module, values, count, objects)
        factor = torch.where(count == 1, 1.0, self.stretch.means)
        return mean, std * factor[:, None]

    def means_among(
        self, module: str, values: Tensor, count: Tensor, objects: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimate a module's mean attribute, given how many objects (B,) each row holds."""
        places = [p for p in self.places if p.module == module]
        entry = self.table.family_of(self.table.id_of(module))
        statistics = places[0].statistics
        own = statistics.factor.square().sum(0) + statistics.floor
        mean = torch.empty(len(values), entry.size, dtype=torch.float64)
        std = torch.empty_like(mean)
        usual_number = self._usual_number(module)
        image = self._deviation_image(places)
        for w in self._windows(values, count, whole=True):
            factor, _ = self._system(w.system)
            excess = w.system.excess
            cross = (1 + excess) * image + excess * self._intensity_image(places)
            gain = torch.cholesky_solve(cross.T, factor)
            n = objects[w.rows].clamp_min(0.5)[:, None]
            larger = excess * INTENSITY * statistics.mean.square()
            prior = usual_number * ((1 + excess) * own + larger)
            left = (prior - (cross * gain.T).sum(1)).clamp(1e-9 * prior, prior)
            left_here = _left_over(prior, left, n / (w.number * usual_number))
            mean[w.rows] = statistics.mean + (w.centred @ gain) * (left_here / left) / n
            std[w.rows] = (left_here * w.number).sqrt() / n
        return mean, std

    def _deviation_image(self, places: list[Place]) -> Tensor:
        """(m, d) covariance of one glance's summed deviations of a module with its sketch."""
        image = torch.zeros(len(places[0].statistics.mean), self.dim, dtype=torch.float64)
        for p in places:
            a, t = p.columns / p.scale, p.statistics
            image += p.coefficient * (t.factor.T @ (t.factor @ a) + t.floor[:, None] * a)
        return image

    def _intensity_image(self, places: list[Place]) -> Tensor:
        """(m, d) covariance of a window's larger or smaller attributes with its sketch."""
        image = torch.zeros(len(places[0].statistics.mean), self.dim, dtype=torch.float64)
        for p in places:
            mean = p.statistics.mean
            image += INTENSITY * p.coefficient * torch.outer(mean, (mean / p.scale) @ p.columns)
        return image

    def _number(self, module: str, values: Tensor, count: Tensor) -> Tensor:
        _, estimate, _ = self.counts(values, count)
        return estimate[:, self.place[module]]

    def _usual_number(self, module: str) -> float:
        """Objects of the module in an average glance."""
        return float(self.mean[len(self.places) + self.place[module]])

    def _static_means(self, module: str, values: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Mean attribute of a static module over the glances of each row."""
        assert self.joint is not None
        entry = self.table.family_of(self.table.id_of(module))
        start = self.joint.slices[entry.name].start + entry.members.index(module) * entry.size
        where = slice(start, start + entry.size)
        glances = max(len(self.joint.rows) - 1, 1)
        mean = torch.empty(len(values), entry.size, dtype=torch.float64)
        std = torch.empty_like(mean)
        for w in self._windows(values, count):
            factor, _ = self._system(w.system)
            solved = torch.cholesky_solve(w.centred.T / w.number, factor)
            weights = (1 + w.system.excess) * (self.joint.sketches @ solved / glances).T
            moved = weights.to(torch.float32) @ self.joint.rows[:, where]
            mean[w.rows] = (self.joint.mean[where] + moved).to(torch.float64) * entry.scale
            shrunk = ((1 + w.system.excess) / w.number) ** 0.5
            std[w.rows] = self.joint.usual_std[where].to(torch.float64) * (entry.scale * shrunk)
        return mean, std


def _left_over(prior: Tensor, left: Tensor, share: Tensor) -> Tensor:
    """Variance left over where a module is ``share`` times as frequent as usual.

    What a sketch tells, ``1 / left - 1 / prior``, stays; the prior's variance of a sum grows with
    the number of objects in it. The estimate shrinks, or grows, by the same factor.

    Args:
        prior: (m,) variance of a sum of the usual number of deviations.
        left: (m,) what a sketch leaves of it.
        share: (B, 1) objects over the usual number of objects.

    Returns:
        (B, m).
    """
    return 1 / (1 / (prior * share) + 1 / left - 1 / prior)


def _key(item: tuple[tuple[PathKey, str], Stood]) -> tuple[PathKey, str]:
    return item[0]
