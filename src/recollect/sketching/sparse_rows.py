"""Sparse and whole-numbered rows of the row space of sketches.

Any quantity of which a sketch is a linear function is a row ``x`` (one number for each glance) of
the sketches' row space, whatever the unknown operators are. Rows are found by what they look like:

* *sources* are zero in most glances: the sparsest vectors of their neighbourhood. Directions are
  searched with a contrast that narrows, then by turns set to zero where they are small and
  projected back; a basis is chosen greedily, sparsest first;
* *counts* are whole numbers: found by turns of projecting and rounding;
* *confined* rows vanish outside a set of glances: a null space, of a few directions, in which the
  sparsest vectors are found more surely than in the whole.

Reference: sparsest vectors in a row space are those of "Exact recovery of sparsely-used
dictionaries" (Spielman, Wang and Wright, 2012).

Shape letters: S sketches, d numbers in a sketch, r directions of the row space, n rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "ZERO",
    "active",
    "around",
    "confined",
    "distinct",
    "independent",
    "large",
    "one_signed",
    "polished",
    "searched",
    "sparsest",
    "whitened",
    "whole",
]

# Widths of the contrast (in deviations) and steps at each, then thresholds of the polishing.
CONTRASTS = ((1.0, 8), (0.5, 8))
THRESHOLDS = (0.15, 0.15, 0.1, 0.1, 0.06, 0.06, 0.06)
# Turns of projecting and rounding; how far (relative) a whole-numbered row may be from the space.
ROUNDINGS, WHOLE = 25, 0.03
# A source's entries below this share of its large ones are zero.
ZERO = 0.05
# Share of a source's active glances that may have the other sign.
TOLERANCE = 0.02
# Eigenvalues fall by this factor at least where the sketches end and rounding begins.
GAP = 4.0
# A direction is confined if this share of its energy at most lies outside.
OUTSIDE = 0.01
# Turns of weighing, and the quantile of a row that is taken for its lower envelope.
ENVELOPES, QUANTILE = 40, 0.05


def whitened(s: Tensor) -> tuple[Tensor, int]:
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


def searched(white: Tensor, known: Tensor, starts: int, generator: torch.Generator) -> Tensor:
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


def polished(white: Tensor, rows: Tensor) -> Tensor:
    """Set small entries to zero and project, by turns, (S, n)."""
    for threshold in THRESHOLDS:
        kept = torch.where(rows.abs() < threshold * large(rows), 0.0, rows)
        rows = white @ (white.T @ kept)
        rows = rows / rows.norm(dim=0).clamp_min(1e-12)
    return rows * torch.sign(rows.sum(0))


def one_signed(rows: Tensor) -> Tensor:
    """Return the rows that are zero mostly and never clearly negative."""
    there = rows.abs() > ZERO * large(rows)
    against = (there & (rows < 0)).sum(0) / there.sum(0).clamp_min(1)
    return rows[:, (against < TOLERANCE) & (there.to(torch.float32).mean(0) < 0.5)]


def large(rows: Tensor) -> Tensor:
    """The size of each row's large entries, (n,): exceeded by one in two hundred."""
    return torch.quantile(rows.abs(), 0.995, dim=0).clamp_min(1e-12)


def active(rows: Tensor) -> Tensor:
    """Return ones where rows are clearly positive, (S, n)."""
    return (rows > ZERO * large(rows)).to(torch.float32)


def around(white: Tensor, sources: Tensor) -> Tensor:
    """Guess where the module of each source fires: there its activity is half foretold, (S, K).

    The projection of a source's activity onto the row space holds some of its module's count,
    which stands out where the module fires and this source is zero.
    """
    there = active(sources)
    foretold = white @ (white.T @ there)
    quiet = torch.where(there > 0, torch.full_like(foretold, float("nan")), foretold)
    height = torch.nanquantile(quiet, 0.97, dim=0)
    return ((foretold > 0.5 * height) | (there > 0)).to(torch.float32)


def whole(white: Tensor, t: Tensor) -> Tensor:
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


def distinct(rows: Tensor) -> Tensor:
    """Leave out rows that are sums of sparser ones."""
    order = torch.argsort((rows > 0).sum(0) + rows.sum(0) / 1e3)
    return rows[:, independent(rows[:, order], order, 0.05)]


def sparsest(rows: Tensor, counts: Tensor, directions: int) -> Tensor:
    """Choose an independent set, sparsest first; rows that counts explain are left out."""
    zero = (rows.abs() < ZERO * large(rows)).to(torch.float32).mean(0)
    order = torch.argsort(-zero)
    chosen = independent(rows[:, order], order, 0.2, counts)
    return rows[:, chosen[: max(0, directions - counts.shape[1])]]


def independent(
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


def confined(
    white: Tensor, fires: Tensor, known: Tensor, own: Tensor, starts: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Return sparse rows (S, n) of the space that vanish outside some glances.

    The directions ``z`` with ``|white[outside] z|^2`` about zero are a null space; it is searched
    like the whole, but it has only the few directions of one module and what stands below it.
    Rows that are active more often than not where their module fires are no sparsest vectors, but
    still lower envelopes, which are tried for what is not known and for the module's own rows.

    Args:
        white: (S, r).
        fires: (S,) bool, the glances that rows are confined to.
        known: (S, k) rows that are known already: searches start from what they leave.
        own: (k,) bool, those of them that are searched anew.
        starts: searches.
        generator: of the starts.
    """
    outside = white[~fires]
    values, vectors = torch.linalg.eigh((outside.T @ outside).to(torch.float64))
    basis = white[fires] @ vectors[:, values < OUTSIDE].to(white.dtype)
    if basis.shape[1] < 2 or len(basis) < basis.shape[1]:
        return white.new_zeros(len(white), 0)
    basis = torch.linalg.qr(basis).Q
    there = known[fires]
    home = there.norm(dim=0) > 0.99 * known.norm(dim=0)
    there, own = there[:, home], own[home]
    left = there if there.shape[1] < basis.shape[1] else there[:, :0]
    tried = [searched(basis, left, starts, generator)]
    tried += [_envelope(basis, aim) for aim in _aims(basis, there, own, generator)]
    found = polished(basis, torch.cat(tried, 1))
    rows = white.new_zeros(len(white), found.shape[1])
    rows[fires] = found
    return rows


def _aims(basis: Tensor, known: Tensor, own: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Return directions (k,) that known rows, or all but one of them, do not have."""
    inside = basis.T @ known  # (k, n)
    free = basis.shape[1] - inside.shape[1]
    aims = []
    if free > 0:
        frame = torch.linalg.qr(inside).Q
        for w in torch.randn(4 * free, basis.shape[1], generator=generator):
            w = w - frame @ (frame.T @ w)
            aims += [w, -w]
    for j in torch.nonzero(own)[:, 0].tolist() if free >= 0 else []:
        frame = torch.linalg.qr(torch.cat([inside[:, :j], inside[:, j + 1 :]], 1)).Q
        aims.append(inside[:, j] - frame @ (frame.T @ inside[:, j]))
    return [w / w.norm() for w in aims if float(w.norm()) > 1e-3]


def _envelope(basis: Tensor, aim: Tensor) -> Tensor:
    """Return the smallest row (n, 1), hardly anywhere negative, with a fixed part along ``aim``.

    Rows that are nowhere negative form a cone; its extreme rays are the sources, and a linear
    function is least on one of them. ``min sum x, x >= 0`` is solved as a regression to a low
    quantile, by weights; noise may then pass below zero.
    """
    k = basis.shape[1]
    frame = torch.linalg.qr(torch.cat([aim[:, None], torch.eye(k)[:, : k - 1]], 1)).Q
    row, free = basis @ aim, basis @ frame[:, 1:]
    rest = row
    for _ in range(ENVELOPES):
        weight = torch.where(rest < 0, 1 - QUANTILE, QUANTILE)
        weight = weight / rest.abs().clamp_min(1e-3 * float(rest.abs().mean()))
        heavy = free * weight[:, None]
        gram = heavy.T @ free
        gram.diagonal().add_(1e-6 * float(gram.diagonal().mean()))
        rest = row - free @ torch.linalg.solve(gram, heavy.T @ row)
    unit: Tensor = rest[:, None] / rest.norm().clamp_min(1e-12)
    return unit
