"""Learning from experience in a better order than that of time or of chance."""

from __future__ import annotations

from recollect.replay.hindsight import hindsight
from recollect.replay.introspection import MODES, IntrospectiveSampler
from recollect.replay.oracles import RecursiveLeastSquares, ols, quasi_newton_glm, sgd, sgd_er
from recollect.replay.qrex import QRex, Transitions
from recollect.replay.remembered import MemorySampler, Remembered
from recollect.replay.reverse import SGDRER, Diverged
from recollect.replay.ring import Batch, TransitionRing
from recollect.replay.samplers import ReverseBufferSampler
from recollect.replay.surprise import td_errors, td_targets
from recollect.replay.systems import random_system, simulate_glm, simulate_lti

__all__ = [
    "MODES",
    "SGDRER",
    "Batch",
    "Diverged",
    "IntrospectiveSampler",
    "MemorySampler",
    "QRex",
    "RecursiveLeastSquares",
    "Remembered",
    "ReverseBufferSampler",
    "TransitionRing",
    "Transitions",
    "hindsight",
    "ols",
    "quasi_newton_glm",
    "random_system",
    "sgd",
    "sgd_er",
    "simulate_glm",
    "simulate_lti",
    "td_errors",
    "td_targets",
]
