"""Scenes of real handwritten digits as glances: one object a digit, with its hidden units.

Used by studies that need objects of many modules whose truth is known.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.studies.digit_readers import shuffled_digits, trained_reader
from recollect.tracing import Trace

__all__ = ["HIDDEN", "NARROW", "DigitReader", "DigitScenes"]

HIDDEN = 32
# Digits that a reader learns from.
LEARNED = 600
NARROW = ("score", "ink", "width", "height")


class DigitScenes:
    """A small network reads scikit-learn's digits; scenes are made of digits it never saw.

    Args:
        epochs: of its training.
        seed: of the split and the training.

    Raises:
        ImportError: if scikit-learn is missing.
    """

    def __init__(self, epochs: int = 40, seed: int = 0) -> None:
        pictures, labels = shuffled_digits(seed)
        network = trained_reader(
            (64, HIDDEN, 10), pictures[:800], labels[:800], epochs=epochs, rate=3e-3, seed=seed
        )
        self._pictures, self._labels = pictures[800:], labels[800:]
        self._network = network

    @torch.no_grad()
    def trace(
        self, glances: int, seed: int, light: float = 1.0, tilt: float = 0.0, *, wide: bool = True
    ) -> Trace:
        """Return glances of 2 to 12 digits; the module of each is the class that it belongs to.

        Args:
            glances: how many.
            seed: of the choice.
            light: by which the pictures' brightness is multiplied.
            tilt: how much commoner high digits are than low ones.
            wide: whether an attribute is the ``HIDDEN`` hidden units, or the ``NARROW`` numbers
                of a detection.
        """
        rng = np.random.default_rng([seed, 17])
        glance = np.repeat(np.arange(glances), rng.integers(2, 13, glances))
        share = np.exp(tilt * np.arange(10) / 9)
        share = share / share.sum()
        kind = rng.choice(10, len(glance), p=share)
        chosen = np.zeros(len(glance), dtype=np.int64)
        for k in range(10):
            rows = np.flatnonzero(self._labels.numpy() == k)
            chosen[kind == k] = rng.choice(rows, int((kind == k).sum()))
        seen = self._pictures[torch.from_numpy(chosen)] * light
        seen = (seen + 0.05 * torch.from_numpy(rng.standard_normal(seen.shape))).float()
        hidden = self._network[:2](seen) if wide else self._detections(seen)
        return Trace.from_columns(
            {
                f"digit {k}": {
                    "attributes": hidden[torch.from_numpy(np.flatnonzero(kind == k))],
                    "glance": glance[kind == k],
                }
                for k in range(10)
            },
            num_glances=glances,
        )

    def _detections(self, seen: Tensor) -> Tensor:
        """Return (n, 4): the score of the best class, ink, and width and height of the strokes."""
        score = self._network(seen).softmax(1).amax(1)
        inked = seen.view(-1, 8, 8) > 0.3
        sides = [inked.any(axis).sum(1).float() for axis in (1, 2)]
        return torch.stack([score, seen.mean(1), *sides], 1)

    @property
    def strokes(self) -> list[str]:
        """Rows of eight pixels of all unseen digits, each 0, 1 or 2: a stream of words."""
        rows = np.rint(self._pictures.numpy().reshape(-1, 8) * 2).astype(np.int64)
        return ["".join(map(str, r)) for r in rows.tolist()]


class DigitReader:
    """A perceptron reads digits: one module for each class it names, 32 hidden units an object.

    It learns from 600 of scikit-learn's digits, in an order that is always the same; the others
    are left for scenes.

    Attributes:
        pictures: (n, 64) those that it never saw, 0 to 1.
        labels: (n,) their classes.
        learned_pictures: (600, 64) those that it learned from.
        learned_labels: (600,) their classes.

    Raises:
        ImportError: if scikit-learn is missing.
    """

    def __init__(self) -> None:
        try:
            from sklearn.datasets import load_digits
            from sklearn.neural_network import MLPClassifier
        except ImportError as error:
            raise ImportError(
                'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
            ) from error
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order] / 16, y[order].astype(np.int64)
        self._network = MLPClassifier((64, HIDDEN), max_iter=60, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it need not have converged
            self._network.fit(x[:LEARNED], y[:LEARNED])
        self.learned_pictures: npt.NDArray[np.float64] = x[:LEARNED]
        self.learned_labels: npt.NDArray[np.int64] = y[:LEARNED]
        self.pictures: npt.NDArray[np.float64] = x[LEARNED:]
        self.labels: npt.NDArray[np.int64] = y[LEARNED:]

    def glances(
        self, pictures: npt.NDArray[np.float64], glance: npt.NDArray[np.int64], total: int
    ) -> Trace:
        """Return what is read of pictures, each an object of the module that it is taken for.

        Args:
            pictures: (n, 64).
            glance: (n,) in which glance each is seen, ascending.
            total: number of glances.
        """
        read, flat = self._network.predict(pictures), pictures
        layers = zip(self._network.coefs_[:-1], self._network.intercepts_[:-1], strict=True)
        for weight, bias in layers:
            flat = np.maximum(flat @ weight + bias, 0)
        hidden = torch.from_numpy(flat.astype(np.float32))
        return Trace.from_columns(
            {
                f"digit/{d}": {"attributes": hidden[read == d], "glance": glance[read == d]}
                for d in range(10)
            },
            num_glances=total,
        )
