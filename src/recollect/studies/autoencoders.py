"""Deep autoencoders of pictures, trained by any optimiser: tanh everywhere but at the code.

Shape letters: N pictures, n pixels, B pictures of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of
from recollect.studies import pictures
from recollect.training import LocoProp

__all__ = ["Build", "Task", "autoencoder", "digits", "local", "mnist", "rmsprop", "train"]

Build = Callable[[nn.Module], torch.optim.Optimizer]
STEPS = 10  # local steps K


@dataclass(frozen=True)
class Task:
    """Pictures, and the autoencoder that should reproduce them.

    Attributes:
        name: shown in the title.
        parts: name -> (N, n) in [0, 1]: ``train``, ``test``, maybe pictures of another kind.
        widths: of all layers.
        batch: B.
        epochs: of the comparison at equal batches.
    """

    name: str
    parts: dict[str, Tensor]
    widths: tuple[int, ...]
    batch: int
    epochs: int

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.parts["train"]) // self.batch


def digits(epochs: int) -> Task:
    """Return scikit-learn's 8 x 8 digits, 1500 to learn from.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    x = pictures.digits()[0].flatten(1)
    x = x[torch.from_numpy(np.random.default_rng(0).permutation(len(x)))]
    widths = (64, 128, 64, 32, 8, 32, 64, 128, 64)
    return Task("digits", {"train": x[:1500], "test": x[1500:]}, widths, 250, epochs)


def mnist(folder: str, epochs: int) -> Task:
    """Return MNIST and 900 pictures of Fashion, in the published autoencoder.

    Args:
        folder: with ``mnist/mnist.npz`` and ``fashion_mnist/fashion900.npz``.
        epochs: of the comparison at equal batches.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    stored = {"train": ("mnist/mnist.npz", "x_train"), "test": ("mnist/mnist.npz", "x_test"),
              "fashion": ("fashion_mnist/fashion900.npz", "x")}  # fmt: skip
    parts = {}
    for part, (name, key) in stored.items():
        with np.load(pictures.file_of(folder, name)) as file:
            parts[part] = torch.from_numpy(file[key]).flatten(1).float() / 255
    widths = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    return Task("MNIST", parts, widths, 1000, epochs)


def rmsprop(lr: float = 1e-3) -> Build:
    """Return what builds RMSProp for all parameters of a model."""
    return lambda model: _rmsprop(model.parameters(), lr)


def _rmsprop(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(params, lr=lr, alpha=0.9, momentum=0.9, eps=1e-5)


def local(
    variant: str, gamma: float, lr: float = 1e-3, steps: int = STEPS, share: float = 1.0
) -> Build:
    """Return what builds LocoProp around the same RMSProp.

    Args:
        variant: ``"M"`` or ``"S"``.
        gamma: activation learning rate.
        lr: of the local steps.
        steps: K.
        share: of the batch in local steps after the first.
    """
    return lambda model: LocoProp(
        model,
        variant=variant,
        gamma=gamma,
        local_steps=steps,
        local_share=share,
        inner=lambda params: _rmsprop(params, lr),
        loss_activation="sigmoid",
    )


def train(
    task: Task, build: Build, seed: int, *, epochs: int | None = None, repeats: int = 1
) -> dict[str, float]:
    """Train one autoencoder; return its loss on every part, and the seconds it took.

    The learning rate warms up over a twentieth of the steps and then falls linearly to 0. A run
    whose loss is no longer finite is broken off, its losses are infinite.

    Args:
        task: pictures and network.
        build: model -> optimiser.
        seed: of weights and batches.
        epochs: instead of the task's.
        repeats: steps on each batch.

    Returns:
        nats a picture for each part of the task, ``seconds`` and ``epochs``.
    """
    epochs = epochs or task.epochs
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        model = autoencoder(task.widths).to(device)
    shown = task.parts["train"].to(device)
    order = torch.Generator().manual_seed(seed_of(seed, "batches"))
    optimizer = build(model)
    total = epochs * task.steps * repeats
    warm = max(1, total // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, (total - t) / max(1, total - warm))
    )
    start = _clock()
    losses = dict.fromkeys(task.parts, float("inf"))
    try:
        for _ in range(epochs):
            rows = torch.randperm(len(shown), generator=order)
            for chosen in torch.split(rows, task.batch)[: task.steps]:
                x = shown[chosen.to(device)]
                for _ in range(repeats):
                    optimizer.step(_closure(model, optimizer, x))
                    schedule.step()
        seconds = _clock() - start
        losses = {name: _whole_loss(model, part.to(device)) for name, part in task.parts.items()}
    except (FloatingPointError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        seconds = _clock() - start
    return {**losses, "seconds": seconds, "epochs": epochs}


def _clock() -> float:
    """Processor seconds, which others on the machine do not lengthen; wall clock on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _closure(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], Any]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(model, x)
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is no longer finite")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    """Binary cross-entropy summed over pixels, mean over pictures."""
    return F.binary_cross_entropy_with_logits(model(x), x, reduction="sum") / len(x)


@torch.no_grad()
def _whole_loss(model: nn.Module, x: Tensor) -> float:
    """The same of many pictures, some thousand at a time."""
    found = sum(float(_loss(model, part)) * len(part) for part in torch.split(x, 5000)) / len(x)
    return found if np.isfinite(found) else float("inf")


def autoencoder(widths: tuple[int, ...]) -> nn.Sequential:
    """Return layers of these widths: tanh, but a linear code in the middle and logits at the end.

    >>> sum(isinstance(m, nn.Tanh) for m in autoencoder((4, 3, 2, 3, 4)))
    2
    """
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for number, (a, b) in enumerate(pairwise(widths)):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if number not in (last // 2, last):
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)
