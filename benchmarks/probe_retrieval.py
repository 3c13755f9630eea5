"""Does one product a sketch find the glances that hold a thing, and how fast?

20,000 glances of about six objects out of 64 modules; every module has 16 prototypes of 32
numbers (unit length), and an object is a prototype plus noise of half its length. A question is a
prototype; the hits are the glances that hold an object made from it (about 117). Judged: mean
average precision and the time of a question, from int8 sketches, with and without whitening.

    python -m benchmarks.probe_retrieval [--glances 20000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from benchmarks.tables import show
from recollect import Object, Sketcher, Trace
from recollect.sketching.probing import Prober
from recollect.studies.rivals.judging import average_precision

MODULES, PROTOTYPES, SIZE, NOISE = 64, 16, 32, 0.5
BARS = {256: 0.99, 512: 1.0, 1024: 1.0}


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


if __name__ == "__main__":
    main()
