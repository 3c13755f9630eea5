"""Feature reconstruction: a linear head that must carry every feature, not only the simplest.

Networks keep many copies of simple features and few of complex ones, and the head with the largest
margin then leans on the copies. If the features have to be told from the logits, the head must
let all of them through. A head is trained in this way on a frozen backbone; then the head is
frozen, and the backbone follows it.

Shape letters: B examples of a batch, d features, m numbers to be read back, K classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of
from recollect.training.domains import accuracy
from recollect.training.modes import evaluating, frozen

__all__ = ["FRRHead", "HeadTraining", "fixed_linear_finetune", "train_frr_linear"]

Batches = Iterable[tuple[Tensor, Tensor]]
_NORMS = {"1": 1.0, "2": 2.0, "inf": math.inf}
_LARGEST_LOSS = 0.02  # of training accuracy, before the trainer warns


class FRRHead(nn.Module):
    r"""Linear classifier with a decoder that reads the features back from the logits.

    With features z, logits o = W z + b and decoder G,

        o~ = o - mean over classes,   z~ = (z - mean) / deviation,
        penalty = mean over the batch of || G(o~) - z~ ||_p.

    With ``components`` m, z~ are the m leading principal components of the features, each with
    deviation 1: a hundred copies of one feature are then one number to be read, not a hundred.

    Softmax ignores a constant added to all logits; without centring the head may hide a feature
    there, and the penalty is met without its being used.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        decoder: ``"linear"``, or ``"mlp"`` with one hidden layer.
        hidden: width of that layer.
        p: norm over the features: ``"1"``, ``"2"`` or ``"inf"`` (the feature that is read worst).
        components: m, at most d; None for the features themselves (m = d).
        centre_logits: whether the decoder sees o~ rather than o.

    Raises:
        ValueError: for numbers out of range or an unknown option.

    Reference: Learning an Invertible Output Mapping Can Mitigate Simplicity Bias in Neural
    Networks (Addepalli, Nasery, Babu, Netrapalli, Jain, 2022). Norm and decoder were settled by
    measurement.

    Example:
        >>> head = FRRHead(in_features=5, num_classes=3)
        >>> z = torch.randn(8, 5)
        >>> logits = head(z)
        >>> logits.shape, head.reconstruction_loss(z, logits).shape
        (torch.Size([8, 3]), torch.Size([]))
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        decoder: str = "linear",
        hidden: int = 64,
        p: str = "inf",
        components: int | None = None,
        centre_logits: bool = True,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, minimum=1)
        check_integer("hidden", hidden, minimum=1)
        if check_integer("num_classes", num_classes, minimum=1) < 2:
            raise ValueError(
                "num_classes must be at least 2, got 1: the softmax of one logit is constant; "
                "use two logits for a yes and a no"
            )
        self.p = check_one_of("p", str(p), _NORMS)
        m = in_features
        if components is not None:
            m = check_integer("components", components, minimum=1)
            if m > in_features:
                raise ValueError(f"components must be at most in_features={in_features}, got {m}")
        self.components = components
        self.centre_logits = centre_logits
        self.linear = nn.Linear(in_features, num_classes)
        self.decoder: nn.Module
        if check_one_of("decoder", decoder, ("linear", "mlp")) == "linear":
            self.decoder = nn.Linear(num_classes, m)
        else:
            self.decoder = nn.Sequential(
                nn.Linear(num_classes, hidden), nn.ReLU(), nn.Linear(hidden, m)
            )
        self.register_buffer("mean", torch.zeros(in_features))
        # Deviations (d,) to divide by, or rows (m, d) to multiply with.
        self.register_buffer(
            "scale", torch.ones(m) if components is None else torch.eye(m, in_features)
        )

    @torch.no_grad()
    def start_from(self, linear: nn.Linear) -> Self:
        """Copy the weights of a trained classifier; return the head.

        Raises:
            ValueError: if its sizes are others.

        >>> erm = nn.Linear(5, 3)
        >>> z = torch.randn(2, 5)
        >>> torch.equal(FRRHead(5, 3).start_from(erm)(z), erm(z))
        True
        """
        if linear.weight.shape != self.linear.weight.shape:
            raise ValueError(
                f"the head maps {self.linear.in_features} features to "
                f"{self.linear.out_features} classes, the given layer {linear.in_features} to "
                f"{linear.out_features}"
            )
        self.linear.weight.copy_(linear.weight)
        self.linear.bias.zero_()
        if linear.bias is not None:
            self.linear.bias.copy_(linear.bias)
        return self

    @torch.no_grad()
    def fit_statistics(self, features: Tensor) -> None:
        """Measure what standardises the features, on a sample (B, d).

        What never changes has nothing to be read: it is 0 after standardisation.

        Raises:
            ValueError: if the shape is wrong or a number is not finite.
        """
        self._check(features)
        if not bool(features.isfinite().all()):
            raise ValueError("features are not finite; the backbone has diverged")
        self.mean.copy_(features.mean(0))
        centred = features - self.mean
        if self.components is None:
            self.scale.copy_(_floored(centred.square().mean(0).sqrt()))
            return
        _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
        kept = min(self.components, len(sizes))
        self.scale.zero_()
        deviations = _floored(sizes[:kept] / len(features) ** 0.5)
        self.scale[:kept] = axes[:kept] / deviations[:, None]

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, d)."""
        logits: Tensor = self.linear(features)
        return logits

    def standardised(self, features: Tensor) -> Tensor:
        """Return what is to be read back (B, m) of features (B, d): mean 0, deviation 1."""
        centred = features - self.mean
        return centred / self.scale if self.components is None else centred @ self.scale.T

    @torch.no_grad()
    def expressed(self) -> tuple[Tensor, Tensor]:
        """Return the classifier as weights (K, m) and bias (K,) for standardised features.

        What the weights make of other directions than the m components is left out.
        """
        weight, bias = self.linear.weight, self.linear.bias
        if self.components is None:
            return weight * self.scale, bias + weight @ self.mean
        return weight @ torch.linalg.pinv(self.scale), bias + weight @ self.mean

    @torch.no_grad()
    def express(self, weight: Tensor, bias: Tensor) -> None:
        """Set the classifier from weights (K, m) and bias (K,) for standardised features."""
        raw = weight / self.scale if self.components is None else weight @ self.scale
        self.linear.weight.copy_(raw)
        self.linear.bias.copy_(bias - raw @ self.mean)

    def reconstruct(self, logits: Tensor) -> Tensor:
        """Return the standardised features (B, m) that the decoder reads from logits (B, K)."""
        if self.centre_logits:
            logits = logits - logits.mean(1, keepdim=True)
        found: Tensor = self.decoder(logits)
        return found

    def reconstruction_loss(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the penalty, a scalar.

        Raises:
            ValueError: if features (B, d) or logits (B, K) do not fit the head.
        """
        self._check(features)
        if logits.shape != (len(features), self.linear.out_features):
            raise ValueError(
                f"expected logits ({len(features)}, {self.linear.out_features}), got "
                f"{tuple(logits.shape)}"
            )
        return self.penalty(self.standardised(features), logits)

    def penalty(self, standardised: Tensor, logits: Tensor) -> Tensor:
        """Return the penalty of logits (B, K) for features that are standardised (B, m)."""
        rest = self.reconstruct(logits) - standardised
        mean: Tensor = torch.linalg.vector_norm(rest, _NORMS[self.p], dim=1).mean()
        return mean

    def _check(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.linear.in_features:
            raise ValueError(
                f"expected features (B, {self.linear.in_features}), got {tuple(features.shape)}; "
                "the backbone must give one flat vector per example"
            )


def _floored(deviation: Tensor) -> Tensor:
    """Deviations to divide by: 1 where nothing varies."""
    floor = 1e-6 * deviation.max().clamp_min(1e-12)
    return torch.where(deviation > floor, deviation, 1.0)


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
        restart: begin with a classifier of zeros rather than with the head as given. A head that
            leans on the simple features already is slow to let go of them.

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
        head.fit_statistics(features)
        before = accuracy(head, features, labels)
        # In standardised coordinates the classifier's problem is well conditioned.
        factor = 0.0 if restart else 1.0
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
