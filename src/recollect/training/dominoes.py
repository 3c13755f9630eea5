"""Dominoes: a simple and a complex picture of one class stacked, and what a network made of them.

In training both halves tell the class; whoever reads only the simple half is found out where it
is drawn at random.

Shape letters: N dominoes, C channels, H and W sides of a half, d features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from recollect._checks import check_one_of
from recollect._seeds import seed_of
from recollect.training.modes import frozen
from recollect.training.reconstruction import FRRHead

__all__ = ["Dominoes", "FeatureReplication", "feature_replication_report"]

Halves = tuple[Tensor, Tensor]


class Dominoes(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of pictures stacked top to bottom, one domino for each complex picture.

    Args:
        simple: pictures (M, C or 1, H, W) and labels (M,) of 0 .. K - 1; the upper half.
        complex: pictures (N, C or 1, H', W) and labels (N,); the lower half.
        correlation: share of dominoes whose simple half has the class of the complex half; the
            others take any simple picture.
        randomise: ``"none"``; ``"simple"`` (the upper half is any picture, the label is that of
            the lower half); ``"complex"`` (the other way round).
        seed: of the pairing.

    Raises:
        ValueError: if the halves have other classes, widths or channels that do not go together.

    Example:
        >>> digits = torch.rand(6, 1, 4, 4), torch.arange(6) % 2
        >>> things = torch.rand(8, 3, 4, 4), torch.arange(8) % 2
        >>> dominoes = Dominoes(digits, things)
        >>> picture, label = dominoes[3]
        >>> picture.shape, int(label), len(dominoes)
        (torch.Size([3, 8, 4]), 1, 8)
    """

    def __init__(
        self,
        simple: Halves,
        complex: Halves,  # noqa: A002 - the literature's name
        correlation: float = 1.0,
        randomise: str = "none",
        seed: int = 0,
    ) -> None:
        self.simple, self.complex = simple, complex
        check_one_of("randomise", randomise, ("none", "simple", "complex"))
        if not 0 <= correlation <= 1:
            raise ValueError(f"correlation must lie in [0, 1], got {correlation}")
        _check_halves(simple, complex)
        draws = torch.Generator().manual_seed(seed_of(seed, "dominoes", randomise))
        upper, lower = simple[1], complex[1]
        any_upper = torch.randint(len(upper), (len(lower),), generator=draws)
        matched = _same_class(upper, lower, draws)
        if randomise == "simple":
            matched = any_upper
        elif randomise == "none":
            keep = torch.rand(len(lower), generator=draws) < correlation
            matched = torch.where(keep, matched, any_upper)
        self.lower = torch.arange(len(lower))
        if randomise == "complex":
            self.lower = torch.randperm(len(lower), generator=draws)
        self.upper = matched
        self.labels = upper[matched] if randomise == "complex" else lower

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pictures, labels = self.tensors(torch.tensor([index]))
        return pictures[0], labels[0]

    def tensors(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return pictures (N, C, H + H', W) and labels (N,) of some rows, or of all."""
        rows = torch.arange(len(self)) if rows is None else rows
        top, bottom = self.simple[0][self.upper[rows]], self.complex[0][self.lower[rows]]
        channels = max(top.shape[1], bottom.shape[1])
        halves = [half.expand(-1, channels, -1, -1) for half in (top, bottom)]
        return torch.cat(halves, 2), self.labels[rows]


def _check_halves(simple: Halves, complex: Halves) -> None:  # noqa: A002
    for name, (pictures, labels) in (("simple", simple), ("complex", complex)):
        if pictures.ndim != 4 or len(pictures) != len(labels) or not len(labels):
            raise ValueError(
                f"{name}: expected pictures (N, C, H, W) and as many labels, got "
                f"{tuple(pictures.shape)} and {tuple(labels.shape)}"
            )
    kinds = [sorted(set(labels.tolist())) for _, labels in (simple, complex)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"both halves need the same classes, got {kinds[0]} and {kinds[1]}; choose and "
            "number them alike"
        )
    (_, a, _, w), (_, b, _, v) = simple[0].shape, complex[0].shape
    if w != v or (a != b and 1 not in (a, b)):
        raise ValueError(
            "halves are stacked: expected equal widths and equal channels (or one), got "
            f"{tuple(simple[0].shape)} and {tuple(complex[0].shape)}"
        )


def _same_class(upper: Tensor, lower: Tensor, draws: torch.Generator) -> Tensor:
    """For each label of ``lower`` the row of a label in ``upper`` that is equal: (N,)."""
    found = torch.empty(len(lower), dtype=torch.long)
    for label in torch.unique(upper):
        rows, places = (upper == label).nonzero()[:, 0], lower == label
        chosen = torch.randint(len(rows), (int(places.sum()),), generator=draws)
        found[places] = rows[chosen]
    return found


@dataclass(frozen=True)
class FeatureReplication:
    """How often each half stands in the features, and how much the head makes of it.

    Attributes:
        accuracy: data set -> share of right classes.
        features: group -> number of features; a feature belongs to the half that explains more
            of its variance, or to neither.
        weight_mass: group -> share of the head's weights, each times its feature's deviation.
        spectrum: shares of variance of the principal components of the features (d,), falling.
    """

    accuracy: dict[str, float]
    features: dict[str, int]
    weight_mass: dict[str, float]
    spectrum: Tensor


@torch.no_grad()
def feature_replication_report(
    backbone: nn.Module,
    head: nn.Module,
    datasets: Mapping[str, Dataset[tuple[Tensor, Tensor]]],
    *,
    threshold: float = 0.05,
    batch_size: int = 256,
) -> FeatureReplication:
    """Measure the feature replication hypothesis on a trained network.

    Where the complex half is random, the variance of a feature that the label explains is due to
    the simple half, and the other way round (one-way analysis of variance, on held-out data).

    Args:
        backbone: inputs -> features (B, d); evaluated in eval mode.
        head: features -> logits: an ``nn.Linear`` or ``FRRHead``.
        datasets: name -> data; ``"simple"`` and ``"complex"`` must be there, with that half drawn
            at random. Others only get an accuracy.
        threshold: share of variance below which a half does not explain a feature.
        batch_size: of the evaluation.

    Raises:
        ValueError: if one of the two data sets is missing.
        TypeError: if the head is of another kind.

    Example:
        >>> digits = torch.rand(6, 1, 4, 4), torch.arange(6) % 2
        >>> kinds = ("none", "simple", "complex")
        >>> both = {r: Dominoes(digits, digits, randomise=r) for r in kinds}
        >>> report = feature_replication_report(nn.Flatten(), nn.Linear(32, 2), both)
        >>> sum(report.features.values()), sorted(report.accuracy)
        (32, ['complex', 'none', 'simple'])
    """
    if missing := {"simple", "complex"} - set(datasets):
        raise ValueError(
            f"datasets lacks {sorted(missing)}; give Dominoes(..., randomise='simple') and "
            "Dominoes(..., randomise='complex')"
        )
    linear = head.linear if isinstance(head, FRRHead) else head
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"head must be an nn.Linear or FRRHead, got {type(head).__name__}")
    found = {name: _read(backbone, data, batch_size) for name, data in datasets.items()}
    accuracy = {
        name: float((linear(z).argmax(1) == y).float().mean()) for name, (z, y) in found.items()
    }
    by_complex, by_simple = (_explained(*found[name]) for name in ("simple", "complex"))
    groups = {
        "simple": (by_simple >= by_complex) & (by_simple > threshold),
        "complex": (by_complex > by_simple) & (by_complex > threshold),
    }
    groups["neither"] = ~(groups["simple"] | groups["complex"])
    z = found.get("none", found["simple"])[0]
    centred = linear.weight - linear.weight.mean(0)  # what all classes share changes no decision
    mass = centred.abs().sum(0) * z.std(0, correction=0)  # (d,)
    total = mass.sum().clamp_min(1e-30)
    variance = torch.linalg.svdvals(z - z.mean(0)) ** 2
    return FeatureReplication(
        accuracy,
        {name: int(rows.sum()) for name, rows in groups.items()},
        {name: float(mass[rows].sum() / total) for name, rows in groups.items()},
        variance / variance.sum().clamp_min(1e-30),
    )


def _read(
    backbone: nn.Module, data: Dataset[tuple[Tensor, Tensor]], batch_size: int
) -> tuple[Tensor, Tensor]:
    with frozen(backbone):
        pairs = [(backbone(x), y) for x, y in DataLoader(data, batch_size)]
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)


def _explained(z: Tensor, labels: Tensor) -> Tensor:
    """Share of each feature's variance that lies between classes: (d,)."""
    centred = z - z.mean(0)
    kinds, place = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(place).to(z.dtype)
    means = torch.zeros(len(kinds), z.shape[1], dtype=z.dtype).index_add_(0, place, centred)
    means /= counts[:, None]
    total = (centred**2).sum(0)
    between = (counts[:, None] * means**2).sum(0)
    return torch.where(total > 0, between / total.clamp_min(1e-30), 0.0)
