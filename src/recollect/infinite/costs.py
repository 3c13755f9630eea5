"""What computations cost: free memory, and which way to an empirical tangent kernel is cheaper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["cheaper_way", "free_memory"]

# A product step is many small operations: it must save more than this factor.
HANDICAP = 2.0


def free_memory(device: torch.device) -> int:
    """Return free memory in bytes, a huge number where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62


def cheaper_way(
    model: nn.Module, parameters: Mapping[str, Tensor], x1: Tensor, x2: Tensor
) -> Literal["jacobian", "product"]:
    """Say how to get the full kernel (n1, n2, O, O) of a finite network with less work.

    With P parameters, O outputs and F operations for one example forward, contracting Jacobians
    takes about ``2 n1 n2 O^2 P + 4 (n1 + n2) O F`` operations and ``(n1 + n2) O P`` numbers of
    memory; kernel-vector products take ``2 n2 O (n1 + 2) F`` and little memory.

    Args:
        model: the network.
        parameters: by name.
        x1: (n1, ...).
        x2: (n2, ...).

    Example:
        >>> deep = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 50))
        >>> p = {k: v.detach() for k, v in deep.named_parameters()}
        >>> cheaper_way(deep, p, torch.ones(9, 4), torch.ones(9, 4))
        'product'
    """
    forward, count = _forward_cost(model, parameters, x1[:1])
    numbers = sum(v.numel() for v in parameters.values())
    n1, n2 = len(x1), len(x2)
    contracted = 2 * n1 * n2 * count**2 * numbers + 4 * (n1 + n2) * count * forward
    multiplied = 2 * n2 * count * (n1 + 2) * forward
    held = (n1 + n2) * count * numbers * x1.element_size()
    if multiplied * HANDICAP < contracted or 2 * held > free_memory(x1.device):
        return "product"
    return "jacobian"


def _forward_cost(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor
) -> tuple[int, int]:
    """Return operations of one example forward, two per weight and place, and its outputs."""
    total = 0

    def hook(module: nn.Module, args: Any, out: Any) -> None:
        nonlocal total
        weights = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(out, Tensor) and weights:
            channels = getattr(module, "out_channels", out.shape[-1])
            total += 2 * weights * max(1, out.numel() // max(1, channels))

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    try:
        with torch.no_grad():
            out: Tensor = functional_call(model, dict(parameters), (x,))
    finally:
        for handle in handles:
            handle.remove()
    return max(total, 1), out.numel()
