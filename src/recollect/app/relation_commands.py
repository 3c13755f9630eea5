"""``recollect graph``, ``emerging`` and ``concepts``: how the glances of a memory are related."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.app.door import (
    AsJson,
    MemoryPath,
    Since,
    Until,
    Where,
    moment,
    open_memory,
)

__all__ = ["concepts", "emerging", "graph"]


def graph(
    path: MemoryPath,
    around: Annotated[
        str | None,
        typer.Option(
            metavar="NODE", help="Number of a glance, a module, concept or part (cat#12)."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many of each kind.")] = 8,
    to: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="Write .graphml or .json.")
    ] = None,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw it: .svg or .png.")
    ] = None,
    where: Where = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show what is related to something, and through what; or export the whole graph."""
    from recollect import recall
    from recollect.app.shown import show

    with open_memory(path) as memory:
        node = int(around) if around is not None and around.lstrip("-").isdigit() else around
        found = recall.graph(
            memory, node, k=k, where=where, since=moment(since, memory),
            until=moment(until, memory),
        )  # fmt: skip
        if to is not None:
            found.write(to)
        if picture is not None:
            found.draw(picture)
        show(found, as_json)


def emerging(
    path: MemoryPath,
    at_least: Annotated[
        int | None, typer.Option(min=3, help="Fewest glances of a concept.")
    ] = None,
    module: Annotated[str | None, typer.Option(help="Group this module's objects.")] = None,
    within: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Take off the mean of each, e.g. source.")
    ] = None,
    alike: Annotated[str, typer.Option(help="whole glances, or part of them.")] = "whole",
    by: Annotated[str, typer.Option(help="day, week or month.")] = "week",
    history: Annotated[bool, typer.Option("--history", help="Show births and ends.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT=NAME", help="Keep a concept under a name."),
    ] = None,
    where: Where = None,
    since: Since = None,
    until: Until = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find what recurs and has no name yet; give it one."""
    from recollect import recall
    from recollect.app.shown import show

    with open_memory(path, write=bool(name)) as memory:
        found = recall.emerging(
            memory, at_least=at_least, module=module, within=within, alike=alike, by=by,
            where=where, since=moment(since, memory), until=moment(until, memory), seed=seed,
        )  # fmt: skip
        for pair in name or []:
            concept, sign, called = pair.partition("=")
            if not sign:
                raise ValueError(f"--name takes CONCEPT=NAME, got {pair!r}")
            recall.name(memory, concept, called, found)
        show(found.history if history else found, as_json)


def concepts(
    path: MemoryPath,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Give another name.")
    ] = None,
    forget: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Forget one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the named concepts of a memory, rename or forget them."""
    from recollect.app.shown import show_mapping

    with open_memory(path, write=bool(rename or forget)) as memory:
        for pair in rename or []:
            old, sign, new = pair.partition("=")
            if not sign:
                raise ValueError(f"--rename takes OLD=NEW, got {pair!r}")
            memory.concepts.rename(old, new)
        for gone in forget or []:
            memory.concepts.forget(gone)
        found = {n: memory.concepts[n].origin for n in memory.concepts.names}
        show_mapping(found, as_json, "named concepts")
