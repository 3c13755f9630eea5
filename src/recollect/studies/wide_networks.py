"""What the studies of infinite width share: learning curves of kernels and of trained networks.

The same modules are read twice: their infinitely wide twins give NNGP and NTK predictions in
closed form, and real networks of a finite width are trained on the same pictures.

Shape letters: N training pictures, M test pictures, c channels, s side, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect import infinite
from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.running import Arrays, Journal, bar
from recollect.studies.wide_architectures import CONVOLUTIONAL, DENSE, RESIDUAL, Build

__all__ = ["Pictures", "Setting", "Task", "choose_rate", "curves", "fit_kernel", "train"]

WEIGHT_STD, BIAS_STD = 2**0.5, 0.1
RIDGES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)
KERNELS = ("nngp", "ntk")


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
        rates: of Adam, of which held-out training pictures choose one for each architecture.
        strip: rows of a kernel that are computed at a time, and kept.
    """

    sizes: tuple[int, ...]
    seeds: int
    widths: dict[str, int] = field(
        default_factory=lambda: {DENSE: 512, CONVOLUTIONAL: 64, RESIDUAL: 64}
    )
    network_seeds: int = 2
    steps: int = 300
    rates: tuple[float, ...] = (2e-3,)
    strip: int = 500


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
        >>> weights, ridge = fit_kernel(torch.eye(2).double(), torch.ones(2, 1).double())
        >>> weights.flatten().round(decimals=3).tolist(), ridge
        ([0.25, 0.25], 3.0)
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


def train(
    build: Build, width: int, seen: Pictures, *, steps: int, rate: float, seed: int
) -> float:
    """Train one real network by Adam on cross-entropy; return its test accuracy in per cent.

    Batches of 64, a rate that falls along a half cosine, no augmentation.

    Args:
        build: the architecture.
        width: its channels.
        seen: pictures to learn from and to be judged by.
        steps: of Adam.
        rate: of the first step.
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
    x, y = seen.train, seen.train_label
    model = model.to(x.device)
    adam = torch.optim.Adam(model.parameters(), rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    order = torch.Generator().manual_seed(seed_of(seed, "batches"))
    for _ in range(steps):
        batch = torch.randperm(len(x), generator=order)[:64].to(x.device)
        adam.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        adam.step()
        cosine.step()
    with torch.no_grad():
        guess = torch.cat([model(part).argmax(1) for part in torch.split(seen.test, 500)])
    return 100 * float((guess == seen.test_label).double().mean())


def choose_rate(
    build: Build, width: int, held: Pictures, rates: Sequence[float], *, steps: int
) -> float:
    """Return the rate that does best on training pictures that were held out.

    Args:
        build: the architecture.
        width: its channels.
        held: pictures to learn from, and training pictures to be judged by.
        rates: to choose from; one alone is returned at once.
        steps: of Adam.
    """
    if len(rates) == 1:
        return rates[0]
    return max(rates, key=lambda r: train(build, width, held, steps=steps, rate=r, seed=0))


class Task:
    """One architecture on some pictures: what is to be found out about it, piece by piece.

    Every piece is written down by the journal under the pictures and the architecture that it
    belongs to, so that a run that was broken off goes on, and another one is not mistaken for it.

    Args:
        name: of the architecture.
        build: it, as a function of the width.
        pictures: to learn from and to be judged by.
        setting: how much is computed.
        journal: what is known.
    """

    def __init__(
        self, name: str, build: Build, pictures: Pictures, setting: Setting, journal: Journal
    ) -> None:
        self.name, self.build, self.setting, self.journal = name, build, setting, journal
        self.pictures = pictures
        self.classes = int(pictures.train_label.max()) + 1
        self.twin = infinite.twin(build(8), weight_std=WEIGHT_STD, bias_std=BIAS_STD)
        known = blake2b(repr((build(8), WEIGHT_STD, BIAS_STD)).encode(), digest_size=6)
        for tensor in (pictures.train, pictures.test):
            known.update(tensor.cpu().numpy().tobytes())
        self.key = known.hexdigest()

    @property
    def pieces(self) -> int:
        """How many times ``strips`` and ``networks`` move a bar."""
        counts = (len(self.pictures.train), len(self.pictures.test))
        strips = sum(-(-n // self.setting.strip) for n in counts)
        return strips + len(self.setting.sizes) * (1 + self.setting.network_seeds)

    def strips(self, step: Any = lambda words: None) -> tuple[dict[str, Tensor], ...]:
        """Return the kernels (N, N) of the training pictures, and (M, N) of test with training.

        Args:
            step: called after every strip of rows.
        """
        x, test, size = self.pictures.train, self.pictures.test, self.setting.strip
        own = {k: torch.zeros(len(x), len(x)) for k in KERNELS}
        side = {k: torch.zeros(len(test), len(x)) for k in KERNELS}
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            found = self._strip(f"own {start}", partial(self._lower, rows))
            for k in KERNELS:
                values = torch.from_numpy(found[k])
                own[k][rows, : rows.stop] = values
                own[k][: rows.stop, rows] = values.T
            step(f"{self.name}, kernel")
        for start in range(0, len(test), size):
            rows = slice(start, min(start + size, len(test)))
            found = self._strip(f"test {start}", partial(self._beside, test[rows], x))
            for k in KERNELS:
                side[k][rows] = torch.from_numpy(found[k])
            step(f"{self.name}, kernel")
        return own, side

    def _strip(self, part: str, make: Any) -> Arrays:
        name = f"{self.name} {self.key} {part} of {self.setting.strip}".replace(" ", "_")
        return self.journal.arrays(name, make)

    def _beside(self, one: Tensor, two: Tensor | None) -> Arrays:
        found = self.twin.kernel(one, two)
        return {k: getattr(found, k).cpu().numpy() for k in KERNELS}

    def _lower(self, rows: slice) -> Arrays:
        """Return rows of the kernel up to its diagonal."""
        x = self.pictures.train
        here = self._beside(x[rows], None)
        if rows.start == 0:
            return here
        before = self._beside(x[rows], x[: rows.start])
        return {k: np.concatenate([before[k], here[k]], 1) for k in KERNELS}

    def kernel_accuracy(
        self, own: Tensor, side: Tensor, kernel: str, size: int, seed: int
    ) -> dict[str, Any]:
        """Return the test accuracy in per cent of one kernel and draw, and its ridge."""

        def find() -> dict[str, Any]:
            seen, rows = self.pictures, _chosen(len(own), size, seed)
            device = seen.train.device
            targets = _targets(seen.train_label[rows.to(device)], self.classes)
            square = own[rows][:, rows].to(device).double()
            weights, ridge = fit_kernel(square, targets)
            guess = (side[:, rows].to(device).double() @ weights).argmax(1)
            right = float((guess == seen.test_label).double().mean())
            return {"accuracy": 100 * right, "ridge": ridge}

        found = self.journal.row({"of": kernel, **self._about(size, seed)}, find)
        assert found is not None
        return found

    def network_accuracy(self, size: int, seed: int) -> float:
        """Return the test accuracy in per cent of one trained network."""
        width, steps = self.setting.widths[self.name], self.setting.steps

        def find() -> dict[str, Any]:
            seen, rate = self._drawn(size, seed), self.rate()
            right = train(self.build, width, seen, steps=steps, rate=rate, seed=seed)
            return {"accuracy": right, "rate": rate}

        about = {"of": "network", "width": width, "steps": steps, **self._about(size, seed)}
        found = self.journal.row({**about, "rates": self.setting.rates}, find)
        assert found is not None
        return float(found["accuracy"])

    def rate(self) -> float:
        """Return the rate for this architecture, chosen at the last size but one.

        It is judged by all training pictures that this size leaves over.
        """
        width, steps, rates = (
            self.setting.widths[self.name],
            self.setting.steps,
            self.setting.rates,
        )
        size = self.setting.sizes[-2:][0]

        def find() -> dict[str, Any]:
            seen = self.pictures
            learned = _chosen(len(seen.train), size, 0).to(seen.train.device)
            left = torch.ones(len(seen.train), dtype=torch.bool, device=seen.train.device)
            left[learned] = False
            held = Pictures(
                seen.name, seen.train[learned], seen.train_label[learned],
                seen.train[left], seen.train_label[left],
            )  # fmt: skip
            return {"rate": choose_rate(self.build, width, held, rates, steps=steps)}

        about = {
            "of": "rate",
            "judged by": "all others",
            "width": width,
            "steps": steps,
            "rates": rates,
        }
        found = self.journal.row({**about, **self._about(size, 0)}, find)
        assert found is not None
        return float(found["rate"])

    def _drawn(self, size: int, seed: int) -> Pictures:
        seen = self.pictures
        rows = _chosen(len(seen.train), size, seed).to(seen.train.device)
        drawn = seen.train[rows], seen.train_label[rows]
        return Pictures(seen.name, *drawn, seen.test, seen.test_label)

    def _about(self, size: int, seed: int) -> dict[str, Any]:
        return {"architecture": self.name, "pictures": size, "draw": seed, "key": self.key}

    def rows(self, step: Any = lambda words: None) -> list[dict[str, Any]]:
        """Return a row of the table for every size.

        Args:
            step: called after every piece of work.
        """
        own, side = self.strips(step)
        found = []
        for size in self.setting.sizes:
            row: dict[str, Any] = {"pictures": size, "architecture": self.name}
            for kernel in KERNELS:
                values = [
                    self.kernel_accuracy(own[kernel], side[kernel], kernel, size, seed)["accuracy"]
                    for seed in range(self.setting.seeds)
                ]
                row.update(_summary(kernel.upper(), values))
            step(f"{self.name}, kernel")
            values = []
            for seed in range(self.setting.network_seeds):
                values.append(self.network_accuracy(size, seed))
                step(f"{self.name}, network")
            found.append({**row, **_summary("network", values)})
        return found


def curves(
    pictures: Pictures,
    setting: Setting,
    networks: Mapping[str, Build],
    journal: Journal | None = None,
) -> Answer:
    """Return learning curves: accuracy by architecture and number of training pictures.

    Args:
        pictures: the largest size must not exceed the training pictures.
        setting: how much is computed.
        networks: the architectures, as functions of a width.
        journal: what is known already, and where new rows go.
    """
    known = Journal(None, "") if journal is None else journal
    tasks = [Task(name, build, pictures, setting, known) for name, build in networks.items()]
    with bar("learning curves", sum(t.pieces for t in tasks)) as step:
        rows = [row for task in tasks for row in task.rows(step)]
        rates = [task.rate() for task in tasks]
    rows.sort(key=lambda r: r["pictures"])
    widths = ", ".join(str(setting.widths[t.name]) for t in tasks)
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"test accuracy in % on {pictures.name}, by number of training pictures",
        notes=[
            f"kernels in closed form, ridge by leave-one-out error, {setting.seeds} draws of the "
            f"training pictures, {len(pictures.test)} test pictures; chance is "
            f"{100 / tasks[0].classes:.0f}",
            f"networks of widths {widths}, {setting.steps} steps of Adam at rates "
            f"{', '.join(f'{r:g}' for r in rates)}, {setting.network_seeds} draws of pictures and "
            "weights, no augmentation",
        ],
    )


def _summary(column: str, values: Sequence[float]) -> dict[str, float]:
    """Return mean and deviation of a column."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {column: float(np.mean(values)), f"{column} deviation": spread}
