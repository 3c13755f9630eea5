"""Attribute recovery: every decoder on the same sketches, with what its error bars cover.

Digit scenes at 64, 128 and 256 numbers (int8: as many bytes, and two for the scale); 20 objects
that are words of a codebook each, or sparse (80 of 640 numbers are not zero); hand-built DAGs of
one to three levels whose modules are words, sparse or dense, at sketches of half as many numbers
as unknowns; with ``data``, MobileNetV2 at 1,024 and 256 numbers. R2 is that of the
variation within modules (0: each module's mean), over what was not refused.

Shape letters: n objects, m numbers in an attribute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from recollect._answers import Z90, Answer
from recollect.sketching import Prior, Sketcher, Sketches
from recollect.studies.attribute_worlds import World, dags, digit_scenes, mobilenet, words, zeros
from recollect.studies.figures import figure
from recollect.tracing import Trace

__all__ = ["draw", "study"]

DIGITS = ("transpose", "least_squares", "sparse", "per-module", "auto", "mixture")
WORDS = ("transpose", "least_squares", "joint", "codebook", "auto")
ZEROS = ("transpose", "least_squares", "joint", "omp", "cosamp", "sparse", "auto")
DAGS = (
    "transpose", "least_squares", "omp", "cosamp", "per-module", "sparse", "mixture", "auto",
)  # fmt: skip
STATIC = ("transpose", "least_squares", "per-module", "joint")
FOUND = "structure found, least_squares"


class _Score(NamedTuple):
    """One decoder on one set of sketches: R2, share covered, share refused, seconds a glance."""

    r2: float
    covers: float
    refused: float
    seconds: float


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return R2, coverage and refusals of every decoder, mean and deviation over seeds.

    Args:
        quick: fewer glances and seeds.
        data: folder with MobileNetV2 and CIFAR-10, which are left out without it.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    rows: dict[tuple[str, int, str], list[_Score]] = {}
    seeds = range(2 if quick else 3)
    for seed in seeds:
        for world, dim, methods in _cases(quick, data, seed):
            sketcher = Sketcher(dim=-(-dim // 64) * 64, seed=seed)
            sketcher.admit(world.fit, measure_scales=True)
            sketches, prior = sketcher.encode(world.judged).prefix(dim), Prior.fit(world.fit)
            for method in methods:
                score = _judge(sketcher, sketches, prior, world.judged, method)
                rows.setdefault((world.name, dim, method), []).append(score)
    return _table(rows, len(seeds))


def _cases(quick: bool, data: str | None, seed: int) -> Iterator[tuple[World, int, Sequence[str]]]:
    """Yield what is judged: glances, numbers of a sketch, decoders."""
    number = 12 if quick else 60
    scenes = digit_scenes(400 if quick else 1000, 20 if quick else 150)
    for seen in (False, True):
        world = scenes(seed, seen)
        for dim in (64, 128, 256):
            if not (quick and seen and dim > 64):
                yield world, dim, _fewer(DIGITS, quick, "sparse")
    for depth in (1, 2, 3):
        world = dags(depth, 300, number, seed)
        yield world, 80 * depth, _fewer(DAGS, quick, "sparse", "mixture")
        if depth < 3:  # structure is searched for down to two levels
            yield world, 480 * depth, (FOUND,)
    for world, dims, methods in (
        (words(500, number, seed), (96, 128), WORDS),
        (zeros(200, number, seed), (256, 320), ZEROS),
    ):
        yield from ((world, dim, methods) for dim in (dims[:1] if quick else dims))
    if data is not None:
        real = mobilenet(data, 200 if quick else 1000, 50 if quick else 200)(seed)
        for dim in (256, 1024):
            yield real, dim, STATIC


def _fewer(methods: Sequence[str], quick: bool, *slow: str) -> tuple[str, ...]:
    """Leave out the decoders that a quick run does not wait for."""
    return tuple(m for m in methods if not (quick and m in slow))


def _judge(
    sketcher: Sketcher, sketches: Sketches, prior: Prior, truth: Trace, method: str
) -> _Score:
    """Decode and compare, in the scale in which modules were sketched."""
    # What does not depend on the glances is computed before the clock starts.
    start = time.process_time()
    if method == FOUND:
        found = sketcher.decode(sketches, method="least_squares", structure="find")
    else:
        found = sketcher.decode(sketches, prior=prior, method=method)
    lost = spread = 0.0
    inside = told = total = 0
    for name in truth.modules:
        true, scale = truth.objects(name), sketcher.modules.family_of(
            sketcher.modules.id_of(name)
        ).scale  # fmt: skip
        read, std = _aligned(true.glance.tolist(), true.path, found.objects(name))
        known = torch.isfinite(std)
        error = (true.attributes - read)[known] / scale
        around = ((true.attributes - true.attributes.mean(0)) / scale)[known]
        lost, spread = lost + float(error.square().sum()), spread + float(around.square().sum())
        inside += int((error.abs() <= Z90 * std[known] / scale + 1e-6).sum())
        told, total = told + int(known.sum()), total + known.numel()
    seconds = (time.process_time() - start) / len(truth)
    nothing = float("nan")
    return _Score(
        1 - lost / spread if told else nothing, inside / told if told else nothing,
        1 - told / total, seconds,
    )  # fmt: skip


def _aligned(
    glance: list[int], path: list[tuple[str, ...]], read: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring what was read into the order of the truth; what was not found is refused."""
    place: dict[tuple[int, tuple[str, ...], int], int] = {}
    for row, key in enumerate(_numbered(read.glance.tolist(), read.path)):
        place[key] = row
    m = read.attributes.shape[1]
    mean = torch.full((len(glance), m), float("nan"))
    std = torch.full((len(glance), m), float("inf"))
    for row, key in enumerate(_numbered(glance, path)):
        if key in place:
            mean[row], std[row] = read.attributes[place[key]], read.std[place[key]]
    return mean, std


def _numbered(
    glance: list[int], path: list[tuple[str, ...]]
) -> list[tuple[int, tuple[str, ...], int]]:
    """Number the objects of one path in one glance."""
    seen: dict[tuple[int, tuple[str, ...]], int] = {}
    out = []
    for key in zip(glance, path, strict=True):
        seen[key] = seen.get(key, -1) + 1
        out.append((*key, seen[key]))
    return out


def _table(rows: dict[tuple[str, int, str], list[_Score]], seeds: int) -> Answer:
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("glances", "numbers", "decoder", "R2", "deviation", "90 % covers", "refused",
                     "ms a glance")
    }  # fmt: skip
    for (world, dim, method), scores in rows.items():
        table = np.array(scores)
        every = np.isfinite(table).all(0)
        mean = np.where(every, table.mean(0), np.nan)
        spread = float(table[:, 0].std(ddof=1)) if len(table) > 1 and every[0] else float("nan")
        # A decoder that answers for some seeds alone has no mean over seeds.
        for name, value in zip(
            columns,
            (world, dim, method, float(mean[0]), spread, float(mean[1]), float(mean[2]),
             1000 * float(mean[3])),
            strict=True,
        ):  # fmt: skip
            columns[name].append(value)
    return Answer(
        columns,
        title=f"attributes read from int8 sketches, mean and deviation over {seeds} seeds",
        notes=[
            "R2 within modules, of what was not refused; nan: everything was refused",
            "all decoders but transpose, least_squares, omp and cosamp use the prior; time holds "
            "the fitting and calibration of the decoder, spread over the judged glances",
            f"{FOUND!r}: no skeletons were kept; objects whose place was not found are refused",
        ],
    )


def draw(answer: Answer, path: str) -> None:
    """Draw the digit scenes by size, and the DAGs by depth, one line for each decoder."""
    rows = list(answer)
    panels = (
        ("digits never shown", "numbers in the sketch", DIGITS,
         [(r["numbers"], r) for r in rows if r["glances"].endswith("never shown")]),
        ("DAGs, two unknowns to a number", "levels", DAGS,
         [(int(r["glances"].split()[2]), r) for r in rows if r["glances"].startswith("DAGs")]),
    )  # fmt: skip
    every = dict.fromkeys([*DIGITS, *DAGS])
    colours = {method: f"C{number}" for number, method in enumerate(every)}
    with figure(path, width=9.0, height=3.6) as drawn:
        for axes, (title, label, methods, points) in zip(
            drawn.subplots(1, 2), panels, strict=True
        ):
            for method in methods:
                # What refuses half of the glances has no R² of its own.
                some = [
                    (x, r["R2"])
                    for x, r in points
                    if r["decoder"] == method and r["refused"] <= 0.5
                ]
                # Below zero is worse than each module's mean: drawn at the lower edge.
                some = [(x, max(y, -0.1)) for x, y in some if y == y]
                if some:
                    x, y = zip(*some, strict=True)
                    axes.plot(x, y, "o-", label=method, markersize=4, color=colours[method])
            axes.set(title=title, xlabel=label, ylabel="R² within modules", ylim=(-0.12, 1.04))
            axes.set_xticks(sorted({x for x, _ in points}))
            if axes.lines:
                axes.legend(fontsize=7, loc="lower right")
