"""Is the graph of 100,000 glances built in 3 minutes, and does a neighbourhood take 50 ms?

Glances of about six objects out of 64 modules, 16 prototypes each, arrive 1,000 at a time in a
memory that keeps a graph (256 numbers, int8). Then neighbourhoods are asked, warm, and the first
one in a process that has just opened the memory. Beside it: the same memory without a graph, and
emerging concepts among the first 20,000 glances with six planted compounds.

    python -m benchmarks.graph [--glances 100000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.probe_retrieval import repository
from benchmarks.tables import show
from recollect import Memory, Sketcher, recall
from recollect.memory.layout import size_of
from recollect.studies.planted import plant

BEGIN = 1_767_225_600_000_000
STEP = 60_000_000


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> str:
    now = clock()
    return f"{now[0] - start[0]:.1f} s, processor {now[1] - start[1]:.1f} s"


def fill(path: Path, trace: object, *, graph: bool) -> str:
    """Add glances a thousand at a time; return how long that took."""
    start = clock()
    with Memory(path, Sketcher(dim=256), graph=graph) as memory:
        n = len(trace)
        for first in range(0, n, 1000):
            rows = np.arange(first, min(first + 1000, n))
            memory.add(trace[rows], BEGIN + STEP * rows, "hall", ids=rows)
    return since(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glances", type=int, default=100_000)
    parser.add_argument("--emerging", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    rows = []
    trace, _, _ = repository(given.glances)
    plain = fill(folder / "plain", trace, graph=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    built = fill(folder / "graph", trace, graph=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(("glances added, no graph", plain, "-"))
    rows.append(("glances added, graph built meanwhile", built, "180 s"))
    rows.append(("more memory than before", f"{after - before:.0f} MiB", "bounded"))
    size = size_of(folder / "graph" / "graph")
    rows.append(("graph on disk", f"{size / 1e6:.1f} MB", "-"))
    memory = Memory(folder / "graph", read_only=True)
    asked = np.random.default_rng(0).integers(0, given.glances, 50).tolist()
    start = clock()
    recall.graph(memory, asked[0])
    rows.append(("first neighbourhood after opening", since(start), "-"))
    each, spent = [], []
    for glance in asked:
        start = clock()
        recall.graph(memory, glance)
        now = clock()
        each.append(1e3 * (now[0] - start[0]))
        spent.append(1e3 * (now[1] - start[1]))
    text = f"{np.median(each):.1f} ms (processor {np.median(spent):.1f}), 90 %: "
    rows.append(("a neighbourhood, warm", text + f"{np.quantile(each, 0.9):.1f} ms", "50 ms"))
    if given.emerging:
        rows.append(emergence(folder / "emerging", given.emerging))
    show(f"graph of {given.glances:,} glances", ("what", "took", "bar"), rows)
    if given.folder is None:
        shutil.rmtree(folder)


def emergence(path: Path, glances: int) -> tuple[str, str, str]:
    """Find six planted compounds among many glances."""
    each = glances // 100
    world = plant(0, each=each, background=glances - 6 * each)
    with Memory(path, Sketcher(dim=256)) as memory:
        for first in range(0, glances, 5000):
            rows = np.arange(first, min(first + 5000, glances))
            memory.add(world.trace[rows], BEGIN + 26 * STEP * rows, ids=rows)
        start = clock()
        found = recall.emerging(memory)
        took = since(start)
    kinds = {int(k) for c in found["concept"] for k in world.compound[found.members(c)]}
    right = len([k for k in kinds if k >= 0])
    text = f"{took}: {right} of 6 found, {len(found)} concepts"
    return (f"emerging among {glances:,}", text, "60 s")


if __name__ == "__main__":
    main()
