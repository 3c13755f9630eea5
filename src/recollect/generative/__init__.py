"""Generating: semi-supervised models of images and classes, and what normalisation does to them.

    from recollect.generative import ConvM2, fit
    model = ConvM2((1, 28, 28), norm_encoder="batch", class_embedding_dim=16)
    fit(model, x, y, epochs=10)      # y: -1 where the class is unknown
    model.classify(x), model.generate(torch.tensor([3, 3])), model.reconstruct(x)

Of use without any memory; with one, ``glance_columns`` makes its class and latent an object and
an attribute of a glance.
"""

from __future__ import annotations

from recollect.generative.bounds import M2
from recollect.generative.diagnostics import (
    Dependence,
    GradientCorrelation,
    decoder_dependence,
    decoder_jacobian,
    gradient_correlation,
)
from recollect.generative.fitting import Epoch, Judged, evaluate, fit, sweep
from recollect.generative.glancing import glance_columns
from recollect.generative.model import ConvM2, DenseM2
from recollect.generative.similarity import (
    class_similarity,
    context_similarity,
    gated_similarity,
    rotate,
)
from recollect.generative.stacking import posterior
from recollect.generative.subspace import Path, Spectrum

__all__ = [
    "M2",
    "ConvM2",
    "DenseM2",
    "Dependence",
    "Epoch",
    "GradientCorrelation",
    "Judged",
    "Path",
    "Spectrum",
    "class_similarity",
    "context_similarity",
    "decoder_dependence",
    "decoder_jacobian",
    "evaluate",
    "fit",
    "gated_similarity",
    "glance_columns",
    "gradient_correlation",
    "posterior",
    "rotate",
    "sweep",
]
