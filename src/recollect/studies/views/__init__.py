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
from recollect.studies.running import Journal
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
# Field of a row -> column of the table.
_COLUMNS = {
    "name": "view", "glances": "glances", "modules": "modules", "bytes": "bytes",
    "raw_bytes": "raw bytes", "attribute_r2": "R2", "attribute_r2_mean": "R2 prior",
    "attribute_coverage": "bars", "fixed": "fixed", "count_coverage": "counts",
    "count_ideal": "ideal", "constant": "constant", "count_error": "count error",
    "count_prior": "error prior",
    "similarity_precision": "alike", "similarity_raw": "alike raw",
    "similarity_chance": "chance", "overhead": "cost",
}  # fmt: skip
# Of these the table has no deviations: they say nothing of sketches.
_STEADY = ("raw_bytes", "attribute_r2_mean", "similarity_chance", "count_ideal", "count_prior")


def measure(name: str, quick: bool = True, data: str | None = None, seed: int = 0) -> ViewRow:
    """Return one view's row for one seed.

    Raises:
        NotRemembered: if there is no such view.
    """
    if name not in _VIEWS:
        raise unknown_name("view of the study", name, _VIEWS)
    row: Callable[[bool, Path | None, int], ViewRow] = import_module(_VIEWS[name]).measure
    return row(quick, None if data is None else Path(data), seed)


def study(quick: bool = False, data: str | None = None, keep: str | None = None) -> Answer:
    """Return a row for every view: means over seeds, and the deviations beside them.

    Args:
        quick: one seed, smaller networks; else three seeds, about ten minutes (with data twenty).
        data: folder of data for the views that can use it; else scikit-learn's digits and what
            else comes with a dependency.
        keep: folder to write rows to as they are found, and to go on from.
    """
    journal = Journal(keep, "views")

    def row(view: str, seed: int) -> ViewRow:
        about = {"view": view, "quick": quick, "data": data is not None, "seed": seed}
        found = journal.row(about, lambda: asdict(measure(view, quick, data, seed)))
        assert found is not None
        return ViewRow(**found)

    seeds = range(1 if quick else 3)
    found = [[row(v, s) for s in seeds] for v in VIEWS]
    rows = [_over_seeds(same) for same in found]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="views: what a memory of sketches answers for each modular network",
        notes=[
            "R2: of decoded attributes, median module (R2 prior: of the prior's means); bars: "
            "share of numbers inside 90 % error bars; fixed: modules of one attribute, without R2",
            "counts: true counts of 20 glances inside 90 % intervals, from sketches alone (ideal: "
            "what intervals that hold the nearest whole number should), without the constant "
            "modules; error: summed, over the true sum (error prior: of the usual number)",
            "alike: share of the ten most similar with the query's label (alike raw: by raw "
            "numbers); cost: processor time of a watched forward over a plain one, less one",
            *(f"{same[0].name}: {same[0].notes}" for same in found),
        ],
    )


def _over_seeds(rows: list[ViewRow]) -> dict[str, Any]:
    """Return means of numbers, with their deviation where there are several seeds."""
    found: dict[str, Any] = {}
    for field, column in _COLUMNS.items():
        values = [getattr(r, field) for r in rows]
        if not isinstance(values[0], float):
            found[column] = values[0]
            continue
        found[column] = round(float(np.mean(values)), 4)
        if len(rows) > 1 and field not in _STEADY:
            found[f"{column} sd"] = round(float(np.std(values, ddof=1)), 4)
    return found


def draw(answer: Answer, path: str) -> None:
    """Draw what each view's memory answers beside its rivals.

    Args:
        answer: what ``study`` returned.
        path: file to write, ``.svg`` or ``.png``.
    """
    names = list(answer["view"])
    panels = (
        ("attribute R2", (("R2", "sketch"), ("R2 prior", "prior alone"))),
        ("same label among ten most alike", (("alike", "sketch"),
         ("alike raw", "raw attributes"), ("chance", "chance"))),
        ("inside 90 % intervals",
         (("counts", "counts"), ("ideal", "ideal"), ("bars", "attributes"))),
    )  # fmt: skip
    with figure(path, width=10, height=0.5 + 0.55 * max(len(names), 3)) as drawn:
        for axes, (title, bars) in zip(drawn.subplots(1, 3, sharey=True), panels, strict=True):
            for i, (field, label) in enumerate(bars):
                at = np.arange(len(names)) + 0.26 * (i - (len(bars) - 1) / 2)
                values = np.asarray(answer[field], dtype=np.float64)
                some = np.isfinite(values)  # nothing is drawn where nothing can be judged
                axes.barh(at[some], values[some], height=0.24, label=label)
            axes.set_title(title)
            axes.set_yticks(range(len(names)), names)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=7)
        drawn.axes[0].invert_yaxis()
        drawn.axes[2].axvline(0.9, color="#94a3b8", linewidth=1)
