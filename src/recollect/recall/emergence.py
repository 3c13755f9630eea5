"""Emerging concepts: what recurs in glances and no module names yet.

Glances (or the sub-sketches of one module's objects) that are more alike than chance allows are
groups (``recall.recurring``), from a threshold that worlds without anything recurrent set
(``recall.chance``), followed through the weeks (``recall.lineages``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._checks import NotRemembered, check_integer, check_one_of, unknown_name
from recollect.recall.chance import (
    World,
    block_worlds,
    chosen_threshold,
    cloud_worlds,
    fewest_members,
)
from recollect.recall.faded import left_notes
from recollect.recall.lineages import WINDOWS, Lineage, ends_of, lineages_of
from recollect.recall.reading import Decoder, Selection, microseconds_of, plural
from recollect.recall.recurring import links_to_earlier, rounded
from recollect.recall.subobjects import sub_sketches_of
from recollect.recall.windows import written

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.tracing import Trace

__all__ = ["Emerging", "emerging"]

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# Glances that are compared, each with each, at most.
MOST = 50_000
# Glances kept whole, or read back, of which worlds are made.
_SAMPLE = 1024


class Emerging(Answer):
    """The answer of :func:`emerging`.

    Attributes:
        history: what happened when: an Answer with ``window``, ``event``, ``concept``, ``into``
            and ``glances``.
        module: whose objects were grouped; None for whole glances.
        within: whose mean was taken off, or None.
    """

    history: Answer
    module: str | None
    within: str | None
    _members: dict[str, IntArray]

    def members(self, concept: str) -> list[int]:
        """Return the ids of a concept's glances, in the order of time.

        Raises:
            NotRemembered: if there is no such concept in this answer.
        """
        if concept not in self._members:
            raise unknown_name("emerging concept", concept, self._members)
        return [int(i) for i in self._members[concept]]


@dataclass(frozen=True, eq=False)
class Units:
    """What is compared, in the order of time.

    Attributes:
        vectors: (n, d) float32, centred.
        ids: (n,) glance of each.
        times: (n,) microseconds UTC.
        worlds: kind -> worlds in which nothing recurs.
        notes: what the reader should know.
    """

    vectors: Vectors
    ids: IntArray
    times: IntArray
    worlds: dict[str, World]
    notes: list[str]


def emerging(
    memory: Memory,
    *,
    at_least: int | None = None,
    module: str | None = None,
    by: str | None = "week",
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    within: str | None = None,
    chance: float = 0.01,
    seed: int = 0,
) -> Emerging:
    """Find what recurs and has no name: groups of glances more alike than chance allows.

    How alike glances are by chance is measured, for every glance on its own, among glances put
    together from the memory's own parts at random; nothing is set by hand. With probability
    1 - chance nothing is found where nothing recurs but what modules show on their own.

    Args:
        memory: a Memory.
        at_least: fewest glances of a concept; default: 5, more where so few among so many could
            be chance.
        module: group this module's objects, each with all that it was made from, instead of
            whole glances; they are read from records or decoded.
        by: ``"week"``, ``"day"`` or ``"month"``: at the end of which windows groups are looked
            for; None for the end only.
        where: SQL expression over time, source and labels.
        since: first moment (with zone).
        until: first moment that is left out.
        within: a column, such as ``"source"``: glances are compared with the mean of their own
            source taken off, so that views of one camera do not make a concept.
        chance: of finding anything where nothing recurs.
        seed: of the draws; the same seed gives the same answer.

    Returns:
        An Emerging, an Answer ordered by birth: ``concept``, ``glances``, ``share`` of all,
        ``first``, ``last``, ``state`` (``"new"``, ``"from the start"``, ``"retired"``),
        ``made_of`` (modules that are there twice as often as elsewhere, at least).
        ``recall.name`` gives one a name.

    Raises:
        NotRemembered: if the module was never seen, or no glance is chosen.
        ValueError: on more than 50,000 glances, too few, an unknown word, or a memory that keeps
            neither records nor skeletons (chance cannot be told then).

    Example:
        >>> import random
        >>> from recollect import Memory, Object, Trace, recall
        >>> draw = random.Random(0)
        >>> def scene(i):
        ...     seen = [(name, [draw.gauss(0, 1), draw.gauss(0, 1)]) for name in "abcdef"]
        ...     seen = draw.sample(seen, 3)
        ...     if i % 3 == 0:  # a ball, a dog and a stick go together
        ...         seen = [("ball", [3.0, 1.0]), ("dog", [1.0, 2.0]), ("stick", [0.5, 2.0])]
        ...     return [Object(name, x) for name, x in seen]
        >>> t = Trace.from_objects([scene(i) for i in range(60)])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> times = [f"2026-01-{1 + i // 3:02d}T{i % 3:02d}:00Z" for i in range(60)]
        >>> _ = memory.add(t, time=times)
        >>> found = recall.emerging(memory)
        >>> found["glances"], found["made_of"]
        ([20], ['ball + dog + stick'])
        >>> memory.close()
    """
    if by is not None:
        check_one_of("by", by, WINDOWS)
    if not 0 < chance < 1:
        raise ValueError(f"chance is a probability between 0 and 1, got {chance}")
    if at_least is not None:
        check_integer("at_least", at_least, minimum=3)
    if module is not None:
        memory.modules.id_of(module)
    chosen = Selection.of(where, since, until)
    units = _units(memory, module, chosen, within, seed)
    n = len(units.ids)
    members = fewest_members(n, chance) if at_least is None else at_least
    if n < 2 * members:
        raise ValueError(
            f"{plural(n, 'glance')}{chosen.words} are too few to find {members} alike among them; "
            "ask later, or of a wider window"
        )
    codes = rounded(units.vectors)
    threshold = chosen_threshold(codes, units.worlds, members, chance)
    links = links_to_earlier(codes)
    ends = ends_of(units.times, by, memory.timezone)
    lines = lineages_of(links, members, threshold.cosine, threshold.excess, ends, units.ids)
    middle = float(np.median(threshold.cosine))
    notes = [
        f"a concept is {members} glances or more, alike beyond a cosine that is {middle:.2f} in "
        f"the middle, chosen for each glance by {threshold.count} worlds of each kind",
        *units.notes,
        *left_notes(memory, chosen, counted=False),
    ]
    return _answer(memory, units, lines, module, within, chosen, notes)


# -- what is compared -----------------------------------------------------------------------


def _units(
    memory: Memory, module: str | None, chosen: Selection, within: str | None, seed: int
) -> Units:
    table = memory.glances(**chosen.arguments)
    if len(table) == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    if len(table) > MOST:
        raise ValueError(
            f"{len(table):,} glances are too many to be compared each with each, {MOST:,} at "
            "most; choose with since, until or where"
        )
    if within is not None:
        names = [c for c in table.column_names if c not in ("id", "time", "skeleton")]
        check_one_of("within", within, names)
    ids = np.asarray(table["id"].to_numpy(), dtype=np.int64)
    times = microseconds_of(table["time"])
    groups = None if within is None else table[within].to_pylist()
    if module is not None:
        return _units_of_objects(memory, module, ids, times, groups, seed)
    kept = memory.kept(ids.tolist())
    there = np.flatnonzero(kept > 0)
    notes = []
    if len(there) < len(ids):
        notes.append(f"{plural(len(ids) - len(there), 'glance')} keep no sketch: left out")
        ids, times = ids[there], times[there]
        groups = None if groups is None else [groups[i] for i in there.tolist()]
    if len(ids) == 0:
        raise NotRemembered(f"no chosen glance keeps a sketch{chosen.words}")
    sketches = memory.sketches(ids=ids.tolist())
    if sketches.dim < memory.recipe.dim:
        notes.append(f"compared by {sketches.dim} of {memory.recipe.dim} numbers: some have faded")
    values = np.asarray(sketches.values.numpy(), np.float32)
    sample, said = _sample(memory, ids, seed)
    vectors = _centred(values, groups)
    worlds = {"cloud": cloud_worlds(vectors, seed)}
    blocks = block_worlds(memory, sample, len(ids), sketches.dim, seed)
    if blocks is not None and within is None:
        worlds["blocks"] = blocks
    return Units(vectors, ids, times, worlds, notes + said)


def _units_of_objects(
    memory: Memory,
    module: str,
    ids: IntArray,
    times: IntArray,
    groups: Sequence[Any] | None,
    seed: int,
) -> Units:
    """Return the sub-sketches of one module's objects, those of the longest attribute first."""
    found = sub_sketches_of(memory, module, ids)
    if len(found.glance) > MOST:
        raise ValueError(
            f"{len(found.glance):,} objects of {module!r} are too many to be compared each with "
            f"each, {MOST:,} at most; choose with since, until or where"
        )
    own = None if groups is None else [groups[i] for i in found.glance.tolist()]
    vectors = _centred(found.vectors, own)
    worlds = {"cloud": cloud_worlds(vectors, seed)}
    return Units(vectors, ids[found.glance], times[found.glance], worlds, found.notes)


def _centred(values: Vectors, groups: Sequence[Any] | None) -> Vectors:
    """Take off the mean, or each group's own."""
    if groups is None:
        return np.asarray(values - values.mean(0, dtype=np.float64), np.float32)
    out = np.empty_like(values)
    for name in dict.fromkeys(groups):
        rows = np.flatnonzero([g == name for g in groups])
        out[rows] = values[rows] - values[rows].mean(0, dtype=np.float64)
    return out


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


# -- the table ------------------------------------------------------------------------------


def _answer(
    memory: Memory,
    units: Units,
    lines: list[Lineage],
    module: str | None,
    within: str | None,
    chosen: Selection,
    notes: list[str],
) -> Emerging:
    n = len(units.ids)
    alive = [line for line in lines if line.alive]
    what = _made_of(memory, units, alive)
    ends = [units.times[[line.members[i] for line in alive]] for i in (0, -1)]
    first, last = (written(np.asarray(t, np.int64), memory.timezone) for t in ends)
    answer = Emerging(
        {
            "concept": [line.name for line in alive],
            "glances": [len(np.unique(units.ids[line.members])) for line in alive],
            "share": [len(line.members) / n for line in alive],
            "first": first,
            "last": last,
            "state": [_state(line, n) for line in alive],
            "made_of": what,
        },
        title=f"{plural(len(alive), 'emerging concept')} in {plural(n, 'glance')}"
        + (f" of objects of {module!r}" if module else "")
        + chosen.words,
        notes=notes,
    )
    events = [(e.window, e.kind, line.name, e.other, e.glances) for line in lines
              for e in line.events]  # fmt: skip
    events.sort(key=lambda e: e[0])
    names = ("window", "event", "concept", "into", "glances")
    answer.history = Answer(
        {name: [e[k] for e in events] for k, name in enumerate(names)},
        title="what became of emerging concepts",
    )
    answer.module, answer.within = module, within
    answer._members = {line.name: _distinct(units.ids[line.members]) for line in alive}
    return answer


def _distinct(ids: IntArray) -> IntArray:
    return np.array(list(dict.fromkeys(ids.tolist())), dtype=np.int64)


def _state(line: Lineage, count: int) -> str:
    if line.is_retired(count):
        return "retired"
    return "new" if line.is_new(count) else "from the start"


def _made_of(memory: Memory, units: Units, lines: list[Lineage]) -> list[str]:
    """Name the modules that most glances of a group have, twice as often as all glances."""
    if not lines:
        return []
    counts = memory.skeleton_counts()
    glance, module = counts.present()
    order = np.argsort(counts.ids)
    wanted = order[np.searchsorted(counts.ids, np.unique(units.ids), sorter=order)]
    there = np.isin(glance, wanted)
    names = memory.modules.names
    usual = np.bincount(module[there], minlength=len(names)) / len(wanted)
    out = []
    for line in lines:
        own = np.unique(units.ids[line.members])
        rows = order[np.searchsorted(counts.ids, own, sorter=order)]
        share = np.bincount(module[np.isin(glance, rows)], minlength=len(names)) / len(rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            lift = np.where(usual > 0, share / usual, 0.0)
        best = [i for i in np.argsort(-share * np.log(np.maximum(lift, 1e-9)), kind="stable")
                if share[i] >= 0.5 and lift[i] >= 2]  # fmt: skip
        out.append(" + ".join(sorted(names[int(i)] for i in best[:5])))
    return out
