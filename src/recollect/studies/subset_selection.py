"""Subset selection: how many labels do the work of all, and who chooses them best.

Handwritten digits (with a folder of data: MNIST, and CIFAR-10 as MobileNetV2 sees it, as well) in
three pools: as they are; with a fifth of the labels wrong; and unbalanced (classes 0 to 4 six
times over as near-duplicates, the others cut to 40 %). Two families of models, a logistic
regression and a small network, are trained on rows chosen by each method in turn, always from the
start, and judged on clean, balanced pictures kept apart.

Shape letters: N pictures of the pool, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    grow,
)
from recollect.studies.replay_figures import draw_selection as draw
from recollect.studies.running import Journal
from recollect.studies.selection_learners import LEARNERS, Logistic
from recollect.studies.selection_pools import POOLS, Pool, digits, embeddings, make_pool, mnist

__all__ = ["draw", "study"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
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


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return accuracy against number of labels for each pool, family and method.

    Args:
        quick: 2 repetitions at few sizes, instead of 10.
        data: folder with ``mnist/mnist.npz``, ``cifar10/`` and ``weights/``, which are studied as
            well then (CIFAR-10 as MobileNetV2 sees it); digits come with scikit-learn.
        keep: folder for the curves found so far, from which a run that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing, or the folder is studied outside a checkout.
        FileNotFoundError: if the folder holds no such file.
    """
    journal = Journal(keep, "subset-selection")
    sources = {"digits": (digits(), FAMILIES)}
    if data is not None:
        sources["mnist"] = mnist(Path(data)), FAMILIES
        number = 1000 if quick else 3000
        seen = journal.arrays(
            f"embeddings-{number}", lambda: dict(zip("xy", embeddings(data, number), strict=True))
        )
        sources["CIFAR-10 embeddings"] = (seen["x"], seen["y"]), ("logistic", "dense")
    runs, sizes = (range(2), QUICK) if quick else (range(10), SIZES)
    rows = [
        row
        for name, (source, families) in sources.items()
        for kind in POOLS
        for row in compare(
            source, f"{name}, {kind}", kind, runs, families, sizes=sizes, journal=journal
        )
    ]
    names = dict.fromkeys(k for r in rows for k in r)
    return Answer(
        {k: [r.get(k, "-") for r in rows] for k in names},
        title=f"test accuracy by how labels were chosen: mean and deviation of {len(runs)} runs",
        notes=[
            f"'@ {JUDGED}': accuracy with {JUDGED} labels; 'within 1 point': fewest labels whose "
            "mean accuracy is within 0.01 of training on the whole pool (row 'all data'), '-' if "
            "none of the sizes was enough",
            "choosing without chance (margin, BADGE, k-center) often gets further with the same "
            "labels; IWeS adds weights, and unbiased totals of the pool",
            f"curve: mean accuracy with {', '.join(map(str, sizes))} labels",
            *(_totals_note(name, source) for name, (source, _) in sources.items()),
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
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one pool: every method, and training on everything."""
    known = Journal(None, "") if journal is None else journal
    curves: dict[tuple[str, str], list[list[float]]] = {}
    for run in runs:
        pool = make_pool(*source, kind, run)
        for family in families:
            for method in [*methods, "all data"]:
                about = {"pool": title, "family": family, "method": method, "run": run}
                found = known.row(
                    {**about, "sizes": list(sizes), "of": len(pool.labels)},
                    partial(_found, pool, family, method, sizes, run),
                )
                assert found is not None
                curves.setdefault((method, family), []).append(found["accuracy"])
    rows = []
    for method in [*methods, "all data"]:
        row: dict[str, Any] = {"pool": title, "labels chosen by": method}
        for family in families:
            curve = np.array(curves[method, family])  # (runs, sizes)
            goal = float(np.mean(curves["all data", family])) - 0.01
            at = 0 if method == "all data" else list(sizes).index(JUDGED)
            row[f"{family} @ {JUDGED}"] = float(curve[:, at].mean())
            row[f"{family} sd"] = float(curve[:, at].std(ddof=1)) if len(curve) > 1 else 0.0
            enough = [n for n, mean in zip(sizes, curve.mean(0), strict=False) if mean >= goal]
            needed = f"{enough[0]} ({enough[0] / len(pool.labels):.0%})" if enough else "-"
            row[f"{family} within 1 point"] = (
                str(len(pool.labels)) if method == "all data" else needed
            )
            row[f"{family} curve"] = ", ".join(f"{v:.3f}" for v in curve.mean(0))
        rows.append(row)
    return rows


def _found(pool: Pool, family: str, method: str, sizes: Sequence[int], run: int) -> dict[str, Any]:
    """Return the accuracies of one run."""
    if method == "all data":
        return {"accuracy": [_with_all(pool, family, run)]}
    return {"accuracy": _curve(pool, family, method, sizes, run)}


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


def _totals_note(name: str, source: tuple[Floats, Ints]) -> str:
    """Say how well the mean loss of a clean pool is estimated from chosen rows."""
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
        f"{name}, mean loss of a model over the pool, from 100 rows by IWeS: {means.mean():.3f} "
        f"with inverse inclusion probabilities ({off:+.1f} standard errors of 200 runs off the "
        f"truth, {loss.mean():.3f}); {plain:.3f} without"
    )
