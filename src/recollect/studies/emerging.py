"""Emerging concepts: planted ones found, none invented, beside the usual ways of clustering.

Six compounds of three parts, 50 scenes each, in 600 scenes of other things (``studies.planted``),
and 900 scenes with no compound at all. Every method gets the same centred int8 sketches:
``recall.emerging``, components of the graph at a fixed cosine, k-means (with the right number of
clusters), DBSCAN and HDBSCAN of scikit-learn. Then the same with real handwritten digits: a
scene is some pictures, a compound three pictures that come again together, redrawn.

With ``--data``: one street camera over ten days, the cells of one layer of a trained network one
by one: the tree that was cut back, and what else comes and goes. And whole glances, in each of
nine layers: what a few of them have and the others have not, in any light.

Shape letters: N scenes, d numbers of a sketch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect import recall
from recollect._answers import Answer
from recollect.memory import Memory
from recollect.sketching import Sketcher
from recollect.studies.figures import figure
from recollect.studies.planted import Planted, plant
from recollect.tracing import Trace

__all__ = ["draw", "study"]

IntArray = npt.NDArray[np.int64]
Grouping = Callable[[npt.NDArray[np.float32], int], IntArray]
Row = dict[str, Any]

BEGIN, STEP = 1_767_225_600_000_000, 7_200_000_000
# Fewest scenes of a cluster that counts as one, for every method.
FEWEST = 5
LAYER, CELLS, SIZE = "add046", 8, (448, 256)
# Layers whose whole glances are compared in part, at the network's own size of picture.
COARSE = ("add016", "add020", "add027", "add031", "add035", "add042", "add046", "add053", "add057")


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how many planted compounds every method found, and how many it invented.

    Args:
        quick: three runs instead of twenty, one size of sketch.
        data: folder with trained networks and pictures, for the street.

    Raises:
        ImportError: if scikit-learn is missing, or, with ``data``, the networks' loader.
    """
    runs = 3 if quick else 20
    rows: list[Row] = []
    for dim in (256,) if quick else (128, 256, 1024):
        rows += _table("prototypes", lambda s: plant(s), dim, range(runs if dim == 256 else 5))
    rows += _table("prototypes, none planted", _nothing, 256, range(runs))
    rows += _table("real digits", _digits, 256, range(min(runs, 5)))
    notes = [
        "found: of six planted, a cluster with half of its scenes or more and nine in ten of them "
        "right; invented: clusters of five or more that are none of these; rand: adjusted Rand "
        "index of planted scenes and the rest",
        "k-means is told the number of clusters; fixed cosines, DBSCAN's eps (cosine .5) and "
        "HDBSCAN's min_cluster_size (5) are the usual choices; emerging is told nothing",
    ]
    if data is not None:
        notes += _street(data)
    return Answer(
        {name: [r[name] for r in rows] for name in rows[0]},
        title="what emerges: found and invented",
        notes=notes,
    )


def _table(glances: str, make: Callable[[int], Planted], dim: int, seeds: range) -> list[Row]:
    """Judge every method on some worlds."""
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        world = make(seed)
        for method, groups in _grouped(world, dim, seed).items():
            scores.setdefault(method, []).append(_judge(groups, world.compound))
    rows = []
    for method, judged in scores.items():
        found, invented, rand = (np.array(column) for column in zip(*judged, strict=True))
        rows.append(
            {"glances": glances, "numbers": dim, "method": method, "runs": len(judged),
             "found": float(found.mean()), "found sd": float(found.std()),
             "invented": float(invented.mean()), "invented sd": float(invented.std()),
             "rand": float(rand.mean()), "rand sd": float(rand.std())}
        )  # fmt: skip
    return rows


def _grouped(world: Planted, dim: int, seed: int) -> dict[str, IntArray]:
    """Return the clusters that each method makes of one world's sketches, (N,), -1 for none."""
    n = len(world.trace)
    with TemporaryDirectory() as folder, Memory(Path(folder) / "m", Sketcher(dim=dim)) as memory:
        memory.add(world.trace, [BEGIN + STEP * i for i in range(n)], ids=range(n))
        found = recall.emerging(memory, by=None, seed=seed)
        own = np.full(n, -1, np.int64)
        for number, concept in enumerate(found["concept"]):
            own[found.members(concept)] = number
        values = memory.sketches(ids=range(n)).values.numpy()
    x = values - values.mean(0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    kinds = max(len(set(world.compound.tolist()) - {-1}), 1)
    rivals = {name: group(x.astype(np.float32), seed) for name, group in _rivals(kinds).items()}
    return {"emerging": own, **rivals}


def _rivals(kinds: int) -> dict[str, Grouping]:
    """Return the usual ways of clustering, each a function of unit vectors and a seed."""
    from sklearn.cluster import DBSCAN, HDBSCAN, KMeans

    def components(cosine: float) -> Grouping:
        def group(x: npt.NDArray[np.float32], _: int) -> IntArray:
            import networkx

            late, early = np.nonzero(np.triu(x @ x.T >= cosine, 1))
            graph = networkx.Graph()
            graph.add_edges_from(zip(late.tolist(), early.tolist(), strict=True))
            out = np.full(len(x), -1, np.int64)
            for number, part in enumerate(networkx.connected_components(graph)):
                if len(part) >= FEWEST:
                    out[list(part)] = number
            return out

        return group

    return {
        "components > .5": components(0.5),
        "components > .4": components(0.4),
        "k-means, number told": lambda x, seed: (
            KMeans(kinds + 1, n_init=4, random_state=seed).fit_predict(x).astype(np.int64)
        ),
        "DBSCAN": lambda x, _: DBSCAN(eps=1.0, min_samples=FEWEST).fit_predict(x).astype(np.int64),
        "HDBSCAN": lambda x, _: (
            HDBSCAN(min_cluster_size=FEWEST, copy=True).fit_predict(x).astype(np.int64)
        ),
    }


def _judge(groups: IntArray, truth: IntArray) -> tuple[float, float, float]:
    """Return how many compounds were found, how many clusters invented, and the Rand index."""
    from sklearn.metrics import adjusted_rand_score

    right: set[int] = set()
    invented = 0
    for number in sorted(set(groups.tolist()) - {-1}):
        inside = truth[groups == number]
        kinds, counts = np.unique(inside, return_counts=True)
        best = int(kinds[counts.argmax()])
        pure = counts.max() >= 0.9 * len(inside)
        half = best >= 0 and counts.max() >= 0.5 * (truth == best).sum()
        if pure and half:
            right.add(best)
        elif len(inside) >= FEWEST and not (pure and best >= 0):
            invented += 1
    if (truth < 0).all():
        return 0.0, float(invented), float("nan")
    return float(len(right)), float(invented), float(adjusted_rand_score(truth, groups))


def _nothing(seed: int) -> Planted:
    """Scenes without any compound."""
    return plant(100 + seed, compounds=0, background=900)


# -- real digits ----------------------------------------------------------------------------


def _digits(seed: int) -> Planted:
    """Scenes of real handwritten digits; a module is a class, an attribute the 64 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.data / 16.0).astype(np.float32)
    # Against the mean of its class: what is left is the hand that wrote it.
    for label in range(10):
        x[data.target == label] -= x[data.target == label].mean(0)
    rng = np.random.default_rng([5, seed])
    chosen = rng.permutation(len(x))
    fixed = []
    for k in range(6):
        classes = rng.choice(10, 3, replace=False)
        pool = chosen[: len(x) // 5]
        fixed.append([int(rng.choice(pool[data.target[pool] == c])) for c in classes])
        del k
    kinds = rng.permutation(np.r_[np.repeat(np.arange(6), 40), np.full(500, -1)])
    glance, picture, redrawn = [], [], []
    rest = chosen[len(x) // 5 :]
    for g, kind in enumerate(kinds.tolist()):
        own = fixed[kind] if kind >= 0 else []
        others = rng.choice(rest, 2 if kind >= 0 else 5, replace=False).tolist()
        picture += own + others
        redrawn += [0.05] * len(own) + [0.0] * len(others)
        glance += [g] * (len(own) + len(others))
    rows, at = np.array(picture), np.array(glance)
    pixels = x[rows] + np.array(redrawn, np.float32)[:, None] * rng.standard_normal(
        (len(rows), 64)
    ).astype(np.float32)
    of = data.target[rows]
    columns = {
        f"digit {c}": {"attributes": torch.from_numpy(pixels[of == c]), "glance": at[of == c]}
        for c in range(10)
    }
    named = [tuple(sorted(f"digit {data.target[i]}" for i in own)) for own in fixed]
    return Planted(Trace.from_columns(columns, num_glances=len(kinds)), kinds, named)


# -- the street -----------------------------------------------------------------------------


def _street(data: str) -> list[str]:
    """Say what emerges on camera 4713, cell by cell of one layer."""
    try:
        networks: Any = import_module("benchmarks.networks")
        pictures: Any = import_module("benchmarks.pictures")
    except ImportError as error:
        raise ImportError(
            "trained networks are read by benchmarks/networks.py: run this study in the root of "
            "the repository"
        ) from error
    street = pictures.load("street_stream", data).where(lambda r: r["camera"] == "4713")
    net, preprocess = networks.mobilenet_v2(data)
    with TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "m", Sketcher(dim=1024), timezone="Asia/Singapore")
        with memory:
            memory.watch(net, _loader(street), view="cells", cells=CELLS, modules=[LAYER])
            told = _told(memory, street)
        for layer in COARSE:
            where = Path(folder) / layer
            with Memory(where, Sketcher(dim=1024), timezone="Asia/Singapore") as memory:
                loader = _batches(street, preprocess)
                memory.watch(net, loader, view="cells", cells=4, modules=[layer])
                told += _in_part(memory, street, layer)
        return told


def _in_part(memory: Memory, street: Any, layer: str) -> list[str]:
    """Say what whole glances, a layer in 4 x 4 cells, have in common with a few others."""
    about = _labels(memory, street)
    riding = {i for i, r in about.items() if r["motorcycles_on_near_bridge"] != "none"}
    found = recall.emerging(memory, by="day", alike="part")
    said = []
    for row in found:
        ids = found.members(row["concept"])
        lights = Counter(about[i]["light"] for i in ids)
        shown = ", ".join(f"{lights[k]} by {k}" for k in ("night", "twilight", "day") if lights[k])
        said.append(
            f"{len(ids)} glimpses ({shown}), {len(riding & set(ids))} of them of the "
            f"{len(riding)} with motorcycles on the near bridge"
        )
    return [f"whole glances, {layer} in 4 x 4 cells, alike in part: {'; '.join(said) or 'none'}"]


def _labels(memory: Memory, street: Any) -> dict[int, dict[str, Any]]:
    """Return what is known of each glance."""
    table = memory.glances(columns=["id", "time"]).to_pylist()
    labels = {r["time"]: r["labels"] for r in street.records}
    return {r["id"]: labels[r["time"]] for r in table}


def _batches(street: Any, preprocess: Any) -> Any:
    for x, records in street.batches(preprocess, 13):
        yield x, {"time": [r["time"] for r in records], "source": "4713"}


def _loader(street: Any) -> Any:
    from PIL import Image

    def pixels(image: Image.Image) -> torch.Tensor:
        small = image.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() - 128) / 128

    return _batches(street, pixels)


def _told(memory: Memory, street: Any) -> list[str]:
    """Compare what ends and begins with the labels."""
    about = _labels(memory, street)
    ended, begun, bikes, total = [], [], [], 0
    for cell in memory.modules.names:
        found = recall.emerging(memory, module=cell, by="day", at_least=FEWEST)
        for row in found:
            ids = found.members(row["concept"])
            pruned = float(np.mean([about[i]["tree"] == "pruned" for i in ids]))
            riding = sum(about[i]["motorcycles_on_near_bridge"] != "none" for i in ids)
            total += 1
            if row["state"] == "retired" and row["last"][:10] in ("2026-01-24", "2026-01-25"):
                ended.append((cell.split("/")[1], pruned, len(ids)))
            if row["state"] == "new" and row["first"][:10] == "2026-01-26":
                begun.append((cell.split("/")[1], pruned, len(ids)))
            if riding >= 0.6 * len(ids):
                bikes.append((cell.split("/")[1], riding, len(ids)))
    both = sorted({c for c, _, _ in ended} & {c for c, _, _ in begun})
    before, after = ([p for _, p, _ in some] or [float("nan")] for some in (ended, begun))
    return [
        f"street 4713, {len(about)} glimpses, cells of {LAYER}: {total} concepts in "
        f"{len(memory.modules.names)} cells",
        f"retired, last seen on 24 or 25 January: {len(ended)} concepts, share of glimpses with "
        f"the pruned tree {np.mean(before):.2f}; new, first seen on 26 January: {len(begun)}, "
        f"share {np.mean(after):.2f}; "
        f"cells with both (row, column of {CELLS} x {CELLS}): {'; '.join(both) or 'none'}",
        f"concepts that are mostly glimpses with motorcycles on the near bridge: {len(bikes)}",
    ]


# -- the picture ----------------------------------------------------------------------------


def draw(answer: Answer, path: str | Path) -> None:
    """Draw how many compounds each method found and invented, as SVG or PNG.

    Raises:
        ImportError: if matplotlib is missing.
    """
    with figure(path, width=9.5, height=3.6) as drawn:
        kinds = [
            ("prototypes", "found", "found of six planted"),
            ("real digits", "found", "found of six, real digits"),
            ("prototypes, none planted", "invented", "invented where nothing recurs"),
        ]
        for axes, (glances, column, title) in zip(drawn.subplots(1, 3), kinds, strict=True):
            rows = [r for r in answer if r["glances"] == glances and r["numbers"] == 256]
            colours = ["#2563eb" if r["method"] == "emerging" else "#cbd5e1" for r in rows]
            axes.barh([r["method"] for r in rows], [r[column] for r in rows], color=colours,
                      xerr=[r[column + " sd"] for r in rows], ecolor="#475569")  # fmt: skip
            axes.invert_yaxis()
            axes.set(title=title)
            if axes is not drawn.axes[0]:
                axes.set_yticklabels([])
