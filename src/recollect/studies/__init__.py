"""Studies: each claim as a runnable table, the method beside its rivals.

A study is a function ``study(quick, data) -> Answer`` in a module of its own; ``run`` imports it
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from recollect._answers import Answer
from recollect._checks import unknown_name

__all__ = ["listed", "run"]

# name -> (module, what it shows)
_STUDIES = {
    "hindsight": (
        "recollect.studies.hindsight",
        "old sketches answer better as the prior learns; PCA at equal bytes cannot",
    ),
    "recovery": (
        "recollect.studies.recovery",
        "a hidden modular network is learned from inputs and sketches alone",
    ),
}


def listed() -> Answer:
    """Return the studies that there are.

    >>> listed()["study"]
    ['hindsight', 'recovery']
    """
    return Answer(
        {"study": list(_STUDIES), "shows": [what for _, what in _STUDIES.values()]},
        title="studies (run one with: recollect study NAME)",
    )


def run(name: str, quick: bool = False, data: str | None = None) -> Answer:
    """Run a study and return its table.

    Args:
        name: of the study.
        quick: whether a smaller run will do.
        data: folder of data, for the studies that need it.

    Raises:
        NotRemembered: if there is no such study.
        ImportError: if it needs a library that is not installed.
    """
    if name not in _STUDIES:
        raise unknown_name("study", name, _STUDIES)
    study: Callable[[bool, str | None], Answer] = import_module(_STUDIES[name][0]).study
    return study(quick, data)
