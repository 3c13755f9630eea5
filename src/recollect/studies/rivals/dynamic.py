"""Rivals where objects come and go: digit scenes, detections.

Every code gets the same bytes for a glance. The list of the modules of its objects, one byte an
object, stands beside it for all codes when attributes are read; counts, probes and days are read
without the list, except from records, which are lists themselves.

Attributes are scaled by module (deviation times root of the size, from the known glances).

Shape letters: B glances, n objects, m numbers of an attribute, d of a code, P modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.sketching import Prior, Sketcher
from recollect.studies.rivals.quantizer import ProductQuantizer
from recollect.tracing import Object, Trace

__all__ = ["CODES", "DynamicCode", "Scenes"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Scenes:
    """All objects of some glances in one table, by glance, then by module.

    Args:
        trace: every attribute of one size.
        names: modules, in the order of their numbers.
        means: (P, m) of the known glances; measured if None.
        scales: (P,) likewise.
    """

    def __init__(
        self,
        trace: Trace,
        names: list[str],
        means: Floats | None = None,
        scales: Floats | None = None,
    ) -> None:
        self.trace, self.names = trace, names
        parts = [trace.columns[k] for k in names if k in trace.columns]
        kind = np.concatenate([np.full(len(c), names.index(c.name)) for c in parts])
        glance = np.concatenate([c.glance for c in parts])
        raw = np.concatenate([c.attributes.numpy() for c in parts])
        order = np.lexsort((kind, glance))
        self.kind, self.glance, self.raw = kind[order], glance[order], raw[order]
        if means is None or scales is None:
            means = np.stack([self.raw[self.kind == p].mean(0) for p in range(len(names))])
            spread = [
                np.sqrt(((self.raw[self.kind == p] - means[p]) ** 2).sum(1).mean())
                for p in range(len(names))
            ]
            scales = np.maximum(np.array(spread, np.float32), 1e-6)
        self.means, self.scales = means.astype(np.float32), scales
        # Deviations from the module's mean, scaled.
        self.x: Floats = (self.raw - self.means[self.kind]) / self.scales[self.kind, None]

    def __len__(self) -> int:
        return len(self.trace)

    def like(self, trace: Trace) -> Scenes:
        """Return other glances in the same scaling."""
        return Scenes(trace, self.names, self.means, self.scales)

    @cached_property
    def prior(self) -> Prior:
        """What all sketches of these glances are read with."""
        return Prior.fit(self.trace)

    @property
    def number(self) -> Ints:
        """Objects in each glance, (B,)."""
        return np.bincount(self.glance, minlength=len(self))

    @property
    def counts(self) -> Floats:
        """Objects of each module in each glance, (B, P)."""
        table = np.zeros((len(self), len(self.names)), np.float32)
        np.add.at(table, (self.glance, self.kind), 1)
        return table

    def slots(self, most: int) -> Floats:
        """Return (B, most m): the deviations of each glance's objects side by side."""
        place = np.arange(len(self.glance)) - np.searchsorted(self.glance, self.glance)
        table = np.zeros((len(self), most, self.x.shape[1]), np.float32)
        kept = place < most
        table[self.glance[kept], place[kept]] = self.x[kept]
        return table.reshape(len(self), -1)


class DynamicCode(Protocol):
    """A way to keep glances of objects in so many bytes each."""

    def encode(self, scenes: Scenes) -> Any:
        """Return the codes."""
        ...

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        """Return the (n, m) scaled deviations, given which modules there are; None: cannot."""
        ...

    def counts(self, codes: Any) -> Floats | None:
        """Return the (B, P) counts."""
        ...

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        """Return counts (P,) and mean deviations (P, m) of a day from one code's bytes."""
        ...

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        """Return (B,) scores of how well glances hold an object with these deviations."""
        ...


class SketchCode:
    """A sketch, read with the prior of the known glances; probes are whitened."""

    def __init__(self, fit: Scenes, size: int, scheme: str, method: str = "joint") -> None:
        scales = dict(zip(fit.names, fit.scales.tolist(), strict=True))
        self.sketcher = Sketcher(dim=size, scheme=scheme, scales=scales)
        self.fit, self.prior, self.method = fit, fit.prior, method
        values = self.sketcher.encode(fit.trace).values.double()
        self.mean = values.mean(0)
        spread = (values - self.mean).T @ (values - self.mean) / len(values)
        spread.diagonal().add_(1e-3 * float(spread.diagonal().mean()))
        self.white = torch.linalg.inv(spread)

    def encode(self, scenes: Scenes) -> Any:
        return self.sketcher.encode(scenes.trace)

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        found = self.sketcher.decode(codes, prior=self.prior, method=self.method)
        return scenes.like(found.trace()).x

    def counts(self, codes: Any) -> Floats | None:
        if self.method != "joint":
            return None
        found = self.sketcher.decode(codes, prior=self.prior)
        return np.asarray(found.count_estimates(self.fit.names)[1], np.float32)

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        if self.method != "joint":
            return None
        # A day in the same bytes: half as many numbers, each a float16.
        total = codes[rows].prefix(codes.dim // 2).sum()
        step = float(total.codes.abs().max()) / 65504
        kept = ((total.codes.double() / step).to(torch.float16).double() * step).round()
        total = replace(total, codes=kept.to(torch.int64))
        found = self.sketcher.decode(total, prior=self.prior)
        counts = found.count_estimates(self.fit.names)[1][0]
        means = [found.means(k)[0][0].numpy() for k in self.fit.names]
        return counts, (np.stack(means) - self.fit.means) / self.fit.scales[:, None]

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        raw = x * self.fit.scales[kind] + self.fit.means[kind]
        alone = Trace.from_objects([[Object(self.fit.names[kind], raw)]])
        probe = self.sketcher.unrounded(alone)[0].double()
        if self.method == "joint":
            probe = self.white @ probe
        return np.asarray((codes.values.double() - self.mean) @ probe, np.float32)


class RecordCode:
    """Records: id and the leading components of the module, int8 or product-quantised.

    A glance's bytes are shared by its objects. A day keeps as many whole records, nine bytes
    each, as its bytes hold.
    """

    def __init__(self, fit: Scenes, size: int, quantized: bool) -> None:
        self.fit, self.size, self.quantized = fit, size + 2, quantized
        m = fit.x.shape[1]
        self.axes = np.zeros((len(fit.names), m, m), np.float32)
        for p in range(len(fit.names)):
            own = fit.x[fit.kind == p]
            # A few objects' worth of all modules' spread, for modules seldom seen.
            spread = (own.T @ own + 4 * fit.x.T @ fit.x / len(fit.x)) / (len(own) + 4)
            self.axes[p] = np.linalg.eigh(spread)[1][:, ::-1]
        y = self._turned(fit)
        self.step = np.maximum(y.std(0), 1e-9) * 5 / 127
        self.parts = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= m]
        self.quantizers = {k: ProductQuantizer(y, k) for k in self.parts} if quantized else {}

    def _turned(self, scenes: Scenes) -> Floats:
        return np.asarray(np.einsum("nm,nmk->nk", scenes.x, self.axes[scenes.kind]), np.float32)

    def _rounded(self, y: Floats, room: Ints) -> Floats:
        """Return components as they come back from so many bytes an object."""
        if not self.quantized:
            codes = np.clip(np.round(y / self.step), -127, 127)
            kept = np.arange(y.shape[1])[None] < room[:, None]
            return np.asarray(codes * self.step * kept, np.float32)
        out = np.zeros_like(y)
        for number, k in enumerate(self.parts):
            last = number == len(self.parts) - 1
            rows = (room >= k) & (True if last else room < self.parts[number + 1])
            if rows.any():
                quantizer = self.quantizers[k]
                out[rows] = quantizer.decode(quantizer.encode(y[rows]))
        return out

    def encode(self, scenes: Scenes) -> Any:
        room = self.size // np.maximum(scenes.number, 1)
        return scenes, self._rounded(self._turned(scenes), room[scenes.glance])

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        x = np.einsum("nk,nmk->nm", codes[1], self.axes[codes[0].kind])
        return np.asarray(x, np.float32)

    def counts(self, codes: Any) -> Floats | None:
        found: Floats = codes[0].counts
        return found

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        scenes = codes[0]
        objects = np.flatnonzero(np.isin(scenes.glance, rows))
        rng = np.random.default_rng(int(rows[0]))
        kept = rng.choice(objects, min(len(objects), max(1, self.size // 9)), replace=False)
        y = self._rounded(self._turned(scenes)[kept], np.full(len(kept), 8))
        x = np.einsum("nk,nmk->nm", y, self.axes[scenes.kind[kept]])
        counts = np.bincount(scenes.kind[kept], minlength=len(scenes.names)).astype(np.float32)
        sums = np.zeros((len(counts), x.shape[1]), np.float32)
        np.add.at(sums, scenes.kind[kept], x)
        # Shrunk to the module's mean, which is zero: a sample of few says little.
        whole = np.asarray(counts * (len(objects) / len(kept)), np.float32)
        return whole, np.asarray(sums / (counts[:, None] + 1), np.float32)

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        return None


class SlotCode:
    """PCA of the objects side by side (int8), or the numbers furthest from the mean."""

    def __init__(self, fit: Scenes, size: int, largest: bool) -> None:
        self.fit, self.largest, self.size = fit, largest, size + 2
        self.most = int(fit.number.max())
        x = fit.slots(self.most)
        self.mean = x.mean(0)
        if not largest:
            spread = (x - self.mean).T @ (x - self.mean)
            self.axes = np.linalg.eigh(spread.astype(np.float64))[1][:, ::-1]
            self.axes = self.axes[:, : min(size + 2, len(x) - 1)].astype(np.float32)
            self.step = ((x - self.mean) @ self.axes).std(0) * 5 / 127 + 1e-12

    def encode(self, scenes: Scenes) -> Any:
        x = scenes.slots(self.most)
        if self.largest:
            kept = min(self.size // 4, x.shape[1])
            place = np.argpartition(-np.abs(x), kept - 1, axis=1)[:, :kept]
            out = np.zeros_like(x)
            values = np.take_along_axis(x, place, 1).astype(np.float16)
            np.put_along_axis(out, place, values.astype(np.float32), 1)
            return out
        return np.clip(np.round((x - self.mean) @ self.axes / self.step), -127, 127)

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        whole = codes if self.largest else self.mean + codes * self.step @ self.axes.T
        table = whole.reshape(len(codes), self.most, -1)
        place = np.arange(len(scenes.glance)) - np.searchsorted(scenes.glance, scenes.glance)
        found: Floats = table[scenes.glance, np.minimum(place, self.most - 1)]
        return np.where((place < self.most)[:, None], found, 0).astype(np.float32)

    def counts(self, codes: Any) -> Floats | None:
        return None

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        return None

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        return None


class VectorCode:
    """One vector a glance, all else by regression: torchhd bundles, or a pooled embedding.

    With ``learned=False`` a bundle is unbound as the field does it: a product with the role, then
    the transpose of the filler's projection.
    """

    def __init__(self, fit: Scenes, size: int, kind: str, learned: bool = True) -> None:
        self.fit, self.size, self.learned = fit, size, learned
        m = fit.x.shape[1]
        if kind == "bundle":
            hd = importlib.import_module("torchhd")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                roles, fillers = hd.random(len(fit.names), size), hd.random(m + 1, size)
            bound = [hd.bind(role[None], fillers).as_subclass(Tensor) for role in roles]
            self.into = torch.stack(bound).numpy() / size**0.5  # (P, m + 1, d)
        else:
            eye = np.eye(m + 1, dtype=np.float32)
            kept = min(m + 1, (size + 2) // 2)
            self.into = np.repeat(eye[None, :, :kept], len(fit.names), 0)
        self.pooled = kind != "bundle"
        y = self.encode(fit)
        self.mean = y.mean(0)
        self.to_counts = _ridge(y - self.mean, fit.counts - fit.counts.mean(0))
        self.to_x = np.stack([
            _ridge((y - self.mean)[fit.glance[fit.kind == p]], fit.x[fit.kind == p])
            for p in range(len(fit.names))
        ])  # fmt: skip
        spread = (y - self.mean).T @ (y - self.mean) / len(y)
        self.white = np.linalg.inv(
            spread + 1e-3 * np.trace(spread) / len(spread) * np.eye(len(spread))
        )

    def _images(self, scenes: Scenes) -> Floats:
        raw = scenes.raw / scenes.scales[scenes.kind, None]
        one = np.concatenate([raw, np.ones((len(raw), 1), np.float32)], 1)
        out = np.zeros((len(raw), self.into.shape[2]), np.float32)
        for p in range(len(self.into)):
            out[scenes.kind == p] = one[scenes.kind == p] @ self.into[p]
        return out

    def encode(self, scenes: Scenes) -> Any:
        y = np.zeros((len(scenes), self.into.shape[2]), np.float32)
        np.add.at(y, scenes.glance, self._images(scenes))
        if self.pooled:
            y = y / np.maximum(scenes.number, 1)[:, None]
            return y.astype(np.float16).astype(np.float32)
        step = np.maximum(np.abs(y).max(1, keepdims=True), 1e-9) / 127
        return np.round(y / step) * step

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        if self.learned:
            centred = (codes - self.mean)[scenes.glance]
            x = np.einsum("nd,ndm->nm", centred, self.to_x[scenes.kind])
            return np.asarray(x, np.float32)
        raw = np.einsum("nd,nmd->nm", codes[scenes.glance], self.into[scenes.kind, :-1])
        off = raw - (self.fit.means / self.fit.scales[:, None])[scenes.kind]
        return np.asarray(off, np.float32)

    def counts(self, codes: Any) -> Floats | None:
        if not self.learned:
            return np.asarray(np.einsum("bd,pd->bp", codes, self.into[:, -1]), np.float32)
        found = self.fit.counts.mean(0) + (codes - self.mean) @ self.to_counts
        return np.asarray(found, np.float32)

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        return None

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        raw = x + self.fit.means[kind] / self.fit.scales[kind]
        image = np.append(raw, 1).astype(np.float32) @ self.into[kind]
        weight = self.white @ (image - (self.mean if self.pooled else 0))
        return np.asarray((codes - self.mean) @ weight, np.float32)


def _ridge(y: Floats, x: Floats) -> Floats:
    """Return the (d, k) regression from y to x with the ridge of least leave-one-out error."""
    y64, x64 = y.astype(np.float64), x.astype(np.float64)
    left, s, right = np.linalg.svd(y64, full_matrices=False)
    turned, best = left.T @ x64, np.inf
    found = np.zeros((y.shape[1], x.shape[1]))
    for ridge in np.geomspace(1e-5, 10, 12) * float((s**2).mean() + 1e-12):
        shrink = s**2 / (s**2 + ridge)
        spare = np.maximum(1 - (left**2 * shrink).sum(1), 1e-3)
        error = float((((x64 - left @ (shrink[:, None] * turned)) / spare[:, None]) ** 2).mean())
        if error < best:
            best, found = error, right.T @ ((s / (s**2 + ridge))[:, None] * turned)
    return found.astype(np.float32)


def _bundle(learned: bool) -> Callable[[Scenes, int], DynamicCode | None]:
    def make(fit: Scenes, size: int) -> DynamicCode | None:
        return VectorCode(fit, size, "bundle", learned) if find_spec("torchhd") else None

    return make


CODES: dict[str, Callable[[Scenes, int], DynamicCode | None]] = {
    "sketch, energy": lambda fit, size: SketchCode(fit, size, "energy"),
    "sketch, keyed": lambda fit, size: SketchCode(fit, size, "keyed"),
    "sketch, paper": lambda fit, size: SketchCode(fit, size, "paper"),
    "paper, transpose": lambda fit, size: SketchCode(fit, size, "paper", "transpose"),
    "PCA": lambda fit, size: SlotCode(fit, size, largest=False),
    "product quantisation": lambda fit, size: RecordCode(fit, size, quantized=True),
    "records, KLT": lambda fit, size: RecordCode(fit, size, quantized=False),
    "top-k": lambda fit, size: SlotCode(fit, size, largest=True),
    "torchhd": _bundle(False),
    "torchhd, learned": _bundle(True),
    "pooled embedding": lambda fit, size: VectorCode(fit, size, "pooled"),
}
