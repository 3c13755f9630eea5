"""Training that knows the architecture: optimisers and layers for ordinary PyTorch code.

``LocoProp`` turns one backward pass into a local problem per layer. ``RelativeClipSGD`` trains
scale-invariant networks without any optimiser memory; ``MaskedLanguageModel`` and its parts are
such networks, and ``scale_deviation`` tells whether a network is one.
"""

from __future__ import annotations

from recollect.training.bert import InvariantConfig
from recollect.training.checks import gradient_radiality, scale_deviation
from recollect.training.clipping import RelativeClipSGD, equilibrium_norm
from recollect.training.invariant import (
    MaskedLanguageModel,
    ScaleInvariantAttention,
    ScaleInvariantEncoder,
    ScaleInvariantEncoderLayer,
    split_parameters,
)
from recollect.training.locoprop import LocoProp

__all__ = [
    "InvariantConfig",
    "LocoProp",
    "MaskedLanguageModel",
    "RelativeClipSGD",
    "ScaleInvariantAttention",
    "ScaleInvariantEncoder",
    "ScaleInvariantEncoderLayer",
    "equilibrium_norm",
    "gradient_radiality",
    "scale_deviation",
    "split_parameters",
]
