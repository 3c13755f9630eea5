"""Studies: each claim as a runnable table, the method beside its rivals.

A study is a function ``study(quick, data) -> Answer`` in a module of its own; ``run`` imports it
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature

from recollect._answers import Answer
from recollect._checks import unknown_name

__all__ = ["listed", "run"]

# name -> (module, what it shows)
_STUDIES = {
    "architectures": (
        "recollect.studies.architectures",
        "which networks see the world most alike, told from their sketches alone",
    ),
    "attributes": (
        "recollect.studies.attributes",
        "every decoder on the same sketches: what is read, what bars cover, what is refused",
    ),
    "clipping": (
        "recollect.studies.clipping",
        "scale-invariant Transformers train by clipped SGD from any initial scale",
    ),
    "concepts": (
        "recollect.studies.concepts",
        "ten examples of what no module was trained on find all others, with probabilities",
    ),
    "continual": (
        "recollect.studies.continual",
        "through a drifting year a small network goes on learning from its memory",
    ),
    "daft": (
        "recollect.studies.daft",
        "adversarially fine-tuned teachers, distilled, for domains never seen",
    ),
    "drift": (
        "recollect.studies.drift",
        "what was new is named, and nothing else, beside tests of every object and of samples",
    ),
    "emerging": (
        "recollect.studies.emerging",
        "what recurs and has no name: planted compounds found, none invented, beside clustering",
    ),
    "erasure": (
        "recollect.studies.erasure",
        "what is left of each property at 1/2 to 1/16 of a sketch, beside PCA and fewer glances",
    ),
    "frr": (
        "recollect.studies.frr",
        "heads that must carry every feature, where simple features turn random",
    ),
    "graph": (
        "recollect.studies.graph",
        "which scenes show the same thing: through the graph's parts, buckets, whole sketches",
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
    "linear-sketch": (
        "recollect.studies.linear_sketch",
        "regression on plain sketches y = A x names the important dimensions",
    ),
    "locoprop": (
        "recollect.studies.locoprop",
        "local losses fit an autoencoder in fewer passes than SGD, Adam and RMSProp",
    ),
    "published": (
        "recollect.studies.published",
        "the published mechanism on one layer: errors fall as the root of the size, all families",
    ),
    "q-rex": (
        "recollect.studies.q_rex",
        "frozen targets and reversed buffers bear long steps; reusing data does the rest",
    ),
    "recovery": (
        "recollect.studies.recovery",
        "hidden modular networks, of one level and of two, are learned from inputs and sketches",
    ),
    "reverse-replay": (
        "recollect.studies.reverse_replay",
        "replayed backwards, a stream gives nearly the exact estimate; forward it does not",
    ),
    "rivals": (
        "recollect.studies.rivals",
        "sketches beside PCA, product quantisation, records, top-k, bundles, at equal bytes",
    ),
    "schemes": (
        "recollect.studies.schemes",
        "each property under each scheme at equal bytes and three depths: why energy is default",
    ),
    "search": (
        "recollect.studies.search",
        "which half-trained variants of a network are worth finishing, told from their sketches",
    ),
    "similarity": (
        "recollect.studies.similarity",
        "unrelated glances are far, related ones near; shared parts are found at other places",
    ),
    "statistics": (
        "recollect.studies.statistics",
        "a day's roll-up tells quantiles, shares and drift; streams in 4 KB: beside reservoirs",
    ),
    "subset-selection": (
        "recollect.studies.subset_selection",
        "chosen rows do the work of all: IWeS beside margin, BADGE, k-center, coverage, chance",
    ),
    "training-for-memory": (
        "recollect.studies.training_for_memory",
        "what LocoProp and FRR do to what a sketch of the network can recall",
    ),
    "vae": (
        "recollect.studies.vae",
        "a semi-supervised VAE: where it may normalise, how many numbers a class needs",
    ),
    "views": (
        "recollect.studies.views",
        "every view of modular networks on a trained example: counts, attributes, similarity",
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


def run(
    name: str,
    quick: bool = False,
    data: str | None = None,
    picture: str | None = None,
    keep: str | None = None,
) -> Answer:
    """Run a study and return its table.

    Args:
        name: of the study.
        quick: whether a smaller run will do.
        data: folder of data, for the studies that need it.
        picture: file to draw the table into, for the studies that draw (``.svg`` or ``.png``).
        keep: folder that a long study writes its rows to, and goes on from when run again.

    Raises:
        NotRemembered: if there is no such study.
        ImportError: if it needs a library that is not installed.
        ValueError: if a picture is asked of a study that draws none, or a study that runs at
            once is asked to keep its rows.
    """
    if name not in _STUDIES:
        raise unknown_name("study", name, _STUDIES)
    module = import_module(_STUDIES[name][0])
    draw: Callable[[Answer, str], None] | None = getattr(module, "draw", None)
    if picture is not None and draw is None:
        raise ValueError(f"study {name!r} draws no picture; leave picture out")
    study: Callable[..., Answer] = module.study
    if keep is not None and "keep" not in signature(study).parameters:
        raise ValueError(f"study {name!r} keeps no rows while it runs; leave keep out")
    answer = study(quick, data) if keep is None else study(quick, data, keep=keep)
    if picture is not None and draw is not None:
        draw(answer, picture)
    return answer
