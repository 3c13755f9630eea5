"""Windows of stream statistics: what one of them holds, how they join, how they are written.

A cell is a UTC hour, day or month with the statistics of every module in it, and how far these
can be trusted: how many glances they counted, how many of these were deleted or replaced since,
and how many came without attributes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from recollect.sketching.statistics import Statistic

__all__ = [
    "Cell",
    "Cells",
    "Key",
    "aged",
    "day_of",
    "homes",
    "join_cells",
    "month_of",
    "pack_cells",
    "spans_inside",
    "unpack_cells",
]

_MAGIC = b"recollect statistics 1\n"
Span = tuple[int, int]  # first hour since 1970, hour after the last
Key = tuple[int, str]  # which stream, module


@dataclass(eq=False)
class Cell:
    """One window.

    Attributes:
        counted: glances whose objects it has seen.
        deleted: of these, deleted since.
        replaced: of these, replaced by a newer glance of the same id since.
        missing: glances that came as sketches alone, which it has not seen.
        statistics: (stream, module) -> statistic.
    """

    counted: int = 0
    deleted: int = 0
    replaced: int = 0
    missing: int = 0
    statistics: dict[Key, Statistic] = field(default_factory=dict)

    def take(self, other: Cell) -> None:
        """Take in another cell; the other's statistics may become part of this one."""
        self.counted += other.counted
        self.deleted += other.deleted
        self.replaced += other.replaced
        self.missing += other.missing
        for key, found in other.statistics.items():
            if key in self.statistics:
                self.statistics[key].merge(found)
            else:
                self.statistics[key] = found

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """How far it can be trusted."""
        return self.counted, self.deleted, self.replaced, self.missing


Cells = dict[Span, Cell]


def day_of(hour: int) -> Span:
    """Return the UTC day of an hour.

    >>> day_of(25)
    (24, 48)
    """
    return hour // 24 * 24, (hour // 24 + 1) * 24


def month_of(hour: int) -> Span:
    """Return the UTC month of an hour.

    >>> month_of(31 * 24)
    (744, 1416)
    """
    month = np.datetime64(hour, "h").astype("datetime64[M]")
    ends = (m.astype("datetime64[h]").astype(np.int64) for m in (month, month + 1))
    first, last = (int(e) for e in ends)
    return first, last


def pack_cells(cells: Cells) -> bytes:
    """Write cells: a JSON list of what there is, then the statistics; zlib over all."""
    table: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for span in sorted(cells):
        cell, held = cells[span], []
        for (stream, module), found in sorted(cell.statistics.items()):
            data = found.to_bytes()
            parts.append(data)
            held.append([stream, module, len(data)])
        table.append({"span": span, "numbers": cell.numbers, "held": held})
    head = json.dumps(table).encode()
    return _MAGIC + zlib.compress(b"".join([len(head).to_bytes(4, "little"), head, *parts]), 6)


def unpack_cells(data: bytes) -> Cells:
    """Read what ``pack_cells`` wrote.

    Raises:
        ValueError: if the bytes are damaged, or of another format.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("not a file of stream statistics, or one of a newer format")
    read_statistic = import_module("recollect.sketching.statistics").read_statistic
    try:
        plain = zlib.decompress(data[len(_MAGIC) :])
        place = 4 + int.from_bytes(plain[:4], "little")
        table = json.loads(plain[4:place])
        cells: Cells = {}
        for row in table:
            cell = Cell(*row["numbers"])
            for stream, module, length in row["held"]:
                cell.statistics[stream, module] = read_statistic(plain[place : place + length])
                place += length
            cells[row["span"][0], row["span"][1]] = cell
    except (zlib.error, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged: {error}") from error
    return cells


def join_cells(cells: Cells, others: Cells) -> None:
    """Take other cells into the first ones, each into the window that already holds its hours."""
    for span, cell in others.items():
        home = span if span in cells else _home(cells, span)
        if home in cells:
            cells[home].take(cell)
        else:
            # A longer window swallows the shorter ones it holds.
            inside = [s for s in cells if home[0] <= s[0] and s[1] <= home[1]]
            for s in inside:
                cell.take(cells.pop(s))
            cells[home] = cell


def _home(cells: Cells, span: Span) -> Span:
    """The window of a span: a day or month that holds it, if there is one, else itself."""
    for longer in (day_of(span[0]), month_of(span[0])):
        if longer in cells and longer[1] >= span[1]:
            return longer
    return span


def aged(cells: Cells, hours: int, days: int) -> Cells:
    """Join old hours to days and old days to months; newer ones stay apart."""
    out: Cells = {}
    for span, home in homes(cells, hours, days).items():
        join_cells(out, {home: cells[span]})
    return out


def homes(spans: Iterable[Span], hours: int, days: int) -> dict[Span, Span]:
    """Return the window that each window belongs to by its age, in order of time.

    >>> homes([(0, 1), (60, 61), (99, 100)], hours=40, days=30)
    {(0, 1): (0, 24), (60, 61): (60, 61), (99, 100): (99, 100)}
    """
    ordered = sorted(spans)
    newest = max((last for _, last in ordered), default=0)
    found = {}
    for span in ordered:
        home = span
        if span[1] - span[0] == 1 and span[1] <= newest - hours:
            home = day_of(span[0])
        if home[1] - home[0] <= 24 and home[1] <= newest - hours - 24 * days:
            home = month_of(span[0])
        found[span] = home
    return found


def spans_inside(
    cells: Iterable[Span], since: int | None, until: int | None
) -> tuple[list[Span], list[Span]]:
    """Return the windows inside since <= hour < until, and those that are cut."""
    inside: list[Span] = []
    cut: list[Span] = []
    for span in sorted(cells):
        if (until is not None and span[0] >= until) or (since is not None and span[1] <= since):
            continue
        whole = (since is None or span[0] >= since) and (until is None or span[1] <= until)
        (inside if whole else cut).append(span)
    return inside, cut
