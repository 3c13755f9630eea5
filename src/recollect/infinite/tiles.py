"""Where finished tiles of a kernel go: into memory, or onto disk to be continued later."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect.infinite.evaluation import Inputs
from recollect.infinite.states import Kernel

__all__ = ["DiskTiles", "Sink", "TensorTiles"]


def _mirrored(value: Tensor) -> Tensor:
    """Exchange the two inputs: (n1, n2, H, H', ...) -> (n2, n1, H', H, ...)."""
    axes = [1, 0]
    for d in range(2, value.ndim, 2):
        axes += [d + 1, d]
    return value.permute(*axes)


def _bytes(t: Tensor) -> bytes:
    return np.ascontiguousarray(t.detach().cpu().numpy()).tobytes()


def _open(path: Path, dtype: Any, shape: tuple[int, ...], *, fresh: bool) -> Any:
    """Create a memory-mapped array, or open one for going on."""
    if not fresh:
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


class Sink(ABC):
    """Takes tiles by the place of their first row and column."""

    def done(self, row: int, column: int) -> bool:
        """Say whether a tile is there already."""
        return False

    @abstractmethod
    def put(self, values: dict[str, Tensor], row: int, column: int, *, mirror: bool) -> None:
        """Store a tile, and its mirror image below the diagonal if asked."""

    @abstractmethod
    def result(self) -> Kernel:
        """Return the whole kernel."""


class TensorTiles(Sink):
    """Tiles in memory; with gradients they are joined instead of written in place."""

    def __init__(
        self,
        shape: tuple[int, ...],
        wanted: tuple[str, ...],
        like: Tensor,
        *,
        grad: bool,
        pairs: bool,
    ) -> None:
        self.wanted, self.pairs = wanted, pairs
        self.outs = {name: like.new_empty(shape) for name in wanted}
        self.grad = grad

    def put(self, values: dict[str, Tensor], row: int, column: int, *, mirror: bool) -> None:
        """Write a tile and its mirror image."""
        for name in self.wanted:
            value = values[name]
            if self.grad and self.outs[name].shape[:2] == value.shape[:2]:
                self.outs[name] = value
                continue
            out = self.outs[name]
            n1, n2 = value.shape[:2]
            if mirror:  # first, so that a tile across the diagonal keeps what it computed
                flipped = _mirrored(value) if self.pairs else value.transpose(0, 1)
                out[column : column + n2, row : row + n1] = flipped
            out[row : row + n1, column : column + n2] = value

    def result(self) -> Kernel:
        """Return the tensors."""
        return Kernel(**self.outs)


class DiskTiles(Sink):
    """Tiles in memory-mapped NumPy files of one folder: ``nngp.npy``, ``ntk.npy``, ``done.npy``.

    Raises:
        ValueError: if the folder holds a kernel of other inputs or another network.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        wanted: tuple[str, ...],
        tile: tuple[int, int],
        one: Inputs,
        two: Inputs,
        names: tuple[str, ...],
    ) -> None:
        if len(shape) != 2:
            raise ValueError(
                "kernels with positions left are not written to disk; pool them first"
            )
        self.tile, self.wanted = tile, wanted
        dtype = np.float64 if one.x.dtype == torch.float64 else np.float32
        digest = hashlib.sha256()
        for held in (one.x, one.mask, one.pattern, two.x, two.mask, two.pattern):
            digest.update(b"none" if held is None else _bytes(held))
        meta: dict[str, Any] = {
            "version": 2,
            "shape": list(shape),
            "tile": list(tile),
            "names": list(names),
            "inputs": digest.hexdigest(),
            "dtype": np.dtype(dtype).name,
        }
        path.mkdir(parents=True, exist_ok=True)
        note = path / "kernel.json"
        fresh = not note.exists()
        if not fresh:
            found = json.loads(note.read_text())
            if found != meta:
                differing = [k for k in meta if found.get(k) != meta[k]]
                raise ValueError(
                    f"{path} holds another kernel (different: {', '.join(differing)}); "
                    "give another folder, or delete this one"
                )
        counts = (-(-shape[0] // tile[0]), -(-shape[1] // tile[1]))
        self.outs = {
            name: _open(path / f"{name}.npy", dtype, shape, fresh=fresh) for name in wanted
        }
        self.marks = _open(path / "done.npy", np.bool_, counts, fresh=fresh)
        if fresh:
            note.write_text(json.dumps(meta))

    @staticmethod
    def tile_of(path: Path) -> tuple[int, int] | None:
        """Return the tile of an earlier call, which a later one must keep; None if fresh."""
        note = path / "kernel.json"
        if not note.exists():
            return None
        rows, columns = json.loads(note.read_text())["tile"]
        return int(rows), int(columns)

    def done(self, row: int, column: int) -> bool:
        """Say whether a tile was written by an earlier call."""
        return bool(self.marks[row // self.tile[0], column // self.tile[1]])

    def put(self, values: dict[str, Tensor], row: int, column: int, *, mirror: bool) -> None:
        """Write a tile, and mark it only after its numbers are on disk."""
        for name in self.wanted:
            value = values[name].detach().cpu().numpy()
            n1, n2 = value.shape
            out = self.outs[name]
            if mirror:
                out[column : column + n2, row : row + n1] = value.T
            out[row : row + n1, column : column + n2] = value
            out.flush()
        self.marks[row // self.tile[0], column // self.tile[1]] = True
        self.marks.flush()

    def result(self) -> Kernel:
        """Return tensors backed by the files."""
        return Kernel(**{name: torch.from_numpy(out) for name, out in self.outs.items()})
