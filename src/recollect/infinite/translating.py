"""What the modules, functions and methods of torch mean for infinitely wide layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recollect.infinite.activations import Gelu
from recollect.infinite.affine import Conv, ConvTranspose, Dense, Parameterization
from recollect.infinite.graph import Graph, Wire
from recollect.infinite.mixing import Attention, Dropout, LayerNorm
from recollect.infinite.pooling import AvgPool, Flatten, GlobalAvgPool, Scale
from recollect.infinite.quadrature import Expansion
from recollect.infinite.rectifiers import Activation, LeakyRelu, Relu
from recollect.infinite.resampling import LinearMap, Resize
from recollect.infinite.sampled_layers import SoftmaxAttention
from recollect.infinite.sampling import MaxPool
from recollect.infinite.states import Layer, Scalar

__all__ = [
    "BATCH",
    "Choices",
    "Signal",
    "adaptive_pool",
    "apply_module",
    "flatten",
    "names_of_layers",
    "resize",
]


@dataclass(frozen=True)
class Choices:
    """What the user decided for the whole network."""

    weight_std: Callable[[str], Scalar | None]
    bias_std: Callable[[str], Scalar | None]
    parameterization: Parameterization
    layers: Mapping[Any, Layer]
    train_norms: bool
    attention: str
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
    "MultiheadAttention with attention='linear' or 'sampled'"
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
        return flatten(x, module.start_dim, module.end_dim, name)
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
        return resize(x, module.size, module.scale_factor, module.mode, module.align_corners, name)
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


def resize(x: Signal, size: Any, factor: Any, mode: str, corners: Any, name: str) -> Layer:
    """Return the interpolation to a size, or by a factor."""
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
            "on the whole batch: call model.eval(), use LayerNorm, or put kernels of one batch "
            "through infinite.sampled_batch_norm"
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
    if choices.attention == "refuse":
        raise ValueError(
            f"{name} (MultiheadAttention): softmax of scores over sqrt(d) has no closed form; "
            "twin(..., attention='linear') takes scores over d with tied keys and queries, "
            "attention='sampled' with sampling=1000 estimates it"
        )
    three[0].need_channels(-1, name)
    weight, bias = choices.weight_std(name), choices.bias_std(name)
    w = 1.0 if weight is None else weight
    common: dict[str, Any] = {
        **dict.fromkeys(("query_std", "key_std", "value_std", "out_std"), w),
        "bias_std": bias if module.out_proj.bias is not None else None,
    }
    layer: Layer
    if choices.attention == "sampled":
        layer = SoftmaxAttention(**common, samples=choices.sampling, seed=choices.seed)
    else:
        layer = Attention(**common)
    return three[0].apply(layer, name), None


def flatten(x: Signal, start: int, end: int, name: str) -> Signal:
    """Join channels and all positions, or refuse."""
    count = len(x.order)
    covered = x.order[start % count : (end % count) + 1]
    if set(covered) != set(x.order) - {"n"}:
        raise ValueError(
            f"{name}: flattening must join the channels and all positions, it joins {covered} "
            f"of {x.order}"
        )
    return Signal(x.graph, x.graph.apply(Flatten(), x.wire, name), ("n", "c"))
