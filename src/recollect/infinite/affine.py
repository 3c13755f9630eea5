"""Affine layers: dense, convolutions, transposed and local convolutions.

With w the weight deviation, b the bias deviation and A the average over the receptive field:
``K' = w^2 A(K) + b^2`` and ``Theta' = K' + w^2 A(Theta)`` in the NTK parameterisation;
``Theta' = fan_in A(K) + w^2 A(Theta) + [bias]`` in the standard one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recollect.infinite.fused import fused_convolution, fused_dense
from recollect.infinite.positions import Window, resolve_padding, window_scatter, window_sum
from recollect.infinite.states import Cross, Layer, Pair, Scalar, Style, is_zero, square

__all__ = ["Conv", "ConvLocal", "ConvTranspose", "Dense", "Padding", "Parameterization"]

Parameterization = Literal["ntk", "standard"]
# Pairs side by side from which one depthwise convolution is faster than shifted sums.
DEPTHWISE_FROM = 48
Padding = str | int | tuple[int | tuple[int, int], ...]


def _finish(
    k: Cross, nngp: Tensor, ntk: Tensor | None, gap: Tensor | None, layer: Any, fan_in: float
) -> Cross:
    """Turn averages A(K), A(Theta) into the kernels after weights and biases."""
    w2 = square(layer.weight_std)
    b2 = None if layer.bias_std is None else square(layer.bias_std)
    plain = not torch.is_grad_enabled()
    out = nngp * w2
    if b2 is not None and not is_zero(b2):
        out = out.add_(b2) if plain else out + b2
    if not k.want_ntk:
        return k.each(out, None, gap)
    if layer.parameterization == "ntk":
        if ntk is None:
            tangent = out
        elif plain and not isinstance(w2, Tensor):
            tangent = torch.add(out, ntk, alpha=w2)
        else:
            tangent = torch.add(out, ntk * w2)
    else:
        tangent = nngp * fan_in
        if ntk is not None:
            tangent = tangent + ntk * w2
        if b2 is not None:
            tangent = tangent + 1.0
    return k.each(out, tangent, gap)


def _plain_squares(layer: Any) -> tuple[float, float] | None:
    """Return the squared deviations of a layer in the NTK parameterisation, if no gradients."""
    w, b = layer.weight_std, 0.0 if layer.bias_std is None else layer.bias_std
    if torch.is_grad_enabled() or layer.parameterization != "ntk":
        return None
    if isinstance(w, Tensor) or isinstance(b, Tensor):
        return None
    return float(w * w), float(b * b)


def _fan_in(layer: Any, taps: int = 1) -> float:
    """Return the number of inputs of one unit over the width multiplier."""
    if layer.parameterization == "ntk":
        return 1.0
    if layer.fan_in is None:
        raise ValueError(
            "the standard parameterisation depends on the number of input channels: pass "
            "fan_in=... to the layer, or build the twin from a module of known widths"
        )
    return float(layer.fan_in * taps / layer.width_multiplier)


@dataclass(frozen=True, kw_only=True)
class Dense(Layer):
    """Fully connected layer, applied at every position.

    Args:
        weight_std: deviation of a weight times the root of the fan-in.
        bias_std: deviation of the bias; None: no bias.
        parameterization: ``"ntk"`` or ``"standard"``.
        fan_in: number of input channels, needed in the standard parameterisation only.
        width_multiplier: divides ``fan_in`` there.
        width: number of output channels, used by concatenation and sampling only.
    """

    weight_std: Scalar = 1.0
    bias_std: Scalar | None = None
    parameterization: Parameterization = "ntk"
    fan_in: int | None = None
    width_multiplier: float = 1.0
    width: int = 1
    style: ClassVar[Style] = "affine"

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the rule of the module's docstring with A the identity."""
        squares = _plain_squares(self)
        if k.compiled and squares is not None and k.gap is not None:
            sides, outs = (pair.a.root, pair.b.root), (pair.a_out.root, pair.b_out.root)
            held = fused_dense(k.nngp, k.gap, k.ntk, sides, outs, *squares)
            return k.each(held[0], held[2] if k.want_ntk else None, held[1])
        if squares is not None:
            return self._in_place(k, pair, *squares)
        gap = None
        if k.gap is not None:
            gap = self._gap(k, k.gap, pair)
        return _finish(k, k.nngp, k.ntk, gap, self, _fan_in(self))

    def _in_place(self, k: Cross, pair: Pair, w2: float, b2: float) -> Cross:
        """Apply the rule without gradients, over tensors that nobody else reads."""
        own = k.fresh and k.ntk is not k.nngp
        gap = None
        if k.gap is not None:
            gap = k.gap.mul_(w2) if own else k.gap * w2
            if b2:
                turn = self._turn(pair, k.full)
                gap.addcmul_(turn, turn, value=2.0)
        out = k.nngp.mul_(w2) if own else k.nngp * w2
        out = out.add_(b2) if b2 else out
        if not k.want_ntk:
            return k.each(out, None, gap, fresh=True)
        if k.ntk is None:
            return k.each(out, out, gap, fresh=True)
        ntk = k.ntk.mul_(w2) if own else k.ntk * w2
        return k.each(out, ntk.add_(out), gap, fresh=True)

    def _turn(self, pair: Pair, full: bool) -> Tensor:
        """Return sqrt(o1 o2) sin((phi1 - phi2) / 2), phi the angle of (w r, b) to the first axis.

        Of two vectors (w r1, b) and (w r2, b) of lengths o1 and o2, ``o1 o2 - w^2 r1 r2 - b^2``
        is twice its square: one product of numbers per side less another.
        """
        sides = []
        for before, after in ((pair.a.root, pair.a_out.root), (pair.b.root, pair.b_out.root)):
            # Half of the angle from its cosine and sine, each without cancellation.
            cosine = (before * abs(float(self.weight_std)) / after).clamp_max_(1.0)
            upper = (0.5 * (1.0 + cosine)).sqrt_()
            lower = (0.0 if self.bias_std is None else abs(float(self.bias_std))) / after
            sides.append((upper * after.sqrt(), 0.5 * lower / upper * after.sqrt()))
        (c1, s1), (c2, s2) = sides
        turn = pair.left(s1, full=full) * pair.right(c2, full=full)
        return turn.addcmul_(pair.left(c1, full=full), pair.right(s2, full=full), value=-1.0)

    def _gap(self, k: Cross, gap: Tensor, pair: Pair) -> Tensor:
        """Add w2 b2 (r1 - r2)^2 / (s' + w2 s + b2): no difference of nearly equal numbers."""
        w2 = square(self.weight_std)
        out = gap * w2
        if self.bias_std is None or is_zero(self.bias_std):
            return out
        b2 = square(self.bias_std)
        r1, r2 = pair.left(pair.a.root, full=k.full), pair.right(pair.b.root, full=k.full)
        o1, o2 = pair.left(pair.a_out.root, full=k.full), pair.right(pair.b_out.root, full=k.full)
        below = o1 * o2 + r1 * r2 * w2 + b2
        return out + torch.square(r1 - r2) * (w2 * b2) / below


def _tuple(value: Any, rank: int) -> tuple[Any, ...]:
    """Repeat a number over the axes, or check the length of a tuple."""
    if isinstance(value, tuple | list):
        if len(value) != rank:
            raise ValueError(f"expected {rank} numbers, one per position axis, got {value}")
        return tuple(value)
    return (value,) * rank


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """Convolution over any number of position axes.

    Args:
        kernel_size: taps per axis.
        stride: one number, or one per axis.
        padding: ``"same"``, ``"valid"``, a number, or per axis a number or (before, after).
        dilation: one number, or one per axis.
        circular: wrap around instead of padding with zeros.
        depthwise: every channel has filters of its own and channels do not mix; then no
            nonlinearity may follow before the channels are mixed.

    The other arguments are those of :class:`Dense`.
    """

    kernel_size: int | tuple[int, ...] = 3
    weight_std: Scalar = 1.0
    bias_std: Scalar | None = None
    stride: int | tuple[int, ...] = 1
    padding: Padding = "same"
    dilation: int | tuple[int, ...] = 1
    circular: bool = False
    depthwise: bool = False
    parameterization: Parameterization = "ntk"
    fan_in: int | None = None
    width_multiplier: float = 1.0
    width: int = 1
    style: ClassVar[Style] = "affine"

    def windows(self, places: tuple[int, ...]) -> tuple[Window, ...]:
        """Return the window along each position axis."""
        rank = len(places)
        sizes, strides = _tuple(self.kernel_size, rank), _tuple(self.stride, rank)
        dilations = _tuple(self.dilation, rank)
        paddings = _tuple(self.padding, rank)
        result = []
        for n, f, s, d, p in zip(places, sizes, strides, dilations, paddings, strict=True):
            low, high = resolve_padding(p, n, f, s, d)
            result.append(Window(f, s, d, low, high, self.circular))
        return tuple(result)

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of windows along each axis."""
        if not places:
            raise ValueError(
                "a convolution needs positions, got inputs of shape (batch, channels)"
            )
        out = tuple(w.length(n) for w, n in zip(self.windows(places), places, strict=True))
        if min(out) < 1:
            raise ValueError(f"kernel {self.kernel_size} does not fit on positions {places}")
        return out

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Average over the receptive field, both positions moving together."""
        windows = self.windows(tuple(pair.a.var.shape[:-1]))
        squares = _plain_squares(self)
        plane = len(windows) <= 2 and not any(w.wrap for w in windows)
        if k.compiled and squares is not None and k.gap is not None and plane:
            levels = pair.a_out.rms, pair.b_out.rms
            sides = pair.a.root / levels[0], pair.b.root / levels[1]
            outs = pair.a_out.root / levels[0], pair.b_out.root / levels[1]
            held = fused_convolution(k.nngp, k.gap, k.ntk, sides, outs, levels, windows, *squares)
            return k.each(held[0], held[2] if k.want_ntk else None, held[1])
        if squares is not None and (out := self._depthwise(k, pair, windows, *squares)):
            return out
        taps = 1
        for window in windows:
            taps *= window.size
        nngp = self._average(k.nngp, windows, taps, k.full)
        ntk = None if k.ntk is None else self._average(k.ntk, windows, taps, k.full)
        fan_in = _fan_in(self, taps)
        out = _finish(k, nngp, ntk, None, self, fan_in)
        if k.gap is None or k.full:
            return out
        return replace(out, gap=self._gap(k, k.gap, out, pair, windows, taps))

    def _average(self, t: Tensor, windows: tuple[Window, ...], taps: int, full: bool) -> Tensor:
        rank = len(windows)
        for d, window in enumerate(windows):
            axes = (d, rank + d) if full else (d,)
            if window == Window(1):
                continue
            t = window_sum(t, axes, window)
        return t / taps if taps > 1 else t

    def _gap(
        self, k: Cross, gap: Tensor, out: Cross, pair: Pair, windows: tuple[Window, ...], taps: int
    ) -> Tensor:
        """Carry the squared distance past the sum, see :meth:`_distance`."""
        distance, shift = self._distance(gap, pair)
        distance = self._average(distance, windows, taps, False) * square(self.weight_std)
        return self._nearer(distance.add_(shift), out.nngp, pair)

    def _distance(self, gap: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return the squared distance of scaled inputs, which is linear, and the bias's share.

        With l the root mean square of an input after the layer: ``D / (l1 l2)`` is the squared
        distance of ``u / l1`` and ``v / l2``, so that multiples of one picture are not far apart:
        ``D = 2 gap + (r1 / l1 - r2 / l2)^2 l1 l2``, and ``b^2 (1 / l1 - 1 / l2)^2 l1 l2``.
        """
        l1, l2 = pair.a_out.rms[:, None], pair.b_out.rms[None]
        r1 = pair.left(pair.a.root / pair.a_out.rms, full=False)
        r2 = pair.right(pair.b.root / pair.b_out.rms, full=False)
        distance = torch.sub(r1, r2).square_().mul_(l1 * l2).add_(gap, alpha=2.0)
        b2 = 0.0 if self.bias_std is None else square(self.bias_std)
        return distance, (l1 - l2).square() / (l1 * l2) * b2

    @staticmethod
    def _nearer(distance: Tensor, nngp: Tensor, pair: Pair) -> Tensor:
        """Turn squared distances (overwritten) into gaps.

        Each form errs by eps times its first term; the distance is right for near inputs. They
        are mixed as ``far + close (near - far)``: a selection is slower than all the rest.
        """
        both = pair.a_out.rms[:, None] * pair.b_out.rms[None]
        o1 = pair.left(pair.a_out.root / pair.a_out.rms, full=False)
        o2 = pair.right(pair.b_out.root / pair.b_out.rms, full=False)
        far = torch.mul(o1, o2).mul_(both)
        close = torch.lt(distance, far, out=torch.empty_like(distance))
        near = distance.sub_(torch.sub(o1, o2).square_().mul_(both)).mul_(0.5)
        return far.sub_(nngp).lerp_(near, close).clamp_min_(0)

    def _depthwise(
        self, k: Cross, pair: Pair, windows: tuple[Window, ...], w2: float, b2: float
    ) -> Cross | None:
        """Sum over both axes of the window in one pass, as a depthwise convolution of pairs."""
        pairs = math.prod(k.nngp.shape[-2:])
        even = all(w.low == w.high and not w.wrap for w in windows)
        if len(windows) != 2 or pairs < DEPTHWISE_FROM or not even or k.full:
            return None
        sizes = [w.size for w in windows]
        weight = k.nngp.new_full((pairs, *sizes, 1), w2 / math.prod(sizes)).permute(0, 3, 1, 2)

        def move(t: Tensor, bias: Tensor | None = None) -> Tensor:
            moved = torch.nn.functional.conv2d(
                t.flatten(2).permute(2, 0, 1)[None],
                weight,
                bias,
                tuple(w.stride for w in windows),
                tuple(w.low for w in windows),
                tuple(w.dilation for w in windows),
                groups=pairs,
            )
            moved = moved[0].permute(1, 2, 0).contiguous()
            return moved.view(*moved.shape[:2], *t.shape[2:])

        nngp = move(k.nngp, k.nngp.new_full((pairs,), b2))
        ntk, gap = None, None
        if k.want_ntk:
            ntk = nngp if k.ntk is None else move(k.ntk).add_(nngp)
        if k.gap is not None:
            apart, shift = self._distance(k.gap, pair)
            gap = self._nearer(move(apart, shift.flatten()), nngp, pair)
        return k.each(nngp, ntk, gap)

    def mean(self, state: Any) -> Tensor | None:
        """Weights have zero mean."""
        return None

    def mask(self, mask: Tensor) -> Tensor:
        """Look at the middle of every window, as the old library does."""
        for axis, (window, n) in enumerate(
            zip(self.windows(tuple(mask.shape[:-1])), mask.shape[:-1], strict=True)
        ):
            count = window.length(n)
            start = (window.size - 1) // 2 * window.dilation - window.low
            index = torch.arange(count, device=mask.device) * window.stride + start
            mask = mask.index_select(axis, index.clamp(0, n - 1))
        return mask


def _reached(padding: Any, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return what a transposed window loses before and after; a negative number is gained."""
    if isinstance(padding, tuple):
        return padding
    if isinstance(padding, int):
        return padding, padding
    span = (size - 1) * dilation + 1
    if padding == "valid":
        return 0, min(0, span - stride)
    if padding != "same":
        raise ValueError(f"padding must be 'same', 'valid' or numbers, got {padding!r}")
    before = max(0, (span - stride) // 2)
    return before, span - stride - before


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Layer):
    """Transposed convolution: the average over the receptive field is transposed.

    ``output_padding`` adds positions at the end, as in ``torch.nn.ConvTranspose2d``;
    ``padding`` is what the forward convolution would pad: per axis a number or (before, after),
    ``"valid"``, or ``"same"`` for exactly ``stride`` positions from each. Other arguments as in
    :class:`Conv`.
    """

    kernel_size: int | tuple[int, ...] = 3
    weight_std: Scalar = 1.0
    bias_std: Scalar | None = None
    stride: int | tuple[int, ...] = 1
    padding: Padding = 0
    output_padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    parameterization: Parameterization = "ntk"
    fan_in: int | None = None
    width_multiplier: float = 1.0
    width: int = 1
    style: ClassVar[Style] = "affine"

    def _windows(self, rank: int) -> tuple[Window, ...]:
        parts = zip(
            _tuple(self.kernel_size, rank),
            _tuple(self.stride, rank),
            _tuple(self.dilation, rank),
            _tuple(self.padding, rank),
            strict=True,
        )
        return tuple(Window(f, s, d, *_reached(p, f, s, d)) for f, s, d, p in parts)

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of positions that the windows reach."""
        extra = _tuple(self.output_padding, len(places))
        return tuple(
            (n - 1) * w.stride - w.low - w.high + (w.size - 1) * w.dilation + 1 + e
            for w, n, e in zip(self._windows(len(places)), places, extra, strict=True)
        )

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Spread every pair of positions over the windows, both moving together."""
        places = tuple(pair.a.var.shape[:-1])
        windows, lengths = self._windows(len(places)), self.places(places)
        taps = 1
        for window in windows:
            taps *= window.size

        def spread(t: Tensor) -> Tensor:
            for d, window in enumerate(windows):
                axes = (d, len(places) + d) if k.full else (d,)
                t = window_scatter(t, axes, window, (lengths[d],) * len(axes))
            return t / taps

        ntk = None if k.ntk is None else spread(k.ntk)
        return _finish(k, spread(k.nngp), ntk, None, self, _fan_in(self, taps))

    def mean(self, state: Any) -> Tensor | None:
        """Weights have zero mean."""
        return None

    def mask(self, mask: Tensor) -> Tensor:
        """Hide every position that a hidden one reaches, as the old library does."""
        places = tuple(mask.shape[:-1])
        reached = (~mask).double()
        for d, window in enumerate(self._windows(len(places))):
            reached = window_scatter(reached, (d,), window, (self.places(places)[d],))
        return reached == 0


@dataclass(frozen=True, kw_only=True)
class ConvLocal(Layer):
    """Convolution without shared weights: different positions are independent.

    Arguments as in :class:`Conv`.
    """

    kernel_size: int | tuple[int, ...] = 3
    weight_std: Scalar = 1.0
    bias_std: Scalar | None = None
    stride: int | tuple[int, ...] = 1
    padding: Padding = "same"
    dilation: int | tuple[int, ...] = 1
    circular: bool = False
    parameterization: Parameterization = "ntk"
    fan_in: int | None = None
    width_multiplier: float = 1.0
    width: int = 1
    style: ClassVar[Style] = "affine"

    def _shared(self) -> Conv:
        return Conv(
            kernel_size=self.kernel_size,
            weight_std=self.weight_std,
            bias_std=self.bias_std,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            circular=self.circular,
            parameterization=self.parameterization,
            fan_in=self.fan_in,
            width_multiplier=self.width_multiplier,
        )

    def places(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of windows along each axis."""
        return self._shared().places(places)

    def needs_full(self, full: bool) -> bool:
        """Only equal positions matter."""
        return False

    def cross(self, k: Cross, pair: Pair) -> Cross:
        """Apply the convolution at equal positions."""
        return self._shared().cross(k, pair)

    def alone(self, state: Any, *, full: bool) -> Any:
        """Equal positions suffice; pairs are filled with zeros by the evaluator."""
        return super().alone(replace(state, full=None), full=False)

    def mean(self, state: Any) -> Tensor | None:
        """Weights have zero mean."""
        return None

    def mask(self, mask: Tensor) -> Tensor:
        """Return the mask of the shared convolution."""
        return self._shared().mask(mask)
