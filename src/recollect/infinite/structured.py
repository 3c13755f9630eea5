"""The empirical tangent kernel layer by layer, without Jacobians of the weights.

For a dense layer z = W a + b the part of the kernel is ``(a . a') (g . g') + (g . g')`` with g the
derivative of an output by z: two small Gram matrices instead of N O gradients of the size of W.
With positions t the gradient by W is ``sum_t g_t a_t``, contracted in the cheaper order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["structured_kernel"]

# Up to so many outputs one backward pass each is cheaper than loading what batches them.
FEW_OUTPUTS = 32


def structured_kernel(
    model: nn.Module, parameters: Mapping[str, Tensor], x1: Tensor, x2: Tensor, *, strict: bool
) -> Tensor | None:
    """Return the kernel (n1, n2, O, O), or None if a parameter belongs to another layer.

    Raises:
        ValueError: instead of returning None, if ``strict``.
    """
    layers = _layers(model, parameters)
    if layers is None:
        if strict:
            raise ValueError(
                "method='structured' needs every parameter to belong to a linear or ungrouped "
                "convolutional layer that is called once; use method='jacobian'"
            )
        return None
    one = _records(model, parameters, x1, layers)
    two = one if x2 is x1 else _records(model, parameters, x2, layers)
    if one is None or two is None:
        if strict:
            raise ValueError("method='structured': a layer is called twice; use 'jacobian'")
        return None
    total: Tensor | None = None
    while one:  # every layer's derivatives are let go when they have been used
        module, *first = one.pop()
        a, g = _columns(module, *first)
        b, h = (a, g) if two is one else _columns(*two.pop())
        del first
        part = _contribution(a, g, b, h, module.bias is not None)
        total = part if total is None else total.add_(part)
    return None if total is None else total.permute(0, 2, 1, 3)


def _layers(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, nn.Module] | None:
    found: dict[str, nn.Module] = {}
    owned = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv1d | nn.Conv2d)
            and module.groups == 1
            and module.padding_mode == "zeros"
        ):
            found[name] = module
            owned |= {f"{name}.{k}" if name else k for k, _ in module.named_parameters()}
    return found if owned == set(parameters) else None


def _records(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, layers: dict[str, nn.Module]
) -> list[tuple[nn.Module, Tensor, Tensor]] | None:
    """Return each layer with its inputs (n, ...) and derivatives (O, n, ...)."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        seen.append((module, args[0].detach(), out))

    handles = [m.register_forward_hook(hook) for m in layers.values()]
    try:
        with torch.enable_grad():
            live = {k: v.detach().requires_grad_() for k, v in parameters.items()}
            f = functional_call(model, live, (x,)).reshape(len(x), -1)
    finally:
        for handle in handles:
            handle.remove()
    if len({id(m) for m, _, _ in seen}) < len(seen):
        return None
    grads = _derivatives(f, [z for _, _, z in seen])
    return [(m, a, g) for (m, a, _), g in zip(seen, grads, strict=True)]


def _derivatives(f: Tensor, values: list[Tensor]) -> list[Tensor]:
    """Return the derivatives of every output by values of its own example, (O, n, ...) each."""
    count = f.shape[1]
    if count > FEW_OUTPUTS:
        units = torch.eye(count, dtype=f.dtype, device=f.device)[:, None].expand(-1, len(f), -1)
        return list(
            torch.autograd.grad(f, values, units, is_grads_batched=True, materialize_grads=True)
        )
    made = [v.new_empty((count, *v.shape)) for v in values]
    for o in range(count):
        last = o == count - 1
        grads = torch.autograd.grad(
            f[:, o].sum(), values, retain_graph=not last, materialize_grads=True
        )
        for target, g in zip(made, grads, strict=True):
            target[o] = g
    return made


def _columns(module: Any, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Bring inputs into (n, T, in) and derivatives (O, n, ...) into (n, O, T, out)."""
    if isinstance(module, nn.Linear):
        return (
            a.reshape(len(a), -1, a.shape[-1]),
            g.reshape(g.shape[0], g.shape[1], -1, g.shape[-1]).transpose(0, 1),
        )
    flat = g.flatten(3).permute(1, 0, 3, 2)
    size, stride, dilation = module.kernel_size, module.stride, module.dilation
    padding = module.padding
    if a.ndim == 3:
        a = a[:, :, None]
        size, stride, dilation = (1, *size), (1, *stride), (1, *dilation)
        padding = padding if isinstance(padding, str) else (0, *padding)
    if isinstance(padding, str):
        padding = tuple(
            d * (k - 1) // 2 if padding == "same" else 0
            for k, d in zip(size, dilation, strict=True)
        )
    unfolded = nn.functional.unfold(a, size, dilation, padding, stride)
    return unfolded.transpose(1, 2), flat


def _gram(rows: Tensor) -> Tensor:
    """Return rows times their transpose; large ones by strips of the upper half."""
    count = len(rows)
    if count < 256:
        return rows @ rows.T
    out = rows.new_empty(count, count)
    step = -(-count // 4)
    for start in range(0, count, step):
        stop = min(start + step, count)
        strip = rows[start:stop] @ rows[start:].T
        out[start:stop, start:] = strip
        out[stop:, start:stop] = strip[:, stop - start :].T
    return out


def _contribution(a: Tensor, g: Tensor, b: Tensor, h: Tensor, bias: bool) -> Tensor:
    """Return one layer's part of the kernel, (n1, O, n2, O)."""
    n, o, t, out = g.shape
    m = len(b)
    if t == 1:
        weight = a[:, 0] @ b[:, 0].T
        rows = g.reshape(n * o, out)
        gram = _gram(rows) if h is g else rows @ h.reshape(m * o, out).T
        factor = weight + 1 if bias else weight
        return gram.reshape(n, o, m, o).mul_(factor[:, None, :, None])
    by_weight = n * o * t * a.shape[-1] * out * 2 + n * m * o * o * a.shape[-1] * out
    by_place = n * m * t * t * (a.shape[-1] + o * o * out)
    if by_weight <= by_place:
        one = torch.einsum("noti,ntj->noij", g, a).reshape(n * o, -1)
        two = one if b is a and h is g else torch.einsum("noti,ntj->noij", h, b).reshape(m * o, -1)
        part = (one @ two.T).reshape(n, o, m, o)
    else:
        gram = torch.einsum("noti,mpsi->nmopts", g, h)
        part = torch.einsum("nmopts,nmts->nomp", gram, torch.einsum("ntj,msj->nmts", a, b))
    if bias:
        one, two = g.sum(2).reshape(n * o, out), h.sum(2).reshape(m * o, out)
        part = part + (one @ two.T).reshape(n, o, m, o)
    return part
