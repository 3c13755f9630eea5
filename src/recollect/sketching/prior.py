"""The prior: what is usual, learned from glances kept whole, at any time after the sketches.

A prior keeps a bounded sample of glances. From it follow, when a sketch is decoded,

* for the families that are in every glance exactly once (a static network), the joint mean and
  covariance over all their numbers, low rank: what one module saw tells about the others;
* for every other module, the mean and covariance of its attributes;
* how many objects of each module a glance holds, and how those numbers go together.

Shape letters: G glances in the sample, k members of a family, m numbers in an attribute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.sketching.kinds import kind_of
from recollect.tracing import Trace
from recollect.tracing.arrays import half_if_it_fits, trace_from_arrays, trace_to_arrays

if TYPE_CHECKING:
    from recollect.sketching.decode import Decoder
    from recollect.sketching.sketcher import Sketcher

__all__ = ["ModuleStatistics", "Prior"]

Array = npt.NDArray[Any]
# Objects' worth of the pooled covariance that is mixed into each module's own.
POOLED_OBJECTS = 4.0
# Attributes wider than this keep a covariance of this rank.
MAX_RANK = 256


@dataclass(frozen=True, eq=False)
class ModuleStatistics:
    """Mean and covariance of one module's attributes, ``factor' factor + diag(floor)``.

    Attributes:
        count: objects seen.
        mean: (m,) float64.
        factor: (r, m) float64.
        floor: (m,) float64.
    """

    count: int
    mean: Tensor
    factor: Tensor
    floor: Tensor

    def covariance(self) -> Tensor:
        """Return the (m, m) covariance."""
        return self.factor.T @ self.factor + torch.diag(self.floor)


class Prior:
    """What is usual, fitted from traces; immutable, may be updated into a new one.

    Example:
        >>> t = Trace.from_columns({"eye": torch.randn(20, 3, generator=torch.manual_seed(0))})
        >>> prior = Prior.fit(t)
        >>> prior, prior.update(t).num_glances
        (Prior(20 glances, 1 module), 40)
    """

    def __init__(self, sample: Trace, num_glances: int, limit: int) -> None:
        self.sample = sample
        self.num_glances = num_glances
        self.limit = limit
        # What decoding with this prior needs more than once, by sketcher: freed with either.
        self.decoders: WeakKeyDictionary[Sketcher, dict[Any, Decoder]] = WeakKeyDictionary()

    @classmethod
    def fit(cls, traces: Trace | Iterable[Trace], *, limit: int = 4096) -> Prior:
        """Fit a prior to a trace, or to an iterable of traces.

        Args:
            traces: the glances to learn from.
            limit: glances kept; of more, a fixed pseudo-random choice is kept.

        Raises:
            ValueError: if there is no glance, or traces of different networks are mixed.
        """
        check_integer("limit", limit, minimum=2)
        return cls._collect([], 0, traces, limit)

    def update(self, traces: Trace | Iterable[Trace]) -> Prior:
        """Return a prior that has also seen these traces.

        Raises:
            ValueError: if a module's attribute size differs from before.
        """
        return Prior._collect([self.sample], self.num_glances, traces, self.limit)

    @classmethod
    def _collect(
        cls, kept: list[Trace], seen: int, traces: Trace | Iterable[Trace], limit: int
    ) -> Prior:
        for t in [traces] if isinstance(traces, Trace) else traces:
            kept.append(t.cpu())
            seen += len(t)
            if sum(map(len, kept)) > 2 * limit:
                kept = [_thin(Trace.concat(kept), limit, seen)]
        if not kept:
            raise ValueError("a prior needs at least one glance to learn from, got no trace")
        return cls(_thin(Trace.concat(kept), limit, seen), seen, limit)

    def __repr__(self) -> str:
        names = len(self.sample.modules)
        return f"Prior({self.num_glances} glances, {names} module{'s' if names != 1 else ''})"

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules it knows."""
        return self.sample.modules

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Family -> ``"dense"``, ``"sparse"`` or ``"discrete"``, see ``sketching.kinds``."""
        return {name: kind_of(c.attributes) for name, c in self.sample.columns.items()}

    @cached_property
    def static(self) -> tuple[str, ...]:
        """Families that every glance of the sample holds whole, at the top, with weight one."""
        if len(self.sample) < 4:
            return ()
        top = None
        if self.sample.edges is not None:
            e = self.sample.edges
            top = {
                (g, c) for g, p, c in zip(e.glance.tolist(), e.parent.tolist(), e.child.tolist(),
                                          strict=True) if p == -1
            }  # fmt: skip
            nested = {
                (g, r) for g, p, c in zip(e.glance.tolist(), e.parent.tolist(), e.child.tolist(),
                                          strict=True) if p >= 0 for r in (p, c)
            }  # fmt: skip
            top -= nested
        names = []
        for name in sorted(self.sample.columns):
            c = self.sample.columns[name]
            if not c.is_dense(len(self.sample)) or bool((c.weight != 1).any()):
                continue
            if top is None or all(
                key in top for key in zip(c.glance.tolist(), c.rank.tolist(), strict=True)
            ):
                names.append(name)
        return tuple(names)

    @cached_property
    def statistics(self) -> dict[str, ModuleStatistics]:
        """Mean and covariance of every module that is not static."""
        pools: dict[int, Tensor] = {}
        raw: dict[str, Tensor] = {}
        for name, c in self.sample.columns.items():
            if name in self.static:
                continue
            for j, member in enumerate(c.members):
                rows = torch.from_numpy(np.flatnonzero(c.member == j))
                raw[member] = c.attributes[rows].to(torch.float64)
        for size in {x.shape[1] for x in raw.values()}:
            spread = [x - x.mean(0) for x in raw.values() if x.shape[1] == size and len(x)]
            pools[size] = torch.cat(spread).square().mean(0)
        return {name: _statistics(x, pools[x.shape[1]]) for name, x in raw.items() if len(x)}

    def static_statistics(self, module: str) -> ModuleStatistics | None:
        """Mean and covariance of one static module by itself (None if there is no such)."""
        for name in self.static:
            c = self.sample.columns[name]
            if module in c.members:
                rows = np.flatnonzero(c.member == c.members.index(module))
                x = c.attributes[torch.from_numpy(rows)].to(torch.float64)
                return _statistics(x, (x - x.mean(0)).square().mean(0))
        return None

    def hold_out(self, most: int) -> tuple[Prior, Trace]:
        """Hold back up to ``most`` glances (an eighth at the most), to judge the rest by them."""
        total = len(self.sample)
        # Pseudo-random, so that no rhythm of the glances (every eighth at noon) is met.
        generator = np.random.Generator(np.random.PCG64(seed_of("hold out", total)))
        back = np.zeros(total, dtype=bool)
        back[generator.permutation(total)[: max(1, min(most, total // 8))]] = True
        fitted = self.sample[np.flatnonzero(~back)]
        return Prior(fitted, len(fitted), self.limit), self.sample[np.flatnonzero(back)]

    def to_arrays(self) -> dict[str, Array]:
        """Return the prior as plain arrays (attributes in float16 if it fits), for a file."""
        arrays = trace_to_arrays(self.sample, half_if_it_fits(self.sample))
        arrays["seen"] = np.array([self.num_glances, self.limit], dtype=np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Prior:
        """Read what ``to_arrays`` wrote."""
        seen, limit = (int(v) for v in arrays["seen"])
        return cls(trace_from_arrays(arrays), seen, limit)


def _thin(trace: Trace, limit: int, seen: int) -> Trace:
    """Keep a pseudo-random choice of ``limit`` glances, in their order."""
    if len(trace) <= limit:
        return trace
    generator = np.random.Generator(np.random.PCG64(seed_of("prior", seen, len(trace))))
    return trace[np.sort(generator.choice(len(trace), limit, replace=False))]


def _statistics(x: Tensor, pool: Tensor) -> ModuleStatistics:
    """Mean and covariance of one module, leaning on the pooled variance when objects are few.

    The covariance is that of an object yet to come: the mean's own error is part of it.
    """
    n = len(x)
    own, grown = n / (n + POOLED_OBJECTS), 1 + 1 / max(n, 1)
    centred = (x - x.mean(0)) * (grown * own / max(n, 1)) ** 0.5
    if min(centred.shape) > MAX_RANK:
        _, s, v = torch.linalg.svd(centred, full_matrices=False)
        lost = centred.square().sum(0) - (s[:MAX_RANK, None] * v[:MAX_RANK]).square().sum(0)
        factor, lost = s[:MAX_RANK, None] * v[:MAX_RANK], lost.clamp_min(0)
    else:
        # R of a QR has the same product with itself as the rows, in at most m of them.
        factor = torch.linalg.qr(centred, mode="r").R if n > x.shape[1] else centred
        lost = torch.zeros_like(pool)
    floor = grown * (1 - own) * pool + lost + 1e-6 * pool.mean().clamp_min(1e-12)
    return ModuleStatistics(n, x.mean(0), factor, floor)
