r"""How similar two classes are to a model, and in which context.

Similarity is plural: a three that is tilted may be nearer to a two than an upright one. With one
number a class, an embedding can say only one order of all classes; with several, the image chooses
which of them count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recollect.generative.bounds import M2
from recollect.generative.modes import in_eval

__all__ = ["class_similarity", "context_similarity", "gated_similarity", "rotate"]


@torch.no_grad()
def context_similarity(
    model: M2,
    x: Tensor,
    a: int,
    b: int,
    transforms: Sequence[Callable[[Tensor], Tensor]] = (lambda x: x,),
) -> Tensor:
    r"""Return, for each transform, the mean of :math:`\log q(a|x) - \log q(b|x)`, (T,) in nats.

    Above 0 the images are nearer to class a, below to class b.

    Args:
        model: in whatever mode; eval mode is used.
        x: (B, ...) images, usually of a third class.
        a: a class.
        b: another.
        transforms: each maps images to images; by default none.

    Raises:
        ValueError: if a or b is no class.

    Example:
        >>> from recollect.generative import ConvM2
        >>> x = torch.rand(3, 1, 8, 8)
        >>> model = ConvM2(width=4)
        >>> there, back = context_similarity(model, x, 2, 8), context_similarity(model, x, 8, 2)
        >>> bool((there + back).abs() < 1e-5)
        True
    """
    _check_classes(model, a, b)
    with in_eval(model):
        logits = torch.stack([model(t(x)) for t in transforms])  # (T, B, K)
    return (logits[..., a] - logits[..., b]).mean(1)


@torch.no_grad()
def gated_similarity(model: M2, x: Tensor, a: int, b: int) -> Tensor:
    r"""Return the similarity of two classes in the context of each image, (B,) in [-1, 1].

    .. math:: s_x(a, b) = \cos(u(x) \odot e_a,\; u(x) \odot e_b)

    The image's query u(x) weighs the numbers of the embeddings. With one number it is the same for
    all images, up to its sign.

    Raises:
        ValueError: if a or b is no class.
    """
    _check_classes(model, a, b)
    with in_eval(model):
        u = model.class_query(model.encoder(model.check_input(x)))
    e = model.classes.weight
    return F.cosine_similarity(u * e[a], u * e[b], dim=1)


@torch.no_grad()
def class_similarity(model: M2) -> Tensor:
    """Return cosines of all class embeddings, (K, K): what can be said without any context."""
    e = F.normalize(model.classes.weight, dim=1)
    return e @ e.T


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turn images about their middle, bilinearly, zeros coming in from outside.

    Args:
        x: (B, C, H, W).
        degrees: counter-clockwise, as seen with the first row on top.

    >>> x = torch.zeros(1, 1, 3, 3)
    >>> x[..., 1, 2] = 1
    >>> rotate(x, 90)[0, 0].round().abs()
    tensor([[0., 1., 0.],
            [0., 0., 0.],
            [0., 0., 0.]])
    """
    height, width = x.shape[-2:]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[c, -s * height / width, 0.0], [s * width / height, c, 0.0]])
    grid = F.affine_grid(matrix.to(x)[None].expand(len(x), -1, -1), list(x.shape),
                         align_corners=False)  # fmt: skip
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def _check_classes(model: M2, *classes: int) -> None:
    for c in classes:
        if not 0 <= c < model.num_classes:
            raise ValueError(f"classes are 0..{model.num_classes - 1}, got {c}")
