"""From the recorded pieces of one forward to a trace, in columns."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from recollect.tracing.columns import Column, Edges, Trace
from recollect.tracing.linking import link_up
from recollect.tracing.tables import check_attributes, check_weights
from recollect.tracing.views import Piece, Run

__all__ = ["assemble"]

IntArray = npt.NDArray[np.int64]
# Containment is sketched at most so deep.
MAX_DEPTH = 3


def assemble(run: Run, nested: bool) -> Trace:
    """Build the trace of one forward.

    Raises:
        ValueError: if an attribute is NaN or infinite (the module is named), or a module has two
            sizes in one forward.
    """
    if run.built is not None:
        return run.built
    pieces = sorted(run.pieces, key=lambda p: p.call) if nested else run.pieces
    _check_finite(pieces)
    if run.links:
        return _linked(run)
    filled: IntArray | int = 0
    columns: dict[str, Column] = {}
    places: dict[str, int] = {}
    for piece in pieces:
        if piece.glance is None:
            k = len(piece.members) if piece.members else 1
            if isinstance(filled, int):
                rank = _ranks(run.batch, k, filled)
                places[piece.name] = filled
                filled += k
            else:
                rank = np.repeat(filled, k) + _dense(run.batch, k)[1]
                filled = filled + k
            glance, member, weight = _dense(run.batch, k)
            if piece.weight is not None:
                weight = check_weights(piece.name, piece.weight, len(glance))
        else:
            glance, member = piece.glance, piece.member
            base = np.full(run.batch, filled) if isinstance(filled, int) else filled
            counts = np.bincount(glance, minlength=run.batch)
            first = np.cumsum(counts) - counts
            rank = base[glance] + np.arange(len(glance)) - first[glance]
            filled = base + counts
            weight = check_weights(
                piece.name,
                np.ones(len(glance)) if piece.weight is None else piece.weight,
                len(glance),
            )
        members = piece.members or (piece.name,)
        columns[piece.name] = Column(
            piece.name, members, piece.attributes, glance, member, rank, weight
        )
    edges = _containment(run, pieces) if nested else None
    return Trace(columns, run.batch, edges, references=_references(pieces, columns, places))


def _linked(run: Run) -> Trace:
    """Build the trace of a view that says itself who was made from whom."""
    glances, members, weights, starts, total = [], [], [], {}, 0
    for p in run.pieces:
        k = len(p.members) if p.members else 1
        glance, member, ones = _dense(run.batch, k)
        glances.append(glance if p.glance is None else p.glance)
        members.append(member if p.glance is None else p.member)
        n = len(glances[-1])
        given = ones if p.glance is None else np.ones(n)
        weights.append(check_weights(p.name, given if p.weight is None else p.weight, n))
        starts[p.name] = total
        total += n
    for link in run.links:
        check_weights(link.child, link.weight, len(link.child_row))
    found = link_up(np.concatenate(glances), np.concatenate(weights), starts, run.links)
    columns = {}
    for p, glance, member in zip(run.pieces, glances, members, strict=True):
        own = slice(starts[p.name], starts[p.name] + len(glance))
        columns[p.name] = Column(
            p.name, p.members or (p.name,), p.attributes, glance, member, found.rank[own],
            found.weight[own],
        )  # fmt: skip
    return Trace(columns, run.batch, found.edges)


def _check_finite(pieces: list[Piece]) -> None:
    """Refuse NaN and infinity; one look at all sums, a second one only if that fails."""
    if not pieces:
        return
    device = pieces[0].attributes.device
    sums = torch.stack([p.attributes.sum().to(device) for p in pieces])
    if not bool(torch.isfinite(sums).all()):
        for p in pieces:
            check_attributes(p.name, p.attributes)


@lru_cache(maxsize=256)
def _dense(batch: int, k: int) -> tuple[IntArray, IntArray, npt.NDArray[np.float32]]:
    """Glance, member and weight of k objects in every glance: shared and read-only."""
    arrays = (
        np.repeat(np.arange(batch, dtype=np.int64), k),
        np.tile(np.arange(k, dtype=np.int64), batch),
        np.ones(batch * k, dtype=np.float32),
    )
    for a in arrays:
        a.setflags(write=False)
    return arrays


@lru_cache(maxsize=4096)
def _ranks(batch: int, k: int, filled: int) -> IntArray:
    """Rank of k objects in every glance, after ``filled`` others: shared and read-only."""
    rank: IntArray = np.tile(np.arange(filled, filled + k, dtype=np.int64), batch)
    rank.setflags(write=False)
    return rank


def _containment(run: Run, pieces: list[Piece]) -> Edges:
    """Edges from each object to the objects of the calls inside it, at most three deep."""
    object_of: dict[int, int] = {}
    for rank, piece in enumerate(pieces):
        object_of.setdefault(piece.call, rank)
    parents: list[int] = []
    depths: list[int] = []
    for piece in pieces:
        call = run.calls[piece.call].parent
        while call >= 0 and (call not in object_of or depths[object_of[call]] >= MAX_DEPTH - 1):
            call = run.calls[call].parent
        parent = object_of[call] if call >= 0 else -1
        parents.append(parent)
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    n = len(pieces)
    return Edges(
        np.repeat(np.arange(run.batch, dtype=np.int64), n),
        np.tile(np.array(parents, dtype=np.int64), run.batch),
        np.tile(np.arange(n, dtype=np.int64), run.batch),
        np.ones(run.batch * n, dtype=np.float32),
    )


def _references(
    pieces: list[Piece], columns: dict[str, Column], places: dict[str, int]
) -> Edges | None:
    """Which objects refer to which stages (no edges: the stages are not sketched again)."""
    rows = [
        (int(g), int(r), places[stage])
        for p in pieces
        if p.reads is not None
        for g, r, stages in zip(columns[p.name].glance, columns[p.name].rank, p.reads, strict=True)
        for stage in stages
        if stage in places
    ]
    if not rows:
        return None
    glance, parent, child = np.array(sorted(rows), dtype=np.int64).T
    return Edges(glance, parent, child, np.ones(len(rows), dtype=np.float32))
