"""Expectation propagation: decoding with priors that are more than mean and covariance.

The sketch is ``s = A' u + noise``. Each object's prior is replaced by a Gaussian, its *site*;
with all sites Gaussian the posterior is that of LMMSE. Then, for each object in turn, its own site
is taken out again, its true prior is put in, and the site becomes the Gaussian with which the
product has the same mean and covariance. With C and h what all others and the sketch say of the
object, W the whitened columns and y what its columns see of the residual,

    T = W W',  C = T (I - S T)^-1,  h = C (m + S y) + y,
    site covariance = R (I - R' C R)^-1 R',  R R' the tilted covariance,

S and m the site's covariance and mean. The sites are moved part of the way at each sweep.

Reference: "Expectation propagation for approximate Bayesian inference" (Minka, 2001);
"Bayesian inference and optimal design for the sparse linear model" (Seeger, 2008).

Shape letters: K unknowns, d numbers in a sketch, m numbers of an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recollect.sketching.sites import Site, Tilted

__all__ = ["Propagated", "propagate"]

# How far a site moves in one sweep.
STEP = 0.7
# A site's covariance is at most this many times the tilted one.
WIDEST = 100.0


@dataclass(frozen=True, eq=False)
class Propagated:
    """What propagation ends with, for one sketch.

    Attributes:
        mean: (K,) scaled attributes.
        std: (K,).
        factor: (d, d) Cholesky factor of the covariance of the sketch under the last sites.
        left: (d,) what the means leave of the sketch.
        misfit: energy per number of the sketch under the first sites, whitened.
    """

    mean: Tensor
    std: Tensor
    factor: Tensor
    left: Tensor
    misfit: float


def propagate(
    a: Tensor,
    residual: Tensor,
    noise: Tensor,
    sites: Sequence[Site],
    *,
    sweeps: int = 50,
    tolerance: float = 0.05,
) -> Propagated:
    """Decode one sketch.

    Args:
        a: (K, d) float64 map.
        residual: (d,) sketch without what is known.
        noise: (d, d) covariance of all that is not in the map.
        sites: one per object, of K numbers together.
        sweeps: most sweeps.
        tolerance: ends when no mean moves by more, in units of the largest deviation.

    Returns:
        Means, deviations, and what tells whether to believe them.
    """
    state = _State(a, residual, noise, sites)
    energy = state.energy
    before = state.answer()[0]
    for _ in range(sweeps):
        state.sweep()
        mean, std = state.answer()
        moved = float((mean - before).abs().max()) if len(mean) else 0.0
        before = mean
        if moved <= tolerance * float(std.max().clamp_min(1e-300)):
            break
    mean, std = state.answer()
    return Propagated(mean, std, state.factor, residual - mean @ a, energy / a.shape[1])


class _State:
    """The sites, and the posterior that they give."""

    def __init__(self, a: Tensor, residual: Tensor, noise: Tensor, sites: Sequence[Site]) -> None:
        self.a, self.residual, self.noise, self.sites = a, residual, noise, sites
        self.means = [s.mean for s in sites]
        self.spreads = [s.covariance for s in sites]
        ends = torch.tensor([0, *[len(m) for m in self.means]]).cumsum(0).tolist()
        self.where = [slice(b, e) for b, e in pairwise(ends)]
        self.tilted: list[Tilted | None] = [None] * len(sites)
        self._solve()

    def _solve(self) -> None:
        """Find the posterior under the present sites."""
        total = self.noise.clone()
        for where, spread in zip(self.where, self.spreads, strict=True):
            part = self.a[where]
            total += part.T @ (spread @ part)
        self.factor = torch.linalg.cholesky((total + total.T) / 2)
        apart = self.residual - torch.cat(self.means) @ self.a
        self.seen = self.a @ torch.cholesky_solve(apart[:, None], self.factor)[:, 0]
        self.white = torch.linalg.solve_triangular(self.factor, self.a.T, upper=False)
        half = torch.linalg.solve_triangular(self.factor, apart[:, None], upper=False)
        self.energy = float(half.square().sum())

    def sweep(self) -> None:
        """Move every site that can be moved, then solve again."""
        for i, site in enumerate(self.sites):
            if site.kind == "block":
                self._move_block(i)
            elif site.kind == "numbers":
                self._move_numbers(i)
        self._solve()

    def _move_block(self, i: int) -> None:
        """Move the site of an object whose numbers belong together."""
        mean, spread, y = self.means[i], self.spreads[i], self.seen[self.where[i]]
        eye = torch.eye(len(y), dtype=y.dtype)
        told = self.white[:, self.where[i]]
        told = told.T @ told
        precision = torch.linalg.solve(eye - told @ spread, told)
        precision = (precision + precision.T) / 2
        shift = precision @ (mean + spread @ y) + y
        tilted = self.sites[i].tilt(precision, shift)
        jitter = 1e-14 * tilted.covariance.diagonal().mean() + 1e-300
        root = torch.linalg.cholesky(tilted.covariance + jitter * eye)
        values, vectors = torch.linalg.eigh(root.T @ precision @ root)
        gain = 1 / (1 - values).clamp_min(1 / WIDEST)
        turned = root @ vectors
        new = (turned * gain) @ turned.T
        middle = tilted.mean + new @ (precision @ tilted.mean - shift)
        self._put(i, middle, (new + new.T) / 2, tilted)

    def _move_numbers(self, i: int) -> None:
        """Move the sites of an object's numbers, each by itself."""
        mean, spread, y = self.means[i], self.spreads[i].diagonal(), self.seen[self.where[i]]
        told = self.white[:, self.where[i]].square().sum(0)
        precision = told / (1 - spread * told).clamp_min(1e-12)
        shift = precision * (mean + spread * y) + y
        tilted = self.sites[i].tilt(precision, shift)
        new = tilted.covariance / (1 - precision * tilted.covariance).clamp_min(1 / WIDEST)
        middle = tilted.mean + new * (precision * tilted.mean - shift)
        self._put(i, middle, torch.diag(new), tilted)

    def _put(self, i: int, mean: Tensor, spread: Tensor, tilted: Tilted) -> None:
        self.means[i] = self.means[i] + STEP * (mean - self.means[i])
        self.spreads[i] = self.spreads[i] + STEP * (spread - self.spreads[i])
        self.tilted[i] = tilted

    def answer(self) -> tuple[Tensor, Tensor]:
        """Return means and deviations of all unknowns."""
        means, variances = [], []
        for i, where in enumerate(self.where):
            tilted = self.tilted[i]
            if tilted is not None:
                means.append(tilted.mean)
                one_by_one = tilted.covariance.ndim == 1
                variances.append(tilted.covariance if one_by_one else tilted.covariance.diagonal())
                continue
            spread = self.spreads[i]
            means.append(self.means[i] + spread @ self.seen[where])
            told = (self.white[:, where] @ spread).square().sum(0)
            variances.append(spread.diagonal() - told)
        return torch.cat(means), torch.cat(variances).clamp_min(0).sqrt()
