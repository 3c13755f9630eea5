"""Orthogonal fast operators from hashed seed paths; nothing is stored but the seed.

A sketch is made in a *working space* of W numbers, W the next power of two of dim, and leaves it
by one transform that all modules share, so that it is done once per glance:

    sketch = sqrt(W / dim) * P H z

H is the orthonormal Hadamard transform and P keeps dim rows in a random order, so that every
prefix of a sketch is a random subset of its rows and no dyadic structure survives in it.

* The attribute operator of a module spreads m numbers over W: groups of up to 8 numbers pass a
  small Hadamard transform, and copies of the result, each in an order of its own, fill W and get
  the module's own random signs. Its columns are exactly orthonormal; with the shared transform
  it is a two-round operator whose inner round is sparse (8 non-zeros or more in a column).
  Without orders of their own, equal places of two modules would meet in all copies, and a few
  equal signs would make them one direction.
* The mixing operator of a module is ``R = H D H D_M``, orthogonal, with signs D_M of its own;
  ``(I + R) / sqrt(2)`` keeps what was there visible at another depth.
* The count column of a module is a random sign vector of norm one, outside the working space.

With another family (``Recipe.operators``) the attribute operators and the counters inside the
recursion are dense columns of that family and the shared transform is left out, so that they
arrive in the sketch as they are; the mixing operators and the count columns stay the same.

With the default, only additions, subtractions and products with +1 or -1 happen between rows'
numbers, in an order that depends on nothing else in the batch: row i of a batch is bit-identical
to that row alone.

Reference: fast Johnson-Lindenstrauss transforms (Ailon and Chazelle, 2009); the recursion is
that of "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, ICML 2019).

Shape letters: n rows, m numbers in an attribute, p its next power of two, W working width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._seeds import seed_of, signs
from recollect.sketching import families, fused
from recollect.sketching.recipe import Recipe

__all__ = ["Operators", "hadamard"]

T = TypeVar("T", bound="Tensor | npt.NDArray[np.uint32]")

# Bytes of the orders that are kept: 16,000 modules at 1,024 numbers.
_MOST_BYTES = 1 << 27

# Numbers of one attribute that are mixed with each other before they are spread.
GROUP = 8


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def last_stride(p: int) -> int:
    """Return the smallest stride of the butterflies that mix groups of p numbers."""
    return max(p // GROUP, 1)


def _butterflies(x: Tensor, first: int, last: int) -> Tensor:
    """Apply Hadamard butterflies with strides first, first / 2, ... down to last along axis 1.

    Args:
        x: (n, w, g); strides count in w. Not changed.
        first: largest stride.
        last: smallest stride.
    """
    n, w, g = x.shape
    buffers = (torch.empty_like(x), torch.empty_like(x))
    source, stride, turn = x, first, 0
    while stride >= last:
        a = source.view(n, w // (2 * stride), 2, stride * g)
        b = buffers[turn].view(n, w // (2 * stride), 2, stride * g)
        torch.add(a[:, :, 0], a[:, :, 1], out=b[:, :, 0])
        torch.sub(a[:, :, 0], a[:, :, 1], out=b[:, :, 1])
        source, stride, turn = buffers[turn], stride // 2, 1 - turn
    return source


def hadamard(x: Tensor) -> Tensor:
    """Apply the orthonormal Hadamard transform to each row.

    Args:
        x: (n, W), W a power of two.

    Returns:
        (n, W); applying it twice gives x again.

    Example:
        >>> hadamard(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    n, w = x.shape
    if w == 1:
        return x.clone()
    inner = min(w, 32)
    # Far butterflies first, on contiguous runs; then the near ones with the axes exchanged, so
    # that these too add long runs.
    y = x.contiguous()
    if w > inner:
        y = _butterflies(y.view(n, w, 1), w // 2, inner).view(n, w)
    y = y.view(n, w // inner, inner).transpose(1, 2).contiguous()
    y = _butterflies(y, inner // 2, 1)
    scaled: Tensor = y.transpose(1, 2).reshape(n, w) * w**-0.5
    return scaled


class _Bounded(dict[tuple[int | str, ...], T]):
    """Arrays that are cheap to make again, by key: the oldest go beyond a number of bytes."""

    def __init__(self, most: int = _MOST_BYTES) -> None:
        super().__init__()
        self.most, self.bytes = most, 0

    def __setitem__(self, key: tuple[int | str, ...], value: T) -> None:
        if key in self:
            self.bytes -= int(self.pop(key).nbytes)
        super().__setitem__(key, value)
        self.bytes += int(value.nbytes)
        while self.bytes > self.most and len(self) > 1:
            self.bytes -= int(self.pop(next(iter(self))).nbytes)


class Operators:
    """All operators of one recipe; signs are made when first needed and kept.

    Args:
        recipe: dim, seed and family; its other fields do not matter here.
        device: where the signs live.
    """

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu") -> None:
        self.seed, self.dim = recipe.seed, recipe.dim
        self.width = next_power_of_two(recipe.dim)
        self.family = recipe.operators
        self.device = torch.device(device)
        self._signs: dict[tuple[int | str, ...], Tensor] = {}
        self._orders: _Bounded[Tensor] = _Bounded()
        self._fused_places: _Bounded[npt.NDArray[np.uint32]] = _Bounded()
        # The rows of the shared transform, in the random order in which they are kept.
        rows = _random_order(seed_of(recipe.seed, "rows"), self.width)[: self.dim]
        self._rows = torch.from_numpy(rows).to(self.device)

    def signs(self, count: int, *path: int | str) -> Tensor:
        """Return the (count,) random signs of a seed path on this device, from the cache."""
        if path not in self._signs:
            self._signs[path] = torch.from_numpy(signs(count, self.seed, *path)).to(self.device)
        return self._signs[path]

    def spread(self, x: Tensor, key: tuple[str, ...], into: Tensor, *, scale: float = 1.0) -> None:
        """Add the attribute operator's image of each row to ``into``.

        Args:
            x: (n, m) attributes, already weighted. More than W numbers are cut into blocks with
                operators of their own.
            key: what the operator belongs to (the module, or the path for ``keyed``).
            into: (n, W), changed in place.
            scale: what the attributes are divided by.
        """
        for block, start in enumerate(range(0, x.shape[1], self.width)):
            part = x[:, start : start + self.width]
            if self.family != "hadamard":
                dense = self._columns(part.shape[1], "attribute", *key, block)
                # Column after column: a matrix product's bits would depend on the batch.
                for number, column in zip((part / scale).T, dense, strict=True):
                    into.addcmul_(number[:, None], column)
                continue
            p = next_power_of_two(part.shape[1])
            mixed = _mix(part * (self._share(p) / scale), p)
            if p < self.width:
                mixed = mixed.index_select(1, self._copies(p, *key, block))
            into.addcmul_(mixed, self.signs(self.width, "attribute", *key, block))

    def counter(self, module: str) -> Tensor:
        """Return a module's counter in the working space, ``R e_1`` of its own operator, (W,)."""
        if self.family != "hadamard":
            return self._columns(1, "counter", module)[0]
        counter: Tensor = self.signs(self.width, "counter", module) * self.width**-0.5
        return counter

    def _columns(self, size: int, *path: int | str) -> Tensor:
        """Return the (size, W) columns of a dense operator on this device, from the cache."""
        key = ("columns", size, *path)
        if key not in self._signs:
            made = families.columns(self.family, size, self.width, self.seed, *path)
            self._signs[key] = torch.from_numpy(made).to(self.device)
        return self._signs[key]

    def _copies(self, p: int, *path: int | str) -> Tensor:
        """Return (W,) places in 0..p - 1: each copy of the p numbers in its own random order."""
        key = (p, *path)
        if key not in self._orders:
            copies = [
                _random_order(seed_of(self.seed, "copy", *path, copy), p)
                for copy in range(self.width // p)
            ]
            self._orders[key] = torch.from_numpy(np.concatenate(copies)).to(self.device)
        return self._orders[key]

    def mix(self, z: Tensor, keys: list[tuple[str, ...]]) -> Tensor:
        """Return R z for each row, R the mixing operator of that row's key.

        Args:
            z: (n, W).
            keys: n seed paths (a few distinct ones).
        """
        own = torch.stack([self.signs(self.width, "mixing", *key) for key in keys])
        common = self.signs(self.width, "mixing")
        return hadamard(hadamard(z * own) * common)

    def sketch_rows(self, parts: list[tuple[Tensor, tuple[str, ...], float]], n: int) -> Tensor:
        """Spread several attributes of each row and leave, fused: the same bits, on the host.

        Args:
            parts: (rows (n, m), key, what the rows are divided by), in the order of addition.
            n: rows.

        Returns:
            (n, dim).
        """
        blocks = []
        for rows, key, scale in parts:
            held = rows.detach().contiguous().numpy()
            for block, start in enumerate(range(0, held.shape[1], self.width)):
                stop = min(start + self.width, held.shape[1])
                p = next_power_of_two(stop - start)
                blocks.append(
                    fused.Block(held, start, stop, p, last_stride(p), self._places(p, *key, block),
                                self.signs(self.width, "attribute", *key, block).numpy(),
                                np.float32(self._share(p) / scale))
                )  # fmt: skip
        gain, threads = math.sqrt(self.width / self.dim), torch.get_num_threads()
        kept = self._rows.numpy()
        return torch.from_numpy(fused.sketch_rows(blocks, n, self.width, kept, gain, threads))

    def _places(self, p: int, *path: int | str) -> npt.NDArray[np.uint32]:
        """Return (W,) the copies' places as the fused kernel reads them."""
        key = (p, *path)
        if key not in self._fused_places:
            whole = p == self.width
            places = np.arange(p) if whole else self._copies(p, *path).numpy()
            self._fused_places[key] = places.astype(np.uint32)
        return self._fused_places[key]

    def _share(self, p: int) -> float:
        """Coefficient that makes the columns of an attribute operator of norm one."""
        return float((self.width / p * min(p, GROUP)) ** -0.5)

    def leave(self, z: Tensor) -> Tensor:
        """Take (n, W) from the working space to the (n, dim) sketch."""
        if self.family != "hadamard":
            return z[:, : self.dim] * math.sqrt(self.width / self.dim)
        return hadamard(z).index_select(1, self._rows) * math.sqrt(self.width / self.dim)

    def enter(self, sketch: Tensor) -> Tensor:
        """Take (n, d) sketches, or prefixes of them, back to (n, W): the adjoint of ``leave``."""
        full = torch.zeros(len(sketch), self.width, dtype=sketch.dtype, device=self.device)
        full[:, self._rows[: sketch.shape[1]]] = sketch
        return hadamard(full) * math.sqrt(self.width / self.dim)

    def unmix(self, z: Tensor, keys: Sequence[tuple[str, ...]]) -> Tensor:
        """Return R' z for each row, the adjoint (and inverse) of ``mix``."""
        own = torch.stack([self.signs(self.width, "mixing", *key) for key in keys])
        turned: Tensor = hadamard(hadamard(z) * self.signs(self.width, "mixing")) * own
        return turned

    def copies(self, count: int, key: tuple[str, ...]) -> Tensor:
        """Return where an attribute operator puts the copies of each mixed number, with signs.

        Args:
            count: m, numbers of the attribute, at most W.
            key: what the operator belongs to, as in ``spread``.

        Returns:
            (p, W / p) int32 places in the working space; W more where the sign is negative.
        """
        p = next_power_of_two(count)
        order = self._copies(p, *key, 0) if p < self.width else torch.arange(self.width)
        # Copy by copy, the place of each of the p numbers.
        places = order.view(-1, p).argsort(1) + p * torch.arange(self.width // p)[:, None]
        negative = self.signs(self.width, "attribute", *key, 0)[places] < 0
        return (places + self.width * negative).T.to(torch.int32).contiguous()

    def inner(self, count: int) -> Tensor:
        """Return the (m, p) transform that comes before the copies, with the factor for norm 1."""
        p = next_power_of_two(count)
        factor: float = (self.width / p * min(p, GROUP)) ** -0.5
        return _mix(torch.eye(count), p) * factor

    def count_columns(self, modules: tuple[str, ...]) -> Tensor:
        """Return the (len(modules), dim) sign vectors of the modules' counts, not yet scaled."""
        key = ("count columns", *modules)
        if key not in self._signs:
            rows = np.stack([signs(self.dim, self.seed, "count", m) for m in modules])
            self._signs[key] = torch.from_numpy(rows).to(self.device)
        return self._signs[key]


def _mix(x: Tensor, p: int) -> Tensor:
    """Pad rows to p numbers and mix groups of ``GROUP`` numbers that lie p / GROUP apart."""
    n, m = x.shape
    if p == 1:
        return x
    half, rest = p // 2, m - p // 2
    y = torch.empty(n, p, dtype=x.dtype, device=x.device)
    # The first butterfly reads the unpadded row: beyond m everything is zero.
    torch.add(x[:, :rest], x[:, half:], out=y[:, :rest])
    torch.sub(x[:, :rest], x[:, half:], out=y[:, half : half + rest])
    if rest < half:
        y[:, rest:half] = x[:, rest:half]
        y[:, half + rest :] = x[:, rest:half]
    if p <= 2:
        return y
    last = last_stride(p)
    return _butterflies(y.view(n, p, 1), p // 4, last).view(n, p) if p // 4 >= last else y


def _random_order(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Return the numbers 0..count - 1 in the random order of a seed."""
    digest = hashlib.shake_256(seed.to_bytes(8, "little")).digest(8 * count)
    return np.argsort(np.frombuffer(digest, dtype="<u8"), kind="stable")
