"""Feature reconstruction against the pull of simple features, and together with DAFT.

Three settings, from bare to real: copies of a simple number beside one complex number; copies of a
bright strip beside what a network made of handwritten digits; and dominoes, a simple picture on
top of a complex one, read by a network that learns all by itself (digits under strips, or MNIST
over CIFAR-10 of a folder). In training both halves tell the class. Accuracy counts where the
simple half is drawn at random.

Shape letters: N examples, R copies, d features, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.bars import bars
from recollect.studies.copied_features import (
    LAMBDA,
    accuracies,
    copies,
    crowded,
    digit_copies,
    frr_head,
)
from recollect.studies.denormals import denormals_flushed
from recollect.studies.domino_tasks import Task, of_folder, of_folder_known, strips
from recollect.studies.pictures import Shuffled, refit
from recollect.studies.running import Journal, gathered
from recollect.training import (
    Attack,
    DistillationLoss,
    FRRHead,
    adversarial_finetune,
    feature_replication_report,
    fixed_linear_finetune,
)

__all__ = ["dominoes", "draw", "study", "two_by_two"]

Found = dict[str, dict[str, float]]


@denormals_flushed()
def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return accuracy with the simple half at random, ERM beside FRR, DAFT and their like.

    Interrupted (Ctrl-C), it returns the rows that are there.

    Args:
        quick: 5 seeds and fewer settings, instead of 10.
        data: folder with ``mnist`` and ``cifar10``, for MNIST | CIFAR-10 dominoes.
        keep: folder for the seeds run so far, from which a study that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if the folder holds no such files.
    """
    name, task = ("strip | digit dominoes", strips) if data is None else of_folder(data)
    journal = Journal(keep, "frr")

    def settings() -> Iterator[tuple[str, list[Found]]]:
        for setting, seeds, run in _settings(quick, data, name, task):
            runs: list[Any] = [
                journal.row({"setting": setting, "seed": s}, partial(run, s)) for s in seeds
            ]
            yield setting, runs

    found, notes = gathered(settings())
    rows = [row for setting, runs in found for row in _rows(setting, runs)]
    return Answer(
        {k: [r[k] for r in rows] for k in (rows[0] if rows else ())},
        title="accuracy where the simple half is random",
        notes=[
            f"lambda = {LAMBDA:g} where no other is named; 'anew' heads begin at zero, and the "
            "row with lambda = 0 is their control: what standardised features do by themselves",
            "DFR trains the head on data without the correlation: what the features would allow",
            *(notes or [_replication(task(0))]),
        ],
    )


Setting = tuple[str, range, Callable[[int], Found]]


def _settings(
    quick: bool, data: str | None, name: str, task: Callable[..., Task]
) -> Iterator[Setting]:
    """Yield what is compared, with which seeds, and what runs one of them."""
    seeds = range(5 if quick else 10)
    if data is not None and not quick:
        # Its heads were chosen by seed 0.
        known, made = of_folder_known(data)
        yield known, range(1, 6), lambda s: dominoes(made(s), s, heads=_KNOWN_HEADS)
    for number in (5,) if quick else (5, 20):
        yield f"{number} copies, made", seeds, partial(copies, number)
    yield "20 noisy copies beside 5, and 40 others", seeds, crowded
    yield "10 copies of a strip, digits", seeds, partial(digit_copies, 10)
    if data is not None and quick:
        seeds = range(2)
    yield name, seeds, lambda s: dominoes(task(s), s)
    for share in (1.0, 0.1):
        student = partial(_students, task, share)
        yield f"{name}, {share:.0%} of the data, student", seeds, student


def _students(task: Callable[..., Task], share: float, seed: int) -> Found:
    return two_by_two(task(seed, share), seed)


def draw(answer: Answer, path: str) -> None:
    """Draw ``simple half random`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "simple half random", ("setting", "method"))


def _rows(setting: str, runs: list[Found]) -> list[dict[str, Any]]:
    rows = []
    for method in runs[0]:
        random = np.array([run[method]["simple"] for run in runs])
        rows.append(
            {
                "setting": setting,
                "method": method,
                "simple half random": float(random.mean()),
                "deviation": float(random.std(ddof=1)) if len(random) > 1 else float("nan"),
                "in distribution": float(np.mean([run[method]["none"] for run in runs])),
                "seeds": len(runs),
            }
        )
    return rows


# -- dominoes -----------------------------------------------------------------------------------


def _trained(task: Task, width: int, seed: int) -> nn.Sequential:
    """Train a network plainly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "network", width))
        model = task.network(width)
    optimizer = torch.optim.AdamW(model.parameters(), task.lr)
    for x, y in Shuffled(*task.train, 64, task.epochs, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@torch.no_grad()
def _features(backbone: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([backbone(part) for part in torch.split(x, 500)])


def _frr(
    learned: tuple[Tensor, Tensor],
    linear: nn.Module,
    seed: int,
    lam: float = LAMBDA,
    **options: Any,
) -> FRRHead:
    """Return an FRR head for features that are known; anew unless the options say otherwise."""
    assert isinstance(linear, nn.Linear)
    return frr_head(learned, linear, seed, lam=lam, steps=300, **{"restart": True, **options})


_HEADS: dict[str, dict[str, Any]] = {
    "head anew, lambda = 0": {"lam": 0.0},
    "FRR-L, from the ERM head": {"restart": False},
    "FRR-L, anew, l2": {"p": "2"},
    "FRR-L, anew, 20 components": {"components": 20},
    "FRR-L, anew, relevance 1": {"relevance": 1.0},
    "FRR-L, anew": {},
}
_KNOWN_HEADS: dict[str, dict[str, Any]] = {
    "head anew, lambda = 0": {"lam": 0.0},
    "FRR-L, anew": {},
    "FRR-L, anew, relevance 1, lambda = 10": {"relevance": 1.0, "lam": 10.0},
    "FRR-L, anew, lambda = 10": {"lam": 10.0},
}


def dominoes(
    task: Task, seed: int, width: int = 64, heads: Mapping[str, dict[str, Any]] | None = None
) -> Found:
    """Return accuracies of ERM, FRR-L, FRR-FLFT and DFR on dominoes.

    Args:
        task: training and test data.
        seed: of networks and batches.
        width: of the features.
        heads: name -> options of a head; FLFT follows the last.
    """
    model = _trained(task, width, seed)
    learned = _features(model[0], task.train[0]), task.train[1]
    tests = {name: (_features(model[0], x), y) for name, (x, y) in task.tests.items()}
    found = {"ERM": accuracies(model[1], tests)}
    for name, options in (heads or _HEADS).items():
        head = _frr(learned, model[1], seed, **options)
        found[name] = accuracies(head, tests)
    tuned = copy.deepcopy(model[0])
    batches = Shuffled(*task.train, 64, min(3, task.epochs), seed)
    fixed_linear_finetune(tuned, head, batches, lr=task.lr / 10)
    found["FRR-FLFT"] = accuracies(nn.Sequential(tuned, head), task.tests)
    decayed = refit(*learned, seed, weight_decay=0.5)
    found["head anew, weight decay"] = accuracies(decayed, tests)
    fair = refit(_features(model[0], task.fair[0]), task.fair[1], seed)
    found["DFR (upper bound)"] = accuracies(fair, tests)
    return found


def two_by_two(task: Task, seed: int, width: int = 64) -> Found:
    """Return accuracies of students whose teachers had FRR, DAFT, both or neither.

    DAFT after FRR keeps the head that FRR has made, and fine-tunes the backbone.

    Args:
        task: training and test data.
        seed: of networks, batches and attacks.
        width: of the teacher's features; the student's is 16.
    """
    model = _trained(task, width, seed)
    attack = Attack(eps=task.eps, reference="start")
    batches = Shuffled(*task.train, 64, max(1, task.epochs // 10), seed)
    learned = _features(model[0], task.train[0]), task.train[1]
    head = _frr(learned, model[1], seed)
    found: Found = {}
    for name, last in (("neither", model[1]), ("FRR", head)):
        teacher = nn.Sequential(copy.deepcopy(model[0]), copy.deepcopy(last))
        found[name] = accuracies(_student(task, teacher, seed), task.tests)
        scope = "full" if name == "neither" else "backbone"
        adversarial_finetune(teacher, batches, attack, scope, head=teacher[1], seed=seed)
        also = "DAFT" if name == "neither" else "FRR and DAFT"
        found[also] = accuracies(_student(task, teacher, seed), task.tests)
    control = nn.Sequential(model[0], _frr(learned, model[1], seed, lam=0.0))
    found["head anew, lambda = 0"] = accuracies(_student(task, control, seed), task.tests)
    return found


def _student(task: Task, teacher: nn.Module, seed: int) -> nn.Module:
    """Distil a teacher to a narrow network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "student"))
        student = task.network(16)
    optimizer, loss = torch.optim.AdamW(student.parameters(), 2e-3), DistillationLoss()
    teacher.eval()
    for x, y in Shuffled(*task.train, 64, task.epochs, seed):
        with torch.no_grad():
            soft = teacher(x)
        optimizer.zero_grad()
        loss(student(x), soft, y).backward()
        optimizer.step()
    return student.eval()


def _replication(task: Task) -> str:
    """Say how often each half stands in the features."""
    model = _trained(task, 64, 0)
    report = feature_replication_report(model[0], model[1], task.held)
    counts, mass = report.features, report.weight_mass
    return (
        f"features of one ERM network: {counts['simple']} belong to the simple half, "
        f"{counts['complex']} to the complex one, {counts['neither']} to neither; the head's "
        f"weight on them {mass['simple']:.2f}, {mass['complex']:.2f}, {mass['neither']:.2f}; the "
        f"first principal component holds {float(report.spectrum[0]):.0%} of the variance"
    )
