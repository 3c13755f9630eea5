"""The loop behind ``recollect watch``: pictures in, glances on disk, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recollect.app.pictures import Picture
from recollect.app.sources import Source

if TYPE_CHECKING:
    from recollect.app.models import Model
    from recollect.memory import Memory

__all__ = [
    "Watched",
    "activations_of",
    "known_ids",
    "look_at",
    "remember_settings",
    "settings_of",
    "watch_source",
]

# How the glances of a memory were made, so that a later question can look at a new picture.
SETTINGS = "watch.json"


@dataclass
class Watched:
    """What a watch did.

    Attributes:
        seen: pictures that the source gave.
        added: new glances.
        known: pictures that the memory held already; the network did not run for them.
        broken: (name, reason) of pictures that did not open or are cut off.
        seconds: how long it took.
        interrupted: whether a person stopped it.
        coverage: what tracing says that it left out, in words.
        activations: numbers that the network computes for one picture; 0 if it did not run.
    """

    seen: int = 0
    added: int = 0
    known: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    coverage: str = ""
    activations: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "seen": self.seen,
            "added": self.added,
            "known": self.known,
            "broken": [{"name": n, "reason": r} for n, r in self.broken],
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "coverage": self.coverage,
            "activations": self.activations,
        }


def watch_source(
    memory: Memory,
    model: Model,
    source: Source,
    *,
    view: str = "modules",
    modules: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
    batch: int = 16,
    limit: int | None = None,
    progress: Callable[[Watched], None] = lambda watched: None,
) -> Watched:
    """Let a network look at every picture of a source that the memory does not hold yet.

    Pictures that do not open are skipped and named. Ctrl-C ends the watch cleanly: what was
    looked at is kept. Everything is added in batches, acknowledged one by one.

    Args:
        memory: where the glances go.
        model: what looks.
        source: what is looked at.
        view: see ``recollect.trace``.
        modules: see ``recollect.trace``.
        options: further options of the view.
        batch: pictures at a time.
        limit: stop after so many new pictures.
        progress: called after every picture.
    """
    watched, started = Watched(), perf_counter()
    known = known_ids(memory)
    waiting: list[tuple[Picture, Any]] = []
    how = {"view": view, "modules": modules, **(options or {})}
    size = model.batch or batch

    def flush() -> None:
        if waiting:
            _add(memory, model, waiting, how, watched)
            waiting.clear()

    try:
        for picture, image in _fresh(source, known, watched, progress, memory):
            try:
                waiting.append((picture, model.preprocess(image)))
            except Exception as error:
                raise ValueError(
                    f"the preprocessing of {model.name} does not take {picture.name}: {error}"
                ) from error
            if len(waiting) == size:
                flush()
            progress(watched)
            if limit is not None and watched.added + len(waiting) >= limit:
                break
        flush()
    except KeyboardInterrupt:
        watched.interrupted = True
        flush()
    watched.seconds = perf_counter() - started
    progress(watched)
    return watched


def known_ids(memory: Memory) -> set[int]:
    """Return the ids of all glances in a memory."""
    if len(memory) == 0:
        return set()
    return set(memory.glances(columns=["id"]).column("id").to_pylist())


def _fresh(
    source: Source,
    known: set[int],
    watched: Watched,
    progress: Callable[[Watched], None],
    memory: Memory,
) -> Iterator[tuple[Picture, Any]]:
    """Yield the pictures that are new and open, each with its pixels."""
    forgets = memory.forgotten() > 0
    for picture in source:
        watched.seen += 1
        # Of an hour that is left in roll-ups only, nobody can tell which pictures were seen.
        if picture.id in known or (forgets and memory.forgotten(picture.time, picture.time)):
            watched.known += 1
            progress(watched)
            continue
        known.add(picture.id)
        try:
            image = picture.open()
        # Broken files raise whatever their decoder stumbled over (OSError, SyntaxError, ...).
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            watched.broken.append((picture.name, reason))
            progress(watched)
            continue
        yield picture, image


def _add(
    memory: Memory,
    model: Model,
    waiting: list[tuple[Picture, Any]],
    how: Mapping[str, Any],
    watched: Watched,
) -> None:
    """Run the network on a batch and store its glances."""
    pictures = [p for p, _ in waiting]
    inputs = [x for _, x in waiting]
    t = look_at(model, inputs, how)
    if not watched.activations:  # one more run of the first picture
        alone = inputs[:1] if model.batch is None else inputs
        watched.activations = activations_of(model.module, model.collate(alone))
    watched.coverage = watched.coverage or str(t.coverage or "")
    labels = None
    if any(p.label is not None for p in pictures):
        labels = {"label": [p.label for p in pictures]}
    memory.add(
        t,
        time=[p.time for p in pictures],
        source=[p.source for p in pictures],
        labels=labels,
        ids=[p.id for p in pictures],
    )
    watched.added += len(pictures)


def look_at(model: Model, inputs: list[Any], how: Mapping[str, Any]) -> Any:
    """Return the trace of a network on preprocessed pictures.

    Raises:
        ValueError: if the network cannot run on them, with the shape that it got.
    """
    from recollect import trace

    batch = model.collate(inputs)
    try:
        t = trace(model.module, batch, **{k: v for k, v in how.items() if v is not None})
    except RuntimeError as error:
        shape = tuple(next(iter(batch.values())).shape if isinstance(batch, dict) else batch.shape)
        raise ValueError(
            f"{model.name} cannot run on a batch of shape {shape}: {str(error).splitlines()[0]}; "
            "choose another --batch, or ?size=... for its input"
        ) from error
    return t if len(t) == len(inputs) else t[: len(inputs)]


def activations_of(module: Any, batch: Any) -> int:
    """Return how many numbers the innermost modules of a network put out for one input."""
    import torch

    counted = 0

    def count(module: Any, args: Any, output: Any) -> None:
        nonlocal counted
        leaves = torch.utils._pytree.tree_leaves(output)
        counted += sum(x.numel() for x in leaves if isinstance(x, torch.Tensor))

    inner = [m for m in module.modules() if not any(True for _ in m.children())]
    handles = [m.register_forward_hook(count) for m in inner]
    try:
        with torch.no_grad():
            module(**batch) if isinstance(batch, dict) else module(batch)
    finally:
        for handle in handles:
            handle.remove()
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch
    return counted // len(first)


def remember_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Note in the memory's folder how its glances are made (written whole or not at all)."""
    target, draft = path / SETTINGS, path / (SETTINGS + ".new")
    draft.write_text(json.dumps({**settings, "at": datetime.now().astimezone().isoformat()}))
    draft.replace(target)


def settings_of(path: Path) -> dict[str, Any]:
    """Return how the glances of a memory were made; empty if it was not ``watch`` that did."""
    try:
        found = json.loads((path / SETTINGS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
