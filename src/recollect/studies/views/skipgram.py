"""Skip-gram with negative sampling: vectors of words, and of nodes from random walks.

A pair (centre, context) of words near each other is told from pairs whose context is drawn by
chance, in proportion to count^(3/4): the loss is ``-log s(u.v) - sum_k log s(-u.v_k)``.

References: "Distributed representations of words and phrases and their compositionality"
(Mikolov, Sutskever, Chen, Corrado and Dean, 2013); "DeepWalk: online learning of social
representations" (Perozzi, Al-Rfou and Skiena, 2014).

Shape letters: V rows, m numbers of a vector, T rows in a sequence, n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = ["near_pairs", "neighbours", "skip_gram"]

IntArray = npt.NDArray[np.int64]


def near_pairs(sequences: Sequence[Sequence[int]], window: int) -> IntArray:
    """Return (n, 2) pairs of rows that stand at most ``window`` places apart, both ways.

    Example:
        >>> near_pairs([[1, 2, 3]], 1).tolist()
        [[1, 2], [2, 3], [2, 1], [3, 2]]
    """
    line = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])
    owner = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    ahead = [
        np.stack([line[:-k], line[k:]], 1)[owner[:-k] == owner[k:]]
        for k in range(1, min(window + 1, len(line)))
    ]
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *ahead])
    return np.concatenate([pairs, pairs[:, ::-1]])


def skip_gram(
    sequences: Sequence[Sequence[int]],
    rows: int,
    size: int,
    seed: int,
    *,
    window: int = 4,
    negatives: int = 5,
    epochs: int = 3,
    batch: int = 2048,
    rate: float = 0.02,
    sample: float = 1e-3,
) -> Tensor:
    """Learn a vector for each row from sequences of rows.

    Args:
        sequences: sentences, or walks.
        rows: V.
        size: m.
        seed: of everything random.
        window: how far a context is away at most.
        negatives: contexts drawn by chance for each true one.
        epochs: over the pairs.
        batch: pairs in a step.
        rate: of Adam.
        sample: rows more frequent than this are left out of the sequences by chance, as
            published; 1 keeps all.

    Returns:
        (V, m).

    Raises:
        ValueError: if no two rows stand near each other.
    """
    check_integer("size", size, minimum=1)
    rng = np.random.default_rng(seed_of(seed, "skip-gram"))
    generator = torch.Generator().manual_seed(seed_of(seed, "skip-gram", "weights"))
    counts = np.bincount(np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences]),
                         minlength=rows)  # fmt: skip
    share = counts / max(counts.sum(), 1)
    keep = np.minimum(1, np.sqrt(sample / np.maximum(share, 1e-12)))
    thinned = [[r for r in s if rng.random() < keep[r]] for s in sequences]
    pairs = near_pairs([s for s in thinned if len(s) > 1] or [[0]], window)
    if len(pairs) == 0:
        raise ValueError("skip-gram learns from rows that stand near each other, and found none")
    chance = torch.from_numpy(counts**0.75)
    centre = (torch.rand(rows, size, generator=generator) - 0.5).div_(size).requires_grad_()
    context = torch.zeros(rows, size, requires_grad=True)
    adam = torch.optim.Adam([centre, context], lr=rate)
    for _ in range(epochs):
        for some in np.array_split(rng.permutation(pairs), -(-len(pairs) // batch)):
            here, there = torch.from_numpy(some).T
            drawn = torch.multinomial(chance, len(some) * negatives, True, generator=generator)
            u = F.embedding(here, centre)  # (n, m)
            good = (u * F.embedding(there, context)).sum(1)
            bad = (F.embedding(drawn.view(-1, negatives), context) @ u[:, :, None])[:, :, 0]
            loss = -F.logsigmoid(good).mean() - F.logsigmoid(-bad).sum(1).mean()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return centre.detach()


def neighbours(vectors: Tensor, row: int, k: int) -> list[int]:
    """Return the k rows whose vectors point most nearly the same way."""
    unit = F.normalize(vectors, dim=1)
    alike = unit @ unit[row]
    alike[row] = -2
    return [int(i) for i in alike.topk(k).indices]
