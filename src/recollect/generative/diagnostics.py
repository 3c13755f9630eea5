r"""What batch normalisation does to the likelihood of a decoder: it is no longer one.

With statistics of the batch, :math:`\log p(x_i \mid z_i, y_i)` also depends on the latents of the
other examples, so that the bound is not a sum over examples. These functions measure by how much.
All of them leave the model as it was; with a dropout layer in train mode they measure its noise as
well, and therefore refuse it.

Shape letters: n examples of a batch, L numbers of a latent, P parameters of the decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.generative.borders import check_labels
from recollect.generative.bounds import M2

__all__ = [
    "Dependence",
    "GradientCorrelation",
    "decoder_dependence",
    "decoder_jacobian",
    "gradient_correlation",
]


@dataclass(frozen=True)
class Dependence:
    """How much log p(x_0 | z_0, y_0) moves with the other examples of its batch.

    Attributes:
        train: standard deviation over batches in train mode, nats.
        eval: the same in eval mode, where running statistics are used: 0.
        batch_size: examples of a batch.
    """

    train: float
    eval: float
    batch_size: int


@dataclass(frozen=True)
class GradientCorrelation:
    """How the decoder's gradients of single examples hang together in a batch.

    Attributes:
        own: mean cosine of an example's gradient with the one that it has when another example
            is left out of its batch; 1 if and only if it depends on none of them.
        pairs: mean cosine of the gradients of two examples of a batch.
    """

    own: float
    pairs: float


def decoder_dependence(
    model: M2, x: Tensor, y: Tensor, batch_size: int = 64, n: int = 30, *, seed: int = 0
) -> Dependence:
    r"""Return how much the likelihood of one example depends on its batch.

    Example 0 keeps its latent :math:`z_0`, the posterior mean; n times, ``batch_size`` - 1 other
    examples with sampled latents are put beside it.

    Args:
        model: not changed.
        x: (N, ...) examples; the first is the one that is measured.
        y: (N,) their classes.
        batch_size: examples of a batch.
        n: batches.
        seed: of the batches and of their latents.

    Raises:
        ValueError: if a batch or their number is below 2, there are fewer examples than a
            batch, or dropout is part of the decoder.

    Example:
        >>> from recollect.generative import ConvM2
        >>> x, y = torch.rand(9, 1, 8, 8), torch.arange(9)
        >>> decoder_dependence(ConvM2(width=4), x, y, batch_size=4).train
        0.0
        >>> found = decoder_dependence(ConvM2(width=4, norm_decoder="batch"), x, y, batch_size=4)
        >>> found.train > 0.001, found.eval
        (True, 0.0)
    """
    check_integer("n", n, minimum=2)
    check_integer("batch_size", batch_size, minimum=2)
    if len(x) < batch_size:
        raise ValueError(f"a batch of {batch_size} needs as many examples, got {len(x)}")
    draws = torch.Generator().manual_seed(seed_of(seed, "batch-mates"))
    with _probe(model) as probe:
        q = probe.q_z(x, y)
        sets = []
        for _ in range(n):
            mates = 1 + torch.randperm(len(x) - 1, generator=draws)[: batch_size - 1]
            noise = torch.randn(batch_size, model.latent_dim, generator=draws)
            rows = torch.cat([torch.zeros(1, dtype=torch.int64), mates])
            z = q.mean[rows] + q.stddev[rows] * noise * (rows != 0)[:, None]
            sets.append((rows, z))
        spread = {}
        for mode in (True, False):
            probe.decoder.train(mode)
            said = [probe.p_x(z, y[rows]).log_prob(x[rows])[0] for rows, z in sets]
            spread[mode] = float(torch.stack(said).double().std())
    return Dependence(spread[True], spread[False], batch_size)


def decoder_jacobian(model: M2, x: Tensor, y: Tensor, z: Tensor | None = None) -> float:
    r"""Return how strongly an example's likelihood answers to the others' latents, relatively.

    .. math:: \frac{\mathrm{mean}_{j \ne i} \|\partial \log p(x_i | \cdot) / \partial z_j\|}
                   {\mathrm{mean}_i \|\partial \log p(x_i | \cdot) / \partial z_i\|}

    in train mode: 0 if and only if the examples are conditionally independent (to first order).

    Args:
        model: not changed.
        x: (n, ...) one batch.
        y: (n,) classes.
        z: (n, L) latents; by default the posterior means.

    Raises:
        ValueError: if there are fewer than 2 examples, or dropout is part of the decoder.

    Example:
        >>> from recollect.generative import ConvM2
        >>> x, y = torch.rand(5, 1, 8, 8), torch.arange(5)
        >>> decoder_jacobian(ConvM2(width=4), x, y) < 1e-12
        True
        >>> decoder_jacobian(ConvM2(width=4, norm_decoder="batch"), x, y) > 0.01
        True
    """
    rows = check_integer("the number of examples", len(x), minimum=2)
    with _probe(model) as probe, torch.enable_grad():
        at = (probe.q_z(x, y).mean if z is None else z).detach().double().requires_grad_()
        probe, x = probe.double(), x.double()
        probe.decoder.train()
        said = probe.p_x(at, y).log_prob(x)
        lengths = torch.stack(
            [torch.autograd.grad(one, at, retain_graph=True)[0].norm(dim=1) for one in said]
        )  # (i, j)
    own = lengths.diagonal().mean()
    others = (lengths.sum() - lengths.diagonal().sum()) / (rows * (rows - 1))
    return float(others / own)


def gradient_correlation(
    model: M2, x: Tensor, y: Tensor, batch_size: int = 16, *, seed: int = 0
) -> GradientCorrelation:
    r"""Return how the decoder's gradients :math:`g_i = \nabla_\theta \log p(x_i|\cdot)` correlate.

    Args:
        model: not changed.
        x: (N, ...) examples; the first ``batch_size`` are the batch.
        y: (N,) classes.
        batch_size: n.
        seed: of which one is left out.

    Raises:
        ValueError: if the batch is below 3, there are fewer examples than that, or dropout is
            part of the decoder.

    Example:
        >>> from recollect.generative import ConvM2
        >>> x, y = torch.rand(9, 1, 8, 8), torch.arange(9)
        >>> round(gradient_correlation(ConvM2(width=4), x, y, 8).own, 6)
        1.0
    """
    n = check_integer("batch_size", batch_size, minimum=3)
    if len(x) < n:
        raise ValueError(f"a batch of {n} needs as many examples, got {len(x)}")
    check_labels(y, len(x), model.num_classes)
    draws = torch.Generator().manual_seed(seed_of(seed, "left out"))
    shift = torch.randint(1, n, (n,), generator=draws).tolist()
    with _probe(model) as probe, torch.enable_grad():
        z = probe.q_z(x, y).mean.detach()
        probe.decoder.train()
        whole = _gradients(probe, x, y, z, list(range(n)), range(n))  # (n, P)
        own = []
        for i in range(n):
            rest = [j for j in range(n) if j != (i + shift[i]) % n]
            changed = _gradients(probe, x, y, z, rest, [rest.index(i)])[0]
            own.append(torch.cosine_similarity(whole[i], changed, dim=0))
    unit = whole / whole.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    pairs = (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))
    return GradientCorrelation(float(torch.stack(own).mean()), float(pairs))


def _gradients(
    model: M2, x: Tensor, y: Tensor, z: Tensor, rows: list[int], wanted: range | list[int]
) -> Tensor:
    """Return gradients of log p of some examples of a batch for the decoder: (wanted, P)."""
    parameters = list(model.decoder.parameters())
    said = model.p_x(z[rows], y[rows]).log_prob(x[rows])
    found = []
    for i in wanted:
        parts = torch.autograd.grad(said[i], parameters, retain_graph=True)
        found.append(torch.cat([p.flatten() for p in parts]).double())
    return torch.stack(found)


@contextmanager
def _probe(model: M2) -> Iterator[M2]:
    """A copy in eval mode: running statistics change in train mode, and must not in the model."""
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p for m in model.decoder.modules()):
        raise ValueError(
            "the decoder has dropout, whose noise would be taken for dependence; set its p to 0"
        )
    probe = copy.deepcopy(model).eval()
    with torch.no_grad():
        yield probe
