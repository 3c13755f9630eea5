"""The view of look-ups, on a text classifier's year: words are objects, a sentence is a glance.

The classifier's word vectors come of skip-gram with negative sampling. With ``data`` the
sentences are WikiText's and the topics its eight longest articles; else they are what networkx,
numpy and torch document.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recollect import recall
from recollect.memory import Memory
from recollect.sketching import Sketcher
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, score
from recollect.studies.views.text_classifier import (
    TextClassifier,
    Year,
    a_year,
    train_classifier,
)
from recollect.studies.views.texts import Corpus, read_corpus
from recollect.tracing import Trace, capture, trace

__all__ = [
    "YearTold",
    "drifts",
    "looked_up",
    "measure",
    "month_counts",
    "new_words",
    "remember",
    "year_told",
]

DIM, NAMED, LEVEL = 512, 64, 0.05
MAY, SEPTEMBER = "2026-05-01T00:00Z", "2026-09-01T00:00Z"


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Train a classifier, let a memory watch its year, and return the view's row."""
    corpus = read_corpus(data, 300 if quick else 600, seed)
    cut = int(0.6 * len(corpus.rows))
    learn, rest = list(range(cut)), list(range(cut, len(corpus.rows)))
    network = train_classifier(corpus, learn, seed)
    with torch.no_grad():
        answers = network(corpus.padded(rest)).argmax(1)
    right = float((answers == corpus.topic[rest]).float().mean())
    common = float(torch.bincount(corpus.topic[rest]).max()) / len(rest)
    year = a_year(corpus, rest, seed, 800 if quick else 2000)
    past = looked_up(network, corpus, learn[:300])
    some = year.places[:300]
    now = looked_up(network, corpus, some)
    with TemporaryDirectory() as folder:
        memory = remember(Path(folder) / "year", network, corpus, year, seed)
        told = year_told(memory, corpus, year)
        memory.close()
    batch = corpus.padded(rest[:256])
    likeness = Likeness(corpus.topic[some].numpy(), _means(network, corpus, some))
    watch = partial(capture, network, view="lookups", names=corpus.words, named=_named())
    return score(
        "lookups", past, now, [likeness], dim=DIM, seed=seed,
        overhead=overhead_of(network, batch, watch),
        notes=f"text classifier, {corpus.source}; held-out sentences right {right:.3f}, the "
        f"commonest topic {common:.3f}; {told}; label: the topic; raw: mean word vectors; "
        "attributes: of the words that have no module, as one module",
    )  # fmt: skip


def looked_up(network: TextClassifier, corpus: Corpus, places: list[int]) -> Trace:
    """Return the look-ups of sentences: the commonest words are modules of their own."""
    parts = [
        trace(network, corpus.padded(places[i : i + 200]), view="lookups", names=corpus.words,
              named=_named())
        for i in range(0, len(places), 200)
    ]  # fmt: skip
    return Trace.concat(parts)


def remember(
    folder: Path, network: TextClassifier, corpus: Corpus, year: Year, seed: int
) -> Memory:
    """Return a memory of a year of sentences, with the topic that the network told as a label."""
    memory = Memory(folder, Sketcher(dim=DIM, seed=seed), reservoir=256)
    for start in range(0, len(year.places), 400):
        some = year.places[start : start + 400]
        with torch.no_grad():
            told = network(corpus.padded(some)).argmax(1).tolist()
        memory.add(
            looked_up(network, corpus, some), time=year.times[start : start + 400],
            source="year", labels={"told": [corpus.topics[t] for t in told]},
            ids=range(start, start + len(some)),
        )  # fmt: skip
    memory.fit_prior()
    return memory


@dataclass(frozen=True)
class YearTold:
    """What a memory tells of a year in which a topic comes up in September.

    Attributes:
        fresh: the topic.
        changed: p-value of drift from September on, against the four months before.
        quiet: p-value of drift from May to August, against the four months before.
        named: words that come more or less often since September, p <= 0.05 corrected for all.
        right: how many of these do so because the topic has, or lacks, the word.
        alarms: words that are named for May to August, where nothing changed.
        told: share of the topic from September on, as the classifier tells it month by month.
        true: the same, as it is.
        before: what the classifier tells of the months before.
    """

    fresh: str
    changed: float
    quiet: float
    named: int
    right: int
    alarms: int
    told: float
    true: float
    before: float

    def __str__(self) -> str:
        return (
            f"{self.fresh!r} comes up in September: told share {self.before:.2f} before, "
            f"{self.told:.2f} since (true {self.true:.2f}); p of drift {self.changed:.3f}, of "
            f"a quiet pair of windows {self.quiet:.3f}; {self.named} words named as more or less "
            f"often since, {self.right} of them rightly, {self.alarms} in the quiet windows"
        )


def year_told(memory: Memory, corpus: Corpus, year: Year) -> YearTold:
    """Ask what a user of the classifier would: what changed, in which words, to which topic."""
    quiet, changed = drifts(memory)
    named = new_words(memory, SEPTEMBER)
    alarms = new_words(memory, MAY, SEPTEMBER)
    gains = _gains(corpus, year)
    right = [
        w for w, what in named.items() if (gains[w] > 0) == (what in ("more often", "first seen"))
    ]
    share = _shares(memory, year.fresh)
    late = year.month >= 9
    topics = corpus.topic[torch.tensor(year.places)].numpy()
    true = float((topics[late] == corpus.topics.index(year.fresh)).mean())
    return YearTold(
        year.fresh, changed, quiet, len(named), len(right), len(alarms), share[1], true, share[0]
    )


def new_words(memory: Memory, since: str, until: str | None = None) -> dict[str, str]:
    """Return the words that came more or less often in a window than ever before, and which."""
    words = [m for m in memory.modules.names if m != "other"]
    found = recall.what_was_new(
        memory, since, until, modules=words, unit="glance", looks=False, show=0
    )
    rows = zip(found["module"], found["what"], found["p_value"], strict=True)
    # A word that is seen for the first time is always listed, whatever its p-value.
    return {word: what for word, what, p in rows if p <= LEVEL}


def _shares(memory: Memory, topic: str) -> tuple[float, float]:
    """Return the share of sentences told to be of a topic, before September and since."""
    shares = []
    for since, until in ((None, SEPTEMBER), (SEPTEMBER, None)):
        asked: dict[str, Any] = {"since": since, "until": until}
        of_topic = recall.count(memory, where=f"told = {_quoted(topic)}", **asked)
        shares.append(of_topic["estimate"][0] / recall.count(memory, **asked)["estimate"][0])
    return shares[0], shares[1]


def _quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _gains(corpus: Corpus, year: Year) -> dict[str, float]:
    """Return by how much more often a word comes in a sentence of the fresh topic."""
    fresh = corpus.topics.index(year.fresh)
    places = sorted(set(year.places))
    inside = np.array([int(corpus.topic[p]) == fresh for p in places])
    counts = np.zeros((len(places), len(corpus.words)))
    for i, p in enumerate(places):
        np.add.at(counts[i], corpus.rows[p], 1)
    gain = counts[inside].mean(0) - counts[~inside].mean(0)
    return dict(zip(corpus.words, gain.tolist(), strict=True))


def drifts(memory: Memory) -> tuple[float, float]:
    """Return the p-values of drift from May to July and July to August, and from August on."""
    months = [f"2026-{m:02d}-01T00:00Z" for m in (1, 5, 9)] + ["2027-01-01T00:00Z"]
    first, second, third = pairwise(months)
    quiet = recall.drift(memory, first, second)["p_value"][0]
    changed = recall.drift(memory, second, third)["p_value"][0]
    return float(quiet), float(changed)


def _named() -> range:
    """Rows of the commonest words; row 0 is the padding."""
    return range(1, NAMED + 1)


def _means(network: TextClassifier, corpus: Corpus, places: list[int]) -> Tensor:
    """Return (B, m) mean word vectors, of unit length."""
    rows = corpus.padded(places)
    with torch.no_grad():
        vectors = network.words(rows).sum(1)
    return F.normalize(vectors, dim=1)


def month_counts(corpus: Corpus, year: Year, word: str) -> list[int]:
    """Return how often a word truly came in each month."""
    row = corpus.words.index(word)
    counts = np.zeros(12, dtype=np.int64)
    for place, month in zip(year.places, year.month.tolist(), strict=True):
        counts[month - 1] += corpus.rows[place].count(row)
    return [int(c) for c in counts]
