"""Searching memories for what two glances share: scenes with one picture, pictures of one class.

Shape letters: N glances, d numbers in a sketch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect.app.models import load_model
from recollect.memory import Memory
from recollect.recall.similarity import similar
from recollect.sketching import Sketcher
from recollect.studies.glance_pairs import Digits
from recollect.studies.whole_glances import KEEPERS, Kept, cosine
from recollect.tracing import Trace, trace

__all__ = ["real_network", "remembered", "search_scenes"]

Rng = np.random.Generator
FloatArray = npt.NDArray[np.float64]
SCHEMES = ("energy", "keyed", "paper")
# Scenes that hold each picture that is searched for, beside the one it is taken from.
PLANTED = 8


def search_scenes(digits: Digits, number: int, queries: int, dim: int) -> list[dict[str, Any]]:
    """Return how many of the scenes with a given picture are among the first as many found.

    Args:
        digits: of which the scenes are made.
        number: N, scenes in the memory.
        queries: pictures that are searched for; each stands in nine scenes, at random places.
        dim: d.
    """
    scenes, planted = _planted(digits, number, queries, np.random.default_rng(11))
    listed = [digits.scene(s) for s in scenes]
    parts = [("left", f"digit/{digits.labels[scenes[q][0]]}") for q, _ in planted]
    found: dict[str, FloatArray] = {}
    for scheme in SCHEMES:
        with remembered(Trace.from_objects(listed), dim, scheme) as memory:
            found[scheme] = _ask(memory, planted)
            if scheme == "energy":
                found["probe"] = _ask(memory, planted, parts)
                found["anywhere"] = _ask(memory, planted, parts, anywhere=True)
                found["whitened"] = _ask(memory, planted, parts, anywhere=True, whiten=True)
    for name, keep in KEEPERS.items():
        kept = [keep(s) for s in listed]
        found[name] = np.array([_share_kept(kept, q, others) for q, others in planted])
    pair = "share found of eight scenes with one picture"
    return [
        _row(f"{number} scenes", dim, pair, method, shares) for method, shares in found.items()
    ]


def _row(glances: str, dim: int, pair: str, method: str, scores: FloatArray) -> dict[str, Any]:
    return {
        "glances": glances, "numbers": dim, "pair": pair, "method": method,
        "mean": float(scores.mean()), "sd": float(scores.std(ddof=1)), "sigmas": float("nan"),
    }  # fmt: skip


def _planted(
    digits: Digits, number: int, queries: int, rng: Rng
) -> tuple[list[list[int]], list[tuple[int, list[int]]]]:
    """Return the pictures of each scene, and for each query its scene and those to be found."""
    wanted = rng.choice(len(digits.labels), queries, replace=False)
    usual = [np.setdiff1d(c, wanted) for c in digits.by_class]
    scenes = [[int(rng.choice(usual[k])) for k in rng.integers(0, 10, 8)] for _ in range(number)]
    order = rng.permutation(number)
    planted = []
    for i, picture in enumerate(wanted.tolist()):
        source, *others = order[i * (PLANTED + 1) : (i + 1) * (PLANTED + 1)].tolist()
        # In its own scene it is the only one of its class in the left frame.
        classes = [k for k in range(10) if k != digits.labels[picture]]
        scenes[source][:3] = [
            picture, *(int(rng.choice(usual[k])) for k in rng.choice(classes, 2))
        ]  # fmt: skip
        for other in others:
            scenes[other][int(rng.integers(8))] = picture
        planted.append((source, others))
    return scenes, planted


def _ask(
    memory: Memory,
    planted: Sequence[tuple[int, list[int]]],
    paths: Sequence[Sequence[str]] | None = None,
    *,
    anywhere: bool = False,
    whiten: bool = False,
) -> FloatArray:
    """Return the share of planted scenes among the first as many that ``similar`` finds."""
    shares = []
    for i, (source, others) in enumerate(planted):
        path = None if paths is None else paths[i]
        answer = similar(memory, source, k=PLANTED, path=path, anywhere=anywhere, whiten=whiten)
        shares.append(len(set(answer["glance"]) & set(others)) / PLANTED)
    return np.array(shares)


def _share_kept(kept: Sequence[Kept], query: int, others: list[int]) -> float:
    """The same by the cosine of what is kept of the glances."""
    scores = np.array([cosine(kept[query], k) for k in kept])
    scores[query] = -np.inf
    return len(set(np.argsort(-scores)[:PLANTED].tolist()) & set(others)) / PLANTED


def real_network(data: str, number: int) -> list[dict[str, Any]]:
    """Return how well sketches of a trained ResNet-56's glances keep who is like whom.

    Args:
        data: folder with weights/ and cifar10/.
        number: N pictures, exact CIFAR-10.

    Raises:
        ImportError: if it is not started where the benchmarks' loaders are found.
        FileNotFoundError: if the folder lacks the network or its pictures.
    """
    try:
        network = load_model(f"benchmarks.networks:resnet56?folder={data}").module
        loader: Any = import_module("benchmarks.pictures")
    except ValueError as error:
        raise ImportError(
            "trained networks are read by benchmarks/networks.py: run this study in the root of "
            "the repository"
        ) from error
    pictures, labels = loader.cifar10_exact(data)
    seen = Trace.concat([trace(network, part) for part in torch.split(pictures[:number], 100)])
    known = labels[: len(seen)].numpy()
    rows = []
    for dim in (256, 1024):
        with remembered(seen, dim, "energy") as memory:
            scales = {e.name: e.scale for e in memory.modules}
            values = memory.sketches(ids=range(len(seen))).values.double().numpy()
        exact = np.concatenate(
            [c.attributes.double().numpy() / scales[n] for n, c in seen.columns.items()], axis=1
        )
        last = list(seen.columns.values())[-2].attributes.double().numpy()
        truth = _nearest(exact)
        for name, vectors in (("energy", values), ("exact", exact), ("pooled", last)):
            nearest = _nearest(vectors)
            alike = (known[nearest] == known[:, None]).mean(1)
            pairs = zip(nearest.tolist(), truth.tolist(), strict=True)
            same = np.array([len(set(a) & set(b)) / 10 for a, b in pairs])
            for what, scores in (
                ("share of the same class among the ten nearest", alike),
                ("share found of the ten nearest by exact cosine", same),
            ):
                rows.append(_row("ResNet-56 on CIFAR-10", dim, what, name, scores))
    return rows


def _nearest(vectors: FloatArray) -> npt.NDArray[np.int64]:
    """Return the ten nearest of each row by cosine, (N, 10), itself left out."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest: npt.NDArray[np.int64] = np.argsort(-scores, axis=1)[:, :10]
    return nearest


@contextmanager
def remembered(glances: Trace, dim: int, scheme: str) -> Iterator[Memory]:
    """Keep glances in a memory for as long as it is asked, all of them whole too."""
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=i) for i in range(len(glances))]
    with (
        tempfile.TemporaryDirectory() as folder,
        Memory(
            Path(folder) / "memory", Sketcher(dim=dim, scheme=scheme), reservoir=len(glances)
        ) as memory,
    ):
        memory.add(glances, time=times, ids=range(len(glances)))
        yield memory
