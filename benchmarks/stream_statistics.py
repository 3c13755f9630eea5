"""How well do stream statistics of 4 KB each know the words of a text, whole and in shards?

The words of every file under DATA/text; each statistic sees the whole stream, and, as shards,
four quarters of it that are written to bytes, read and merged.

    python -m benchmarks.stream_statistics --data DATA
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.tables import show
from recollect.sketching.statistics import (
    Distinct,
    Entropy,
    Frequent,
    Quantiles,
    SecondMoment,
    Statistic,
    read_statistic,
)

SHARDS = 4


def letters(words: list[str]) -> np.ndarray:
    """Alphabetic order as numbers: the first three letters in base 128."""
    return np.array(
        [sum(min(ord(c), 127) << (14 - 7 * i) for i, c in enumerate(w[:3])) for w in words],
        dtype=np.float32,
    )


def whole(make: Callable[[], Statistic], stream: list[str] | np.ndarray) -> Statistic:
    made = make()
    made.update(stream)
    return made


def shards(make: Callable[[], Statistic], stream: list[str] | np.ndarray) -> Statistic:
    merged = make()
    for part in range(SHARDS):
        merged.merge(read_statistic(whole(make, stream[part::SHARDS]).to_bytes()))
    return merged


def errors(words: list[str]) -> list[tuple[str, Callable, Callable[[Statistic], float], str]]:
    """Name, maker, error of a statistic, and its bar."""
    counts = Counter(words)
    f = np.array(list(counts.values()), dtype=float)
    share = f / f.sum()
    entropy, second = float(-(share * np.log(share)).sum()), float((f**2).sum())
    order = np.sort(letters(words))
    common = [w for w, _ in counts.most_common(10)]

    def estimate(s: Statistic) -> float:
        return float(s.answer()["estimate"][0])

    def rank_error(s: Statistic) -> float:
        assert isinstance(s, Quantiles)
        asked = np.unique(order)
        true = np.searchsorted(order, asked, side="right") / len(order)
        worst = max(abs(s.rank(a) - t) for a, t in zip(asked.tolist(), true, strict=True))
        return worst / s.rank_error

    def lost(s: Statistic) -> float:
        return float(len(set(common[:5]) - set(s.answer(10)["item"])))

    return [
        ("second moment", SecondMoment, lambda s: abs(estimate(s) / second - 1), "0.1"),
        ("distinct words", Distinct, lambda s: abs(estimate(s) / len(f) - 1), "0.05"),
        ("entropy, nats", Entropy, lambda s: abs(estimate(s) - entropy), "0.05"),
        ("rank error / its bound", Quantiles, rank_error, "1"),
        ("five commonest lost", Frequent, lost, "0"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    files = sorted((data / "text").glob("*.txt"))
    if not files:
        print(f"NO DATA: no text/*.txt in {data}; nothing was measured")
        return
    rows = []
    for path in files:
        words = path.read_text(encoding="utf-8").split()
        for name, make, error, bar in errors(words):
            stream = letters(words) if make is Quantiles else words
            start = time.perf_counter()
            one, merged = whole(make, stream), shards(make, stream)
            seconds = time.perf_counter() - start
            found = error(one), error(merged)
            rows.append(
                (f"{path.stem}: {name}", *found, bar,
                 "yes" if max(found) <= float(bar) else "NO", len(merged.to_bytes()),
                 f"{seconds:.1f}")
            )  # fmt: skip
    show(
        "Errors of stream statistics on words",
        ("statistic", "whole", f"{SHARDS} shards", "bar", "reached", "bytes", "seconds"),
        rows,
    )


if __name__ == "__main__":
    main()
