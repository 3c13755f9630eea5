"""How a view is scored: a memory of sketches is asked, the truth is the trace itself.

Shape letters: B glances, m numbers of an attribute, W windows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._answers import Z90
from recollect.memory import Memory
from recollect.recall import similar
from recollect.sketching import Prior, Sketcher
from recollect.studies.views.row import ViewRow
from recollect.tracing import Trace

__all__ = [
    "AttributeScore", "CountScore", "Likeness", "attributes_read", "counted", "overhead_of",
    "raw_vectors", "score",
]  # fmt: skip

FloatArray = npt.NDArray[np.float64]
WINDOW, NEAREST, QUERIES, DECODED = 20, 10, 40, 60
# Variance, over the mean square, below which an attribute is the same in every glance.
FIXED = 1e-9


@dataclass(frozen=True)
class Likeness:
    """What similarity is judged by.

    Args:
        labels: (B,) of the glances: two glances are alike if theirs are the same.
        raw: (B, n) what a rival that keeps everything would compare.
        path: part of the glance that is searched for; None: all of it.
    """

    labels: npt.NDArray[Any]
    raw: Tensor
    path: str | None = None


def score(
    name: str,
    past: Trace,
    now: Trace,
    likeness: Sequence[Likeness],
    *,
    dim: int,
    seed: int,
    overhead: float,
    notes: str,
) -> ViewRow:
    """Return a view's row.

    Args:
        name: of the view.
        past: glances that fix scales and prior.
        now: glances that are stored, and asked for.
        likeness: by which labels similarity is judged, averaged over all.
        dim: numbers of a sketch, int8.
        seed: of operators and queries.
        overhead: of watching, measured before.
        notes: what the reader should know.
    """
    sketcher = Sketcher(dim=dim, seed=seed)
    sketcher.admit(past, measure_scales=True)
    prior = Prior.fit(past)
    counts = counted(sketcher, prior, now)
    read = attributes_read(sketcher, prior, past, now)
    with TemporaryDirectory() as folder, _stored(Path(folder), sketcher, now) as memory:
        found = np.array([_similarity(memory, now, one, seed) for one in likeness]).mean(0)
        modules = len(memory.modules.names)
    raw = sum(c.attributes.numel() for c in now.columns.values()) * 4 / len(now)
    return ViewRow(
        name, modules, len(now), counts.coverage, counts.error, read.r2, read.coverage,
        float(found[0]), overhead, notes, attribute_r2_mean=read.r2_mean,
        similarity_chance=float(found[2]), similarity_raw=float(found[1]),
        count_ideal=counts.ideal, count_prior=counts.prior, constant=counts.constant,
        fixed=read.fixed, bytes=dim + 2, raw_bytes=raw,
    )  # fmt: skip


def overhead_of(
    model: nn.Module,
    batch: Any,
    watch: Callable[[], AbstractContextManager[Any]],
    rounds: int = 7,
) -> float:
    """Return processor time of a watched forward over a plain one, less one: medians of pairs.

    Args:
        model: that runs.
        batch: its argument, or a tuple of them.
        watch: opens a ``capture`` of the model.
        rounds: pairs of runs.
    """
    args = batch if isinstance(batch, tuple) else (batch,)
    ratios = []
    with torch.no_grad():
        model(*args)
        for _ in range(rounds):
            begin = time.process_time()
            model(*args)
            plain = time.process_time() - begin
            with watch() as c:
                begin = time.process_time()
                model(*args)
                c.trace()
                ratios.append((time.process_time() - begin) / plain - 1)
    return float(np.median(ratios))


def raw_vectors(trace: Trace, families: Sequence[str] | None = None) -> Tensor:
    """Return (B, n) all attributes, module by module, each times the root of its weight.

    Several objects of one module in a glance are added.
    """
    parts = []
    for name in families if families is not None else sorted(trace.columns):
        c = trace.columns[name]
        k = len(c.members)
        into = torch.zeros(len(trace) * k, c.size)
        rows = torch.from_numpy(c.glance * k + c.member)
        weighed = c.attributes.cpu() * torch.from_numpy(c.weight).sqrt()[:, None]
        into.index_add_(0, rows, weighed)
        into = into.view(len(trace), -1)
        parts.append(into / into.std().clamp_min(1e-9) / into.shape[1] ** 0.5)
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class CountScore:
    """How well counts of windows are read; see ``ViewRow`` for the words."""

    coverage: float
    ideal: float
    error: float
    prior: float
    constant: int


def counted(sketcher: Sketcher, prior: Prior, now: Trace) -> CountScore:
    """Judge counts that are read from sums of the sketches of 20 glances each.

    Args:
        sketcher: that has admitted the modules.
        prior: what is usual; modules that it has never met are left out.
        now: glances, in windows of 20 as they come.
    """
    known = [m for m in now.modules if m in prior.modules]
    places = {m: i for i, m in enumerate(known)}
    usual = _true_counts(prior.sample, places) * WINDOW / len(prior.sample)
    estimates, stds, truths = [], [], []
    for start in range(0, len(now) - WINDOW + 1, WINDOW):
        window = now[start : start + WINDOW]
        read = sketcher.decode(sketcher.encode(window).sum(), prior=prior)
        _, estimate, std = read.count_estimates(known)
        estimates.append(np.maximum(estimate[0], 0.0))
        stds.append(std[0])
        truths.append(_true_counts(window, places))
    estimate, std, true = np.array(estimates), np.array(stds), np.array(truths)
    varies = true.std(0) > 0
    off, rival = np.abs(estimate - true).sum(), np.abs(usual - true).sum()
    inside, ideal = _held(estimate[:, varies], std[:, varies], true[:, varies])
    return CountScore(
        inside, ideal, float(off / true.sum()), float(rival / true.sum()), int((~varies).sum())
    )


def _held(estimate: FloatArray, std: FloatArray, true: FloatArray) -> tuple[float, float]:
    """Return what whole-numbered 90 % intervals hold, and what ideal ones of their width would.

    An interval of ``estimate +- 1.645 std`` is widened to hold the nearest whole number. Errors
    that are normal with this deviation lie inside with probability 0.9, or with
    ``P(|error| < 1/2)`` if that is more.
    """
    if not estimate.size:
        return math.nan, math.nan
    nearest, half = np.rint(estimate), Z90 * std
    low, high = np.fmin(estimate - half, nearest), np.fmax(estimate + half, nearest)
    alone = torch.special.erf(torch.from_numpy(0.5 / np.maximum(std, 1e-9) / 2**0.5)).numpy()
    return float(((true >= low) & (true <= high)).mean()), float(np.maximum(alone, 0.9).mean())


def _true_counts(trace: Trace, places: dict[str, int]) -> FloatArray:
    counts = np.zeros(len(places))
    for c in trace.columns.values():
        for member, n in zip(
            c.members, np.bincount(c.member, minlength=len(c.members)), strict=True
        ):
            if member in places:
                counts[places[member]] = n
    return counts


@dataclass(frozen=True)
class AttributeScore:
    """How well attributes of single glances are read; see ``ViewRow`` for the words."""

    r2: float
    r2_mean: float
    coverage: float
    fixed: int


def attributes_read(sketcher: Sketcher, prior: Prior, past: Trace, now: Trace) -> AttributeScore:
    """Judge attributes that are decoded from single sketches, module by module.

    A module whose attribute is the same in every glance (the vector of one word) has no variance
    to be explained, and no R2: it is counted, and its error bars are judged.

    Args:
        sketcher: that has admitted the modules.
        prior: fitted on ``past``.
        past: whose mean is the rival.
        now: glances; the first 60 are judged, and modules with ten objects there.
    """
    now = now[: min(DECODED, len(now))]
    decoded = sketcher.decode(sketcher.encode(now), prior=prior)
    ours, rival, inside, fixed = [], [], [], 0
    for module in now.modules:
        true = now.objects(module).attributes.cpu().double()
        if len(true) < 10 or module not in past.modules:
            continue
        found = decoded.objects(module)
        error = found.attributes.cpu().double() - true
        assert found.std is not None
        inside.append((error.abs() <= Z90 * found.std.cpu().double() + 1e-6).flatten())
        spread = float((true - true.mean(0)).square().sum())
        if spread <= FIXED * float(true.square().sum()):
            fixed += 1
            continue
        usual = past.objects(module).attributes.cpu().double().mean(0)
        ours.append(1 - float(error.square().sum()) / spread)
        rival.append(1 - float((true - usual).square().sum()) / spread)
    return AttributeScore(
        float(np.median(ours)) if ours else math.nan,
        float(np.median(rival)) if rival else math.nan,
        float(torch.cat(inside).double().mean()) if inside else math.nan,
        fixed,
    )


def _stored(folder: Path, sketcher: Sketcher, now: Trace) -> Memory:
    """Store the glances, twenty to an hour."""
    memory = Memory(folder / "memory", sketcher=sketcher, reservoir=0)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(minutes=3 * i) for i in range(len(now))]
    memory.add(now, time=times, source="study", ids=list(range(1, len(now) + 1)))
    return memory


def _similarity(
    memory: Memory, now: Trace, one: Likeness, seed: int
) -> tuple[float, float, float]:
    """Return the share of the nearest with the query's label: sketches, raw, chance."""
    rng = np.random.default_rng([seed, 5])
    chosen = rng.choice(len(now), min(QUERIES, len(now)), replace=False)
    raw = nn.functional.normalize(one.raw.double(), dim=1)
    found = []
    for i in chosen.tolist():
        # The queried glance itself is the trace's: the part is taken from what was seen.
        query: Any = i + 1 if one.path is None else now[i]
        near = np.array(similar(memory, query, k=NEAREST + 1, path=one.path)["glance"]) - 1
        near = near[near != i][:NEAREST]
        cosine = raw @ raw[i]
        cosine[i] = -2
        best = cosine.topk(NEAREST).indices.numpy()
        same = one.labels == one.labels[i]
        found.append((same[near].mean(), same[best].mean(), (same.sum() - 1) / (len(now) - 1)))
    sketch, other, chance = np.mean(found, axis=0).tolist()
    return sketch, other, chance
