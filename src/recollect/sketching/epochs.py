"""Epochs: sketches of one network, made with other recipes at other times, asked together.

Coordinates of every recipe estimate the same inner products of scaled attributes, so cosines may
be compared across recipes (as long as the modules have the same scales).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recollect.sketching.informed import InformedSketcher
from recollect.sketching.sketcher import Sketcher
from recollect.sketching.sketches import Sketches
from recollect.tracing import Trace

__all__ = ["similar_across"]


def similar_across(
    epochs: Sequence[tuple[Sketcher | InformedSketcher, Sketches]], query: Trace, k: int = 10
) -> list[tuple[int, int, float]]:
    """Find the glances most like a query in all epochs together.

    Args:
        epochs: sketcher and sketches of each; plain and informed ones of one network.
        query: a trace of one glance.
        k: how many.

    Returns:
        (epoch, row, cosine) of the most similar, best first: in every epoch the cosine of
        coordinates, which estimates the cosine of all scaled attributes.

    Raises:
        ValueError: if there is no epoch, or the query is not one glance.
    """
    if not epochs or len(query) != 1:
        raise ValueError(
            f"a query is one glance asked of one epoch at least, got {len(query)} glances and "
            f"{len(epochs)} epochs"
        )
    found: list[tuple[int, int, float]] = []
    for number, (sketcher, sketches) in enumerate(epochs):
        if isinstance(sketcher, InformedSketcher):
            rows, asked = sketcher.coordinates(sketches), sketcher.image(query)[0]
        else:
            rows = sketches.values.to(torch.float64)
            asked = sketcher.unrounded(query)[0].to(torch.float64)
        asked = asked[: sketches.dim]
        size = rows.norm(dim=1).clamp_min(1e-300) * asked.norm().clamp_min(1e-300)
        cosine = rows @ asked / size
        found += [(number, row, score) for row, score in enumerate(cosine.tolist())]
    return sorted(found, key=lambda f: -f[2])[:k]
