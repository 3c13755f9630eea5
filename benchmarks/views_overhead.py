"""What does watching through a view cost? A plain forward beside one under ``capture``.

    python -m benchmarks.views_overhead [--seconds 4] [--only BERT]

Networks of usual widths, built from configurations: the weights are random, the cost is that of
trained ones. Plain and watched runs take turns in random order; medians of the ratio to the plain
run of the same round, less one: of wall time and, in brackets, of processor time. Nothing is
encoded or stored: that costs the same for every view (`benchmarks.encoding_speed`).
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tables import show
from benchmarks.watching_costs_little import let_torchvision_be_imported, measure
from recollect import Trace
from recollect.studies.views.capsules import OPTIONS, CapsuleNetwork
from recollect.studies.views.evolving import PathNet

WIDTH, LAYERS, HEADS, LENGTH, BATCH, WORDS = 512, 4, 8, 96, 8, 5000
# Network, its batch, the options of the capture.
Case = tuple[nn.Module, Any, dict[str, Any]]


class Called(nn.Module):
    """A network that takes its batch as one thing, whatever its arguments are called."""

    def __init__(self, model: nn.Module, **named: Any) -> None:
        super().__init__()
        self.model, self.named = model, named

    def forward(self, batch: Any) -> Any:
        """Run the network."""
        args = batch if isinstance(batch, tuple) else (batch,)
        return self.model(*args, **self.named)


def texts() -> Tensor:
    """Texts of one length, (BATCH, LENGTH) rows of a vocabulary."""
    return torch.randint(3, WORDS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))


def bert(**options: Any) -> Case:
    """An encoder; every token looks at every other."""
    library = _transformers()
    config = library.BertConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=LAYERS,
        intermediate_size=4 * WIDTH, vocab_size=WORDS,
    )  # fmt: skip
    return Called(library.BertModel(config).eval()), texts(), options


def gpt2(**options: Any) -> Case:
    """A decoder; the last token is what a text is read at."""
    library = _transformers()
    config = library.GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=WORDS, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return Called(library.GPT2LMHeadModel(config).eval(), use_cache=False), texts(), options


def mixtral(**options: Any) -> Case:
    """Two layers of eight experts, of which two are asked for each token."""
    library = _transformers()
    config = library.MixtralConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=HEADS // 2, num_local_experts=8,
        vocab_size=WORDS,
    )  # fmt: skip
    return Called(library.MixtralForCausalLM(config).eval(), use_cache=False), texts(), options


def path_net() -> Case:
    """Three modules of ten in each of three stages, 512 numbers wide."""
    torch.manual_seed(0)
    model = PathNet(784, width=WIDTH)
    model.heads["digits"] = nn.Linear(WIDTH, 10)
    path = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    return Called(model.eval(), task="digits", path=path), torch.randn(256, 784), {"view": "path"}


def capsules() -> Case:
    """Dynamic routing on pictures of 28 x 28."""
    torch.manual_seed(0)
    pictures = torch.rand(64, 1, 28, 28)
    return CapsuleNetwork(28).eval(), pictures, {"view": "capsules", **OPTIONS}


CASES: dict[str, Callable[[], Case]] = {
    "attention: BERT, mean over all tokens": lambda: bert(view="attention"),
    "attention: GPT-2, last token": lambda: gpt2(view="attention"),
    "experts: Mixtral, experts asked again": lambda: mixtral(view="experts"),
    "experts: Mixtral, attribute='input'": lambda: mixtral(view="experts", attribute="input"),
    "lookups: BERT's words": lambda: bert(view="lookups", modules="*word_embeddings"),
    "path: PathNet": path_net,
    "capsules: dynamic routing": capsules,
}


def _transformers() -> Any:
    let_torchvision_be_imported()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("transformers")


def _kept(trace: Trace) -> None:
    """Do nothing: the trace is made, and that is what is measured."""


def row(name: str, seconds: float) -> tuple[str, ...]:
    """Measure one case."""
    model, batch, watch = CASES[name]()
    plain, ratios = measure(model, batch, {"watched": _kept}, seconds, **watch)
    wall, processor = ratios["watched"]
    return name, f"{plain:.1f}", f"{wall - 1:+.3f} ({processor - 1:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each network")
    parser.add_argument("--only", default="", help="networks of which the name holds this")
    options = parser.parse_args()
    show(
        f"What watching adds to a forward; texts of {LENGTH} tokens, batches of {BATCH}, width "
        f"{WIDTH}",
        ("view and network", "plain, ms", "watched adds, wall (processor)"),
        [row(name, options.seconds) for name in CASES if options.only in name],
    )


if __name__ == "__main__":
    main()
