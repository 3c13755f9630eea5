"""How large, where, how sure: mean and spread of a module's attribute over many glances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import Z90, Answer, interval
from recollect._checks import NotRemembered
from recollect.recall.faded import (
    Sums,
    by_length,
    faded_notes,
    left_notes,
    sums_over,
    sums_over_hours,
)
from recollect.recall.reading import (
    CHUNK,
    Decoder,
    Selection,
    load_note,
    plural,
    records_of,
)

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import InformedRecollection, Recollection

__all__ = [
    "Estimates", "attribute", "decode_objects", "holding", "mean_of_sums", "pull_of", "usual_of"
]  # fmt: skip

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimates:
    """What is known of n objects, m numbers each.

    Attributes:
        value: (n, m) estimates.
        variance: (n, m) variance of each estimate; zero where a record says it exactly.
        records: how many of the glances were read from records.
        loads: load of each decoding.
        notes: what the decodings said.
    """

    value: FloatArray
    variance: FloatArray
    records: int
    loads: Sequence[float]
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of m numbers, each with its own standard deviation."""

    mean: FloatArray
    mean_std: FloatArray
    variance: FloatArray
    variance_std: FloatArray


def attribute(
    memory: Memory,
    module: str,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    names: Sequence[str] | None = None,
) -> Answer:
    """Estimate the mean and the spread of each number of a module's attribute.

    With x the numbers of the n chosen objects, x' their estimates and v the variances of these,
    the mean is that of x' with variance ``sum(v) / n^2``, and the spread is the root of
    ``var(x') + mean(v)`` (the law of total variance). Glances that are kept whole count exactly.
    What the prior pulled towards the usual, where the chosen glances are unusual, widens the
    interval of the mean.

    Args:
        memory: a Memory.
        module: name of the module.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.
        names: what the m numbers are called, such as ``["score", "x", "y", "w", "h"]``; fewer
            names than numbers leave the rest numbered.

    Returns:
        An Answer, one row per number: ``number`` (its name, or its place), ``estimate``, ``low``,
        ``high`` of the mean, and ``spread``, ``spread_low``, ``spread_high`` of the standard
        deviation over the chosen objects.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: if more names are given than there are numbers, a time has no zone, or the
            glances were kept without skeletons and there is no prior.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> def scene(x):
        ...     face = Object("face", [x])
        ...     return [Object("cat", [x, 1.0], weight=0.5, inputs=[face])]
        >>> t = Trace.from_objects([scene(x) for x in (1.0, 1.1, 5.0)])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3], source="hall")
        >>> recall.attribute(memory, "cat", names=["size"])
        attribute of 'cat'
        number  estimate    low   high  spread  spread_low  spread_high
          size     2.367  2.367  2.367   1.863       1.863        1.863
             1         1      1      1       0           0            0
        3 objects in 3 glances
        3 of 3 glances read exactly from records
        >>> memory.close()
    """
    entry = memory.modules.family_of(memory.modules.id_of(module))
    labels = _labels(names, module, entry.size)
    chosen = Selection.of(where, since, until)
    decoder = Decoder.of(memory)
    ids, objects, blind, gone = _holding(memory, module, chosen, decoder.prior is not None)
    if gone:
        moments, notes = _from_sums(memory, module, chosen, decoder, objects)
        notes += left_notes(memory, chosen, counted=True)
        notes.append("the spread is not known")
        ids = ids[:0]
    elif blind:
        moments, notes = _from_sums(memory, module, chosen, decoder, None)
        notes.append(
            f"{plural(blind, 'glance')} kept without skeletons: the mean comes from the sum of "
            "all sketches, the spread is not known"
        )
    elif len(ids) > CHUNK and chosen.is_hours and decoder.prior is not None:
        moments, notes = _from_sums(memory, module, chosen, decoder, objects)
        sample = ids[np.unique(np.linspace(0, len(ids) - 1, CHUNK).astype(np.int64))]
        found = decode_objects(memory, module, sample, decoder)
        spread = _estimated(memory, module, found, decoder)
        sampled = spread.variance * np.sqrt(2.0 / len(found.value))
        wide = np.hypot(spread.variance_std, sampled)
        moments = Moments(moments.mean, moments.mean_std, spread.variance, wide)
        notes.append(f"the spread comes from {plural(len(sample), 'glance')}, evenly chosen")
    else:
        found = decode_objects(memory, module, ids, decoder)
        moments = _estimated(memory, module, found, decoder)
        notes = _notes(found, decoder, len(ids))
    title = f"attribute of {module!r}" + chosen.words
    counted = f"{plural(objects, 'object')} in {plural(len(ids), 'glance')}"
    if gone:
        counted = plural(objects, "object")
    else:
        notes += left_notes(memory, chosen, counted=False)
    return _answer(labels, moments, title, [*([counted] if not blind else []), *notes])


def holding(memory: Memory, module: str, chosen: Selection) -> tuple[IntArray, int, int]:
    """Return the chosen glances that hold the module, its objects, and glances not known."""
    return _holding(memory, module, chosen, sums=False)[:3]


def _holding(
    memory: Memory, module: str, chosen: Selection, sums: bool
) -> tuple[IntArray, int, int, int]:
    """Return the chosen glances that hold the module, its objects, and glances not known.

    The last number are the glances that only roll-ups know, where these can answer (``sums``:
    whether sums of sketches can be read).
    """
    counts = memory.skeleton_counts(**chosen.arguments)
    objects = counts.count(module, "objects")
    blind = int((~counts.known).sum())
    gone = memory.forgotten(chosen.since, chosen.until) if sums and chosen.is_hours else 0
    if gone and not blind:
        rollups = memory.rollups(since=chosen.since, until=chosen.until)
        total = int(rollups.count(module).sum())
        if total and (rollups.n == rollups.known).all():
            return counts.ids[objects > 0], total, 0, gone
    if not blind and not objects.any():
        raise NotRemembered(
            f"no object of module {module!r} is in the {plural(len(counts), 'chosen glance')}"
            f"{chosen.words}; widen the filter or the window"
        )
    return counts.ids[objects > 0], int(objects.sum()), blind, 0


def decode_objects(memory: Memory, module: str, ids: IntArray, decoder: Decoder) -> Estimates:
    """Read the module's objects in some glances: from records where kept, else from sketches."""
    kept, trace = records_of(memory, ids)
    values, variances, loads, notes = [], [], [], []
    if trace is not None:
        exact = trace.objects(module).attributes.numpy().astype(np.float64)
        values.append(exact)
        variances.append(np.zeros_like(exact))
    others = ids[~np.isin(ids, kept)]
    for keep, part in by_length(memory, others):
        if keep == 0:
            continue
        recollection = decoder.decode(memory.sketches(ids=others[part].tolist()))
        found = recollection.objects(module)
        values.append(found.attributes.cpu().numpy().astype(np.float64))
        std = found.std if found.std is not None else np.zeros_like(values[-1])
        variances.append(np.square(np.asarray(std, dtype=np.float64)))
        loads.append(float(np.max(recollection.load)))
        notes += [n for n in recollection.notes if n not in notes]
    notes += faded_notes(memory, others)
    if not values:
        raise NotRemembered(
            f"{plural(len(ids), 'chosen glance')} hold module {module!r}, but none keeps a sketch "
            "or a record: only their structure is left (retention policy)"
        )
    return Estimates(np.concatenate(values), np.concatenate(variances), len(kept), loads, notes)


def _estimated(memory: Memory, module: str, found: Estimates, decoder: Decoder) -> Moments:
    usual = usual_of(decoder, module)
    return _moments(found.value, found.variance, usual, memory.recipe.dim)


def _moments(
    value: FloatArray,
    variance: FloatArray,
    usual: tuple[FloatArray, FloatArray, int] | None = None,
    dim: int = 64,
) -> Moments:
    """Mean and variance of the objects behind (n, m) estimates, each with its deviation.

    Args:
        value: (n, m) estimates.
        variance: (n, m) variance of each.
        usual: mean, variance and number of the prior's objects.
        dim: numbers in a sketch.
    """
    n = len(value)
    mean, lost, between = value.mean(0), variance.mean(0), value.var(0)
    error = lost / n
    # The n squared errors scatter around their mean, and multiply with the estimates.
    scatter = 2 * np.square(variance).mean(0) / n + 4 * (between * lost) / n
    if usual is not None:
        error = error + pull_of(mean, lost, n, dim, *usual)
        # How much is lost is known from the prior's objects, so many and no more.
        scatter = scatter + 2 * np.square(lost) / max(usual[2], 1)
    return Moments(mean, np.sqrt(error), between + lost, np.sqrt(scatter))


def pull_of(
    mean: FloatArray,
    lost: FloatArray,
    n: int,
    dim: int,
    centre: FloatArray,
    own: FloatArray,
    seen: int,
) -> FloatArray:
    """Squared error of the mean where the prior pulled unusual objects towards the usual.

    An estimate moves by the part ``k = 1 - lost / own`` of what the truth differs from the
    prior's mean. A difference beyond chance is therefore short by ``(1 - k) / k`` of itself, and
    the error of the prior's own mean, known from so many objects, enters all estimates by
    ``1 - k``.
    """
    safe = np.where(own > 0, own, 1.0)
    kept = np.clip(1 - lost / safe, 0.05, 1.0)
    chance = own * (kept / n + 1 / max(seen, 1))
    beyond = np.maximum(np.square(mean - centre) - 2 * chance, 0.0)
    own_error = np.square(1 - kept) * own / max(seen, 1)
    # Other numbers' differences leak in: the estimates are K x with K = (G + r)^-1 G, where the
    # columns of the map meet by chance, G_ij^2 = 1 / dim. So K_ij^2 is about (1 - k)^2 / dim where
    # the sketch has room (r is its noise), and k^2 (1 - k) / dim where it has not.
    beyond = beyond / np.square(kept)
    ratio = np.where(own > 0, beyond / safe, 0.0)
    met = (1 - kept) * np.minimum(1 - kept, np.square(kept)) / dim
    leaked = own * met * (ratio.sum() - ratio)
    return np.asarray(beyond * np.square(1 - kept) + leaked + own_error)


def usual_of(decoder: Decoder, module: str) -> tuple[FloatArray, FloatArray, int] | None:
    """Mean and variance of the module's attribute in the prior's glances, and their number."""
    if decoder.prior is None or module not in decoder.prior.modules:
        return None
    known = decoder.prior.sample.objects(module).attributes.numpy().astype(np.float64)
    return (known.mean(0), known.var(0), len(known)) if len(known) > 1 else None


def _from_sums(
    memory: Memory, module: str, chosen: Selection, decoder: Decoder, objects: int | None
) -> tuple[Moments, list[str]]:
    """Take the mean from the sum of all chosen sketches; the spread stays unknown.

    Raises:
        ValueError: if there is no prior, which a mean over a sum needs.
    """
    if decoder.prior is None:
        raise ValueError(
            f"the mean of module {module!r} over a sum of sketches needs a prior, and this memory "
            "keeps neither one nor records to fit it; keep some (Memory(..., reservoir=512)) or "
            "keep skeletons"
        )
    if chosen.is_hours:
        rollups = memory.rollups(since=chosen.since, until=chosen.until)
        window, read = np.zeros(len(rollups), np.int64), "roll-ups"
        parts = sums_over_hours(memory, rollups, window, 1)
    else:
        ids = memory.glances(**chosen.arguments)["id"].to_numpy()
        parts, _ = sums_over(memory, ids, np.zeros(len(ids), np.int64), 1)
        read = "sketches"
    n = sum(int(part.glances[0]) for part in parts)
    if n == 0 or any(part.glances[0] and part.known[0] == 0 for part in parts):
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    mean, std, recollections = mean_of_sums(parts, decoder, module, objects)
    loads = [r.load for r in recollections]
    said = list(dict.fromkeys(note for r in recollections for note in r.notes))
    unknown = np.full_like(mean, np.nan)
    notes = [
        f"the mean comes from the sum of {plural(n, 'sketch').replace('sketchs', 'sketches')} "
        f"({read})",
        decoder.note,
        load_note(loads),
        *said,
    ]
    return Moments(mean, std, unknown, unknown), notes


def mean_of_sums(
    parts: Sequence[Sums], decoder: Decoder, module: str, objects: float | None
) -> tuple[FloatArray, FloatArray, list[Recollection | InformedRecollection]]:
    """Read a module's mean attribute from the sums of one window, one for each recipe.

    Args:
        parts: sums of one window.
        decoder: reads them.
        module: whose attribute.
        objects: how many there are in all; None where that is not known.

    Returns:
        mean (m,), its standard deviation (m,), and what was decoded. Means of several recipes
        are weighed by how many objects each holds: every glance of an informed epoch holds one.
    """
    read = [next(part.decode(decoder))[1] for part in parts if part.glances[0]]
    exact = [isinstance(r, sketching.InformedRecollection) for r in read]
    counted = [float(r.count_estimates([module])[1][0, 0]) for r in read]
    left = None if objects is None else objects - sum(
        c for c, known in zip(counted, exact, strict=True) if known
    )  # fmt: skip
    if len(read) > 1 and left is not None:
        counted = [c if known else left for c, known in zip(counted, exact, strict=True)]
    total = sum(max(c, 0.0) for c in counted)
    mean: FloatArray = np.zeros(1)
    variance: FloatArray = np.zeros(1)
    for r, known, count in zip(read, exact, counted, strict=True):
        share = 1.0 if len(read) == 1 else max(count, 0.0) / max(total, 1e-300)
        if share == 0:
            continue
        given = None if known or left is None else np.array([left])
        part, std = (x[0].cpu().numpy().astype(np.float64) for x in r.means(module, given))
        mean = mean + share * part
        variance = variance + np.square(share * std)
    return mean, np.sqrt(variance), read


def _notes(found: Estimates, decoder: Decoder, glances: int) -> list[str]:
    notes = []
    if found.records:
        notes.append(f"{found.records} of {plural(glances, 'glance')} read exactly from records")
    if found.loads:
        notes += [decoder.note, load_note(found.loads), *found.notes]
    return notes


def _labels(names: Sequence[str] | None, module: str, size: int) -> list[Any]:
    given = list(names or [])
    if len(given) > size:
        raise ValueError(
            f"{len(given)} names are given for the {size} numbers of module {module!r}"
        )
    return [*given, *range(len(given), size)] if not given else [
        *given, *(str(i) for i in range(len(given), size))
    ]  # fmt: skip


def _answer(labels: list[Any], moments: Moments, title: str, notes: Sequence[str]) -> Answer:
    low, high = interval(moments.mean, moments.mean_std)
    half = Z90 * moments.variance_std
    return Answer(
        {
            "number": labels,
            "estimate": moments.mean,
            "low": low,
            "high": high,
            "spread": np.sqrt(moments.variance),
            "spread_low": np.sqrt(np.maximum(moments.variance - half, 0.0)),
            "spread_high": np.sqrt(moments.variance + half),
        },
        title=title,
        notes=notes,
    )
