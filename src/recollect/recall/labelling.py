"""Which glances are most worth labelling next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._checks import NotRemembered, check_integer
from recollect.recall.reading import Selection, glance_rows, plural
from recollect.selection import IWeS, Random
from recollect.selection.borders import array_of

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["label_next"]

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def label_next(
    memory: Memory,
    k: int,
    probabilities: Any = None,
    *,
    label: str = "label",
    labelled: Mapping[int, Any] | None = None,
    criterion: Any = "entropy",
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    seed: int = 0,
) -> Answer:
    r"""Choose the glances most worth labelling, with weights for training on them.

    Each unlabelled glance is accepted with a probability :math:`p` that grows with the doubt about
    it (IWeS); its weight is :math:`\min(1 / p, 10)`, so that what is chosen stands for all.

    Args:
        memory: the glances.
        k: how many to choose.
        probabilities: what is believed of each glance, in the order of ``memory.glances()`` with
            the same filter: (n, C), or (n,) of yes or no; or an answer about a concept, with these
            numbers as ``.probability``. None: a ridge classifier on the sketches, fitted to the
            labels known so far; without two known classes, chance.
        label: name of the label column; glances that have one are not chosen.
        labelled: id -> label, for labels that are kept elsewhere; they count as well.
        criterion: of ``recollect.selection.IWeS``.
        where: SQL expression.
        since: first moment (with zone).
        until: moment after the last.
        seed: of the choice.

    Returns:
        k rows in the order of choice: ``id``, time, source, labels; ``doubt``, the acceptance
        probability p; ``weight``; and what is believed, ``likeliest`` and ``probability``.

    Raises:
        TypeError: if k is no integer.
        ValueError: if k is more than is left, or the probabilities do not fit the glances.
        NotRemembered: if no glance matches.

    Reference:
        Leveraging Importance Weights in Subset Selection (Citovsky et al., 2023).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from recollect import Memory, Object, Trace
        >>> trace = Trace.from_objects([[Object("cat", [float(n)])] for n in range(4)])
        >>> with TemporaryDirectory() as folder, Memory(f"{folder}/room") as memory:
        ...     added = memory.add(trace, "2026-01-01T00:00Z", ids=range(4))
        ...     found = label_next(memory, 1, [0.999, 0.001, 0.5, 0.999], seed=1)
        >>> found["id"], found["weight"]
        ([2], [1.0])
    """
    check_integer("k", k, minimum=1)
    chosen = Selection.of(where, since, until)
    table = memory.glances(**chosen.arguments)
    ids = table["id"].to_numpy()
    if not len(ids):
        raise NotRemembered(f"no glance matches{chosen.words or ': the memory is empty'}")
    known = _known(table, label, labelled)
    done = np.flatnonzero(np.isin(ids, list(known)))
    if k > len(ids) - len(done):
        raise ValueError(
            f"k = {k} is more than the {plural(len(ids) - len(done), 'glance')} without a "
            f"{label!r}{chosen.words}"
        )
    classes: list[Any] = []
    if probabilities is None:
        believed, classes, note = _guess(memory, ids, known)
    else:
        believed, note = _given(probabilities, len(ids)), "chosen by the probabilities given"
    if believed is None:
        found = Random().select(k, labels=ids, chosen=done, seed=seed)
    else:
        found = IWeS(criterion).select(k, probabilities=believed, chosen=done, seed=seed)
    picked = ids[found.indices].tolist()
    columns: dict[str, Any] = {"id": picked, **glance_rows(memory, picked)}
    columns |= {"doubt": found.probabilities, "weight": found.weights}
    if believed is not None:
        top = believed[found.indices].argmax(1)
        columns["likeliest"] = [classes[c] if classes else int(c) for c in top]
        columns["probability"] = believed[found.indices].max(1)
    title = f"{plural(k, 'glance')} to label next{chosen.words}"
    return Answer(columns, title, [note])


def _known(table: Any, label: str, labelled: Mapping[int, Any] | None) -> dict[int, Any]:
    """Return id -> label of what has one, in the memory or elsewhere."""
    known = dict(labelled or {})
    if label in table.column_names:
        rows = zip(table["id"].to_pylist(), table[label].to_pylist(), strict=True)
        known |= {i: v for i, v in rows if v is not None}
    return known


def _given(probabilities: Any, count: int) -> Floats:
    """Return probabilities (n, C) of an array or of a concept's answer."""
    found = array_of(getattr(probabilities, "probability", probabilities)).astype(np.float64)
    if found.ndim == 1:
        found = np.stack([1 - found, found], 1)
    if len(found) != count:
        raise ValueError(
            f"there are {plural(count, 'glance')} but probabilities of {len(found)}; give them in "
            "the order of memory.glances() with the same where, since and until"
        )
    return found


def _guess(
    memory: Memory, ids: IntArray, known: Mapping[int, Any]
) -> tuple[Floats | None, list[Any], str]:
    """Return probabilities (n, C) by a ridge classifier on the sketches, classes, and a note."""
    classes = sorted(set(known.values()), key=str)
    if len(classes) < 2:
        return None, [], "chosen by chance: fewer than two classes are known by a label yet"
    rows = list(known)
    values = [memory.values(some).astype(np.float64) for some in (rows, ids.tolist())]
    middle = values[0].mean(0)
    x, every = values[0] - middle, values[1] - middle
    goal = np.array([[float(known[i] == c) for c in classes] for i in rows])
    share = goal.mean(0)
    gram = x @ x.T
    ridge = 0.1 * np.trace(gram) / len(rows) + 1e-12
    scores = share + every @ x.T @ np.linalg.solve(gram + ridge * np.eye(len(rows)), goal - share)
    steep = np.exp(5 * (scores - scores.max(1, keepdims=True)))
    note = f"chosen by a ridge classifier on the sketches, fitted to {plural(len(rows), 'label')}"
    return steep / steep.sum(1, keepdims=True), classes, note
