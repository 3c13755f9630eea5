"""Directions along which a few glances stand out: a thing that they share, in whatever company.

Glances that hold the same thing need not be alike as wholes: what else they show, the light, and
how much of it there is may differ more than the thing itself. But they stand out along one
direction, where all others are much the same. With the centred vectors reduced to their leading
r principal components and whitened, z, the height of a direction w of length one is

    h_m(w) = the m-th largest of the n projections <w, z>:

m glances are at least so far out, and no single one can lift it. The direction is climbed to by
turning, again and again, to where the lowest of the m glances that are farthest out stands
highest: the point of their convex hull that is nearest to the origin.

What height chance reaches is told by worlds that the same climb is let loose on: the same
vectors, each turned in a random direction of its own, so that glances are as unusual as they are
but share no direction; and, where there are any, worlds whose glances are put together at random
from blocks (``recall.chance``). Those glances must also stand *apart*: along the direction found,
the m-th is further from the middle, in mean distances of those between, than in worlds whose
components have exponential tails, for of anything a few glances have more than usual.
Largest heights have nearly a Gumbel distribution; it is fitted to the worlds and read at the
level asked for.

How many components are kept is told by parallel analysis, in two ways (``leading``): those longer
than with each column shuffled; in sketches every number is a mixture of all that was seen.

References: "A projection pursuit algorithm for exploratory data analysis" (Friedman and Tukey,
1974); "A rationale and test for the number of factors in factor analysis" (Horn, 1965).

Shape letters: n glances, d numbers of a vector, r components, k directions, m members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of

__all__ = ["Direction", "directions_of", "highest", "leading"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
World = Callable[[int], npt.NDArray[np.floating]]

# Components at most; glances among which directions are looked for, at most.
MOST, JUDGED = 12, 4096
# Worlds of each kind, shuffles of parallel analysis, directions that are climbed from, steps.
WORLDS, SHUFFLES, STARTS, STEPS, HULL = 48, 3, 256, 8, 12
# One in so many glances is no exception any more.
COMMON = 8
# Rows that tell how many components there are.
RANKED = 512
_EULER = 0.5772156649015329


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction along which some glances stand out.

    Attributes:
        vector: (d,); how far out x is, in usual deviations of all, is ``vector @ x - offset``.
        offset: see above.
        cut: from which amount on a glance stands out.
        height: how many times higher than by chance at the level asked for.
    """

    vector: FloatArray
    offset: float
    cut: float
    height: float

    def amounts(self, vectors: npt.NDArray[np.floating]) -> FloatArray:
        """Return how far out (n, d) vectors are, (n,)."""
        found: FloatArray = np.asarray(vectors, np.float64) @ self.vector - self.offset
        return found

    def has(self, vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Return which of (n, d) vectors stand out, (n,)."""
        return self.amounts(vectors) > self.cut


def directions_of(
    vectors: npt.NDArray[np.floating],
    members: int,
    chance: float,
    seed: int,
    worlds: Iterable[World] = (),
    count: int | None = None,
) -> list[Direction]:
    """Return the directions along which m glances or more stand out, the clearest first.

    Args:
        vectors: (n, d), centred.
        members: m, fewest glances; groups of 2 m, 4 m, ... up to n / 8 are looked for as well.
        chance: of finding anything where nothing recurs.
        seed: of the draws.
        worlds: further worlds in which nothing recurs.
        count: glances in all, where these are a sample of them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> light = rng.standard_normal((90, 3)) @ rng.standard_normal((3, 64))
        >>> x = light + 0.3 * rng.standard_normal((90, 64))
        >>> x[:6] += rng.uniform(0.7, 1.3, (6, 1)) * rng.standard_normal(64)
        >>> found = directions_of(x - x.mean(0), members=5, chance=0.01, seed=0)
        >>> np.flatnonzero(found[0].has(x - x.mean(0))).tolist()
        [0, 1, 2, 3, 4, 5]
    """
    n = len(vectors)
    rows = np.arange(n)
    if n > JUDGED:
        rows = np.sort(np.random.default_rng(seed).permutation(n)[:JUDGED])
    some = np.asarray(vectors[rows], np.float64)
    mean = some.mean(0)
    axes, ranks = leading(some - mean, seed)
    found: list[Direction] = []
    for r in ranks:
        x = (some - mean) @ axes[:, :r]
        judge = _Judge.of(x, axes[:, :r], members, n, chance / len(ranks), seed, worlds, rows)
        for direction, height in judge.found():
            found.append(_read(x, axes[:, :r], direction, mean, count or n, height))
    out: list[Direction] = []
    taken: list[npt.NDArray[np.bool_]] = []
    for one in sorted(found, key=lambda d: -d.height):
        far = one.has(vectors)
        if far.sum() >= members and not any(_same(far, other) for other in taken):
            out.append(one)
            taken.append(far)
    return out


@dataclass(frozen=True, eq=False)
class _Judge:
    """What is found among whitened components, and what chance allows.

    Attributes:
        z: (n, r), whitened.
        sizes: numbers of glances that are looked for.
        level: (sizes,) heights that chance reaches.
        apart: (sizes,) distances that tails reach.
    """

    z: FloatArray
    sizes: list[int]
    level: FloatArray
    apart: FloatArray

    @classmethod
    def of(
        cls, x: FloatArray, basis: FloatArray, members: int, count: int, chance: float, seed: int,
        worlds: Iterable[World], rows: IntArray,
    ) -> _Judge:  # fmt: skip
        """Let worlds tell what chance allows."""
        z = _white(x)
        sizes = _sizes(members, len(rows), count)
        each = chance / len(sizes)
        level = _thresholds(z, basis, sizes, each, seed, worlds, rows)
        return cls(z, sizes, level, _apart_by_chance(z.shape, sizes, each, seed))

    def found(self) -> Iterator[tuple[FloatArray, float]]:
        """Yield directions, each at right angles to those before, and how high they are."""
        free = np.eye(self.z.shape[1])
        while free.shape[1]:
            climbed = [highest(self.z @ free, m) for m in self.sizes]
            best = int(np.argmax([h / t for (h, _), t in zip(climbed, self.level, strict=True)]))
            height, turned = climbed[best]
            if height < self.level[best]:
                return
            direction = free @ turned
            if _apart(self.z @ direction, self.sizes[best]) >= self.apart[best]:
                yield direction, float(height / self.level[best])
            free = free @ np.linalg.svd(turned[:, None])[0][:, 1:]


def _read(
    x: FloatArray,
    basis: FloatArray,
    direction: FloatArray,
    mean: FloatArray,
    count: int,
    height: float,
) -> Direction:
    """Return how a direction among the whitened components is read from a vector.

    Of the glances that do not stand out, half a one is taken for one that does.
    """
    _, s, v = np.linalg.svd(x, full_matrices=False)
    vector = basis @ (v.T @ (direction / s)) * len(x) ** 0.5
    y = x @ (basis.T @ vector)
    middle = float(np.median(y))
    usual = max(1.4826 * float(np.median(np.abs(y - middle))), 1e-12)
    offset = (float(mean @ vector) + middle) / usual
    return Direction(vector / usual, offset, NormalDist().inv_cdf(1 - 0.5 / count), height)


def leading(centred: FloatArray, seed: int) -> tuple[FloatArray, list[int]]:
    """Return leading directions of (n, d) rows, (d, r), and how many are longer than by chance.

    Either each is compared with the rows as they are, columns shuffled, or with what is left of
    them without those before it: strong components hide weak ones from the first comparison, and
    the second takes in more than there are. Both numbers are returned, where they differ.
    """
    n, d = centred.shape
    values, axes = np.linalg.eigh(centred @ centred.T if d > n else centred.T @ centred)
    axes = axes[:, ::-1] if d <= n else centred.T @ axes[:, ::-1]
    most = min(MOST, n // 4, d)
    axes = axes[:, :most] / np.maximum(np.linalg.norm(axes[:, :most], axis=0), 1e-300)
    left = centred[:: -(-n // RANKED)]
    usual = _shuffled(left, most, seed, 0)
    ranks = [0, 0]
    for r in range(most):
        if values[-1 - r] <= 1e-9 * values[-1]:
            break
        longest = float(np.square(left @ axes[:, r]).sum())
        if ranks[0] == r and longest > usual[r]:
            ranks[0] += 1
        if longest <= _shuffled(left, 1, seed, r)[0]:
            break
        ranks[1] += 1
        left = left - np.outer(left @ axes[:, r], axes[:, r])
    ranks = sorted(set(ranks) - {0})
    return axes[:, : max(ranks, default=0)], ranks


def _shuffled(rows: FloatArray, most: int, seed: int, step: int) -> FloatArray:
    """Return how long the leading components of rows are with each column shuffled, (most,)."""
    usual = np.zeros(most)
    for b in range(SHUFFLES):
        rng = np.random.default_rng(seed_of(seed, "emerging", "shuffled", step, b))
        mixed = rng.permuted(rows, axis=0)
        square = mixed @ mixed.T if mixed.shape[1] > len(mixed) else mixed.T @ mixed
        top = np.linalg.eigvalsh(square)[::-1][:most]
        usual[: len(top)] = np.maximum(usual[: len(top)], top)
    return usual


def _white(x: FloatArray) -> FloatArray:
    """Return (n, r) rows with mean zero and the identity for covariance."""
    x = x - x.mean(0)
    u = np.linalg.svd(x, full_matrices=False)[0]
    white: FloatArray = u * len(x) ** 0.5
    return white


def _sizes(members: int, judged: int, count: int) -> list[int]:
    """Return the sizes of groups that are looked for among the glances that are judged."""
    least = max(-(-members * judged // count), 3)
    sizes = [least]
    while 2 * sizes[-1] <= judged // COMMON:
        sizes.append(2 * sizes[-1])
    return sizes


def highest(z: FloatArray, members: int) -> tuple[float, FloatArray]:
    """Climb to the direction along which m rows stand highest; return its height and itself.

    Args:
        z: (n, r), whitened.
        members: m.
    """
    starts = z[:: -(-len(z) // STARTS)]
    length = np.linalg.norm(starts, axis=1)
    if not (length > 0).any():
        return 0.0, np.eye(z.shape[1])[0]
    w = starts[length > 0] / length[length > 0, None]
    best, found = -np.inf, w[0]
    for _ in range(STEPS):
        y = z @ w.T
        top = np.argpartition(-y, members - 1, axis=0)[:members].T
        height = np.take_along_axis(y.T, top, 1).min(1)
        k = int(height.argmax())
        if height[k] > best:
            best, found = float(height[k]), w[k]
        w = _nearest_to_origin(z[top])
        w = w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-12)
    return best, found


def _nearest_to_origin(corners: FloatArray) -> FloatArray:
    """Return the points of k convex hulls of (k, m, r) corners nearest to the origin, (k, r).

    Some steps of the method of Frank and Wolfe, from the middle: near enough to climb by.
    """
    point: FloatArray = corners.mean(1)
    rows = np.arange(len(corners))
    for _ in range(HULL):
        lowest = np.einsum("kmr,kr->km", corners, point).argmin(1)
        away = corners[rows, lowest] - point
        square = np.maximum(np.square(away).sum(1), 1e-12)
        step = np.clip(-(point * away).sum(1) / square, 0.0, 1.0)
        point = point + step[:, None] * away
    return point


def _thresholds(
    z: FloatArray,
    basis: FloatArray,
    sizes: list[int],
    chance: float,
    seed: int,
    worlds: Iterable[World],
    rows: IntArray,
) -> FloatArray:
    """Return the height that each size of group has with no more than a chance, (sizes,)."""
    radius = np.linalg.norm(z, axis=1)

    def turned(b: int) -> FloatArray:
        rng = np.random.default_rng(seed_of(seed, "emerging", "turned", b))
        drawn: FloatArray = rng.standard_normal(z.shape)
        out: FloatArray = drawn * (radius / np.linalg.norm(drawn, axis=1))[:, None]
        return out

    def projected(world: World) -> Callable[[int], FloatArray]:
        return lambda b: np.asarray(world(b)[rows], np.float64) @ basis

    level = np.zeros(len(sizes))
    for kind in (turned, *(projected(w) for w in worlds)):
        heights = np.array(
            [
                [highest(white, m)[0] for m in sizes]
                for white in map(_white, map(kind, range(WORLDS)))
            ]
        )
        level = np.maximum(level, _gumbel(heights, chance))
    return level


def _apart_by_chance(
    shape: tuple[int, ...], sizes: list[int], chance: float, seed: int
) -> FloatArray:
    """Return how far apart the m-th glance stands where tails are exponential, (sizes,)."""
    found = np.zeros((WORLDS, len(sizes)))
    for b in range(WORLDS):
        rng = np.random.default_rng(seed_of(seed, "emerging", "tails", b))
        z = _white(rng.standard_exponential(shape))
        found[b] = [_apart(z @ highest(z, m)[1], m) for m in sizes]
    return _gumbel(found, chance)


def _apart(y: FloatArray, members: int) -> float:
    """Return how far the m-th largest is from the middle, in mean distances of those between."""
    middle, height = float(np.median(y)), float(np.partition(y, -members)[-members])
    between = y[(y > middle) & (y < height)]
    usual = float((between - middle).mean()) if len(between) else height - middle
    return (height - middle) / max(usual, 1e-12)


def _gumbel(heights: FloatArray, chance: float) -> FloatArray:
    """Return what the largest of a world exceeds with a chance, from (B, sizes) worlds."""
    scale = heights.std(0, ddof=1) * 6**0.5 / np.pi
    middle = heights.mean(0) - _EULER * scale
    level = middle - scale * np.log(-np.log1p(-chance))
    return np.asarray(level, np.float64)


def _same(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> bool:
    """Whether most of what either holds is in both."""
    return int((a & b).sum()) > 0.5 * int((a | b).sum())
