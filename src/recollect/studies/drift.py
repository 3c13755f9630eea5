"""What was new, and what was not: changes planted in a window, found by several ways of asking.

Scenes of handwritten digits fill a memory, 48 a day for sixteen days; the last four days are the
window. In some, one kind of digit comes more often, or never came before, or looks otherwise
(fainter strokes); in some nothing has changed. Every way names modules; it is right if it names
the changed one, and wrong if it names any other. With ``data``, real street cameras: the tree that
was cut back at one of them, seen by a network that knows nothing of trees.

Shape letters: u units, m numbers of an attribute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from recollect import recall
from recollect._answers import Answer
from recollect.memory import Memory
from recollect.sketching import Channel, Sketcher
from recollect.studies.digit_scenes import DigitScenes
from recollect.studies.figures import figure
from recollect.studies.street_tree import street_rows
from recollect.tracing import Trace

__all__ = ["draw", "study"]

FloatArray = npt.NDArray[np.float64]
HOUR = 3_600_000_000
DAY = 48
BEFORE, WINDOW = 12 * DAY, 4 * DAY
CHANGED = "digit 3"
LEVEL = 0.05
CHANNEL = Channel(320, 32)
COLUMNS = ("change", "way", "found", "false alarm", "p", "bytes a glance", "ms")


@dataclass(frozen=True)
class Year:
    """What a way of asking is given: the glances, in order, and the memory of them."""

    trace: Trace
    memory: Memory

    def objects(self, module: str) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return (n, m) attributes of a module's objects and whether each is in the window."""
        found = self.trace.objects(module)
        return found.attributes.double().numpy(), found.glance.numpy() >= BEFORE


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how often each way finds what changed, and how often it cries wolf.

    Args:
        quick: fewer repetitions.
        data: folder with ``scenes/street_stream.*`` and ``weights``.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    repeats = 6 if quick else 40
    scenes = DigitScenes(epochs=20 if quick else 60)
    tally = {(c, w): [0, 0, 0.0] for c in CHANGES for w in WAYS}
    sizes = dict.fromkeys(WAYS, math.nan)
    for change, plant in CHANGES.items():
        for seed in range(repeats):
            trace = plant(scenes, seed)
            with TemporaryDirectory() as folder, _memory(folder, trace, seed) as memory:
                year = Year(trace, memory)
                for way, ask in WAYS.items():
                    start = time.process_time()
                    named = ask(year, seed)
                    row = tally[change, way]
                    row[0] += CHANGED in named
                    row[1] += bool(named - {CHANGED}) if change != "nothing" else bool(named)
                    row[2] += time.process_time() - start
                sizes |= _sizes(year)
    rows = [
        {
            "change": change,
            "way": way,
            "found": math.nan if change == "nothing" else found / repeats,
            "false alarm": alarms / repeats,
            "p": math.nan,
            "bytes a glance": sizes[way],
            "ms": 1000 * seconds / repeats,
        }
        for (change, way), (found, alarms, seconds) in tally.items()
    ]
    notes = [
        f"{repeats} repetitions; {BEFORE + WINDOW} glances of 2 to 12 digits, the last {WINDOW} "
        f"of them the window; {CHANGED} changes, level {LEVEL}",
        "false alarm: any other digit was named (where nothing changed: any)",
        "with --data: a real tree, cut back at one street camera",
    ]
    if data is not None:
        more, said = street_rows(Path(data))
        rows, notes = rows + more, [*notes[:-1], *said]
    return Answer(
        {key: [r[key] for r in rows] for key in COLUMNS},
        title="what was new: how often it is found, and how often something else is named",
        notes=notes,
    )


# -- what is planted --------------------------------------------------------------------------


def _scenes(scenes: DigitScenes, seed: int, light: float = 1.0) -> Trace:
    return scenes.trace(BEFORE + WINDOW, seed, light=light, wide=False)


def _thinned(trace: Trace, share: float, seed: int) -> Trace:
    """Leave out a share of the changed module's objects before the window."""
    columns = {}
    rng = np.random.default_rng([seed, 23])
    for name in trace.modules:
        objects = trace.objects(name)
        keep = np.ones(len(objects.glance), bool)
        if name == CHANGED:
            keep = (objects.glance.numpy() >= BEFORE) | (rng.random(len(keep)) >= share)
        columns[name] = {
            "attributes": objects.attributes[np.flatnonzero(keep)],
            "glance": objects.glance.numpy()[keep],
        }
    return Trace.from_columns(columns, num_glances=len(trace))


def _faded(scenes: DigitScenes, seed: int, light: float) -> Trace:
    """Take the changed module's objects in the window from the same scenes in less light."""
    usual, faint = _scenes(scenes, seed), _scenes(scenes, seed, light)
    columns = {}
    for name in usual.modules:
        objects = usual.objects(name)
        attributes = objects.attributes.clone()
        if name == CHANGED:
            late = objects.glance >= BEFORE
            attributes[late] = faint.objects(name).attributes[late]
        columns[name] = {"attributes": attributes, "glance": objects.glance.numpy()}
    return Trace.from_columns(columns, num_glances=len(usual))


CHANGES: dict[str, Callable[[DigitScenes, int], Trace]] = {
    "nothing": _scenes,
    "a third more of one kind": lambda scenes, seed: _thinned(_scenes(scenes, seed), 0.25, seed),
    "one kind is new": lambda scenes, seed: _thinned(_scenes(scenes, seed), 1.0, seed),
    "one kind is fainter by a tenth": lambda scenes, seed: _faded(scenes, seed, 0.9),
}


def _memory(folder: str, trace: Trace, seed: int) -> Memory:
    memory = Memory(Path(folder) / "days", sketcher=Sketcher(256, seed, channel=CHANNEL))
    memory.add(trace, time=np.arange(len(trace)) * (24 * HOUR // DAY))
    memory.fit_prior()
    return memory


# -- ways of asking ---------------------------------------------------------------------------


def _ours(year: Year, seed: int) -> set[str]:
    """Roll-ups by hour alone: counts and the distribution channel."""
    since = np.datetime64(BEFORE * (24 * HOUR // DAY), "us")
    found = recall.what_was_new(year.memory, since, level=LEVEL, seed=seed, show=0)
    return set(found["module"]) - {"all"}


def _tests(year: Year, test: Callable[[Year, str], Sequence[float]]) -> set[str]:
    """Name the modules that tests of objects tell apart, corrected for their number."""
    names, p_values = [], []
    for name in year.trace.modules:
        for p in test(year, name):
            names.append(name)
            p_values.append(p)
    return {n for n, p in zip(names, p_values, strict=True) if p * len(p_values) <= LEVEL}


def _number_of(late: npt.NDArray[np.bool_]) -> float:
    """p-value of a change of rate: the share of objects in the window, binomial."""
    from scipy.stats import binomtest

    share = WINDOW / (BEFORE + WINDOW)
    return float(binomtest(int(late.sum()), max(len(late), 1), share).pvalue)


def _distributions(x: FloatArray, late: npt.NDArray[np.bool_]) -> list[float]:
    """p-values of Kolmogorov and Smirnov, one for each number of an attribute."""
    from scipy.stats import ks_2samp

    if min(late.sum(), (~late).sum()) < 4:
        return []
    return [float(ks_2samp(x[late, j], x[~late, j]).pvalue) for j in range(x.shape[1])]


def _every_object(year: Year, _: int) -> set[str]:
    """All attributes kept, each object taken for an independent draw."""

    def test(given: Year, name: str) -> list[float]:
        x, late = given.objects(name)
        return [_number_of(late), *_distributions(x, late)]

    return _tests(year, test)


def _sample(year: Year, seed: int) -> set[str]:
    """A reservoir of glances kept whole, in the bytes of the hourly roll-ups."""
    rng = np.random.default_rng([seed, 5])
    kept = np.zeros(BEFORE + WINDOW, bool)
    kept[rng.choice(BEFORE + WINDOW, _sampled(year), replace=False)] = True
    share = kept[BEFORE:].sum() / kept.sum()

    def test(given: Year, name: str) -> list[float]:
        from scipy.stats import binomtest

        x, late = given.objects(name)
        rows = kept[given.trace.objects(name).glance.numpy()]
        x, late = x[rows], late[rows]
        number = float(binomtest(int(late.sum()), max(len(late), 1), float(share)).pvalue)
        return [number, *_distributions(x, late)]

    return _tests(year, test)


def _means(year: Year, _: int) -> set[str]:
    """Running means and variances for each module and window: Welch's test of every number."""
    from scipy.stats import ttest_ind

    def test(given: Year, name: str) -> list[float]:
        x, late = given.objects(name)
        if min(late.sum(), (~late).sum()) < 4:
            return [_number_of(late)]
        x = x[:, np.minimum(x[late].std(0), x[~late].std(0)) > 1e-6]
        if x.shape[1] == 0:
            return [_number_of(late)]
        found = ttest_ind(x[late], x[~late], equal_var=False).pvalue
        return [_number_of(late), *found.tolist()]

    return _tests(year, test)


WAYS: dict[str, Callable[[Year, int], set[str]]] = {
    "recall.what_was_new, roll-ups": _ours,
    "every object, Kolmogorov-Smirnov": _every_object,
    "a sample in as many bytes": _sample,
    "means kept beforehand, Welch": _means,
}


def _rolled_up(year: Year) -> int:
    """Bytes of the hourly roll-ups: 64-bit numbers of sketch and channel."""
    return len(year.memory.rollups()) * 8 * (year.memory.recipe.dim + CHANNEL.size)


def _of_records(year: Year) -> float:
    """Bytes of a glance kept whole: for each object its module and its numbers, one byte each."""
    objects = sum(len(year.trace.objects(n).glance) for n in year.trace.modules)
    return float(objects * (1 + year.objects(CHANGED)[0].shape[1]) / len(year.trace))


def _sampled(year: Year) -> int:
    return min(len(year.trace), int(_rolled_up(year) / _of_records(year)))


def _sizes(year: Year) -> dict[str, float]:
    modules, numbers = len(year.trace.modules), year.objects(CHANGED)[0].shape[1]
    glances = len(year.trace)
    return {
        "recall.what_was_new, roll-ups": _rolled_up(year) / glances,
        "every object, Kolmogorov-Smirnov": _of_records(year),
        "a sample in as many bytes": _sampled(year) * _of_records(year) / glances,
        "means kept beforehand, Welch": 2 * modules * (1 + 2 * numbers) * 8 / glances,
    }


# -- the picture ------------------------------------------------------------------------------


def draw(answer: Answer, path: str) -> None:
    """Draw, for each change, how often each way finds it, and its false alarms.

    Args:
        answer: of ``study``.
        path: of the picture, ``.svg`` or ``.png``.
    """
    rows = [r for r in answer if r["way"] in WAYS]
    changes = [c for c in CHANGES if any(r["change"] == c for r in rows)]
    with figure(path, width=8, height=2.8) as drawn:
        axes = drawn.subplots()
        for place, way in enumerate(WAYS):
            mine = {r["change"]: r for r in rows if r["way"] == way}
            at = np.arange(len(changes)) + 0.2 * (place - 1.5)
            found = [np.nan_to_num(mine[c]["found"]) for c in changes]
            axes.bar(at, found, 0.18, label=way, color=_COLOURS[place])
            axes.plot(at, [mine[c]["false alarm"] for c in changes], "k_", markersize=9)
        axes.axhline(LEVEL, color="#94a3b8", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(changes)), changes)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("share of repetitions")
        axes.set_title("found (bars), false alarms (dashes; allowed: the line)")
        axes.legend(loc="upper left", fontsize=7)


_COLOURS = ("#334e8c", "#94a3b8", "#d9a441", "#7fb08a")
