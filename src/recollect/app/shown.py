"""How answers are shown: a table for people, JSON for programs, one message for mistakes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from recollect._answers import Answer

__all__ = ["plain", "print_json", "show", "show_mapping", "tell"]

_BAR = 24


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: no NaN, no NumPy, times in ISO form."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if hasattr(value, "__dict__"):
        return plain(vars(value))
    return str(value)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")


def tell(text: str) -> None:
    """Print a line for people on standard error, so that output stays clean."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show(answer: Answer, as_json: bool, understood: str | None = None) -> None:
    """Print an answer: a table with bars behind estimates, or JSON.

    Args:
        answer: what was found.
        as_json: whether a program reads it.
        understood: how the question was read.
    """
    if as_json:
        found = answer.to_dict()
        print_json({**found, "understood": understood} if understood else found)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    title = answer.title or understood or ""
    tree = getattr(answer, "tree", None)
    if tree is not None:  # a glance is drawn, not listed
        console.print(title, style="bold", markup=False)
        console.print(tree(), markup=False, soft_wrap=True)
        for note in answer.notes:
            console.print(note, style="dim", markup=False)
        return
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None,
                  pad_edge=False, header_style="dim")  # fmt: skip
    numeric = {k for k, v in answer.columns.items() if v and all(_is_number(x) for x in v)}
    for name in answer.columns:
        table.add_column(name, justify="right" if name in numeric else "left")
    bars = _bars(answer)
    if bars:
        table.add_column("")
    for number, row in enumerate(answer):
        cells = [_cell(k, v) for k, v in row.items()]
        table.add_row(*cells, *([bars[number]] if bars else []))
    console.print(table)
    if len(answer) == 0:
        console.print("(nothing)", style="dim")
    for note in answer.notes:
        console.print(note, style="dim", markup=False)


def show_mapping(values: Mapping[str, Any], as_json: bool, title: str = "") -> None:
    """Print named values, nested ones indented."""
    if as_json:
        print_json(values)
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if title:
        console.print(title, style="bold", markup=False)
    for line in _lines(values, 0):
        console.print(line, markup=False)


def _lines(values: Mapping[str, Any], depth: int) -> Iterable[str]:
    width = max((len(str(k)) for k in values), default=0)
    for key, value in values.items():
        pad = "  " * depth
        if isinstance(value, Mapping):
            yield f"{pad}{key}"
            yield from _lines(value, depth + 1)
        elif isinstance(value, list | tuple) and len(value) > 8:
            shown = ", ".join(_cell("", v) for v in value[:8])
            yield f"{pad}{str(key).ljust(width)}  {shown}, ... ({len(value)})"
        else:
            yield f"{pad}{str(key).ljust(width)}  {_cell(str(key), value)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(name: str, value: Any) -> str:
    """Write a value as a reader wants to see it; ids are never rounded."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "unknown"
    if isinstance(value, int) and not isinstance(value, bool) and "byte" in name:
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, list | tuple):
        if all(isinstance(v, str) for v in value):
            return " > ".join(value)
        return " ".join(_cell("", v) for v in value[:6]) + (" ..." if len(value) > 6 else "")
    return str(value)


def _bars(answer: Answer) -> list[str]:
    """Return a bar for each estimate of a count, nothing for other answers."""
    values = answer.columns.get("estimate", [])
    counted = len(values) > 1 and all(_is_number(v) and math.isfinite(v) for v in values)
    if not counted or min(values) < 0 or "share" not in answer.columns:
        return []
    top = max(values) or 1
    return ["█" * round(_BAR * v / top) for v in values]
