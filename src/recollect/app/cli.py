"""The command line: ``recollect watch``, ``recollect ask`` and the rest.

Every command is a few lines over the library; torch, lance and pyarrow are imported only by the
commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.app.ask import GRAMMAR
from recollect.app.door import (
    AsJson,
    MemoryPath,
    ModelName,
    Since,
    Teaching,
    Until,
    Where,
    moment,
    open_memory,
)
from recollect.app.relation_commands import concepts, emerging, graph

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Teaching,
    name="recollect",
    help="A memory for neural networks: watch a trained network, ask anything later.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
_GLANCE = "the number of a glance"


@app.callback()
def start(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """A memory for neural networks: watch a trained network, ask anything later."""


@app.command()
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of pictures, a video, a Parquet file or folder, or a camera (0).",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="timm:NAME, torchvision:NAME, hf:NAME, package.module:factory or FILE.pt2; "
            "options follow a question mark (?pretrained=false, ?size=64).",
        ),
    ],
    memory: Annotated[
        str, typer.Option("--memory", metavar="PATH", help="The memory, made if it is new.")
    ],
    view: Annotated[
        str,
        typer.Option(
            help="modules, kernels, cells, classes (of probability .1 and more), detections, "
            "attention, experts, capsules, layout, path or lookups."
        ),
    ] = "modules",
    modules: Annotated[
        str | None, typer.Option(help="Modules to watch, with commas between; else blocks.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="File of class names, one a line, for --view classes.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="auto, pictures, image-folder, parquet, video or camera.")
    ] = "auto",
    every: Annotated[
        str | None, typer.Option(help="Time between frames (or rows without time): 5s, 2min.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Time of the first frame, where a file does not say.")
    ] = None,
    time: Annotated[
        str, typer.Option(help="Where times are read: auto, exif, name, file.")
    ] = "auto",
    timezone: Annotated[
        str | None, typer.Option(help="Calendar, and zone of times without one (UTC if new).")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--source", help="Name of the source, for 'in NAME'.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Parquet: pictures or paths.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Parquet: times.")] = None,
    source_column: Annotated[str | None, typer.Option(help="Parquet: sources.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Parquet: labels.")] = None,
    dim: Annotated[int | None, typer.Option(help="Numbers in a sketch (1024 if new).")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of the operators (0 if new).")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many new ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a network look at pictures, and keep a sketch of every glance.

    Runs again where it stopped: what the memory holds is skipped. Times come from EXIF, from the
    file name (IMG_20260120_064012.jpg, 2026-01-20_0640.png, ...) or from the file. Pictures that
    do not open are skipped and named at the end.
    """
    from recollect.app.watch_command import run

    run(
        source,
        model,
        memory,
        how={"view": view, "modules": modules, "classes": classes},
        where={"kind": kind, "every": every, "start": start, "time_from": time, "source": name},
        columns={"image": image_column, "time": time_column, "source": source_column,
                 "label": label_column},
        timezone=timezone, dim=dim, seed=seed, batch=batch, limit=limit, as_json=as_json,
    )  # fmt: skip


@app.command(epilog="")
def ask(
    path: MemoryPath,
    question: Annotated[list[str], typer.Argument(metavar="QUESTION", help="See above.")],
    model: ModelName = None,
    now: Annotated[
        str | None, typer.Option(metavar="TIME", help="What 'today' is counted from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from datetime import datetime

    from recollect.app.answering import answer
    from recollect.app.ask import parse
    from recollect.app.shown import show
    from recollect.app.times import read_time, zone_of

    with open_memory(path) as memory:
        zone = zone_of(memory.timezone)
        current = datetime.now(zone) if now is None else read_time(now, zone)
        names = [*memory.modules.names, *memory.concepts.names]
        understood = parse(" ".join(question), names, current.astimezone(zone))
        show(answer(memory, understood, model), as_json, str(understood))


# The grammar is shown as it is written: \b keeps lines from being wrapped into one another.
ask.__doc__ = (
    "Ask a question in a small grammar.\n\n\b\n" + GRAMMAR.replace("[", r"\[") + "\n\n"
    'Example: recollect ask room.recollect "how often cat by hour in hall last week"'
)


@app.command()
def count(
    path: MemoryPath,
    module: Annotated[str | None, typer.Argument(help="A module; else glances.")] = None,
    by: Annotated[
        str | None, typer.Option(help="hour, hour_of_day, day, weekday or month.")
    ] = None,
    unit: Annotated[str, typer.Option(help="objects, glances or weight.")] = "objects",
    source: Annotated[
        str, typer.Option(help="skeleton (exact) or sketch (estimated, with error bar).")
    ] = "skeleton",
    where: Where = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Count the objects of a module, or the glances that hold one."""
    from recollect import recall
    from recollect.app.shown import show

    with open_memory(path) as memory:
        found = recall.count(
            memory, module, by=by, unit=unit, source=source, where=where,
            since=moment(since, memory), until=moment(until, memory),
        )  # fmt: skip
        show(found, as_json)


@app.command()
def similar(
    path: MemoryPath,
    query: Annotated[str, typer.Argument(help=f"{_GLANCE.capitalize()}, or a picture.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    module: Annotated[str | None, typer.Option(help="Alike to this module only.")] = None,
    part: Annotated[
        str | None, typer.Option("--path", help="Alike at this path only, such as 'cat / face'.")
    ] = None,
    level: Annotated[int | None, typer.Option(help="Alike at this depth only, 1: top.")] = None,
    anywhere: Annotated[bool, typer.Option(help="Wherever it stands.")] = False,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Find the glances that are most like another one, or like a picture."""
    from recollect import recall
    from recollect.app.answering import query_of
    from recollect.app.shown import show

    with open_memory(path) as memory:
        wanted = query_of(memory, query, model)
        found = recall.similar(
            memory, wanted, k=k, module=module, path=part, level=level, anywhere=anywhere
        )
        show(found, as_json)


for _command in (graph, emerging, concepts):
    app.command()(_command)


@app.command()
def unroll(
    path: MemoryPath,
    glance: Annotated[int, typer.Argument(help=_GLANCE.capitalize())],
    as_json: AsJson = False,
) -> None:
    """Show one glance as a tree: what was seen, its attributes, how sure they are."""
    from recollect import recall
    from recollect.app.shown import show

    with open_memory(path) as memory:
        show(recall.unroll(memory, glance), as_json)


@app.command()
def why(
    path: MemoryPath,
    a: Annotated[int, typer.Argument(help=_GLANCE.capitalize())],
    b: Annotated[int, typer.Argument(help="and of another one.")],
    across: Annotated[bool, typer.Option(help="Every path against every other.")] = False,
    as_json: AsJson = False,
) -> None:
    """Split the similarity of two glances by module and path."""
    from recollect import recall
    from recollect.app.shown import show

    with open_memory(path) as memory:
        show(recall.why(memory, a, b, across=across), as_json)


@app.command()
def info(path: MemoryPath, as_json: AsJson = False) -> None:
    """Describe a memory: recipe, modules, times, and bytes with everything on disk counted."""
    from pathlib import Path

    from recollect.app.shown import show_mapping
    from recollect.app.watching import settings_of

    with open_memory(path) as memory:
        found = dict(memory.info())
        found["module_names"] = list(memory.modules.names)
        settings = settings_of(Path(path))
        if settings.get("activations"):
            found["float16_bytes_of_all_activations"] = 2 * settings["activations"]
        if settings:
            found["watched_with"] = {k: settings.get(k) for k in ("model", "view", "source")}
        if not as_json:
            found["epochs"] = {
                e["number"]: f"{e['glances']:,} glances; {e['what']}" for e in found["epochs"]
            }
        show_mapping(found, as_json)


@app.command()
def verify(path: MemoryPath, as_json: AsJson = False) -> None:
    """Check a memory from end to end; exit code 1 if anything is wrong."""
    from recollect.app.shown import print_json

    with open_memory(path) as memory:
        report = memory.verify()
    if as_json:
        print_json({"ok": report.ok, "checked": report.checked, "problems": report.problems})
    else:
        print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def compact(path: MemoryPath, as_json: AsJson = False) -> None:
    """Merge small files and drop old versions."""
    from recollect.app.shown import show_mapping

    with open_memory(path, write=True) as memory:
        before = _bytes(path)
        memory.compact()
        show_mapping({"bytes before": before, "bytes now": _bytes(path)}, as_json, path)


@app.command()
def fade(
    path: MemoryPath,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Becomes the memory's policy: 'full for 30 days, 256 dims for a year, roll-ups "
            "for ever'; 'off' ends fading.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would fade.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget by the retention policy: old glances keep a prefix, or only their roll-ups."""
    from recollect.app.shown import print_json

    with open_memory(path, write=not dry_run) as memory:
        found = memory.fade(policy=policy, dry_run=dry_run)
    if as_json:
        print_json({**vars(found), "glances": found.glances})
    else:
        print(found)


@app.command()
def epoch(
    path: MemoryPath,
    informed: Annotated[
        bool,
        typer.Option(
            "--informed/--oblivious",
            help="Lead with a prior's directions, or go back to the first epoch's recipe.",
        ),
    ] = True,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit a prior to the records first, and keep it.")
    ] = False,
    prior: Annotated[
        int | None, typer.Option(help="Version of the prior to stand on; else the newest.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of a sketch's numbers, how many lead.")] = 0.75,
    as_json: AsJson = False,
) -> None:
    """Begin an epoch: new glances are sketched with another recipe, old ones stay as they are.

    An informed epoch spends most of a sketch on what usually varies, as the prior tells, and the
    rest on all else. Questions read all epochs together.
    """
    from recollect.app.shown import show_mapping

    with open_memory(path, write=True) as memory:
        if fit:
            memory.fit_prior()
        begun = memory.new_epoch(informed=informed, prior=prior, share=share)
        show_mapping({"what": begun.words, **begun.to_dict()}, as_json, path)


@app.command()
def export(
    path: MemoryPath,
    to: Annotated[
        str, typer.Argument(metavar="TO", help="A .parquet file, or a folder to put one in.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write all glances to one Parquet file, for any other program."""
    from pathlib import Path

    from recollect.app.shown import show_mapping

    target = Path(to)
    if target.suffix.lower() not in {".parquet", ".pq"}:
        target.mkdir(parents=True, exist_ok=True)
        target = target / "glances.parquet"
    with open_memory(path) as memory:
        number = memory.export(target)
    found = {"file": str(target), "glances": number, "bytes": _bytes(str(target))}
    show_mapping(found, as_json)


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="Which; without it they are listed.")] = None,
    quick: Annotated[bool, typer.Option(help="A smaller run, for a first look.")] = False,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of data for studies that need it.")
    ] = None,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw it: .svg or .png, where it can be.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where a long study writes rows, and goes on from."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: one claim as a table, the method beside its rivals."""
    from recollect import studies
    from recollect.app.shown import show

    found = studies.listed() if name is None else studies.run(name, quick, data, picture, keep)
    show(found, as_json)


@app.command()
def demo(
    report: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the report and the memory are kept.")
    ] = None,
    days: Annotated[int, typer.Option(min=2, max=365, help="Days of the year to live.")] = 365,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and the network.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Live through a year of scenes of handwritten digits, then ask about it.

    Trains a small network on the spot, watches 1,460 glances, prints every answer beside the
    truth that the scene maker knows, and writes one self-contained HTML report. Takes about two
    minutes.
    """
    import os

    # Threads that spin while they wait make training crawl when other work shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from recollect.app.demo.story import tell_story

    tell_story(report, days=days, seed=seed, as_json=as_json)


def _bytes(path: str) -> int:
    """Return the bytes of all files under a path."""
    from pathlib import Path

    place = Path(path)
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def main() -> None:
    """Run the command line; ``--debug`` may stand anywhere."""
    import sys

    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *[a for a in arguments if a != "--debug"]]
    app(arguments, prog_name="recollect")
