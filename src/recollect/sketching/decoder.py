"""What decoding with one prior, method and prefix needs more than once, and its calibration."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from recollect.sketching.bags import Bags
from recollect.sketching.joint import JointPrior
from recollect.sketching.known import Blocks, stretch_factor
from recollect.sketching.layout import ColumnCache, Layout
from recollect.sketching.methods import PROPAGATED, decode_structure, has_kinds
from recollect.sketching.prior import Prior
from recollect.sketching.propagated import Sites
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.skeletons import unpack_structure
from recollect.sketching.sketches import Sketches
from recollect.sketching.solve import Solution
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Decoder", "solve_all"]

# Glances of the prior that are held back to calibrate the others' error bars.
CALIBRATION_GLANCES = 48
# Glances of the prior by which a method is chosen, and how many it must hold for that.
CHOICE_GLANCES, LEAST_GLANCES = 16, 24
# Numbers' worth of all modules' calibration that is mixed into that of a module with shapes.
POOLED_NUMBERS = 1024
# Share of the logarithm that is granted where bars of shapes ask to be narrower.
GRANTED = 0.75


class Decoder:
    """What decoding with one prior, method and prefix needs more than once.

    Args:
        sketcher: makes the operators and holds the module table.
        prior: or None.
        method: one of ``methods.METHODS``.
        dim: numbers of the sketches to decode (the recipe's dim, or a prefix of it).
    """

    def __init__(self, sketcher: Sketcher, prior: Prior | None, method: str, dim: int) -> None:
        self._sketcher = ref(sketcher)
        self.prior, self.method, self.dim = prior, method, dim
        self.encoder = sketcher.encoder()
        self.cache: ColumnCache = sketcher.column_cache
        self._joint: dict[tuple[str, ...], JointPrior] = {}
        self._layouts: dict[tuple[bytes, int], Layout] = {}
        self._roots: dict[str, Tensor] = {}

    @property
    def sketcher(self) -> Sketcher:
        """Whose operators these are; not held, so that a prior does not keep it alive."""
        sketcher = self._sketcher()
        if sketcher is None:
            raise RuntimeError("the sketcher of this decoder is gone; decode with a living one")
        return sketcher

    def layout(self, packed: bytes) -> Layout:
        """Return the layout of a packed skeleton, kept for the next glance that has it."""
        key = (packed, len(self.sketcher.modules))
        if key not in self._layouts:
            if len(self._layouts) > 4096:
                self._layouts.clear()
            structure = unpack_structure(packed)
            self._layouts[key] = Layout(structure, self.sketcher.modules, self.encoder)
        return self._layouts[key]

    def joint(self, families: tuple[str, ...]) -> JointPrior:
        """Return the joint prior over some static families."""
        if families not in self._joint:
            assert self.prior is not None
            self._check_sizes(self.prior)
            self._joint[families] = JointPrior.build(
                self.prior.sample, families, self.encoder, self.sketcher.modules, self.dim,
                self.usual_noise,
            )  # fmt: skip
        return self._joint[families]

    def roots(self, blocks: Blocks) -> list[Tensor]:
        """Return the Cholesky factor of each block's covariance, one per module."""
        for module, f, v in zip(blocks.modules, blocks.factors, blocks.floors, strict=True):
            if module not in self._roots:
                self._roots[module] = torch.linalg.cholesky(f.T @ f + torch.diag(v))
        return [self._roots[module] for module in blocks.modules]

    def _check_sizes(self, prior: Prior) -> None:
        for name in prior.static:
            c, table = prior.sample.columns[name], self.sketcher.modules
            if name in table and (table[name].size, table[name].members) != (c.size, c.members):
                raise ValueError(
                    f"the prior knows module {name!r} with attributes of {c.size} numbers, these "
                    f"sketches hold {table[name].size}; fit the prior on the same network"
                )

    @cached_property
    def usual_noise(self) -> float:
        """Variance that rounding adds to each number of a sketch of the prior's glances."""
        assert self.prior is not None
        some = self.prior.sample[np.arange(min(len(self.prior.sample), 32))]
        return float(rounding_variance(self.sketcher.encode(some)).mean())

    @cached_property
    def bags(self) -> Bags:
        """The model of counts and sums, for questions without a skeleton."""
        assert self.prior is not None
        static = tuple(n for n in self.prior.static if n in self.sketcher.modules)
        joint = self.joint(static) if static else None
        return Bags(self, self.prior, joint)

    @cached_property
    def sites(self) -> Sites:
        """What each module's prior is beyond mean and covariance, for the method."""
        return Sites(self, self.method)

    @cached_property
    def linear(self) -> Decoder:
        """The linear decoder of the same prior and prefix."""
        made = Decoder(self.sketcher, self.prior, "joint", self.dim)
        made._joint, made._layouts, made._roots = self._joint, self._layouts, self._roots
        return made

    @cached_property
    def uses_kinds(self) -> bool:
        """Whether words and zeros read the prior's own held-back glances better."""
        if not has_kinds(self.prior):
            return False
        assert self.prior is not None
        if len(self.prior.sample) < LEAST_GLANCES:
            return any(
                kind != "dense" and name not in self.prior.static
                for name, kind in self.prior.kinds.items()
            )
        fitted, back = self.prior.hold_out(CHOICE_GLANCES)
        judges = [Decoder(self.sketcher, fitted, m, self.dim) for m in ("auto", "joint")]
        judges[0].__dict__["uses_kinds"] = True
        sketches = self.sketcher.encode(back).prefix(self.dim)
        by_kind, linear = (_mean_square(_errors(judge, sketches, back)) for judge in judges)
        return by_kind < linear

    @cached_property
    def calibration(self) -> dict[str, float]:
        """Family -> factor for the standard deviations, from held-back glances of the prior."""
        if self.prior is None or len(self.prior.sample) < 24:
            return {}
        slow = self.method in PROPAGATED or (self.method == "auto" and self.uses_kinds)
        fitted, back = self.prior.hold_out(
            CALIBRATION_GLANCES // 2 if slow else CALIBRATION_GLANCES
        )
        judge = Decoder(self.sketcher, fitted, self.method, self.dim)
        judge.__dict__["uses_kinds"] = self.uses_kinds
        sketches = self.sketcher.encode(back).prefix(self.dim)
        errors = {n: torch.cat(p, 1) for n, p in _errors(judge, sketches, back).items()}
        factors = {name: stretch_factor(*pair) for name, pair in errors.items()}
        if self.method != "mixture":
            return factors
        dense = [n for n in errors if self.prior.kinds.get(n, "dense") == "dense"]
        return factors | _of_shapes({n: factors[n] for n in dense}, errors)


def _of_shapes(factors: dict[str, float], errors: dict[str, Tensor]) -> dict[str, float]:
    """Family -> factor for modules with shapes: pooled where few were held back, and never bold.

    Held-back glances may show once more what the rest of the prior shows, and are then read
    better than anything new. So where they ask for narrower bars, three quarters of it (of
    the logarithm) are granted.
    """
    if not factors:
        return {}
    number = {name: errors[name].shape[1] for name in factors}
    logs = {name: math.log(f) for name, f in factors.items()}
    pooled = sum(number[n] * logs[n] for n in logs) / sum(number.values())
    out = {}
    for name, own in logs.items():
        leant = (number[name] * own + POOLED_NUMBERS * pooled) / (number[name] + POOLED_NUMBERS)
        out[name] = math.exp(leant if leant > 0 else GRANTED * leant)
    return out


def _errors(judge: Decoder, sketches: Sketches, truth: Trace) -> dict[str, list[Tensor]]:
    """Family -> (2, n) tensors: errors and standard deviations of all numbers, scaled."""
    assert sketches.skeletons is not None
    errors: dict[str, list[Tensor]] = {}
    for rows, layout, solution in solve_all(judge, sketches, calibrate=False):
        for i, row in enumerate(rows.tolist()):
            _collect_errors(errors, truth[row], layout, solution, i)
    return errors


def _mean_square(errors: dict[str, list[Tensor]]) -> float:
    """Return the mean square of all scaled errors."""
    every = torch.cat([part[0] for parts in errors.values() for part in parts])
    return float(every.square().mean())


def _collect_errors(
    errors: dict[str, list[Tensor]], truth: Trace, layout: Layout, solution: Solution, row: int
) -> None:
    """Append each family's (2, n): errors and standard deviations of one glance, scaled."""
    start = 0
    place = {
        (c.name, int(r)): c.attributes[i]
        for c in truth.columns.values()
        for i, r in enumerate(c.rank.tolist())
    }
    for u in layout.unknowns:
        where = slice(start, start + u.entry.size)
        true = place[(u.entry.name, u.rank)].to(torch.float64) / u.entry.scale
        pair = torch.stack([solution.mean[row, where] - true, solution.std[row, where]])
        errors.setdefault(u.entry.name, []).append(pair)
        start += u.entry.size


def solve_all(
    decoder: Decoder, sketches: Sketches, *, calibrate: bool = True
) -> list[tuple[Tensor, Layout, Solution]]:
    """Solve all glances, skeleton by skeleton: (rows, layout, solution) of each."""
    assert sketches.skeletons is not None
    values = sketches.values.to(torch.float64)
    noise = rounding_variance(sketches)
    out = []
    for number, packed in enumerate(sketches.skeletons.table):
        rows = torch.from_numpy(np.flatnonzero(sketches.skeletons.index == number))
        if len(rows):
            layout = decoder.layout(packed)
            solution = decode_structure(
                decoder, layout, values[rows], noise[rows], calibrate=calibrate
            )
            out.append((rows, layout, solution))
    return out
