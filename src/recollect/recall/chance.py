"""How alike glances are by chance: worlds in which nothing recurs but what each module shows.

Two such worlds are made, and the stricter one sets the threshold.

* *Blocks*: each module's objects, with all that they were made from, are drawn from a glance kept
  whole of their own, so that every module shows what it usually shows as often as it does, and
  what goes together goes together by chance only.
* *Cloud*: random mixtures of all glances, one normal distribution with the mean and the
  covariance that the memory has. Where all modules fire in every glance and depend on one
  another, blocks would call everything recurrent; the cloud takes that as usual.

A glance of few objects is often met by chance, one of many hardly ever, so every glance has a
threshold of its own. Among n glances of such a world, each drawn independently, the number of
those that are as similar to it as s is binomial with a mean lambda(s). It has m - 1 of them by
chance with

    P(Poisson(lambda) >= m - 1) = chance / n,

which fixes lambda, and its threshold is the similarity s with that lambda, read off worlds enough
that at least six of their glances lie beyond it. So with probability 1 - chance no glance of a
memory in which nothing recurs passes.

Shape letters: n glances, d numbers of a sketch, B worlds, R glances kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of
from recollect.recall.recurring import Codes, nearest_among, rounded

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.tracing import Trace

__all__ = [
    "Threshold",
    "block_worlds",
    "chosen_threshold",
    "cloud_worlds",
    "expected_by_chance",
    "fewest_members",
]

FloatArray = npt.NDArray[np.float64]
World = Callable[[int], npt.NDArray[np.floating]]


# Glances of the worlds beyond a threshold that is read off them.
_BEYOND = 6
# Most worlds of a kind; how many are made where the size of a group is not given, and how many
# glances are so few that more are. Larger groups are told from chance by fewer worlds
# and at lower thresholds.
_MOST, _FEW, _SMALL = 64, 5, 200
# Glances whose usual core similarity is looked up.
_JUDGED = 512


@dataclass(frozen=True, eq=False)
class Threshold:
    """From which similarity on something recurs.

    Attributes:
        cosine: (n,) threshold of each glance.
        excess: by how much a threshold stands above the usual core similarity, in the middle.
        worlds: kind of world -> middle threshold in it.
        count: worlds of each kind.
    """

    cosine: FloatArray
    excess: float
    worlds: dict[str, float]
    count: int


def expected_by_chance(glances: int, members: int, chance: float) -> float:
    """Return the mean number of alike glances of which m - 1 have probability chance / n.

    >>> round(expected_by_chance(900, 8, 0.01), 2)
    0.72
    """
    wanted, low, high = chance / max(glances, 1), 0.0, float(members)
    for _ in range(60):
        middle = (low + high) / 2
        terms = np.cumprod(np.r_[1.0, middle / np.arange(members, members + 40)])
        tail = np.exp(-middle) * middle ** (members - 1) / factorial(members - 1) * terms.sum()
        low, high = (middle, high) if tail < wanted else (low, middle)
    return low


def fewest_members(glances: int, chance: float) -> int:
    """Return the smallest group, 5 or more, that few worlds tell from chance.

    >>> fewest_members(78, 0.01), fewest_members(20_000, 0.01)
    (5, 12)
    """
    members, worlds = 5, _FEW if glances > _SMALL else _MOST // 2
    while expected_by_chance(glances, members, chance) * worlds < _BEYOND:
        members += 1
    return members


def chosen_threshold(
    codes: Codes, worlds: dict[str, World], members: int, chance: float
) -> Threshold:
    """Choose the thresholds of (n, d) glances from worlds in which nothing recurs.

    Args:
        codes: the glances, int8.
        worlds: kind -> makes world number b, (n, d) vectors.
        members: m, of the smallest group.
        chance: that a memory in which nothing recurs shows something.

    Raises:
        ValueError: if so few members among so many glances cannot be told from chance.
    """
    n = len(codes)
    mean = expected_by_chance(n, members, chance)
    count = int(np.ceil(_BEYOND / mean))
    if count > _MOST:
        raise ValueError(
            f"{members} glances that are alike among {n:,} cannot be told from chance; say "
            f"at_least={fewest_members(n, chance)} or more, or choose fewer glances"
        )
    keep = int(mean * count)
    judged = codes[:: -(-n // _JUDGED)]
    cosine, usual, middle = np.full(n, -1.0), np.full(len(judged), -1.0), {}
    drawn = {name: [rounded(world(b)) for b in range(count)] for name, world in worlds.items()}
    for name, glances in drawn.items():
        # A world that is the stricter one for no glance looked at is not asked about the others.
        if len(drawn) == 1 or _is_strict(judged, drawn, name, keep):
            cosine = np.maximum(cosine, _beyond(codes, glances, keep))
        middle[name] = float(np.median(_beyond(judged, glances, keep)))
        usual = np.maximum(usual, nearest_among(judged, glances[0], members - 1)[:, -1])
    excess = float(np.median(cosine[:: -(-n // _JUDGED)] - usual))
    return Threshold(cosine, max(excess, 0.0), middle, count)


def _beyond(codes: Codes, worlds: list[Codes], keep: int) -> FloatArray:
    """Return the similarity beyond which each glance has ``keep`` of all worlds' glances, (n,)."""
    best = np.full((len(codes), keep), -1.0)
    for drawn in worlds:
        best = -np.sort(-np.c_[best, nearest_among(codes, drawn, keep)], axis=1)[:, :keep]
    return np.asarray(best[:, -1])


def _is_strict(judged: Codes, drawn: dict[str, list[Codes]], name: str, keep: int) -> bool:
    """Whether a kind of world sets the threshold of any glance that is looked at."""
    found = {other: _beyond(judged, worlds, keep) for other, worlds in drawn.items()}
    rest = np.max([v for other, v in found.items() if other != name], axis=0)
    return bool((found[name] > rest - 0.02).any())


def cloud_worlds(vectors: npt.NDArray[np.floating], seed: int) -> World:
    """Return worlds of one normal cloud with the covariance of centred (n, d) vectors."""
    n = len(vectors)
    chosen = vectors[:: -(-n // 4096)] if n else vectors

    def world(b: int) -> npt.NDArray[np.floating]:
        rng = np.random.default_rng(seed_of(seed, "emerging", "cloud", b))
        out = np.empty((n, vectors.shape[1]), np.float32)
        for start in range(0, n, 4096):
            mix = rng.standard_normal((min(4096, n - start), len(chosen)), dtype=np.float32)
            out[start : start + 4096] = mix @ chosen / len(chosen) ** 0.5
        return out

    return world


def block_worlds(memory: Memory, trace: Trace, count: int, dim: int, seed: int) -> World | None:
    """Return worlds whose glances are put together from blocks of a sample of glances.

    A block is what one module (or one family that is always there) has on top in one glance,
    with all inputs below. Sketches add, so a world's glance is the sum of its blocks' sketches.

    Args:
        memory: whose sketcher encodes them.
        trace: the sample.
        count: n, glances of a world.
        dim: numbers of each sketch that are compared.
        seed: of the draws.

    Returns:
        None if there is one block only, which cannot go together with anything.
    """
    images = _block_images(memory, trace, dim)
    if len(images) < 2:
        return None

    def world(b: int) -> npt.NDArray[np.floating]:
        rng = np.random.default_rng(seed_of(seed, "emerging", "blocks", b))
        out = np.zeros((count, dim), np.float32)
        for image in images:
            out += image[rng.integers(0, len(image), count)]
        centred: npt.NDArray[np.floating] = out - out.mean(0)
        return centred

    return world


def _block_images(memory: Memory, trace: Trace, dim: int) -> list[npt.NDArray[np.float32]]:
    """Return what each block contributes to the sketches of a sample, (R, d) each."""
    split = {c.name for c in trace.columns.values() if not c.is_dense(len(trace))}
    blocks: dict[str, npt.NDArray[np.float32]] = {}
    for path, part in memory.sketcher.parts(trace, split).items():
        name = path[0] if path else ""
        image = part[:, :dim].detach().cpu().numpy().astype(np.float32)
        if path:
            blocks[name] = blocks[name] + image if name in blocks else image
        elif memory.recipe.scheme == "paper":
            blocks[""] = image
    if memory.recipe.scheme != "paper":
        for name, image in _count_images(memory, trace, split).items():
            blocks[name] = blocks[name] + image[:, :dim] if name in blocks else image[:, :dim]
    return [blocks[name] for name in sorted(blocks) if np.any(blocks[name])]


def _count_images(
    memory: Memory, trace: Trace, split: set[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the counts' share of each block, block -> (R, d)."""
    encoder = memory.sketcher.encoder()
    out: dict[str, npt.NDArray[np.float32]] = {}
    for c in trace.columns.values():
        tops = [p[0] for p in trace.paths(c.glance, c.rank)]
        family_of = {m: k.name for k in trace.columns.values() for m in k.members}
        named = [t if family_of[t] in split else family_of[t] for t in tops]
        for name in sorted(set(named)):
            rows = np.flatnonzero([n == name for n in named])
            counts = np.zeros((len(trace), len(c.members)), np.float32)
            np.add.at(counts, (c.glance[rows], c.member[rows]), 1.0)
            image = encoder.count_image({c.name: (c.members, counts)}, len(trace))
            found = image.detach().cpu().numpy().astype(np.float32)
            out[name] = out[name] + found if name in out else found
    return out
