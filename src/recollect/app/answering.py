"""From a question to an answer: recall does the work, this file only brings the two together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recollect._answers import Answer
from recollect.app.ask import Question

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["answer", "query_of"]


def answer(memory: Memory, question: Question, model: str | None = None) -> Answer:
    """Answer a question from a memory.

    Args:
        memory: the open memory.
        question: what is asked.
        model: network to look at a picture with; None: the one that ``watch`` used.

    Raises:
        ValueError: on a window in which nothing can be told.
        NotRemembered: on a module, concept or glance that the memory has never seen.
    """
    from recollect import recall

    window: dict[str, Any] = {
        "where": question.where,
        "since": question.since,
        "until": question.until,
    }
    if question.kind == "count":
        return recall.count(memory, question.module, by=question.by, unit=question.unit, **window)
    if question.kind == "attribute":
        assert question.module is not None, "the grammar demands a module"
        return recall.attribute(memory, question.module, **window)
    if question.kind == "similar":
        assert question.query is not None, "the grammar demands a query"
        query = query_of(memory, question.query, model)
        return recall.similar(memory, query, k=question.k, module=question.module)
    if question.kind == "unroll":
        return recall.unroll(memory, int(question.query or 0))
    if question.kind == "why":
        return recall.why(memory, int(question.query or 0), int(question.other or 0))
    if question.kind == "related":
        around = int(question.query or 0) if question.module is None else question.module
        return recall.graph(memory, around, k=question.k)
    if question.kind == "emerging":
        return recall.emerging(memory, module=question.module, **window)
    return _new(memory, question)


def _new(memory: Memory, question: Question) -> Answer:
    """Say what was new in a window; without a beginning, in its last seven days.

    Raises:
        ValueError: if nothing was seen before the window ends.
    """
    from recollect import recall

    since, said = question.since, []
    if since is None:
        hours = memory.rollups(until=question.until).times
        if len(hours) == 0:
            raise ValueError("nothing was seen before this window ends, so nothing can be new")
        end = question.until or hours[-1].astype(datetime).replace(tzinfo=UTC) + timedelta(hours=1)
        since = end - timedelta(days=7)
        said = ["no window was named: the last seven days are compared with all before"]
    found = recall.what_was_new(memory, since, question.until, where=question.where)
    return Answer(found.columns, found.title, [*said, *found.notes])


def query_of(memory: Memory, text: str, model: str | None = None) -> Any:
    """Return what to look for: a glance id as it is, a picture as the trace of the network.

    Raises:
        FileNotFoundError: if it is neither a number nor a file.
        ValueError: if the picture does not open, or no network is known to look at it with.
    """
    from recollect.app.models import load_model
    from recollect.app.pictures import open_picture
    from recollect.app.watching import look_at, settings_of

    path = Path(text).expanduser()
    if text.lstrip("-").isdigit() and not path.exists():
        return int(text)
    if not path.is_file():
        raise FileNotFoundError(f"{text!r} is neither the number of a glance nor a picture")
    settings = settings_of(Path(memory.path))
    name = model or settings.get("model")
    if name is None:
        raise ValueError(
            f"to look at {path.name} a network is needed, and this memory does not say which one "
            "made it: give --model"
        )
    network = load_model(name)
    try:
        image = open_picture(path)
    except Exception as error:
        raise ValueError(f"{path.name} does not open as a picture: {error}") from error
    how = {"view": settings.get("view", "modules"), "modules": settings.get("modules"),
           **settings.get("options", {})}  # fmt: skip
    return look_at(network, [network.preprocess(image)], how)
