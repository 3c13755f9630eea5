"""Shapes: one object's attribute as a mixture of Gaussians, several fits of it averaged.

With the components N(mu_k, S_k) of weights pi_k, S_k = L_k L_k', and a sketch that says
``exp(-u' C u / 2 + h' u)`` of the attribute, component k has the posterior weight

    w_k ~ pi_k |A_k|^-1/2 exp(g_k' A_k^-1 g_k / 2 + h' mu_k - mu_k' C mu_k / 2),
    A_k = I + L_k' C L_k,  g_k = L_k' (h - C mu_k),

mean ``mu_k + L_k A_k^-1 g_k`` and covariance ``L_k A_k^-1 L_k'``.

Each fit is by expectation maximisation from a random start of its own; every component leans on
the covariance that all share, and how many there are is chosen by the likelihood of attributes
that were held back, blurred as a sketch blurs them. Averaging the densities of several fits takes
away most of what is accidental in one of them.

Reference: "Improved Gaussian mixture density estimates using Bayesian penalty terms and network
averaging" (Ormoneit and Tresp, 1995).

Shape letters: n attributes, m numbers in an attribute, k components.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.sketching.sites import Tilted

__all__ = ["Shapes"]

# Fits whose densities are averaged, and the numbers of components that are tried for one.
FITS, COMPONENTS = 5, (1, 4, 12)
# Objects that there must be for each component.
LEAST_EACH = 12
# Sweeps of expectation maximisation: of a fit, and of one by which their number is chosen.
SWEEPS, TRIAL_SWEEPS = 20, 8
# Objects' worth of the shared covariance in each component's own, for each number of an attribute.
LEANING = 1.0
# The likelihood that chooses is of attributes blurred by this share of their mean variance.
BLUR = 0.05
# More components are taken where the likelihood gains so many of its standard errors.
CLEAR = 2.0
# Attributes beyond which some are left out, evenly.
MOST_OBJECTS = 4096
# Components of less weight than this are left out of the moments.
LEAST_WEIGHT = 1e-7


class _Fit(NamedTuple):
    """Centres (k, m), covariances (k, m, m) and log weights (k,)."""

    centres: Tensor
    spreads: Tensor
    log_weights: Tensor


class Shapes:
    """A mixture of Gaussians, each of its own covariance: the prior of one object's attribute.

    Args:
        centres: (k, m) float64.
        spreads: (k, m, m) covariances.
        weights: (k,) that sum to one.
    """

    kind = "block"

    def __init__(self, centres: Tensor, spreads: Tensor, weights: Tensor) -> None:
        self.centres, self.log_weights = centres, weights.log()
        self.roots = torch.linalg.cholesky(spreads)
        self.mean = weights @ centres
        apart = centres - self.mean
        within = (weights[:, None, None] * spreads).sum(0)
        self.covariance = within + apart.T @ (apart * weights[:, None])

    def __len__(self) -> int:
        return len(self.centres)

    @classmethod
    def of(cls, x: Tensor, floor: Tensor) -> Shapes:
        """Fit to the attributes that a prior has seen.

        Args:
            x: (n, m) float64 scaled attributes.
            floor: (m,) variance that each component has at least.

        Example:
            >>> x = torch.randn(300, 2, generator=torch.manual_seed(0), dtype=torch.float64)
            >>> floor = torch.full((2,), 1e-6, dtype=torch.float64)
            >>> len(Shapes.of(x, floor)), len(Shapes.of(x / x.norm(dim=1, keepdim=True), floor))
            (1, 60)
        """
        order = torch.from_numpy(_generator(x, "order").permutation(len(x))[:MOST_OBJECTS])
        x = x[order]
        components = _number(x, floor)
        if components == 1:
            fit = _fitted(x, floor, 1, 1, 0)
            return cls(fit.centres, fit.spreads, fit.log_weights.exp())
        fits = [_fitted(x, floor, components, SWEEPS, start) for start in range(FITS)]
        return cls(
            torch.cat([f.centres for f in fits]),
            torch.cat([f.spreads for f in fits]),
            torch.cat([f.log_weights for f in fits]).exp() / FITS,
        )

    def tilt(self, precision: Tensor, shift: Tensor) -> Tilted:
        """Return the moments of the mixture, reweighted.

        Args:
            precision: C, (m, m).
            shift: h, (m,).
        """
        eye = torch.eye(len(shift), dtype=shift.dtype)
        inner, failed = torch.linalg.cholesky_ex(self.roots.mT @ precision @ self.roots + eye)
        pulled = self.centres @ precision
        along = (shift - pulled)[:, None] @ self.roots
        half = torch.linalg.solve_triangular(inner, along.mT, upper=False)
        evidence = 0.5 * half.square().sum((1, 2)) - inner.diagonal(dim1=1, dim2=2).log().sum(1)
        evidence += self.centres @ shift - 0.5 * (pulled * self.centres).sum(1)
        evidence[failed > 0] = -torch.inf
        weights = torch.softmax(self.log_weights + evidence, 0)
        kept = weights > LEAST_WEIGHT
        weights = weights[kept] / weights[kept].sum()
        narrow = torch.linalg.solve_triangular(inner[kept], self.roots[kept].mT, upper=False)
        moved = self.centres[kept] + (half[kept].mT @ narrow)[:, 0]
        mean = weights @ moved
        apart = moved - mean
        within = (weights[:, None, None] * (narrow.mT @ narrow)).sum(0)
        return Tilted(mean, within + apart.T @ (apart * weights[:, None]))


def _generator(x: Tensor, *path: int | str) -> np.random.Generator:
    """Return the generator that belongs to attributes of this number and size."""
    return np.random.Generator(np.random.PCG64(seed_of("shapes", *x.shape, *path)))


def _number(x: Tensor, floor: Tensor) -> int:
    """Return of how many components held-back attributes are likeliest."""
    tried = [k for k in COMPONENTS if k == 1 or len(x) >= LEAST_EACH * k]
    if len(tried) == 1:
        return 1
    back = np.zeros(len(x), dtype=bool)
    back[::5] = True
    known, judged = x[torch.from_numpy(~back)], x[torch.from_numpy(back)]
    blur = BLUR * known.var(0).mean() + floor.mean()
    chosen, best = 1, None
    for k in tried:
        fit = _fitted(known, floor, k, TRIAL_SWEEPS, 0)
        wider = fit.spreads + blur * torch.eye(x.shape[1], dtype=x.dtype)
        likelihood = torch.logsumexp(_log_densities(judged, fit._replace(spreads=wider)), 0)
        if best is not None:
            gain = likelihood - best
            if float(gain.mean()) < CLEAR * float(gain.std()) * len(gain) ** -0.5:
                continue
        chosen, best = k, likelihood
    return chosen


def _fitted(x: Tensor, floor: Tensor, components: int, sweeps: int, start: int) -> _Fit:
    """Fit by expectation maximisation, from centres that are attributes drawn at random."""
    n, m = x.shape
    least = torch.diag(floor)
    shared = torch.cov(x.T, correction=0).reshape(m, m)
    if components == 1:
        grown = shared * (1 + 1 / n) + least
        return _Fit(x.mean(0)[None], grown[None], torch.zeros(1, dtype=x.dtype))
    drawn = _generator(x, components, start).choice(n, components, replace=False)
    centres = x[torch.from_numpy(drawn)]
    width = shared.diagonal().mean().clamp_min(1e-300)
    share = torch.softmax(-torch.cdist(x, centres).square() / width, 1)
    shared = shared / components
    fit = _moved(x, share, shared, least)
    for _ in range(sweeps):
        density = _log_densities(x, fit)
        share = torch.softmax(density, 0).T
        inner = fit.spreads - least
        shared = (share.mean(0)[:, None, None] * inner).sum(0)
        fit = _moved(x, share, shared, least)
    return fit


def _moved(x: Tensor, share: Tensor, shared: Tensor, least: Tensor) -> _Fit:
    """Maximise: (n, k) shares to components that lean on a shared (m, m) covariance."""
    n, k = share.shape
    number = share.sum(0)
    centres = share.T @ x / (number[:, None] + 1e-9)
    apart = x - centres[:, None]
    leaning = LEANING * x.shape[1]
    spreads = (apart * share.T[:, :, None]).mT @ apart + leaning * shared
    spreads = spreads / (number + leaning)[:, None, None] + least
    return _Fit(centres, (spreads + spreads.mT) / 2, ((number + 1) / (n + k)).log())


def _log_densities(x: Tensor, fit: _Fit) -> Tensor:
    """Return the (k, n) logarithms of weight times density, without the constant."""
    root = torch.linalg.cholesky(fit.spreads)
    white = torch.linalg.solve_triangular(root, (x - fit.centres[:, None]).mT, upper=False)
    volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
    density: Tensor = (fit.log_weights - volume)[:, None] - white.square().sum(1) / 2
    return density
