"""Playing cards on tables: counts within one glance from the sketch alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import card_reader, pictures
from benchmarks.card_reader import CARDS
from benchmarks.tables import Report
from recollect import Prior, Sketcher, Trace

BAR = 0.97
DIMS = (256, 512, 1024)


def run(data: Path, out: Path, report: Report, *, quick: bool, seed: int = 0) -> None:
    """Train a reader on two thirds, let it look at all, count from the sketches."""
    cards = pictures.load("cards", data)
    if quick:
        cards = cards.subset(range(0, len(cards), 3))
    number = np.arange(len(cards))
    fit, test = number[number % 3 != 2], number[number % 3 == 2]
    reader = card_reader.CardReader(data).eval()
    start = time.perf_counter()
    maps = card_reader.read_maps(reader, cards)
    truth = card_reader.examples(cards)
    card_reader.train(reader, maps[fit], [truth[i] for i in fit], epochs=5 if quick else 80)
    trained = time.perf_counter() - start
    del maps
    saw: list[Counter[str]] = []
    trace = card_reader.watch(reader, cards, saw)
    _show_reader(report, saw, truth, {"trained on": fit, "test": test}, trained)
    rows = []
    for dim in DIMS:
        for rest, name in ((fit, "same pictures"), (test, "other pictures")):
            sketcher = Sketcher(dim=dim, seed=seed)
            sketcher.admit(trace[fit], measure_scales=True)
            prior = Prior.fit(trace[fit])
            row = _equal(sketcher, trace[rest], prior, [saw[i] for i in rest])
            rows.append([f"{dim + 2} bytes, {name} as the prior's", *row])
    header = [
        "sketch", "pictures", "all six counts right", "bar", "single counts right",
        "log inside 90 %",
    ]  # fmt: skip
    report.table("(c) Cards: counts within one glance, sketch beside the log", header, rows)


def _equal(
    sketcher: Sketcher, trace: Trace, prior: Prior, saw: list[Counter[str]]
) -> list[object]:
    """Compare the counts read from each sketch with the log."""
    sketches = sketcher.encode(trace)
    read = sketcher.decode(sketches, prior=prior).counts(CARDS)
    shape = (len(trace), len(CARDS))
    count, low, high = (np.array(read[k], float).reshape(shape) for k in ("count", "low", "high"))
    exact = np.array([[found[card] for card in CARDS] for found in saw])
    inside = (np.minimum(low, count) <= exact) & (exact <= np.maximum(high, count))
    right = (count == exact).all(1).mean()
    return [
        len(trace),
        f"{right:.1%}",
        f">= {BAR:.0%}: {'yes' if right >= BAR else 'NO'}",
        f"{(count == exact).mean():.1%}",
        f"{inside.mean():.1%}",
    ]


def _show_reader(
    report: Report,
    saw: list[Counter[str]],
    truth: list,
    groups: dict[str, np.ndarray],
    seconds: float,
) -> None:
    """How good the network itself is; the sketches are not judged by this."""
    rows = []
    for name, group in groups.items():
        true = [Counter(CARDS[int(k)] for k in truth[i][:, 0]) for i in group]
        mine = [saw[i] for i in group]
        both = sum((a & b).total() for a, b in zip(true, mine, strict=True))
        rows.append(
            [name, len(group), sum(t.total() for t in true), sum(m.total() for m in mine), both]
        )
    report.table(
        f"(c) The card reader itself (trained in {seconds:.0f} s on YOLOX-nano's maps)",
        ["pictures", "number", "cards", "found", "found with their kind"],
        rows,
    )
