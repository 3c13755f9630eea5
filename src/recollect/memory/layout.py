"""The folder of a memory: which file holds what, and how a file is written safely.

::

    room.recollect/
      meta.json         format version, recipe, timezone, options, retention policy
      modules.json      the module table; grows
      skeletons.bin     distinct skeletons, one after another; grows
      glances.lance/    one row per glance: id, time, source, labels, skeleton, sketch in tiers
      forgotten/        what roll-ups hold of faded glances, if any; as precious as the rows
      rollups/          hours.npz and one file of sketch sums per month; derived, repaired
      reservoir/        whole records of a sample of the glances
      priors/           prior-0001.npz, ...
      lock              held by the one writer
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recollect._checks import CorruptMemory

__all__ = ["Folder", "Moved", "disk_errors", "size_of"]

_TEMPORARY = ".part"
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Moved(OSError):
    """The version that is being read was removed by a writer; a newer one can be read."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell a full disk plainly.

    Raises:
        OSError: saying that nothing of the call was stored.
    """
    try:
        yield
    except CorruptMemory:
        raise
    except (OSError, RuntimeError) as error:
        text = str(error)
        full = getattr(error, "errno", None) in _NO_ROOM or any(
            sign in text
            for sign in ("No space left", "File too large", "os error 28", "os error 27")
        )
        if not full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk has no room for {path}: nothing of this call was stored, all glances from "
            "before are safe; make room and call again",
        ) from error


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


class Folder:
    """A memory's folder; writes whole files or none.

    Args:
        path: the folder.
        power: whether every written file is flushed to the disk (safe against power loss).
    """

    def __init__(self, path: Path, power: bool = False) -> None:
        self.path = path
        self.power = power
        self._flushed: set[Path] = set()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, fill: Callable[[BinaryIO], None]) -> None:
        """Write a file under a temporary name and rename it, so that it is whole or absent."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + _TEMPORARY)
        try:
            with partial.open("wb") as file:
                fill(file)
                file.flush()
                if self.power:
                    os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if self.power:
            _flush(target.parent)
            _flush(self.path)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        self.write(name, lambda file: void(file.write(text.encode())))

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write named arrays as an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        self.write(name, lambda file: void(file.write(buffer.getbuffer())))

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            CorruptMemory: if it is missing or no JSON.
        """
        path = self.path / name
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise CorruptMemory(f"{path} is missing; the memory lost this file") from error
        except ValueError as error:
            raise CorruptMemory(f"{path} is damaged: it is no JSON ({error})") from error

    def flush_new(self, name: str) -> None:
        """Flush the files below a folder that were not flushed before, then their folders."""
        if not self.power:
            return
        folders: set[Path] = set()
        for root, _, files in os.walk(self.path / name):
            for file in files:
                path = Path(root, file)
                if path not in self._flushed:
                    _flush(path)
                    self._flushed.add(path)
                    folders |= {Path(root), *Path(root).parents}
        for folder in folders:
            if folder == self.path or self.path in folder.parents:
                _flush(folder)

    def remove_partial(self) -> None:
        """Remove what an interrupted writer left half-written."""
        for path in self.path.rglob("*" + _TEMPORARY):
            path.unlink(missing_ok=True)


def void(_: object) -> None:
    """Drop a value."""


def _flush(path: Path) -> None:
    """Ask the operating system to put a file or folder on the disk now."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
