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
from recollect.sketching.joint import JointPrior
from recollect.sketching.prior import Prior
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketches import Sketches, quantize
from recollect.tracing import Objects, Trace

if TYPE_CHECKING:
    from recollect.sketching.informed import InformedSketcher

__all__ = ["InformedRecollection", "Reader", "Reading"]

Floats = npt.NDArray[np.float64]

# Factors of the first tier against the rest, of which leave-one-out errors choose.
TIER_WEIGHTS = (1.0, 4.0, 16.0)
# Bits that directions were cut to.
DIRECTION_BITS = 15
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
    """A joint prior, and what a sketch's numbers are multiplied with before it reads them."""

    joint: JointPrior
    weight: Tensor


class Reader:
    """Reads the sketches of one informed recipe.

    Args:
        sketcher: whose.
    """

    def __init__(self, sketcher: InformedSketcher) -> None:
        self.sketcher = sketcher
        self._joints: dict[tuple[int, int], tuple[Prior, _Weighted, _Weighted | None]] = {}

    def read(self, sketches: Sketches, prior: Prior) -> tuple[Tensor, Tensor]:
        """Return (B, K) scaled estimates (of a sum: of its mean glance) and their deviations."""
        s = self.sketcher
        whole, rest = self._joint(prior, sketches.dim)
        count = sketches.count.to(torch.float64)[:, None]
        values = sketches.values.to(torch.float64) / count
        mean = s.mean + self._led(values / s.gains[: sketches.dim])
        if rest is not None:
            mean = mean + rest.joint.estimate(values * rest.weight)
        rounding = rounding_variance(sketches) / count[:, 0].square()
        std = whole.joint.std(rounding * float(whole.weight.square().mean()))
        factor = self._unlikeness(values, sketches.count).to(std.dtype)
        return mean, std * factor[:, None]

    def _unlikeness(self, values: Tensor, count: Tensor) -> Tensor:
        """Return (B,) by how much the errors differ from those of one usual glance.

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

    def _joint(self, prior: Prior, dim: int) -> tuple[_Weighted, _Weighted | None]:
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
            weight = 1 / self.sketcher.gains[: images.shape[1]]
            weight[: self.sketcher.leading] *= factor
            joint = self._weighted(rows, images, weight)
            error = float(joint.residuals().square().mean())
            if best is None or error < best[0]:
                best = (error, _Weighted(joint, weight))
        assert best is not None
        return best[1]

    def _weighted(self, u: Tensor, images: Tensor, weight: Tensor) -> JointPrior:
        slices, start = {}, 0
        for name in self.sketcher.families:
            entry = self.sketcher.rest.modules[name]
            k = entry.size * len(entry.members)
            slices[name] = slice(start, start + k)
            start += k
        _, scale = quantize(images[:32].to(torch.float32), self.sketcher.recipe.dtype)
        noise = 0.0 if scale is None else float((scale.double().square() / 12).mean())
        weighted = images * weight
        mean = weighted.mean(0)
        return JointPrior(
            slices, u.mean(0), u - u.mean(0), mean, weighted - mean,
            noise * float(weight.square().mean()),
        )  # fmt: skip


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
