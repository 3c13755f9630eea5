"""Regression on plain linear sketches: the important dimensions, from weights never seen.

Real data with a known answer: every column of a scikit-learn data set stands beside shuffled
copies of all columns, which have the same values and mean nothing. Examples are sketched one by
one, ``y = A x``, and thrown away; a regression is fitted on the sketches and its weights are
taken back through A. Of the dimensions it weighs most, how many are real? Beside it: the same
regression on all numbers, on as many principal components, and the products of sketches and
targets alone (``moment``: no regression at all).

Shape letters: B examples, n numbers of an example, d of a sketch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer
from recollect.sketching.linear import LinearSketch, SketchedRegression

__all__ = ["study", "with_copies"]

RIDGE = 0.1
# Data set -> shuffled copies of its columns, and how many important dimensions are asked for.
SETS = {"diabetes": (31, 4), "digits: is it a 0?": (19, 10), "digits: is it a 3?": (19, 10)}


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how many of the important dimensions are real, and R2 on examples held out.

    Args:
        quick: fewer seeds and sizes.
        data: not used; the data come with scikit-learn.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    rows: list[dict[str, Any]] = []
    seeds = range(3 if quick else 10)
    for name, (copies, asked) in SETS.items():
        x, t = _read(name)
        for dim in (128, 256) if quick else (64, 128, 256, 512):
            found = [_judge(x, t, copies, asked, dim, seed) for seed in seeds]
            for method in found[0]:
                shares = np.array([f[method] for f in found])  # (seeds, 2)
                rows.append(
                    {"data": name, "n": x.shape[1] * (copies + 1), "d": dim, "method": method,
                     "real": shares[:, 0].mean(), "sd": shares[:, 0].std(ddof=1),
                     "R2 held out": shares[:, 1].mean()}
                )  # fmt: skip
    asked_of = ", ".join(f"{k} of {name}" for name, (_, k) in SETS.items())
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="share of the most important dimensions that are real, not shuffled copies",
        notes=[
            f"most important: {asked_of}; by chance 3 % and 5 % would be real",
            "full: ridge regression on all n numbers; components: on d principal components; "
            "sketch: on y = A x; moment: largest entries of A' sum t y",
        ],
    )


def with_copies(x: Tensor, copies: int, seed: int) -> Tensor:
    """Return x beside copies of it, each with its rows in another order: (B, n (copies + 1))."""
    rng = np.random.default_rng([3, seed])
    return torch.cat(
        [x, *(x[torch.from_numpy(rng.permutation(len(x)))] for _ in range(copies))], 1
    )


def _read(name: str) -> tuple[Tensor, Tensor]:
    """Return examples and targets of unit deviation."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads data of scikit-learn: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_diabetes() if name == "diabetes" else datasets.load_digits()
    x = torch.from_numpy(np.asarray(found.data, dtype=np.float32))
    x = x[:, x.std(0) > 0.1 * x.std()]
    t = torch.from_numpy(np.asarray(found.target, dtype=np.float32))
    if name != "diabetes":
        t = (t == int(name[-2])).float()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    return ((x - x.mean(0)) / x.std(0))[order], ((t - t.mean()) / t.std())[order]


def _judge(
    x: Tensor, t: Tensor, copies: int, asked: int, dim: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return for each method the share of real dimensions and R2 on the last fifth."""
    wide = with_copies(x, copies, seed)
    cut = len(x) * 4 // 5
    learn, held = wide[:cut], wide[cut:]
    sketch = LinearSketch(wide.shape[1], dim, seed=seed)
    fitted = SketchedRegression.of(sketch(learn), t[:cut])
    moment = sketch.transpose(fitted.moment[:-1].float())
    methods = {
        "full": _ridge(learn, t[:cut]),
        "components": _on_components(learn, t[:cut], dim),
        "sketch": fitted.weights(sketch, RIDGE),
        "moment": moment,
    }
    v, b = fitted.fit(RIDGE)
    predicted = {
        "full": held @ methods["full"],
        "components": held @ methods["components"],
        "sketch": (sketch(held).double() @ v + b).float(),
        # One scale for all weights, which the moment alone does not tell.
        "moment": held @ (moment * _scale(learn @ moment, t[:cut])),
    }
    real = x.shape[1]
    return {
        name: (
            float((w.abs().topk(asked).indices < real).float().mean()),
            _r2(predicted[name], t[cut:]),
        )
        for name, w in methods.items()
    }


def _ridge(x: Tensor, t: Tensor) -> Tensor:
    gram = (x.T @ x).double()
    gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()))
    solved: Tensor = torch.linalg.solve(gram, (x.T @ t).double()).float()
    return solved


def _on_components(x: Tensor, t: Tensor, number: int) -> Tensor:
    """Weights of a regression on principal components, taken back to all dimensions."""
    axes = torch.linalg.svd(x, full_matrices=False).Vh[:number]
    weights: Tensor = axes.T @ _ridge(x @ axes.T, t)
    return weights


def _scale(predicted: Tensor, t: Tensor) -> float:
    return float((predicted @ t) / predicted.square().sum())


def _r2(predicted: Tensor, t: Tensor) -> float:
    rest: npt.NDArray[np.float32] = (t - predicted).numpy()
    return float(1 - np.square(rest).sum() / np.square((t - t.mean()).numpy()).sum())
