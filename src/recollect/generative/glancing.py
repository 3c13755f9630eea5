"""What a model makes of an image, as columns that a trace is built from.

Class and latent become an object and its attribute, so that a memory remembers them like any
other: ``recollect.Trace.from_columns(glance_columns(model, x))``.

Shape letters: B images, K classes, L of a latent, M classes kept of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.generative.bounds import M2
from recollect.generative.modes import in_eval

__all__ = ["glance_columns"]


@torch.no_grad()
def glance_columns(
    model: M2,
    x: Tensor,
    *,
    names: Sequence[str] | None = None,
    top: int = 1,
    chunk: int = 500,
) -> dict[str, dict[str, Any]]:
    r"""Return the likeliest classes of each image as objects, their latents as attributes.

    One object for each of the ``top`` classes y: its module is the class, its weight
    :math:`q(y | x)`, its attribute the posterior mean :math:`\mathrm{E}[z | x, y]` of L numbers.
    ``model.p_x`` draws a remembered attribute again.

    Args:
        model: used in eval mode, left in the mode that it is in.
        x: (B, ...) images, or vectors.
        names: K names of the classes; ``class 0``, ``class 1``, ... if None.
        top: M, classes kept of each image.
        chunk: images of one forward pass.

    Returns:
        The columns of one family, ``"class"``: ``attributes`` (B M, L), ``glance`` (B M,),
        ``weight`` (B M,), ``members`` (K names) and ``member`` (B M,), image by image, the
        likeliest class first.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if ``top`` is not in 1 .. K, or there are not K different names.

    Example:
        >>> from recollect import Trace
        >>> from recollect.generative import ConvM2
        >>> model = ConvM2((1, 8, 8), num_classes=3, latent_dim=5, width=4)
        >>> t = Trace.from_columns(glance_columns(model, torch.rand(4, 1, 8, 8)))
        >>> t, t.columns["class"].size
        (Trace(4 glances, 3 modules, 4 objects), 5)
    """
    classes = model.num_classes
    check_integer("chunk", chunk, minimum=1)
    if check_integer("top", top, minimum=1) > classes:
        raise ValueError(f"top must be at most the {classes} classes, got {top}")
    said = tuple(names) if names is not None else tuple(f"class {k}" for k in range(classes))
    if len(set(said)) != classes:
        raise ValueError(f"names must be {classes} different names, one a class, got {said}")
    with in_eval(model):
        parts = [_part(model, some, top) for some in torch.split(model.check_input(x), chunk)]
    latents, member, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return {
        "class": {
            "attributes": latents,
            "glance": torch.arange(len(x)).repeat_interleave(top).numpy(),
            "members": said,
            "member": member.numpy(),
            "weight": weight.numpy(),
        }
    }


def _part(model: M2, x: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents (B M, L), classes (B M,) and chances (B M,) of some images."""
    chance, y = model.q_y(x).probs.topk(top)  # (B, M)
    means = [model.q_z(x, column).mean for column in y.T]
    return torch.stack(means, 1).flatten(0, 1).cpu(), y.flatten().cpu(), chance.flatten().cpu()
