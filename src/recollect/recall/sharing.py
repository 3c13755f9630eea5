"""Parts that two kinds of glance share: what both use more than all others, from sketches.

For every number of every module the means over the glances of kind a, of kind b and of all others
are decoded, with error bars. A number is a shared part if it is larger for a *and* for b than for
the others: the p-value of that is the larger of the two one-sided ones (an intersection-union
test), and it is held against ``level`` divided by how many numbers were looked at (Bonferroni).

Shape letters: n glances of one kind, m numbers of a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer, interval
from recollect._checks import NotRemembered
from recollect.recall.attributes import pull_of, usual_of
from recollect.recall.faded import by_length
from recollect.recall.reading import Decoder, Selection, load_note, plural

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["shared"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Group:
    """Means (m,) over the objects of one kind of glance, their deviations, and the spread."""

    mean: FloatArray
    std: FloatArray
    spread: FloatArray


def shared(
    memory: Memory,
    a: str,
    b: str,
    *,
    rest: str | None = None,
    numbers: Sequence[int] | None = None,
    level: float = 0.1,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
) -> Answer:
    """Find the modules that two kinds of glance both use more than the others do.

    Args:
        memory: a Memory.
        a: the first kind: an SQL expression over time, source and labels, or the name of a module
            (then the glances that hold it).
        b: the second kind, likewise.
        rest: what both are compared with; None: all glances that are neither.
        numbers: which numbers of every attribute are looked at, such as ``[0]`` for the strength
            of kernels; None: all.
        level: chance of naming any number wrongly.
        where: SQL expression that narrows all of it down.
        since: first moment (with zone).
        until: first moment that is left out.

    Returns:
        An Answer, the strongest first: ``module``, ``number``, the means ``a``, ``b`` and
        ``others``, and how much larger the smaller of the two is, in deviations of the others:
        ``estimate``, ``low``, ``high``; ``p`` is corrected for the numbers looked at. It is empty
        where nothing is shared for sure.

    Raises:
        NotRemembered: if a kind has fewer than two glances with a sketch, or nothing is left to
            compare with.
        ValueError: if ``level`` is no probability, or the memory has neither a prior nor records
            to fit one.

    Example:
        >>> import torch
        >>> from recollect import Memory, Trace, recall
        >>> kind = ["cat"] * 40 + ["person"] * 40 + ["chair"] * 40
        >>> x = torch.randn(120, 3, generator=torch.manual_seed(0))
        >>> x[:80, 1] += 4  # the second number is a face
        >>> x[:40, 0] += 4  # the first is a tail
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(Trace.from_columns({"parts": x}), time="2026-01-01T08:00Z",
        ...                labels={"kind": kind})
        >>> answer = recall.shared(memory, "kind = 'cat'", "kind = 'person'")
        >>> list(zip(answer["module"], answer["number"]))
        [('parts', 1)]
        >>> memory.close()
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability between 0 and 1, got {level}")
    decoder = Decoder.of(memory)
    if decoder.prior is None:
        raise ValueError(
            "what glances share is decoded with a prior, and this memory keeps neither one nor "
            "records to fit it; keep some (Memory(..., reservoir=512))"
        )
    chosen = Selection.of(where, since, until)
    everything = _all(memory, chosen, None)
    kinds = [_all(memory, chosen, kind) for kind in (a, b)]
    neither = ~np.isin(everything, np.concatenate(kinds))
    others = everything[neither] if rest is None else _all(memory, chosen, rest)
    groups = {}
    loads: list[float] = []
    for name, ids in (("a", kinds[0]), ("b", kinds[1]), ("others", others)):
        if len(ids) < 2:
            words = {"a": repr(a), "b": repr(b), "others": "neither kind, to compare with"}[name]
            raise NotRemembered(
                f"{plural(len(ids), 'glance')} of {words}; at least two are needed for a mean"
            )
        groups[name] = _decoded(memory, ids, decoder, loads)
    rows = _rows(groups, numbers)
    tests = len(rows)
    found = sorted((r for r in rows if r["p"] * tests <= level), key=lambda r: -r["estimate"])
    for r in found:
        r["p"] = min(r["p"] * tests, 1.0)
    sizes = [plural(len(ids), "glance") for ids in (*kinds, others)]
    return Answer(
        {name: [r[name] for r in found] for name in _COLUMNS},
        title=f"shared by {a} and {b}{chosen.words}",
        notes=[
            f"{sizes[0]} and {sizes[1]} beside {sizes[2]}; estimate: in deviations of the others",
            f"{plural(tests, 'number')} looked at, the chance of any wrong name is {level:g}",
            decoder.note,
            load_note(loads),
        ],
    )


_COLUMNS = ("module", "number", "a", "b", "others", "estimate", "low", "high", "p")


def _all(memory: Memory, chosen: Selection, kind: str | None) -> IntArray:
    """Return the chosen glances of a kind: that hold a module, or that an expression chooses."""
    if kind is not None and kind in _names(memory):
        counts = memory.skeleton_counts(**chosen.arguments)
        return np.asarray(counts.ids[counts.count(kind, "objects") > 0], np.int64)
    parts = [f"({w})" for w in (chosen.where, kind) if w]
    arguments = chosen.arguments | {"where": " AND ".join(parts) or None}
    return np.asarray(memory.glances(**arguments)["id"].to_numpy(), np.int64)


def _names(memory: Memory) -> set[str]:
    return {member for entry in memory.modules for member in entry.members}


def _decoded(
    memory: Memory, ids: IntArray, decoder: Decoder, loads: list[float]
) -> dict[str, _Group]:
    """Return module -> means over some glances, decoded from their sketches."""
    values: dict[str, list[FloatArray]] = {}
    stds: dict[str, list[FloatArray]] = {}
    for keep, part in by_length(memory, ids):
        if keep == 0:
            continue
        read = decoder.decode(memory.sketches(ids=ids[part].tolist()))
        loads.append(float(np.max(read.load)))
        for module in _names(memory):
            objects = read.objects(module)
            if len(objects) and objects.std is not None:
                values.setdefault(module, []).append(objects.attributes.double().numpy())
                stds.setdefault(module, []).append(objects.std.double().numpy())
    groups = {}
    for module in values:
        value = np.concatenate(values[module])
        lost = np.square(np.concatenate(stds[module])).mean(0)
        usual = usual_of(decoder, module)
        if usual is None or len(value) < 2:
            continue
        mean, n = value.mean(0), len(value)
        spread = value.var(0) + lost
        pull = pull_of(mean, lost, n, memory.recipe.dim, *usual)
        groups[module] = _Group(mean, np.sqrt(spread / n + pull), np.sqrt(spread))
    return groups


def _rows(
    groups: dict[str, dict[str, _Group]], numbers: Sequence[int] | None
) -> list[dict[str, Any]]:
    """Return a row for every number that all three groups tell of."""
    rows: list[dict[str, Any]] = []
    for module in sorted(set.intersection(*(set(g) for g in groups.values()))):
        a, b, others = (groups[name][module] for name in ("a", "b", "others"))
        size = len(a.mean)
        for i in range(size) if numbers is None else [k for k in numbers if k < size]:
            if not others.spread[i] > 0:
                continue
            more = [float(k.mean[i] - others.mean[i]) for k in (a, b)]
            std = [float(np.hypot(k.std[i], others.std[i])) for k in (a, b)]
            least = int(np.argmin(more))
            low, high = interval(np.array([more[least]]), np.array([std[least]]))
            unit = float(others.spread[i])
            rows.append(
                {
                    "module": module, "number": i, "a": float(a.mean[i]), "b": float(b.mean[i]),
                    "others": float(others.mean[i]), "estimate": more[least] / unit,
                    "low": float(low[0]) / unit, "high": float(high[0]) / unit,
                    "p": max(_beyond(m / s) for m, s in zip(more, std, strict=True)),
                }
            )  # fmt: skip
    return rows


def _beyond(z: float) -> float:
    """Chance of a normal number beyond z."""
    return 0.5 * erfc(z / sqrt(2))
