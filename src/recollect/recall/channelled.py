"""A window read from its sum of the distribution channel, and the choice between the ways to read.

Where glances have faded, the channel's sum is read as far as all of them keep it; whole hours are
read from roll-ups, which fading does not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import NotRemembered
from recollect.recall.attributes import holding, mean_of_sums
from recollect.recall.faded import Sums, sums_over, sums_over_hours
from recollect.recall.populations import Function, Population, decoded
from recollect.recall.reading import CHUNK, Decoder, Selection, plural

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import Averages, InformedRecollection, Recollection
    from recollect.sketching.averages import Window

__all__ = ["Channelled", "channelled", "population_of"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Total:
    """What is known of a window without any of its glances.

    Attributes:
        glances: how many are summed.
        sketches: sums of the sketches, one for each recipe, as far as they are known.
        channel: (c',) sum of the channel, as far as it is known.
        counted: module -> objects, from skeletons; None where some were not kept.
        notes: where it comes from.
    """

    glances: int
    sketches: list[Sums]
    channel: IntArray
    counted: dict[str, float] | None
    notes: list[str]


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
        self._window: Window | None = None

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Read the averages from the channel's sum; see ``sketching.averages``."""
        if self._window is None:
            import torch

            values = torch.from_numpy(self.values)
            self._window = self.averages.window(
                self.module, values, self.glances, self.counts, self.known
            )
        return self.averages.within(self._window, function)

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


def channelled(memory: Memory, module: str, chosen: Selection) -> Channelled:
    """Sum the channel over a window, from roll-ups or from its glances.

    Raises:
        NotRemembered: if no glance, or no object of the module, is chosen.
        ValueError: if the memory has no channel, no prior to read it with, or nothing is left
            of the channel in this window.
    """
    decoder = Decoder.of(memory)
    averages = _averages_of(decoder, module)
    total = _over_hours(memory, chosen) if chosen.is_hours else _over_glances(memory, chosen)
    n = total.glances
    if n == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    if not len(total.channel):
        raise _nothing_left(n, chosen)
    notes = list(total.notes)
    if total.counted is None:
        summed = [r for part in total.sketches for _, r in part.decode(decoder)]
        counts = _estimated_counts(summed, memory.modules.names)
        notes.append("without skeletons: the number of objects is itself an estimate")
    else:
        counts = {name: (number, 0.0) for name, number in total.counted.items()}
    if counts[module][0] < 0.5:
        raise NotRemembered(
            f"no object of module {module!r} is in the {plural(n, 'chosen glance')}"
            f"{chosen.words}; widen the filter or the window"
        )
    told = mean_of_sums(total.sketches, decoder, module, counts[module][0])[:2]
    load = averages.load(counts, len(total.channel))
    notes += [decoder.note.replace("decoded", "read"), f"load of the channel {load:.2g}"]
    values = total.channel.astype(np.float64) * 2.0**-32
    return Channelled(averages, module, values, n, counts, told, notes)


def _over_hours(memory: Memory, chosen: Selection) -> _Total:
    """Add up the roll-ups of whole hours, as far as the sums of all of them are known."""
    rollups = memory.rollups(since=chosen.since, until=chosen.until)
    codes, n = rollups.channel, int(rollups.n.sum())
    assert codes is not None, "a recipe with a channel has its sums"
    beside = int(rollups.channel_kept.min(initial=codes.shape[1]))
    counted = dict(zip(memory.modules.names, rollups.counts().sum(0).tolist(), strict=True))
    return _Total(
        n,
        sums_over_hours(memory, rollups, np.zeros(len(rollups), np.int64), 1),
        codes[:, :beside].sum(0),
        counted if int(rollups.known.sum()) == n else None,
        [
            f"from the sum of {plural(n, 'glance')} in the distribution channel (roll-ups)",
            *_shorter(beside, codes.shape[1]),
        ],
    )


def _over_glances(memory: Memory, chosen: Selection) -> _Total:
    """Add up single glances; those that keep nothing of the channel are left out.

    Raises:
        ValueError: if none keeps anything of it.
    """
    ids = memory.glances(**chosen.arguments, columns=["id"])["id"].to_numpy().astype(np.int64)
    recipe = memory.recipe
    assert recipe.channel is not None
    left = memory.kept(ids.tolist()) * recipe.channel.size // recipe.dim
    some = ids[left > 0]
    if len(ids) and not len(some):
        raise _nothing_left(len(ids), chosen)
    found, skeletons = memory.channels(ids=some), memory.skeleton_counts(**chosen.arguments)
    here = np.isin(skeletons.ids, some)
    counted = {n: float(skeletons.count(n)[here].sum()) for n in memory.modules.names}
    gone = len(ids) - len(some)
    return _Total(
        len(some),
        sums_over(memory, some, np.zeros(len(some), np.int64), 1)[0],
        found.sum().codes[0].numpy(),
        counted if bool(skeletons.known[here].all()) else None,
        [
            f"from the sum of {plural(len(some), 'glance')} in the distribution channel (glances)",
            *_shorter(found.dim, recipe.channel.size),
            *([f"{plural(gone, 'glance')} keep nothing of it: left out"] if gone else []),
        ],
    )


def _nothing_left(glances: int, chosen: Selection) -> ValueError:
    return ValueError(
        f"nothing is left of the distribution channel in these {plural(glances, 'glance')}"
        f"{chosen.words}; ask for whole hours, which roll-ups still know"
    )


def _shorter(numbers: int, whole: int) -> list[str]:
    if numbers == whole:
        return []
    return [f"glances have faded: the channel is read up to {numbers} of {whole} numbers"]


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
