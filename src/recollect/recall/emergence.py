"""Emerging concepts: what recurs in glances and no module names yet.

Glances (or the sub-sketches of one module's objects) that are more alike than chance allows are
groups (``recall.recurring``), from a threshold that worlds without anything recurrent set
(``recall.chance``), followed through the weeks (``recall.lineages``). Glances that are not alike
as wholes, but all have one thing that the others have not, stand out along a direction
(``recall.pursuit``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._checks import check_integer, check_one_of, unknown_name
from recollect.recall.chance import chosen_threshold, fewest_members
from recollect.recall.compared import Units, units_of
from recollect.recall.faded import left_notes
from recollect.recall.lineages import WINDOWS, Lineage, ends_of, lineages_of, standing
from recollect.recall.pursuit import directions_of
from recollect.recall.reading import Selection, plural
from recollect.recall.recurring import links_to_earlier, rounded, told_apart
from recollect.recall.windows import written

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["ALIKE", "Emerging", "emerging"]

IntArray = npt.NDArray[np.int64]
Decide = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.bool_]]

ALIKE = ("whole", "part")


class Emerging(Answer):
    """The answer of :func:`emerging`.

    Attributes:
        history: what happened when: an Answer with ``window``, ``event``, ``concept``, ``into``
            and ``glances``.
        module: whose objects were grouped; None for whole glances.
        within: whose mean was taken off, or None.
        alike: as wholes, or in part.
    """

    history: Answer
    module: str | None
    within: str | None
    alike: str
    _members: dict[str, IntArray]

    def members(self, concept: str) -> list[int]:
        """Return the ids of a concept's glances, in the order of time.

        Raises:
            NotRemembered: if there is no such concept in this answer.
        """
        if concept not in self._members:
            raise unknown_name("emerging concept", concept, self._members)
        return [int(i) for i in self._members[concept]]


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
    alike: str = "whole",
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
        alike: ``"whole"``: a concept's glances are alike as wholes; ``"part"``: they all have one
            thing that the others have not, more of it or less, in whatever light and company. It
            must be an exception, in fewer than one in eight.
        chance: of finding anything where nothing recurs.
        seed: of the draws; the same seed gives the same answer.

    Returns:
        An Emerging, an Answer ordered by birth: ``concept``, ``glances``, ``share`` of all,
        ``first``, ``last``, ``state`` (``"new"``, ``"from the start"``, ``"retired"``),
        ``made_of`` (modules that are there twice as often as elsewhere, at least).
        ``recall.name`` gives one a name.

    Raises:
        NotRemembered: if the module was never seen, or no glance is chosen.
        ValueError: on too few glances, an unknown word, or a memory that keeps neither records
            nor skeletons (chance cannot be told then).

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
    check_one_of("alike", alike, ALIKE)
    if not 0 < chance < 1:
        raise ValueError(f"chance is a probability between 0 and 1, got {chance}")
    if at_least is not None:
        check_integer("at_least", at_least, minimum=3)
    if module is not None:
        memory.modules.id_of(module)
    chosen = Selection.of(where, since, until)
    units = units_of(memory, module, chosen, within, seed)
    n = len(units.ids)
    members = fewest_members(n, chance) if at_least is None else at_least
    if n < 2 * members:
        raise ValueError(
            f"{plural(n, 'glance')}{chosen.words} are too few to find {members} alike among them; "
            "ask later, or of a wider window"
        )
    find = _groups if alike == "whole" else _directions
    lines, decide, note = find(memory, units, members, chance, by, seed)
    alive = [line for line in lines if line.alive]
    ids, times, places = units.joined([line.members for line in alive], decide)
    for line, own in zip(alive, places, strict=True):
        line.members = own
    whole = replace(units, ids=ids, times=times)
    notes = [note, *units.notes, *left_notes(memory, chosen, counted=False)]
    answer = _answer(memory, whole, lines, module, chosen, notes)
    answer.module, answer.within, answer.alike = module, within, alike
    return answer


def _groups(
    memory: Memory, units: Units, members: int, chance: float, by: str | None, seed: int
) -> tuple[list[Lineage], Decide, str]:
    """Find groups of vectors that are alike as wholes."""
    del seed
    codes = rounded(units.vectors)
    threshold = chosen_threshold(codes, units.worlds, members, chance)
    links = links_to_earlier(codes)
    ends = ends_of(units.times, by, memory.timezone)
    lines = lineages_of(links, members, threshold.cosine, threshold.excess, ends, units.ids)
    groups = [line.members for line in lines if line.alive]

    def decide(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        return told_apart(rounded(vectors), codes, groups, members, threshold.cosine)

    middle = float(np.median(threshold.cosine))
    note = (
        f"a concept is {members} glances or more, alike beyond a cosine that is {middle:.2f} in "
        f"the middle, chosen for each glance by {threshold.count} worlds of each kind"
    )
    return lines, decide, note


def _directions(
    memory: Memory, units: Units, members: int, chance: float, by: str | None, seed: int
) -> tuple[list[Lineage], Decide, str]:
    """Find vectors that stand out from all others along one direction."""
    # Where modules come and go, what each shows on its own has its module's name.
    others = [] if units.static else [units.worlds[k] for k in units.worlds if k == "blocks"]
    found = directions_of(units.vectors, members, chance, seed, others, units.count)
    ends = ends_of(units.times, by, memory.timezone)
    places = [np.flatnonzero(d.has(units.vectors)) for d in found]
    lines = standing(places, members, ends, units.ids)

    def decide(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        columns = [d.has(vectors) for d in found]
        return np.stack(columns, 1) if columns else np.zeros((len(vectors), 0), np.bool_)

    note = (
        f"a concept is {members} glances or more that stand out from the others along one "
        "direction, higher than in worlds where each glance's direction is drawn at random"
    )
    return lines, decide, note


# -- the table ------------------------------------------------------------------------------


def _answer(
    memory: Memory,
    units: Units,
    lines: list[Lineage],
    module: str | None,
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
