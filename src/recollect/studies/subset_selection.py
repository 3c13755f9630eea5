"""Subset selection: how many labels do the work of all, and who chooses them best.

Handwritten digits in three pools: as they are; with a fifth of the labels wrong; and unbalanced
(classes 0 to 4 six times over as near-duplicates, the others cut to 40 %). Two families of models,
a logistic regression and a small convolutional network, are trained on rows chosen by each method
in turn, always from the start, and judged on clean, balanced pictures kept apart.

Shape letters: N pictures of the pool, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.selection import (
    Badge,
    FacilityLocation,
    IWeS,
    KCenter,
    Random,
    Selection,
    Uncertain,
    WeightedLoss,
    grow,
)

__all__ = ["study"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
POOLS = ("clean", "noisy", "imbalanced")
FAMILIES = ("logistic", "convolutional")
SIZES = (40, 120, 200, 280, 400, 560)
QUICK = (40, 120, 280, 400)
JUDGED = 280  # labels at which the methods are compared


class Arriving:
    """IWeS where rows arrive one at a time: each is accepted or let go as it comes by."""

    def __init__(self, inner: IWeS) -> None:
        self.inner, self.needs = inner, inner.needs
        self.place, self.laps = 0, 0

    def select(self, k: int, *, chosen: Any, seed: int, **given: Any) -> Selection:
        """Toss for the rows as they arrive until k are accepted; after the last, start over."""
        given.pop("features")
        p = self.inner.acceptance(**given)
        p[chosen] = 0
        order = np.random.default_rng(0).permutation(len(p))
        tosses = np.random.default_rng(seed)
        rows: list[int] = []
        while len(rows) < k:
            coming = order[self.place :]
            hits = np.flatnonzero(tosses.random(len(coming)) < p[coming])[: k - len(rows)]
            rows += coming[hits].tolist()
            p[coming[hits]] = 0
            if len(rows) == k:
                self.place += int(hits[-1]) + 1
            else:
                self.place, self.laps = 0, self.laps + 1
        found = np.array(rows)
        accepted = self.inner.acceptance(**given)[found]
        weights = np.minimum(1 / accepted, self.inner.cap)
        return Selection(found, weights, accepted, None, len(p) - len(chosen))


METHODS: dict[str, Callable[[], Any]] = {
    "random": Random,
    "margin": Uncertain,
    "highest entropy": lambda: Uncertain("entropy"),
    "BADGE": Badge,
    "k-center": KCenter,
    "facility location": FacilityLocation,
    "IWeS entropy": lambda: IWeS("entropy"),
    "IWeS entropy, one at a time": lambda: Arriving(IWeS("entropy")),
    "IWeS disagreement": IWeS,
    "IWeS disagreement, no floor": lambda: IWeS(p_min=0),
    "IWeS disagreement, no weights": lambda: IWeS(weights="ones"),
}


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures (N, side, side) in [0, 1] with the labels one would get, and clean ones apart."""

    pictures: Floats
    labels: Ints
    test_pictures: Floats
    test_labels: Ints


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return accuracy against number of labels for each pool, family and method.

    Args:
        quick: 2 repetitions at few sizes, instead of 10.
        data: folder with ``mnist/mnist.npz``, which is then studied as well; digits come with
            scikit-learn.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if the folder holds no such file.
    """
    sources = {"digits": _digits()}
    if data is not None:
        sources["mnist"] = _mnist(Path(data))
    runs, sizes = (range(2), QUICK) if quick else (range(10), SIZES)
    rows = [
        row
        for name, source in sources.items()
        for kind in POOLS
        for row in compare(source, f"{name}, {kind}", kind, runs, sizes=sizes)
    ]
    columns = {k: [r[k] for r in rows] for k in rows[0]}
    return Answer(
        columns,
        title=f"test accuracy by how labels were chosen: mean and deviation of {len(runs)} runs",
        notes=[
            f"'@ {JUDGED}': accuracy with {JUDGED} labels; 'within 1 point': fewest labels whose "
            "mean accuracy is within 0.01 of training on the whole pool (row 'all data'), '-' if "
            "none of the sizes was enough",
            "choosing without chance (margin, BADGE, k-center) often gets further with the same "
            "labels; IWeS adds weights, and unbiased totals of the pool",
            _totals_note(sources["digits"]),
        ],
    )


def compare(
    source: tuple[Floats, Ints],
    title: str,
    kind: str,
    runs: Sequence[int],
    families: Sequence[str] = FAMILIES,
    methods: Sequence[str] = tuple(METHODS),
    sizes: Sequence[int] = SIZES,
) -> list[dict[str, Any]]:
    """Return the rows of one pool: every method, and training on everything."""
    curves: dict[tuple[str, str], list[list[float]]] = {}
    for run in runs:
        pool = make_pool(*source, kind, run)
        for family in families:
            for method in methods:
                curve = _curve(pool, family, method, sizes, run)
                curves.setdefault((method, family), []).append(curve)
            curves.setdefault(("all data", family), []).append([_with_all(pool, family, run)])
    rows = []
    for method in [*methods, "all data"]:
        row: dict[str, Any] = {"pool": title, "labels chosen by": method}
        for family in families:
            found = np.array(curves[method, family])  # (runs, sizes)
            goal = float(np.mean(curves["all data", family])) - 0.01
            at = 0 if method == "all data" else list(sizes).index(JUDGED)
            row[f"{family} @ {JUDGED}"] = float(found[:, at].mean())
            row[f"{family} sd"] = float(found[:, at].std(ddof=1)) if len(found) > 1 else 0.0
            enough = [n for n, mean in zip(sizes, found.mean(0), strict=False) if mean >= goal]
            needed = f"{enough[0]} ({enough[0] / len(pool.labels):.0%})" if enough else "-"
            row[f"{family} within 1 point"] = (
                str(len(pool.labels)) if method == "all data" else needed
            )
        rows.append(row)
    return rows


def _curve(pool: Pool, family: str, method: str, sizes: Sequence[int], run: int) -> list[float]:
    """Return test accuracies (sizes,) of one run."""
    learner = LEARNERS[family](pool)
    rounds = grow(
        METHODS[method](),
        sizes,
        num_rows=len(pool.labels),
        fit=learner.fit,
        predict=learner.predict,
        labels=pool.labels,
        features=learner.features,
        bootstrap=family == "logistic",
        seed=run,
    )
    return [learner.accuracy(step.model) for step in rounds]


def _with_all(pool: Pool, family: str, run: int) -> float:
    """Return the test accuracy after training on the whole pool."""
    learner = LEARNERS[family](pool)
    n = len(pool.labels)
    model = learner.fit(np.arange(n), np.ones(n), seed_of(run, "all") % 2**32)
    return float(learner.accuracy(model))


class Logistic:
    """A logistic regression on pixels."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.x = pool.pictures.reshape(len(pool.pictures), -1)
        self.classes = int(pool.test_labels.max()) + 1

    def fit(self, rows: Ints, weights: Any, seed: int) -> Any:
        """Train on weighted rows."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=10, max_iter=1000, tol=1e-3)
        return model.fit(self.x[rows], self.pool.labels[rows], sample_weight=weights)

    def predict(self, model: Any) -> Any:
        """Return probabilities (N, C); classes not met yet get none."""
        whole = np.zeros((len(self.x), self.classes), np.float32)
        whole[:, model.classes_] = model.predict_proba(self.x)
        return whole

    def features(self, model: Any) -> Floats:
        """Return what the model sees: pixels, and a constant."""
        return np.pad(self.x, ((0, 0), (0, 1)), constant_values=1)

    def accuracy(self, model: Any) -> float:
        """Return the accuracy on the pictures kept apart."""
        x = self.pool.test_pictures.reshape(len(self.pool.test_pictures), -1)
        return float(model.score(x, self.pool.test_labels))


class Convolutional:
    """Two convolutions, and a linear layer."""

    STEPS = 80

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.x = torch.from_numpy(pool.pictures)[:, None]
        self.y = torch.from_numpy(pool.labels)

    def fit(self, rows: Ints, weights: Any, seed: int) -> nn.Sequential:
        """Train on weighted rows, all of them at every step (at most 512)."""
        x, y = self.x[rows], self.y[rows]
        w = torch.from_numpy(np.asarray(weights)).float()
        loss = WeightedLoss(nn.CrossEntropyLoss(reduction="none"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stride = 1 if x.shape[-1] <= 8 else 2  # 8 -> 4 -> 2, or 14 -> 7 -> 3
            side = 2 if x.shape[-1] <= 8 else 3
            model = nn.Sequential(
                nn.Conv2d(1, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=stride),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * side * side, 10),
            )
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for _ in range(self.STEPS):
                some = torch.randperm(len(x))[:512] if len(x) > 512 else slice(None)
                optimizer.zero_grad()
                loss(model(x[some]), y[some], w[some]).backward()
                optimizer.step()
        return model

    @torch.no_grad()
    def predict(self, model: nn.Sequential) -> Tensor:
        """Return probabilities (N, C)."""
        return torch.softmax(model(self.x), 1)

    @torch.no_grad()
    def features(self, model: nn.Sequential) -> Tensor:
        """Return what the last layer sees, and a constant."""
        return nn.functional.pad(model[:-1](self.x), (0, 1), value=1.0)

    @torch.no_grad()
    def accuracy(self, model: nn.Sequential) -> float:
        """Return the accuracy on the pictures kept apart."""
        found = model(torch.from_numpy(self.pool.test_pictures)[:, None]).argmax(1)
        return float((found == torch.from_numpy(self.pool.test_labels)).float().mean())


LEARNERS: dict[str, Callable[[Pool], Any]] = {
    "logistic": Logistic,
    "convolutional": Convolutional,
}


def make_pool(pictures: Floats, labels: Ints, kind: str, run: int) -> Pool:
    """Split off 500 pictures for the test, and make the rest clean, noisy or imbalanced."""
    draws = np.random.default_rng(seed_of(run, "pool", kind))
    order = draws.permutation(len(labels))
    test, rest = order[:500], order[500:]
    x, y = pictures[rest], labels[rest].copy()
    if kind == "noisy":
        wrong = draws.random(len(y)) < 0.2
        y[wrong] = (y[wrong] + draws.integers(1, 10, wrong.sum())) % 10
    elif kind == "imbalanced":
        many, few = np.flatnonzero(y < 5), np.flatnonzero(y >= 5)
        rows = np.concatenate([np.repeat(many, 6), few[: round(0.4 * len(few))]])
        x, y = x[rows], y[rows]
        x = np.clip(x + 0.05 * draws.standard_normal(x.shape), 0, 1).astype(np.float32)
    return Pool(x, y, pictures[test], labels[test])


def _totals_note(source: tuple[Floats, Ints]) -> str:
    """Say how well the mean loss of the pool is estimated from chosen rows."""
    pool = make_pool(*source, "clean", 0)
    learner = Logistic(pool)
    p = learner.predict(learner.fit(np.arange(100), np.ones(100), 0))
    loss = -np.log(np.maximum(p[np.arange(len(p)), pool.labels], 1e-6))
    strategy = IWeS("entropy")
    found = [strategy.select(100, probabilities=p, seed=s) for s in range(200)]
    means = np.array([s.mean(loss[s.indices])[0] for s in found])
    plain = float(np.mean([loss[s.indices].mean() for s in found]))
    error = means.std(ddof=1) / len(found) ** 0.5
    off = (means.mean() - loss.mean()) / error
    return (
        f"mean loss of a model over the pool, from 100 rows chosen by IWeS: {means.mean():.3f} "
        f"with inverse inclusion probabilities ({off:+.1f} standard errors of 200 runs off the "
        f"truth, {loss.mean():.3f}); {plain:.3f} without"
    )


def _digits() -> tuple[Floats, Ints]:
    """Return scikit-learn's digits: (N, 8, 8) in [0, 1] and (N,)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits()
    return (found.images / 16).astype(np.float32), found.target.astype(np.int64)


def _mnist(folder: Path) -> tuple[Floats, Ints]:
    """Return 3,500 MNIST pictures, halved in size: (N, 14, 14) in [0, 1] and (N,)."""
    file = folder / "mnist" / "mnist.npz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give --data a folder with mnist/mnist.npz (x_train, y_train), "
            "or leave it out"
        )
    with np.load(file) as found:
        x, y = found["x_train"], found["y_train"]  # may be sorted by class
    some = np.random.default_rng(0).permutation(len(y))[:3500]
    x, y = x[some], y[some]
    small = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return small.astype(np.float32), y.astype(np.int64)
