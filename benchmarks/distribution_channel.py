"""Where should random features of attributes stand: inside the sketch, or beside it?

Scenes of 4 to 12 objects of five modules (24 numbers each, two clusters) are kept in
the same bytes in three ways: the whole sketch; a sketch that also holds the features, as if
they were attributes of further objects; a smaller sketch with the distribution channel beside
it. Read are the attributes of single glances (R2 inside modules) and, from the sum of a window,
the shares below nine thresholds (mean absolute error); records alone stand beside them.

    python -m benchmarks.distribution_channel
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.tables import show
from recollect import Prior, Sketcher, Trace
from recollect.sketching import Averages, Channel, features_of
from recollect.sketching.averages import Reference

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
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
