"""Graceful erasure: what is left of each property when only a part of a sketch is left.

Without data: scenes of 2 to 12 of scikit-learn's handwritten digits, read by a small network; an
object's module is the digit that it was read as, its attribute the 32 hidden numbers. With data:
the channel means of MobileNetV2 on pictures of CIFAR-10, a static network. Sketches are kept
whole, then cut to 1/2, 1/4, 1/8 and 1/16; whatever is left is asked for attributes, counts,
similarity and the ten nearest glances, and whether its 90 % intervals hold the truth.

Beside the first numbers: as many numbers at random (a lost tier, a bad disk), and the rivals at
equal bytes: PCA, whose last axes are dropped, and whole sketches of fewer glances.

Shape letters: B judged glances, G glances of the prior, Q queries, P modules, D numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Z90, Answer
from recollect.sketching import Cosines, Prior, Sketches
from recollect.sketching.cosines import MOST, compared
from recollect.studies.erasure_tasks import Task, digit_task, picture_task

__all__ = ["Properties", "draw", "measured", "study", "tabled"]

FloatArray = npt.NDArray[np.float64]

PARTS = (1, 2, 4, 8, 16)
OURS, ANY = "sketch, first numbers", "sketch, any numbers"
PCA, FEWER = "PCA, first axes", "whole sketches, fewer glances"
NEAREST = 10
LOOKS = {OURS: ("o-", "#1b6ca8"), ANY: ("x:", "#1b6ca8"), PCA: ("s--", "#e08e0b"),
         FEWER: ("d--", "grey")}  # fmt: skip


@dataclass(frozen=True)
class Properties:
    """What can still be told, and the share of 90 % intervals that hold the truth.

    Attributes:
        attribute_error: unexplained share of the variance inside modules (1 - R2).
        attribute_covers: share of intervals.
        count_error: mean absolute error of a module's count in one glance.
        count_covers: share of intervals.
        cosine_error: root mean square error of the cosine of two glances.
        cosine_covers: share of intervals.
        recall: share of the ten nearest glances that are among the ten found.
    """

    attribute_error: float
    attribute_covers: float
    count_error: float
    count_covers: float
    cosine_error: float
    cosine_covers: float
    recall: float


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return every property at 1, 1/2, 1/4, 1/8 and 1/16 of a sketch, beside rivals.

    Args:
        quick: fewer glances and seeds.
        data: folder with ``weights/`` and ``cifar10/`` for MobileNetV2; digit scenes without.

    Raises:
        ImportError: if scikit-learn (or, with data, the repository's benchmarks) is missing.
    """
    seeds = (0, 1) if quick else (0, 1, 2)
    found = []
    for seed in seeds:
        if data is None:
            task = digit_task(seed, (400, 120) if quick else (1000, 400))
        else:
            task = picture_task(data, seed, (300, 150) if quick else (1000, 300))
        found.append(dict(measured(task, seed, quick)))
    return tabled(found, task.what, task.sketcher.recipe.dim)


def tabled(found: Sequence[Mapping[tuple[str, int], Properties]], what: str, size: int) -> Answer:
    """Return the table of what was measured with several seeds.

    Args:
        found: (method, part) -> properties, of each seed.
        what: was remembered.
        size: bytes of a whole sketch.
    """
    order = sorted(found[0], key=lambda r: (OURS, ANY, PCA, FEWER).index(r[0]))
    values = np.array([[astuple(f[key]) for f in found] for key in order])  # (rows, seeds, 7)
    mean, deviation = values.mean(1), values.std(1, ddof=1 if len(found) > 1 else 0)
    columns: dict[str, list[object]] = {
        "method": [method for method, _ in order],
        "kept": [f"1/{part}" if part > 1 else "all" for _, part in order],
        "bytes": [size // part for _, part in order],
    }
    for i, field in enumerate(fields(Properties)):
        columns[field.name] = mean[:, i].tolist()
        columns[f"{field.name} ±"] = deviation[:, i].tolist()
    return Answer(
        columns,
        title=f"what is left of {what}, {len(found)} seeds",
        notes=[
            *_verdicts(order, mean, deviation),
            "PCA has a code of its own for each question, fitted before anything was stored; "
            "sketches were made without knowing either",
            "roll-ups are no column here: fading changes none of their bits",
        ],
    )


def measured(task: Task, seed: int, quick: bool) -> Iterator[tuple[tuple[str, int], Properties]]:
    """Yield (method, part) and what was measured, for all methods and parts."""
    dim = task.sketcher.recipe.dim
    prior = Prior.fit(task.fit)
    whole = task.sketcher.encode(task.judged)
    order = np.random.default_rng(seed).permutation(dim)
    full: Properties | None = None
    for part in PARTS:
        ours = _sketched(task, prior, whole.prefix(dim // part))
        full = full or ours
        yield (OURS, part), ours
        if part == 4 or (part > 1 and not quick):
            any_numbers = whole.masked(order[: dim // part])
            yield (ANY, part), _sketched(task, prior, any_numbers)
        if part > 1:
            yield (FEWER, part), _fewer(task, whole, full, part, seed)
        yield (PCA, part), _pca(task, dim // part)


def _sketched(task: Task, prior: Prior, sketches: Sketches) -> Properties:
    """Judge what sketches, or parts of them, are decoded to."""
    r = task.sketcher.decode(sketches, prior=prior)
    wrong, spread, inside = 0.0, 0.0, []
    for name, true in task.attributes.items():
        read, scale = r.objects(name), task.sketcher.modules[name].scale
        assert read.std is not None
        error = (read.attributes.numpy() - true) / scale
        wrong += float(np.square(error).sum())
        spread += float(np.square((true - true.mean(0)) / scale).sum())
        inside.append((np.abs(error) <= Z90 * read.std.numpy() / scale).reshape(-1))
    count, covered = np.nan, np.nan
    if task.counts is not None:
        _, estimate, std = r.count_estimates(task.names)
        miss = np.abs(estimate - task.counts)
        count, covered = float(miss.mean()), float((miss <= Z90 * std).mean())
    values = sketches.values.numpy().astype(np.float64)
    cosine = _cosines(values, task.queries)
    estimate, low, high = _bars(task, sketches).read(cosine, sketches.dim)
    held = (low <= task.cosines) & (task.cosines <= high)
    return Properties(
        wrong / spread,
        float(np.concatenate(inside).mean()),
        count,
        covered,
        _rms((estimate - task.cosines)[task.pairs]),
        float(held[task.pairs].mean()),
        _recall(cosine, task),
    )


def _bars(task: Task, sketches: Sketches) -> Cosines:
    """Return what the prior's glances tell of the cosines of such sketches."""
    some = task.fit[np.arange(min(MOST, len(task.fit)))]
    coded, true = task.sketcher.encode(some), task.fit_cosines
    part = coded.prefix(sketches.dim) if sketches.kept is None else coded.masked(sketches.kept)
    return Cosines(np.array([sketches.dim]), compared(part, true)[None])


def _pca(task: Task, size: int) -> Properties:
    """Judge PCA with one int8 number for each of its first axes."""
    slots, told = _axes(*task.slots, size, centred=True)
    error = float(np.square(slots - told).sum() / np.square(slots).sum())
    bags, read = _axes(*task.bags, size, centred=False)
    count = np.nan
    if task.counts is not None:
        count = float(np.abs(task.count_of(read) - task.count_of(bags)).mean())
    cosine = _cosines(read, task.queries)
    off = np.abs(cosine - task.cosines)
    recall = _recall(cosine, task)
    return Properties(error, np.nan, count, np.nan, _rms(off[task.pairs]), np.nan, recall)


def _axes(fit: FloatArray, judged: FloatArray, size: int, centred: bool) -> tuple[FloatArray, ...]:
    """Return judged vectors (less the mean) and what the first axes tell of them."""
    middle = fit.mean(0) if centred else np.zeros(fit.shape[1])
    axes = np.linalg.svd(fit - middle, full_matrices=False)[2][:size]
    codes = (judged - middle) @ axes.T
    step = np.maximum(np.abs(codes).max(1, keepdims=True) / 127, 1e-30)
    return judged - middle, np.rint(codes / step) * step @ axes


def _fewer(task: Task, whole: Sketches, full: Properties, part: int, seed: int) -> Properties:
    """Judge whole sketches of one glance in ``part``; the others are the prior's mean."""
    size = len(whole)
    kept = np.random.default_rng([seed, part]).permutation(size)[: size // part]
    share = len(kept) / size
    count = np.nan
    if task.counts is not None:
        usual = np.abs(task.usual_counts - task.counts).mean()
        count = share * full.count_error + (1 - share) * float(usual)
    cosine = _cosines(whole.values.numpy().astype(np.float64), task.queries)
    gone = np.ones(size, np.bool_)
    gone[kept] = False
    cosine[:, gone] = -2
    error = share * full.attribute_error + (1 - share)
    return Properties(error, np.nan, count, np.nan, np.nan, np.nan, _recall(cosine, task))


def _cosines(values: FloatArray, queries: npt.NDArray[np.int64]) -> FloatArray:
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
    found: FloatArray = unit[queries] @ unit.T
    return found


def _recall(cosine: FloatArray, task: Task) -> float:
    """Share of the ten nearest that are found; a query itself is left out."""
    found = _nearest(np.where(task.pairs, cosine, -3.0))
    true = _nearest(np.where(task.pairs, task.cosines, -3.0))
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True)]
    return float(np.mean(hits)) / NEAREST


def _nearest(score: FloatArray) -> npt.NDArray[np.int64]:
    return np.argsort(-score, axis=1, kind="stable")[:, :NEAREST].astype(np.int64)


def _rms(x: FloatArray) -> float:
    return float(np.sqrt(np.square(x).mean()))


def _verdicts(
    order: Sequence[tuple[str, int]], mean: FloatArray, deviation: FloatArray
) -> list[str]:
    """Say whether errors grow from part to part, and where intervals cover other than 87-93 %."""
    names = [f.name for f in fields(Properties)]
    ours = [i for i, (method, _) in enumerate(order) if method == OURS]
    turned = []
    for j, name in enumerate(names):
        sign = -1 if name == "recall" else 1
        for a, b in pairwise(ours) if not name.endswith("covers") else ():
            noise = 2 * np.hypot(deviation[a, j], deviation[b, j])
            if sign * (mean[b, j] - mean[a, j]) < -noise:
                turned.append(f"{name} at 1/{order[b][1]}")
    outside = [
        f"{name.removesuffix('_covers')} {mean[i, j]:.1%} ({order[i][0]}, 1/{order[i][1]})"
        for j, name in enumerate(names) if name.endswith("covers")
        for i, (method, _) in enumerate(order)
        if method in (OURS, ANY) and not np.isnan(mean[i, j]) and not 0.87 <= mean[i, j] <= 0.93
    ]  # fmt: skip
    return [
        "every error grows as less is kept, within the noise of the seeds"
        if not turned
        else "not in order, beyond the noise of the seeds: " + ", ".join(turned),
        "all 90 % intervals hold 87 to 93 % of the truth"
        if not outside
        else "outside of 87 to 93 %: " + ", ".join(outside),
    ]


def draw(answer: Answer, path: str) -> None:
    """Draw the study's table: errors and coverage over the part that is kept.

    Args:
        answer: what ``study`` returned.
        path: of the picture, ``.svg`` or ``.png``.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "recollect[demo]"') from error
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(2, 3).reshape(-1)
    titles = {"attribute_error": "attributes: unexplained share", "count_error": "count error",
              "cosine_error": "error of the cosine", "recall": "recall@10"}  # fmt: skip
    told = {n: t for n, t in titles.items() if not np.isnan(answer[n]).all()}
    for axes, (name, title) in zip(panels, told.items(), strict=False):
        for method, (style, colour) in LOOKS.items():
            rows = [i for i, m in enumerate(answer["method"]) if m == method]
            x, y, spread = ([answer[c][i] for i in rows] for c in ("bytes", name, f"{name} ±"))
            if not all(np.isnan(y)):
                axes.errorbar(x, y, spread, fmt=style, color=colour, label=method, capsize=2)
        axes.set_title(title, fontsize=10)
    _draw_coverage(answer, panels[len(told)])
    for axes in panels[: len(told) + 1]:
        axes.set_xscale("log", base=2)
        sizes = sorted(set(answer["bytes"]))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xlabel("bytes a glance", fontsize=9)
    for axes in panels[len(told) + 1 :]:
        axes.axis("off")
    panels[5].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.suptitle(answer.title)
    figure.savefig(path)


def _draw_coverage(answer: Answer, axes: Any) -> None:
    """Draw what share of the sketches' 90 % intervals holds the truth."""
    axes.axhspan(0.87, 0.93, color="#e8f0e4")
    rows = [i for i, m in enumerate(answer["method"]) if m == OURS]
    for name, style in (("attribute", "o-"), ("count", "s--"), ("cosine", "d:")):
        y = [answer[f"{name}_covers"][i] for i in rows]
        if not all(np.isnan(y)):
            axes.plot([answer["bytes"][i] for i in rows], y, style, label=name)
    axes.set_title("what 90 % intervals hold", fontsize=10)
    axes.set_ylim(0.8, 1.0)
    axes.legend(frameon=False, fontsize=8)
