"""Eval mode for a while, whatever the mode before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["in_eval"]


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and into the mode that it was in at the end.

    Example:
        >>> model = nn.Dropout()
        >>> with in_eval(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
