"""Layers that are trained by themselves, and what a pass of the whole network tells them.

Shape letters: B rows (examples times positions), n inputs, m outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.training.transfers import Transfer

__all__ = ["Layer", "captured", "is_layer", "refuse_sharing", "solvable", "trained"]


@dataclass(eq=False)
class Layer:
    """A layer, and what the last pass said about it.

    Attributes:
        name: for messages.
        module: linear or convolution.
        transfer: f of the local loss (identity for the squared loss).
        activation: the module that applies f to the pre-activation, if that is known.
        is_last: whether nothing follows: f is that of the loss.
        inputs: x of the last forward pass, detached.
        gradient: derivative of the loss with respect to the PRE-activation.
        heard: what the network made of the pre-activation (f(a), or a itself in the last layer),
            and its version: if that has changed, it was overwritten.
    """

    name: str
    module: nn.Module
    transfer: Transfer
    activation: nn.Module | None = None
    is_last: bool = False
    inputs: Tensor | None = None
    gradient: Tensor | None = None
    heard: tuple[Tensor, int] | None = None
    params: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.params = [p for p in self.module.parameters() if p.requires_grad]

    @property
    def is_plain_linear(self) -> bool:
        """Whether weight and bias are ordinary, trained parameters of a linear layer."""
        own = [self.module.weight, *([] if self.module.bias is None else [self.module.bias])]
        return type(self.module) is nn.Linear and len(own) == len(self.params)

    @property
    def is_plain(self) -> bool:
        """Whether what is trained is the weight and bias that torch's own forward reads."""
        return type(self.module).__module__.startswith("torch.nn.modules") and {
            name for name, _ in self.module.named_parameters()
        } <= {"weight", "bias"}

    def forget(self) -> None:
        """Let go of what the last pass said."""
        self.inputs = self.gradient = self.heard = None

    def response(self) -> Tensor | None:
        """Return f(a) of the last pass (B, m) without computing a again, if that can be done."""
        if self.heard is None or not isinstance(self.module, nn.Linear):
            return None
        (value, version), self.heard = self.heard, None
        if value._version != version or value.dtype != self.params[0].dtype:
            return None
        rows = value.flatten(0, -2)
        return self.transfer.apply(rows.clone()) if self.is_last else rows

    def take(self) -> tuple[Tensor, Tensor]:
        """Return inputs and gradient in the layer's own precision, and let go of them."""
        x, g = self.inputs, self.gradient
        assert x is not None
        assert g is not None
        self.inputs = self.gradient = None
        return x.to(self.params[0].dtype), g.to(self.params[0].dtype)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return inputs (B, n) and gradient (B, m), patches as rows for a 2-d convolution."""
        x, g = self.take()
        if isinstance(self.module, nn.Linear):
            return x.flatten(0, -2), g.flatten(0, -2)
        conv = self.module
        assert isinstance(conv, nn.Conv2d)
        assert not isinstance(conv.padding, str)
        patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        return patches.mT.flatten(0, 1), g.flatten(2).mT.flatten(0, 1)


@contextmanager
def captured(layers: Iterable[Layer], spared: Iterable[Layer] = ()) -> Iterator[None]:
    """Keep inputs and pre-activation gradients of all layers during one pass.

    Args:
        layers: of one model.
        spared: those of them whose parameters need no gradient from this pass: it is not computed
            where the parameters are plain, else dropped as soon as it is there.

    Raises:
        NotImplementedError: if a layer is used twice.
        ValueError: if it runs without gradients.
    """
    handles: list[Any] = []
    silent = []
    try:
        for layer in layers:
            layer.forget()
            handles += _watch(layer)
        for layer in spared:
            if layer.is_plain:
                silent += layer.params
            else:
                handles += [_hooked(p) for p in layer.params]
        for p in silent:
            p.requires_grad_(False)
        yield
    finally:
        for p in silent:
            p.requires_grad_(True)
        for handle in handles:
            handle.remove()


def _hooked(parameter: Tensor) -> Any:
    return parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def _watch(layer: Layer) -> list[Any]:
    """Hook a layer, and the activation after it."""
    node: list[Any] = []  # of the pre-activation in the graph

    def keep_gradient(gradient: Tensor) -> None:
        layer.gradient = gradient.detach()

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer.inputs is not None:
            raise NotImplementedError(
                f"layer {layer.name!r} was used twice in one closure; LocoProp needs one input "
                "per layer: leave shared layers out (they go to the fallback optimiser), and run "
                "the whole batch in one forward pass"
            )
        if not torch.is_grad_enabled():
            raise ValueError(
                f"layer {layer.name!r} ran without gradients; the closure must call the model "
                "with gradients enabled, and loss.backward()"
            )
        if not output.requires_grad:  # the first layer, when its parameters are spared
            output = output + output.new_zeros(()).requires_grad_()
        layer.inputs = inputs[0].detach()
        output.register_hook(keep_gradient)  # type: ignore[no-untyped-call]
        node[:] = [output.grad_fn]
        if layer.is_last:
            layer.heard = output.detach(), output._version
        return output

    def hear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Another input, or one that was overwritten, has another node.
        if node and inputs[0].grad_fn is node[0]:
            layer.heard = output.detach(), output._version

    handles = [layer.module.register_forward_hook(keep)]
    if layer.activation is not None:
        handles.append(layer.activation.register_forward_hook(hear))
    return handles


def is_layer(module: nn.Module) -> bool:
    """Whether a module is linear or a convolution."""
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def trained(module: nn.Module) -> bool:
    """Whether any of its parameters is trained."""
    return any(p.requires_grad for p in module.parameters())


def solvable(module: nn.Module) -> bool:
    """Whether patches as rows make the layer linear, with all its parameters trained."""
    if not all(p.requires_grad for p in module.parameters()):
        return False
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return plain and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def refuse_sharing(params: list[Tensor]) -> None:
    """Refuse parameters that stand in two layers.

    Raises:
        NotImplementedError: if one does.
    """
    if len({id(p) for p in params}) < len(params):
        raise NotImplementedError(
            "two layers share a parameter, so that their local problems are not separate; leave "
            "shared layers out (give their parameters as {'params': ...})"
        )
