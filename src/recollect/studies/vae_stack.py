"""M1 + M2 on MNIST with ten labels a class: the published stack, beside what else latents allow.

M1 learns from all 60,000 pictures without a label, once; then M2, and two rivals that know the
same latents and the same labels: a logistic regression, and labels that spread along a graph of
neighbours. Every draw of the labels is another ten of each class.

Shape letters: N pictures, L latents of M1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.generative import DenseM2, evaluate, fit, posterior
from recollect.studies.running import Arrays, Journal
from recollect.studies.vae_tasks import Task

__all__ = ["STACK", "Stack", "stacked"]

Row = dict[str, Any]
USED = 0.9  # a latent whose posterior deviates more says hardly anything
GRAPH = 10_000  # pictures of the graph of neighbours


@dataclass(frozen=True)
class Stack:
    """How both models are trained.

    Attributes:
        width: of the hidden layers of M1: two of its encoder, one of its decoder.
        latent: L.
        first: epochs of M1.
        batch: examples of a step, of M1 and of M2.
        second: epochs of M2.
        hidden: width of M2.
        style: latents of M2.
        draws: of the labels.
    """

    width: int = 500
    latent: int = 50
    first: int = 20
    batch: int = 200
    second: int = 32
    hidden: int = 256
    style: int = 4
    draws: int = 3


STACK = Stack()


def stacked(task: Task, how: Stack, journal: Journal) -> Iterable[tuple[str, Callable[[], Row]]]:
    """Yield for M2 and for each rival its name and what finds its row.

    Args:
        task: pictures of which all are learned from, and pictures to test.
        how: both models are trained.
        journal: that M1's latents are kept in.
    """
    told = f"{how.first} + {how.second} epochs"
    name = f"latents-{len(task.x)}-{how.width}-{how.latent}-{how.first}-{how.batch}"
    known = cache(partial(journal.arrays, name, partial(_latents, task, how)))
    learners = {f"M1 + M2, {told}; published 0.967": _second,
                "logistic regression on M1's latents": _logistic,
                "labels along neighbours in M1's latents": _spread}  # fmt: skip
    for setting, learn in learners.items():
        yield setting, partial(_row, task, how, known, journal, setting, learn)


Learner = Callable[[Task, Stack, Tensor, Tensor, Tensor, int], tuple[float, float | None]]


def _row(
    task: Task,
    how: Stack,
    known: Callable[[], Arrays],
    journal: Journal,
    setting: str,
    learn: Learner,
) -> Row:
    """Learn from each draw of the labels; return accuracy, and the bound where there is one."""
    latents = known()
    mean, spread, test = (torch.from_numpy(latents[k]) for k in ("mean", "spread", "test"))

    def one(draw: int) -> Row:
        began = time.process_time()
        right, bound = learn(task, how, mean, spread, test, draw)
        return {"right": right, "bound": bound, "seconds": time.process_time() - began}

    about = {"setting": setting, "pictures": len(task.x), **asdict(how)}
    found = [journal.row({**about, "draw": d}, partial(one, d)) for d in range(how.draws)]
    rows = [r for r in found if r is not None]
    right, spent = (np.array([r[k] for r in rows]) for k in ("right", "seconds"))
    bounds = [r["bound"] for r in rows if r["bound"] is not None]
    few = how.draws < 2
    return {
        "ELBO": float(np.mean(bounds)) if bounds else "-",
        "deviation": float(np.std(bounds, ddof=1)) if bounds and not few else "-",
        "accuracy": float(right.mean()),
        "accuracy sd": "-" if few else float(right.std(ddof=1)),
        "measured": (
            f"{len(task.x):,} pictures, {len(task.test[0]):,} tested, {mean.shape[1]} of "
            f"{how.latent} latents used; {float(latents['seconds']):.0f} s of one processor core "
            f"for M1, {spent.mean():.0f} s for each draw of the labels"
        ),
        "seeds": how.draws,
    }


def _latents(task: Task, how: Stack) -> Arrays:
    """Train M1; return its posterior of all pictures, of the latents that it uses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(0, "weights of M1"))
        size = task.x[0].numel()
        first = DenseM2(size, num_classes=1, latent_dim=how.latent, width=how.width,
                        pixels=True)  # fmt: skip
    history = fit(first, task.x.flatten(1), torch.zeros_like(task.y), epochs=how.first,
                  batch_size=0, labelled_size=how.batch, alpha=0.0)  # fmt: skip
    mean, spread = posterior(first, task.x.flatten(1))
    test, _ = posterior(first, task.test[0].flatten(1))
    used = spread.mean(0) < USED
    if not used.any():
        raise RuntimeError("M1 uses none of its latents: train it for more epochs")
    return {
        "mean": mean[:, used].numpy(),
        "spread": spread[:, used].numpy(),
        "test": test[:, used].numpy(),
        "seconds": np.array(history[-1].seconds),
    }


def _second(
    task: Task, how: Stack, mean: Tensor, spread: Tensor, test: Tensor, draw: int
) -> tuple[float, float | None]:
    """Train M2 on draws of M1's posterior; return accuracy and bound at its means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(draw, "M2 on latents"))
        model = DenseM2(mean.shape[1], width=how.hidden, latent_dim=how.style)
    fit(model, mean, task.shown(draw=draw), spread=spread, epochs=how.second, batch_size=how.batch,
        labelled_size=100, alpha=1.0, beta=0.01, lr=3e-3, seed=draw)  # fmt: skip
    judged = evaluate(model, test, task.test[1])
    return judged.accuracy, judged.elbo


def _logistic(
    task: Task, how: Stack, mean: Tensor, spread: Tensor, test: Tensor, draw: int
) -> tuple[float, float | None]:
    """Fit a logistic regression to the labelled latents."""
    from sklearn.linear_model import LogisticRegression

    y = task.shown(draw=draw)
    model = LogisticRegression(max_iter=1000).fit(mean[y >= 0], y[y >= 0])
    return float(model.score(test, task.test[1])), None


def _spread(
    task: Task, how: Stack, mean: Tensor, spread: Tensor, test: Tensor, draw: int
) -> tuple[float, float | None]:
    """Let labels spread along the ten nearest neighbours of 10,000 pictures."""
    from sklearn.semi_supervised import LabelSpreading

    y = task.shown(draw=draw)
    rows = torch.cat([torch.nonzero(y >= 0)[:, 0], torch.nonzero(y < 0)[:GRAPH, 0]])
    model = LabelSpreading("knn", n_neighbors=10, alpha=0.99, max_iter=5000)
    model.fit(mean[rows], y[rows])
    return float(model.score(test, task.test[1])), None
