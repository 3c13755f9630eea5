"""Streams followed in 4 KB, whole and merged from shards, beside a reservoir sample of 4 KB."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.sketching.statistics import (
    Distinct,
    Entropy,
    Frequent,
    Quantiles,
    SecondMoment,
    Statistic,
    read_statistic,
)

__all__ = ["judged_stream"]

SHARDS = 4


def judged_stream(name: str, items: list[str]) -> list[dict[str, Any]]:
    """Errors over one stream, one row per statistic."""
    counts = Counter(items)
    f = np.array(list(counts.values()), dtype=np.float64)
    n = len(items)
    second, distinct = float((f**2).sum()), float(len(f))
    entropy = float(-(f / n * np.log(f / n)).sum())
    codes = _letters(items)
    kept = np.random.default_rng(0).permutation(n)[: _room(items)]
    sample = [items[i] for i in kept.tolist()]
    guess = _from_sample(sample, n)

    def worst(make: Callable[[], Statistic], error: Callable[[Any], float]) -> float:
        stream: Any = codes if make is Quantiles else items
        whole, merged = make(), make()
        whole.update(stream)
        for part in range(SHARDS):
            shard = make()
            shard.update(stream[part::SHARDS])
            merged.merge(read_statistic(shard.to_bytes()))
        return max(error(read_statistic(whole.to_bytes())), error(merged))

    def one(statistic: Any) -> float:
        return float(statistic.answer()["estimate"][0])

    bound = Quantiles()
    bound.update(codes)
    common = {w for w, _ in counts.most_common(5)}
    listed = {w for w, _ in Counter(sample).most_common(10)}
    table = [
        ("second moment", "part of it", worst(SecondMoment, lambda s: abs(one(s) / second - 1)),
         abs(guess["second"] / second - 1), 0.1),
        ("distinct items", "part of it", worst(Distinct, lambda s: abs(one(s) / distinct - 1)),
         abs(guess["distinct"] / distinct - 1), 0.05),
        ("entropy", "nats", worst(Entropy, lambda s: abs(one(s) - entropy)),
         abs(guess["entropy"] - entropy), 0.05),
        ("quantiles", "rank", worst(Quantiles, lambda s: _rank_error(s.rank, codes)),
         _rank_error(_ranks_of(codes[kept]), codes), bound.rank_error),
        ("five commonest", "lost",
         worst(Frequent, lambda s: len(common - set(s.answer(10)["item"]))),
         len(common - listed), 0),
    ]  # fmt: skip
    return [
        {
            "of": f"{name} ({n:,})",
            "statistic": statistic,
            "error in": measure,
            "ours": float(ours),
            "deviation": math.nan,
            "reservoir": float(rival),
            "decoded": math.nan,
            "usual": math.nan,
            "bar": float(bar),
        }
        for statistic, measure, ours, rival, bar in table
    ]


def _room(items: list[str]) -> int:
    """Items that 4 KB hold, each with a byte for its length."""
    return int(4096 / (1 + np.mean([len(i.encode()) for i in items[:10_000]])))


def _letters(items: list[str]) -> npt.NDArray[np.float32]:
    """Alphabetic order as numbers: the first three letters in base 128."""
    return np.array(
        [sum(min(ord(c), 127) << (14 - 7 * i) for i, c in enumerate(w[:3])) for w in items],
        dtype=np.float32,
    )


def _ranks_of(values: npt.NDArray[np.float32]) -> Callable[[float], float]:
    ordered = np.sort(values)
    return lambda at: float(np.searchsorted(ordered, at, side="right")) / len(ordered)


def _rank_error(rank: Callable[[float], float], codes: npt.NDArray[np.float32]) -> float:
    """Largest error of a rank over all values of the stream."""
    true = _ranks_of(codes)
    return max(abs(rank(v) - true(v)) for v in np.unique(codes).tolist())


def _from_sample(sample: list[str], n: int) -> dict[str, float]:
    """What a uniform sample says of the stream, by the usual corrections."""
    k = len(sample)
    f = np.array(list(Counter(sample).values()), dtype=np.float64)
    once, twice = float((f == 1).sum()), float((f == 2).sum())
    pairs = float((f * (f - 1)).sum()) / (k * (k - 1))
    return {
        "second": n + n * (n - 1) * pairs,
        "distinct": len(f) + once * (once - 1) / (2 * (twice + 1)),
        "entropy": float(-(f / k * np.log(f / k)).sum()) + (len(f) - 1) / (2 * k),
    }
