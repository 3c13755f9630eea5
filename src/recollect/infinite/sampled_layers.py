"""Layers that need draws of more than a window: softmax attention, training batch normalisation.

Softmax attention at 1/sqrt(d): with infinitely many keys the scores of a head are Gaussian,
``E[G_ij(x) G_kl(x')] = c_qk^2 K_ik K_jl``, and do not freeze to their mean. One head's scores for
both inputs are drawn exactly as ``G = L Z L^T`` with ``L L^T`` the joint covariance of all
positions and Z standard normal, and averaged over many draws.

Shape letters: P positions, s draws, n inputs of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.infinite.sampling import by_pairs
from recollect.infinite.states import Cross, Kernel, Layer, Pair, Self, Style

__all__ = ["SoftmaxAttention", "sampled_batch_norm"]


@dataclass(frozen=True, kw_only=True)
class SoftmaxAttention(Layer):
    """Softmax self-attention with scores over the root of the key size, estimated by sampling.

    With ``z = softmax(G)``, J its derivative by the scores, c_ov = value_std * out_std and
    ``<A, B>`` the sum of products::

        K'_ik     = c_ov^2 E[z_i K z'_k] + b^2
        Theta'_ik = 2 (K'_ik - b^2) + b^2 + c_ov^2 E[z_i Theta z'_k] + c_ov^2 c_qk^2
                    E[(2 K_ik + Theta_ik) <J_i K J'_k, K> + K_ik <J_i K J'_k, Theta>]

    Args:
        query_std: deviation of the query weights, and so on.
        bias_std: of the output bias; None: none.
        samples: number of draws for each pair of inputs.
        seed: of the draws.

    Reference: Infinite attention (Hron, Bahri, Sohl-Dickstein, Novak, 2020).
    """

    query_std: float = 1.0
    key_std: float = 1.0
    value_std: float = 1.0
    out_std: float = 1.0
    bias_std: float | None = None
    samples: int = 1000
    seed: int = 0
    style: ClassVar[Style] = "affine"

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Positions stay."""
        if not places:
            raise ValueError("attention needs positions, got inputs of shape (batch, channels)")
        return places

    def needs_full(self, full: bool) -> bool:
        """The draws need all pairs of positions."""
        return True

    def keeps_full(self) -> bool:
        """The draws need each input's own covariance."""
        return True

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over draws, pair by pair."""
        out = by_pairs(k, pair, tuple(pair.a.var.shape[:-1]), self._moments)
        # Without a tangent kernel of the inputs, weights still have one of their own.
        if k.want_ntk and out.ntk is None:
            zero = k.each(k.nngp, torch.zeros_like(k.nngp))
            return self.cross(zero, pair)
        return out

    def _moments(
        self, joint: Tensor, theta: Tensor | None, places: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        count = joint.shape[-1] // 2
        z1, z2 = self._weights(joint)
        k = joint[:count, count:].double()
        b2 = 0.0 if self.bias_std is None else self.bias_std**2
        c_ov = (self.value_std * self.out_std) ** 2
        inner = c_ov * _between(z1, k, z2).mean(0)
        if theta is None:
            return inner + b2, None
        t = theta.double()
        c_qk = (self.query_std * self.key_std) ** 2
        # Scores over sqrt(d) are drawn with c_qk in them; their tangent kernel carries c_qk too.
        moved = (2 * k + t) * _bent(z1, k, k, z2) + k * _bent(z1, k, t, z2)
        ntk = 2 * inner + b2 + c_ov * (_between(z1, t, z2).mean(0) + c_qk * moved)
        return inner + b2, ntk

    def _weights(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Return softmax weights of both inputs, (s, P, P) each."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "infinite", "attention"))
        values, vectors = torch.linalg.eigh(joint.double())
        half = vectors * values.clamp_min(0).sqrt()
        size, count = len(half), len(half) // 2
        noise = torch.randn(
            self.samples // 2 + 1, size, size, generator=generator, dtype=torch.float64
        )
        noise = torch.cat([noise, -noise])[: self.samples].to(joint.device)
        scale = self.query_std * self.key_std
        sides = (half[:count], half[count:])
        one, two = (torch.softmax(scale * (h @ noise @ h.T), -1) for h in sides)
        return one, two

    def mean(self, state: Self) -> Tensor | None:
        """Weights have zero mean."""
        return None


def _between(z1: Tensor, k: Tensor, z2: Tensor) -> Tensor:
    """Return z_i K z'_k for all queries i, k, (s, P, P)."""
    return z1 @ k @ z2.mT


def _bent(z1: Tensor, k: Tensor, b: Tensor, z2: Tensor) -> Tensor:
    """Return E<J_i K J'_k, B> with ``J_i = diag(z_i) - z_i z_i^T``, (P, P)."""
    straight = z1 @ (k * b) @ z2.mT
    left = ((z1 @ k) * (z1 @ b)) @ z2.mT
    right = z1 @ ((k @ z2.mT) * (b @ z2.mT))
    return (straight - left - right + _between(z1, k, z2) * _between(z1, b, z2)).mean(0)


def sampled_batch_norm(
    kernel: Kernel,
    function: Callable[[Tensor], Tensor],
    *,
    samples: int = 10000,
    eps: float = 1e-5,
    seed: int = 0,
) -> tuple[Kernel, Kernel]:
    """Return the kernels after batch normalisation in training mode and a function, by sampling.

    A channel's values over the batch are ``z ~ N(0, K)``; with ``u = (z - mean) / deviation`` over
    the batch and J the derivative of ``f(u)`` by z, ``K' = E[f(u) f(u)^T]`` and
    ``Theta' = E[J Theta J^T]``. Every entry depends on the whole batch, so this is a function of
    the batch's kernel and not a layer of a twin, whose kernels are those of pairs.

    Args:
        kernel: of one batch with itself, (n, n), as ``twin.kernel(x)`` gives it.
        function: what follows, such as ``torch.relu``; applied to every number alone.
        samples: number of channels drawn.
        eps: added to the variance over the batch.
        seed: of the draws.

    Returns:
        The kernels, and their standard errors.

    Raises:
        ValueError: if there is no NNGP, or fewer than two inputs.

    Reference: A mean field theory of batch normalization (Yang and others, 2019).

    Example:
        >>> k, error = sampled_batch_norm(Kernel(torch.eye(4)), lambda u: u)
        >>> bool((k.nngp.diagonal() - 1).abs().max() < 5 * error.nngp.max())
        True
    """
    check_integer("samples", samples, minimum=2)
    k = kernel.nngp
    if k is None or k.ndim != 2 or k.shape[0] != k.shape[1] or len(k) < 2:
        raise ValueError(
            "batch normalisation needs the NNGP of one batch of two inputs or more with itself, "
            f"(n, n); got {None if k is None else tuple(k.shape)}"
        )
    generator = torch.Generator().manual_seed(seed_of(seed, "infinite", "batch norm"))
    values, vectors = torch.linalg.eigh(0.5 * (k + k.T).double())
    half = vectors * values.clamp_min(0).sqrt()
    noise = torch.randn(samples, len(k), generator=generator, dtype=torch.float64).to(k.device)

    sums = [torch.zeros_like(half) for _ in range(4)]
    for part in torch.split(noise @ half.T, 1000):
        f, slopes = _normed(part, function, eps)
        draws = [f[:, :, None] * f[:, None, :]]
        if kernel.ntk is not None:
            draws.append(slopes @ kernel.ntk.double() @ slopes.mT)
        for i, draw in enumerate(draws):
            sums[2 * i] += draw.sum(0)
            sums[2 * i + 1] += draw.square().sum(0)
    means, errors = {}, {}
    for name, total, squares in zip(("nngp", "ntk"), sums[::2], sums[1::2], strict=True):
        if getattr(kernel, name) is not None:
            mean = total / samples
            spread = (squares / samples - mean.square()).clamp_min(0)
            means[name] = mean.to(k.dtype)
            errors[name] = (spread / (samples - 1)).sqrt().to(k.dtype)
    return Kernel(**means), Kernel(**errors)


def _normed(z: Tensor, function: Callable[[Tensor], Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Return f(u), (s, n), and J = diag(f'(u)) (I - 1/n - u u^T / n) / deviation, (s, n, n)."""
    centred = z - z.mean(1, keepdim=True)
    deviation = (centred.square().mean(1, keepdim=True) + eps).sqrt()
    u = (centred / deviation).detach().requires_grad_()
    with torch.enable_grad():
        f = function(u)
        (slope,) = torch.autograd.grad(f.sum(), u)
    f, u, count = f.detach(), u.detach(), z.shape[1]
    middle = torch.eye(count, dtype=z.dtype, device=z.device) - 1 / count
    inner = middle - u[:, :, None] * u[:, None, :] / count
    return f, (slope / deviation)[:, :, None] * inner
