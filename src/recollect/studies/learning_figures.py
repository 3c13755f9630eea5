"""Pictures of the studies that learn: the drifting year, and the semi-supervised VAE."""

from __future__ import annotations

from typing import Any

from recollect._answers import Answer
from recollect.studies.figures import figure

__all__ = ["draw_vae", "draw_year"]

COLOURS = ("#2563eb", "#0f766e", "#d97706", "#94a3b8", "#475569", "#dc2626")


def draw_year(answer: Answer, path: str) -> None:
    """Draw accuracy this month and of the year against the steps of a month.

    Args:
        answer: of the study ``continual``.
        path: where to.
    """
    rows = [r for r in answer if r["part"].startswith("all labels")]
    methods = list(dict.fromkeys(r["learned from"] for r in rows))
    with figure(path, width=9.5, height=3.2) as drawn:
        for axes, column in zip(drawn.subplots(1, 2, sharey=True), ("this month", "whole year"),
                                strict=True):  # fmt: skip
            for method, colour in zip(methods, COLOURS, strict=True):
                mine = [r for r in rows if r["learned from"] == method]
                steps = [int(r["part"].split(", ")[1].split()[0]) for r in mine]
                style = "-" if method.startswith("memory") else "--"
                axes.plot(steps, [r[column] for r in mine], style, color=colour, label=method)
            axes.set_xscale("log")
            axes.set_xticks(steps, [str(s) for s in steps])
            axes.minorticks_off()
            axes.set_xlabel("gradient steps a month")
            axes.set_title(f"accuracy, {column}")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside right", fontsize=8)


def draw_vae(answer: Answer, path: str) -> None:
    """Draw the bound by where it normalises, and accuracy by the numbers of a class.

    Args:
        answer: of the study ``vae``.
        path: where to.

    Raises:
        ValueError: if the answer has no such parts (MNIST, quick).
    """
    rows: list[dict[str, Any]] = list(answer)
    placed = [r for r in rows if r["part"] == "where it normalises"]
    if not placed:
        raise ValueError("this run did not place any normalisation, so there is nothing to draw")
    with figure(path, width=8, height=3.2) as drawn:
        left, right = drawn.subplots(1, 2)
        places = range(len(placed))
        left.plot(places, [r["first ELBO"] for r in placed], "o", color=COLOURS[3], label="first")
        left.plot(places, [r["ELBO"] for r in placed], "o", color=COLOURS[0], label="last epoch")
        left.set_xticks(places, [r["setting"] for r in placed], rotation=30, ha="right")
        left.set_title("bound of log p(x), nats")
        left.legend()
        for part, colour in (("class embedding", COLOURS[0]),
                             ("class embedding, all labels", COLOURS[2])):  # fmt: skip
            mine = [r for r in rows if r["part"] == part and r["setting"].startswith("D = ")]
            dims = [int(r["setting"].removeprefix("D = ")) for r in mine]
            right.plot(dims, [r["accuracy"] for r in mine], "o-", color=colour, label=part)
        right.set_xscale("log", base=2)
        right.set_xlabel("D, numbers of a class embedding")
        right.set_title("accuracy on pictures kept apart")
        right.legend()
