"""What do LocoProp, relative clipping and scale-invariant attention cost per step?

LocoProp on the deep autoencoder 784-1000-500-250-30 and back, batch 1000, beside RMSProp and the
second-order optimisers that are installed: time of a step (mean of five: curvatures are refreshed
every five steps) and peak memory of two steps, each in a process of its own.
The scale-invariant encoder in training mode beside nn.TransformerEncoder of the same size. The
clip of RelativeClipSGD as a share of a whole training step.

    python -m benchmarks.training_costs [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.tables import show
from recollect.studies.second_order import rivals
from recollect.training import (
    InvariantConfig,
    LocoProp,
    MaskedLanguageModel,
    RelativeClipSGD,
    ScaleInvariantEncoder,
    split_parameters,
)

WIDTHS = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
METHODS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "RMSProp": lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-4, momentum=0.9),
    "LocoProp-M": lambda m: LocoProp(m, lr=1e-4, loss_activation="sigmoid"),
    "LocoProp-M, K = 5": lambda m: LocoProp(m, 1e-4, local_steps=5, loss_activation="sigmoid"),
    "LocoProp-M, tenths": lambda m: LocoProp(m, 1e-4, local_share=0.1, loss_activation="sigmoid"),
    "LocoProp-S": lambda m: LocoProp(m, lr=1e-4, variant="S"),
    **rivals(),
    **rivals(refresh=1),
}
STEPS = 5


def autoencoder() -> nn.Sequential:
    """Tanh everywhere but at the code and at the end."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(pairwise(WIDTHS)):
        layers.append(nn.Linear(a, b))
        if number not in (3, 7):
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


def stepper(name: str, rows: int) -> Callable[[], Tensor]:
    """One step of a method on a fixed batch."""
    torch.manual_seed(0)
    model, x = autoencoder(), torch.rand(rows, WIDTHS[0])
    optimizer = METHODS[name](model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), x, reduction="none").sum(1).mean()
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def several(step: Callable[[], object]) -> Callable[[], None]:
    """All steps from one refreshed curvature to the next."""

    def run() -> None:
        for _ in range(STEPS):
            step()

    return run


def seconds(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor times of all in turn, so that a busy machine is unfair to nobody."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            found[name].append(time.process_time() - start)
    return found


def peak_in_process(name: str, rows: int) -> None:
    """Print the peak of allocated tensors over model, batch and two steps, in MB.

    Counted from the allocator's events: resident memory also holds the code of libraries.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step = stepper(name, rows)
        for _ in range(2):
            step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted(
        (e["ts"], i, e["args"]["Bytes"])
        for i, e in enumerate(events)
        if e.get("name") == "[memory]"
    )
    print(max(accumulate(change for *_, change in changes)) / 2**20)


def peak(name: str, rows: int) -> float:
    """Peak memory of a method, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training_costs", "--peak", name]
    command += ["--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def locoprop(rows: int, rounds: int) -> None:
    steps = {name: several(stepper(name, rows)) for name in METHODS}
    least = {name: min(t) / STEPS for name, t in seconds(steps, rounds).items()}
    peaks = {name: peak(name, rows) for name in METHODS}
    show(
        f"LocoProp, K = 10, batch {rows}, {torch.get_num_threads()} thread",
        ("method", "ms a step", "RMSProp steps", "peak MB", "of RMSProp"),
        [
            (name, f"{1e3 * least[name]:.0f}", f"{least[name] / least['RMSProp']:.2f}",
             f"{peaks[name]:.0f}", f"{peaks[name] / peaks['RMSProp']:.2f}")
            for name in METHODS
        ],
    )  # fmt: skip


def encoders(rounds: int) -> None:
    rows = []
    for length in (128, 512):
        x = torch.randn(4096 // length // 4, length, 256)
        sizes = {"d_model": 256, "nhead": 4, "dim_feedforward": 1024, "dropout": 0.1}
        layer = nn.TransformerEncoderLayer(**sizes, batch_first=True, norm_first=True)
        models = {
            "nn.TransformerEncoder": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            "scale invariant": ScaleInvariantEncoder(2, **sizes),
        }
        steps = {
            name: lambda m=model, x=x: m.train()(x).square().sum().backward()
            for name, model in models.items()
        }
        least = {name: min(t) for name, t in seconds(steps, rounds).items()}
        ours, theirs = least["scale invariant"], least["nn.TransformerEncoder"]
        rows.append((length, f"{1e3 * theirs:.0f}", f"{1e3 * ours:.0f}", f"{theirs / ours:.2f}"))
    show(
        "Forward and backward in training mode, d = 256, 4 heads, 2 layers, 1024 tokens",
        ("tokens", "torch ms", "ours ms", "throughput"),
        rows,
    )


def clipping(rounds: int) -> None:
    sizes = InvariantConfig(2000, 256, 4, 4, 1024, 128)
    model = MaskedLanguageModel(sizes)
    ids = torch.randint(2000, (8, 128))
    labels = torch.where(torch.rand(8, 128) < 0.15, ids, -100)
    before, head = split_parameters(model)
    pair = {
        clip: RelativeClipSGD(
            [{"params": before}, {"params": head, "scope": "none"}], 1e-6, 1e-2, clip=clip
        )
        for clip in (2.0, None)
    }

    def whole() -> None:
        model.zero_grad()
        model(ids, labels=labels).backward()

    found = seconds({"pass": whole, "clipped": pair[2.0].step, "plain": pair[None].step}, rounds)
    least = {name: min(t) for name, t in found.items()}
    extra = least["clipped"] - least["plain"]
    show(
        "Clipping, d = 256, 4 layers, 8 x 128 tokens",
        ("pass ms", "SGD step ms", "clip ms", "share of a training step"),
        [(f"{1e3 * least['pass']:.0f}", f"{1e3 * least['plain']:.2f}", f"{1e3 * extra:.2f}",
          f"{extra / (least['pass'] + least['plain']):.2%}")],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("clipping", "encoders", "locoprop"))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        peak_in_process(given.peak, given.rows)
        return
    rounds = 3 if given.quick else 10
    if given.only in (None, "clipping"):
        clipping(rounds)
    if given.only in (None, "encoders"):
        encoders(rounds)
    if given.only in (None, "locoprop"):
        locoprop(given.rows, 1 if given.quick else 6)


if __name__ == "__main__":
    main()
