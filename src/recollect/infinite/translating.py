"""What the modules, functions and methods of torch mean for infinitely wide layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from recollect.infinite.activations import ABRelu, Activation, Erf, Gelu, LeakyRelu, Relu, Sin
from recollect.infinite.affine import Conv, ConvTranspose, Dense, Parameterization
from recollect.infinite.graph import Graph, Wire
from recollect.infinite.mixing import Attention, Dropout, LayerNorm
from recollect.infinite.pooling import (
    AvgPool,
    Flatten,
    GlobalAvgPool,
    Index,
    LinearMap,
    Resize,
    Scale,
    Transpose,
)
from recollect.infinite.quadrature import Expansion
from recollect.infinite.sampling import MaxPool
from recollect.infinite.states import Layer, Scalar

__all__ = ["FUNCTIONS", "Choices", "Signal", "apply_function", "apply_module", "names_of_layers"]


@dataclass(frozen=True)
class Choices:
    """What the user decided for the whole network."""

    weight_std: Callable[[str], Scalar | None]
    bias_std: Callable[[str], Scalar | None]
    parameterization: Parameterization
    layers: Mapping[Any, Layer]
    train_norms: bool
    linear_attention: bool
    sampling: int
    seed: int


class _Batch:
    """Stands for the batch size, which a twin does not know."""

    def __repr__(self) -> str:
        return "batch"


BATCH = _Batch()


@dataclass(frozen=True)
class Signal:
    """A tensor of the forward pass: a wire, and which axis is what.

    Args:
        graph: where layers are added.
        wire: the value.
        order: ``"n"`` for the batch, ``"c"`` for channels, numbers for position axes.
    """

    graph: Graph
    wire: Wire
    order: tuple[Any, ...]

    def apply(self, layer: Layer, name: str) -> Signal:
        """Put a layer after the signal; position axes may vanish."""
        wire = self.graph.apply(layer, self.wire, name)
        rank = len(self.graph.places_of(wire))
        order = self.order
        if rank != self.rank:
            order = ("n", "c", *range(rank)) if self.order[1] == "c" else ("n", *range(rank), "c")
        return Signal(self.graph, wire, order)

    @property
    def rank(self) -> int:
        """Number of position axes."""
        return len(self.order) - 2

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes of all axes, the batch as a placeholder."""
        places = self.graph.places_of(self.wire)
        sizes: dict[Any, Any] = {"n": BATCH, "c": self._channels(), **dict(enumerate(places))}
        return tuple(sizes[label] for label in self.order)

    def _channels(self) -> int:
        total = 0
        for part in self.wire.parts:
            places = self.graph.nodes[part.node].places
            total += part.width * (math.prod(places) if part.flat else 1)
        return total

    def label(self, axis: int) -> Any:
        """Return what an axis is."""
        return self.order[axis]

    def need_channels(self, axis: int, name: str) -> None:
        """Refuse a layer that would mix positions instead of channels."""
        if self.label(axis) != "c":
            raise ValueError(
                f"{name} acts on axis {axis}, but the channels are on axis "
                f"{self.order.index('c')}; transpose the tensor, or pass channel_axis=... to twin"
            )


def names_of_layers(module: nn.Module) -> bool:
    """Say whether a module has weights, so that calling it twice would share them."""
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.MultiheadAttention)


def _smooth(function: Callable[..., Any], name: str, tolerance: float | None = None) -> Expansion:
    return Expansion(function, tolerance=tolerance, name=name)


def _activation(module: nn.Module) -> Activation | None:
    """Return the nonlinearity of a module, None if it is none that is known."""
    if isinstance(module, nn.ReLU):
        return Relu()
    if isinstance(module, nn.LeakyReLU):
        return LeakyRelu(module.negative_slope)
    if isinstance(module, nn.GELU):
        return Gelu() if module.approximate == "none" else _smooth(module, "GELU(tanh)")
    if isinstance(module, nn.PReLU):
        return None
    smooth = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Mish, nn.LogSigmoid, nn.Softsign)
    for kind, tolerance in [
        *((k, None) for k in smooth),
        (nn.Softsign, 1e-5),
        (nn.ELU, 1e-5),
        (nn.CELU, 1e-5),
        (nn.SELU, 1e-3),
        (nn.Tanhshrink, None),
    ]:
        if isinstance(module, kind):
            return _smooth(module, kind.__name__, tolerance)
    return None


SUPPORTED = (
    "Linear, Conv1d-3d, ConvTranspose1d-3d, AvgPool, AdaptiveAvgPool, Flatten, LayerNorm, "
    "GroupNorm, RMSNorm, Dropout, Upsample, ZeroPad, ReLU, LeakyReLU, GELU, Tanh, Sigmoid, SiLU, "
    "Softplus, Mish, ELU, Identity; BatchNorm (evaluation, fresh), MaxPool with sampling=..., "
    "MultiheadAttention with attention='linear'"
)


def apply_module(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], choices: Choices, name: str
) -> Any:
    """Return the signal after a leaf module.

    Raises:
        ValueError: if the module has no closed form, with a list of those that have.
    """
    x: Signal = args[0]
    kind = type(module).__name__
    activation = _activation(module)
    if activation is not None:
        return x.apply(activation, name)
    if isinstance(module, nn.Linear):
        x.need_channels(-1, f"{name} (Linear)")
        return x.apply(_dense(module, choices, name), name)
    if isinstance(module, nn.modules.conv._ConvNd):
        x.need_channels(1, f"{name} ({kind})")
        return x.apply(_convolution(module, choices, name), name)
    if isinstance(module, nn.Identity):
        return x
    if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return x.apply(Dropout(1 - module.p), name) if module.training and module.p else x
    if isinstance(module, nn.Flatten):
        return _flatten(x, module.start_dim, module.end_dim, name)
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, args, kwargs, choices, name)
    layer = _pooling(module, x, choices, name) or _norm(module, x, choices, name)
    if layer is not None:
        return x.apply(layer, name)
    hint = ""
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        hint = "; leave it out, the ensemble is one of logits"
    raise ValueError(
        f"{name} ({kind}) has no closed form here{hint}; supported are {SUPPORTED}. Or give a "
        f"layer for it: twin(..., layers={{{kind}: ...}})"
    )


def _standard(choices: Choices, fan_in: int) -> dict[str, Any]:
    known = fan_in if fan_in > 0 else None
    return {"parameterization": choices.parameterization, "fan_in": known}


def _deviations(module: nn.Module, choices: Choices, name: str) -> dict[str, Any]:
    weight = choices.weight_std(name)
    bias = choices.bias_std(name) if getattr(module, "bias", None) is not None else None
    return {"weight_std": 1.0 if weight is None else weight, "bias_std": bias}


def _dense(module: nn.Linear, choices: Choices, name: str) -> Dense:
    return Dense(
        **_deviations(module, choices, name),
        **_standard(choices, module.in_features),
        width=module.out_features,
    )


def _convolution(module: nn.modules.conv._ConvNd, choices: Choices, name: str) -> Layer:
    if module.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"{name}: padding_mode {module.padding_mode!r} has no closed form here; 'zeros' and "
            "'circular' have"
        )
    depthwise = 1 < module.groups == module.in_channels
    common = {
        **_deviations(module, choices, name),
        **_standard(choices, module.in_channels // max(module.groups, 1)),
        "kernel_size": tuple(module.kernel_size),
        "stride": tuple(module.stride),
        "dilation": tuple(module.dilation),
        "width": module.out_channels,
    }
    if module.transposed:
        if module.groups > 1:
            raise ValueError(f"{name}: grouped transposed convolutions are not supported")
        extra: Any = module.output_padding
        return ConvTranspose(
            **common, padding=_numbers(module.padding), output_padding=tuple(extra)
        )
    padding: Any = module.padding
    return Conv(
        **common,
        padding=padding if isinstance(padding, str) else tuple(padding),
        circular=module.padding_mode == "circular",
        depthwise=depthwise,
    )


def _numbers(padding: Any) -> tuple[int, ...]:
    return tuple(padding)


def _pooling(module: nn.Module, x: Signal, choices: Choices, name: str) -> Layer | None:
    """Return the pooling, resizing or padding layer of a module."""
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        x.need_channels(1, name)
        if getattr(module, "divisor_override", None):
            raise ValueError(f"{name}: divisor_override is not supported")
        return AvgPool(
            size=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            normalize_edges=not module.count_include_pad,
            ceil_mode=module.ceil_mode,
        )
    adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    if isinstance(module, adaptive):
        x.need_channels(1, name)
        return adaptive_pool(module.output_size, x.graph.places_of(x.wire))
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        x.need_channels(1, name)
        if choices.sampling < 1:
            raise ValueError(
                f"{name} ({type(module).__name__}) has no closed form; use average pooling, or "
                "estimate it: twin(..., sampling=1000)"
            )
        return MaxPool(
            size=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            samples=choices.sampling,
            seed=choices.seed,
        )
    if isinstance(module, nn.Upsample):
        return _resize(
            x, module.size, module.scale_factor, module.mode, module.align_corners, name
        )
    if isinstance(module, nn.ZeroPad1d | nn.ZeroPad2d | nn.ZeroPad3d):
        return _pad(x, list(module.padding))
    return None


def adaptive_pool(size: Any, places: tuple[int, ...]) -> Layer:
    """Return adaptive average pooling: global where the output has one position."""
    sizes = size if isinstance(size, tuple | list) else (size,) * len(places)
    wanted = [n if s is None else int(s) for s, n in zip(sizes, places, strict=True)]
    if all(s == 1 for s in wanted):
        return GlobalAvgPool(keepdim=True)
    matrices = []
    for s, n in zip(wanted, places, strict=True):
        matrix = torch.zeros(s, n, dtype=torch.float64)
        for i in range(s):
            low, high = (i * n) // s, -(-((i + 1) * n) // s)
            matrix[i, low:high] = 1 / (high - low)
        matrices.append(None if s == n else matrix)
    return LinearMap(tuple(matrices))


def _pad(x: Signal, padding: list[int]) -> Layer:
    places = x.graph.places_of(x.wire)
    matrices: list[Any] = [None] * len(places)
    for i in range(len(padding) // 2):
        n, (low, high) = places[-1 - i], (padding[2 * i], padding[2 * i + 1])
        matrix = torch.zeros(n + low + high, n, dtype=torch.float64)
        matrix[low : low + n] = torch.eye(n, dtype=torch.float64)
        matrices[-1 - i] = matrix
    return LinearMap(tuple(matrices))


def _resize(x: Signal, size: Any, factor: Any, mode: str, corners: Any, name: str) -> Layer:
    places = x.graph.places_of(x.wire)
    if size is None:
        factors = factor if isinstance(factor, tuple | list) else (factor,) * len(places)
        size = tuple(int(n * f) for n, f in zip(places, factors, strict=True))
    sizes = tuple(size) if isinstance(size, tuple | list) else (int(size),) * len(places)
    if mode == "nearest":
        chosen = []
        for n, s in zip(places, sizes, strict=True):
            chosen.append(torch.nn.functional.one_hot((torch.arange(s) * n) // s, n).double())
        return LinearMap(tuple(chosen))
    if mode in ("linear", "bilinear", "trilinear"):
        return Resize(sizes, "linear", antialias=False, align_corners=bool(corners))
    raise ValueError(f"{name}: interpolation {mode!r} is not supported; use nearest or linear")


def _norm(module: nn.Module, x: Signal, choices: Choices, name: str) -> Layer | None:
    """Return the normalisation of a module."""
    affine = choices.train_norms
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        count = len(module.normalized_shape)
        labels = x.order[-count:]
        if "c" not in labels:
            raise ValueError(f"{name} must normalise the channels too, it covers axes {labels}")
        eps = module.eps if module.eps is not None else torch.finfo(torch.float32).eps
        return LayerNorm(
            axes=tuple(a for a in labels if a != "c"),
            eps=eps,
            affine=affine and module.elementwise_affine,
            centre=isinstance(module, nn.LayerNorm),
        )
    if isinstance(module, nn.GroupNorm):
        return LayerNorm(axes=None, eps=module.eps, affine=affine and module.affine)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return _batch_norm(module, name)
    return None


def _batch_norm(module: Any, name: str) -> Layer:
    if module.training or not module.track_running_stats:
        raise ValueError(
            f"{name} ({type(module).__name__}) is in training mode, where every output depends "
            "on the whole batch: call model.eval(), or use LayerNorm"
        )
    fresh = bool((module.running_mean == 0).all()) and bool((module.running_var == 1).all())
    if not fresh:
        raise ValueError(
            f"{name} ({type(module).__name__}) has statistics of its own training, which an "
            "infinitely wide network does not share; reset them with reset_running_stats()"
        )
    return Scale(1 / math.sqrt(1 + module.eps))


def _attention(
    module: nn.MultiheadAttention,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    choices: Choices,
    name: str,
) -> Any:
    three = [*args, *[kwargs[k] for k in ("query", "key", "value") if k in kwargs]][:3]
    if len({id(s.wire) for s in three if isinstance(s, Signal)}) != 1 or len(three) < 3:
        raise ValueError(f"{name}: only self-attention has a closed form, query = key = value")
    if not module.batch_first:
        raise ValueError(f"{name}: pass batch_first=True to MultiheadAttention")
    if not choices.linear_attention:
        raise ValueError(
            f"{name} (MultiheadAttention): softmax of scores over sqrt(d) has no closed form; "
            "twin(..., attention='linear') takes scores over d with tied keys and queries"
        )
    three[0].need_channels(-1, name)
    weight, bias = choices.weight_std(name), choices.bias_std(name)
    w = 1.0 if weight is None else weight
    layer = Attention(
        query_std=w,
        key_std=w,
        value_std=w,
        out_std=w,
        bias_std=bias if module.out_proj.bias is not None else None,
    )
    return three[0].apply(layer, name), None


def _flatten(x: Signal, start: int, end: int, name: str) -> Signal:
    count = len(x.order)
    covered = x.order[start % count : (end % count) + 1]
    if set(covered) != set(x.order) - {"n"}:
        raise ValueError(
            f"{name}: flattening must join the channels and all positions, it joins {covered} "
            f"of {x.order}"
        )
    return Signal(x.graph, x.graph.apply(Flatten(), x.wire, name), ("n", "c"))


# --- functions and methods -----------------------------------------------------------------


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
        return _flatten(x, 1, -1, name)
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
    return x.apply(_resize(x, size, scale_factor, mode, align_corners, name), name)


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
    return _flatten(x, start_dim, end_dim, name)


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
