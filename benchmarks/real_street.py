"""Four street cameras, two networks: counts by hour, similar glances, one glance drawn.

Each network has a memory of its own (a memory is of one network: one recipe, one table of
modules), but the same picture has the same id in both, because ids are made of source and time.
So an answer of one memory can be looked up in the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks import networks, pictures
from benchmarks.tables import Report
from recollect import Memory, Sketcher, recall
from recollect.tracing.detections import Detection

WIDTH, HEIGHT = 960, 544  # YOLOX's input; the pictures are 1280 x 720
DIMS = {"YOLOX-nano": 2048, "MobileNetV2": 1024}
ZONE = "Asia/Singapore"
KINDS = ("car", "bus", "truck", "motorbike", "person")
COLOURS = ("#ff5a36", "#ffd23f", "#3bceac", "#4cc9f0", "#f72585", "#b5e48c")
JUDGED = 24  # glances outside the prior whose boxes are read back

Log = dict[int, list[Detection]]


def run(data: Path, out: Path, report: Report, *, quick: bool, seed: int = 0) -> None:
    """Watch with both networks, then ask both memories."""
    street = pictures.load("street_stream", data)
    if quick:
        street = street.subset(range(0, len(street), 5))
    reservoir = len(street) // 2
    seconds = {}
    memories = {
        name: Memory(out / f"street {name}", Sketcher(dim=dim, seed=seed), timezone=ZONE,
                     reservoir=reservoir)
        for name, dim in DIMS.items()
    }  # fmt: skip
    finder, sorter = memories.values()
    start = time.perf_counter()
    log = _watch_finder(finder, street, data)
    seconds["YOLOX-nano"] = time.perf_counter() - start
    start = time.perf_counter()
    net, preprocess = networks.mobilenet_v2(data)
    sorter.watch(net, _loader(street, preprocess, 8), modules=["conv*", "add*"])
    seconds["MobileNetV2"] = time.perf_counter() - start
    same = finder.glances(columns=["id"]).equals(sorter.glances(columns=["id"]))
    for memory in memories.values():
        memory.fit_prior()
    _show_memories(report, memories, seconds, same)
    _show_hours(report, finder, log)
    _show_similar(report, memories)
    _show_unrolled(report, finder, log, street, out)
    for memory in memories.values():
        memory.close()


def _loader(
    street: pictures.Pictures, preprocess: Callable[[Image.Image], Tensor], size: int
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    for x, records in street.batches(preprocess, size):
        about = {
            "time": [r["time"] for r in records],
            "source": [r["camera"] for r in records],
            "labels": {"light": [r["labels"]["light"] for r in records]},
        }
        yield x, about


def _watch_finder(memory: Memory, street: pictures.Pictures, data: Path) -> Log:
    """Watch with YOLOX; return what it found in each picture, by id."""
    net, preprocess = networks.yolox_nano(data, WIDTH, HEIGHT)
    reading: Callable[[Tensor], list[list[Detection]]] = net.detections
    found: list[list[Detection]] = []

    def logged(output: Tensor) -> list[list[Detection]]:
        seen = reading(output)
        found.extend(seen)
        return seen

    net.detections = logged
    memory.watch(net, _loader(street, preprocess, 3), view="detections")
    table = memory.glances(columns=["id", "time", "source"]).to_pylist()
    ids = {(row["time"], row["source"]): row["id"] for row in table}
    return {
        ids[r["time"], r["camera"]]: seen for r, seen in zip(street.records, found, strict=True)
    }


def _show_memories(
    report: Report, memories: dict[str, Memory], seconds: dict[str, float], same: bool
) -> None:
    rows = []
    for name, memory in memories.items():
        rows.append(
            [name, len(memory), len(memory.modules), f"dim {memory.recipe.dim}, int8",
             len(memory.records()[0]), seconds[name]]
        )  # fmt: skip
    header = ["network", "glances", "modules", "recipe", "in the prior", "seconds"]
    report.table("(b) Street: two memories", header, rows)
    report.note(f"The same picture has the same id in both memories: {'yes' if same else 'NO'}.")


def _show_hours(report: Report, memory: Memory, log: Log) -> None:
    """Counts by hour of day from sums of sketches, beside the log."""
    table = memory.glances(columns=["id", "time"]).to_pylist()
    hour = {r["id"]: r["time"].astimezone(ZoneInfo(ZONE)).hour for r in table}
    asked = {
        kind: list(recall.count(memory, kind, by="hour_of_day", source="sketch")) for kind in KINDS
    }
    rows, inside, windows = [], dict.fromkeys(KINDS, 0), 0
    for h in range(24):
        here = [i for i in log if hour[i] == h]
        if not here:
            continue
        windows += 1
        row: list[Any] = [h, len(here)]
        for kind in KINDS:
            answer = asked[kind][h]
            exact = sum(d.label == kind for i in here for d in log[i])
            inside[kind] += answer["low"] <= exact <= answer["high"]
            row += [f"{answer['estimate']:.1f} [{answer['low']:.1f}, {answer['high']:.1f}]", exact]
        rows.append(row)
    header = ["hour", "glances", *(x for kind in KINDS for x in (f"{kind} [90 %]", "saw"))]
    rows.append(["inside", "", *(x for k in KINDS for x in (f"{inside[k]} of {windows}", ""))])
    report.table("(b) Objects by hour of day: sums of sketches, beside the log", header, rows)


def _show_similar(report: Report, memories: dict[str, Memory]) -> None:
    """Do the most similar glances share camera and light?"""
    rows = []
    for name, memory in memories.items():
        table = memory.glances().to_pylist()
        start = time.perf_counter()
        answers = [list(recall.similar(memory, row["id"], k=60)) for row in table]
        each = (time.perf_counter() - start) / len(table)
        for day in ("any", "another"):
            hits: dict[str, list[float]] = {"camera": [], "light": [], "both": []}
            first: list[float] = []
            for row, answer in zip(table, answers, strict=True):
                kept = [a for a in answer if day == "any" or a["time"][:10] != _day(row)][:5]
                same = [(a["source"] == row["source"], a["light"] == row["light"]) for a in kept]
                if not same:
                    continue
                first.append(all(same[0]))
                hits["camera"].append(np.mean([c for c, _ in same]))
                hits["light"].append(np.mean([s for _, s in same]))
                hits["both"].append(np.mean([c and s for c, s in same]))
            rows.append(
                [f"{name}, {day} day", *(f"{np.mean(v):.1%}" for v in hits.values()),
                 f"{np.mean(first):.1%}", f"{1e3 * each:.1f}"]
            )  # fmt: skip
    table = next(iter(memories.values())).glances().to_pylist()
    chance = [_chance(table, keys) for keys in (["source"], ["light"], ["source", "light"])]
    rows.append(["by chance", *(f"{c:.1%}" for c in chance), f"{chance[2]:.1%}", ""])
    header = ["memory, from", "same camera (top 5)", "same light (top 5)", "both (top 5)",
              "both (top 1)", "ms"]  # fmt: skip
    report.table("(b) The most similar glances share camera and light", header, rows)


def _chance(table: Sequence[dict[str, Any]], keys: Sequence[str]) -> float:
    """Chance that two different glances agree."""
    kinds = [tuple(row[k] for k in keys) for row in table]
    n = len(kinds)
    return sum(kinds.count(kind) - 1 for kind in kinds) / (n * (n - 1))


def _day(row: dict[str, Any]) -> str:
    """The local date of a glance."""
    return f"{row['time'].astimezone(ZoneInfo(ZONE)):%Y-%m-%d}"


# -- one glance, drawn ----------------------------------------------------------------------

Corners = tuple[float, float, float, float]


def _show_unrolled(
    report: Report, memory: Memory, log: Log, street: pictures.Pictures, out: Path
) -> None:
    """Read boxes back from the sketches of glances outside the prior; draw one of them."""
    kept = set(memory.records()[0])
    outside = [i for i, found in log.items() if i not in kept and found]
    chosen = outside[:: max(1, len(outside) // JUDGED)]
    rows = []
    for low, high in ((1, 4), (5, 9), (10, 99)):
        some = [i for i in chosen if low <= len(log[i]) <= high]
        if some:
            name = f"{low} to {high} things" if high < 99 else f"{low} things or more"
            rows.append([name, len(some), *_judge(memory, log, some)])
    header = ["glances with", "glances", "things", "box edge off (of 1280)", "overlap, median",
              "score off", "inside 90 %"]  # fmt: skip
    report.table("(b) Boxes read back from sketches of glances outside the prior", header, rows)
    table = {row["id"]: row for row in memory.glances().to_pylist()}
    day = [i for i in outside if table[i]["light"] == "day" and 5 <= len(log[i]) <= 10]
    best = max(day or outside, key=lambda i: len({d.label for d in log[i]}))
    number = list(log).index(best)
    read = _read_back(memory, log, best)
    path = out / "street_unrolled.png"
    _draw(street[number][0], log[best], [r["box"] for r in read]).save(path)
    report.note(f"Drawn: {path.name}, {table[best]['source']} at {table[best]['time']:%F %T} UTC.")
    print(recall.unroll(memory, best, source="sketch", names=("score", *"ltrb")).tree(5))


def _read_back(memory: Memory, log: Log, glance: int) -> list[dict[str, Any]]:
    """Return score and box of each thing in the order of the log, with their bars."""
    answer = recall.unroll(memory, glance, source="sketch")
    things: dict[str, list[dict[str, Any]]] = {}
    for row in answer:
        things.setdefault(row["module"], []).append(row)
    read = []
    for d in log[glance]:
        row = things[d.label].pop(0)
        read.append(
            {"score": row["estimate"][0], "box": row["estimate"][1:5], "low": row["low"][:5],
             "high": row["high"][:5]}
        )  # fmt: skip
    return read


def _judge(memory: Memory, log: Log, glances: Sequence[int]) -> list[Any]:
    """Compare what is read back with the log."""
    edges, overlaps, scores, inside = [], [], [], []
    for glance in glances:
        for d, r in zip(log[glance], _read_back(memory, log, glance), strict=True):
            edges += [abs(a - b) * 1280 for a, b in zip(d.box[::2], r["box"][::2], strict=True)]
            overlaps.append(_overlap(d.box, r["box"]))
            scores.append(abs(d.score - r["score"]))
            exact = (d.score, *d.box)
            inside += [a <= x <= b for a, x, b in zip(r["low"], exact, r["high"], strict=True)]
    return [
        len(scores), f"{np.median(edges):.0f} pixels", f"{np.median(overlaps):.2f}",
        float(np.median(scores)), f"{np.mean(inside):.1%}",
    ]  # fmt: skip


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Shared area of two boxes over the area of both."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    shared *= max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = sum(max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)) - shared
    return shared / both if both > 0 else 0.0


def _draw(
    image: Image.Image, found: Sequence[Detection], read: Sequence[Sequence[float]]
) -> Image.Image:
    """Draw the detector's boxes in white and those read from the sketch in colour."""
    ratio = min(WIDTH / image.width, HEIGHT / image.height)
    pen = ImageDraw.Draw(image)

    def pixels(box: Sequence[float]) -> Corners:
        a, b, c, d = (v * side / ratio for v, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
        return min(a, c), min(b, d), max(a, c), max(b, d)

    for k, (d, box) in enumerate(zip(found, read, strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        pen.rectangle(pixels(d.box), outline="white", width=2)
        left, top, right, bottom = pixels(box)
        pen.rectangle((left, top, right, bottom), outline=colour, width=3)
        pen.text((left + 4, top + 3), d.label, fill=colour, font_size=18)
    return image
