"""What an infinite ensemble predicts, at any time of its training.

Networks start at random, f_0 ~ GP(0, K), and follow the gradient of ``|f - y|^2 / (2 |y|)`` with
|y| the number of target values; after the time t with learning rate eta, tau = eta t. With
``T = Theta_XX + reg`` and ``M = T^-1 (I - exp(-tau T / |y|))``::

    mean = Theta_xX M y
    cov  = K_xx' + B K_XX B^T - B K_Xx' - K_xX B^T,    B = Theta_xX M

Algebra is done in float64 whatever the kernels are, unless asked otherwise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recollect._checks import check_one_of
from recollect._linalg import factor, solve_iteratively
from recollect.infinite.twins import Twin

__all__ = ["Ensemble", "Prediction", "SingularKernel", "ensemble", "max_learning_rate"]

Times = float | Sequence[float] | Tensor | None
KINDS = ("ntk", "nngp", "ntkgp")


class SingularKernel(RuntimeWarning):
    """The training kernel has no inverse; the limit of its pseudo-inverse is used."""


class Prediction(NamedTuple):
    """Predictions of an ensemble; what was not asked for is None.

    Args:
        mean: (*T, M, O), or (*T, M) for targets of shape (N,).
        covariance: between test points, (*T, M, M), the same for every output.
        variance: its diagonal, (*T, M).
    """

    mean: Tensor | None = None
    covariance: Tensor | None = None
    variance: Tensor | None = None

    @property
    def std(self) -> Tensor:
        """Standard deviation of a prediction, (..., M)."""
        if self.variance is not None:
            return self.variance.clamp_min(0).sqrt()
        if self.covariance is None:
            raise ValueError("ask for the covariance or the variance: get=('mean', 'variance')")
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


@dataclass
class Ensemble:
    """Infinitely many infinitely wide networks, trained on the same data.

    Made by :func:`ensemble`. Kernels of the training set are computed once and kept.

    Args:
        twin: the network.
        x: training inputs, (N, ...).
        y: targets, (N, O), float64.
        regularization: added to the diagonal of the training kernel.
        absolute: whether it is an absolute number, or relative to the mean of the diagonal.
        learning_rate: multiplies time.
        tile: passed to the twin.
        flat: whether targets came as (N,).
        algebra: dtype of all solving and multiplying.
    """

    twin: Twin
    x: Tensor
    y: Tensor
    regularization: float = 0.0
    absolute: bool = False
    learning_rate: float = 1.0
    tile: int | tuple[int, int] | None = None
    flat: bool = False
    algebra: torch.dtype = torch.float64
    _held: dict[str, Any] = field(default_factory=dict, repr=False)

    def _kernels(self, wanted: set[str]) -> dict[str, Tensor]:
        """Return training kernels in float64."""
        missing = tuple(sorted(w for w in wanted if w not in self._held))
        if missing:
            found = self.twin.kernel(self.x, get=missing, tile=self.tile)
            for name in missing:
                value: Tensor = getattr(found, name)
                self._held[name] = value.detach().to(self.algebra)
        return {name: self._held[name] for name in wanted}

    def _regularised(self, name: str) -> Tensor:
        k = self._kernels({name})[name]
        scale = 1.0 if self.absolute else float(k.diagonal().mean())
        if self.regularization == 0:
            return k
        shifted = k.clone()
        shifted.diagonal().add_(self.regularization * scale)
        return shifted

    def _spectrum(self, name: str) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (clipped at zero) and eigenvectors of the regularised kernel."""
        key = f"spectrum of {name}"
        if key not in self._held:
            values, vectors = torch.linalg.eigh(self._regularised(name))
            self._held[key] = values.clamp_min(0), vectors
        found: tuple[Tensor, Tensor] = self._held[key]
        return found

    def predict(
        self,
        x_test: Tensor | None = None,
        t: Times = None,
        get: str | Sequence[str] = ("mean", "covariance"),
        kernel: str = "ntk",
    ) -> Prediction:
        """Return what the ensemble says about test inputs.

        Args:
            x_test: (M, ...); None: the training inputs.
            t: one time, several (a leading axis), or None for the end of training.
            get: ``"mean"``, ``"covariance"``, ``"variance"``.
            kernel: ``"ntk"``: all layers are trained; ``"nngp"``: only the last one, at the end
                the Bayesian posterior; ``"ntkgp"``: the Gaussian process with the tangent kernel
                as its covariance (end of training only).

        Raises:
            ValueError: for negative times, and for ``"ntkgp"`` at finite ones.

        Example:
            >>> from recollect import infinite
            >>> net = infinite.Serial(infinite.Dense(weight_std=1.5, bias_std=0.1), infinite.Erf(),
            ...                       infinite.Dense())
            >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
            >>> fit = infinite.ensemble(infinite.twin(net), x, torch.sin(3 * x))
            >>> p = fit.predict(x)
            >>> bool(torch.allclose(p.mean, torch.sin(3 * x))), float(p.std.max()) < 1e-5
            (True, True)
        """
        check_one_of("kernel", kernel, KINDS)
        wanted = (get,) if isinstance(get, str) else tuple(get)
        for name in wanted:
            check_one_of("get", name, ("mean", "covariance", "variance"))
        times = _times(t, self.x.device, self.algebra)
        if kernel == "ntkgp" and times is not None:
            raise ValueError("kernel='ntkgp' describes the end of training only; pass t=None")
        if x_test is None:
            mean, cov = self._on_training(times, kernel, wanted)
        else:
            mean, cov = self._on_test(x_test, times, kernel, wanted)
        if mean is not None:
            mean = mean[..., 0] if self.flat else mean
            mean = mean.to(self.x.dtype)
        cov = None if cov is None else cov.to(self.x.dtype)
        variance = None
        if "variance" in wanted and cov is not None:
            variance = cov.diagonal(dim1=-2, dim2=-1)
        return Prediction(mean, cov if "covariance" in wanted else None, variance)

    # --- training inputs ---

    def _on_training(
        self, times: Tensor | None, kernel: str, wanted: Sequence[str]
    ) -> tuple[Tensor | None, Tensor | None]:
        if times is None:
            return self._on_test(self.x, None, kernel, wanted, known=True)
        name = "ntk" if kernel == "ntk" else "nngp"
        values, vectors = self._spectrum(name)
        decay = torch.exp(-values * (times * self.learning_rate / self.y.numel())[..., None])
        mean = cov = None
        if "mean" in wanted:
            mean = vectors @ ((1 - decay)[..., None] * (vectors.T @ self.y))
        if set(wanted) & {"covariance", "variance"}:
            # For the NNGP the regularisation is noise of the targets, part of the start.
            start = (
                torch.diag(values)
                if kernel == "nngp"
                else (vectors.T @ self._kernels({"nngp"})["nngp"] @ vectors)
            )
            inner = decay[..., :, None] * start * decay[..., None, :]
            cov = vectors @ inner @ vectors.T
        return mean, cov

    # --- test inputs ---

    def _test_kernels(
        self, x: Tensor, kernel: str, covariance: bool, known: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return kernels of test with training inputs, and of test inputs with themselves."""
        name = "nngp" if kernel == "nngp" else "ntk"
        between = {name, "nngp"} if covariance and kernel == "ntk" else {name}
        own = {"ntk" if kernel == "ntkgp" else "nngp"} if covariance else set()
        if known:
            return self._kernels(between), self._kernels(own)
        cross = self.twin.kernel(x, self.x, get=tuple(sorted(between)), tile=self.tile)
        sides = {n: getattr(cross, n).detach().to(self.algebra) for n in between}
        if not own:
            return sides, {}
        alone = self.twin.kernel(x, get=tuple(own), tile=self.tile)
        return sides, {n: getattr(alone, n).detach().to(self.algebra) for n in own}

    def _on_test(
        self,
        x: Tensor,
        times: Tensor | None,
        kernel: str,
        wanted: Sequence[str],
        *,
        known: bool = False,
    ) -> tuple[Tensor | None, Tensor | None]:
        covariance = bool(set(wanted) & {"covariance", "variance"})
        between, own = self._test_kernels(x, kernel, covariance, known)
        name = "nngp" if kernel == "nngp" else "ntk"
        side = between[name]
        if times is None:
            b = self._solve(name, side)
            mean = b @ self.y if "mean" in wanted else None
            if not covariance:
                return mean, None
            if kernel in ("nngp", "ntkgp"):
                return mean, _symmetric(own[name] - b @ side.T)
        else:
            values, vectors = self._spectrum(name)
            rotated = side @ vectors
            scale = times * self.learning_rate / self.y.numel()
            weight = _learned(values, scale)
            mean = None
            if "mean" in wanted:
                mean = (rotated * weight[..., None, :]) @ (vectors.T @ self.y)
            if not covariance:
                return mean, None
            if kernel == "nngp":
                twice = _learned(values, 2 * scale)
                return mean, _symmetric(own["nngp"] - (rotated * twice[..., None, :]) @ rotated.T)
            b = (rotated * weight[..., None, :]) @ vectors.T
        start = self._kernels({"nngp"})["nngp"]
        half = _half_way(b, start, between["nngp"]) @ b.mT
        return mean, (half + half.mT).add_(own["nngp"])

    def _solve(self, name: str, rows: Tensor) -> Tensor:
        """Return rows (M, N) times the (pseudo-)inverse of the regularised kernel."""
        key = f"factor of {name}"
        if key not in self._held:
            try:
                self._held[key] = factor(self._regularised(name), largest_jitter=0.0)
            except ValueError:
                values, vectors = self._spectrum(name)
                keep = values > values.max() * len(values) * torch.finfo(values.dtype).eps
                warnings.warn(
                    f"the {name} kernel of the training inputs is singular "
                    f"(rank {int(keep.sum())} of {len(keep)}): repeated or zero inputs; the limit "
                    "of the pseudo-inverse is used. Add regularization=... to say how exactly "
                    "targets should be met",
                    SingularKernel,
                    stacklevel=4,
                )
                self._held[key] = (
                    torch.where(keep, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0),
                    vectors,
                )
        held = self._held[key]
        if isinstance(held, tuple):
            inverse, vectors = held
            out: Tensor = ((rows @ vectors) * inverse) @ vectors.T
            return out
        solved: Tensor = held.solve_rows(rows)
        return solved

    def predict_iteratively(
        self, x_test: Tensor, kernel: str = "ntk", *, tolerance: float = 1e-8, rank: int = 100
    ) -> tuple[Tensor, int]:
        """Return the mean at the end of training by conjugate gradients, and the steps taken.

        Nothing is factored; a pivoted Cholesky preconditioner of the given rank is used.
        """
        name = "nngp" if kernel == "nngp" else "ntk"
        weights, steps, _ = solve_iteratively(
            self._regularised(name), self.y, tolerance=tolerance, rank=min(rank, len(self.y))
        )
        between = self.twin.kernel(x_test, self.x, get=name, tile=self.tile)
        mean = getattr(between, name).to(self.algebra) @ weights
        return (mean[:, 0] if self.flat else mean).to(self.x.dtype), steps

    def log_marginal_likelihood(self, noise: float | Tensor = 1e-3) -> Tensor:
        """Return the log evidence of the NNGP, with gradients for the twin's hyper-parameters.

        ``-1/2 y^T (K + noise I)^-1 y - 1/2 log det(K + noise I) - N/2 log 2 pi``, summed over
        outputs.

        Args:
            noise: variance of the noise of a target; may be a tensor with a gradient.

        Example:
            >>> from recollect import infinite
            >>> w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
            >>> net = infinite.Serial(infinite.Dense(weight_std=w), infinite.Relu(),
            ...                       infinite.Dense())
            >>> x = torch.eye(3, dtype=torch.float64)
            >>> fit = infinite.ensemble(infinite.twin(net), x, torch.ones(3, 1))
            >>> fit.log_marginal_likelihood(0.1).backward()
            >>> bool(w.grad != 0)
            True
        """
        found = self.twin.kernel(self.x, get="nngp", tile=self.tile).nngp
        assert found is not None
        k = _symmetric(found.to(self.algebra))
        k = k + noise * torch.eye(len(k), dtype=k.dtype, device=k.device)
        solved = factor(k)
        quadratic = (self.y * solved.solve(self.y)).sum()
        count, outputs = self.y.shape
        return -0.5 * (
            quadratic + outputs * (solved.log_determinant() + count * math.log(2 * math.pi))
        )


def _learned(values: Tensor, scale: Tensor) -> Tensor:
    """Return (1 - exp(-scale lambda)) / lambda, with its limit ``scale`` at lambda = 0."""
    exponent = values * scale[..., None]
    small = exponent < 1e-8
    safe = torch.where(small, torch.ones_like(exponent), exponent)
    ratio = torch.where(small, 1 - 0.5 * exponent, -torch.expm1(-safe) / safe)
    return ratio * scale[..., None]


def _half_way(b: Tensor, start: Tensor, side: Tensor) -> Tensor:
    """Return ``b start / 2 - side`` for b of shape (M, N) or (T, M, N)."""
    if b.ndim == 2:
        return torch.addmm(side, b, start, beta=-1.0, alpha=0.5)
    return torch.matmul(b, start).mul_(0.5).sub_(side)


def _symmetric(k: Tensor) -> Tensor:
    return 0.5 * (k + k.mT)


def _times(t: Times, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    if t is None:
        return None
    times = torch.as_tensor(t, dtype=torch.float64, device=device)
    if bool((times < 0).any()) or not bool(torch.isfinite(times).all()):
        raise ValueError(f"times must be finite and not negative, got {t}; None is the end")
    return times.to(dtype)


def ensemble(
    twin: Twin,
    x: Tensor,
    y: Tensor,
    *,
    regularization: float = 0.0,
    absolute: bool = False,
    learning_rate: float = 1.0,
    tile: int | tuple[int, int] | None = None,
    algebra: torch.dtype = torch.float64,
) -> Ensemble:
    """Return the infinite ensemble trained on (x, y).

    Args:
        twin: the network.
        x: training inputs, (N, ...).
        y: targets, (N,) or (N, O).
        regularization: added to the diagonal of the training kernel, relative to its mean.
        absolute: take it as an absolute number instead.
        learning_rate: multiplies time.
        tile: rows of the kernel computed at a time.
        algebra: dtype of all solving; float32 halves time and memory, and needs a
            regularisation well above its rounding errors.

    Raises:
        ValueError: if lengths differ or targets are not finite.
    """
    y = torch.as_tensor(y)
    if y.ndim not in (1, 2) or len(y) != len(x) or len(x) == 0:
        raise ValueError(
            f"targets must be (N,) or (N, outputs) for N = {len(x)} inputs, got {tuple(y.shape)}"
        )
    if not bool(torch.isfinite(y).all()):
        raise ValueError("the targets hold NaN or infinite numbers")
    if not regularization >= 0:
        raise ValueError(f"regularization must not be negative, got {regularization}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    flat = y.ndim == 1
    targets = (y[:, None] if flat else y).detach().to(x.device, algebra)
    return Ensemble(twin, x, targets, regularization, absolute, learning_rate, tile, flat, algebra)


def max_learning_rate(ntk: Tensor, num_targets: int, momentum: float = 0.0) -> float:
    """Return the largest learning rate at which gradient descent on the loss is stable.

    ``2 (1 + momentum) |y| / lambda_max``.

    Args:
        ntk: training kernel, (N, N).
        num_targets: number of target values, |y| = N * outputs.
        momentum: of heavy-ball descent.

    Example:
        >>> max_learning_rate(2 * torch.eye(3), num_targets=3)
        3.0
    """
    largest = float(torch.linalg.eigvalsh(ntk.double())[-1])
    return 2 * (1 + momentum) * num_targets / largest
