"""Are 10,000 of 1,000,000 rows of 64 classes chosen in under 0.6 seconds?

Everything counts: the check that each row is a distribution, the criterion, the race. Tables are
float32, as a softmax gives them. The last row is the published loop written in Python, on its
first 200 rows, scaled to 10,000.

    OMP_NUM_THREADS=1 python -m benchmarks.selection_speed
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.tables import show
from recollect.selection import IWeS, Random, Uncertain

ROWS, CLASSES, CHOSEN, BAR = 1_000_000, 64, 10_000, 0.6


def softmax(rows: int, classes: int, seed: int) -> np.ndarray:
    """Random probabilities (rows, classes), float32, some sure and some not."""
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((rows, classes), dtype=np.float32)
    x *= draws.uniform(0.5, 4, (rows, 1)).astype(np.float32)
    np.exp(x, out=x)
    x /= x.sum(1, keepdims=True)
    return x


def published_loop(p: np.ndarray, k: int) -> float:
    """Seconds of drawing until k rows are accepted, one at a time."""
    generator, taken = np.random.default_rng(0), set()
    start = time.perf_counter()
    while len(taken) < k:
        i = int(generator.integers(len(p)))
        if i not in taken:
            row = p[i][p[i] > 0]
            if generator.random() < -float(np.sum(row * np.log(row))) / np.log(p.shape[1]):
                taken.add(i)
    return time.perf_counter() - start


def main() -> None:
    f, g = softmax(ROWS, CLASSES, 0), softmax(ROWS, CLASSES, 1)
    y = np.random.default_rng(2).integers(0, CLASSES, ROWS)
    before = np.arange(50_000)
    given = {"probabilities": f, "second": g, "labels": y, "chosen": before}
    strategies = {
        "IWeS entropy": (IWeS("entropy"), given),
        "IWeS entropy, exact weights": (IWeS("entropy", weights="exact"), given),
        "IWeS disagreement": (IWeS(), given),
        "IWeS disagreement, without labels": (IWeS(), {**given, "labels": None}),
        "margin": (Uncertain("margin"), given),
        "highest entropy": (Uncertain("entropy"), given),
        "random": (Random(), given),
    }
    rows = []
    for name, (strategy, arguments) in strategies.items():
        seconds = []
        for seed in range(5):
            start = time.perf_counter()
            strategy.select(CHOSEN, seed=seed, **arguments)
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        rows.append((name, f"{median:.3f}", BAR, "yes" if median < BAR else "NO"))
    loop = published_loop(f, 200) * CHOSEN / 200
    rows.append(("the loop in Python, entropy, scaled up", f"{loop:.3f}", "", ""))
    show(
        f"Choosing {CHOSEN:,} of {ROWS:,} rows of {CLASSES} classes: seconds, median of 5",
        ("method", "s", "bar", "met"),
        rows,
    )


if __name__ == "__main__":
    main()
