"""Experts of a mixture as modules, weighted by their router.

Shape letters: B glances, T tokens of each, N = B T tokens, E experts, k experts of a token, d
numbers of a token, c chosen tokens of a glance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recollect._checks import check_integer, check_one_of
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, tensors
from recollect.tracing.views import Piece, Run, View

__all__ = ["ExpertsView"]

_ROUTERS = ("gate", "router", "gating", "gate_network", "wg")
_COUNTS = ("top_k", "num_experts_per_tok", "num_selected_experts", "k")


class ExpertsView(View):
    """One object per expert that was asked: weight = the router's, attribute = what it said.

    A block is a module with a child of experts (a ``ModuleList``, or one module whose stacked
    weights hold all of them) and a child that routes. Expert ``e`` of the block ``moe`` is a
    member ``moe/e`` of the family ``moe``. With router weights ``w_te`` (of sum one for each
    token) and outputs ``o_te``, a glance of T tokens holds each asked expert once: its weight is
    the mean of ``w_te`` over tokens, its attribute the mean of ``o_te`` weighted by ``w_te``. So
    the weights of a glance sum to one, and their sum with the attributes is the block's mean
    output.

    What a single expert said is not visible where weights are stacked or tokens are scattered;
    the experts are asked again, each with the tokens that were routed to it.

    Args:
        tokens: ``"mean"`` over all tokens (padding left out), ``"last"``, ``"first"``, or
            ``"all"`` for an object per token and expert.
        attribute: ``"output"``, or ``"input"``: what the experts were given, which costs nothing.
        top: experts per token, where the block does not say; None: its ``top_k`` (or another
            usual name), else every expert whose weight is not zero.
        experts: name of the child that holds the experts.
        router: name of the child that routes; None: ``gate``, ``router`` or another usual name.

    Raises:
        ValueError: if the network has no such block, or its routing cannot be read.

    Example:
        >>> from recollect import trace
        >>> class Mixture(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gate = nn.Linear(4, 3)
        ...         self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        ...     def forward(self, x):
        ...         w = self.gate(x).softmax(1)
        ...         return sum(w[:, [e]] * f(x) for e, f in enumerate(self.experts))
        >>> t = trace(nn.Sequential(Mixture()), torch.randn(5, 4), view="experts")
        >>> t, t.modules
        (Trace(5 glances, 3 modules, 15 objects), ('0/0', '0/1', '0/2'))
    """

    def __init__(
        self,
        tokens: str = "mean",
        attribute: str = "output",
        top: int | None = None,
        experts: str = "experts",
        router: str | None = None,
    ) -> None:
        self._tokens = check_one_of("tokens", tokens, ("mean", "last", "first", "all"))
        self._attribute = check_one_of("attribute", attribute, ("output", "input"))
        self._top = None if top is None else check_integer("top", top, minimum=1)
        self._experts, self._router = experts, router

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the blocks: modules with a child of experts and one that routes."""
        if modules is not None:
            found = choose_modules(model, modules)
            bad = [n for n, m in found.items() if not self._is_block(m)]
            if bad:
                raise ValueError(
                    f'view="experts" needs blocks with a child {self._experts!r} and a router '
                    f"({self._routers()}); {bad[0]!r} has {_children(found[bad[0]])}; name them "
                    "with experts= and router="
                )
            return found
        found = {n: m for n, m in model.named_modules() if n and self._is_block(m)}
        if not found and self._is_block(model):
            found = {type(model).__name__: model}
        if not found:
            raise ValueError(
                f'view="experts" needs a mixture of experts: a block with a child '
                f"{self._experts!r} and a router ({self._routers()}). {type(model).__name__} has "
                "none; name the children with experts= and router="
            )
        return found

    def _routers(self) -> str:
        return self._router if self._router is not None else ", ".join(_ROUTERS)

    def _is_block(self, module: nn.Module) -> bool:
        return (
            self._experts in dict(module.named_children()) and self._router_of(module) is not None
        )

    def _router_of(self, block: nn.Module) -> nn.Module | None:
        children = dict(block.named_children())
        names = _ROUTERS if self._router is None else (self._router,)
        return next((children[n] for n in names if n in children), None)

    def attach(self, module: nn.Module, leave: Any) -> Any:
        """Listen to the block, its router and its experts."""
        router = self._router_of(module)
        assert router is not None
        return _Listener(module, router, getattr(module, self._experts), leave)

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects come of the routing inside."""
        return None

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Turn the routing of one call of a block into objects."""
        name = run.calls[call].name
        heard: _Heard = args
        experts = getattr(module, self._experts)
        routed = _routed(name, module, experts, heard, self._top)
        if len(routed.token) % run.batch:
            run.not_folded.append((name, tuple(routed.token.shape)))
            return
        routed = self._chosen(routed, run)
        said = routed.token[:, None].expand(-1, routed.index.shape[1], -1)
        if self._attribute == "output":
            said = _asked_again(experts, routed)
        count = _number_of(module, experts, heard)
        run.pieces.append(_piece(name, run.batch, routed, said.float(), count, self._tokens))

    def _chosen(self, routed: _Routed, run: Run) -> _Routed:
        """Choose tokens; the weight of each is its share of the glance."""
        length = len(routed.token) // run.batch
        glance = torch.arange(run.batch, device=routed.token.device).repeat_interleave(length)
        valid = _valid(run, length).to(glance.device)  # (B, T)
        if self._tokens in ("first", "last"):
            place = torch.arange(length, device=glance.device).expand(run.batch, -1)
            least = self._tokens == "first"
            place = place.masked_fill(~valid, length if least else -1)
            at = (place.amin(1) if least else place.amax(1)).clamp(0, length - 1)
            rows = torch.arange(run.batch, device=glance.device) * length + at
        else:
            rows = valid.flatten().nonzero()[:, 0]
        weight = routed.weight[rows]
        if self._tokens == "mean":
            weight = weight / valid.sum(1).clamp_min(1)[glance[rows]][:, None]
        return _Routed(routed.token[rows], routed.index[rows], weight, glance[rows])


@dataclass
class _Heard:
    """What was heard in one call of a block: its input, its router's output, its experts' call."""

    token: Tensor
    routing: Any = None
    experts: tuple[Any, ...] = ()


@dataclass
class _Routed:
    """Tokens (n, d), the k experts that each was given to (n, k), and with what weight (n, k)."""

    token: Tensor
    index: Tensor
    weight: Tensor
    glance: Tensor | None = None


class _Listener:
    """Hooks on a block, its router and, where they are one module, its experts."""

    def __init__(
        self, block: nn.Module, router: nn.Module, experts: nn.Module, leave: Any
    ) -> None:
        self._leave, self._routing, self._call = leave, None, ()
        self._handles = [
            router.register_forward_hook(self._hear_router),
            block.register_forward_hook(self._end, with_kwargs=True),
        ]
        if not isinstance(experts, nn.ModuleList):
            hear = self._hear_experts
            self._handles.append(experts.register_forward_pre_hook(hear, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _hear_router(self, module: nn.Module, args: Any, output: Any) -> None:
        self._routing = output

    def _hear_experts(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._call = (*args, *kwargs.values())

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = tensors((args, kwargs))[0][0]
        heard = _Heard(given.reshape(-1, given.shape[-1]), self._routing, self._call)
        self._routing, self._call = None, ()
        self._leave(module, heard, output)


def _routed(
    name: str, block: nn.Module, experts: nn.Module, heard: _Heard, top: int | None
) -> _Routed:
    """Read which experts got which tokens: from the experts' call, else from the router."""
    count = _number_of(block, experts, heard)
    for source in (heard.experts, heard.routing):
        found = _pair(source, count)
        if found is not None:
            token = next(
                (t for t in tensors(heard.experts)[0] if t.dim() == 2 and len(t) == len(found[0])
                 and t.shape[1] == heard.token.shape[1]),
                heard.token,
            )  # fmt: skip
            return _Routed(token, *found)
    logits = [t for t in tensors(heard.routing)[0] if t.shape[-1] == count]
    if not logits:
        raise ValueError(
            f'view="experts" cannot read the routing of {name!r}: its router must return scores '
            f"(tokens, {count}), or indices with weights (tokens, experts of a token); got "
            f"{_shapes(heard.routing)}"
        )
    scores = logits[0].reshape(-1, count).float()
    chance = scores if _is_probability(scores) else scores.softmax(1)
    k = top if top is not None else _said(block)
    if k is None:
        k = max(1, int((chance > 0).sum(1).max()))
    weight, index = chance.topk(min(k, count), 1)
    return _Routed(heard.token, index, weight / weight.sum(1, keepdim=True))


def _pair(source: Any, count: int) -> tuple[Tensor, Tensor] | None:
    """Return (N, k) indices and weights, if a call or an output holds both."""
    leaves = [t for t in torch.utils._pytree.tree_leaves(source) if isinstance(t, Tensor)]
    index = next((t for t in leaves if not t.is_floating_point() and t.dim() == 2), None)
    if index is None:
        return None
    own = [t for t in leaves if t.is_floating_point() and t.shape == index.shape]
    full = [t for t in leaves if t.is_floating_point() and t.shape == (len(index), count)]
    if not own and not full:
        return None
    weight = own[-1] if own else full[-1].gather(1, index)
    return index, weight.float().clamp_min(0)


def _is_probability(scores: Tensor) -> bool:
    return bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all())


def _said(block: nn.Module) -> int | None:
    """Return how many experts a token gets, as the block says."""
    for owner in (block, getattr(block, "config", None)):
        for name in _COUNTS:
            value = getattr(owner, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _number_of(block: nn.Module, experts: nn.Module, heard: _Heard) -> int:
    """Return the number of experts (E)."""
    if isinstance(experts, nn.ModuleList):
        return len(experts)
    stacked = [p.shape[0] for p in experts.parameters(recurse=False) if p.dim() >= 2]
    if stacked:
        return int(stacked[0])
    return int(getattr(experts, "num_experts", getattr(block, "num_experts", 0)))


def _asked_again(experts: nn.Module, routed: _Routed) -> Tensor:
    """Return what each expert says to each of its tokens, (n, k, d)."""
    if isinstance(experts, nn.ModuleList):
        return _each_asked(experts, routed)
    said = []
    for j in range(routed.index.shape[1]):
        alone = routed.index[:, j : j + 1].contiguous()
        one = torch.ones(alone.shape, dtype=routed.token.dtype, device=alone.device)
        said.append(tensors(experts(routed.token, alone, one))[0][0].reshape(len(alone), -1))
    return torch.stack(said, 1)


def _each_asked(experts: nn.ModuleList, routed: _Routed) -> Tensor:
    said: Tensor | None = None
    for e, expert in enumerate(experts):
        row, place = (routed.index == e).nonzero(as_tuple=True)
        if len(row):
            answer = tensors(expert(routed.token[row]))[0][0]
            if said is None:
                said = answer.new_zeros(*routed.index.shape, answer.shape[-1])
            said[row, place] = answer
    assert said is not None
    return said


def _piece(name: str, batch: int, routed: _Routed, said: Tensor, count: int, tokens: str) -> Piece:
    """Gather (n, k, d) answers into objects, by glance."""
    assert routed.glance is not None
    k, size = routed.index.shape[1], said.shape[2]
    weight, answers = routed.weight.flatten(), said.reshape(-1, size)
    expert = routed.index.flatten()
    used = (weight > 0) & (expert < count)
    glance = routed.glance.repeat_interleave(k)
    members = tuple(f"{name}/{e}" for e in range(count))
    if tokens == "mean":
        place = (glance * count + expert)[used]
        total = weight.new_zeros(batch * count).index_add(0, place, weight[used])
        sums = answers.new_zeros(batch * count, size)
        sums = sums.index_add(0, place, answers[used] * weight[used][:, None])
        some = (total > 0).nonzero()[:, 0]
        glance, expert = some // count, some % count
        weight, answers = total[some], sums[some] / total[some][:, None]
    else:
        glance, expert, weight, answers = (t[used] for t in (glance, expert, weight, answers))
    return Piece(
        name, answers, members, glance=glance.cpu().numpy().astype(np.int64),
        member=expert.cpu().numpy().astype(np.int64), weight=weight.cpu().numpy(),
    )  # fmt: skip


def _valid(run: Run, length: int) -> Tensor:
    """Return which tokens are no padding, (B, T), as ``attention_mask`` says."""
    given = run.kwargs.get("attention_mask")
    if given is None and run.args and isinstance(run.args[0], Mapping):
        given = run.args[0].get("attention_mask")
    if isinstance(given, Tensor) and given.shape == (run.batch, length):
        return given > 0
    return torch.ones(run.batch, length, dtype=torch.bool)


def _children(module: nn.Module) -> str:
    return ", ".join(n for n, _ in module.named_children()) or "no children"


def _shapes(routing: Any) -> str:
    leaves = torch.utils._pytree.tree_leaves(routing)
    shapes = [str(tuple(t.shape)) for t in leaves if isinstance(t, Tensor)]
    return ", ".join(shapes) or "no tensor"
