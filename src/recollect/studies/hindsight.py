"""Hindsight: sketches that were stored once are decoded better as more glances are known.

A small network reads scikit-learn's handwritten digits; its hidden layers are sketched once, at
several sizes. The same stored sketches are then decoded with priors of more and more glances. The
rival is PCA at equal bytes: its encoder must be fitted before anything is stored, on the glances
known by then, and stays as it is.

Shape letters: B glances, m numbers of a module, D all numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._answers import Answer
from recollect.sketching import Prior, Sketcher
from recollect.studies.digit_readers import trained_reader
from recollect.studies.pictures import digits
from recollect.tracing import Trace

__all__ = ["study"]

FloatArray = npt.NDArray[np.float64]
WIDTHS = (64, 256, 256, 128, 10)


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return median-module R2 on held-out digits: sketches with hindsight beside PCA.

    Args:
        quick: fewer sizes and a shorter training.
        data: not used; the digits come with scikit-learn.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    pictures, labels = digits(0)
    pictures = pictures.flatten(1)
    epochs = 15 if quick else 60
    network = trained_reader(WIDTHS, pictures[:800], labels[:800], epochs=epochs, rate=1e-3)
    learn, held = _hidden(network, pictures[:1300]), _hidden(network, pictures[1300:])
    first = 100  # glances known when storing begins: they fix the scales, and PCA's axes
    scales = {k: float(v[:first].std()) * v.shape[1] ** 0.5 for k, v in learn.items()}
    priors = (100, 1300) if quick else (100, 250, 500, 1300)
    rows: list[dict[str, Any]] = []
    for size in (128,) if quick else (64, 128, 256):
        sketcher = Sketcher(dim=size, dtype="int8", scales=scales)
        stored = sketcher.encode(Trace.from_columns(held))  # once
        for known in priors:
            prior = Prior.fit(Trace.from_columns({k: v[:known] for k, v in learn.items()}))
            decoded = sketcher.decode(stored, prior=prior)
            found = {k: decoded.objects(k).attributes for k in held}
            rows.append(
                {
                    "bytes": size + 2,
                    "glances known": known,
                    "sketch": _median_r2(held, found),
                    "PCA fixed at 100": _pca(learn, held, scales, first, size),
                    "PCA refitted": _pca(learn, held, scales, known, size),
                }
            )
    columns = {k: [r[k] for r in rows] for k in rows[0]}
    numbers = sum(v.shape[1] for v in held.values())
    return Answer(
        columns,
        title=f"median-module R2 of {numbers} hidden numbers on digits held out",
        notes=[
            "sketches were stored once, before the prior was known; 'PCA refitted' would need the "
            "glances themselves again, and shows what is possible",
            "with few bytes the fixed PCA stays ahead; hindsight pays where there is room for "
            "more than the first glances could show",
            "PCA: same module scaling, int8 codes, at most as many axes as bytes and glances",
        ],
    )


@torch.no_grad()
def _hidden(network: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Return the outputs of all rectified layers and the logits: name -> (B, m)."""
    found = {}
    for number, layer in enumerate(network):
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found[f"hidden{number // 2}"] = x
    return {**found, "logits": x}


def _median_r2(truth: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Return the median over modules of the variance explained."""
    scores = []
    for name, x in truth.items():
        rest = ((x - found[name]) ** 2).sum()
        total = ((x - x.mean(0)) ** 2).sum()
        scores.append(1 - float(rest / total))
    return float(np.median(scores))


def _pca(
    learn: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    scales: Mapping[str, float],
    known: int,
    size: int,
) -> float:
    """Return R2 of PCA fitted on the first ``known`` glances, codes kept as int8."""
    x = torch.cat([learn[k][:known] / scales[k] for k in held], 1).double()  # (B, D)
    y = torch.cat([held[k] / scales[k] for k in held], 1).double()
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh[: min(size, known - 1)]
    codes = (y - mean) @ axes.T
    step = codes.abs().amax(1, keepdim=True) / 127
    back = torch.round(codes / step) * step @ axes + mean
    sizes = [held[k].shape[1] for k in held]
    split = back.float().split(sizes, 1)
    return _median_r2(held, {k: v * scales[k] for k, v in zip(held, split, strict=True)})
