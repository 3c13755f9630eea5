"""Rivals on static networks: every module is in every glance, so a glance is one long vector.

Every code gets the same bytes, also for a whole day. Attributes are scaled by module (deviation
times root of the size, from the known glances); all codes see the scaled numbers.

Shape letters: G known glances, B judged ones, K numbers of a glance, m of a module, d of a code,
r components.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recollect.sketching import Prior, Sketcher
from recollect.sketching.informed import InformedSketcher
from recollect.studies.rivals.quantizer import ProductQuantizer
from recollect.tracing import Trace

__all__ = ["CODES", "Glances", "StaticCode"]

# Component codes are clipped at so many deviations of the known glances.
CLIPPED = 5.0


class Glances:
    """Glances of a static network as one matrix, modules side by side.

    Args:
        trace: of a static network.
        scales: module -> what its attributes are divided by; measured if None.
    """

    def __init__(self, trace: Trace, scales: dict[str, float] | None = None) -> None:
        self.trace, self.names = trace, sorted(trace.columns)
        parts = {name: trace.columns[name].attributes for name in self.names}
        self.scales = scales or {
            k: max(float(x.std(0).square().sum().sqrt()), 1e-12) for k, x in parts.items()
        }
        self.x = torch.cat([parts[k] / self.scales[k] for k in self.names], 1)
        ends = np.cumsum([0, *(parts[k].shape[1] for k in self.names)]).tolist()
        self.where = {k: slice(ends[i], ends[i + 1]) for i, k in enumerate(self.names)}

    @cached_property
    def prior(self) -> Prior:
        """What all sketches of these glances are read with."""
        return Prior.fit(self.trace)

    @cached_property
    def centred(self) -> Tensor:
        """(B, K) deviations from the mean."""
        return self.x - self.x.mean(0)

    @cached_property
    def axes(self) -> Tensor:
        """(K, r) principal directions of all modules together, made once for all sizes."""
        return _components(self.centred)

    @cached_property
    def own_axes(self) -> dict[str, Tensor]:
        """Module -> (m, r) its own principal directions."""
        return {k: _components(self.centred[:, where]) for k, where in self.where.items()}

    def __len__(self) -> int:
        return len(self.x)


class StaticCode(Protocol):
    """A way to keep glances in so many bytes each."""

    def encode(self, glances: Glances) -> Any:
        """Return the codes of B glances."""
        ...

    def read(self, codes: Any, where: slice) -> Tensor:
        """Return the (B, m) scaled numbers of one module."""
        ...

    def day(self, codes: Any, rows: Tensor) -> Tensor | None:
        """Return the (K,) mean of some glances from one code of the same bytes, None if none."""
        ...


class SketchCode:
    """A sketch with the joint prior of the known glances."""

    def __init__(self, fit: Glances, size: int, scheme: str, method: str = "joint") -> None:
        self.sketcher = Sketcher(dim=size, scheme=scheme, scales=fit.scales)
        self.prior, self.method, self.where = fit.prior, method, fit.where
        self.mean = fit.x.mean(0)

    def encode(self, glances: Glances) -> Any:
        return self.sketcher.encode(glances.trace)

    def read(self, codes: Any, where: slice) -> Tensor:
        name = next(k for k, w in self.where.items() if w == where)
        found = self.sketcher.decode(codes, prior=self.prior, method=self.method).objects(name)
        return found.attributes / self.sketcher.modules[name].scale

    def read_all(self, codes: Any) -> Tensor:
        """Return all (B, K) scaled numbers at once."""
        found = self.sketcher.decode(codes, prior=self.prior, method=self.method)
        return Glances(found.trace(), self.sketcher.scales).x

    def day(self, codes: Any, rows: Tensor) -> Tensor | None:
        if self.method != "joint":
            return None
        total = _halved(codes[rows.numpy()])
        found = self.sketcher.decode(total, prior=self.prior)
        means = [found.means(k)[0][0] / self.sketcher.modules[k].scale for k in self.where]
        return torch.cat(means)


class InformedCode:
    """An informed sketch: the first numbers are the prior's leading directions."""

    def __init__(self, fit: Glances, size: int) -> None:
        self.sketcher = InformedSketcher(fit.prior, size, scales=fit.scales)
        self.where, self.scales = fit.where, fit.scales

    def encode(self, glances: Glances) -> Any:
        return self.sketcher.encode(glances.trace)

    def read_all(self, codes: Any) -> Tensor:
        """Return all (B, K) scaled numbers at once."""
        return Glances(self.sketcher.decode(codes).trace, self.scales).x

    def read(self, codes: Any, where: slice) -> Tensor:
        return self.read_all(codes)[:, where]

    def day(self, codes: Any, rows: Tensor) -> Tensor | None:
        total = _halved(codes[rows.numpy()])
        return self.read_all(total)[0]


def _halved(codes: Any) -> Any:
    """Return the sum of sketches in the bytes of one: half as many numbers, each a float16."""
    total = codes.prefix(codes.dim // 2).sum()
    step = float(total.codes.abs().max()) / 65504
    kept = ((total.codes.double() / step).to(torch.float16).double() * step).round()
    return replace(total, codes=kept.to(torch.int64))


class _Linear:
    """Codes of linear features y = (x - mean) A, int8 with fixed ranges, read linearly."""

    def __init__(self, fit: Glances, into: Tensor, back: Tensor) -> None:
        self.mean, self.into, self.back = fit.x.mean(0), into, back
        self.step = ((fit.x - self.mean) @ into).std(0).clamp_min(1e-12) * CLIPPED / 127

    def encode(self, glances: Glances) -> Tensor:
        y = (glances.x - self.mean) @ self.into
        return torch.round(y / self.step).clamp(-127, 127).to(torch.int8)

    def read(self, codes: Tensor, where: slice) -> Tensor:
        return self.mean[where] + (codes.to(torch.float32) * self.step) @ self.back[:, where]

    def day(self, codes: Tensor, rows: Tensor) -> Tensor | None:
        half = codes.shape[1] // 2
        mean = codes[rows, :half].to(torch.float32).mean(0).to(torch.float16).to(torch.float32)
        return self.mean + (mean * self.step[:half]) @ self.back[:half]


def _components(x: Tensor) -> Tensor:
    """Return the (K, r) principal directions of centred rows, the leading one first."""
    g, k = x.shape
    squares, turned = torch.linalg.eigh((x @ x.T if g <= k else x.T @ x).double())
    kept = min(g - 1, k, int((squares > squares[-1] * 1e-9).sum()))
    squares, turned = squares.flip(0)[:kept], turned.flip(1)[:, :kept]
    if g <= k:
        turned = x.T.double() @ (turned / squares.sqrt())
    axes: Tensor = turned.to(torch.float32)
    return axes


def pca(fit: Glances, size: int) -> StaticCode:
    """PCA of all modules together, one byte each component."""
    axes = fit.axes[:, : size + 2]
    return _Linear(fit, axes, axes.T)


def klt(fit: Glances, size: int) -> StaticCode:
    """A record of every module: its own principal components, bytes given where they pay most."""
    found: list[tuple[float, str, Tensor]] = []
    for name, where in fit.where.items():
        axes = fit.own_axes[name][:, : size + 2]
        gains = (fit.centred[:, where] @ axes).square().mean(0).tolist()
        found += [(g, name, axis) for g, axis in zip(gains, axes.T, strict=True)]
    found.sort(key=lambda f: -f[0])
    into = torch.zeros(fit.x.shape[1], min(len(found), size + 2))
    for i, (_, name, axis) in enumerate(found[: size + 2]):
        into[fit.where[name], i] = axis
    return _Linear(fit, into, into.T)


def pooled(fit: Glances, size: int) -> StaticCode:
    """The last hidden layer's vector, by its principal components, all else by regression."""
    order = sorted(fit.names, key=lambda k: int(fit.trace.columns[k].rank[0]))
    last = max(order[-3:], key=lambda k: fit.trace.columns[k].size)
    axes = fit.own_axes[last][:, : size + 2]
    into = torch.zeros(fit.x.shape[1], axes.shape[1])
    into[fit.where[last]] = axes
    y = (fit.centred @ into).double()
    back = _ridge(y, fit.centred.double()).to(torch.float32)
    return _Linear(fit, into, back)


class QuantizedCode:
    """Product quantisation of the principal components, one byte a sub-vector."""

    def __init__(self, fit: Glances, size: int) -> None:
        self.mean = fit.x.mean(0)
        self.axes = fit.axes[:, : 4 * (size + 2)]
        y = (fit.centred @ self.axes).numpy()
        bits = min(8, int(np.log2(len(y))))
        self.quantizer = ProductQuantizer(y, (size + 2) * 8 // bits, bits)

    def encode(self, glances: Glances) -> Any:
        return self.quantizer.encode(((glances.x - self.mean) @ self.axes).numpy())

    def read(self, codes: Any, where: slice) -> Tensor:
        y = torch.from_numpy(self.quantizer.decode(codes))
        return self.mean[where] + y @ self.axes[where].T

    def day(self, codes: Any, rows: Tensor) -> Tensor | None:
        # Codes do not add: the day is the code of the mean of what was read, rounded anew.
        y = self.quantizer.decode(codes[rows.numpy()]).mean(0, keepdims=True)
        again = self.quantizer.encode(np.asarray(y, np.float32))
        return self.read(again, slice(0, len(self.mean)))[0]


class LargestCode:
    """The numbers furthest from their mean: place (2 bytes) and value (float16)."""

    def __init__(self, fit: Glances, size: int) -> None:
        self.mean, self.kept = fit.x.mean(0), max(1, (size + 2) // 4)
        self.kept = min(self.kept, fit.x.shape[1])

    def encode(self, glances: Glances) -> Any:
        off = glances.x - self.mean
        place = off.abs().topk(self.kept, dim=1).indices
        return place, off.gather(1, place).to(torch.float16)

    def read(self, codes: Any, where: slice) -> Tensor:
        place, value = codes
        whole = torch.zeros(len(place), len(self.mean)).scatter(1, place, value.to(torch.float32))
        return self.mean[where] + whole[:, where]

    def day(self, codes: Any, rows: Tensor) -> Tensor | None:
        place, value = codes[0][rows], codes[1][rows].to(torch.float32)
        total = torch.zeros(len(self.mean)).index_add(0, place.flatten(), value.flatten())
        kept = total.abs().topk(self.kept).indices
        mean = self.mean.clone()
        mean[kept] += total[kept] / len(rows)
        return mean


class BundleCode:
    """Hyperdimensional computing by torchhd: roles bound to projected fillers, bundled, int8.

    Unbound the way of the field (a product with the role, then the projection's transpose), or
    with a learned clean-up: ridge regression from the bundle to the numbers.
    """

    def __init__(self, fit: Glances, size: int, learned: bool) -> None:
        hd = importlib.import_module("torchhd")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.roles = hd.random(len(fit.names), size)
            self.fillers = [
                hd.random(fit.where[k].stop - fit.where[k].start, size) for k in fit.names
            ]
        self.fit, self.mean, self.learned = fit, fit.x.mean(0), learned
        # One matrix for what bind and bundle do: they are linear in the fillers.
        into = [hd.bind(r[None], f) for r, f in zip(self.roles, self.fillers, strict=True)]
        self.into = torch.cat([t.as_subclass(Tensor) for t in into]) / size**0.5
        self.back = self.into.T
        if learned:
            y = self._rounded(fit).double()
            self.back = _ridge(y, fit.centred.double()).to(torch.float32)

    def _rounded(self, glances: Glances) -> Tensor:
        y = (glances.x - self.mean) @ self.into
        step = y.abs().amax(1, keepdim=True) / 127
        rounded: Tensor = torch.round(y / step) * step
        return rounded

    def encode(self, glances: Glances) -> Tensor:
        return self._rounded(glances)

    def read(self, codes: Tensor, where: slice) -> Tensor:
        read: Tensor = self.mean[where] + codes @ self.back[:, where]
        return read

    @cached_property
    def _halves_back(self) -> Tensor:
        """(d / 2, K) from the half of the numbers that a day keeps as float16."""
        half = self.into.shape[1] // 2
        if not self.learned:
            twice: Tensor = 2 * self.into[:, :half].T
            return twice
        y = self._rounded(self.fit)[:, :half].double()
        return _ridge(y, self.fit.centred.double()).to(torch.float32)

    def day(self, codes: Tensor, rows: Tensor) -> Tensor | None:
        half = codes[rows, : codes.shape[1] // 2].mean(0).to(torch.float16).to(torch.float32)
        mean: Tensor = self.mean + half @ self._halves_back
        return mean


def _ridge(y: Tensor, x: Tensor) -> Tensor:
    """Return the (d, K) ridge regression from y to x, the ridge by leave-one-out error."""
    squares, left = torch.linalg.eigh(y @ y.T)
    squares = squares.clamp_min(0)
    some = left.T @ x[:, :: max(1, x.shape[1] // 512)]  # enough numbers to choose the ridge by
    best, chosen = float("inf"), 0.0
    for ridge in (np.geomspace(1e-4, 10, 12) * float(squares.mean())).tolist():
        weights = left / (squares + ridge)
        spare = (weights * left).sum(1, keepdim=True)
        error = float(((weights @ some) / spare).square().mean())
        if error < best:
            best, chosen = error, ridge
    found: Tensor = (y.T @ (left / (squares + chosen))) @ (left.T @ x)
    return found


def _bundle(learned: bool) -> Callable[[Glances, int], StaticCode | None]:
    def make(fit: Glances, size: int) -> StaticCode | None:
        return BundleCode(fit, size, learned) if find_spec("torchhd") else None

    return make


CODES: dict[str, Callable[[Glances, int], StaticCode | None]] = {
    "sketch, energy": lambda fit, size: SketchCode(fit, size, "energy"),
    "sketch, keyed": lambda fit, size: SketchCode(fit, size, "keyed"),
    "sketch, paper": lambda fit, size: SketchCode(fit, size, "paper"),
    "paper, transpose": lambda fit, size: SketchCode(fit, size, "paper", "transpose"),
    "sketch, informed": lambda fit, size: InformedCode(fit, size) if size >= 128 else None,
    "PCA": pca,
    "product quantisation": QuantizedCode,
    "records, KLT": klt,
    "top-k": LargestCode,
    "torchhd": _bundle(False),
    "torchhd, learned": _bundle(True),
    "pooled embedding": pooled,
}
