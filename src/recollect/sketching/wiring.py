"""Wiring: which module feeds which, learned from recursive sketches alone.

The operators are unknown, so every column of the map from attributes to sketch is a *composite*
one: path and place together, without a name. Three facts make the wiring readable:

* Sources are sparse. A row of numbers ``x_i`` (one for each glance) that most glances leave at
  zero is the sparsest vector in its neighbourhood of the row space of the sketches. Sources need
  not be independent or uncorrelated, as independent component analysis has it: what fires
  together is what we look for. Single directions are searched with a contrast that narrows, then
  by turns projected onto the row space and set to zero where they are small; a basis is chosen
  greedily, sparsest first.
* Counts are whole numbers. The number of objects of a module, ``n_M``, is in the row space too,
  because the count block carries one column for each object. It is found by turns of projecting
  and rounding, and names a module on all the paths on which it stands.
* An input fires only where its parent does. A source whose glances all hold modules p and q, where
  q has sources of its own that need no other module, is an attribute of p under q: an edge.

What firing cannot tell is listed and not guessed: modules that always come together, and modules
of which too few sources were found.

Reference: "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, 2019) for
the task; sparsest vectors in a row space are those of "Exact recovery of sparsely-used
dictionaries" (Spielman, Wang and Wright, 2012); our own reading of the counts and of the edges.

Shape letters: S sketches, d numbers in a sketch, r directions of the row space, K sources,
P modules, n starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = ["Edge", "Wiring", "recover_wiring"]

# Widths of the contrast (in deviations) and steps at each, then thresholds of the polishing.
CONTRASTS = ((1.0, 8), (0.5, 8))
THRESHOLDS = (0.15, 0.15, 0.1, 0.1, 0.06, 0.06, 0.06)
# Turns of projecting and rounding; how far (relative) a whole-numbered row may be from the space.
ROUNDINGS, WHOLE = 25, 0.03
# A source's entries below this share of its large ones are zero.
ZERO = 0.05
# Share of a source's active glances that may lie where a module was not seen.
TOLERANCE = 0.02
# Eigenvalues fall by this factor at least where the sketches end and rounding begins.
GAP = 4.0
# Active glances below which a source is not used to say who feeds whom.
LEAST_ACTIVE = 20


@dataclass(frozen=True)
class Edge:
    """One edge of the recovered wiring.

    Attributes:
        parent: number of the module that is fed.
        child: number of the module that feeds it.
        sources: attributes of the child under this parent that were found.
        glances: glances in which one of them was active.
        chance: probability that modules that have nothing to do with each other look so: the
            parent's share of glances to the power of ``glances``, for any of all pairs.
    """

    parent: int
    child: int
    sources: int
    glances: int
    chance: float


@dataclass(frozen=True, eq=False)
class Wiring:
    """What was learned of a modular network from its sketches; modules are numbers.

    Attributes:
        counts: (S, P) objects of each module in each glance, whole numbers.
        sources: (S, K) attributes, without scale.
        columns: (d, K) composite columns of the attributes, for unit sources.
        count_columns: (d, P).
        owner: (K,) module that a source belongs to, -1 if none was found.
        parent: (K,) module that it feeds, -1 at the top.
        directions: r, what the sketches vary in: attributes and counts together.
    """

    counts: Tensor
    sources: Tensor
    columns: Tensor
    count_columns: Tensor
    owner: Tensor
    parent: Tensor
    directions: int

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The edges, surest first."""
        found = []
        share = (self.counts > 0).to(torch.float64).mean(0)
        pairs = max(1, self.counts.shape[1] ** 2)
        linked = set(zip(self.parent.tolist(), self.owner.tolist(), strict=True))
        for q, p in sorted(linked):
            if q < 0 or p < 0:
                continue
            own = (self.parent == q) & (self.owner == p)
            glances = int((self.sources[:, own] != 0).any(1).sum())
            chance = min(1.0, pairs * float(share[q]) ** glances)
            found.append(Edge(q, p, int(own.sum()), glances, chance))
        return tuple(sorted(found, key=lambda e: (e.chance, -e.glances)))

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """What cannot be told, in words: exact about which modules and why."""
        said = []
        fires = self.counts > 0
        for p in range(fires.shape[1]):
            said += [
                f"modules {p} and {q} fire in the same glances: who feeds whom cannot be told"
                for q in range(p)
                if bool((fires[:, p] == fires[:, q]).all())
            ]
            if not bool((self.owner == p).any()):
                said.append(f"of module {p} no attribute was found: its edges cannot be told")
        lost = int((self.owner < 0).sum())
        if lost:
            said.append(f"{lost} sources belong to no module that was found")
        missing = self.directions - self.sources.shape[1] - self.counts.shape[1]
        if missing > 0:
            said.append(f"{missing} of {self.directions} directions were not explained")
        return tuple(said)


def recover_wiring(
    sketches: Tensor, *, seed: int = 0, starts: int = 300, rounds: int = 6
) -> Wiring:
    """Recover modules, their attributes and who feeds whom from sketches of two levels.

    The sketches are of the energy scheme, int8 or finer, of dim clearly above the number of
    composite columns. Attributes must not be negative (as behind a rectifier) and be zero in most
    glances; which modules fire must vary.

    Args:
        sketches: (S, d), S at least eight times the directions they vary in.
        seed: of the starts.
        starts: searches in each round.
        rounds: at most.

    Returns:
        The wiring, with ``edges`` and ``doubts``.

    Raises:
        ValueError: if the sketches are too few, all alike, or vary in all their numbers.
    """
    check_integer("starts", starts, minimum=1)
    check_integer("rounds", rounds, minimum=1)
    s = sketches.to(torch.float64)
    white, directions = _whitened(s)
    generator = torch.Generator().manual_seed(seed_of(seed, "wiring"))
    sources = torch.zeros(len(s), 0)
    counts = torch.zeros(len(s), 0)
    whole = counts
    for _ in range(rounds):
        tried = _searched(white, torch.cat([sources, whole], 1), starts, generator)
        polished = _polished(white, tried)
        whole = _distinct(torch.cat([whole, _whole(white, _active(polished))], 1))
        before = sources.shape[1]
        sources = _sparsest(torch.cat([sources, _one_signed(polished)], 1), whole, directions)
        tried = torch.cat([_active(sources), _around(white, sources)], 1)
        around = _whole(white, tried)
        whole = torch.unique(torch.cat([whole, around], 1), dim=1)
        counts = _modules(whole, sources)
        if sources.shape[1] + counts.shape[1] >= directions and sources.shape[1] == before:
            break
    return _wired(s, sources, counts, directions)


def _whitened(s: Tensor) -> tuple[Tensor, int]:
    """Return an orthonormal basis (S, r) of the row space, float32, and r."""
    values, vectors = torch.linalg.eigh(s.T @ s / len(s))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if float(values[0]) <= 0 or len(s) < 16:
        raise ValueError(
            f"{len(s)} sketches are too few to recover a wiring, or all are zero: some thousand "
            "varied ones are needed, eight times the composite columns or more"
        )
    noise = values.clamp_min(float(values[0]) * 1e-12)
    ratio = noise[:-1] / noise[1:]
    directions = int(ratio.argmax()) + 1
    if float(ratio.max()) < GAP:
        raise ValueError(
            "the sketches vary in all their numbers: no line can be drawn between attributes and "
            "rounding; use a larger dim or a finer dtype, or fewer modules"
        )
    if len(s) < 8 * directions:
        raise ValueError(
            f"{len(s)} sketches are too few to recover a wiring of {directions} directions: at "
            f"least {8 * directions} are needed"
        )
    basis = s @ (vectors[:, :directions] * (values[:directions] * len(s)).rsqrt())
    return basis.to(torch.float32), directions


def _searched(white: Tensor, known: Tensor, starts: int, generator: torch.Generator) -> Tensor:
    """Return (S, n) promising rows, each found from what one glance has that is not known yet."""
    picked = torch.randperm(len(white), generator=generator)[:starts]
    w = white[picked]
    if known.shape[1]:
        own = torch.linalg.qr(white.T @ known).Q  # (r, k)
        w = w - w @ own @ own.T
    root = len(white) ** 0.5
    w = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
    for width, steps in CONTRASTS:
        for _ in range(steps):
            y = white @ w.T * (root / width)
            bell = torch.exp(-y.square() / 2)
            slope = ((1 - y.square()) * bell).mean(0) / width
            w = (y * bell).T @ white / root - slope[:, None] * w
            w = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found: Tensor = white @ w.T
    return found


def _polished(white: Tensor, rows: Tensor) -> Tensor:
    """Set small entries to zero and project, by turns, (S, n)."""
    for threshold in THRESHOLDS:
        kept = torch.where(rows.abs() < threshold * _large(rows), 0.0, rows)
        rows = white @ (white.T @ kept)
        rows = rows / rows.norm(dim=0).clamp_min(1e-12)
    return rows * torch.sign(rows.sum(0))


def _one_signed(rows: Tensor) -> Tensor:
    """Return the rows that are zero mostly and never clearly negative."""
    active = rows.abs() > ZERO * _large(rows)
    against = (active & (rows < 0)).sum(0) / active.sum(0).clamp_min(1)
    return rows[:, (against < TOLERANCE) & (active.to(torch.float32).mean(0) < 0.5)]


def _large(rows: Tensor) -> Tensor:
    """The size of each row's large entries, (n,): exceeded by one in two hundred."""
    return torch.quantile(rows.abs(), 0.995, dim=0).clamp_min(1e-12)


def _active(rows: Tensor) -> Tensor:
    """Return ones where rows are clearly positive, (S, n)."""
    return (rows > ZERO * _large(rows)).to(torch.float32)


def _around(white: Tensor, sources: Tensor) -> Tensor:
    """Guess where the module of each source fires: there its activity is half foretold, (S, K).

    The projection of a source's activity onto the row space holds some of its module's count,
    which stands out where the module fires and this source is zero.
    """
    active = _active(sources)
    foretold = white @ (white.T @ active)
    quiet = torch.where(active > 0, torch.full_like(foretold, float("nan")), foretold)
    height = torch.nanquantile(quiet, 0.97, dim=0)
    return ((foretold > 0.5 * height) | (active > 0)).to(torch.float32)


def _whole(white: Tensor, t: Tensor) -> Tensor:
    """Project and round to 0, 1, 2, 3 by turns; return the rows that stay, (S, n).

    Args:
        white: (S, r).
        t: (S, n) zeros and ones to start from.
    """
    for _ in range(ROUNDINGS):
        p = white @ (white.T @ t)
        height = (p * t).sum(0) / t.square().sum(0).clamp_min(1)
        t = (p / height.clamp_min(1e-6)).round().clamp(0, 3)
    p = white @ (white.T @ t)
    off = (p - t).norm(dim=0) / t.norm(dim=0).clamp_min(1)
    varies = (t > 0).to(torch.float32).mean(0)
    return t[:, (off < WHOLE) & (varies > 0.005) & (varies < 0.98)]


def _distinct(rows: Tensor) -> Tensor:
    """Leave out rows that are sums of sparser ones."""
    order = torch.argsort((rows > 0).sum(0) + rows.sum(0) / 1e3)
    return rows[:, _independent(rows[:, order], order, 0.05)]


def _modules(whole: Tensor, sources: Tensor) -> Tensor:
    """Choose the whole-numbered rows that are counts of modules.

    Differences of counts (a parent's glances without one of its inputs) are whole numbers too,
    but no source is confined to them; sums are the last to be chosen.
    """
    i, j = torch.triu_indices(whole.shape[1], whole.shape[1], 1)
    pool = torch.cat([whole, whole[:, i] + whole[:, j]], 1)
    pool = pool[:, torch.argsort((pool > 0).sum(0), stable=True)]
    confined = _inside(sources, pool) >= 1 - TOLERANCE  # (K, n)
    told = torch.zeros(len(confined), dtype=torch.bool)
    chosen: list[int] = []
    for number in range(pool.shape[1]):
        if int((confined[:, number] & ~told).sum()) >= 2:
            chosen.append(number)
            told |= confined[:, number]
    return _distinct(pool[:, chosen])


def _inside(sources: Tensor, counts: Tensor) -> Tensor:
    """Return the share of each source's active glances in which a module fires, (K, P)."""
    active = _active(sources) if sources.shape[1] else sources
    fires = (counts > 0).to(torch.float32)
    return (active.T @ fires) / active.sum(0).clamp_min(1)[:, None]


def _sparsest(rows: Tensor, counts: Tensor, directions: int) -> Tensor:
    """Choose an independent set, sparsest first; rows that counts explain are left out."""
    zero = (rows.abs() < ZERO * _large(rows)).to(torch.float32).mean(0)
    order = torch.argsort(-zero)
    chosen = _independent(rows[:, order], order, 0.2, counts)
    return rows[:, chosen[: max(0, directions - counts.shape[1])]]


def _independent(
    rows: Tensor, order: Tensor, least: float, known: Tensor | None = None
) -> list[int]:
    """Return which rows (numbers from ``order``) are not explained by those before them."""
    count = 0 if known is None else known.shape[1]
    q = torch.zeros(len(rows), count + rows.shape[1])
    if known is not None and count:
        q[:, :count] = torch.linalg.qr(known).Q
    chosen = []
    for column, number in zip(rows.T, order.tolist(), strict=True):
        rest = column / column.norm().clamp_min(1e-12)
        for _ in range(2):
            rest = rest - q[:, :count] @ (q[:, :count].T @ rest)
        if float(rest.norm()) > least:
            q[:, count] = rest / rest.norm()
            count += 1
            chosen.append(number)
    return chosen


def _wired(s: Tensor, sources: Tensor, counts: Tensor, directions: int) -> Wiring:
    """Say which module a source belongs to and which it feeds."""
    active = sources > ZERO * _large(sources)
    enough = active.sum(0) >= LEAST_ACTIVE
    cover = (_inside(sources, counts) >= 1 - TOLERANCE) & enough[:, None]  # (K, P)
    owner = torch.full((sources.shape[1],), -1, dtype=torch.int64)
    parent = owner.clone()
    alone = cover.sum(1) == 1
    tops = set(cover[alone].to(torch.int64).argmax(1).tolist())
    for k in range(len(owner)):
        modules = torch.nonzero(cover[k])[:, 0].tolist()
        below = [p for p in modules if p not in tops]
        above = [p for p in modules if p in tops]
        if len(modules) == 1:
            owner[k] = modules[0]
        elif len(below) == 1 and len(above) == 1:
            owner[k], parent[k] = below[0], above[0]
    kept = torch.where(active, sources, 0.0).to(torch.float64)
    both = torch.cat([kept, counts.to(torch.float64)], 1)
    columns = torch.linalg.lstsq(both, s, driver="gelsd").solution.T  # (d, K + P)
    k = sources.shape[1]
    return Wiring(
        counts.to(torch.int64), kept, columns[:, :k], columns[:, k:], owner, parent, directions
    )
