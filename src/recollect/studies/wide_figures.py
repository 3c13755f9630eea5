"""The picture of the studies of infinite width: learning curves, and agreement over time."""

from __future__ import annotations

from typing import Any

from recollect._answers import Answer
from recollect.studies.figures import figure
from recollect.studies.wide_architectures import CONVOLUTIONAL, DENSE, RESIDUAL
from recollect.studies.wide_ensembles import Findings

__all__ = ["draw_curves"]

COLOURS = {DENSE: "#94a3b8", CONVOLUTIONAL: "#d97706", RESIDUAL: "#2563eb"}
COLUMNS = {"NNGP": "infinitely wide, NNGP", "NTK": "infinitely wide, NTK", "network": "trained"}


def draw_curves(answer: Answer, path: str) -> None:
    """Draw accuracy by training pictures, and both ensembles over the time of training.

    Args:
        answer: of ``infinite-cifar10`` or ``infinite-digits``.
        path: where to, ``.svg`` or ``.png``.

    Raises:
        TypeError: if it is another answer.
    """
    if not isinstance(answer, Findings):
        raise TypeError("this picture needs the answer of a study of infinite width")
    with figure(path, width=11, height=5.6) as drawn:
        above, below = drawn.subfigures(2, 1, height_ratios=(1.15, 1))
        _curves(list(answer), above)
        _together(list(answer.together), answer.together.title, below)


def _curves(rows: list[dict[str, Any]], place: Any) -> None:
    panels = place.subplots(1, len(COLUMNS), sharey=True)
    for axes, (column, title) in zip(panels, COLUMNS.items(), strict=True):
        for name, colour in COLOURS.items():
            mine = [r for r in rows if r["architecture"] == name]
            axes.errorbar(
                [r["pictures"] for r in mine],
                [r[column] for r in mine],
                [r[f"{column} deviation"] for r in mine],
                fmt="o-", color=colour, label=name, markersize=4, capsize=2,
            )  # fmt: skip
        sizes = sorted({r["pictures"] for r in rows})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{s:,}" for s in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training pictures")
        axes.set_title(title)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend()


def _together(rows: list[dict[str, Any]], title: str, place: Any) -> None:
    first, second = place.subplots(1, 2)
    times = [r["time"] for r in rows]
    earliest = min(t for t in times if t > 0)
    for column, colour in (("mean", "#2563eb"), ("deviation", "#d97706")):
        first.plot(times, [r[column] for r in rows], color=colour, label=f"{column}, infinite")
        found = [r[f"{column}, networks"] for r in rows]
        first.plot(times, found, "o", color=colour, markersize=4, label=f"{column}, networks")
        judged = {"deviation": "variance"}.get(column, column)
        off = [r[f"{judged} off by"] for r in rows]
        second.plot(times, off, "o-", color=colour, markersize=4, label=judged)
    first.set_title(title.replace(" beside the", "\nbeside the"))
    first.legend()
    second.axhline(1, color="#94a3b8", linestyle="--", label="Monte-Carlo error alone")
    second.set_ylim(0, 1.1 * max(1.0, second.dataLim.y1))
    second.set_title("off by, in Monte-Carlo standard errors")
    second.legend()
    for axes in (first, second):
        axes.set_xlabel("time of training")
        axes.set_xscale("symlog", linthresh=earliest)
        axes.set_xlim(-earliest / 8, 1.3 * max(times))
