"""Forgetting by a policy: rows are cut to their first numbers, or go; roll-ups stay as they are.

One fading is one commit. What the rows lose is first added to the state of ``forgotten`` that
the commit's version will have; then the fragments that are touched are written anew, and the
commit puts them in place. A writer that is killed before leaves the old rows with the old state,
one killed after it the new rows with the new state; whatever else it leaves is swept up by the
next writer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect.memory.blocks import Block
from recollect.memory.clock import HOUR, iso
from recollect.memory.forgotten import Forgotten
from recollect.memory.layout import size_of
from recollect.memory.retention import ROLL_UPS, Retention
from recollect.memory.rewriting import add_parts, append, rewrite
from recollect.memory.tiers import channel_kept, within

if TYPE_CHECKING:
    from recollect.memory.engine import Engine
    from recollect.memory.rows import Rows

__all__ = ["Faded", "add_faded", "check_growth", "check_not_forgotten", "fade", "take_back"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Faded:
    """What a fading did, or (``dry_run``) would do.

    Attributes:
        policy: the policy, in words.
        now: moment from which ages were counted, in ISO form.
        dry_run: whether nothing was done.
        faded: numbers kept -> glances that were cut to so many (0: skeletons only).
        gone: glances that are left in roll-ups only.
        sketch_bytes: bytes of the sketch columns (the channel's included) before and after.
        bytes: bytes of the whole memory on disk before and after; None for a dry run's after.

    Example:
        >>> Faded("keep full for ever", "2026-01-01T00:00:00+00:00", False, {}, 0, (9, 9), (9, 9))
        nothing has faded (keep full for ever)
    """

    policy: str
    now: str
    dry_run: bool
    faded: dict[int, int]
    gone: int
    sketch_bytes: tuple[int, int]
    bytes: tuple[int, int | None]

    @property
    def glances(self) -> int:
        """Glances that keep less than before."""
        return sum(self.faded.values()) + self.gone

    def __repr__(self) -> str:
        if not self.glances:
            return f"nothing has faded ({self.policy})"
        would = "would keep" if self.dry_run else "now keep"
        lines = [f"{self.policy}, as of {self.now}:"]
        for keep, n in sorted(self.faded.items(), reverse=True):
            lines.append(f"  {n:,} glances {would} {_what(keep)}")
        if self.gone:
            lines.append(f"  {self.gone:,} glances {would} their share of the roll-ups only")
        before, after = self.sketch_bytes
        lines.append(f"  sketches: {before:,} -> {after:,} bytes")
        if self.bytes[1] is not None:
            lines.append(f"  on disk: {self.bytes[0]:,} -> {self.bytes[1]:,} bytes")
        return "\n".join(lines)


def _what(keep: int) -> str:
    return f"{keep} numbers of their sketch" if keep else "no sketch, but their structure"


def plan(engine: Engine, policy: Retention, now: int) -> tuple[IntArray, IntArray]:
    """Return what each row keeps and what the policy leaves of it, (N,) each; -1 for nothing."""
    time = engine.rows.index()[1]
    kept = engine.rows.kept()
    return kept, np.minimum(kept, asked(policy, time, now, engine.recipe.dim))


def asked(policy: Retention, time: IntArray, now: int, dim: int) -> IntArray:
    """Return how many numbers a policy keeps of glances of some times, (N,)."""
    found = np.full(len(time), min(policy.stages[0].keep, dim), np.int64)
    for moment, keep in policy.cuts(now):
        found[time < moment] = min(keep, dim)
    return found


def check_growth(engine: Engine, policy: Retention, now: int) -> None:
    """Refuse a policy that asks for more than the memory still has.

    Raises:
        ValueError: saying how many glances keep less than the policy asks.
    """
    policy.check_dim(engine.recipe.dim)
    time, kept = engine.rows.index()[1], engine.rows.kept()
    short = np.flatnonzero(asked(policy, time, now, engine.recipe.dim) > kept)
    if len(short):
        worst = short[np.argmin(kept[short])]
        raise ValueError(
            f"the policy would grow data: {str(policy)!r} asks for more than is kept of "
            f"{len(short):,} glances (of the one of {iso(time[worst])} "
            f"{kept[worst]} numbers are left); what is forgotten does not come back. Ask for no "
            "more of that age, or stop fading with the policy 'off'"
        )
    hours = engine.forgotten.hours()
    missing = hours[asked(policy, hours * HOUR, now, engine.recipe.dim) > ROLL_UPS]
    if len(missing):
        raise ValueError(
            f"the policy would grow data: {str(policy)!r} asks for glances up to "
            f"{iso(int(missing[-1]) * HOUR)} that are left in roll-ups only; what is forgotten "
            "does not come back. Keep roll-ups from that age on, or stop fading with the policy "
            "'off'"
        )


def check_not_forgotten(engine: Engine, time: IntArray) -> None:
    """Refuse glances of hours of which only roll-ups are left: they may have been counted.

    Raises:
        ValueError: saying how many.
    """
    hours = engine.forgotten.hours()
    again = np.isin(time // HOUR, hours)
    if again.any():
        raise ValueError(
            f"{again.sum():,} of these glances fall into hours of which only roll-ups are left "
            f"(up to {iso((int(hours[-1]) + 1) * HOUR)}): whether they were counted already "
            "cannot be told. Leave them out; if they are new, put them into a memory of their "
            "own and merge it: memory.merge(other)"
        )


def fade(engine: Engine, policy: Retention, now: int, dry_run: bool = False) -> Faded:
    """Cut the rows of a memory to what a policy leaves of them.

    The writer's lock must be held, but for a dry run.
    """
    policy.check_dim(engine.recipe.dim)
    kept, left = plan(engine, policy, now)
    less = left < kept
    counts = np.unique(left[less & (left >= 0)], return_counts=True)
    before = size_of(engine.folder.path)
    gone = int((left < 0).sum())
    sketch = (_bytes(engine.rows, kept), _bytes(engine.rows, np.maximum(left, 0)))
    if less.any() and not dry_run:
        _apply(engine, kept, left)
    return Faded(
        str(policy),
        iso(now),
        dry_run,
        dict(zip(*(c.tolist() for c in counts), strict=True)),
        gone,
        sketch,
        (before, None if dry_run else size_of(engine.folder.path)),
    )


def _bytes(rows: Rows, kept: IntArray) -> int:
    """Bytes of the sketches, and of the channel, of glances that keep so many numbers."""
    beside = channel_kept(kept, rows.dim, rows.channel).sum()
    return int(kept.sum()) * rows.dtype.itemsize + int(beside)


def _apply(engine: Engine, kept: IntArray, left: IntArray) -> None:
    rows = engine.rows
    keeps = sorted(set(left[left >= 0].tolist()))
    add_parts(rows, keeps)
    keys = rows.keys()
    fragment = np.repeat(np.arange(len(keys)), [n - gone for _, n, gone in keys])
    touched = np.unique(fragment[left < kept])
    mine = np.isin(fragment, touched)
    ids, time, _ = rows.index()
    order = np.lexsort((ids, time))
    order = order[mine[order]]
    groups = [(k, order[left[order] == k]) for k in keeps]
    away = ids[left < 0].tolist()
    _move(engine, np.flatnonzero(left < kept), left)
    engine.forgotten.prepare(rows.version + 1)
    rewrite(rows, [keys[i][0] for i in touched.tolist()], groups)
    engine.note()
    engine.forgotten.settle()
    engine.reservoir.remove(away, rows.version)
    rows.clean()
    engine.save()


def _move(engine: Engine, places: IntArray, left: IntArray) -> None:
    """Move what rows lose from the sums over rows to what is forgotten."""
    done = 0
    for block in engine.rows.blocks(places):
        keep = left[places[done : done + len(block)]]
        done += len(block)
        time, skeleton, fixed, epochs = engine.fixed(block)
        epoch = np.zeros(len(block), np.int64) if epochs is None else epochs
        gone = keep < 0
        whole = (time[gone], skeleton[gone], fixed[gone], epoch[gone])
        engine.forgotten.add(*whole, engine.skeletons)
        engine.ledger.add(*whole, engine.skeletons, sign=-1)
        tail = fixed[~gone]
        tail[within(keep[~gone], engine.rows.dim, engine.rows.channel)] = 0
        engine.forgotten.add_sums(time[~gone] // HOUR, tail, epoch=epoch[~gone])
        engine.ledger.add_sums(time[~gone] // HOUR, tail, sign=-1, epoch=epoch[~gone])


def add_faded(engine: Engine, block: Block, keep: int, again: bool) -> Block:
    """Add glances of another memory that keep only their first numbers; return what was added.

    A glance that is here stays. What it has beyond those numbers is then twice in the roll-ups:
    it is taken out if it is known, else only the first numbers of the hour's sum stay known.

    Args:
        engine: of the memory that takes them in.
        block: glances that keep equally much; what they lost is in ``engine.forgotten``.
        keep: how much.
        again: whether this merge was begun before: then what is here came from it.
    """
    place = engine.rows.places(block.ids)
    here = np.flatnonzero(place >= 0)
    if len(here) and not again:
        _meet(engine, block.take(here), place[here])
    fresh = block.take(np.flatnonzero(place < 0))
    if len(fresh) == 0:
        return fresh
    engine.add_label_columns(fresh)
    engine.add_epoch_column(fresh)
    add_parts(engine.rows, [keep])
    append(engine.rows, engine.rows.table(fresh), keep)
    engine.ledger.add(*engine.fixed(fresh), engine.skeletons)
    engine.note()
    return fresh


def _meet(engine: Engine, theirs: Block, places: IntArray) -> None:
    """Settle the roll-ups where a faded glance of another memory is here too."""
    order = np.argsort(places)
    theirs = theirs.take(order)
    ours = next(engine.rows.blocks(places[order], size=len(places)))
    whole = np.full(len(ours), engine.recipe.dim)
    known = ours.kept if ours.kept is not None else whole
    assert theirs.kept is not None
    # Seen from the other side: their faded glance comes again, whole, as ours.
    full = dataclasses.replace(ours, kept=None)
    same, row = _same(theirs, np.arange(len(theirs)), full)
    same &= known == engine.recipe.dim
    _take_out(engine.forgotten, full, row[same], theirs.kept[same])
    other = ~same
    engine.forgotten.narrow(theirs.time[other] // HOUR, theirs.kept[other])
    both = np.minimum(known, theirs.kept)
    engine.forgotten.narrow(ours.time[other] // HOUR, both[other])
    engine.forgotten.prepare(engine.rows.version + 1)
    rewrite(engine.rows, [], [])
    engine.note()
    engine.forgotten.settle()


def take_back(
    forgotten: Forgotten, before: Sequence[Block], block: Block | None, version: int
) -> bool:
    """Prepare for the going of rows of which some had faded; return whether anything was.

    What they had beyond their prefix is in the roll-ups still. If the same glance comes again,
    whole, that is taken out, exactly. Otherwise it cannot be told apart, and of the roll-up of
    its hour only the first numbers stay known.

    Args:
        forgotten: of the memory.
        before: rows that go.
        block: rows that come in their place, or None.
        version: that the commit will make.
    """
    changed = False
    for b in before:
        if b.kept is None:
            continue
        faded = np.flatnonzero(b.kept < forgotten.dim)
        if len(faded) == 0:
            continue
        again, row = _same(b, faded, block)
        if block is not None:
            _take_out(forgotten, block, row[again], b.kept[faded[again]])
        lost = faded[~again]
        forgotten.narrow(b.time[lost] // HOUR, b.kept[lost])
        changed = True
    if changed:
        forgotten.prepare(version)
    return changed


def _take_out(forgotten: Forgotten, block: Block, rows: IntArray, kept: IntArray) -> None:
    """Take what some rows have beyond their first ``kept`` numbers out of the sums."""
    tail = block.take(rows).fixed
    tail[within(kept, forgotten.dim, forgotten.channel)] = 0
    epoch = None if block.epoch is None else block.epoch[rows]
    forgotten.add_sums(block.time[rows] // HOUR, tail, sign=-1, epoch=epoch)


def _same(old: Block, faded: IntArray, new: Block | None) -> tuple[npt.NDArray[Any], IntArray]:
    """Return which faded rows come again whole with the same prefix, and in which new row."""
    if new is None or new.kept is not None:
        return np.zeros(len(faded), np.bool_), np.zeros(len(faded), np.int64)
    place = {number: r for r, number in enumerate(new.ids.tolist())}
    row = np.array([place.get(n, 0) for n in old.ids[faded].tolist()], np.int64)
    assert old.kept is not None
    kept, dim = old.kept[faded], old.codes.shape[1]
    same = ((old.codes[faded] == new.codes[row]) | ~within(kept, dim, 0)).all(1)
    if old.channel is not None and new.channel is not None:
        (codes, scale), (again, scale_again) = old.channel, new.channel
        beyond = ~within(kept, dim, codes.shape[1])[:, dim:]
        same &= ((codes[faded] == again[row]) | beyond).all(1)
        same &= scale[faded] == scale_again[row]
    same &= old.time[faded] // HOUR == new.time[row] // HOUR
    same &= new.ids[row] == old.ids[faded]
    if old.scale is not None and new.scale is not None:
        same &= old.scale[faded] == new.scale[row]
    epochs = [np.zeros(len(b), np.int64) if b.epoch is None else b.epoch for b in (old, new)]
    same &= epochs[0][faded] == epochs[1][row]
    return same, row
