"""Capsules as objects, made from the capsules below that were routed to them.

Shape letters: B glances, I capsules below, J capsules of a layer, d and D numbers of a pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recollect._checks import check_integer
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, tensors
from recollect.tracing.views import Piece, Run, View
from recollect.tracing.weighing import Weighed, add_weighed

__all__ = ["CapsulesView"]

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


class CapsulesView(View):
    """One object per active capsule: attribute = its pose, inputs = the capsules routed to it.

    Capsule ``j`` of the layer ``digits`` is a member ``digits/j`` of the family ``digits``: its
    attribute is the pose (D numbers), its weight the pose's length, which is how sure the layer is
    that the thing is there. With routing coefficients ``c_ij``, the capsule below ``i`` is an
    input of weight ``c_ij / sum_i c_ij``: the ``parts`` heaviest one by one (module
    ``digits/j/part``, attribute its pose), all others as one (``digits/j/rest``: their weighted
    mean), so that the weights of a capsule's inputs sum to one.

    The layer takes poses (B, I, d) and returns poses (B, J, D); of what else it returns, the
    coefficients (B, I, J) are taken, else the last softmax in its ``forward`` with axes of these
    sizes, as dynamic routing computes them.

    Args:
        top: how many capsules of a glance are kept at most, the longest first.
        least: a capsule is kept only with this length or more (the longest always).
        parts: how many capsules below are kept of each.
        labels: names of the capsules; None: their numbers.

    Raises:
        ValueError: if ``least`` is negative, no layer is a capsule layer, or its coefficients are
            not found.

    Example:
        >>> from recollect import trace
        >>> class Digits(nn.Module):
        ...     def forward(self, u):  # (B, I, d), one pass of routing
        ...         votes = u[:, :, None].expand(-1, -1, 2, -1)  # (B, I, J, D)
        ...         c = votes.sum(3).softmax(2)
        ...         return (c[..., None] * votes).mean(1)
        >>> t = trace(nn.Sequential(Digits()), torch.rand(3, 9, 4), view="capsules", modules="0",
        ...           parts=2)
        >>> t, t.objects("0/1").attributes.shape
        (Trace(3 glances, 6 modules, 24 objects), torch.Size([3, 4]))
    """

    def __init__(
        self,
        top: int = 3,
        least: float = 0.0,
        parts: int = 4,
        labels: Sequence[str] | None = None,
    ) -> None:
        self._top = check_integer("top", top, minimum=1)
        self._parts = check_integer("parts", parts, minimum=1)
        if not least >= 0:
            raise ValueError(f"least must be a length, 0 or more, got {least}")
        self._least = least
        self._labels = None if labels is None else tuple(labels)

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the innermost modules called capsules that are no first layer of them."""
        if modules is not None:
            return choose_modules(model, modules)
        found = {n: m for n, m in model.named_modules() if n and _is_capsules(m)}
        if not found:
            raise ValueError(
                f'view="capsules" needs a capsule network, {type(model).__name__} has no module '
                "with 'caps' in the name of its class (beside primary ones); name the layers that "
                "take poses (batch, capsules below, numbers) and route with modules="
            )
        return found

    def attach(self, module: nn.Module, leave: Any) -> Any:
        """Note the softmaxes inside the layer's forward."""
        return _Listener(module, leave)

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects come of poses and coefficients."""
        return None

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Turn the capsules of one call into objects."""
        name = run.calls[call].name
        below, above = _poses(name, args.given, output, run.batch)
        share = _coefficients(name, args, output, (run.batch, below.shape[1], above.shape[1]))
        share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
        length = above.norm(dim=2)  # (B, J)
        kept = length >= self._least
        best = length.topk(min(self._top, length.shape[1]), 1).indices
        listed = torch.zeros_like(kept).scatter(1, best, True) & kept
        listed = listed.scatter(1, best[:, :1], True)
        which = listed[:, None].cpu().numpy()  # (B, 1, J)
        count = above.shape[1]
        labels = self._labels or tuple(map(str, range(count)))
        if len(labels) != count:
            raise ValueError(f"{name!r} has {count} capsules, but {len(labels)} labels are given")
        add_weighed(
            Weighed(run, name, [f"{name}/{label}" for label in labels], which),
            above[:, :, None],
            share.transpose(1, 2)[:, :, None],  # (B, J, 1, I)
            below[:, None].expand(-1, count, -1, -1),
            self._parts,
            importance=length[:, :, None],
            words=("part", "rest"),
        )


@dataclass
class _Heard:
    """What a layer was given, and the softmaxes inside it with their axes."""

    given: Any
    soft: list[tuple[Tensor, int]]


class _Listener:
    """Runs a module's own forward and notes its softmaxes, until ``remove``."""

    def __init__(self, module: nn.Module, leave: Any) -> None:
        self._module, self._own = module, module.__dict__.get("forward")
        forward = module.forward

        def listening(*args: Any, **kwargs: Any) -> Any:
            notes = _Softmaxes()
            with notes:
                output = forward(*args, **kwargs)
            leave(module, _Heard((args, kwargs), notes.found), output)
            return output

        module.__dict__["forward"] = listening

    def remove(self) -> None:
        """Put the module's own forward back."""
        if self._own is None:
            del self._module.__dict__["forward"]
        else:
            self._module.__dict__["forward"] = self._own


class _Softmaxes(TorchFunctionMode):
    """Notes every softmax while it is entered, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _SOFTMAX:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            self.found.append((output.detach(), int(dim)))
        return output


def _is_capsules(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    below = (type(m).__name__.lower() for m in module.modules() if m is not module)
    return "caps" in name and "primary" not in name and not any("caps" in n for n in below)


def _poses(name: str, given: Any, output: Any, batch: int) -> tuple[Tensor, Tensor]:
    """Return the poses below (B, I, d) and above (B, J, D)."""
    below = [t for t in tensors(given)[0] if t.dim() == 3 and len(t) == batch]
    above = [t.squeeze(-1) if t.dim() == 4 else t for t in tensors(output)[0] if len(t) == batch]
    above = [t for t in above if t.dim() == 3]
    if not below or not above:
        raise ValueError(
            f'view="capsules": {name!r} must take poses (batch, capsules, numbers) and return '
            f"such; it took {[tuple(t.shape) for t in tensors(given)[0]]} and returned "
            f"{[tuple(t.shape) for t in tensors(output)[0]]}"
        )
    return below[0].float(), above[0].float()


def _coefficients(name: str, heard: _Heard, output: Any, shape: tuple[int, int, int]) -> Tensor:
    """Return the routing coefficients (B, I, J): returned by the layer, else its last softmax."""
    for t in tensors(output)[0][1:]:
        if t.shape == shape:
            return t.float().clamp_min(0)
    for soft, dim in reversed(heard.soft):
        found = _laid_out(soft, dim % soft.dim(), shape)
        if found is not None:
            return found.float()
    raise ValueError(
        f'view="capsules" found no routing coefficients in {name!r}: return them beside the poses '
        f"(a tensor {shape}: batch, capsules below, capsules), or compute them with one softmax "
        "over the capsules"
    )


def _laid_out(soft: Tensor, dim: int, shape: tuple[int, int, int]) -> Tensor | None:
    """Return a softmax as (B, I, J), J being the axis that sums to one; None if it is none."""
    batch, below, above = shape
    if soft.shape[dim] != above:
        return None
    rest = soft.movedim(dim, -1)
    sizes = [n for n in rest.shape[:-1] if n != 1]
    if sizes not in ([batch, below], [below]) and not (batch == 1 and sizes == [below]):
        return None
    return rest.reshape(-1, below, above).expand(shape)
