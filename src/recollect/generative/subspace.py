r"""In how many dimensions does SGD move? Few, beside the number of parameters.

Parameters are noted after every step (through a sign sketch of fixed size, which keeps lengths and
angles); the spectrum of the path's points, or of its steps, tells in how many dimensions they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = ["Path", "Spectrum"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Dimensions of a set of vectors.

    Attributes:
        energies: (m,) squared singular values, largest first.

    Example:
        >>> found = Spectrum(np.array([8.0, 1.0, 1.0]))
        >>> found.dimension(0.8), found.participation
        (1, 1.5151...)
    """

    energies: FloatArray

    def dimension(self, share: float = 0.9) -> int:
        """Return the fewest directions that hold a share of the energy.

        Raises:
            ValueError: if the share is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share!r}")
        held = np.cumsum(self.energies) / self.energies.sum()
        return int(np.searchsorted(held, share * (1 - 1e-12)) + 1)

    @property
    def participation(self) -> float:
        r"""The participation ratio :math:`(\sum_i s_i)^2 / \sum_i s_i^2`: an effective number."""
        return float(self.energies.sum() ** 2 / (self.energies**2).sum())


class Path:
    r"""The path of a model's parameters through training.

    Each note is a count sketch: parameter k is added to bucket h(k) with a sign, so that lengths
    are kept with a relative error of about :math:`\sqrt{2 / \mathrm{size}}` whatever their number.

    Args:
        model: whose parameters are noted.
        size: numbers of a note; models with fewer parameters are noted whole.
        seed: of buckets and signs.

    Raises:
        TypeError: if size is no integer.
        ValueError: if it is below 2.

    Reference:
        Gradient Descent Happens in a Tiny Subspace (Gur-Ari, Roberts and Dyer, 2018); Finding
        frequent items in data streams (Charikar, Chen and Farach-Colton, 2002).

    Example:
        >>> model = nn.Linear(3, 1)
        >>> path = Path(model)
        >>> for _ in range(5):
        ...     model.weight.data[0, 1] += 1.0
        ...     path.note()
        >>> path.spectrum().dimension(), path.length
        (1, 5)
    """

    def __init__(self, model: nn.Module, size: int = 8192, *, seed: int = 0) -> None:
        check_integer("size", size, minimum=2)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.num_parameters = sum(p.numel() for p in self._parameters)
        draws = torch.Generator().manual_seed(seed_of(seed, "path"))
        self._buckets: Tensor | None = None
        if self.num_parameters > size:
            self._buckets = torch.randint(size, (self.num_parameters,), generator=draws)
            self._signs = 2.0 * torch.randint(2, (self.num_parameters,), generator=draws) - 1
        self._size = size
        self._notes: list[Tensor] = []

    @property
    def length(self) -> int:
        """Notes taken."""
        return len(self._notes)

    @torch.no_grad()
    def note(self, step: int = 0) -> None:
        """Note where the parameters are; fits ``fit(after_step=path.note)``."""
        flat = torch.cat([p.detach().flatten() for p in self._parameters]).double()
        if self._buckets is not None:
            whole = torch.zeros(self._size, dtype=torch.float64)
            flat = whole.index_add_(0, self._buckets, flat * self._signs)
        self._notes.append(flat)

    def spectrum(self, of: str = "points", since: int = 0) -> Spectrum:
        """Return the spectrum of the points about their mean, or of the steps between them.

        Args:
            of: ``"points"`` or ``"steps"``.
            since: notes left out at the beginning.

        Raises:
            ValueError: if fewer than 3 notes are left, or none of them differ.
        """
        kept = self._notes[since:]
        if len(kept) < 3 or of not in ("points", "steps"):
            raise ValueError(
                f"a spectrum needs at least 3 notes of 'points' or 'steps', got {len(kept)} and "
                f"{of!r}"
            )
        rows = torch.stack(kept)
        rows = rows - rows.mean(0) if of == "points" else rows.diff(dim=0)
        energies = torch.linalg.eigvalsh(rows @ rows.T).flip(0).clamp_min(0).numpy()
        if not energies.sum() > 0:
            raise ValueError("the parameters have not moved: there is no path to measure")
        return Spectrum(energies)
