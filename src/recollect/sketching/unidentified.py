"""Edges that sketches cannot tell: exactly which, and why.

Shape letters: S sketches, d numbers in a sketch, K sources, P modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recollect.sketching.module_counts import confining, twins

__all__ = ["UNKNOWN", "Unidentified", "members_of", "same_functions", "unidentified"]

# A module that was not found.
UNKNOWN = -1
# How far (relative) the square of a count column may be from a multiple of the others'.
WHOLE = 0.15


@dataclass(frozen=True)
class Unidentified:
    """Edges of which some may exist, and the sketches do not say which.

    Attributes:
        parents: modules that may be fed.
        children: modules that may feed them; ``UNKNOWN`` (-1) for one that was not found.
        reason: in words.
    """

    parents: tuple[int, ...]
    children: tuple[int, ...]
    reason: str

    @property
    def pairs(self) -> frozenset[tuple[int, int]]:
        """Every (parent, child) that may be an edge; (p, p): an edge inside what looks like p."""
        return frozenset((q, p) for q in self.parents for p in self.children)


def members_of(count_columns: Tensor) -> Tensor:
    """Return how many modules each found module stands for, (P,) whole numbers.

    Every object adds a count column of one length in a direction of its own, so that k modules
    that always fire together look like one whose column is ``sqrt(k)`` times as long.

    Example:
        >>> members_of(torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.2, 0.2], [0.0, 0.0, 0.2]])).tolist()
        [1, 1, 2]
    """
    square = count_columns.square().sum(0)
    if not len(square):
        return square.to(torch.int64)
    least = square.sort().values[len(square) // 4]
    ratio = square / least.clamp_min(1e-300)
    near = ratio.round().clamp(1, 99)
    return torch.where((ratio - near).abs() < WHOLE * near, near, 1.0).to(torch.int64)


def same_functions(sources: Tensor, owner: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of modules whose attributes agree wherever both fire: duplicates."""
    agree: dict[tuple[int, int], int] = {}
    for i, j in twins(sources.to(torch.float32)):
        p, q = sorted((int(owner[i]), int(owner[j])))
        if p != q and p >= 0:
            agree[p, q] = agree.get((p, q), 0) + 1
    return sorted(pair for pair, number in agree.items() if number >= 2)


def unidentified(
    counts: Tensor, sources: Tensor, count_columns: Tensor, owner: Tensor, parent: Tensor,
    missing: int,
) -> tuple[Unidentified, ...]:  # fmt: skip
    """Return what cannot be told of a wiring; nothing where every edge was told.

    Args:
        counts: (S, P).
        sources: (S, K).
        count_columns: (d, P).
        owner: (K,) as in a wiring.
        parent: (K,) likewise.
        missing: directions of the sketches that were not explained.
    """
    number = counts.shape[1]
    fires = counts > 0
    below = {int(p) for p, q in zip(owner, parent, strict=True) if q >= 0}
    tops = tuple(p for p in range(number) if p not in below)
    found = [] if missing > 0 else _together(count_columns, owner, parent, tops)
    always = [p for p in range(number) if bool(fires[:, p].all())]
    for c in always:
        rest = tuple(p for p in tops if p != c)
        if rest:
            found.append(Unidentified(
                (c,), rest, f"module {c} fires in every glance: whether it is fed by modules that "
                "seem to stand on top cannot be told",
            ))  # fmt: skip
    held = confining(sources.to(torch.float32), counts)
    unowned: dict[tuple[int, ...], int] = {}
    for k in torch.nonzero(owner < 0)[:, 0].tolist():
        holders = tuple(torch.nonzero(held[k])[:, 0].tolist())
        unowned[holders] = unowned.get(holders, 0) + 1
    for holders, many in sorted(unowned.items()):
        among = holders or tuple(range(number))
        found.append(Unidentified(
            among, among if holders else (UNKNOWN,), f"{many} attributes are confined to the "
            f"glances of modules {list(among)}: whose they are cannot be told",
        ))  # fmt: skip
    for p in range(number):
        if not bool((owner == p).any()):
            meet = (fires[:, [p]] & fires).any(0)
            near = tuple(q for q in range(number) if q != p and bool(meet[q]))
            found.append(Unidentified(near, (p,), f"of module {p} no attribute was found"))
    if missing > 0:
        found.append(Unidentified(
            tops, (*range(number), UNKNOWN), f"{missing} directions were not explained: "
            "attributes or modules that were not found",
        ))  # fmt: skip
    return tuple(found)


def _together(
    count_columns: Tensor, owner: Tensor, parent: Tensor, tops: tuple[int, ...]
) -> list[Unidentified]:
    """Return what cannot be told of modules on top that always fire together."""
    found = []
    for p, many in enumerate(members_of(count_columns).tolist()):
        if many < 2 or p not in tops:
            continue
        fed = sorted({int(c) for c, q in zip(owner, parent, strict=True) if int(q) == p})
        found.append(Unidentified(
            (p,), (p, *fed), f"module {p} is {many} modules that always fire together: which of "
            "them feeds another, and which of them is fed by the modules below, cannot be told",
        ))  # fmt: skip
    return found
