"""Training that knows the architecture: optimisers and layers for ordinary PyTorch code.

``LocoProp`` turns one backward pass into a local problem per layer. ``RelativeClipSGD`` trains
scale-invariant networks without any optimiser memory; ``MaskedLanguageModel`` and its parts are
such networks, and ``scale_deviation`` tells whether a network is one. ``FRRHead`` makes a head
carry every feature; ``DAFT`` fine-tunes a teacher on adversarial examples and distils it.
"""

from __future__ import annotations

from recollect.training.adversarial import Attack, adversarial_examples, adversarial_finetune
from recollect.training.bert import InvariantConfig
from recollect.training.checks import gradient_radiality, scale_deviation
from recollect.training.clipping import RelativeClipSGD, equilibrium_norm
from recollect.training.distillation import DAFT, DAFTConfig, DistillationLoss
from recollect.training.domains import image_folder_domains, leave_one_domain_out
from recollect.training.dominoes import (
    Dominoes,
    FeatureReplication,
    feature_replication_report,
)
from recollect.training.head_training import (
    fixed_linear_finetune,
    train_frr_linear,
)
from recollect.training.invariant import (
    MaskedLanguageModel,
    ScaleInvariantAttention,
    ScaleInvariantEncoder,
    ScaleInvariantEncoderLayer,
    split_parameters,
)
from recollect.training.locoprop import LocoProp
from recollect.training.reconstruction import FRRHead

__all__ = [
    "DAFT",
    "Attack",
    "DAFTConfig",
    "DistillationLoss",
    "Dominoes",
    "FRRHead",
    "FeatureReplication",
    "InvariantConfig",
    "LocoProp",
    "MaskedLanguageModel",
    "RelativeClipSGD",
    "ScaleInvariantAttention",
    "ScaleInvariantEncoder",
    "ScaleInvariantEncoderLayer",
    "adversarial_examples",
    "adversarial_finetune",
    "equilibrium_norm",
    "feature_replication_report",
    "fixed_linear_finetune",
    "gradient_radiality",
    "image_folder_domains",
    "leave_one_domain_out",
    "scale_deviation",
    "split_parameters",
    "train_frr_linear",
]
