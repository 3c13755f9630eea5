"""Many real networks trained side by side, to lay beside the infinite ensemble."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.infinite.finite import fan_in

__all__ = ["FiniteEnsemble", "History"]


class History(NamedTuple):
    """Outputs of all networks along the training.

    Args:
        times: (T,), steps times learning rate.
        train: (T, n, N, O).
        test: (T, n, M, O), None without test inputs.
        train_loss: ``|f - y|^2 / (2 |y|)`` of every network, (T, n).
    """

    times: Tensor
    train: Tensor
    test: Tensor | None
    train_loss: Tensor

    def mean(self) -> Tensor:
        """Mean over networks at the test inputs (else at the training inputs), (T, M, O)."""
        return self._shown().mean(1)

    def variance(self) -> Tensor:
        """Variance over networks, (T, M, O)."""
        return self._shown().var(1)

    def _shown(self) -> Tensor:
        return self.train if self.test is None else self.test


class FiniteEnsemble:
    """n real networks in NTK parameterisation, trained together by gradient descent.

    Args:
        make_model: returns a module of linear, convolutional and parameterless layers; called
            once for its shape. Its numbers are drawn anew for every network.
        n: number of networks.
        weight_std: as for the twin.
        bias_std: as for the twin.
        seed: of the initial numbers.

    Example:
        >>> many = FiniteEnsemble(lambda: nn.Linear(1, 1), 8, weight_std=1.0, bias_std=0.1)
        >>> x = torch.linspace(-1, 1, 4)[:, None]
        >>> history = many.train(x, 2 * x, times=[0.0, 20.0], learning_rate=0.5)
        >>> bool(history.train_loss[1].mean() < 0.05 * history.train_loss[0].mean())
        True
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        n: int,
        *,
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.n = check_integer("n", n, minimum=2)
        self.model = copy.deepcopy(make_model()).eval()
        self.scales: dict[str, float] = {}
        generator = torch.Generator().manual_seed(seed_of(seed, "infinite", "ensemble"))
        self.numbers: dict[str, Tensor] = {}
        for name, module in self.model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{key}" if name else key
                if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                    raise ValueError(
                        f"{full} belongs to {type(module).__name__}; a finite ensemble takes "
                        "linear, convolutional and parameterless layers"
                    )
                self.scales[full] = (
                    weight_std / fan_in(module) ** 0.5 if key == "weight" else bias_std
                )
                self.numbers[full] = torch.randn(
                    self.n, *parameter.shape, generator=generator, dtype=parameter.dtype
                ).to(parameter.device)

    def _output(self, numbers: dict[str, Tensor], x: Tensor) -> Tensor:
        scaled = {k: v * self.scales[k] for k, v in numbers.items()}
        out: Any = functional_call(self.model, scaled, (x,))
        shaped: Tensor = out.reshape(len(x), -1)
        return shaped

    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs of all networks, (n, M, O)."""
        with torch.no_grad():
            return vmap(self._output, (0, None))(self.numbers, x)

    def train(
        self,
        x: Tensor,
        y: Tensor,
        times: Sequence[float],
        *,
        learning_rate: float,
        x_test: Tensor | None = None,
        momentum: float = 0.0,
    ) -> History:
        """Train by full-batch gradient descent on ``|f - y|^2 / (2 |y|)``.

        Args:
            x: (N, ...).
            y: (N, O) or (N,).
            times: increasing; a step takes ``learning_rate`` of time.
            learning_rate: below :func:`~recollect.infinite.max_learning_rate`.
            x_test: (M, ...), followed along.
            momentum: of heavy-ball descent.

        Raises:
            ValueError: if the loss grows beyond all bounds.
        """
        target = y[:, None] if y.ndim == 1 else y

        def loss(numbers: dict[str, Tensor]) -> Tensor:
            return ((self._output(numbers, x) - target) ** 2).sum() / (2 * target.numel())

        slopes = vmap(grad(loss))
        losses = vmap(loss)
        velocity = {k: torch.zeros_like(v) for k, v in self.numbers.items()}
        kept: list[tuple[Tensor, Tensor | None, Tensor]] = []
        done = 0
        for time in times:
            for _ in range(round(time / learning_rate) - done):
                gradient = slopes(self.numbers)
                for k, g in gradient.items():
                    velocity[k] = momentum * velocity[k] - learning_rate * g
                self.numbers = {k: v + velocity[k] for k, v in self.numbers.items()}
                done += 1
            value = losses(self.numbers).detach()
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"training diverged before time {time}; learning_rate={learning_rate} is "
                    "above infinite.max_learning_rate"
                )
            tested = None if x_test is None else self.predict(x_test)
            kept.append((self.predict(x), tested, value))
        test = None if x_test is None else torch.stack([k[1] for k in kept if k[1] is not None])
        return History(
            torch.tensor(list(times)),
            torch.stack([k[0] for k in kept]),
            test,
            torch.stack([k[2] for k in kept]),
        )
