"""A product quantiser: faiss where it is installed, else k-means of scikit-learn.

Reference: "Product quantization for nearest neighbor search" (Jégou, Douze and Schmid, 2011).

Shape letters: n vectors, m numbers of a vector, M sub-vectors (bytes of a code).
"""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ProductQuantizer", "backend"]

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


def backend() -> str:
    """Return the library that product quantisers are made with, ``"faiss"`` or other."""
    return "faiss" if find_spec("faiss") else "scikit-learn"


class ProductQuantizer:
    """Cuts vectors into M sub-vectors and keeps the number of each one's nearest centroid.

    Numbers i, i + M, i + 2 M, ... make sub-vector i: principal components in order are then
    spread evenly.

    Args:
        x: (n, m) vectors to learn from.
        parts: M; at most m.
        bits: of one number; fewer where there are fewer than 2^bits vectors.

    Example:
        >>> x = np.repeat(np.eye(4, dtype=np.float32), 8, axis=0)
        >>> quantizer = ProductQuantizer(x, parts=2, bits=3)
        >>> codes = quantizer.encode(x)
        >>> codes.shape, quantizer.decode(codes).shape
        ((32, 2), (32, 4))
    """

    def __init__(self, x: Floats, parts: int, bits: int = 8) -> None:
        self.size, self.parts = x.shape[1], min(parts, x.shape[1])
        self.bits = min(bits, max(1, int(np.log2(len(x)))))
        cut = self._cut(x)
        train = _train_faiss if backend() == "faiss" else _train_sklearn
        self.centroids = train(cut, 2**self.bits)  # (M, 2^bits, m / M)

    def _cut(self, x: Floats) -> Floats:
        """Return (n, M, m / M), padded with zeros."""
        width = -(-self.size // self.parts)
        padded = np.zeros((len(x), width * self.parts), np.float32)
        padded[:, : self.size] = x
        cut: Floats = padded.reshape(len(x), width, self.parts).transpose(0, 2, 1)
        return np.ascontiguousarray(cut)

    def encode(self, x: Floats) -> Codes:
        """Return the (n, M) numbers of the nearest centroids."""
        cut, half = self._cut(x), (self.centroids**2).sum(2) / 2
        codes = np.empty((len(x), self.parts), np.int64)
        for i, centroids in enumerate(self.centroids):
            codes[:, i] = (cut[:, i] @ centroids.T - half[i]).argmax(1)
        return codes

    def decode(self, codes: Codes) -> Floats:
        """Return the (n, m) vectors that codes stand for."""
        cut = self.centroids[np.arange(self.parts)[None], codes]  # (n, M, m / M)
        whole: Floats = cut.transpose(0, 2, 1).reshape(len(codes), -1)[:, : self.size]
        return whole


def _train_faiss(cut: Floats, centroids: int) -> Floats:
    faiss: Any = importlib.import_module("faiss")
    n, parts, width = cut.shape
    quantizer = faiss.ProductQuantizer(parts * width, parts, int(np.log2(centroids)))
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.seed = 0
    quantizer.train(np.ascontiguousarray(cut.reshape(n, -1)))
    table = faiss.vector_to_array(quantizer.centroids)
    found: Floats = table.reshape(parts, centroids, width).astype(np.float32)
    return found


def _train_sklearn(cut: Floats, centroids: int) -> Floats:
    from sklearn.cluster import MiniBatchKMeans

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(cut.shape[1]):
            means = MiniBatchKMeans(centroids, n_init=1, max_iter=20, random_state=0)
            found.append(means.fit(cut[:, i]).cluster_centers_)
    return np.stack(found).astype(np.float32)
