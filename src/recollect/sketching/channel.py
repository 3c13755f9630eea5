"""The distribution channel's part of a recipe: how many numbers, how many features a module.

It needs no torch, as a recipe does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recollect._checks import check_integer

__all__ = ["Channel"]


@dataclass(frozen=True)
class Channel:
    """A second short vector beside each sketch: fixed random features of all attributes, summed.

    It adds and rolls up as sketches do, and tells what sums of attributes cannot: quantiles,
    histograms, the share above a threshold, and whether two windows differ. Beside the sketch
    it costs ``size`` + 2 bytes a glance.

    Args:
        size: numbers in it, a multiple of 64, kept as int8.
        features: random features of each module, even; more than ``size`` over all modules
            widen the error bars.
        modules: the families that it follows; None for all.

    Raises:
        ValueError: if ``size`` is no multiple of 64, ``features`` is odd, or no module is named.

    Example:
        >>> Channel(256)
        Channel(size=256, features=32, modules=None)
    """

    size: int = 256
    features: int = 32
    modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_integer("the size of a channel", self.size, minimum=64)
        if self.size % 64:
            raise ValueError(f"the size of a channel must be a multiple of 64, got {self.size}")
        check_integer("features", self.features, minimum=2)
        if self.features % 2:
            raise ValueError(
                f"features come in pairs (a cosine and a sine), so their number is even, got "
                f"{self.features}"
            )
        given: object = self.modules
        if self.modules is not None:
            if isinstance(given, str):
                raise TypeError(
                    f"modules must be a sequence of names, got the string {given!r}; "
                    f"write modules=({given!r},)"
                )
            object.__setattr__(self, "modules", tuple(self.modules))
            if not self.modules:
                raise ValueError("a channel must follow some module; leave modules out for all")

    @property
    def bytes(self) -> int:
        """Bytes of it a glance, its bfloat16 scale included."""
        return self.size + 2

    def follows(self, family: str) -> bool:
        """Whether a family's attributes enter it."""
        return self.modules is None or family in self.modules

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Channel:
        """Read what ``dataclasses.asdict`` made of one (lists for tuples are welcome)."""
        chosen = values.get("modules")
        return cls(values["size"], values["features"], None if chosen is None else tuple(chosen))
