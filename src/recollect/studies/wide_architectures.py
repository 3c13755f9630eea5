"""The three architectures that the studies of infinite width compare.

Each is a function of a width, so that the same module is read as its infinitely wide twin and
trained for real at the width that is affordable.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["CONVOLUTIONAL", "DENSE", "RESIDUAL", "Block", "Build", "architectures"]

Build = Callable[[int], nn.Module]
DENSE, CONVOLUTIONAL, RESIDUAL = "fully connected", "convolutional", "wide residual"


class Block(nn.Module):
    """A residual block: ``skip(x) + conv(relu(conv(relu(x))))``.

    The skip is ``x`` itself, or where the block goes in steps ``conv(relu(x))`` in the same steps.

    Args:
        width: channels.
        stride: of the first convolution and of the skip.
    """

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, stride, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Conv2d(width, width, 3, stride, 1) if stride > 1 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        h = self.relu(x)
        beside = x if self.skip is None else self.skip(h)
        out: Tensor = beside + self.second(self.relu(self.first(h)))
        return out


def architectures(
    channels: int,
    side: int,
    classes: int,
    *,
    stem: int = 2,
    convolutions: int = 2,
    average: int = 2,
    strides: Sequence[int] = (1,),
) -> dict[str, Build]:
    """Return the three networks as functions of a width.

    Fully connected: three hidden layers. Convolutional: 3 x 3 convolutions, then every position is
    read with weights of its own. Wide residual: a convolution, residual blocks, and the average
    of all positions.

    Args:
        channels: of the pictures.
        side: of the pictures.
        classes: outputs.
        stem: steps of the first convolution of the last two.
        convolutions: of the convolutional network.
        average: positions a side that it averages before they are read; 1 averages none.
        strides: of the residual blocks.

    Example:
        >>> import torch
        >>> model = architectures(1, 12, 10)["wide residual"](8)
        >>> model(torch.zeros(2, 1, 12, 12)).shape
        torch.Size([2, 10])
    """
    end = -(-side // stem) // average

    def dense(w: int) -> nn.Module:
        hidden = _hidden([channels * side**2, w, w, w])
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(w, classes))

    def convolutional(w: int) -> nn.Module:
        body: list[nn.Module] = []
        for i in range(convolutions):
            first = i == 0
            body += [nn.Conv2d(channels if first else w, w, 3, stem if first else 1, 1), nn.ReLU()]
        body += [nn.AvgPool2d(average)] if average > 1 else []
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(w * end**2, classes))

    def residual(w: int) -> nn.Module:
        body = [nn.Conv2d(channels, w, 3, stem, 1), *(Block(w, s) for s in strides), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, classes)]
        return nn.Sequential(*body, *head)

    return {DENSE: dense, CONVOLUTIONAL: convolutional, RESIDUAL: residual}


def _hidden(sizes: Sequence[int]) -> list[nn.Module]:
    """Return linear layers of these sizes, a ReLU after each."""
    return [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
