"""A static network's memory with two epochs, made once and copied."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from recollect import Memory, Sketcher, Trace

HOUR = 3_600_000_000
START = 400_000 * HOUR
DIM, USUAL, LATER = 128, 120, 60
IDS = np.arange(USUAL + LATER)
TIMES = START + IDS * (HOUR // 8)  # the second epoch begins within the sixteenth hour
SIZES = {"one": 30, "two": 50, "three": 9}


def glances(count: int, seed: int, *, move: float = 0.0, fall: float = 0.7) -> Trace:
    """A network whose modules see the same hidden causes, of falling size."""
    fixed, rng = np.random.default_rng(5), np.random.default_rng(seed)
    code = rng.standard_normal((count, 90)) / np.arange(1, 91) ** fall + move
    return Trace.from_columns(
        {
            name: torch.from_numpy((code @ fixed.standard_normal((90, m)) + 1).astype(np.float32))
            for name, m in SIZES.items()
        }
    )


OLD, NEW = glances(USUAL, 0), glances(LATER, 1)
ALL = Trace.concat([OLD, NEW])


def usual(path: Path, **options) -> Memory:
    """A memory with glances of the first epoch, and a prior."""
    memory = Memory(path, Sketcher(dim=DIM), reservoir=USUAL, **options)
    memory.add(OLD, TIMES[:USUAL], "hall", ids=IDS[:USUAL])
    memory.fit_prior()
    return memory


def begun(path: Path, **options) -> Memory:
    """The same, and a second epoch begun."""
    memory = usual(path, **options)
    memory.new_epoch()
    return memory


def plain(memory: Memory, **options) -> Sketcher:
    """The sketcher of the first epoch, with the scales that a memory has frozen."""
    return Sketcher(dim=DIM, scales={e.name: e.scale for e in memory.modules}, **options)


@cache
def _made() -> Path:
    path = Path(mkdtemp(prefix="recollect-epochs-")) / "room"
    with begun(path) as memory:
        memory.add(NEW, TIMES[USUAL:], "room", {"kind": "late"}, IDS[USUAL:])
    return path


def two_epochs(path: Path, **options) -> Memory:
    """A memory of two epochs in a new folder."""
    shutil.copytree(_made(), path)
    return Memory(path, **options)
