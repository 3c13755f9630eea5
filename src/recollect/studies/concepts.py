"""A concept by example: up to ten glances of something that no module was trained on.

A small network learns nine of the ten digits; its memory of later pictures holds all ten. Ten
glances of the tenth and twenty others are given, and every other glance is asked for it. Beside
the infinitely wide network over sketches stand logistic regression, on the exact activations and
on the sketches, and the nearest neighbour. With ``data``: motorcycles on a bridge before a
street camera.

Shape letters: n glances, m features.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect import recall
from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.memory import Memory
from recollect.sketching import Sketcher
from recollect.studies.digit_readers import trained_reader
from recollect.studies.figures import figure
from recollect.studies.pictures import digits
from recollect.studies.trained_networks import loaders
from recollect.tracing import Trace, trace

__all__ = ["calibration_error", "draw", "study"]

FloatArray = npt.NDArray[np.float64]
DIM = 128
STREET_DIM = 1024
SHOWN, OTHERS = 10, 20
# On the street there are seven pictures with motorcycles in all.
STREET_SHOWN, STREET_OTHERS = 3, 12
LEARNED = 800
MEASURES = ("average precision", "Brier score", "calibration error", "ms")


@dataclass(frozen=True, eq=False)
class Task:
    """One concept over one memory.

    Attributes:
        memory: that was watched, with glances of ids 0, 1, ...
        exact: (n, m) activations, scaled as the sketches' modules are.
        truth: (n,) whether a glance shows it.
        positive: examples of it.
        negative: examples of others.
    """

    memory: Memory
    exact: FloatArray
    truth: npt.NDArray[np.bool_]
    positive: list[int]
    negative: list[int]

    @property
    def known(self) -> npt.NDArray[np.int64]:
        """All examples."""
        return np.array([*self.positive, *self.negative], np.int64)

    @property
    def sketches(self) -> FloatArray:
        """(n, d) stored numbers."""
        ids = np.arange(len(self.truth)).tolist()
        return self.memory.sketches(ids=ids).values.double().numpy()


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how well each way finds a concept, and whether its probabilities can be believed.

    Args:
        quick: three held-back digits and two draws of examples instead of all ten and five.
        data: folder with ``scenes/street_stream.*`` and ``weights``.

    Raises:
        ImportError: if scikit-learn is missing, or with ``data`` outside a checkout.
    """
    held_back, draws = ((3, 5, 8), 2) if quick else (tuple(range(10)), 5)
    worlds: dict[str, Iterator[Task]] = {"a digit never learned": _digits(held_back, draws)}
    notes = [
        f"digits: {len(held_back)} held back in turn, {draws} draws of {SHOWN} glances that show "
        f"it and {OTHERS} that do not; sketches of {DIM} bytes, some 1,000 glances asked",
    ]
    if data is not None:
        worlds["motorcycles on the bridge"] = _street(Path(data), 4 if quick else 20)
        notes.append(
            f"street: 78 real pictures of camera 4713, 7 with motorcycles; {STREET_SHOWN} and "
            f"{STREET_OTHERS} given, MobileNetV2 over the lower strip, {STREET_DIM} bytes"
        )
    rows = []
    for world, tasks in worlds.items():
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for task in tasks:
            for way, ask in WAYS.items():
                found[way].append(_judged(task, ask))
        rows += [{"concept": world, "way": way, **_summed(runs)} for way, runs in found.items()]
    notes.append(
        "a nearest neighbour has no probability; deviation: of average precision; share of the "
        "examples: how common the concept is among them is taken for how common it is"
    )
    return Answer({k: [r[k] for r in rows] for k in rows[0]}, "concepts by example", notes)


def _judged(task: Task, ask: Callable[[Task], FloatArray]) -> dict[str, float]:
    """Score one way on the glances that were not given."""
    from sklearn.metrics import average_precision_score

    start = time.process_time()
    chance = ask(task)
    seconds = time.process_time() - start
    rest = np.setdiff1d(np.arange(len(task.truth)), task.known)
    truth, asked = task.truth[rest].astype(np.float64), chance[rest]
    told = bool(((asked >= 0) & (asked <= 1)).all())
    return {
        "average precision": float(average_precision_score(truth, asked)),
        "Brier score": float(np.square(asked - truth).mean()) if told else math.nan,
        "calibration error": calibration_error(asked, truth) if told else math.nan,
        "ms": 1000 * seconds,
    }


def calibration_error(chance: FloatArray, truth: FloatArray, bins: int = 10) -> float:
    """Return the expected calibration error: of ten equal ranges of probability, weighted.

    Args:
        chance: (n,) probabilities.
        truth: (n,) 0 or 1.
        bins: ranges.

    Example:
        >>> calibration_error(np.array([0.25] * 4), np.array([1.0, 0, 0, 0]))
        0.0
    """
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    off = np.bincount(place, chance - truth, minlength=bins)
    return float(np.abs(off).sum() / len(chance))


def _summed(runs: list[dict[str, float]]) -> dict[str, float]:
    table = np.array([[r[m] for m in MEASURES] for r in runs])
    mean = dict(zip(MEASURES, table.mean(0).tolist(), strict=True))
    spread = float(table[:, 0].std(ddof=1)) if len(runs) > 1 else math.nan
    return {"average precision": mean.pop("average precision"), "deviation": spread, **mean}


# -- ways -------------------------------------------------------------------------------------


def _concept(over: str, share: str | None = None) -> Callable[[Task], FloatArray]:
    def ask(task: Task) -> FloatArray:
        found = recall.concept(task.memory, task.positive, task.negative, over=over, share=share)
        chance = np.zeros(len(task.truth))
        chance[found["glance"]] = found["estimate"]
        return chance

    return ask


def _logistic(features: Callable[[Task], FloatArray]) -> Callable[[Task], FloatArray]:
    """Logistic regression, its strength chosen by leaving examples out."""

    def ask(task: Task) -> FloatArray:
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.preprocessing import StandardScaler

        x = features(task)
        scaled = StandardScaler().fit_transform(x) / x.shape[1] ** 0.5
        labels = np.isin(task.known, task.positive)
        folds = min(3, len(task.positive))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of every version's next names for its arguments
            model = LogisticRegressionCV(
                Cs=np.logspace(-2, 4, 7), cv=folds, scoring="neg_log_loss", max_iter=2000
            ).fit(scaled[task.known], labels)
        chance: FloatArray = model.predict_proba(scaled)[:, 1]
        return chance

    return ask


def _nearest(features: Callable[[Task], FloatArray]) -> Callable[[Task], FloatArray]:
    """How much nearer the nearest example of it is than the nearest other: no probability."""

    def ask(task: Task) -> FloatArray:
        x = features(task)
        x = x - x.mean(0)
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        yes, no = (x @ x[ids].T for ids in (task.positive, task.negative))
        return np.asarray(yes.max(1) - no.max(1) - 3.0)  # below zero: not to be read as a chance

    return ask


WAYS: dict[str, Callable[[Task], FloatArray]] = {
    "recall.concept, sketches": _concept("sketches"),
    "recall.concept, decoded attributes": _concept("attributes"),
    "recall.concept, sketches, share of the examples": _concept("sketches", "examples"),
    "logistic regression, exact activations": _logistic(lambda t: t.exact),
    "logistic regression, sketches": _logistic(lambda t: t.sketches),
    "nearest neighbour, exact activations": _nearest(lambda t: t.exact),
    "nearest neighbour, sketches": _nearest(lambda t: t.sketches),
}


# -- worlds -----------------------------------------------------------------------------------


def _digits(held_back: tuple[int, ...], draws: int) -> Iterator[Task]:
    """Yield tasks: a network that learned nine digits watches all ten."""
    pictures, labels = digits(0)
    pictures = pictures.flatten(1)
    for digit in held_back:
        rows = torch.nonzero(labels[:LEARNED] != digit)[:, 0]
        network = trained_reader(
            (64, 96, 64, 10), pictures[rows], labels[rows], epochs=30, rate=3e-3, seed=digit
        )
        seen = trace(network, pictures[LEARNED:], modules=["1", "3"])
        truth = (labels[LEARNED:] == digit).numpy()
        yield from _tasks(seen, truth, DIM, (SHOWN, OTHERS), draws)


def _street(data: Path, draws: int) -> Iterator[Task]:
    """Yield tasks: motorcycles on the near bridge of camera 4713."""
    networks, pictures = loaders("networks"), loaders("pictures")
    street = pictures.load("street_stream", data)
    records = street.records
    street = street.subset([i for i, r in enumerate(records) if r["camera"] == "4713"])
    network, preprocess = networks.mobilenet_v2(data)
    parts, truth = [], []
    for x, about in street.batches(lambda image: preprocess(_lower_strip(image)), 8):
        parts.append(trace(network, x, modules=["conv*", "add*"]))
        truth += [_riders(r["labels"]) for r in about]
    seen = Trace.concat(parts)
    yield from _tasks(seen, np.array(truth), STREET_DIM, (STREET_SHOWN, STREET_OTHERS), draws)


def _riders(labels: dict[str, Any]) -> bool:
    return bool(labels.get("motorcycles_on_near_bridge", "none") != "none")


def _lower_strip(image: Any) -> Any:
    """Cut out the near bridge: the lower third of the picture."""
    width, height = image.size
    return image.crop((0, int(0.62 * height), width, height))


def _tasks(
    seen: Trace,
    truth: npt.NDArray[np.bool_],
    dim: int,
    sizes: tuple[int, int],
    draws: int,
) -> Iterator[Task]:
    """Remember what was seen, and draw examples."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory"
        with Memory(path, sketcher=Sketcher(dim), reservoir=len(seen) // 2) as memory:
            times = np.arange(len(seen)) * 60_000_000
            memory.add(seen, time=times, ids=list(range(len(seen))))
            memory.fit_prior()
            exact = _activations(seen)
            for draw_number in range(draws):
                rng = np.random.default_rng(seed_of(draw_number, "study", "concepts"))
                yes = rng.choice(np.flatnonzero(truth), sizes[0], replace=False)
                no = rng.choice(np.flatnonzero(~truth), sizes[1], replace=False)
                yield Task(memory, exact, truth, yes.tolist(), no.tolist())


def _activations(seen: Trace) -> FloatArray:
    """Return all attributes side by side, each module of unit deviation, as sketches hold them."""
    parts = []
    for name in seen.modules:
        x = seen.objects(name).attributes.double().numpy().reshape(len(seen), -1)
        spread = float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean()))
        parts.append(x / max(spread, 1e-12))
    return np.concatenate(parts, 1)


# -- the picture ------------------------------------------------------------------------------


def draw(answer: Answer, path: str) -> None:
    """Draw average precision and calibration error of every way.

    Args:
        answer: of ``study``.
        path: of the picture, ``.svg`` or ``.png``.
    """
    concepts = list(dict.fromkeys(answer["concept"]))
    with figure(path, width=10, height=2.6 * len(concepts)) as drawn:
        grid = drawn.subplots(len(concepts), 2, squeeze=False)
        for line, name in zip(grid, concepts, strict=True):
            rows = [r for r in answer if r["concept"] == name]
            ways = [r["way"] for r in rows]
            colours = ["#334e8c" if w.startswith("recall") else "#94a3b8" for w in ways]
            for axes, measure in zip(line, MEASURES[::2], strict=True):
                first = measure == MEASURES[0]
                axes.barh(
                    range(len(rows)), [np.nan_to_num(r[measure]) for r in rows], color=colours
                )
                axes.set_yticks(range(len(rows)), ways if first else [""] * len(rows))
                axes.invert_yaxis()
                axes.set_xlabel(measure)
                axes.set_title(name if first else "")
