"""The demo's world: a network trained on the spot, a year of scenes, and a memory of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from recollect import Memory, Sketcher
from recollect.app.demo.network import Reader, Seen, glances, look, train
from recollect.app.demo.scenes import Scene, load_digits, make_scenes, make_year

__all__ = ["World", "live"]

Report = Callable[[str, int, int], None]


@dataclass
class World:
    """What was, what the network saw, and what the memory kept.

    Attributes:
        scenes: the truth.
        seen: what the network found in each scene: its own log.
        ids: of the glances in the memory.
        memory: open to write.
        network: the reader.
        seconds: name of a step -> how long it took.
    """

    scenes: list[Scene]
    seen: list[list[Seen]]
    ids: list[int]
    memory: Memory
    network: Reader
    seconds: dict[str, float] = field(default_factory=dict)

    def truth(self, label: int, unit: str = "objects") -> list[int]:
        """Return how many of a digit stand in each scene (or whether there is one)."""
        counts = [s.count(label) for s in self.scenes]
        return counts if unit == "objects" else [int(c > 0) for c in counts]

    def log(self, label: int, unit: str = "objects") -> list[int]:
        """Return how many of a digit the network saw in each scene (or whether it saw one)."""
        counts = [sum(o.label == label for o in objects) for objects in self.seen]
        return counts if unit == "objects" else [int(c > 0) for c in counts]


def fold(values: Sequence[int], keys: Sequence[Any], order: Sequence[Any]) -> list[int]:
    """Sum values by key, in the given order of keys."""
    sums = dict.fromkeys(order, 0)
    for value, key in zip(values, keys, strict=True):
        sums[key] += value
    return [sums[k] for k in order]


def live(
    path: Path, days: int, seed: int, training: int, report: Report = lambda step, n, of: None
) -> World:
    """Train the network, make the year, and let the memory watch it.

    Args:
        path: where the memory is made; one of an earlier demo is replaced.
        days: days of the year.
        seed: of the scenes and the network.
        training: scenes to train on.
        report: called with the name of a step, how far it is and how far it goes.
    """
    seconds: dict[str, float] = {}
    started = perf_counter()
    learn, keep = load_digits()
    network = train(
        make_scenes(learn, training, seed), seed=seed,
        report=lambda step, steps, loss: report("training the network", step, steps),
    )  # fmt: skip
    seconds["training"] = perf_counter() - started
    scenes = make_year(keep, days, seed)
    if (path / "meta.json").exists():
        shutil.rmtree(path)
    memory = Memory(path, sketcher=Sketcher(dim=512, seed=0))
    started, running = perf_counter(), 0.0
    seen: list[list[Seen]] = []
    ids: list[int] = []
    batches = look(network, scenes)
    while True:
        before = perf_counter()
        found = next(batches, None)
        running += perf_counter() - before
        if found is None:
            break
        part = scenes[len(seen) : len(seen) + len(found)]
        added = memory.add(
            glances(found), time=[s.time for s in part], source=[s.source for s in part]
        )
        seen += found
        ids += list(added.ids)
        report("watching the year", len(seen), len(scenes))
    seconds["network"] = running
    seconds["watching"] = perf_counter() - started - running
    started = perf_counter()
    memory.fit_prior()
    seconds["prior"] = perf_counter() - started
    return World(scenes, seen, ids, memory, network, seconds)
