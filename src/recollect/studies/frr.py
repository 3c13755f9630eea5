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
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.bars import bars
from recollect.studies.denormals import denormals_flushed
from recollect.studies.domino_tasks import Task, of_folder, of_folder_known, strips
from recollect.studies.pictures import Shuffled, digits, refit
from recollect.training import (
    Attack,
    DistillationLoss,
    FRRHead,
    adversarial_finetune,
    feature_replication_report,
    fixed_linear_finetune,
    train_frr_linear,
)

__all__ = ["copies", "crowded", "dominoes", "draw", "study", "two_by_two"]

LAMBDA = 1.0
Halves = tuple[Tensor, Tensor]
Found = dict[str, dict[str, float]]


@denormals_flushed()
def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return accuracy with the simple half at random, ERM beside FRR, DAFT and their like.

    Args:
        quick: 5 seeds and fewer settings, instead of 10.
        data: folder with ``mnist`` and ``cifar10``, for MNIST | CIFAR-10 dominoes.

    Raises:
        ImportError: if scikit-learn is missing.
        FileNotFoundError: if the folder holds no such files.
    """
    seeds = range(5 if quick else 10)
    rows: list[dict[str, Any]] = []
    for number in (5,) if quick else (5, 20):
        rows += _rows(f"{number} copies, made", [copies(number, s) for s in seeds])
    rows += _rows("20 noisy copies beside 5, and 40 others", [crowded(s) for s in seeds])
    rows += _rows("10 copies of a strip, digits", [digit_copies(10, s) for s in seeds])
    name, task = ("strip | digit dominoes", strips) if data is None else of_folder(data)
    if data is not None and quick:
        seeds = range(2)
    found = [dominoes(task(s), s) for s in seeds]
    rows += _rows(name, found)
    if data is not None and not quick:
        known, made = of_folder_known(data)
        rows += _rows(known, [dominoes(made(s), s, heads=_KNOWN_HEADS) for s in seeds])
    for share in (1.0, 0.1):
        cells = [two_by_two(task(s, share), s) for s in seeds]
        rows += _rows(f"{name}, {share:.0%} of the data, student", cells)
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"accuracy where the simple half is random, {len(seeds)} seeds",
        notes=[
            f"lambda = {LAMBDA:g} where no other is named; 'anew' heads begin at zero, and the "
            "row with lambda = 0 is their control: what standardised features do by themselves",
            "DFR trains the head on data without the correlation: what the features would allow",
            _replication(task(0)),
        ],
    )


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
            }
        )
    return rows


# -- copies of a simple feature -----------------------------------------------------------------


def copies(number: int, seed: int, *, steps: int = 1000) -> Found:
    """Return accuracies on R copies of a simple score beside one complex score.

    Both scores are the class +-1 times a magnitude in [1, 1.5]. Using both equally is right in
    three of four cases where the simple score is random; the copies alone in one of two.

    Args:
        number: R.
        seed: of the scores.
        steps: of each training.
    """
    draws = torch.Generator().manual_seed(seed_of(seed, "copies"))

    def scores(signs: Tensor) -> Tensor:
        return signs * (1 + 0.5 * torch.rand(len(signs), generator=draws))

    def drawn(count: int, random: bool) -> Halves:
        y = torch.randint(2, (count,), generator=draws)
        other = torch.randint(2, (count,), generator=draws) if random else y
        simple, complex_ = scores(2.0 * other - 1), scores(2.0 * y - 1)
        return torch.cat([simple[:, None].expand(-1, number), complex_[:, None]], 1), y

    train = drawn(1000, False)
    tests = {"none": drawn(2000, False), "simple": drawn(2000, True)}
    return _compared(train, tests, seed, steps, _VARIANTS)


def crowded(seed: int, *, steps: int = 400) -> Found:
    """Return accuracies where most of what varies says nothing of the class.

    20 noisy copies of a simple score, 5 of a complex one (the class +-1 and normal noise of 0.3)
    and 40 normal numbers.

    Args:
        seed: of the scores.
        steps: of each training.
    """
    draws = torch.Generator().manual_seed(seed_of(seed, "crowded"))
    normal = partial(torch.randn, generator=draws)

    def drawn(count: int, random: bool) -> Halves:
        y = torch.randint(2, (count,), generator=draws)
        other = torch.randint(2, (count,), generator=draws) if random else y
        simple = (2.0 * other - 1) * (1 + 0.5 * torch.rand(count, generator=draws))
        complex_ = 2.0 * y - 1 + 0.3 * normal(count)
        copied = [
            simple[:, None] + 0.1 * normal(count, 20),
            complex_[:, None] + 0.3 * normal(count, 5),
        ]
        return torch.cat([*copied, normal(count, 40)], 1), y

    train = drawn(1000, False)
    tests = {"none": drawn(2000, False), "simple": drawn(2000, True)}
    return _compared(train, tests, seed, steps, _CROWDED)


def digit_copies(number: int, seed: int, *, steps: int = 1000) -> Found:
    """Return accuracies on R copies of a strip beside a score read from a real digit.

    The class is whether the digit is 5 or more; the score is the tanh of a small network that was
    trained for it, the strip a bright or dark bar with noise.

    Args:
        number: R.
        seed: of splits, networks and noise.
        steps: of each training of a head.
    """
    x, y = digits()
    y = (y >= 5).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed_of(seed, "rows")))
    cut = 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "reader"))
        reader = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(reader.parameters(), 1e-2)
    target = 2.0 * y[order[:cut], None] - 1
    for _ in range(200):
        optimizer.zero_grad()
        loss = F.mse_loss(torch.tanh(reader(x[order[:cut]])), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        score = torch.tanh(reader(x))  # (N, 1)
    draws = torch.Generator().manual_seed(seed_of(seed, "strip"))

    def drawn(rows: Tensor, random: bool) -> Halves:
        label = y[rows]
        told = label[torch.randperm(len(rows), generator=draws)] if random else label
        strip = (2.0 * told - 1) * (1 + 0.5 * torch.rand(len(rows), generator=draws))
        return torch.cat([strip[:, None].expand(-1, number), score[rows]], 1), label

    train = drawn(order[:cut], False)
    tests = {"none": drawn(order[cut:], False), "simple": drawn(order[cut:], True)}
    return _compared(train, tests, seed, steps, _VARIANTS)


_VARIANTS: dict[str, dict[str, Any]] = {
    "FRR-L, l1": {"p": "1"},
    "FRR-L, l2": {"p": "2"},
    "FRR-L, l-inf, raw logits": {"centre_logits": False},
    "FRR-L, l-inf": {},
    "FRR-L, l-inf, 2 components, anew": {"components": 2, "restart": True},
    "the same, lambda = 0": {"components": 2, "restart": True, "lam": 0.0},
}


_CROWDED: dict[str, dict[str, Any]] = {
    "FRR-L, l-inf, anew": {"restart": True},
    "FRR-L, l-inf, anew, relevance 1": {"restart": True, "relevance": 1.0},
    "the same, lambda = 0": {"restart": True, "lam": 0.0},
}


def _compared(
    train: Halves,
    tests: dict[str, Halves],
    seed: int,
    steps: int,
    variants: dict[str, dict[str, Any]],
) -> Found:
    """Accuracies of an ordinary head and of FRR heads (lambda 1) on fixed features."""
    z, y = train
    linear = refit(z, y, seed, steps=steps // 2)
    found = {"ERM": _accuracies(linear, tests)}
    for name, options in variants.items():
        head = _head(train, linear, seed, steps=steps, **{"lam": LAMBDA, **options})
        found[name] = _accuracies(head, tests)
    return found


def _head(
    train: Halves,
    linear: nn.Linear,
    seed: int,
    *,
    lam: float,
    steps: int,
    restart: bool = False,
    **options: Any,
) -> FRRHead:
    """Return an FRR head for fixed features (N, d), which starts from an ordinary one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "head"))
        head = FRRHead(linear.in_features, linear.out_features, **options).start_from(linear)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a collapse shows in the table
        train_frr_linear(nn.Identity(), head, [train], lam, epochs=steps, restart=restart)
    return head.requires_grad_(False)


@torch.no_grad()
def _accuracies(model: Callable[[Tensor], Tensor], tests: dict[str, Halves]) -> dict[str, float]:
    found = {}
    for name, (x, y) in tests.items():
        logits = torch.cat([model(part) for part in torch.split(x, 500)])
        found[name] = float((logits.argmax(1) == y).float().mean())
    return found


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
    task: Task, model: nn.Sequential, seed: int, lam: float = LAMBDA, **options: Any
) -> FRRHead:
    """Return an FRR head for the features of a network; anew unless the options say otherwise."""
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    features = _features(model[0], task.train[0]), task.train[1]
    return _head(features, linear, seed, lam=lam, steps=300, **{"restart": True, **options})


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
    found = {"ERM": _accuracies(model, task.tests)}
    for name, options in (heads or _HEADS).items():
        head = _frr(task, model, seed, **options)
        found[name] = _accuracies(nn.Sequential(model[0], head), task.tests)
    tuned = copy.deepcopy(model[0])
    batches = Shuffled(*task.train, 64, min(3, task.epochs), seed)
    fixed_linear_finetune(tuned, head, batches, lr=task.lr / 10)
    found["FRR-FLFT"] = _accuracies(nn.Sequential(tuned, head), task.tests)
    decayed = refit(_features(model[0], task.train[0]), task.train[1], seed, weight_decay=0.5)
    found["head anew, weight decay"] = _accuracies(nn.Sequential(model[0], decayed), task.tests)
    fair = refit(_features(model[0], task.fair[0]), task.fair[1], seed)
    found["DFR (upper bound)"] = _accuracies(nn.Sequential(model[0], fair), task.tests)
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
    head = _frr(task, model, seed)
    found: Found = {}
    for name, last in (("neither", model[1]), ("FRR", head)):
        teacher = nn.Sequential(copy.deepcopy(model[0]), copy.deepcopy(last))
        found[name] = _accuracies(_student(task, teacher, seed), task.tests)
        scope = "full" if name == "neither" else "backbone"
        adversarial_finetune(teacher, batches, attack, scope, head=teacher[1], seed=seed)
        also = "DAFT" if name == "neither" else "FRR and DAFT"
        found[also] = _accuracies(_student(task, teacher, seed), task.tests)
    control = nn.Sequential(model[0], _frr(task, model, seed, lam=0.0))
    found["head anew, lambda = 0"] = _accuracies(_student(task, control, seed), task.tests)
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
