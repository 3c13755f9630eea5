"""The semi-supervised VAE: where it normalises, how many numbers a class needs, and what follows.

Handwritten digits of scikit-learn with ten labels a class, or MNIST of a folder with the same.
Each part trains small convolutional models side by side, the same but for one thing, and measures
what that thing does: to the bound, to the classifier, to the independence of the decoder.

Shape letters: N pictures, D numbers of a class embedding, P of a position embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.generative import (
    M2,
    ConvM2,
    Path,
    context_similarity,
    decoder_dependence,
    decoder_jacobian,
    fit,
    gradient_correlation,
    rotate,
    sweep,
)
from recollect.studies.learning_figures import draw_vae as draw
from recollect.studies.running import Journal
from recollect.studies.vae_stack import STACK, Stack, stacked
from recollect.studies.vae_tasks import Task, digits, mnist

__all__ = ["compare", "draw", "study"]

PLACEMENTS: dict[str, dict[str, str]] = {
    "no normalisation": {},
    "batch, encoder": {"norm_encoder": "batch"},
    "batch, decoder": {"norm_decoder": "batch"},
    "batch, both": {"norm_encoder": "batch", "norm_decoder": "batch"},
    "group, both": {"norm_encoder": "group", "norm_decoder": "group"},
    "layer, both": {"norm_encoder": "layer", "norm_decoder": "layer"},
}
COLUMNS = (
    "part", "setting", "first ELBO", "ELBO", "deviation", "accuracy", "accuracy sd", "measured",
    "seeds",
)  # fmt: skip
ANGLES = (0, -20, -40, -60, -90, 20, 40)


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return what each part measured, one row for each setting.

    Args:
        quick: narrower models, fewer epochs, settings and seeds.
        data: folder with ``mnist/mnist.npz``, which is then studied instead of the digits.
        keep: folder for the rows found so far, from which a run that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing and no folder is given.
        FileNotFoundError: if the folder holds no such file.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    journal = Journal(keep, "vae")
    try:
        if data is not None:
            task = mnist(data, quick)
            parts: tuple[Part, ...] = (published, partial(stack, data, journal), tilt)
            parts = parts if quick else (*parts, placement, class_dimension)
        else:
            task = digits(quick)
            parts = (
                placement, batches, class_dimension, tilt, position_dimension, width, subspace,
            )  # fmt: skip
        rows = []
        about = {"task": task.name, "seeds": len(task.seeds), "epochs": task.epochs}
        for part, setting, find in (todo for each in parts for todo in each(task, quick)):
            found = journal.row({"part": part, "setting": setting, **about}, find)
            assert found is not None
            rows.append({"part": part, "setting": setting, **found})
    finally:
        torch.set_num_threads(before)
    return Answer(
        {name: [row.get(name, "-") for row in rows] for name in COLUMNS},
        title=f"semi-supervised VAE on {task.name}: ten labels a class, {task.epochs} epochs",
        notes=[
            "ELBO: bound of log p(x) of pictures kept apart, nats, eval mode; after the first and "
            "after the last epoch; deviation over seeds",
            "dependence: deviation, in nats, of one picture's likelihood with the others of its "
            "decode batch (64 unless said), before -> after training; 0 in eval mode",
            "cosine: of a picture's decoder gradient with the one that it has without one "
            "batch-mate; gap: ELBO in eval mode less train mode",
        ],
    )


# What a row is about, and what finds it.
Todo = tuple[str, str, Callable[[], dict[str, Any]]]
Part = Callable[[Task, bool], Iterable[Todo]]


def compare(
    task: Task,
    setting: Mapping[str, Any],
    *,
    build: Callable[..., M2] = ConvM2,
    labels: Tensor | None = None,
    **fitting: Any,
) -> list[dict[str, Any]]:
    """Train the task's model with a setting and every seed; return the runs."""
    y = task.shown() if labels is None else labels
    return sweep(
        partial(build, **{**task.model, **setting}), [{}], task.x, y, task.test,
        seeds=task.seeds, **{"epochs": task.epochs, **task.fitting, **fitting},
    )  # fmt: skip


def row(runs: Sequence[Mapping[str, Any]], measured: str = "") -> dict[str, Any]:
    """Return the numbers of one row of the table: means and deviations over seeds."""
    elbo, right = (np.array([r[k] for r in runs]) for k in ("elbo", "accuracy"))
    first = [r["history"][0].judged.elbo for r in runs]
    few = len(runs) < 2
    return {
        "first ELBO": float(np.mean(first)),
        "ELBO": float(elbo.mean()),
        "deviation": "-" if few else float(elbo.std(ddof=1)),
        "accuracy": float(right.mean()),
        "accuracy sd": "-" if few else float(right.std(ddof=1)),
        "measured": measured or "-",
        "seeds": len(runs),
    }


def placement(task: Task, quick: bool) -> Iterable[Todo]:
    """Where it normalises: bound, classifier, and the dependence in the decoder."""
    for name, setting in PLACEMENTS.items():
        yield "where it normalises", name, partial(_placed, task, setting)


def _placed(task: Task, setting: Mapping[str, str]) -> dict[str, Any]:
    """Train with one placement, and diagnose the decoder of the first seed."""
    x, y = task.test
    torch.manual_seed(0)
    fresh = ConvM2(**{**task.model, **setting})
    runs = compare(task, setting)
    model = runs[0]["model"]
    gap = np.mean([r["elbo"] - r["elbo_train"] for r in runs])
    dependence = " -> ".join(
        f"{decoder_dependence(m, x, y, min(64, len(x))).train:.3f}" for m in (fresh, model)
    )
    gradients = gradient_correlation(model, x, y, 8)
    return row(
        runs,
        f"dependence {dependence}; Jacobian {decoder_jacobian(model, x[:16], y[:16]):.3f}; "
        f"cosine {gradients.own:.4f}, of pairs {gradients.pairs:.3f}; gap {gap:+.3f}",
    )


def batches(task: Task, quick: bool) -> Iterable[Todo]:
    """Where normalising the decoder does harm: size of the batch, momentum, depth."""
    yield "decoder, size of the batch", "untrained", partial(_untrained, task)
    harder: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("batch 4", {}, {"batch_size": 4, "labelled_size": 4}),
        ("momentum 0.005", {"momentum": 0.005}, {}),
        ("three convolutions deeper", {"depth": 3}, {}),
    ]
    if not quick:
        harder += [
            ("batch 2", {}, {"batch_size": 2, "labelled_size": 2}),
            ("momentum 0.02", {"momentum": 0.02}, {}),
            ("six convolutions deeper", {"depth": 6}, {}),
        ]
    part = replace(task, x=task.x[::4], y=task.y[::4])
    for name, model_keys, fit_keys in harder:
        for norm in ("none", "batch", *(() if quick else ("group",))):
            setting = {**model_keys, "norm_decoder": norm}
            find = partial(_gap, part, setting, fit_keys)
            yield "decoder, a quarter of the pictures", f"{name}, {norm}", find


def _untrained(task: Task) -> dict[str, Any]:
    """Return the dependence of a fresh decoder by the size of the batch."""
    x, y = task.test
    torch.manual_seed(0)
    model = ConvM2(**task.model, norm_decoder="batch")
    found = [decoder_dependence(model, x, y, n).train for n in (2, 4, 8, 16, 64)]
    told = "dependence at 2, 4, 8, 16, 64: " + ", ".join(f"{v:.3f}" for v in found)
    return {"measured": told, "seeds": 1}


def _gap(task: Task, setting: Mapping[str, Any], fitting: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and compare eval mode with train mode."""
    runs = compare(task, setting, **fitting)
    return row(runs, f"gap {np.mean([r['elbo'] - r['elbo_train'] for r in runs]):+.3f}")


def class_dimension(task: Task, quick: bool) -> Iterable[Todo]:
    """How many numbers a class embedding needs, with few labels and with all of them."""
    dims = (1, 2, 4, 16, 64) if quick else (1, 2, 3, 4, 8, 16, 64)
    settings = {f"D = {d}": {"class_embedding_dim": d, "norm_encoder": "batch"} for d in dims} | {
        "one-hot": {"onehot": True, "norm_encoder": "batch"}
    }
    for name, setting in settings.items():
        yield "class embedding", name, partial(_trained, task, setting)
    every = {"labels": task.y, "batch_size": 0, "labelled_size": 64, "alpha": 50.0}
    for name in [f"D = {d}" for d in dims]:
        find = partial(_trained, task, settings[name], **every)
        yield "class embedding, all labels", name, find


def _trained(task: Task, setting: Mapping[str, Any], **fitting: Any) -> dict[str, Any]:
    """Train with one setting."""
    return row(compare(task, setting, **fitting))


def tilt(task: Task, quick: bool) -> Iterable[Todo]:
    """Whether a three is nearer to a two or to an eight, as it is tilted."""
    for dim in (1, 3, 16):
        yield "tilted threes: log q(2) - log q(8)", f"D = {dim}", partial(_tilted, task, dim)


def _tilted(task: Task, dim: int) -> dict[str, Any]:
    """Train with a dimension, and turn the threes."""
    threes = task.test[0][task.test[1] == 3]
    turns = [partial(rotate, degrees=float(a)) for a in ANGLES]
    runs = compare(task, {"class_embedding_dim": dim, "norm_encoder": "batch"})
    found = torch.stack([context_similarity(r["model"], threes, 2, 8, turns) for r in runs])
    signs = found.mean(0).sign()
    told = ", ".join(f"{a}: {v:+.1f}" for a, v in zip(ANGLES, found.mean(0), strict=True))
    return row(runs, f"{told}; sign turns: {'yes' if signs.min() < signs.max() else 'no'}")


def position_dimension(task: Task, quick: bool) -> Iterable[Todo]:
    """How many numbers the decoder needs to know each place by."""
    settings: dict[str, dict[str, Any]] = {
        f"P = {p}": {"position_embedding_dim": p} for p in (1, 2, 4, 16)
    }
    settings["dense (weights of its own for each place)"] = {}
    for name, setting in settings.items():
        yield (
            "position embedding",
            name,
            partial(_trained, task, {**setting, "norm_encoder": "batch"}),
        )


def width(task: Task, quick: bool) -> Iterable[Todo]:
    """Whether a wider model overfits because it is large."""
    for factor in (1, 2, 4, 8) if quick else (1, 2, 4, 8, 16, 32):
        yield "width", f"x{factor} ({4 * factor} channels)", partial(_wide, task, 4 * factor)


def _wide(task: Task, channels: int) -> dict[str, Any]:
    """Train with a width."""
    runs = compare(task, {"width": channels, "norm_encoder": "batch"})
    size = sum(p.numel() for p in runs[0]["model"].parameters())
    return row(runs, f"{size:,} parameters")


def subspace(task: Task, quick: bool) -> Iterable[Todo]:
    """In how many dimensions the parameters move, beside their number."""
    for channels in (4, 16) if quick else (4, 16, 64):
        yield (
            "dimensions that SGD moves in",
            f"{channels} channels",
            partial(_moved, task, channels),
        )


def _moved(task: Task, channels: int) -> dict[str, Any]:
    """Train by SGD with momentum, and count the dimensions of the parameters' path."""
    runs, told = [], []
    for seed in task.seeds:
        torch.manual_seed(seed_of(seed, "subspace"))
        model = ConvM2(**{**task.model, "width": channels, "norm_encoder": "batch"})
        path = Path(model)
        history = fit(
            model, task.x, task.shown(), test=task.test, after_step=path.note, seed=seed,
            optimizer=lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
            **{"epochs": task.epochs, **task.fitting},
        )  # fmt: skip
        points, steps = path.spectrum(), path.spectrum("steps")
        judged = history[-1].judged
        assert judged is not None
        runs.append({"history": history, "elbo": judged.elbo, "accuracy": judged.accuracy})
        told.append(
            f"90 % of the path in {points.dimension(0.9)} dimensions, 99 % in "
            f"{points.dimension(0.99)}; 90 % of the steps' energy in {steps.dimension(0.9)}"
        )
    size = f"{path.num_parameters:,} parameters, {path.length} steps: "
    return row(runs, size + " | ".join(told))


def published(task: Task, quick: bool) -> Iterable[Todo]:
    """M2 as published, but for convolutions: the share of the test pictures that it names."""
    yield "M2, 100 labels", "published 0.880", partial(_published, task)


def _published(task: Task) -> dict[str, Any]:
    """Train M2."""
    runs = compare(task, {"norm_encoder": "batch"})
    return row(runs, _budget(task, np.mean([r["history"][-1].seconds for r in runs])))


def stack(data: str, journal: Journal, task: Task, quick: bool) -> Iterable[Todo]:
    """M1 + M2: a VAE without classes of all pictures, then M2 on its latents."""
    how = Stack(256, 20, first=12, batch=50, second=10, draws=1) if quick else STACK
    whole = task if quick else mnist(data, quick, number=60_000)
    for name, find in stacked(whole, how, journal):
        yield "M1 + M2, 100 labels", name, find


def _budget(task: Task, seconds: Any) -> str:
    """Say what was spent."""
    return (
        f"{len(task.x):,} pictures, {task.epochs} epochs, {len(task.test[0]):,} tested, "
        f"{seconds:.0f} s of one processor core"
    )
