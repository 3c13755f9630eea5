"""Do informed epochs of a memory reach PCA on the usual, and stay safe on what is unlike it?

MobileNetV2: the channel means of all convolution and sum outputs, 18,849 numbers in 63 modules.
A memory looks at 222 pets, fits a prior to its records and begins an informed epoch; then it
looks at 74 other pets and at 59 street pictures, which the prior has never seen. A second memory
sees the same without a new epoch. Everything is read from the stored sketches (no record), with
the prior that the epoch stands on; R2 is that of the median module. Bars: within 0.01 of PCA of
the prior's glances at equal bytes on pets, at most 0.02 below the oblivious sketches on streets.
The same sketches of streets are read once more with a later prior of 175 other street pictures.

    python -m benchmarks.informed_epochs --data FOLDER [--seeds 3] [--only pets|cifar]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import networks, pictures
from benchmarks.static_network import cifar_batches, module_r2, scaled, watch
from benchmarks.tables import show
from recollect import Memory, Prior, Sketcher, Trace, recall
from recollect.recall.reading import Decoder

DIMS = (256, 1024)
HOUR = 3_600_000_000
START = 1_767_225_600_000_000
WITHIN, BELOW = 0.01, 0.02


def fill(folder: Path, dim: int, usual: Trace, later: Trace, informed: bool) -> Memory:
    """A memory that saw the usual, fitted a prior, and then saw the rest an hour each hundred."""
    memory = Memory(folder, Sketcher(dim=dim), reservoir=len(usual))
    memory.add(usual, START + np.arange(len(usual)) * HOUR // 100, ids=range(len(usual)))
    memory.fit_prior()
    if informed:
        memory.new_epoch()
    first = len(usual)
    times = START + 24 * HOUR + np.arange(len(later)) * HOUR // 100
    memory.add(later, times, ids=range(first, first + len(later)))
    return memory


def read(memory: Memory, ids: Iterable[int], prior: Prior | None = None) -> tuple[Tensor, Tensor]:
    """Scaled attributes as the sketches tell them, and their deviations."""
    sketches = memory.sketches(ids=ids)
    decoder = Decoder(memory, prior or memory.prior(), "")
    found = decoder.decode(sketches)
    return scaled(found.trace(), memory.sketcher), scaled(found.deviations(), memory.sketcher)


def pca(memory: Memory, usual: Trace, judged: Trace, kept: int) -> Tensor:
    """PCA of the prior's glances in the same scaling, one component to a byte, not rounded."""
    known, true = scaled(usual, memory.sketcher), scaled(judged, memory.sketcher)
    mean = known.mean(0)
    basis = torch.linalg.svd(known - mean, full_matrices=False).Vh[: min(len(known) - 1, kept)]
    return mean + (true - mean) @ basis.T @ basis


def median_r2(memory: Memory, judged: Trace, found: Tensor) -> float:
    """R2 of the median module."""
    sizes = [judged.columns[n].size for n in sorted(judged.columns)]
    return statistics.median(module_r2(scaled(judged, memory.sketcher), found, sizes))


def inside(memory: Memory, judged: Trace, found: tuple[Tensor, Tensor]) -> float:
    """Share of numbers within their 90 % interval."""
    error = (scaled(judged, memory.sketcher) - found[0]).abs()
    return float((error <= 1.645 * found[1]).float().mean())


def nearest(memory: Memory, everything: Trace, asked: range) -> float:
    """Share of the ten most similar glances of both epochs that are truly among them."""
    x = scaled(everything, memory.sketcher)
    x = x / x.norm(dim=1, keepdim=True)
    hits = []
    for i in asked:
        cosine = x @ x[i]
        cosine[i] = -2
        true = set(cosine.topk(10).indices.tolist())
        hits.append(len(true & set(recall.similar(memory, everything[i], k=11)["glance"])) / 10)
    return float(np.mean(hits))


def one(dim: int, usual: Trace, same: Trace, unlike: Trace | None, known: Trace | None) -> dict:
    """Measure one pair of memories."""
    found: dict[str, float] = {}
    first, last = len(usual), len(usual) + len(same)
    later = same if unlike is None else Trace.concat([same, unlike])
    with tempfile.TemporaryDirectory(prefix="recollect-epochs-") as folder:
        path = Path(folder)
        with (
            fill(path / "new", dim, usual, later, informed=True) as memory,
            fill(path / "old", dim, usual, later, informed=False) as plain,
        ):
            assert recall.count(memory)["estimate"] == [len(usual) + len(later)]
            ours = read(memory, range(first, last))
            found["informed"] = median_r2(memory, same, ours[0])
            found["covered"] = inside(memory, same, ours)
            found["oblivious"] = median_r2(plain, same, read(plain, range(first, last))[0])
            found["PCA"] = median_r2(memory, same, pca(memory, usual, same, dim))
            everything = Trace.concat([usual, later])
            asked = range(first, last, 4)
            found["similar"] = nearest(memory, everything, asked)
            found["similar, oblivious"] = nearest(plain, everything, asked)
            found["directions, MB"] = memory.info()["bytes_by_part"]["epochs"] / 1e6
            if unlike is not None and known is not None:
                ids = range(last, last + len(unlike))
                ours = read(memory, ids)
                found["unlike, informed"] = median_r2(memory, unlike, ours[0])
                found["unlike, covered"] = inside(memory, unlike, ours)
                found["unlike, oblivious"] = median_r2(plain, unlike, read(plain, ids)[0])
                prior = Prior.fit(known)
                for name, m in (("informed", memory), ("oblivious", plain)):
                    late = read(m, ids, prior)[0]
                    found[f"unlike, later prior, {name}"] = median_r2(m, unlike, late)
    return found


def told(values: list[float]) -> str:
    """Mean and deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def split(t: Trace, sizes: tuple[int, ...], seed: int) -> list[Trace]:
    """Disjoint random parts."""
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(seed)).numpy()
    cuts = np.cumsum([0, *sizes])
    return [t[order[a:b]] for a, b in pairwise(cuts.tolist())]


def verdict(better: list[float], worse: list[float], most: float) -> str:
    """Whether the mean difference is within a bar."""
    gap = statistics.mean(b - w for b, w in zip(better, worse, strict=True))
    return f"{gap:+.4f} (bar {most}: {'yes' if gap <= most else 'NO'})"


def rows_of(name: str, runs: list[dict[str, float]]) -> list[tuple[Any, ...]]:
    """Lines of the table."""
    column = {key: [run[key] for run in runs] for key in runs[0]}
    rows = [
        (f"{name}: the usual", told(column["informed"]), told(column["oblivious"]),
         told(column["PCA"]), verdict(column["PCA"], column["informed"], WITHIN),
         told(column["covered"])),
        (f"{name}: ten most similar, of both epochs", told(column["similar"]),
         told(column["similar, oblivious"]), "", "", ""),
    ]  # fmt: skip
    if "unlike, informed" in column:
        ours, plain = column["unlike, informed"], column["unlike, oblivious"]
        late = [told(column[f"unlike, later prior, {m}"]) for m in ("informed", "oblivious")]
        rows += [
            (f"{name}: streets, unlike the prior", told(ours), told(plain), "",
             verdict(plain, ours, BELOW), told(column["unlike, covered"])),
            (f"{name}: the same sketches, later prior", *late, "", "", ""),
        ]  # fmt: skip
    return rows


def _pets(model: torch.nn.Module, preprocess: Any, options: argparse.Namespace) -> list[Any]:
    """Pets in the prior, pets and streets judged."""
    seen = {
        name: watch(model, (b for b, _ in some.batches(preprocess, 32)))
        for name, some in (
            ("pets", pictures.load("pets", options.data)),
            ("streets", pictures.load("street_stream", options.data)),
        )
    }
    rows: list[tuple[Any, ...]] = []
    for dim in DIMS:
        runs = []
        for seed in range(options.seeds):
            usual, same = split(seen["pets"], (222, 74), seed)
            known, unlike = split(seen["streets"], (175, 59), seed)
            runs.append(one(dim, usual, same, unlike, known))
        rows += rows_of(f"222 pets, {dim} bytes", runs)
        print(dim, "directions", runs[0]["directions, MB"], "MB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with weights/, scenes/, cifar10/")
    parser.add_argument("--seeds", type=int, default=3, help="random splits")
    parser.add_argument("--only", choices=("pets", "cifar"), help="one of the two")
    options = parser.parse_args()
    model, preprocess = networks.mobilenet_v2(options.data)
    rows: list[tuple[Any, ...]] = []
    if options.only != "cifar":
        rows += _pets(model, preprocess, options)
    if options.only != "pets":
        batches = cifar_batches(options.data, preprocess)
        cifar = watch(model, (b for b, _ in zip(batches, range(30), strict=False)))
        runs = [one(256, *split(cifar, (1000, 500), s), None, None) for s in range(options.seeds)]
        rows += rows_of("1,000 CIFAR-10, 256 bytes", runs)
    show(
        f"Informed epochs of a memory, MobileNetV2, {options.seeds} splits",
        ("prior, judged", "informed epoch", "oblivious", "PCA", "behind", "90 % hold"),
        rows,
    )


if __name__ == "__main__":
    main()
