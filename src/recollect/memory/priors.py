"""Priors fitted from the reservoir, kept one beside the other by version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recollect import sketching
from recollect._checks import NotRemembered
from recollect.memory.layout import Folder

if TYPE_CHECKING:
    from recollect.sketching.cosines import Cosines
    from recollect.sketching.prior import Prior
    from recollect.sketching.sketcher import Sketcher
    from recollect.tracing.columns import Trace

__all__ = ["Priors", "prior_file"]


class Priors:
    """The priors of a memory; version n stands in ``priors/prior-000n.npz``.

    Beside it, ``cosines-000n.npz`` says how far cosines of sketches are from the truth.

    Args:
        folder: of the memory.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._known: dict[int, Prior] = {}

    def versions(self) -> list[int]:
        """Return the versions there are, ascending."""
        names = (re.fullmatch(r"prior-(\d+)", p.stem) for p in self._paths())
        return sorted(int(n[1]) for n in names if n)

    def _paths(self) -> list[Path]:
        return list((self.folder / "priors").glob("prior-*.npz"))

    def fit(self, trace: Trace, sketcher: Sketcher | None = None) -> int:
        """Fit a prior to records, keep it, and return its version.

        Args:
            trace: the records.
            sketcher: whose sketches' cosines are compared with those of the records.
        """
        prior = sketching.Prior.fit(trace)
        known = None if sketcher is None else sketching.Cosines.fit(sketcher, trace)
        return self.keep(prior, known)

    def keep(self, prior: Prior, cosines: Cosines | None = None) -> int:
        """Keep a prior, and what is known of cosines beside it; return its version."""
        version = max(self.versions(), default=0) + 1
        if cosines is not None:
            self.folder.write_arrays(_cosines_name(version), cosines.to_arrays())
        self.folder.write_arrays(prior_file(version), prior.to_arrays())
        self._known[version] = prior
        return version

    def cosines(self) -> Cosines:
        """Return what corrects cosines of sketches, as the newest prior's records told it.

        Where no prior was fitted (or it was by an older release), what holds over all operators.
        """
        versions = self.versions()
        if not versions or not (self.folder / _cosines_name(versions[-1])).exists():
            return sketching.Cosines.unknown()
        with np.load(self.folder / _cosines_name(versions[-1]), allow_pickle=False) as file:
            return sketching.Cosines.from_arrays({name: file[name] for name in file.files})

    def get(self, version: int | None = None) -> Prior | None:
        """Return a prior, by default the newest; None if there is none yet.

        Raises:
            NotRemembered: if there is no such version.
        """
        versions = self.versions()
        if version is None:
            if not versions:
                return None
            version = versions[-1]
        if version not in versions:
            raise NotRemembered(
                f"there is no prior of version {version}; kept are {versions or 'none yet'} "
                "(memory.fit_prior() makes one)"
            )
        if version not in self._known:
            with np.load(self.folder / prior_file(version), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            self._known[version] = sketching.Prior.from_arrays(arrays)
        return self._known[version]


def prior_file(version: int) -> str:
    """Return the name of the file of a prior."""
    return f"priors/prior-{version:04d}.npz"


def _cosines_name(version: int) -> str:
    return f"priors/cosines-{version:04d}.npz"
