"""Architecture search, small and real: which of twenty half-trained networks are worth finishing?

Twenty variants of a small network (depth, width, activation, dropout, learning rate) are each
trained for a few epochs on handwritten digits and watch the same pictures; only their sketches
are kept. Two variants are as alike as the inner products of their sketches say (linear centred
kernel alignment, nothing decoded). A variant's rank is how alike it is to all others: what most
networks come to see is taken to be what there is to see. The best few are trained to the end;
the others are not.

Beside it: the same rank from exact activations, the accuracy on held-back pictures at the same
early point (successive halving), the number of parameters, and chance. With ``data``, MNIST.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.sketching import Sketcher
from recollect.studies.figures import figure
from recollect.studies.pictures import digits
from recollect.tracing import Trace, trace

__all__ = ["Variant", "alikeness", "draw", "study", "variants"]

FloatArray = npt.NDArray[np.float64]
DIM = 256
FINISHED = 5
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Variant:
    """One architecture with its training.

    Attributes:
        depth: hidden layers.
        width: numbers in each.
        activation: ``"relu"``, ``"tanh"`` or ``"sigmoid"``.
        dropout: probability.
        rate: learning rate of Adam.
    """

    depth: int
    width: int
    activation: str
    dropout: float
    rate: float

    def build(self, inputs: int) -> nn.Sequential:
        """Return the network, as the random state has it."""
        layers: list[nn.Module] = []
        for a in (inputs, *[self.width] * (self.depth - 1)):
            layers += [nn.Linear(a, self.width), ACTIVATIONS[self.activation]()]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers, nn.Linear(self.width, 10))

    def __str__(self) -> str:
        drop = f", dropout {self.dropout}" if self.dropout else ""
        return f"{self.depth} x {self.width} {self.activation}, rate {self.rate}{drop}"


def variants(number: int, seed: int) -> list[Variant]:
    """Draw different variants.

    >>> len(set(variants(20, 0))), variants(20, 0) == variants(20, 0)
    (20, True)
    """
    space = [
        Variant(*choice)
        for choice in product(
            (1, 2, 4), (8, 32, 128), tuple(ACTIVATIONS), (0.0, 0.3), (3e-4, 3e-3, 3e-2)
        )
    ]
    order = np.random.default_rng(seed_of(seed, "study", "search")).permutation(len(space))
    return [space[i] for i in order[:number]]


@dataclass
class Pictures:
    """Pictures and labels: learned, held back, judged, and looked at."""

    learned: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    judged: tuple[Tensor, Tensor]
    looked: Tensor


@dataclass
class Run:
    """One variant's training: what it was early, and at the end."""

    variant: Variant
    early: float = math.nan
    final: float = math.nan
    seconds: tuple[float, float] = (0.0, 0.0)
    sketches: Tensor = field(default_factory=lambda: torch.zeros(0))
    exact: Tensor = field(default_factory=lambda: torch.zeros(0))
    parameters: int = 0


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how well each ranking of half-trained variants agrees with training all to the end.

    Args:
        quick: two seeds and shorter trainings instead of five.
        data: folder with ``mnist/mnist.npz``; without it scikit-learn's digits.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    seeds, epochs = (range(2), 12) if quick else (range(5), 40)
    early = 2 if quick else 3
    pictures = _digits() if data is None else _mnist(Path(data), quick)
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in RANKINGS}
    for seed in seeds:
        runs = [_run(v, pictures, early, epochs, seed) for v in variants(20, seed)]
        for name, rank in RANKINGS.items():
            scores[name].append(_judged(runs, rank, seed))
    rows = []
    for name, found in scores.items():
        mean = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
        spread = float(np.std([f["rank correlation"] for f in found], ddof=1))
        rows.append({"ranking": name, "rank correlation": mean.pop("rank correlation"),
                     "deviation": spread, **mean})  # fmt: skip
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="architecture search: which half-trained variants are worth finishing",
        notes=[
            f"20 variants, {len(seeds)} seeds, {early} of {epochs} epochs, the best {FINISHED} "
            f"finished; sketches of {DIM} bytes of {len(pictures.looked)} pictures, no labels",
            "regret: how far the best finished one falls short of the best of all, in accuracy on "
            "judged pictures; best found: share of seeds in which it is that one",
            "saved: part of the time of training all to the end, ranking included",
        ],
    )


def _judged(
    runs: list[Run], rank: Callable[[list[Run], int], FloatArray], seed: int
) -> dict[str, float]:
    """Score a ranking: agreement with the end, what is lost and what is saved by trusting it."""
    start = time.process_time()
    score = rank(runs, seed)
    seconds = time.process_time() - start
    final = np.array([r.final for r in runs])
    chosen = np.argsort(-score, kind="stable")[:FINISHED]
    early, whole = np.array([r.seconds for r in runs]).T
    spent = early.sum() + (whole - early)[chosen].sum() + seconds
    return {
        "rank correlation": _spearman(score, final),
        "regret": float(final.max() - final[chosen].max()),
        "best found": float(final[chosen].max() == final.max()),
        "saved": float(1 - spent / whole.sum()),
    }


def _spearman(a: FloatArray, b: FloatArray) -> float:
    """Return the rank correlation, equal values sharing their ranks."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


# -- rankings ---------------------------------------------------------------------------------


def alikeness(parts: list[Tensor]) -> FloatArray:
    """Return (v, v) linear centred kernel alignment of every pair, from inner products.

    Args:
        parts: (B, m) representations of the same pictures.

    Example:
        >>> x = torch.randn(40, 3, generator=torch.manual_seed(0))
        >>> alikeness([x, 2 * x + 1]).round(6).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    rows = []
    for x in parts:
        centred = x.double() - x.double().mean(0)
        gram = (centred @ centred.T).flatten()
        rows.append(gram / gram.norm().clamp_min(1e-300))
    stacked = torch.stack(rows)
    table: FloatArray = (stacked @ stacked.T).numpy()
    return table


def _consensus(parts: list[Tensor]) -> FloatArray:
    """How alike each is to all others, on average."""
    table = alikeness(parts)
    mean: FloatArray = (table.sum(1) - table.diagonal()) / (len(parts) - 1)
    return mean


RANKINGS: dict[str, Callable[[list[Run], int], FloatArray]] = {
    "alike to the others, sketches": lambda runs, _: _consensus([r.sketches for r in runs]),
    "alike to the others, exact activations": lambda runs, _: _consensus([r.exact for r in runs]),
    "early accuracy (successive halving)": lambda runs, _: np.array([r.early for r in runs]),
    "both: mean of the two ranks": lambda runs, _: (
        _ranks(_consensus([r.sketches for r in runs])) + _ranks(np.array([r.early for r in runs]))
    ),
    "number of parameters": lambda runs, _: np.array([float(r.parameters) for r in runs]),
    "chance": lambda runs, seed: np.random.default_rng(seed).random(len(runs)),
}


def _ranks(score: FloatArray) -> FloatArray:
    return np.argsort(np.argsort(score)).astype(np.float64)


# -- training ---------------------------------------------------------------------------------


def _run(variant: Variant, pictures: Pictures, early: int, epochs: int, seed: int) -> Run:
    """Train a variant to the end; keep how far it was early, and its sketches of then."""
    x, y = pictures.learned
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "variant", str(variant)) % 2**31)
        network = variant.build(x.shape[1])
        run = Run(variant, parameters=sum(p.numel() for p in network.parameters()))
        optimizer = torch.optim.Adam(network.parameters(), lr=variant.rate)
        start = time.process_time()
        for epoch in range(epochs):
            network.train()
            for rows in torch.split(torch.randperm(len(x)), 64):
                loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if epoch + 1 == early:
                network.eval()
                run.early = _accuracy(network, *pictures.held)
                run.sketches, run.exact = _remembered(network, pictures.looked, seed)
                run.seconds = (time.process_time() - start, 0.0)
        run.seconds = (run.seconds[0], time.process_time() - start)
    network.eval()
    run.final = _accuracy(network, *pictures.judged)
    return run


@torch.no_grad()
def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((network(x).argmax(1) == y).double().mean())


def _remembered(network: nn.Sequential, looked: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return sketches of what the network's linear layers put out, and these exactly."""
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    seen: Trace = trace(network, looked, modules=layers)
    sketcher = Sketcher(dim=DIM, seed=seed)
    sketcher.admit(seen, measure_scales=True)
    parts = [seen.objects(n).attributes.double() for n in seen.modules]
    scaled = [p / (p - p.mean(0)).square().sum(1).mean().sqrt().clamp_min(1e-12) for p in parts]
    return sketcher.encode(seen).values.double(), torch.cat(scaled, 1)


def _digits() -> Pictures:
    pictures, labels = digits(0)
    return _split(pictures.flatten(1), labels, (600, 200, 600))


def _mnist(data: Path, quick: bool) -> Pictures:
    with np.load(data / "mnist" / "mnist.npz") as kept:
        x, y = kept["x_train"], kept["y_train"]
    order = np.random.default_rng(0).permutation(len(x))
    sizes = (1000, 500, 4000) if quick else (3000, 1000, 10000)
    order = order[: sum(sizes) + 300]
    pictures = torch.from_numpy((x[order].reshape(len(order), -1) / 255).astype(np.float32))
    return _split(pictures, torch.from_numpy(y[order].astype(np.int64)), sizes)


def _split(pictures: Tensor, labels: Tensor, sizes: tuple[int, int, int]) -> Pictures:
    """Cut into learned, held back, judged, and up to 300 to look at."""
    ends = np.cumsum(sizes).tolist()
    parts = [(pictures[a:b], labels[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    return Pictures(parts[0], parts[1], parts[2], pictures[ends[2] : ends[2] + 300])


# -- the picture ------------------------------------------------------------------------------


def draw(answer: Answer, path: str) -> None:
    """Draw agreement and regret of every ranking.

    Args:
        answer: of ``study``.
        path: of the picture, ``.svg`` or ``.png``.
    """
    rows = list(answer)
    colours = ["#334e8c" if "sketches" in r["ranking"] else "#94a3b8" for r in rows]
    with figure(path, width=10, height=2.6) as drawn:
        for place, measure in enumerate(("rank correlation", "regret")):
            axes = drawn.add_subplot(1, 2, place + 1)
            axes.barh(range(len(rows)), [r[measure] for r in rows], color=colours)
            axes.set_yticks(range(len(rows)), [r["ranking"] for r in rows] if not place else [])
            axes.invert_yaxis()
            axes.set_title(measure)
