"""Small Transformers that read text: the ordinary one, and the one that ignores its scale.

A model reads plain text and predicts the next symbol, or hidden ones.

Shape letters: B texts, T symbols of a text, V symbols of the alphabet.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._seeds import seed_of
from recollect.training import InvariantConfig, MaskedLanguageModel, RelativeClipSGD

__all__ = ["Method", "Text", "adamw", "lamb", "read_text", "sgd", "train", "unigram"]

Build = Callable[[list[Tensor]], torch.optim.Optimizer]
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
    """Transformer with softmax attention and GELU, the sizes of the invariant one.

    Args:
        size: V.
        layers: number of blocks.
        norm_first: norms before the branches, and a last one; else, as in BERT, after the sum of
            the embeddings and after each branch.
    """

    def __init__(self, size: int, layers: int, norm_first: bool = True) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(size, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=norm_first
        )
        self.first = nn.Identity() if norm_first else nn.LayerNorm(WIDTH)
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(WIDTH) if norm_first else None, enable_nested_tensor=False
        )
        self.head = nn.Linear(WIDTH, size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, input_ids: Tensor, labels: Tensor, is_causal: bool) -> Tensor:
        """Return the mean cross-entropy of the asked symbols."""
        h = self.first(self.symbols(input_ids) + self.positions.weight[: input_ids.shape[1]])
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
        norm_first: of the network that does not ignore its scale; see ``Ordinary``.
    """

    name: str
    invariant: bool
    body: Build
    clip: float | None = None
    head: Build = lambda p: torch.optim.Adam(p, 3e-3)
    positions: int | None = None
    by_unit: bool = False
    norm_first: bool = True


def sgd(lr: float, decay: float = 0.0, clip: float | None = None) -> Build:
    """Return what builds SGD, with a clip relative to the weights where one is given."""
    return lambda params: RelativeClipSGD(params, lr, decay, clip=clip)


def adamw(lr: float) -> Build:
    """Return what builds AdamW."""
    return lambda params: torch.optim.AdamW(params, lr)


def lamb(lr: float) -> Build:
    """Return what builds LAMB; its library is asked for only then."""

    def build(params: list[Tensor]) -> torch.optim.Optimizer:
        from pytorch_optimizer import Lamb

        made: torch.optim.Optimizer = Lamb(params, lr, weight_decay=0.01)
        return made

    return build


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
        return Ordinary(size, 2, method.norm_first)
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


def unigram(text: Text) -> float:
    """Return the cross-entropy of the validation symbols under the training frequencies."""
    counts = torch.bincount(text.train, minlength=text.size).double() + 1
    return float(-(counts / counts.sum()).log()[text.test].mean())
