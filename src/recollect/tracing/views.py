"""Views: how the outputs of watched modules become objects.

A view chooses the modules, turns each output into attribute vectors inside the hook, and may add
objects of its own when the forward is over. ``ModulesView`` is the default: one object per call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recollect.tracing.choosing import Modules, choose_modules, choose_nested
from recollect.tracing.columns import Trace
from recollect.tracing.folding import Layout, Reduce, reduction, tensors
from recollect.tracing.linking import Link

__all__ = ["Call", "ModulesView", "Piece", "Run", "View"]


@dataclass(slots=True)
class Call:
    """One call of a watched module in one forward.

    Attributes:
        name: name of the module, ``name#1`` from the second call on.
        parent: number of the call around it, -1 for none.
        depth: 0 for a call inside no other watched call.
    """

    name: str
    parent: int = -1
    depth: int = 0


@dataclass(slots=True)
class Piece:
    """The objects that came of one output, all glances together.

    Attributes:
        name: family name.
        attributes: (B k, m), glance by glance, the k members in order; any (n, m) with ``glance``.
        members: names of the members; None: the family is the module.
        call: number of the call it came from, -1 for none.
        glance: (n,) int64 glance numbers where the objects are not one per member and glance.
        member: (n,) int64 likewise.
        weight: (n,) weights; None: all one.
        reads: for each row the names of the stages that it refers to; None: no references.
    """

    name: str
    attributes: Tensor
    members: tuple[str, ...] | None = None
    call: int = -1
    glance: Any = None
    member: Any = None
    weight: Any = None
    reads: list[tuple[str, ...]] | None = None


@dataclass(slots=True)
class Run:
    """One forward of the network, as it is recorded."""

    layout: Layout
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    stack: list[int] = field(default_factory=list)
    built: Trace | None = None  # by a view that puts glances together itself
    notes: list[str] = field(default_factory=list)  # for the coverage
    no_tensor: set[str] = field(default_factory=set)
    not_folded: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)

    @property
    def batch(self) -> int:
        """Glances in the forward."""
        return self.layout.batch

    def enter(self, name: str) -> int:
        """Number a call that begins."""
        times = self.times.get(name, 0)
        self.times[name] = times + 1
        parent = self.stack[-1] if self.stack else -1
        depth = self.calls[parent].depth + 1 if self.stack else 0
        self.calls.append(Call(f"{name}#{times}" if times else name, parent, depth))
        return len(self.calls) - 1

    def leave(self, name: str) -> int:
        """Return the number of the call that ends; calls inside it that failed are dropped."""
        call = self.stack.pop()
        while self.calls[call].name.split("#")[0] != name:
            call = self.stack.pop()
        return call


class View:
    """What a view must do: ``choose`` modules and ``see`` outputs; it may ``conclude``.

    Objects stand under the output unless a ``Link`` of the run leads to them.
    """

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the modules to hook, by name."""
        return (
            choose_nested(model) if nested and modules is None else choose_modules(model, modules)
        )

    def attach(self, module: nn.Module, leave: Any) -> Any:
        """Have ``leave(module, args, output)`` called after each call; its handle can ``remove``.

        A view that must not disturb a network's fast paths, which hooks do, listens otherwise.
        """
        return module.register_forward_hook(leave)

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Reduce what a module put out, inside its hook, and add the pieces to the run."""
        found, _ = tensors(output)
        name = run.calls[call].name
        if not found:
            run.no_tensor.add(name)
        for place, t in enumerate(found):
            piece = self.piece(name if place == 0 else f"{name}[{place}]", t, run.layout, module)
            if piece is None:
                run.not_folded.append((name, tuple(t.shape)))
            else:
                piece.call = call
                run.pieces.append(piece)

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return the objects of one output, None if it cannot be divided by the batch."""
        raise NotImplementedError

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Add objects that need the network's output."""


class ModulesView(View):
    """One object per call: channel means of maps, token means of sequences, vectors as they are.

    Args:
        reduce: ``"mean"``, ``"max"``, ``"std"``, several of them (joined), or a function from a
            module's output (B, ...) to (B, m).
    """

    def __init__(self, reduce: Reduce = "mean") -> None:
        self._own = reduce if callable(reduce) else None
        self._reduce = None if callable(reduce) else reduction(reduce)

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return one object per glance."""
        if self._own is not None:
            return Piece(name, _checked(name, self._own(t), layout.batch))
        rows = layout.fold(t, module)
        if rows is None:
            return None
        if rows.dim() == 3:
            assert self._reduce is not None
            rows = self._reduce(rows)
        else:
            rows = rows.clone()  # a view would hold, and could later show, the network's memory
        return Piece(name, rows if rows.dtype == torch.float32 else rows.float())


def _checked(name: str, rows: Any, batch: int) -> Tensor:
    """Return what a user's reduction gave, if it is one row per glance."""
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != batch:
        got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"reduce must return a tensor of shape ({batch}, numbers) for module {name!r}, "
            f"got {got}"
        )
    return rows.detach().to(torch.float32, copy=True)  # it may be a view of the whole output
