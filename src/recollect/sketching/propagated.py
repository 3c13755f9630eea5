"""Decoding glances with priors beyond mean and covariance: words, zeros, shapes.

Which site an object gets follows from the method and from the kind of its module's attributes:

| method     | discrete | sparse         | dense                            |
| ---------- | -------- | -------------- | -------------------------------- |
| "auto"     | words    | spike and slab | mean and covariance              |
| "codebook" | words    | words          | words                            |
| "sparse"   | spike and slab where a quarter of the numbers is zero, else mean and covariance |
| "mixture"  | words    | spike and slab | a mixture of Gaussians           |

A static network's dense modules keep the joint prior: what they may add to a sketch is noise to
all others, and they are estimated from what the others leave.

Shape letters: B rows, K unknowns, d numbers in a sketch, n objects, m numbers in an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recollect.sketching.expectation import Propagated, propagate
from recollect.sketching.joint import JointPrior
from recollect.sketching.kinds import share_unseen, share_zero
from recollect.sketching.known import interference, interleave, prior_blocks, reorder, split
from recollect.sketching.layout import Unknown, stack_columns
from recollect.sketching.prior import Prior
from recollect.sketching.rounding import ARITHMETIC, chi_squared_quantile
from recollect.sketching.shapes import Shapes
from recollect.sketching.sites import Kernels, Normal, Site, SpikeSlab
from recollect.sketching.solve import Solution

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder
    from recollect.sketching.recipe import ModuleTable

__all__ = ["Sites", "check_learnable", "decode_propagated"]

# Objects needed before a kernel is put around each, or zeros are counted.
LEAST_OBJECTS = 24
# Wider attributes have kernels of one shape; still wider ones keep mean and covariance.
WIDEST_SHAPES, WIDEST_KERNEL = 64, 256
# How often a glance that is as the prior says may be refused.
LEVEL = 1e-4


class Sites:
    """The sites of a prior's modules for one method, made when first needed.

    Args:
        decoder: prior, module table and method.
        method: ``"auto"``, ``"codebook"``, ``"sparse"`` or ``"mixture"``.
    """

    def __init__(self, decoder: Decoder, method: str) -> None:
        assert decoder.prior is not None
        self.decoder, self.prior, self.method = decoder, decoder.prior, method
        self._kept: dict[str, Site] = {}

    def of(self, unknown: Unknown) -> Site:
        """Return the site of one object."""
        if unknown.module not in self._kept:
            self._kept[unknown.module] = self._made(unknown)
        return self._kept[unknown.module]

    def is_normal(self, unknown: Unknown) -> bool:
        """Whether nothing but mean and covariance will be used of a module."""
        return self._form(unknown) == "normal"

    def _form(self, unknown: Unknown) -> str:
        kind = self.prior.kinds.get(unknown.entry.name, "dense")
        if self.method == "codebook":
            return "words" if unknown.module in self.prior.modules else "normal"
        if self.method == "sparse":
            zeros = share_zero(attributes_of(self.prior, unknown.module))
            return "sparse" if zeros >= 0.25 else "normal"
        if kind == "dense":
            static = unknown.is_plain and unknown.entry.name in self.prior.static
            return "shapes" if self.method == "mixture" and not static else "normal"
        return {"sparse": "sparse", "discrete": "words"}[kind]

    def _made(self, unknown: Unknown) -> Site:
        form, m = self._form(unknown), unknown.entry.size
        x = attributes_of(self.prior, unknown.module) / unknown.entry.scale
        enough = len(x) >= LEAST_OBJECTS
        if form == "words" and len(x):
            return Kernels.words(x)
        if form == "sparse" and enough:
            return SpikeSlab.of(x)
        if form == "shapes" and enough and m <= WIDEST_KERNEL:
            square = x.square().mean(0)
            floor = 1e-6 * square + 1e-8 * square.mean() + 1e-24
            if m > WIDEST_SHAPES:
                return Kernels.around(x, floor)
            shapes = Shapes.of(x, floor)
            if len(shapes) > 1:
                return shapes
        blocks = prior_blocks([unknown], self.prior)
        spread = blocks.factors[0].T @ blocks.factors[0] + torch.diag(blocks.floors[0])
        return Normal(blocks.mean, spread)


def attributes_of(prior: Prior, module: str) -> Tensor:
    """Return the (n, m) float64 attributes of a module in a prior's sample, as given."""
    for c in prior.sample.columns.values():
        if module in c.members:
            rows = np.flatnonzero(c.member == c.members.index(module))
            return c.attributes[torch.from_numpy(rows)].to(torch.float64)
    return torch.zeros(0, 0, dtype=torch.float64)


def check_learnable(prior: Prior | None, method: str, modules: ModuleTable) -> None:
    """Refuse a prior of another network, or one that is missing or has seen too little.

    Args:
        prior: or None.
        method: of decoding.
        modules: what the sketches hold.

    Raises:
        TypeError: if it is no prior.
        ValueError: says what is needed.
    """
    if prior is not None and not isinstance(prior, Prior):
        raise TypeError(
            f"a prior is made by Prior.fit(traces), got {type(prior).__name__}; pass "
            "prior=Prior.fit(...) of it"
        )
    if prior is not None and len(modules) and not set(prior.modules) & set(modules.names):
        some, others = (", ".join(names[:3]) for names in (prior.modules, modules.names))
        raise ValueError(
            f"the prior knows none of the modules of these sketches: it was fitted on {some} ..., "
            f"they hold {others} ...; fit the prior on traces of the same network"
        )
    for name, c in prior.sample.columns.items() if prior is not None else ():
        if name in modules and modules[name].size != c.size:
            raise ValueError(
                f"the prior knows module {name!r} with attributes of {c.size} numbers, these "
                f"sketches hold {modules[name].size}; fit the prior on traces of the same network"
            )
    if method not in ("codebook", "mixture"):
        return
    if prior is None:
        raise ValueError(
            f"method={method!r} reads with the attributes that a prior has seen; pass "
            "prior=Prior.fit(traces), or use method='sparse' or 'least_squares' without one"
        )
    most = max((len(c) for c in prior.sample.columns.values()), default=0)
    if most < LEAST_OBJECTS:
        raise ValueError(
            f"method={method!r} needs {LEAST_OBJECTS} objects of a module at least, this prior "
            f"holds at most {most}; fit it on more glances, or use method='joint'"
        )
    columns = prior.sample.columns.values()
    if method == "codebook" and all(share_unseen(c.attributes) > 0.5 for c in columns):
        raise ValueError(
            "no module of this prior repeats its attributes (more than half were seen once), so "
            "there is no codebook; use method='joint' or 'mixture'"
        )


def decode_propagated(
    decoder: Decoder, sites: Sites, unknowns: list[Unknown], residual: Tensor, noise: Tensor
) -> Solution:
    """Estimate the scaled attributes of glances of one structure, row by row.

    A row that the attributes found do not explain down to rounding is refused: NaN, infinitely
    uncertain.

    Args:
        decoder: prior, caches.
        sites: of its modules.
        unknowns: of the structure.
        residual: (B, d) float64 sketches without counts.
        noise: (B,) variance of rounding.

    Returns:
        (B, K), the unknowns in their order.
    """
    joint, static, rest = split(decoder, unknowns, sites.is_normal)
    dim = residual.shape[1]
    a = stack_columns(rest, decoder.cache, dim)
    chosen = [sites.of(u) for u in rest]
    floor = noise + ARITHMETIC * residual.square().mean(1) + 1e-300
    parts = [
        _one(a, row, float(v), chosen, joint, static)
        for row, v in zip(residual, floor, strict=True)
    ]
    of_rest = Solution(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))
    if joint is None:
        return of_rest
    found = Solution(torch.stack([p[2] for p in parts]), torch.stack([p[3] for p in parts]))
    return interleave([(static, reorder(found, joint, static)), (rest, of_rest)], unknowns)


def _one(
    a: Tensor,
    row: Tensor,
    noise: float,
    sites: Sequence[Site],
    joint: JointPrior | None,
    static: Sequence[Unknown],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decode one row: mean and std of the rest, mean and std of the static families."""
    dim = len(row)
    around = torch.eye(dim, dtype=torch.float64) * noise
    if joint is not None:
        glances = max(len(joint.rows) - 1, 1)
        around += joint.covariance()
        around.diagonal().add_(max(joint.ridge / glances - noise, 0.0))
        row = row - joint.sketch_mean
    within = torch.linalg.cholesky(around)
    # Where little was rounded, a residual is small only when the sites have come to rest.
    for tolerance in (0.05, 1e-4):
        found = propagate(a, row, around, sites, tolerance=tolerance)
        white = torch.linalg.solve_triangular(within, found.left[:, None], upper=False)
        explained = float(white.square().sum()) <= chi_squared_quantile(dim, 1 - LEVEL)
        if explained:
            break
    mean, std = found.mean, found.std * max(found.misfit, 1.0) ** 0.5
    if not explained:
        mean, std = torch.full_like(mean, torch.nan), torch.full_like(std, torch.inf)
    nothing = torch.zeros(0, dtype=torch.float64)
    if joint is None:
        return mean, std, nothing, nothing
    of_static = _static(joint, within, found, noise)
    if not explained:
        empty = torch.full_like(of_static.mean[0], torch.nan)
        return mean, std, empty, torch.full_like(empty, torch.inf)
    return mean, std, of_static.mean[0], of_static.std[0]


def _static(joint: JointPrior, within: Tensor, found: Propagated, noise: float) -> Solution:
    """Estimate a static network from what the other objects leave of a sketch."""
    glances = max(len(joint.rows) - 1, 1)
    solved = torch.cholesky_solve(found.left[:, None], within)
    moved = (joint.sketches @ solved / glances).T.to(torch.float32) @ joint.rows
    variance = joint.std(torch.tensor([noise], dtype=torch.float64)).square()
    return Solution(
        (joint.mean + moved).to(torch.float64),
        (variance + interference(joint, found.factor)).sqrt(),
    )
