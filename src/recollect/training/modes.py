"""A module in another mode for a while, and back in its own afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "frozen"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts into eval mode for a while."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode and switch off its gradients for a while."""
    asked = [(p, p.requires_grad) for p in module.parameters()]
    module.requires_grad_(False)
    try:
        with evaluating(module):
            yield
    finally:
        for p, wanted in asked:
            p.requires_grad_(wanted)
