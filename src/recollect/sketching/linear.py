"""The plain linear sketch ``y = A x``, the simplest form, and linear regression on sketches.

One random matrix A with fewer rows than columns turns n numbers into d. It keeps inner products,
``<A x, A x'> = <x, x'> + O(|x| |x'| / sqrt(d))``, and its transpose reads single numbers back,
``<A e_j, A x> = x_j + O(|x| / sqrt(d))``: the large ones can be told, the small ones drown. A
recursive sketch of one module is exactly this.

Linear regression on sketches is the smallest example of a network's weights read through them.
``t ~ b + <w, x>`` is fitted on the pairs (A x, t) alone, which gives v with ``t ~ b + <v, A x>``;
so ``A' v`` stands for w, and its large entries name the important dimensions, though nobody ever
stored x. What is gathered is a sum over examples (``gram``, ``moment``), so that shards and days
are fitted together by adding.

Reference: "Extensions of Lipschitz mappings into a Hilbert space" (Johnson and Lindenstrauss,
1984); "Compressed least-squares regression" (Maillard and Munos, 2009).

Shape letters: B examples, n numbers of an example, d numbers of a sketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.sketching.operators import Operators
from recollect.sketching.recipe import Recipe

__all__ = ["LinearSketch", "SketchedRegression"]


class LinearSketch:
    """``y = A x`` with a random matrix A of which only the seed is kept.

    Args:
        size: n.
        dim: d, a multiple of 64.
        seed: of A.
        operators: family of A, as in ``Recipe``. With more numbers than dim the fast
            ``"hadamard"`` has some pairs of columns as close as 0.35, so it is not the default.
        name: of the vector; a ``Sketcher`` of this seed and family has the same A for a module
            of this name.

    Raises:
        ValueError: on a dim that is no multiple of 64 or an unknown family.

    Example:
        >>> sketch = LinearSketch(1000, 256)
        >>> x = torch.zeros(1000)
        >>> x[[3, 700]] = torch.tensor([2.0, -1.0])
        >>> y = sketch(x)
        >>> back = sketch.transpose(y)
        >>> y.shape, int(back.argmax()), int(back.argmin())
        (torch.Size([256]), 3, 700)
    """

    def __init__(
        self, size: int, dim: int, seed: int = 0, operators: str = "orthogonal", name: str = "x"
    ) -> None:
        self.size = check_integer("size", size, minimum=1)
        self.recipe = Recipe(dim=dim, seed=seed, dtype="float32", operators=operators)
        self.name = name
        self._operators = Operators(self.recipe)

    def __repr__(self) -> str:
        r = self.recipe
        return f"LinearSketch({self.size} to {r.dim}, seed {r.seed}, {r.operators})"

    def __call__(self, x: Tensor) -> Tensor:
        """Sketch vectors: (n,) or (B, n) to (d,) or (B, d) float32.

        Raises:
            ValueError: if the vectors are of another size.
        """
        if x.ndim not in (1, 2) or x.shape[-1] != self.size:
            raise ValueError(
                f"vectors of {self.size} numbers are expected, (n,) or (B, n), got shape "
                f"{tuple(x.shape)}"
            )
        rows = x.reshape(-1, self.size).to(torch.float32)
        z = torch.zeros(len(rows), self._operators.width)
        self._operators.spread(rows, (self.name,), z)
        y = self._operators.leave(z)
        return y[0] if x.ndim == 1 else y

    @cached_property
    def matrix(self) -> Tensor:
        """A, spelled out: (d, n) float32."""
        return self(torch.eye(self.size)).T

    def transpose(self, y: Tensor) -> Tensor:
        """Return ``A' y``, which estimates x where y is its sketch: (..., d) to (..., n).

        Each number is off by about ``|y| / sqrt(d)``.

        Raises:
            ValueError: if the sketches are of another size.
        """
        if y.shape[-1] != self.recipe.dim:
            raise ValueError(
                f"sketches of {self.recipe.dim} numbers are expected, got {y.shape[-1]}"
            )
        return y.to(torch.float32) @ self.matrix


@dataclass(frozen=True, eq=False)
class SketchedRegression:
    """Linear regression that saw only sketches; a sum over its examples.

    Attributes:
        gram: (d + 1, d + 1) float64, sum of the products of (A x, 1) with itself.
        moment: (d + 1,) float64, sum of (A x, 1) t.
        count: examples in the sums.
        square: sum of t squared.

    Example:
        >>> sketch, x = LinearSketch(300, 128), torch.randn(4000, 300)
        >>> t = 3 * x[:, 7] - 2 * x[:, 250] + 0.1 * torch.randn(4000)
        >>> day = SketchedRegression.of(sketch(x[:2000]), t[:2000])
        >>> both = day + SketchedRegression.of(sketch(x[2000:]), t[2000:])
        >>> both.count, both.important(sketch, 2).tolist()
        (4000, [7, 250])
    """

    gram: Tensor
    moment: Tensor
    count: int
    square: float

    @classmethod
    def of(cls, sketches: Tensor, targets: Tensor) -> SketchedRegression:
        """Take in B examples.

        Args:
            sketches: (B, d).
            targets: (B,).

        Raises:
            ValueError: if their numbers differ, or a number is not finite.
        """
        if sketches.ndim != 2 or targets.shape != sketches.shape[:1]:
            raise ValueError(
                f"(B, d) sketches and (B,) targets are expected, got {tuple(sketches.shape)} and "
                f"{tuple(targets.shape)}"
            )
        if not bool(torch.isfinite(sketches).all() and torch.isfinite(targets).all()):
            raise ValueError("sketches and targets must be finite; leave out broken examples")
        y = torch.nn.functional.pad(sketches.to(torch.float64), (0, 1), value=1.0)
        t = targets.to(torch.float64)
        return cls(y.T @ y, y.T @ t, len(t), float(t.square().sum()))

    def __add__(self, other: SketchedRegression) -> SketchedRegression:
        """Return the regression on the examples of both.

        Raises:
            ValueError: if the sketches are of different sizes.
        """
        if self.gram.shape != other.gram.shape:
            raise ValueError(
                f"sketches of {len(self.moment) - 1} and {len(other.moment) - 1} numbers cannot "
                "be fitted together"
            )
        return SketchedRegression(
            self.gram + other.gram, self.moment + other.moment, self.count + other.count,
            self.square + other.square,
        )  # fmt: skip

    def fit(self, ridge: float = 0.1) -> tuple[Tensor, float]:
        """Solve for the weights of the sketch's numbers.

        Args:
            ridge: added to the mean square of the sketch's numbers, as a share of it.

        Returns:
            v (d,) float64 and the intercept b.

        Raises:
            ValueError: if there are fewer examples than two, or the ridge is negative.
        """
        if self.count < 2:
            raise ValueError(f"at least two examples are needed, got {self.count}")
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be zero or a positive number, got {ridge}")
        mean = self.gram[-1] / self.count  # (d + 1,), ends with one
        gram = self.gram[:-1, :-1] - self.count * torch.outer(mean[:-1], mean[:-1])
        target = self.moment[-1] / self.count
        moment = self.moment[:-1] - self.count * mean[:-1] * target
        gram.diagonal().add_((ridge + 1e-12) * float(gram.diagonal().mean()) + 1e-300)
        v = torch.linalg.solve(gram, moment)
        return v, float(target - mean[:-1] @ v)

    def weights(self, sketch: LinearSketch, ridge: float = 0.1) -> Tensor:
        """Return ``A' v``, what the regression weighs each of the n dimensions with: (n,).

        With uncorrelated dimensions of equal variance it is the projection of the true weights on
        the row space of A: each is scaled by about d / n and off by ``|w| sqrt(d) / n``, so that
        weights above a few times ``|w| / sqrt(d)`` stand out.
        """
        return sketch.transpose(self.fit(ridge)[0])

    def important(self, sketch: LinearSketch, number: int, ridge: float = 0.1) -> Tensor:
        """Return the ``number`` dimensions of largest weight, the largest first."""
        check_integer("number", number, minimum=1)
        return self.weights(sketch, ridge).abs().topk(min(number, sketch.size)).indices
