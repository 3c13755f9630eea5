"""What a tracing saw, and what it left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Coverage"]


@dataclass(frozen=True)
class Coverage:
    """What a tracing saw, and what it left out.

    Attributes:
        forwards: runs of the network.
        glances: items in them.
        fired: names of the watched modules that ran.
        never_fired: names of the watched modules that did not run (a child that is called as
            ``child.forward(x)`` fires no hook).
        repeated: (name, runs in one forward) of modules that ran more than once in a forward;
            the further calls are kept as ``name#1``, ``name#2``, ...
        no_tensor: names of modules that returned no tensor of floating point numbers.
        not_folded: (name, shape) of outputs whose first size is no multiple of the batch.
        notes: what else the reader should know.

    Example:
        >>> Coverage(1, 8, fired=("conv", "fc"), never_fired=("aux",))
        Coverage: 2 of 3 watched modules ran, 1 forward of 8 glances
          never ran: aux
    """

    forwards: int = 0
    glances: int = 0
    fired: tuple[str, ...] = ()
    never_fired: tuple[str, ...] = ()
    repeated: tuple[tuple[str, int], ...] = ()
    no_tensor: tuple[str, ...] = ()
    not_folded: tuple[tuple[str, tuple[int, ...]], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def is_complete(self) -> bool:
        """Whether every watched module ran and put out something that was kept."""
        return not (self.never_fired or self.no_tensor or self.not_folded)

    def __repr__(self) -> str:
        watched = len(self.fired) + len(self.never_fired)
        runs = f"{self.forwards} forward{'s' if self.forwards != 1 else ''}"
        glances = f"{self.glances} glance{'s' if self.glances != 1 else ''}"
        lines = [
            f"Coverage: {len(self.fired)} of {watched} watched modules ran, {runs} of {glances}"
        ]
        listed = {
            "never ran": self.never_fired,
            "ran several times": [f"{name} ({times} times)" for name, times in self.repeated],
            "returned no numbers": self.no_tensor,
            "not divisible by the batch": [f"{n} {list(shape)}" for n, shape in self.not_folded],
        }
        lines += [f"  {what}: {_listing(names)}" for what, names in listed.items() if names]
        return "\n".join([*lines, *[f"  note: {note}" for note in self.notes]])


def _listing(names: Sequence[str], most: int = 8) -> str:
    """Write names in a row, the first few."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
