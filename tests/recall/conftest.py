"""A room over three weeks, with every truth known: hand-built glances and where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from recollect import Memory, Object, Sketcher, Trace

SOURCES = ("attic", "hall", "kitchen")
# Berlin ends summer time on 2025-10-26 at 01:00 UTC; the three weeks go over it.
BEGIN = datetime(2025, 10, 15, 22, 17, tzinfo=UTC)


@dataclass
class Room:
    """Glances with their truth."""

    trace: Trace
    times: list[datetime]
    sources: list[str]
    ids: np.ndarray
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.times)


def glance(rng: np.random.Generator, hour: int) -> list[Object]:
    """A lamp that is always there; cats with faces, more at night; dogs with weights."""
    night = hour < 7 or hour > 19
    top = [Object("lamp", rng.normal([1.0, -2.0, 0.5, 0.0], 1.0))]
    for _ in range(rng.poisson(1.2 if night else 0.3)):
        box = rng.normal([0.8, 10.0, 5.0, 3.0, 2.0], [0.1, 3.0, 2.0, 1.0, 0.5])
        faces = [Object("face", rng.normal(0, 1, 3)) for _ in range(rng.integers(0, 2))]
        top.append(Object("cat", box, inputs=faces))
    for _ in range(rng.poisson(0.5)):
        top.append(Object("dog", rng.normal(0, 1, 3), weight=float(rng.choice([0.25, 0.5, 1.75]))))
    return top


def make_room(number: int, seed: int = 0) -> Room:
    """Make glances about every hour and a half, some in the same hour."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.exponential(5400, number))
    times = [BEGIN + timedelta(seconds=float(s)) for s in steps]
    trace = Trace.from_objects([glance(rng, t.hour) for t in times])
    sources = [str(s) for s in rng.choice(SOURCES, number)]
    return Room(trace, times, sources, np.arange(1000, 1000 + number))


def keep(path: Path, room: Room, **options: object) -> Memory:
    """Write a room's glances into a new memory."""
    options = {"reservoir": 0, **options}
    sketcher = options.pop("sketcher", None) or Sketcher(dim=256)
    memory = Memory(path, sketcher=sketcher, **options)  # type: ignore[arg-type]
    labels = {"door": [("open", "shut")[len(s) % 2] for s in room.sources]}
    memory.add(room.trace, time=room.times, source=room.sources, labels=labels, ids=room.ids)
    return memory


@pytest.fixture(scope="session")
def build() -> Callable[..., Room]:
    """Make rooms: number of glances, seed."""
    return make_room


@pytest.fixture(scope="session")
def room() -> Room:
    return make_room(320)


@pytest.fixture(scope="session")
def memory(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """The room, with 120 of its glances kept whole and a prior fitted to them."""
    path = tmp_path_factory.mktemp("recall") / "room"
    with keep(path, room, reservoir=120, timezone="Europe/Berlin") as made:
        made.fit_prior()
        yield made


@pytest.fixture
def remember(tmp_path: Path) -> Iterator[Callable[..., Memory]]:
    """Make memories of rooms, closed at the end."""
    made: list[Memory] = []

    def make(room: Room, **options: object) -> Memory:
        made.append(keep(tmp_path / f"memory{len(made)}", room, **options))
        return made[-1]

    yield make
    for m in made:
        m.close()
