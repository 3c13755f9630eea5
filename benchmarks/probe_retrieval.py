"""Does one product a sketch find the glances that hold a thing, and how fast?

20,000 glances of about six objects out of 64 modules; every module has 16 prototypes of 32
numbers (unit length), and an object is a prototype plus noise of half its length. A question is a
prototype; the hits are the glances that hold an object made from it (about 117). Judged: mean
average precision and the time of a question, from int8 sketches, with and without whitening.

The same questions are then put to a memory on disk, as a user puts them:
``recall.similar(memory, Object(...), whiten=True)``; a hit that is not among the first 500 counts
as never found, and the time is that of the whole answer.

    python -m benchmarks.probe_retrieval [--glances 20000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import show
from recollect import Memory, Object, Sketcher, Trace, recall
from recollect.sketching.probing import Prober
from recollect.studies.rivals.judging import average_precision

MODULES, PROTOTYPES, SIZE, NOISE = 64, 16, 32, 0.5
BARS = {256: 0.99, 512: 1.0, 1024: 1.0}
# Glances that are listed when precision is judged, and when time is.
LISTED, SHOWN = 500, 10
BAR_MS = 5


def repository(glances: int) -> tuple[Trace, np.ndarray, np.ndarray]:
    """Return the trace, the prototypes (P, 16, m), and which of them each glance holds."""
    rng = np.random.default_rng(0)
    prototypes = rng.standard_normal((MODULES, PROTOTYPES, SIZE)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    present = rng.random((glances, MODULES)) < 6 / MODULES
    which = rng.integers(0, PROTOTYPES, (glances, MODULES))
    columns = {}
    for k in range(MODULES):
        glance = np.flatnonzero(present[:, k])
        noise = rng.standard_normal((len(glance), SIZE)).astype(np.float32)
        x = prototypes[k, which[glance, k]] + NOISE / SIZE**0.5 * noise
        columns[f"module/{k}"] = {"attributes": torch.from_numpy(x), "glance": glance}
    return (
        Trace.from_columns(columns, num_glances=glances),
        prototypes,
        np.where(present, which, -1),
    )


def ask_memory(
    trace: Trace, prototypes: np.ndarray, held: np.ndarray, asked: np.ndarray, dim: int
) -> tuple[float, float, float, float, float]:
    """Ask a memory on disk, opened anew.

    Returns:
        Mean average precision of the first ``LISTED``, plain and whitened, then milliseconds:
        processor and elapsed time of a whitened question (median), elapsed time of the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        with Memory(Path(folder) / "memory", Sketcher(dim=dim), reservoir=0) as memory:
            for start in range(0, len(trace), 5000):
                part = trace[start : start + 5000]
                ids = range(start, start + len(part))
                memory.add(part, time="2026-01-01T08:00Z", ids=ids)
        with Memory(Path(folder) / "memory") as memory:
            precision: dict[bool, list[float]] = {True: [], False: []}
            spent = []
            for k, j in asked:
                thing = Object(f"module/{k}", prototypes[k, j])
                before = time.process_time(), time.perf_counter()
                recall.similar(memory, thing, k=SHOWN, whiten=True)
                after = time.process_time(), time.perf_counter()
                spent.append([1e3 * (b - a) for a, b in zip(before, after, strict=True)])
                for whitened in (True, False):
                    found = recall.similar(memory, thing, k=LISTED, whiten=whitened)
                    hits = held[:, k] == j
                    hit = hits[np.asarray(found["glance"])]
                    share = (np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit]
                    precision[whitened].append(float(share.sum() / hits.sum()))
            processor, elapsed = np.median(np.array(spent), axis=0)
            plain, white = (float(np.mean(precision[w])) for w in (False, True))
            return plain, white, float(processor), float(elapsed), spent[0][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glances", type=int, default=20_000)
    parser.add_argument("--questions", type=int, default=100)
    given = parser.parse_args()
    trace, prototypes, held = repository(given.glances)
    rng = np.random.default_rng(1)
    asked = rng.integers(0, (MODULES, PROTOTYPES), (given.questions, 2))
    rows = []
    for dim in (128, 256, 512, 1024):
        sketcher = Sketcher(dim=dim)
        sketches = sketcher.encode(trace)
        prober = Prober(sketcher, sketches)
        precision: dict[bool, list[float]] = {True: [], False: []}
        seconds = []
        for k, j in asked:
            thing = Object(f"module/{k}", prototypes[k, j])
            for whitened in (True, False):
                start = time.process_time()
                score = prober.scores(sketches, thing, whitened=whitened)
                seconds.append(time.process_time() - start)
                precision[whitened].append(average_precision(score, held[:, k] == j))
        best = float(np.mean(precision[True]))
        bar = BARS.get(dim)
        rows.append(
            (f"{dim} bytes", f"{np.mean(precision[False]):.4f}", f"{best:.4f}",
             "-" if bar is None else bar,
             "-" if bar is None else ("yes" if round(best, 3) >= bar else "NO"),
             f"{1e3 * np.median(seconds):.2f}")
        )  # fmt: skip
    show(
        f"probes in {given.glances:,} glances: mean average precision, processor time a question",
        ("sketch", "plain", "whitened", "bar", "reached", "ms"),
        rows,
    )
    rows = []
    for dim in BARS:
        plain, white, *spent = ask_memory(trace, prototypes, held, asked, dim)
        good = round(white, 3) >= min(BARS[dim], 0.999) and spent[0] <= BAR_MS
        rows.append((f"{dim} bytes", f"{plain:.4f}", f"{white:.4f}", "yes" if good else "NO",
                     *(f"{s:.1f}" for s in spent)))  # fmt: skip
    show(
        f"recall.similar in a memory of {given.glances:,} glances on disk (bar: {BAR_MS} ms): "
        f"precision among the first {LISTED}, milliseconds of an answer of {SHOWN}",
        ("sketch", "plain", "whitened", "reached", "processor", "elapsed", "first elapsed"),
        rows,
    )


if __name__ == "__main__":
    main()
