"""Sketches and skeleton counts of some glances, put together from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect.memory.blocks import Where
from recollect.memory.clock import HOUR
from recollect.memory.engine import Engine
from recollect.memory.rollups import RollUps
from recollect.memory.structures import SkeletonCounts
from recollect.sketching.recipe import Recipe

if TYPE_CHECKING:
    from recollect.sketching.sketches import Sketches

__all__ = [
    "check_one_choice", "counts_at", "glances_at", "places_of", "rollups_in", "skeletons_at",
    "sketches_at",
]  # fmt: skip

IntArray = npt.NDArray[np.int64]


def check_one_choice(ids: Iterable[int] | None, chosen: Where) -> None:
    """Refuse ids beside a filter.

    Raises:
        ValueError: if both are given.
    """
    if ids is not None and not chosen.is_all:
        raise ValueError("give ids or a filter (where, since, until), not both")


def places_of(engine: Engine, ids: Iterable[int]) -> IntArray:
    """Return the places of ids.

    Raises:
        NotRemembered: if one is unknown.
    """
    wanted = np.array([int(i) for i in ids], np.int64)
    places = engine.rows.places(wanted)
    if (places < 0).any():
        raise NotRemembered(
            f"no glance has the id {wanted[places < 0][0]}; memory.glances() lists the ids"
        )
    return places


def glances_at(engine: Engine, places: IntArray, columns: Sequence[str] | None) -> Any:
    """Return a ``pyarrow.Table`` of the glances at some places, without their sketches.

    Raises:
        ValueError: if a column is unknown.
    """
    known = ["id", "time", "source", *engine.rows.label_names(), "skeleton"]
    chosen = known if columns is None else list(columns)
    for name in chosen:
        check_one_of("a column", name, known)
    if engine.rows.data() is None:
        return engine.rows.empty(chosen)
    return engine.rows.take(places, chosen)


def sketches_at(engine: Engine, places: IntArray, prefix: int | None) -> Sketches:
    """Return the sketches at some places, or their prefixes (only their tiers are read).

    Without a prefix, the longest that all of them keep. Where a tier was lost, the others.

    Raises:
        ValueError: if the prefix is longer than the sketches, or than what one of them keeps, or
            the glances belong to epochs of different recipes.
    """
    import torch

    rows, recipe = engine.rows, _recipe(engine, places)
    dim = _common(engine, places, prefix)
    columns = [name for name, part in rows.tiers.items() if part.start < dim]
    scaled = ["scale"] if rows.dtype == np.int8 else []
    codes = np.zeros((0, dim), rows.dtype)
    factors = np.zeros(0, np.float32)
    if len(places):
        table = rows.take(places, [*scaled, *columns])
        codes = np.array(rows.codes(table, columns)[:, :dim])
        if scaled:
            factors = table.column("scale").to_numpy().astype(np.float32)
    found = sketching.Sketches(
        torch.from_numpy(codes),
        torch.from_numpy(factors) if scaled else None,
        torch.ones(len(places), dtype=torch.int64),
        skeletons_at(engine, places),
        engine.modules,
        recipe,
    )
    lost = [rows.tiers[name] for name in rows.lost if name in columns]
    if not lost:
        return found
    return found.masked([i for i in range(dim) if not any(p.start <= i < p.stop for p in lost)])


def _recipe(engine: Engine, places: IntArray) -> Recipe:
    """Return the recipe of the sketches at some places.

    Raises:
        ValueError: if there are several.
    """
    if len(engine.epochs) == 1 or len(places) == 0:
        return engine.recipe
    numbers, count = np.unique(engine.rows.epochs()[places], return_counts=True)
    recipes = {engine.epochs[n].recipe for n in numbers.tolist()}
    if len(recipes) > 1:
        told = ", ".join(f"{c:,} of epoch {n}" for n, c in zip(numbers, count, strict=True))
        raise ValueError(
            f"sketches of two recipes are no one table: {told}; ask epoch by epoch, with "
            "memory.sketches(ids[memory.epoch_of(ids) == n]), or ask recall, which reads all"
        )
    found: Recipe = recipes.pop()
    return found


def _common(engine: Engine, places: IntArray, prefix: int | None) -> int:
    """Return how many numbers to read.

    Raises:
        ValueError: if the prefix is longer than the sketches, or than what one of them keeps.
    """
    rows, whole = engine.rows, engine.recipe.dim
    dim = whole if prefix is None else check_integer("prefix", prefix, minimum=1)
    if dim > whole:
        raise ValueError(f"a prefix of {dim} numbers is asked of sketches of {whole}")
    if not rows.faded or len(places) == 0:
        return dim
    kept = rows.kept()[places]
    least = int(kept.min())
    if prefix is None and least > 0:
        return least
    short = kept < max(dim if prefix is not None else 1, 1)
    if short.any():
        first = rows.index()[0][places[short][0]]
        raise ValueError(
            f"{dim} numbers are asked for, but {short.sum():,} of these glances have faded: "
            f"glance {first} keeps {kept[short][0]} of {whole}; memory.kept(ids) says what each "
            "keeps"
        )
    return dim


def skeletons_at(engine: Engine, places: IntArray) -> sketching.Skeletons | None:
    """Return the skeletons of the glances at some places; None if one of them has none."""
    numbers = engine.rows.index()[2][places]
    if bool((numbers < 0).any()):
        return None
    return sketching.Skeletons.from_packed(
        [engine.skeletons.bytes_of(s) for s in numbers.tolist()]
    )


def counts_at(engine: Engine, places: IntArray) -> SkeletonCounts:
    """Return the counts of the glances at some places, from their skeletons."""
    ids, time, skeleton = engine.rows.index()
    distinct, index = np.unique(skeleton[places], return_inverse=True)
    known = distinct >= 0
    bags = [engine.skeletons.bag(s) for s in distinct[known].tolist()]
    number = np.where(known, np.cumsum(known) - 1, -1)[index]
    return SkeletonCounts(ids[places], time[places], number >= 0, engine.modules, number, bags)


def rollups_in(engine: Engine, span: Where) -> RollUps:
    """Return the roll-ups of a span; hours that it cuts are counted from their glances."""
    first = None if span.since is None else -(-span.since // HOUR)
    last = None if span.until is None else span.until // HOUR
    cut = []
    if first is not None and last is not None and first > last:
        cut, last = [span], first
    else:
        if first is not None and span.since != first * HOUR:
            cut.append(Where(None, span.since, first * HOUR))
        if last is not None and span.until != last * HOUR:
            cut.append(Where(None, last * HOUR, span.until))
    if not cut:
        return engine.between(first, last)
    return engine.between(first, last, engine.count_where(cut), _cut_hours(engine, cut))


def _cut_hours(engine: Engine, cut: list[Where]) -> dict[int, int]:
    """Return the hours of some cuts, and how many numbers all of their glances keep."""
    if not engine.rows.faded:
        return {}
    found: dict[int, int] = {}
    kept, time = engine.rows.kept(), engine.rows.index()[1]
    for where in cut:
        for place in engine.rows.find(where).tolist():
            hour = int(time[place]) // HOUR
            found[hour] = min(int(kept[place]), found.get(hour, engine.recipe.dim))
    return found
