"""Scale-invariant Transformers under clipped SGD, from good and from bad initial scales.

A small model reads plain text and predicts the next symbol, or hidden ones. All weights before
the head are multiplied by a number at the start, and nothing is tuned again: the ordinary network
under SGD, AdamW and LAMB, the scale-invariant one under SGD, with a constant clip, with a clip for
each unit (AGC), and with the clip relative to its weights.

Shape letters: B texts, T symbols of a text, V symbols of the alphabet.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._answers import Answer
from recollect._seeds import seed_of
from recollect.studies.bars import bars
from recollect.training import InvariantConfig, MaskedLanguageModel, RelativeClipSGD

__all__ = ["Text", "draw", "study", "train"]

CLIPPED = "invariant, relative clip"
RIVALS = ("standard, LAMB", "invariant, SGD, AGC", "invariant, relative clip, head by LAMB")

WIDTH, LENGTH, BATCH = 64, 48, 16
ASKED = 0.15  # share of symbols that are hidden and asked for


@dataclass(frozen=True)
class Text:
    """Symbols of a text as numbers below ``size``; ``size - 1`` is the mask.

    Attributes:
        train: (N,).
        test: (M,).
        size: V.
        name: shown in the table.
        masked: whether hidden symbols are asked for, rather than the next one.
    """

    train: Tensor
    test: Tensor
    size: int
    name: str = ""
    masked: bool = False


class Ordinary(nn.Module):
    """Pre-norm Transformer with softmax attention and GELU, the sizes of the invariant one."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(size, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.head = nn.Linear(WIDTH, size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, input_ids: Tensor, labels: Tensor, is_causal: bool) -> Tensor:
        """Return the mean cross-entropy of the asked symbols."""
        h = self.symbols(input_ids) + self.positions.weight[: input_ids.shape[1]]
        mask = None
        if is_causal:
            mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=h.device).triu(1)
        x = self.encoder(h, mask, is_causal=is_causal)
        asked = labels != -100
        return F.cross_entropy(self.head(x[asked]), labels[asked])


@dataclass(frozen=True)
class Method:
    """One row of the table before its scale.

    Attributes:
        name: shown.
        invariant: whether the network ignores its scale.
        body: parameters -> optimiser of all weights before the head.
        clip: bound of the gradient's norm; or, with ``by_unit``, of its ratio to the weights of
            each unit (AGC); or None.
        by_unit: see ``clip``.
        head: builds the optimiser of the head.
        positions: numbers per position, or None for all.
    """

    name: str
    invariant: bool
    body: Callable[[list[Tensor]], torch.optim.Optimizer]
    clip: float | None = None
    head: Callable[[list[Tensor]], torch.optim.Optimizer] = lambda p: torch.optim.Adam(p, 3e-3)
    positions: int | None = None
    by_unit: bool = False


def _lamb(lr: float) -> Any:
    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        from pytorch_optimizer import Lamb

        made: torch.optim.Optimizer = Lamb(params, lr, weight_decay=0.01)
        return made

    return build


def _adamw(lr: float) -> Any:
    return lambda p: torch.optim.AdamW(p, lr)


def _sgd(lr: float, decay: float = 0.0, clip: float | None = None) -> Any:
    return lambda p: RelativeClipSGD(p, lr, decay, clip=clip)


ADAMW_ALL = "standard, AdamW, head too"
SGD_ALL = "standard, SGD, head too"
CLIPPED_ALL = "invariant, relative clip, head too, rates for scale 1"
METHODS = (
    Method("standard, SGD", False, _sgd(0.1)),
    Method(SGD_ALL, False, _sgd(0.3), head=_sgd(0.3)),
    Method("standard, AdamW", False, _adamw(1e-3)),
    Method(ADAMW_ALL, False, _adamw(3e-3), head=_adamw(3e-3)),
    Method("standard, LAMB", False, _lamb(5e-3)),
    Method("invariant, SGD", True, _sgd(0.3)),
    Method("invariant, SGD, constant clip", True, _sgd(0.3, 0.03), 0.1),
    Method("invariant, SGD, AGC", True, _sgd(0.3, 0.03), 0.02, by_unit=True),
    Method(CLIPPED, True, _sgd(0.3, 0.03, 2.0)),
    Method("invariant, relative clip, head by LAMB", True, _sgd(0.3, 0.03, 2.0), head=_lamb(0.01)),
    Method(
        "invariant, relative clip, head too",
        True,
        _sgd(0.3, 0.03, 2.0),
        head=_sgd(0.3, 0.003, 2.0),
    ),
    # Weights c times smaller learn alike with lr / c^2 and decay c^2: the norm that lr 0.3 is for
    # is 5 times that of the start.
    Method(CLIPPED_ALL, True, _sgd(0.01, 0.3, 2.0), head=_sgd(0.3, 0.001, 2.0)),
)
HIDDEN = (ADAMW_ALL, SGD_ALL, CLIPPED_ALL)  # compared where hidden symbols are asked for


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return validation nats per symbol for each method and initial scale.

    Args:
        quick: fewer scales, seeds, steps and position sizes; no hidden symbols.
        data: folder with ``text/tiny_shakespeare.txt`` and ``text/wikitext2_*.txt``; without it,
            the descriptions of scikit-learn's data sets are read.

    Raises:
        ImportError: if scikit-learn is missing and there is no folder.
    """
    has_rivals = find_spec("pytorch_optimizer") is not None
    methods = [m for m in METHODS if has_rivals or m.name not in RIVALS]
    texts = [read_text(data)] if data is None else [read_text(data), read_text(data, "wikitext2")]
    scales, seeds, steps = ((1.0, 10.0), 1, 300) if quick else ((0.1, 1.0, 10.0, 30.0), 3, 600)
    rows = []
    for text in texts:
        rows += [_row(text, m, s, seeds, steps) for m in methods for s in scales]
        for k in (1, 8) if quick else (1, 4, 16, 64):
            method = replace(next(m for m in METHODS if m.name == CLIPPED), positions=k)
            rows.append(_row(text, method, 1.0, seeds, steps))
        if not quick:
            hidden = replace(text, masked=True)
            asked = [m for m in methods if m.name in HIDDEN]
            rows += [_row(hidden, m, 1.0, seeds, 2000) for m in asked]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"reading text: validation nats a symbol, {steps} steps, {seeds} seed(s)",
        notes=[
            "guessing by frequency alone: "
            + ", ".join(f"{_unigram(text):.2f} nats ({text.name})" for text in texts),
            "no rate is tuned again for a scale; at scale 1 AdamW is the one to beat",
            *([] if quick else ["hidden symbols: 2000 steps, rates chosen at scale 1"]),
            "state: bytes of optimiser memory per parameter of the whole model; 'head too' trains "
            "every parameter by plain clipped SGD",
            *([] if has_rivals else [f"left out, for want of pytorch_optimizer: {RIVALS}"]),
            "position: numbers per position, each with a linear map where fewer than the width",
        ],
    )


def draw(answer: Answer, path: str) -> None:
    """Draw ``loss`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "loss", ("task", "method", "scale", "position"))


def _row(text: Text, method: Method, scale: float, seeds: int, steps: int) -> dict[str, Any]:
    runs = [train(text, method, scale, seed, steps) for seed in range(seeds)]
    loss = np.array([run["loss"] for run in runs])
    return {
        "text": text.name,
        "task": "hidden symbols" if text.masked else "next symbol",
        "method": method.name,
        "position": method.positions or WIDTH,
        "scale": scale,
        "loss": float(loss.mean()),
        "deviation": float(loss.std(ddof=1)) if seeds > 1 else float("nan"),
        "clipped": float(np.mean([run["clipped"] for run in runs])),
        "state": runs[0]["state"],
    }


def train(text: Text, method: Method, scale: float, seed: int, steps: int) -> dict[str, float]:
    """Train one model; return its validation loss, the share of clipped steps, and its state.

    Args:
        text: what is read.
        method: network and optimisers.
        scale: factor on all weights before the head at the start.
        seed: of weights, texts and masks.
        steps: the learning rate falls to a tenth at 60 % and again at 90 % of them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        model = _model(text.size, method).to(device)
    head = list(model.head.parameters())
    body = [p for p in model.parameters() if all(p is not q for q in head)]
    with torch.no_grad():
        torch._foreach_mul_(body, scale)
    optimizers = [method.body(body), method.head(head)]
    marks = [int(0.6 * steps), int(0.9 * steps)]
    schedules = [torch.optim.lr_scheduler.MultiStepLR(o, marks) for o in optimizers]
    drawn = torch.Generator().manual_seed(seed_of(seed, "texts"))
    for _ in range(steps):
        ids, labels = (t.to(device) for t in _batch(text, text.train, drawn, BATCH))
        model.zero_grad()
        model(ids, labels=labels, is_causal=not text.masked).backward()
        if method.by_unit:
            from pytorch_optimizer.optimizer import agc

            for p in body:
                if p.grad is not None:
                    p.grad.copy_(agc(p.detach(), p.grad, agc_clip_val=method.clip))
        elif method.clip is not None:
            nn.utils.clip_grad_norm_(body, method.clip)
        for part, schedule in zip(optimizers, schedules, strict=True):
            part.step()
            schedule.step()
    first, numbers = optimizers[0], sum(p.numel() for p in model.parameters())
    kept = [v for o in optimizers for s in o.state.values() for v in s.values()]
    return {
        "loss": _validate(model, text, device),
        "clipped": first.clip_rate if isinstance(first, RelativeClipSGD) else 0.0,
        "state": sum(v.numel() * v.element_size() for v in kept) / numbers,
    }


def _model(size: int, method: Method) -> Any:
    if not method.invariant:
        return Ordinary(size, 2)
    return MaskedLanguageModel(
        InvariantConfig(
            vocab_size=size,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            position_dim=method.positions,
        )
    )


def _batch(
    text: Text, symbols: Tensor, drawn: torch.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Texts (B, T), and at each position what is asked there, or -100."""
    starts = torch.randint(len(symbols) - LENGTH, (count, 1), generator=drawn)
    found = symbols[starts + torch.arange(LENGTH + 1)]
    ids = found[:, :-1]
    if not text.masked:
        return ids, found[:, 1:]
    asked = torch.rand(ids.shape, generator=drawn) < ASKED
    return ids.masked_fill(asked, text.size - 1), torch.where(asked, ids, -100)


@torch.no_grad()
def _validate(model: nn.Module, text: Text, device: str) -> float:
    drawn = torch.Generator().manual_seed(seed_of("validation"))
    ids, labels = (t.to(device) for t in _batch(text, text.test, drawn, 256))
    return float(model.eval()(ids, labels=labels, is_causal=not text.masked))


def read_text(data: str | None, name: str = "tiny_shakespeare") -> Text:
    """Return the text as numbers, its last tenth for validation; rare symbols become one.

    Args:
        data: folder, or None for scikit-learn's descriptions.
        name: ``"tiny_shakespeare"``, or ``"wikitext2"`` (its test part, then its validation part,
            which alone validates).

    Raises:
        ImportError: if scikit-learn is missing and there is no folder.
    """
    if data is not None:
        parts = [f"{name}.txt"] if name == "tiny_shakespeare" else ["wikitext2_test.txt"]
        parts += ["wikitext2_valid.txt"] if name == "wikitext2" else []
        found = [(Path(data) / "text" / part).read_text(encoding="utf-8") for part in parts]
        written, cut = "".join(found), len(found[0]) if len(found) > 1 else None
    else:
        name, cut = "descriptions", None
        try:
            folder = importlib.resources.files("sklearn.datasets.descr")
        except ImportError as error:
            raise ImportError(
                'this study reads scikit-learn\'s texts: pip install "recollect[demo]"'
            ) from error
        files = sorted((f for f in folder.iterdir() if f.name.endswith(".rst")), key=str)
        written = "\n".join(f.read_text(encoding="utf-8") for f in files)
    counts = Counter(written)
    common = sorted(c for c in counts if counts[c] >= (100 if name == "wikitext2" else 1))
    alphabet = {c: i for i, c in enumerate(common)}
    symbols = torch.tensor([alphabet.get(c, len(common)) for c in written])
    cut = len(symbols) * 9 // 10 if cut is None else cut
    return Text(symbols[:cut], symbols[cut:], len(common) + 1 + (len(common) < len(counts)), name)


def _unigram(text: Text) -> float:
    """Cross-entropy of the validation symbols under the training frequencies."""
    counts = torch.bincount(text.train, minlength=text.size).double() + 1
    return float(-(counts / counts.sum()).log()[text.test].mean())
