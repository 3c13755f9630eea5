"""The format of a memory on disk, and the numbered steps from older formats to this one.

Format 1 is the first. In format 2 glances may have faded; a folder of format 1 is one of format 2
where none has, and becomes one when a policy is set. In format 3 glances may belong to later
epochs than the first (``epochs``); a folder of format 2 is one of format 3 with the first epoch
alone, and becomes one when an epoch is begun. When the format changes, raise ``FORMAT``
and add the step that rewrites a folder of the format before: ``STEPS[n]`` takes a folder from
format n to n + 1 and must be safe to run again after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recollect._checks import CorruptMemory

__all__ = ["AS_IT_IS", "FORMAT", "STEPS", "check_format", "migrate"]

FORMAT = 3

Step = Callable[[Path, dict[str, Any]], dict[str, Any]]
STEPS: dict[int, Step] = {
    1: lambda folder, meta: {"retention": None, **meta},
    2: lambda folder, meta: {"epochs": [], **meta},
}

# Formats that need no step to be read and written.
AS_IT_IS = {1, 2}


def check_format(path: Path, meta: Mapping[str, Any]) -> int:
    """Return the format number of a memory, or refuse it.

    Raises:
        CorruptMemory: if the folder's format is newer than this release can read.
    """
    number = meta.get("format")
    if not isinstance(number, int) or number < 1:
        raise CorruptMemory(f"{path / 'meta.json'} names no format version; it is damaged")
    if number > FORMAT:
        raise CorruptMemory(
            f"{path} has format version {number}, this release reads up to version {FORMAT}; it "
            "was written by a newer release: pip install --upgrade recollect"
        )
    return number


def migrate(path: Path, meta: dict[str, Any], steps: Mapping[int, Step] = STEPS) -> dict[str, Any]:
    """Run the steps that lead from the folder's format to ``FORMAT``; return the new meta."""
    while meta["format"] < FORMAT:
        number = meta["format"]
        meta = {**steps[number](path, meta), "format": number + 1}
    return meta
