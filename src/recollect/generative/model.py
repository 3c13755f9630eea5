"""M2 for images, convolutional, and for vectors, dense.

Shape letters: B examples, K classes, C, H, W of an image, D numbers of a class embedding, L of a
latent.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

from recollect._checks import check_integer
from recollect.generative.borders import check_images, check_vectors
from recollect.generative.bounds import M2
from recollect.generative.networks import ConvDecoder, ConvEncoder, halvings, normalisation

__all__ = ["ConvM2", "DenseM2"]


class ConvM2(M2):
    """M2 for images, convolutional, with a choice of where it normalises.

    Args:
        image_shape: (C, H, W); sides divisible by two to the number of stages.
        num_classes: K; with 1 the model is an ordinary variational autoencoder.
        latent_dim: L.
        class_embedding_dim: D, numbers of a class embedding.
        width: channels w of all convolutions.
        norm_encoder: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``.
        norm_decoder: the same; ``"batch"`` makes the likelihood of one image depend on the
            latents of the others in its batch (see ``decoder_dependence``).
        momentum: of batch normalisation's running statistics.
        position_embedding_dim: numbers by which the decoder's places are told apart; None: every
            place has weights of its own.
        depth: further convolutions of the decoder.
        stages: halvings of the sides; None: until they are at most 7.
        onehot: fixed one-hot classes instead of a learned embedding.
        decode_chunk: see ``M2``.
        classes_summed: see ``M2``.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is below 1, the sides are not divisible, or a name is unknown.

    Reference:
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014).

    Example:
        >>> import torch
        >>> model = ConvM2((1, 8, 8), width=4, norm_encoder="batch")
        >>> x, y = torch.rand(6, 1, 8, 8), torch.tensor([3, -1, -1, 7, -1, -1])
        >>> model.loss((x, y)).shape, model.elbo_unlabelled(x).shape
        (torch.Size([]), torch.Size([6]))
        >>> model.generate(torch.tensor([4, 4])).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        num_classes: int = 10,
        latent_dim: int = 8,
        class_embedding_dim: int = 16,
        *,
        width: int = 32,
        norm_encoder: str = "none",
        norm_decoder: str = "none",
        momentum: float = 0.1,
        position_embedding_dim: int | None = None,
        depth: int = 0,
        stages: int | None = None,
        onehot: bool = False,
        decode_chunk: str = "all",
        classes_summed: int | None = None,
    ) -> None:
        sizes = _check_sizes(num_classes, latent_dim, class_embedding_dim, width, onehot)
        if position_embedding_dim is not None:
            check_integer("position_embedding_dim", position_embedding_dim, minimum=1)
        check_integer("depth", depth, minimum=0)
        stages = halvings(image_shape, stages)
        encoder = ConvEncoder(image_shape, width, stages, normalisation(norm_encoder, momentum))
        decoder = ConvDecoder(
            sum(sizes),
            image_shape,
            width,
            stages,
            normalisation(norm_decoder, momentum),
            position_embedding_dim,
            depth,
        )
        super().__init__(
            encoder, decoder, encoder.num_features, num_classes, *sizes, onehot, 4 * width,
            decode_chunk, classes_summed,
        )  # fmt: skip
        self.image_shape = image_shape

    def check_input(self, x: Any) -> Tensor:
        """Return images (B, C, H, W) in [0, 1], or refuse them."""
        return check_images(x, self.image_shape)

    def likelihood(self, out: Tensor) -> Distribution:
        """Return independent Bernoulli pixels of logits (B, C, H, W)."""
        return Independent(Bernoulli(logits=out, validate_args=False), 3)


class DenseM2(M2):
    """M2 for vectors, with dense layers: both halves of the published stack M1+M2.

    Args:
        size: d, numbers of a vector.
        num_classes: K.
        latent_dim: L.
        class_embedding_dim: D.
        width: of the hidden layers.
        layers: hidden layers of encoder and of decoder.
        pixels: whether the numbers are pixels in [0, 1], each the chance of a Bernoulli variable,
            instead of real numbers with normal errors.
        onehot: fixed one-hot classes instead of a learned embedding.
        decode_chunk: see ``M2``.
        classes_summed: see ``M2``.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is below 1.

    Example:
        >>> import torch
        >>> model = DenseM2(5, num_classes=3, width=16)
        >>> model.elbo_labelled(torch.randn(4, 5), torch.tensor([0, 1, 2, 2])).shape
        torch.Size([4])
    """

    def __init__(
        self,
        size: int,
        num_classes: int = 10,
        latent_dim: int = 8,
        class_embedding_dim: int = 16,
        *,
        width: int = 128,
        layers: int = 1,
        pixels: bool = False,
        onehot: bool = False,
        decode_chunk: str = "all",
        classes_summed: int | None = None,
    ) -> None:
        sizes = _check_sizes(num_classes, latent_dim, class_embedding_dim, width, onehot)
        check_integer("size", size, minimum=1)
        check_integer("layers", layers, minimum=1)
        super().__init__(
            _dense([size, *[width] * layers]),
            nn.Sequential(
                _dense([sum(sizes), *[width] * layers]),
                nn.Linear(width, size if pixels else 2 * size),
            ),
            width, num_classes, *sizes, onehot, width, decode_chunk,
            classes_summed,
        )  # fmt: skip
        self.size, self.pixels = size, bool(pixels)

    def check_input(self, x: Any) -> Tensor:
        """Return vectors (B, d), finite or in [0, 1], or refuse them."""
        return check_vectors(x, self.size, pixels=self.pixels)

    def likelihood(self, out: Tensor) -> Distribution:
        """Return Bernoulli pixels of logits (B, d), or normals of means and spreads (B, 2 d)."""
        if self.pixels:
            return Independent(Bernoulli(logits=out, validate_args=False), 1)
        mean, spread = out.chunk(2, -1)
        return Independent(Normal(mean, F.softplus(spread) + 1e-3, validate_args=False), 1)


def _check_sizes(
    num_classes: int, latent_dim: int, class_embedding_dim: int, width: int, onehot: bool
) -> tuple[int, int]:
    """Return latent_dim and the numbers of a class embedding, or refuse the sizes."""
    check_integer("num_classes", num_classes, minimum=1)
    check_integer("latent_dim", latent_dim, minimum=1)
    check_integer("class_embedding_dim", class_embedding_dim, minimum=1)
    check_integer("width", width, minimum=1)
    return latent_dim, num_classes if onehot else class_embedding_dim


def _dense(widths: list[int]) -> nn.Sequential:
    """Return linear layers of these widths, each followed by a ReLU."""
    return nn.Sequential(*[m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())])
