"""DAFT beside distillation, ordinary and adversarial training, on a domain that is never seen.

Handwritten digits in two settings: learned clean and blurred, judged with a patch missing; learned
clean and faint, judged turned. The judged pictures are others. With a folder, MNIST shrunk to the
same size is judged as well, and so are photographs as MobileNetV2 sees them: pets in spoiled and
in stylised copies, streets by night. The recipe of the teacher's second step is not published in
full: its readings are rows of the table.

Shape letters: N pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.bars import bars
from recollect.studies.denormals import denormals_flushed
from recollect.studies.photo_domains import FEATURES, Photographs, photo_settings, photographs
from recollect.studies.pictures import digits, mnist
from recollect.studies.running import Journal, gathered
from recollect.training import DAFT, Attack, DAFTConfig, leave_one_domain_out
from recollect.training.adversarial import robust_loss
from recollect.training.domains import accuracy, batches_of

__all__ = ["READINGS", "digit_settings", "draw", "study", "trainers"]

ATTACK = Attack(eps=0.7)
PHOTO_EPS = 6.0  # of features that have deviation 1 each; classes of pets are 33 apart
Domains = dict[str, Dataset[Any]]
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
SEEDS = range(5)
CHOSEN = "DAFT, reading chosen by the sources"


@dataclass(frozen=True)
class Budget:
    """Steps of each kind of training: teacher, adversarial fine-tuning, student."""

    teacher: int = 800
    finetune: int = 400
    student: int = 800


PHOTO_BUDGET = Budget(200, 100, 300)


@dataclass(frozen=True)
class Inputs:
    """What is read: how networks of a width are built, and how far an attack may go."""

    network: Callable[[int], nn.Sequential]
    eps: float
    bounds: tuple[float, float] | None

    def attacked(self, config: DAFTConfig) -> DAFTConfig:
        """Return a reading of the recipe with an attack that fits these inputs."""
        attack = replace(config.attack, eps=self.eps, bounds=self.bounds)
        return replace(config, attack=attack)


@denormals_flushed()
def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return accuracy on domains left out, for DAFT and its rivals.

    Interrupted (Ctrl-C), it returns the seeds that are there.

    Args:
        quick: two readings of the recipe, and shorter trainings.
        data: folder with ``mnist/mnist.npz``: one more domain, never a source; unless ``quick``,
            with ``scenes`` and ``weights`` too: photographs, as further settings.
        keep: folder for the seeds run so far, from which a study that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing, or for photographs outside a checkout.
        FileNotFoundError: if the folder holds no such file.
    """
    budget = Budget(300, 150, 300) if quick else Budget()
    journal = Journal(keep, "daft")
    photos = None if data is None or quick else photographs(data, journal)
    readings = {k: READINGS[k] for k in (QUICK if quick else READINGS)}
    far = None if data is None else _mnist(data)
    about = {"quick": quick, "data": data is not None}
    runs, notes = gathered(
        journal.row(
            {**about, "seed": seed}, partial(_one_seed, seed, readings, budget, far, photos)
        )
        for seed in SEEDS
    )
    found: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        for name, row in (run or {}).items():
            found.setdefault(name, []).append(row)
    rows = [_row(name, of_seeds) for name, of_seeds in found.items()]
    return Answer(
        {k: [r[k] for r in rows] for k in (rows[0] if rows else ())},
        title=f"accuracy of a small student on a domain never seen, {len(runs)} seed(s)",
        notes=[
            "unseen: mean over the two settings of digits; sources: a part of the source domains "
            "that was not learned, by which alone readings may be chosen",
            "direct adversarial training needs no teacher, and is the baseline to beat",
            *notes,
        ],
    )


def _row(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return one row of the table: means over seeds."""
    means = {column: float(np.mean([run[column] for run in runs])) for column in runs[0]}
    unseen = [run["unseen"] for run in runs]
    deviation = float(np.std(unseen, ddof=1)) if len(unseen) > 1 else float("nan")
    return {"method": name, "unseen": means.pop("unseen"), "deviation": deviation, **means}


def draw(answer: Answer, path: str) -> None:
    """Draw ``unseen`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "unseen", ("method",))


def _one_seed(
    seed: int,
    readings: Mapping[str, DAFTConfig],
    budget: Budget,
    far: TensorDataset | None = None,
    photos: Photographs | None = None,
) -> dict[str, dict[str, float]]:
    """Return, for each method, its accuracies: unseen, sources, and in each setting."""
    found: dict[str, dict[str, list[float]]] = {}
    for judged, domains in digit_settings(seed).items():
        made = trainers(readings, seed, budget)
        for name, row in _judged(domains, judged, made, readings, seed, far).items():
            mine = found.setdefault(name, {"unseen": [], "sources": []})
            mine["unseen"].append(row["unseen"])
            mine["sources"].append(row["validation"])
            mine[judged] = [row["unseen"]]
            if far is not None:
                mine.setdefault("MNIST", []).append(row["far"])
    for title, domains in {} if photos is None else photo_settings(photos, seed).items():
        made = trainers(readings, seed, PHOTO_BUDGET, _photo_inputs(domains))
        for name, row in _judged(domains, list(domains)[-1], made, readings, seed).items():
            found[name][title] = [row["unseen"]]
    return {
        name: {column: float(np.mean(scores)) for column, scores in mine.items()}
        for name, mine in found.items()
    }


def _judged(
    domains: Domains,
    judged: str,
    made: Mapping[str, Trainer],
    readings: Mapping[str, DAFTConfig],
    seed: int,
    far: TensorDataset | None = None,
) -> dict[str, dict[str, Any]]:
    """Return, for each method and for the chosen reading, its row with one domain left out."""
    learned: dict[str, Callable[[Tensor], Tensor]] = {}
    methods = {name: _noted(name, trainer, learned) for name, trainer in made.items()}
    found = {}
    for row in leave_one_domain_out(domains, methods, held_out=[judged], seed=seed):
        found[row["method"]] = dict(row)
        if far is not None:
            found[row["method"]]["far"] = accuracy(learned[row["method"]], *far.tensors)
    found[CHOSEN] = max((found[name] for name in readings), key=lambda row: row["validation"])
    return found


def _noted(name: str, trainer: Trainer, learned: dict[str, Callable[[Tensor], Tensor]]) -> Trainer:
    """Let a trainer leave what it has learned in a dictionary, so that it can be judged again."""

    def train(domains: Domains) -> Callable[[Tensor], Tensor]:
        learned[name] = trainer(domains)
        return learned[name]

    return train


def network(width: int) -> nn.Sequential:
    """Return two hidden layers of a width, for 8 x 8 pictures and ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


DIGITS = Inputs(network, ATTACK.eps, ATTACK.bounds)


def _photo_inputs(domains: Domains) -> Inputs:
    """Networks for the features of photographs, with the classes of these domains."""
    classes = 1 + max(int(domain[i][1]) for domain in domains.values() for i in range(len(domain)))  # type: ignore[arg-type]

    def made(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip

    return Inputs(made, PHOTO_EPS, None)


def trainers(
    readings: Mapping[str, DAFTConfig],
    seed: int,
    budget: Budget | None = None,
    inputs: Inputs = DIGITS,
) -> dict[str, Trainer]:
    """Return functions that train a student on domains: rivals first, then readings of DAFT.

    All that distil share one plainly trained teacher for each set of domains.

    Args:
        readings: name -> configuration of DAFT.
        seed: of networks, batches and attacks.
        budget: steps.
        inputs: what is read.
    """
    budget = budget or Budget()
    plain = inputs.attacked(DAFTConfig(ATTACK))
    teachers: dict[tuple[str, ...], nn.Module] = {}

    def drawn(width: int, role: str) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, role))
            return inputs.network(width)

    def taught(domains: Domains) -> nn.Module:
        key = tuple(domains)
        if key not in teachers:
            teachers[key] = _ordinary(drawn(256, "teacher"), domains, budget.teacher, seed)
        return copy.deepcopy(teachers[key])

    def ordinary(domains: Domains) -> Callable[[Tensor], Tensor]:
        return _ordinary(drawn(24, "student"), domains, budget.student, seed)

    def direct(domains: Domains) -> Callable[[Tensor], Tensor]:
        return _ordinary(drawn(24, "student"), domains, budget.student, seed, plain.attack)

    def by(config: DAFTConfig, finetune: int) -> Trainer:
        def train(domains: Domains) -> Callable[[Tensor], Tensor]:
            chosen = replace(
                inputs.attacked(config),
                teacher_steps=0,
                finetune_steps=finetune,
                student_steps=budget.student,
                lr=3e-3,
                seed=seed,
            )
            daft = DAFT(taught(domains), drawn(24, "student"), chosen)
            return daft.fit(domains).predict

        return train

    return {
        "ordinary training": ordinary,
        "ordinary training of the teacher": taught,
        "distilled from an ordinary teacher": by(plain, 0),
        "direct adversarial training": direct,
        **{name: by(config, budget.finetune) for name, config in readings.items()},
    }


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
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


# -- domains ------------------------------------------------------------------------------------


def digit_settings(seed: int) -> dict[str, Domains]:
    """Return judged domain -> two source domains of 1,400 pictures, and itself, of 397 others.

    Args:
        seed: of the split, the patches and the angles.

    >>> {name: list(domains) for name, domains in digit_settings(0).items()}
    {'patch': ['clean', 'blur', 'patch'], 'turned': ['clean', 'faint', 'turned']}
    """
    x, y = digits()
    draws = torch.Generator().manual_seed(seed_of(seed, "domains"))
    order = torch.randperm(len(y), generator=draws)
    learn, held = order[:1400], order[1400:]
    source = {name: TensorDataset(shift(x[learn]), y[learn]) for name, shift in _SOURCES.items()}
    judged = {name: TensorDataset(shift(x[held], draws), y[held]) for name, shift in _JUDGED}
    return {
        "patch": {"clean": source["clean"], "blur": source["blur"], "patch": judged["patch"]},
        "turned": {"clean": source["clean"], "faint": source["faint"], "turned": judged["turned"]},
    }


def _blurred(x: Tensor) -> Tensor:
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


_SOURCES: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": lambda pictures: pictures,
    "blur": _blurred,
    "faint": lambda pictures: 0.4 * pictures,
}
_JUDGED = (("patch", _patched), ("turned", _turned))


def _mnist(folder: str) -> TensorDataset:
    """Return 2,000 MNIST pictures at 8 x 8, cut to the digit and stretched as the others are."""
    x, y = mnist(folder)["test"]
    middle = F.interpolate(x[:2000, :, 2:14, 2:14], (8, 8), mode="area")
    top = middle.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return TensorDataset(middle / top, y[:2000])
