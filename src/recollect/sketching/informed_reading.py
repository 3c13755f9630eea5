"""Reading informed sketches: the first tier as it is, the rest by what the prior knows of it.

With y = [g V (u - c), h S (I - V' V) (u - c)] (see ``informed``) the estimate is

    u = c + V' V (u - c) + E[left | y],

where the part that V leaves is read by a joint prior over the leavings of a prior's glances. How
sure that is, its leave-one-out errors say, and the sketch itself: the residual's numbers are of
size one for glances as unlike the directions as the prior's own are. A glance (or a mean over
many) whose residual is larger or smaller than that is less or more sure by the same factor.

Shape letters: B sketches, G glances of the prior, K numbers of all static families, p leading
directions, d numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer, interval
from recollect._seeds import seed_of
from recollect.sketching.joint import JointPrior
from recollect.sketching.prior import Prior
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketches import Sketches, quantize
from recollect.tracing import Objects, Trace

if TYPE_CHECKING:
    from recollect.sketching.informed import InformedSketcher

__all__ = ["InformedRecollection", "Reader", "Reading", "left_out_size"]

Floats = npt.NDArray[np.float64]

# Factors of the first tier against the rest, of which leave-one-out errors choose.
TIER_WEIGHTS = (1.0, 4.0, 16.0)
# Bits that directions were cut to.
DIRECTION_BITS = 15
# Draws by which it is measured what rounding brings to an estimate.
NOISE_DRAWS = 64
# Glances that are left out in turn, in so many parts, to see what directions leave of them.
FOLDED, FOLDS = 512, 8
# Priors and prefixes whose factors are kept.
_KEPT = 4


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
    """A joint prior, and what a sketch's numbers are multiplied with before it reads them.

    ``noise`` is the variance of rounding in each number of the prior's coarsest sketch.
    """

    joint: JointPrior
    weight: Tensor
    noise: float


# Over all of u; over what V leaves of it, if anything; what rounding brings to an estimate; and
# the size of the rest's numbers for a usual glance.
_Known = tuple[_Weighted, _Weighted | None, Tensor, float]


class Reader:
    """Reads the sketches of one informed recipe.

    Args:
        sketcher: whose.
    """

    def __init__(self, sketcher: InformedSketcher) -> None:
        self.sketcher = sketcher
        self._joints: dict[tuple[int, int], tuple[Prior, _Known]] = {}

    def read(self, sketches: Sketches, prior: Prior) -> tuple[Tensor, Tensor]:
        """Return (B, K) scaled estimates (of a sum: of its mean glance) and their deviations."""
        s = self.sketcher
        whole, rest, gain, usual = self._joint(prior, sketches.dim)
        count = sketches.count.to(torch.float64)[:, None]
        values = sketches.values.to(torch.float64) / count
        mean = s.mean + self._led(values / s.gains[: sketches.dim])
        if rest is not None:
            mean = mean + rest.joint.estimate(values * rest.weight)
        factor = self._unlikeness(values / usual, sketches.count)
        if sketches.is_sum:
            # Scales of single glances are not known any more: as of the prior's, at least.
            noise = whole.noise * factor.square().clamp_min(1) / count[:, 0]
        else:
            noise = rounding_variance(sketches)
        span = whole.joint.span_std.to(torch.float64) * factor[:, None]
        return mean, (span.square() + noise[:, None] * gain.square()).sqrt()

    def _unlikeness(self, values: Tensor, count: Tensor) -> Tensor:
        """Return (B,) by how much errors differ from those of one usual glance, whose rest is 1.

        The root mean square of the residual's numbers, of a single glance only where that is
        beyond chance. Where no residual is left (a short prefix), 1.
        """
        rest = values[:, self.sketcher.leading :]
        if rest.shape[1] < 16:
            return torch.ones(len(values), dtype=torch.float64)
        square = rest.square().mean(1)
        chance = 1 + 2 * (2 / rest.shape[1]) ** 0.5
        single = torch.where(square > chance, square, torch.ones_like(square))
        return torch.where(count > 1, square, single).sqrt()

    def _led(self, image: Tensor) -> Tensor:
        """Return the (B, K) part of u - c that the first tier alone tells, float32."""
        lead = image[:, : self.sketcher.leading]
        axes = self.sketcher.directions[: lead.shape[1]].to(torch.float32) * 2.0**-DIRECTION_BITS
        led: Tensor = lead.to(torch.float32) @ axes
        return led

    def _usual(self, prior: Prior, u: Tensor, gained: Tensor) -> float:
        """Root mean square of the rest's numbers for glances like a prior's."""
        lead = self.sketcher.leading
        if self.sketcher.stands_on(prior):  # the directions were fitted to these very glances
            numbers = self.sketcher.rest.recipe.dim
            found = left_out_size(u, lead) / numbers**0.5 * float(self.sketcher.gains[-1])
        else:
            found = float(gained[:, lead:].square().mean().sqrt()) if gained.shape[1] > lead else 1
        return max(float(found), 1e-12)

    def _gain(self, rest: _Weighted | None, dim: int) -> Tensor:
        """Deviation (K,) that rounding of variance one in every number brings to an estimate."""
        generator = torch.Generator().manual_seed(seed_of("rounding", dim))
        drawn = torch.randn(NOISE_DRAWS, dim, dtype=torch.float64, generator=generator)
        moved = self._led(drawn / self.sketcher.gains[:dim])
        if rest is not None:
            still = rest.joint.estimate(torch.zeros(1, dim, dtype=torch.float64))
            moved = moved + rest.joint.estimate(drawn * rest.weight) - still
        return moved.to(torch.float64).square().mean(0).sqrt()

    def _joint(self, prior: Prior, dim: int) -> _Known:
        """Return the joint priors of a prefix: over all of u, and over what V leaves of it.

        The second reads (the first tier is taken as it is), the first says how sure that is: its
        leave-one-out errors do not forget that V has seen the recipe's own prior.
        """
        key = (id(prior), dim)
        if key not in self._joints:
            s = self.sketcher
            missing = [k for k in s.families if k not in prior.static]
            if missing:
                raise ValueError(
                    f"the prior does not know module {missing[0]!r} as one of every glance; "
                    "decode with a prior of the same network"
                )
            u = s.flat(Trace({k: prior.sample.columns[k] for k in s.families}, len(prior.sample)))
            image = s.centred_image(u)[:, :dim]
            left = u - s.mean - self._led(image)
            small = float(left.square().sum()) < 1e-6 * float((u - s.mean).square().sum())
            gained = image * s.gains[:dim]
            while len(self._joints) >= _KEPT:
                del self._joints[next(iter(self._joints))]
            rest = None if small else self._best_weighted(left, gained)
            usual = self._usual(prior, u, gained)
            known = (self._best_weighted(u, gained), rest, self._gain(rest, dim), usual)
            self._joints[key] = (prior, known)
        return self._joints[key][1]

    def _best_weighted(self, rows: Tensor, images: Tensor) -> _Weighted:
        """Weigh the first tier against the rest by leave-one-out errors."""
        best: tuple[float, _Weighted] | None = None
        for factor in TIER_WEIGHTS:
            weight = 1 / self.sketcher.gains[: images.shape[1]]
            weight[: self.sketcher.leading] *= factor
            joint, noise = self._weighted(rows, images, weight)
            error = float(joint.residuals().square().mean())
            if best is None or error < best[0]:
                best = (error, _Weighted(joint, weight, noise))
        assert best is not None
        return best[1]

    def _weighted(self, u: Tensor, images: Tensor, weight: Tensor) -> tuple[JointPrior, float]:
        slices, start = {}, 0
        for name in self.sketcher.families:
            entry = self.sketcher.rest.modules[name]
            k = entry.size * len(entry.members)
            slices[name] = slice(start, start + k)
            start += k
        _, scale = quantize(images[:256].to(torch.float32), self.sketcher.recipe.dtype)
        each = torch.zeros(1) if scale is None else scale.double().square() / 12
        weighted = images * weight
        mean = weighted.mean(0)
        joint = JointPrior(
            slices, u.mean(0), u - u.mean(0), mean, weighted - mean,
            float(each.mean() * weight.square().mean()),
        )  # fmt: skip
        return joint, float(each.max())


def left_out_size(u: Tensor, leading: int) -> float:
    """Root mean square length of what the leading directions of glances leave of others.

    Eight parts of (up to 512) glances are left out in turn; all from products of glances.

    Args:
        u: (G, K) glances.
        leading: how many directions are fitted to the rest of them.

    Example:
        >>> flat = torch.tensor([[1.0, 0.0]]) * torch.arange(16.0)[:, None]
        >>> left_out_size(flat, 1) < 1e-3, round(left_out_size(torch.eye(16), 8), 2) > 0.9
        (True, True)
    """
    some = u[torch.linspace(0, len(u) - 1, min(len(u), FOLDED)).round().to(torch.int64)]
    x = (some - some.mean(0)).to(torch.float32)
    products = (x @ x.T).to(torch.float64)
    total = 0.0
    for part in range(FOLDS):
        out = torch.arange(len(x)) % FOLDS == part
        mean = products[~out].mean(0)
        gram = products - mean - mean[:, None] + mean[~out].mean()  # around the others' mean
        squares, left = torch.linalg.eigh(gram[~out][:, ~out])
        kept = (squares > squares[-1] * 1e-6).nonzero()[-leading:, 0]
        told = gram[out][:, ~out] @ left[:, kept] / squares[kept].sqrt()
        total += float((gram.diagonal()[out] - told.square().sum(1)).clamp_min(0).sum())
    return float((total / len(x)) ** 0.5)


class InformedRecollection:
    """What informed sketches are read to hold, asked like a ``Recollection``.

    Made by ``InformedSketcher.recollect``. Every glance holds every module of the recipe once.

    Attributes:
        sketches: what is read.
        prior: what it is read with.
        method: ``"informed"``.
        notes: what the reader should know.

    Example:
        >>> from recollect import Prior, Trace
        >>> from recollect.sketching.informed import InformedSketcher
        >>> g = torch.manual_seed(0)
        >>> x = torch.randn(200, 3, generator=g) @ torch.randn(3, 40, generator=g)
        >>> sketcher = InformedSketcher(Prior.fit(Trace.from_columns({"layer": x[:150]})), dim=128)
        >>> s = sketcher.encode(Trace.from_columns({"layer": x[150:]}))
        >>> mean, std = sketcher.recollect(s.sum()).means("layer")
        >>> bool(((mean[0] - x[150:].mean(0)).norm() / x[150:].norm()) < 0.01)
        True
    """

    method = "informed"

    def __init__(self, sketcher: InformedSketcher, sketches: Sketches, prior: Prior) -> None:
        self.sketches, self.prior, self._sketcher = sketches, prior, sketcher
        self.notes: list[str] = []

    def __repr__(self) -> str:
        n = len(self.sketches)
        return (
            f"InformedRecollection({n} sketch{'es' if n != 1 else ''}, load {self.load:.2f}, "
            f"{self.prior})"
        )

    def __len__(self) -> int:
        return len(self.sketches)

    @property
    def load(self) -> float:
        """Unknowns per number of a sketch."""
        return len(self._sketcher.mean) / self.sketches.dim

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        """(B,) whether something is refused instead of guessed: nothing is, a prior is there."""
        return np.zeros(len(self), dtype=np.bool_)

    @cached_property
    def _reading(self) -> Reading:
        return self._sketcher.decode(self.sketches, self.prior)

    def objects(self, module: str) -> Objects:
        """Return the objects of a module, with estimated attributes and standard deviations.

        Raises:
            NotRemembered: if no sketch knows the module (the nearest names are suggested).
            ValueError: if the sketches are sums.
        """
        entry = self.sketches.modules.family_of(self.sketches.modules.id_of(module))
        if self.sketches.is_sum:
            raise ValueError(
                "single objects cannot be told apart in a sum of sketches; ask for counts() or "
                "means(module), or decode single glances"
            )
        if entry.name not in self._sketcher.families:
            none = torch.zeros(0, entry.size)
            whole = torch.zeros(0, dtype=torch.int64)
            return Objects(module, none, whole, torch.zeros(0), [], none)
        read = self._reading.trace.objects(module)
        return replace(read, std=self._reading.deviations.objects(module).attributes)

    def trace(self) -> Trace:
        """Return the estimates as a trace."""
        return self._reading.trace

    def deviations(self) -> Trace:
        """Return the standard deviations of all attributes as a trace of the same structure."""
        return self._reading.deviations

    def count_estimates(
        self, modules: Sequence[str] | None = None
    ) -> tuple[tuple[str, ...], Floats, Floats]:
        """Return how many objects of each module each row holds: exact, one to a glance.

        Args:
            modules: which; all that are known, if None.

        Returns:
            names (P,), numbers (B, P) and their standard deviations (B, P), zero.

        Raises:
            NotRemembered: if a module is unknown.
        """
        table = self.sketches.modules
        names = tuple(modules) if modules is not None else table.names
        held = [table.family_of(table.id_of(n)).name in self._sketcher.families for n in names]
        count = self.sketches.count.numpy().astype(np.float64)
        numbers = np.outer(count, np.array(held, dtype=np.float64))
        return names, numbers, np.zeros_like(numbers)

    def counts(self, modules: Sequence[str] | None = None) -> Answer:
        """Return the counts of each row and module; exact.

        Columns: glance, module, count, estimate, std, low, high.
        """
        names, numbers, std = self.count_estimates(modules)
        low, high = interval(numbers, std, floor=0.0)
        rows, place = np.divmod(np.arange(numbers.size), max(len(names), 1))
        columns = {
            "glance": rows,
            "module": [names[i] for i in place.tolist()],
            "count": [round(v) for v in numbers.reshape(-1).tolist()],
            "estimate": numbers.reshape(-1),
            "std": std.reshape(-1),
            "low": low.reshape(-1),
            "high": high.reshape(-1),
        }
        return Answer(columns, title="counts of a static network", notes=self.notes)

    def means(self, module: str, counts: npt.ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """Estimate the mean attribute of a module in each row; works on sums.

        Args:
            module: whose attributes.
            counts: taken for the sake of one interface; every glance holds one.

        Returns:
            mean (B, m) and standard deviation (B, m), float32; NaN and infinite where the recipe
            does not hold the module.

        Raises:
            NotRemembered: if the module is unknown.
        """
        entry = self.sketches.modules.family_of(self.sketches.modules.id_of(module))
        if entry.name not in self._sketcher.families:
            nothing = torch.full((len(self), entry.size), torch.nan)
            return nothing, torch.full_like(nothing, torch.inf)
        mean = self._reading.trace.objects(module).attributes
        return mean, self._reading.deviations.objects(module).attributes
