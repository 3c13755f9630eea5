"""Network recovery: hidden modular networks, learned from inputs and sketches alone, then run.

Sixteen hidden modules each compute 16 rectified features of the same input, of which the two
largest are kept; the four of highest gates fire. The learner sees pairs of input and flat
block-sparse sketch, nothing else. It reads the columns and their names from the sketches, solves
for the attributes, and fits every feature's weights where it is not zero, and the gates.

Then networks of two levels, whose recursive sketches have operators that are unknown and carry no
names: sources, modules and edges are found by ``recover_wiring``, gates and functions are fitted.

Every recovered network is then run on inputs that it has not seen, beside regressions that are
told the true counts and attributes of the same pairs.

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
from recollect.sketching.dictionary import BlockSparse
from recollect.sketching.recovered import RecoveredNetwork, recover_network
from recollect.sketching.wiring import Wiring
from recollect.studies.figures import figure
from recollect.studies.hidden import FlatNetwork, HiddenNetwork
from recollect.studies.rival_learners import LEARNERS
from recollect.tracing import Trace

__all__ = ["study"]

NOISE = 0.01
PAIRS, NEW, DIM = 4000, 1000, 256
COLOURS = ("#1b6ca8", "#e08e0b", "#94a3b8", "#cbd5e1")
RUN = ("new sketches R2", "new attributes R2", "new counts right")
COLUMNS = (
    "network", "learner", "pairs", "columns named", "weight cosine", "modules found", "edge F1",
    "edges not told", *RUN, "seconds",
)  # fmt: skip


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how much of the hidden networks is recovered from how many pairs, and how it runs.

    Args:
        quick: fewer sizes, and one network of two levels instead of ten.
        data: not used.
    """
    rows: list[dict[str, Any]] = []
    for pairs in (500, 2000) if quick else (500, 1000, 2000, 4000):
        rows += _flat(pairs)
    for seed in range(1 if quick else 10):
        rows += _two_levels(seed)
    return Answer(
        {name: [row.get(name) for row in rows] for name in COLUMNS},
        title="hidden networks of 16 modules, learned from inputs and sketches",
        notes=[
            f"flat: block-sparse sketches of 1022 numbers, {NOISE:.0%} noise; 4 of 16 modules "
            "fire, chosen by 8 of 32 inputs, 2 of 16 features each; named: the true column of the "
            "same module and place, cosine above 0.95",
            f"two levels: int8 energy sketches of {DIM} numbers, operators unknown; four "
            "composers read twelve leaves along 16 edges; named: a source that equals one true "
            "attribute (cosine above 0.98); edges up to the names of modules; edges not told: "
            "true edges neither found nor among those that the report says cannot be told",
            f"new: {NEW} inputs not seen before; other learners are told the true counts and "
            "attributes beside the sketches",
            "signs of features cannot be known from flat sketches; weights are compared up to "
            "them",
            *_over_seeds(rows),
        ],
    )


def _over_seeds(rows: list[dict[str, Any]]) -> list[str]:
    """Return mean and deviation over the networks of two levels."""
    said = []
    for learner in ("recovered", *LEARNERS):
        own = [r for r in rows if r["learner"] == learner and r["network"] != "flat"]
        parts = []
        for name in ("edge F1", "columns named", "weight cosine", *RUN):
            values = np.array([r[name] for r in own if r.get(name) is not None])
            if len(values):
                parts.append(f"{name} {values.mean():.3f} +- {values.std():.3f}")
        said.append(f"two levels, {len(own)} networks, {learner}: " + ", ".join(parts))
    return said


def _flat(pairs: int) -> list[dict[str, Any]]:
    """Learn a network of one level, whose sketches carry names, and run it."""
    maps = BlockSparse(modules=16, size=16, dim=1022, q=0.1)
    network = FlatNetwork(pairs)
    matrix = maps.matrix()
    u = network.inputs_of(pairs + NEW)
    x, fires = network.attributes(u)
    clean = x @ matrix.T
    generator = torch.Generator().manual_seed(pairs)
    level = NOISE * clean.norm(dim=1, keepdim=True) / clean.shape[1] ** 0.5
    s = clean + level * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    start = time.perf_counter()
    found = recover_network(u[:pairs], s[:pairs], maps=maps)
    seconds = time.perf_counter() - start
    number = _numbers(found, maps.size)
    columns = torch.zeros_like(matrix)
    columns[:, number] = found.columns
    same = (matrix * columns).sum(0).abs() / (matrix.norm(dim=0) * columns.norm(dim=0)).clamp_min(
        1e-12
    )
    fitted = _fit_features(u[:pairs], found.wiring.sources)
    cosine = torch.zeros(matrix.shape[1], dtype=torch.float64)
    flat = network.weights.view(-1, network.inputs)[number]
    cosine[number] = torch.nn.functional.cosine_similarity(flat, fitted, dim=1).abs()
    counts, sources = found.attributes(u[pairs:])
    read = torch.zeros(NEW, matrix.shape[1], dtype=torch.float64)
    # The sign of a column, hence of its feature, cannot be known from sketches.
    read[:, number] = sources * torch.sign((matrix * columns).sum(0))[number]
    seen = (found.sketches(u[pairs:]), read, counts)
    rows = [{
        "network": "flat",
        "learner": "recovered",
        "pairs": pairs,
        "columns named": float((same > 0.95).double().mean()),
        "weight cosine": float(cosine.view(16, -1).mean(1).mean()),
        "modules found": len(set((number // maps.size).tolist())),
        **_judged(seen, clean[pairs:], x[pairs:], fires[pairs:]),
        "seconds": seconds,
    }]  # fmt: skip
    return rows + _others("flat", pairs, u, (s, x, fires), (clean, x, fires))


def _numbers(found: RecoveredNetwork, size: int) -> Tensor:
    """Return the number of the true column that each recovered column names, (K,)."""
    number = torch.zeros(found.columns.shape[1], dtype=torch.int64)
    # ``read_signatures`` keeps the order of places; those without a column are left out.
    for (_, p), sources in found.placed.sources.items():
        for k in sources:
            number[k] = p * size + int(found.names[k])
    return number


def _two_levels(seed: int) -> list[dict[str, Any]]:
    """Learn a network of two levels from recursive sketches of unknown operators, and run it."""
    network = HiddenNetwork(seed)
    u = np.random.default_rng([seed, 3]).standard_normal((PAIRS + NEW, network.inputs))
    trace = network.trace(u)
    sketches = Sketcher(dim=DIM, seed=seed).encode(trace).values.to(torch.float64)
    inputs = torch.from_numpy(u)
    start = time.perf_counter()
    found = recover_network(inputs[:PAIRS], sketches[:PAIRS], seed=seed)
    seconds = time.perf_counter() - start
    wiring = found.wiring
    paths, true = _by_path(trace)
    counted = _true_counts(trace)
    near = _cosines(true[:PAIRS], wiring.sources)
    best, which = near.max(1)
    names = _matched(wiring, counted[:PAIRS], sorted(trace.columns))
    got = {(names[e.parent], names[e.child]) for e in wiring.edges}
    hits = len(got & network.edges)
    weights = network.leaf_weights()
    fitted = _fit_features(inputs[:PAIRS], wiring.sources)
    cosine = [
        abs(float(torch.nn.functional.cosine_similarity(fitted[which[i]], weights[k, j], dim=0)))
        for i, (module, k, j) in enumerate(paths)
        if module == "leaf"
    ]
    counts, sources = found.attributes(inputs[PAIRS:])
    size = found.columns.norm(dim=0)
    scaled = wiring.sources * wiring.columns.norm(dim=0) / size.clamp_min(1e-12)
    factor = (scaled[:, which] * true[:PAIRS]).sum(0) / scaled[:, which].square().sum(0)
    named = torch.zeros(NEW, counted.shape[1], dtype=torch.int64)
    for number, name in enumerate(names):
        if name is not None:
            named[:, sorted(trace.columns).index(name)] = counts[:, number]
    seen = (found.sketches(inputs[PAIRS:]), sources[:, which] * factor, named)
    label = f"two levels, seed {seed}"
    rows = [{
        "network": label,
        "learner": "recovered",
        "pairs": PAIRS,
        "columns named": float((best > 0.98).double().mean()),
        "weight cosine": float(np.mean(cosine)),
        "modules found": sum(n is not None for n in names),
        "edge F1": 2 * hits / (len(got) + len(network.edges)),
        "edges not told": len(network.edges - got - _listed(wiring, names, network)),
        **_judged(seen, sketches[PAIRS:], true[PAIRS:], counted[PAIRS:]),
        "seconds": seconds,
    }]  # fmt: skip
    told = (sketches, true, counted)
    return rows + _others(label, PAIRS, inputs, told, told)


def _listed(
    wiring: Wiring, names: list[str | None], network: HiddenNetwork
) -> set[tuple[str, str]]:
    """Return the true edges that are among those which the wiring says cannot be told."""
    number = {name: k for k, name in enumerate(names) if name is not None}
    listed = frozenset().union(*(u.pairs for u in wiring.unidentified))
    return {(q, p) for q, p in network.edges if (number.get(q, -1), number.get(p, -1)) in listed}


def _judged(
    seen: tuple[Tensor, Tensor, Tensor], sketches: Tensor, x: Tensor, counts: Tensor
) -> dict[str, float]:
    """Return how well new sketches, attributes and counts are foretold."""
    return {
        RUN[0]: _r2(seen[0], sketches),
        RUN[1]: _r2(seen[1], x),
        RUN[2]: float((seen[2] == counts).double().mean()),
    }


def _others(
    label: str, pairs: int, u: Tensor, told: tuple[Tensor, Tensor, Tensor],
    true: tuple[Tensor, Tensor, Tensor],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of the other learners, which are told counts and attributes."""
    target = torch.cat([part.to(torch.float64) for part in told], 1)[:pairs]
    widths = [part.shape[1] for part in told]
    rows = []
    for name, learn in LEARNERS.items():
        start = time.perf_counter()
        s, x, n = torch.split(learn(u[:pairs], target, u[pairs:]), widths, 1)
        seconds = time.perf_counter() - start
        judged = _judged((s, x, n.round()), true[0][pairs:], true[1][pairs:], true[2][pairs:])
        rows.append(
            {"network": label, "learner": name, "pairs": pairs, **judged, "seconds": seconds}
        )
    return rows


def _r2(a: Tensor, b: Tensor) -> float:
    """Return the share of the variance of b that a explains."""
    return 1 - float((a - b).square().sum() / (b - b.mean(0)).square().sum())


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


def _true_counts(trace: Trace) -> Tensor:
    """Return how many objects of each module a glance holds, (S, P), modules in order of name."""
    counts = [
        np.bincount(c.glance, minlength=len(trace)) for _, c in sorted(trace.columns.items())
    ]
    return torch.from_numpy(np.stack(counts, 1))


def _matched(wiring: Wiring, counted: Tensor, modules: list[str]) -> list[str | None]:
    """Return the true module whose firing each found module has, None where there is none."""
    found: list[str | None] = []
    for column in wiring.counts.T:
        same = ((column > 0)[:, None] == (counted > 0)).to(torch.float64).mean(0)
        best = int(same.argmax())
        found.append(modules[best] if float(same[best]) > 0.99 else None)
    return found


def _fit_features(u: Tensor, read: Tensor) -> Tensor:
    """Return the weights of each feature, fitted where it is clearly not zero: (K, n)."""
    fitted = torch.zeros(read.shape[1], u.shape[1], dtype=torch.float64)
    for k in range(read.shape[1]):
        active = read[:, k].abs() > 0.1 * read[:, k].abs().max()
        if int(active.sum()) >= u.shape[1]:
            fitted[k] = torch.linalg.lstsq(u[active], read[active, k, None]).solution[:, 0]
    return fitted


def draw(answer: Answer, path: str) -> None:
    """Draw what was recovered of flat networks over pairs, and how networks of two levels run.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the file's ending is neither ``.svg`` nor ``.png``.
    """
    rows = list(answer)
    flat = [r for r in rows if r["network"] == "flat" and r["learner"] == "recovered"]
    deep = [r for r in rows if r["network"] != "flat"]
    with figure(path, width=8.4, height=3.2) as drawn:
        left, right = drawn.subplots(1, 2)
        pairs = [r["pairs"] for r in flat]
        for name, colour in zip(("columns named", "weight cosine", RUN[0]), COLOURS, strict=False):
            left.plot(pairs, [r[name] for r in flat], "o-", label=name, color=colour)
        left.set(xlabel="pairs of input and sketch", title="one level", ylim=(-0.02, 1.05))
        left.legend(frameon=False)
        first = [r for r in deep if r["learner"] == "recovered"]
        place = np.arange(len(first))
        right.plot(place, [r["edge F1"] for r in first], "k_", ms=14, label="edge F1")
        for number, learner in enumerate(("recovered", *LEARNERS)):
            values = [r[RUN[0]] for r in deep if r["learner"] == learner]
            shift = 0.2 * (number - 1.5)
            right.bar(place + shift, values, 0.18, label=learner, color=COLOURS[number])
        right.set(xlabel="network (seed)", title="two levels: " + RUN[0], ylim=(0, 1.6))
        right.set_xticks(place, [r["network"].split()[-1] for r in first])
        right.set_yticks([0, 0.5, 1])
        right.legend(frameon=False, ncols=2, loc="upper left")
