"""Summary statistics of a day that nobody asked for beforehand, beside exact truth and rivals.

Scenes of handwritten digits fill a memory with a distribution channel. Of one day, whose light and
mixture of digits differ from the day before, only the roll-up is read: 256 numbers of the
sketch and 320 of the channel. Rivals: a reservoir sample of the day's objects in the same
bytes, all glances decoded one by one, and what was usual before.

Streams (the rows of pixels of the digits; with ``data``, the words of its texts) are followed in
4 KB each, whole and merged from four shards, beside a reservoir sample of 4 KB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect import recall
from recollect._answers import Answer
from recollect.memory import Memory
from recollect.recall.channelled import channelled, population_of
from recollect.recall.populations import Population
from recollect.recall.reading import Decoder, Selection, sums_of
from recollect.sketching import Channel, Prior, Sketcher
from recollect.studies.digit_scenes import HIDDEN, NARROW, DigitScenes
from recollect.studies.word_streams import judged_stream
from recollect.tracing import Trace

__all__ = ["draw", "study"]

FloatArray = npt.NDArray[np.float64]
HOUR = 3_600_000_000
CHANNEL = Channel(320, 32)
DIM = 256
RANKS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
# Numbers of the sketches whose sums of 1,000 are read.
LOADS = (256, 512, 1024)
ROLLED = (("shares", "share", 0.001), ("mean attribute", "size of an attribute", 0.01))
METHODS = ("ours", "reservoir", "decoded", "usual")


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return the errors of each statistic by our way and by its rivals.

    Args:
        quick: one seed and fewer glances.
        data: folder with ``text/*.txt``, whose words are followed too.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if a folder is given and holds no texts.
    """
    scenes = DigitScenes(epochs=20 if quick else 60)
    seeds, glances = ((0,), 200) if quick else ((0, 1, 2), 1000)
    found = [
        [row for wide in (False, True) for row in _day(scenes, seed, glances, wide)]
        + rolled_up(scenes, seed)
        for seed in seeds
    ]
    rows: list[dict[str, Any]] = []
    for number, first in enumerate(found[0]):
        values = np.array([[f[number][m] for m in METHODS] for f in found], dtype=np.float64)
        mean = dict(zip(METHODS, values.mean(0).tolist(), strict=True))
        spread = float(values[:, 0].std(ddof=1)) if len(seeds) > 1 else math.nan
        rows.append({**first, **mean, "deviation": spread})
    streams: dict[str, Sequence[Any]] = {"pixel rows": scenes.strokes}
    if data is not None:
        texts = sorted((Path(data) / "text").glob("*.txt"))
        if not texts:
            raise FileNotFoundError(f"{data} holds no text/*.txt; leave --data out, or mend it")
        streams |= {p.stem: p.read_text(encoding="utf-8").split() for p in texts}
    for name, stream in streams.items():
        rows += judged_stream(name, list(stream))
    order = ("of", "statistic", "error in", "ours", "deviation", "reservoir", "decoded", "usual",
             "bar")  # fmt: skip
    size = 8 * (DIM + CHANNEL.size)
    return Answer(
        {key: [r[key] for r in rows] for key in order},
        title=f"errors of summary statistics: a day of {glances} scenes, and streams in 4 KB",
        notes=[
            f"day, ours: its roll-up alone, {size:,} bytes; reservoir: {_records(False)} "
            f"(hidden units {_records(True)}) of its objects in the same bytes; decoded: all "
            f"{glances} glances of {DIM} bytes; usual: 300 scenes kept whole before, with other "
            "light and other shares",
            "1,000 int8 glances: 32 hidden units, from sums of sketches alone (counts known for "
            "mean attributes); load: unknowns per number of the sum",
            f"mean over 10 modules and {len(seeds)} seeds; deviation over the seeds",
            "streams, ours: the worse of the whole stream and four merged shards; reservoir: a "
            "sample of 4 KB with the usual corrections (Chao for distinct, Miller-Madow for "
            "entropy)",
        ],
    )


# -- a day of scenes --------------------------------------------------------------------------


def _day(scenes: DigitScenes, seed: int, glances: int, wide: bool) -> list[dict[str, Any]]:
    """Errors over one day, one row per statistic."""
    kept = scenes.trace(300, 1000 + seed, wide=wide)
    day = scenes.trace(glances, seed, light=0.85, tilt=0.7, wide=wide)
    calm = scenes.trace(glances // 2, 2000 + seed, wide=wide)
    with TemporaryDirectory() as folder:
        sketcher = Sketcher(DIM, seed, channel=CHANNEL)
        with Memory(Path(folder) / "days", sketcher=sketcher, reservoir=0) as memory:
            times = np.linspace(0, 24 * HOUR, glances, endpoint=False).astype(np.int64)
            memory.add(day, time=times)
            before = np.linspace(-24 * HOUR, 0, len(calm), endpoint=False).astype(np.int64)
            memory.add(calm, time=before)
            memory._priors.fit(kept)
            return _errors(memory, day, kept, seed, wide)


def _errors(
    memory: Memory, day: Trace, kept: Trace, seed: int, wide: bool
) -> list[dict[str, Any]]:
    chosen = Selection(None, 0, 24 * HOUR)
    names = day.modules
    truth = {n: _attributes(day, n) for n in names}
    usual = {n: _attributes(kept, n) for n in names}
    sample = _reservoir(truth, _records(wide), seed)
    ours = {n: channelled(memory, n, chosen) for n in names}
    decoded = {n: population_of(memory, n, chosen, "sketch") for n in names}
    rows = [] if wide else [_counts(memory, chosen, truth, sample, usual)]
    rows.append(_means(truth, sample, ours, decoded, usual))
    rows[-1]["of"] = _called(wide)

    def compare(statistic: str, measure: str, read: Callable[[Any, str], FloatArray]) -> None:
        """Mean absolute error over modules of something read from each way's objects."""
        row: dict[str, Any] = {
            "of": _called(wide), "statistic": statistic, "error in": measure, "bar": math.nan
        }  # fmt: skip
        ways: tuple[dict[str, Any], ...] = (ours, sample, decoded, usual)
        for method, way in zip(METHODS, ways, strict=True):
            errors = [np.abs(read(way[n], n) - read(truth[n], n)).mean() for n in names]
            row[method] = float(np.mean(errors))
        rows.append(row)

    size = {n: np.quantile(_size(truth[n]), RANKS) for n in names}
    compare(
        "quantiles of the size",
        "rank",
        lambda w, n: _mean(w, lambda x: _size(x)[:, None] <= size[n]),
    )
    if wide:
        return rows
    ink = {n: np.quantile(truth[n][:, 1], RANKS) for n in names}
    score = {n: np.quantile(truth[n][:, 0], RANKS) for n in names}
    compare("quantiles of the ink", "rank", lambda w, n: _mean(w, lambda x: x[:, 1:2] <= ink[n]))
    compare(
        "share with a low score", "share", lambda w, n: _mean(w, lambda x: x[:, :1] <= score[n][1])
    )
    compare(
        "share with low score and much ink", "share",
        lambda w, n: _mean(w, lambda x: (x[:, :1] <= score[n][2]) & (x[:, 1:2] > ink[n][2])),
    )  # fmt: skip
    compare(
        "standard deviations", "part of usual",
        lambda w, n: (_deviation(w) / usual[n].std(0).clip(1e-3))[:2],
    )  # fmt: skip
    rows.append(_drift(memory))
    return rows


def _called(wide: bool) -> str:
    return f"{HIDDEN} hidden units" if wide else "detections"


def _records(wide: bool) -> int:
    """Records in the bytes of a roll-up: class, scale and one byte a number."""
    return 8 * (DIM + CHANNEL.size) // ((HIDDEN if wide else len(NARROW)) + 3)


def _attributes(trace: Trace, module: str) -> FloatArray:
    return trace.objects(module).attributes.numpy().astype(np.float64)


def _size(x: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(x, axis=1), dtype=np.float64)


def _mean(way: Any, function: Callable[[FloatArray], npt.NDArray[Any]]) -> FloatArray:
    """Mean of a function over objects, kept or read."""
    if isinstance(way, Population):
        mean, _ = way.average(function)
        return np.asarray(mean, dtype=np.float64)
    return np.asarray(np.mean(function(way), axis=0), dtype=np.float64)


def _deviation(way: Any) -> FloatArray:
    middle = _mean(way, lambda x: x)
    squared = _mean(way, lambda x: np.square(x - middle))
    return np.asarray(np.sqrt(np.maximum(squared, 0)), dtype=np.float64)


def _reservoir(truth: dict[str, FloatArray], number: int, seed: int) -> dict[str, FloatArray]:
    """A uniform sample of all objects of the day; a module without any keeps its first one."""
    names = [n for n in truth for _ in range(len(truth[n]))]
    rows = np.concatenate([np.arange(len(x)) for x in truth.values()])
    chosen = np.random.default_rng(seed).choice(len(rows), min(number, len(rows)), replace=False)
    found: dict[str, list[int]] = {n: [] for n in truth}
    for c in chosen.tolist():
        found[names[c]].append(int(rows[c]))
    return {n: truth[n][found[n] or [0]] for n in truth}


def _counts(
    memory: Memory,
    chosen: Selection,
    truth: dict[str, FloatArray],
    sample: dict[str, FloatArray],
    usual: dict[str, FloatArray],
) -> dict[str, Any]:
    """Shares of the modules, from the sum of all sketches without any skeleton."""
    true = _shares({n: len(x) for n, x in truth.items()})
    decoder, rollups = Decoder.of(memory), memory.rollups(since=chosen.since, until=chosen.until)
    summed = sums_of(memory, rollups.sum.sum(0, keepdims=True), rollups.n.sum(keepdims=True))
    names, estimate, _ = decoder.decode(summed).count_estimates()
    ours = _shares(dict(zip(names, estimate[0].tolist(), strict=True)))
    ids = memory.glances(since=chosen.since, until=chosen.until)["id"].to_numpy()
    single = decoder.decode(memory.sketches(ids=ids))
    order, each, _ = single.count_estimates()
    rounded = dict(zip(order, np.rint(each).sum(0).tolist(), strict=True))
    return {
        "of": "detections",
        "statistic": "shares of the modules",
        "error in": "share",
        "ours": _apart(ours, true),
        "reservoir": _apart(_shares({n: len(x) for n, x in sample.items()}), true),
        "decoded": _apart(_shares(rounded), true),
        "usual": _apart(_shares({n: len(x) for n, x in usual.items()}), true),
        "bar": 0.001,
    }


def _shares(counts: dict[str, Any]) -> dict[str, float]:
    total = sum(counts.values())
    return {n: c / total for n, c in counts.items()}


def _apart(found: dict[str, float], true: dict[str, float]) -> float:
    return float(np.mean([abs(found[n] - true[n]) for n in true]))


def _means(truth: dict[str, FloatArray], *ways: dict[str, Any]) -> dict[str, Any]:
    """Mean attributes; the roll-up's from the sums of sketches and channel together."""
    errors: dict[str, list[float]] = {m: [] for m in METHODS}
    for name, x in truth.items():
        for method, way in zip(METHODS, ways, strict=True):
            errors[method].append(_off(_mean(way[name], lambda a: a), x))
    return {
        "of": "detections",
        "statistic": "mean attribute",
        "error in": "size of an attribute",
        **{m: float(np.mean(e)) for m, e in errors.items()},
        "bar": 0.01,
    }


def _off(mean: FloatArray, x: FloatArray) -> float:
    """Error of a mean attribute, in the size of an attribute."""
    return float(np.linalg.norm(mean - x.mean(0)) / np.sqrt(np.square(x).sum(1).mean()))


def rolled_up(scenes: DigitScenes, seed: int, glances: int = 1000) -> list[dict[str, Any]]:
    """Errors of shares and mean attributes of 1,000 int8 glances, from their sum alone.

    The day is like the 300 scenes kept whole, or moved: darker, of another mixture.
    """
    kept = scenes.trace(300, 1000 + seed)
    days = {
        "like the records": scenes.trace(glances, 3000 + seed),
        "of a moved day": scenes.trace(glances, seed, light=0.85, tilt=0.7),
    }
    usual = {n: _attributes(kept, n) for n in kept.modules}
    prior = Prior.fit(kept)
    rows = []
    for dim in LOADS:
        sketcher = Sketcher(dim, seed)
        sketcher.admit(kept, measure_scales=True)
        load = f"{len(kept.modules) * (HIDDEN + 1) / dim:.2f}"
        for day, trace in days.items():
            truth = {n: _attributes(trace, n) for n in trace.modules}
            sample = _reservoir(truth, 8 * dim // (HIDDEN + 3), seed)
            found = [_from_sum(sketcher, prior, trace, truth), _of(sample, truth)]
            found.append(_of(usual, truth))
            for i, (statistic, measure, bar) in enumerate(ROLLED):
                ours, reservoir, before = (f[i] for f in found)
                rows.append(
                    {
                        "of": f"1,000 glances {day}",
                        "statistic": f"{statistic}, {dim} numbers (load {load})",
                        "error in": measure,
                        "ours": ours,
                        "reservoir": reservoir,
                        "decoded": math.nan,
                        "usual": before,
                        "bar": bar,
                    }
                )
    return rows


def _of(way: dict[str, FloatArray], truth: dict[str, FloatArray]) -> tuple[float, float]:
    """Errors of shares and of mean attributes of some objects."""
    shares = [_shares({n: len(x) for n, x in objects.items()}) for objects in (way, truth)]
    means = [_off(way[n].mean(0), x) for n, x in truth.items()]
    return _apart(*shares), float(np.mean(means))


def _from_sum(
    sketcher: Sketcher, prior: Prior, day: Trace, truth: dict[str, FloatArray]
) -> tuple[float, float]:
    """Errors of shares (counts estimated) and of mean attributes (counts known)."""
    read = sketcher.decode(sketcher.encode(day).sum(), prior=prior)
    names, estimate, _ = read.count_estimates()
    told = _shares(dict(zip(names, estimate[0].tolist(), strict=True)))
    means = [
        _off(read.means(n, [float(len(x))])[0][0].numpy().astype(np.float64), x)
        for n, x in truth.items()
    ]
    return _apart(told, _shares({n: len(x) for n, x in truth.items()})), float(np.mean(means))


def _drift(memory: Memory) -> dict[str, Any]:
    """p-values: the changed day against the day before, and two halves of the day before."""
    day, before = (0, 24 * HOUR), (-24 * HOUR, 0)
    halves = (-24 * HOUR, -12 * HOUR), (-12 * HOUR, 0)
    changed = recall.drift(memory, before, day, "digit 3", unit="hour", permutations=999)
    same = recall.drift(memory, *halves, "digit 3", unit="hour", permutations=999)
    return {
        "of": "detections",
        "statistic": "drift of one module ('usual': of halves of one day)",
        "error in": "p-value",
        "ours": changed["p_value"][0],
        "reservoir": math.nan,
        "decoded": math.nan,
        "usual": same["p_value"][0],
        "bar": 0.01,
    }


def draw(found: Answer, path: str | Path) -> None:
    """Draw a study's errors: each statistic's, ours and the rivals', on one scale of tens.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "recollect[demo]"') from error
    rows = [r for r in found if r["error in"] not in ("p-value", "lost")][::-1]
    figure = Figure(figsize=(10.5, 0.34 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    looks = {"ours": ("o", "#2563eb"), "reservoir": ("s", "#dc2626"), "decoded": ("^", "#d97706"),
             "usual": ("|", "#64748b")}  # fmt: skip
    names = {"ours": "roll-up / 4 KB stream", "reservoir": "reservoir, same bytes",
             "decoded": "every glance decoded", "usual": "the day before"}  # fmt: skip
    for method, (mark, colour) in looks.items():
        values = [max(r[method], 1e-5) if r[method] == r[method] else math.nan for r in rows]
        axes.plot(values, range(len(rows)), mark, color=colour, label=names[method], ms=7)
    axes.plot([r["bar"] for r in rows], range(len(rows)), "x", color="#1b2333", ms=5, label="bar")
    axes.set_yticks(
        range(len(rows)), [f"{r['statistic']} · {r['of'].split(' (')[0]}" for r in rows]
    )
    axes.set_xscale("log")
    axes.set_xlabel("error (share, rank, part or nats)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "statistics"}):
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
