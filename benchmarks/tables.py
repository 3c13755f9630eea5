"""How the benchmarks print: one table, with the machine and the date below it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table and what it was measured on."""
    table = Table(title=title)
    for name in header:
        table.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console(width=140)
    console.print(table)
    console.print(machine())


def machine() -> str:
    """Say when and on what it is measured."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Report:
    """Tables that are shown as they come, and written to one Markdown file at the end."""

    def __init__(self, title: str) -> None:
        self._lines = [f"# {title}", "", machine(), ""]

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table and keep it."""
        show(title, header, rows)
        self._lines += [f"## {title}", "", _line(header), _line(["---"] * len(header))]
        self._lines += [*(_line(map(_cell, row)) for row in rows), ""]

    def note(self, text: str) -> None:
        """Show a sentence and keep it."""
        print(text)
        self._lines += [text, ""]

    def write(self, path: Path) -> None:
        """Write everything so far."""
        path.write_text("\n".join(self._lines))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def interleaved(actions: dict[str, Callable[[], Any]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each action, taken in turns so that all meet the same weather."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}
