"""DAFT beside distillation, ordinary and adversarial training, on a domain that is never seen.

Handwritten digits as they are, blurred, with a patch missing, and turned; each domain is left out
in turn, and a small student is judged there. With a folder, MNIST shrunk to the same size is one
more domain. The recipe of the teacher's second step is not published in full: its readings are
rows of the table.

Shape letters: N pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.pictures import digits, mnist
from recollect.training import DAFT, Attack, DAFTConfig, leave_one_domain_out
from recollect.training.adversarial import robust_loss
from recollect.training.distillation import batches_of

__all__ = ["READINGS", "digit_domains", "study", "trainers"]

ATTACK = Attack(eps=0.7)
Domains = dict[str, TensorDataset]
Trainer = Callable[[Any], Callable[[Tensor], Tensor]]

READINGS: dict[str, DAFTConfig] = {
    "DAFT, head only": DAFTConfig(ATTACK, "head"),
    "DAFT": DAFTConfig(ATTACK),
    "DAFT, attacked too while distilled": DAFTConfig(ATTACK, adversarial_distillation=True),
    "DAFT, reference: clean prediction": DAFTConfig(replace(ATTACK, reference="clean")),
    "DAFT, reference: first prediction": DAFTConfig(replace(ATTACK, reference="start")),
    "DAFT, both: first prediction": DAFTConfig(replace(ATTACK, target="clean", reference="start")),
}
QUICK = ("DAFT, head only", "DAFT")


@dataclass(frozen=True)
class Budget:
    """Steps of each kind of training: teacher, adversarial fine-tuning, student."""

    teacher: int = 240
    finetune: int = 120
    student: int = 240


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return accuracy on domains left out, for DAFT and its rivals.

    Args:
        quick: two readings of the recipe, and only the two hardest domains are left out.
        data: folder with ``mnist/mnist.npz``: one more domain, never a source.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if the folder holds no such file.
    """
    torch.set_flush_denormal(True)
    seeds = range(5)
    unseen = ("patch", "turned") if quick else ("clean", "blur", "patch", "turned")
    readings = {k: READINGS[k] for k in (QUICK if quick else READINGS)}
    far = None if data is None else _mnist(data)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for name, row in _one_seed(seed, readings, unseen, far).items():
            found.setdefault(name, []).append(row)
    columns = list(next(iter(found.values()))[0])
    rows = []
    for name, runs in found.items():
        table = np.array([[run[c] for c in columns] for run in runs])  # (seeds, columns)
        row: dict[str, Any] = {"method": name, "unseen": float(table[:, 0].mean())}
        row["deviation"] = float(table[:, 0].std(ddof=1))
        row |= dict(zip(columns[1:], table[:, 1:].mean(0).tolist(), strict=True))
        rows.append(row)
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"accuracy of a small student on a domain never seen, {len(seeds)} seeds",
        notes=[
            "unseen: mean over the domains left out; sources: held-out pictures of the others, "
            "by which alone readings may be chosen",
            "direct adversarial training needs no teacher, and is the baseline to beat",
        ],
    )


def _one_seed(
    seed: int,
    readings: Mapping[str, DAFTConfig],
    unseen: Sequence[str],
    far: TensorDataset | None = None,
) -> dict[str, dict[str, float]]:
    """Return, for each method, its accuracies: unseen, sources, and each domain left out."""
    domains = digit_domains(seed)
    methods = trainers(readings, seed)
    answer = leave_one_domain_out(domains, methods, held_out=unseen, seed=seed)
    found: dict[str, dict[str, float]] = {}
    for name in methods:
        mine = [row for row in answer if row["method"] == name]
        found[name] = {
            "unseen": float(np.mean([row["unseen"] for row in mine])),
            "sources": float(np.mean([row["validation"] for row in mine])),
            **{row["held out"]: row["unseen"] for row in mine},
        }
    picked = []
    for domain in unseen:
        offered = [r for r in answer if r["held out"] == domain and r["method"] in readings]
        picked.append(max(offered, key=lambda row: row["validation"]))
    found["DAFT, reading chosen by the sources"] = {
        "unseen": float(np.mean([row["unseen"] for row in picked])),
        "sources": float(np.mean([row["validation"] for row in picked])),
        **{row["held out"]: row["unseen"] for row in picked},
    }
    if far is not None:
        for name, trainer in methods.items():
            predict = trainer(domains)
            with torch.no_grad():
                right = predict(far.tensors[0]).argmax(1) == far.tensors[1]
            found[name]["MNIST"] = float(right.float().mean())
        found["DAFT, reading chosen by the sources"]["MNIST"] = float("nan")
    return found


def network(width: int) -> nn.Sequential:
    """Return two hidden layers of a width, for 8 x 8 pictures and ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


def trainers(
    readings: Mapping[str, DAFTConfig], seed: int, budget: Budget | None = None
) -> dict[str, Trainer]:
    """Return functions that train a student on domains: rivals first, then readings of DAFT.

    All that distil share one plainly trained teacher for each set of domains.

    Args:
        readings: name -> configuration of DAFT.
        seed: of networks, batches and attacks.
        budget: steps.
    """
    budget = budget or Budget()
    teachers: dict[tuple[str, ...], nn.Module] = {}

    def taught(domains: Domains) -> nn.Module:
        key = tuple(domains)
        if key not in teachers:
            teachers[key] = _ordinary(_drawn(256, seed, "teacher"), domains, budget.teacher, seed)
        return copy.deepcopy(teachers[key])

    def ordinary(domains: Domains) -> Callable[[Tensor], Tensor]:
        return _ordinary(_drawn(24, seed, "student"), domains, budget.student, seed)

    def direct(domains: Domains) -> Callable[[Tensor], Tensor]:
        model = _drawn(24, seed, "student")
        return _ordinary(model, domains, budget.student, seed, ATTACK)

    def by(config: DAFTConfig, finetune: int) -> Trainer:
        def train(domains: Domains) -> Callable[[Tensor], Tensor]:
            chosen = replace(
                config,
                teacher_steps=0,
                finetune_steps=finetune,
                student_steps=budget.student,
                lr=3e-3,
                seed=seed,
            )
            daft = DAFT(taught(domains), _drawn(24, seed, "student"), chosen)
            return daft.fit(domains).predict

        return train

    plain = DAFTConfig(ATTACK)
    return {
        "ordinary training": ordinary,
        "ordinary training of the teacher": taught,
        "distilled from an ordinary teacher": by(plain, 0),
        "direct adversarial training": direct,
        **{name: by(config, budget.finetune) for name, config in readings.items()},
    }


def _drawn(width: int, seed: int, role: str) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, role))
        return network(width)


def _ordinary(
    model: nn.Sequential, domains: Domains, steps: int, seed: int, attack: Attack | None = None
) -> nn.Sequential:
    """Train on labels, and on adversarial examples if there is an attack."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draws = torch.Generator().manual_seed(seed_of(seed, "attack"))
    batches = batches_of(domains, 64, seed)
    for _ in range(steps):
        x, y = (torch.cat(part) for part in zip(*next(batches), strict=True))
        if attack is None:
            loss = F.cross_entropy(model(x), y)
        else:
            loss = robust_loss(model, attack, x, y, generator=draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# -- domains ------------------------------------------------------------------------------------


def digit_domains(seed: int) -> Domains:
    """Return handwritten digits in four domains; no picture stands in two of them.

    Args:
        seed: of the split, the patches and the angles.

    >>> [len(d) for d in digit_domains(0).values()]
    [449, 449, 449, 450]
    """
    x, y = digits()
    draws = torch.Generator().manual_seed(seed_of(seed, "domains"))
    order = torch.randperm(len(y), generator=draws)
    parts = [order[i * len(y) // 4 : (i + 1) * len(y) // 4] for i in range(4)]
    shifts: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
        "clean": lambda pictures, _: pictures,
        "blur": _blurred,
        "patch": _patched,
        "turned": _turned,
    }
    return {
        name: TensorDataset(shift(x[rows], draws), y[rows])
        for (name, shift), rows in zip(shifts.items(), parts, strict=True)
    }


def _blurred(x: Tensor, draws: torch.Generator) -> Tensor:
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.outer(line, line)[None, None])


def _patched(x: Tensor, draws: torch.Generator) -> Tensor:
    """Blank out 3 x 3 of the 8 x 8 numbers somewhere near the middle."""
    x = x.clone()
    corners = torch.randint(1, 5, (len(x), 2), generator=draws)
    for picture, (i, j) in zip(x, corners.tolist(), strict=True):
        picture[:, i : i + 3, j : j + 3] = 0
    return x


def _turned(x: Tensor, draws: torch.Generator) -> Tensor:
    """Turn by 15 to 30 degrees to either side."""
    side = 2.0 * torch.randint(2, (len(x),), generator=draws) - 1
    angle = torch.deg2rad(side * (15 + 15 * torch.rand(len(x), generator=draws)))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def _mnist(folder: str) -> TensorDataset:
    """Return 2,000 MNIST pictures at 8 x 8, cut to the digit and stretched as the others are."""
    x, y = mnist(folder)["test"]
    middle = F.interpolate(x[:2000, :, 2:14, 2:14], (8, 8), mode="area")
    top = middle.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return TensorDataset(middle / top, y[:2000])
