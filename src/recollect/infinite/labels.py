"""From a kernel and a few yes-or-no labels to probabilities with uncertainty, in closed form.

Labels y of +1 and -1 are regressed by a Gaussian process with the kernel of an infinitely wide
network, ``f ~ GP(b, a K)``, ``y = f + noise``; the probability of yes is ``Phi(c (f - t))``. With
mean m and variance v of f at an input::

    estimate = E[Phi(c (f - t))] = Phi(c (m - t) / sqrt(1 + c^2 v))
    low, high = Phi(c (m - t -+ z sqrt(v)))

The amplitude a and the noise are those of the largest evidence; the slope c and the threshold t
are those that predict every label best from all others (leave-one-out, in closed form).

Shape letters: N labelled inputs, M others.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recollect._answers import Z90
from recollect._linalg import factor

__all__ = ["LabelFit", "Probabilities", "fit_labels"]

AMPLITUDES = (0.25, 1.0, 4.0, 16.0)
NOISES = (0.03, 0.1, 0.3, 1.0)
SLOPES = tuple(math.exp(v / 4) for v in range(-6, 11))
THRESHOLDS = tuple(v / 10 for v in range(-9, 10))
# Before any label: a slope of about 2, within a factor of three, and a threshold of about 0.
USUAL_SLOPE, SLOPE_SPREAD, THRESHOLD_SPREAD = 2.0, 1.0, 0.6


class Probabilities(NamedTuple):
    """Probability of yes, and the ends of its 90 % interval, each (M,)."""

    estimate: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class LabelFit:
    """A Gaussian process that has seen the labels.

    Made by :func:`fit_labels`.

    Args:
        offset: b, mean of f before any label.
        amplitude: a, which multiplies the kernel.
        noise: variance of a label given f.
        slope: c.
        threshold: t.
        inverse: ``(a K + noise)^-1``, (N, N).
        weights: the same times ``y - b``, (N,).
    """

    offset: float
    amplitude: float
    noise: float
    slope: float
    threshold: float
    inverse: Tensor
    weights: Tensor

    def latent(self, cross: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of f.

        Args:
            cross: kernel with the labelled inputs, (M, N).
            own: kernel of each input with itself, (M,).
        """
        side = self.amplitude * cross
        mean = self.offset + side @ self.weights
        known = ((side @ self.inverse) * side).sum(1)
        return mean, (self.amplitude * own - known).clamp_min(0)

    def probabilities(self, mean: Tensor, variance: Tensor) -> Probabilities:
        """Return estimate, low and high from mean and variance of f, (M,) each."""
        half, above = Z90 * variance.sqrt(), mean - self.threshold
        estimate = _phi(self.slope * above / (1 + self.slope**2 * variance).sqrt())
        # A very skewed probability has its mean outside its own quantiles; then it is the end.
        low = torch.minimum(_phi(self.slope * (above - half)), estimate)
        high = torch.maximum(_phi(self.slope * (above + half)), estimate)
        return Probabilities(estimate, low, high)

    def sharpness(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the derivative of the estimate by the mean, (M,)."""
        below = (1 + self.slope**2 * variance).sqrt()
        z = self.slope * (mean - self.threshold) / below
        return self.slope * torch.exp(-0.5 * z * z) / (below * math.sqrt(2 * math.pi))

    def gain(
        self, judged: Tensor, chosen: Tensor, between: Tensor, own: Tensor, weight: Tensor
    ) -> Tensor:
        """Return by how much each further label would lower the variance of probabilities.

        A label at x* lowers the variance of f(x) by ``cov(x, x*)^2 / (v(x*) + noise)``, whatever
        it turns out to be. That, times the squared weight at x, averaged over judged inputs.

        Args:
            judged: kernel of M judged inputs with the labelled ones, (M, N).
            chosen: of L inputs that might be labelled, (L, N).
            between: kernel between both, (M, L).
            own: kernel of each of the L inputs with itself, (L,).
            weight: :meth:`sharpness` at the judged inputs, (M,).

        Returns:
            (L,).
        """
        known = (self.amplitude * judged) @ self.inverse @ (self.amplitude * chosen).T
        covariance = (self.amplitude * between - known) * weight[:, None]
        _, variance = self.latent(chosen, own)
        return covariance.square().mean(0) / (variance + self.noise)


def _phi(z: Tensor) -> Tensor:
    """Return the distribution function of a standard normal number."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def fit_labels(
    kernel: Tensor, labels: Tensor, *, offset: float | None = None, doubt: Tensor | None = None
) -> LabelFit:
    """Return the process that has seen the labels, with constants chosen from them.

    Args:
        kernel: between the labelled inputs, (N, N) float64, diagonal about 1.
        labels: +1 and -1, (N,).
        offset: b; default: the labels' mean, drawn to 0 as by two labels more.
        doubt: how many times the noise each label has, (N,); default: once.

    Raises:
        ValueError: if labels are not +1 or -1, or do not fit the kernel.

    Example:
        >>> k = torch.tensor([[1.0, 0.1], [0.1, 1.0]], dtype=torch.float64)
        >>> fit = fit_labels(k, torch.tensor([1.0, -1.0], dtype=torch.float64))
        >>> p = fit.probabilities(*fit.latent(k, k.diagonal()))
        >>> bool(p.estimate[0] > 0.6), bool(p.estimate[1] < 0.4)
        (True, True)
    """
    if kernel.shape != (len(labels), len(labels)) or not bool((labels.abs() == 1).all()):
        raise ValueError(
            f"labels must be +1 or -1, one for each row of the kernel; got {tuple(labels.shape)} "
            f"labels and a kernel of shape {tuple(kernel.shape)}"
        )
    b = float(labels.sum()) / (len(labels) + 2) if offset is None else offset
    widened = torch.ones_like(labels) if doubt is None else doubt
    y = labels - b
    best: tuple[float, float, float] | None = None
    for amplitude, noise in itertools.product(AMPLITUDES, NOISES):
        solved = factor(amplitude * kernel + torch.diag(noise * widened))
        evidence = float(-0.5 * (y @ solved.solve(y)) - 0.5 * solved.log_determinant())
        if best is None or evidence > best[0]:
            best = (evidence, amplitude, noise)
    assert best is not None
    _, amplitude, noise = best
    system = factor(amplitude * kernel + torch.diag(noise * widened))
    inverse = system.solve(torch.eye(len(y), dtype=kernel.dtype, device=kernel.device))
    weights = inverse @ y
    slope, threshold = _calibration(labels, weights, inverse, noise * widened)
    return LabelFit(b, amplitude, noise, slope, threshold, inverse, weights)


def _calibration(
    labels: Tensor, weights: Tensor, inverse: Tensor, noise: Tensor
) -> tuple[float, float]:
    """Return slope and threshold of least log loss when labels are predicted from the others.

    Labels are smoothed as by half a label more of each kind, so that few separable ones claim no
    certainty, and few labels leave both constants where they usually are.
    """
    spread = 1 / inverse.diagonal()
    mean = labels - weights * spread
    variance = (spread - noise).clamp_min(0)
    yes = labels > 0
    above, below = int(yes.sum()), int((~yes).sum())
    target = torch.where(yes, (above + 0.5) / (above + 1), 0.5 / (below + 1)).to(mean)
    best: tuple[float, float, float] | None = None
    for c, t in itertools.product(SLOPES, THRESHOLDS):
        p = _phi(c * (mean - t) / (1 + c * c * variance).sqrt()).clamp(1e-9, 1 - 1e-9)
        unusual = (math.log(c / USUAL_SLOPE) / SLOPE_SPREAD) ** 2 + (t / THRESHOLD_SPREAD) ** 2
        loss = float(-(target * p.log() + (1 - target) * (1 - p).log()).sum()) + 0.5 * unusual
        if best is None or loss < best[0]:
            best = (loss, c, t)
    assert best is not None
    return best[1], best[2]
