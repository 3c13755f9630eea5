"""Features that are copied: a simple number many times beside a complex one, and heads for them.

Shape letters: N examples, R copies, d features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of
from recollect.studies.pictures import digits, refit
from recollect.training import FRRHead, train_frr_linear

__all__ = ["LAMBDA", "accuracies", "copies", "crowded", "digit_copies", "frr_head"]

LAMBDA = 1.0
Halves = tuple[Tensor, Tensor]
Found = dict[str, dict[str, float]]


def copies(number: int, seed: int, *, steps: int = 1000) -> Found:
    """Return accuracies on R copies of a simple score beside one complex score.

    Both scores are the class +-1 times a magnitude in [1, 1.5]. Using both equally is right in
    three of four cases where the simple score is random; the copies alone in one of two.

    Args:
        number: R.
        seed: of the scores.
        steps: of each training.
    """
    draws = torch.Generator().manual_seed(seed_of(seed, "copies"))

    def scores(signs: Tensor) -> Tensor:
        return signs * (1 + 0.5 * torch.rand(len(signs), generator=draws))

    def drawn(count: int, random: bool) -> Halves:
        y = torch.randint(2, (count,), generator=draws)
        other = torch.randint(2, (count,), generator=draws) if random else y
        simple, complex_ = scores(2.0 * other - 1), scores(2.0 * y - 1)
        return torch.cat([simple[:, None].expand(-1, number), complex_[:, None]], 1), y

    train = drawn(1000, False)
    tests = {"none": drawn(2000, False), "simple": drawn(2000, True)}
    return _compared(train, tests, seed, steps, _VARIANTS)


def crowded(seed: int, *, steps: int = 400) -> Found:
    """Return accuracies where most of what varies says nothing of the class.

    20 noisy copies of a simple score, 5 of a complex one (the class +-1 and normal noise of 0.3)
    and 40 normal numbers.

    Args:
        seed: of the scores.
        steps: of each training.
    """
    draws = torch.Generator().manual_seed(seed_of(seed, "crowded"))
    normal = partial(torch.randn, generator=draws)

    def drawn(count: int, random: bool) -> Halves:
        y = torch.randint(2, (count,), generator=draws)
        other = torch.randint(2, (count,), generator=draws) if random else y
        simple = (2.0 * other - 1) * (1 + 0.5 * torch.rand(count, generator=draws))
        complex_ = 2.0 * y - 1 + 0.3 * normal(count)
        copied = [
            simple[:, None] + 0.1 * normal(count, 20),
            complex_[:, None] + 0.3 * normal(count, 5),
        ]
        return torch.cat([*copied, normal(count, 40)], 1), y

    train = drawn(1000, False)
    tests = {"none": drawn(2000, False), "simple": drawn(2000, True)}
    return _compared(train, tests, seed, steps, _CROWDED)


def digit_copies(number: int, seed: int, *, steps: int = 1000) -> Found:
    """Return accuracies on R copies of a strip beside a score read from a real digit.

    The class is whether the digit is 5 or more; the score is the tanh of a small network that was
    trained for it, the strip a bright or dark bar with noise.

    Args:
        number: R.
        seed: of splits, networks and noise.
        steps: of each training of a head.
    """
    x, y = digits()
    y = (y >= 5).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed_of(seed, "rows")))
    cut = 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "reader"))
        reader = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(reader.parameters(), 1e-2)
    target = 2.0 * y[order[:cut], None] - 1
    for _ in range(200):
        optimizer.zero_grad()
        loss = F.mse_loss(torch.tanh(reader(x[order[:cut]])), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        score = torch.tanh(reader(x))  # (N, 1)
    draws = torch.Generator().manual_seed(seed_of(seed, "strip"))

    def drawn(rows: Tensor, random: bool) -> Halves:
        label = y[rows]
        told = label[torch.randperm(len(rows), generator=draws)] if random else label
        strip = (2.0 * told - 1) * (1 + 0.5 * torch.rand(len(rows), generator=draws))
        return torch.cat([strip[:, None].expand(-1, number), score[rows]], 1), label

    train = drawn(order[:cut], False)
    tests = {"none": drawn(order[cut:], False), "simple": drawn(order[cut:], True)}
    return _compared(train, tests, seed, steps, _VARIANTS)


_VARIANTS: dict[str, dict[str, Any]] = {
    "FRR-L, l1": {"p": "1"},
    "FRR-L, l2": {"p": "2"},
    "FRR-L, l-inf, raw logits": {"centre_logits": False},
    "FRR-L, l-inf": {},
    "FRR-L, l-inf, 2 components, anew": {"components": 2, "restart": True},
    "the same, lambda = 0": {"components": 2, "restart": True, "lam": 0.0},
}


_CROWDED: dict[str, dict[str, Any]] = {
    "FRR-L, l-inf, anew": {"restart": True},
    "FRR-L, l-inf, anew, relevance 1": {"restart": True, "relevance": 1.0},
    "the same, lambda = 0": {"restart": True, "lam": 0.0},
}


def _compared(
    train: Halves,
    tests: dict[str, Halves],
    seed: int,
    steps: int,
    variants: dict[str, dict[str, Any]],
) -> Found:
    """Accuracies of an ordinary head and of FRR heads (lambda 1) on fixed features."""
    z, y = train
    linear = refit(z, y, seed, steps=steps // 2)
    found = {"ERM": accuracies(linear, tests)}
    for name, options in variants.items():
        head = frr_head(train, linear, seed, steps=steps, **{"lam": LAMBDA, **options})
        found[name] = accuracies(head, tests)
    return found


def frr_head(
    train: Halves,
    linear: nn.Linear,
    seed: int,
    *,
    lam: float,
    steps: int,
    restart: bool = False,
    **options: Any,
) -> FRRHead:
    """Return an FRR head for fixed features (N, d), which starts from an ordinary one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "head"))
        head = FRRHead(linear.in_features, linear.out_features, **options).start_from(linear)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a collapse shows in the table
        train_frr_linear(nn.Identity(), head, [train], lam, epochs=steps, restart=restart)
    return head.requires_grad_(False)


@torch.no_grad()
def accuracies(model: Callable[[Tensor], Tensor], tests: dict[str, Halves]) -> dict[str, float]:
    """Return the share of each test that a model tells right."""
    found = {}
    for name, (x, y) in tests.items():
        logits = torch.cat([model(part) for part in torch.split(x, 500)])
        found[name] = float((logits.argmax(1) == y).float().mean())
    return found
