"""One writer at a time: a lock that the operating system frees when its process ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from recollect._checks import MemoryBusy

__all__ = ["WriterLock"]

if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WriterLock:
    """An exclusive lock on a file, held from ``acquire`` to ``release`` or the process's end.

    Args:
        path: the lock file; it stays, only the lock on it comes and goes.
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        self.path = path

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self, wait: float) -> None:
        """Take the lock, waiting up to ``wait`` seconds.

        Raises:
            MemoryBusy: if another writer holds it all that time.
        """
        if self._handle is not None:
            return
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        end = time.monotonic() + wait
        while True:
            try:
                _try(handle)
            except OSError as error:
                if time.monotonic() >= end:
                    os.close(handle)
                    raise MemoryBusy(
                        f"another writer holds {self.path.parent} and did not finish within "
                        f"{wait:g} s; close it (reading needs no lock), or wait longer: "
                        "Memory(..., busy_timeout=60)"
                    ) from error
                time.sleep(0.02)
            else:
                self._handle = handle
                return

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        """A forgotten lock must not keep others waiting."""
        self.release()
