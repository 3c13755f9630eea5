"""Taking one memory's glances into another.

What the other has forgotten comes over with the first commit and is remembered by a fingerprint,
so that a merge that was interrupted can be run again. A faded glance does not take the place of
one that is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._checks import RecipeMismatch
from recollect.memory.blocks import Block, Where
from recollect.memory.concepts import NamedConcepts
from recollect.memory.engine import Engine
from recollect.memory.fading import add_faded
from recollect.memory.rewriting import rewrite
from recollect.sketching.recipe import ModuleTable
from recollect.sketching.skeletons import Structure, pack_structure, unpack_structure

if TYPE_CHECKING:
    from recollect.tracing.columns import Trace

__all__ = ["extend", "merge"]

IntArray = npt.NDArray[np.int64]


def extend(table: ModuleTable, other: ModuleTable) -> None:
    """Append the families of another table.

    Raises:
        ValueError: if a family has another size, other members or another scale there.
    """
    for entry in other:
        if entry.name in table and table[entry.name].scale != entry.scale:
            raise ValueError(
                f"module {entry.name!r} has scale {table[entry.name].scale} here and "
                f"{entry.scale} there, and sketches with different scales cannot be mixed; make "
                "memories that are to be merged with one sketcher: Memory(path, "
                "sketcher=first.sketcher)"
            )
        table.add(entry.name, entry.size, entry.members, entry.scale)


def merge(engine: Engine, other: Engine, keep_skeletons: bool) -> tuple[list[int], int]:
    """Add all glances of ``other``; return their ids and how many replaced ours."""
    engine.recipe.check_same(other.recipe)
    _check_following(engine, other)
    with engine.writing():
        other.sync()
        epochs = _epochs_here(engine, other)
        concepts = NamedConcepts(engine)
        named = concepts.taken_over(NamedConcepts(other))
        extend(engine.modules.copy(), other.modules)  # refuses before anything changes
        extend(engine.modules, other.modules)
        engine.store_modules()
        translate = _Translation(other, engine, keep_skeletons)
        other.reservoir.load(other.rows.version)
        if engine.reservoir.size:
            engine.reservoir.lower(other.reservoir.bound(), engine.rows.version)
        again = _take_forgotten(engine, other, translate.ids, epochs)
        ids: list[int] = []
        replaced = 0
        for block in other.rows.blocks(other.rows.find(Where())):
            epoch = None if block.epoch is None else epochs[block.epoch]
            ours = dataclasses.replace(block, skeleton=translate(block.skeleton), epoch=epoch)
            for keep, part in _by_length(ours, engine.recipe.dim):
                if keep == engine.recipe.dim:
                    rows, records = _records(other, part.ids)
                    replaced += engine.commit(part, records, rows)
                else:
                    part = add_faded(engine, part, keep, again)
                ids += part.ids.tolist()
        _absorb(engine, other, len(ids), replaced)
        concepts.take_over(named)
    return ids, replaced


def _absorb(engine: Engine, other: Engine, merged: int, replaced: int) -> None:
    """Take in the other memory's stream statistics, unless its glances were here already."""
    if engine.followed is None or other.followed is None or replaced == merged:
        return
    ours, theirs = engine.rows.version, other.rows.version
    engine.followed.absorb(other.followed, ours, theirs, replaced)


def _check_following(engine: Engine, other: Engine) -> None:
    """Refuse to mix memories that follow different statistics.

    Raises:
        ValueError: showing both.
    """
    mine = None if engine.followed is None else engine.followed.following
    theirs = None if other.followed is None else other.followed.following
    if mine is not None and (theirs is None or theirs.streams != mine.streams):
        raise ValueError(
            f"this memory follows {mine}, the other one {theirs or 'no statistics'}, and stream "
            "statistics cannot be made from sketches; add the traces themselves, or merge into a "
            "memory without statistics"
        )


def _epochs_here(engine: Engine, other: Engine) -> IntArray:
    """Return for each epoch of another memory the newest one here of the same recipe.

    Raises:
        RecipeMismatch: if glances there belong to an epoch that is not here.
    """
    held = set(np.unique(other.rows.epochs()).tolist())
    held |= set(other.forgotten.later.arrays()[1].tolist())
    found = np.zeros(len(other.epochs), np.int64)
    for theirs in other.epochs:
        same = [e.number for e in engine.epochs if e.recipe == theirs.recipe]
        if not same and theirs.number in held:
            raise RecipeMismatch(
                f"the other memory holds glances of {theirs.words} (basis {theirs.recipe.basis}), "
                f"an epoch that {engine.folder.path} does not have; begin it here first: "
                "memory.new_epoch(like=other)"
            )
        found[theirs.number] = same[-1] if same else 0
    return found


def _take_forgotten(engine: Engine, other: Engine, modules: IntArray, epochs: IntArray) -> bool:
    """Take over what another memory forgot; return whether that had been done before."""
    if not other.forgotten.any:
        return False
    mark = other.forgotten.mark
    if mark in engine.forgotten.merged:
        return True
    engine.forgotten.take(other.forgotten, modules, epochs)
    engine.forgotten.merged.append(mark)
    engine.forgotten.prepare(engine.rows.version + 1)
    if engine.rows.data() is None:
        engine.rows.write(other.rows.none(), replace=False)
    else:
        rewrite(engine.rows, [], [])
    engine.note()
    engine.forgotten.settle()
    return False


def _by_length(block: Block, dim: int) -> Iterator[tuple[int, Block]]:
    """Split a block by how many numbers its glances keep."""
    if block.kept is None:
        yield dim, block
        return
    for keep in np.unique(block.kept)[::-1].tolist():
        part = block.take(np.flatnonzero(block.kept == keep))
        yield keep, dataclasses.replace(part, kept=None) if keep == dim else part


class _Translation:
    """Gives skeletons of another memory their ids here (module ids may differ)."""

    def __init__(self, source: Engine, target: Engine, keep: bool) -> None:
        self.source, self.target, self.keep = source, target, keep
        names = source.modules.names
        self.ids = np.array([target.modules.id_of(n) for n in names], np.int64)
        self.same = bool(np.array_equal(self.ids, np.arange(len(names))))

    def __call__(self, skeletons: IntArray) -> IntArray:
        if not self.keep:
            return np.full_like(skeletons, -1)
        distinct, place = np.unique(skeletons, return_inverse=True)
        known = distinct >= 0
        packed = [self._packed(s) for s in distinct[known].tolist()]
        moved = np.full(len(distinct), -1, np.int64)
        moved[known] = self.target.skeletons.add(packed)
        return moved[place]

    def _packed(self, skeleton: int) -> bytes:
        data = self.source.skeletons.bytes_of(skeleton)
        if self.same:
            return data
        s = unpack_structure(data)
        return pack_structure(Structure(self.ids[s.modules], s.parent, s.child, s.weight))


def _records(other: Engine, ids: IntArray) -> tuple[list[int], Trace | None]:
    """Rows of a block that the other memory keeps whole, and their records."""
    wanted = set(ids.tolist())
    kept, trace = other.reservoir.records(wanted)
    row = {number: r for r, number in enumerate(ids.tolist())}
    return [row[n] for n in kept], trace
