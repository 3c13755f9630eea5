"""Similarity: unrelated glances far apart, related ones near, shared parts visible.

Three tables in one. Pairs built by hand: the cosine of their sketches under each scheme, beside
that of everything they hold (``exact``), of the mean of their attributes (``pooled``) and of
their counts (``histogram``). The same for scenes of real handwritten digits. And a search: in a
memory of such scenes, find those that hold one given picture, at any place.

With ``--data``: a trained network's glances of real pictures, whose exact cosine is known.

Shape letters: N pairs, d numbers in a sketch, m of an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect._answers import Answer
from recollect.sketching import Sketcher
from recollect.studies.figures import figure
from recollect.studies.finding import real_network, search_scenes
from recollect.studies.glance_pairs import Pair, hand_built, read_digits
from recollect.studies.whole_glances import KEEPERS, cosine
from recollect.tracing import Object, Trace

__all__ = ["draw", "study"]

FloatArray = npt.NDArray[np.float64]
SCHEMES = ("energy", "keyed", "paper")
# Kinds of pairs that share nothing: what one shared object is judged against.
NOTHING = ("nothing shared", "nothing shared, two levels", "no class in common")
Row = dict[str, Any]


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return cosines of pairs by scheme, and how clearly the shared part stands out.

    Args:
        quick: fewer repetitions and a smaller memory.
        data: folder with trained networks and pictures, for glances of a real network.

    Raises:
        ImportError: if scikit-learn is missing, or, with ``data``, the networks' loader.
        FileNotFoundError: if the folder lacks the network or its pictures.
    """
    repeats = 30 if quick else 100
    rows: list[Row] = []
    for dim in (1024,) if quick else (1024, 4096):
        pairs = [hand_built(np.random.default_rng([7, r])) for r in range(repeats)]
        rows += table("by hand", pairs, dim, slots=True)
    digits = read_digits(epochs=10 if quick else 40)
    pairs = [digits.pairs(np.random.default_rng([8, r])) for r in range(repeats)]
    rows += table("digits", pairs, 1024, slots=False)
    for dim in (256, 1024):
        rows += search_scenes(digits, 500 if quick else 4000, 10 if quick else 40, dim)
    if data is not None:
        rows += real_network(data, 300 if quick else 2000)
    return Answer(
        {name: [r[name] for r in rows] for name in rows[0]},
        title="how alike two glances are, by what they share",
        notes=[
            "energy, keyed, paper: cosine of both int8 sketches; exact: of all attributes, each "
            "at its path; pooled: of the mean attribute; histogram: of the counts (these three "
            "keep the glances, no sketches)",
            "probe: cosine of the shared object alone, at its place in the first glance, and the "
            "energy sketch of the second; anywhere: of the object as if it stood on top",
            "sd: over pairs; sigmas: how many of the deviations among glances that share nothing "
            "the mean lies above them",
            "'share found': scenes that hold one given picture are searched for with the whole "
            "scene (schemes, exact, pooled, histogram) or with the picture alone (probe, "
            "anywhere, whitened); sd over pictures",
        ],
    )


# -- pairs ------------------------------------------------------------------------------------


def table(glances: str, pairs: Sequence[dict[str, Pair]], dim: int, *, slots: bool) -> list[Row]:
    """Return one row for each kind of pair and each method."""
    kinds = list(pairs[0])
    scores = {kind: _scores([p[kind] for p in pairs], dim, slots=slots) for kind in kinds}
    rows = []
    for kind in kinds:
        still = scores[_nothing(kind, kinds)]
        for method, found in scores[kind].items():
            sd = float(found.std(ddof=1))
            spread = float(still[method].std(ddof=1)) if method in still else float("nan")
            above = float(found.mean() - still[method].mean()) if method in still else 0.0
            rows.append(
                {"glances": glances, "numbers": dim, "pair": kind, "method": method,
                 "mean": float(found.mean()), "sd": sd,
                 "sigmas": above / spread if spread > 1e-9 else float("nan")}
            )  # fmt: skip
    return rows


def _scores(pairs: Sequence[Pair], dim: int, *, slots: bool) -> dict[str, FloatArray]:
    """Return every method's score of each pair."""
    scores = {s: sketch_cosines(pairs, dim, s, slots=slots) for s in SCHEMES}
    for name, keep in KEEPERS.items():
        scores[name] = np.array([cosine(keep(p.one), keep(p.other)) for p in pairs])
    if all(p.shared is not None for p in pairs):
        found = probe_scores(pairs, dim, slots=slots)
        scores |= {"probe": found[:, 0], "anywhere": found[:, 1]}
    return scores


def _nothing(kind: str, kinds: list[str]) -> str:
    """Return the kind of pair that has the same structure and shares nothing."""
    if NOTHING[0] not in kinds:
        return NOTHING[2]
    return NOTHING[1] if "input" in kind or "levels" in kind else NOTHING[0]


def sketch_cosines(pairs: Sequence[Pair], dim: int, scheme: str, *, slots: bool) -> FloatArray:
    """Return the cosines of both sketches of each pair, (N,)."""
    sketcher = _sketcher(dim, scheme, slots and scheme != "paper")
    a, b = (
        sketcher.encode(Trace.from_objects(side)).values.double().numpy()
        for side in ([p.one for p in pairs], [p.other for p in pairs])
    )
    return _rowwise(a, b)


@lru_cache(maxsize=8)
def _sketcher(dim: int, scheme: str, slots: bool) -> Sketcher:
    """One sketcher for all pairs: its operators are made once."""
    return Sketcher(dim=dim, scheme=scheme, slots=slots)


def probe_scores(pairs: Sequence[Pair], dim: int, *, slots: bool) -> FloatArray:
    """Return the cosine of the shared object's image and the second sketch.

    (N, 2): at its place in the first glance, and as if it stood on top.
    """
    shared = [p.shared for p in pairs]
    sketcher = _sketcher(dim, "energy", slots)
    second = sketcher.encode(Trace.from_objects([p.other for p in pairs])).values.double().numpy()
    at_place = image(sketcher, _kept(Trace.from_objects([p.one for p in pairs]), shared))
    alone = image(
        _sketcher(dim, "energy", False), Trace.from_objects([[s] for s in shared if s is not None])
    )
    return np.stack([_rowwise(at_place, second), _rowwise(alone, second)], axis=1)


def image(sketcher: Sketcher, trace: Trace) -> FloatArray:
    """Return what attributes alone, without counts, contribute to sketches: (B, d)."""
    sketcher.admit(trace)
    encoder = sketcher.encoder()
    found = encoder.operators.leave(encoder.working(trace, sketcher.modules))
    return np.asarray(found.double().numpy())


def _kept(trace: Trace, objects: Sequence[Object | None]) -> Trace:
    """Return the trace with every attribute zero but that of one object in each glance."""
    columns = {}
    for name, c in trace.columns.items():
        mine = [
            o is not None and o.module == name and torch.equal(o.attribute, x)
            for o, x in zip((objects[g] for g in c.glance.tolist()), c.attributes, strict=True)
        ]
        columns[name] = replace(c, attributes=c.attributes * torch.tensor(mine)[:, None])
    return Trace(columns, trace.num_glances, trace.edges)


def _rowwise(a: FloatArray, b: FloatArray) -> FloatArray:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: FloatArray = (a * b).sum(1) / norms
    return cosines


# -- the picture ------------------------------------------------------------------------------

COLOURS = {"energy": "#2563eb", "keyed": "#d97706", "paper": "#64748b"}


def draw(answer: Answer, path: str | Path) -> None:
    """Draw the cosines of the pairs, and who finds scenes with one picture, as SVG or PNG.

    Raises:
        ImportError: if matplotlib is missing.
    """
    with figure(path, width=9.5, height=4.2) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        rows = list(answer)
        numbers = max(r["numbers"] for r in rows if r["glances"] == "by hand")
        some = [r for r in rows if r["glances"] == "by hand" and r["numbers"] == numbers]
        _draw_pairs(left, some)
        _draw_search(right, [r for r in rows if "scenes with one" in r["pair"]])


def _draw_pairs(axes: Any, rows: list[Row]) -> None:
    kinds = list(dict.fromkeys(r["pair"] for r in rows))
    for k, scheme in enumerate(SCHEMES):
        own = [r for r in rows if r["method"] == scheme]
        axes.errorbar(
            [r["mean"] for r in own],
            np.arange(len(own)) + 0.2 * (k - 1),
            xerr=[r["sd"] for r in own],
            fmt="o", ms=4, lw=1.2, color=COLOURS[scheme], label=scheme,
        )  # fmt: skip
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.axvline(0, color="#cbd5e1", lw=1, zorder=0)
    numbers = rows[0]["numbers"]
    axes.set(xlabel=f"cosine of two sketches of {numbers} int8 numbers", title="Pairs by hand")
    axes.legend(loc="lower right")


def _draw_search(axes: Any, rows: list[Row]) -> None:
    rows = [r for r in rows if r["numbers"] == max(q["numbers"] for q in rows)]
    colours = [COLOURS.get(r["method"], "#cbd5e1") for r in rows]
    parts = ("probe", "anywhere", "whitened")
    colours = [
        "#16a34a" if r["method"] in parts else c for r, c in zip(rows, colours, strict=True)
    ]
    axes.barh([r["method"] for r in rows], [r["mean"] for r in rows], color=colours)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share found of eight among {rows[0]['glances']}",
             title="Scenes with one real digit")  # fmt: skip
