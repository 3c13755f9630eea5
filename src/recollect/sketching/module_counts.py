"""Modules from rows: which whole-numbered rows are counts, and which sources are twins.

A module that serves two parents has sources under each. Where both fire, its attribute is the
same object's or has the same value, so that the two sources have one fixed ratio: *twins*. No two
other sources do. Twins say where a shared module fires, hence where to look for its count, whose
glances are too many to be guessed from one source.

Shape letters: S sketches, r directions, K sources, P modules, n rows.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from recollect.sketching.sparse_rows import TOLERANCE, active, distinct, large, whole

__all__ = ["confining", "inside", "modules", "shared_counts", "twins"]

# Glances that twins share at least, and how far the logarithm of their ratio may stray.
TOGETHER, STRAY = 15, 0.03
# The same as a deviation, outliers included; entries below this share of the large ones are too
# uncertain to be compared.
ROUGH, CLEAR = 0.3, 0.15
# Sources that vary less than this (deviation of the logarithm) agree with everything.
VARIES = 0.1
# Starts for each group of twins, beside the whole group.
PARTS = 60


def inside(sources: Tensor, counts: Tensor) -> Tensor:
    """Return the share of each source's active glances in which a module fires, (K, P)."""
    there = active(sources) if sources.shape[1] else sources
    fires = (counts > 0).to(torch.float32)
    return (there.T @ fires) / there.sum(0).clamp_min(1)[:, None]


def confining(sources: Tensor, counts: Tensor) -> Tensor:
    """Return which modules a source is confined to, (K, P) bool; not those that always fire."""
    return (inside(sources, counts) >= 1 - TOLERANCE) & ~(counts > 0).all(0)


def modules(found: Tensor, sources: Tensor) -> Tensor:
    """Choose the whole-numbered rows that are counts of modules.

    Differences of counts (a parent's glances without one of its inputs) are whole numbers too,
    but no source is confined to them; sums are the last to be chosen. A row whose glances are
    more than a parent's is chosen if it holds twins that no other row holds.
    """
    i, j = torch.triu_indices(found.shape[1], found.shape[1], 1)
    pool = torch.cat([found, found[:, i] + found[:, j]], 1)
    pool = pool[:, torch.argsort((pool > 0).sum(0), stable=True)]
    holds = inside(sources, pool) >= 1 - TOLERANCE  # (K, n)
    told = torch.zeros(len(holds), dtype=torch.bool)
    chosen: list[int] = []
    for number in range(pool.shape[1]):
        if int((holds[:, number] & ~told).sum()) >= 2:
            chosen.append(number)
            told |= holds[:, number]
    pairs = torch.tensor(twins(sources), dtype=torch.int64).view(-1, 2)
    holds = confining(sources, pool)
    both = holds[pairs[:, 0]] & holds[pairs[:, 1]]  # (pairs, n)
    told = both[:, chosen].any(1)
    for number in range(pool.shape[1]):
        if number not in chosen and int((both[:, number] & ~told).sum()) >= 2:
            chosen.append(number)
            told |= both[:, number]
    return distinct(pool[:, chosen])


def twins(sources: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of sources that have one ratio wherever both are active.

    Args:
        sources: (S, K), not negative where active.
    """
    if not sources.shape[1]:
        return []
    there = sources > CLEAR * large(sources)
    logs = torch.where(there, sources.clamp_min(1e-12).log(), 0.0).to(torch.float64)
    on = there.to(torch.float64)
    together = on.T @ on
    mean = (on.T @ logs - logs.T @ on) / together.clamp_min(1)
    square = logs.square()
    spread = (on.T @ square + square.T @ on - 2 * logs.T @ logs) / together.clamp_min(1)
    spread = (spread - mean.square()).clamp_min(0).sqrt()
    own = (on * logs).sum(0) / on.sum(0).clamp_min(1)
    varies = (on * (logs - own).square()).sum(0) / on.sum(0).clamp_min(1) > VARIES**2
    near = (together >= TOGETHER) & (spread < ROUGH) & varies & varies[:, None]
    pairs = []
    for i, j in torch.nonzero(near.triu(1)).tolist():
        both = there[:, i] & there[:, j]
        ratio = logs[both, i] - logs[both, j]
        if float((ratio - ratio.median()).abs().median()) < STRAY:
            pairs.append((i, j))
    return pairs


def shared_counts(white: Tensor, sources: Tensor, counts: Tensor) -> Tensor:
    """Return whole-numbered rows (S, n) that start from where twins are active.

    Twins are grouped by the modules that hold their ends; a group's start counts a glance once for
    each end. Parts of a group are tried too, lest two modules share both parents.

    Args:
        white: (S, r).
        sources: (S, K).
        counts: (S, P) counts that are known already.
    """
    there = active(sources)
    holds = confining(sources, counts)
    groups: dict[tuple[tuple[int, ...], ...], list[tuple[int, int]]] = {}
    for i, j in twins(sources):
        if bool((holds[i] & holds[j]).any()):
            continue
        ends = [(tuple(torch.nonzero(holds[k])[:, 0].tolist()), k) for k in (i, j)]
        (p, i), (q, j) = sorted(ends)
        groups.setdefault((p, q), []).append((i, j))
    starts = []
    for pairs in groups.values():
        parts = [tuple(pairs)]
        for size in (2, 3, 4):
            parts += list(combinations(pairs, size))[:PARTS] if len(pairs) > size else []
        for part in parts:
            left, right = (sorted({pair[end] for pair in part}) for end in (0, 1))
            starts.append(there[:, left].amax(1) + there[:, right].amax(1))
    if not starts:
        return white.new_zeros(len(white), 0)
    found: Tensor = torch.unique(whole(white, torch.stack(starts, 1)), dim=1)
    return found
