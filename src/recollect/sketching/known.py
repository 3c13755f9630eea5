"""Decoding glances whose structure is known: one linear system for each distinct structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recollect._answers import Z90
from recollect.sketching.joint import JointPrior, quantile
from recollect.sketching.layout import Unknown, stack_columns
from recollect.sketching.prior import Prior
from recollect.sketching.solve import (
    Solution,
    least_squares,
    misfit,
    posterior,
    transpose,
)

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder

__all__ = [
    "Blocks",
    "calibrated",
    "decode_linearly",
    "interference",
    "interleave",
    "prior_blocks",
    "reorder",
    "split",
]

# Standard deviation, in scaled units of the whole attribute, for modules the prior never saw.
UNSEEN_STD = 10.0
# Numbers of all static families up to which their interference with other objects is computed.
INTERFERENCE_NUMBERS = 512


@dataclass(frozen=True, eq=False)
class Blocks:
    """Prior mean, factor and floor of some unknowns, scaled: blocks side by side.

    Attributes:
        mean: (K,) float64.
        factors: (r, m) per unknown; the covariance of a block is factor' factor + diag(floor).
        floors: (m,) per unknown.
        modules: name per unknown.
    """

    mean: Tensor
    factors: list[Tensor]
    floors: list[Tensor]
    modules: list[str]

    def images(self, a: Tensor) -> list[Tensor]:
        """Return per block the (m, d) product of its covariance and its columns."""
        out, start = [], 0
        for f, v in zip(self.factors, self.floors, strict=True):
            block = a[start : start + len(v)]
            out.append(f.T @ (f @ block) + v[:, None] * block)
            start += len(v)
        return out


def prior_blocks(unknowns: Sequence[Unknown], prior: Prior) -> Blocks:
    """Look up each unknown's module in the prior; an unseen module is almost free."""
    means, factors, floors = [], [], []
    for u in unknowns:
        known = prior.statistics.get(u.module)
        m, scale = u.entry.size, u.entry.scale
        if known is None and u.entry.name in prior.static:
            known = prior.static_statistics(u.module)
        if known is None:
            means.append(torch.zeros(m, dtype=torch.float64))
            factors.append(torch.zeros(0, m, dtype=torch.float64))
            floors.append(torch.full((m,), UNSEEN_STD**2 / m, dtype=torch.float64))
            continue
        if len(known.mean) != m:
            raise ValueError(
                f"the prior knows module {u.module!r} with attributes of {len(known.mean)} "
                f"numbers, these sketches hold {m}; fit the prior on traces of the same network"
            )
        means.append(known.mean / scale)
        factors.append(known.factor / scale)
        floors.append(known.floor / scale**2)
    mean = torch.cat(means) if means else torch.zeros(0, dtype=torch.float64)
    return Blocks(mean, factors, floors, [u.module for u in unknowns])


def decode_linearly(
    decoder: Decoder,
    unknowns: list[Unknown],
    residual: Tensor,
    noise: Tensor,
    *,
    calibrate: bool = True,
) -> Solution:
    """Do the part of ``methods.decode_structure`` that is one linear system.

    Args:
        decoder: method, prior, caches.
        unknowns: of the structure, at least one.
        residual: (B, d) float64 sketches without counts.
        noise: (B,) variance of rounding.
        calibrate: whether to apply the calibration.
    """
    dim = residual.shape[1]
    if decoder.method == "transpose":
        return transpose(stack_columns(unknowns, decoder.cache, dim), residual)
    if decoder.prior is None or decoder.method == "least_squares":
        return least_squares(stack_columns(unknowns, decoder.cache, dim), residual, noise)
    keep = decoder.method != "per-module"
    joint, static, rest = split(decoder, unknowns) if keep else (None, [], unknowns)
    if joint is None:
        solution = _independent(decoder, unknowns, residual, float(noise.mean()))
    elif not rest:
        solution = Solution(
            joint.estimate(residual).to(torch.float64),
            joint.std(noise),
        )
        solution = reorder(solution, joint, unknowns)
        calibrate = False
    else:
        solution = _mixed(decoder, joint, static, rest, unknowns, residual, noise)
    return calibrated(decoder, unknowns, solution) if calibrate else solution


def split(
    decoder: Decoder,
    unknowns: list[Unknown],
    wanted: Callable[[Unknown], bool] = lambda unknown: True,
) -> tuple[JointPrior | None, list[Unknown], list[Unknown]]:
    """Separate the families that the joint prior covers from all other unknowns.

    Args:
        decoder: has the prior.
        unknowns: of one structure.
        wanted: whether an object may be left to the joint prior.
    """
    assert decoder.prior is not None
    plain: dict[str, list[Unknown]] = {}
    for u in unknowns:
        if u.is_plain and u.entry.name in decoder.prior.static and wanted(u):
            plain.setdefault(u.entry.name, []).append(u)
    whole = [name for name, us in plain.items() if len(us) == len(us[0].entry.members)]
    if not whole:
        return None, [], unknowns
    names = tuple(sorted(whole))
    static = [u for u in unknowns if u.entry.name in whole]
    rest = [u for u in unknowns if u.entry.name not in whole]
    return decoder.joint(names), static, rest


def _independent(
    decoder: Decoder, unknowns: list[Unknown], residual: Tensor, noise: float
) -> Solution:
    """LMMSE with one covariance per module, in the smaller of the two systems."""
    assert decoder.prior is not None
    dim = residual.shape[1]
    a = stack_columns(unknowns, decoder.cache, dim)
    blocks = prior_blocks(unknowns, decoder.prior)
    if len(a) <= 2 * dim and all(len(v) <= 512 for v in blocks.floors):
        return posterior(a, blocks.mean, decoder.roots(blocks), residual, noise)
    images = torch.cat(blocks.images(a))
    spread = a.T @ images
    spread.diagonal().add_(max(noise, 1e-13 * float(residual.square().mean())))
    factor = torch.linalg.cholesky((spread + spread.T) / 2)
    difference = residual - blocks.mean @ a
    solved = torch.cholesky_solve(difference.T, factor)
    wider = misfit((difference.T * solved).sum(0), dim)
    std = _spread_std(blocks, images, factor) * wider[:, None]
    return Solution(blocks.mean + (images @ solved).T, std)


def _spread_std(blocks: Blocks, images: Tensor, factor: Tensor) -> Tensor:
    """Root of diag(cov - images C^-1 images'), (K,)."""
    own = torch.cat(
        [f.square().sum(0) + v for f, v in zip(blocks.factors, blocks.floors, strict=True)]
    )
    told = torch.linalg.solve_triangular(factor, images.T, upper=False).square().sum(0)
    std: Tensor = (own - told).clamp_min(0).sqrt()
    return std


def _mixed(
    decoder: Decoder,
    joint: JointPrior,
    static: list[Unknown],
    rest: list[Unknown],
    unknowns: list[Unknown],
    residual: Tensor,
    noise: Tensor,
) -> Solution:
    """A static network and objects that come and go, in one sketch: one d x d system."""
    assert decoder.prior is not None
    dim = residual.shape[1]
    a = stack_columns(rest, decoder.cache, dim)
    blocks = prior_blocks(rest, decoder.prior)
    images = torch.cat(blocks.images(a))
    glances = max(len(joint.rows) - 1, 1)
    spread = joint.covariance() + a.T @ images
    spread.diagonal().add_(max(joint.ridge / glances, float(noise.mean()), 1e-30))
    factor = torch.linalg.cholesky((spread + spread.T) / 2)
    solved = torch.cholesky_solve((residual - joint.sketch_mean - blocks.mean @ a).T, factor)
    moved = (joint.sketches @ solved / glances).T.to(torch.float32) @ joint.rows
    rows = len(residual)
    of_static = Solution(
        (joint.mean + moved).to(torch.float64),
        (joint.std(noise).square() + interference(joint, factor)).sqrt(),
    )
    of_static = reorder(of_static, joint, static)
    of_rest = Solution(
        blocks.mean + (images @ solved).T,
        _spread_std(blocks, images, factor).expand(rows, -1),
    )
    return interleave([(static, of_static), (rest, of_rest)], unknowns)


def interference(joint: JointPrior, factor: Tensor) -> Tensor:
    """Variance (K,) that objects beside the static families add to the estimates of these.

    What the static part alone leaves open is in the joint prior's own deviations; this is how
    much less a sketch tells about it when other objects stand in the same sketch. It is left
    out (zero) for large networks, where it would cost more than the decoding.
    """
    if joint.rows.shape[1] > INTERFERENCE_NUMBERS:
        return torch.zeros(joint.rows.shape[1], dtype=torch.float64)
    glances = max(len(joint.rows) - 1, 1)
    images = joint.sketches.T @ joint.rows.to(torch.float64) / glances
    alone = joint.covariance()
    alone.diagonal().add_(max(joint.ridge / glances, joint.noise, 1e-30))
    told = torch.linalg.solve_triangular(factor, images, upper=False).square().sum(0)
    whole = torch.linalg.solve_triangular(
        torch.linalg.cholesky(alone), images, upper=False
    ).square().sum(0)  # fmt: skip
    lost: Tensor = (whole - told).clamp_min(0)
    return lost


def interleave(parts: list[tuple[list[Unknown], Solution]], unknowns: list[Unknown]) -> Solution:
    """Bring the solutions of several groups of unknowns into the order of all."""
    pieces: dict[int, tuple[Tensor, Tensor]] = {}
    for group, solution in parts:
        start = 0
        for u in group:
            where = slice(start, start + u.entry.size)
            pieces[u.rank] = (solution.mean[:, where], solution.std[:, where])
            start += u.entry.size
    return Solution(
        torch.cat([pieces[u.rank][0] for u in unknowns], 1),
        torch.cat([pieces[u.rank][1] for u in unknowns], 1),
    )


def reorder(solution: Solution, joint: JointPrior, unknowns: list[Unknown]) -> Solution:
    """Bring the joint prior's columns into the order of the unknowns."""
    mean, std = [], []
    for u in unknowns:
        start = joint.slices[u.entry.name].start + u.member * u.entry.size
        where = slice(start, start + u.entry.size)
        mean.append(solution.mean[:, where])
        std.append(solution.std[:, where])
    return Solution(torch.cat(mean, 1), torch.cat(std, 1))


def calibrated(decoder: Decoder, unknowns: list[Unknown], solution: Solution) -> Solution:
    """Stretch the standard deviations by what held-back glances of the prior showed."""
    factors = decoder.calibration
    stretch = [
        torch.full((u.entry.size,), factors.get(u.entry.name, 1.0), dtype=torch.float64)
        for u in unknowns
    ]
    return Solution(solution.mean, solution.std * torch.cat(stretch))


def stretch_factor(errors: Tensor, std: Tensor) -> float:
    """How much the standard deviations must grow for 90 % of the errors to lie within 1.645."""
    known = torch.isfinite(std) & (std > 0) & torch.isfinite(errors)
    if int(known.sum()) < 30:
        return 1.0
    return max(quantile(errors[known].abs() / std[known], 0.9) / Z90, 1e-3)
