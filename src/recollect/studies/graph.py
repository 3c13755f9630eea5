"""The graph: are neighbours right, are the same things one part, beside other ways to index?

Scenes with real handwritten digits: each of 60 pictures comes again in many scenes, redrawn, with
others that come once. Asked of the graph: which scenes show the picture that this one shows?
(through a part), and which scenes are most alike (through sketches). Rivals keep the same
signatures or sketches: locality-sensitive buckets of 12 bits in 8 tables, and the whole sketch's
neighbours alone, which must find a shared part among everything else.

Shape letters: N scenes.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect import recall
from recollect._answers import Answer
from recollect.memory import Memory
from recollect.memory.tables import PARTS
from recollect.sketching import Sketcher
from recollect.studies.figures import figure
from recollect.tracing import Trace

__all__ = ["draw", "study"]

IntArray = npt.NDArray[np.int64]
Row = dict[str, Any]
PICTURES, TIMES = 60, 12
HOUR = 3_600_000_000


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return, for every way to look, the share of scenes found that show the same picture.

    Args:
        quick: two seeds and fewer scenes.
        data: not needed.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    del data
    scores: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for seed in range(2 if quick else 5):
        for redrawn in (0.02, 0.05, 0.1):
            found = _run(seed, redrawn, 1200 if quick else 4000)
            for method, judged in found.items():
                scores.setdefault((redrawn, method), []).append(judged)
    rows = []
    for (redrawn, method), values in scores.items():
        recall_, right, ms = (np.array(v) for v in zip(*values, strict=True))
        rows.append(
            {"redrawn by": redrawn, "method": method, "found": float(recall_.mean()),
             "found sd": float(recall_.std()), "right": float(right.mean()),
             "right sd": float(right.std()), "ms": float(ms.mean())}
        )  # fmt: skip
    return Answer(
        {name: [r[name] for r in rows] for name in rows[0]},
        title="scenes that show the same real digit, found through the graph",
        notes=[
            f"found: share of the {TIMES - 1} other scenes with the picture; right: share of what "
            "is returned that has it; ms: wall time of a question, once the graph is loaded",
            "neighbours: the eight most similar whole sketches; buckets: scenes in the same "
            "bucket of 12 signs in any of 8 tables, of whole sketches or of the objects' "
            "sub-sketches (96 of their 128 signs)",
        ],
    )


def _scenes(seed: int, redrawn: float, number: int) -> tuple[Trace, IntArray]:
    """Return scenes of four digits, and which repeated picture each holds (-1: none)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.data / 16.0).astype(np.float32)
    rng = np.random.default_rng([9, seed])
    order = rng.permutation(len(x))
    own, rest = order[:PICTURES], order[PICTURES:]
    held = rng.permutation(
        np.r_[np.repeat(np.arange(PICTURES), TIMES), np.full(number - PICTURES * TIMES, -1)]
    ) if number > PICTURES * TIMES else np.repeat(np.arange(PICTURES), TIMES)  # fmt: skip
    glance, picture = [], []
    for g, kind in enumerate(held.tolist()):
        others = rng.choice(rest, 3 if kind >= 0 else 4, replace=False).tolist()
        picture += ([int(own[kind])] if kind >= 0 else []) + others
        glance += [g] * 4
    rows, at = np.array(picture), np.array(glance)
    # Others are other writers' every time: moved as far as two pictures of a class are apart.
    noise = np.where(np.isin(rows, own), redrawn, 0.15).astype(np.float32)[:, None]
    pixels = x[rows] + noise * rng.standard_normal((len(rows), 64)).astype(np.float32)
    for label in range(10):
        pixels[data.target[rows] == label] -= x[data.target == label].mean(0)
    of = data.target[rows]
    columns = {
        f"digit {c}": {"attributes": torch.from_numpy(pixels[of == c]), "glance": at[of == c]}
        for c in range(10)
    }
    return Trace.from_columns(columns, num_glances=len(held)), held


def _run(seed: int, redrawn: float, number: int) -> dict[str, tuple[float, float, float]]:
    """Ask for every repeated picture once."""
    trace, held = _scenes(seed, redrawn, number)
    n = len(trace)
    asked = [int(np.flatnonzero(held == p)[0]) for p in range(PICTURES)]
    with TemporaryDirectory() as folder:
        sketcher = Sketcher(dim=256)
        with Memory(Path(folder) / "m", sketcher, graph=True) as memory:
            memory.add(trace, [HOUR * i for i in range(n)], ids=range(n))
            recall.graph(memory, 0)
            out = {
                "graph, through parts": _judged(memory, asked, held, _through_parts),
                "neighbours": _judged(memory, asked, held, _neighbours),
            }
            signs = np.unpackbits(
                np.packbits(memory.sketches(ids=range(n)).values.numpy()[:, :96] > 0, axis=1),
                axis=1,
            )
            whole = _Buckets(signs, np.arange(n))
            out["buckets of sketches"] = _judged(memory, asked, held, whole.ask)
            out["buckets of objects"] = _judged(memory, asked, held, _of_objects(memory).ask)
    return out


def _through_parts(memory: Memory, glance: int) -> set[int]:
    """Return the glances that stand on the other side of a shared part."""
    found = recall.graph(memory, glance, k=TIMES * 2)
    return {
        int(r["to"].split()[1])
        for r in found
        if r["relation"] == "part-of" and r["to"].startswith("glance")
    } - {glance}


def _neighbours(memory: Memory, glance: int) -> set[int]:
    return set(memory.graph.follow().of(glance)[0])


class _Buckets:
    """Locality-sensitive buckets: 12 bits in each of 8 tables."""

    def __init__(self, signs: npt.NDArray[np.uint8], glance: IntArray) -> None:
        self.glance = glance
        weights = 1 << np.arange(12)
        self.keys = np.stack([signs[:, 12 * t : 12 * t + 12] @ weights for t in range(8)], axis=1)

    def ask(self, memory: Memory, glance: int) -> set[int]:
        """Return the glances that share a bucket with one."""
        del memory
        mine = self.keys[self.glance == glance]
        hit = (self.keys[:, None] == mine).any((1, 2))
        return set(self.glance[hit].tolist()) - {glance}


def _of_objects(memory: Memory) -> _Buckets:
    """Put every object's signature into buckets."""
    table = memory.graph.rows.take(np.arange(len(memory)), ["id", PARTS])
    signs, glance = [], []
    for number, data in zip(
        table.column("id").to_pylist(), table.column(PARTS).to_pylist(), strict=True
    ):
        packed = np.frombuffer(data, np.uint8).reshape(-1, 16)
        signs.append(np.unpackbits(packed, axis=1))
        glance += [number] * len(packed)
    return _Buckets(np.concatenate(signs), np.array(glance))


def _judged(
    memory: Memory, asked: list[int], held: IntArray, ask: Any
) -> tuple[float, float, float]:
    found, right, start = [], [], time.perf_counter()
    answers = [ask(memory, g) for g in asked]
    each = 1e3 * (time.perf_counter() - start) / len(asked)
    for g, answer in zip(asked, answers, strict=True):
        same = set(np.flatnonzero(held == held[g]).tolist()) - {g}
        found.append(len(same & answer) / len(same))
        right.append(len(same & answer) / max(len(answer), 1))
    return float(np.mean(found)), float(np.mean(right)), each


def draw(answer: Answer, path: str | Path) -> None:
    """Draw what each way finds, and how much of it is right, as SVG or PNG.

    Raises:
        ImportError: if matplotlib is missing.
    """
    with figure(path, width=8.5, height=3.2) as drawn:
        for axes, column in zip(drawn.subplots(1, 2), ("found", "right"), strict=True):
            for method in dict.fromkeys(answer["method"]):
                rows = [r for r in answer if r["method"] == method]
                axes.errorbar([r["redrawn by"] for r in rows], [r[column] for r in rows],
                              yerr=[r[column + " sd"] for r in rows], marker="o", ms=4,
                              label=method)  # fmt: skip
            axes.set(xlabel="noise on a picture that comes again", title=f"share {column}",
                     ylim=(0, 1.02))  # fmt: skip
        drawn.axes[0].legend(fontsize=7)
