"""Training that knows the architecture: optimisers and layers for ordinary PyTorch code."""

from __future__ import annotations

from recollect.training.locoprop import LocoProp

__all__ = ["LocoProp"]
