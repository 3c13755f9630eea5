"""Epochs: stretches of a memory whose sketches were made with one recipe.

The first epoch (number 0) has the recipe that the memory was made with. Once a prior exists, a
later one may be *informed*: its first numbers are the prior's leading directions, the rest an
oblivious sketch of what these leave (``sketching.informed``). New glances go into the newest
epoch; glances of older ones stay as they are, bit by bit.

``meta.json`` lists the later epochs; what their recipes stand on is kept in
``epochs/epoch-0001.npz``: mean, directions and gains, because eigenvectors computed again from
the prior would differ from machine to machine. Every row tells its epoch, and roll-ups hold one
sum for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import CorruptMemory, NotRemembered
from recollect.memory.layout import Folder
from recollect.memory.priors import Priors
from recollect.sketching.recipe import ModuleTable, Recipe

if TYPE_CHECKING:
    from recollect.sketching.informed import InformedSketcher

__all__ = ["Epoch", "InformedSketchers", "basis_file", "epochs_of", "read_basis"]


@dataclass(frozen=True)
class Epoch:
    """One epoch of a memory.

    Attributes:
        number: 0 for the first.
        recipe: of its sketches.
        prior: version of the prior that an informed recipe stands on, else None.
        version: version of the glances after which it began.
        glances: how many glances there were then.
        begun: when, in ISO form; None for the first.
    """

    number: int
    recipe: Recipe
    prior: int | None = None
    version: int = 0
    glances: int = 0
    begun: str | None = None

    @classmethod
    def first(cls, recipe: Recipe) -> Epoch:
        """Return the epoch that every memory begins with."""
        return cls(0, recipe)

    @property
    def informed(self) -> bool:
        """Whether its first numbers are a prior's directions."""
        return self.recipe.leading > 0

    @property
    def words(self) -> str:
        """What it is, in one line."""
        if not self.informed:
            return f"epoch {self.number}: {self.recipe.dim} numbers, oblivious"
        rest = self.recipe.dim - self.recipe.leading
        return (
            f"epoch {self.number}: {self.recipe.leading} leading directions of prior "
            f"{self.prior}, {rest} numbers oblivious of the rest"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the epoch as plain values, for meta.json."""
        return {**vars(self), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Epoch:
        """Read what ``to_dict`` returned."""
        return cls(**{**values, "recipe": Recipe.from_dict(values["recipe"])})


def epochs_of(meta: Mapping[str, Any], recipe: Recipe) -> tuple[Epoch, ...]:
    """Return the epochs that a meta.json tells, the first one included.

    Raises:
        CorruptMemory: if they are not numbered through.
    """
    found = (Epoch.first(recipe), *(Epoch.from_dict(e) for e in meta.get("epochs") or []))
    if [e.number for e in found] != list(range(len(found))):
        raise CorruptMemory(
            f"meta.json tells epochs {[e.number for e in found]}, which are not numbered through; "
            "restore it from a copy"
        )
    return found


def basis_file(number: int) -> str:
    """Return the name of the file that holds what an informed epoch's recipe stands on."""
    return f"epochs/epoch-{number:04d}.npz"


def read_basis(folder: Folder, number: int) -> dict[str, npt.NDArray[Any]]:
    """Return what an informed epoch's recipe stands on.

    Raises:
        CorruptMemory: if the file is missing or damaged.
    """
    path = folder / basis_file(number)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CorruptMemory(
            f"{path} is missing or damaged; it holds the directions that the sketches of epoch "
            f"{number} are read with; restore it from a copy"
        ) from error


class InformedSketchers:
    """The sketchers of a memory's informed epochs, read when first needed.

    Args:
        folder: of the memory.
        priors: of the memory.
    """

    def __init__(self, folder: Folder, priors: Priors) -> None:
        self.folder, self.priors = folder, priors
        self._known: dict[int, InformedSketcher] = {}

    def of(self, epoch: Epoch, modules: ModuleTable) -> InformedSketcher:
        """Return the sketcher of an informed epoch.

        Raises:
            CorruptMemory: if the file of its directions is missing or damaged.
            RecipeMismatch: if it is another recipe's.
        """
        if epoch.number not in self._known:
            arrays = read_basis(self.folder, epoch.number)
            self._known[epoch.number] = sketching.InformedSketcher.from_arrays(
                arrays, epoch.recipe, modules, lambda: self._prior(epoch)
            )
        return self._known[epoch.number]

    def _prior(self, epoch: Epoch) -> sketching.Prior:
        prior = self.priors.get(epoch.prior)
        if prior is None:
            raise NotRemembered(f"prior {epoch.prior} of epoch {epoch.number} is missing")
        return prior

    def keep(self, number: int, sketcher: InformedSketcher) -> None:
        """Write what an epoch's recipe stands on."""
        self.folder.write_arrays(basis_file(number), sketcher.to_arrays())
        self._known.pop(number, None)
