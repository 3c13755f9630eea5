"""Which source is which feature of which module under which parent, and where it fires.

A module that serves two parents has every feature twice in the sketches. Features are matched by
twins (one ratio wherever both are active), and by their weights on the input where twins met too
rarely. In which glances a module fires under which of its parents is read from its sources, and
from its count where they are silent.

Shape letters: S glances, n numbers of an input, K sources, m features of a module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recollect.sketching.module_counts import twins
from recollect.sketching.wiring import Wiring

__all__ = ["Placed", "placed"]

# Cosine of two features' weights beyond which they are one feature under two parents.
SAME = 0.9
TOP = -1


@dataclass(frozen=True, eq=False)
class Placed:
    """Where everything is; the top is parent -1.

    Attributes:
        sources: (parent, module) -> source of each of the module's m features, -1 if not found.
        fires: (parent, module) -> (S,) bool.
        known: (parent, module) -> (S,) bool, glances of which this is known and in which the
            parent fires.
    """

    sources: Mapping[tuple[int, int], tuple[int, ...]]
    fires: Mapping[tuple[int, int], Tensor]
    known: Mapping[tuple[int, int], Tensor]

    def children(self, module: int) -> list[int]:
        """Return the modules that feed one."""
        return sorted(p for q, p in self.sources if q == module)

    def features(self, module: int) -> int:
        """Return m."""
        return max((len(k) for (_, p), k in self.sources.items() if p == module), default=0)

    def best_parents(self, module: int) -> list[int]:
        """Return the parents under which most of a module's features were found."""
        many = {q: sum(k >= 0 for k in s) for (q, p), s in self.sources.items() if p == module}
        return [q for q, number in many.items() if number == max(many.values()) and number > 0]


def placed(u: Tensor, wiring: Wiring, size: Tensor) -> Placed:
    """Match sources to features and say where modules fire.

    Args:
        u: (S, n).
        wiring: of the same glances.
        size: (K,) that sources are multiplied by.
    """
    x = wiring.sources * size
    alike = set(twins(x.to(torch.float32)))
    sources: dict[tuple[int, int], tuple[int, ...]] = {}
    for p in range(wiring.counts.shape[1]):
        own = torch.nonzero(wiring.owner == p)[:, 0].tolist()
        parents = sorted({int(wiring.parent[k]) for k in own})
        features = _features(u, x, {k: int(wiring.parent[k]) for k in own}, alike)
        for q in parents:
            sources[q, p] = tuple(f.get(q, -1) for f in features)
    fires, known = {}, {}
    pairs = set(sources) | {
        (TOP, p) for p in range(wiring.counts.shape[1]) if not bool((wiring.owner == p).any())
    }
    for q, p in sorted(pairs):
        parents = [a for a, b in pairs if b == p]
        fires[q, p], known[q, p] = _firing(wiring, q, p, parents, sources)
    return Placed(sources, fires, known)


def _features(
    u: Tensor, x: Tensor, parent: dict[int, int], alike: set[tuple[int, int]]
) -> list[dict[int, int]]:
    """Return a module's features, each as parent -> source."""
    features: list[dict[int, int]] = []
    weights = {k: _weights(u, x[:, k]) for k in parent}
    for k, q in parent.items():
        best, most = None, SAME
        for feature in features:
            if q in feature:
                continue
            near = max(
                2.0 if (min(k, j), max(k, j)) in alike else float(weights[k] @ weights[j])
                for j in feature.values()
            )
            if near > most:
                best, most = feature, near
        if best is None:
            features.append({q: k})
        else:
            best[q] = k
    return features


def _weights(u: Tensor, x: Tensor) -> Tensor:
    """Return the direction of a feature's weights on the input, fitted where it is active."""
    on = x > 0
    if int(on.sum()) <= u.shape[1]:
        return u.new_zeros(u.shape[1])
    found = torch.linalg.lstsq(u[on], x[on, None]).solution[:, 0]
    unit: Tensor = found / found.norm().clamp_min(1e-300)
    return unit


def _firing(
    wiring: Wiring, q: int, p: int, parents: list[int],
    sources: Mapping[tuple[int, int], tuple[int, ...]],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return where p fires under q, and where that is known: (S,) bool each."""
    many = wiring.counts[:, p]

    def above(parent: int) -> Tensor:
        return wiring.counts[:, parent] > 0 if parent != TOP else torch.ones_like(many) > 0

    def seen(parent: int) -> Tensor:
        own = [k for k in sources.get((parent, p), ()) if k >= 0]
        return (wiring.sources[:, own] > 0).any(1) & above(parent)

    if len(parents) == 1:
        return (many > 0) & above(q), above(q)
    spoke = torch.stack([seen(parent) for parent in parents], 1)
    may = torch.stack([above(parent) for parent in parents], 1)
    # All that are not silent account for the count, or all that may fire must.
    told = (spoke.sum(1) >= many) | (may.sum(1) <= many)
    on = torch.where(spoke.sum(1) >= many, seen(q), above(q))
    return on & above(q), above(q) & told
