"""How large and how fast is a memory of 200,000 glances of 1 KB?

A year of glances with low-rank content is added in time order, in batches of 256. Printed are
bytes on disk by part, the rate of adding (encoding counted in), and medians of reading times,
warm and in fresh processes. Nothing is downloaded; ``--glances`` makes it smaller.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from recollect import Memory, Sketcher, Trace
from recollect.sketching import Sketches
from recollect.sketching.sketches import quantize

HOUR = 3_600_000_000
START = 1_767_225_600_000_000  # 2026-01-01
MODULES, SIZE, BATCH, RANK = 16, 64, 256, 48

COLD = """
import time, numpy as np
from recollect import Memory
memory = Memory({path!r}, read_only=True)
{warm}
vector = np.load({query!r})
start = time.perf_counter()
{action}
print((time.perf_counter() - start) * 1e3)
"""


def median_ms(action, repeat=15):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def cold_ms(path, action, warm="", repeat=5):
    """Median of an action in fresh processes, after opening."""
    query = str(Path(path).parent / "query.npy")
    code = COLD.format(path=str(path), action=action, warm=warm, query=query)
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(repeat)
    ]
    return statistics.median(runs)


def traces(rng, mixing, count):
    """Attributes of a static network whose modules share a few causes."""
    cause = rng.normal(size=(count, RANK)).astype(np.float32)
    values = torch.from_numpy(cause @ mixing + 0.3 * rng.normal(size=(count, MODULES * SIZE)))
    parts = values.to(torch.float32).split(SIZE, dim=1)
    return Trace.from_columns({f"block{i}": p for i, p in enumerate(parts)})


def fill(memory, total, encoded):
    """Add glances over a year: the first with encoding, the others from sketches made before.

    Returns:
        glances a second with encoding, and without.
    """
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(RANK, MODULES * SIZE)).astype(np.float32)
    when = START + np.sort(rng.integers(0, 365 * 24 * HOUR, total))
    rates = []
    batch = [traces(rng, mixing, BATCH) for _ in range(4)]
    begin, first = time.perf_counter(), 0
    while first < min(encoded, total):
        part = when[first : first + BATCH]
        memory.add(
            batch[first // BATCH % 4][: len(part)], part, source=["hall", "room"][first % 2]
        )
        first += len(part)
    rates.append(first / (time.perf_counter() - begin))
    whole = Trace.concat([traces(rng, mixing, 1024) for _ in range(4)])
    basis = memory.sketcher.encode(whole)
    spent, rest = 0.0, first
    while first < total:
        part = when[first : first + BATCH]
        s = mixed(rng, basis, len(part))
        begin = time.perf_counter()
        memory._append(s, part, source="hall")
        spent += time.perf_counter() - begin
        first += len(part)
    rates.append((total - rest) / spent if spent else float("nan"))
    begin = time.perf_counter()
    memory.close()
    return rates, time.perf_counter() - begin


def mixed(rng, basis, count):
    """New sketches near old ones (encoding all of them would only cost time)."""
    rows = rng.integers(0, len(basis), (2, count))
    share = torch.from_numpy(rng.random((count, 1)).astype(np.float32))
    values = basis.values
    codes, scale = quantize(share * values[rows[0]] + (1 - share) * values[rows[1]], "int8")
    return Sketches(
        codes, scale, torch.ones(count, dtype=torch.int64), basis.skeletons.select(rows[0]),
        basis.modules, basis.recipe,
    )  # fmt: skip


def recall_of_search(memory, noise, queries=20):
    """Share of the ten found that are as like as the true tenth (all numbers compared).

    Scores are compared, not ids: many glances of this memory are one and the same sketch.
    """
    everything = memory.sketches()
    ids = np.array(memory.glances(columns=["id"])["id"].to_pylist())
    values = everything.values.numpy()
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    rng = np.random.default_rng(3)
    found = []
    for row in rng.integers(0, len(ids), queries):
        query = values[row] + noise * rng.normal(size=1024).astype(np.float32) / 32
        cosine = dict(zip(ids.tolist(), (values @ query).tolist(), strict=True))
        tenth = sorted(cosine.values())[-10]
        own = [cosine[i] for i in memory.search(query, 10)[0].tolist()]
        found.append(np.mean([c >= tenth - 1e-5 for c in own]))
    return float(np.mean(found))


def measure(path, total):
    """Return rows (what, measured, aim)."""
    month = (START + 31 * 24 * HOUR, START + 59 * 24 * HOUR)
    memory = Memory(path, read_only=True)
    rng = np.random.default_rng(2)
    vectors = memory.sketches(ids=memory.glances(columns=["id"])["id"].to_pylist()[:50])
    queries = vectors.values.numpy() + 0.02 * rng.normal(size=(50, 1024))
    np.save(path.parent / "query.npy", queries[7])
    turn = iter(range(10**9))

    def similar():
        memory.search(queries[next(turn) % 50], 10)

    def hours():
        memory.rollups().count("block3", "glances")

    def read_month():
        return memory.rollups(*month).by("month").sum

    similar()
    rows = [
        ("top-10 search, warm, ms", median_ms(similar), "<= 20"),
        ("top-10 search, first in a process, ms",
         cold_ms(path, "memory.search(vector, 10)", "import lance"), "<= 60"),
        ("  the same with importing Lance, ms", cold_ms(path, "memory.search(vector, 10)"), ""),
        ("count of a module by hour, warm, ms", median_ms(hours), "<= 20"),
        ("opening and counting, fresh process, ms",
         cold_ms(path, f"Memory({str(path)!r}).rollups().count('block3')"), ""),
        ("one month's roll-ups with sums, warm, ms", median_ms(read_month), "<= 10"),
        ("  the same, first in a process, ms",
         cold_ms(path, f"memory.rollups{month}.by('month').sum"), "<= 10"),
    ]  # fmt: skip
    for noise in (0.5, 3.0):
        what = f"  share of the ten found that are truly the best, noise {noise} of the sketch"
        rows.append((what, recall_of_search(memory, noise), "1" if noise < 1 else ""))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--glances", type=int, default=200_000)
    parser.add_argument("--encoded", type=int, default=20_000)
    parser.add_argument("--path", type=Path, help="where to build (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.path or Path(tempfile.mkdtemp(prefix="recollect-scale-"))
    path = folder / "scale.recollect"
    try:
        if not path.exists():
            memory = Memory(path, sketcher=Sketcher())
            rates, closing = fill(memory, options.glances, options.encoded)
        else:
            rates, closing = [float("nan")] * 2, float("nan")
        info = Memory(path, read_only=True).info()
        parts = info["bytes_by_part"]
        kept = parts["reservoir"] + parts["priors"]
        rows = [
            ("adding with encoding, glances/s", rates[0], ">= 2000"),
            ("adding ready sketches, glances/s", rates[1], ""),
            ("closing, s", closing, ""),
            ("bytes without reservoir and priors, MB", (info["bytes"] - kept) / 1e6, "<= 260"),
            *((f"  {name}, MB", size / 1e6, "") for name, size in parts.items()),
            ("bytes per glance, all counted", info["bytes_per_glance"], ""),
            *measure(path, options.glances),
        ]
        table = Table(title=f"{info['glances']:,} glances of {info['recipe']['dim']} int8 numbers")
        for name in ("what", "measured", "aim"):
            table.add_column(name, justify="left" if name == "what" else "right")
        for what, value, aim in rows:
            table.add_row(what, f"{value:,.4g}", aim)
        Console(width=100).print(table)
    finally:
        (folder / "query.npy").unlink(missing_ok=True)
        if options.path is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
