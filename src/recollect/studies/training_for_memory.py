"""What training does to memory: one small network trained four ways, and sketches of what it saw.

A network reads handwritten digits, three to a scene. Each digit becomes an object of the module
of its class, its attribute the features that the network made of it; scenes are sketched in 66
bytes and read back. Training decides what the features hold, hence what can be recalled: the
features themselves, the counts, a fact nobody trained for (how much ink, how slanted), and a day
on which the light had changed.

Shape letters: N pictures, B scenes, d features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.sketching import Prior, Sketcher
from recollect.studies.bars import bars
from recollect.studies.denormals import denormals_flushed
from recollect.studies.pictures import Shuffled, digits
from recollect.tracing import Trace
from recollect.training import (
    FRRHead,
    LocoProp,
    fixed_linear_finetune,
    train_frr_linear,
)

__all__ = ["TRAININGS", "draw", "measure", "study"]

WIDTH, BYTES, PER_SCENE = 32, 64, 3


@denormals_flushed()
def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return what sketches of 66 bytes recall of a network, for each way of training it.

    Args:
        quick: 5 seeds instead of 10.
        data: not used; the digits come with scikit-learn.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    seeds = range(5 if quick else 10)
    rows: list[dict[str, Any]] = []
    for name, train in TRAININGS.items():
        runs = [measure(train, seed) for seed in seeds]
        row: dict[str, Any] = {"trained by": name}
        for key in runs[0]:
            values = np.array([run[key] for run in runs])
            row[key] = float(values.mean())
            row[f"{key} sd"] = float(values.std(ddof=1))
        rows.append(row)
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"what sketches of {BYTES + 2} bytes recall, {len(seeds)} seeds",
        notes=[
            "attribute R2: features read from sketches beside those the network had; counts: "
            "share of scenes whose ten counts are all those of the network",
            "facts R2: ink and slant by ridge regression, learned on other scenes, from features "
            "read from sketches; unsketched: from the features themselves",
            "drift: distance between mean sketches of an ordinary and a darker, blurred day, in "
            "deviations of one sketch along it (split in halves; two ordinary days: about 0)",
        ],
    )


def draw(answer: Answer, path: str) -> None:
    """Draw ``facts R2`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "facts R2", ("trained by",))


# -- training -----------------------------------------------------------------------------------


def _plain(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    model = _drawn(seed)
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3, alpha=0.9, momentum=0.9, eps=1e-5)
    for pictures, labels in Shuffled(x, y, 100, 15, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def _locoprop(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    model = _drawn(seed)
    optimizer = LocoProp(model, lr=1e-3, gamma=10.0, local_steps=5, loss_activation="softmax")
    for pictures, labels in Shuffled(x, y, 100, 15, seed):

        def closure(pictures: Tensor = pictures, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(pictures), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)
    return model


def _with_frr(base: Callable[..., nn.Sequential]) -> Callable[..., nn.Sequential]:
    def train(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
        model = base(x, y, seed)
        backbone, last = model[:-1], model[-1]
        assert isinstance(last, nn.Linear)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "head"))
            head = FRRHead(WIDTH, 10).start_from(last)
        train_frr_linear(backbone, head, [(x, y)], 1.0, epochs=300, restart=True)
        tuned = copy.deepcopy(backbone)
        head.requires_grad_(False)
        fixed_linear_finetune(tuned, head, Shuffled(x, y, 100, 5, seed), lr=5e-4)
        return nn.Sequential(tuned, head.linear)

    return train


def _drawn(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "network"))
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, WIDTH), nn.Tanh(),
            nn.Linear(WIDTH, 10),
        )  # fmt: skip


TRAININGS: dict[str, Callable[..., nn.Sequential]] = {
    "RMSProp": _plain,
    "LocoProp-M": _locoprop,
    "RMSProp, FRR": _with_frr(_plain),
    "LocoProp-M, FRR": _with_frr(_locoprop),
}


# -- measuring ----------------------------------------------------------------------------------


def measure(train: Callable[..., nn.Sequential], seed: int) -> dict[str, float]:
    """Train a network on half of the digits and return what sketches of the others recall.

    Args:
        train: (pictures (N, 1, 8, 8), labels (N,), seed) -> network with features before its last
            layer.
        seed: of split, network and scenes.
    """
    x, y = digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed_of(seed, "split")))
    learn, known, held = order[:800], order[800:1298], order[1298:1796]
    model = train(x[learn], y[learn], seed).eval()
    before, facts_before = _scenes(model, x[known])
    now, facts = _scenes(model, x[held])
    dark, _ = _scenes(model, _darkened(x[held]))
    scales = {name: _size(before) for name in before.modules}
    sketcher = Sketcher(dim=BYTES, dtype="int8", seed=seed, scales=scales)
    prior = Prior.fit(before)
    found = [sketcher.decode(sketcher.encode(t), prior=prior) for t in (before, now)]
    recalled = [_features(f.trace()) for f in found]
    truth = [_features(t) for t in (before, now)]
    with torch.no_grad():
        right = (model(x[held]).argmax(1) == y[held]).float().mean()
    sketches = [sketcher.encode(t).values for t in (before, now, dark)]
    return {
        "accuracy": float(right),
        "attribute R2": _explained(truth[1], recalled[1]),
        "counts": _counts(found[1].count_estimates(_NAMES)[1], now),
        "facts R2": _probe(recalled[0], facts_before, recalled[1], facts),
        "facts R2, unsketched": _probe(truth[0], facts_before, truth[1], facts),
        "drift": _drift(sketches[1], sketches[2]),
        "no drift": _drift(sketches[0], sketches[1]),
    }


_NAMES = [f"digit {k}" for k in range(10)]


@torch.no_grad()
def _scenes(model: nn.Sequential, x: Tensor) -> tuple[Trace, Tensor]:
    """Three digits a scene as objects; and ink and slant of the digits in the trace's order."""
    features = model[:-1](x)
    called = model[-1](features).argmax(1)
    scene = torch.arange(len(x)) // PER_SCENE
    columns = {}
    facts = []
    for k, name in enumerate(_NAMES):
        rows = (called == k).nonzero()[:, 0]
        if len(rows):
            columns[name] = {"attributes": features[rows], "glance": scene[rows]}
            facts.append(_ink_and_slant(x[rows]))
    return Trace.from_columns(columns, len(x) // PER_SCENE), torch.cat(facts)


def _ink_and_slant(x: Tensor) -> Tensor:
    """Mean brightness, and covariance of the coordinates weighted by it: (N, 2)."""
    ink = x.mean((1, 2, 3))
    weight = x[:, 0] / x.sum((1, 2, 3)).clamp_min(1e-6)[:, None, None]
    place = torch.linspace(-1, 1, 8)
    middle = [(weight.sum(d) * place).sum(1)[:, None] for d in (2, 1)]  # rows, columns
    down, across = place - middle[0], place - middle[1]
    slant = torch.einsum("nij,ni,nj->n", weight, down, across)
    return torch.stack([ink, slant], 1)


def _darkened(x: Tensor) -> Tensor:
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    return 0.6 * F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.outer(line, line)[None, None])


def _features(trace: Trace) -> Tensor:
    """Attributes of all digits, class by class: (n, d)."""
    return torch.cat([trace.objects(name).attributes for name in _NAMES if name in trace.modules])


def _size(trace: Trace) -> float:
    return float(_features(trace).std()) * math.sqrt(WIDTH)


def _explained(truth: Tensor, found: Tensor) -> float:
    return 1 - float(((truth - found) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum())


def _counts(estimate: Any, seen: Trace) -> float:
    """Share of scenes in which all ten counts, from the sketch alone, are those of the network."""
    truth = np.zeros((len(seen), 10))
    for k, name in enumerate(_NAMES):
        if name in seen.modules:
            np.add.at(truth[:, k], np.asarray(seen.objects(name).glance), 1)
    return float((np.rint(np.asarray(estimate)) == truth).all(1).mean())


def _probe(z: Tensor, facts: Tensor, z_new: Tensor, facts_new: Tensor) -> float:
    """R2 on new digits of a ridge regression of the facts from features, mean over the facts."""
    mean, deviation = facts.mean(0), facts.std(0)
    a = F.pad(z, (0, 1), value=1.0)
    weights = torch.linalg.solve(
        a.T @ a + torch.eye(a.shape[1]), a.T @ ((facts - mean) / deviation)
    )
    guess = F.pad(z_new, (0, 1), value=1.0) @ weights
    target = (facts_new - mean) / deviation
    left = ((target - guess) ** 2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)
    return 1 - float(left.mean())


def _drift(a: Tensor, b: Tensor) -> float:
    """Distance of means along the direction found on one half, in deviations on the other."""
    half = [(t[::2].double(), t[1::2].double()) for t in (a, b)]
    direction = half[1][0].mean(0) - half[0][0].mean(0)
    along = [h[1] @ direction / direction.norm() for h in half]
    spread = ((along[0].var() + along[1].var()) / 2).sqrt()
    return float((along[1].mean() - along[0].mean()) / spread)
