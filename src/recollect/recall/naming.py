"""Naming a concept: from a few glances that show it to a reading that is counted like a module.

With mu and C the mean and covariance of the memory's sketches and p the mean of the k glances
that show it, the reading of a sketch s is

    w' (s - mu),    w = A (p - mu) / m,    A = (shrunk C)^-1,

the linear reading that best tells glances with the concept from the others (Fisher), with m such
that a glance with it reads 1; how far C is shrunk is chosen by how clearly the examples stand
out. What readings its own examples would have, had they not been examples, is told by leaving
each out of p; the others tell what readings are usual without it.
From both follows how much likelier a reading is with the concept than without, and from that a
probability for every glance (Bayes' rule; the share of all is estimated from the glances that are
asked about). Counts are sums of these, with the interval of a sum of independent events.

Shape letters: k examples, n glances, L first numbers of a sketch.

Reference: "The use of multiple measurements in taxonomic problems" (Fisher, 1936); "Large-scale
simultaneous hypothesis testing" (Efron, 2004).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._checks import NotRemembered, check_integer
from recollect.memory.concepts import NamedConcept, Reading
from recollect.recall.faded import by_length
from recollect.recall.reading import plural
from recollect.recall.whitening import second_moment

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.recall.emergence import Emerging

__all__ = ["name", "probabilities"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Glances that tell mean and covariance, and fewest numbers that a concept is read from.
_SAMPLE, _FEWEST = 8192, 64
_GRID = 512
_SWEEPS = 30
# Fewer examples than this say nothing about what readings are usual.
_EXAMPLES = 3
# How far the covariance may be drawn to the identity; the clearest is taken.
_DRAWN = (0.0, 0.3, 0.7, 0.95, 1.0)
# Examples from which on intervals held even where all were near-duplicates (docs/emerging.md).
_ENOUGH = 10
# Share of its examples that a concept must know again, each left out in turn.
_KNOWN = 0.5


def name(
    memory: Memory,
    concept: str | Iterable[int],
    called: str,
    found: Emerging | None = None,
) -> NamedConcept:
    """Give a concept a name, under which it is counted like a module, in the past too.

    Args:
        memory: a Memory; the concept is kept in it.
        concept: one of ``found``, or ids of glances that show it (three or more).
        called: the name.
        found: an answer of ``recall.emerging``, if the concept is one of it.

    Returns:
        What was kept. ``recall.count(memory, called)`` counts it, ``memory.concepts`` lists,
        renames and forgets it.

    Raises:
        NotRemembered: if there is no such concept or glance.
        ValueError: if the examples are fewer than three, or the name is taken.
        TypeError: if a concept is named and ``found`` is missing.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> import random
        >>> draw = random.Random(1)
        >>> def scene(i):
        ...     seen = [Object(name, [draw.gauss(0, 1)]) for name in draw.sample("abcdef", 3)]
        ...     return seen + ([Object("ball", [3.0]), Object("dog", [2.0])] if i < 10 else [])
        >>> t = Trace.from_objects([scene(i) for i in range(60)])
        >>> with Memory(getfixture("tmp_path") / "room") as memory:
        ...     _ = memory.add(t, time=["2026-01-01T08:00Z"] * 60, ids=range(60))
        ...     _ = recall.name(memory, range(5), "a dog's ball")
        ...     round(recall.count(memory, "a dog's ball")["estimate"][0])
        10
    """
    if isinstance(concept, str):
        if found is None:
            raise TypeError(
                f"{concept!r} names a concept of an answer; give the answer too: found=...; or "
                "give ids of glances that show it"
            )
        ids, origin = found.members(concept), f"{concept} of recall.emerging"
    else:
        ids = [check_integer("the id of a glance", i, minimum=-(2**63)) for i in concept]
        origin = "glances chosen by hand"
    ids = list(dict.fromkeys(ids))
    if len(ids) < _EXAMPLES:
        raise ValueError(
            f"a concept is named after {_EXAMPLES} glances or more, got {len(ids)}; with fewer "
            "nothing can be said about what it looks like (recall.similar finds more like one)"
        )
    made = _made(memory, np.array(ids, np.int64), called, origin)
    memory.concepts.add(made)
    return made


def _made(memory: Memory, examples: IntArray, called: str, origin: str) -> NamedConcept:
    everyone = np.asarray(memory.glances(columns=["id"])["id"].to_numpy(), dtype=np.int64)
    missing = np.setdiff1d(examples, everyone)
    if len(missing):
        raise NotRemembered(f"no glance has the id {missing[0]}; memory.glances() lists the ids")
    kept = memory.kept(everyone.tolist())
    others = np.setdiff1d(everyone[kept > 0], examples)
    if len(others) < len(examples):
        raise ValueError(
            f"{plural(len(others), 'glance')} without it are too few to tell what is usual; name "
            "it when the memory has seen more"
        )
    if len(others) > _SAMPLE:
        some = np.random.default_rng(0).permutation(len(others))[:_SAMPLE]
        others = others[np.sort(some)]
    both = memory.kept([*examples.tolist(), *others.tolist()])
    least = int(both.min())
    if least < _FEWEST:
        raise ValueError(
            f"a glance that shows it, or one that it is compared with, keeps {least} numbers of "
            f"its sketch, and {_FEWEST} are needed; choose other glances"
        )
    ours = np.asarray(memory.sketches(ids=examples.tolist(), prefix=least).values, np.float64)
    rest = np.asarray(memory.sketches(ids=others.tolist(), prefix=least).values, np.float64)
    sizes = [least]
    while sizes[-1] // 2 >= _FEWEST:
        sizes.append(sizes[-1] // 2)
    readings, share = {}, 0.0
    for size in sizes:
        reading, found = _reading(ours[:, :size], rest[:, :size])
        if reading is not None:
            readings[size] = reading
            share = share or found * len(rest) / len(everyone) if size == least else share
    if not readings:
        raise ValueError(
            "left out in turn, most of these glances would not be known again by the others: they "
            "have too little in common that the rest has not; give more examples, or glances that "
            "show one thing"
        )
    share = (len(examples) + share * (len(everyone) - len(examples))) / len(everyone)
    return NamedConcept(called, float(share), tuple(examples.tolist()), readings, origin)


def _reading(ours: FloatArray, rest: FloatArray) -> tuple[Reading | None, float]:
    """Return how a concept is read, and the share of the rest that seems to have it too."""
    everyone = np.concatenate([ours, rest])
    mean, k = rest.mean(0), len(ours)
    values, axes = np.linalg.eigh(second_moment(everyone - everyone.mean(0)))
    usual = float(values.mean())
    apart, others = (ours - mean) @ axes, (rest - mean) @ axes
    best: tuple[float, FloatArray, FloatArray] | None = None
    for drawn in _DRAWN:
        inverse = 1 / np.maximum((1 - drawn) * values + drawn * usual, 1e-30)
        alike = (apart * inverse) @ apart.T
        left_out = (alike.sum(1) - alike.diagonal()) / (k - 1)
        direction = inverse * apart.mean(0)
        without = others @ direction
        clear = float(left_out.mean() - without.mean()) / max(float(without.std()), 1e-30)
        if left_out.mean() > 0 and (best is None or clear > best[0]):
            best = (clear, left_out, direction)
    if best is None:
        return None, 0.0
    _, left_out, direction = best
    middle = float(left_out.mean())
    vector = (axes @ direction / middle).astype(np.float32)
    offset = float(mean @ vector)
    grid, ratio, share = _meaning(left_out / middle, rest @ vector - offset)
    reading = Reading(vector, offset, grid, ratio)
    whole = (k + share * len(rest)) / (k + len(rest))
    odds = reading.evidence(left_out / middle) + np.log(whole) - np.log1p(-whole)
    known = float((1 / (1 + np.exp(-np.clip(odds, -50, 50)))).mean())
    return (reading if known >= _KNOWN else None), share


def _meaning(ours: FloatArray, rest: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Return a grid of readings, how much likelier each is with the concept, and the share.

    Readings with the concept are normal around 1; those without have any distribution (a
    kernel's estimate that falls beyond its top). Some of the rest may have the concept: which
    ones, and what both distributions are, is found by expectation and maximisation.
    """
    k, n = len(ours), len(rest)
    # Few examples leave their own deviation open.
    sd = max(float(np.std(ours, ddof=1)) * (1 + 1 / k), 0.02)
    low, high = min(rest.min(), ours.min()) - 1.0, max(rest.max(), ours.max()) + 1.0
    grid = np.linspace(low, high, _GRID)
    step = grid[1] - grid[0]
    place = np.clip(np.rint((rest - low) / step).astype(np.int64), 0, _GRID - 1)
    usual = float(np.median(np.abs(rest - np.median(rest)))) * 1.4826
    kernel = _kernel(max(0.9 * usual * n**-0.2, step), step)
    # To begin with, what reads nearer to one than to zero has it.
    chance, ratio, share = (rest > 0.5).astype(np.float64), np.zeros(_GRID), 0.0
    for _ in range(_SWEEPS):
        seen = np.square(ours - 1).sum() + (chance * np.square(rest - 1)).sum()
        sd = max(float(seen / (k + chance.sum())) ** 0.5 * (1 + 1 / k), 0.02)
        mass = np.bincount(place, 1 - chance, minlength=_GRID) / max((1 - chance).sum(), 1e-9)
        without = np.convolve(mass, kernel, mode="same")
        # Beyond its top it only falls: a second hill there is what has the concept.
        top = int(np.argmax(without))
        without[top:] = np.minimum.accumulate(without[top:])
        # What was not seen once is not impossible.
        without = (n * without + 1 / (high - low)) / (n + 1)
        with_it = np.exp(-np.square((grid - 1) / sd) / 2) / (sd * (2 * np.pi) ** 0.5)
        ratio = _rising(np.log(np.maximum(with_it, 1e-300)) - np.log(without), grid)
        share = float((chance.sum() + 0.5) / (n + 1))
        odds = ratio[place] + np.log(share) - np.log1p(-share)
        chance = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
    return grid, np.clip(ratio, -50, 50), share


def _kernel(width: float, step: float) -> FloatArray:
    """Return a normal kernel on a grid, an odd number of places that the grid outnumbers."""
    half = min(int(np.ceil(4 * width / step)), _GRID // 2 - 1)
    kernel = np.exp(-np.square(np.arange(-half, half + 1) * step / width) / 2)
    normed: FloatArray = kernel / (kernel.sum() * step)
    return normed


def _rising(ratio: FloatArray, grid: FloatArray) -> FloatArray:
    """Let the ratio never fall with the reading: more of a concept is not less of it."""
    centre = int(np.searchsorted(grid, 1.0))
    below = np.minimum.accumulate(ratio[:centre][::-1])[::-1]
    above = np.maximum.accumulate(ratio[centre:])
    return np.concatenate([np.minimum(below, above[0]), above])


def probabilities(
    memory: Memory, concept: NamedConcept, ids: IntArray
) -> tuple[FloatArray, list[str]]:
    """Return how probably each glance shows a named concept, (n,), and what to say about it.

    Args:
        memory: that holds the glances.
        concept: one of ``memory.concepts``.
        ids: (n,) of the glances.
    """
    evidence, unread = np.zeros(len(ids)), 0
    for keep, part in by_length(memory, ids):
        reading = concept.reading(keep)
        if reading is None:
            unread += len(part)
            continue
        size = len(reading.vector)
        values = memory.sketches(ids=ids[part].tolist(), prefix=size).values.numpy()
        evidence[part] = reading.evidence(reading.of(values))
    share = _share_of(evidence, concept.share)
    odds = evidence + np.log(share) - np.log1p(-share)
    notes = [
        f"a named concept ({concept.origin}, {plural(len(concept.examples), 'example')}), read "
        "from each sketch: the sum of the chances that a glance shows it"
    ]
    if len(concept.examples) < _ENOUGH:
        notes.append(
            f"fewer than {_ENOUGH} examples: if they are near-duplicates of one another, glances "
            "that show the concept otherwise are missed, and the interval does not know it"
        )
    if unread:
        notes.append(f"{plural(unread, 'glance')} keep too little to be read: as likely as usual")
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50))), notes


def _share_of(evidence: FloatArray, usual: float) -> float:
    """Estimate which share of some glances shows a concept, drawn a little to the usual one."""
    share, weight = min(max(usual, 1e-6), 1 - 1e-6), 2.0
    prior = share
    for _ in range(100):
        odds = evidence + np.log(share) - np.log1p(-share)
        chance = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        new = float((chance.sum() + weight * prior) / (len(evidence) + weight))
        new = min(max(new, 1e-9), 1 - 1e-9)
        if abs(new - share) < 1e-9:
            break
        share = new
    return share
