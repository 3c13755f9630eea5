"""Groups over time: born, grown, merged, retired as the windows of a calendar pass.

At the end of every window the groups among all glances so far are found anew, from the same links
and thresholds. A group goes on as the one that took most of its glances; where several go on as
one, it keeps the name of the largest, and the others have merged into it.

A group is *retired* if it has not shown for longer than chance allows: had its k glances been
spread evenly over all glances since its first one, the chance that none lies in the last share f
of them is ``(1 - f)^k``. The same chance for the time before its first glance says whether it is
*new* or was there from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.recall.recurring import Links, groups_of
from recollect.recall.windows import offsets

__all__ = ["WINDOWS", "Event", "Lineage", "ends_of", "lineages_of", "standing"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

WINDOWS = ("day", "week", "month")
_DAY = 86_400_000_000
# Chance below which an absence is no accident.
_RARE = 0.01


@dataclass(frozen=True)
class Event:
    """Something that happened to a group.

    Attributes:
        window: first day of the window at whose end it was seen.
        kind: ``"born"``, ``"merged"``, ``"dissolved"`` or ``"retired"``.
        other: the group that it merged into, or "".
        glances: of the group then.
    """

    window: str
    kind: str
    other: str
    glances: int


@dataclass
class Lineage:
    """One group through time.

    Attributes:
        name: ``concept-`` and a hash of its first glance, the same whenever it is found again.
        members: (k,) places of its glances, in the order of time; of the last window it was in.
        events: what happened to it.
        alive: whether it is a group of its own at the end.
    """

    name: str
    members: IntArray
    events: list[Event] = field(default_factory=list)
    alive: bool = True

    def is_retired(self, count: int) -> bool:
        """Whether it has not shown for longer than chance allows, ``count`` glances in all."""
        first, last, k = int(self.members[0]), int(self.members[-1]), len(self.members)
        gap = (count - 1 - last) / max(count - first, 1)
        return (1 - gap) ** k < _RARE

    def is_new(self, count: int) -> bool:
        """Whether it was not there from the start."""
        before = int(self.members[0]) / max(count, 1)
        return (1 - before) ** len(self.members) < _RARE


def ends_of(times: IntArray, by: str | None, timezone: str) -> list[tuple[str, int]]:
    """Return first day of each window with glances, and how many glances there are by its end.

    Args:
        times: (n,) microseconds UTC, ascending.
        by: one of ``WINDOWS``, or None for one window.
        timezone: name of the calendar's zone.

    Example:
        >>> day = 86_400_000_000
        >>> ends_of(np.array([0, 2 * day, 4 * day]), "week", "UTC")
        [('1969-12-29', 2), ('1970-01-05', 3)]
    """
    if len(times) == 0:
        return []
    local = times + offsets(times, timezone)
    days = local // _DAY
    if by is None:
        first = np.full(len(days), days[0])
    elif by == "week":
        first = (days + 3) // 7 * 7 - 3
    elif by == "month":
        first = days.astype("datetime64[D]").astype("datetime64[M]").astype("datetime64[D]")
        first = first.astype(np.int64)
    else:
        first = days
    # Where clocks go back a later glance may have an earlier local day.
    first = np.maximum.accumulate(first)
    last = np.flatnonzero(np.r_[np.diff(first) != 0, True])
    return [(str(np.datetime64(int(first[i]), "D")), int(i) + 1) for i in last]


def lineages_of(
    links: Links,
    members: int,
    threshold: FloatArray,
    prominence: float,
    ends: Sequence[tuple[str, int]],
    ids: IntArray,
) -> list[Lineage]:
    """Return the groups that there ever were, in the order of their birth.

    Args:
        links: among n glances in the order of time.
        members: m, fewest members.
        threshold: (n,) of each glance.
        prominence: see ``groups_of``.
        ends: of the windows, as ``ends_of`` returns them.
        ids: (n,) of the glances; names are made of them.
    """
    above = links.cosine >= np.maximum(threshold[links.late], threshold[links.early])
    strong = Links(links.count, links.late[above], links.early[above], links.cosine[above])
    known: list[Lineage] = []
    for window, count in ends:
        group = groups_of(strong.up_to(count), members, threshold[:count], prominence)
        _continue(known, group, window, ids)
    for line in known:
        if line.alive and line.is_retired(links.count):
            line.events.append(Event(_window_after(line, ends), "retired", "", len(line.members)))
    return known


def standing(
    groups: Sequence[IntArray], members: int, ends: Sequence[tuple[str, int]], ids: IntArray
) -> list[Lineage]:
    """Return groups that were found once, at the end: each was born with its m-th member.

    Args:
        groups: places of their members, ascending.
        members: m.
        ends: of the windows, as ``ends_of`` returns them.
        ids: (n,) of the glances; names are made of them.
    """
    known: list[Lineage] = []
    for places in sorted(groups, key=lambda g: int(g[members - 1])):
        born = next(w for w, count in ends if count > places[members - 1])
        line = Lineage(_name(ids[places], {other.name for other in known}), places)
        line.events.append(Event(born, "born", "", members))
        if line.is_retired(len(ids)):
            line.events.append(Event(_window_after(line, ends), "retired", "", len(places)))
        known.append(line)
    return known


def _continue(known: list[Lineage], group: IntArray, window: str, ids: IntArray) -> None:
    """Match the groups of a window with those of the one before."""
    found = [np.flatnonzero(group == k) for k in range(int(group.max(initial=-1)) + 1)]
    heirs: dict[int, list[Lineage]] = {}
    for line in known:
        if not line.alive:
            continue
        went = group[line.members]
        went = went[went >= 0]
        if len(went) == 0:
            line.alive = False
            line.events.append(Event(window, "dissolved", "", len(line.members)))
            continue
        heirs.setdefault(int(np.argmax(np.bincount(went))), []).append(line)
    for k, places in enumerate(found):
        lines = sorted(heirs.get(k, []), key=lambda x: (-len(x.members), int(x.members[0])))
        if not lines:
            taken = {line.name for line in known}
            line = Lineage(_name(ids[places], taken), places)
            line.events.append(Event(window, "born", "", len(places)))
            known.append(line)
            continue
        for other in lines[1:]:
            other.alive = False
            other.events.append(Event(window, "merged", lines[0].name, len(other.members)))
        lines[0].members = places


def _name(ids: IntArray, taken: set[str]) -> str:
    """Name a group after its first glance that names no other."""
    names = (f"concept-{seed_of('emerging', int(i)) & 0xFFFFFF:06x}" for i in ids.tolist())
    return next(n for n in names if n not in taken)


def _window_after(line: Lineage, ends: Sequence[tuple[str, int]]) -> str:
    """First day of the window after the one with the last glance."""
    last = int(line.members[-1])
    inside = [w for w, count in ends if count > last]
    return inside[min(1, len(inside) - 1)]
