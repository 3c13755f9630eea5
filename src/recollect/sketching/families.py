"""Families of random operators: what the columns of an attribute's operator are drawn from.

An operator of a family is a (W, m) matrix R of independent draws, one for each seed path, that
keeps inner products (``<R u, R v> ~ <u, v>``) and makes different paths strangers to each other
(``<R u, S v> ~ 0``), both up to about ``1 / sqrt(W)``:

* ``"hadamard"``: two rounds of signs and Hadamard transforms, exactly orthonormal columns,
  nothing stored (``operators.Operators``; the default, and the only one that is fast).
* ``"orthogonal"``: the first m columns of a uniformly random rotation: dense, orthonormal.
* ``"gaussian"``: independent normal numbers of variance 1 / W: dense, orthonormal on average.
* ``"block-sparse"``: the published signature mode. The W rows are cut into blocks of 32; each
  column reaches a quarter of the blocks, and there it is a word of signs that carries its own
  name: a one, random signs, the signature of the operator, the number of the column, all times
  one more sign. ``read_words`` reads the names again.

Two things differ from the published block-sparse family. Each column reaches the same number of
blocks, drawn at random: none is lost (with a coin for each block a column is empty with
probability ``(1 - q)^(W / b)``) and all have norm one. And names are written in a code that the
word's random signs choose: written plainly, the words of one operator would be nearly alike, and
its columns twice to four times as much in each other's way as random ones.

Dense families are for conformance and study: a column takes W numbers to store, and their bits
may differ in the last place between processors. All bits of randomness come from SHAKE-256.

Reference: "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, ICML 2019);
the block-sparse words are our reconstruction.

Shape letters: W working width, m columns, b = 32 numbers in a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of

__all__ = ["BLOCK", "columns", "read_words", "signature"]

FloatArray = npt.NDArray[np.float32]

# Numbers in a word: a fixed one, random signs, the operator's signature, the column's number.
BLOCK, NAME_BITS, PLACE_BITS = 32, 12, 12
RANDOM_BITS = BLOCK - 1 - NAME_BITS - PLACE_BITS
# Share of the blocks that a column reaches.
SHARE = 0.25


def columns(family: str, size: int, width: int, *path: int | str) -> FloatArray:
    """Return the columns of one operator, as rows.

    Args:
        family: ``"orthogonal"``, ``"gaussian"`` or ``"block-sparse"``.
        size: m, at most W.
        width: W, a multiple of 32 for ``"block-sparse"``.
        path: seed path of the operator.

    Returns:
        (m, W) float32.

    Raises:
        ValueError: if there are more columns than rows.

    Example:
        >>> r = columns("orthogonal", 3, 64, 0, "attribute", "cat")
        >>> abs(r @ r.T).round(5).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if size > width:
        raise ValueError(
            f"an operator of {width} rows has at most {width} columns, asked for {size}; cut the "
            "attribute into blocks with operators of their own"
        )
    made = _FAMILIES[family](size, width, path)
    return np.ascontiguousarray(made, dtype=np.float32)


def signature(*path: int | str) -> FloatArray:
    """Return the (12,) signs that name a block-sparse operator in all words of its columns."""
    return _bits(seed_of("signature", *path), NAME_BITS)


def _gaussian(size: int, width: int, path: tuple[int | str, ...]) -> npt.NDArray[np.float64]:
    """Independent normal numbers of variance 1 / W, by the transform of Box and Muller."""
    half = (size * width + 1) // 2
    digest = hashlib.shake_256(seed_of(*path).to_bytes(8, "little")).digest(16 * half)
    uniform = (np.frombuffer(digest, dtype="<u8") >> 11) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[:half]))
    angle = 2 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: size * width]
    scaled: npt.NDArray[np.float64] = normal.reshape(size, width) / width**0.5
    return scaled


def _orthogonal(size: int, width: int, path: tuple[int | str, ...]) -> npt.NDArray[np.float64]:
    """Orthonormal columns, uniform over all such: the turned columns of a Gaussian matrix."""
    q, r = np.linalg.qr(_gaussian(size, width, path).T)
    turned: npt.NDArray[np.float64] = (q * np.sign(np.diagonal(r))).T
    return turned


def _block_sparse(size: int, width: int, path: tuple[int | str, ...]) -> FloatArray:
    """Words of signs in a quarter of the blocks, each with the operator's and its own name."""
    blocks = width // BLOCK
    reached = max(1, round(SHARE * blocks))
    seed = seed_of(*path)
    digest = hashlib.shake_256(seed.to_bytes(8, "little") + b"places").digest(4 * size * blocks)
    draws = np.frombuffer(digest, dtype="<u4").reshape(size, blocks)
    there = np.zeros((size, blocks, 1), dtype=np.float32)
    chosen = np.argsort(draws, axis=1, kind="stable")[:, :reached]
    np.put_along_axis(there[:, :, 0], chosen, 1.0, axis=1)
    random = _bits(seed, size * blocks * (1 + RANDOM_BITS)).reshape(size, blocks, -1)
    place = np.arange(size)[:, None] >> np.arange(PLACE_BITS - 1, -1, -1) & 1
    name = np.concatenate(
        [np.broadcast_to(signature(*path), (size, NAME_BITS)), 2 * place - 1], axis=1
    )
    words = np.concatenate(
        [
            np.ones_like(random[:, :, :1]),
            random[:, :, 1:],
            name[:, None] * _codes()[_number(random[:, :, 1:])],
        ],
        axis=2,
    )
    # The first of the random signs is the sign of the whole word.
    signed = words * random[:, :, :1] * there * np.float32((reached * BLOCK) ** -0.5)
    return signed.reshape(size, blocks * BLOCK)


def read_words(words: npt.NDArray[np.floating]) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Read the names in blocks that one block-sparse column alone reaches.

    Args:
        words: (n, 32) blocks of a sketch, of any amplitude and sign.

    Returns:
        The (n, 12) signs of the operators' signatures and the (n,) numbers of the columns.

    Raises:
        ValueError: if the blocks are not of 32 numbers.

    Example:
        >>> column = columns("block-sparse", 7, 256, 0, "attribute", "cat")[5].reshape(-1, 32)
        >>> signs, place = read_words(-0.3 * column[(column != 0).any(1)])
        >>> place.tolist(), bool((signs == signature(0, "attribute", "cat")).all())
        ([5, 5], True)
    """
    if words.ndim != 2 or words.shape[1] != BLOCK:
        raise ValueError(f"words are blocks of {BLOCK} numbers, got shape {words.shape}")
    signs = np.where(words * np.sign(words[:, :1]) < 0, -1, 1).astype(np.float32)
    name = signs[:, 1 + RANDOM_BITS :] * _codes()[_number(signs[:, 1 : 1 + RANDOM_BITS])]
    return name[:, :NAME_BITS], _number(name[:, NAME_BITS:])


def _number(signs: FloatArray) -> npt.NDArray[np.int64]:
    """Return the whole number that the last axis writes in signs, the largest power first."""
    powers = 1 << np.arange(signs.shape[-1] - 1, -1, -1)
    number: npt.NDArray[np.int64] = (signs > 0).astype(np.int64) @ powers
    return number


@lru_cache(maxsize=1)
def _codes() -> FloatArray:
    """Return the (128, 24) signs in which names are written, one row for all random signs."""
    count = NAME_BITS + PLACE_BITS
    return _bits(seed_of("codes of names"), count << RANDOM_BITS).reshape(-1, count)


_FAMILIES: dict[str, Callable[[int, int, tuple[int | str, ...]], npt.NDArray[np.floating]]] = {
    "block-sparse": _block_sparse,
    "gaussian": _gaussian,
    "orthogonal": _orthogonal,
}


def _bits(seed: int, count: int) -> FloatArray:
    """Return (count,) random signs of a seed."""
    digest = hashlib.shake_256(seed.to_bytes(8, "little")).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8), count=count)
    return (2.0 * bits - 1).astype(np.float32)
