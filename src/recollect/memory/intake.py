"""What comes with glances: sources, labels and ids, checked and spelled out per glance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.memory.blocks import Where
from recollect.memory.clock import microseconds
from recollect.memory.tables import FIXED

__all__ = [
    "SQL_KINDS",
    "Added",
    "filter_of",
    "ids_of_all",
    "kind_of",
    "labels_of_all",
    "sources_of_all",
]

IntArray = npt.NDArray[np.int64]
Label = str | float | bool | None

SQL_KINDS = {str: "string", float: "double", bool: "boolean"}

_NAME = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class Added:
    """What an addition did.

    Attributes:
        ids: id of each glance, in the order given.
        added: glances that are new.
        replaced: glances whose id was there before; they stand in its place.
    """

    ids: list[int]
    added: int
    replaced: int

    def __add__(self, other: Added) -> Added:
        return Added(
            self.ids + other.ids, self.added + other.added, self.replaced + other.replaced
        )


def sources_of_all(source: str | Iterable[str | None] | None, count: int) -> list[str | None]:
    """Return one source per glance.

    Raises:
        ValueError: if their number is wrong.
        TypeError: if one is no string.
    """
    values = [source] * count if source is None or isinstance(source, str) else list(source)
    if len(values) != count:
        raise ValueError(
            f"{count} glances need {count} sources (or one for all), got {len(values)}"
        )
    for value in values:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"a source must be a string or None, got {value!r}")
    return values


def labels_of_all(
    labels: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, count: int
) -> dict[str, list[Label]]:
    """Return label name -> one value per glance.

    Args:
        labels: name -> one value for all or a sequence of ``count`` values; or one mapping per
            glance. Values are strings, numbers (kept as float64), booleans or None.
        count: number of glances.

    Raises:
        ValueError: on a wrong number, a name that plain SQL cannot use, or mixed kinds.
        TypeError: on a value of another kind.
    """
    if labels is None:
        return {}
    columns: dict[str, list[Any]] = {}
    if isinstance(labels, Mapping):
        for name, value in labels.items():
            columns[name] = _spread(name, value, count)
    else:
        rows = list(labels)
        if len(rows) != count:
            raise ValueError(f"{count} glances need {count} sets of labels, got {len(rows)}")
        for name in dict.fromkeys(n for row in rows for n in row):
            columns[name] = [row.get(name) for row in rows]
    plain = {_check_name(name): _one_kind(name, values) for name, values in columns.items()}
    return {name: values for name, values in plain.items() if kind_of(values) is not None}


def _spread(name: str, value: Any, count: int) -> list[Any]:
    if value is None or isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(
            f"{count} glances need {count} values of label {name!r} (or one), got {len(values)}"
        )
    return values


def _check_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name.lower()):
        raise ValueError(
            f"a label's name must be letters, digits and underscores, so that it can stand in "
            f"where='...', got {name!r}"
        )
    if name in FIXED:
        raise ValueError(f"{name!r} is a column of every glance; give the label another name")
    return name


def _one_kind(name: str, values: Sequence[Any]) -> list[Label]:
    plain = [_plain(name, v) for v in values]
    kinds = {type(v) for v in plain if v is not None}
    if len(kinds) > 1:
        shown = ", ".join(sorted(k.__name__ for k in kinds))
        raise ValueError(f"label {name!r} mixes {shown}; a label keeps one kind of value")
    return plain


def _plain(name: str, value: Any) -> Label:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(
        f"a value of label {name!r} must be a string, number, boolean or None, got {value!r} "
        f"({type(value).__name__})"
    )


def kind_of(values: Sequence[Label]) -> type | None:
    """Return the kind of a label's values; None if all are missing."""
    return next((type(v) for v in values if v is not None), None)


def ids_of_all(
    ids: Iterable[int] | None, source: Sequence[str | None], time: IntArray
) -> IntArray:
    """Return 64-bit ids: as given, or the hash of (source, time, ordinal among equals).

    Raises:
        ValueError: if their number is wrong, two are equal, or one does not fit 64 bits.
        TypeError: if one is no integer.
    """
    if ids is None:
        seen: Counter[tuple[str | None, int]] = Counter()
        made = []
        for key in zip(source, time.tolist(), strict=True):
            made.append(
                seed_of("glance", *([] if key[0] is None else [key[0]]), key[1], seen[key])
            )
            seen[key] += 1
        return np.array(made, np.int64)
    values = [check_integer("an id", i, minimum=-(1 << 63)) for i in ids]
    if len(values) != len(time):
        raise ValueError(f"{len(time)} glances need {len(time)} ids, got {len(values)}")
    large = [v for v in values if v >= 1 << 63]
    if large:
        raise ValueError(f"an id must fit a signed 64-bit integer, got {large[0]}")
    twice = [v for v, n in Counter(values).items() if n > 1]
    if twice:
        raise ValueError(f"ids of one call must differ, {twice[0]} is given more than once")
    return np.array(values, np.int64)


def filter_of(sql: str | None, since: Any, until: Any) -> Where:
    """Return a filter; since <= time < until, both with zone."""
    return Where(
        sql,
        None if since is None else microseconds(since),
        None if until is None else microseconds(until),
    )
