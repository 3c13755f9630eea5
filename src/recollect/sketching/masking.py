"""Reading sketches of which only some numbers are left, whichever.

All numbers of a sketch are equally good, so any subset of them is a coarser sketch: decoding
needs the rows of the operators that belong to what is left. A sketcher whose operators yield
these rows first sees what is left as a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching.operators import Operators

__all__ = ["Reordered", "check_kept"]


class Reordered(Operators):
    """Operators whose sketches have some of their numbers first, then the others.

    Args:
        operators: to reorder; the signs made so far are shared.
        first: (k,) int64 numbers that come first, ascending.
    """

    def __init__(self, operators: Operators, first: Tensor) -> None:
        self.__dict__.update(vars(copy(operators)))
        rest = torch.ones(operators.dim, dtype=torch.bool)
        rest[first] = False
        self._order = torch.cat([first, torch.nonzero(rest)[:, 0]]).to(operators.device)
        self._rows = operators._rows[self._order]

    def count_columns(self, modules: tuple[str, ...]) -> Tensor:
        """Return the (len(modules), dim) sign vectors of the modules' counts, not yet scaled."""
        return super().count_columns(modules).index_select(1, self._order)


def check_kept(
    kept: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_] | Tensor, dim: int
) -> Tensor:
    """Return which numbers are left as an ascending (k,) int64 tensor.

    Args:
        kept: their places, or (dim,) booleans.
        dim: numbers of the sketches.

    Raises:
        ValueError: if none is left, a place is out of range or there twice.
    """
    given = kept.cpu().numpy() if isinstance(kept, Tensor) else np.asarray(kept)
    if given.dtype == np.bool_:
        if given.shape != (dim,):
            raise ValueError(
                f"a mask of sketches of {dim} numbers has {dim} entries, got shape {given.shape}"
            )
        given = np.flatnonzero(given)
    places = np.sort(given.astype(np.int64).reshape(-1))
    if len(places) == 0:
        raise ValueError("nothing is left of the sketches: at least one number must be kept")
    if places[0] < 0 or places[-1] >= dim:
        raise ValueError(f"places of numbers lie in 0..{dim - 1}, got {places[0]}..{places[-1]}")
    if (np.diff(places) == 0).any():
        raise ValueError("a number of a sketch can be kept only once; some place is given twice")
    return torch.from_numpy(places)
