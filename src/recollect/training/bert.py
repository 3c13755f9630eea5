"""Sizes of a scale-invariant BERT, and how to read them from a Hugging Face configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from recollect._checks import check_integer, check_one_of

__all__ = ["InvariantConfig"]

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True)
class InvariantConfig:
    """Sizes under Hugging Face's names.

    Attributes:
        vocab_size: V.
        hidden_size: d.
        num_hidden_layers: blocks.
        num_attention_heads: H.
        intermediate_size: inner width of the blocks.
        max_position_embeddings: longest text.
        type_vocab_size: segments; 1 means none.
        hidden_dropout_prob: dropout of branches.
        attention_probs_dropout_prob: dropout of attention weights.
        initializer_range: deviation of the truncated normal.
        position_dim: numbers per position (factorised positions); None: ``hidden_size``.
        bias: biases where the degree allows them.
        empty_row: see ``ScaleInvariantAttention``.
        notes: what a loaded configuration said that this architecture must do differently.

    Raises:
        ValueError: for sizes that do not fit together.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 1
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    position_dim: int | None = None
    bias: bool = True
    empty_row: str = "zero"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_integer(name, getattr(self, name), minimum=1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads, got "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not self.initializer_range > 0:
            raise ValueError(f"initializer_range must be positive, got {self.initializer_range}")
        if self.position_dim is not None:
            check_integer("position_dim", self.position_dim, minimum=1)
        check_one_of("empty_row", self.empty_row, ("zero", "uniform"))

    @classmethod
    def from_bert(cls, source: Any, **changes: Any) -> InvariantConfig:
        """Read a Hugging Face BERT configuration.

        What the architecture must do differently (another activation, tied head, norm's epsilon)
        is listed in ``notes``.

        Args:
            source: a ``BertConfig``, its dictionary, or a ``config.json`` (or its folder).
            changes: fields to replace, e.g. ``position_dim=16``.

        Raises:
            ValueError: for a model that is not an encoder with absolute positions.
            TypeError: if it is not a configuration.

        >>> config = InvariantConfig.from_bert({"model_type": "bert", "hidden_size": 64,
        ...     "num_attention_heads": 4, "hidden_act": "gelu"})
        >>> config.hidden_size, config.notes[0]
        (64, "activation 'gelu' becomes 'relu': gelu has no degree")
        """
        given = _read(source)
        if given.get("model_type", "bert") not in ("bert", "roberta", "electra"):
            raise ValueError(
                f"expected the configuration of a BERT, got model_type {given['model_type']!r}"
            )
        if given.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                "expected absolute positions, got position_embedding_type "
                f"{given['position_embedding_type']!r}: relative terms added to scores have "
                "another degree"
            )
        for name in ("is_decoder", "add_cross_attention"):
            if given.get(name):
                raise ValueError(f"expected an encoder, got {name}=True")
        names = {f.name for f in fields(cls)} - {"notes"}
        # Hugging Face leaves out what equals BERT's defaults; segments are 2 there.
        known = {"type_vocab_size": 2, **{k: v for k, v in given.items() if k in names}}
        return replace(cls(**known, notes=_notes(given)), **changes)


def _read(source: Any) -> Mapping[str, Any]:
    """Return the configuration as a mapping."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            path = path / "config.json"
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    if hasattr(source, "to_dict"):
        made: Mapping[str, Any] = source.to_dict()
        return made
    if not isinstance(source, Mapping):
        raise TypeError(
            "expected a BertConfig, a dictionary or the path of a config.json, got "
            f"{type(source).__name__}"
        )
    return source


def _notes(given: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    activation = given.get("hidden_act", "gelu")
    if activation != "relu":
        notes.append(f"activation {activation!r} becomes 'relu': {activation} has no degree")
    if given.get("tie_word_embeddings", True):
        notes.append("the head is not tied to the embeddings: a tied table is not scale invariant")
    notes.append("norms come before the branches, without affine part and with epsilon 1e-30")
    return tuple(notes)
