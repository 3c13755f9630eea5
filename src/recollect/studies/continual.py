"""A drifting year: a small network goes on learning from its memory, or from kept pictures.

A camera sees one handwritten digit at a time, somewhere in a picture of 24 x 24; through the year
the digits turn by 120 degrees, and each month some classes are commoner than others. A network
that was trained on other, upright digits looks at every picture, and its 64 features are
sketched. Month by month a small head is trained further, from the memory in one of three orders,
or from a reservoir of whole pictures that takes as many bytes as the memory on disk does.

Shape letters: N pictures, d numbers of a sketch or of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.recall import label_next
from recollect.replay import MemorySampler, Remembered
from recollect.selection import Random, Selection, Uncertain
from recollect.studies.drifting_year import (
    A_MONTH,
    BATCH,
    DIM,
    FEATURES,
    MONTHS,
    SIDE,
    Year,
    features,
    make_year,
    step,
)
from recollect.studies.learning_figures import draw_year as draw
from recollect.studies.running import Journal

__all__ = ["Year", "draw", "learn", "make_year", "study"]

PICTURE_BYTES = SIDE * SIDE + 1  # one byte a pixel, one for the label
Ints = npt.NDArray[np.int64]


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return the accuracy of each way to go on learning: this month's, and the whole year's.

    Args:
        quick: 2 seeds instead of 10.
        data: not used; the digits come with scikit-learn.
        keep: folder for the seeds run so far, from which a run that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    seeds = range(2 if quick else 10)
    journal = Journal(keep, "continual")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    kept: dict[str, str] = {}
    for seed in seeds:
        lived = journal.row({"seed": seed}, partial(_live, seed))
        assert lived is not None
        kept = lived["kept"]
        for part, method, now, whole in lived["runs"]:
            found.setdefault((part, method), []).append((now, whole))
    rows = [_row(*key, kept, runs) for key, runs in found.items()]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"learning through a drifting year, {len(seeds)} seeds",
        notes=[
            "this month: accuracy on pictures of each month, just after training on it, mean of "
            "the 12; whole year: of all months at the end of the year",
            "with few labels, ten of the month's hundred are chosen each month, and all labels "
            "so far are replayed uniformly from the memory, 20 steps a month",
            "the bytes of the memory are all that is on disk: rows, roll-ups, tables",
        ],
    )


def _live(seed: int) -> dict[str, Any]:
    """Live through a year with every method: what was kept, and (part, method, now, year)."""
    with TemporaryDirectory() as folder:
        year = make_year(folder, seed)
        pictures = min(year.bytes // PICTURE_BYTES, MONTHS * A_MONTH)
        kept = {
            "memory": f"{MONTHS * A_MONTH} sketches, {year.bytes:,} bytes",
            "reservoir": f"{pictures} pictures, {pictures * PICTURE_BYTES:,} bytes",
            "nothing": "this month's pictures",
        }
        runs = [[*key, *run()] for key, run in _runs(year, pictures, seed).items()]
    return {"kept": kept, "runs": runs}


def _row(
    part: str, method: str, kept: Mapping[str, str], runs: Sequence[tuple[float, ...]]
) -> Any:
    now, year = np.array(runs).T
    few = len(runs) < 2
    return {
        "part": part,
        "learned from": method,
        "kept": kept[method.split(",")[0].split(" ")[0]],
        "this month": float(now.mean()),
        "sd": "-" if few else float(now.std(ddof=1)),
        "whole year": float(year.mean()),
        "year sd": "-" if few else float(year.std(ddof=1)),
        "seeds": len(runs),
    }


def _runs(
    year: Year, pictures: int, seed: int
) -> dict[tuple[str, str], Callable[[], tuple[float, float]]]:
    """Return what to run: (part, method) -> (accuracy this month, accuracy of the year)."""
    runs: dict[tuple[str, str], Callable[[], tuple[float, float]]] = {}
    for steps in (5, 20, 80):
        part, replayed = f"all labels, {steps} steps a month", partial(learn, year, seed)
        for order in ("uniform", "reverse", "surprise"):
            runs[part, f"memory, {order}"] = partial(replayed, steps=steps, order=order)
        kept = partial(from_pictures, year, seed)
        runs[part, "reservoir, head"] = partial(kept, pictures, steps, False)
        runs[part, "reservoir, whole network"] = partial(kept, pictures, steps, True)
        runs[part, "nothing kept, head"] = partial(kept, 0, steps, False)
    for name in CHOICES:
        part = "120 labels, 20 steps a month"
        runs[part, f"memory, labels by {name}"] = partial(learn, year, seed, labels=name)
    return runs


def learn(
    year: Year, seed: int, *, steps: int = 20, order: str = "uniform", labels: str | None = None
) -> tuple[float, float]:
    """Train a head month by month from the memory; return accuracy this month and of the year.

    Args:
        year: what happens.
        seed: of the head and of the order.
        steps: gradient steps a month.
        order: of ``MemorySampler``.
        labels: who chooses ten labels a month (a name of ``CHOICES``); None: all are known.
    """
    torch.manual_seed(seed_of(seed, "head"))
    head = _head(DIM)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    test = [year.sketched(x) for x in year.test]
    targets: dict[int, int] = {}
    weights: dict[int, float] = {}
    now = []
    for month in range(MONTHS):
        first = month * A_MONTH
        if labels is None:
            targets |= {first + n: int(c) for n, c in enumerate(year.classes[month])}
        else:
            for i, w in CHOICES[labels](year, head, targets, month, seed):
                targets[i], weights[i] = int(year.classes[month, i - first]), w
        remembered = Remembered(year.memory, targets)

        @torch.no_grad()
        def surprise(ids: list[int], seen: Remembered = remembered) -> Tensor:
            x, y = seen.batch(ids)
            return F.cross_entropy(head(x), y, reduction="none")

        sampler = MemorySampler(
            year.memory, order, BATCH, surprise=surprise, num_batches=steps, ids=targets,
            seed=seed_of(seed, month),
        )  # fmt: skip
        for ids in sampler:
            x, y = remembered.batch(ids)
            by_weight = torch.tensor([weights.get(i, 1.0) for i in ids])
            step(optimizer, head(x), y, by_weight)
        now.append(_accuracy(head(test[month]), year.test_classes[month]))
    end = [_accuracy(head(x), y) for x, y in zip(test, year.test_classes, strict=True)]
    return float(np.mean(now)), float(np.mean(end))


Chooser = Callable[[Year, nn.Module, Mapping[int, int], int, int], list[tuple[int, float]]]


@torch.no_grad()
def _believed(year: Year, head: nn.Module, month: int) -> npt.NDArray[np.float64]:
    """Return what the head believes of a month's glances: (100, 10)."""
    ids = range(month * A_MONTH, (month + 1) * A_MONTH)
    found = torch.softmax(head(year.memory.sketches(ids=ids).values).double(), 1)
    return np.asarray(found.numpy())


def _by_iwes(
    year: Year, head: nn.Module, targets: Mapping[int, int], month: int, seed: int
) -> list[tuple[int, float]]:
    """Ten glances of the month by ``recall.label_next`` over what the head believes."""
    since = f"2026-{month + 1:02d}-01T00:00Z"
    until = f"2026-{month + 2:02d}-01T00:00Z" if month < 11 else None
    found = label_next(
        year.memory, 10, _believed(year, head, month), since=since, until=until,
        seed=seed_of(seed, "labels", month),
    )  # fmt: skip
    return list(zip(found["id"], found["weight"], strict=True))


def _by(strategy: Any) -> Chooser:
    """Ten glances of the month by a strategy of ``recollect.selection``, without weights."""

    def choose(
        year: Year, head: nn.Module, targets: Mapping[int, int], month: int, seed: int
    ) -> list[tuple[int, float]]:
        found: Selection = strategy.select(
            10, probabilities=_believed(year, head, month), seed=seed_of(seed, "labels", month)
        )
        return [(int(i) + month * A_MONTH, 1.0) for i in found.indices]

    return choose


def _unweighted(chooser: Chooser) -> Chooser:
    """The same glances, all of weight one."""
    return lambda *given: [(i, 1.0) for i, _ in chooser(*given)]


CHOICES: dict[str, Chooser] = {
    "chance": _by(Random()),
    "margin": _by(Uncertain("margin")),
    "IWeS": _by_iwes,
    "IWeS, no weights": _unweighted(_by_iwes),
}


def from_pictures(
    year: Year, seed: int, capacity: int, steps: int, whole: bool
) -> tuple[float, float]:
    """Train from a reservoir of pictures (capacity 0: this month's only); as ``learn``.

    Args:
        year: what happens.
        seed: of the head, the reservoir and the batches.
        capacity: pictures kept, each as likely as any other so far.
        steps: gradient steps a month.
        whole: whether the network is trained as well as the head.
    """
    torch.manual_seed(seed_of(seed, "head"))
    body, head = deepcopy(year.network), _head(FEATURES)
    model = nn.Sequential(body, head)
    learned = model.parameters() if whole else head.parameters()
    optimizer = torch.optim.Adam(learned, 3e-3)
    rng = np.random.default_rng(seed_of(seed, "reservoir"))
    x, y = year.pictures.flatten(0, 1), year.classes.flatten()
    fixed = None if whole else features(body, x)
    kept: Ints = np.empty(0, np.int64)
    now = []
    for month in range(MONTHS):
        fresh = np.arange(month * A_MONTH, (month + 1) * A_MONTH)
        kept = _reservoir(kept, fresh, capacity, rng) if capacity else fresh
        for _ in range(steps):
            rows = torch.from_numpy(rng.choice(kept, min(BATCH, len(kept)), replace=False))
            out = model(x[rows]) if fixed is None else head(fixed[rows])
            step(optimizer, out, y[rows], torch.ones(len(rows)))
        now.append(_tested(model, year, month))
    return float(np.mean(now)), float(np.mean([_tested(model, year, m) for m in range(MONTHS)]))


def _reservoir(kept: Ints, fresh: Ints, capacity: int, rng: np.random.Generator) -> Ints:
    """Take in more pictures so that all seen so far are equally likely to be kept."""
    found, seen = kept.tolist(), int(fresh[0])
    for row in fresh.tolist():
        if len(found) < capacity:
            found.append(row)
        elif (at := int(rng.integers(seen + 1))) < capacity:
            found[at] = row
        seen += 1
    return np.array(found, np.int64)


def _head(d: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, 10))


@torch.no_grad()
def _tested(model: nn.Module, year: Year, month: int) -> float:
    return _accuracy(model(year.test[month]), year.test_classes[month])


def _accuracy(out: Tensor, y: Tensor) -> float:
    return float((out.argmax(1) == y).float().mean())
