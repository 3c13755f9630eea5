"""Training the models from few labels and many examples, and training many of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.generative.borders import UNLABELLED, check_labels
from recollect.generative.bounds import M2

__all__ = ["Epoch", "Judged", "evaluate", "fit", "sweep"]

Model = TypeVar("Model", bound=M2)


@dataclass(frozen=True)
class Judged:
    """What a model is worth on examples kept apart.

    Attributes:
        elbo: mean bound of log p(x), nats an example, in eval mode.
        elbo_train: the same in train mode, where batch normalisation uses the batch.
        accuracy: share whose likeliest class is the true one.
    """

    elbo: float
    elbo_train: float
    accuracy: float

    @property
    def gap(self) -> float:
        """Eval mode less train mode, nats: what the running statistics cost or gain."""
        return self.elbo - self.elbo_train


@dataclass(frozen=True)
class Epoch:
    """One pass over the examples.

    Attributes:
        epoch: 1 for the first.
        loss: mean over its steps, nats.
        seconds: of the processor, training only, since the beginning.
        judged: on the examples kept apart, or None.
    """

    epoch: int
    loss: float
    seconds: float
    judged: Judged | None


def fit(
    model: M2,
    x: Tensor,
    y: Tensor,
    *,
    spread: Tensor | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    labelled_size: int | None = None,
    alpha: float = 5.0,
    beta: float = 1.0,
    lr: float = 1e-3,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    after_step: Callable[[int], None] | None = None,
    seed: int = 0,
) -> list[Epoch]:
    """Train a model; every step sees a batch of all examples, labels hidden, and labelled ones.

    The learning rate falls to a tenth by half a cosine. The model is left in eval mode.

    Args:
        model: trained in place.
        x: (N, ...) examples.
        y: (N,) labels, -1 where unknown.
        spread: (N, ...) standard deviations of examples that are known as normal distributions,
            such as the latents of another model (``posterior``): they are drawn anew every time
            that they are taken. None: they are what they are.
        epochs: passes over the examples.
        batch_size: unlabelled examples of a step; 0 takes no unlabelled ones.
        labelled_size: labelled examples of a step, drawn in turn; None: ``batch_size``, or as many
            as there are.
        alpha: weight of the classification, see ``M2.loss``.
        beta: weight of the bound of labelled examples, see ``M2.loss``.
        lr: of Adam.
        optimizer: parameters -> another optimiser.
        test: examples and labels kept apart, on which each epoch is judged.
        after_step: called with the number of each step.
        seed: of batches and latents.

    Returns:
        One row for each epoch.

    Raises:
        TypeError: if labels are no integers.
        ValueError: if no example is labelled, or labels or spreads do not fit.
        RuntimeError: if the loss is no longer finite.

    Example:
        >>> from recollect.generative import ConvM2
        >>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
        >>> history = fit(ConvM2(width=4), x, y, epochs=2, batch_size=20)
        >>> [e.epoch for e in history], history[1].loss < history[0].loss
        ([1, 2], True)
    """
    check_integer("epochs", epochs, minimum=1)
    check_integer("batch_size", batch_size, minimum=0)
    x = model.check_input(x)
    if spread is not None and (spread.shape != x.shape or not (spread >= 0).all()):
        raise ValueError(
            f"spread must hold deviations (at least 0) of the shape of the examples, "
            f"{tuple(x.shape)}, got {tuple(spread.shape)}"
        )
    y = check_labels(y, len(x), model.num_classes, missing=True)
    known = _known(y, model.num_classes)
    few = min(len(known), max(1, batch_size) if labelled_size is None else labelled_size)
    check_integer("labelled_size", few, minimum=1)
    steps = max(1, len(x) // batch_size if batch_size else len(known) // few)
    made = (optimizer or (lambda p: torch.optim.Adam(p, lr)))(
        [p for p in model.parameters() if p.requires_grad]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(made, _falling(epochs * steps))
    history, spent, number = [], 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "fit M2"))
        turn = _Turns(known)
        for epoch in range(1, epochs + 1):
            began, total = time.process_time(), 0.0
            model.train()
            for rows, labels in _batches(y, steps, batch_size, few, turn):
                taken = x[rows]
                if spread is not None:
                    taken = taken + spread[rows] * torch.randn_like(taken)
                total += _step(model, (taken, labels), made, alpha, beta)
                schedule.step()
                number += 1
                if after_step is not None:
                    after_step(number)
            spent += time.process_time() - began
            model.eval()
            judged = None if test is None else evaluate(model, *test)
            history.append(Epoch(epoch, total / steps, spent, judged))
    return history


def _known(y: Tensor, classes: int) -> Tensor:
    """Return the labelled rows; warn if a class has none."""
    known = torch.nonzero(y != UNLABELLED)[:, 0]
    if not len(known):
        raise ValueError("no example is labelled (all labels are -1); give a few of each class")
    without = sorted(set(range(classes)) - set(y[known].tolist()))
    if without:
        warnings.warn(
            f"no example of class {', '.join(map(str, without))} is labelled: nothing tells "
            "the model which examples are meant",
            stacklevel=3,
        )
    return known


def _batches(
    y: Tensor, steps: int, batch_size: int, few: int, turn: _Turns
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and labels of one pass: labelled ones in turn, then all, their labels hidden."""
    order = torch.randperm(len(y))
    for step in range(steps):
        rows, some = order[step * batch_size : (step + 1) * batch_size], turn.take(few)
        hidden = torch.full((len(rows),), UNLABELLED, dtype=torch.int64)
        yield torch.cat([some, rows]), torch.cat([y[some], hidden])


def _falling(steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate: from 1 to 0.1 by half a cosine."""
    import math

    return lambda n: 0.55 + 0.45 * math.cos(math.pi * min(n / steps, 1))


def _step(
    model: M2,
    batch: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    alpha: float,
    beta: float,
) -> float:
    """Take one step; return the loss."""
    optimizer.zero_grad()
    loss = model.loss(batch, alpha, beta)
    if not torch.isfinite(loss):
        raise RuntimeError(
            f"the loss is {loss.item()}: training has diverged; take a smaller lr, or check the "
            "examples"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


class _Turns:
    """Labelled rows, each once before any comes again."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.queue = rows, rows[:0]

    def take(self, n: int) -> Tensor:
        """Return the next n rows."""
        while len(self.queue) < n:
            self.queue = torch.cat([self.queue, self.rows[torch.randperm(len(self.rows))]])
        found, self.queue = self.queue[:n], self.queue[n:]
        return found


@torch.no_grad()
def evaluate(model: M2, x: Tensor, y: Tensor, *, chunk: int = 100, seed: int = 0) -> Judged:
    """Judge a model, in eval mode and in train mode; the model is not changed.

    Args:
        model: whose running statistics and mode are put back.
        x: (N, ...) examples.
        y: (N,) true classes.
        chunk: examples of a batch, which is what train mode's statistics are taken over.
        seed: of the latents.

    Raises:
        ValueError: if there are no examples, or labels do not fit.
    """
    if not len(x):
        raise ValueError("there are no examples to judge the model on")
    y = check_labels(y, len(x), model.num_classes)
    before, kept = model.training, {k: v.clone() for k, v in model.state_dict().items()}
    means = {}
    lagging = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    try:
        with torch.random.fork_rng(devices=[]):
            for mode in (False, True) if lagging else (False,):
                torch.manual_seed(seed_of(seed, "evaluate"))
                model.train(mode)
                found = [model.elbo_unlabelled(part) for part in _parts(x, chunk)]
                means[mode] = float(torch.cat(found).mean())
        model.eval()
        right = [(model.classify(x[i : i + chunk]) == y[i : i + chunk]) for i in
                 range(0, len(x), chunk)]  # fmt: skip
    finally:
        model.load_state_dict(kept)
        model.train(before)
    share = float(torch.cat(right).float().mean())
    return Judged(means[False], means.get(True, means[False]), share)


def _parts(x: Tensor, chunk: int) -> list[Tensor]:
    """Cut examples into parts of about ``chunk``, none of them a single one."""
    return list(torch.tensor_split(x, max(1, len(x) // chunk)))


def sweep(
    build: Callable[..., M2],
    settings: Iterable[Mapping[str, Any]],
    x: Tensor,
    y: Tensor,
    test: tuple[Tensor, Tensor],
    *,
    seeds: Iterable[int] = (0,),
    **fitting: Any,
) -> list[dict[str, Any]]:
    """Train a model for each setting and seed; return what each came to.

    Args:
        build: makes a model from a setting's keywords.
        settings: keywords for ``build``.
        x: (N, ...) examples.
        y: (N,) labels, -1 where unknown.
        test: examples and labels kept apart.
        seeds: of weights and training.
        fitting: further arguments of ``fit``.

    Returns:
        One dict for each run: the setting, ``seed``, ``model``, ``history``, and what the last
        epoch was judged (``elbo``, ``elbo_train``, ``accuracy``).

    Example:
        >>> from recollect.generative import ConvM2
        >>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
        >>> rows = sweep(ConvM2, [{"width": 4}, {"width": 8}], x, y, (x, y), epochs=1)
        >>> [row["width"] for row in rows], sorted(set(rows[0]) - {"width"})
        ([4, 8], ['accuracy', 'elbo', 'elbo_train', 'history', 'model', 'seed'])
    """
    every, rows = list(seeds), []
    for setting in settings:
        for seed in every:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(seed, "weights of M2"))
                model = build(**setting)
            history = fit(model, x, y, test=test, seed=seed, **fitting)
            judged = history[-1].judged
            assert judged is not None
            rows.append(
                {**setting, "seed": seed, "model": model, "history": history, **asdict(judged)}
            )
    return rows
