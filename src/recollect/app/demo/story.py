"""The story that ``recollect demo`` tells: live a year, ask about it, set the truth beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from recollect._checks import NotRemembered
from recollect.app.demo import chapters
from recollect.app.demo.network import score_reading
from recollect.app.demo.report import Chapter, Table, render, text
from recollect.app.demo.world import World, live
from recollect.app.shown import print_json

__all__ = ["tell_story"]

# Scenes to train on: for a year, and for a few days that only try things out.
TRAINING, SHORT_TRAINING = 2400, 400


def tell_story(
    report: str | None, *, days: int = 365, seed: int = 0, as_json: bool = False
) -> list[Chapter]:
    """Live a year, ask about it, print the answers and write the report.

    Args:
        report: folder for the report and the memory; None: nothing is kept.
        days: days of the year.
        seed: of the scenes and the network.
        as_json: whether a program reads the answers.

    Returns:
        The chapters, as they were printed.
    """
    started = perf_counter()
    with TemporaryDirectory() if report is None else nullcontext(report) as folder:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with _progress(as_json) as step:
            training = TRAINING if days > 60 else SHORT_TRAINING
            world = live(place / "year.recollect", days, seed, training, step)
        with world.memory:
            if not as_json:
                _say_lived(world)
            story, facts = _tell(world, None if as_json else _print_chapter)
        page = None
        if report is not None:
            page = place / "report.html"
            page.write_text(_page(world, story, facts, perf_counter() - started))
        if as_json:
            print_json(_plain(world, story, page))
        else:
            _say_goodbye(place, page, perf_counter() - started)
    return story


def _tell(
    world: World, each: Callable[[int, Chapter], None] | None
) -> tuple[list[Chapter], list[tuple[str, str]]]:
    """Go through the chapters; ``each`` is called with every one as soon as it is told."""
    story: list[Chapter] = []

    def told(chapter: Chapter) -> None:
        story.append(chapter)
        if each is not None:
            each(len(story), chapter)

    told(chapters.opening(world))
    facts = [(f"{len(world.scenes):,}", "glances, four a day")]
    for chapter in (
        chapters.night, chapters.winter, chapters.grown, chapters.garden, chapters.inside,
        chapters.tree, chapters.like, chapters.hindsight, chapters.honest, chapters.size,
    ):  # fmt: skip
        try:
            found = chapter(world)
        except NotRemembered as error:  # in a few days the network may never see some digit
            told(Chapter(str(chapter.__doc__).splitlines()[0], verdict=str(error)))
            continue
        told(found)
        if found.fact is not None:
            facts.append(found.fact)
    there, _, read, _ = score_reading(world.scenes, world.seen)
    facts.append((f"{read / max(there, 1):.1%}", "of digits read rightly by the network itself"))
    return story, facts


def _page(world: World, story: list[Chapter], facts: list[tuple[str, str]], seconds: float) -> str:
    steps = ", ".join(f"{name} {value:.1f} s" for name, value in world.seconds.items())
    return render(
        "A year of glances, and questions nobody planned for",
        "A small network looked at a scene four times a day. Of everything it computed, one short "
        "sketch a glance was kept. These are the answers that the sketches give a year later, "
        "each beside the truth.",
        facts,
        story,
        f"Made by recollect demo in {seconds:.0f} s ({steps}). The digits are the test set of the "
        "Optical Recognition of Handwritten Digits data (UCI), as they come with scikit-learn. "
        "This page needs no other file.",
    )


def _progress(quiet: bool) -> AbstractContextManager[Callable[[str, int, int], None]]:
    """Return a context that gives a callback (step, done, of), shown as progress bars."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda step, done, of: None)
    return _Bars()


class _Bars:
    """One bar for each step."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<22}"), BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(),
            console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._progress.start()
        return self._step

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _step(self, step: str, done: int, of: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=of)
        self._progress.update(self._tasks[step], completed=done, total=of)


def _say_lived(world: World) -> None:
    s = world.seconds
    print(
        f"trained in {s['training']:.1f} s; {len(world.scenes):,} glances: the network took "
        f"{s['network']:.1f} s, remembering them {s['watching']:.1f} s"
    )


def _print_chapter(number: int, c: Chapter) -> None:
    """Print a chapter for people."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    console.print(f"\n[bold]{number}  {c.title}[/bold]")
    if c.command:
        console.print(f"$ {c.command}", style="cyan", markup=False)
    for table in c.tables:
        if len(table.columns) < 2:  # a drawing: the report shows it
            continue
        shown = RichTable(box=None, pad_edge=False, header_style="dim")
        for place, name in enumerate(table.columns):
            shown.add_column(name, justify="left" if place == 0 else "right")
        for row in table.rows:
            shown.add_row(*[text(v) for v in row])
        console.print(shown)
    mark = {True: "[green]✓[/green] ", False: "[yellow]![/yellow] ", None: ""}[c.good]
    console.print(mark + c.verdict.replace("[", r"\["))


def _say_goodbye(place: Path, page: Path | None, seconds: float) -> None:
    print(f"\n{seconds:.0f} s in all")
    if page is None:
        print("nothing was kept; recollect demo --report DIR writes a report and keeps the memory")
        return
    print(f"report: {page}")
    print(
        f'now ask yourself: recollect ask {place / "year.recollect"} "how often digit/1 by hour"'
    )


def _plain(world: World, story: list[Chapter], page: Path | None) -> dict[str, Any]:
    """Return the story as plain values, for JSON."""

    def table(t: Table) -> list[dict[str, Any]]:
        return [dict(zip(t.columns, row, strict=True)) for row in t.rows]

    return {
        "glances": len(world.scenes),
        "seconds": world.seconds,
        "report": None if page is None else str(page),
        "chapters": [
            {"title": c.title, "command": c.command, "verdict": c.verdict, "good": c.good,
             "tables": [table(t) for t in c.tables]}
            for c in story
        ],
    }  # fmt: skip
