"""Attention: a small causal Transformer learns to write letters; its heads' looking is kept.

A glance is a text of 24 letters, and what each head read at the last of them. Texts are alike, for
a head, if it looked hardest at the same letter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, overhead_of, raw_vectors, score
from recollect.tracing import Trace, capture, trace

__all__ = ["LENGTH", "Letters", "Writer", "looked_at", "measure", "places", "texts", "train"]

LENGTH = 24
OPTIONS: dict[str, Any] = {"top": 3, "least": 0.05}


class Writer(nn.Module):
    """A causal Transformer over letters: layers of ``torch.nn.TransformerEncoder``.

    Args:
        letters: how many there are.
        width: numbers of a token.
        heads: of each layer.
        layers: how many.

    Example:
        >>> Writer(27)(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 27])
    """

    def __init__(self, letters: int, width: int = 32, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.letter = nn.Embedding(letters, width)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the next letter: (B, T) to (B, T, letters)."""
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        h = self.letter(x) + self.place[:length]
        scores: Tensor = self.head(self.encoder(h, mask=mask, is_causal=True))
        return scores


class Letters:
    """A text as numbers.

    Args:
        text: any.

    Example:
        >>> Letters("abba").codes.tolist()
        [0, 1, 1, 0]
    """

    def __init__(self, text: str) -> None:
        self.known = sorted(set(text))
        place = {c: i for i, c in enumerate(self.known)}
        self.codes = torch.tensor([place[c] for c in text])

    def cut(self, count: int, seed: int, first: float, last: float) -> Tensor:
        """Return texts (count, LENGTH) that begin at random between two shares of the whole."""
        rng = np.random.default_rng([seed, 3])
        low, high = int(first * len(self.codes)), int(last * len(self.codes)) - LENGTH
        starts = torch.from_numpy(rng.integers(low, high, count))
        return self.codes[starts[:, None] + torch.arange(LENGTH)]

    def read(self, codes: Tensor) -> str:
        """Return numbers as text."""
        return "".join(self.known[c] for c in codes.tolist())


def texts(data: Path | None) -> tuple[str, str]:
    """Return a text and its name: Shakespeare from the data folder, else scikit-learn's pages."""
    if data is not None:
        path = data / "text" / "tiny_shakespeare.txt"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; leave --data out for another text")
        return path.read_text(encoding="utf-8")[:300_000], "tiny Shakespeare"
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s pages: pip install "recollect[demo]"'
        ) from error
    loads = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
    pages = [getattr(datasets, f"load_{name}")()["DESCR"] for name in loads]
    # Only words: tables and rulers say little.
    lines = [line.strip() for page in pages for line in page.splitlines()]
    kept = [line for line in lines if sum(c.isalpha() for c in line) > 0.7 * len(line) > 14]
    return " ".join(kept).lower(), "scikit-learn's descriptions of its data"


def train(letters: Letters, steps: int, seed: int, last: float = 0.8) -> Writer:
    """Train a writer on the first part of a text."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Writer(len(letters.known))
        adam = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(steps):
            x = letters.cut(32, seed + 1000 + step, 0.0, last)
            loss = nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return model.eval()


def looked_at(model: Writer, x: Tensor) -> dict[str, Tensor]:
    """Return which letter each head looked at hardest: head -> (B,)."""
    view = trace(model, x, view="attention", top=1, distance=False)
    place = places(model, x)
    return {h: x[torch.arange(len(x)), p] for h, p in place.items() if h in view.modules}


def places(model: Writer, x: Tensor) -> dict[str, Tensor]:
    """Return where each head looks hardest from the last letter, worked out layer by layer."""
    found = {}
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    with torch.no_grad():
        h = model.letter(x) + model.place[: x.shape[1]]
        for n, layer in enumerate(model.encoder.layers):
            assert isinstance(layer, nn.TransformerEncoderLayer)
            y = layer.norm1(h)
            _, w = layer.self_attn(
                y, y, y, attn_mask=mask, need_weights=True, average_attn_weights=False
            )
            for head in range(w.shape[1]):
                found[f"encoder.layers.{n}.self_attn/{head}"] = w[:, head, -1].argmax(1)
            h = layer(h, src_mask=mask)
    return found


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Measure the attention view: see ``ViewRow``."""
    text, source = texts(data)
    letters = Letters(text)
    model = train(letters, 300 if quick else 1200, seed)
    past = trace(model, letters.cut(300, seed, 0.0, 0.8), view="attention", **OPTIONS)
    x = letters.cut(300 if quick else 800, seed + 1, 0.8, 1.0)
    now = trace(model, x, view="attention", **OPTIONS)
    hardest = looked_at(model, x)
    alike = [Likeness(codes.numpy(), _raw_of(now, head), head) for head, codes in hardest.items()]
    costs = overhead_of(model, x[:200], lambda: capture(model, view="attention", **OPTIONS))
    return score(
        "attention", past, now, alike, dim=256, seed=seed, overhead=costs,
        notes=f"two layers of four heads, {source}; a glance is 24 letters, read at the last; "
        "alike for a head: it looked hardest at the same letter; counts: tokens that got 5 % of "
        "the attention or more",
    )  # fmt: skip


def _raw_of(now: Trace, head: str) -> Tensor:
    """Return what one head read and looked at, raw."""
    layer, number = head.rsplit("/", 1)
    parts = []
    for family in (layer, f"{layer}/token", f"{layer}/rest"):
        all_heads = raw_vectors(now, [family]).view(len(now), len(now.columns[family].members), -1)
        parts.append(all_heads[:, int(number)])
    return torch.cat(parts, 1)
