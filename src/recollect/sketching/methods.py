"""The ways to decode behind one name each, and the choice between them.

* ``"auto"``: by the kinds of attributes that the prior has seen: ``"joint"`` where all are dense;
  else words and zeros are used, if that reads held-back glances of the prior better. A glance
  that is not explained so is read by ``"joint"``. Without a prior: ``"least_squares"``.
* ``"joint"``: LMMSE, with the joint prior of the modules that are in every glance.
* ``"per-module"``: LMMSE with one mean and covariance per module.
* ``"mixture"``: expectation propagation with a mixture of Gaussians for each module, fitted to the
  attributes of the prior; what it does not explain is read by ``"joint"``.
* ``"codebook"``: each attribute is one of those that the prior has seen.
* ``"sparse"``: most numbers are zero: spike and slab with a prior; without one, or where that does
  not explain a glance, ``"omp"``.
* ``"omp"``, ``"cosamp"``: the pursuits of ``recollect.sketching.sparse``.
* ``"least_squares"``: without any prior.
* ``"transpose"``: the published decoder.

Shape letters: B rows, K unknowns, d numbers in a sketch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recollect.sketching.known import calibrated, decode_linearly, split
from recollect.sketching.layout import Layout, Unknown, stack_columns
from recollect.sketching.propagated import attributes_of, decode_propagated
from recollect.sketching.solve import Solution
from recollect.sketching.sparse import cosamp, omp

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder
    from recollect.sketching.prior import Prior

__all__ = ["METHODS", "PROPAGATED", "decode_structure", "has_kinds"]

METHODS = (
    "auto", "joint", "per-module", "mixture", "codebook", "sparse", "omp", "cosamp",
    "least_squares", "transpose",
)  # fmt: skip
# Methods that put more than mean and covariance into expectation propagation.
PROPAGATED = ("mixture", "codebook", "sparse")
# More unknowns than these in a glance are read linearly when the method is chosen.
MOST_UNKNOWNS = 4096


def has_kinds(prior: Prior | None) -> bool:
    """Whether a prior knows modules whose attributes are words or sparse."""
    return prior is not None and any(kind != "dense" for kind in prior.kinds.values())


def decode_structure(
    decoder: Decoder, layout: Layout, values: Tensor, noise: Tensor, *, calibrate: bool = True
) -> Solution:
    """Estimate the scaled attributes of all objects of glances of one structure.

    Args:
        decoder: method, prior, caches.
        layout: of the structure.
        values: (B, d) float64 sketches.
        noise: (B,) variance of rounding.
        calibrate: whether to apply the calibration (not while it is being measured).

    Returns:
        (B, K), the unknowns in the order of ``layout.unknowns``.
    """
    unknowns, method = layout.unknowns, decoder.method
    pursued = method in ("omp", "cosamp") or (method == "sparse" and decoder.prior is None)
    propagated = decoder.prior is not None and (
        method in PROPAGATED or (method == "auto" and decoder.uses_kinds)
    )
    small = method != "auto" or sum(u.entry.size for u in unknowns) <= MOST_UNKNOWNS
    if not unknowns:  # a glance in which nothing was seen
        nothing = torch.zeros(len(values), 0, dtype=torch.float64)
        return Solution(nothing, nothing)
    residual = values - layout.constant(values.shape[1])
    if pursued:
        return _pursued(decoder, unknowns, residual, noise)
    if not (propagated and small):
        return decode_linearly(decoder, unknowns, residual, noise, calibrate=calibrate)
    if not split(decoder, unknowns, decoder.sites.is_normal)[2]:
        # The joint prior of a static network says it all.
        return decode_linearly(decoder.linear, unknowns, residual, noise, calibrate=calibrate)
    solution = decode_propagated(decoder, decoder.sites, unknowns, residual, noise)
    if calibrate:
        solution = calibrated(decoder, unknowns, solution)
    if method not in ("auto", "mixture"):
        return solution
    refused = torch.isinf(solution.std).any(1)
    if bool(refused.any()):
        plain = decode_linearly(
            decoder.linear, unknowns, residual[refused], noise[refused], calibrate=calibrate
        )
        solution.mean[refused], solution.std[refused] = plain.mean, plain.std
    return solution


def _pursued(
    decoder: Decoder, unknowns: list[Unknown], residual: Tensor, noise: Tensor
) -> Solution:
    """Decode sparse attributes by a matching pursuit."""
    dim = residual.shape[1]
    a = stack_columns(unknowns, decoder.cache, dim)
    if decoder.method != "cosamp":
        return omp(a, residual, noise)
    return cosamp(a, residual, noise, _expected_nonzeros(decoder.prior, unknowns, dim))


def _expected_nonzeros(prior: Prior | None, unknowns: list[Unknown], dim: int) -> int:
    """Return how many numbers are not zero, with three deviations, as far as they can be found."""
    most: int = max(min(dim // 3, sum(u.entry.size for u in unknowns)), 1)
    if prior is None:
        return min(max(dim // 4, 1), most)
    mean = variance = 0.0
    for u in unknowns:
        x = attributes_of(prior, u.module)
        if len(x) == 0:
            return min(max(dim // 4, 1), most)
        counts = (x != 0).sum(1).to(torch.float64)
        mean += float(counts.mean())
        variance += float(counts.var(unbiased=False))
    return max(min(math.ceil(mean + 3 * math.sqrt(variance)), most), 1)
