"""A small text classifier over skip-gram vectors, and a year of sentences that it reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect._seeds import seed_of
from recollect.studies.views.skipgram import skip_gram
from recollect.studies.views.texts import Corpus

__all__ = ["TextClassifier", "Year", "a_year", "train_classifier"]


class TextClassifier(nn.Module):
    """The mean of a sentence's word vectors, read by one linear layer.

    Args:
        vectors: (V, m) to begin with; row 0 is the padding.
        topics: how many.
    """

    def __init__(self, vectors: Tensor, topics: int) -> None:
        super().__init__()
        self.words = nn.Embedding(
            vectors.shape[0], vectors.shape[1], padding_idx=0, _weight=vectors.clone()
        )
        self.topic = nn.Linear(vectors.shape[1], topics)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (B, topics) logits for (B, T) rows, 0 beyond a sentence's end."""
        there = (rows > 0).float()[:, :, None]
        mean = (self.words(rows) * there).sum(1) / there.sum(1).clamp_min(1)
        logits: Tensor = self.topic(mean)
        return logits


def train_classifier(
    corpus: Corpus, learn: list[int], seed: int, *, size: int = 16, epochs: int = 12
) -> TextClassifier:
    """Learn word vectors by skip-gram, then topics (and the vectors with them).

    Args:
        corpus: sentences; vectors are learned from those in ``learn``.
        learn: their places.
        seed: of everything random.
        size: m.
        epochs: of the classifier.
    """
    vectors = skip_gram([corpus.rows[i] for i in learn], len(corpus.words), size, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "classifier") % 2**31)
        network = TextClassifier(vectors, len(corpus.topics))
        adam = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(epochs):
            for rows in torch.split(torch.tensor(learn)[torch.randperm(len(learn))], 64):
                some = rows.tolist()
                loss = F.cross_entropy(network(corpus.padded(some)), corpus.topic[rows])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
    return network.eval()


@dataclass(frozen=True, eq=False)
class Year:
    """A year's stream of sentences.

    Attributes:
        places: (n,) of the sentences in the corpus, in order of time.
        times: (n,) minutes, UTC.
        month: (n,) from 1.
        fresh: name of the topic that comes up in September.
    """

    places: list[int]
    times: npt.NDArray[np.datetime64]
    month: npt.NDArray[np.int64]
    fresh: str


def a_year(corpus: Corpus, pool: list[int], seed: int, count: int) -> Year:
    """Draw a year in which one topic is rare until August and common from September.

    Args:
        corpus: of the sentences.
        pool: places that may come; a sentence may come again.
        seed: of the draw.
        count: sentences.
    """
    rng = np.random.default_rng(seed_of(seed, "a year"))
    minutes = np.sort(rng.integers(0, 365 * 24 * 60, count))
    times = np.datetime64("2026-01-01T00:00") + minutes * np.timedelta64(1, "m")
    month = times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    topic = corpus.topic[torch.tensor(pool)].numpy()
    fresh, places = len(corpus.topics) - 1, []
    for m in month.tolist():
        weight = np.where(topic == fresh, 4.0 if m >= 9 else 0.25, 1.0)
        places.append(pool[int(rng.choice(len(pool), p=weight / weight.sum()))])
    return Year(places, times, month, corpus.topics[fresh])
