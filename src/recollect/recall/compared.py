"""What emerging concepts are looked for among: glances or one module's objects, as vectors.

At most ``MOST`` are compared each with each. Where there are more, so many are drawn at random,
and of the rest it is asked which concept each belongs to, block by block: time grows with the
number of the rest, memory with the number of ids alone.

Shape letters: n glances or objects, d numbers of a sketch, c concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._checks import NotRemembered, check_one_of
from recollect._seeds import seed_of
from recollect.recall.chance import World, block_worlds, cloud_worlds
from recollect.recall.reading import Decoder, Selection, microseconds_of, plural
from recollect.recall.subobjects import sub_sketches_of

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.tracing import Trace

__all__ = ["MOST", "Units", "units_of"]

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Block = tuple[Vectors, IntArray, IntArray]

# Vectors that are compared, each with each, at most; glances that are read together.
MOST, TOGETHER = 50_000, 4096
# Glances kept whole, or read back, of which worlds are made.
_SAMPLE = 1024


@dataclass(frozen=True, eq=False)
class Units:
    """What is compared, in the order of time.

    Attributes:
        vectors: (n, d) float32, centred.
        ids: (n,) glance of each.
        times: (n,) microseconds UTC.
        worlds: kind -> worlds in which nothing recurs.
        notes: what the reader should know.
        rest: yields the vectors, ids and times of what was not drawn, block by block.
        count: how many there are, with the rest.
        static: whether every module is in every glance, so that what one shows has no name.
    """

    vectors: Vectors
    ids: IntArray
    times: IntArray
    worlds: dict[str, World]
    notes: list[str]
    rest: Callable[[], Iterator[Block]] | None = None
    count: int = 0
    static: bool = True

    def joined(
        self, members: Sequence[IntArray], decide: Callable[[Vectors], npt.NDArray[np.bool_]]
    ) -> tuple[IntArray, IntArray, list[IntArray]]:
        """Add the rest: return ids and times of all, and the places of each concept's members.

        Args:
            members: of c concepts, places among these.
            decide: which of (n, d) vectors belong to which concept, (n, c).
        """
        if self.rest is None:
            return self.ids, self.times, list(members)
        ids, times = [self.ids], [self.times]
        belongs = np.zeros((len(self.ids), len(members)), np.bool_)
        for concept, places in enumerate(members):
            belongs[places, concept] = True
        found = [belongs]
        for vectors, some, when in self.rest():
            ids.append(some)
            times.append(when)
            found.append(decide(vectors))
        every, when = np.concatenate(ids), np.concatenate(times)
        order = np.lexsort((every, when))
        whole = np.concatenate(found)[order]
        return every[order], when[order], [np.flatnonzero(column) for column in whole.T]


class _Centre:
    """Takes off the mean of a sample, or the mean of each group's own."""

    def __init__(self, values: Vectors, groups: Sequence[Any] | None) -> None:
        self.mean = values.mean(0, dtype=np.float64)
        self.own: dict[Any, npt.NDArray[np.float64]] = {}
        for name in dict.fromkeys(groups or ()):
            rows = np.flatnonzero([g == name for g in groups or ()])
            self.own[name] = values[rows].mean(0, dtype=np.float64)

    def __call__(self, values: Vectors, groups: Sequence[Any] | None) -> Vectors:
        if groups is None:
            return np.asarray(values - self.mean, np.float32)
        out = np.empty_like(values)
        for name in dict.fromkeys(groups):
            rows = np.flatnonzero([g == name for g in groups])
            out[rows] = values[rows] - self.own.get(name, self.mean)
        return out


def units_of(
    memory: Memory, module: str | None, chosen: Selection, within: str | None, seed: int
) -> Units:
    """Read what is compared.

    Args:
        memory: that holds the glances.
        module: whose objects are compared; None for whole glances.
        chosen: which glances.
        within: column whose groups each have their own mean taken off.
        seed: of the draws.

    Raises:
        NotRemembered: if no glance is chosen, or none holds the module.
        ValueError: if ``within`` is no column, or chance cannot be told.
    """
    table = memory.glances(**chosen.arguments)
    if len(table) == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    if within is not None:
        names = [c for c in table.column_names if c not in ("id", "time", "skeleton")]
        check_one_of("within", within, names)
    ids = np.asarray(table["id"].to_numpy(), dtype=np.int64)
    times = microseconds_of(table["time"])
    groups = None if within is None else table[within].to_pylist()
    if module is not None:
        return _objects(memory, module, _Glances(ids, times, groups), seed)
    kept = memory.kept(ids.tolist())
    there = np.flatnonzero(kept > 0)
    if len(there) == 0:
        raise NotRemembered(f"no chosen glance keeps a sketch{chosen.words}")
    notes = []
    if len(there) < len(ids):
        notes.append(f"{plural(len(ids) - len(there), 'glance')} keep no sketch: left out")
    glances = _Glances(ids, times, groups).take(there)
    return _whole(memory, glances, int(kept[there].min()), within is None, notes, seed)


@dataclass(frozen=True, eq=False)
class _Glances:
    """Ids, times and groups of some glances, in the order of time."""

    ids: IntArray
    times: IntArray
    groups: Sequence[Any] | None

    def take(self, rows: IntArray) -> _Glances:
        """Return some of them."""
        groups = None if self.groups is None else [self.groups[i] for i in rows.tolist()]
        return _Glances(self.ids[rows], self.times[rows], groups)

    def drawn(self, many: int, seed: int) -> tuple[_Glances, _Glances]:
        """Return some drawn at random, and the rest."""
        rng = np.random.default_rng(seed_of(seed, "emerging", "drawn"))
        chosen = np.zeros(len(self.ids), np.bool_)
        chosen[rng.permutation(len(self.ids))[:many]] = True
        return self.take(np.flatnonzero(chosen)), self.take(np.flatnonzero(~chosen))

    def blocks(self) -> Iterator[_Glances]:
        """Yield some at a time."""
        for start in range(0, len(self.ids), TOGETHER):
            yield self.take(np.arange(start, min(start + TOGETHER, len(self.ids))))


def _whole(
    memory: Memory, glances: _Glances, least: int, blocked: bool, notes: list[str], seed: int
) -> Units:
    """Return whole sketches, those of a sample where there are many."""
    if least < memory.recipe.dim:
        notes.append(f"compared by {least} of {memory.recipe.dim} numbers: some have faded")

    def read(some: _Glances) -> Vectors:
        found = memory.sketches(ids=some.ids.tolist(), prefix=least)
        return np.asarray(found.values.numpy(), np.float32)

    some, rest = glances.drawn(MOST, seed)
    values = read(some)
    trace, said = _sample(memory, some.ids, seed)
    centre = _Centre(values, some.groups)
    vectors = centre(values, some.groups)
    worlds = {"cloud": cloud_worlds(vectors, seed)}
    blocks = block_worlds(memory, trace, len(some.ids), least, seed)
    if blocks is not None and blocked:
        worlds["blocks"] = blocks

    def others() -> Iterator[Block]:
        for part in rest.blocks():
            yield centre(read(part), part.groups), part.ids, part.times

    notes = [*notes, *said, *_drawn(len(some.ids), len(rest.ids))]
    left = others if len(rest.ids) else None
    static = all(c.is_dense(len(trace)) for c in trace.columns.values())
    return Units(vectors, some.ids, some.times, worlds, notes, left, len(glances.ids), static)


def _drawn(compared: int, rest: int, what: str = "glance") -> list[str]:
    """Say that a sample was compared."""
    if not rest:
        return []
    return [
        f"{plural(compared, what)}, drawn at random, were compared each with each; "
        f"{plural(rest, 'further glance')} went to the concepts that were found, or to none; "
        "the history is that of those drawn"
    ]


def _objects(memory: Memory, module: str, glances: _Glances, seed: int) -> Units:
    """Return the sub-sketches of one module's objects, of a sample where there are many."""
    notes: list[str] = []

    def read(some: _Glances) -> tuple[Vectors, _Glances]:
        try:
            found = sub_sketches_of(memory, module, some.ids)
        except NotRemembered:
            return np.zeros((0, memory.recipe.dim), np.float32), some.take(np.zeros(0, np.int64))
        if not notes:
            notes.extend(found.notes)
        return found.vectors, some.take(found.glance)

    many = len(glances.ids)
    parts = [glances]
    if many > TOGETHER:
        rng = np.random.default_rng(seed_of(seed, "emerging", "drawn"))
        parts = list(glances.take(rng.permutation(many)).blocks())
    held, total = [], 0
    while parts and total < MOST:
        held.append(read(parts.pop(0)))
        total += len(held[-1][0])
    if total == 0:
        raise NotRemembered(f"none of these glances holds an object of {module!r}")
    values = np.concatenate([v for v, _ in held])
    ids, times = (np.concatenate([getattr(g, n) for _, g in held]) for n in ("ids", "times"))
    groups = None if glances.groups is None else [x for _, g in held for x in g.groups or ()]
    order = np.arange(total) if many <= TOGETHER else np.lexsort((ids, times))
    some = _Glances(ids, times, groups).take(order)
    centre = _Centre(values[order], some.groups)
    vectors = centre(values[order], some.groups)

    def others() -> Iterator[Block]:
        for part in parts:
            found, own = read(part)
            yield centre(found, own.groups), own.ids, own.times

    left = sum(len(part.ids) for part in parts)
    worlds = {"cloud": cloud_worlds(vectors, seed)}
    said = _drawn(total, left, "object")
    rest = others if left else None
    return Units(vectors, some.ids, some.times, worlds, [*notes, *said], rest, total + left)


def _sample(memory: Memory, ids: IntArray, seed: int) -> tuple[Trace, list[str]]:
    """Return glances of which worlds are made: records, or a sample read back.

    Raises:
        ValueError: if there are neither records nor skeletons.
    """
    kept, trace = memory.records()
    if trace is not None and len(kept) >= min(len(ids), 64):
        return trace, [f"chance is told by {plural(len(kept), 'glance')} kept whole"]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(ids))[:_SAMPLE])
    sketches = memory.sketches(ids=ids[some].tolist())
    if sketches.skeletons is None:
        raise ValueError(
            "how alike glances are by chance is told by records or by skeletons, and this memory "
            "keeps neither; make it with reservoir=512 or keep_skeletons=True"
        )
    decoder = Decoder.of(memory)
    trace = decoder.decode(sketches).trace()
    return trace, [f"chance is told by {plural(len(some), 'glance')} read back", decoder.note]
