r"""M2: a generative model of images and classes, learned from few labels and many images.

.. math:: p(y) = 1/K, \quad p(z) = N(0, I), \quad p(x \mid y, z) = \mathrm{decoder}(z, e_y)

with the approximate posterior :math:`q(y \mid x)\, q(z \mid x, y)`. The embedding e of the classes
is shared by the classifier and the generator. The class is summed out exactly where it is unknown.

Shape letters: B examples, K classes, D numbers of a class embedding, L of a latent, F features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    kl_divergence,
)
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of
from recollect.generative.borders import UNLABELLED, check_labels
from recollect.generative.modes import in_eval

__all__ = ["M2"]

CHUNKS = ("all", "per_class")


class M2(nn.Module, ABC):
    """What is common to models of images and of vectors: posteriors, bounds, loss.

    Subclasses bring ``encoder``, ``decoder``, what comes in, and its likelihood. A model with one
    class is an ordinary variational autoencoder (the published M1).

    Args:
        encoder: (B, ...) -> (B, F).
        decoder: (B, L + D) -> parameters of the likelihood.
        num_features: F.
        num_classes: K.
        latent_dim: L.
        class_embedding_dim: D.
        onehot: fixed one-hot classes instead of a learned embedding; D is then K.
        hidden: width of the layer that joins features and class.
        decode_chunk: how the K hypothetical classes of an unlabelled image are decoded:
            ``"all"`` in one batch of B K, ``"per_class"`` in K batches of B. The same without
            batch normalisation; with it, the statistics mix different examples.
        classes_summed: how many of the likeliest classes of an unlabelled example are summed
            over, None for all: a looser bound, and K / M times fewer decodings.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is below 1, more classes are summed than there are, or
            ``decode_chunk`` is unknown.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        num_features: int,
        num_classes: int,
        latent_dim: int,
        class_embedding_dim: int,
        onehot: bool,
        hidden: int,
        decode_chunk: str,
        classes_summed: int | None,
    ) -> None:
        super().__init__()
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.classes_summed = num_classes if classes_summed is None else classes_summed
        if check_integer("classes_summed", self.classes_summed, minimum=1) > num_classes:
            raise ValueError(
                f"classes_summed must be at most the {num_classes} classes, got {classes_summed}"
            )
        self.decode_chunk = check_one_of("decode_chunk", decode_chunk, CHUNKS)
        self.encoder, self.decoder = encoder, decoder
        if onehot:
            self.classes = nn.Embedding(num_classes, num_classes, _weight=torch.eye(num_classes))
            self.classes.weight.requires_grad_(False)
        else:
            self.classes = nn.Embedding(num_classes, class_embedding_dim)
        dim = self.classes.embedding_dim
        self.towards_class = nn.Linear(num_features, dim)
        self.class_bias = nn.Parameter(torch.zeros(num_classes))
        self.of_features = nn.Linear(num_features, hidden)
        self.of_class = nn.Linear(dim, hidden, bias=False)
        self.towards_latent = nn.Linear(hidden, 2 * latent_dim)

    # -- what a subclass says ---------------------------------------------------------------

    @abstractmethod
    def check_input(self, x: Any) -> Tensor:
        """Return x, or refuse it."""

    @abstractmethod
    def likelihood(self, out: Tensor) -> Distribution:
        """Return p(x | .) of what the decoder put out."""

    # -- the distributions --------------------------------------------------------------------

    @property
    def norm_batch(self) -> bool:
        """Whether the decoder normalises over the batch."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.decoder.modules())

    def class_query(self, features: Tensor) -> Tensor:
        """Return u(x), which is compared with every class embedding: (B, F) -> (B, D)."""
        return torch.as_tensor(self.towards_class(features))

    def _class_logits(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, K): <u(x), e_y> / sqrt(D) + b_y."""
        e = self.classes.weight
        scores = self.class_query(features) @ e.T / math.sqrt(e.shape[1])
        return torch.as_tensor(scores + self.class_bias)

    def q_y(self, x: Tensor) -> Categorical:
        """Return q(y | x), a ``Categorical`` of batch shape (B,)."""
        return Categorical(logits=self._class_logits(self.encoder(self.check_input(x))))

    def q_z(self, x: Tensor, y: Tensor) -> Distribution:
        """Return q(z | x, y), a diagonal normal of batch shape (B,) and event shape (L,)."""
        x = self.check_input(x)
        return self._q_z(self.encoder(x), self.classes(check_labels(y, len(x), self.num_classes)))

    def _q_z(self, features: Tensor, e: Tensor) -> Distribution:
        """Features (B, F) and class embeddings (..., B, D) -> q(z | x, y) of shape (..., B)."""
        joined = torch.relu(self.of_features(features) + self.of_class(e))
        mean, spread = self.towards_latent(joined).chunk(2, -1)
        return Independent(Normal(mean, F.softplus(spread) + 1e-4, validate_args=False), 1)

    def p_x(self, z: Tensor, y: Tensor) -> Distribution:
        """Return p(x | z, y) of latents (B, L) and labels (B,).

        Raises:
            ValueError: if the decoder normalises over a batch of one.
        """
        e = self.classes(check_labels(y, len(z), self.num_classes))
        return self._p_x(torch.cat([z, e], -1))

    def _p_x(self, code: Tensor) -> Distribution:
        if self.training and len(code) == 1 and self.norm_batch:
            raise ValueError(
                "the decoder normalises over the batch, and a batch of one example has no spread "
                "between examples: give at least two, call .eval(), or choose another "
                'norm_decoder ("group", "layer", "none")'
            )
        return self.likelihood(self.decoder(code))

    # -- bounds -------------------------------------------------------------------------------

    def elbo_labelled(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the bound of log p(x, y) of each example, (B,), in nats.

        .. math:: \mathrm{E}_q[\log p(x | y, z)] - \mathrm{KL}(q(z | x, y) \| p(z)) + \log p(y)
        """
        x = self.check_input(x)
        y = check_labels(y, len(x), self.num_classes)
        return self._labelled(x, self.encoder(x), y[None])[0]

    def _labelled(self, x: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """Return bounds (M, B) for M guesses (M, B) of the labels."""
        e = self.classes(y)  # (M, B, D)
        q = self._q_z(features, e)
        code = torch.cat([q.rsample(), e], -1)  # (M, B, L + D)
        if self.decode_chunk == "all":
            said = self._p_x(code.flatten(0, 1)).log_prob(x.repeat(len(y), *[1] * (x.ndim - 1)))
            said = said.view(y.shape)
        else:
            said = torch.stack([self._p_x(c).log_prob(x) for c in code])
        prior = Independent(Normal(torch.zeros_like(q.mean), 1.0, validate_args=False), 1)
        return said - kl_divergence(q, prior) - math.log(self.num_classes)

    def elbo_unlabelled(self, x: Tensor) -> Tensor:
        r"""Return the bound of log p(x) of each example, (B,), in nats; the class is summed out.

        .. math:: \sum_y q(y | x)\, \mathrm{Lab}(x, y) + \mathrm{H}(q(y | x))

        With ``classes_summed`` below K, q is restricted to its likeliest classes, which is a
        lower bound as well.
        """
        x = self.check_input(x)
        return self._unlabelled(x, self.encoder(x))

    def _unlabelled(self, x: Tensor, features: Tensor) -> Tensor:
        logits, y = self._class_logits(features).topk(self.classes_summed)  # (B, M)
        log_q, y = F.log_softmax(logits, 1).T, y.T  # (M, B)
        bounds = self._labelled(x, features, y)
        return (log_q.exp() * (bounds - log_q)).sum(0)

    def loss(self, batch: tuple[Tensor, Tensor], alpha: float = 5.0, beta: float = 1.0) -> Tensor:
        r"""Return the objective of a batch of labelled and unlabelled examples, in nats.

        .. math:: -\beta\, \overline{\mathrm{Lab}} - \overline{\mathrm{U}}
                  - \alpha\, \overline{\log q(y | x)}

        each a mean over its part of the batch; without unlabelled examples the second is left
        out. The encoder sees both parts together. The published objective is a sum over all
        examples: there beta is the share of them that is labelled, and alpha 0.1.

        Args:
            batch: examples (B, ...) and labels (B,), -1 where unknown.
            alpha: weight of the classification.
            beta: weight of the bound of the labelled examples.

        Raises:
            ValueError: if no example is labelled.
        """
        x = self.check_input(batch[0])
        y = check_labels(batch[1], len(x), self.num_classes, missing=True)
        known = y != UNLABELLED
        if not known.any():
            raise ValueError(
                "the batch has no labelled example (all labels are -1); draw labelled and "
                "unlabelled examples apart and join them, as recollect.generative.fit does"
            )
        features = self.encoder(x)
        labelled = self._labelled(x[known], features[known], y[known][None]).mean()
        said = F.cross_entropy(self._class_logits(features[known]), y[known])
        whole = alpha * said - beta * labelled
        if not known.all():
            whole = whole - self._unlabelled(x[~known], features[~known]).mean()
        return torch.as_tensor(whole)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of q(y | x): (B, ...) -> (B, K)."""
        return torch.as_tensor(self._class_logits(self.encoder(self.check_input(x))))

    # -- use ----------------------------------------------------------------------------------

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Return the likeliest class under q(y | x): (B, ...) -> (B,)."""
        return torch.as_tensor(self(x).argmax(1))

    @torch.no_grad()
    def generate(self, y: Tensor, *, seed: int = 0) -> Tensor:
        """Return the mean of one sample of each class asked for.

        Args:
            y: (B,) classes.
            seed: of the latents.

        Returns:
            (B, ...) in eval mode's statistics, whatever the mode.
        """
        draws = torch.Generator().manual_seed(seed)
        z = torch.randn(len(y), self.latent_dim, generator=draws).to(y.device)
        with in_eval(self):
            return torch.as_tensor(self.p_x(z, y).mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x | z, y) at the posterior mean of z.

        Args:
            x: (B, ...).
            y: (B,) classes; by default the likeliest ones.
        """
        with in_eval(self):
            classes = self.classify(x) if y is None else y
            return torch.as_tensor(self.p_x(self.q_z(x, classes).mean, classes).mean)
