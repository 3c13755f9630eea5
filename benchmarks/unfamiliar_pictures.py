"""Does an infinite ensemble know what it does not know?

    python -m benchmarks.unfamiliar_pictures --data FOLDER [--train 1000] [--finite 0]

Trained on MNIST digits, judged on held-out digits and on Fashion-MNIST clothes: AUROC of telling
them apart by the deviation of the prediction (bar: 0.8), coverage of 90 % intervals and rank
correlation of deviation with error on the digits. The same for real networks trained side by
side with ``--finite 20``. The folder holds ``mnist/mnist.npz`` and ``fashion_mnist/*.npz``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recollect import infinite

BAR = 0.8


def pictures(folder: str, train: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return digits to learn from with labels, held-out digits with labels, and clothes."""
    digits = np.load(Path(folder) / "mnist" / "mnist.npz")
    clothes = np.load(Path(folder) / "fashion_mnist" / "fashion900.npz")
    draws = np.random.default_rng(0)
    rows, held = draws.permutation(60_000)[:train], draws.permutation(10_000)[:900]

    def tensor(x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.reshape(len(x), -1).astype(np.float64) / 255)

    x, xt, other = (
        tensor(v) for v in (digits["x_train"][rows], digits["x_test"][held], clothes["x"])
    )
    mean = x.mean(0)
    y, yt = (
        torch.from_numpy(digits[k][r].astype(np.int64))
        for k, r in (("y_train", rows), ("y_test", held))
    )
    return x - mean, y, xt - mean, yt, other - mean


def row(name: str, mean: Tensor, std: Tensor, other: Tensor, target: Tensor) -> float:
    """Print one line of the table, return the AUROC."""
    found = infinite.unfamiliarity(std, other)
    error = (mean - target).square().mean(1).sqrt()
    right = float((mean.argmax(1) == target.argmax(1)).double().mean())
    print(
        f"{name:28s} {found:6.3f} {infinite.interval_coverage(mean, std, target):9.3f} "
        f"{infinite.rank_correlation(std, error):9.3f} {100 * right:9.1f}"
    )
    return found


def network(width: int) -> nn.Module:
    """Return a network of two hidden layers."""
    body = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(width, 10))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print the table; return AUROC by ensemble."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--finite", type=int, default=0, help="real networks to train beside")
    given = parser.parse_args(arguments)
    x, y, xt, yt, other = pictures(given.data, given.train)
    target = nn.functional.one_hot(y, 10).double() - 0.1
    truth = nn.functional.one_hot(yt, 10).double() - 0.1
    std = {"weight_std": 2**0.5, "bias_std": 0.1}
    twin = infinite.twin(network(8), **std)
    fit = infinite.ensemble(twin, x, target, regularization=1e-3)
    print(f"{'ensemble':28s}  AUROC  coverage  rank cor.  accuracy %")
    found = {}
    for kernel in ("ntk", "nngp", "ntkgp"):
        get = ("mean", "variance")
        known = fit.predict(xt, get=get, kernel=kernel)
        strange = fit.predict(other, get="variance", kernel=kernel)
        found[kernel] = row(f"infinite, {kernel}", known.mean, known.std, strange.std, truth)
    if given.finite:
        many = infinite.FiniteEnsemble(lambda: network(256), given.finite, **std)
        rate = infinite.max_learning_rate(twin.kernel(x, get="ntk").ntk, target.numel()) / 4
        many.train(x.float(), target.float(), [200 * rate], learning_rate=rate)
        known, strange = many.predict(xt.float()), many.predict(other.float())
        spread = known.var(0).mean(1).sqrt(), strange.var(0).mean(1).sqrt()
        found["finite"] = row(
            f"{given.finite} networks of width 256", known.mean(0), *spread, truth.float()
        )
    return found


if __name__ == "__main__":
    main()
