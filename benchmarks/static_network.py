"""How well does one kilobyte remember a whole static network, and does hindsight help?

MobileNetV2: the channel means of all convolution and sum outputs, 18,849 numbers in 63 modules.
Sketches of 1 KB (int8) are made once, with scales frozen on the first glances; they are then
decoded with priors of growing size. R2 is judged per module on glances outside the prior; the
rival is full-rank PCA of the same prior glances in the same module scaling (one int8 component
per byte would allow as many components as the sketch has numbers).

    python -m benchmarks.static_network --data FOLDER [--picture docs/hindsight.svg]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import networks, pictures
from benchmarks.tables import show
from recollect import Prior, Sketcher, Trace, trace
from recollect.sketching import Sketches

PETS_PRIOR = 222
CIFAR_PRIORS = (250, 1000, 2500)
BARS = {("pets", 222, 1024): 0.87, ("CIFAR-10", 250, 1024): 0.905,
        ("CIFAR-10", 1000, 1024): 0.952, ("CIFAR-10", 2500, 1024): 0.966,
        ("CIFAR-10", 1000, 256): 0.90}  # fmt: skip


def watch(model: torch.nn.Module, batches: Any) -> Trace:
    """Trace all convolution and sum outputs."""
    wanted = [n for n, _ in model.named_modules() if n.startswith(("conv", "add"))]
    return Trace.concat([trace(model, batch, modules=wanted) for batch in batches])


def cifar_batches(folder: str, preprocess: Any, size: int = 50) -> Any:
    """The 3,000 exact pictures, enlarged for MobileNetV2."""
    stored = np.load(networks.data_folder(folder) / "cifar10/cifar10_lossless_3000.npz")["x"]
    for first in range(0, len(stored), size):
        images = [Image.fromarray(x) for x in stored[first : first + size]]
        yield torch.stack([preprocess(image) for image in images])


def scaled(t: Trace, sketcher: Sketcher) -> Tensor:
    """All attributes side by side, each module in its frozen scale."""
    names = sorted(t.columns)
    return torch.cat([t.columns[n].attributes / sketcher.modules[n].scale for n in names], 1)


def module_r2(true: Tensor, read: Tensor, sizes: list[int]) -> list[float]:
    """1 - squared error over squared deviation, per module."""
    r2, start = [], 0
    for size in sizes:
        x, y = true[:, start : start + size], read[:, start : start + size]
        start += size
        r2.append(1 - float((x - y).square().sum() / (x - x.mean(0)).square().sum()))
    return r2


def judge(
    judged: Trace, sketches: Sketches, fit: Trace, sketcher: Sketcher, kept: int
) -> tuple[list[float], list[float], float, float]:
    """R2 per module of the sketch and of PCA, coverage of 90 % intervals, seconds to decode."""
    sizes = [judged.columns[n].size for n in sorted(judged.columns)]
    start = time.perf_counter()
    recollection = sketcher.decode(sketches.prefix(kept), prior=Prior.fit(fit))
    read, std = scaled(recollection.trace(), sketcher), scaled(recollection.deviations(), sketcher)
    seconds = time.perf_counter() - start
    true, prior = scaled(judged, sketcher), scaled(fit, sketcher)
    centred = prior - prior.mean(0)
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    basis = basis[: min(len(prior) - 1, kept)]
    pca = prior.mean(0) + (true - prior.mean(0)) @ basis.T @ basis
    inside = float(((true - read).abs() <= 1.645 * std).float().mean())
    return module_r2(true, read, sizes), module_r2(true, pca, sizes), inside, seconds


def rows_for(
    name: str, everything: Trace, priors: tuple[int, ...], judged: int, prefixes: tuple[int, ...]
) -> list[tuple[Any, ...]]:
    """One row per prior size and prefix; the stored sketches are the same in all."""
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).numpy()
    test = everything[order[-judged:]]
    sketcher = Sketcher(dim=1024)
    sketcher.admit(everything[order[: priors[0]]], measure_scales=True)
    sketches = sketcher.encode(test)
    rows = []
    for size in priors:
        fit = everything[order[:size]]
        for kept in prefixes:
            ours, pca, inside, seconds = judge(test, sketches, fit, sketcher, kept)
            median = statistics.median(ours)
            bar = BARS.get((name, size, kept))
            reached = "-" if bar is None else ("yes" if median >= bar else "NO")
            rows.append(
                (f"{name}, {size} in the prior, {kept} bytes", f"{median:.4f}",
                 f"{min(ours):.3f}", f"{statistics.median(pca):.4f}", f"{inside:.3f}",
                 "-" if bar is None else bar, reached, f"{seconds:.1f}")
            )  # fmt: skip
    return rows


def draw(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Draw the hindsight curve: the same stored sketches, read with more and more known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    points = [r for r in rows if r[0].startswith("CIFAR")]
    for kept, colour in ((1024, "#1b6ca8"), (256, "#e08e0b")):
        some = [r for r in points if r[0].endswith(f"{kept} bytes")]
        sizes = [int(r[0].split(", ")[1].split()[0]) for r in some]
        axes.plot(sizes, [float(r[1]) for r in some], "o-", color=colour, label=f"{kept} bytes")
        if kept == 1024:
            axes.plot(
                sizes, [float(r[3]) for r in some], "--", color="grey", label="PCA of the prior"
            )
    axes.set(xscale="log", xlabel="glances in the prior", ylabel="R² of the median module",
             title="The same stored sketches, read better as more is known")  # fmt: skip
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder with weights/, scenes/ and cifar10/")
    parser.add_argument("--picture", type=Path, default=None, help="draw the hindsight curve here")
    options = parser.parse_args()
    try:
        model, preprocess = networks.mobilenet_v2(options.data)
    except FileNotFoundError as error:
        print(f"SKIPPED: {error}")
        return
    pets = watch(
        model, (b for b, _ in pictures.load("pets", options.data).batches(preprocess, 37))
    )
    rows = rows_for("pets", pets, (PETS_PRIOR,), 74, (1024, 512, 256))
    cifar = watch(model, cifar_batches(options.data, preprocess))
    rows += rows_for("CIFAR-10", cifar, CIFAR_PRIORS, 500, (1024, 256))
    show(
        "MobileNetV2, 18,849 numbers a glance from one int8 sketch",
        ("case", "median module R2", "worst", "PCA median", "90 % covers", "bar", "reached", "s"),
        rows,
    )
    if options.picture:
        draw(options.picture, rows)


if __name__ == "__main__":
    main()
