"""The view of look-ups, on a graph: a walk is a glance, its nodes are objects (DeepWalk).

Zachary's karate club, which networkx ships: 34 members, later of two clubs. A memory of walks
tells which members are passed often, and which walks are alike.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect._seeds import seed_of
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, score
from recollect.studies.views.skipgram import skip_gram
from recollect.tracing import capture, trace

__all__ = ["WalkReader", "club", "leave_one_out", "measure", "random_walks"]

DIM, LENGTH = 256, 10


class WalkReader(nn.Module):
    """Looks up the nodes of walks and averages their vectors.

    Args:
        vectors: (V, m).
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.nodes = nn.Embedding(vectors.shape[0], vectors.shape[1], _weight=vectors.clone())

    def forward(self, walks: Tensor) -> Tensor:
        """Return (B, m) means of (B, T) walks."""
        vectors: Tensor = self.nodes(walks)
        return vectors.mean(1)


def club() -> tuple[list[list[int]], Tensor]:
    """Return each member's friends, and the club that each joined.

    Raises:
        ImportError: if networkx is missing.
    """
    try:
        nx = import_module("networkx")
    except ImportError as error:
        raise ImportError("this study walks on networkx's graphs: pip install networkx") from error
    graph = nx.karate_club_graph()
    friends = [sorted(graph.neighbors(n)) for n in range(len(graph))]
    joined = [int(graph.nodes[n]["club"] == "Officer") for n in range(len(graph))]
    return friends, torch.tensor(joined)


def random_walks(friends: list[list[int]], each: int, length: int, seed: int) -> Tensor:
    """Return (V each, length) walks, ``each`` of them from every node."""
    rng = np.random.default_rng(seed_of(seed, "walks"))
    walks = np.zeros((len(friends) * each, length), dtype=np.int64)
    walks[:, 0] = np.tile(np.arange(len(friends)), each)
    for step in range(1, length):
        for w, node in enumerate(walks[:, step - 1].tolist()):
            walks[w, step] = friends[node][rng.integers(len(friends[node]))]
    return torch.from_numpy(walks)


def leave_one_out(vectors: Tensor, labels: Tensor, k: int = 3) -> float:
    """Return how often the k nearest others tell a node's label."""
    unit = F.normalize(vectors, dim=1)
    alike = unit @ unit.T - 2 * torch.eye(len(unit))
    near = labels[alike.topk(k, 1).indices].float().mean(1) > 0.5
    return float((near.long() == labels).float().mean())


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Learn node vectors from walks, let a memory watch other walks; return the view's row."""
    friends, joined = club()
    learn = random_walks(friends, 20 if quick else 60, LENGTH, seed)
    vectors = skip_gram(learn.tolist(), len(friends), 16, seed, epochs=6, batch=512, sample=1.0)
    network = WalkReader(vectors).eval()
    asked = random_walks(friends, 8 if quick else 24, LENGTH, seed + 1)
    names = [f"member {n}" for n in range(len(friends))]
    past, now = (trace(network, w, view="lookups", names=names) for w in (learn[:300], asked))
    labels = joined[asked].float().mean(1).gt(0.5).long().numpy()
    right = leave_one_out(vectors, joined)
    common = float(torch.bincount(joined).max()) / len(joined)
    with torch.no_grad():
        raw = network(asked)
    return score(
        "walks", past, now, [Likeness(labels, raw)], dim=DIM, seed=seed,
        overhead=overhead_of(
            network, asked, partial(capture, network, view="lookups", names=names)
        ),
        notes=f"DeepWalk on the karate club; the club told by the three nearest members "
        f"{right:.3f}, the larger one {common:.3f}; label: where most of a walk is; raw: mean "
        "vectors; attributes are constant, one vector for each member",
    )  # fmt: skip
