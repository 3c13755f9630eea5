"""Sentences with a topic: of articles in the data folder, or what the libraries here document."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recollect._seeds import seed_of

__all__ = ["Corpus", "read_corpus"]

# Folder of a package -> what its documentation is about.
_DOCUMENTED = {
    "networkx/algorithms": "graphs", "numpy/lib": "arrays", "torch/nn/modules": "networks",
    "torch/distributions": "chance",
}  # fmt: skip
_SHORTEST, _LONGEST = 6, 24  # words in a sentence


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences as rows of a vocabulary.

    Attributes:
        words: of each row, the most frequent first; row 0 is the padding.
        rows: for each sentence its words' rows.
        topic: (n,) of each sentence.
        topics: their names.
        source: where it comes from.
    """

    words: tuple[str, ...]
    rows: list[list[int]]
    topic: Tensor
    topics: tuple[str, ...]
    source: str

    def padded(self, places: Sequence[int]) -> Tensor:
        """Return some sentences as (B, T) rows, filled up with the padding."""
        out = torch.zeros(len(places), max(len(self.rows[i]) for i in places), dtype=torch.int64)
        for b, i in enumerate(places):
            out[b, : len(self.rows[i])] = torch.tensor(self.rows[i])
        return out


def read_corpus(data: Path | None, most: int, seed: int, vocabulary: int = 1500) -> Corpus:
    """Read sentences and their topics.

    Args:
        data: folder with ``text/``; None: the documentation of four packages.
        most: sentences of a topic.
        seed: of the choice and the order.
        vocabulary: words that get a row; sentences are read without the others.
    """
    found = _documentation() if data is None else _articles(data)
    rng = np.random.default_rng(seed_of(seed, "corpus"))
    texts, topic = [], []
    for number, sentences in enumerate(found.values()):
        for i in rng.permutation(len(sentences))[:most]:
            texts.append(sentences[i])
            topic.append(number)
    order = rng.permutation(len(texts))
    counted = Counter(w for t in texts for w in t)
    words = ("<padding>", *(w for w, _ in counted.most_common(vocabulary)))
    row = {w: r for r, w in enumerate(words)}
    rows = [[row[w] for w in texts[i] if w in row] for i in order]
    kept = [i for i, r in enumerate(rows) if len(r) >= _SHORTEST]
    source = "documentation of networkx, numpy and torch" if data is None else "WikiText articles"
    return Corpus(
        words, [rows[i] for i in kept], torch.tensor([topic[order[i]] for i in kept]),
        tuple(found), source,
    )  # fmt: skip


def _documentation() -> dict[str, list[list[str]]]:
    """Return topic -> sentences of docstrings."""
    found = {}
    for folder, topic in _DOCUMENTED.items():
        package, *inner = folder.split("/")
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        where = Path(next(iter(spec.submodule_search_locations)), *inner)
        sentences: list[list[str]] = []
        for path in sorted(where.glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    sentences += _sentences(_prose(ast.get_docstring(node) or ""))
        found[topic] = sentences
    return found


def _prose(text: str) -> str:
    """Keep the lines of a docstring that are prose."""
    lines = [line for line in text.splitlines() if not re.search(r">>>|::|[=\\|{}\[\]]|--", line)]
    return "\n".join(lines)


def _articles(data: Path, count: int = 8) -> dict[str, list[list[str]]]:
    """Return the longest articles of WikiText, by title."""
    found: dict[str, list[list[str]]] = {}
    for name in ("valid", "test"):
        text = (data / f"text/wikitext2_{name}.txt").read_text(encoding="utf-8")
        parts = re.split(r"^ = ([^=]+) = *$", text, flags=re.M)
        for title, body in zip(parts[1::2], parts[2::2], strict=True):
            found[title.strip()] = _sentences(body.replace("<unk>", " "))
    longest = sorted(found, key=lambda t: (-len(found[t]), t))[:count]
    return {t: found[t] for t in longest}


def _sentences(text: str) -> list[list[str]]:
    """Split prose into sentences of lower-case words."""
    split = re.split(r"(?<=[.!?])\s|\n\s*\n|\n(?=\s*=)", text)
    words = (re.findall(r"[a-z]+", s.lower()) for s in split)
    return [w for w in words if _SHORTEST <= len(w) <= _LONGEST]
