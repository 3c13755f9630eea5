"""What is trained on chosen rows: a logistic regression and two small networks.

Shape letters: N rows of the pool, C classes, d numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect.selection import WeightedLoss
from recollect.studies.selection_pools import Pool

__all__ = ["LEARNERS", "Convolutional", "Dense", "Logistic"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Logistic:
    """A logistic regression on pixels."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.x = pool.pictures.reshape(len(pool.pictures), -1)
        self.classes = int(pool.test_labels.max()) + 1

    def fit(self, rows: Ints, weights: Any, seed: int) -> Any:
        """Train on weighted rows."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=10, max_iter=1000, tol=1e-3)
        return model.fit(self.x[rows], self.pool.labels[rows], sample_weight=weights)

    def predict(self, model: Any) -> Any:
        """Return probabilities (N, C); classes not met yet get none."""
        whole = np.zeros((len(self.x), self.classes), np.float32)
        whole[:, model.classes_] = model.predict_proba(self.x)
        return whole

    def features(self, model: Any) -> Floats:
        """Return what the model sees: pixels, and a constant."""
        return np.pad(self.x, ((0, 0), (0, 1)), constant_values=1)

    def accuracy(self, model: Any) -> float:
        """Return the accuracy on the pictures kept apart."""
        x = self.pool.test_pictures.reshape(len(self.pool.test_pictures), -1)
        return float(model.score(x, self.pool.test_labels))


class Convolutional:
    """Two convolutions, and a linear layer."""

    STEPS, BATCH = 80, 512

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.x = torch.from_numpy(pool.pictures)[:, None]
        self.y = torch.from_numpy(pool.labels)

    def fit(self, rows: Ints, weights: Any, seed: int) -> nn.Sequential:
        """Train on weighted rows, all of them at every step; many in batches, as many passes."""
        x, y = self.x[rows], self.y[rows]
        w = torch.from_numpy(np.asarray(weights)).float()
        loss = WeightedLoss(nn.CrossEntropyLoss(reduction="none"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.network()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for _ in range(self.STEPS * max(1, len(x) // self.BATCH)):
                many = len(x) > self.BATCH
                some = torch.randperm(len(x))[: self.BATCH] if many else slice(None)
                optimizer.zero_grad()
                loss(model(x[some]), y[some], w[some]).backward()
                optimizer.step()
        return model

    def network(self) -> nn.Sequential:
        """Return a fresh network."""
        small = self.x.shape[-1] <= 8
        stride = 1 if small else 2  # 8 -> 4 -> 2, or 14 -> 7 -> 3
        side = 2 if small else 3
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=stride),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * side * side, 10),
        )

    @torch.no_grad()
    def predict(self, model: nn.Sequential) -> Tensor:
        """Return probabilities (N, C)."""
        return torch.softmax(model(self.x), 1)

    @torch.no_grad()
    def features(self, model: nn.Sequential) -> Tensor:
        """Return what the last layer sees, and a constant."""
        return nn.functional.pad(model[:-1](self.x), (0, 1), value=1.0)

    @torch.no_grad()
    def accuracy(self, model: nn.Sequential) -> float:
        """Return the accuracy on the pictures kept apart."""
        found = model(torch.from_numpy(self.pool.test_pictures)[:, None]).argmax(1)
        return float((found == torch.from_numpy(self.pool.test_labels)).float().mean())


class Dense(Convolutional):
    """One hidden layer of 64 units, for embeddings (N, d)."""

    def network(self) -> nn.Sequential:
        """Return a fresh network."""
        layers = nn.Linear(self.x.shape[-1], 64), nn.ReLU(), nn.Linear(64, 10)
        return nn.Sequential(nn.Flatten(), *layers)


LEARNERS: dict[str, Callable[[Pool], Any]] = {
    "logistic": Logistic,
    "convolutional": Convolutional,
    "dense": Dense,
}
