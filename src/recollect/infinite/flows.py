"""Training under any loss: gradient flow in function space, by an adaptive ODE solver.

The outputs of an infinitely wide network follow ``df/dt = -Theta dL/df``; with momentum m and
learning rate eta, time is scaled by the root of eta and
``q' = ((m - 1) / sqrt(eta)) q - Theta dL/df``, ``f' = q``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Flow", "gradient_flow", "mean_squared_flow"]

# Dormand-Prince 5(4): stages, weights of the fifth order, and their difference to the fourth.
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Flow(NamedTuple):
    """Outputs along the training.

    Args:
        train: at the training inputs, (T, N, O).
        test: at the test inputs, (T, M, O), None without them.
        velocity_train: with momentum, to go on from the last time.
        velocity_test: likewise.
    """

    train: Tensor
    test: Tensor | None = None
    velocity_train: Tensor | None = None
    velocity_test: Tensor | None = None


def _steps(
    slope: Callable[[Tensor], Tensor], state: Tensor, times: Sequence[float], tolerance: float
) -> list[Tensor]:
    """Integrate an autonomous ODE and return the states at the given times."""
    now, out = 0.0, []
    first = slope(state)
    size = 0.01 * float((state.norm() + 1e-3) / (first.norm() + torch.finfo(state.dtype).tiny))
    for target in times:
        while now < target:
            size = min(size, target - now)
            if now + size == now:
                raise ValueError("the gradient flow is too stiff; check the loss and the times")
            ks = [first]
            for row in STAGES:
                point = state + size * sum(
                    (c * k for c, k in zip(row, ks, strict=True)), torch.zeros_like(state)
                )
                ks.append(slope(point))
            error = size * sum(
                (c * k for c, k in zip(ERRORS, ks, strict=True)), torch.zeros_like(state)
            )
            allowed = tolerance * (1 + torch.maximum(state.abs(), point.abs()))
            ratio = float((error / allowed).square().mean().sqrt())
            if ratio <= 1:
                now = target if size >= target - now else now + size
                state, first = point, ks[-1]
            size *= min(5.0, max(0.2, 0.9 * (ratio + 1e-12) ** -0.2))
        out.append(state)
    return out


def gradient_flow(
    loss: Callable[[Tensor, Tensor], Tensor],
    k_train_train: Tensor,
    y: Tensor,
    t: Sequence[float] | Tensor,
    *,
    f_train: Tensor | None = None,
    k_test_train: Tensor | None = None,
    f_test: Tensor | None = None,
    learning_rate: float = 1.0,
    momentum: float | None = None,
    velocity_train: Tensor | None = None,
    velocity_test: Tensor | None = None,
    tolerance: float = 1e-9,
) -> Flow:
    """Return the outputs of an infinitely wide network trained on any loss.

    Args:
        loss: function of (outputs, targets), both (N, O), that returns a scalar tensor.
        k_train_train: tangent kernel, (N, N).
        y: targets.
        t: increasing times from 0.
        f_train: outputs at the start, (N, O); default: zero.
        k_test_train: (M, N), to follow test inputs as well.
        f_test: outputs at the start, (M, O); default: zero.
        learning_rate: multiplies time.
        momentum: of heavy-ball descent, None for plain descent.
        velocity_train: to resume with momentum.
        velocity_test: likewise.
        tolerance: of the solver.

    Raises:
        ValueError: if times are negative or do not increase.

    Example:
        >>> def half_square(f, y): return 0.5 * ((f - y) ** 2).mean()
        >>> flow = gradient_flow(half_square, torch.eye(1), torch.ones(1, 1), [0.0, 1.0])
        >>> [round(float(v), 4) for v in flow.train.flatten()]
        [0.0, 0.6321]
    """
    times = [float(v) for v in t]
    if any(v < 0 for v in times) or times != sorted(times):
        raise ValueError(f"times must be increasing and not negative, got {times}")
    k = k_train_train.double()
    start = torch.zeros_like(y, dtype=torch.float64) if f_train is None else f_train.double()
    count, outputs = start.shape
    kernel = k
    if k_test_train is not None:
        rest = k.new_zeros(len(k_test_train), outputs) if f_test is None else f_test.double()
        start, kernel = torch.cat([start, rest]), torch.cat([k, k_test_train.double()])

    def pull(f: Tensor) -> Tensor:
        with torch.enable_grad():
            point = f[:count].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(point, y), point)
        return -kernel @ gradient.double()

    if momentum is None:
        states = _steps(pull, start, [v * learning_rate for v in times], tolerance)
        whole = torch.stack(states)
        return Flow(whole[:, :count], None if k_test_train is None else whole[:, count:])
    root = learning_rate**0.5
    friction = (momentum - 1) / root
    velocity = torch.zeros_like(start)
    if velocity_train is not None:
        velocity[:count] = velocity_train
    if velocity_test is not None:
        velocity[count:] = velocity_test

    def both(state: Tensor) -> Tensor:
        f, q = state
        return torch.stack([q, friction * q + pull(f)])

    moved = torch.stack(
        _steps(both, torch.stack([start, velocity]), [v * root for v in times], tolerance)
    )
    f, q = moved[:, 0], moved[:, 1]
    tested = k_test_train is not None
    return Flow(
        f[:, :count],
        f[:, count:] if tested else None,
        q[-1, :count],
        q[-1, count:] if tested else None,
    )


def mean_squared_flow(
    k_train_train: Tensor,
    y: Tensor,
    t: Sequence[float] | Tensor | float | None = None,
    *,
    f_train: Tensor | None = None,
    k_test_train: Tensor | None = None,
    f_test: Tensor | None = None,
    learning_rate: float = 1.0,
    regularization: float = 0.0,
    absolute: bool = False,
) -> Flow:
    """Return the outputs under ``|f - y|^2 / (2 |y|)`` in closed form, from any start.

    ``f_t(X) = y + exp(-tau T / |y|) (f_0 - y)``, ``f_t(x) = f_0(x) + Theta_xX M (y - f_0(X))``.

    Args:
        k_train_train: tangent kernel, (N, N).
        y: targets, (N, O).
        t: times; None: the end of training.
        f_train: outputs at the start; default: zero.
        k_test_train: (M, N).
        f_test: default: zero.
        learning_rate: multiplies time.
        regularization: added to the diagonal, relative to its mean.
        absolute: take it as an absolute number.

    Example:
        >>> flow = mean_squared_flow(torch.eye(1), torch.ones(1, 1), 1.0)
        >>> round(float(flow.train), 4)
        0.6321
    """
    k, target = k_train_train.double(), y.double()
    scale = 1.0 if absolute else float(k.diagonal().mean())
    k = k + regularization * scale * torch.eye(len(k), dtype=k.dtype, device=k.device)
    start = torch.zeros_like(target) if f_train is None else f_train.double()
    values, vectors = torch.linalg.eigh(k)
    values = values.clamp_min(0)
    gap = vectors.T @ (target - start)
    if t is None:
        keep = values > values.max() * len(values) * torch.finfo(values.dtype).eps
        learned = torch.where(keep, 1 / values.clamp_min(1e-300), 0.0)
        part = keep.to(values)
    else:
        tau = torch.as_tensor(t, dtype=torch.float64) * learning_rate / target.numel()
        exponent = values * tau[..., None]
        part = -torch.expm1(-exponent)
        learned = torch.where(
            exponent < 1e-12, tau[..., None].expand_as(exponent), part / values.clamp_min(1e-300)
        )
    train = start + vectors @ (part[..., None] * gap)
    if k_test_train is None:
        return Flow(train)
    rest = target.new_zeros(len(k_test_train), target.shape[1])
    begin = rest if f_test is None else f_test.double()
    side = k_test_train.double() @ vectors
    return Flow(train, begin + side @ (learned[..., None] * gap))
