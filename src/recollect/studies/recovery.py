"""Network recovery: a hidden modular network, learned from inputs and sketches alone.

Sixteen hidden modules each compute 16 rectified features of the same input, of which the two
largest are kept; four modules fire on every input, chosen by the network. The learner sees pairs
of input and flat block-sparse sketch, nothing else. It reads the columns and their names from
the sketches, solves for the attributes, and fits every feature's weights where it is not zero.

Shape letters: S pairs, n numbers of an input, P modules, m features, K = P m, d of a sketch.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from recollect._answers import Answer
from recollect.sketching.dictionary import BlockSparse, read_signatures

__all__ = ["study"]

INPUTS, FIRING, KEPT, NOISE = 24, 4, 2, 0.01


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how much of the hidden network is recovered from how many pairs.

    Args:
        quick: fewer sizes.
        data: not used.
    """
    maps = BlockSparse(modules=16, size=16, dim=1022, q=0.1)
    true = maps.matrix()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(16, 16, INPUTS, generator=generator, dtype=torch.float64)
    columns: dict[str, list[float]] = {
        name: []
        for name in ("pairs", "columns named", "attribute error", "weight cosine", "seconds")
    }
    for pairs in (500, 2000) if quick else (500, 1000, 2000, 4000):
        u = torch.randn(pairs, INPUTS, generator=generator, dtype=torch.float64)
        x = _attributes(u, weights, generator)
        s = x @ true.T
        level = NOISE * s.norm(dim=1, keepdim=True) / s.shape[1] ** 0.5
        s = s + level * torch.randn(s.shape, generator=generator, dtype=torch.float64)
        start = time.perf_counter()
        found = read_signatures(s, maps)
        read = torch.linalg.lstsq(found.columns[:, found.found], s.T).solution.T
        fitted = _fit_features(u, read)
        seconds = time.perf_counter() - start
        # The sign of a column, hence of its feature, cannot be known from sketches.
        sign = torch.sign((true * found.columns).sum(0))[found.found]
        cosine = torch.zeros(len(true.T), dtype=torch.float64)
        flat = weights.view(-1, INPUTS)
        own = torch.nn.functional.cosine_similarity(flat[found.found], fitted, dim=1)
        cosine[found.found] = own.abs()
        same = (true * found.columns).sum(0).abs() / true.norm(dim=0).clamp_min(1e-12) / (
            found.columns.norm(dim=0).clamp_min(1e-12)
        )  # fmt: skip
        error = (read * sign - x[:, found.found]).norm() / x.norm()
        for name, value in zip(
            columns,
            (pairs, float((same > 0.95).double().mean()), float(error),
             float(cosine.view(16, -1).mean(1).mean()), seconds),
            strict=True,
        ):  # fmt: skip
            columns[name].append(value)
    return Answer(
        columns,
        title="a hidden network of 16 modules, learned from inputs and sketches",
        notes=[
            f"flat block-sparse sketches of {maps.dim} numbers, {NOISE:.0%} noise; {FIRING} of 16 "
            f"modules fire, {KEPT} of 16 features each",
            "columns named: cosine above 0.95 with the true column of the same module and place",
            "signs of features cannot be known; weights are compared up to them",
        ],
    )


def _attributes(u: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return what the hidden network computes: (S, K), sparse."""
    features = torch.einsum("sn,pmn->spm", u, weights).clamp_min(0)
    least = features.topk(KEPT, dim=2).values[:, :, -1:]
    features = torch.where(features >= least, features, 0.0)
    chosen = torch.rand(features.shape[:2], generator=generator).argsort(1) < FIRING
    return (features * chosen[:, :, None]).flatten(1)


def _fit_features(u: Tensor, read: Tensor) -> Tensor:
    """Return the weights of each feature, fitted where it is clearly not zero: (K, n)."""
    fitted = torch.zeros(read.shape[1], u.shape[1], dtype=torch.float64)
    for k in range(read.shape[1]):
        active = read[:, k].abs() > 0.1 * read[:, k].abs().max()
        if int(active.sum()) >= u.shape[1]:
            fitted[k] = torch.linalg.lstsq(u[active], read[active, k, None]).solution[:, 0]
    return fitted
