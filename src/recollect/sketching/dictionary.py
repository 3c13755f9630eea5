"""Network recovery: the columns of unknown operators, learned from sketches.

Three routes to the columns of flat sketches ``s = sum_M D_M x_M``:

* ``fit_columns``: attributes are known beside the sketches: ordinary least squares.
* ``read_signatures``: sketches alone, made with ``BlockSparse`` operators, whose columns carry
  their own names: wherever one column alone reaches a block, its sign word is read off; words
  are voted for, and the signs of a column's blocks are joined by how their amplitudes go
  together. Each column comes with the module and the place that it belongs to.
* ``recover_columns``: sketches alone, any operators, also recursive ones of one fixed structure:
  FastICA for sparse independent attributes, then rounds of least squares with small entries set
  to zero. Columns come without names, in any order.

Signs (and, for the last, order) cannot be told from sketches alone. Reading signatures does not
work through the recursion, whose operators spread every block over all others.

Reference: "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, 2019) for
the block-sparse words (our reconstruction); "Fast and robust fixed-point algorithms for
independent component analysis" (Hyvärinen, 1999).

Shape letters: S sketches, d numbers in a sketch, P modules, m numbers in an attribute, K = P m
columns, b numbers in a block, J = d / b blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = [
    "BlockSparse",
    "NamedColumns",
    "fit_columns",
    "match_columns",
    "read_signatures",
    "recover_columns",
]

# Random signs of a word, the fixed first one included.
RANDOM_BITS = 6
# A block is read if its magnitudes differ by less than this share of their mean.
PURE = 0.3
# A block belongs to a column if it was read this often, and this share of the best block's reads.
READS, SHARE = 2, 0.2


@dataclass(frozen=True)
class BlockSparse:
    """Block-sparse operators whose columns carry their names, one (d, m) matrix per module.

    Every column reaches a block with probability ``q``; there it is a word of signs: a one,
    random signs, the bits of the module and the bits of the place, times a random sign.

    Args:
        modules: P.
        size: m.
        dim: d, a multiple of the word's length.
        q: probability that a column reaches a block.
        seed: of all signs.

    Raises:
        ValueError: if ``dim`` is no multiple of the word's length, or q is not in (0, 1].

    Example:
        >>> maps = BlockSparse(modules=4, size=4, dim=120)
        >>> maps.block, maps.matrix().shape
        (10, torch.Size([120, 16]))
    """

    modules: int
    size: int
    dim: int
    q: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("modules", self.modules, minimum=1)
        check_integer("size", self.size, minimum=1)
        if check_integer("dim", self.dim, minimum=1) % self.block:
            raise ValueError(
                f"dim must be a multiple of {self.block}, the length of a word for {self.modules} "
                f"modules of {self.size} numbers, got {self.dim}"
            )
        if not 0 < self.q <= 1:
            raise ValueError(f"q must be in (0, 1], got {self.q}")

    @property
    def bits(self) -> tuple[int, int]:
        """Signs that name the module and the place."""
        return (self.modules - 1).bit_length(), (self.size - 1).bit_length()

    @property
    def block(self) -> int:
        """Numbers in a block, b."""
        return RANDOM_BITS + sum(self.bits)

    def matrix(self) -> Tensor:
        """Return all columns side by side, (d, P m) float64; module by module."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "block-sparse"))
        k, blocks = self.modules * self.size, self.dim // self.block
        words = torch.randint(0, 2, (k, blocks, self.block), generator=generator) * 2.0 - 1
        words[:, :, 0] = 1
        words[:, :, RANDOM_BITS:] = self._names()[:, None]
        sign = torch.randint(0, 2, (k, blocks, 1), generator=generator) * 2.0 - 1
        there = torch.rand(k, blocks, 1, generator=generator) < self.q
        columns = (words * sign * there).reshape(k, self.dim).T / math.sqrt(self.dim * self.q)
        return columns.to(torch.float64)

    def _names(self) -> Tensor:
        """Return the signs that name each column, (K, bits)."""
        module_bits, place_bits = self.bits
        number = torch.arange(self.modules * self.size)
        code = (number // self.size << place_bits) + number % self.size
        places = torch.arange(module_bits + place_bits - 1, -1, -1)
        return (code[:, None] >> places & 1) * 2.0 - 1


@dataclass(frozen=True, eq=False)
class NamedColumns:
    """Columns that were recovered.

    Attributes:
        columns: (d, K) float64, module by module; zero where a column was not found. The sign of
            a column cannot be known.
        reads: (K,) how many pure blocks of the sketches spoke of it.
    """

    columns: Tensor
    reads: Tensor

    @property
    def found(self) -> Tensor:
        """Which columns were found, (K,) bool."""
        return (self.columns != 0).any(0)


def fit_columns(attributes: Tensor, sketches: Tensor) -> Tensor:
    """Return the (d, K) columns that explain sketches of known attributes, by least squares.

    With noise of relative size v the columns' error is about ``v sqrt(K / (S - K))``.

    Args:
        attributes: (S, K).
        sketches: (S, d).

    Raises:
        ValueError: if there are fewer sketches than columns, or the attributes do not vary
            independently.
    """
    x, s = attributes.to(torch.float64), sketches.to(torch.float64)
    _check_enough(len(s), x.shape[1], x.shape[1], "columns")
    gram = x.T @ x
    factor, failed = torch.linalg.cholesky_ex(gram)
    steps = factor.diagonal().square()
    if int(failed) or float(steps.min()) < 1e-10 * float(steps.max()):
        raise ValueError(
            "some attributes are constant zero or copies of others, so their columns cannot be "
            "told apart; leave them out, or gather more varied glances"
        )
    solved: Tensor = torch.cholesky_solve(x.T @ s, factor).T
    return solved


def read_signatures(sketches: Tensor, maps: BlockSparse) -> NamedColumns:
    """Recover the columns of block-sparse operators from sketches alone, with their names.

    Args:
        sketches: (S, d) flat sketches; noise up to 20 % of their size is tolerated.
        maps: the format of the words (its seed is not used).

    Raises:
        ValueError: if the sketches are of another size, or fewer than the columns.
    """
    s = sketches.to(torch.float64)
    k, b = maps.modules * maps.size, maps.block
    if s.shape[1] != maps.dim:
        raise ValueError(f"sketches of {maps.dim} numbers are expected, got {s.shape[1]}")
    _check_enough(len(s), k, k, "columns")
    blocks = s.view(len(s), -1, b)  # (S, J, b)
    size = blocks.abs()
    mean = size.mean(2)
    pure = (size.std(2) < PURE * mean) & (mean > 1e-9 * s.abs().max())
    sample, block = torch.nonzero(pure, as_tuple=True)
    entries = blocks[sample, block]  # (n, b)
    sign = torch.sign(entries[:, 0])
    words = torch.sign(entries) * sign[:, None]
    column, valid = _named(words, maps)
    sample, block, words, column = sample[valid], block[valid], words[valid], column[valid]
    amplitude = (mean[sample, block]) * sign[valid]
    return _joined(sample, block, words, column, amplitude, maps)


def _named(words: Tensor, maps: BlockSparse) -> tuple[Tensor, Tensor]:
    """Read the column each word names, (n,), and whether there is such a column."""
    module_bits, place_bits = maps.bits
    bits = (words[:, RANDOM_BITS:] > 0).to(torch.int64)
    weight = 2 ** torch.arange(module_bits + place_bits - 1, -1, -1)
    code = (bits * weight).sum(1)
    module, place = code >> place_bits, code & ((1 << place_bits) - 1)
    return module * maps.size + place, (module < maps.modules) & (place < maps.size)


def _joined(
    sample: Tensor, block: Tensor, words: Tensor, column: Tensor, amplitude: Tensor,
    maps: BlockSparse,
) -> NamedColumns:  # fmt: skip
    """Vote for the words of each column's blocks, and join the blocks by their signs."""
    k, blocks, b = maps.modules * maps.size, maps.dim // maps.block, maps.block
    place = column * blocks + block
    votes = torch.zeros(k * blocks, b, dtype=torch.float64).index_add(0, place, words)
    reads = torch.bincount(place, minlength=k * blocks).view(k, blocks)
    best = reads.amax(1, keepdim=True)
    there = (reads >= READS) & (reads >= SHARE * best)
    voted = torch.where(votes >= 0, 1.0, -1.0).to(torch.float64).view(k, blocks, b)
    columns = torch.zeros(k, blocks, b, dtype=torch.float64)
    order = torch.argsort(column, stable=True)
    bounds = torch.searchsorted(column[order], torch.arange(k + 1))
    for c in range(k):
        if not bool(there[c].any()):
            continue
        rows = order[int(bounds[c]) : int(bounds[c + 1])]
        seen, inverse = torch.unique(sample[rows], return_inverse=True)
        table = torch.zeros(len(seen), blocks, dtype=torch.float64)
        table[inverse, block[rows]] = amplitude[rows]
        table[:, ~there[c]] = 0
        together = table.T @ table
        signs = torch.sign(torch.linalg.eigh(together).eigenvectors[:, -1])
        columns[c] = voted[c] * (signs * there[c])[:, None]
    whole = columns.reshape(k, maps.dim).T / math.sqrt(maps.dim * maps.q)
    return NamedColumns(whole, reads.sum(1))


def recover_columns(
    sketches: Tensor, number: int, *, seed: int = 0, sweeps: int = 60, rounds: int = 3
) -> Tensor:
    """Recover the columns of unknown operators from sketches of sparse, independent attributes.

    The sketches must share one structure (their counts are then a constant). FastICA with the
    contrast tanh finds directions; then sources are estimated by least squares, entries below
    12 % of a source's largest are set to zero, and the columns are fitted again.

    Args:
        sketches: (S, d), S at least eight times ``number`` for good results.
        number: K, columns to find, at most d.
        seed: of the start.
        sweeps: most sweeps of FastICA.
        rounds: of fitting again.

    Returns:
        (d, K) columns of unit norm, without names, in any order, of any sign.

    Raises:
        ValueError: if there are fewer than twice as many sketches as columns, or more columns
            than the sketches have directions.
    """
    check_integer("number", number, minimum=1)
    s = sketches.to(torch.float64)
    _check_enough(len(s), 2 * number, 8 * number, "columns")
    centred = s - s.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(s))
    values, vectors = values[-number:], vectors[:, -number:]
    if number > s.shape[1] or float(values.min()) <= 1e-10 * float(values.max()):
        raise ValueError(
            f"{number} columns are asked for, the sketches vary in fewer directions; ask for "
            "fewer, or use a larger dim"
        )
    white = centred @ (vectors * values.rsqrt())  # (S, K)
    generator = torch.Generator().manual_seed(seed_of(seed, "ica"))
    w = _orthonormal(torch.randn(number, number, generator=generator, dtype=torch.float64))
    for _ in range(sweeps):
        y = torch.tanh(white @ w.T)
        slope = (1 - y.square()).mean(0)
        turned = _orthonormal(y.T @ white / len(s) - slope[:, None] * w)
        moved = float((1 - (turned * w).sum(1).abs()).max())
        w = turned
        if moved < 1e-6:
            break
    columns = (vectors * values.sqrt()) @ w.T
    for _ in range(rounds):
        columns = _refitted(centred, columns)
    unit: Tensor = columns / columns.norm(dim=0)
    return unit


def _orthonormal(w: Tensor) -> Tensor:
    """Return the nearest orthonormal matrix."""
    left, _, right = torch.linalg.svd(w, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def _refitted(s: Tensor, columns: Tensor) -> Tensor:
    """One round: sources by least squares, small ones to zero, columns by least squares."""
    sources = torch.linalg.lstsq(columns, s.T).solution  # (K, S)
    # Sources were centred with the sketches: what is usual is what stands for zero.
    sources = sources - sources.median(dim=1, keepdim=True).values
    top = sources.abs().amax(1, keepdim=True)
    sources = torch.where(sources.abs() < 0.12 * top, 0.0, sources)
    centred = sources - sources.mean(1, keepdim=True)
    gram = centred @ centred.T
    gram.diagonal().mul_(1 + 1e-9)
    fitted: Tensor = torch.linalg.solve(gram, centred @ s).T
    return fitted


def match_columns(true: Tensor, found: Tensor) -> Tensor:
    """Return for each true column the best absolute cosine among the found ones, (K,).

    Example:
        >>> match_columns(torch.eye(3), -torch.eye(3)[:, [2, 0, 1]]).tolist()
        [1.0, 1.0, 1.0]
    """
    a = true / true.norm(dim=0).clamp_min(1e-300)
    b = found / found.norm(dim=0).clamp_min(1e-300)
    best: Tensor = (a.T @ b).abs().amax(1)
    return best


def _check_enough(given: int, needed: int, good: int, what: str) -> None:
    if given < needed:
        raise ValueError(
            f"{given} sketches are too few to recover the {what}: at least {needed} are needed, "
            f"{good} or more are good"
        )
