"""Encoders and decoders of the models, with a choice of where and how they normalise.

Shape letters: B examples of a batch, C channels of an image, H and W its sides, w channels inside,
s side of the smallest grid, F features, d numbers of a code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recollect._checks import check_integer, check_one_of

__all__ = ["NORMS", "ConvDecoder", "ConvEncoder", "halvings", "normalisation"]

NORMS = ("none", "batch", "group", "layer")
Norm = Callable[[int], nn.Module]
SMALLEST = 7  # sides are halved until they are no longer than this


def normalisation(kind: str, momentum: float = 0.1) -> Norm:
    """Return what makes the normalisation of a number of channels.

    Args:
        kind: ``"none"``; ``"batch"``, statistics of each channel over the batch and all places;
            ``"group"``, of at most 8 groups of channels in one example; ``"layer"``, of all
            channels in one example.
        momentum: of the running statistics of ``"batch"``: the weight of the newest batch.

    Raises:
        ValueError: if the kind is unknown, or the momentum not in (0, 1].

    >>> normalisation("group")(12)
    GroupNorm(6, 12, eps=1e-05, affine=True...)
    """
    check_one_of("norm", kind, NORMS)
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum must lie in (0, 1], got {momentum!r}")
    if kind == "batch":
        return lambda w: nn.BatchNorm2d(w, momentum=momentum)
    if kind == "group":
        return lambda w: nn.GroupNorm(max(g for g in range(1, 9) if w % g == 0), w)
    if kind == "layer":
        return lambda w: nn.GroupNorm(1, w)
    return lambda w: nn.Identity()


def halvings(image_shape: tuple[int, int, int], stages: int | None = None) -> int:
    """Return how often the sides of an image are halved: until they are at most 7.

    Args:
        image_shape: (C, H, W).
        stages: a number of halvings to check instead.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if the shape has not three numbers of at least 1, or H or W is not divisible.

    >>> halvings((1, 8, 8)), halvings((1, 28, 28)), halvings((3, 32, 32))
    (1, 2, 3)
    """
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape}")
    _, height, width = (check_integer("image_shape", n, minimum=1) for n in image_shape)
    if stages is None:
        stages = 0
        while max(height, width) > SMALLEST * 2**stages:
            stages += 1
    check_integer("stages", stages, minimum=0)
    if height % 2**stages or width % 2**stages:
        raise ValueError(
            f"height and width must be divisible by {2**stages} ({stages} strides of 2), got "
            f"{height} x {width}; pad the images, or give fewer stages"
        )
    return stages


class ConvEncoder(nn.Module):
    """Convolutions that halve the sides, features at the end.

    3 x 3 to w channels, then ``stages`` times 3 x 3 with stride 2, each followed by the
    normalisation and a ReLU.

    Args:
        image_shape: (C, H, W).
        width: w.
        stages: halvings.
        norm: from ``normalisation``.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], width: int, stages: int, norm: Norm
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        layers: list[nn.Module] = []
        for n in range(stages + 1):
            step = nn.Conv2d(width if n else channels, width, 3, 2 if n else 1, 1)
            layers += [step, norm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.num_features = width * (height >> stages) * (breadth >> stages)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, F)."""
        return torch.as_tensor(self.layers(x))


class ConvDecoder(nn.Module):
    """From a code to the logits of an image.

    A first layer fills the smallest grid, w x s x s; ``stages`` transposed convolutions 4 x 4
    double it; a 3 x 3 convolution ends. The normalisation stands before each ReLU.

    The first layer is dense by default: every place has weights of its own. With
    ``position_dim`` = P all places share their weights, and each is told where it is by an
    embedding of P numbers only (a broadcast decoder).

    Args:
        code_dim: d.
        image_shape: (C, H, W).
        width: w.
        stages: doublings.
        norm: from ``normalisation``.
        position_dim: P, or None for the dense first layer.
        depth: further 3 x 3 convolutions on the smallest grid.
    """

    def __init__(
        self,
        code_dim: int,
        image_shape: tuple[int, int, int],
        width: int,
        stages: int,
        norm: Norm,
        position_dim: int | None = None,
        depth: int = 0,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        grid = (height >> stages, breadth >> stages)
        self.first: nn.Module
        if position_dim is None:
            dense = nn.Linear(code_dim, width * grid[0] * grid[1])
            self.first = nn.Sequential(dense, nn.Unflatten(1, (width, *grid)))
        else:
            self.first = Broadcast(code_dim, width, grid, position_dim)
        layers: list[nn.Module] = [norm(width), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, 1, 1), norm(width), nn.ReLU()]
        for _ in range(stages):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), norm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, code: Tensor) -> Tensor:
        """Map codes (B, d) to logits (B, C, H, W)."""
        return torch.as_tensor(self.layers(self.first(code)))


class Broadcast(nn.Module):
    r"""One code at every place, with an embedding of the place beside it.

    .. math:: h_c = V\, \mathrm{relu}(W \mathrm{code} + U p_c)

    Args:
        code_dim: d.
        width: w, channels of the result.
        grid: (s, s') places.
        position_dim: P, numbers of an embedding p.

    Reference:
        Spatial Broadcast Decoder (Watters et al., 2019).
    """

    def __init__(
        self, code_dim: int, width: int, grid: tuple[int, int], position_dim: int
    ) -> None:
        super().__init__()
        self.positions = nn.Embedding(grid[0] * grid[1], position_dim)
        self.of_code = nn.Linear(code_dim, 4 * width)
        self.of_place = nn.Linear(position_dim, 4 * width, bias=False)
        self.mixed = nn.Linear(4 * width, width)
        self.grid = grid

    def forward(self, code: Tensor) -> Tensor:
        """Map codes (B, d) to (B, w, s, s')."""
        inner = self.of_code(code)[:, None] + self.of_place(self.positions.weight)  # (B, ss', 4w)
        out = self.mixed(torch.relu(inner)).transpose(1, 2)
        return torch.as_tensor(out.unflatten(2, self.grid))
