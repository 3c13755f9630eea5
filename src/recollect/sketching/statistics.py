"""Mergeable statistics of streams: a few kilobytes each, with bounds, beside the sketches.

A sketch answers what nobody planned for; where a question is known beforehand, these small
summaries of a stream answer it better, and they too merge over windows and shards:

* ``Quantiles`` (KLL), ``Distinct`` (CPC) and ``Frequent`` (Misra and Gries) from the Apache
  ``datasketches`` library,
* ``SecondMoment`` and ``Entropy``, our own,
* ``PerModule``: one of them for every module of a network.

All share one interface: ``update``, ``merge``, ``to_bytes`` / ``from_bytes``, ``answer``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Self

import datasketches
import numpy as np
import numpy.typing as npt

from recollect._answers import Answer
from recollect._checks import check_integer, unknown_name
from recollect.sketching.moments import Entropy, SecondMoment
from recollect.sketching.streams import Statistic, count_items, plain_item, read_statistic
from recollect.tracing import Objects, Trace

__all__ = [
    "Distinct",
    "Entropy",
    "Frequent",
    "PerModule",
    "Quantiles",
    "SecondMoment",
    "Statistic",
    "read_statistic",
]

_SIZE = struct.Struct("<I")


class Quantiles(Statistic):
    """Quantiles of a stream of numbers, and its inter-quartile range.

    The true rank of an answer is within ``rank_error`` of the one asked for, with probability
    0.99 for all ranks at once. Reference: "Optimal quantile approximation in streams" (Karnin,
    Lang and Liberty, 2016).

    Args:
        size: bytes it may take.

    Example:
        >>> q = Quantiles()
        >>> q.update(np.arange(101.0))
        >>> q.answer([0.1, 0.5])["estimate"]
        [10.0, 50.0, 50.0]
    """

    kind = 3

    def __init__(self, size: int = 4096) -> None:
        self.size = check_integer("size", size, minimum=512)
        # A KLL sketch of parameter k keeps about 3 k float32 numbers.
        self._kll = datasketches.kll_floats_sketch(min((self.size - 160) // 13, 65535))

    def __repr__(self) -> str:
        return f"Quantiles(size={self.size})"

    @property
    def rank_error(self) -> float:
        """Bound on the error of a rank; 0 while all numbers are kept."""
        if not self._kll.is_estimation_mode():
            return 0.0
        return float(self._kll.normalized_rank_error(False))

    def update(self, values: Any) -> None:
        """Take in numbers: one, or an array or tensor of any shape.

        Raises:
            ValueError: on NaN.
        """
        if hasattr(values, "detach"):
            values = values.detach().cpu().numpy()
        numbers = np.asarray(values, dtype=np.float32).reshape(-1)
        if np.isnan(numbers).any():
            raise ValueError("NaN has no rank; drop it before it is counted")
        self._kll.update(numbers)

    def answer(self, ranks: npt.ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95)) -> Answer:
        """Return the quantiles at some ranks, and the inter-quartile range in the last row.

        Low and high are the numbers at the ranks ``rank_error`` to either side.

        Raises:
            ValueError: if a rank is not between 0 and 1.
        """
        asked = np.asarray(ranks, dtype=np.float64).reshape(-1)
        if not ((asked >= 0) & (asked <= 1)).all():
            raise ValueError(f"ranks lie between 0 and 1, got {asked.tolist()}")
        middle, low, high = self._read(asked)
        quartiles = self._read(np.array([0.25, 0.75]))
        spread = [float(q[1] - q[0]) for q in quartiles[:1]]
        least = max(float(quartiles[1][1] - quartiles[2][0]), 0.0)
        most = float(quartiles[2][1] - quartiles[1][0])
        names = [f"quantile {r:g}" for r in asked.tolist()]
        return Answer(
            {
                "statistic": [*names, "inter-quartile range"],
                "estimate": [*middle.tolist(), *spread],
                "low": [*low.tolist(), least],
                "high": [*high.tolist(), most],
            },
            title=f"quantiles of {self._kll.n} numbers",
            notes=[f"ranks are right within {self.rank_error:.4f} (99 %)"],
        )

    def _read(self, ranks: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """Return estimate, low and high at some ranks."""
        if self._kll.is_empty():
            nothing = np.full(len(ranks), np.nan)
            return nothing, nothing - np.inf, nothing + np.inf
        e = self.rank_error
        shifted = [np.clip(ranks + s, 0, 1).tolist() for s in (0.0, -e, e)]
        return tuple(np.array(self._kll.get_quantiles(r, True), np.float64) for r in shifted)

    def rank(self, number: float) -> float:
        """Return the estimated share of the stream at or below a number."""
        return float(self._kll.get_rank(number, True))

    def _settings(self) -> tuple[int, ...]:
        return (self.size,)

    def _merge(self, other: Self) -> None:
        self._kll.merge(other._kll)

    def _payload(self) -> bytes:
        return _SIZE.pack(self.size) + bytes(self._kll.serialize())

    @classmethod
    def _from_payload(cls, data: bytes) -> Self:
        made = cls(*_SIZE.unpack_from(data))
        made._kll = datasketches.kll_floats_sketch.deserialize(data[_SIZE.size :])
        return made


class Distinct(Statistic):
    """How many different items a stream holds (its support size).

    Reference: "Back to the future: an even more nearly optimal cardinality estimation
    algorithm" (Lang, 2017).

    Args:
        size: bytes it may take.

    Example:
        >>> d = Distinct()
        >>> d.update(["cat", "dog", "cat"])
        >>> round(d.answer()["estimate"][0])
        2
    """

    kind = 4

    def __init__(self, size: int = 4096) -> None:
        self.size = check_integer("size", size, minimum=128)
        # A CPC sketch of 2^lg numbers takes at most about 0.71 2^lg bytes, and 64 more.
        lg = min(int(np.log2((self.size - 64) / 0.71)), 20)
        self._cpc = datasketches.cpc_sketch(lg)

    def __repr__(self) -> str:
        return f"Distinct(size={self.size})"

    def update(self, values: Any) -> None:
        """Take in items (see ``streams.count_items`` for what these may be)."""
        for item in count_items(values):
            self._cpc.update(item)

    def answer(self) -> Answer:
        """Return the number of different items; the bounds are those of 95 %."""
        return Answer(
            {
                "statistic": ["distinct items"],
                "estimate": [self._cpc.get_estimate()],
                "low": [self._cpc.get_lower_bound(2)],
                "high": [self._cpc.get_upper_bound(2)],
            },
            title="how many different items",
        )

    def _settings(self) -> tuple[int, ...]:
        return (self.size,)

    def _merge(self, other: Self) -> None:
        union = datasketches.cpc_union(self._cpc.lg_k)
        union.update(self._cpc)
        union.update(other._cpc)
        self._cpc = union.get_result()

    def _payload(self) -> bytes:
        return _SIZE.pack(self.size) + bytes(self._cpc.serialize())

    @classmethod
    def _from_payload(cls, data: bytes) -> Self:
        made = cls(*_SIZE.unpack_from(data))
        made._cpc = datasketches.cpc_sketch.deserialize(data[_SIZE.size :])
        return made


class Frequent(Statistic):
    """The commonest items of a stream, each with a lower and an upper count that always hold.

    Reference: "A high-performance algorithm for identifying frequent items in data streams"
    (Anderson et al., 2017).

    Args:
        size: bytes it should take, for items of about eight letters.

    Example:
        >>> f = Frequent()
        >>> f.update(["cat", "dog", "cat"])
        >>> f.answer()["item"], f.answer()["low"]
        (['cat', 'dog'], [2, 1])
    """

    kind = 5

    def __init__(self, size: int = 4096) -> None:
        self.size = check_integer("size", size, minimum=256)
        # Up to 3/4 of the map is filled, with 20 bytes a string of eight letters.
        self._map = datasketches.frequent_strings_sketch(
            min(max(int(np.log2(self.size / 15)), 3), 24)
        )

    def __repr__(self) -> str:
        return f"Frequent(size={self.size})"

    def update(self, values: Any) -> None:
        """Take in items (see ``streams.count_items`` for what these may be)."""
        for item, count in count_items(values).items():
            self._map.update(item, count)

    def answer(self, most: int = 20) -> Answer:
        """Return the commonest items, the surest first.

        Args:
            most: how many rows to show; an item may be left out only if it is rarer than
                the note says.
        """
        kind = datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES
        rows = self._map.get_frequent_items(kind)
        rows = sorted(rows, key=lambda r: (-r[1], r[0]))[: check_integer("most", most, minimum=1)]
        total = int(self._map.total_weight)
        return Answer(
            {
                "item": [plain_item(r[0]) for r in rows],
                "estimate": [r[1] for r in rows],
                "low": [r[2] for r in rows],
                "high": [r[3] for r in rows],
            },
            title=f"frequent among {total} items",
            notes=[
                f"no item that occurred more than {self._map.epsilon * total:.0f} times is lost"
            ],
        )

    def _settings(self) -> tuple[int, ...]:
        return (self.size,)

    def _merge(self, other: Self) -> None:
        self._map.merge(other._map)

    def _payload(self) -> bytes:
        return _SIZE.pack(self.size) + bytes(self._map.serialize())

    @classmethod
    def _from_payload(cls, data: bytes) -> Self:
        made = cls(*_SIZE.unpack_from(data))
        made._map = datasketches.frequent_strings_sketch.deserialize(data[_SIZE.size :])
        return made


def sizes(objects: Objects) -> Any:
    """Return the norm of every object's attribute: what ``PerModule`` reads by default."""
    return objects.attributes.detach().norm(dim=1)


class PerModule:
    """One statistic for every module of a network.

    Args:
        make: makes an empty statistic, for example the class ``Quantiles``.
        read: what of a module's objects is counted; the norms of the attributes by default
            (``lambda o: o.attributes`` counts whole attribute vectors as items).

    Example:
        >>> import torch
        >>> per = PerModule(Quantiles)
        >>> per.update(Trace.from_columns({"eye": torch.eye(3), "ear": 2 * torch.eye(3)}))
        >>> per.modules, per["ear"].answer([0.5])["estimate"][0]
        (('ear', 'eye'), 2.0)
    """

    def __init__(
        self, make: Callable[[], Statistic], read: Callable[[Objects], Any] = sizes
    ) -> None:
        self.make, self.read = make, read
        self._by_module: dict[str, Statistic] = {}

    def __repr__(self) -> str:
        return f"PerModule({self.make()!r}, {len(self._by_module)} modules)"

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules seen, sorted."""
        return tuple(sorted(self._by_module))

    def __getitem__(self, module: str) -> Statistic:
        if module not in self._by_module:
            raise unknown_name("module", module, self._by_module)
        return self._by_module[module]

    def update(self, trace: Trace) -> None:
        """Take in every object of a trace."""
        for name in trace.modules:
            objects = trace.objects(name)
            if len(objects):
                self._by_module.setdefault(name, self.make()).update(self.read(objects))

    def merge(self, other: PerModule) -> PerModule:
        """Take in another shard, module by module, and return this one.

        Raises:
            ValueError: if the statistics are of another kind, size or seed.
        """
        for name in other.modules:
            self._by_module.setdefault(name, self.make()).merge(other[name])
        return self

    def to_bytes(self) -> bytes:
        """Write all modules' statistics."""
        parts = []
        for name in self.modules:
            key, data = name.encode(), self[name].to_bytes()
            parts += [_SIZE.pack(len(key)), key, _SIZE.pack(len(data)), data]
        return b"".join(parts)

    def read_bytes(self, data: bytes) -> PerModule:
        """Merge what ``to_bytes`` wrote into this one, and return it.

        Raises:
            ValueError: if the bytes are damaged, or hold other statistics.
        """
        place = 0

        def chunk() -> bytes:
            nonlocal place
            if place + _SIZE.size > len(data):
                raise ValueError(f"these {len(data)} bytes are damaged: they end too early")
            (length,) = _SIZE.unpack_from(data, place)
            place += _SIZE.size + length
            return data[place - length : place]

        while place < len(data):
            name, found = chunk().decode(), read_statistic(chunk())
            self._by_module.setdefault(name, self.make()).merge(found)
        return self

    def answer(self) -> Answer:
        """Return all modules' answers below each other."""
        columns: dict[str, list[Any]] = {"module": []}
        for name in self.modules:
            found = self[name].answer()
            columns["module"] += [name] * len(found)
            for key, values in found.columns.items():
                columns.setdefault(key, []).extend(values)
        return Answer(columns, title="by module")
