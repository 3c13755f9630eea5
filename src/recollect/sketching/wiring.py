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
from recollect.sketching.module_counts import confining, modules, shared_counts
from recollect.sketching.sparse_rows import (
    active,
    around,
    confined,
    distinct,
    one_signed,
    polished,
    searched,
    sparsest,
    whitened,
    whole,
)
from recollect.sketching.unidentified import Unidentified, members_of, same_functions, unidentified

__all__ = ["Edge", "Wiring", "recover_wiring"]

# Rounds of searching among the glances of modules that were found.
REFINEMENTS = 3
# The constant row counts as one of the space if this share of its energy is in it.
CONSTANT = 0.999
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
        said += [
            f"module {p} is {many} modules that always fire together, or one of them several times"
            for p, many in enumerate(self.members.tolist())
            if many > 1 and self.missing <= 0
        ]
        said += [
            f"module {p} fires in every glance" for p in range(fires.shape[1]) if fires[:, p].all()
        ]
        said += [
            f"modules {p} and {q} have the same attributes wherever both fire: duplicates"
            for p, q in same_functions(self.sources, self.owner)
        ]
        if self.missing > 0:
            said.append(f"{self.missing} of {self.directions} directions were not explained")
        return tuple(said)

    @property
    def missing(self) -> int:
        """Directions of the sketches that are neither a source nor a count."""
        return self.directions - self.sources.shape[1] - self.counts.shape[1]

    @cached_property
    def members(self) -> Tensor:
        """How many modules each module that was found stands for, (P,)."""
        return members_of(self.count_columns)

    @cached_property
    def unidentified(self) -> tuple[Unidentified, ...]:
        """The edges that these sketches cannot tell; empty where all were told.

        Together with ``edges`` they hold every edge of the network.
        """
        return unidentified(
            self.counts, self.sources, self.count_columns, self.owner, self.parent, self.missing
        )


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
    white, directions = whitened(s)
    generator = torch.Generator().manual_seed(seed_of(seed, "wiring"))
    sources, rows = _in_the_whole(white, directions, starts, rounds, generator)
    counts = modules(rows, sources)
    for _ in range(REFINEMENTS):
        before = counts.shape[1], sources.shape[1]
        rows = torch.cat([rows, shared_counts(white, sources, counts)], 1)
        rows = torch.unique(rows, dim=1)
        counts = modules(rows, sources)
        sources = _refined(white, sources, counts, directions, starts // 3, generator)
        counts = modules(rows, sources)
        told = counts.shape[1] + sources.shape[1] >= directions
        if (told and _held(sources, counts)) or (counts.shape[1], sources.shape[1]) == before:
            break
    return _wired(s, sources, counts, directions)


def _in_the_whole(
    white: Tensor, directions: int, starts: int, rounds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Search the whole row space: sources (S, K), and whole-numbered rows (S, n)."""
    sources = white.new_zeros(len(white), 0)
    rows = _constant(white)
    for _ in range(rounds):
        tried = searched(white, torch.cat([sources, rows], 1), starts, generator)
        sharp = polished(white, tried)
        rows = distinct(torch.cat([rows, whole(white, active(sharp))], 1))
        before = sources.shape[1]
        sources = sparsest(torch.cat([sources, one_signed(sharp)], 1), rows, directions)
        tried = torch.cat([active(sources), around(white, sources)], 1)
        rows = torch.unique(torch.cat([rows, whole(white, tried)], 1), dim=1)
        found = modules(rows, sources).shape[1]
        if sources.shape[1] + found >= directions and sources.shape[1] == before:
            break
    return sources, rows


def _refined(
    white: Tensor, sources: Tensor, counts: Tensor, directions: int, starts: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Search sources anew among the glances of modules; those of no module are the last resort."""
    known = torch.cat([sources, counts], 1)
    none = torch.zeros(counts.shape[1], dtype=torch.bool)
    new = [
        one_signed(confined(white, fires, known, torch.cat([own, none]), starts, generator))
        for fires, own in _places(sources, counts)
    ]
    home = confining(sources, counts).any(1) | (counts > 0).all(0).any()
    found = sparsest(torch.cat([sources[:, home], *new], 1), counts, directions)
    if found.shape[1] + counts.shape[1] < directions:
        found = sparsest(torch.cat([found, sources], 1), counts, directions)
    return found


def _held(sources: Tensor, counts: Tensor) -> bool:
    """Whether every source has a module."""
    return bool((confining(sources, counts).any(1) | (counts > 0).all(0).any()).all())


def _constant(white: Tensor) -> Tensor:
    """Return the count of modules that always fire, (S, 1), if the row space has such a row."""
    one = torch.ones(len(white), 1)
    near = float((white.T @ one).square().sum()) > CONSTANT * len(white)
    return one if near else one[:, :0]


def _places(sources: Tensor, counts: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return sets of glances that sources are confined to, a module's or two modules', and which.

    Returns:
        Pairs of glances (S,) and sources (K,), bool.
    """
    cover = confining(sources, counts)
    fires = counts > 0
    sets = {tuple(row.tolist()) for row in cover if bool(row.any())}
    sets |= {tuple(row) for row in torch.diag(fires.all(0)).tolist() if any(row)}
    places = []
    for held in sorted(sets, key=sum, reverse=True):
        modules_there = torch.tensor(held)
        own = (cover == (modules_there & ~fires.all(0))).all(1)
        places.append((fires[:, modules_there].all(1), own))
    return places


def _levels(cover: Tensor) -> set[int]:
    """Return the modules at the top, from (K, P) which modules hold which source.

    A module that holds a source alone is at the top; a partner of one at the top is below, and a
    partner of one below is at the top.
    """
    tops = set(cover[cover.sum(1) == 1].to(torch.int64).argmax(1).tolist())
    links = [torch.nonzero(row)[:, 0].tolist() for row in cover if int(row.sum()) == 2]
    for _ in range(cover.shape[1]):
        below = {p for pair in links for p in pair if p not in tops and tops & set(pair)}
        further = {p for pair in links for p in pair if p not in below and below & set(pair)}
        if further <= tops:
            break
        tops |= further
    return tops


def _wired(s: Tensor, sources: Tensor, counts: Tensor, directions: int) -> Wiring:
    """Say which module a source belongs to and which it feeds."""
    there = active(sources) > 0
    enough = there.sum(0) >= LEAST_ACTIVE
    cover = confining(sources, counts) & enough[:, None]  # (K, P)
    always = torch.nonzero((counts > 0).all(0))[:, 0].tolist()
    owner = torch.full((sources.shape[1],), -1, dtype=torch.int64)
    parent = owner.clone()
    tops = _levels(cover)
    for k in range(len(owner)):
        holders = torch.nonzero(cover[k])[:, 0].tolist()
        below = [p for p in holders if p not in tops]
        above = [p for p in holders if p in tops]
        if len(holders) == 1:
            owner[k] = holders[0]
        elif len(below) == 1 and len(above) == 1:
            owner[k], parent[k] = below[0], above[0]
        elif not holders and len(always) == 1 and bool(enough[k]):
            owner[k] = always[0]
    kept = torch.where(there, sources, 0.0).to(torch.float64)
    both = torch.cat([kept, counts.to(torch.float64)], 1)
    columns = torch.linalg.lstsq(both, s, driver="gelsd").solution.T  # (d, K + P)
    k = sources.shape[1]
    return Wiring(
        counts.to(torch.int64), kept, columns[:, :k], columns[:, k:], owner, parent, directions
    )
