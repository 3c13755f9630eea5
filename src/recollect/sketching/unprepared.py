"""Counts from the sketch alone where there is no prior.

Shape letters: B rows, d numbers in a sketch, P modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recollect.sketching.projection import Projection
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.sketches import Sketches
from recollect.sketching.solve import least_squares

if TYPE_CHECKING:
    from recollect.sketching.decoder import Decoder

__all__ = ["unprepared_counts"]


def unprepared_counts(
    decoder: Decoder, sketches: Sketches
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Estimate how many objects of each module each row holds, without any prior.

    Least squares over one bag of attributes and a count for each module. In ``paper`` the
    counters stand inside the recursion, at slots that nothing tells: there each module is read
    by its own directions, as objects of weight one at the top (``sketching.projection``).

    Args:
        decoder: module table and operators.
        sketches: B rows, single glances or sums.

    Returns:
        names (P,), estimates (B, P) and standard deviations (B, P).
    """
    table = decoder.sketcher.modules
    names = tuple(member for entry in table for member in entry.members)
    if decoder.encoder.scheme == "paper":
        read = [Projection(decoder.sketcher, name).read(sketches) for name in names]
        return (
            names,
            torch.stack([r.number for r in read], 1),
            torch.stack([r.number_std for r in read], 1),
        )
    rows = [decoder.cache.columns(((e.name,),), e)[:, : decoder.dim] for e in table]
    attributes = torch.cat(rows).to(torch.float64)
    columns = torch.stack([_count_column(decoder, name) for name in names])
    values = sketches.values.to(torch.float64)
    a = torch.cat([attributes, columns])
    solution = least_squares(a, values, rounding_variance(sketches))
    start = len(attributes)
    return names, solution.mean[:, start:], solution.std[:, start:]


def _count_column(decoder: Decoder, module: str) -> Tensor:
    """Return the (d,) image of one object of a module in the count block."""
    entry = decoder.sketcher.modules.family_of(decoder.sketcher.modules.id_of(module))
    one = np.zeros((1, len(entry.members)), dtype=np.float32)
    one[0, entry.members.index(module)] = 1
    image = decoder.encoder.count_image({entry.name: (entry.members, one)}, 1)
    return image[0, : decoder.dim].to(torch.float64)
