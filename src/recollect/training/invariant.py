"""Attention, encoder and masked-language model whose output ignores the scale of the weights.

Every sum joins terms of one degree in the weights: a linear layer or table adds 1, a LayerNorm
without affine part resets to 0, the residual stream has degree 2, and attention divides rectified
scores by their sum instead of taking a softmax. Multiplying all encoder weights by c > 0 leaves
the features exactly as they were.

Shape letters: B texts, T positions (S of keys), d features, H heads, e = d / H, V symbols.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of
from recollect.training.bert import InvariantConfig

__all__ = [
    "MaskedLanguageModel",
    "ScaleInvariantAttention",
    "ScaleInvariantEncoder",
    "ScaleInvariantEncoderLayer",
    "split_parameters",
]

# Far below any variance of a living stream, so that the scale of the weights stays invisible;
# a usual 1e-5 is as large as the variance of freshly drawn embeddings.
TINY = 1e-30


class ScaleInvariantAttention(nn.Module):
    r"""Attention with rectified scores divided by their row sum; called as nn.MultiheadAttention.

    sum over heads of  N(relu(Q W_q (K W_k)')) V W_v W_o,   N = each row divided by its sum.

    With inputs of degree 0 the output has degree 2. Biases are legal on queries, keys and values
    only. Masks multiply the rectified scores.

    Args:
        embed_dim: d.
        num_heads: H, a divisor of d.
        dropout: on the attention weights.
        bias: on queries, keys and values.
        batch_first: (B, T, d) rather than (T, B, d).
        empty_row: weights where no score is positive: ``"zero"``, or ``"uniform"`` over the
            allowed keys.

    Raises:
        ValueError: if the heads do not divide the features.

    Example:
        >>> attention = ScaleInvariantAttention(8, 2)
        >>> x = torch.randn(1, 3, 8)
        >>> out, weights = attention(x, x, x)
        >>> out.shape, weights.shape
        (torch.Size([1, 3, 8]), torch.Size([1, 3, 3]))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = False,
        batch_first: bool = True,
        empty_row: str = "zero",
    ) -> None:
        super().__init__()
        self.embed_dim = check_integer("embed_dim", embed_dim, minimum=1)
        self.num_heads = check_integer("num_heads", num_heads, minimum=1)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and "
                             f"{num_heads}")  # fmt: skip
        self.dropout, self.batch_first = dropout, batch_first
        self.empty_row = check_one_of("empty_row", empty_row, ("zero", "uniform"))
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, shape of ``query``, and the weights (B, T, S) or (B, H, T, S).

        Args:
            query: (B, T, d).
            key: (B, S, d).
            value: (B, S, d).
            key_padding_mask: (B, S), true (or -inf) where a key is padding.
            need_weights: whether to return the weights.
            attn_mask: (T, S) or (B H, T, S), true (or -inf) where attention is forbidden.
            average_attn_weights: over heads.
            is_causal: forbid later keys; no mask is needed.

        Raises:
            ValueError: for a float mask that is not 0 or -inf.
        """
        same = key is query and value is query
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = self._projected(query, key, value, same)  # (B, H, T|S, e)
        # A constant factor cancels in the division; it keeps half precision in range.
        scores = torch.matmul(q * (q.shape[-1] ** -0.5), k.mT).relu_()  # (B, H, T, S)
        allowed = self._allowed(scores, key_padding_mask, attn_mask, is_causal)
        if allowed is not None:
            scores = scores * allowed
        total = scores.sum(-1, keepdim=True)
        if self.empty_row == "uniform":
            spread = scores.new_ones(()) if allowed is None else allowed
            scores = torch.where(total > 0, scores, spread)
            total = scores.sum(-1, keepdim=True)
        total = torch.where(total > 0, total, 1.0)
        kept = F.dropout(scores, self.dropout, self.training) if self.dropout else scores
        out = torch.matmul(kept, v) / total  # (B, H, T, e)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, T, d)
        weights = None
        if need_weights:
            weights = kept / total
            weights = weights.mean(1) if average_attn_weights else weights
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> list[Tensor]:
        if same:
            parts = self.in_proj(query).chunk(3, -1)
        else:
            weights = self.in_proj.weight.chunk(3)
            biases = [None] * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)
            given = (query, key, value)
            parts = [F.linear(x, w, b) for x, w, b in zip(given, weights, biases, strict=True)]
        return [p.view(*p.shape[:2], self.num_heads, -1).transpose(1, 2) for p in parts]

    def _allowed(
        self, scores: Tensor, padding: Tensor | None, mask: Tensor | None, causal: bool
    ) -> Tensor | None:
        """One where a key may be seen, else zero, broadcastable to (B, H, T, S)."""
        allowed: Tensor | None = None
        if padding is not None:
            allowed = ~_forbidden("key_padding_mask", padding)[:, None, None, :]
        if mask is not None:
            seen = ~_forbidden("attn_mask", mask)
            if seen.ndim == 3:
                seen = seen.view(-1, self.num_heads, *seen.shape[1:])
            allowed = seen if allowed is None else allowed & seen
        elif causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            allowed = seen if allowed is None else allowed & seen
        return None if allowed is None else allowed.to(scores.dtype)


def _forbidden(name: str, mask: Tensor) -> Tensor:
    """Read a mask in the convention of nn.MultiheadAttention."""
    if mask.dtype == torch.bool:
        return mask
    forbidden = mask == -math.inf
    if not bool((forbidden | (mask == 0)).all()):
        raise ValueError(
            f"{name} may hold only 0 and -inf (or booleans): adding other numbers to scores "
            "would break scale invariance"
        )
    return forbidden


class ScaleInvariantEncoderLayer(nn.Module):
    """Residual block of degree 2: h + attention(norm(h)), then h + relu network(norm(h)).

    Args:
        d_model: d.
        nhead: H.
        dim_feedforward: inner width.
        dropout: on attention weights and on both branches.
        bias: where the degree allows one: queries, keys, values and the first linear layer.
        batch_first: (B, T, d) rather than (T, B, d).
        empty_row: see ``ScaleInvariantAttention``.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        bias: bool = True,
        batch_first: bool = True,
        empty_row: str = "zero",
    ) -> None:
        super().__init__()
        self.self_attn = ScaleInvariantAttention(
            d_model, nhead, dropout, bias, batch_first, empty_row
        )
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        # The sum with the stream has degree 2, where a bias of degree 1 is not legal.
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return the stream after the block, shape of ``src``."""
        x = _normed(src)
        mixed, _ = self.self_attn(
            x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
        )
        h = src + self.dropout(mixed)
        inner = self.dropout(torch.relu_(self.linear1(_normed(h))))
        out: Tensor = h + self.dropout(self.linear2(inner))
        return out


class ScaleInvariantEncoder(nn.TransformerEncoder):
    """Blocks, then a norm: features of degree 0. Called as nn.TransformerEncoder, which it is.

    The input is a stream of degree 2 in the weights.

    Args:
        num_layers: number of blocks.
        d_model: d.
        nhead: H.
        dim_feedforward: inner width of the blocks.
        dropout: in the blocks.
        bias: where the degree allows one.
        batch_first: (B, T, d) rather than (T, B, d).
        empty_row: see ``ScaleInvariantAttention``.

    Example:
        >>> encoder = ScaleInvariantEncoder(2, d_model=8, nhead=2, dim_feedforward=16).eval()
        >>> encoder(torch.randn(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        bias: bool = True,
        batch_first: bool = True,
        empty_row: str = "zero",
    ) -> None:
        check_integer("num_layers", num_layers, minimum=1)
        layers = [
            ScaleInvariantEncoderLayer(
                d_model, nhead, dim_feedforward, dropout, bias, batch_first, empty_row
            )
            for _ in range(num_layers)
        ]
        norm = nn.LayerNorm(d_model, TINY, elementwise_affine=False)
        # torch walks the blocks; it would copy one block, hence equal weights in all of them.
        super().__init__(layers[0], 1, norm, enable_nested_tensor=False)  # type: ignore[arg-type]
        self.layers, self.num_layers = nn.ModuleList(layers), num_layers


def _normed(x: Tensor) -> Tensor:
    """LayerNorm without affine part: degree 0."""
    return F.layer_norm(x, x.shape[-1:], None, None, TINY)


class MaskedLanguageModel(nn.Module):
    """Scale-invariant BERT: embeddings, encoder, and a head over the symbols.

    Symbols (plus segments) and positions are tables (degree 1) followed by linear maps (degree 2).
    With ``position_dim`` k, positions live in k numbers each and have a map of their own.
    The head (``self.head``) alone is not scale invariant; it is not tied to the table.

    Args:
        config: sizes; see ``InvariantConfig.from_bert``.

    Example:
        >>> config = InvariantConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=16, max_position_embeddings=6)
        >>> model = MaskedLanguageModel(config).eval()
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 20])
    """

    def __init__(self, config: InvariantConfig) -> None:
        super().__init__()
        self.config = config
        d, k = config.hidden_size, config.position_dim
        self.symbols = nn.Embedding(config.vocab_size, d)
        self.positions = nn.Embedding(config.max_position_embeddings, d if k is None else k)
        self.segments = (
            nn.Embedding(config.type_vocab_size, d) if config.type_vocab_size > 1 else None
        )
        self.lift = nn.Linear(d, d, bias=False)
        self.lift_positions = None if k is None else nn.Linear(k, d, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = ScaleInvariantEncoder(
            config.num_hidden_layers,
            d,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_dropout_prob,
            config.bias,
            empty_row=config.empty_row,
        )
        for module in self.encoder.modules():
            if isinstance(module, ScaleInvariantAttention):
                module.dropout = config.attention_probs_dropout_prob
        self.head = nn.Linear(d, config.vocab_size)
        self.apply(self._draw)

    def _draw(self, module: nn.Module) -> None:
        """Draw weights from a truncated normal; biases start at 0."""
        if isinstance(module, nn.Linear | nn.Embedding):
            std = self.config.initializer_range
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return features (B, T, d), independent of the scale of all weights before the head.

        Args:
            input_ids: (B, T) symbols.
            attention_mask: (B, T), 1 where there is text and 0 where there is padding.
            token_type_ids: (B, T) segments.
            is_causal: show each position only itself and what comes before.

        Raises:
            ValueError: if the texts are longer than the positions.
        """
        length = input_ids.shape[1]
        if length > self.positions.num_embeddings:
            raise ValueError(
                f"the model has {self.positions.num_embeddings} positions, got {length} symbols; "
                "cut the texts or raise max_position_embeddings"
            )
        h = self.symbols(input_ids)  # (B, T, d), degree 1
        if self.segments is not None:
            kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            h = h + self.segments(kinds)
        if self.lift_positions is None:
            h = self.lift(h + self.positions.weight[:length])
        else:
            h = self.lift(h) + self.lift_positions(self.positions.weight[:length])
        padding = None if attention_mask is None else attention_mask == 0
        features: Tensor = self.encoder(self.dropout(h), None, padding, is_causal)
        return features

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return logits (B, T, V), or with labels (-100 is ignored) their mean cross-entropy.

        Labels stand where they are asked for: nothing is shifted, also with ``is_causal``.
        """
        x = self.features(input_ids, attention_mask, token_type_ids, is_causal)
        if labels is None:
            logits: Tensor = self.head(x)
            return logits
        asked = labels != -100
        # Only asked positions need the widest product of the network.
        return F.cross_entropy(self.head(x[asked]), labels[asked])


def split_parameters(
    model: MaskedLanguageModel,
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters before the head (scale invariant as a whole), and the head's."""
    head = {id(p) for p in model.head.parameters()}
    every = list(model.parameters())
    return [p for p in every if id(p) not in head], [p for p in every if id(p) in head]
