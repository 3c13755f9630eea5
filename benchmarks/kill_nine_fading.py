"""Does a memory that fades lose anything when its writer is killed while it forgets?

A writer adds a batch of glances for every hour, adds some again, deletes, compacts, reopens, and
fades by a policy of four stages after every few hours. It is killed with SIGKILL at a random
moment after a fading has begun. Then the memory must open; the roll-ups of all hours must be, bit
for bit, the sums of the whole sketches and distribution channels that were acknowledged, whatever
has become of these; what is left of a glance must be a prefix of what it was; and ``verify`` must
agree. Thirty rounds on one memory.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import numpy as np
import torch

from benchmarks import kill_nine
from benchmarks.kill_nine import BATCH, DIM, HOUR
from benchmarks.killing import kill_writers, noted, run
from recollect import Sketcher
from recollect.memory import Memory
from recollect.sketching import Channel, Recipe, Sketches, channel_recipe
from recollect.sketching.sketches import quantize

POLICY = "full for 6 hours, 100 dims for 15 hours, skeletons for 25 hours, roll-ups for ever"
AGAIN = 20
CHANNEL = Channel(128, 8)


def made(edition):
    """Sketches with a distribution channel that are known by the number of their edition."""
    plain, recipe = kill_nine.made(edition), Recipe(dim=DIM, channel=CHANNEL)
    drawn = np.random.default_rng([edition, 1]).normal(size=(BATCH, CHANNEL.size))
    codes, scale = quantize(torch.from_numpy(drawn.astype(np.float32)), "int8")
    of_channel = channel_recipe(recipe)
    beside = Sketches(codes, scale, plain.count, None, plain.modules, of_channel)
    return replace(plain, recipe=recipe, channel=beside)


def times(hour):
    """Times of the glances of an hour's batch."""
    return hour * HOUR + np.arange(BATCH) * (HOUR // 40)


def write(path, log, first, durability):
    """Write until killed; note each step before and after it."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random(first)

    def note(step, **what):
        os.write(handle, (json.dumps({"step": step, **what}) + "\n").encode())

    def opened():
        return Memory(path, sketcher=Sketcher(dim=DIM, channel=CHANNEL), durability=durability)

    memory, held = opened(), []
    for hour in range(first, first + 10_000):
        add(memory, hour, note)
        held = [*held, hour][-AGAIN:]
        choice = rng.random()
        if choice < 0.2:
            add(memory, rng.choice(held), note)
        elif choice < 0.3 and len(held) > 5:
            # Only whole glances: of faded ones roll-ups would keep a trace, by design.
            gone = held.pop(rng.randrange(len(held) - 5, len(held)))
            note("deleting", hour=gone)
            memory.delete(f"batch = {gone}")
            note("deleted", hour=gone)
        elif choice < 0.4:
            memory.compact()
        elif choice < 0.5:
            memory._engine.close()
            memory = opened()
        if hour % 3 == 0:
            note("fading", now=hour + 1)
            memory.fade(now=(hour + 1) * HOUR, policy=POLICY)
            note("faded", now=hour + 1)


def add(memory, hour, note):
    """Add an hour's batch."""
    note("adding", hour=hour)
    ids = np.arange(BATCH) + hour * BATCH
    memory._append(made(hour), times(hour), labels={"batch": hour}, ids=ids)
    note("added", hour=hour)


def steps(log):
    """All notes."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def expected(log):
    """Hour -> whether its batch is there (None: it may be)."""
    found = {}
    for what in steps(log):
        hour = what.get("hour")
        if what["step"] == "adding":
            found[hour] = True if found.get(hour) else None
        elif what["step"] == "deleting":
            found[hour] = None
        elif what["step"] in ("added", "deleted"):
            found[hour] = what["step"] == "added"
    return found


def check(path, log):
    """Return what is wrong, in words, and (full, faded, gone) glances."""
    memory = Memory(path, read_only=True)
    problems = list(memory.verify().problems)
    rollups, kept = memory.rollups(), memory._engine.rows.kept()
    row = {int(t) // HOUR: i for i, t in enumerate(rollups.start)}
    for hour, there in expected(log).items():
        n = int(rollups.n[row[hour]]) if hour in row else 0
        if n not in (0, BATCH) or (there is not None and (n > 0) != there):
            problems.append(f"hour {hour}: {n} glances, expected {there}")
        elif n:
            whole = made(hour).fixed_point().numpy().sum(0)
            known = rollups.kept[row[hour]]
            same = np.array_equal(rollups.sum[row[hour]], whole)
            beside = made(hour).channel.fixed_point().numpy().sum(0)
            same &= np.array_equal(rollups.channel[row[hour]], beside)
            if known < DIM or not same:
                problems.append(f"hour {hour}: another roll-up (known {known})")
    problems += check_prefixes(memory)
    whole, gone = int((kept == DIM).sum()), memory.forgotten()
    return problems, (whole, len(kept) - whole, gone)


def check_prefixes(memory):
    """Say which glances hold something else than a prefix of what they were."""
    table = memory.glances(columns=["id"])
    ids = table["id"].to_numpy()
    problems = []
    for hour in np.unique(ids // BATCH).tolist():
        mine = ids[ids // BATCH == hour]
        kept = memory.kept(mine.tolist())
        if len(mine) != BATCH or len(set(kept.tolist())) > 1:
            problems.append(f"hour {hour}: {len(mine)} glances of lengths {set(kept.tolist())}")
        elif kept[0]:
            whole = made(hour)[(mine % BATCH).tolist()]
            sketches = memory.sketches(ids=mine.tolist())
            beside, left = memory.channels(ids=mine.tolist()), int(kept[0])
            if not sketches.equal(replace(whole.prefix(left), channel=None)):
                problems.append(f"hour {hour}: other sketches")
            if not beside.equal(whole.channel.prefix(left * CHANNEL.size // DIM)):
                problems.append(f"hour {hour}: another channel")
    return problems


def rounds(folder, number, longest, durability="process", seed=0):
    """Kill a writer ``number`` times while it fades; yield (seconds, glances, problems)."""

    def first(turn, log):
        return 1 + max((s.get("hour", 0) for s in steps(log)), default=0)

    def ready(log, size, rng):
        wanted = rng.randrange(1, 5)
        return lambda: noted(log, size, b'"fading"') >= wanted

    for wait, path, log in kill_writers(
        folder, number, longest, write, first, ready, durability, seed
    ):
        problems, glances = check(path, log)
        yield wait, glances, problems


def row(found):
    """A round as a line."""
    wait, (whole, faded, gone), problems = found
    return f"{1000 * wait:9.1f} ms  {whole:5d}  {faded:5d}  {gone:16d}  {problems or 'none'}"


if __name__ == "__main__":
    run(__doc__, 0.1, "killed after  whole  faded  in roll-ups only  problems", rounds, row)
