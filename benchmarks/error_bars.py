"""Do 90 % intervals hold 90 % of the time, and are counts right from the sketch alone?

Scenes of 2 to 12 handwritten digits, read by a small network: one module per digit, 32 hidden
numbers per object. Which digits appear depends on the hour, so that roll-ups are windows unlike
the whole. Judged on glances outside the prior: counts of one glance from its sketch alone,
attributes, counts and mean attributes of roll-ups (one per quarter of an hour).

Without ``--data``: scikit-learn's digits that the network was not trained on; the same digits
come back in the prior and in the judged glances, each time turned, moved and dimmed afresh.
With ``--data``: MNIST, where no digit is used twice.

    python -m benchmarks.error_bars [--data FOLDER] [--glances 2400]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from benchmarks.pictures import mnist
from benchmarks.tables import show
from recollect import Prior, Sketcher, Trace

HOURS = 12
WINDOWS = 48
PRIOR_GLANCES = 1000


class Scenes:
    """Scenes of digits whose frequencies depend on the hour, as a small network sees them."""

    def __init__(self, folder: str | None) -> None:
        self.fresh = folder is not None
        if folder is not None:
            x, y = mnist(folder, "train")
            x, y = torch.nn.functional.avg_pool2d(x, 2)[:, 0].numpy(), y.numpy()
        else:
            x, y = load_digits(return_X_y=True)
            x = x.reshape(-1, 8, 8) / 16
        # They come class by class, or writer by writer: in a random order all parts are alike.
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
        trained = 6000 if self.fresh else 600
        self.network = MLPClassifier((64, 32), max_iter=60, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network.fit(x[:trained].reshape(trained, -1), y[:trained])
        self.pictures, self.kind = x[trained:], y[trained:]
        self.used = np.zeros(len(self.kind), dtype=bool)

    def trace(self, hours: np.ndarray, seed: int) -> Trace:
        """One glance per hour given."""
        rng = np.random.default_rng(seed)
        picked, glance = [], []
        for g, hour in enumerate(hours):
            number = int(rng.integers(2, 13))
            liking = np.exp(1.2 * np.cos(2 * np.pi * (hour / HOURS - np.arange(10) / 10)))
            share = liking[self.kind] * ~self.used
            chosen = rng.choice(len(share), number, replace=False, p=share / share.sum())
            self.used[chosen] = self.fresh
            picked.append(chosen)
            glance.append(np.full(number, g))
        pictures = self.pictures[np.concatenate(picked)]
        if not self.fresh:
            pictures = np.stack([afresh(p, rng) for p in pictures])
        hidden = pictures.reshape(len(pictures), -1)
        read, where = self.network.predict(hidden), np.concatenate(glance)
        layers = zip(self.network.coefs_[:-1], self.network.intercepts_[:-1], strict=True)
        for weight, bias in layers:
            hidden = np.maximum(hidden @ weight + bias, 0)
        attributes = torch.from_numpy(hidden.astype(np.float32))
        return Trace.from_columns(
            {
                f"digit/{d}": {"attributes": attributes[read == d], "glance": where[read == d]}
                for d in range(10)
            },
            num_glances=len(hours),
        )


def afresh(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture turned by up to 10 degrees, moved by up to half a pixel, and dimmed."""
    turned = ndimage.rotate(picture, rng.uniform(-10, 10), reshape=False, order=1)
    moved = ndimage.shift(turned, rng.uniform(-0.5, 0.5, 2), order=1)
    return moved * rng.uniform(0.8, 1.0)


def inside(error: np.ndarray, std: np.ndarray) -> float:
    """Share of the errors within the 90 % interval."""
    return float((np.abs(error) <= 1.6449 * std).mean())


def judge(fit: Trace, truth: Trace, windows: np.ndarray, dim: int) -> tuple[str, ...]:
    """One row of the table."""
    sketcher = Sketcher(dim=dim)
    sketcher.admit(fit, measure_scales=True)
    prior, sketches = Prior.fit(fit), sketcher.encode(truth)
    r = sketcher.decode(sketches, prior=prior)
    names, estimate, std = r.count_estimates()
    counts = np.stack(
        [np.bincount(truth.objects(n).glance, minlength=len(truth)) for n in names], axis=1
    )
    within, wrong, spread, bars = [], 0.0, 0.0, []
    for name in names:
        true, read = truth.objects(name).attributes, r.objects(name)
        error = (read.attributes - true).numpy()
        within.append(np.abs(error) <= 1.6449 * read.std.numpy())  # type: ignore[union-attr]
        wrong += float((error**2).sum())
        spread += float(((true - true.mean(0)) ** 2).sum())
    for window in range(WINDOWS):
        rows = np.flatnonzero(windows == window)
        rolled = sketcher.decode(sketches[rows].sum(), prior=prior)
        _, total, total_std = rolled.count_estimates()
        part = truth[rows]
        for j, name in enumerate(names):
            objects = part.objects(name).attributes if name in part.modules else torch.zeros(0, 32)
            bars.append(("counts", total[0, j] - len(objects), total_std[0, j]))
            if len(objects) >= 5:
                mean, mean_std = rolled.means(name, counts=[len(objects)])
                error = (mean[0] - objects.mean(0)).numpy()
                bars.extend(
                    ("means", e, s) for e, s in zip(error, mean_std[0].numpy(), strict=True)
                )
    shares = [
        inside(np.array([e for k, e, _ in bars if k == kind]),
               np.array([s for k, _, s in bars if k == kind]))
        for kind in ("counts", "means")
    ]  # fmt: skip
    exact = np.round(estimate) == counts
    return (
        f"{dim} bytes", f"{exact.all(1).mean():.1%}", f"{exact.mean():.2%}",
        f"{1 - wrong / spread:.3f}", f"{inside(estimate - counts, std):.1%}",
        f"{np.concatenate(within).mean():.1%}", f"{shares[0]:.1%}", f"{shares[1]:.1%}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder with mnist/; without it: digits")
    parser.add_argument("--glances", type=int, default=2400)
    options = parser.parse_args()
    scenes = Scenes(options.data)
    fit = scenes.trace(np.arange(PRIOR_GLANCES) % HOURS, 1)
    windows = np.arange(options.glances) % WINDOWS
    truth = scenes.trace(windows * HOURS / WINDOWS, 2)
    name = "MNIST" if options.data else "Digit"
    show(
        f"{name} scenes of 2 to 12 objects: exact counts, and what 90 % intervals cover "
        "(bar: 87 to 93 %)",
        ("sketch", "all ten counts exact", "single counts", "R2", "counts", "attributes",
         "roll-up counts", "roll-up means"),
        [judge(fit, truth, windows, dim) for dim in (64, 128, 256, 512, 1024)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
