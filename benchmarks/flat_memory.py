"""Does watching keep its memory? RSS while 20,000 glances are watched into a Memory.

    python -m benchmarks.flat_memory [--data ../shared/data] [--glances 20000]

With ``--data``: ResNet-20 looks at the CIFAR-10 pictures, decoded as they are needed. Without: a
small convolutional network at random weights looks at drawn pictures. RSS is sampled after every
batch; the first tenth warms up (libraries, the reservoir filling), then it must stay within 50 MB.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks, pictures
from benchmarks.tables import Report
from recollect import Memory

BAR = 50.0
START = datetime(2026, 1, 1, tzinfo=UTC)


def rss() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def small_network() -> nn.Module:
    """Four convolutions at random weights."""
    widths = [3, 16, 32, 64, 64]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def drawn(number: int, size: int) -> Iterator[Tensor]:
    """Batches of random pictures."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, number, size):
        yield torch.randn(min(size, number - first), 3, 32, 32, generator=generator)


def photographs(data: Path, number: int, size: int) -> Iterator[Tensor]:
    """Batches of CIFAR-10 pictures."""
    preprocess = networks.resnet20(data)[1]
    stored = pictures.load("cifar10", data).subset(range(number))
    return (x for x, _ in stored.batches(preprocess, size))


def watched(
    memory: Memory, batches: Iterator[Tensor], size: int, samples: list[tuple[int, float]]
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Hand on batches with their times, a minute apart, and sample RSS between them."""
    for k, x in enumerate(batches):
        first = START + timedelta(minutes=k * size)
        yield x, {"time": [first + timedelta(minutes=i) for i in range(len(x))]}
        gc.collect() if k % 50 == 0 else None
        samples.append((len(memory), rss()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with weights/ and cifar10/")
    parser.add_argument("--glances", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path, help="where the memory and the table go")
    given = parser.parse_args()
    torch.manual_seed(0)
    out = given.out or Path(tempfile.mkdtemp(prefix="flat_memory_"))
    if given.data:
        data = networks.data_folder(given.data)
        name, net = "ResNet-20, CIFAR-10", networks.resnet20(data)[0]
        batches = photographs(data, given.glances, given.batch)
    else:
        name, net, batches = "small network", small_network(), drawn(given.glances, given.batch)
    samples = [(0, rss())]
    start = time.perf_counter()
    with Memory(out / "flat") as memory:
        modules = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        memory.watch(net, watched(memory, batches, given.batch, samples), modules=modules)
        samples.append((len(memory), rss()))
    seconds = time.perf_counter() - start
    show(name, samples, seconds, rss(), out)


def show(
    name: str, samples: list[tuple[int, float]], seconds: float, closed: float, out: Path
) -> None:
    """Print RSS at tenths of the way and the growth after the first."""
    total = samples[-1][0]
    report = Report("Flat memory")
    rows = []
    for tenth in range(11):
        here = min(samples, key=lambda s: abs(s[0] - tenth * total / 10))
        rows.append([f"{here[0]:,}", f"{here[1]:.0f}"])
    rows.append(["after closing", f"{closed:.0f}"])
    report.table(f"RSS while watching {total:,} glances ({name})", ["glances", "MB"], rows)
    settled = [mb for n, mb in samples if n >= total / 10]
    grown, fallen = max(settled) - settled[0], settled[0] - min(settled)
    met = "met" if max(grown, fallen) <= BAR else "MISSED"
    report.note(
        f"From the first tenth on: start {settled[0]:.0f} MB, end {settled[-1]:.0f} MB, at most "
        f"{grown:+.0f} MB, at least {-fallen:+.0f} MB; bar ±{BAR:.0f} MB: {met}. "
        f"{total / seconds:.0f} glances a second."
    )
    report.write(out / "flat_memory.md")


if __name__ == "__main__":
    main()
