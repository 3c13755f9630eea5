"""How many steps of a stream does reverse replay take in a second, on one core?

A stream of random states is read in blocks through ``partial_fit`` (buffers of 100, gaps of 10),
beside recursive least squares over the same blocks. Set NUMBA_DISABLE_JIT=1 to see plain Python.
Then a stream larger than a given part of memory is read from a memory-mapped file.

    OMP_NUM_THREADS=1 python -m benchmarks.replay_speed [--file-gb 0.5]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.tables import show
from recollect.replay import SGDRER, RecursiveLeastSquares

STEPS = 400_000


def seconds(model: SGDRER | RecursiveLeastSquares, x: np.ndarray, block: int) -> float:
    """Best of three passes over the stream."""
    model.partial_fit(x[:1000])
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for first in range(0, len(x), block):
            model.partial_fit(x[first : first + block])
        best = min(best, time.perf_counter() - start)
    return float(best)


def from_file(gigabytes: float) -> tuple[float, float]:
    """Steps a second over a file, and the growth of resident memory in MB."""
    rows = int(gigabytes * 1e9 / 40)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.npy"
        made = np.lib.format.open_memmap(path, "w+", np.float64, (rows, 5))
        rng = np.random.default_rng(0)
        for first in range(0, rows, STEPS):
            made[first : first + STEPS] = rng.standard_normal((min(STEPS, rows - first), 5))
        made.flush()
        del made
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model, start = SGDRER(5), time.perf_counter()
        for first in range(0, rows, 100_000):
            # A new map for each block, so that pages already read are given back.
            model.partial_fit(np.load(path, mmap_mode="r")[first : first + 100_000])
        took = time.perf_counter() - start
        assert model.num_transitions_ == rows - 1
    return rows / took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file-gb", type=float, default=0.5)
    gigabytes = parser.parse_args().file_gb
    rng, rows = np.random.default_rng(0), []
    for dim in (2, 5, 20):
        x = rng.standard_normal((STEPS, dim))
        for block in (1_000, 10_000, 100_000, STEPS):
            models = SGDRER(dim), SGDRER(dim, link=0.5), RecursiveLeastSquares(dim)
            found = [STEPS / seconds(m, x, block) / 1e6 for m in models]
            rows.append((f"d = {dim}, blocks of {block:,}", *(f"{v:.1f}" for v in found)))
    show(
        "Million steps of the stream a second, one core",
        ("stream", "reverse replay", "leaky ReLU", "recursive least squares"),
        rows,
    )
    speed, grown = from_file(gigabytes)
    print(f"file of {gigabytes} GB: {speed / 1e6:.1f} million steps a second, +{grown:.0f} MB")


if __name__ == "__main__":
    main()
