"""How exactly are all objects of a random DAG read back when dim is 1.6 times the unknowns?

Random DAGs of depth 3 and flat ones, 20 to 60 objects, attributes of 16 to 64 numbers on the unit
sphere; weights are one (the default), or equal among siblings and sum to one. The error of a
level is the root of the summed squared errors over the summed squared attributes; printed is the
median over the DAGs.

    python -m benchmarks.exact_tier [--dags 30]
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from benchmarks.tables import show
from recollect import Object, Sketcher, Trace

BARS = {("float16", "flat"): 0.001, ("int8", "flat"): 0.02}


def random_glance(rng: np.random.Generator, depth: int, shared: bool) -> list[Object]:
    """A glance of 20 to 60 objects with at most ``depth`` levels."""
    sizes = rng.integers(16, 65, 24)
    wanted = int(rng.integers(20, 61))
    made = 0

    def siblings(count: int, level: int) -> list[Object]:
        nonlocal made
        objects = []
        for _ in range(count):
            kind = int(rng.integers(len(sizes)))
            x = rng.standard_normal(sizes[kind])
            made += 1
            room = level < depth and made < wanted
            inputs = siblings(int(rng.integers(1, 4)), level + 1) if room else []
            weight = 1 / count if shared else 1.0
            objects.append(Object(f"module{kind}", x / np.linalg.norm(x), weight, inputs))
        return objects

    return siblings(wanted if depth == 1 else max(3, wanted // 6), 1)


def errors_by_level(trace: Trace, sketcher: Sketcher) -> dict[int, float]:
    """Relative error of each depth."""
    r = sketcher.decode(sketcher.encode(trace))
    wrong: dict[int, float] = {}
    whole: dict[int, float] = {}
    for name in trace.modules:
        true, read = trace.objects(name), r.objects(name)
        error = (true.attributes - read.attributes).square().sum(1).tolist()
        size = true.attributes.square().sum(1).tolist()
        for path, e, s in zip(true.path, error, size, strict=True):
            wrong[len(path)] = wrong.get(len(path), 0.0) + e
            whole[len(path)] = whole.get(len(path), 0.0) + s
    return {level: (wrong[level] / whole[level]) ** 0.5 for level in wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dags", type=int, default=30)
    dags = parser.parse_args().dags
    rows = []
    for dtype in ("float16", "int8"):
        for depth, shared in ((1, False), (1, True), (3, False), (3, True)):
            layout = ("flat" if depth == 1 else "depth 3") + (", shared weights" if shared else "")
            found: dict[int, list[float]] = {}
            objects = []
            for seed in range(dags):
                trace = Trace.from_objects(
                    [random_glance(np.random.default_rng(seed), depth, shared)]
                )
                numbers = sum(c.attributes.numel() for c in trace.columns.values())
                objects.append(sum(len(c) for c in trace.columns.values()))
                dim = -(-int(1.6 * numbers) // 64) * 64
                for level, e in errors_by_level(
                    trace, Sketcher(dim=dim, seed=seed, dtype=dtype)
                ).items():
                    found.setdefault(level, []).append(e)
            for level, errors in sorted(found.items()):
                bar = 0.001 if dtype == "float16" else (0.02 if depth == 1 else 0.04)
                middle, worst = statistics.median(errors), max(errors)
                rows.append(
                    (f"{dtype}, {layout}, level {level}", f"{middle:.3%}", f"{worst:.3%}",
                     f"{bar:.1%}", "yes" if middle <= bar else "NO",
                     f"{min(objects)}-{max(objects)}")
                )  # fmt: skip
    show(
        "Exact tier: relative error of attributes, dim = 1.6 x unknowns, no prior",
        ("case", "median", "worst DAG", "bar", "reached", "objects"),
        rows,
    )


if __name__ == "__main__":
    main()
