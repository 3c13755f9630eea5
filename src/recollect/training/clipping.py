"""Stochastic gradient descent whose clip is relative to the size of the weights.

Where the loss does not change when all weights x are multiplied by a number, gradients are
orthogonal to x and shrink as x grows. Weight decay then drives ||x|| to an equilibrium at which
||g|| = sqrt(2 decay / lr) ||x||: the smallest sensible threshold. Only bursts are clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from recollect._checks import check_one_of

__all__ = ["RelativeClipSGD", "equilibrium_norm"]


def equilibrium_norm(sigma: float, lr: float, weight_decay: float) -> float:
    """Return the norm at which decay and gradients balance for a scale-invariant loss.

    ||x||^2 = sigma sqrt(lr / (decay (2 - lr decay))), with sigma the gradient's norm at unit
    weights; reached in O(1 / (lr decay)) steps. The effective learning rate lr / ||x||^2 is then
    about sqrt(2 lr decay) / sigma: only the product of the two dials matters.

    Args:
        sigma: norm of the gradient at x / ||x||.
        lr: learning rate.
        weight_decay: decoupled.

    Raises:
        ValueError: unless all are positive and ``lr * weight_decay < 2``.

    >>> round(equilibrium_norm(1.0, 0.02, 0.01), 6)
    1.000025
    """
    if not (sigma > 0 and lr > 0 and weight_decay > 0 and lr * weight_decay < 2):
        raise ValueError(
            "expected positive sigma, lr and weight_decay with lr * weight_decay < 2, got "
            f"{sigma}, {lr} and {weight_decay}"
        )
    return math.sqrt(sigma * math.sqrt(lr / (weight_decay * (2 - lr * weight_decay))))


class RelativeClipSGD(Optimizer):
    r"""SGD with decoupled weight decay and a clip relative to the norm of the weights.

    With learning rate eta and decay lambda, x all parameters of a scope concatenated:

        g <- g min(1, clip sqrt(2 lambda / eta) ||x|| / ||g||)
        x <- (1 - eta lambda) x - eta g

    There is no state at all, and no wait for the device.

    Args:
        params: parameters or groups; each group may set ``lr``, ``weight_decay``, ``clip`` and
            ``scope``.
        lr: eta; a scheduler that changes it moves the threshold too.
        weight_decay: lambda.
        clip: sqrt(C), at least 1; None switches clipping off.
        scope: ``"global"`` (norms over all groups with this scope), ``"group"`` (over the group
            alone), or ``"none"`` (never clipped: for parameters that are not scale invariant).

    Raises:
        ValueError: for a number out of range, or a clip without weight decay (it would be 0).

    Reference: Robust Training of Neural Networks Using Scale Invariant Architectures (Li,
    Bhojanapalli, Zaheer, Reddi, Kumar, 2022)

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = RelativeClipSGD([x], lr=0.5, weight_decay=0.01, clip=2.0)
        >>> x.grad = torch.tensor([-80.0, 60.0])
        >>> optimizer.step()
        >>> optimizer.last_clip_coef  # 2 sqrt(2 * .01 / .5) * 5 / 100
        0.019999999552965164
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 1e-2,
        *,
        clip: float | None = 2.0,
        scope: str = "global",
    ) -> None:
        self._coef: list[Tensor] = []
        self._clipped: Tensor | None = None
        self._steps = 0
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "clip": clip, "scope": scope}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after a look at its numbers.

        Raises:
            ValueError: for a number out of range.
        """
        group = {**self.defaults, **param_group}
        check_one_of("scope", group["scope"], ("global", "group", "none"))
        if not (group["lr"] > 0 and math.isfinite(float(group["lr"]))):
            raise ValueError(f"lr must be positive, got {group['lr']}")
        if not group["weight_decay"] >= 0:
            raise ValueError(f"weight_decay must not be negative, got {group['weight_decay']}")
        if group["clip"] is not None and group["scope"] != "none":
            if not group["clip"] >= 1:
                raise ValueError(
                    f"clip is sqrt(C) and must be at least 1 (or None), got {group['clip']}: "
                    "below it even the gradients of the equilibrium would be cut"
                )
            if group["weight_decay"] == 0:
                raise ValueError(
                    "the clip is relative to sqrt(weight_decay) and would be 0; give a positive "
                    "weight_decay, or clip=None"
                )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the closure returned, if there is one.

        Raises:
            TypeError: for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = [_with_gradients(group) for group in self.param_groups]
        shared = _joint([e for e, g in zip(everything, self.param_groups, strict=True)
                         if g["scope"] == "global" and g["clip"] is not None])  # fmt: skip
        norms = _norms(*shared) if shared[0] else None
        self._coef = []
        for group, (params, grads) in zip(self.param_groups, everything, strict=True):
            if not params:
                continue
            eta, decay = group["lr"], group["weight_decay"]
            coef = None
            if group["clip"] is not None and group["scope"] != "none":
                own = _norms(params, grads) if group["scope"] == "group" else norms
                assert own is not None
                x, g = own
                threshold = group["clip"] * (2 * decay / eta) ** 0.5 * x
                # 0 / 0 is no reason to clip; a gradient that is not finite stays visible.
                coef = torch.where(g > threshold, threshold / g, torch.ones_like(g))
                self._coef.append(coef)
            _update(params, grads, float(eta), float(decay), coef)
        if self._coef:
            cut = (torch.stack([c.to(self._coef[0].device) for c in self._coef]) < 1).any()
            self._clipped = cut.long() if self._clipped is None else self._clipped + cut
        self._steps += 1
        return loss

    @property
    def last_clip_coef(self) -> float:
        """Least factor on a gradient in the last step; 1 if none was cut."""
        return min((float(c) for c in self._coef), default=1.0)

    @property
    def clip_rate(self) -> float:
        """Share of steps, since the optimiser was made, in which a gradient was cut."""
        return 0.0 if self._clipped is None else int(self._clipped) / self._steps


def _with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    if any(g.is_sparse for g in grads):
        raise TypeError(
            "RelativeClipSGD needs dense gradients, got sparse ones; build the embedding with "
            "sparse=False"
        )
    return params, grads


def _joint(parts: list[tuple[list[Tensor], list[Tensor]]]) -> tuple[list[Tensor], list[Tensor]]:
    return [p for part in parts for p in part[0]], [g for part in parts for g in part[1]]


def _norms(params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Norms of the concatenated parameters and gradients, on the device of the first."""
    x, g = (_norm(part) for part in (params, grads))
    return x, g


def _norm(tensors: list[Tensor]) -> Tensor:
    each = torch._foreach_norm(tensors)
    joined: Tensor = torch.linalg.vector_norm(torch.stack([n.to(each[0].device) for n in each]))
    return joined


def _update(
    params: list[Tensor], grads: list[Tensor], eta: float, decay: float, coef: Tensor | None
) -> None:
    if decay:
        torch._foreach_mul_(params, 1 - eta * decay)
    if coef is None:
        torch._foreach_add_(params, grads, alpha=-eta)
    elif coef.device.type == "cpu" and params[0].device.type == "cpu":
        torch._foreach_add_(params, grads, alpha=-eta * float(coef))
    else:  # the factor stays on the device: nobody waits
        scales = [-eta * coef.to(p.device, p.dtype) for p in params]
        torch._foreach_addcmul_(params, grads, scales)
