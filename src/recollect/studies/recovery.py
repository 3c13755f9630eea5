"""Network recovery: hidden modular networks, learned from inputs and sketches alone.

Sixteen hidden modules each compute 16 rectified features of the same input, of which the two
largest are kept; four modules fire on every input, chosen by the network. The learner sees pairs
of input and flat block-sparse sketch, nothing else. It reads the columns and their names from
the sketches, solves for the attributes, and fits every feature's weights where it is not zero.

Then networks of two levels, whose recursive sketches have operators that are unknown and carry no
names: sources, modules and edges are found by ``recover_wiring``.

Shape letters: S pairs, n numbers of an input, P modules, m features, K = P m, d of a sketch.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._answers import Answer
from recollect.sketching import Sketcher
from recollect.sketching.dictionary import BlockSparse, read_signatures
from recollect.sketching.wiring import Wiring, recover_wiring
from recollect.studies.hidden import HiddenNetwork
from recollect.tracing import Trace

__all__ = ["study"]

INPUTS, FIRING, KEPT, NOISE = 24, 4, 2, 0.01
PAIRS, DIM = 4000, 256
COLUMNS = (
    "network", "pairs", "columns named", "attribute error", "weight cosine", "modules found",
    "edge precision", "edge recall", "edge F1", "doubts", "seconds",
)  # fmt: skip


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how much of the hidden networks is recovered from how many pairs.

    Args:
        quick: fewer sizes, and one network of two levels instead of five.
        data: not used.
    """
    rows = [_flat(pairs) for pairs in ((500, 2000) if quick else (500, 1000, 2000, 4000))]
    rows += [_two_levels(seed) for seed in range(1 if quick else 5)]
    return Answer(
        {name: [row.get(name) for row in rows] for name in COLUMNS},
        title="hidden networks of 16 modules, learned from inputs and sketches",
        notes=[
            f"flat: block-sparse sketches of 1022 numbers, {NOISE:.0%} noise; {FIRING} of 16 "
            f"modules fire, {KEPT} of 16 features each; named: the true column of the same module "
            "and place, cosine above 0.95",
            f"two levels: int8 energy sketches of {DIM} numbers, operators unknown; four "
            "composers read twelve leaves along 16 edges; named: a source that equals one true "
            "attribute (cosine above 0.98); edges up to the names of modules",
            "signs of features cannot be known; weights are compared up to them",
        ],
    )


def _flat(pairs: int) -> dict[str, Any]:
    """Learn a network of one level, whose sketches carry names."""
    maps = BlockSparse(modules=16, size=16, dim=1022, q=0.1)
    true = maps.matrix()
    generator = torch.Generator().manual_seed(pairs)
    weights = torch.randn(16, 16, INPUTS, generator=generator, dtype=torch.float64)
    u = torch.randn(pairs, INPUTS, generator=generator, dtype=torch.float64)
    x = _attributes(u, weights, generator)
    s = x @ true.T
    level = NOISE * s.norm(dim=1, keepdim=True) / s.shape[1] ** 0.5
    s = s + level * torch.randn(s.shape, generator=generator, dtype=torch.float64)
    start = time.perf_counter()
    found = read_signatures(s, maps)
    read = torch.linalg.lstsq(found.columns[:, found.found], s.T).solution.T
    fitted = _fit_features(u, read)
    seconds = time.perf_counter() - start
    # The sign of a column, hence of its feature, cannot be known from sketches.
    sign = torch.sign((true * found.columns).sum(0))[found.found]
    cosine = torch.zeros(len(true.T), dtype=torch.float64)
    flat = weights.view(-1, INPUTS)
    own = torch.nn.functional.cosine_similarity(flat[found.found], fitted, dim=1)
    cosine[found.found] = own.abs()
    same = (true * found.columns).sum(0).abs() / true.norm(dim=0).clamp_min(1e-12) / (
        found.columns.norm(dim=0).clamp_min(1e-12)
    )  # fmt: skip
    return {
        "network": "flat",
        "pairs": pairs,
        "columns named": float((same > 0.95).double().mean()),
        "attribute error": float((read * sign - x[:, found.found]).norm() / x.norm()),
        "weight cosine": float(cosine.view(16, -1).mean(1).mean()),
        "seconds": seconds,
    }


def _two_levels(seed: int) -> dict[str, Any]:
    """Learn a network of two levels from recursive sketches of unknown operators."""
    network = HiddenNetwork(seed)
    u = np.random.default_rng([seed, 3]).standard_normal((PAIRS, network.inputs))
    trace = network.trace(u)
    sketcher = Sketcher(dim=DIM, seed=seed)
    sketches = sketcher.encode(trace)
    start = time.perf_counter()
    wiring = recover_wiring(sketches.values, seed=seed)
    read = wiring.sources
    fitted = _fit_features(torch.from_numpy(u), read)
    seconds = time.perf_counter() - start
    paths, true = _by_path(trace)
    near = _cosines(true, read)
    names = _matched(wiring, trace)
    got = {(names[e.parent], names[e.child]) for e in wiring.edges}
    hits = len(got & network.edges)
    best, which = near.max(1)
    error = (_scaled_to(read[:, which], true) - true)[:, best > 0.98]
    weights = network.leaf_weights()
    cosine = [
        abs(float(torch.nn.functional.cosine_similarity(fitted[which[i]], weights[k, j], dim=0)))
        for i, (module, k, j) in enumerate(paths)
        if module == "leaf"
    ]
    return {
        "network": f"two levels, seed {seed}",
        "pairs": PAIRS,
        "columns named": float((best > 0.98).double().mean()),
        "attribute error": float(error.norm() / true[:, best > 0.98].norm()),
        "weight cosine": float(np.mean(cosine)),
        "modules found": sum(n is not None for n in names),
        "edge precision": hits / max(len(got), 1),
        "edge recall": hits / len(network.edges),
        "edge F1": 2 * hits / (len(got) + len(network.edges)),
        "doubts": len(wiring.doubts),
        "seconds": seconds,
    }


def _by_path(trace: Trace) -> tuple[list[tuple[str, int, int]], Tensor]:
    """Return (kind, number, place) and the (S, K) true attributes of every path's numbers."""
    table: dict[tuple[str, ...], Tensor] = {}
    for name, c in trace.columns.items():
        for row, path in enumerate(trace.paths(c.glance, c.rank)):
            if path not in table:
                table[path] = torch.zeros(len(trace), c.size, dtype=torch.float64)
            table[path][c.glance[row]] += c.attributes[row]
        assert name
    said, parts = [], []
    for path in sorted(table):
        kind, number = path[-1].split("/")
        said += [(kind, int(number), j) for j in range(table[path].shape[1])]
        parts.append(table[path])
    return said, torch.cat(parts, 1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the absolute cosines of all columns of a with all of b."""
    found: Tensor = (a / a.norm(dim=0).clamp_min(1e-12)).T @ (b / b.norm(dim=0).clamp_min(1e-12))
    return found.abs()


def _scaled_to(read: Tensor, true: Tensor) -> Tensor:
    """Return sources in the size of the attributes they stand for."""
    factor = (read * true).sum(0) / read.square().sum(0).clamp_min(1e-12)
    scaled: Tensor = read * factor
    return scaled


def _matched(wiring: Wiring, trace: Trace) -> list[str | None]:
    """Return the true module whose firing each found module has, None where there is none."""
    modules = sorted(trace.columns)
    fires = torch.stack(
        [torch.from_numpy(np.bincount(trace.columns[k].glance, minlength=len(trace)) > 0)
         for k in modules], 1
    )  # fmt: skip
    found: list[str | None] = []
    for column in wiring.counts.T:
        same = ((column > 0)[:, None] == fires).to(torch.float64).mean(0)
        best = int(same.argmax())
        found.append(modules[best] if float(same[best]) > 0.99 else None)
    return found


def _attributes(u: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return what the hidden network computes: (S, K), sparse."""
    features = torch.einsum("sn,pmn->spm", u, weights).clamp_min(0)
    least = features.topk(KEPT, dim=2).values[:, :, -1:]
    features = torch.where(features >= least, features, 0.0)
    chosen = torch.rand(features.shape[:2], generator=generator).argsort(1) < FIRING
    return (features * chosen[:, :, None]).flatten(1)


def _fit_features(u: Tensor, read: Tensor) -> Tensor:
    """Return the weights of each feature, fitted where it is clearly not zero: (K, n)."""
    fitted = torch.zeros(read.shape[1], u.shape[1], dtype=torch.float64)
    for k in range(read.shape[1]):
        active = read[:, k].abs() > 0.1 * read[:, k].abs().max()
        if int(active.sum()) >= u.shape[1]:
            fitted[k] = torch.linalg.lstsq(u[active], read[active, k, None]).solution[:, 0]
    return fitted


def draw(answer: Answer, path: str) -> None:
    """Draw what was recovered of flat networks over pairs, and of each of two levels.

    Raises:
        ImportError: if matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(answer)
    flat = [r for r in rows if r["network"] == "flat"]
    deep = [r for r in rows if r["network"] != "flat"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2), layout="constrained")
    for name, colour in (("columns named", "#e08e0b"), ("weight cosine", "#1b6ca8")):
        pairs = [r["pairs"] for r in flat]
        left.plot(pairs, [r[name] for r in flat], "o-", label=name, color=colour)
    left.set(xlabel="pairs of input and sketch", title="one level", ylim=(0.4, 1.02))
    left.legend(frameon=False)
    place = np.arange(len(deep))
    for shift, name, colour in ((-0.2, "edge precision", "#e08e0b"), (0.2, "edge F1", "#1b6ca8")):
        right.bar(place + shift, [r[name] for r in deep], 0.38, label=name, color=colour)
    right.axhline(0.9, color="grey", lw=0.8)
    right.set(xlabel="network (seed)", title="two levels, operators unknown", ylim=(0, 1.25))
    right.set_xticks(place, [str(i) for i in place])
    right.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
