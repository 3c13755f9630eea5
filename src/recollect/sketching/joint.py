"""The joint prior of a static network: ridge regression from sketch to attributes.

With U the (G, K) centred attributes of the prior's glances (scaled, all modules side by side) and
S = U A' their (G, d) centred sketches, the best linear estimate of a glance u from its sketch s is

    u = mean + U' S (S' S + ridge I)^-1 (s - mean sketch),

which is LMMSE under the sample covariance. The ridge stands for what the sketch holds outside
the span of the prior's glances, and for rounding; it is chosen by leave-one-out error, in closed
form. The same leave-one-out residuals give every number's standard deviation, calibrated so that
90 % of the residuals of each family lie within 1.645 of it.

Shape letters: G glances, K numbers of all static families, d sketch, r = min(G, d), B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recollect._answers import Z90
from recollect._seeds import seed_of
from recollect.sketching.encode import Encoder
from recollect.sketching.recipe import ModuleTable
from recollect.tracing import Trace

__all__ = ["JointPrior"]

# Glances whose leave-one-out residuals give the standard deviations.
RESIDUAL_GLANCES = 256
# Draws of rounding noise that measure how it reaches the estimates.
NOISE_DRAWS = 64
RIDGES = np.geomspace(1e-7, 3.0, 24)


@dataclass(frozen=True, eq=False)
class JointPrior:
    """Joint mean and covariance of the static families, seen through one recipe.

    Attributes:
        slices: family -> its columns in K.
        mean: (K,) mean of the scaled attributes.
        rows: (G, K) centred scaled attributes, float32.
        sketch_mean: (d,) float64.
        sketches: (G, d) centred images, float64.
        noise: variance that rounding adds to each number of a sketch.
    """

    slices: dict[str, slice]
    mean: Tensor
    rows: Tensor
    sketch_mean: Tensor
    sketches: Tensor
    noise: float

    @classmethod
    def build(
        cls,
        sample: Trace,
        families: tuple[str, ...],
        encoder: Encoder,
        table: ModuleTable,
        dim: int,
        noise: float,
    ) -> JointPrior:
        """Encode the sample's static families and centre both sides."""
        slices, parts, start = {}, [], 0
        for name in families:
            c, entry = sample.columns[name], table[name]
            flat = c.attributes.reshape(len(sample), -1) / entry.scale
            slices[name] = slice(start, start + flat.shape[1])
            parts.append(flat)
            start += flat.shape[1]
        rows = torch.cat(parts, 1)
        only = Trace({name: sample.columns[name] for name in families}, len(sample))
        images = encoder.operators.leave(encoder.working(only, table))[:, :dim].to(torch.float64)
        mean, sketch_mean = rows.mean(0), images.mean(0)
        return cls(slices, mean, rows.sub_(mean), sketch_mean, images - sketch_mean, noise)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Left singular vectors (G, r), squared singular values (r,), right ones (d, r)."""
        g, d = self.sketches.shape
        if g <= d:
            squares, left = torch.linalg.eigh(self.sketches @ self.sketches.T)
            squares = squares.clamp_min(0)
            right = self.sketches.T @ (left / squares.sqrt().clamp_min(1e-300))
        else:
            squares, right = torch.linalg.eigh(self.sketches.T @ self.sketches)
            squares = squares.clamp_min(0)
            left = self.sketches @ (right / squares.sqrt().clamp_min(1e-300))
        kept = squares > squares.max() * 1e-12
        return left[:, kept], squares[kept], right[:, kept]

    @cached_property
    def ridge(self) -> float:
        """The ridge with the smallest leave-one-out error of all numbers together."""
        left, squares, _ = self._spectrum
        rows = self.rows.to(torch.float32)
        gram = (rows @ rows.T).to(torch.float64)
        turned = gram @ left
        inner = left.T @ turned
        best, best_error = 0.0, float("inf")
        least = self.noise * len(self.rows)
        for ridge in (RIDGES * float(squares.mean())).tolist():
            shrink = squares / (squares + max(ridge, least))
            leverage = (left.square() * shrink).sum(1) + 1 / len(rows)
            pulled = left * shrink
            error = (
                gram.diagonal() - 2 * (turned * pulled).sum(1) + ((pulled @ inner) * pulled).sum(1)
            )
            total = float((error / (1 - leverage).clamp_min(1e-6).square()).mean())
            if total < best_error:
                best, best_error = max(ridge, least), total
        return best

    def estimate(self, residual: Tensor) -> Tensor:
        """Return the (B, K) estimates, scaled, from (B, d) sketches less everything else known."""
        return self.mean + self._response(residual.to(torch.float64) - self.sketch_mean)

    def _response(self, centred: Tensor) -> Tensor:
        """Return what (B, d) centred sketches move the (B, K) estimates by."""
        left, squares, right = self._spectrum
        weights = (centred @ right * squares.sqrt() / (squares + self.ridge)) @ left.T
        return weights.to(torch.float32) @ self.rows

    def std(self, noise: Tensor) -> Tensor:
        """Return the (B, K) standard deviations of scaled estimates, given rounding's variance.

        Args:
            noise: (B,) variance that rounding added to each number of each sketch.
        """
        span = self.span_std.to(torch.float64).square()
        return (span + noise[:, None] * self.gain.to(torch.float64).square()).sqrt()

    @cached_property
    def usual_std(self) -> Tensor:
        """The (K,) standard deviations for sketches rounded like those of the prior's glances."""
        return self.std(torch.tensor([self.noise], dtype=torch.float64))[0]

    @cached_property
    def span_std(self) -> Tensor:
        """Calibrated deviation of each of the K scaled numbers, for sketches not rounded."""
        residuals = self.residuals()
        std = residuals.square().mean(0).sqrt()
        for where in self.slices.values():
            ratio = residuals[:, where].abs() / std[where].clamp_min(1e-12)
            std[where] *= quantile(ratio, 0.9) / Z90
        return std

    @cached_property
    def gain(self) -> Tensor:
        """Deviation (K,) that white noise of variance one in a sketch brings to each estimate."""
        left, squares, right = self._spectrum
        generator = torch.Generator().manual_seed(seed_of("rounding", len(self.rows)))
        drawn = torch.randn(NOISE_DRAWS, len(right), dtype=torch.float64, generator=generator)
        through = (drawn @ right) * (squares.sqrt() / (squares + self.ridge)) @ left.T
        return (through.to(torch.float32) @ self.rows).square().mean(0).sqrt()

    def residuals(self) -> Tensor:
        """Leave-one-out residuals of up to 256 of the prior's glances, (g, K), scaled.

        They are without the effect of rounding, which ``std`` adds for each glance (``gain``).
        """
        left, squares, _ = self._spectrum
        g = len(self.rows)
        chosen = torch.linspace(0, g - 1, min(g, RESIDUAL_GLANCES)).round().to(torch.int64)
        shrink = squares / (squares + self.ridge)
        leverage = (left[chosen].square() * shrink).sum(1) + 1 / g
        weights = (left[chosen] * shrink) @ left.T
        fitted = weights.to(torch.float32) @ self.rows
        spare = (1 - leverage).clamp_min(1e-6).to(torch.float32)
        left_out: Tensor = (self.rows[chosen] - fitted) / spare[:, None]
        return left_out

    def covariance(self) -> Tensor:
        """Return the (d, d) covariance of the static families' part of a sketch."""
        return self.sketches.T @ self.sketches / max(len(self.rows) - 1, 1)


def quantile(values: Tensor, q: float) -> float:
    """Return a quantile of all values together (of at most a million of them)."""
    flat = values.reshape(-1)
    step = max(1, flat.numel() // 1_000_000)
    return float(torch.quantile(flat[::step].to(torch.float32), q))
