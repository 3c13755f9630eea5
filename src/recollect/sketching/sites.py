"""Sites: what is known of one object's attribute beyond mean and covariance.

A site stands for the prior p(u) of one object's scaled attribute. Given what the sketch says of
it, ``exp(-u' C u / 2 + h' u)``, it returns mean and covariance of the product (the *tilted*
moments).

* ``Kernels``: a mixture of Gaussians of one covariance S, one around each attribute that the prior
  holds. With ``C~ = C (I + S C)^-1`` and ``h~ = (I + C S)^-1 h`` the weights are
  ``w_k ~ pi_k exp(-mu_k' C~ mu_k / 2 + h~' mu_k)``, the means ``(I + S C)^-1 (mu_k + S h)``, and
  all have the covariance ``S (I + C S)^-1``. With S near zero they are the words of a codebook.
* ``sketching.shapes.Shapes``: a mixture of Gaussians, each of its own covariance.
* ``SpikeSlab``: every number is zero, or normal around zero, by itself.
* ``Normal``: mean and covariance, nothing else.

Shape letters: n attributes, m numbers in an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Kernels", "Normal", "Site", "SpikeSlab", "Tilted"]

# Attributes of a module beyond which some are left out, evenly.
MOST_KERNELS = 1024
# Neighbours by whose distance the shape of a kernel is judged.
NEIGHBOURS = 6
# Widths of kernels that are tried, in typical distances to a neighbour.
WIDTHS = np.geomspace(0.2, 2.0, 16)
# A word is known to the precision of a float16, in which priors are kept.
WORD_PRECISION = 2.0**-11


class Tilted(NamedTuple):
    """Moments of an attribute when sketch and prior are both heard.

    Attributes:
        mean: (m,).
        covariance: (m, m); (m,) variances for sites that treat every number by itself.
    """

    mean: Tensor
    covariance: Tensor


class Site(Protocol):
    """The prior of one object's scaled attribute.

    Sites of the kind "normal" never change; "block" ones move as a whole, and of "numbers" each
    number by itself.
    """

    @property
    def mean(self) -> Tensor:
        """Where the search starts, (m,)."""
        ...

    @property
    def covariance(self) -> Tensor:
        """Around it, (m, m)."""
        ...

    @property
    def kind(self) -> str:
        """``"normal"``, ``"block"`` or ``"numbers"``."""
        ...

    def tilt(self, precision: Tensor, shift: Tensor) -> Tilted:
        """Return the moments under ``exp(-u' C u / 2 + h' u)``.

        Args:
            precision: C, (m, m); its diagonal (m,) for sites of the kind ``"numbers"``.
            shift: h, (m,).
        """
        ...


@dataclass(frozen=True, eq=False)
class Normal:
    """Mean and covariance, and nothing else."""

    mean: Tensor
    covariance: Tensor
    kind: str = "normal"

    def tilt(self, precision: Tensor, shift: Tensor) -> Tilted:
        """Return the moments of a product of two Gaussians."""
        inner = torch.eye(len(shift), dtype=shift.dtype) + self.covariance @ precision
        mean = torch.linalg.solve(inner, self.mean + self.covariance @ shift)
        return Tilted(mean, torch.linalg.solve(inner, self.covariance))


class Kernels:
    """A Gaussian around each of n attributes; words of a codebook if they are narrow.

    Args:
        centres: (n, m) float64.
        weights: (n,) that sum to one.
        spread: (m, m) covariance S of each kernel.
    """

    kind = "block"

    def __init__(self, centres: Tensor, weights: Tensor, spread: Tensor) -> None:
        self.centres, self.spread = centres, spread
        self.log_weights = weights.log()
        self.mean = weights @ centres
        apart = centres - self.mean
        self.covariance = spread + apart.T @ (apart * weights[:, None])

    @classmethod
    def around(cls, x: Tensor, floor: Tensor) -> Kernels:
        """Put a kernel around each attribute, its shape that of differences of neighbours.

        The width is the one of greatest likelihood when each attribute in turn is left out; the
        centres are drawn towards their mean, so that the mixture keeps the covariance of x.

        Args:
            x: (n, m) scaled attributes, n at least 2.
            floor: (m,) smallest variance of a kernel.
        """
        x = x[_evenly(len(x), MOST_KERNELS)]
        shape = _neighbourhood(x, floor)
        root = torch.linalg.cholesky(shape)
        white = torch.linalg.solve_triangular(root, x.T, upper=False).T
        square = torch.cdist(white, white).square()
        square.fill_diagonal_(float("inf"))
        likelihood = [
            float(torch.logsumexp(-square / (2 * w * w), 1).mean()) - x.shape[1] * np.log(w)
            for w in WIDTHS
        ]
        spread = shape * float(WIDTHS[int(np.argmax(likelihood))]) ** 2
        mean = x.mean(0)
        total = float((x - mean).square().mean(0).sum()) + float(floor.sum())
        drawn = max(1 - float(spread.trace()) / total, 0.01) ** 0.5
        even = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
        return cls(mean + (x - mean) * drawn, even, spread)

    @classmethod
    def words(cls, x: Tensor) -> Kernels:
        """Take every distinct attribute as a word, as likely as it is frequent.

        Args:
            x: (n, m) scaled attributes; equal to the precision of a float16 is equal.
        """
        codes, place, count = torch.unique(
            x.to(torch.float16), dim=0, return_inverse=True, return_counts=True
        )
        centres = torch.zeros(codes.shape, dtype=x.dtype).index_add_(0, place, x)
        centres /= count[:, None]
        spread = x.square().mean(0) * WORD_PRECISION**2 / 3
        spread += 1e-12 * x.square().mean() + 1e-30
        return cls(centres, count / count.sum().to(x.dtype), torch.diag(spread))

    def responsibilities(self, precision: Tensor, shift: Tensor) -> Tensor:
        """Return the (n,) posterior probabilities of the kernels."""
        inner = torch.eye(len(shift), dtype=shift.dtype) + precision @ self.spread
        both = torch.linalg.solve(inner, torch.cat([precision, shift[:, None]], 1))
        pull, along = both[:, :-1], both[:, -1]
        energy = 0.5 * ((self.centres @ pull) * self.centres).sum(1)
        return torch.softmax(self.log_weights - energy + self.centres @ along, 0)

    def tilt(self, precision: Tensor, shift: Tensor) -> Tilted:
        """Return the moments of the mixture, reweighted."""
        weights = self.responsibilities(precision, shift)
        inner = torch.eye(len(shift), dtype=shift.dtype) + self.spread @ precision
        narrow = torch.linalg.solve(inner, self.spread)
        moved = torch.linalg.solve(inner, (self.centres + self.spread @ shift).T).T
        mean = weights @ moved
        apart = moved - mean
        return Tilted(mean, (narrow + narrow.T) / 2 + apart.T @ (apart * weights[:, None]))


class SpikeSlab:
    """Every number is zero, or normal around zero, by itself.

    Args:
        share: (m,) how often each number is not zero.
        variance: (m,) of the numbers that are not zero.
    """

    kind = "numbers"

    def __init__(self, share: Tensor, variance: Tensor) -> None:
        self.share, self.variance = share, variance
        self.mean = torch.zeros_like(share)
        self.covariance = torch.diag(share * variance)

    @classmethod
    def of(cls, x: Tensor) -> SpikeSlab:
        """Read share and variance from (n, m) scaled attributes, leaning on their pool."""
        n = len(x)
        there = (x != 0).to(x.dtype)
        square = x.square().sum(0)
        pooled = float(square.sum()) / max(float(there.sum()), 1.0)
        share = (there.sum(0) + float(there.mean())) / (n + 1)
        variance = (square + pooled) / (there.sum(0) + 1)
        return cls(share.clamp(1e-6, 1 - 1e-6), variance.clamp_min(1e-30))

    def tilt(self, precision: Tensor, shift: Tensor) -> Tilted:
        """Return means and variances; C is given by its diagonal."""
        wider = 1 + self.variance * precision
        slab = self.variance / wider
        evidence = 0.5 * shift.square() * slab - 0.5 * wider.log()
        there = torch.sigmoid(torch.logit(self.share) + evidence)
        middle = shift * slab
        return Tilted(there * middle, there * slab + there * (1 - there) * middle.square())


def _evenly(n: int, most: int) -> Tensor:
    """Return at most ``most`` of n rows, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, most)).round().to(torch.int64)


def _neighbourhood(x: Tensor, floor: Tensor) -> Tensor:
    """Return the (m, m) covariance of differences of neighbours, nearness judged by itself."""
    shape = torch.cov(x.T).reshape(x.shape[1], x.shape[1]) + torch.diag(floor)
    for _ in range(3):
        root = torch.linalg.cholesky(shape)
        white = torch.linalg.solve_triangular(root, x.T, upper=False).T
        apart = torch.cdist(white, white)
        apart.fill_diagonal_(float("inf"))
        near = apart.topk(min(NEIGHBOURS, len(x) - 1), largest=False).indices
        differences = (x[:, None] - x[near]).flatten(0, 1)
        shape = differences.T @ differences / len(differences) + torch.diag(floor)
    return shape
