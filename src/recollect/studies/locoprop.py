"""LocoProp on a deep autoencoder, beside first-order optimisers, in three fair comparisons.

The same autoencoder (tanh everywhere but at the code and at the end) is trained with equal
batches, with equal numbers of gradient steps (the rival repeats every batch K times) and for
equal time (the rival runs as many epochs as fit). Digits of scikit-learn, or MNIST of a folder.

Shape letters: B pictures of a batch, n pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.bars import bars
from recollect.studies.second_order import installed, rivals
from recollect.training import LocoProp

__all__ = ["Task", "draw", "study", "train"]

STEPS = 10  # local steps K
TENTHS = 1 / STEPS  # share of the batch in each of them, where they are to cost one pass in all
Build = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """Pictures, and the autoencoder that should reproduce them.

    Attributes:
        name: shown in the title.
        train: (N, n) in [0, 1].
        test: (M, n).
        widths: of all layers.
        batch: B.
        epochs: of the comparison at equal batches.
    """

    name: str
    train: Tensor
    test: Tensor
    widths: tuple[int, ...]
    batch: int
    epochs: int


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return the reconstruction loss (nats a picture) of LocoProp and of its rivals.

    Args:
        quick: fewer epochs and seeds.
        data: folder with ``mnist/mnist.npz``; without it, scikit-learn's digits are learned.

    Raises:
        ImportError: if scikit-learn is missing and there is no folder.
    """
    task = _mnist(data, 2 if quick else 10) if data else _digits(30 if quick else 100)
    seeds = range(2 if data or quick else 4)
    rows: list[dict[str, Any]] = []
    for compared, name, build, repeats in _methods():
        runs = [train(task, build, seed, repeats=repeats) for seed in seeds]
        rows.append(_row(compared, name, task.epochs, runs))
    for name, build in rivals().items():
        runs = [train(task, build, seed) for seed in seeds]
        rows.append(_row("equal batches", name, task.epochs, runs))
    # As many epochs of the rival as fit into the time of LocoProp-M.
    spent = next(r["seconds"] for r in rows if r["method"] == "LocoProp-M, gamma 50")
    single = next(r["seconds"] for r in rows if r["method"] == "RMSProp")
    epochs = max(1, round(task.epochs * spent / single))
    runs = [train(task, _rmsprop, seed, epochs=epochs) for seed in seeds]
    rows.append(_row("equal time", "RMSProp", epochs, runs))
    for row in rows:
        row["step, RMSProp = 1"] = row["seconds"] * task.epochs / (single * row["epochs"])
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"reconstruction loss of {task.name}, nats a picture, {len(seeds)} seed(s)",
        notes=[
            "equal batches is LocoProp's claim: one backward pass a batch; the control K = 1 "
            "must equal RMSProp",
            "rivals at equal gradient steps repeat every batch; where they are lower, LocoProp "
            "does not win there",
            *_against_second_order(rows),
            "gamma 50 fits the training pictures best and overfits small data: compare test",
            "tenths: local steps after the first see a tenth of the batch each",
        ],
    )


def draw(answer: Answer, path: str) -> None:
    """Draw ``train`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "train", ("compared at", "method"))


def _against_second_order(rows: list[dict[str, Any]]) -> list[str]:
    """Say how far LocoProp and RMSProp are behind the better of K-FAC and Shampoo."""
    missing = [name for name, is_there in installed().items() if not is_there]
    if missing:
        return [f"second-order rivals left out, for want of {' and '.join(missing)}"]
    same = {r["method"]: r for r in rows if r["compared at"] == "equal batches"}
    better = min((same[name] for name in ("K-FAC", "Shampoo")), key=lambda row: row["train"])
    gaps = [same[n]["train"] - better["train"] for n in ("LocoProp-M, gamma 50", "RMSProp")]
    cost = same["LocoProp-M, gamma 50"]["seconds"] / better["seconds"]
    tenths = same["LocoProp-M, gamma 50, tenths"]
    return [
        f"behind {better['method']}, the better of K-FAC and Shampoo: LocoProp-M {gaps[0]:+.2f}, "
        f"in tenths {tenths['train'] - better['train']:+.2f}, RMSProp {gaps[1]:+.2f} nats; "
        f"LocoProp-M takes {cost:.2f} of its time per step, in tenths "
        f"{tenths['seconds'] / better['seconds']:.2f}"
    ]


def _row(compared: str, name: str, epochs: int, runs: list[tuple[float, float, float]]) -> Any:
    loss, test, seconds = (np.array(v) for v in zip(*runs, strict=True))
    return {
        "compared at": compared,
        "method": name,
        "epochs": epochs,
        "train": float(loss.mean()),
        "deviation": float(loss.std(ddof=1)) if len(loss) > 1 else float("nan"),
        "test": float(test.mean()),
        "seconds": float(seconds.mean()),
    }


def _inner(params: Any) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(params, lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-5)


def _rmsprop(model: nn.Module) -> torch.optim.Optimizer:
    return _inner(model.parameters())


def _local(variant: str, gamma: float, steps: int = STEPS, share: float = 1.0) -> Build:
    return lambda model: LocoProp(
        model,
        variant=variant,
        gamma=gamma,
        local_steps=steps,
        local_share=share,
        inner=_inner,
        loss_activation="sigmoid",
    )


def _methods() -> list[tuple[str, str, Build, int]]:
    """Rows: what is equal, name, optimiser, passes over each batch. Rates: best of a 4-grid."""
    same = "equal batches"
    return [
        (same, "SGD, momentum", lambda m: torch.optim.SGD(m.parameters(), 0.03, 0.9), 1),
        (same, "Adam", lambda m: torch.optim.Adam(m.parameters(), 1e-2), 1),
        (same, "RMSProp", _rmsprop, 1),
        (same, "LocoProp-M, K = 1", _local("M", 10.0, 1), 1),
        (same, "LocoProp-S, gamma 50", _local("S", 50.0), 1),
        (same, "LocoProp-M, gamma 10", _local("M", 10.0), 1),
        (same, "LocoProp-M, gamma 50", _local("M", 50.0), 1),
        (same, "LocoProp-M, gamma 50, tenths", _local("M", 50.0, share=TENTHS), 1),
        ("equal gradient steps", "RMSProp, every batch 10 times", _rmsprop, STEPS),
    ]


def train(
    task: Task, build: Build, seed: int, *, epochs: int | None = None, repeats: int = 1
) -> tuple[float, float, float]:
    """Train one autoencoder; return its loss on all training and test pictures, and the seconds.

    The learning rate warms up over a twentieth of the steps and then falls linearly to 0.

    Args:
        task: pictures and network.
        build: model -> optimiser.
        seed: of weights and batches.
        epochs: instead of the task's.
        repeats: steps on each batch.
    """
    epochs = epochs or task.epochs
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        model = autoencoder(task.widths).to(device)
    pictures = task.train.to(device)
    order = torch.Generator().manual_seed(seed_of(seed, "batches"))
    optimizer = build(model)
    total = epochs * (len(pictures) // task.batch) * repeats
    warm = max(1, total // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, (total - t) / max(1, total - warm))
    )
    start = _clock()
    for _ in range(epochs):
        rows = torch.randperm(len(pictures), generator=order)
        for chosen in torch.split(rows, task.batch):
            if len(chosen) == task.batch:
                x = pictures[chosen.to(device)]
                for _ in range(repeats):
                    optimizer.step(_closure(model, optimizer, x))
                    schedule.step()
    seconds = _clock() - start
    with torch.no_grad():
        ends = [float(_loss(model, part.to(device))) for part in (task.train, task.test)]
    return ends[0], ends[1], seconds


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
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    """Binary cross-entropy summed over pixels, mean over pictures."""
    return F.binary_cross_entropy_with_logits(model(x), x, reduction="sum") / len(x)


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


def _digits(epochs: int) -> Task:
    """Scikit-learn's 8 x 8 digits, 1500 to learn from."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits().data
    order = np.random.default_rng(0).permutation(len(found))
    x = torch.from_numpy((found[order] / 16).astype(np.float32))
    widths = (64, 128, 64, 32, 8, 32, 64, 128, 64)
    return Task("digits", x[:1500], x[1500:], widths, 250, epochs)


def _mnist(folder: str, epochs: int) -> Task:
    """MNIST of a data folder, in the published autoencoder."""
    stored = np.load(Path(folder) / "mnist" / "mnist.npz")
    train, test = (
        torch.from_numpy(stored[k].reshape(len(stored[k]), -1).astype(np.float32) / 255)
        for k in ("x_train", "x_test")
    )
    widths = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    return Task("MNIST", train, test, widths, 1000, epochs)
