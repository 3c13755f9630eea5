"""What ``verify`` found."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What was compared, and what is wrong.

    Attributes:
        path: of the memory.
        checked: one sentence per comparison.
        problems: one sentence per finding; empty if all is well.

    Example:
        >>> Report("room", ["3 glances were read"], [])
        room: all is well
          checked: 3 glances were read
    """

    path: str
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __repr__(self) -> str:
        word = "all is well" if self.ok else f"{len(self.problems)} problems"
        lines = [f"{self.path}: {word}"]
        lines += [f"  problem: {p}" for p in self.problems]
        lines += [f"  checked: {c}" for c in self.checked]
        return "\n".join(lines)
