"""What the rivals are judged by: one row of the table for each code and size.

* R2 within modules: ``1 - sum |x - read|^2 / sum |x - mean of its module|^2``, over all objects;
  for a static network the median over its modules.
* count error: mean absolute error of a module's count in a glance, without the list of modules.
* average precision: the glances that hold an object of module M near a given one (the nearest
  2 %, five at least), ranked by the distance of what the code is read to hold; mean over the
  questions. Probe precision: the same, ranked by one product of the code with a vector, without
  reading anything and without the list of modules.
* day error: the mean attribute of a day from one code of the same bytes, as a share of how far
  the day is from the usual (1 is knowing nothing); where objects come and go also the error of
  the shares of modules, summed.
* microseconds to encode a glance, to read what a question needs of one glance, and to probe it.

Shape letters: B glances, P modules, m numbers of an attribute.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.studies.rivals.dynamic import DynamicCode, Scenes
from recollect.studies.rivals.static import Glances, StaticCode

__all__ = ["COLUMNS", "average_precision", "judge_dynamic", "judge_static"]

COLUMNS = (
    "R2 within modules", "count error", "average precision", "probe precision",
    "day: shares", "day: means", "encode us", "read us", "probe us",
)  # fmt: skip
Row = dict[str, float | None]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def average_precision(score: npt.NDArray[Any], hits: Bools) -> float:
    """Return the mean precision at the hits, best score first.

    Example:
        >>> found = average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True]))
        >>> round(found, 3)
        0.833
    """
    found = hits[np.argsort(-score, kind="stable")]
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    return float(precision[found].mean())


def _nearest(distance: npt.NDArray[Any], total: int) -> Bools:
    """Mark the nearest 2 % of the glances, five at least."""
    number = min(max(5, total // 50), len(distance))
    near: Bools = distance <= np.partition(distance, number - 1)[number - 1]
    return near


def judge_static(
    code: StaticCode, fit: Glances, judged: Glances, days: npt.NDArray[np.int64], questions: int
) -> Row:
    """Judge a code on a static network."""
    whole = slice(0, judged.x.shape[1])
    reader = getattr(code, "read_all", lambda codes: code.read(codes, whole))
    # What is made once for all glances (operators, factors) is made before the clock starts.
    reader(code.encode(Glances(judged.trace[:8], judged.scales)))
    start = time.process_time()
    codes = code.encode(judged)
    encode = (time.process_time() - start) / len(judged)
    start = time.process_time()
    read = reader(codes)
    once = time.process_time() - start
    r2 = []
    for where in judged.where.values():
        x = judged.x[:, where]
        rest = (x - read[:, where]).square().sum()
        r2.append(1 - float(rest / (x - x.mean(0)).square().sum().clamp_min(1e-12)))
    precision, seconds = [], []
    rng = np.random.default_rng(0)
    for _ in range(questions):
        where = judged.where[judged.names[int(rng.integers(len(judged.names)))]]
        asked = judged.x[int(rng.integers(len(judged))), where]
        hits = _nearest((judged.x[:, where] - asked).square().sum(1).numpy(), len(judged))
        start = time.process_time()
        score = -(read[:, where] - asked).square().sum(1)
        seconds.append(time.process_time() - start)
        precision.append(average_precision(score.numpy(), hits))
    # Reading one module of every code is part of a question; all of them were read at once.
    query = float(np.mean(seconds)) + once / len(judged.names)
    return {
        "R2 within modules": float(np.median(r2)),
        "count error": None,
        "average precision": float(np.mean(precision)),
        "probe precision": None,
        "day: shares": None,
        "day: means": _static_days(code, codes, fit, judged, days),
        "encode us": 1e6 * encode,
        "read us": 1e6 * query / len(judged),
        "probe us": None,
    }


def _static_days(
    code: StaticCode, codes: Any, fit: Glances, judged: Glances, days: npt.NDArray[np.int64]
) -> float | None:
    """Error of the days' means as a share of their distance from what is usual."""
    usual, off, far = fit.x.mean(0), 0.0, 0.0
    for day in np.unique(days):
        rows = torch.from_numpy(np.flatnonzero(days == day))
        found = code.day(codes, rows)
        if found is None:
            return None
        true: Tensor = judged.x[rows].mean(0)
        off += float((found - true).square().sum())
        far += float((true - usual).square().sum())
    return float((off / far) ** 0.5)


def judge_dynamic(
    code: DynamicCode, judged: Scenes, days: npt.NDArray[np.int64], questions: int
) -> Row:
    """Judge a code where objects come and go."""
    few = judged.like(judged.trace[:8])
    code.read(code.encode(few), few)
    start = time.process_time()
    codes = code.encode(judged)
    encode = (time.process_time() - start) / len(judged)
    row: Row = dict.fromkeys(COLUMNS)
    start = time.process_time()
    read = code.read(codes, judged)
    row["read us"] = 1e6 * (time.process_time() - start) / len(judged)
    if read is not None:
        own = np.stack([
            judged.x[judged.kind == p].mean(0) if (judged.kind == p).any()
            else np.zeros(judged.x.shape[1]) for p in range(len(judged.names))
        ])  # fmt: skip
        spread = ((judged.x - own[judged.kind]) ** 2).sum()
        row["R2 within modules"] = 1 - float(((judged.x - read) ** 2).sum() / spread)
    counts = code.counts(codes)
    if counts is not None:
        row["count error"] = float(np.abs(np.round(counts) - judged.counts).mean())
    for name, found in _precisions(code, codes, judged, read, questions).items():
        row[name] = found
    row["encode us"] = 1e6 * encode
    row["day: shares"], row["day: means"] = _dynamic_days(code, codes, judged, days)
    return row


def _precisions(
    code: DynamicCode, codes: Any, judged: Scenes, read: Floats | None, questions: int
) -> Row:
    """Average precision by reading and by probing, and the microseconds of a probe."""
    rng = np.random.default_rng(0)
    reading, probing, seconds = [], [], []

    def nearest(table: Floats, rows: npt.NDArray[Any], x: Floats) -> npt.NDArray[Any]:
        near = np.full(len(judged), np.inf)
        np.minimum.at(near, judged.glance[rows], ((table[rows] - x) ** 2).sum(1))
        return near

    for _ in range(questions):
        asked = int(rng.integers(len(judged.kind)))
        kind, x = int(judged.kind[asked]), judged.x[asked]
        rows = np.flatnonzero(judged.kind == kind)
        hits = _nearest(nearest(judged.x, rows, x), len(judged))
        if read is not None:
            reading.append(average_precision(-nearest(read, rows, x), hits))
        start = time.process_time()
        score = code.probe(codes, kind, x)
        seconds.append(time.process_time() - start)
        if score is not None:
            probing.append(average_precision(score, hits))
    return {
        "average precision": float(np.mean(reading)) if reading else None,
        "probe precision": float(np.mean(probing)) if probing else None,
        "probe us": 1e6 * float(np.mean(seconds)) / len(judged) if probing else None,
    }


def _dynamic_days(
    code: DynamicCode, codes: Any, judged: Scenes, days: npt.NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """Error of the shares of modules (summed) and of their mean attributes, over the days."""
    shares, off, far = [], 0.0, 0.0
    for day in np.unique(days):
        rows = np.flatnonzero(days == day)
        found = code.day(codes, rows)
        if found is None:
            return None, None
        counts, means = found
        inside = np.isin(judged.glance, rows)
        true = np.bincount(judged.kind[inside], minlength=len(judged.names))
        positive = np.maximum(counts, 0)
        share = positive / max(positive.sum(), 1e-9)
        shares.append(float(np.abs(share - true / true.sum()).sum()))
        for p in np.flatnonzero(true >= 5):
            mean = judged.x[inside & (judged.kind == p)].mean(0)
            off += float(((means[p] - mean) ** 2).sum())
            far += float((mean**2).sum())
    return float(np.mean(shares)), float((off / max(far, 1e-12)) ** 0.5)
