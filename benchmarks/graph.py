"""Is the graph of 100,000 glances built in 3 minutes, and does a neighbourhood take 50 ms?

Glances of about six objects out of 64 modules, 16 prototypes each, arrive 1,000 at a time in a
memory that keeps a graph (256 numbers, int8). Each memory is filled by a process of its own, which
says what it needed beyond the glances that it was given: for three sizes, with a graph and
without. Then neighbourhoods are asked, warm, and the first one after the memory was opened.
Beside it: emerging concepts among 20,000 glances with six planted compounds.

    python -m benchmarks.graph [--glances 100000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
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


def peak() -> float:
    """Return the most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fill(path: Path, glances: int, graph: bool) -> dict[str, str | float]:
    """Add glances a thousand at a time; return how long that took and what it needed."""
    trace, _, _ = repository(glances)
    before, start = peak(), clock()
    with Memory(path, Sketcher(dim=256), graph=graph) as memory:
        for first in range(0, glances, 1000):
            rows = np.arange(first, min(first + 1000, glances))
            memory.add(trace[rows], BEGIN + STEP * rows, "hall", ids=rows)
    return {"took": since(start), "mib": peak() - before, "before": before}


def filled(path: Path, glances: int, graph: bool) -> dict[str, str | float]:
    """Fill a memory in a process of its own."""
    options = ["--fill", str(path), "--glances", str(glances), *(["--graph"] if graph else [])]
    run = [sys.executable, "-m", "benchmarks.graph", *options]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glances", type=int, default=100_000)
    parser.add_argument("--emerging", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--fill", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--graph", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill is not None:
        print(json.dumps(fill(given.fill, given.glances, given.graph)))
        return
    folder = given.folder or Path(tempfile.mkdtemp())
    rows = []
    for size in (given.glances // 5, given.glances // 2, given.glances):
        for graph in (False, True):
            path = folder / f"{size} {graph}"
            told = filled(path, size, graph)
            last = graph and size == given.glances
            name = f"{size:,} glances added, " + ("graph built meanwhile" if graph else "no graph")
            rows.append((name, told["took"], f"{told['mib']:.0f} MiB", "180 s" if last else "-"))
    rows += asked_for(folder / f"{given.glances} True", given.glances)
    if given.emerging:
        rows.append(emergence(folder / "emerging", given.emerging))
    show(f"graph of {given.glances:,} glances", ("what", "took", "needed", "bar"), rows)
    if given.folder is None:
        shutil.rmtree(folder)


def asked_for(path: Path, glances: int) -> list[tuple[str, str, str, str]]:
    """Ask for neighbourhoods."""
    on_disk = f"{size_of(path / 'graph') / 1e6:.1f} MB on disk"
    memory = Memory(path, read_only=True)
    asked = np.random.default_rng(0).integers(0, glances, 50).tolist()
    start = clock()
    recall.graph(memory, asked[0])
    rows = [("first neighbourhood after opening", since(start), on_disk, "-")]
    each, spent = [], []
    for glance in asked:
        start = clock()
        recall.graph(memory, glance)
        now = clock()
        each.append(1e3 * (now[0] - start[0]))
        spent.append(1e3 * (now[1] - start[1]))
    text = f"{np.median(each):.1f} ms (processor {np.median(spent):.1f}), 90 %: "
    text += f"{np.quantile(each, 0.9):.1f} ms"
    return [*rows, ("a neighbourhood, warm", text, "-", "50 ms")]


def emergence(path: Path, glances: int) -> tuple[str, str, str, str]:
    """Find six planted compounds among many glances."""
    each = glances // 100
    world = plant(0, each=each, background=glances - 6 * each)
    with Memory(path, Sketcher(dim=256)) as memory:
        for first in range(0, glances, 5000):
            rows = np.arange(first, min(first + 5000, glances))
            memory.add(world.trace[rows], BEGIN + 26 * STEP * rows, ids=rows)
        before, start = peak(), clock()
        found = recall.emerging(memory)
        took, more = since(start), peak() - before
    kinds = {int(k) for c in found["concept"] for k in world.compound[found.members(c)]}
    right = len([k for k in kinds if k >= 0])
    text = f"{took}: {right} of 6 found, {len(found)} concepts"
    return (f"emerging among {glances:,}", text, f"{more:.0f} MiB", "60 s")


if __name__ == "__main__":
    main()
