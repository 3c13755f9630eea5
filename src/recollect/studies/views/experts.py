"""Mixture of experts: a small one reads digits; which expert was asked is kept.

A glance is a picture in four quarters; each quarter goes to two of six experts. Pictures are alike
if they show the same digit.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.studies.pictures import digits
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, raw_vectors, score
from recollect.tracing import capture, trace

__all__ = ["Mixture", "Reader", "measure", "train"]


class Mixture(nn.Module):
    """Experts of which a router asks two for each token, weights of sum one.

    Args:
        width: numbers of a token.
        experts: how many.
        top_k: how many are asked.

    Example:
        >>> Mixture(8, 4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, experts: int, top_k: int = 2) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) of tokens (..., width)."""
        tokens = x.flatten(0, -2)
        chance = self.gate(tokens).softmax(1)
        weight, index = chance.topk(self.top_k, 1)
        weight = weight / weight.sum(1, keepdim=True)
        out = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            row, place = torch.where(index == e)
            if len(row):
                out = out.index_add(0, row, weight[row, place, None] * expert(tokens[row]))
        # Kept for training: experts that share the work learn different things.
        self.uneven = len(self.experts) * (chance.mean(0) * _share(index, chance)).sum()
        return out.view(x.shape)


def _share(index: Tensor, chance: Tensor) -> Tensor:
    return F.one_hot(index[:, 0], chance.shape[1]).to(chance).mean(0)


class Reader(nn.Module):
    """Reads an 8 x 8 picture by its four quarters.

    Args:
        width: numbers of a token.
        experts: how many.

    Example:
        >>> Reader()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: int = 24, experts: int = 6) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.place = nn.Parameter(0.1 * torch.randn(4, width))
        self.mixture = Mixture(width, experts)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (B, 10) of pictures (B, 1, 8, 8)."""
        quarters = F.unfold(x, 4, stride=4).transpose(1, 2)  # (B, 4, 16)
        h = F.relu(self.stem(quarters)) + self.place
        scores: Tensor = self.head((h + self.mixture(h)).flatten(1))
        return scores


def train(x: Tensor, y: Tensor, epochs: int, seed: int) -> Reader:
    """Train a reader on pictures (n, 1, 8, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Reader()
        adam = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 64):
                loss = F.cross_entropy(model(x[rows]), y[rows]) + 0.02 * model.mixture.uneven
                adam.zero_grad()
                loss.backward()
                adam.step()
    return model.eval()


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Measure the experts' view: see ``ViewRow``."""
    x, y = digits(seed)
    model = train(x[:900], y[:900], 12 if quick else 40, seed)
    with torch.no_grad():
        right = float((model(x[900:]).argmax(1) == y[900:]).float().mean())
    # What is usual comes from pictures never seen: of those it learned a network is too sure.
    past = trace(model, x[900:1200], view="experts")
    seen = slice(1200, 1500 if quick else 1797)
    now = trace(model, x[seen], view="experts")
    cost = overhead_of(model, x[:300], lambda: capture(model, view="experts"))
    cheap = overhead_of(model, x[:300], lambda: capture(model, view="experts", attribute="input"))
    return score(
        "experts", past, now, [Likeness(y[seen].numpy(), raw_vectors(now))], dim=128, seed=seed,
        overhead=cost,
        notes=f"two of six experts for each quarter of a digit, {right:.0%} read right; alike: "
        f"the same digit; experts are asked again: with attribute='input' overhead is {cheap:.2f}",
    )  # fmt: skip
