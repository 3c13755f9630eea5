"""Shared parts: which kernels two kinds of picture both use, told from sketches alone.

A glance holds how strongly each kernel of some convolutions fired. The truth is the same
comparison on the raw activations, by Welch's test. Without data a small network reads digits and
the kinds are 4 and 6; with it ResNet-20 reads CIFAR-10 and the kinds are cat and dog.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._answers import Answer
from recollect.memory import Memory
from recollect.recall import shared
from recollect.sketching import Sketcher
from recollect.studies.pictures import digits
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, raw_vectors, score
from recollect.tracing import Trace, capture, trace

__all__ = ["Case", "ask", "digit_case", "judged", "measure"]

LEVEL = 0.1


@dataclass(frozen=True)
class Case:
    """A trained network, pictures it never saw with their kinds, and two kinds to compare.

    Attributes:
        model: the network.
        options: of the kernels' view.
        past: pictures that fix scales and prior.
        seen: pictures that are stored.
        kinds: (B,) names of what the stored pictures show.
        pair: the two kinds.
        words: what it is.
    """

    model: nn.Module
    options: dict[str, Any]
    past: Tensor
    seen: Tensor
    kinds: npt.NDArray[np.str_]
    pair: tuple[str, str]
    words: str

    def trace(self, pictures: Tensor) -> Trace:
        """Return how strongly the kernels fired."""
        parts = torch.split(pictures, 200)
        return Trace.concat([trace(self.model, x, view="kernels", **self.options) for x in parts])


def digit_case(quick: bool, seed: int) -> Case:
    """Return a small convolutional network that reads digits, trained on the spot."""
    x, y = digits(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(96, 10),
        )  # fmt: skip
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(5 if quick else 15):
            for rows in torch.split(torch.randperm(800), 50):
                loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
    model.eval()
    with torch.no_grad():
        right = float((model(x[800:]).argmax(1) == y[800:]).float().mean())
    kinds = np.array([str(k) for k in y[800:].tolist()])
    words = f"36 kernels of a network of two convolutions, {right:.0%} of digits read right"
    return Case(model, {"where": False}, x[:300], x[800:], kinds, ("4", "6"), words)


def cifar_case(data: Path, quick: bool, seed: int) -> Case:
    """Return ResNet-20 on CIFAR-10.

    Raises:
        ImportError: outside a checkout, where ``benchmarks/networks.py`` is not.
    """
    networks, pictures = _benchmarks("networks"), _benchmarks("pictures")
    model, _ = networks.resnet20(data)
    x, y = pictures.cifar10_exact(data)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    order = order[: 900 if quick else len(x)]
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    kinds = np.array([names[k] for k in y[order[300:]].tolist()])
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][-3:]
    options = {"where": False, "modules": convolutions}
    words = "192 kernels of ResNet-20's last three convolutions on CIFAR-10"
    return Case(model, options, x[order[:300]], x[order[300:]], kinds, ("cat", "dog"), words)


def _benchmarks(name: str) -> Any:
    """Import a module of the repository's ``benchmarks`` folder."""
    if (Path.cwd() / "benchmarks").is_dir() and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ImportError as error:
        raise ImportError(
            "the networks of the data folder are read by benchmarks/networks.py: run this study "
            "from a checkout of the repository, or without --data"
        ) from error


def ask(case: Case, past: Trace, now: Trace, dim: int, seed: int) -> Answer:
    """Store both, fit a prior on the past, and ask what the two kinds share."""
    with (
        TemporaryDirectory() as folder,
        Memory(
            Path(folder) / "memory", sketcher=Sketcher(dim=dim, seed=seed), reservoir=len(past)
        ) as memory,
    ):
        begin = datetime(2026, 1, 1, tzinfo=UTC)
        before = {"kind": ["past"] * len(past)}
        memory.add(past, time=[begin] * len(past), source="past", labels=before)
        memory.fit_prior()
        seen = {"kind": case.kinds.tolist()}
        memory.add(now, time=[begin] * len(now), source="now", labels=seen)
        a, b = (f"kind = '{k}'" for k in case.pair)
        return shared(memory, a, b, level=LEVEL, where="source = 'now'")


def judged(case: Case, now: Trace, answer: Answer) -> tuple[int, int, int]:
    """Return how many numbers are named, how many of these raw activations name, and all those."""
    stats: Any = importlib.import_module("scipy.stats")

    a, b = (case.kinds == k for k in case.pair)
    others = ~(a | b)
    truth, tests = [], sum(len(c.members) * c.size for c in now.columns.values())
    for module in now.modules:
        x = now.objects(module).attributes.double().numpy()
        p = [
            stats.ttest_ind(x[k], x[others], equal_var=False, alternative="greater").pvalue
            for k in (a, b)
        ]
        truth += [(module, i) for i in np.flatnonzero(np.max(p, 0) * tests <= LEVEL).tolist()]
    named = set(zip(answer["module"], answer["number"], strict=True))
    return len(named), len(named & set(truth)), len(truth)


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Measure the kernels' view and what it says two kinds share: see ``ViewRow``."""
    case = digit_case(quick, seed) if data is None else cifar_case(data, quick, seed)
    dim = 64 if data is None else 256
    past, now = case.trace(case.past), case.trace(case.seen)
    named, right, true = judged(case, now, ask(case, past, now, dim, seed))
    cost = overhead_of(
        case.model, case.past[:100],
        lambda: capture(case.model, view="kernels", **case.options),
    )  # fmt: skip
    return score(
        "shared parts", past, now, [Likeness(case.kinds, raw_vectors(now))], dim=dim, seed=seed,
        overhead=cost,
        notes=f"{case.words}; {' and '.join(case.pair)} share {true} kernels by raw activations, "
        f"sketches name {named}, {right} of these rightly; alike: the same kind",
    )  # fmt: skip
