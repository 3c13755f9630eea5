"""Does one kilobyte name the strongest kernels of every convolution?

ResNet-56 on CIFAR-10 (exact pictures): every kernel of every convolution is a module, its object
carries strength and where it fired. From a sketch of 1 KB, decoded with a joint prior, the ten
strongest kernels of each convolution are named and compared with the true ten; the same without
any sketch, from the prior's mean alone, stands beside it.

    python -m benchmarks.kernels --data FOLDER
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks import networks, pictures
from benchmarks.tables import show
from recollect import Prior, Sketcher, Trace, trace

STRONGEST, ENOUGH = 10, 8


def named(true: Trace, read: Trace) -> np.ndarray:
    """How many of the ten strongest are named, on average over convolutions, (glances,)."""
    shares = []
    for name, column in true.columns.items():
        kernels = len(column.members)
        found = [
            t.columns[name].attributes[:, 0].reshape(len(true), kernels).argsort(1)[:, -STRONGEST:]
            for t in (true, read)
        ]
        same = (found[0][:, :, None] == found[1][:, None, :]).any(2).sum(1)
        shares.append(same.numpy())
    return np.mean(shares, axis=0)


def usual(fit: Trace, like: Trace) -> Trace:
    """The prior's mean in place of every glance."""
    columns = {}
    for name, c in fit.columns.items():
        mean = c.attributes.reshape(len(fit), -1).mean(0)
        shown = mean.expand(len(like), -1).reshape(-1, c.size)
        columns[name] = {"attributes": shown, "members": c.members}
    return Trace.from_columns(columns, num_glances=len(like))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder with weights/ and cifar10/")
    parser.add_argument("--prior", type=int, default=800)
    parser.add_argument("--judged", type=int, default=200)
    options = parser.parse_args()
    try:
        model, _ = networks.resnet56(options.data)
        images, _ = pictures.cifar10_exact(options.data)
    except FileNotFoundError as error:
        print(f"SKIPPED: {error}")
        return
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = images[order[: options.prior + options.judged]]
    everything = Trace.concat([trace(model, part, view="kernels") for part in chosen.split(50)])
    fit, judged = everything[: options.prior], everything[options.prior :]
    sketcher = Sketcher(dim=1024)
    sketcher.admit(fit[:100], measure_scales=True)
    sketches, prior = sketcher.encode(judged), Prior.fit(fit)
    rows = []
    for what, read in (
        ("1,024 bytes", sketcher.decode(sketches, prior=prior).trace()),
        ("first 256 bytes", sketcher.decode(sketches.prefix(256), prior=prior).trace()),
        ("no sketch, the prior's mean", usual(fit, judged)),
    ):
        count = named(judged, read)
        rows.append((what, f"{count.mean():.2f}", f"{(count >= ENOUGH).mean():.0%}"))
    show(
        f"ResNet-56, {len(everything.modules):,} kernels in {len(everything.columns)} "
        f"convolutions, {options.prior} glances in the prior (bar: 8 of 10 for 90 % of glances)",
        ("read from", "of the 10 strongest", f"glances with at least {ENOUGH}"),
        rows,
    )


if __name__ == "__main__":
    main()
