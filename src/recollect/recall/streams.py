"""What the stream statistics of a memory say about a window, each with its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recollect._answers import Answer
from recollect._checks import NotRemembered, check_one_of
from recollect.recall.reading import Selection, plural

if TYPE_CHECKING:
    from recollect.memory import Memory, Streams

__all__ = ["statistics"]


def statistics(
    memory: Memory,
    module: str,
    statistic: str | None = None,
    *,
    of: str | None = None,
    since: Any = None,
    until: Any = None,
    **options: Any,
) -> Answer:
    """Show the stream statistics that a memory follows of a module, merged over a window.

    Args:
        memory: a Memory with ``statistics``.
        module: name of the module.
        statistic: one of ``"quantiles"``, ``"distinct"``, ``"frequent"``, ``"second moment"``,
            ``"entropy"``; None for all that are followed.
        of: only what is followed of this (``"size"``, ``"number 0"``, ``"largest"``,
            ``"values"``).
        since: first moment (with zone), a whole hour.
        until: first moment that is left out.
        options: for the statistic's ``answer``, if one is asked: ``ranks`` of quantiles, ``most``
            frequent items.

    Returns:
        An Answer: ``statistic``, ``item`` (of frequent ones, else None), ``estimate``, ``low``,
        ``high``. Bounds of quantiles hold with 99 %, of frequent items always, else 90 to 95 %;
        glances deleted or replaced since are still counted, and the notes say how many.

    Raises:
        NotRemembered: if the module was never seen, or not in this window.
        ValueError: if the memory follows none, or not this one, or the window cuts an hour.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> t = Trace.from_objects([[Object("word", [0.0, 1.0])], [Object("word", [2.0, 1.0])]])
        >>> with Memory(getfixture("tmp_path") / "room", statistics=True) as memory:
        ...     _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2])
        ...     print(recall.statistics(memory, "word", "distinct"))
        statistics of 'word'
                        statistic  item  estimate  low  high
        distinct items, of values  None         2    2     3
        2 glances in 1 window
    """
    memory.modules.id_of(module)
    chosen = Selection.of(None, since, until)
    found = memory.streams(since=chosen.since, until=chosen.until)
    streams = found.following.streams
    if statistic is not None:
        check_one_of("statistic", statistic, sorted({s.statistic for s in streams}))
    if of is not None:
        check_one_of("of", of, sorted({s.of for s in streams}))
    asked = [
        (number, s)
        for number, s in enumerate(streams)
        if statistic in (None, s.statistic) and of in (None, s.of)
    ]
    if not asked:
        raise ValueError(
            f"{statistic} of {of} is not followed, only {', '.join(s.name for s in streams)}"
        )
    if options and len(asked) != 1:
        raise ValueError(f"{', '.join(options)} can be asked of one statistic; name it")
    rows: dict[str, list[Any]] = {k: [] for k in ("statistic", "item", "estimate", "low", "high")}
    notes = _notes(found)
    for number, s in asked:
        followed = found.statistics.get((number, module))
        if followed is None:
            continue
        answer = followed.answer(**options)
        words = answer.columns.get("statistic", ["count"] * len(answer))
        rows["statistic"] += [f"{word}, of {s.of}" for word in words]
        rows["item"] += answer.columns.get("item", [None] * len(answer))
        for name in ("estimate", "low", "high"):
            rows[name] += [float(v) for v in answer.columns[name]]
        notes += [f"{s.name}: {note}" for note in answer.notes]
    if not rows["statistic"]:
        raise NotRemembered(
            f"no object of module {module!r} was counted{chosen.words}; widen the window"
        )
    return Answer(rows, title=f"statistics of {module!r}{chosen.words}", notes=notes)


def _notes(found: Streams) -> list[str]:
    """Say what was counted, and what these statistics cannot know."""
    notes = [f"{plural(found.counted, 'glance')} in {plural(len(found.windows), 'window')}"]
    if found.deleted:
        notes.append(
            f"{plural(found.deleted, 'glance')} deleted since are still counted: such statistics "
            "cannot forget"
        )
    if found.replaced:
        notes.append(
            f"{plural(found.replaced, 'glance')} replaced since: the older ones are counted"
        )
    if found.missing:
        notes.append(f"{plural(found.missing, 'glance')} of the window are not counted")
    return notes
