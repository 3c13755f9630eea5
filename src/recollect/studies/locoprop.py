"""LocoProp on a deep autoencoder, beside first-order and second-order optimisers.

The same autoencoder (tanh everywhere but at the code and at the end) is trained with equal
batches, with equal numbers of gradient steps (the rival repeats every batch K times) and for
equal time (the rival runs as many epochs as fit). Digits of scikit-learn, or MNIST of a folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recollect._answers import Answer
from recollect.studies import locoprop_mnist
from recollect.studies.autoencoders import STEPS, Build, digits, local, rmsprop, train
from recollect.studies.bars import bars
from recollect.studies.second_order import behind_second_order, rivals

__all__ = ["draw", "study"]

TENTHS = 1 / STEPS  # share of the batch in each of them, where they are to cost one pass in all


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return the reconstruction loss (nats a picture) of LocoProp and of its rivals.

    Args:
        quick: fewer epochs and seeds; of MNIST one epoch of four methods.
        data: folder with ``mnist/`` and ``fashion_mnist/``; without it, scikit-learn's digits.
        keep: folder for the runs on MNIST so far, from which a study that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing and there is no folder.
        ValueError: if runs on digits are to be kept: they take minutes.
    """
    if data is not None:
        return locoprop_mnist.study(data, quick, keep)
    if keep is not None:
        raise ValueError("runs on digits take minutes and are not kept; leave keep out, or name "
                         "a folder with MNIST in data")  # fmt: skip
    task = digits(30 if quick else 100)
    seeds = range(2 if quick else 4)
    rows: list[dict[str, Any]] = []
    for compared, name, build, repeats in _methods():
        runs = [train(task, build, seed, repeats=repeats) for seed in seeds]
        rows.append(_row(compared, name, runs))
    for name, build in rivals().items():
        rows.append(_row("equal batches", name, [train(task, build, seed) for seed in seeds]))
    # As many epochs of the rival as fit into the time of LocoProp-M.
    spent = next(r["seconds"] for r in rows if r["method"] == "LocoProp-M, gamma 50")
    single = next(r["seconds"] for r in rows if r["method"] == "RMSProp")
    epochs = max(1, round(task.epochs * spent / single))
    runs = [train(task, rmsprop(), seed, epochs=epochs) for seed in seeds]
    rows.append(_row("equal time", "RMSProp", runs))
    for row in rows:
        row["step, RMSProp = 1"] = row["seconds"] * task.epochs / (single * row["epochs"])
    same = [row for row in rows if row["compared at"] == "equal batches"]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"reconstruction loss of {task.name}, nats a picture, {len(seeds)} seed(s)",
        notes=[
            "equal batches is LocoProp's claim: one backward pass a batch; the control K = 1 "
            "must equal RMSProp",
            "rivals at equal gradient steps repeat every batch; where they are lower, LocoProp "
            "does not win there",
            *behind_second_order(same, ("LocoProp-M, gamma 50", "LocoProp-M, gamma 50, tenths")),
            "gamma 50 fits the training pictures best and overfits small data: compare test",
            "tenths: local steps after the first see a tenth of the batch each",
        ],
    )


def draw(answer: Answer, path: str) -> None:
    """Draw ``train`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "train", ("compared at", "method"))


def _row(compared: str, name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    loss, test, seconds = (np.array([r[k] for r in runs]) for k in ("train", "test", "seconds"))
    return {
        "compared at": compared,
        "method": name,
        "epochs": runs[0]["epochs"],
        "train": float(loss.mean()),
        "deviation": float(loss.std(ddof=1)) if len(loss) > 1 else float("nan"),
        "test": float(test.mean()),
        "seconds": float(seconds.mean()),
    }


def _methods() -> list[tuple[str, str, Build, int]]:
    """Rows: what is equal, name, optimiser, passes over each batch. Rates: best of a 4-grid."""
    same = "equal batches"
    return [
        (same, "SGD, momentum", lambda m: torch.optim.SGD(m.parameters(), 0.03, 0.9), 1),
        (same, "Adam", lambda m: torch.optim.Adam(m.parameters(), 1e-2), 1),
        (same, "RMSProp", rmsprop(), 1),
        (same, "LocoProp-M, K = 1", local("M", 10.0, steps=1), 1),
        (same, "LocoProp-S, gamma 50", local("S", 50.0), 1),
        (same, "LocoProp-M, gamma 10", local("M", 10.0), 1),
        (same, "LocoProp-M, gamma 50", local("M", 50.0), 1),
        (same, "LocoProp-M, gamma 50, tenths", local("M", 50.0, share=TENTHS), 1),
        ("equal gradient steps", "RMSProp, every batch 10 times", rmsprop(), STEPS),
    ]
