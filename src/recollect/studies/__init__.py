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
    "clipping": (
        "recollect.studies.clipping",
        "scale-invariant Transformers train by clipped SGD from any initial scale",
    ),
    "hindsight": (
        "recollect.studies.hindsight",
        "old sketches answer better as the prior learns; PCA at equal bytes cannot",
    ),
    "infinite-cifar10": (
        "recollect.studies.infinite_cifar10",
        "fully connected < convolutional < wide residual, infinitely wide and trained",
    ),
    "infinite-digits": (
        "recollect.studies.infinite_digits",
        "the same on digits at random places, and finite ensembles beside the infinite one",
    ),
    "introspective-replay": (
        "recollect.studies.introspective_replay",
        "looking back from surprise solves a frozen lake with few updates",
    ),
    "locoprop": (
        "recollect.studies.locoprop",
        "local losses fit an autoencoder in fewer passes than SGD, Adam and RMSProp",
    ),
    "q-rex": (
        "recollect.studies.q_rex",
        "frozen targets and reversed buffers bear long steps; reusing data does the rest",
    ),
    "recovery": (
        "recollect.studies.recovery",
        "a hidden modular network is learned from inputs and sketches alone",
    ),
    "reverse-replay": (
        "recollect.studies.reverse_replay",
        "replayed backwards, a stream gives nearly the exact estimate; forward it does not",
    ),
    "subset-selection": (
        "recollect.studies.subset_selection",
        "chosen rows do the work of all: IWeS beside margin, BADGE, k-center, coverage, chance",
    ),
}


def listed() -> Answer:
    """Return the studies that there are.

    >>> "hindsight" in listed()["study"]
    True
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
