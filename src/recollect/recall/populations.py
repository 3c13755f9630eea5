"""The objects of a module in a window, as something whose averages can be taken.

Three ways lead to the average of a function over objects that nobody kept whole: the glances are
decoded one by one and their error bars drawn from (``Decoded``); the window's sum of the
distribution channel is read (``Channelled``); or the function is one that a stream statistic
followed (see ``recall.streams``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import NotRemembered
from recollect.recall.attributes import (
    Estimates,
    decode_objects,
    holding,
    mean_of_sums,
    pull_of,
    usual_of,
)
from recollect.recall.faded import sums_over, sums_over_hours
from recollect.recall.reading import CHUNK, Decoder, Selection, load_note, plural

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import Averages, InformedRecollection, Recollection

__all__ = ["Channelled", "Decoded", "Feature", "Population", "feature_of", "population_of"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Function = Callable[[FloatArray], npt.NDArray[Any]]

SOURCES = ("sketch", "channel")
# Draws from the error bar of each decoded object, at least, and of all objects together.
DRAWS, ALL_DRAWS = 64, 4096


@dataclass(frozen=True)
class Feature:
    """One number read from each attribute.

    Attributes:
        name: for titles.
        read: (n, m) attributes to (n,).
    """

    name: str
    read: Function


def feature_of(feature: Any, size: int, names: Sequence[str] | None = None) -> Feature:
    """Understand what of an attribute of ``size`` numbers is asked about.

    Args:
        feature: place of a number; its name among ``names``; ``"size"``, the attribute's norm;
            a direction (m numbers), onto which it is projected; a function of (n, m) attributes
            to (n,) numbers; or None: the only number, else the size.
        size: m.
        names: what the numbers are called.

    Raises:
        ValueError: if there is no such number or name, or a direction has another length.
        TypeError: on anything else.

    Example:
        >>> feature_of("w", 3, names=["score", "w"]).read(np.array([[1.0, 2.0, 3.0]]))
        array([2.])
    """
    if feature is None:
        feature = 0 if size == 1 else "size"
    if isinstance(feature, str) and names is not None and feature in list(names):
        feature = list(names).index(feature)
    if isinstance(feature, str):
        if feature != "size":
            known = ", ".join(map(repr, ["size", *(names or [])]))
            raise ValueError(f"feature {feature!r} is not known; there are {known}, and numbers")
        return Feature("size", lambda x: np.linalg.norm(x, axis=1))
    if hasattr(feature, "__index__") and not isinstance(feature, bool):
        place = int(feature.__index__())
        if not 0 <= place < size:
            raise ValueError(
                f"attributes have numbers 0 to {size - 1}, number {place} is asked for"
            )
        called = names[place] if names is not None and place < len(names) else f"number {place}"
        return Feature(str(called), lambda x: x[:, place])
    if callable(feature):
        return Feature(getattr(feature, "__name__", "feature"), feature)
    try:
        direction = np.asarray(feature, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a feature is a number's place or name, 'size', a direction or a function, got "
            f"{feature!r}"
        ) from error
    if direction.shape != (size,):
        raise ValueError(
            f"a direction needs {size} numbers, one for each of an attribute, got "
            f"{direction.shape}"
        )
    return Feature("projection", lambda x: x @ direction)


class Population:
    """The objects of one module in a window.

    Attributes:
        objects: how many (an estimate where skeletons were not kept).
        notes: how they are known.
        exact: whether all of them were kept whole.
    """

    objects: float
    notes: list[str]
    exact: bool = False

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Return means (q,) of a function (n, m) -> (n, q), and their standard deviations."""
        raise NotImplementedError

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Return attributes (R, m) like those of the objects, and weights (R,) that sum to one."""
        raise NotImplementedError


class Decoded(Population):
    """Objects decoded one by one; averages are taken over draws from their error bars.

    Args:
        found: their estimates.
        objects: how many there are; more than were decoded if these are a sample.
        shift: (m,) by how much the prior may have pulled all of them alike.
        correlation: (m, m) of the errors of an object's numbers.
        notes: how they were read.
    """

    def __init__(
        self,
        found: Estimates,
        objects: float,
        shift: FloatArray,
        correlation: FloatArray,
        notes: list[str],
    ) -> None:
        self.found, self.objects, self.shift, self.notes = found, objects, shift, notes
        n, m = found.value.shape
        self.exact = not found.variance.any() and n >= objects
        draws = 1 if self.exact else max(DRAWS, -(-ALL_DRAWS // max(n, 1)))
        generator = np.random.Generator(np.random.PCG64(n))
        noise = generator.standard_normal((n, draws, m)) @ np.linalg.cholesky(correlation).T
        std = np.sqrt(found.variance)[:, None, :]
        self._draws = found.value[:, None, :] + (std * noise if not self.exact else 0.0)

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Average over draws: the mean, and what draws of one object and a pull leave open."""
        n, draws, m = self._draws.shape
        read = np.asarray(function(self._draws.reshape(-1, m)), np.float64)
        each = read.reshape(n, draws, -1)
        mean = each.mean((0, 1))
        if self.exact:
            return mean, np.zeros_like(mean)
        error = each.var(1).sum(0) / n**2
        if n < self.objects:  # a sample of the objects
            error = error + each.mean(1).var(0) / n * (1 - n / self.objects)
        if self.shift.any():
            moved = [
                np.asarray(function((self._draws + s * self.shift).reshape(-1, m)), np.float64)
                for s in (-1.0, 1.0)
            ]
            error = error + np.square((moved[1] - moved[0]).mean(0) / 2)
        return mean, np.sqrt(error)

    def quantiles(self, read: Function, ranks: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quantiles of a number, and their deviations: those of each draw of all objects.

        Where the objects are a sample, each draw takes as many of them with replacement.
        """
        n, draws, m = self._draws.shape
        number = read(self._draws.reshape(-1, m)).reshape(n, draws)
        if self.exact:
            middle = np.quantile(number[:, 0], ranks)
            return middle, np.zeros_like(middle)
        middle = np.quantile(number, ranks, axis=0).mean(1)
        if n < self.objects:
            generator = np.random.Generator(np.random.PCG64(n + 1))
            number = np.take_along_axis(number, generator.integers(0, n, number.shape), 0)
        variance = np.quantile(number, ranks, axis=0).var(1)
        if self.shift.any():
            ends = [
                read((self._draws + s * self.shift).reshape(-1, m)).reshape(n, draws)
                for s in (-1.0, 1.0)
            ]
            moved = [np.quantile(u, ranks, axis=0).mean(1) for u in ends]
            variance = variance + np.square((moved[1] - moved[0]) / 2)
        return middle, np.sqrt(variance)

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Return all draws, of equal weight."""
        flat = self._draws.reshape(-1, self._draws.shape[2])
        return flat, np.full(len(flat), 1 / len(flat))


class Channelled(Population):
    """Objects of which only the channel's sum is read.

    Args:
        averages: reads it.
        module: whose objects.
        values: (c,) the sum.
        glances: how many it sums.
        counts: module -> objects in the window, and the variance of that.
        known: mean of the attribute and its deviation, from the sum of the sketches.
        notes: how it was read.
    """

    def __init__(
        self,
        averages: Averages,
        module: str,
        values: FloatArray,
        glances: int,
        counts: Mapping[str, tuple[float, float]],
        known: tuple[FloatArray, FloatArray] | None,
        notes: list[str],
    ) -> None:
        self.averages, self.module, self.counts, self.notes = averages, module, counts, notes
        self.values, self.glances, self.known = values, glances, known
        self.objects = counts[module][0]

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Read the averages from the channel's sum; see ``sketching.averages``."""
        import torch

        values = torch.from_numpy(self.values)
        return self.averages.of(
            self.module, function, values, self.glances, self.counts, self.known
        )

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Return the smoothed records, which what the channel says is measured against."""
        reference = self.averages.reference(self.module)
        return reference.points, reference.weight


def population_of(
    memory: Memory, module: str, chosen: Selection, source: str | None
) -> Population:
    """Choose how the objects of a window are read.

    Single glances are decoded where these are up to ``CHUNK`` and their skeletons are kept;
    beyond that the channel's sum is read, from roll-ups where the window is made of whole hours;
    without a channel a sample of the glances is decoded.

    Raises:
        NotRemembered: if the module was never seen, or is in none of the chosen glances.
        ValueError: if the asked source cannot answer.
    """
    memory.modules.id_of(module)
    if source == "channel":
        return channelled(memory, module, chosen)
    ids, objects, blind = holding(memory, module, chosen)
    has_channel = memory.recipe.channel is not None and memory.recipe.channel.follows(
        memory.modules.family_of(memory.modules.id_of(module)).name
    )
    if source is None and has_channel and (blind or len(ids) > CHUNK):
        return channelled(memory, module, chosen)
    if blind:
        raise ValueError(
            f"{plural(blind, 'glance')} of this window kept no skeleton, so that single objects "
            "cannot be decoded, and distributions need objects; keep skeletons, or a "
            "distribution channel: Memory(path, sketcher=Sketcher(channel=True))"
        )
    return decoded(memory, module, ids, objects)


def decoded(memory: Memory, module: str, ids: IntArray, objects: int) -> Decoded:
    """Decode the glances that hold the module, or a sample of ``CHUNK`` of them."""
    decoder = Decoder.of(memory)
    sampled = ids
    if len(ids) > CHUNK:
        sampled = ids[np.unique(np.linspace(0, len(ids) - 1, CHUNK).astype(np.int64))]
    found = decode_objects(memory, module, sampled, decoder)
    if np.isnan(found.value).any():
        raise ValueError(
            f"objects of module {module!r} cannot be decoded: {'; '.join(found.notes)}"
        )
    lost, usual = found.variance.mean(0), usual_of(decoder, module)
    shift = np.zeros_like(lost)
    if usual is not None and lost.any():
        n, dim = len(found.value), memory.recipe.dim
        shift = np.sqrt(pull_of(found.value.mean(0), lost, n, dim, *usual))
    notes = [f"{plural(objects, 'object')} in {plural(len(ids), 'glance')}"]
    if len(sampled) < len(ids):
        notes.append(f"read from {plural(len(sampled), 'glance')}, evenly chosen")
    if found.records:
        notes.append(f"{found.records} of {plural(len(sampled), 'glance')} read from records")
    if found.loads:
        notes += [decoder.note, load_note(found.loads), *found.notes]
    return Decoded(found, objects, shift, _error_correlation(decoder, module, lost), notes)


def _error_correlation(decoder: Decoder, module: str, lost: FloatArray) -> FloatArray:
    """How the errors of an object's numbers go together, from held-back glances of the prior."""
    m = len(lost)
    same = np.eye(m)
    if m == 1 or not lost.any() or decoder.prior is None or len(decoder.prior.sample) < 24:
        return same
    fitted, back = decoder.prior.hold_out(256)
    sketcher = decoder.memory.sketcher
    found = sketcher.decode(sketcher.encode(back), prior=fitted).objects(module)
    if len(found.attributes) < 4 or found.std is None or module not in back.modules:
        return same
    true = back.objects(module).attributes.numpy().astype(np.float64)
    error = found.attributes.numpy().astype(np.float64) - true
    error /= np.maximum(found.std.numpy().astype(np.float64), 1e-300)
    n = len(error)
    size = np.sqrt(np.square(error).mean(0))
    safe = np.where(size > 0, size, 1.0)
    together = (error / safe).T @ (error / safe) / n
    np.fill_diagonal(together, 1.0)
    mixed: FloatArray = (n * together + 4 * m * same) / (n + 4 * m)
    return mixed


def channelled(memory: Memory, module: str, chosen: Selection) -> Channelled:
    """Sum the channel over a window, from roll-ups or from its glances.

    Raises:
        NotRemembered: if no glance, or no object of the module, is chosen.
        ValueError: if the memory has no channel, or no prior to read it with.
    """
    decoder = Decoder.of(memory)
    averages = _averages_of(decoder, module)
    if chosen.is_hours:
        rollups = memory.rollups(since=chosen.since, until=chosen.until)
        n, known = int(rollups.n.sum()), int(rollups.known.sum())
        counted = rollups.counts().sum(0)
        codes = rollups.channel
        assert codes is not None, "a recipe with a channel has its sums"
        total, read = codes.sum(0), "roll-ups"
        parts = sums_over_hours(memory, rollups, np.zeros(len(rollups), np.int64), 1)
    else:
        found = memory.channels(**chosen.arguments)
        n, read = len(found), "glances"
        ids = memory.glances(columns=["id"], **chosen.arguments)["id"].to_numpy()
        parts, _ = sums_over(memory, ids, np.zeros(len(ids), np.int64), 1)
        total = found.sum().codes[0].numpy() if n else np.zeros(found.dim, np.int64)
        skeletons = memory.skeleton_counts(**chosen.arguments)
        known = int(skeletons.known.sum())
        counted = np.array([skeletons.count(name).sum() for name in memory.modules.names])
    if n == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    names = memory.modules.names
    counts = {name: (float(c), 0.0) for name, c in zip(names, counted.tolist(), strict=True)}
    notes = [f"from the sum of {plural(n, 'glance')} in the distribution channel ({read})"]
    if known < n:
        counts = _estimated_counts(
            [r for part in parts for _, r in part.decode(decoder)], memory.modules.names
        )
        notes.append("without skeletons: the number of objects is itself an estimate")
    if counts[module][0] < 0.5:
        raise NotRemembered(
            f"no object of module {module!r} is in the {plural(n, 'chosen glance')}"
            f"{chosen.words}; widen the filter or the window"
        )
    told = mean_of_sums(parts, decoder, module, counts[module][0])[:2]
    load = averages.load(counts)
    notes += [decoder.note.replace("decoded", "read"), f"load of the channel {load:.2g}"]
    values = total.astype(np.float64) * 2.0**-32
    return Channelled(averages, module, values, n, counts, told, notes)


def _averages_of(decoder: Decoder, module: str) -> Averages:
    """Return what reads the channel, once it is sure that the module can be read.

    Raises:
        ValueError: if there is no channel, it does not follow the module, or too little is known.
    """
    memory = decoder.memory
    if memory.recipe.channel is None:
        raise ValueError(
            f"{memory.path} keeps no distribution channel; make the memory with "
            "Memory(path, sketcher=Sketcher(channel=True)), or decode glances: source='sketch'"
        )
    if decoder.prior is None:
        raise ValueError(
            "the distribution channel is read with a prior, and this memory keeps neither one "
            "nor records to fit it; keep some: Memory(..., reservoir=512)"
        )
    averages = sketching.Averages(memory.sketcher, decoder.prior)
    averages.reference(module)
    return averages


def _estimated_counts(
    summed: Sequence[Recollection | InformedRecollection], modules: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Estimate each module's objects in a window, and the variance of that, from its sketches."""
    found = dict.fromkeys(modules, (0.0, 0.0))
    for part in summed:
        names, estimate, std = part.count_estimates()
        for name, e, s in zip(names, estimate[0].tolist(), std[0].tolist(), strict=True):
            found[name] = (found[name][0] + max(e, 0.0), found[name][1] + s * s)
    return found
