"""Scale invariance, attention against its formula, and the sizes of a Hugging Face BERT."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recollect.training import (
    InvariantConfig,
    MaskedLanguageModel,
    RelativeClipSGD,
    ScaleInvariantAttention,
    ScaleInvariantEncoder,
    ScaleInvariantEncoderLayer,
    gradient_radiality,
    scale_deviation,
    split_parameters,
)

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def naive_attention(layer: ScaleInvariantAttention, q: Tensor, k: Tensor, v: Tensor, see: Tensor):
    """The formula, head by head and row by row; ``see`` (B, T, S) says what is allowed."""
    wq, wk, wv = layer.in_proj.weight.chunk(3)
    bq, bk, bv = layer.in_proj.bias.chunk(3)
    width, out = wq.shape[0] // layer.num_heads, torch.zeros_like(q)
    for b in range(q.shape[0]):
        for head in range(layer.num_heads):
            at = slice(head * width, (head + 1) * width)
            hq, hk, hv = (
                x[b] @ w[at].T + c[at] for x, w, c in ((q, wq, bq), (k, wk, bk), (v, wv, bv))
            )
            for t in range(q.shape[1]):
                row = torch.tensor([max(0.0, (hq[t] @ s).item()) for s in hk], dtype=q.dtype)
                row = row * see[b, t]
                if row.sum() == 0:
                    row = see[b, t].to(q) if layer.empty_row == "uniform" else row
                total = row.sum() if row.sum() > 0 else 1.0
                out[b, t] += layer.out_proj.weight[:, at] @ ((row / total) @ hv)
    return out


@pytest.mark.parametrize("empty_row", ["zero", "uniform"])
@pytest.mark.parametrize("masked", ["no", "padding", "mask", "per head", "causal"])
def test_attention_is_its_formula(empty_row: str, masked: str) -> None:
    layer = ScaleInvariantAttention(8, 2, bias=True, empty_row=empty_row).double()
    nn.init.normal_(layer.in_proj.bias)
    q, k, v = (torch.randn(2, n, 8, dtype=torch.float64) for n in (4, 5, 5))
    see, how = torch.ones(2, 4, 5, dtype=torch.bool), {}
    if masked == "padding":
        hide = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
        see, how = ~hide[:, None, :].expand(2, 4, 5), {"key_padding_mask": hide}
    elif masked in ("mask", "per head"):
        hide = torch.rand(4, 5) < 0.5
        see = ~hide.expand(2, 4, 5)
        added = torch.zeros(4, 5).masked_fill(hide, -math.inf)
        how = {"attn_mask": added if masked == "mask" else hide.expand(4, 4, 5)}
    elif masked == "causal":
        see, how = torch.ones(4, 5, dtype=torch.bool).tril().expand(2, 4, 5), {"is_causal": True}
    out, weights = layer(q, k, v, average_attn_weights=False, **how)
    torch.testing.assert_close(out, naive_attention(layer, q, k, v, see))
    assert weights.shape == (2, 2, 4, 5)
    sums = weights.sum(-1)
    assert ((sums - 1).abs().lt(1e-12) | sums.eq(0)).all()
    assert not weights[~see[:, None].expand_as(weights)].any()


def test_self_attention_and_time_first_agree_with_the_general_call() -> None:
    layer = ScaleInvariantAttention(8, 2)
    x = torch.randn(3, 5, 8)
    together, _ = layer(x, x, x, need_weights=False)
    apart, weights = layer(x, x.clone(), x.clone())
    torch.testing.assert_close(together, apart)
    assert weights.shape == (3, 5, 5)
    layer.batch_first = False
    turned, _ = layer(*(x.transpose(0, 1),) * 3)
    torch.testing.assert_close(turned.transpose(0, 1), together)


def test_attention_passes_gradcheck() -> None:
    layer = ScaleInvariantAttention(4, 2, bias=True).double()
    q, k, v = (torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *x: layer(*x, is_causal=True)[0], (q, k, v))


@pytest.mark.parametrize("c", [0.3, 5.0])
def test_degrees_of_attention_and_block(c: float) -> None:
    """Attention adds 2 to inputs of degree 0; a block maps a stream of degree 2 to degree 2."""
    attention = ScaleInvariantAttention(8, 2, bias=True).double()
    block = ScaleInvariantEncoderLayer(8, 2, 16, dropout=0.0).double()
    for p in (*attention.parameters(), *block.parameters()):
        nn.init.normal_(p, std=0.3)  # biases too
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    before = attention(x, x, x)[0], block(x)
    with torch.no_grad():
        for p in (*attention.parameters(), *block.parameters()):
            p.mul_(c)
    torch.testing.assert_close(attention(x, x, x)[0], c**2 * before[0])
    torch.testing.assert_close(block(c**2 * x), c**2 * before[1])


def model_and_loss(dtype: torch.dtype, **changes) -> tuple[MaskedLanguageModel, object]:
    model = MaskedLanguageModel(InvariantConfig(**{**SIZES, **changes})).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.02)
    ids = torch.randint(30, (4, 9))
    seen = torch.ones(4, 9)
    seen[0, 5:] = 0
    labels = torch.where(torch.rand(4, 9) < 0.4, ids, -100)
    return model, lambda: model(ids, seen, labels=labels)


@pytest.mark.parametrize(
    "changes", [{}, {"position_dim": 3}, {"type_vocab_size": 2}, {"empty_row": "uniform"}]
)
def test_the_loss_ignores_the_scale_of_all_weights_before_the_head(changes: dict) -> None:
    model, loss = model_and_loss(torch.float64, **changes)
    before, head = split_parameters(model)
    assert len(before) + len(head) == len(list(model.parameters()))
    assert scale_deviation(loss, before, (0.1, 7.0)) < 1e-9
    assert gradient_radiality(loss, before) < 1e-9
    assert scale_deviation(loss, head, (7.0,)) > 1e-3
    single, single_loss = model_and_loss(torch.float32, **changes)
    assert scale_deviation(single_loss, split_parameters(single)[0], (0.1, 7.0, 30.0)) < 1e-6
    assert gradient_radiality(single_loss, split_parameters(single)[0]) < 1e-5


def test_gradients_shrink_as_weights_grow() -> None:
    model, loss = model_and_loss(torch.float64)
    before, _ = split_parameters(model)
    small = torch.autograd.grad(loss(), before)
    with torch.no_grad():
        for p in before:
            p.mul_(4.0)
    for a, b in zip(small, torch.autograd.grad(loss(), before), strict=True):
        torch.testing.assert_close(b, a / 4, rtol=1e-7, atol=1e-12)


def test_checks_leave_parameters_bit_by_bit_and_teach() -> None:
    x = torch.randn(7)
    kept = x.clone()
    scale_deviation(lambda: x / x.norm(), [x], (0.3,))
    assert torch.equal(x, kept)
    with pytest.raises(ValueError, match=r"factors must be positive, got \[-1\]"):
        scale_deviation(lambda: x, [x], [-1])
    with pytest.raises(ValueError, match="expected parameters to multiply, got none"):
        scale_deviation(lambda: x, [])
    with pytest.raises(ValueError, match="switch dropout off"):
        scale_deviation(lambda: torch.rand(3), [x])
    with pytest.raises(ValueError, match="not finite before any change"):
        scale_deviation(lambda: x / 0, [x])
    with pytest.raises(ValueError, match="expected parameters, got none"):
        gradient_radiality(lambda: x.sum(), [])


def test_an_ordinary_transformer_fails_the_check() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 8)
    assert scale_deviation(lambda: block(x), list(block.parameters())) > 0.1


def test_padding_changes_nothing_and_only_padding_is_not_nan() -> None:
    model, _ = model_and_loss(torch.float64)
    ids = torch.randint(30, (1, 6))
    longer = torch.cat([ids, torch.randint(30, (1, 3))], 1)
    seen = torch.tensor([[1] * 6 + [0] * 3])
    torch.testing.assert_close(model(longer, seen)[:, :6], model(ids))
    assert model(longer, torch.zeros(1, 9)).isfinite().all()


def test_encoder_trains_with_dropout_and_is_still_without() -> None:
    encoder = ScaleInvariantEncoder(2, 8, 2, 16, dropout=0.5)
    x = torch.randn(2, 4, 8)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
    torch.testing.assert_close(encoder(x).mean(-1), torch.zeros(2, 4), atol=1e-6, rtol=0)


def test_every_parameter_learns_by_clipped_sgd() -> None:
    model, loss = model_and_loss(torch.float32, position_dim=2)
    before, head = split_parameters(model)
    groups = [{"params": before}, {"params": head, "scope": "group"}]
    optimizer = RelativeClipSGD(groups, lr=0.2, weight_decay=0.02)
    start = [p.detach().clone() for p in model.parameters()]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        losses.append(value.item())
        optimizer.step()
    assert losses[-1] < losses[0] - 1
    moved = zip(model.parameters(), start, strict=True)
    assert all(not torch.equal(p, old) for p, old in moved)


def test_half_precision_runs() -> None:
    model, loss = model_and_loss(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss()
    value.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_hugging_face_configurations_load(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(theirs.to_dict()))
    found = [InvariantConfig.from_bert(s) for s in (theirs, theirs.to_dict(), path, tmp_path)]
    assert len(set(found)) == 1
    assert found[0].type_vocab_size == 2
    assert (found[0].vocab_size, found[0].intermediate_size) == (50, 3072)
    assert any("'gelu' becomes 'relu'" in note for note in found[0].notes)
    small = InvariantConfig.from_bert(theirs, position_dim=4, intermediate_size=8)
    model = MaskedLanguageModel(small)
    assert model.positions.weight.shape == (512, 4)
    assert model(torch.tensor([[3, 4]])).shape == (1, 2, 50)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"model_type": "gpt2"}, "got model_type 'gpt2'"),
        ({"position_embedding_type": "relative_key"}, "expected absolute positions"),
        ({"is_decoder": True}, "expected an encoder, got is_decoder=True"),
        ({"hidden_size": 10, "num_attention_heads": 3}, "multiple of num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"hidden_dropout_prob": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"initializer_range": 0.0}, "initializer_range must be positive"),
    ],
)
def test_other_configurations_are_refused(source: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InvariantConfig.from_bert(source)
    with pytest.raises(TypeError, match="expected a BertConfig, a dictionary or the path"):
        InvariantConfig.from_bert(3)


def test_calls_that_break_invariance_are_refused() -> None:
    layer = ScaleInvariantAttention(8, 2)
    x = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match="attn_mask may hold only 0 and -inf"):
        layer(x, x, x, attn_mask=torch.full((3, 3), 0.5))
    with pytest.raises(ValueError, match="embed_dim must be a multiple of num_heads, got 8 and 3"):
        ScaleInvariantAttention(8, 3)
    with pytest.raises(ValueError, match="the model has 12 positions, got 13 symbols"):
        MaskedLanguageModel(InvariantConfig(**SIZES))(torch.zeros(1, 13, dtype=torch.long))


def test_a_causal_model_does_not_look_ahead() -> None:
    model, _ = model_and_loss(torch.float64)
    ids = torch.randint(30, (2, 7))
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 30
    a, b = model(ids, is_causal=True), model(changed, is_causal=True)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])
