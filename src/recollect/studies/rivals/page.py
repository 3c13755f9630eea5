"""The study's rows as the tables of ``docs/rivals.md``: three by size, one with everything.

recollect study rivals --data FOLDER --json > rivals.json
python -m recollect.studies.rivals.page rivals.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["tables"]

# Column of the study -> heading of the table by size.
BY_SIZE = {
    "R2 within modules": "R2 within modules",
    "average precision": "Average precision of a question that is read",
    "count error": "Error of a module's count in a glance",
    "day: means": "A day in the same bytes: error of mean attributes, as a share of the day's "
    "distance from the usual",
    "day: shares": "A day in the same bytes: summed error of the shares of modules",
}
COSTS = ("encode us", "read us", "probe us")
Row = Mapping[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """Return Markdown: a section for each network, a table for each question and one of costs.

    Args:
        rows: of ``study``, or what its JSON holds.

    Example:
        >>> row = {"network": "n", "bytes": 64, "code": "PCA", "R2 within modules": 0.98765}
        >>> print(tables([row]))
        ## n
        <BLANKLINE>
        R2 within modules:
        <BLANKLINE>
        | code | 64 B |
        | --- | --- |
        | PCA | 0.988 |
        <BLANKLINE>
    """
    lines: list[str] = []
    for network in dict.fromkeys(r["network"] for r in rows):
        own = [r for r in rows if r["network"] == network]
        lines += [f"## {network}", ""]
        for column, heading in BY_SIZE.items():
            if any(r.get(column) is not None for r in own):
                lines += [f"{heading}:", "", *_by_size(own, column), ""]
        if any(r.get(c) is not None for r in own for c in COSTS):
            lines += [
                "Processor microseconds a glance to encode / to read for a question / to probe "
                "without reading, and the precision of such a probe at 256 bytes:",
                "", *_costs(own), "",
            ]  # fmt: skip
    return "\n".join(lines)


def _by_size(rows: Sequence[Row], column: str) -> list[str]:
    sizes = sorted({r["bytes"] for r in rows})
    found = {(r["code"], r["bytes"]): r.get(column) for r in rows}
    table = [_line(["code", *(f"{s:,} B" for s in sizes)]), _line(["---"] * (len(sizes) + 1))]
    for code in dict.fromkeys(r["code"] for r in rows):
        values = [found.get((code, s)) for s in sizes]
        if any(v is not None for v in values):
            table.append(_line([code, *map(number, values)]))
    return table


def _costs(rows: Sequence[Row]) -> list[str]:
    sizes = sorted({r["bytes"] for r in rows})
    table = [
        _line(["code", *(f"{s:,} B" for s in sizes), "probe precision"]),
        _line(["---"] * (len(sizes) + 2)),
    ]
    for code in dict.fromkeys(r["code"] for r in rows):
        own = {r["bytes"]: r for r in rows if r["code"] == code}
        cells = [_cost(own.get(s, {})) for s in sizes]
        table.append(_line([code, *cells, number(own.get(256, {}).get("probe precision"))]))
    return table


def _cost(row: Row) -> str:
    """Write what a code costs: to encode, to read, to probe, as far as that is known."""
    known = [micro(row[c]) for c in COSTS if row.get(c) is not None]
    return " / ".join(known) or "-"


def number(value: float | None) -> str:
    """Write three decimals; fewer where the number is large; a dash for none.

    >>> number(0.12345), number(-3.2), number(-1234.5), number(None)
    ('0.123', '-3.2', '-1,234', '-')
    """
    if value is None or value != value:
        return "-"
    if abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 3 else f"{value:.3f}"


def micro(value: float | None) -> str:
    """Write microseconds with two digits at least; a dash for none.

    >>> micro(0.04), micro(3.21), micro(1234.5)
    ('0.04', '3.2', '1,234')
    """
    if value is None:
        return "-"
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())["rows"]))
