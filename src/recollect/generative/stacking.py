"""One model on the latents of another: the published stack M1+M2.

M1, a model with one class, learns from all examples without labels; M2 learns from what M1 makes
of them. An example is then no point but a normal distribution, and is drawn anew at every step.

Shape letters: N examples, L numbers of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.generative.bounds import M2
from recollect.generative.modes import in_eval

__all__ = ["posterior"]


@torch.no_grad()
def posterior(
    model: M2, x: Tensor, y: Tensor | None = None, *, chunk: int = 1000
) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of q(z | x, y), (N, L) each.

    Args:
        model: in whatever mode; eval mode is used.
        x: (N, ...) examples.
        y: (N,) classes; by default the likeliest ones (of M1: the only one).
        chunk: examples of one forward pass.

    Raises:
        TypeError: if chunk is no integer.
        ValueError: if there are no examples, or labels do not fit.

    Reference:
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014).

    Example: the stack, with 20 labels of 200.
        >>> from recollect.generative import DenseM2, fit
        >>> x, y = torch.rand(200, 16), torch.arange(200) % 10
        >>> first = DenseM2(16, num_classes=1, latent_dim=4, width=32, pixels=True)
        >>> _ = fit(first, x, torch.zeros_like(y), epochs=1, batch_size=0, labelled_size=50)
        >>> mean, spread = posterior(first, x)
        >>> some = torch.where(torch.arange(200) < 20, y, -1)
        >>> second = DenseM2(4, width=32, latent_dim=2)
        >>> _ = fit(second, mean, some, spread=spread, epochs=1, alpha=1.0, beta=0.1)
        >>> second.classify(mean).shape
        torch.Size([200])
    """
    check_integer("chunk", chunk, minimum=1)
    if not len(x):
        raise ValueError("there are no examples: give at least one")
    parts = []
    with in_eval(model):
        for start in range(0, len(x), chunk):
            some = x[start : start + chunk]
            classes = model.classify(some) if y is None else y[start : start + chunk]
            q = model.q_z(some, classes)
            parts.append((q.mean, q.stddev))
    mean, spread = (torch.cat(column) for column in zip(*parts, strict=True))
    return mean, spread
