"""Attention weights where fused kernels hide them: read beside the forward, which is unchanged.

A network's own ``forward`` runs as it is. ``torch.nn.MultiheadAttention`` and the fast path of
``torch.nn.TransformerEncoderLayer`` are read from their inputs; every other attention from its
call of ``scaled_dot_product_attention``, or from its softmax and the product with the values.
No hook is set on these modules, because hooks switch fast paths off.

Shape letters: R rows (glances, or windows of glances), H heads, T queries, S keys, d numbers of a
value, Q chosen queries, E numbers of a token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Attended", "Listener", "reads_inputs"]

Leave = Callable[[nn.Module, Any, Any], None]
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
_PRODUCT = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}


@dataclass(frozen=True)
class Attended:
    """One call of attention: all that is needed to say who looked where.

    Attributes:
        value: (R, H, S, d).
        query: (R, H, T, d'); None where the weights themselves were seen.
        key: (R, H, S, d').
        mask: added to the scores, broadcast to (R, H, T, S); None: nothing.
        scale: of the scores.
        seen: (R, H, T, S) weights, where they were seen.
        valid: (R, T) which queries are tokens and not padding; None: all.
    """

    value: Tensor
    query: Tensor | None = None
    key: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0
    seen: Tensor | None = None
    valid: Tensor | None = None

    @property
    def queries(self) -> int:
        """T."""
        known = self.query if self.seen is None else self.seen
        assert known is not None
        return int(known.shape[2])

    @property
    def looks_back(self) -> bool:
        """Whether no query sees what comes after it: in most rows the first not the last key."""
        if self.queries < 2 or self.queries != self.value.shape[2]:
            return False
        if self.seen is not None:
            corner = self.seen[:, :, 0, -1] == 0
        elif self.mask is not None:
            corner = self.mask[..., 0, -1] < -1e4
        else:
            return False
        return bool(corner.float().mean() > 0.5)

    def weights(self, at: Tensor | None = None) -> Tensor:
        """Return who looked where, (R, H, Q, S) float32; each row sums to one.

        Args:
            at: (R, Q) chosen queries; None: all of them.
        """
        if self.seen is not None:
            return (self.seen if at is None else _rows(self.seen, at)).float()
        assert self.query is not None
        assert self.key is not None
        query = self.query if at is None else _rows(self.query, at)
        scores = query.float() @ self.key.float().transpose(2, 3) * self.scale
        if self.mask is not None:
            mask = self.mask
            if at is not None and mask.shape[-2] > 1:
                shape = (len(query), mask.shape[1], *mask.shape[2:])
                mask = _rows(mask.expand(shape), at)
            scores = scores + mask
        # A query that may look nowhere (padding) looks nowhere.
        return scores.softmax(3).nan_to_num(0.0)


def _rows(t: Tensor, at: Tensor) -> Tensor:
    """Choose places along the third axis: (R, H, T, n) and (R, Q) to (R, H, Q, n)."""
    index = at[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])
    return t.gather(2, index)


class Listener:
    """Listens to the calls of one attention module until ``remove``.

    Args:
        module: whose attention is read.
        leave: called with the module, a list of ``Attended`` and the output, after each call.
        layer: the encoder layer around it, whose fast path does not call the module.
    """

    def __init__(
        self, module: nn.Module, leave: Leave, layer: nn.TransformerEncoderLayer | None = None
    ) -> None:
        self._module, self._leave, self._fired = module, leave, False
        self._wrapped: list[tuple[nn.Module, Any]] = []
        self._wrap(module, self._from_inputs if reads_inputs(module) else self._from_calls)
        if layer is not None:
            self._wrap(layer, self._from_layer)

    def remove(self) -> None:
        """Put the modules' own ``forward`` back."""
        for module, own in reversed(self._wrapped):
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own
        self._wrapped = []

    def _wrap(self, module: nn.Module, listen: Callable[..., Any]) -> None:
        forward = module.forward
        self._wrapped.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = lambda *args, **kwargs: listen(forward, args, kwargs)

    def _from_inputs(self, forward: Any, args: Any, kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        self._fired = True
        with torch.no_grad():
            self._leave(self._module, [_from_torch(self._module, args, kwargs)], output)
        return output

    def _from_layer(self, forward: Any, args: Any, kwargs: Any) -> Any:
        self._fired = False
        output = forward(*args, **kwargs)
        if not self._fired:
            with torch.no_grad():
                layer = self._wrapped[-1][0]
                self._leave(self._module, [_from_layer(layer, args, kwargs)], output)
        return output

    def _from_calls(self, forward: Any, args: Any, kwargs: Any) -> Any:
        calls = _Calls()
        with calls:
            output = forward(*args, **kwargs)
        found = [_heads_unpacked(self._module, one) for one in calls.found]
        self._leave(self._module, found, output)
        return output


def reads_inputs(module: nn.Module) -> bool:
    """Whether attention weights are worked out from the module's inputs."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
    )


# -- torch's own attention ------------------------------------------------------------------


_MHA = inspect.signature(nn.MultiheadAttention.forward)
_LAYER = inspect.signature(nn.TransformerEncoderLayer.forward)


def _from_layer(layer: Any, args: Any, kwargs: Any) -> Attended:
    given = _LAYER.bind(layer, *args, **kwargs).arguments
    x = layer.norm1(given["src"]) if layer.norm_first else given["src"]
    named = {
        "attn_mask": given.get("src_mask"),
        "key_padding_mask": given.get("src_key_padding_mask"),
    }
    return _from_torch(layer.self_attn, (x, x, x), named)


def _from_torch(module: Any, args: Any, kwargs: Any) -> Attended:
    """Work out queries, keys and values as ``torch.nn.MultiheadAttention`` does."""
    given = _MHA.bind(module, *args, **kwargs).arguments
    query, key, value = given["query"], given["key"], given["value"]
    padding = given.get("key_padding_mask")
    if query.is_nested:
        query, padding = _padded(query)
        key = value = query
    if query.dim() == 2:
        query, key, value = (t[None] for t in (query, key, value))
        padding = None if padding is None else padding[None]
    elif not module.batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    q, k, v = _projected(module, query, key, value)
    valid = None
    if padding is not None and query.shape[1] == key.shape[1]:
        valid = ~padding if padding.dtype == torch.bool else padding == 0
    extra = k.shape[1] - key.shape[1]
    mask = _added(given.get("attn_mask"), padding, len(q), module.num_heads, extra)
    heads = [t.view(*t.shape[:2], module.num_heads, -1).transpose(1, 2) for t in (q, k, v)]
    scale = float(heads[0].shape[3]) ** -0.5
    return Attended(heads[2], heads[0], heads[1], mask, scale, valid=valid)


def _projected(
    module: Any, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (R, T, E), (R, S, E) and (R, S, E); biases that stand as keys are appended."""
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    bias = module.in_proj_bias
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = map(F.linear, (query, key, value), weights, biases)
    rows = len(k)
    if module.bias_k is not None:
        k = torch.cat([k, module.bias_k.expand(rows, -1, -1)], 1)
        v = torch.cat([v, module.bias_v.expand(rows, -1, -1)], 1)
    if module.add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    return q, k, v


def _added(
    mask: Tensor | None, padding: Tensor | None, rows: int, heads: int, extra: int
) -> Tensor | None:
    """Join a mask (T, S) or (R H, T, S) and the padding (R, S): (R or 1, H or 1, T or 1, S)."""
    parts = []
    if mask is not None:
        m = _as_added(mask)
        parts.append(m[None, None] if m.dim() == 2 else m.reshape(rows, heads, *m.shape[1:]))
    if padding is not None:
        parts.append(_as_added(padding)[:, None, None])
    if not parts:
        return None
    joined = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return F.pad(joined, (0, extra))


def _as_added(mask: Tensor) -> Tensor:
    """Return a mask to be added; torch's own true means: not to be looked at."""
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf)


def _padded(nested: Tensor) -> tuple[Tensor, Tensor]:
    """Return a nested batch as (R, T, E), and which of its places are padding, (R, T)."""
    lengths = torch.tensor([len(t) for t in nested.unbind()], device=nested.device)
    padded = nested.to_padded_tensor(0.0)
    return padded, torch.arange(padded.shape[1], device=nested.device) >= lengths[:, None]


# -- every other attention ------------------------------------------------------------------


class _Calls(TorchFunctionMode):
    """Notes the attention that is computed while it is entered, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Attended] = []
        self._soft: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        with torch.no_grad():
            self._note(func, args, kwargs, output)
        return output

    def _note(self, func: Any, args: Sequence[Any], kwargs: Any, output: Any) -> None:
        if func is F.scaled_dot_product_attention:
            self.found.append(_from_fused(*args, **kwargs))
        elif func in _SOFTMAX:
            soft = isinstance(output, Tensor) and output.dim() in (3, 4)
            self._soft = output if soft else None
        elif self._soft is not None:
            pair = _product(func, args)
            if pair is not None and pair[0].shape == self._soft.shape:
                self.found.append(_from_product(self._soft, pair[1]))
                self._soft = None


def _heads_unpacked(module: nn.Module, one: Attended) -> Attended:
    """Undo what Hugging Face does to one query token: heads of one key stand as its queries."""
    groups = getattr(module, "num_key_value_groups", 1)
    heads = getattr(getattr(module, "config", None), "num_attention_heads", None)
    packed = one.query is not None and one.query.shape[1] * groups == heads
    if groups == 1 or not packed or one.queries != groups:
        return one
    assert one.query is not None
    assert one.key is not None
    mask = one.mask
    if mask is not None and mask.shape[1] > 1:
        mask = mask.reshape(len(mask), -1, 1, mask.shape[3])
    return replace(
        one,
        query=one.query.flatten(1, 2)[:, :, None],
        key=one.key.repeat_interleave(groups, 1),
        value=one.value.repeat_interleave(groups, 1),
        mask=mask,
    )


def _product(func: Any, args: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """Return weights and values (..., S, d) if this is a product of two tensors."""
    if func in _PRODUCT:
        return args[0], args[1]
    if func is not torch.einsum or len(args) != 3 or "->" not in args[0]:
        return None
    left, right = args[0].replace(" ", "").split("->")[0].split(",")
    own = [letter for letter in right if letter not in left]
    if len(own) != 1 or left[-1] not in right:
        return None
    ordered = "".join([c for c in left[:-2] if c in right]) + left[-1] + own[0]
    return (
        (args[1], torch.einsum(f"{right}->{ordered}", args[2]))
        if set(ordered) == set(right)
        else None
    )


def _from_product(soft: Tensor, value: Tensor) -> Attended:
    """Weights and values as they were multiplied; three axes become (R, 1, T, S)."""
    if soft.dim() == 3:
        soft, value = soft[:, None], value.reshape(-1, 1, *value.shape[-2:])
    return Attended(value.expand(*soft.shape[:2], -1, -1), seen=soft)


def _from_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attended:
    """Read the arguments of ``scaled_dot_product_attention``; its true means: to be looked at."""
    if query.dim() == 3:
        query, key, value = (t[:, None] for t in (query, key, value))
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask[:, None]
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (t.repeat_interleave(repeats, 1) for t in (key, value))
    mask = attn_mask
    if mask is not None:
        mask = _as_added(~mask) if mask.dtype == torch.bool else mask.float()
        mask = mask.reshape(*[1] * (4 - mask.dim()), *mask.shape)
    if is_causal:
        ahead = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = _as_added(ahead.triu(1))[None, None]
    size = float(query.shape[3]) ** -0.5 if scale is None else scale
    return Attended(value, query, key, mask, size)
