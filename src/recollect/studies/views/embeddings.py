"""The view of look-ups, on a text classifier's year: words are objects, a sentence is a glance.

The classifier's word vectors come of skip-gram with negative sampling. With ``data`` the
sentences are WikiText's and the topics its eight longest articles; else they are what networkx,
numpy and torch document.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recollect import recall
from recollect.memory import Memory
from recollect.sketching import Prior, Sketcher
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

__all__ = ["drifts", "looked_up", "measure", "month_counts", "remember"]

DIM, NAMED = 512, 64


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Train a classifier, let a memory watch its year, and return the view's row."""
    corpus = read_corpus(data, 300 if quick else 600, seed)
    cut = int(0.6 * len(corpus.rows))
    learn, rest = list(range(cut)), list(range(cut, len(corpus.rows)))
    network = train_classifier(corpus, learn, seed)
    with torch.no_grad():
        told = network(corpus.padded(rest)).argmax(1)
    right = float((told == corpus.topic[rest]).float().mean())
    common = float(torch.bincount(corpus.topic[rest]).max()) / len(rest)
    year = a_year(corpus, rest, seed, 400 if quick else 1000)
    past = looked_up(network, corpus, learn[:300])
    some = year.places[:300]
    now = looked_up(network, corpus, some)
    with TemporaryDirectory() as folder:
        memory = remember(Path(folder) / "year", network, corpus, year, seed)
        quiet, changed = drifts(memory)
        memory.close()
    batch = corpus.padded(rest[:256])
    likeness = Likeness(corpus.topic[some].numpy(), _means(network, corpus, some))
    watch = partial(capture, network, view="lookups", names=corpus.words, named=_named())
    row = score(
        "lookups", past, now, [likeness], dim=DIM, seed=seed,
        overhead=overhead_of(network, batch, watch),
        notes=f"text classifier, {corpus.source}; held-out sentences right {right:.3f}, the "
        f"commonest topic {common:.3f}; {year.fresh!r} comes up in September: p of drift "
        f"{changed:.3f}, of a quiet pair of windows {quiet:.3f}; label: the topic; raw: mean "
        "word vectors; attributes: of the words that have no module",
    )  # fmt: skip
    read, usual = _rare_words(past, now, seed)
    return replace(row, attribute_r2=read, attribute_r2_mean=usual)


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


def drifts(memory: Memory) -> tuple[float, float]:
    """Return the p-values of drift from May to July and July to August, and from August on."""
    months = [f"2026-{m:02d}-01T00:00Z" for m in (1, 5, 9)] + ["2027-01-01T00:00Z"]
    first, second, third = pairwise(months)
    quiet = recall.drift(memory, first, second)["p_value"][0]
    changed = recall.drift(memory, second, third)["p_value"][0]
    return float(quiet), float(changed)


def _rare_words(past: Trace, now: Trace, seed: int) -> tuple[float, float]:
    """Return R2 of the vectors of words without a module: read from sketches, and their mean."""
    sketcher = Sketcher(dim=DIM, seed=seed)
    sketcher.admit(past, measure_scales=True)
    read = sketcher.decode(sketcher.encode(now), prior=Prior.fit(past)).objects("other").attributes
    true = now.objects("other").attributes
    usual = past.objects("other").attributes.mean(0)
    spread = (true - true.mean(0)).square().sum()
    errors = [float((true - guess).square().sum() / spread) for guess in (read, usual)]
    return 1 - errors[0], 1 - errors[1]


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
