"""Rivals where objects come and go: digit scenes, detections.

Every code gets the same bytes for a glance. The list of the modules of its objects, one byte an
object, stands beside it for all codes when attributes are read; counts, probes and days are read
without the list, except from records, which are lists themselves.

Attributes are scaled by module (deviation times root of the size, from the known glances).

Shape letters: B glances, n objects, m numbers of an attribute, d of a code, P modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from recollect.sketching import Sketcher
from recollect.studies.rivals.quantizer import ProductQuantizer
from recollect.studies.rivals.scenes import DynamicCode, Floats, Ints, Scenes
from recollect.studies.rivals.vectors import SumsCode, VectorCode
from recollect.tracing import Object, Trace

__all__ = ["CODES", "DynamicCode", "Scenes"]


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
    "PCA of sums": SumsCode,
    "product quantisation": lambda fit, size: RecordCode(fit, size, quantized=True),
    "records, KLT": lambda fit, size: RecordCode(fit, size, quantized=False),
    "top-k": lambda fit, size: SlotCode(fit, size, largest=True),
    "torchhd": _bundle(False),
    "torchhd, learned": _bundle(True),
    "pooled embedding": lambda fit, size: VectorCode(fit, size, "pooled"),
}
