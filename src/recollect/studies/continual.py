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
from dataclasses import dataclass
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
from recollect.generative import rotate
from recollect.memory import Memory
from recollect.recall import label_next
from recollect.replay import MemorySampler, Remembered
from recollect.selection import Random, Selection, Uncertain
from recollect.sketching import Sketcher
from recollect.studies.learning_figures import draw_year as draw
from recollect.tracing import Trace

__all__ = ["Year", "draw", "learn", "make_year", "study"]

MONTHS, A_MONTH, TESTED = 12, 100, 60
SIDE, FEATURES, DIM = 24, 64, 64
BATCH = 32
PICTURE_BYTES = SIDE * SIDE + 1  # one byte a pixel, one for the label
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Year:
    """Pictures by month, what a watching network makes of them, and the memory of it.

    Attributes:
        pictures: (12, 100, 1, 24, 24) seen, in the order of time.
        classes: (12, 100).
        test: (12, 60, 1, 24, 24) of the same months, not seen.
        test_classes: (12, 60).
        network: pictures (N, 1, 24, 24) -> features (N, 64).
        memory: of the pictures seen; glance m * 100 + n is picture n of month m.
        bytes: of the memory on disk.
    """

    pictures: Tensor
    classes: Tensor
    test: Tensor
    test_classes: Tensor
    network: nn.Module
    memory: Memory
    bytes: int

    @torch.no_grad()
    def sketched(self, pictures: Tensor) -> Tensor:
        """Return what the memory would keep of pictures: (N, d)."""
        return self.memory.sketcher.encode(glances(self.network, pictures)).values


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return the accuracy of each way to go on learning: this month's, and the whole year's.

    Args:
        quick: 2 seeds instead of 10.
        data: not used; the digits come with scikit-learn.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    seeds = range(2 if quick else 10)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    kept: dict[str, str] = {}
    for seed in seeds:
        with TemporaryDirectory() as folder:
            year = make_year(folder, seed)
            pictures = min(year.bytes // PICTURE_BYTES, MONTHS * A_MONTH)
            kept = {
                "memory": f"{MONTHS * A_MONTH} sketches, {year.bytes:,} bytes",
                "reservoir": f"{pictures} pictures, {pictures * PICTURE_BYTES:,} bytes",
                "nothing": "this month's pictures",
            }
            for key, run in _runs(year, pictures, seed).items():
                found.setdefault(key, []).append(run())
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
            _step(optimizer, head(x), y, by_weight)
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
    fixed = None if whole else _features(body, x)
    kept: Ints = np.empty(0, np.int64)
    now = []
    for month in range(MONTHS):
        fresh = np.arange(month * A_MONTH, (month + 1) * A_MONTH)
        kept = _reservoir(kept, fresh, capacity, rng) if capacity else fresh
        for _ in range(steps):
            rows = torch.from_numpy(rng.choice(kept, min(BATCH, len(kept)), replace=False))
            out = model(x[rows]) if fixed is None else head(fixed[rows])
            _step(optimizer, out, y[rows], torch.ones(len(rows)))
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


def _step(optimizer: torch.optim.Optimizer, out: Tensor, y: Tensor, w: Tensor) -> None:
    optimizer.zero_grad()
    loss = (F.cross_entropy(out, y, reduction="none") * w).sum() / w.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _tested(model: nn.Module, year: Year, month: int) -> float:
    return _accuracy(model(year.test[month]), year.test_classes[month])


def _accuracy(out: Tensor, y: Tensor) -> float:
    return float((out.argmax(1) == y).float().mean())


# -- the year ---------------------------------------------------------------------------------


def make_year(folder: str, seed: int) -> Year:
    """Live through a year, and remember it in a folder.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    digits, classes = _digits(seed)
    network = _train(digits[:400], classes[:400], seed)
    rng = np.random.default_rng(seed_of(seed, "year"))
    seen = [_month(digits[400:1200], classes[400:1200], m, A_MONTH, rng) for m in range(MONTHS)]
    test = [_month(digits[1200:], classes[1200:], m, TESTED, rng) for m in range(MONTHS)]
    memory = Memory(f"{folder}/year", Sketcher(dim=DIM, seed=seed), reservoir=0)
    with memory:
        for month, (x, _) in enumerate(seen):
            start = np.datetime64(f"2026-{month + 1:02d}-10T08:00")
            times = start + 6 * np.arange(A_MONTH) * np.timedelta64(1, "m")
            ids = range(month * A_MONTH, (month + 1) * A_MONTH)
            memory.add(glances(network, x), times, ids=ids)
        memory.compact()
    size = int(memory.info()["bytes"])
    x, y = (torch.stack(part) for part in zip(*seen, strict=True))
    x_test, y_test = (torch.stack(part) for part in zip(*test, strict=True))
    return Year(x, y, x_test, y_test, network, memory, size)


def glances(network: nn.Module, pictures: Tensor) -> Trace:
    """Return what the network makes of pictures: one object a glance, its features."""
    return Trace.from_columns({"features": _features(network, pictures)})


@torch.no_grad()
def _features(network: nn.Module, pictures: Tensor) -> Tensor:
    return torch.as_tensor(network(pictures))


def _month(
    digits: Tensor, classes: Tensor, month: int, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures (count, 1, 24, 24) and classes of one month: turned, and unbalanced."""
    common = np.exp(1.5 * np.cos(2 * np.pi * (np.arange(10) / 10 - month / MONTHS)))
    chance = common[classes.numpy()]
    rows = torch.from_numpy(rng.choice(len(digits), count, p=chance / chance.sum()))
    angle = 120 * month / (MONTHS - 1)
    return _placed(rotate(digits[rows], angle), rng), classes[rows]


def _placed(digits: Tensor, rng: np.random.Generator) -> Tensor:
    """Put digits (N, 1, 8, 8), twice as large, somewhere in noisy pictures (N, 1, 24, 24)."""
    large = F.interpolate(digits, scale_factor=2, mode="bilinear")
    noise = 0.2 * torch.from_numpy(rng.random((len(digits), 1, SIDE, SIDE))).float()
    for n, (top, left) in enumerate(rng.integers(0, SIDE - 15, (len(digits), 2))):
        noise[n, :, top : top + 16, left : left + 16] += large[n]
    return noise.clamp(0, 1)


def _train(digits: Tensor, classes: Tensor, seed: int, epochs: int = 12) -> nn.Module:
    """Train a network to read upright digits, and return it up to its 64 features."""
    rng = np.random.default_rng(seed_of(seed, "before the year"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "network"))
        body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(32, FEATURES, 3, 2, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        )  # fmt: skip
        model = nn.Sequential(body, nn.Linear(FEATURES, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(epochs):
            x = _placed(digits, rng)
            order = torch.randperm(len(x))
            for rows in (order[i : i + BATCH] for i in range(0, len(x), BATCH)):
                _step(optimizer, model(x[rows]), classes[rows], torch.ones(len(rows)))
    return body.eval()


def _digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits in random order: (1797, 1, 8, 8) in [0, 1], and (1797,)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits()
    order = np.random.default_rng(seed_of(seed, "digits")).permutation(len(found.target))
    x = torch.from_numpy(found.images[order] / 16).float()[:, None]
    return x, torch.from_numpy(found.target[order]).long()
