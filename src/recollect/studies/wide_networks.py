"""What the studies of infinite width share: three architectures, kernels and trained networks.

The same modules are read twice: their infinitely wide twins give NNGP and NTK predictions in
closed form, and real networks of a finite width are trained on the same pictures.

Shape letters: N training pictures, M test pictures, c channels, s side, k classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect import infinite
from recollect._answers import Answer
from recollect._seeds import seed_of

__all__ = ["Pictures", "Setting", "agreement", "architectures", "curves", "fit_kernel", "train"]

WEIGHT_STD, BIAS_STD = 2**0.5, 0.1
RIDGES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
Build = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Pictures:
    """Pictures to learn from and to be judged by, standardised.

    Attributes:
        name: shown in the title.
        train: (N, c, s, s) float32.
        train_label: (N,).
        test: (M, c, s, s).
        test_label: (M,).
    """

    name: str
    train: Tensor
    train_label: Tensor
    test: Tensor
    test_label: Tensor

    def to(self, device: str) -> Pictures:
        """Return the pictures on a device."""
        moved = [t.to(device) for t in (self.train, self.train_label, self.test, self.test_label)]
        return Pictures(self.name, *moved)


@dataclass(frozen=True)
class Setting:
    """How much is computed.

    Attributes:
        sizes: numbers of training pictures, increasing.
        seeds: repeats of drawing the training pictures.
        widths: channels of the trained networks, by architecture.
        network_seeds: repeats of training a network.
        steps: of Adam for a trained network.
        blocks: of the wide residual network.
        tile: pairs computed at a time, None for the default.
    """

    sizes: tuple[int, ...]
    seeds: int
    widths: dict[str, int] = field(
        default_factory=lambda: {
            "fully connected": 512,
            "convolutional": 64,
            "wide residual": 64,
        }
    )
    network_seeds: int = 2
    steps: int = 300
    blocks: int = 1
    tile: int | None = None


class Block(nn.Module):
    """A residual block: ``x + conv(relu(conv(relu(x))))``.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        out: Tensor = x + self.second(self.relu(self.first(self.relu(x))))
        return out


def architectures(channels: int, side: int, classes: int, blocks: int = 1) -> dict[str, Build]:
    """Return the three networks as functions of a width.

    All convolutions are 3 x 3; the first goes in steps of two. The convolutional network averages
    2 x 2 positions before it is flattened, the wide residual network averages all positions after
    its residual blocks.

    >>> model = architectures(1, 12, 10)["wide residual"](8)
    >>> model(torch.zeros(2, 1, 12, 12)).shape
    torch.Size([2, 10])
    """
    half = -(-side // 2)
    end = half // 2

    def dense(w: int) -> nn.Module:
        sizes = [channels * side**2, w, w, w]
        hidden = [m for a, b in itertools.pairwise(sizes) for m in _hidden(a, b)]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(w, classes))

    def convolutional(w: int) -> nn.Module:
        first, second = nn.Conv2d(channels, w, 3, 2, 1), nn.Conv2d(w, w, 3, 1, 1)
        body = [first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(w * end**2, classes))

    def residual(w: int) -> nn.Module:
        body = [nn.Conv2d(channels, w, 3, 2, 1), *(Block(w) for _ in range(blocks)), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, classes)]
        return nn.Sequential(*body, *head)

    return {"fully connected": dense, "convolutional": convolutional, "wide residual": residual}


def _hidden(a: int, b: int) -> list[nn.Module]:
    return [nn.Linear(a, b), nn.ReLU()]


def fit_kernel(kernel: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the weights of kernel regression, with the ridge of least leave-one-out error.

    With ``A = (K + r mean(diag K) I)^-1`` the error of the i-th target, had it been left out, is
    ``(A Y)_i / A_ii``: no test picture is looked at.

    Args:
        kernel: (N, N) float64.
        targets: (N, k).

    Returns:
        Weights (N, k), and the ridge r.

    Example:
        >>> weights, _ = fit_kernel(torch.eye(2).double(), torch.ones(2, 1).double())
        >>> weights.flatten().round(decimals=3).tolist()
        [0.909, 0.909]
    """
    values, vectors = torch.linalg.eigh(kernel)
    turned, scale = vectors.T @ targets, float(kernel.diagonal().mean())
    best: tuple[float, float, Tensor] | None = None
    for ridge in RIDGES:
        inverse = 1 / (values.clamp_min(0) + ridge * scale)
        weights = vectors @ (inverse[:, None] * turned)
        left_out = weights / ((vectors * vectors) @ inverse)[:, None]
        error = float(left_out.square().mean())
        if best is None or error <= best[0]:
            best = (error, ridge, weights)
    assert best is not None
    return best[2], best[1]


def _targets(labels: Tensor, classes: int) -> Tensor:
    """Return centred one-hot targets, (N, k) float64."""
    return F.one_hot(labels, classes).double() - 1 / classes


def _chosen(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed, "pictures"))
    return torch.randperm(count, generator=generator)[:size]


def _kernel_accuracies(
    pictures: Pictures, build: Build, setting: Setting, classes: int
) -> dict[tuple[str, int], list[float]]:
    """Return accuracies in per cent by kernel and size, one number a seed."""
    twin = infinite.twin(build(8), weight_std=WEIGHT_STD, bias_std=BIAS_STD)
    own = twin.kernel(pictures.train, tile=setting.tile)
    cross = twin.kernel(pictures.test, pictures.train, tile=setting.tile)
    found: dict[tuple[str, int], list[float]] = {}
    for name in ("nngp", "ntk"):
        square, side = getattr(own, name), getattr(cross, name)
        for size in setting.sizes:
            for seed in range(setting.seeds):
                rows = _chosen(len(square), size, seed).to(square.device)
                targets = _targets(pictures.train_label[rows], classes)
                weights, _ = fit_kernel(square[rows][:, rows].double(), targets)
                guess = (side[:, rows].double() @ weights).argmax(1)
                right = float((guess == pictures.test_label).double().mean())
                found.setdefault((name, size), []).append(100 * right)
    return found


def train(
    build: Build, width: int, pictures: Pictures, rows: Tensor, *, steps: int, seed: int
) -> float:
    """Train one real network by Adam on cross-entropy; return its accuracy in per cent.

    Batches of 64, a rate of 2e-3 that falls along a half cosine, no augmentation.

    Args:
        build: the architecture.
        width: its channels.
        pictures: to learn from and to be judged by.
        rows: which training pictures it may see.
        steps: of Adam.
        seed: of weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        model = build(width)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=BIAS_STD)
    model = model.to(pictures.train.device)
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    order = torch.Generator().manual_seed(seed_of(seed, "batches"))
    x, y = pictures.train[rows], pictures.train_label[rows]
    for _ in range(steps):
        batch = torch.randperm(len(x), generator=order)[:64].to(x.device)
        adam.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        adam.step()
        cosine.step()
    with torch.no_grad():
        guess = torch.cat([model(part).argmax(1) for part in torch.split(pictures.test, 500)])
    return 100 * float((guess == pictures.test_label).double().mean())


def curves(pictures: Pictures, setting: Setting) -> Answer:
    """Return learning curves: accuracy by architecture and number of training pictures.

    Args:
        pictures: the largest size must not exceed the training pictures.
        setting: how much is computed.
    """
    classes = int(pictures.train_label.max()) + 1
    rows: list[dict[str, Any]] = []
    channels, side = pictures.train.shape[1:3]
    for name, build in architectures(channels, side, classes, setting.blocks).items():
        exact = _kernel_accuracies(pictures, build, setting, classes)
        for size in setting.sizes:
            real = [
                train(
                    build,
                    setting.widths[name],
                    pictures,
                    _chosen(len(pictures.train), size, seed).to(pictures.train.device),
                    steps=setting.steps,
                    seed=seed,
                )
                for seed in range(setting.network_seeds)
            ]
            rows.append(_row(name, size, exact["nngp", size], exact["ntk", size], real))
    rows.sort(key=lambda r: r["pictures"])
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"test accuracy in % on {pictures.name}, by number of training pictures",
        notes=[
            f"kernels in closed form, ridge by leave-one-out error, {setting.seeds} draws of the "
            f"training pictures; chance is {100 / classes:.0f}",
            f"networks of widths {', '.join(map(str, setting.widths.values()))}, "
            f"{setting.steps} steps of Adam, {setting.network_seeds} seeds, no augmentation",
        ],
    )


def _row(
    name: str, size: int, nngp: Sequence[float], ntk: Sequence[float], real: Sequence[float]
) -> dict[str, Any]:
    row: dict[str, Any] = {"pictures": size, "architecture": name}
    for column, values in (("NNGP", nngp), ("NTK", ntk), ("network", real)):
        row[column] = float(np.mean(values))
        row[f"{column} deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return row


def agreement(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    *,
    width: int = 256,
    networks: int = 100,
    times: Sequence[float] = (0.0, 1.0, 4.0, 16.0),
    seed: int = 0,
) -> Answer:
    """Lay an ensemble of trained networks over the infinite one, at several training times.

    Errors are given in units of what ``networks`` draws leave open: ``sqrt(v / n)`` for the mean
    and ``v sqrt(2 / (n - 1))`` for the variance v, root mean square over the test inputs. An
    ensemble that agrees is at about 1; a finite width adds to it.

    Args:
        x: (N, ...) float32.
        y: (N, 1) targets.
        x_test: (M, ...).
        width: of the two hidden layers.
        networks: in the finite ensemble.
        times: of training, in units of the gradient flow.
        seed: of the networks.
    """

    def build() -> nn.Module:
        size = x[0].numel()
        return nn.Sequential(
            nn.Flatten(), *_hidden(size, width), *_hidden(width, width), nn.Linear(width, 1)
        )

    twin = infinite.twin(build(), weight_std=WEIGHT_STD, bias_std=BIAS_STD)
    ntk = twin.kernel(x, get="ntk").ntk
    assert ntk is not None
    bound = infinite.max_learning_rate(ntk, y.numel())
    moments = [t for t in times if t > 0]
    rate = moments[0] / max(1, int(np.ceil(moments[0] / (0.25 * bound)))) if moments else bound
    many = infinite.FiniteEnsemble(
        build, networks, weight_std=WEIGHT_STD, bias_std=BIAS_STD, seed=seed
    )
    history = many.train(x, y, times, learning_rate=rate, x_test=x_test)
    exact = infinite.ensemble(twin, x.double(), y.double()).predict(
        x_test.double(), t=list(times), get=("mean", "variance")
    )
    assert exact.mean is not None
    assert exact.variance is not None
    rows = []
    for i, t in enumerate(times):
        variance = exact.variance[i].clamp_min(1e-12)
        off = (history.mean()[i, :, 0] - exact.mean[i, :, 0]) / (variance / networks).sqrt()
        found = history.variance()[i, :, 0]
        spread = (found / variance - 1) / (2 / (networks - 1)) ** 0.5
        rows.append(
            {
                "time": float(t),
                "train loss": float(history.train_loss[i].mean()),
                "deviation": float(variance.sqrt().mean()),
                "mean off by": float(off.square().mean().sqrt()),
                "variance off by": float(spread.square().mean().sqrt()),
                "variance ratio": float((found / variance).mean()),
            }
        )
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"{networks} networks of width {width} beside the infinite ensemble, on "
        f"{len(x_test)} held-out pictures",
        notes=["off by: in Monte-Carlo standard errors of the finite ensemble, root mean square"],
    )
