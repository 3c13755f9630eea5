"""Feature reconstruction: a linear head that must carry every feature, not only the simplest.

Networks keep many copies of simple features and few of complex ones, and the head with the largest
margin then leans on the copies. If the features have to be told from the logits, the head must
let all of them through.

Shape letters: B examples of a batch, d features, m numbers to be read back, K classes.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of

__all__ = ["FRRHead"]

_NORMS = {"1": 1.0, "2": 2.0, "inf": math.inf}


class FRRHead(nn.Module):
    r"""Linear classifier with a decoder that reads the features back from the logits.

    With features z, logits o = W z + b and decoder G,

        o~ = o - mean over classes,   z~ = (z - mean) / deviation,
        penalty = mean over the batch of || G(o~) - z~ ||_p.

    With ``components`` m, z~ are the m leading principal components of the features, each with
    deviation 1: a hundred copies of one feature are then one number to be read, not a hundred.

    With ``relevance`` r, what is left of number j counts eta_j^r times, where eta_j is its
    correlation ratio: the deviation of its class means over its whole deviation. What varies but
    says nothing of the class would otherwise fill the logits: K of them carry K - 1 numbers.

    Softmax ignores a constant added to all logits; without centring the head may hide a feature
    there, and the penalty is met without its being used.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        decoder: ``"linear"``, or ``"mlp"`` with one hidden layer.
        hidden: width of that layer.
        p: norm over the features: ``"1"``, ``"2"`` or ``"inf"`` (the feature that is read worst).
        components: m, at most d; None for the features themselves (m = d).
        relevance: r, not negative; 0 reads all numbers back alike.
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
    weight: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        decoder: str = "linear",
        hidden: int = 64,
        p: str = "inf",
        components: int | None = None,
        relevance: float = 0.0,
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
        if not (relevance >= 0 and math.isfinite(relevance)):
            raise ValueError(f"relevance must not be negative, got {relevance}")
        self.components, self.relevance = components, relevance
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
        self.register_buffer("weight", torch.ones(m))

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
    def silence_decoder(self) -> None:
        """Let the decoder say zero whatever the logits, by its last layer."""
        last = self.decoder if isinstance(self.decoder, nn.Linear) else self.decoder[-1]  # type: ignore[index]
        last.weight.zero_()
        last.bias.zero_()

    @torch.no_grad()
    def fit_statistics(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Measure what standardises the features, on a sample (B, d), and what tells the class.

        What never changes has nothing to be read: it is 0 after standardisation.

        Args:
            features: (B, d).
            labels: (B,), needed for ``relevance``.

        Raises:
            ValueError: if the shape is wrong, a number is not finite, or labels are missing.
        """
        self._check(features)
        if self.relevance and labels is None:
            raise ValueError("relevance asks what tells the class: give the labels too")
        if not bool(features.isfinite().all()):
            raise ValueError("features are not finite; the backbone has diverged")
        self.mean.copy_(features.mean(0))
        centred = features - self.mean
        if self.components is None:
            self.scale.copy_(_floored(centred.square().mean(0).sqrt()))
            self._weigh(features, labels)
            return
        _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
        kept = min(self.components, len(sizes))
        self.scale.zero_()
        deviations = _floored(sizes[:kept] / len(features) ** 0.5)
        self.scale[:kept] = axes[:kept] / deviations[:, None]
        self._weigh(features, labels)

    def _weigh(self, features: Tensor, labels: Tensor | None) -> None:
        """Set the weights of what is read back: correlation ratios to the power of relevance."""
        if self.relevance and labels is not None:
            found = self.standardised(features)  # deviation 1, or nothing
            kinds = F.one_hot(labels, self.linear.out_features).to(found.dtype)
            means = (kinds.T @ found) / kinds.sum(0)[:, None].clamp_min(1)
            between = (kinds @ means).square().mean(0)
            self.weight.copy_(between.clamp(0, 1).sqrt() ** self.relevance)

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
        rest = (self.reconstruct(logits) - standardised) * self.weight
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
