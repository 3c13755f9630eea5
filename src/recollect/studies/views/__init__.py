"""Every view on a trained example: counts, attributes, similarity, and what watching costs.

Each view's file exposes ``measure(quick, data, seed) -> ViewRow``; a view joins the table by a
line in ``_VIEWS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from recollect._answers import Answer
from recollect._checks import unknown_name
from recollect.studies.figures import figure
from recollect.studies.views.row import ViewRow

__all__ = ["VIEWS", "ViewRow", "draw", "measure", "study"]

# View -> the file that measures it.
_VIEWS: dict[str, str] = {
    "attention": "recollect.studies.views.attention",
    "experts": "recollect.studies.views.experts",
    "capsules": "recollect.studies.views.capsules",
    "layout": "recollect.studies.views.module_networks",
    "path": "recollect.studies.views.pathnet",
    "lookups": "recollect.studies.views.embeddings",
    "walks": "recollect.studies.views.walks",
    "shared parts": "recollect.studies.views.shared_parts",
}
VIEWS = tuple(_VIEWS)
_PLAIN = ("name", "notes")


def measure(name: str, quick: bool = True, data: str | None = None, seed: int = 0) -> ViewRow:
    """Return one view's row for one seed.

    Raises:
        NotRemembered: if there is no such view.
    """
    if name not in _VIEWS:
        raise unknown_name("view of the study", name, _VIEWS)
    row: Callable[[bool, Path | None, int], ViewRow] = import_module(_VIEWS[name]).measure
    return row(quick, None if data is None else Path(data), seed)


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return a row for every view: means over seeds, and the deviations beside them.

    Args:
        quick: one seed, smaller networks.
        data: folder of data for the views that can use it; else scikit-learn's digits and what
            else comes with a dependency.
    """
    seeds = range(1 if quick else 3)
    rows = [_over_seeds([measure(v, quick, data, s) for s in seeds]) for v in VIEWS]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="views: what a memory of sketches answers for each modular network",
        notes=[
            "coverage: of 90 % intervals; count error: relative, read from sketches alone; sd "
            "over seeds; mean only, chance, raw: the rivals for attributes and similarity",
            "overhead: processor time of a traced forward over a plain one, less one",
        ],
    )


def _over_seeds(rows: list[ViewRow]) -> dict[str, Any]:
    """Return means of numbers, with their deviation where there are several seeds."""
    found: dict[str, Any] = {}
    for field in asdict(rows[0]):
        values = [getattr(r, field) for r in rows]
        if field in _PLAIN:
            found[field] = values[0]
        else:
            found[field] = float(np.mean(values))
            if len(rows) > 1 and isinstance(values[0], float):
                found[f"{field} sd"] = float(np.std(values, ddof=1))
    return found


def draw(answer: Answer, path: str) -> None:
    """Draw what each view's memory answers beside its rivals.

    Args:
        answer: what ``study`` returned.
        path: file to write, ``.svg`` or ``.png``.
    """
    names = list(answer["name"])
    panels = (
        ("attribute R2", (("attribute_r2", "sketch"), ("attribute_r2_mean", "prior alone"))),
        ("same label among ten most alike", (("similarity_precision", "sketch"),
         ("similarity_raw", "raw attributes"), ("similarity_chance", "chance"))),
        ("inside 90 % intervals", (("count_coverage", "counts"),
         ("attribute_coverage", "attributes"))),
    )  # fmt: skip
    with figure(path, width=10, height=0.5 + 0.55 * max(len(names), 3)) as drawn:
        for axes, (title, bars) in zip(drawn.subplots(1, 3, sharey=True), panels, strict=True):
            for i, (field, label) in enumerate(bars):
                at = np.arange(len(names)) + 0.26 * (i - (len(bars) - 1) / 2)
                axes.barh(at, np.nan_to_num(answer[field]), height=0.24, label=label)
            axes.set_title(title)
            axes.set_yticks(range(len(names)), names)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=7)
        drawn.axes[0].invert_yaxis()
        drawn.axes[2].axvline(0.9, color="#94a3b8", linewidth=1)
