"""Rivals at equal bytes: sketches beside PCA, product quantisation, records, top-k, bundles.

Every code gets the same bytes for a glance, at each of five sizes (64 stands for 66: 64 codes of
a sketch and its two-byte scale), and is judged by the same questions. ``judging`` says what the
columns are, ``static`` and ``dynamic`` how each rival codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from recollect._answers import Answer
from recollect.sketching.recipe import OPERATOR_VERSION
from recollect.studies.rivals.dynamic import CODES as DYNAMIC_CODES
from recollect.studies.rivals.dynamic import Scenes
from recollect.studies.rivals.judging import COLUMNS, Row, judge_dynamic, judge_static
from recollect.studies.rivals.quantizer import backend
from recollect.studies.rivals.static import CODES as STATIC_CODES
from recollect.studies.rivals.static import Glances
from recollect.studies.rivals.worlds import World, digit_scenes, real_networks
from recollect.studies.running import Journal, bar

__all__ = ["draw", "study"]

SIZES = (64, 128, 256, 512, 1024)
QUICK_SIZES = (64, 256)
# Code -> colour and width of its line: sketches blue, what adds warm, single glances green.
COLOURS = {
    "sketch, energy": ("#1b6ca8", 2.5),
    "sketch, informed": ("#60a5fa", 2.0),
    "sketch, paper": ("#1e1b4b", 1.0),
    "paper, transpose": ("#a78bfa", 1.0),
    "PCA": ("#dc2626", 1.0),
    "PCA of sums": ("#f59e0b", 1.5),
    "product quantisation": ("#15803d", 1.0),
    "records, KLT": ("#84cc16", 1.0),
    "top-k": ("#94a3b8", 1.0),
    "torchhd": ("#d6b48a", 1.0),
    "torchhd, learned": ("#92400e", 1.0),
    "pooled embedding": ("#ec4899", 1.0),
}
# Judges one code of so many bytes; None if its library is missing.
Judge = Callable[[int, str], Row | None]


def study(quick: bool = False, data: str | None = None, keep: str | None = None) -> Answer:
    """Return one table of all rivals: network, bytes, code, then what they are judged by.

    Args:
        quick: two sizes and fewer glances.
        data: folder with networks and pictures: MobileNetV2, ResNet-56 and YOLOX-nano besides.
        keep: folder in which rows and what the networks saw are kept, so that a run that was
            broken off goes on where it stood. All four networks take about an hour.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if there is no such folder of data.
        ValueError: if ``keep`` is a file, or holds something else.
    """
    journal = Journal(keep, "rivals")
    rows: list[dict[str, Any]] = []
    missing: set[str] = set()
    for world in _worlds(quick, data, journal):
        for about, row in _judged(world, quick, journal):
            if row is None:
                missing.add(about["code"])
            else:
                rows.append(about | row)
    columns = {k: [r[k] for r in rows] for k in ("network", "bytes", "code", *COLUMNS)}
    notes = [
        "64 bytes stand for 66: every code also gets the two bytes of a sketch's scale; beside it "
        "stands a byte for each object that names its module, where objects come and go",
        f"product quantisation with {backend()}",
        "day: one code of the same bytes for a whole day; means as a share of the day's distance "
        "from the usual (1: knows nothing); lists of objects keep a sample, a quantiser of whole "
        "glances the code of their mean",
        "microseconds of processor time a glance, on whatever machine this ran",
    ]
    left_out = sorted(name for name in missing if "torchhd" in name)
    if left_out:
        notes.append(f"not installed, left out: {', '.join(left_out)} (pip install torch-hd)")
    if data is None:
        notes.append("--data FOLDER adds MobileNetV2, ResNet-56 and YOLOX-nano")
    return Answer(columns, title="rivals at equal bytes", notes=notes)


def _worlds(quick: bool, data: str | None, journal: Journal) -> Iterator[World]:
    size = "quick" if quick else "full"
    yield World.kept(journal, f"digit-scenes-{size}", partial(digit_scenes, quick))
    if data is not None:
        for name, make in real_networks(data, quick).items():
            yield World.kept(journal, f"{name}-{size}", make)


def _judged(
    world: World, quick: bool, journal: Journal
) -> Iterator[tuple[dict[str, Any], Row | None]]:
    """Judge all codes at all sizes; those that are known already are not judged again."""
    judge, codes = _static(world, quick) if world.static else _dynamic(world, quick)
    sizes = QUICK_SIZES if quick else SIZES
    with bar(world.name, len(sizes) * len(codes)) as step:
        for size in sizes:
            for name in codes:
                about = {"network": world.name, "bytes": size, "code": name}
                made = {"known": len(world.fit), "judged": len(world.judged),
                        "operators": OPERATOR_VERSION, "quantiser": backend()}  # fmt: skip
                yield about, journal.row(about | made, partial(judge, size, name))
                step(f"{size} bytes: {name}")


def _questions(quick: bool) -> int:
    return 20 if quick else 60


def _static(world: World, quick: bool) -> tuple[Judge, list[str]]:
    fit = Glances(world.fit)
    judged = Glances(world.judged, fit.scales)

    def judge(size: int, name: str) -> Row | None:
        code = STATIC_CODES[name](fit, size)
        if code is None:
            return None
        return judge_static(code, fit, judged, world.days, _questions(quick))

    return judge, list(STATIC_CODES)


def _dynamic(world: World, quick: bool) -> tuple[Judge, list[str]]:
    known = Scenes(world.fit, sorted(world.fit.columns))
    seen = known.like(world.judged)

    def judge(size: int, name: str) -> Row | None:
        code = DYNAMIC_CODES[name](known, size)
        return None if code is None else judge_dynamic(code, seen, world.days, _questions(quick))

    return judge, list(DYNAMIC_CODES)


def draw(answer: Answer, path: str) -> None:
    """Draw R2 and average precision over bytes, one row of panels for each network.

    Args:
        answer: of ``study``.
        path: of the picture to write.

    Raises:
        ImportError: if matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(answer)
    worlds = list(dict.fromkeys(r["network"] for r in rows))
    shown = ("R2 within modules", "average precision", "day: means")
    figure, axes = plt.subplots(
        len(worlds), 3, figsize=(9, 2.6 * len(worlds)), layout="constrained", squeeze=False
    )
    # Flat glances have the same sketch under keyed; elsewhere it is nearly that of energy.
    codes = [c for c in dict.fromkeys(r["code"] for r in rows) if c != "sketch, keyed"]
    for line, world in zip(axes, worlds, strict=True):
        for panel, column in zip(line, shown, strict=True):
            for code in codes:
                points = [
                    (r["bytes"], r[column])
                    for r in rows
                    if (r["network"], r["code"]) == (world, code) and r[column] is not None
                ]
                if points:
                    colour, width = COLOURS.get(code, ("#94a3b8", 1.0))
                    panel.plot(
                        *zip(*points, strict=True), "o-", ms=3, label=code, color=colour, lw=width
                    )
            panel.set(xscale="log", xlabel="bytes", title=f"{world}\n{column}")
            panel.set_ylim(0 if column != "day: means" else -0.02, 1.02)
            panel.set_xticks(SIZES, [str(s) for s in SIZES], minor=False)
            panel.minorticks_off()
    drawn = [panel.get_legend_handles_labels() for panel in axes.flat]
    named = {
        label: line for lines, labels in drawn for line, label in zip(lines, labels, strict=True)
    }
    figure.legend(
        [named[c] for c in codes if c in named], [c for c in codes if c in named],
        loc="outside lower center", ncols=4, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)
