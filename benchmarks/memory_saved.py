"""How much memory is saved, with everything on disk counted?

MobileNetV2 looks at the 3,000 exact CIFAR-10 pictures; all convolution and sum outputs are
sketched to 1 KB (int8). A memory of 200,000 glances is filled with these and with mixtures of
pairs of them (their attributes, not their sketches), so that reservoir, priors and roll-ups are
what they are in use. Two priors are fitted, as after a year with one renewal. Printed is what
``recollect info`` says, beside the float16 bytes of the channel means that are sketched and of
every activation that the network computes.

    python -m benchmarks.memory_saved --data FOLDER [--glances 200000]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from benchmarks import networks
from benchmarks.static_network import cifar_batches, watch
from benchmarks.tables import show
from recollect import Memory, Sketcher, Trace
from recollect.app.watching import activations_of

BATCH = 256
START, YEAR = 1_767_225_600_000_000, 365 * 24 * 3_600_000_000


def mixtures(seen: Trace, rng: np.random.Generator, count: int) -> Trace:
    """Glances between two that were seen."""
    rows = torch.from_numpy(rng.integers(0, len(seen), (2, count)))
    share = torch.from_numpy(rng.random((count, 1)).astype(np.float32))
    return Trace.from_columns(
        {
            name: share * c.attributes[rows[0]] + (1 - share) * c.attributes[rows[1]]
            for name, c in seen.columns.items()
        }
    )


def fill(memory: Memory, seen: Trace, glances: int) -> None:
    """Add glances over a year, in time order."""
    rng = np.random.default_rng(0)
    when = START + np.sort(rng.integers(0, YEAR, glances))
    for first in track(range(0, glances, BATCH), description="adding"):
        times = when[first : first + BATCH]
        rows = slice(first, first + len(times))
        part = seen[rows] if rows.stop <= len(seen) else mixtures(seen, rng, len(times))
        memory.add(part, times, source="camera")
        if first <= glances // 2 < first + BATCH:
            memory.fit_prior()
    memory.fit_prior()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with weights/ and cifar10/")
    parser.add_argument("--glances", type=int, default=200_000)
    options = parser.parse_args()
    model, preprocess = networks.mobilenet_v2(options.data)
    activations = activations_of(model, next(cifar_batches(options.data, preprocess, 1)))
    seen = watch(model, cifar_batches(options.data, preprocess))
    with tempfile.TemporaryDirectory(prefix="recollect-saved-") as folder:
        path = Path(folder) / "year.recollect"
        with Memory(path, sketcher=Sketcher(dim=1024)) as memory:
            fill(memory, seen, options.glances)
        with Memory(path, read_only=True) as memory:
            info = memory.info()
    each = info["bytes_per_glance"]
    attributes, everything = 2 * int(info["numbers_per_glance"]), 2 * activations
    parts, numbers = info["bytes_by_part"], int(info["numbers_per_glance"])
    show(
        f"{info['glances']:,} glances of MobileNetV2, sketches of 1 KB",
        ("kept", "bytes a glance", "is this many times the memory"),
        [
            ("Recollect, everything on disk", f"{each:,.0f}", "1"),
            *((f"  {name}", f"{size / info['glances']:,.1f}", "") for name, size in parts.items()),
            (f"(a) {numbers:,} channel means in float16", f"{attributes:,}",
             f"{attributes / each:.1f} (bar 20)"),
            (f"(b) all {activations:,} activations in float16", f"{everything:,}",
             f"{everything / each:,.0f} (bar 8,000)"),
            ("reservoir and priors together, MB",
             f"{(parts['reservoir'] + parts['priors']) / 1e6:.1f}", "budget 64 MB"),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
