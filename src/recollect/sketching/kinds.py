"""Kinds of attributes: dense, sparse or discrete, as the glances of a prior show them.

* *discrete*: the attribute is one of a limited number of words, nearly all of which have been
  seen: by Good and Turing's estimate, the chance that the next one is new is the share of
  objects whose attribute was seen only once;
* *sparse*: most of the numbers are exactly zero;
* *dense*: everything else.

Reference: "The population frequencies of species and the estimation of population parameters"
(Good, 1953).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KINDS", "kind_of", "share_unseen", "share_zero"]

KINDS = ("dense", "sparse", "discrete")
# Objects that must have been seen before attributes are called discrete or sparse.
LEAST_OBJECTS = 32
# Largest chance that the next attribute of a discrete module is a new one.
MOST_UNSEEN = 0.02
# Share of zeros from which attributes are sparse.
LEAST_ZEROS = 0.75
# Rows that are looked at before all are.
SAMPLE = 512


def kind_of(x: Tensor) -> str:
    """Return the kind of attributes: ``"dense"``, ``"sparse"`` or ``"discrete"``.

    Args:
        x: (n, m) attributes of one module, or of all members of a family.

    Example:
        >>> words = torch.randn(4, 3, generator=torch.manual_seed(0))
        >>> kind_of(words.repeat(20, 1)), kind_of(torch.eye(40)), kind_of(torch.randn(40, 3))
        ('discrete', 'sparse', 'dense')
    """
    if len(x) < LEAST_OBJECTS or x.shape[1] == 0 or bool((x == x[:1]).all()):
        return "dense"
    few = x[torch.linspace(0, len(x) - 1, min(len(x), SAMPLE)).round().to(torch.int64)]
    if share_unseen(few) <= 0.5 and share_unseen(x) <= MOST_UNSEEN:
        return "discrete"
    return "sparse" if share_zero(x) >= LEAST_ZEROS else "dense"


def share_unseen(x: Tensor) -> float:
    """Return the estimated chance that the next attribute is one never seen before.

    Args:
        x: (n, m); attributes that are equal as float16 are the same.
    """
    if len(x) == 0:
        return 1.0
    _, count = torch.unique(x.to(torch.float16), dim=0, return_counts=True)
    return float((count == 1).sum()) / len(x)


def share_zero(x: Tensor) -> float:
    """Return the share of numbers that are exactly zero."""
    return float((x == 0).to(torch.float64).mean()) if x.numel() else 0.0
