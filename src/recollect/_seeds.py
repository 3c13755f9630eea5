"""Seeds are hashed paths, so that no two roles can share randomness by accident of arithmetic.

Adding offsets to a seed makes ``seed + 1000 * block`` collide with another seed sooner or later.
Here a path such as ``(7, "attribute", "layer1.conv")`` is hashed whole; the bytes come from
SHAKE-256 and therefore never change with a library's or a device's version.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["seed_of", "signs"]


def _message(path: tuple[int | str, ...]) -> bytes:
    """Encode a path unambiguously: each part carries its type and its length."""
    parts = []
    for part in path:
        if isinstance(part, str):
            kind, text = b"s", part.encode("utf-8", "surrogatepass")
        elif hasattr(part, "__index__") and not isinstance(part, bool | np.bool_):
            # A NumPy integer is the same number, hence the same seed.
            kind, text = b"i", str(int(part.__index__())).encode()
        else:
            raise TypeError(f"a seed path is made of integers and strings, got {part!r}")
        parts.append(kind + len(text).to_bytes(4, "little") + text)
    return b"".join(parts)


def seed_of(*path: int | str) -> int:
    """Return the 63-bit seed of a path, for a generator of any library.

    Raises:
        TypeError: if a part is neither an integer nor a string.

    >>> seed_of(0, "a") == seed_of(0, "a"), seed_of(0, "a") == seed_of(1, "a")
    (True, False)
    """
    digest = hashlib.shake_256(_message(path)).digest(8)
    return int.from_bytes(digest, "little") >> 1


def signs(count: int, *path: int | str) -> npt.NDArray[np.float32]:
    """Return ``count`` random signs, shape (count,), each -1 or +1, determined by the path.

    >>> signs(6, 0, "attribute", "cat").tolist()
    [-1.0, -1.0, -1.0, -1.0, 1.0, -1.0]
    """
    digest = hashlib.shake_256(_message(path)).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8), count=count)
    return (1.0 - 2.0 * bits).astype(np.float32)
