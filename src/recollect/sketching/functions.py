"""Functions of modules, learned from attributes that were recovered.

A feature is fitted where it is active, as a linear function of what the module reads, and is
rectified: ``x = max(w . v + c, 0)``. If at most ``k < m`` features are ever active together,
only the k largest are kept. Where that leaves more than a tenth of the variance unexplained,
kernel ridge regression (Gaussian kernel, ridge by leave-one-out error) is tried, and the better
of both on glances held out is taken.

Shape letters: S glances, n numbers read, m features of an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["ModuleFunction", "fit_function"]

RIDGE = 1e-6
# Below this R² on held-out glances a kernel is tried; glances it learns from at most.
GOOD, CENTRES = 0.9, 1500
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Share of firing glances that must obey "at most k".
OBEYED = 0.99


@dataclass(frozen=True, eq=False)
class ModuleFunction:
    """A fitted function of one module.

    Attributes:
        kind: ``"rectified"`` or ``"kernel"``.
        kept: features that are not zero at most; m if all may be.
        weights: (n + 1, m) float64, the constant last; of centres (C, m) for a kernel.
        r2: on held-out glances in which the module fires; nan if none was held out.
        error: root of the mean square error there, (m,).
        centres: (C, n) inputs of the kernel, (0, n) otherwise.
        width: of the kernel.
        mean: (m,) that the kernel adds.
    """

    kind: str
    kept: int
    weights: Tensor
    r2: float
    error: Tensor
    centres: Tensor
    width: float = 1.0
    mean: Tensor | float = 0.0

    def __call__(self, read: Tensor) -> Tensor:
        """Return the attributes, (S, m), from what the module reads, (S, n)."""
        v = read.to(torch.float64)
        if self.kind == "kernel":
            x = _gaussian(v, self.centres, self.width) @ self.weights + self.mean
        else:
            x = v @ self.weights[:-1] + self.weights[-1]
        if self.kept < x.shape[1]:
            least = x.topk(self.kept, dim=1).values[:, -1:]
            x = torch.where(x >= least, x, 0.0)
        return x.clamp_min(0)


def fit_function(read: Tensor, attributes: Tensor, held_out: Tensor) -> ModuleFunction:
    """Fit a module's function.

    Args:
        read: (S, n) what the module reads in the glances in which it fires.
        attributes: (S, m), not negative.
        held_out: (S,) bool, glances that judge; the function that is returned learns from all.

    Raises:
        ValueError: if there are fewer glances than numbers read.
    """
    v, x = read.to(torch.float64), attributes.to(torch.float64)
    if len(v) <= v.shape[1]:
        raise ValueError(
            f"{len(v)} glances of a module are too few to fit a function of {v.shape[1]} numbers: "
            f"more than {v.shape[1]} are needed, {8 * v.shape[1]} are good"
        )
    learn = ~held_out
    best = _judged(_rectified(v[learn], x[learn]), v[held_out], x[held_out])
    final = _rectified(v, x)
    if best.r2 < GOOD and x.shape[1]:
        rival = _judged(_kernel(v[learn], x[learn]), v[held_out], x[held_out])
        if rival.r2 > best.r2:
            best, final = rival, _kernel(v, x)
    return replace(final, r2=best.r2, error=best.error)


def _rectified(v: Tensor, x: Tensor) -> ModuleFunction:
    """Fit each feature where it is active."""
    ones = torch.cat([v, torch.ones(len(v), 1, dtype=v.dtype)], 1)
    weights = torch.zeros(ones.shape[1], x.shape[1], dtype=v.dtype)
    for j in range(x.shape[1]):
        on = x[:, j] > 0
        if int(on.sum()) > ones.shape[1]:
            gram = ones[on].T @ ones[on]
            gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()))
            weights[:, j] = torch.linalg.solve(gram, ones[on].T @ x[on, j])
    none = torch.full((x.shape[1],), float("nan"), dtype=v.dtype)
    return ModuleFunction("rectified", _kept(x), weights, float("nan"), none, v[:0])


def _kernel(v: Tensor, x: Tensor) -> ModuleFunction:
    """Kernel ridge regression, the ridge by leave-one-out error in closed form."""
    v, x = v[:CENTRES], x[:CENTRES]
    width = float(torch.pdist(v[:300]).median().clamp_min(1e-12))
    values, vectors = torch.linalg.eigh(_gaussian(v, v, width))
    mean = x.mean(0)
    turned = vectors.T @ (x - mean)
    errors = []
    for ridge in RIDGES:
        shrink = 1 / (values.clamp_min(0) + ridge)
        weights = vectors @ (turned * shrink[:, None])
        diagonal = (vectors.square() * shrink).sum(1)
        errors.append(float((weights / diagonal[:, None]).square().sum()))
    ridge = RIDGES[errors.index(min(errors))]
    weights = vectors @ (turned / (values.clamp_min(0) + ridge)[:, None])
    none = torch.full((x.shape[1],), float("nan"), dtype=v.dtype)
    found = ModuleFunction("kernel", _kept(x), weights, float("nan"), none, v, width)
    return replace(found, mean=mean)


def _judged(function: ModuleFunction, v: Tensor, x: Tensor) -> ModuleFunction:
    """Return the function with its R² on glances that it has not seen."""
    if len(v) < 2 or not x.shape[1]:
        return function
    off = function(v) - x
    spread = (x - x.mean(0)).square().sum().clamp_min(1e-300)
    r2 = 1 - float(off.square().sum() / spread)
    return replace(function, r2=r2, error=off.square().mean(0).sqrt())


def _kept(x: Tensor) -> int:
    """Return how many features are active together at most."""
    many = (x > 0).sum(1)
    for k in range(1, x.shape[1]):
        if float((many <= k).to(torch.float64).mean()) > OBEYED:
            return k
    return x.shape[1]


def _gaussian(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return exp(-|a - b|^2 / (2 width^2)), (A, B)."""
    found: Tensor = torch.exp(-torch.cdist(a, b).square() / (2 * width**2))
    return found
