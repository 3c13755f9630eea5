"""Where should random features of attributes stand: inside the sketch, or beside it?

Scenes of 4 to 12 objects of five modules (24 numbers each, two clusters) are kept in
the same bytes in three ways: the whole sketch; a sketch that also holds the features, as if
they were attributes of further objects; a smaller sketch with the distribution channel beside
it. Read are the attributes of single glances (R2 inside modules) and, from the sum of a window,
the shares below nine thresholds (mean absolute error); records alone stand beside them.

A second table: how many 90 % intervals of what the channel says of a window hold the truth, over
48 windows a row of 100 glances each, like the 300 glances kept whole, moved a little, and moved.

    python -m benchmarks.distribution_channel [--only beside|coverage]
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch

from benchmarks.tables import show
from recollect import Prior, Sketcher, Trace
from recollect.sketching import Averages, Channel, features_of
from recollect.sketching.averages import Reference
from recollect.studies.digit_scenes import DigitScenes

MODULES, SIZE, RANK = 5, 24, 16


def scenes(glances: int, seed: int, shift: float = 0.0) -> Trace:
    fixed, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    means = fixed.standard_normal((MODULES, SIZE))
    spread = fixed.standard_normal((MODULES, RANK, SIZE)) * 0.5
    glance = np.repeat(np.arange(glances), rng.integers(4, 13, glances))
    kind = rng.integers(0, MODULES, len(glance))
    code = rng.standard_normal((len(glance), RANK)) + shift
    code[:, 0] += np.where(rng.random(len(glance)) < 0.3, 3.0, 0.0)
    x = means[kind] + np.einsum("nr,nrm->nm", code, spread[kind])
    x += 0.05 * rng.standard_normal(x.shape)
    return Trace.from_columns(
        {
            f"thing{k}": {
                "attributes": torch.from_numpy(x[kind == k].astype(np.float32)),
                "glance": glance[kind == k],
            }
            for k in range(MODULES)
        },
        num_glances=glances,
    )


def scales_of(trace: Trace) -> dict[str, float]:
    return {n: float(c.attributes.square().sum(1).mean().sqrt()) for n, c in trace.columns.items()}


def with_features(trace: Trace, sketcher: Sketcher, channel: Channel) -> Trace:
    """The trace with one more object per module and glance: the sum of its features."""
    columns = {}
    for name, c in trace.columns.items():
        columns[name] = {"attributes": c.attributes, "glance": c.glance}
        phi = features_of(c.attributes, sketcher.modules[name], channel, 0)
        glances, place = np.unique(c.glance, return_inverse=True)
        total = torch.zeros(len(glances), phi.shape[1])
        total.index_add_(0, torch.from_numpy(place), phi)
        columns[f"{name}~"] = {"attributes": total, "glance": glances}
    return Trace.from_columns(columns, num_glances=len(trace))


def r2(sketcher: Sketcher, trace: Trace, prior: Prior) -> float:
    """Variance inside modules that decoded attributes explain."""
    found = sketcher.decode(sketcher.encode(trace), prior=prior)
    rest = total = 0.0
    for k in range(MODULES):
        x = trace.objects(f"thing{k}").attributes
        rest += float((x - found.objects(f"thing{k}").attributes).square().sum())
        total += float((x - x.mean(0)).square().sum())
    return 1 - rest / total


def thresholds(x: np.ndarray) -> np.ndarray:
    return np.quantile(x[:, 0], np.linspace(0.1, 0.9, 9))


def truths(day: Trace) -> list[tuple[str, np.ndarray, np.ndarray]]:
    found = []
    for k in range(MODULES):
        x = day.objects(f"thing{k}").attributes.numpy().astype(float)
        t = thresholds(x)
        found.append((f"thing{k}", t, (x[:, :1] <= t).mean(0)))
    return found


def error_inside(sketcher: Sketcher, channel: Channel, day: Trace, prior: Prior, kept: Trace):
    """Shares from the sum of sketches that hold the features as further objects."""
    total = sketcher.encode(day).sum()
    decoded = sketcher.decode(total, prior=prior)
    errors = []
    for name, t, true in truths(day):
        number = len(day.objects(name).glance)
        rows = len(np.unique(day.objects(name).glance.numpy()))
        mean = decoded.means(f"{name}~", [rows])[0][0].double().numpy() * rows / number
        ref = Reference.of(kept.objects(name).attributes.numpy().astype(float))
        entry = sketcher.modules[name]
        phi = features_of(torch.from_numpy(ref.points), entry, channel, 0).double().numpy()
        g = (ref.points[:, :1] <= t).astype(float)
        w = ref.weight[:, None]
        phi0, g0 = (w * phi).sum(0), (w * g).sum(0)
        cov = ((phi - phi0) * w).T @ (phi - phi0) + 1e-3 * np.eye(phi.shape[1])
        slope = np.linalg.solve(cov, ((phi - phi0) * w).T @ (g - g0))
        errors.append(np.abs(g0 + (mean - phi0) @ slope - true).mean())
    return float(np.mean(errors))


def error_beside(sketcher: Sketcher, day: Trace, prior: Prior) -> float:
    averages = Averages(sketcher, prior)
    channel = sketcher.encode(day).sum().channel
    assert channel is not None
    counts = {n: (float(len(day.objects(n).glance)), 0.0) for n in day.modules}
    errors = []
    for name, t, true in truths(day):
        mean, _ = averages.of(
            name, lambda x, t=t: x[:, :1] <= t, channel.values[0].double(), len(day), counts
        )
        errors.append(np.abs(mean - true).mean())
    return float(np.mean(errors))


def error_records(day: Trace, kept: Trace) -> float:
    errors = []
    for name, t, true in truths(day):
        x = kept.objects(name).attributes.numpy()
        errors.append(np.abs((x[:, :1] <= t).mean(0) - true).mean())
    return float(np.mean(errors))


RANKS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
WINDOWS, GLANCES, SEEDS = 48, 100, 4


def small(glances: int, seed: int, moved: float) -> Trace:
    """Three modules of 4 numbers, two clusters each, moved along all they vary in."""
    fixed, rng = np.random.default_rng(5), np.random.default_rng([3, seed])
    means, spread = fixed.standard_normal((3, 4)), 0.7 * fixed.standard_normal((3, 3, 4))
    columns = {}
    for k in range(3):
        glance = np.repeat(np.arange(glances), rng.poisson(0.9, glances))
        code = rng.standard_normal((len(glance), 3)) + 0.7 * moved
        code[:, 0] = np.where(rng.random(len(glance)) < 0.3, 2.0, -0.8) + 0.3 * code[:, 0]
        x = means[k] + code @ spread[k] + 0.1 * rng.standard_normal((len(glance), 4))
        columns[f"m{k}"] = {"attributes": torch.from_numpy(x.astype(np.float32)), "glance": glance}
    return Trace.from_columns(columns, num_glances=glances)


def asked_of(x: np.ndarray) -> dict[str, object]:
    """Functions of attributes, with thresholds where these objects' quantiles are."""
    size = np.quantile(np.linalg.norm(x, axis=1), RANKS)
    number, half = np.quantile(x[:, 1], RANKS), np.median(x[:, 0])
    i, j = np.triu_indices(x.shape[1])
    return {
        "mean": lambda a: a,
        "below its size": lambda a: np.linalg.norm(a, axis=1)[:, None] <= size,
        "below number 1": lambda a: a[:, 1:2] <= number,
        "two at once": lambda a: (a[:, :1] <= half) & (a[:, 1:2] > number[2]),
        "covariance": lambda a: (a - x.mean(0))[:, i] * (a - x.mean(0))[:, j],
    }


def coverage(find, dim: int, channel: Channel, modules: int = 2) -> list[tuple]:
    """Rows: how far windows are moved, and the share of intervals that hold, per question."""
    rows = []
    for moved in (0.0, 0.3, 1.0):
        held = defaultdict(list)
        for seed in range(SEEDS):
            kept = find(300, 1000 + seed, 0.0)
            sketcher = Sketcher(dim, seed, channel=channel)
            sketcher.admit(kept, measure_scales=True)
            prior = Prior.fit(kept)
            averages, days = (
                Averages(sketcher, prior),
                find(GLANCES * WINDOWS // SEEDS, seed, moved),
            )
            for start in range(0, len(days), GLANCES):
                judge(held, sketcher, prior, averages, days[start : start + GLANCES], modules)
        rows.append((moved, *(f"{100 * np.mean(v):.1f} %" for v in held.values())))
    return rows


def judge(held, sketcher, prior, averages, day: Trace, modules: int) -> None:
    """Note of one window which intervals hold."""
    total = sketcher.encode(day).sum()
    decoded = sketcher.decode(total, prior=prior)
    counts = {n: (float(len(day.objects(n).glance)), 0.0) for n in day.modules}
    for name in list(day.modules)[:modules]:
        x = day.objects(name).attributes.numpy().astype(float)
        told = [t[0].double().numpy() for t in decoded.means(name, [len(x)])]
        values = total.channel.values[0].double()
        window = averages.window(name, values, len(day), counts, tuple(told))
        for question, function in asked_of(x).items():
            mean, std = averages.within(window, function)
            true = np.asarray(function(x), float).mean(0)
            held[question] += (np.abs(mean - true) <= 1.645 * std).tolist()


def digits(glances: int, seed: int, moved: float) -> Trace:
    """Detections of scikit-learn's digits; a moved day is darker and has more high digits."""
    return SCENES[0].trace(glances, seed, 1 - 0.15 * moved, 0.7 * moved, wide=False)


SCENES: list[DigitScenes] = []


def show_coverage() -> None:
    SCENES.append(DigitScenes(epochs=20))
    header = ("moved", "mean", "below its size", "below number 1", "two at once", "covariance")
    worlds = (
        ("hand-built, 3 modules of 4 numbers, 64 + 128 bytes", small, 64, Channel(128, 32)),
        ("digit scenes, 10 modules of 4 numbers, 256 + 320 bytes", digits, 256, Channel(320, 32)),
    )
    for what, find, dim, channel in worlds:
        show(f"90 % intervals that hold, {WINDOWS} windows a row: {what}", header,
             coverage(find, dim, channel))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("beside", "coverage"))
    options = parser.parse_args()
    if options.only != "coverage":
        show_beside(options.seeds)
    if options.only != "beside":
        show_coverage()


def show_beside(seeds: int) -> None:
    rows = []
    for size in (256, 512):
        for shift in (0.0, 0.5):
            found = []
            for seed in range(seeds):
                kept, day = scenes(300, 10 + seed), scenes(400, 100 + seed, shift)
                scales = scales_of(kept)
                channel = Channel(size // 2, 32)
                whole = Sketcher(size, seed, scales=scales)
                whole.admit(kept)
                beside = Sketcher(size // 2, seed, scales=scales, channel=channel)
                plain, rich = (
                    with_features(kept, whole, channel),
                    with_features(day, whole, channel),
                )
                inside = Sketcher(size, seed, scales={**scales, **scales_of(plain)})
                prior, richer = Prior.fit(kept), Prior.fit(plain)
                found.append(
                    (
                        r2(whole, day, prior), r2(inside, rich, richer), r2(beside, day, prior),
                        error_inside(inside, channel, rich, richer, kept),
                        error_beside(beside, day, prior), error_records(day, kept),
                    )
                )  # fmt: skip
            rows.append((size, shift, *np.mean(found, 0).tolist()))
    show(
        "Random features inside the sketch, or beside it (half the bytes each)",
        (
            "bytes", "shift", "R2 sketch alone", "R2 features inside", "R2 beside",
            "share error inside", "share error beside", "records alone",
        ),
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
