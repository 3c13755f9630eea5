"""What does watching cost? Plain forward beside forward + capture + encode (+ append).

    python -m benchmarks.watching_costs_little --data ../shared/data

Interleaved runs; medians of the ratio to the plain run of the same round, of wall time and, in
brackets, of the processor time of all threads (steadier on a machine that does other work). The
last row needs no data: a ViT-S with random weights (timm).
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import networks
from recollect import Memory, Sketcher, Trace, capture

Step = Callable[[Trace], object]
_KEPT: list[torch.library.Library] = []


def clocks() -> tuple[float, float]:
    """Wall and processor time in seconds."""
    return time.perf_counter(), time.process_time()


def measure(
    model: nn.Module, x: Tensor, steps: dict[str, Step], seconds: float, **watch: object
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Return the plain forward in ms, and name -> (wall, processor) ratio to it.

    A step gets the trace of the batch.
    """

    def plain() -> None:
        model(x)

    def watched(step: Step) -> Callable[[], None]:
        def run() -> None:
            model(x)
            step(c.trace())

        return run

    taken: dict[str, list[tuple[float, float]]] = {"plain": [], **{name: [] for name in steps}}
    order = random.Random(0)
    with torch.no_grad():
        end = time.perf_counter() + seconds
        for round_ in itertools.count():
            # In a new order each round: what ran before leaves its mark on caches and allocator.
            for name in order.sample(sorted(taken), len(taken)):
                hooks = nullcontext() if name == "plain" else capture(model, **watch)
                with hooks as c:
                    run = plain if name == "plain" else watched(steps[name])
                    start = clocks()
                    run()
                    stop = clocks()
                if round_ > 1:  # two rounds warm up
                    taken[name].append((stop[0] - start[0], stop[1] - start[1]))
            if round_ > 6 and time.perf_counter() > end:
                break
    base = taken.pop("plain")

    def ratio(runs: list[tuple[float, float]], clock: int) -> float:
        return statistics.median(r[clock] / b[clock] for r, b in zip(runs, base, strict=True))

    ratios = {name: (ratio(runs, 0), ratio(runs, 1)) for name, runs in taken.items()}
    return 1e3 * statistics.median(b[0] for b in base), ratios


def vit_small() -> nn.Module:
    """A ViT-S of timm with random weights."""
    let_torchvision_be_imported()
    import timm

    return timm.create_model("vit_small_patch16_224", pretrained=False).eval()


def let_torchvision_be_imported() -> None:
    """Define the operators whose absence stops ``import torchvision`` beside a CPU torch."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


def cases(folder: Path | None) -> dict[str, tuple[nn.Module, Tensor, dict[str, object]]]:
    """Return name -> (network, batch, what is watched)."""
    found: dict[str, tuple[nn.Module, Tensor, dict[str, object]]] = {}
    if folder is not None:
        watched = {"modules": ["conv*", "add*"]}
        mobile = networks.mobilenet_v2(folder)[0]
        found["MobileNetV2, 63 outputs, batch 16"] = (
            mobile,
            torch.randn(16, 3, 224, 224),
            watched,
        )
        resnet = networks.resnet56(folder)[0]
        layers = {"modules": nn.Conv2d}
        found["ResNet-56, 55 convolutions, batch 16"] = (
            resnet,
            torch.randn(16, 3, 32, 32),
            layers,
        )
        found["ResNet-56, kernels, batch 16"] = (
            resnet,
            torch.randn(16, 3, 32, 32),
            {"view": "kernels"},
        )
    else:
        print("NO DATA: without --data FOLDER the trained networks are left out", file=sys.stderr)
    found["ViT-S, 15 blocks, batch 16"] = (vit_small(), torch.randn(16, 3, 224, 224), {})
    return found


@contextmanager
def remembering(folder: Path) -> Iterator[Step]:
    """A memory's ``add`` (encodes and appends; acknowledged when it returns)."""
    seconds = itertools.count()
    with Memory(folder / "watched.recollect", sketcher=Sketcher(dim=1024)) as memory:

        def append(seen: Trace) -> None:
            start = datetime(2026, 1, 1, tzinfo=UTC)
            memory.add(seen, [start + timedelta(seconds=next(seconds)) for _ in range(len(seen))])

        yield append


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with weights/ and scenes/")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(f"{given.threads} threads, torch {torch.__version__}")
    print(f"{'':40}{'plain':>10}{'+ capture':>20}{'+ encode':>20}{'+ append':>20}")
    for name, (model, x, watch) in cases(given.data).items():
        sketcher = Sketcher(dim=1024)
        with tempfile.TemporaryDirectory() as folder, remembering(Path(folder)) as append:
            steps = {"capture": lambda t: t, "encode": sketcher.encode, "append": append}
            plain, ratios = measure(model, x, steps, given.seconds, **watch)
        cells = [f"{100 * (w - 1):.1f} % ({100 * (p - 1):.1f} %)" for w, p in ratios.values()]
        print(f"{name:40}{plain:>7.1f} ms" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
