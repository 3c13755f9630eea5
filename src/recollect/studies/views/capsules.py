"""Capsules: a small network with dynamic routing reads digits; who was routed where is kept.

A glance holds the digit capsules that are longer than a half, made from the primary capsules that
were routed to them. Pictures are alike if they show the same digit.

Shape letters: B glances, I primary capsules, J digit capsules, d and D numbers of their poses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.studies.pictures import digits
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, raw_vectors, score
from recollect.tracing import capture, trace

__all__ = ["OPTIONS", "CapsuleNetwork", "DigitCapsules", "PrimaryCapsules", "measure", "train"]

OPTIONS: dict[str, Any] = {"top": 3, "least": 0.5, "parts": 4}
USUAL = 300


def squash(s: Tensor) -> Tensor:
    """Shrink vectors to a length below one, direction kept: |s|^2 / (1 + |s|^2) s / |s|.

    Example:
        >>> squash(torch.tensor([[3.0, 4.0]])).norm().item()
        0.96...
    """
    square = s.square().sum(-1, keepdim=True)
    return square / (1 + square) * s / (square + 1e-9).sqrt()


class PrimaryCapsules(nn.Module):
    """A convolution whose channels are poses.

    Args:
        channels: that come in.
        kinds: of capsules.
        size: numbers of a pose (d).
        kernel: of the convolution.
        stride: of the convolution.
    """

    def __init__(self, channels: int, kinds: int, size: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(channels, kinds * size, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return poses (B, I, d) of maps (B, C, h, w)."""
        maps = self.convolution(x).unflatten(1, (-1, self.size))  # (B, kinds, d, h, w)
        return squash(maps.movedim(2, -1).flatten(1, 3))


class DigitCapsules(nn.Module):
    """Dynamic routing by agreement (Sabour, Frosst and Hinton, 2017).

    Votes ``u_ji = W_ij u_i``; then ``c_i = softmax_j(b_i)``, ``v_j = squash(sum_i c_ij u_ji)`` and
    ``b_ij += u_ji v_j``, three times.

    Args:
        below: capsules below (I).
        size: numbers of their poses (d).
        capsules: of this layer (J).
        out: numbers of their poses (D).
        rounds: of routing.
    """

    def __init__(self, below: int, size: int, capsules: int, out: int, rounds: int = 3) -> None:
        super().__init__()
        self.rounds = rounds
        self.weight = nn.Parameter(0.1 * torch.randn(below, capsules, out, size))

    def forward(self, u: Tensor) -> Tensor:
        """Return poses (B, J, D) of poses (B, I, d)."""
        votes = torch.einsum("ijod,bid->bijo", self.weight, u)  # (B, I, J, D)
        agreement = votes.new_zeros(votes.shape[:3])
        for last in reversed(range(self.rounds)):
            share = agreement.softmax(2)
            v = squash((share[..., None] * votes).sum(1))
            if last:
                agreement = agreement + (votes.detach() * v[:, None]).sum(3)
        return v


class CapsuleNetwork(nn.Module):
    """A convolution, primary capsules and digit capsules.

    Args:
        side: of the pictures in pixels, 8 or 28.

    Example:
        >>> CapsuleNetwork(8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        large = side > 8
        self.edges = nn.Conv2d(1, 24, 5 if large else 3, 2 if large else 1)
        self.primary = PrimaryCapsules(24, 4, 8, 5 if large else 3, 2 if large else 1)
        with torch.no_grad():
            below = self.primary(self.edges(torch.zeros(1, 1, side, side))).shape[1]
        self.digits = DigitCapsules(below, 8, 10, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the lengths (B, 10) of the digit capsules."""
        lengths: Tensor = self.digits(self.primary(F.relu(self.edges(x)))).norm(dim=2)
        return lengths


def train(x: Tensor, y: Tensor, epochs: int, seed: int) -> CapsuleNetwork:
    """Train a capsule network with the margin loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CapsuleNetwork(x.shape[-1])
        adam = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 50):
                length = model(x[rows])
                there = F.one_hot(y[rows], 10)
                loss = there * (0.9 - length).clamp_min(0).square()
                loss = loss + 0.5 * (1 - there) * (length - 0.1).clamp_min(0).square()
                adam.zero_grad()
                loss.sum(1).mean().backward()
                adam.step()
    return model.eval()


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Measure the capsules' view: see ``ViewRow``."""
    known, held = (600, 300) if quick else (900, 500)
    x, y = digits(seed) if data is None else _mnist(data, known + held + USUAL, seed)
    source = "scikit-learn's digits" if data is None else "MNIST"
    model = train(x[:known], y[:known], 6 if quick else 15, seed)
    seen = slice(known, known + held)
    with torch.no_grad():
        right = float((model(x[seen]).argmax(1) == y[seen]).float().mean())
    # What is usual comes from pictures never seen: of those it learned a network is too sure.
    usual = slice(known + held, known + held + USUAL)
    past = trace(model, x[usual], view="capsules", **OPTIONS)
    now = trace(model, x[seen], view="capsules", **OPTIONS)
    cost = overhead_of(model, x[:200], lambda: capture(model, view="capsules", **OPTIONS))
    return score(
        "capsules", past, now, [Likeness(y[seen].numpy(), raw_vectors(now))], dim=64, seed=seed,
        overhead=cost,
        notes=f"dynamic routing, {source}, {right:.0%} read right; alike: the same digit; "
        "counts: digit capsules longer than 0.5, and their parts",
    )  # fmt: skip


def _mnist(data: Path, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return some of MNIST: (count, 1, 28, 28) from 0 to 1, and (count,).

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    path = data / "mnist" / "mnist.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; leave --data out for scikit-learn's digits")
    with np.load(path) as file:
        pictures, labels = file["x_train"], file["y_train"]
    rows = np.random.default_rng(seed).permutation(len(labels))[:count]
    x = torch.from_numpy(pictures[rows].astype(np.float32) / 255)[:, None]
    return x, torch.from_numpy(labels[rows].astype(np.int64))
