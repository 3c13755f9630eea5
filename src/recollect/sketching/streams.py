"""What all stream statistics share: what an item is, how it is hashed, how bytes begin.

An item is a string, a number, bytes, or a whole row of numbers (an attribute vector). Items are
written as tagged strings first, so that the word "5" and the number 5 are two items and the same
number of two libraries is one; -0.0 is 0.0. Hashes come from BLAKE2b and never change with a
library's version.
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from recollect._answers import Answer

__all__ = ["Statistic", "count_items", "hash_items", "mixed", "plain_item", "read_statistic"]

# Magic, version of the format, kind of statistic.
_HEADER = struct.Struct("<3sBB")
_MAGIC, _VERSION = b"RSt", 1
_KINDS: dict[int, type[Statistic]] = {}

UIntArray = npt.NDArray[np.uint64]


class Statistic(ABC):
    """A few kilobytes that follow a stream, merge with their like, and answer with bounds.

    ``update`` takes any number of values, ``merge`` takes in a statistic of another shard (in
    place), ``answer`` shows estimate, low and high. What was merged answers like what saw both
    streams.
    """

    kind: ClassVar[int]

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    @abstractmethod
    def update(self, values: Any) -> None:
        """Take in values of the stream."""

    @abstractmethod
    def _settings(self) -> tuple[int, ...]:
        """What must be equal in two statistics that are merged."""

    @abstractmethod
    def _merge(self, other: Self) -> None: ...

    @abstractmethod
    def _payload(self) -> bytes: ...

    @classmethod
    @abstractmethod
    def _from_payload(cls, data: bytes) -> Self: ...

    @abstractmethod
    def answer(self) -> Answer:
        """Return the estimate with its bounds."""

    def merge(self, other: Self) -> Self:
        """Take in what another shard saw, and return this statistic.

        Raises:
            ValueError: if the other is of another kind, size or seed.
        """
        if type(other) is not type(self) or other._settings() != self._settings():
            raise ValueError(
                f"{self!r} and {other!r} cannot be merged; make both with the same class, size "
                "and seed"
            )
        self._merge(other)
        return self

    def to_bytes(self) -> bytes:
        """Write the statistic; ``from_bytes`` (or ``read_statistic``) reads it again."""
        return _HEADER.pack(_MAGIC, _VERSION, self.kind) + self._payload()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: if the bytes are no statistic, or one of another kind.
        """
        found = read_statistic(data)
        if not isinstance(found, cls):
            raise ValueError(f"these bytes hold {found!r}, not a {cls.__name__}")
        return found


def read_statistic(data: bytes) -> Statistic:
    """Read a statistic of any kind.

    Raises:
        ValueError: if the bytes are no statistic, or of a newer version.
    """
    if len(data) < _HEADER.size or data[:3] != _MAGIC:
        raise ValueError(f"these {len(data)} bytes are not a stream statistic")
    _, version, kind = _HEADER.unpack_from(data)
    if version > _VERSION or kind not in _KINDS:
        raise ValueError(
            f"a stream statistic of format {version}, kind {kind} is not known here; read it "
            "with the release that wrote it"
        )
    try:
        return _KINDS[kind]._from_payload(data[_HEADER.size :])
    except (struct.error, ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise ValueError(f"these {len(data)} bytes are a damaged stream statistic") from error


def count_items(values: Any) -> dict[str, int]:
    """Return the distinct items among some values, tagged, and how often each occurs.

    Args:
        values: one item (string, number, bytes), an iterable of them, a one-dimensional array of
            numbers, a two-dimensional array or tensor whose rows are the items, or a mapping
            from item to how often it occurs.

    Raises:
        TypeError: if an item is none of these.
        ValueError: on NaN, or a count that is no positive integer.

    Example:
        >>> count_items(["a", "b", "a"]), count_items(7)
        ({'s:a': 2, 's:b': 1}, {'i:7': 1})
    """
    if isinstance(values, Mapping):
        for item, count in values.items():
            if int(count) != count or count < 1:
                raise ValueError(f"a count must be a positive integer, got {item!r}: {count!r}")
        counted: Counter[str] = Counter()
        for item, count in values.items():
            counted[_tagged(item)] += int(count)
        return dict(counted)
    if isinstance(values, str | bytes | int | float | np.generic):
        return {_tagged(values): 1}
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return dict(Counter(_tagged_row(row) for row in values))
    if isinstance(values, np.ndarray) and values.dtype != object:
        distinct, counts = np.unique(values.reshape(-1), return_counts=True)
        tagged: Counter[str] = Counter()
        for item, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            tagged[_tagged(item)] += count
        return dict(tagged)
    if not isinstance(values, Iterable):
        raise TypeError(f"a stream is made of strings, numbers or bytes, got {values!r}")
    return {_tagged(item): count for item, count in Counter(values).items()}


def _tagged(item: Any) -> str:
    """Write an item as a string that says what it is."""
    if isinstance(item, str):
        return f"s:{item}"
    if isinstance(item, bytes):
        return f"b:{item.hex()}"
    if hasattr(item, "__index__"):
        return f"i:{int(item.__index__())}"
    if isinstance(item, float | np.floating):
        if item != item:
            raise ValueError("NaN is no item of a stream; drop it or give it a name")
        return f"f:{float(item) + 0.0!r}"
    raise TypeError(
        f"a stream is made of strings, numbers, bytes or rows of numbers, got {item!r} "
        f"({type(item).__name__})"
    )


def _tagged_row(row: npt.NDArray[Any]) -> str:
    if not np.isfinite(row).all():
        raise ValueError("a row with NaN or infinity is no item of a stream; drop it")
    digest = hashlib.blake2b((row.astype("<f8") + 0.0).tobytes(), digest_size=12)
    return f"v:{digest.hexdigest()}"


def plain_item(tagged: str) -> Any:
    """Return the item behind its tagged string (a row of numbers stays a hash)."""
    tag, text = tagged[:2], tagged[2:]
    if tag == "i:":
        return int(text)
    if tag == "f:":
        return float(text)
    return bytes.fromhex(text) if tag == "b:" else (text if tag == "s:" else tagged)


def hash_items(items: Iterable[str], seed: int) -> UIntArray:
    """Return a 64-bit hash of each tagged item, shape (n,)."""
    key = seed.to_bytes(8, "little")
    digests = b"".join(
        hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for item in items
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def mixed(x: UIntArray) -> UIntArray:
    """Mix 64-bit numbers (the finaliser of SplitMix64): consecutive inputs, unrelated outputs."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
