"""Attention heads as modules, the tokens they look at as their inputs, weighted by attention.

Shape letters: B glances, R rows (glances, or windows of glances), H heads, T queries, S keys, Q
chosen queries, k kept keys, d numbers of a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recollect._checks import check_integer, check_one_of
from recollect.tracing.attending import Attended, Listener
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout
from recollect.tracing.views import Piece, Run, View
from recollect.tracing.weighing import Weighed, add_weighed, objects_of

__all__ = ["DISTANCES", "AttentionView"]

# How far back a head looks: the names of the numbers of a distance object.
DISTANCES = ("0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-", "ahead")
_QUERIES = ("auto", "last", "first", "mean", "all")


class AttentionView(View):
    """One object per attention head and query: what it read, made from the tokens it looked at.

    With attention weights w (non-negative, of sum one) and values v, the object of head ``h`` of
    the layer ``attn`` is a member ``attn/h`` of the family ``attn``. Its attribute is the head's
    reading ``z = sum_j w_j v_j``. Its inputs are the ``top`` tokens that it looked at hardest,
    module ``attn/h/token``, attribute ``v_j``, weight ``w_j``, heaviest first, and all others as
    one object, module ``attn/h/rest``, whose weight is the rest of the attention and whose
    attribute is the rest's weighted mean. So weights still sum to one, and the weighted sum of
    the inputs is still the reading, however long the text. Beside it stands ``attn/h/distance``:
    how much of the attention went how far back (``DISTANCES``).

    The weights are read beside the forward, whose output stays bit-identical: from the inputs of
    ``torch.nn.MultiheadAttention`` (also on the fast path of
    ``torch.nn.TransformerEncoderLayer``), else from the arguments of
    ``scaled_dot_product_attention``, else from softmax and product (Hugging Face, timm,
    torchvision, one's own).

    Args:
        top: how many tokens are kept of each query, at most.
        least: weight below which a token belongs to the rest.
        queries: which tokens' looking is kept: ``"last"`` (of a text, padding left out),
            ``"first"`` (a class token), ``"mean"`` over all, ``"all"``, or positions; ``"auto"``
            is ``"last"`` where nothing may look ahead, else ``"mean"``.
        distance: whether the distance objects are kept.

    Raises:
        ValueError: if the network has no attention that can be read, or a position is out of
            range, or ``least`` is no share.

    Example:
        >>> from recollect import trace
        >>> net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> t = trace(nn.Sequential(net), torch.randn(3, 5, 8), view="attention", top=2)
        >>> t, [c.name for c in t.columns.values()]
        (Trace(3 glances, 8 modules, 30 objects),
         ['0.self_attn', '0.self_attn/token', '0.self_attn/rest', '0.self_attn/distance'])
        >>> t.objects("0.self_attn/1/token").path[0]
        ('0.self_attn/1', '0.self_attn/1/token')
    """

    def __init__(
        self,
        top: int = 4,
        queries: str | Sequence[int] = "auto",
        distance: bool = True,
        least: float = 0.0,
    ) -> None:
        self._top = check_integer("top", top, minimum=1)
        if not 0 <= least < 1:
            raise ValueError(f"least must be a share of the attention, 0 to below 1, got {least}")
        self._least = least
        self._queries: str | tuple[int, ...]
        if isinstance(queries, str):
            self._queries = check_one_of("queries", queries, _QUERIES)
        else:
            self._queries = tuple(check_integer("a query", q, minimum=-(1 << 31)) for q in queries)
        self._distance = distance
        self._layers: dict[int, nn.TransformerEncoderLayer] = {}

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the attention modules: torch's own, or innermost ones called attention."""
        self._layers = {
            id(m.self_attn): m
            for m in model.modules()
            if isinstance(m, nn.TransformerEncoderLayer)
            and type(m).forward is nn.TransformerEncoderLayer.forward
        }
        if modules is not None:
            return choose_modules(model, modules)
        found = {n: m for n, m in model.named_modules() if n and _is_attention(m)}
        if not found and _is_attention(model):
            found = {type(model).__name__: model}
        if not found:
            raise ValueError(
                f'view="attention" needs a network with attention, {type(model).__name__} has no '
                "torch.nn.MultiheadAttention and no module with 'attention' in the name of its "
                "class; name the modules whose forward computes it with modules="
            )
        return found

    def attach(self, module: nn.Module, leave: Any) -> Any:
        """Listen without hooks, which would switch torch's fast paths off."""
        return Listener(module, leave, self._layers.get(id(module)))

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects come of the attention inside."""
        return None

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Turn what a module attended to into objects."""
        name = run.calls[call].name
        if not args:
            run.no_tensor.add(name)
        for place, one in enumerate(args):
            one = _heads_apart(one, run.batch)
            if len(one.value) % run.batch:
                run.not_folded.append((name, tuple(one.value.shape)))
            else:
                self._add(run, name if place == 0 else f"{name}[{place}]", one)

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Refuse a forward in which no attention could be read."""
        if not run.pieces:
            raise ValueError(
                f'view="attention" read no attention in {type(model).__name__}: it reads '
                "torch.nn.MultiheadAttention, scaled_dot_product_attention, and a softmax whose "
                "result is multiplied with the values; kernels of other libraries (flash, flex) "
                "hide the weights: load the network with attn_implementation='sdpa' or 'eager', "
                "and capture before you compile"
            )

    def _add(self, run: Run, name: str, one: Attended) -> None:
        """Add the objects of one call of attention."""
        valid = _valid(run, one)
        weights, at = self._chosen(one, valid)  # (R, H, Q, S), (R, Q) or None for a mean
        kept = np.ones(weights.shape[:3:2], dtype=bool)  # (R, Q)
        if self._queries == "all" and valid is not None:
            kept = valid.cpu().numpy()
        spread = None
        if self._distance and one.queries == one.value.shape[2] and len(weights) == run.batch:
            spread = _spread(weights, at)  # (R, H, Q, 9)
        if at is None:
            used = torch.ones(weights.shape[:3:2]) if valid is None else valid
            share = (used / used.sum(1, keepdim=True).clamp_min(1)).to(weights)[:, None, :, None]
            weights = (weights * share).sum(2, keepdim=True)
            spread = None if spread is None else (spread * share).sum(2, keepdim=True)
            kept = kept[:, :1]
        heads = weights.shape[1]
        value = one.value.float()
        which = np.repeat(kept[:, :, None], heads, axis=2)  # (R, Q, H)
        objects = Weighed(run, name, [f"{name}/{h}" for h in range(heads)], which)
        add_weighed(objects, weights @ value, weights, value, self._top, self._least)
        if spread is not None:
            run.pieces.append(objects_of(objects, spread, "distance"))

    def _chosen(self, one: Attended, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weights of the chosen queries, and their places; None: all, to average."""
        which = self._queries
        if which == "auto":
            which = "last" if one.looks_back else "mean"
        rows, length, device = len(one.value), one.queries, one.value.device
        if which == "mean":
            return one.weights(), None
        if which == "all":
            return one.weights(), torch.arange(length, device=device).expand(rows, -1)
        if isinstance(which, tuple):
            if any(not -length <= q < length for q in which):
                raise ValueError(f"queries {which} are asked of a text of {length} tokens")
            at = torch.tensor([q % length for q in which], device=device).expand(rows, -1)
            return one.weights(at), at
        places = torch.arange(length, device=device).expand(rows, -1)
        if valid is not None:
            places = places.masked_fill(~valid.to(device), -1 if which == "last" else length)
        at = places.amax(1) if which == "last" else places.amin(1)
        at = at.clamp(0, length - 1)[:, None]
        return one.weights(at), at


def _is_attention(module: nn.Module) -> bool:
    """Whether attention is computed in a module and in none of its children."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    return _is_called_so(module) and not any(_is_called_so(m) for m in _below(module))


def _is_called_so(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower() or "attn" in type(module).__name__.lower()


def _below(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if m is not module]


def _heads_apart(one: Attended, batch: int) -> Attended:
    """Take rows that are glances times heads apart: (B H, 1, ...) to (B, H, ...)."""
    rows, heads = one.value.shape[:2]
    if heads > 1 or rows == batch or rows % batch:
        return one

    def split(t: Tensor | None) -> Tensor | None:
        return None if t is None or len(t) != rows else t.reshape(batch, -1, *t.shape[2:])

    value = split(one.value)
    assert value is not None
    mask = one.mask if one.mask is None or len(one.mask) != rows else split(one.mask)
    return replace(
        one, value=value, query=split(one.query), key=split(one.key), mask=mask,
        seen=split(one.seen),
    )  # fmt: skip


def _valid(run: Run, one: Attended) -> Tensor | None:
    """Return which queries are tokens (R, T): the call's own word, else ``attention_mask``."""
    if one.valid is not None:
        return one.valid
    given = run.kwargs.get("attention_mask")
    if given is None and run.args and isinstance(run.args[0], Mapping):
        given = run.args[0].get("attention_mask")
    if isinstance(given, Tensor) and given.shape == (len(one.value), one.queries):
        return given > 0
    return None


def _spread(weights: Tensor, at: Tensor | None) -> Tensor:
    """Sum attention (R, H, Q, S) by how far back it looks, (R, H, Q, 9)."""
    queries, keys = weights.shape[2:]
    if at is None:
        at = torch.arange(queries, device=weights.device)[None]
    back = at[:, :, None] - torch.arange(keys, device=weights.device)  # (R or 1, Q, S)
    octave = 1 + torch.log2(back.clamp_min(1).float()).ceil().long()
    place = torch.where(back > 0, octave.clamp_max(len(DISTANCES) - 2), 0)
    place = torch.where(back < 0, len(DISTANCES) - 1, place)
    index = place[:, None].expand(weights.shape)
    into = weights.new_zeros(*weights.shape[:3], len(DISTANCES))
    return into.scatter_add(3, index, weights)
