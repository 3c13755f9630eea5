"""``recollect watch``: brings source, network and memory together, and shows how it goes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recollect.app.models import load_model
from recollect.app.shown import print_json, tell
from recollect.app.sources import Source, open_source
from recollect.app.times import zone_of
from recollect.app.watching import Watched, remember_settings, settings_of, watch_source

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["run"]

LEAST = 0.1  # probability with which a class counts as seen
_NAMED = 20  # broken pictures that are named one by one


def run(
    source: str,
    model: str,
    path: str,
    *,
    how: Mapping[str, str | None],
    where: Mapping[str, Any],
    columns: Mapping[str, str | None],
    timezone: str | None,
    dim: int | None,
    seed: int | None,
    batch: int,
    limit: int | None,
    as_json: bool,
) -> None:
    """Watch a source; the arguments are the options of the command."""
    # The source first: a mistyped path should not wait for a network to load.
    zone_name = timezone or _zone_of_memory(path) or "UTC"
    pictures = open_source(source, zone_of(zone_name), columns=columns, **where)
    network = load_model(model)
    modules = _split(how["modules"])
    view = str(how["view"])
    options: dict[str, Any] = {}
    if view == "classes":
        names = _class_names(how["classes"]) or network.classes
        # Without a least probability every picture holds a little of everything.
        options = {"least": LEAST, **({"labels": names} if names else {})}
    with _open(path, dim, seed, zone_name) as memory:
        settings = {"model": model, "view": view, "modules": modules, "options": options}
        known = settings_of(Path(path))
        remember_settings(Path(path), {**known, **settings, "source": str(source)})
        with _progress(pictures, quiet=as_json) as show:
            watched = watch_source(
                memory, network, pictures, view=view, modules=modules, options=options,
                batch=batch, limit=limit, progress=show,
            )  # fmt: skip
        prior = None
        if watched.added:
            prior = memory.fit_prior()
            known = settings_of(Path(path))
            remember_settings(Path(path), {**known, "activations": watched.activations})
        total = len(memory)
    if as_json:
        print_json({**watched.to_dict(), "glances": total, "prior": prior,
                    "notes": pictures.notes})  # fmt: skip
    else:
        _tell(watched, total, path, pictures.notes)


def _zone_of_memory(path: str) -> str | None:
    """Return the calendar of a memory that exists."""
    from recollect.memory import Memory

    if not Path(path).exists() or not any(Path(path).iterdir()):
        return None
    with Memory(path, read_only=True) as memory:
        return memory.timezone


def _open(path: str, dim: int | None, seed: int | None, zone: str) -> Memory:
    """Open a memory to write; a new one gets the recipe, an old one must have it."""
    from recollect import Memory, Sketcher

    if dim is None and seed is None and Path(path).exists() and any(Path(path).iterdir()):
        return Memory(path)
    known = _recipe_of(path)
    sketcher = Sketcher(
        dim=dim if dim is not None else (known.dim if known else 1024),
        seed=seed if seed is not None else (known.seed if known else 0),
    )
    return Memory(path, sketcher=sketcher, timezone=zone)


def _recipe_of(path: str) -> Any:
    from recollect.memory import Memory

    if not Path(path).exists() or not any(Path(path).iterdir()):
        return None
    with Memory(path, read_only=True) as memory:
        return memory.recipe


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _class_names(path: str | None) -> list[str] | None:
    """Read class names, one a line."""
    if path is None:
        return None
    return [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]


def _progress(source: Source, quiet: bool) -> AbstractContextManager[Any]:
    """Return a context that gives a callback, which moves a bar with rate and time left."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda watched: None)
    return _Bar(source.count())


class _Bar:
    """A progress bar: pictures, rate, time left, what was skipped."""

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Left

        self._progress = Progress(
            TextColumn("watching"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), Left(), TextColumn("{task.fields[skipped]}"),
            console=Console(stderr=True),
        )  # fmt: skip
        self._task = self._progress.add_task("watching", total=total, rate="", skipped="")

    def __enter__(self) -> Any:
        self._progress.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _show(self, watched: Watched) -> None:
        elapsed = self._progress.tasks[0].elapsed or 0.0
        done = watched.added
        rate = f"{done / elapsed:.1f} glances/s" if elapsed > 0.5 and done else ""
        parts = [f"{watched.known} known" if watched.known else "",
                 f"{len(watched.broken)} broken" if watched.broken else ""]  # fmt: skip
        self._progress.update(
            self._task, completed=watched.seen, rate=rate, skipped=", ".join(filter(None, parts))
        )


def _tell(watched: Watched, total: int, path: str, notes: list[str]) -> None:
    """Say what was done."""
    rate = f" ({watched.added / watched.seconds:.1f} a second)" if watched.added else ""
    known = f", {watched.known} were known already" if watched.known else ""
    print(f"{watched.added} glances added{rate}{known}; {path} now holds {total}")
    if watched.coverage:
        print(watched.coverage)
    for note in notes:
        print(f"note: {note}")
    if watched.interrupted:
        tell("interrupted; run the same command again to go on")
    if watched.broken:
        tell(f"{len(watched.broken)} pictures did not open or are cut off and were skipped:")
        for name, reason in watched.broken[:_NAMED]:
            tell(f"  {name}: {reason}")
        if len(watched.broken) > _NAMED:
            tell(f"  ... and {len(watched.broken) - _NAMED} more (--json names all)")
