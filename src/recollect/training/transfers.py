"""Transfer functions, their potentials, and which of them a network uses.

A monotone transfer function f is the derivative of a convex potential F; the *matching loss* of a
layer with pre-activation a and target t is F(a) - <t, a> (up to a constant), whose derivative is
f(a) - t whatever the potential.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Transfer", "following", "named", "transfer_of"]


@dataclass(frozen=True)
class Transfer:
    """A monotone function of a pre-activation and the potential it is the derivative of.

    Attributes:
        name: e.g. ``"tanh"``; two layers of one name can be updated together.
        apply: f; may overwrite its argument.
        potential: F, summed over the last axis where f couples it, else elementwise.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    potential: Callable[[Tensor], Tensor]

    @property
    def is_identity(self) -> bool:
        """Whether the matching loss is the squared loss."""
        return self.name == "identity"


def _log_cosh(a: Tensor) -> Tensor:
    return a.abs() + F.softplus(-2 * a.abs()) - math.log(2)


def _softplus_potential(a: Tensor, beta: float) -> Tensor:
    """Integral of softplus from 0, by quadrature: it has no elementary form (a dilogarithm)."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    total = torch.zeros_like(a)
    for node, weight in zip(nodes, weights, strict=True):
        total += float(weight / 2) * F.softplus(a * float((node + 1) / 2), beta)
    return a * total


def _elu_potential(a: Tensor, alpha: float) -> Tensor:
    low = a.clamp_max(0)
    return torch.where(a > 0, a * a / 2, alpha * (torch.expm1(low) - low))


IDENTITY = Transfer("identity", lambda a: a, lambda a: a * a / 2)
TANH = Transfer("tanh", torch.tanh_, _log_cosh)
SIGMOID = Transfer("sigmoid", torch.sigmoid_, F.softplus)
RELU = Transfer("relu", torch.relu_, lambda a: a.clamp_min(0) ** 2 / 2)


def _softmax(dim: int) -> Transfer:
    return Transfer(
        f"softmax({dim})", lambda a: a.softmax(dim), lambda a: a.logsumexp(dim, keepdim=True)
    )


def _leaky(slope: float) -> Transfer:
    return Transfer(
        f"leaky_relu({slope})",
        lambda a: F.leaky_relu_(a, slope),
        lambda a: a * F.leaky_relu(a, slope) / 2,
    )


def named(name: str, channel_dim: int = -1) -> Transfer:
    """Return the transfer function of a loss: ``"identity"``, ``"sigmoid"`` or ``"softmax"``.

    Raises:
        ValueError: for another name.

    >>> named("sigmoid").apply(torch.zeros(2))
    tensor([0.5000, 0.5000])
    """
    known = {"identity": IDENTITY, "tanh": TANH, "sigmoid": SIGMOID, "relu": RELU}
    if name == "softmax":
        return _softmax(channel_dim)
    if name not in known:
        options = ", ".join(map(repr, [*known, "softmax"]))
        raise ValueError(f"a transfer function is one of {options}, got {name!r}")
    return known[name]


def transfer_of(module: nn.Module) -> Transfer | None:
    """Return the transfer function of an activation module, or None if it is not a monotone one.

    >>> transfer_of(nn.Tanh()).name, transfer_of(nn.GELU())
    ('tanh', None)
    """
    plain = {nn.Tanh: TANH, nn.Sigmoid: SIGMOID, nn.ReLU: RELU, nn.Identity: IDENTITY}
    found = plain.get(type(module))
    if found is not None:
        return found
    if isinstance(module, nn.LeakyReLU) and module.negative_slope > 0:
        return _leaky(float(module.negative_slope))
    if isinstance(module, nn.ELU) and module.alpha > 0:
        alpha = float(module.alpha)
        return Transfer(
            f"elu({alpha})", lambda a: F.elu_(a, alpha), lambda a: _elu_potential(a, alpha)
        )
    if isinstance(module, nn.Softplus):
        beta = float(module.beta)
        return Transfer(
            f"softplus({beta})",
            lambda a: F.softplus(a, beta),
            lambda a: _softplus_potential(a, beta),
        )
    if isinstance(module, nn.Softmax) and module.dim is not None:
        return _softmax(module.dim)
    return None


# What passes values on unchanged, as far as a transfer function is concerned.
_TRANSPARENT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def following(model: nn.Module) -> dict[nn.Module, nn.Module | None]:
    """Map each layer that stands in an ``nn.Sequential`` to the module that follows it.

    Nested Sequentials are read as one; None means that nothing follows.
    """
    found: dict[nn.Module, nn.Module | None] = {}
    inner = {c for m in model.modules() if isinstance(m, nn.Sequential) for c in m.children()}
    for module in model.modules():
        if isinstance(module, nn.Sequential) and module not in inner:
            flat = [m for m in _flat(module) if not isinstance(m, _TRANSPARENT)]
            for here, then in zip(flat, [*flat[1:], None], strict=True):
                if isinstance(here, _LAYERS):
                    # A layer that feeds another layer directly is linear.
                    found[here] = nn.Identity() if isinstance(then, _LAYERS) else then
    return found


def _flat(module: nn.Sequential) -> Iterator[nn.Module]:
    for child in module:
        if isinstance(child, nn.Sequential):
            yield from _flat(child)
        else:
            yield child
