"""What a memory follows beside its sketches: mergeable stream statistics, module by module.

A sketch answers what nobody planned for. A question that is known beforehand is answered better
by a statistic that follows the stream, a kilobyte for each module and window; see
``sketching.statistics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect.sketching.recipe import ModuleEntry

if TYPE_CHECKING:
    from recollect.sketching.statistics import Statistic
    from recollect.tracing.columns import Objects

__all__ = ["STATISTICS", "Follow", "Following", "following_of"]

STATISTICS = ("quantiles", "distinct", "frequent", "second moment", "entropy")

# Attributes that agree to this part of their module's scale are one item.
_STEPS = 16


@dataclass(frozen=True)
class Follow:
    """One statistic of one reading of every attribute.

    Args:
        statistic: ``"quantiles"``, ``"distinct"``, ``"frequent"``, ``"second moment"`` or
            ``"entropy"``.
        of: what is read: ``"size"`` (the norm), ``"number 3"`` (one number), ``"largest"`` (the
            place of the largest number, such as the class of a row of logits), or ``"values"``
            (the whole attribute, to a sixteenth of its module's scale).
        size: bytes for each module and window, at least 512.

    Raises:
        ValueError: on an unknown statistic or reading, or quantiles of what has no order.

    Example:
        >>> Follow("quantiles", "number 0").make()
        Quantiles(size=1024)
    """

    statistic: str
    of: str
    size: int = 1024

    def __post_init__(self) -> None:
        check_one_of("statistic", self.statistic, STATISTICS)
        check_integer("size", self.size, minimum=512)
        if self.of not in ("size", "largest", "values") and self._number is None:
            raise ValueError(
                "a statistic can be of 'size', 'largest', 'values' or a number such as "
                f"'number 0', got {self.of!r}"
            )
        if self.statistic == "quantiles" and self.of in ("largest", "values"):
            raise ValueError(
                f"{self.of!r} has no order, so it has no quantiles; follow the quantiles of "
                "'size' or of a number, or the frequent items"
            )

    @property
    def name(self) -> str:
        """Such as "quantiles of size"."""
        return f"{self.statistic} of {self.of}"

    @property
    def _number(self) -> int | None:
        word, _, number = self.of.partition(" ")
        return int(number) if word == "number" and number.isdecimal() else None

    def make(self) -> Statistic:
        """Return an empty statistic."""
        # Loaded when first needed: a memory is opened without torch.
        kinds = import_module("recollect.sketching.statistics")
        made: Statistic
        if self.statistic == "second moment":
            made = kinds.SecondMoment(self.size, heavy=self.size // 42)
        elif self.statistic == "entropy":
            made = kinds.Entropy(self.size, heavy=self.size // 64)
        else:
            plain = {"quantiles": "Quantiles", "distinct": "Distinct", "frequent": "Frequent"}
            made = getattr(kinds, plain[self.statistic])(self.size)
        return made

    def read(self, attributes: npt.NDArray[Any], entry: ModuleEntry) -> Any:
        """Return what of (n, m) attributes is counted; None if they have no such number."""
        number = self._number
        if number is not None:
            return attributes[:, number] if number < attributes.shape[1] else None
        if self.of == "size":
            return np.linalg.norm(attributes.astype(np.float64), axis=1)
        if self.of == "largest":
            return attributes.argmax(axis=1)
        step = entry.scale / attributes.shape[1] ** 0.5 / _STEPS
        return np.rint(attributes.astype(np.float64) / step)

    def update(self, statistic: Statistic, objects: Objects, entry: ModuleEntry) -> None:
        """Take in some objects of a module."""
        values = self.read(objects.attributes.detach().cpu().numpy(), entry)
        if values is not None:
            statistic.update(values)


_USUAL = (
    Follow("quantiles", "size"),
    Follow("distinct", "values"),
    Follow("frequent", "largest"),
    Follow("second moment", "largest"),
    Follow("entropy", "largest"),
)


@dataclass(frozen=True)
class Following:
    """Which statistics a memory follows, and for how long hour by hour.

    Bytes are bounded: of ``hours`` newest hours each has its own statistics, before them
    ``days`` days, before them months.

    Args:
        streams: the statistics; by default one of each kind.
        hours: newest hours that are kept apart.
        days: days before them that are kept apart.
        on_deletion: datasketches cannot delete. ``"mark"`` keeps what deleted glances added and
            says so with every answer; ``"drop"`` forgets the whole window of a deleted glance.

    Raises:
        ValueError: if nothing is followed, something twice, or a number is too small.

    Example:
        >>> Following((Follow("distinct", "values"),)).bytes_per_module
        1024
    """

    streams: tuple[Follow, ...] = _USUAL
    hours: int = 72
    days: int = 62
    on_deletion: str = "mark"

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", tuple(self.streams))
        if not self.streams:
            raise ValueError("nothing is followed; name some statistics, or leave them out")
        names = [s.name for s in self.streams]
        if len(set(names)) < len(names):
            raise ValueError(f"a statistic is followed twice: {', '.join(sorted(names))}")
        check_integer("hours", self.hours, minimum=1)
        check_integer("days", self.days, minimum=1)
        check_one_of("on_deletion", self.on_deletion, ("mark", "drop"))

    @property
    def bytes_per_module(self) -> int:
        """Bytes for each module and window, at most (before they are packed)."""
        return sum(s.size for s in self.streams)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "streams": [asdict(s) for s in self.streams]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Following:
        """Read what ``to_dict`` wrote."""
        return cls(**{**values, "streams": tuple(Follow(**s) for s in values["streams"])})


def following_of(given: Following | Iterable[Follow] | bool | None) -> dict[str, Any] | None:
    """Understand what a memory is asked to follow, as plain values; None for nothing said.

    Raises:
        TypeError: if it is none of these.
    """
    if given is None or given is False:
        return None
    if given is True:
        return Following().to_dict()
    if isinstance(given, Following):
        return given.to_dict()
    streams: list[object] = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(s, Follow) for s in streams):
        raise TypeError(
            f"statistics is True, a Following, or a list of Follow(statistic, of), got {given!r}"
        )
    return Following(tuple(s for s in streams if isinstance(s, Follow))).to_dict()
