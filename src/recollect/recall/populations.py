"""The objects of a module in a window, as something whose averages can be taken.

Three ways lead to the average of a function over objects that nobody kept whole: the glances are
decoded one by one and their error bars drawn from (``Decoded``); the window's sum of the
distribution channel is read (``recall.channelled``); or the function is one that a stream
statistic followed (see ``recall.streams``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect.recall.attributes import (
    Estimates,
    decode_objects,
    pull_of,
    usual_of,
)
from recollect.recall.reading import CHUNK, Decoder, load_note, plural

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["SOURCES", "Decoded", "Feature", "Function", "Population", "decoded", "feature_of"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Function = Callable[[FloatArray], npt.NDArray[Any]]

SOURCES = ("sketch", "channel")
# Draws from the error bar of each decoded object, at least, and of all objects together.
DRAWS, ALL_DRAWS = 64, 4096


@dataclass(frozen=True)
class Feature:
    """One number read from each attribute.

    Attributes:
        name: for titles.
        read: (n, m) attributes to (n,).
    """

    name: str
    read: Function


def feature_of(feature: Any, size: int, names: Sequence[str] | None = None) -> Feature:
    """Understand what of an attribute of ``size`` numbers is asked about.

    Args:
        feature: place of a number; its name among ``names``; ``"size"``, the attribute's norm;
            a direction (m numbers), onto which it is projected; a function of (n, m) attributes
            to (n,) numbers; or None: the only number, else the size.
        size: m.
        names: what the numbers are called.

    Raises:
        ValueError: if there is no such number or name, or a direction has another length.
        TypeError: on anything else.

    Example:
        >>> feature_of("w", 3, names=["score", "w"]).read(np.array([[1.0, 2.0, 3.0]]))
        array([2.])
    """
    if feature is None:
        feature = 0 if size == 1 else "size"
    if isinstance(feature, str) and names is not None and feature in list(names):
        feature = list(names).index(feature)
    if isinstance(feature, str):
        if feature != "size":
            known = ", ".join(map(repr, ["size", *(names or [])]))
            raise ValueError(f"feature {feature!r} is not known; there are {known}, and numbers")
        return Feature("size", lambda x: np.linalg.norm(x, axis=1))
    if hasattr(feature, "__index__") and not isinstance(feature, bool):
        place = int(feature.__index__())
        if not 0 <= place < size:
            raise ValueError(
                f"attributes have numbers 0 to {size - 1}, number {place} is asked for"
            )
        called = names[place] if names is not None and place < len(names) else f"number {place}"
        return Feature(str(called), lambda x: x[:, place])
    if callable(feature):
        return Feature(getattr(feature, "__name__", "feature"), feature)
    try:
        direction = np.asarray(feature, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a feature is a number's place or name, 'size', a direction or a function, got "
            f"{feature!r}"
        ) from error
    if direction.shape != (size,):
        raise ValueError(
            f"a direction needs {size} numbers, one for each of an attribute, got "
            f"{direction.shape}"
        )
    return Feature("projection", lambda x: x @ direction)


class Population:
    """The objects of one module in a window.

    Attributes:
        objects: how many (an estimate where skeletons were not kept).
        notes: how they are known.
        exact: whether all of them were kept whole.
    """

    objects: float
    notes: list[str]
    exact: bool = False

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Return means (q,) of a function (n, m) -> (n, q), and their standard deviations."""
        raise NotImplementedError

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Return attributes (R, m) like those of the objects, and weights (R,) that sum to one."""
        raise NotImplementedError


class Decoded(Population):
    """Objects decoded one by one; averages are taken over draws from their error bars.

    Args:
        found: their estimates.
        objects: how many there are; more than were decoded if these are a sample.
        shift: (m,) by how much the prior may have pulled all of them alike.
        correlation: (m, m) of the errors of an object's numbers.
        notes: how they were read.
    """

    def __init__(
        self,
        found: Estimates,
        objects: float,
        shift: FloatArray,
        correlation: FloatArray,
        notes: list[str],
    ) -> None:
        self.found, self.objects, self.shift, self.notes = found, objects, shift, notes
        n, m = found.value.shape
        self.exact = not found.variance.any() and n >= objects
        draws = 1 if self.exact else max(DRAWS, -(-ALL_DRAWS // max(n, 1)))
        generator = np.random.Generator(np.random.PCG64(n))
        noise = generator.standard_normal((n, draws, m)) @ np.linalg.cholesky(correlation).T
        std = np.sqrt(found.variance)[:, None, :]
        self._draws = found.value[:, None, :] + (std * noise if not self.exact else 0.0)

    def average(self, function: Function) -> tuple[FloatArray, FloatArray]:
        """Average over draws: the mean, and what draws of one object and a pull leave open."""
        n, draws, m = self._draws.shape
        read = np.asarray(function(self._draws.reshape(-1, m)), np.float64)
        each = read.reshape(n, draws, -1)
        mean = each.mean((0, 1))
        if self.exact:
            return mean, np.zeros_like(mean)
        error = each.var(1).sum(0) / n**2
        if n < self.objects:  # a sample of the objects
            error = error + each.mean(1).var(0) / n * (1 - n / self.objects)
        if self.shift.any():
            moved = [
                np.asarray(function((self._draws + s * self.shift).reshape(-1, m)), np.float64)
                for s in (-1.0, 1.0)
            ]
            error = error + np.square((moved[1] - moved[0]).mean(0) / 2)
        return mean, np.sqrt(error)

    def quantiles(self, read: Function, ranks: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quantiles of a number, and their deviations: those of each draw of all objects.

        Where the objects are a sample, each draw takes as many of them with replacement.
        """
        n, draws, m = self._draws.shape
        number = read(self._draws.reshape(-1, m)).reshape(n, draws)
        if self.exact:
            middle = np.quantile(number[:, 0], ranks)
            return middle, np.zeros_like(middle)
        middle = np.quantile(number, ranks, axis=0).mean(1)
        if n < self.objects:
            generator = np.random.Generator(np.random.PCG64(n + 1))
            number = np.take_along_axis(number, generator.integers(0, n, number.shape), 0)
        variance = np.quantile(number, ranks, axis=0).var(1)
        if self.shift.any():
            ends = [
                read((self._draws + s * self.shift).reshape(-1, m)).reshape(n, draws)
                for s in (-1.0, 1.0)
            ]
            moved = [np.quantile(u, ranks, axis=0).mean(1) for u in ends]
            variance = variance + np.square((moved[1] - moved[0]) / 2)
        return middle, np.sqrt(variance)

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Return all draws, of equal weight."""
        flat = self._draws.reshape(-1, self._draws.shape[2])
        return flat, np.full(len(flat), 1 / len(flat))


def decoded(memory: Memory, module: str, ids: IntArray, objects: int) -> Decoded:
    """Decode the glances that hold the module, or a sample of ``CHUNK`` of them."""
    decoder = Decoder.of(memory)
    sampled = ids
    if len(ids) > CHUNK:
        sampled = ids[np.unique(np.linspace(0, len(ids) - 1, CHUNK).astype(np.int64))]
    found = decode_objects(memory, module, sampled, decoder)
    if np.isnan(found.value).any():
        raise ValueError(
            f"objects of module {module!r} cannot be decoded: {'; '.join(found.notes)}"
        )
    lost, usual = found.variance.mean(0), usual_of(decoder, module)
    shift = np.zeros_like(lost)
    if usual is not None and lost.any():
        n, dim = len(found.value), memory.recipe.dim
        shift = np.sqrt(pull_of(found.value.mean(0), lost, n, dim, *usual))
    notes = [f"{plural(objects, 'object')} in {plural(len(ids), 'glance')}"]
    if len(sampled) < len(ids):
        notes.append(f"read from {plural(len(sampled), 'glance')}, evenly chosen")
    if found.records:
        notes.append(f"{found.records} of {plural(len(sampled), 'glance')} read from records")
    if found.loads:
        notes += [decoder.note, load_note(found.loads), *found.notes]
    return Decoded(found, objects, shift, _error_correlation(decoder, module, lost), notes)


def _error_correlation(decoder: Decoder, module: str, lost: FloatArray) -> FloatArray:
    """How the errors of an object's numbers go together, from held-back glances of the prior."""
    m = len(lost)
    same = np.eye(m)
    if m == 1 or not lost.any() or decoder.prior is None or len(decoder.prior.sample) < 24:
        return same
    fitted, back = decoder.prior.hold_out(256)
    sketcher = decoder.memory.sketcher
    found = sketcher.decode(sketcher.encode(back), prior=fitted).objects(module)
    if len(found.attributes) < 4 or found.std is None or module not in back.modules:
        return same
    true = back.objects(module).attributes.numpy().astype(np.float64)
    error = found.attributes.numpy().astype(np.float64) - true
    error /= np.maximum(found.std.numpy().astype(np.float64), 1e-300)
    n = len(error)
    size = np.sqrt(np.square(error).mean(0))
    safe = np.where(size > 0, size, 1.0)
    together = (error / safe).T @ (error / safe) / n
    np.fill_diagonal(together, 1.0)
    mixed: FloatArray = (n * together + 4 * m * same) / (n + 4 * m)
    return mixed
