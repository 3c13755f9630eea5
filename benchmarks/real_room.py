"""A house over a year: how often a cat, at night or in the morning, from the sketches alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import networks, room_year
from benchmarks.room_year import PARTS, Moment
from benchmarks.tables import Report
from recollect import Memory, Sketcher, recall
from recollect.tracing.detections import Detection

BATCH = 8
RESERVOIR = 512


class Watched:
    """The year, batch by batch for ``Memory.watch``; keeps what was painted and what was seen."""

    def __init__(self, data: Path, days: int, seed: int) -> None:
        self.net, self.preprocess = networks.yolox_nano(data)
        self.data, self.days, self.seed = data, days, seed
        self.moments: list[Moment] = []
        self.saw: list[list[Detection]] = []
        reading = self.net.detections

        def logged(output: Tensor) -> list[list[Detection]]:
            found = reading(output)
            self.saw += found
            return found

        self.net.detections = logged

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        year = iter(room_year.year_of_pictures(self.data, self.days, self.seed))
        while batch := list(islice(year, BATCH)):
            moments = [m for _, m in batch]
            self.moments += moments
            yield (
                torch.stack([self.preprocess(p) for p, _ in batch]),
                {
                    "time": [m.time for m in moments],
                    "source": [f"room {m.room}" for m in moments],
                    "labels": {"part": [m.part for m in moments]},
                },
            )

    def log(self, label: str) -> np.ndarray:
        """Numbers of a class that the network saw in each glance."""
        return np.array([sum(d.label == label for d in found) for found in self.saw])

    def painted(self, species: str) -> np.ndarray:
        """Whether an animal was painted in each glance."""
        return np.array([m.has(species) for m in self.moments])


def run(data: Path, out: Path, report: Report, *, quick: bool, seed: int = 0) -> None:
    """Watch the year, ask, and compare."""
    year = Watched(data, 37 if quick else 365, seed)
    start = time.perf_counter()
    with Memory(out / "room", Sketcher(dim=1024, seed=seed), reservoir=RESERVOIR) as memory:
        memory.watch(year.net, year, view="detections")
        watched = time.perf_counter() - start
        memory.fit_prior()
        months = _by(memory, year, "month")
        hours = _by(memory, year, "hour_of_day")
        _show_months(report, memory, year, months)
        _show_hours(report, hours)
        _show_sums(report, memory, year)
        _show_network(report, year)
        _show_cost(report, memory, watched)
    _draw(out / "room_year.png", months, hours)


def _windows(year: Watched, by: str) -> np.ndarray:
    """The window of each glance, as the answers call it."""
    if by == "month":
        return np.array([f"{m.time:%Y-%m}" for m in year.moments])
    return np.array([m.time.hour for m in year.moments])


def _by(
    memory: Memory, year: Watched, by: str, part: str | None = None, label: str = "cat",
    unit: str = "glances",
) -> list[dict[str, Any]]:  # fmt: skip
    """Ask the sketches by window, and put the log and the painted truth beside each answer."""
    where = None if part is None else f"part = '{part}'"
    answer = recall.count(memory, label, by=by, unit=unit, where=where, source="sketch")
    window = _windows(year, by)
    mine = np.array([part in (None, m.part) for m in year.moments])
    saw = year.log(label)
    saw = saw > 0 if unit == "glances" else saw
    painted = year.painted(label) if label in room_year.CHANCES else np.zeros(len(mine), bool)
    rows = []
    for row in answer:
        here = mine & (window == row[by])
        exact = int(saw[here].sum())
        inside = row["low"] <= exact <= row["high"]
        rows.append(
            {
                "window": row[by], "glances": int(here.sum()), "painted": int(painted[here].sum()),
                "saw": exact, "estimate": row["estimate"], "low": row["low"],
                "high": row["high"], "inside": inside,
            }
        )  # fmt: skip
    return rows


def _interval(row: dict[str, Any]) -> str:
    return f"{row['estimate']:.1f} [{row['low']:.0f}, {row['high']:.0f}]"


def _share(rows: list[dict[str, Any]]) -> str:
    return f"{sum(r['inside'] for r in rows)} of {len(rows)}"


def _show_months(
    report: Report, memory: Memory, year: Watched, whole: list[dict[str, Any]]
) -> None:
    night, morning = (_by(memory, year, "month", part) for part in ("night", "morning"))
    header = ["month"]
    for name in ("all day", "night", "morning"):
        header += [f"{name}: sketch [90 %]", "saw", "painted - saw"]
    rows = []
    for kinds in zip(whole, night, morning, strict=True):
        row = [kinds[0]["window"]]
        for k in kinds:
            row += [_interval(k), k["saw"], f"{k['painted'] - k['saw']:+d}"]
        rows.append(row)
    inside = ["inside", *(x for k in (whole, night, morning) for x in (_share(k), "", ""))]
    report.table("(a) Glances with a cat, by month", header, [*rows, inside])


def _show_hours(report: Report, hours: list[dict[str, Any]]) -> None:
    header = ["hour of day", "glances", "sketch [90 %]", "saw", "painted - saw"]
    rows = [
        [h["window"], h["glances"], _interval(h), h["saw"], f"{h['painted'] - h['saw']:+d}"]
        for h in hours
    ]
    rows.append(["inside", "", _share(hours), "", ""])
    report.table("(a) Glances with a cat, by hour of day", header, rows)


def _show_sums(report: Report, memory: Memory, year: Watched) -> None:
    """Objects of every common class in each window, decoded from the sum of its sketches."""
    labels = sorted({d.label for found in year.saw for d in found})
    common = [label for label in labels if (year.log(label) > 0).sum() >= 20]
    rows = []
    for by in ("month", "hour_of_day"):
        for unit in ("glances", "objects"):
            asked = [_by(memory, year, by, None, label, unit) for label in common]
            every = [row for rows_ in asked for row in rows_ if row["glances"]]
            off = float(np.mean([abs(row["estimate"] - row["saw"]) for row in every]))
            share = sum(row["inside"] for row in every) / len(every)
            width = float(np.mean([row["high"] - row["low"] for row in every]))
            rows.append([f"{unit} by {by}", len(every), f"{share:.1%}", round(off, 4), width])
    title = f"(a) All {len(common)} kinds of things seen in 20 glances or more"
    header = ["asked", "windows", "log inside 90 %", "mean error", "mean width"]
    report.table(title, header, rows)


def _show_network(report: Report, year: Watched) -> None:
    """How far the network itself is from what was painted."""
    rows = []
    for species in room_year.CHANCES:
        saw, painted = year.log(species) > 0, year.painted(species)
        for part in PARTS:
            here = np.array([m.part == part for m in year.moments])
            hit = int((saw & painted & here).sum())
            rows.append(
                [f"{species}, {part}", int((painted & here).sum()), int((saw & here).sum()), hit,
                 int((saw & ~painted & here).sum())]
            )  # fmt: skip
    header = ["", "painted", "saw", "both", "false alarms"]
    report.table("(a) The network beside the painted truth: its own errors", header, rows)


def _show_cost(report: Report, memory: Memory, watched: float) -> None:
    kept = set(memory.records()[0])
    ids = memory.glances(columns=["id"])["id"].to_pylist()
    decoded = memory.sketcher.decode(memory.sketches(ids=ids), prior=memory.prior())
    names, estimate, _ = decoded.count_estimates()
    exact = memory.skeleton_counts()
    place = {i: row for row, i in enumerate(exact.ids.tolist())}
    order = [place[i] for i in ids]
    truth = np.stack([exact.count(name, "objects")[order] for name in names], 1)
    equal = (np.rint(estimate).clip(0) == truth).all(1)
    outside = np.array([i not in kept for i in ids])
    report.table(
        "(a) The memory",
        ["", "value"],
        [
            ["glances", len(ids)],
            ["recipe", f"{memory.recipe}; YOLOX-nano 416 x 416, score 0.3"],
            ["modules (9 stages and kinds of things)", len(names)],
            ["prior: glances kept whole", len(kept)],
            ["watching, seconds (painting included)", watched],
            ["a glance's counts all right, prior's glances", f"{equal[~outside].mean():.2%}"]
            if (~outside).any()
            else ["", ""],
            ["a glance's counts all right, other glances", f"{equal[outside].mean():.2%}"]
            if outside.any()
            else ["(all glances are in the prior)", ""],
        ],
    )


def _draw(path: Path, months: list[dict[str, Any]], hours: list[dict[str, Any]]) -> None:
    """Draw both answers with error bars, the network's log and the painted truth."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, rows, title in zip(axes, (months, hours), ("month", "hour of day"), strict=True):
        x = np.arange(len(rows))
        ax.bar(x, [r["painted"] for r in rows], color="#dddddd", label="painted")
        ax.bar(x, [r["saw"] for r in rows], width=0.45, color="#8fb8de", label="network saw")
        middle = np.array([r["estimate"] for r in rows])
        ends = np.array([[r["low"] for r in rows], [r["high"] for r in rows]])
        bars = np.abs(ends - middle)
        ax.errorbar(x, middle, bars, fmt="o", ms=3.5, color="#c0392b", capsize=3,
                    label="from sketches, 90 %")  # fmt: skip
        names = [str(r["window"])[-2:] for r in rows]
        ax.set_xticks(x[:: max(1, len(x) // 12)], names[:: max(1, len(x) // 12)])
        ax.set_xlabel(title)
    axes[0].set_ylabel("glances with a cat")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
