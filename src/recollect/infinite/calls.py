"""What the functions and tensor methods of torch mean for infinitely wide layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from recollect.infinite.activations import Erf, Sin
from recollect.infinite.mixing import Dropout
from recollect.infinite.pooling import GlobalAvgPool
from recollect.infinite.rectifiers import ABRelu, Relu
from recollect.infinite.resampling import Index, Transpose
from recollect.infinite.states import Layer
from recollect.infinite.translating import (
    BATCH,
    Choices,
    Signal,
    adaptive_pool,
    apply_module,
    flatten,
    resize,
)

__all__ = ["FUNCTIONS", "apply_function"]


def _elementwise(layer: Layer) -> Callable[..., Any]:
    def run(x: Signal, *_: Any, name: str, choices: Choices, **__: Any) -> Signal:
        return x.apply(layer, name)

    return run


def _module_of(
    make: Callable[..., nn.Module],
) -> Callable[..., Any]:
    """Run a function as the module of the same arguments."""

    def run(x: Signal, *args: Any, name: str, choices: Choices, **kwargs: Any) -> Any:
        kwargs.pop("inplace", None)
        return apply_module(make(*args, **kwargs), [x], {}, choices, name)

    return run


def _add(
    a: Any, b: Any, *, name: str, choices: Choices, alpha: float = 1.0, sign: float = 1.0
) -> Signal:
    if not isinstance(a, Signal) or not isinstance(b, Signal):
        raise ValueError(f"{name}: adding a constant is not supported; give a layer a bias")
    _same_order(a, b, name)
    wire = a.graph.add([a.wire, b.wire], [1.0, sign * alpha], name)
    return Signal(a.graph, wire, a.order)


def _same_order(a: Signal, b: Signal, name: str) -> None:
    if a.order != b.order:
        raise ValueError(f"{name}: branches with axes {a.order} and {b.order} meet")


def _multiply(a: Any, b: Any, *, name: str, choices: Choices) -> Signal:
    if isinstance(a, Signal) and isinstance(b, Signal):
        _same_order(a, b, name)
        return Signal(a.graph, a.graph.multiply([a.wire, b.wire], name), a.order)
    signal, number = (a, b) if isinstance(a, Signal) else (b, a)
    if not isinstance(number, int | float):
        raise ValueError(f"{name}: only products with numbers or branches are supported")
    return Signal(
        signal.graph, signal.graph.add([signal.wire], [float(number)], name), signal.order
    )


def _divide(a: Any, b: Any, *, name: str, choices: Choices) -> Signal:
    if not isinstance(b, int | float):
        raise ValueError(f"{name}: dividing by a tensor has no closed form here")
    return _multiply(a, 1.0 / b, name=name, choices=choices)


def _cat(
    tensors: Sequence[Signal], dim: int = 0, *, name: str, choices: Choices, **kw: Any
) -> Signal:
    dim = kw.get("axis", dim)
    first = tensors[0]
    for other in tensors[1:]:
        _same_order(first, other, name)
    label = first.label(dim)
    if label == "n":
        raise ValueError(f"{name}: concatenation along the batch is not supported")
    axis = None if label == "c" else int(label)
    wire = first.graph.concatenate([t.wire for t in tensors], axis, name)
    return Signal(first.graph, wire, first.order)


def _pool_axes(
    x: Signal,
    dim: Any = None,
    keepdim: bool = False,
    *,
    name: str,
    choices: Choices,
    total: bool = False,
    **kw: Any,
) -> Signal:
    if dim is None:
        raise ValueError(f"{name}: averaging over everything, batch included, is not supported")
    labels = [x.label(d) for d in ([dim] if isinstance(dim, int) else dim)]
    if "n" in labels or "c" in labels:
        raise ValueError(f"{name}: averages over batch or channels have no infinitely wide limit")
    layer = GlobalAvgPool(axes=tuple(labels), total=total, keepdim=keepdim)
    wire = x.graph.apply(layer, x.wire, name)
    if keepdim:
        return Signal(x.graph, wire, x.order)
    left = [a for a in x.order if a not in labels]
    numbers = sorted(a for a in left if isinstance(a, int))
    return Signal(x.graph, wire, tuple(numbers.index(a) if a in numbers else a for a in left))


def _reshape(x: Signal, *shape: Any, name: str, choices: Choices) -> Signal:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if len(sizes) == 2 and (sizes[0] is BATCH or sizes[0] == -1 or sizes[1] == -1):
        return flatten(x, 1, -1, name)
    if tuple(sizes) == x.shape:
        return x
    raise ValueError(
        f"{name}: reshaping to {tuple(sizes)} is not supported, only flattening to (batch, -1)"
    )


def _permute(x: Signal, *dims: Any, name: str, choices: Choices) -> Signal:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims
    labels = [x.order[d] for d in order]
    if labels[0] != "n":
        raise ValueError(f"{name}: the batch must stay the first axis")
    numbers = [a for a in labels if isinstance(a, int)]
    if numbers == sorted(numbers):
        return replace(x, order=tuple(labels))
    wire = x.graph.apply(Transpose(tuple(numbers)), x.wire, name)
    fresh = iter(range(len(numbers)))
    return Signal(x.graph, wire, tuple(next(fresh) if isinstance(a, int) else a for a in labels))


def _transpose(x: Signal, a: int, b: int, *, name: str, choices: Choices) -> Signal:
    dims = list(range(len(x.order)))
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(x, dims, name=name, choices=choices)


def _squeeze(x: Signal, *dims: Any, name: str, choices: Choices) -> Signal:
    wanted = (
        [x.order[d] for d in dims]
        if dims
        else [a for a in x.order if isinstance(a, int) and x.shape[x.order.index(a)] == 1]
    )
    places = x.graph.places_of(x.wire)
    if any(not isinstance(a, int) or places[a] != 1 for a in wanted):
        raise ValueError(f"{name}: only position axes of length 1 can be squeezed")
    index = tuple(0 if i in wanted else slice(None) for i in range(len(places)))
    wire = x.graph.apply(Index(index), x.wire, name)
    left = [a for a in x.order if a not in wanted]
    numbers = sorted(a for a in left if isinstance(a, int))
    return Signal(x.graph, wire, tuple(numbers.index(a) if a in numbers else a for a in left))


def _getitem(x: Any, index: Any, *, name: str, choices: Choices) -> Any:
    if not isinstance(x, Signal):
        return x[index]
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        missing = len(x.order) - (len(entries) - 1)
        entries[at : at + 1] = [slice(None)] * missing
    entries += [slice(None)] * (len(x.order) - len(entries))
    chosen: dict[int, Any] = {}
    for label, entry in zip(x.order, entries, strict=True):
        if isinstance(label, int):
            if not isinstance(entry, slice | int):
                raise ValueError(f"{name}: positions can be chosen by slices and integers only")
            chosen[label] = entry
        elif entry != slice(None):
            raise ValueError(f"{name}: batch and channels cannot be indexed in a twin")
    wire = x.graph.apply(Index(tuple(chosen[i] for i in sorted(chosen))), x.wire, name)
    left = [a for a in x.order if not isinstance(chosen.get(a), int)]
    numbers = sorted(a for a in left if isinstance(a, int))
    return Signal(x.graph, wire, tuple(numbers.index(a) if a in numbers else a for a in left))


def _dropout(
    x: Signal,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    name: str,
    choices: Choices,
) -> Signal:
    return x.apply(Dropout(1 - p), name) if training and p else x


def _interpolate(
    x: Signal,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    *,
    name: str,
    choices: Choices,
    **kw: Any,
) -> Signal:
    return x.apply(resize(x, size, scale_factor, mode, align_corners, name), name)


def _unchanged(x: Signal, *_: Any, name: str, choices: Choices, **__: Any) -> Signal:
    return x


def _size(x: Signal, dim: int | None = None, *, name: str, choices: Choices) -> Any:
    return x.shape if dim is None else x.shape[dim]


def _attribute(x: Signal, attribute: str, *, name: str, choices: Choices) -> Any:
    if attribute in ("shape", "ndim"):
        return x.shape if attribute == "shape" else len(x.order)
    raise ValueError(f"{name}: the attribute {attribute!r} of a tensor is not supported")


def _total(x: Signal, *args: Any, name: str, choices: Choices, **kw: Any) -> Signal:
    return _pool_axes(x, *args, name=name, choices=choices, total=True, **kw)


def _subtract(a: Any, b: Any, *, name: str, choices: Choices, alpha: float = 1.0) -> Signal:
    return _add(a, b, name=name, choices=choices, alpha=alpha, sign=-1.0)


def _negative(x: Signal, *, name: str, choices: Choices) -> Signal:
    return _multiply(x, -1.0, name=name, choices=choices)


def _flatten_call(
    x: Signal, start_dim: int = 0, end_dim: int = -1, *, name: str, choices: Choices
) -> Signal:
    return flatten(x, start_dim, end_dim, name)


def _adaptive(x: Signal, size: Any, *, name: str, choices: Choices) -> Signal:
    return x.apply(adaptive_pool(size, x.graph.places_of(x.wire)), name)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": _elementwise(Relu()),
    "relu_": _elementwise(Relu()),
    "abs": _elementwise(ABRelu(-1.0, 1.0)),
    "erf": _elementwise(Erf()),
    "sin": _elementwise(Sin()),
    "cos": _elementwise(Sin(1.0, 1.0, math.pi / 2)),
    "tanh": _module_of(nn.Tanh),
    "sigmoid": _module_of(nn.Sigmoid),
    "silu": _module_of(nn.SiLU),
    "gelu": _module_of(nn.GELU),
    "softplus": _module_of(nn.Softplus),
    "mish": _module_of(nn.Mish),
    "elu": _module_of(nn.ELU),
    "selu": _module_of(nn.SELU),
    "leaky_relu": _module_of(nn.LeakyReLU),
    "logsigmoid": _module_of(nn.LogSigmoid),
    "avg_pool1d": _module_of(nn.AvgPool1d),
    "avg_pool2d": _module_of(nn.AvgPool2d),
    "avg_pool3d": _module_of(nn.AvgPool3d),
    "max_pool1d": _module_of(nn.MaxPool1d),
    "max_pool2d": _module_of(nn.MaxPool2d),
    "max_pool3d": _module_of(nn.MaxPool3d),
    "boolean_dispatch": _module_of(nn.MaxPool2d),
    "adaptive_avg_pool1d": _adaptive,
    "adaptive_avg_pool2d": _adaptive,
    "adaptive_avg_pool3d": _adaptive,
    "add": _add,
    "add_": _add,
    "iadd": _add,
    "sub": _subtract,
    "mul": _multiply,
    "mul_": _multiply,
    "imul": _multiply,
    "truediv": _divide,
    "div": _divide,
    "neg": _negative,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "mean": _pool_axes,
    "sum": _total,
    "flatten": _flatten_call,
    "view": _reshape,
    "reshape": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "squeeze": _squeeze,
    "getitem": _getitem,
    "dropout": _dropout,
    "interpolate": _interpolate,
    "contiguous": _unchanged,
    "clone": _unchanged,
    "size": _size,
    "getattr": _attribute,
}


def apply_function(function: str, args: Any, kwargs: Any, choices: Choices, name: str) -> Any:
    """Return what a function or method gives for signals and numbers.

    Raises:
        ValueError: if the function is not among those that can be lifted.
    """
    run = FUNCTIONS.get(function)
    if run is None:
        hint = "; leave it out, the ensemble is one of logits" if "softmax" in function else ""
        raise ValueError(
            f"the call {function}(...) at {name!r} has no closed form here{hint}; supported are "
            f"{', '.join(sorted(FUNCTIONS))}, or give a layer: twin(..., layers={{torch.{function}"
            ": ...})"
        )
    return run(*args, name=name, choices=choices, **kwargs)
