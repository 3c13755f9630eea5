"""From an ordinary ``torch.nn.Module`` to its infinitely wide twin, read with torch.fx."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor, fx, nn

from recollect._checks import check_one_of
from recollect.infinite.affine import Parameterization
from recollect.infinite.calls import FUNCTIONS, apply_function
from recollect.infinite.composing import Branches, Net, lay
from recollect.infinite.graph import Graph, Wire
from recollect.infinite.states import Layer, Scalar
from recollect.infinite.translating import Choices, Signal, apply_module, names_of_layers
from recollect.infinite.twins import Twin, tensors_in

__all__ = ["twin"]

Setting = Scalar | None | Mapping[str, Scalar | None]

CHANNELS_LAST = (
    nn.Linear,
    nn.LayerNorm,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.RMSNorm,
)


class _Tracer(fx.Tracer):
    """Leaves the modules of torch, and those the user gave a layer for, as they are."""

    def __init__(self, layers: Mapping[Any, Layer]) -> None:
        super().__init__()
        self.layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        given = type(m) in self.layers or module_qualified_name in self.layers
        return given or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Deviations:
    """Looks up the deviations of a layer by its name."""

    setting: Setting
    default: Scalar | None

    def __call__(self, name: str) -> Scalar | None:
        if not isinstance(self.setting, Mapping):
            return self.setting
        if name in self.setting:
            return self.setting[name]
        for pattern, value in self.setting.items():
            if fnmatch.fnmatchcase(name, pattern):
                return value
        return self.default

    def check(self, names: list[str], what: str) -> None:
        """Refuse keys that fit no layer."""
        if isinstance(self.setting, Mapping):
            for key in self.setting:
                if not any(fnmatch.fnmatchcase(n, key) for n in names):
                    raise ValueError(
                        f"{what} names {key!r}, but the layers with weights are {names}"
                    )

    def tensors(self) -> list[Tensor]:
        """Return the values that want gradients."""
        values = self.setting.values() if isinstance(self.setting, Mapping) else [self.setting]
        return [v for v in values if isinstance(v, Tensor) and v.requires_grad]


def twin(
    model: nn.Module | Net,
    *,
    weight_std: Setting = 1.0,
    bias_std: Setting = 0.0,
    parameterization: Parameterization = "ntk",
    layers: Mapping[Any, Layer] | None = None,
    train_norms: bool = False,
    attention: str = "refuse",
    sampling: int = 0,
    seed: int = 0,
    channel_axis: int | None = None,
) -> Twin:
    """Return the infinitely wide twin of a network.

    Every dense and convolutional layer counts as infinitely wide, with weights of variance
    ``weight_std^2 / fan_in`` and biases of variance ``bias_std^2``; the numbers of channels in the
    module do not matter, except in the standard parameterisation and for concatenation. The
    module's own weights are never read.

    Args:
        model: a module, or layers of this package put together (which then carry their own
            deviations).
        weight_std: one number (or scalar tensor, for gradients) for all layers, or a mapping
            from module names or patterns (``"blocks.*.conv"``) to numbers; others have 1.
        bias_std: likewise, for layers that have a bias; others have 0.
        parameterization: ``"ntk"``: every layer's update counts alike, whatever its width;
            ``"standard"``: the tangent kernel of ordinary PyTorch weights, which grows with
            the widths of the module.
        layers: layers for modules this package does not know, by type, name, or function.
        train_norms: count gains and shifts of normalisation layers in the tangent kernel.
        attention: what to do with ``nn.MultiheadAttention``: ``"refuse"``, or ``"linear"`` to
            take scores over d instead of sqrt(d), whose limit has a closed form, or
            ``"sampled"`` to estimate softmax over sqrt(d).
        sampling: number of Monte-Carlo samples for max pooling and sampled attention; 0:
            refuse them.
        seed: of the sampling.
        channel_axis: where the channels of the input are; default: 1 before convolutions and
            flattening, -1 before linear layers.

    Raises:
        TypeError: if the model is neither a module nor a layer.
        ValueError: if a layer has no closed form, or the forward pass cannot be traced.

    Example:
        >>> from torch import nn
        >>> from recollect import infinite
        >>> model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> infinite.twin(model, weight_std=2**0.5, bias_std=0.1)
        Twin(Linear, ReLU, Linear)
    """
    check_one_of("parameterization", parameterization, ("ntk", "standard"))
    check_one_of("attention", attention, ("refuse", "linear", "sampled"))
    if attention == "sampled" and sampling < 1:
        raise ValueError("attention='sampled' needs sampling=..., the number of draws: 1000")
    if isinstance(model, Layer | Branches) and not isinstance(model, nn.Module):
        return _composed(model, channel_axis)
    if not isinstance(model, nn.Module):
        raise TypeError(
            "expected a torch.nn.Module or layers of recollect.infinite, got "
            f"{type(model).__name__}"
        )
    given = dict(layers or {})
    weights, biases = _Deviations(weight_std, 1.0), _Deviations(bias_std, 0.0)
    program = _Program(model, given)
    names = [n for n, m in model.named_modules() if names_of_layers(m)]
    weights.check(names, "weight_std")
    biases.check(names, "bias_std")
    choices = Choices(
        weights,
        biases,
        parameterization,
        given,
        train_norms,
        attention,
        sampling,
        seed,
    )
    axis = _channel_axis(program.graph, model) if channel_axis is None else channel_axis
    lower = partial(_lower, program, choices, axis)
    shown = [type(m).__name__ for m in model.modules() if not list(m.children())]
    if len(shown) > 8:
        shown = [*shown[:4], "...", *shown[-3:]]
    described = ", ".join(shown) or type(model).__name__
    return Twin(lower, partial(_arrange, axis), [*weights.tensors(), *biases.tensors()], described)


def _composed(net: Net, axis: int | None) -> Twin:
    """Return the twin of a composition."""
    constants = _tensors_of(net)
    return Twin(
        partial(_lay, net),
        partial(_arrange, 1 if axis is None else axis),
        constants,
        type(net).__name__,
    )


def _lay(net: Net, shape: tuple[int, ...]) -> Graph:
    """Build the graph of a composition."""
    graph = Graph(shape[1:], shape[0])
    return graph.finish(lay(net, graph, graph.input()))


class _Program:
    """A traced forward pass; traced again after unpickling."""

    def __init__(self, model: nn.Module, layers: Mapping[Any, Layer]) -> None:
        self.model, self.layers = model, layers
        self.graph = _trace(model, layers)

    def __getstate__(self) -> tuple[nn.Module, Mapping[Any, Layer]]:
        return self.model, self.layers

    def __setstate__(self, state: tuple[nn.Module, Mapping[Any, Layer]]) -> None:
        self.model, self.layers = state
        self.graph = _trace(*state)


def _tensors_of(net: Any) -> list[Tensor]:
    """Collect the tensors of all layers of a composition."""
    found = tensors_in(net)
    children = getattr(net, "nets", ()) or ((net.net,) if hasattr(net, "net") else ())
    for child in children:
        found += _tensors_of(child)
    return found


def _arrange(axis: int, x: Tensor) -> Tensor:
    return x.movedim(axis, 1)


def _trace(model: nn.Module, layers: Mapping[Any, Layer]) -> fx.Graph:
    """Read the forward pass without running it."""
    if type(model) in layers or (not list(model.children()) and _is_leaf(model)):
        return _Tracer(layers).trace(nn.Sequential(model))
    try:
        return _Tracer(layers).trace(model)
    except fx.proxy.TraceError as error:
        raise ValueError(
            f"{type(model).__name__}.forward depends on the data it sees ({error}); a twin needs "
            "a fixed computation: move the branch out, or compose the layers by hand"
        ) from error
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{type(model).__name__}.forward cannot be read by torch.fx: {error}; compose the "
            "layers by hand (infinite.Serial and friends)"
        ) from error


def _is_leaf(model: nn.Module) -> bool:
    return type(model).__module__.startswith("torch.nn")


def _channel_axis(program: fx.Graph, model: nn.Module) -> int:
    """Guess where the input's channels are from the first layer that cares."""
    for node in program.nodes:
        if node.op == "call_module":
            try:
                module = model.get_submodule(str(node.target))
            except AttributeError:
                module = model
            if isinstance(module, CHANNELS_LAST):
                return -1
            if not isinstance(module, nn.Identity | nn.Dropout):
                return 1
        elif node.op in ("call_function", "call_method"):
            return 1
    return 1


def _lower(program: _Program, choices: Choices, axis: int, shape: tuple[int, ...]) -> Graph:
    """Build the graph of layers for inputs of shape (channels, *S)."""
    graph = Graph(shape[1:], shape[0])
    rank = len(shape) - 1
    positions: list[Any] = list(range(rank))
    order: list[Any] = ["n", *positions]
    order.insert(axis if axis > 0 else rank + 2 + axis, "c")
    env: dict[fx.Node, Any] = {}
    called: dict[str, tuple[Any, Any]] = {}
    inputs = 0
    for node in program.graph.nodes:
        if node.op == "placeholder":
            inputs += 1
            if inputs > 1 and not node.args:
                raise ValueError(f"the module takes a second input {node.name!r}; a twin has one")
            env[node] = Signal(graph, graph.input(), tuple(order)) if inputs == 1 else node.args[0]
        elif node.op == "output":
            return graph.finish(_result(_fill(node.args[0], env)))
        elif node.op == "call_module":
            env[node] = _module(node, program.model, env, choices, called)
        elif node.op == "get_attr":
            raise ValueError(
                f"{node.target!r} is used directly in forward; parameters outside of layers have "
                "no infinitely wide limit here"
            )
        else:
            args, kwargs = _fill(node.args, env), _fill(node.kwargs, env)
            function = node.target if node.op == "call_method" else _name(node.target)
            given = choices.layers.get(node.target)
            if given is not None:
                env[node] = args[0].apply(given, node.name)
            else:
                env[node] = apply_function(str(function), args, kwargs, choices, node.name)
    raise ValueError("the module returns nothing")


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _module(
    node: fx.Node,
    model: nn.Module,
    env: dict[fx.Node, Any],
    choices: Choices,
    called: dict[str, tuple[Any, Any]],
) -> Any:
    """Apply a leaf module, once per input: a second use would share its weights."""
    name = str(node.target)
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = model
    args, kwargs = _fill(node.args, env), _fill(node.kwargs, env)
    if not args or not isinstance(args[0], Signal):
        raise ValueError(f"{name} ({type(module).__name__}) is called without a tensor")
    if names_of_layers(module) and name in called:
        before, out = called[name]
        if before == args[0].wire:
            return out
        raise ValueError(
            f"{name} ({type(module).__name__}) is used twice: its weights would be shared, which "
            "has no closed form here; use two modules"
        )
    given = choices.layers.get(name, choices.layers.get(type(module)))
    if given is not None:
        out = args[0].apply(given, name)
    else:
        out = apply_module(module, args, kwargs, choices, name)
    called[name] = (args[0].wire, out)
    return out


def _fill(thing: Any, env: dict[fx.Node, Any]) -> Any:
    """Replace the nodes in a structure by their values."""
    return fx.node.map_arg(thing, lambda n: env[n])


def _result(value: Any) -> Wire:
    if isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Signal):
        raise ValueError(f"the module must return one tensor, got {type(value).__name__}")
    return value.wire


def supported_functions() -> list[str]:
    """Return the names of the functions and methods that can be lifted."""
    return sorted(cast(Mapping[str, Callable[..., Any]], FUNCTIONS))
