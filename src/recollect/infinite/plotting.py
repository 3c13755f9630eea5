"""Pictures of training: the infinite ensemble, and a finite one laid over it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recollect.infinite.ensembles import History
from recollect.infinite.predict import Ensemble

try:
    from matplotlib import pyplot
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError("plot_training needs matplotlib: pip install 'recollect[demo]'") from error

__all__ = ["plot_training"]


def plot_training(
    fit: Ensemble,
    x_test: Tensor,
    times: Tensor,
    *,
    history: History | None = None,
    y_test: Tensor | None = None,
    axes: Any = None,
) -> Any:
    """Draw the loss over time, and for inputs of one number the function with two deviations.

    Args:
        fit: the infinite ensemble.
        x_test: (M, ...); where it has one number per input the function is drawn over it.
        times: (T,), of the loss curves; the function is drawn at the last.
        history: of a finite ensemble trained on the same data, drawn dashed.
        y_test: targets at the test inputs, for a test loss.
        axes: two matplotlib axes; default: a new figure.

    Returns:
        The matplotlib figure.
    """
    if axes is None:
        _, axes = pyplot.subplots(1, 2, figsize=(10, 3.5))
    left, right = axes
    values = [("train", fit.predict(None, t=times), fit.y)]
    if y_test is not None:
        values.append(("test", fit.predict(x_test, t=times), y_test))
    for name, prediction, y in values:
        assert prediction.mean is not None
        mean = prediction.mean.double()
        target = y.double().reshape(mean.shape[1:])
        # The expected loss of one network is bias squared plus variance.
        bias = ((mean - target) ** 2).flatten(1).mean(1)
        loss = 0.5 * (bias + (prediction.std.double() ** 2).mean(-1))
        left.plot(times, loss, label=f"infinite, {name}")
    if history is not None:
        loss = history.train_loss.mean(1)
        left.plot(history.times, loss, "k--", label=f"{history.train.shape[1]} networks, train")
    left.set(xscale="symlog", yscale="log", xlabel="time", ylabel="expected loss")
    left.legend()
    _draw_function(right, fit, x_test, float(times[-1]), history)
    return left.figure


def _draw_function(
    axis: Any, fit: Ensemble, x_test: Tensor, time: float, history: History | None
) -> None:
    """Draw mean and two deviations at one time."""
    prediction = fit.predict(x_test, t=time)
    assert prediction.mean is not None
    mean = prediction.mean.reshape(len(x_test), -1)[:, 0]
    std = prediction.std
    place = x_test.reshape(len(x_test), -1)
    line = place[:, 0] if place.shape[1] == 1 else torch.arange(len(x_test))
    order = line.argsort()
    line, mean, std = line[order], mean[order], std[order]
    axis.plot(line, mean, label="infinite: mean")
    axis.fill_between(line, mean - 2 * std, mean + 2 * std, alpha=0.25, label="2 deviations")
    if history is not None and history.test is not None:
        middle = history.mean()[-1][order, 0]
        spread = history.variance()[-1][order, 0].sqrt()
        axis.plot(line, middle, "k--", label="networks: mean, 2 deviations")
        for sign in (-2, 2):
            axis.plot(line, middle + sign * spread, "k:", linewidth=1)
    if fit.x.reshape(len(fit.x), -1).shape[1] == 1:
        axis.plot(fit.x.flatten(), fit.y[:, 0], "r.", label="training data")
    axis.set(xlabel="input" if place.shape[1] == 1 else "test input", ylabel="output")
    axis.legend()
