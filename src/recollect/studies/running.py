"""How long studies run: a bar while they do, and a folder from which they go on.

What is done is written line by line as it is found, so that a run that was broken off repeats
nothing but the row it stood at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Journal", "bar", "gathered"]

Row = dict[str, Any]
Found = TypeVar("Found")
Arrays = dict[str, npt.NDArray[Any]]


class Journal:
    """What a study has found so far: rows by what they are about, and arrays by name.

    Args:
        folder: where both are kept; None keeps nothing.
        title: of the study, the name of the file of rows.

    Raises:
        ValueError: if the folder is a file, or the rows in it were not written by a journal.

    Example:
        >>> journal = Journal(getfixture("tmp_path"), "sums")
        >>> journal.row({"of": 2}, lambda: {"sum": 1 + 1})
        {'sum': 2}
        >>> Journal(getfixture("tmp_path"), "sums").row({"of": 2}, lambda: {"sum": 0})
        {'sum': 2}
    """

    def __init__(self, folder: str | Path | None, title: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._rows: dict[str, Row] = {}
        if self._folder is None:
            return
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(
                f"a study keeps its rows in a folder, {str(folder)!r} is a file; name another"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{title}.jsonl"
        if self._file.exists():
            self._rows = _read(self._file)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, about: Mapping[str, Any], find: Callable[[], Row | None]) -> Row | None:
        """Return what is known about something, else find it and write it down.

        Args:
            about: what it is about, all of JSON.
            find: finds the row, of JSON too; None (there is none) is not written down.
        """
        key = json.dumps(dict(about), sort_keys=True)
        if key in self._rows:
            return self._rows[key]
        found = find()
        if found is not None:
            self._rows[key] = found
            if self._folder is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps({"about": dict(about), "row": found}) + "\n")
        return found

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a name, made once."""
        if self._folder is None:
            return make()
        file = self._folder / f"{name}.npz"
        if not file.exists():
            made: Any = make()
            # Whole or not at all: a run may be broken off while it writes.
            half = file.with_suffix(".half.npz")
            np.savez(half, **made)
            half.replace(file)
        with np.load(file) as kept:
            return {k: kept[k] for k in kept.files}


def _read(file: Path) -> dict[str, Row]:
    """Read rows; a last line that was cut off is dropped, from the file too."""
    lines = file.read_text().split("\n")
    if lines[-1]:
        file.write_text("".join(line + "\n" for line in lines[:-1]))
    rows = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            found = json.loads(line)
            rows[json.dumps(found["about"], sort_keys=True)] = found["row"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"line {number} of {file} is no row of a study; move the file away to start anew"
            ) from error
    return rows


def gathered(found: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Return what a study finds, and a note if it was interrupted (Ctrl-C) before all was there.

    >>> gathered(iter("ab"))
    (['a', 'b'], [])
    """
    rows: list[Found] = []
    try:
        for row in found:
            rows.append(row)
    except KeyboardInterrupt:
        return rows, ["broken off: rows or seeds are missing"]
    return rows, []


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on standard error, if that is a terminal; yield what moves it by one.

    Args:
        title: written before the bar.
        total: how many steps there are.

    Example:
        >>> with bar("adding", 2) as step:
        ...     step("one")
    """
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), Left(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda words: shown.update(task, advance=1, description=words)
