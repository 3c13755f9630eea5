"""Reading glances of which different amounts are left, and saying what was forgotten.

Glances of one recipe that keep equally much are decoded together; a sum is read as far as all of
its sketches are known, and those of different recipes are read apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect.recall.reading import CHUNK, Decoder, Selection, plural, sums_of
from recollect.recall.windows import Windows

if TYPE_CHECKING:
    from recollect.memory import Memory, RollUps
    from recollect.sketching import InformedRecollection, Recipe, Recollection, Sketches

__all__ = [
    "Sums", "by_length", "faded_notes", "left_notes", "sums_over", "sums_over_hours", "vector_of",
]  # fmt: skip

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of sketches of one recipe in W windows.

    Attributes:
        recipe: of the sketches.
        sums: (W, d) int64 in units of 2**-32.
        known: (W,) how many of the first numbers of each are known.
        glances: (W,) in each.
        lost: (d,) bool, numbers that no glance has any more (a tier was lost); None for none.
    """

    recipe: Recipe
    sums: IntArray
    known: IntArray
    glances: IntArray
    lost: npt.NDArray[np.bool_] | None = None

    def decode(
        self, decoder: Decoder
    ) -> Iterator[tuple[IntArray, Recollection | InformedRecollection]]:
        """Decode the windows that hold glances, those of one length together."""
        for known in np.unique(self.known[self.glances > 0])[::-1].tolist():
            rows = np.flatnonzero((self.known == known) & (self.glances > 0))
            if known == 0:
                continue
            sums = sums_of(
                decoder.memory, self.sums[rows, :known], self.glances[rows], self.recipe
            )
            if self.lost is not None:
                sums = sums.masked(~self.lost[:known])
            yield rows, decoder.decode(sums)

    def total(self) -> Sums:
        """Add all windows up to one."""
        filled = self.glances > 0
        known = self.known[filled].min(initial=self.sums.shape[1])
        return Sums(
            self.recipe,
            self.sums.sum(0, keepdims=True),
            np.array([known]),
            self.glances.sum(keepdims=True),
            self.lost,
        )


def by_length(memory: Memory, ids: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield (numbers kept, places in ``ids``) of one recipe each, ``CHUNK`` places at a time.

    Of each recipe the longest come first, and glances that keep no sketch last, with 0.
    """
    kept = memory.kept(ids.tolist())
    for mine in _by_recipe(memory, ids).values():
        for keep in np.unique(kept[mine])[::-1].tolist():
            places = mine[kept[mine] == keep]
            for start in range(0, len(places), CHUNK):
                yield keep, places[start : start + CHUNK]


def _by_recipe(memory: Memory, ids: IntArray) -> dict[Recipe, IntArray]:
    """Return recipe -> places of the glances that were sketched with it."""
    if len(memory.recipes) == 1:
        return {memory.recipe: np.arange(len(ids))}
    number = {r: i for i, r in enumerate(memory.recipes)}
    which = np.array([number[e.recipe] for e in memory.epochs])[memory.epoch_of(ids.tolist())]
    places = {r: np.flatnonzero(which == i) for r, i in number.items()}
    return {r: rows for r, rows in places.items() if len(rows)}


def sums_over(
    memory: Memory, ids: IntArray, window: IntArray, size: int
) -> tuple[list[Sums], int]:
    """Add up the sketches of some glances, window by window, each recipe apart.

    Args:
        memory: that holds them.
        ids: (n,) of the glances.
        window: (n,) which window each belongs to.
        size: number of windows, W.

    Returns:
        The sums of each recipe, and how many of the glances keep no sketch and are left out.
    """
    found, left_out = [], 0
    for recipe, mine in _by_recipe(memory, ids).items():
        sums, out = _sums_over(memory, recipe, ids[mine], window[mine], size)
        found.append(sums)
        left_out += out
    return found, left_out


def _sums_over(
    memory: Memory, recipe: Recipe, ids: IntArray, window: IntArray, size: int
) -> tuple[Sums, int]:
    """Add up the sketches of some glances of one recipe."""
    dim = recipe.dim
    sums = np.zeros((size, dim), dtype=np.int64)
    known = np.full(size, dim, dtype=np.int64)
    glances = np.zeros(size, dtype=np.int64)
    lost: npt.NDArray[np.bool_] | None = None
    left_out = 0
    for keep, places in by_length(memory, ids):
        if keep == 0:
            left_out += len(places)
            continue
        sketches = memory.sketches(ids=ids[places].tolist())
        fixed = sketches.fixed_point().numpy()
        if sketches.kept is not None:
            there = sketches.kept.numpy()
            fixed, short = np.zeros((len(places), keep), np.int64), fixed
            fixed[:, there] = short
            lost = np.ones(dim, np.bool_) if lost is None else lost
            lost[there] = False
        np.add.at(sums[:, :keep], window[places], fixed)
        np.minimum.at(known, window[places], keep)
        np.add.at(glances, window[places], 1)
    return Sums(recipe, sums, known, glances, lost), left_out


def sums_over_hours(memory: Memory, rollups: RollUps, window: IntArray, size: int) -> list[Sums]:
    """Add up hourly roll-ups, window by window, each recipe apart."""
    windows = Windows(list(range(size)), window)
    known = np.full(size, memory.recipe.dim, dtype=np.int64)
    np.minimum.at(known, window, rollups.kept)
    held = rollups.epochs
    found = []
    for recipe in memory.recipes:
        parts = [rollups.of_epoch(e.number) for e in memory.epochs
                 if e.recipe == recipe and e.number in held]  # fmt: skip
        if parts:
            total = windows.total(np.sum([q.sum for q in parts], axis=0))
            glances = windows.total(np.sum([q.n for q in parts], axis=0))
            found.append(Sums(recipe, total, known, glances))
    return found


def vector_of(sketch: Sketches) -> npt.NDArray[np.float32]:
    """Return one sketch as a vector; numbers that were lost in its middle are zero."""
    values = np.asarray(sketch.values[0].cpu().numpy(), dtype=np.float32)
    if sketch.kept is None:
        return values
    out = np.zeros(int(sketch.kept[-1]) + 1, dtype=np.float32)
    out[sketch.kept.cpu().numpy()] = values
    return out


def faded_notes(memory: Memory, ids: IntArray) -> list[str]:
    """Say how much is left of some glances' sketches, if it is not all."""
    dim, kept = memory.recipe.dim, memory.kept(ids.tolist())
    return [
        f"{(kept == keep).sum():,} of {plural(len(ids), 'glance')} have faded to "
        f"{keep or 'none'} of {dim} numbers"
        for keep in np.unique(kept[kept < dim])[::-1].tolist()
    ]


def left_notes(memory: Memory, chosen: Selection, *, counted: bool) -> list[str]:
    """Say how many glances are left in roll-ups only.

    Args:
        memory: a Memory.
        chosen: what the question is about.
        counted: whether the answer comes from roll-ups, which count them.
    """
    gone = memory.forgotten(chosen.since, chosen.until)
    if not gone:
        return []
    many = plural(gone, "glance")
    if counted:
        return [f"{many} of these are left in roll-ups only; they are counted"]
    return [f"{many} of this time are left in roll-ups only, which no filter reaches: not here"]
