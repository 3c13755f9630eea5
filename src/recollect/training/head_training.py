"""Training of a head that carries every feature (FRR-L), then of the backbone under it (FLFT).

The head is trained on a frozen backbone; then the head is frozen, and the backbone follows it.

Shape letters: B examples of a batch, N of all batches, d features, K classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer
from recollect.training.domains import accuracy
from recollect.training.modes import evaluating, frozen
from recollect.training.reconstruction import FRRHead

__all__ = ["HeadTraining", "fixed_linear_finetune", "train_frr_linear"]

Batches = Iterable[tuple[Tensor, Tensor]]
_LARGEST_LOSS = 0.02  # of training accuracy, before the trainer warns


@dataclass(frozen=True)
class HeadTraining:
    """What a training of the head did.

    Attributes:
        accuracy_before: on the training batches, with the head as it was given.
        accuracy_after: with the trained head.
        cross_entropy: mean over the last epoch, in nats.
        reconstruction: mean penalty over the last epoch.
    """

    accuracy_before: float
    accuracy_after: float
    cross_entropy: float
    reconstruction: float


def train_frr_linear(
    backbone: nn.Module,
    head: FRRHead,
    loader: Batches,
    lam: float = 1.0,
    *,
    epochs: int = 10,
    lr: float = 1e-2,
    decoder_lr: float | None = None,
    weight_decay: float = 0.0,
    restart: bool = False,
) -> HeadTraining:
    """Train head and decoder on a frozen backbone (FRR-L): cross-entropy + lam * penalty.

    The head should come from ordinary training (``FRRHead.start_from``). A decoder that is much
    slower than the classifier makes the penalty merely shrink the weights; one that is faster
    settles on what the logits carry already. The statistics of the features are measured first, in
    one pass. The weights are those for standardised features while they learn (a change of
    variables), and plain again afterwards.

    Args:
        backbone: inputs -> features (B, d); put into eval mode and frozen while this runs.
        head: trained in place.
        loader: batches (inputs, labels (B,)), walked once per epoch and once before.
        lam: weight of the penalty; 0 trains an ordinary head.
        epochs: passes over the loader.
        lr: of Adam for the classifier.
        decoder_lr: of Adam for the decoder; the same by default.
        weight_decay: decoupled, on the classifier.
        restart: begin with a classifier of zeros rather than with the head as given (a head that
            leans on the simple features already is slow to let go of them), and with a decoder
            whose last layer is zero: the labels then choose the signs of the logits. A decoder
            that was drawn at random chooses them too where lam is large, and may choose wrongly.

    Raises:
        ValueError: for numbers out of range, an empty loader, or features that do not fit.

    Warns:
        UserWarning: if training accuracy fell by more than 2 points: lam is too large.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z, y = torch.randn(64, 4), torch.arange(64) % 2
        >>> z[:, 0] += 4.0 * y
        >>> head = FRRHead(4, 2)
        >>> _ = train_frr_linear(nn.Identity(), head, [(z, y)], 0.1, epochs=100, lr=0.1)
        >>> bool((head(z).argmax(1) == y).float().mean() > 0.9)
        True
    """
    if not (lam >= 0 and math.isfinite(lam)):
        raise ValueError(f"lam must not be negative, got {lam}")
    check_integer("epochs", epochs, minimum=1)
    with frozen(backbone):
        features, labels = _features(backbone, loader, head.mean.device)
        head.fit_statistics(features, labels)
        before = accuracy(head, features, labels)
        # In standardised coordinates the classifier's problem is well conditioned.
        factor = 0.0 if restart else 1.0
        if restart:
            head.silence_decoder()
        weight, bias = (t.mul(factor).requires_grad_() for t in head.expressed())
        optimizer = torch.optim.AdamW(
            [
                {"params": [weight, bias], "weight_decay": weight_decay},
                {"params": head.decoder.parameters(), "lr": decoder_lr or lr},
            ],
            lr=lr,
            weight_decay=0.0,
        )
        sums = torch.zeros(3)
        for _ in range(epochs):
            sums.zero_()
            for x, y in loader:
                with torch.no_grad():
                    z = head.standardised(backbone(x.to(head.mean.device)))
                logits = F.linear(z, weight, bias)
                fit = F.cross_entropy(logits, y.to(z.device))
                penalty = head.penalty(z, logits)
                optimizer.zero_grad()
                (fit + lam * penalty).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                sums += len(y) * torch.tensor([1.0, float(fit.detach()), float(penalty.detach())])
        head.express(weight, bias)
    after = accuracy(head, features, labels)
    if after < before - _LARGEST_LOSS:
        warnings.warn(
            f"training accuracy fell from {before:.3f} to {after:.3f}: lam={lam} is too large "
            "for these features, choose a smaller one",
            stacklevel=2,
        )
    return HeadTraining(before, after, float(sums[1] / sums[0]), float(sums[2] / sums[0]))


def fixed_linear_finetune(
    backbone: nn.Module,
    head: nn.Module,
    loader: Batches,
    *,
    epochs: int = 1,
    lr: float = 1e-4,
    weight_decay: float = 0.0,
) -> float:
    """Fine-tune the backbone by cross-entropy under a frozen head (FLFT); return the last loss.

    The features learn to serve the head that reads all of them. The backbone is left in the mode
    in which it came; its normalisation layers keep their running statistics.

    Args:
        backbone: inputs -> features (B, d), trained in place.
        head: features -> logits, with no parameter that is trained.
        loader: batches (inputs, labels (B,)).
        epochs: passes over it.
        lr: of Adam; small, or the backbone forgets.
        weight_decay: decoupled.

    Raises:
        ValueError: if the head could be trained, or the loader is empty.

    Example:
        >>> backbone, head = nn.Linear(3, 4), FRRHead(4, 2).requires_grad_(False)
        >>> loader = [(torch.randn(8, 3), torch.arange(8) % 2)]
        >>> fixed_linear_finetune(backbone, head, loader) > 0
        True
    """
    if any(p.requires_grad for p in head.parameters()):
        raise ValueError(
            "the head must stay as it is: call head.requires_grad_(False) first; a head that "
            "follows the backbone leans on the simple features again"
        )
    check_integer("epochs", epochs, minimum=1)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the backbone has no parameter that is trained")
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    with evaluating(backbone):
        mean = math.nan
        for _ in range(epochs):
            total, count = 0.0, 0
            for x, y in loader:
                logits = head(backbone(x))
                loss = F.cross_entropy(logits, y.to(logits.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total, count = total + float(loss.detach()) * len(y), count + len(y)
            if not count:
                raise ValueError("the loader gave no batch; give a list or a DataLoader")
            mean = total / count
    return mean


@torch.no_grad()
def _features(backbone: nn.Module, loader: Batches, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (N, d) and labels (N,) of all batches."""
    pairs = [(backbone(x.to(device)), y.to(device)) for x, y in loader]
    if not pairs:
        raise ValueError("the loader gave no batch; give a list or a DataLoader")
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)
