"""Answers: small tables with an estimate, a lower and an upper end, for people and for pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Z90", "Answer", "interval"]

# Half-width of a two-sided 90 % interval in standard deviations.
Z90 = 1.6448536269514722


def interval(
    estimate: npt.ArrayLike, std: npt.ArrayLike, *, floor: float | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the ends of the 90 % interval ``estimate -+ 1.645 std``, not below ``floor``.

    Where nothing can be said (the estimate is NaN) it is everything.

    Example:
        >>> low, high = interval([2.0], [1.0], floor=0)
        >>> low.round(2).tolist(), high.round(2).tolist()
        ([0.36], [3.64])
    """
    middle, half = np.asarray(estimate, np.float64), Z90 * np.asarray(std, np.float64)
    unknown = np.isnan(middle)
    low = np.where(unknown, -np.inf, middle - half)
    high = np.where(unknown, np.inf, middle + half)
    if floor is not None:
        low, high = np.maximum(low, floor), np.maximum(high, floor)
    return low, high


class Answer:
    """The answer to a question: named columns of equal length.

    Columns ``estimate``, ``low`` and ``high`` are present wherever a number is estimated; the
    interval covers 90 %. ``notes`` says in words what the reader should know (coverage, load,
    what was left out).

    Args:
        columns: name -> values; all of one length.
        title: one line that says what was asked.
        notes: sentences shown below the table.

    Raises:
        ValueError: if the columns differ in length.

    Example:
        >>> Answer({"hour": [8], "estimate": [3.0], "low": [3.0], "high": [3.0]}, title="cat")
        cat
        hour  estimate  low  high
           8         3    3     3
    """

    def __init__(
        self, columns: Mapping[str, Any], title: str = "", notes: Sequence[str] = ()
    ) -> None:
        self.columns: dict[str, list[Any]] = {k: _plain(v) for k, v in columns.items()}
        lengths = {k: len(v) for k, v in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of an answer must have one length, got {lengths}")
        self.title = title
        self.notes = list(notes)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows, each a dict."""
        names = list(self.columns)
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(names, values, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return title, rows and notes as plain values, ready for JSON."""
        return {"title": self.title, "rows": list(self), "notes": self.notes}

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table``."""
        import pyarrow as pa

        return pa.table(dict(self.columns))

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` (needs pandas)."""
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        shown = list(self)[:40]
        cells = [list(self.columns), *[[_short(v) for v in row.values()] for row in shown]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        more = [f"... and {len(self) - 40} more rows"] if len(self) > 40 else []
        return "\n".join([*([self.title] if self.title else []), *lines, *more, *self.notes])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(c)}</th>" for c in self.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(_short(v))}</td>" for v in row.values()) + "</tr>"
            for row in list(self)[:40]
        )
        more = [f"... and {len(self) - 40} more rows"] if len(self) > 40 else []
        notes = "".join(f"<p>{escape(n)}</p>" for n in [*more, *self.notes])
        return (
            f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>{notes}"
        )


def _plain(values: Any) -> list[Any]:
    """Turn a column into a list of Python values."""
    if hasattr(values, "tolist"):
        return list(values.tolist())
    return [v.item() if isinstance(v, np.generic) else v for v in values]


def _short(value: Any) -> str:
    """Write a value as a reader wants to see it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " / ".join(_short(v) for v in value[:6]) + (" ..." if len(value) > 6 else "")
    return str(value)
