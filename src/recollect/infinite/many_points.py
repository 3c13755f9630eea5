"""Many points: kernel regression that never holds the kernel of all training inputs.

Nystroem: the kernel is seen through m landmarks, ``Q = K_xm K_mm^-1 K_mx``, and the regression on
``Phi = K_xm L^-T`` with ``K_mm = L L^T`` is solved with m x m matrices, whatever the number of
points. With all points as landmarks it is exact.

Random features: outputs of random wide networks (NNGP), or their derivatives along random
directions in the space of weights (NTK), so that ``F F^T`` converges to the kernel.

Shape letters: N training inputs, M test inputs, m landmarks, r features, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from recollect._checks import check_integer, check_one_of
from recollect._linalg import Factor, factor
from recollect._seeds import seed_of
from recollect.infinite.finite import fan_in, forward_derivative
from recollect.infinite.predict import Prediction
from recollect.infinite.twins import Twin

__all__ = ["Nystroem", "nystroem", "random_features"]


@dataclass(frozen=True)
class Nystroem:
    """Regression through landmarks. Made by :func:`nystroem`.

    Args:
        twin: the network.
        landmarks: (m, ...).
        kernel: ``"nngp"`` or ``"ntk"``.
        noise: variance of a target, absolute.
        lower: factor of the landmarks' kernel.
        inner: factor of ``Phi^T Phi + noise I``, (m, m).
        weights: ``(Phi^T Phi + noise I)^-1 Phi^T y``, (m, O).
        left_over: share of the training inputs' variance that the landmarks do not see: 0 is
            exact.
        flat: whether targets came as (N,).
    """

    twin: Twin
    landmarks: Tensor
    kernel: str
    noise: float
    lower: Factor
    inner: Factor
    weights: Tensor
    left_over: float
    flat: bool

    def predict(self, x_test: Tensor, *, batch: int = 1024) -> Prediction:
        """Return mean (M, O) and variance (M,) at the end of training.

        The variance is that of the Gaussian process with this kernel; what the landmarks do not
        see of a test input counts in full: ``k - q + noise phi (Phi^T Phi + noise I)^-1 phi``.

        Args:
            x_test: (M, ...).
            batch: inputs at a time.
        """
        means, variances = [], []
        for part in torch.split(x_test, batch):
            phi = _features(self.twin, self.kernel, part, self.landmarks, self.lower)
            own = _diagonal(self.twin, self.kernel, part)
            inside = self.inner.half_solve(phi.T).square().sum(0) * self.noise
            means.append(phi @ self.weights)
            variances.append((own - phi.square().sum(1)).clamp_min(0) + inside)
        mean, variance = torch.cat(means).to(x_test.dtype), torch.cat(variances).to(x_test.dtype)
        return Prediction(mean[:, 0] if self.flat else mean, None, variance)


def _block(twin: Twin, kernel: str, one: Tensor, two: Tensor | None = None) -> Tensor:
    found: Tensor = getattr(twin.kernel(one, two, get=kernel), kernel)
    return found.detach().double()


def _features(twin: Twin, kernel: str, x: Tensor, landmarks: Tensor, lower: Factor) -> Tensor:
    """Return Phi, (n, m): its Gram matrix is the kernel seen through the landmarks."""
    return lower.half_solve(_block(twin, kernel, x, landmarks).T).T


def _diagonal(twin: Twin, kernel: str, x: Tensor) -> Tensor:
    blocks = [_block(twin, kernel, part).diagonal() for part in torch.split(x, 16)]
    return torch.cat(blocks)


def nystroem(
    twin: Twin,
    x: Tensor,
    y: Tensor,
    landmarks: int | Tensor,
    *,
    kernel: str = "ntk",
    regularization: float = 1e-3,
    batch: int = 1024,
    seed: int = 0,
) -> Nystroem:
    """Fit many points through few landmarks: ``O(N m^2)`` time, ``O(m^2 + batch m)`` memory.

    Args:
        twin: the network.
        x: training inputs, (N, ...).
        y: targets, (N,) or (N, O).
        landmarks: how many training inputs, drawn at random; or the landmarks themselves.
        kernel: ``"nngp"`` or ``"ntk"``.
        regularization: noise of the targets, relative to the mean of the landmarks' diagonal.
        batch: inputs at a time.
        seed: of the draw.

    Raises:
        ValueError: if there are fewer inputs than landmarks, targets do not fit, or the noise is
            not positive (without it the system has no inverse).

    Reference: Using the Nystroem method to speed up kernel machines (Williams, Seeger, 2001).

    Example:
        >>> from recollect import infinite
        >>> dense = infinite.Dense(weight_std=1.5, bias_std=0.1)
        >>> twin = infinite.twin(infinite.Serial(dense, infinite.Erf(), dense))
        >>> x = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]
        >>> fit = infinite.nystroem(twin, x, torch.sin(3 * x), landmarks=20, regularization=1e-6)
        >>> bool((fit.predict(x).mean - torch.sin(3 * x)).abs().max() < 0.01)
        True
    """
    check_one_of("kernel", kernel, ("nngp", "ntk"))
    targets = (y[:, None] if y.ndim == 1 else y).double()
    if len(targets) != len(x):
        raise ValueError(f"{len(x)} inputs need as many targets, got {len(targets)}")
    if not regularization > 0:
        raise ValueError(
            f"regularization must be positive, got {regularization}; for targets without noise "
            "use infinite.ensemble"
        )
    chosen = landmarks if isinstance(landmarks, Tensor) else _draw(x, landmarks, seed)
    square = _block(twin, kernel, chosen)
    noise = regularization * float(square.diagonal().mean())
    lower = factor(0.5 * (square + square.T))
    gram, right = torch.zeros_like(square), square.new_zeros(len(square), targets.shape[1])
    seen = total = 0.0
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        phi = _features(twin, kernel, part, chosen, lower)
        gram += phi.T @ phi
        right += phi.T @ targets[start : start + batch]
        seen += float(phi.square().sum())
        total += float(_diagonal(twin, kernel, part).sum())
    inner = factor(gram + noise * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    left_over = max(0.0, 1 - seen / total) if total > 0 else 0.0
    weights = inner.solve(right)
    return Nystroem(twin, chosen, kernel, noise, lower, inner, weights, left_over, y.ndim == 1)


def _draw(x: Tensor, number: int, seed: int) -> Tensor:
    count = check_integer("landmarks", number, minimum=1)
    if count > len(x):
        raise ValueError(f"{count} landmarks are asked for, there are {len(x)} inputs")
    generator = torch.Generator().manual_seed(seed_of(seed, "infinite", "landmarks"))
    return x[torch.randperm(len(x), generator=generator)[:count].to(x.device)]


def random_features(
    make_model: Callable[[], nn.Module],
    x: Tensor,
    number: int,
    *,
    kernel: str = "ntk",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    networks: int = 4,
    seed: int = 0,
) -> Tensor:
    """Return features F, (N, r), with ``F F^T`` about the kernel of the infinitely wide network.

    Each of the networks is drawn anew in the NTK parameterisation. For the NNGP a feature is one
    output, ``f_o(x)``; for the NTK it is the derivative of one output along a direction
    ``v ~ N(0, I)`` in the space of weights, ``<df_o(x)/dp, v>``: a sketch of the gradient that
    never holds it. The error falls with the root of r, down to that of the networks' width.

    Args:
        make_model: returns a wide module of linear, convolutional and parameterless layers; the
            more outputs it has, the cheaper features are.
        x: (N, ...).
        number: r; rounded up to a multiple of networks and outputs.
        kernel: ``"nngp"`` or ``"ntk"``.
        weight_std: as for the twin.
        bias_std: as for the twin.
        networks: independent draws that share the features.
        seed: of everything random; the same seed gives the same features for other inputs.

    Raises:
        ValueError: for parameters of layers without a fan-in.

    Reference: Scaling neural tangent kernels via sketching and random features (Zandieh, Han,
    Avron, Shoham, Kim, Shin, 2021), for the idea of sketching the gradient.

    Example:
        >>> f = random_features(lambda: nn.Linear(3, 64), torch.eye(3), 4096)
        >>> bool((f @ f.T - torch.eye(3) / 3).abs().max() < 0.05)
        True
    """
    check_one_of("kernel", kernel, ("nngp", "ntk"))
    check_integer("number", number, minimum=1)
    check_integer("networks", networks, minimum=1)
    model = make_model().eval()
    scales = _scales(model, weight_std, bias_std)
    generator = torch.Generator().manual_seed(seed_of(seed, "infinite", "features"))

    def normal(*lead: int) -> dict[str, Tensor]:
        return {
            k: torch.randn(*lead, *p.shape, generator=generator, dtype=p.dtype).to(p.device)
            for k, p in model.named_parameters()
        }

    def run(numbers: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(model, {k: v * scales[k] for k, v in numbers.items()}, (x,))
        return out.reshape(len(x), -1)

    columns: list[Tensor] = []
    with torch.no_grad():
        while sum(c.shape[1] for c in columns) < number or len(columns) < networks:
            numbers = normal()
            if kernel == "nngp":
                columns.append(run(numbers))
                continue
            width = run(numbers).shape[1]
            directions = normal(-(-number // (networks * width)))
            along = _along(run, numbers, directions)
            columns.append(along.permute(1, 0, 2).flatten(1))
    features: Tensor = torch.cat(columns, 1)
    return features * (1 / math.sqrt(features.shape[1]))


def _along(
    run: Callable[[Mapping[str, Tensor]], Tensor],
    numbers: dict[str, Tensor],
    directions: dict[str, Tensor],
) -> Tensor:
    """Return the derivatives of all outputs along many directions, (directions, N, O)."""

    def one(v: dict[str, Tensor]) -> Tensor:
        return forward_derivative(run, numbers, v)

    found: Tensor = vmap(one)(directions)
    return found


def _scales(model: nn.Module, weight_std: float, bias_std: float) -> dict[str, float]:
    scales: dict[str, float] = {}
    for name, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            full = f"{name}.{key}" if name else key
            if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                raise ValueError(f"{full} belongs to {type(module).__name__}, which has no fan-in")
            scales[full] = weight_std / fan_in(module) ** 0.5 if key == "weight" else bias_std
    return scales
