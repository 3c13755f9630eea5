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
from collections import Counter
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
from recollect.sketching import Channel, Sketcher
from recollect.sketching.statistics import (
    Distinct,
    Entropy,
    Frequent,
    Quantiles,
    SecondMoment,
    Statistic,
    read_statistic,
)
from recollect.studies.digit_scenes import HIDDEN, NARROW, DigitScenes
from recollect.tracing import Trace

__all__ = ["picture", "study"]

FloatArray = npt.NDArray[np.float64]
HOUR = 3_600_000_000
CHANNEL = Channel(320, 32)
DIM = 256
RANKS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
SHARDS = 4
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
        rows += _stream(name, list(stream))
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
    rows.append(_means(memory, chosen, truth, sample, decoded, usual))
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


def _means(
    memory: Memory,
    chosen: Selection,
    truth: dict[str, FloatArray],
    sample: dict[str, FloatArray],
    decoded: dict[str, Any],
    usual: dict[str, FloatArray],
) -> dict[str, Any]:
    """Mean attributes; the roll-up's from the sum of all sketches."""
    rollups = memory.rollups(since=chosen.since, until=chosen.until)
    summed = sums_of(memory, rollups.sum.sum(0, keepdims=True), rollups.n.sum(keepdims=True))
    read = Decoder.of(memory).decode(summed)
    errors: dict[str, list[float]] = {m: [] for m in METHODS}
    for name, x in truth.items():
        size = float(np.sqrt(np.square(x).sum(1).mean()))
        known = [float(rollups.count(name).sum())]
        ways = (
            read.means(name, known)[0][0].numpy(),
            sample[name].mean(0),
            decoded[name].average(lambda a: a)[0],
            usual[name].mean(0),
        )
        for method, mean in zip(METHODS, ways, strict=True):
            errors[method].append(float(np.linalg.norm(mean - x.mean(0))) / size)
    return {
        "of": "detections",
        "statistic": "mean attribute",
        "error in": "size of an attribute",
        **{m: float(np.mean(e)) for m, e in errors.items()},
        "bar": 0.01,
    }


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


# -- streams ----------------------------------------------------------------------------------


def _stream(name: str, items: list[str]) -> list[dict[str, Any]]:
    """Errors over one stream, one row per statistic."""
    counts = Counter(items)
    f = np.array(list(counts.values()), dtype=np.float64)
    n = len(items)
    second, distinct = float((f**2).sum()), float(len(f))
    entropy = float(-(f / n * np.log(f / n)).sum())
    codes = _letters(items)
    kept = np.random.default_rng(0).permutation(n)[: _room(items)]
    sample = [items[i] for i in kept.tolist()]
    guess = _from_sample(sample, n)

    def worst(make: Callable[[], Statistic], error: Callable[[Any], float]) -> float:
        stream: Any = codes if make is Quantiles else items
        whole, merged = make(), make()
        whole.update(stream)
        for part in range(SHARDS):
            shard = make()
            shard.update(stream[part::SHARDS])
            merged.merge(read_statistic(shard.to_bytes()))
        return max(error(read_statistic(whole.to_bytes())), error(merged))

    def one(statistic: Any) -> float:
        return float(statistic.answer()["estimate"][0])

    bound = Quantiles()
    bound.update(codes)
    common = {w for w, _ in counts.most_common(5)}
    listed = {w for w, _ in Counter(sample).most_common(10)}
    table = [
        ("second moment", "part of it", worst(SecondMoment, lambda s: abs(one(s) / second - 1)),
         abs(guess["second"] / second - 1), 0.1),
        ("distinct items", "part of it", worst(Distinct, lambda s: abs(one(s) / distinct - 1)),
         abs(guess["distinct"] / distinct - 1), 0.05),
        ("entropy", "nats", worst(Entropy, lambda s: abs(one(s) - entropy)),
         abs(guess["entropy"] - entropy), 0.05),
        ("quantiles", "rank", worst(Quantiles, lambda s: _rank_error(s.rank, codes)),
         _rank_error(_ranks_of(codes[kept]), codes), bound.rank_error),
        ("five commonest", "lost",
         worst(Frequent, lambda s: len(common - set(s.answer(10)["item"]))),
         len(common - listed), 0),
    ]  # fmt: skip
    return [
        {
            "of": f"{name} ({n:,})",
            "statistic": statistic,
            "error in": measure,
            "ours": float(ours),
            "deviation": math.nan,
            "reservoir": float(rival),
            "decoded": math.nan,
            "usual": math.nan,
            "bar": float(bar),
        }
        for statistic, measure, ours, rival, bar in table
    ]


def _room(items: list[str]) -> int:
    """Items that 4 KB hold, each with a byte for its length."""
    return int(4096 / (1 + np.mean([len(i.encode()) for i in items[:10_000]])))


def _letters(items: list[str]) -> npt.NDArray[np.float32]:
    """Alphabetic order as numbers: the first three letters in base 128."""
    return np.array(
        [sum(min(ord(c), 127) << (14 - 7 * i) for i, c in enumerate(w[:3])) for w in items],
        dtype=np.float32,
    )


def _ranks_of(values: npt.NDArray[np.float32]) -> Callable[[float], float]:
    ordered = np.sort(values)
    return lambda at: float(np.searchsorted(ordered, at, side="right")) / len(ordered)


def _rank_error(rank: Callable[[float], float], codes: npt.NDArray[np.float32]) -> float:
    """Largest error of a rank over all values of the stream."""
    true = _ranks_of(codes)
    return max(abs(rank(v) - true(v)) for v in np.unique(codes).tolist())


def _from_sample(sample: list[str], n: int) -> dict[str, float]:
    """What a uniform sample says of the stream, by the usual corrections."""
    k = len(sample)
    f = np.array(list(Counter(sample).values()), dtype=np.float64)
    once, twice = float((f == 1).sum()), float((f == 2).sum())
    pairs = float((f * (f - 1)).sum()) / (k * (k - 1))
    return {
        "second": n + n * (n - 1) * pairs,
        "distinct": len(f) + once * (once - 1) / (2 * (twice + 1)),
        "entropy": float(-(f / k * np.log(f / k)).sum()) + (len(f) - 1) / (2 * k),
    }


def picture(found: Answer, path: str | Path) -> None:
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
    figure = Figure(figsize=(8.6, 0.34 * len(rows) + 1.2), layout="constrained")
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.2, 1.0), ncols=5, frameon=False, fontsize=8)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "statistics"}):
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
