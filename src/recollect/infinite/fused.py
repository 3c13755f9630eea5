"""One pass over memory per layer for float32 kernels on a processor, compiled with numba.

A tile of pairs passes through a rectifier, a dense layer or a convolution in one loop each,
instead of twenty operations that read and write the whole tile. Used for large kernels where
numba is installed (``pip install recollect[fast]``); the layers' own tensor operations are the
same mathematics and serve everywhere else. The two agree to a few units in the last place.

The rectifier needs neither arc sine nor cosine. With ``h = delta / 2 = sin^2(theta / 2)``,
``z = min(h, 1 - h)`` and ``w = sqrt(z)``, polynomials P and R on [0, 1/2] give

``asin(w) = w P(z)`` and ``sin(theta) - theta cos(theta) = 2 w z R(z) [+ pi (1 - 2 z), h > 1/2]``

to float32 accuracy, also at angles so small that the difference on the left has no digits.

Shape letters: p positions (1 for vectors), n and m inputs of the two sides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.infinite.positions import Window

__all__ = [
    "available",
    "fused_convolution",
    "fused_dense",
    "fused_places",
    "fused_rectifier",
    "fused_vectors",
]

Array = npt.NDArray[np.float32]
F = np.float32

# Chebyshev fits on [0, 1/2]: asin(sqrt z) / sqrt z, and R of the docstring.
P0, P1, P2, P3 = (
    F(0.9999999868093985),
    F(0.16666993235745592),
    F(0.07486847096176547),
    F(0.046636215612747604),
)
P4, P5, P6, P7 = (
    F(0.01582790453020144),
    F(0.07822891893062457),
    F(-0.09404627589325265),
    F(0.11196089856361581),
)
R0, R1, R2, R3 = (
    F(1.3333333508365075),
    F(0.13333001700627184),
    F(0.04295869425729727),
    F(0.01869343206311723),
)
R4, R5, R6 = F(0.017061698434957737), F(-0.00845345922809784), F(0.021545112854366746)
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)


def available() -> bool:
    """Whether numba is installed; it is not imported yet."""
    return find_spec("numba") is not None


class _Loops(NamedTuple):
    rectify: Callable[..., None]
    dense: Callable[..., None]
    box: Callable[..., None]
    distance: Callable[..., None]
    near: Callable[..., None]
    start: Callable[..., int]
    places: Callable[..., None]


@functools.cache
def _loops() -> _Loops:
    """Compile the loops, or load them from numba's cache beside the source."""
    numba = import_module("numba")

    def compiled(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep compiled code: a read-only installation
            return numba.njit(**options)(function)

    plain = (_rectify, _dense, _box, _distance, _near, _start, _places)
    return _Loops(*[compiled(function) for function in plain])


def _flat(t: Tensor) -> Array:
    """View (*S, n, m) as (p, n, m)."""
    return t.contiguous().reshape(-1, *t.shape[-2:]).numpy()


def _side(t: Tensor) -> Array:
    """View (*S, n) as (p, n)."""
    return t.contiguous().reshape(-1, t.shape[-1]).numpy()


# --- rectifiers ----------------------------------------------------------------------------


def fused_rectifier(
    nngp: Tensor, gap: Tensor, ntk: Tensor | None, sides: tuple[Tensor, Tensor], a: float, b: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the kernels after ``a min(x, 0) + b max(x, 0)``.

    Args:
        nngp: (*S, n, m) covariances.
        gap: ``r1 r2 - nngp``.
        ntk: tangent kernel, or None.
        sides: deviations r1 (*S, n) and r2 (*S, m).
        a: slope below zero.
        b: slope above.
    """
    bend, flat = (a - b) ** 2, (a * a + b * b) / 2
    outs = [torch.empty_like(nngp), torch.empty_like(nngp)]
    outs.append(outs[0] if ntk is None else torch.empty_like(nngp))
    held = (nngp, gap, nngp if ntk is None else ntk)
    _loops().rectify(
        *map(_flat, held),
        *map(_side, sides),
        *map(_flat, outs),
        ntk is not None,
        F(flat),
        F(flat - bend / 2),
        F(bend / math.pi),
    )
    return outs[0], outs[1], None if ntk is None else outs[2]


def _rectify(
    nngp: Array,
    gap: Array,
    ntk: Array,
    r1: Array,
    r2: Array,
    nngp_out: Array,
    gap_out: Array,
    ntk_out: Array,
    tangent: bool,
    flat: np.float32,
    back: np.float32,
    bend: np.float32,
) -> None:
    for p in range(nngp.shape[0]):
        right = r2[p]
        for i in range(nngp.shape[1]):
            left = r1[p, i]
            k, g, t = nngp[p, i], gap[p, i], ntk[p, i]
            ko, go, to = nngp_out[p, i], gap_out[p, i], ntk_out[p, i]
            for j in range(k.shape[0]):
                s = left * right[j]
                h = HALF * g[j] / s if s > ZERO else ZERO
                h = h if h < ONE else ONE
                acute = h <= HALF
                z = h if acute else ONE - h
                w = np.sqrt(z)
                q = R0 + z * (R1 + z * (R2 + z * (R3 + z * (R4 + z * (R5 + z * R6)))))
                turn = bend * s * (w * z * q)
                value = (flat if acute else back) * k[j] + turn
                ko[j] = value
                rest = flat * g[j] - turn if acute else flat * s - value
                go[j] = rest if rest > ZERO else ZERO
            if tangent:
                for j in range(k.shape[0]):
                    s = left * right[j]
                    h = HALF * g[j] / s if s > ZERO else ZERO
                    h = h if h < ONE else ONE
                    acute = h <= HALF
                    z = h if acute else ONE - h
                    w = np.sqrt(z)
                    q = P4 + z * (P5 + z * (P6 + z * P7))
                    q = P0 + z * (P1 + z * (P2 + z * (P3 + z * q)))
                    half = bend * (w * q)
                    to[j] = t[j] * (flat - half if acute else back + half)


# --- affine layers -------------------------------------------------------------------------


def fused_dense(
    nngp: Tensor,
    gap: Tensor,
    ntk: Tensor | None,
    sides: tuple[Tensor, Tensor],
    outs: tuple[Tensor, Tensor],
    w2: float,
    b2: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nngp, gap and ntk after a dense layer in the NTK parameterisation.

    Args:
        nngp: (*S, n, m).
        gap: ``r1 r2 - nngp``.
        ntk: None stands for zero.
        sides: deviations before the layer, (*S, n) and (*S, m).
        outs: deviations after it.
        w2: squared weight deviation.
        b2: squared bias deviation.
    """
    made = [torch.empty_like(nngp) for _ in range(3)]
    held = (nngp, gap, nngp if ntk is None else ntk)
    _loops().dense(
        *map(_flat, held),
        *map(_side, (*sides, *outs)),
        *map(_flat, made),
        F(w2),
        F(b2),
        F(0 if ntk is None else w2),
    )
    return made[0], made[1], made[2]


def _dense(
    nngp: Array,
    gap: Array,
    ntk: Array,
    r1: Array,
    r2: Array,
    o1: Array,
    o2: Array,
    nngp_out: Array,
    gap_out: Array,
    ntk_out: Array,
    w2: np.float32,
    b2: np.float32,
    t2: np.float32,
) -> None:
    both = w2 * b2
    for p in range(nngp.shape[0]):
        right, after = r2[p], o2[p]
        for i in range(nngp.shape[1]):
            left, out = r1[p, i], o1[p, i]
            k, g, t = nngp[p, i], gap[p, i], ntk[p, i]
            ko, go, to = nngp_out[p, i], gap_out[p, i], ntk_out[p, i]
            for j in range(k.shape[0]):
                value = w2 * k[j] + b2
                ko[j] = value
                to[j] = value + t2 * t[j]
                below = out * after[j] + left * right[j] * w2 + b2
                apart = left - right[j]
                extra = apart * apart * both / below if below > ZERO else ZERO
                go[j] = w2 * g[j] + extra


def fused_convolution(
    nngp: Tensor,
    gap: Tensor,
    ntk: Tensor | None,
    sides: tuple[Tensor, Tensor],
    outs: tuple[Tensor, Tensor],
    levels: tuple[Tensor, Tensor],
    windows: tuple[Window, ...],
    w2: float,
    b2: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nngp, gap and ntk after a convolution at equal positions.

    The squared distance ``2 gap + (r1 - r2)^2 l1 l2`` of scaled inputs is linear and passes the
    sum; where it is small it gives the new gap, elsewhere the difference does.

    Args:
        nngp: (*S, n, m), one or two position axes.
        gap: ``r1 r2 - nngp``.
        ntk: None stands for zero.
        sides: deviations before the layer over ``levels``, (*S, n) and (*S, m).
        outs: deviations after it over ``levels``.
        levels: scales l1 (n,) and l2 (m,).
        windows: of each axis, none of them circular.
        w2: squared weight deviation.
        b2: squared bias deviation.
    """
    loops = _loops()
    taps = math.prod(w.size for w in windows)
    shape = (*(w.length(n) for w, n in zip(windows, nngp.shape, strict=False)), *nngp.shape[-2:])
    grid = tuple(nngp.shape[:-2]) if len(windows) == 2 else (1, nngp.shape[0])
    first, second = windows if len(windows) == 2 else (Window(1), windows[0])
    taken = (first, second)
    steps = [x for w in taken for x in (w.size, w.stride, w.dilation, w.low)]
    line = np.empty((grid[1], nngp.shape[-2] * nngp.shape[-1]), dtype=F)
    lengths = [w.length(n) for w, n in zip(taken, grid, strict=True)]
    scale = F(w2 / taps)

    both = levels[0][:, None] * levels[1][None]
    apart = (levels[0][:, None] - levels[1][None]).square().div_(both).mul_(b2)

    def box(t: Tensor, shift: Tensor, other: Tensor | None) -> Tensor:
        out = nngp.new_empty(shape)
        target = out.view(*lengths, -1).numpy()
        source = t.contiguous().view(*grid, -1).numpy()
        added = target if other is None else other.view(*lengths, -1).numpy()
        loops.box(
            source, target, line, added, other is not None, *steps, scale, shift.view(-1).numpy()
        )
        return out

    value = box(nngp, torch.full_like(both, b2), None)
    tangent = value if ntk is None else box(ntk, torch.zeros_like(both), value)
    before = torch.empty_like(nngp)
    loops.distance(_flat(gap), *map(_side, sides), both.numpy(), _flat(before))
    distance = box(before, apart, None)
    loops.near(_flat(distance), _flat(value), *map(_side, outs), both.numpy())
    return value, distance, tangent


def _box(
    t: Array,
    out: Array,
    line: Array,
    other: Array,
    add: bool,
    size1: int,
    stride1: int,
    dilation1: int,
    low1: int,
    size2: int,
    stride2: int,
    dilation2: int,
    low2: int,
    scale: np.float32,
    shift: Array,
) -> None:
    """Sum over a window along both axes of (A, B, pairs), times ``scale`` plus ``shift``."""
    rows, columns, pairs = t.shape
    total = line.reshape(columns * pairs)
    for i in range(out.shape[0]):
        empty = True
        for f in range(size1):
            x = i * stride1 + f * dilation1 - low1
            if x < 0 or x >= rows:
                continue
            source = t[x].reshape(columns * pairs)
            if empty:
                for j in range(columns * pairs):
                    total[j] = source[j]
            else:
                for j in range(columns * pairs):
                    total[j] += source[j]
            empty = False
        if empty:
            for j in range(columns * pairs):
                total[j] = ZERO
        for o in range(out.shape[1]):
            target = out[i, o]
            for j in range(pairs):
                target[j] = shift[j]
            for f in range(size2):
                y = o * stride2 + f * dilation2 - low2
                if y < 0 or y >= columns:
                    continue
                piece = line[y]
                for j in range(pairs):
                    target[j] += scale * piece[j]
            if add:
                extra = other[i, o]
                for j in range(pairs):
                    target[j] += extra[j]


def _distance(gap: Array, r1: Array, r2: Array, both: Array, out: Array) -> None:
    for p in range(gap.shape[0]):
        right = r2[p]
        for i in range(gap.shape[1]):
            left, g, target, scale = r1[p, i], gap[p, i], out[p, i], both[i]
            for j in range(g.shape[0]):
                apart = left - right[j]
                target[j] = TWO * g[j] + apart * apart * scale[j]


def _near(distance: Array, nngp: Array, o1: Array, o2: Array, scales: Array) -> None:
    """Turn squared distances into gaps, in place."""
    for p in range(distance.shape[0]):
        right = o2[p]
        for i in range(distance.shape[1]):
            left, d, k, scale = o1[p, i], distance[p, i], nngp[p, i], scales[i]
            for j in range(d.shape[0]):
                both, apart = left * right[j] * scale[j], left - right[j]
                near = HALF * (d[j] - apart * apart * scale[j])
                rest = near if d[j] < both else both - k[j]
                d[j] = rest if rest > ZERO else ZERO


# --- inputs --------------------------------------------------------------------------------


def fused_vectors(
    products: Tensor, r1: Tensor, r2: Tensor, channels: int
) -> tuple[Tensor, Tensor, int]:
    """Turn products x1 . x2 (n, m) into covariances and gaps; count the near pairs.

    Args:
        products: (n, m), overwritten by the covariances.
        r1: (n,) deviations, float64.
        r2: (m,) deviations, float64.
        channels: what the products are divided by.
    """
    gap = torch.empty_like(products)
    near = _loops().start(products.numpy(), gap.numpy(), r1.numpy(), r2.numpy(), F(1.0 / channels))
    return products, gap, near


def _start(
    products: Array,
    gap: Array,
    r1: npt.NDArray[np.float64],
    r2: npt.NDArray[np.float64],
    scale: np.float32,
) -> int:
    near = 0
    for i in range(products.shape[0]):
        k, g, left = products[i], gap[i], r1[i]
        for j in range(k.shape[0]):
            s = F(left * r2[j])
            value = k[j] * scale
            rest = s - value
            k[j] = value
            g[j] = rest if rest > ZERO else ZERO
            near += 1 if rest < F(0.01) * s else 0
    return near


def fused_places(x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Return covariances and gaps at equal positions, summed in float64, (p, n, m) each.

    Args:
        x1: (p, channels, n) float32.
        x2: (p, channels, m) float32.
    """
    a, b = x1.contiguous(), x2.contiguous()
    shape = (a.shape[0], a.shape[2], b.shape[2])
    nngp, gap = x1.new_empty(shape), x1.new_empty(shape)
    r1, r2 = ((t.double().square().sum(1) / t.shape[1]).sqrt() for t in (a, b))
    work = np.empty(shape[2])
    _loops().places(a.numpy(), b.numpy(), r1.numpy(), r2.numpy(), nngp.numpy(), gap.numpy(), work)
    return nngp, gap


def _places(
    a: Array,
    b: Array,
    r1: npt.NDArray[np.float64],
    r2: npt.NDArray[np.float64],
    nngp: Array,
    gap: Array,
    work: npt.NDArray[np.float64],
) -> None:
    channels = a.shape[1]
    for p in range(a.shape[0]):
        right = r2[p]
        for i in range(a.shape[2]):
            work[:] = 0.0
            for c in range(channels):
                left, other = np.float64(a[p, c, i]), b[p, c]
                for j in range(other.shape[0]):
                    work[j] += left * np.float64(other[j])
            k, g, r = nngp[p, i], gap[p, i], r1[p, i]
            for j in range(k.shape[0]):
                value = work[j] / channels
                rest = r * right[j] - value
                k[j] = F(value)
                g[j] = F(rest if rest > 0.0 else 0.0)
