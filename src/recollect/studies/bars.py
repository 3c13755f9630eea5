"""Tables of the studies of training as bars: one for each method, with its deviation."""

from __future__ import annotations

import math

from recollect._answers import Answer
from recollect.studies.figures import figure

__all__ = ["bars"]


def bars(answer: Answer, path: str, value: str, labels: tuple[str, ...]) -> None:
    """Draw a column of an answer as bars from its least to its greatest.

    Args:
        answer: rows; ``deviation`` or ``VALUE sd`` is drawn as a whisker where it is there.
        path: of the picture, ``.svg`` or ``.png``.
        value: column that is drawn.
        labels: columns that name a row.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the file's ending is neither.
    """
    rows = [row for row in answer if not math.isnan(row[value])]
    names = [", ".join(str(row[label]) for label in labels) for row in rows]
    spread = next((c for c in ("deviation", f"{value} sd") if c in answer.columns), None)
    heights = [row[value] for row in rows]
    whiskers = [0.0 if spread is None else row[spread] for row in rows]
    with figure(path, width=8, height=1 + 0.22 * len(rows)) as drawn:
        axes = drawn.subplots()
        axes.barh(
            range(len(rows)),
            heights,
            xerr=[0.0 if math.isnan(w) else w for w in whiskers],
            color="#7c93c3",
            ecolor="#475569",
        )
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        room = 0.15 * (max(heights) - min(heights)) or 0.1
        axes.set_xlim(min(heights) - room, max(heights) + room)
        axes.set_xlabel(value)
        axes.set_title(answer.title)
