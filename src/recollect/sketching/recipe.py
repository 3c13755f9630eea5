"""The recipe of a sketch, and the table of the modules that went into it.

Neither needs torch: a memory can be opened, described and counted without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recollect._checks import RecipeMismatch, check_integer, check_one_of, unknown_name

__all__ = ["OPERATOR_VERSION", "ModuleEntry", "ModuleTable", "Recipe"]

# Raised whenever the same seed would give other operators; stored with every memory.
OPERATOR_VERSION = 1

# Families of the attributes' operators; what they are stands in ``families``.
FAMILIES = ("hadamard", "orthogonal", "gaussian", "block-sparse")
_BYTES = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Recipe:
    """All that determines the operators: stored with every memory, never guessed.

    Args:
        dim: numbers in a sketch, a multiple of 64.
        seed: root of all seed paths.
        scheme: ``"energy"`` (default), ``"keyed"`` or ``"paper"``.
        dtype: how a sketch is kept: ``"int8"``, ``"float16"`` or ``"float32"``.
        slots: whether the place of an input among its siblings enters the sketch.
        version: version of the operators; only the current one can be encoded or decoded.
        operators: family of the attributes' operators: ``"hadamard"`` (default, fast),
            ``"orthogonal"``, ``"gaussian"`` or ``"block-sparse"``.

    Raises:
        ValueError: on a dim that is no multiple of 64 or an unknown scheme, dtype or family.

    Example:
        >>> Recipe(dim=1024).bytes
        1026
    """

    dim: int = 1024
    seed: int = 0
    scheme: str = "energy"
    dtype: str = "int8"
    slots: bool = False
    version: int = OPERATOR_VERSION
    operators: str = "hadamard"

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, minimum=64)
        check_integer("seed", self.seed, minimum=0)
        if self.dim % 64:
            raise ValueError(f"dim must be a multiple of 64, got {self.dim}")
        check_one_of("scheme", self.scheme, ("energy", "keyed", "paper"))
        check_one_of("dtype", self.dtype, _BYTES)
        check_one_of("operators", self.operators, FAMILIES)
        if self.version != OPERATOR_VERSION:
            raise RecipeMismatch(
                f"operators of version {self.version} are asked for, this release makes version "
                f"{OPERATOR_VERSION}; open the memory with the release that wrote it"
            )

    @property
    def bytes(self) -> int:
        """Bytes of one sketch, its bfloat16 scale (int8 only) included."""
        return self.dim * _BYTES[self.dtype] + (2 if self.dtype == "int8" else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, for JSON; the default family is not mentioned."""
        values = asdict(self)
        if self.operators == "hadamard":
            del values["operators"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Read what ``to_dict`` wrote."""
        return cls(**values)

    def check_same(self, other: Recipe) -> None:
        """Refuse another recipe.

        Raises:
            RecipeMismatch: showing both.
        """
        if self != other:
            raise RecipeMismatch(f"two recipes differ and cannot be mixed:\n  {self}\n  {other}")


@dataclass(frozen=True)
class ModuleEntry:
    """One family of modules in the table (most have one member, the module itself).

    Attributes:
        name: family name.
        size: numbers in an attribute.
        members: names of the modules.
        scale: attributes are divided by it before they are sketched.
        first_id: id of the first member; ids count through the table.
    """

    name: str
    size: int
    members: tuple[str, ...]
    scale: float
    first_id: int


class ModuleTable:
    """Name, size and scale of every module seen; grows, never changes.

    Example:
        >>> table = ModuleTable()
        >>> cat, conv = table.add("cat", 5), table.add("conv", 2, members=("conv/0", "conv/1"))
        >>> cat.first_id, conv.first_id
        (0, 1)
        >>> table.id_of("conv/1"), table.name_of(2), len(table)
        (2, 'conv/1', 3)
    """

    def __init__(self) -> None:
        self._entries: dict[str, ModuleEntry] = {}
        self._names: list[str] = []
        self._ids: dict[str, int] = {}
        self._family: list[ModuleEntry] = []

    def add(
        self, name: str, size: int, members: Sequence[str] | None = None, scale: float = 1.0
    ) -> ModuleEntry:
        """Return the entry of a family, appended if it is new.

        Raises:
            ValueError: if it is known with another attribute size or other members, if a member
                belongs to another family or is named twice, or if ``size`` or ``scale`` is not a
                positive number.
        """
        names = tuple(members) if members else (name,)
        known = self._entries.get(name)
        if known is not None:
            if known.size != size or known.members != names:
                raise ValueError(
                    f"module {name!r} was seen with attributes of {known.size} numbers "
                    f"({len(known.members)} members), now they are {size} ({len(names)}); "
                    "a module's attributes keep one size: was the network changed?"
                )
            return known
        check_integer("size", size, minimum=1)
        if len(set(names)) < len(names):
            raise ValueError(f"the members of family {name!r} must have different names")
        taken = next((n for n in names if n in self._ids), None)
        if taken is not None:
            raise ValueError(f"module {taken!r} of family {name!r} already has an entry")
        if not 0 < scale < float("inf"):
            raise ValueError(
                f"the scale of module {name!r} must be a positive number, got {scale}"
            )
        entry = ModuleEntry(name, size, names, float(scale), len(self._names))
        self._entries[name] = entry
        for member in names:
            self._ids[member] = len(self._names)
            self._names.append(member)
            self._family.append(entry)
        return entry

    def __len__(self) -> int:
        """Number of modules (members of all families)."""
        return len(self._names)

    def __iter__(self) -> Iterator[ModuleEntry]:
        return iter(self._entries.values())

    def __contains__(self, family: str) -> bool:
        return family in self._entries

    def __getitem__(self, family: str) -> ModuleEntry:
        return self._entries[family]

    def __repr__(self) -> str:
        return f"ModuleTable({len(self)} modules in {len(self._entries)} families)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all modules; the position is the id."""
        return tuple(self._names)

    def id_of(self, module: str) -> int:
        """Return the id of a module.

        Raises:
            NotRemembered: with the nearest names.
        """
        if module not in self._ids:
            raise unknown_name("module", module, self._names)
        return self._ids[module]

    def name_of(self, module_id: int) -> str:
        """Return the name behind an id."""
        return self._names[module_id]

    def family_of(self, module_id: int) -> ModuleEntry:
        """Return the entry of the family that a module id belongs to."""
        return self._family[module_id]

    def to_list(self) -> list[dict[str, Any]]:
        """Return the table as plain values, for JSON."""
        return [
            {"name": e.name, "size": e.size, "members": list(e.members), "scale": e.scale}
            for e in self
        ]

    @classmethod
    def from_list(cls, rows: Sequence[Mapping[str, Any]]) -> ModuleTable:
        """Read what ``to_list`` wrote."""
        table = cls()
        for row in rows:
            table.add(row["name"], row["size"], row["members"], row["scale"])
        return table

    def copy(self) -> ModuleTable:
        """Return an independent copy."""
        return ModuleTable.from_list(self.to_list())
