"""The infinitely wide twin of a network, and its kernels at any scale."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._linalg import all_finite
from recollect.infinite.evaluation import Inputs, Plan
from recollect.infinite.graph import Graph
from recollect.infinite.states import Kernel
from recollect.infinite.tiles import DiskTiles, Sink, TensorTiles
from recollect.infinite.tiling import (
    Setting,
    check_room,
    compiles,
    compute,
    compute_diagonal,
    tile_size,
)

__all__ = ["Twin"]

FIELDS = ("nngp", "ntk")


class Twin:
    """An infinitely wide network: its kernels in closed form.

    Made by :func:`recollect.infinite.twin`.

    Args:
        lower: builds the graph for inputs of shape (channels, *S).
        arrange: brings a batch into the order (batch, channels, *S).
        constants: the hyper-parameters that are tensors, for their gradients.
        description: shown by ``repr``.
    """

    def __init__(
        self,
        lower: Callable[[tuple[int, ...]], Graph],
        arrange: Callable[[Tensor], Tensor],
        constants: Sequence[Tensor] = (),
        description: str = "network",
    ) -> None:
        self._lower = lower
        self._arrange = arrange
        self.constants = tuple(constants)
        self.description = description
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": {}}

    def __repr__(self) -> str:
        return f"Twin({self.description})"

    def graph(self, shape: tuple[int, ...]) -> Graph:
        """Return the graph for inputs of shape (channels, *S)."""
        if shape not in self._graphs:
            self._graphs[shape] = self._lower(shape)
        return self._graphs[shape]

    def __call__(self, x1: Tensor, x2: Tensor | None = None, **options: Any) -> Kernel:
        """Return :meth:`kernel`."""
        return self.kernel(x1, x2, **options)

    def kernel(
        self,
        x1: Tensor,
        x2: Tensor | None = None,
        get: str | Sequence[str] = FIELDS,
        *,
        diagonal: bool = False,
        positions: str = "pairs",
        mask1: Tensor | None = None,
        mask2: Tensor | None = None,
        pattern1: Tensor | None = None,
        pattern2: Tensor | None = None,
        tile: int | tuple[int, int] | None = None,
        progress: bool = False,
        path: str | os.PathLike[str] | None = None,
    ) -> Kernel:
        """Return the kernels between two sets of inputs.

        Args:
            x1: (n1, ...), shaped as the module takes it; floating point.
            x2: (n2, ...); None: x1 with itself, of which only one half is computed.
            get: ``"nngp"``, ``"ntk"`` or both.
            diagonal: only pairs (i, i): kernels of shape (n1,), x2 must be None.
            positions: if the network ends with positions: ``"pairs"`` for (n1, n2, H, H, W, W),
                ``"equal"`` for (n1, n2, H, W).
            mask1: visible positions of x1, (n1, *S), boolean; None: all.
            mask2: the same of x2.
            pattern1: graphs of x1 for ``Aggregate``, (n1, V, V) or edges (n1, E, 2).
            pattern2: the same of x2.
            tile: rows, or (rows, columns), computed at a time; default: what fits the cache.
            progress: show a progress bar.
            path: folder; the kernel is written there tile by tile, and an interrupted call
                with the same arguments goes on where it stopped.

        Returns:
            A :class:`~recollect.infinite.states.Kernel` with ``.nngp`` and ``.ntk``.

        Raises:
            TypeError: if inputs are not floating-point tensors, or of different dtypes.
            ValueError: if shapes do not fit, or numbers are not finite.
            MemoryError: if a tile cannot fit; the message says which would.

        Example:
            >>> from recollect import infinite
            >>> net = infinite.Serial(infinite.Dense(weight_std=2**0.5), infinite.Relu(),
            ...                       infinite.Dense())
            >>> k = infinite.twin(net).kernel(torch.eye(2))
            >>> k.nngp.shape, round(float(k.nngp[0, 0]), 4), round(float(k.nngp[0, 1]), 4)
            (torch.Size([2, 2]), 0.5, 0.1592)
        """
        wanted = _fields(get)
        if diagonal and x2 is not None:
            raise ValueError("diagonal=True is for one set of inputs; leave x2 out")
        one = self._inputs(x1, mask1, pattern1, "x1")
        two = one if x2 is None else self._inputs(x2, mask2, pattern2, "x2")
        if x2 is None and (mask2 is not None or pattern2 is not None):
            raise ValueError("mask2 and pattern2 belong to x2, which is missing")
        _check_pair(one, two)
        if positions not in ("pairs", "equal"):
            raise ValueError(f"positions must be 'pairs' or 'equal', got {positions!r}")
        graph = self.graph(tuple(one.x.shape[1:]))
        if graph.flattens_input and one.mask is None and one.pattern is None:
            graph, alone = graph.flattened(), two is one
            one = replace(one, x=one.x.flatten(1))
            two = one if alone else replace(two, x=two.x.flatten(1))
        plan = Plan.of(graph, full=positions == "pairs")
        setting = Setting(plan, "ntk" in wanted, x2 is None)
        grad = torch.is_grad_enabled() and (
            any(t.requires_grad for t in (*self.constants, one.x, two.x))
        )
        with torch.set_grad_enabled(grad):
            setting = replace(setting, wide=plan.wants_float64(one))
            if diagonal:
                return compute_diagonal(setting, one, wanted)
            shape = (
                len(one),
                len(two),
                *_zipped(graph.nodes[graph.output].places, positions == "pairs"),
            )
            compiled = not grad and not setting.wide and compiles(plan, one, two)
            setting = replace(setting, compiled=compiled)
            if tile is None and path is not None:
                tile = DiskTiles.tile_of(Path(path))
            rows, columns = tile_size(tile, plan, one, two)
            sink: Sink
            if path is not None:
                names = (_fingerprint(graph, self.constants), repr(wanted), positions)
                sink = DiskTiles(Path(path), shape, wanted, (rows, columns), one, two, names)
            else:
                check_room(shape, wanted, one.x, (rows, columns))
                sink = TensorTiles(shape, wanted, one.x, grad=grad, pairs=positions == "pairs")
            compute(setting, one, two, (rows, columns), sink, progress=progress)
            return sink.result()

    def _inputs(self, x: Tensor, mask: Tensor | None, pattern: Tensor | None, name: str) -> Inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(
                f"{name} must hold floating-point numbers, got {x.dtype}; use .float()"
            )
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if x.ndim < 2:
            raise ValueError(
                f"{name} must be a batch of shape (n, channels, ...), got {tuple(x.shape)}"
            )
        x = self._arrange(x)
        if not all_finite(x):
            raise ValueError(f"{name} holds NaN or infinite numbers")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(x), *x.shape[2:])):
            raise ValueError(
                f"the mask of {name} must be boolean of shape {(len(x), *x.shape[2:])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if pattern is not None:
            pattern = _dense_pattern(pattern, x)
        if mask is not None:
            x = x * mask[:, None]
        return Inputs(x, mask, pattern)


def _dense_pattern(pattern: Tensor, x: Tensor) -> Tensor:
    """Turn padded edge lists (n, E, 2) into matrices (n, V, V); leave matrices alone."""
    count = x.shape[2]
    if pattern.shape == (len(x), count, count) and pattern.is_floating_point():
        return pattern.to(x.dtype)
    if pattern.ndim != 3 or pattern.shape[0] != len(x) or pattern.shape[2] != 2:
        raise ValueError(
            f"graphs must be floating (n, V, V) = {(len(x), count, count)} or integer edges "
            f"(n, E, 2), got {pattern.dtype} {tuple(pattern.shape)}"
        )
    out = x.new_zeros(len(x), count, count)
    kept = (pattern >= 0).all(-1)
    batch = torch.arange(len(x), device=x.device)[:, None].expand_as(kept)
    out.index_put_(
        (batch[kept], pattern[..., 0][kept], pattern[..., 1][kept]),
        x.new_ones(()),
        accumulate=True,
    )
    return out


def _fields(get: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (get,) if isinstance(get, str) else tuple(get)
    for name in wanted:
        if name not in FIELDS:
            raise ValueError(f"get must be 'nngp', 'ntk' or both, got {name!r}")
    if not wanted:
        raise ValueError("get must be 'nngp', 'ntk' or both, got nothing")
    return wanted


def _check_pair(one: Inputs, two: Inputs) -> None:
    if one.x.dtype != two.x.dtype or one.x.device != two.x.device:
        raise TypeError(
            f"x1 and x2 must share dtype and device, got {one.x.dtype} on {one.x.device} and "
            f"{two.x.dtype} on {two.x.device}"
        )
    if one.x.shape[1] != two.x.shape[1]:
        raise ValueError(
            f"x1 and x2 must have equal channels, got {one.x.shape[1]} and {two.x.shape[1]}"
        )
    if one.x.shape[2:] != two.x.shape[2:]:
        raise ValueError(
            f"x1 and x2 must have equal positions, got {tuple(one.x.shape[2:])} and "
            f"{tuple(two.x.shape[2:])}"
        )
    if (one.mask is None) != (two.mask is None):
        raise ValueError("give masks for both x1 and x2, or for neither")


def _zipped(places: tuple[int, ...], pairs: bool) -> tuple[int, ...]:
    return tuple(n for p in places for n in ((p, p) if pairs else (p,)))


def _fingerprint(graph: Graph, constants: Sequence[Tensor]) -> str:
    """Return a digest of all layers, their numbers and how they are joined."""
    digest = hashlib.sha256()
    for node in graph.nodes:
        # Functions are known by name: their addresses change from run to run.
        described = re.sub(r" at 0x[0-9a-f]+", "", repr(node.layer))
        digest.update(f"{described} {node.inputs} {node.places}\n".encode())
    for constant in constants:
        digest.update(np.ascontiguousarray(constant.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def tensors_in(thing: Any) -> list[Tensor]:
    """Collect the tensors among the fields of a layer that want gradients."""
    if not dataclasses.is_dataclass(thing):
        return []
    values = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    return [v for v in values if isinstance(v, Tensor) and v.requires_grad]
