"""Choosing what to learn from: few rows, or few labels, that do the work of all.

    from recollect.selection import IWeS
    chosen = IWeS("entropy").select(100, probabilities=p, chosen=labelled, seed=0)
    chosen.indices, chosen.weights        # label these, train with these weights
    chosen.mean(losses)                   # what they say about the whole pool, with its error

Of use without any memory. Every strategy (``IWeS`` and its rivals ``Random``, ``Uncertain``,
``Badge``, ``KCenter``, ``FacilityLocation``) has the same ``select``; ``grow`` is the loop of
training and choosing for any model, ``SubsetClassifier`` the same loop as a scikit-learn
estimator, ``WeightedSubset`` and ``WeightedLoss`` carry the weights into a torch training loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recollect._late import late_names

if TYPE_CHECKING:
    from recollect.selection.chosen import Selection
    from recollect.selection.coverage import FacilityLocation, KCenter
    from recollect.selection.criteria import disagreement, entropy, least_confidence, margin
    from recollect.selection.estimator import SubsetClassifier
    from recollect.selection.growing import Round, grow
    from recollect.selection.iwes import IWeS
    from recollect.selection.rivals import Badge, Random, Uncertain
    from recollect.selection.weighted import WeightedLoss, WeightedSubset

_WHERE = {
    "Badge": "recollect.selection.rivals",
    "FacilityLocation": "recollect.selection.coverage",
    "IWeS": "recollect.selection.iwes",
    "KCenter": "recollect.selection.coverage",
    "Random": "recollect.selection.rivals",
    "Round": "recollect.selection.growing",
    "Selection": "recollect.selection.chosen",
    "SubsetClassifier": "recollect.selection.estimator",
    "Uncertain": "recollect.selection.rivals",
    "WeightedLoss": "recollect.selection.weighted",
    "WeightedSubset": "recollect.selection.weighted",
    "disagreement": "recollect.selection.criteria",
    "entropy": "recollect.selection.criteria",
    "grow": "recollect.selection.growing",
    "least_confidence": "recollect.selection.criteria",
    "margin": "recollect.selection.criteria",
}

__all__ = [
    "Badge",
    "FacilityLocation",
    "IWeS",
    "KCenter",
    "Random",
    "Round",
    "Selection",
    "SubsetClassifier",
    "Uncertain",
    "WeightedLoss",
    "WeightedSubset",
    "disagreement",
    "entropy",
    "grow",
    "least_confidence",
    "margin",
]

__getattr__, __dir__ = late_names(__name__, _WHERE, __all__)
