"""Checks at the border, and the few exceptions that are our own.

Every message says what was expected, what came, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CorruptMemory",
    "MemoryBusy",
    "NotRemembered",
    "RecipeMismatch",
    "check_integer",
    "check_one_of",
    "unknown_name",
]


class RecipeMismatch(ValueError):
    """Two sketches, or a sketch and a memory, were made with different recipes.

    Example:
        >>> from recollect.sketching import Recipe
        >>> Recipe(dim=64).check_same(Recipe(dim=128))
        Traceback (most recent call last):
        recollect._checks.RecipeMismatch: two recipes differ and cannot be mixed: ...
    """


class NotRemembered(KeyError):
    """A question names a module, glance or concept that the memory has never seen."""

    def __str__(self) -> str:
        """Return the message plainly (``KeyError`` would show it quoted)."""
        return str(self.args[0]) if self.args else ""


class CorruptMemory(OSError):
    """A memory on disk is not one, lacks a file, or was written by a newer version."""


class MemoryBusy(OSError):
    """Another process is writing to the memory and did not finish in time."""


def check_integer(name: str, value: object, *, minimum: int) -> int:
    """Return ``value`` as an int, or refuse it.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is smaller than ``minimum``.

    Example:
        >>> check_integer("dim", 64, minimum=64)
        64
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    number = int(value.__index__())
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of the allowed strings, or refuse it with the list.

    Raises:
        ValueError: if it is not allowed.

    Example:
        >>> check_one_of("dtype", "int4", ("int8", "float16"))
        Traceback (most recent call last):
        ValueError: dtype must be one of 'int8', 'float16', got 'int4'
    """
    options = list(allowed)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return str(value)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> NotRemembered:
    """Build the error for an unknown name, with the nearest known names as a suggestion.

    >>> str(unknown_name("module", "cta", ["cat", "dog"]))
    "no module 'cta' is remembered; did you mean 'cat'?"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        hint = "did you mean " + " or ".join(map(repr, close)) + "?"
    elif names:
        shown = ", ".join(map(repr, sorted(names)[:8]))
        hint = f"known are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    else:
        hint = "nothing has been seen yet"
    return NotRemembered(f"no {kind} {name!r} is remembered; {hint}")
