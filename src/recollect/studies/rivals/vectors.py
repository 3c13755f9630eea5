"""Rivals that keep one vector a glance: bundles, sums, a pooled embedding; they add.

Shape letters: B glances, n objects, m numbers of an attribute, d of a code, P modules.
"""

from __future__ import annotations

import importlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect.studies.rivals.scenes import Floats, Ints, Scenes

__all__ = ["SumsCode", "VectorCode"]


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
        """Return the (B, d) codes."""
        y = np.zeros((len(scenes), self.into.shape[2]), np.float32)
        np.add.at(y, scenes.glance, self._images(scenes))
        if self.pooled:
            y = y / np.maximum(scenes.number, 1)[:, None]
            return y.astype(np.float16).astype(np.float32)
        step = np.maximum(np.abs(y).max(1, keepdims=True), 1e-9) / 127
        return np.round(y / step) * step

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        """Return the (n, m) scaled deviations, given which modules there are."""
        if self.learned:
            centred = (codes - self.mean)[scenes.glance]
            x = np.einsum("nd,ndm->nm", centred, self.to_x[scenes.kind])
            return np.asarray(x, np.float32)
        raw = np.einsum("nd,nmd->nm", codes[scenes.glance], self.into[scenes.kind, :-1])
        off = raw - (self.fit.means / self.fit.scales[:, None])[scenes.kind]
        return np.asarray(off, np.float32)

    def counts(self, codes: Any) -> Floats | None:
        """Return the (B, P) counts."""
        if not self.learned:
            return np.asarray(np.einsum("bd,pd->bp", codes, self.into[:, -1]), np.float32)
        found = self.fit.counts.mean(0) + (codes - self.mean) @ self.to_counts
        return np.asarray(found, np.float32)

    @cached_property
    def _to_day(self) -> tuple[int, Floats, Floats]:
        """How many numbers a day keeps, and from them to counts and to sums of deviations."""
        y = self.encode(self.fit)
        kept = y.shape[1] if self.pooled else y.shape[1] // 2  # float16, in the same bytes
        y, sums = y[:, :kept] - self.mean[:kept], self.fit.sums
        counts = self.fit.counts
        return kept, _ridge(y, counts - counts.mean(0)), _ridge(y, sums - sums.mean(0))

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        """Return counts (P,) and mean deviations (P, m) of a day, the sum of its codes."""
        size, parts = len(self.mean), self.into.shape[:2]
        if not self.learned:
            kept = size // 2
            usual = _halves(codes[rows, :kept].mean(0))
            found = np.einsum("d,pmd->pm", usual, self.into[..., :kept]) * (size / kept)
            counts = np.asarray(len(rows) * found[:, -1], np.float32)
            raw = len(rows) * found[:, :-1] / np.maximum(counts, 1)[:, None]
            off = raw - self.fit.means / self.fit.scales[:, None]
            return counts, np.asarray(off, np.float32)
        kept, to_counts, to_sums = self._to_day
        y = _halves(codes[rows, :kept].mean(0)) - self.mean[:kept]
        counts = len(rows) * (self.fit.counts.mean(0) + y @ to_counts)
        sums = len(rows) * (self.fit.sums.mean(0) + y @ to_sums)
        return _means(counts, sums.reshape(parts[0], -1))

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        """Return (B,) products of the codes with the whitened code of one object."""
        raw = x + self.fit.means[kind] / self.fit.scales[kind]
        image = np.append(raw, 1).astype(np.float32) @ self.into[kind]
        weight = self.white @ (image - (self.mean if self.pooled else 0))
        return np.asarray((codes - self.mean) @ weight, np.float32)


class SumsCode:
    """PCA of what adds: the count of every module and the sum of its objects' deviations.

    Int8 with fixed ranges. The best linear code of a glance's sums; of several objects of one
    module it knows the mean only.
    """

    def __init__(self, fit: Scenes, size: int) -> None:
        self.fit = fit
        features = self._features(fit)
        self.mean = features.mean(0)
        _, spread, axes = np.linalg.svd(features - self.mean, full_matrices=False)
        most = min(size + 2, len(fit) - 1, int((spread > spread[0] * 1e-6).sum()))
        self.axes = axes[:most].T.astype(np.float32)
        y = (features - self.mean) @ self.axes
        self.step = np.maximum(y.std(0), 1e-12) * 5 / 127
        self.variance = y.var(0) + 1e-3 * y.var(0).mean()

    def _features(self, scenes: Scenes) -> Floats:
        return np.concatenate([scenes.counts, scenes.sums], 1)

    def encode(self, scenes: Scenes) -> Any:
        """Return the (B, d) codes."""
        y = (self._features(scenes) - self.mean) @ self.axes
        return np.clip(np.round(y / self.step), -127, 127).astype(np.int8)

    def _read(self, y: Floats) -> tuple[Floats, Floats]:
        """Return (B, P) counts and (B, P, m) sums of codes in steps."""
        places = len(self.fit.names)
        found = self.mean + (y * self.step[: y.shape[1]]) @ self.axes[:, : y.shape[1]].T
        return found[:, :places], found[:, places:].reshape(len(y), places, -1)

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        """Return the (n, m) scaled deviations, given which modules there are."""
        sums = self._read(codes.astype(np.float32))[1][scenes.glance, scenes.kind]
        number = scenes.counts[scenes.glance, scenes.kind, None]
        return np.asarray(sums / number, np.float32)

    def counts(self, codes: Any) -> Floats | None:
        """Return the (B, P) counts."""
        return self._read(codes.astype(np.float32))[0]

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        """Return counts (P,) and mean deviations (P, m) of a day, the sum of its codes."""
        usual = _halves(codes[rows, : codes.shape[1] // 2].astype(np.float32).mean(0))
        counts, sums = self._read(usual[None])
        return _means(len(rows) * counts[0], len(rows) * sums[0])

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        """Return (B,) products of the codes with the whitened code of one object."""
        places = len(self.fit.names)
        image = np.zeros(len(self.mean), np.float32)
        image[kind] = 1
        image[places + kind * len(x) : places + (kind + 1) * len(x)] = x
        weight = image @ self.axes / self.variance * self.step
        return np.asarray(codes.astype(np.float32) @ weight, np.float32)


def _halves(x: Floats) -> Floats:
    """Round to float16, as a day's vector is kept."""
    return x.astype(np.float16).astype(np.float32)


def _means(counts: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """Return (P,) counts and (P, m) means, drawn to the module's usual, zero, by one object."""
    shrunk = sums / (np.maximum(counts, 0)[:, None] + 1)
    return np.asarray(counts, np.float32), np.asarray(shrunk, np.float32)


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
