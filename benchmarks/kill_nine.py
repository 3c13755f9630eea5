"""Does a memory lose anything that it acknowledged when its writer is killed at any moment?

A writer adds glances, adds some of them again, deletes, compacts and reopens, and notes what was
acknowledged. It is killed with SIGKILL at a random moment; then the memory must open, hold all
that was acknowledged with the right content, and agree with a full recomputation. Thirty rounds
on one memory.
"""

from __future__ import annotations

import json
import os
import random

import numpy as np
import torch

from benchmarks.killing import kill_writers, noted, run
from recollect import Sketcher
from recollect.memory import Memory
from recollect.sketching import ModuleTable, Recipe, Skeletons, Sketches, Structure
from recollect.sketching.skeletons import pack_structure
from recollect.sketching.sketches import quantize

HOUR = 3_600_000_000
DIM = 320
BATCH = 20


def made(edition):
    """Sketches that are known by the number of their edition."""
    rng = np.random.default_rng(edition)
    values = torch.from_numpy(rng.normal(size=(BATCH, DIM)).astype(np.float32))
    codes, scale = quantize(values, "int8")
    modules = ModuleTable()
    packed = []
    for name in ("cat", "dog", "face"):
        modules.add(name, 3)
    for row in range(BATCH):
        ids = np.arange((row + edition) % 4) % 3
        n = len(ids)
        weight = np.full(n, 0.5, np.float32)
        packed.append(pack_structure(Structure(ids, np.full(n, -1), np.arange(n), weight)))
    count = torch.ones(BATCH, dtype=torch.int64)
    return Sketches(
        codes, scale, count, Skeletons.from_packed(packed), modules, Recipe(dim=DIM)
    )  # fmt: skip


def write(path, log, first, durability):
    """Write until killed; note each step before and after it."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random(first)

    def note(**what):
        os.write(handle, (json.dumps(what) + "\n").encode())

    def opened():
        return Memory(path, sketcher=Sketcher(dim=DIM), durability=durability)

    memory = opened()
    batches = []
    for edition in range(first, first + 10_000):
        choice = rng.random()
        if choice < 0.15 and batches:
            batch = rng.choice(batches)
        elif choice < 0.22 and batches:
            batch = batches.pop(rng.randrange(len(batches)))
            note(step="deleting", batch=batch)
            memory.delete(f"batch = {batch}")
            note(step="deleted", batch=batch)
            continue
        elif choice < 0.26:
            memory.compact()
            continue
        elif choice < 0.30:
            memory.close()
            memory = opened()
            continue
        else:
            batch = edition
            batches.append(batch)
        ids = np.arange(BATCH) + batch * BATCH
        note(step="adding", batch=batch, edition=edition)
        memory._append(
            made(edition),
            (ids * 977) % 40_000 * (HOUR // 40),
            labels={"batch": batch, "edition": edition},
            ids=ids,
        )
        note(step="added", batch=batch, edition=edition)


def expected(log):
    """Batch -> editions that it may have (None: may be absent)."""
    allowed = {}
    for line in log.read_text().splitlines():
        what = json.loads(line)
        batch, edition = what["batch"], what.get("edition")
        before = allowed.get(batch, {None})
        if what["step"].endswith("ing"):
            allowed[batch] = before | {edition}
        else:
            allowed[batch] = {edition}
    return allowed


def acknowledged(log):
    """Number of acknowledged additions."""
    return log.read_text().count('"step": "added"') if log.exists() else 0


def check(path, log):
    """Return what is wrong, in words."""
    memory = Memory(path)
    problems = list(memory.verify().problems)
    allowed = expected(log) if log.exists() else {}
    table = memory.glances()
    if len(memory) != len(table):
        problems.append(f"len is {len(memory)}, the table has {len(table)} rows")
    held = {}
    if len(table):
        for batch, edition in zip(
            table["batch"].to_pylist(), table["edition"].to_pylist(), strict=True
        ):
            held.setdefault(int(batch), []).append(int(edition))
    for batch, editions in allowed.items():
        found = held.pop(batch, [])
        kinds = set(found) or {None}
        if len(kinds) > 1 or not kinds <= editions or len(found) not in (0, BATCH):
            problems.append(f"batch {batch}: {sorted(editions, key=str)} allowed, found {found}")
        elif found:
            ids = np.arange(BATCH) + batch * BATCH
            if not memory.sketches(ids=ids).equal(made(found[0])):
                problems.append(f"batch {batch}: other sketches than those of edition {found[0]}")
    if held:
        problems.append(f"batches that nobody added: {sorted(held)}")
    memory.close()
    return problems, len(table)


def rounds(folder, number, longest, durability="process", seed=0):
    """Kill a writer ``number`` times; yield (seconds, glances, acknowledged, problems)."""

    def first(turn, log):
        return turn * 100_000

    def ready(log, size, rng):
        return lambda: noted(log, size, b'"step": "added"') > 0

    for wait, path, log in kill_writers(
        folder, number, longest, write, first, ready, durability, seed
    ):
        problems, glances = check(path, log)
        yield wait, glances, acknowledged(log), problems


def row(found):
    """A round as a line."""
    wait, glances, added, problems = found
    return f"{wait:10.3f} s  {glances:7d}  {added:17d}  {problems or 'none'}"


if __name__ == "__main__":
    run(__doc__, 1.0, "killed after  glances  acknowledged adds  problems", rounds, row)
