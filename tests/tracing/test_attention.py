"""Heads are modules, tokens their inputs; weights are read, and the network is left alone."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect import Trace, capture, trace
from recollect.tracing.attention import DISTANCES

# torch says so of its own fast paths.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
]
WIDTH, HEADS, LENGTH = 8, 2, 6


class Encoder(nn.Module):
    """Two layers of torch's encoder; padding and masks are passed on."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor, mask: Any = None, padding: Any = None) -> Tensor:
        self.seen = self.encoder(x, mask=mask, src_key_padding_mask=padding)
        return self.seen


class Alone(nn.Module):
    """One ``torch.nn.MultiheadAttention`` with the arguments of its call."""

    def __init__(self, given: dict[str, Any], **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.given = given

    def forward(self, x: Tensor) -> Tensor:
        first = self.attention.batch_first
        x = x if first else x.transpose(0, 1)
        other = x[..., : self.attention.kdim]
        out: Tensor = self.attention(x, other, other, **self.given)[0]
        return out if first else out.transpose(0, 1)


def inputs_of(t: Trace, head: str, query: int = 0) -> list[tuple[float, Tensor]]:
    """Weights and attributes of all inputs of one head's object, glance by glance of one."""
    (one,) = [t]
    places = {
        (c.members[j], int(r)): (c.attributes[i], float(w))
        for c in one.columns.values()
        for i, (j, r, w) in enumerate(zip(c.member, c.rank, c.weight, strict=True))
    }
    parent = sorted(r for (m, r) in places if m == head)[query]
    below = one.edges.child[one.edges.parent == parent].tolist()
    by_rank = {r: v for (m, r), v in places.items()}
    return [(by_rank[r][1], by_rank[r][0]) for r in below]


# -- laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", ["mean", "last", "first", "all", (0, -2)])
@pytest.mark.parametrize(("top", "least"), [(1, 0.0), (3, 0.0), (3, 0.2), (99, 0.0)])
def test_weights_sum_to_one_and_give_the_reading(queries: Any, top: int, least: float) -> None:
    model, x = Encoder().eval(), torch.randn(3, LENGTH, WIDTH)
    t = trace(model, x, view="attention", queries=queries, top=top, least=least)
    number = {"all": LENGTH}.get(queries, 2 if isinstance(queries, tuple) else 1)
    for g in range(3):
        for head in ("encoder.layers.0.self_attn/1", "encoder.layers.1.self_attn/0"):
            read = t[g].objects(head).attributes
            assert len(read) == number
            for q in range(number):
                weighed = inputs_of(t[g], head, q)
                assert sum(w for w, _ in weighed) == pytest.approx(1, abs=1e-5)
                total = sum(w * v for w, v in weighed)
                torch.testing.assert_close(total, read[q], atol=1e-5, rtol=1e-4)
                kept = [w for w, _ in weighed[:top]]
                assert kept == sorted(kept, reverse=True) or least > 0


MASK = torch.ones(LENGTH, LENGTH).triu(1).bool()
PADDING = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [3], [5]])
OWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"batch_first": True}, {"attn_mask": MASK}),
    ({}, {"attn_mask": torch.randn(LENGTH, LENGTH)}),
    ({}, {"attn_mask": torch.randn(3 * HEADS, LENGTH, LENGTH)}),
    ({"batch_first": True}, {"key_padding_mask": PADDING}),
    ({"batch_first": True}, {"key_padding_mask": PADDING, "attn_mask": MASK}),
    ({"add_bias_kv": True}, {}),
    ({"add_zero_attn": True, "add_bias_kv": True}, {"attn_mask": MASK}),
    ({"kdim": 5, "vdim": 5}, {}),
    ({"bias": False}, {}),
]


@pytest.mark.parametrize(("options", "given"), OWN)
def test_torch_agrees_about_its_own_weights(
    options: dict[str, Any], given: dict[str, Any]
) -> None:
    model, x = Alone(given, **options).eval(), torch.randn(3, LENGTH, WIDTH)
    model.attention.in_proj_bias is not None and nn.init.normal_(model.attention.in_proj_bias)
    t = trace(model, x, view="attention", queries=[LENGTH - 1], top=99)
    y = x if options.get("batch_first") else x.transpose(0, 1)
    other = y[..., : model.attention.kdim]
    _, w = model.attention(y, other, other, average_attn_weights=False, **given)
    for g in range(3):
        for h in range(HEADS):
            found = [weight for weight, _ in inputs_of(t[g], f"attention/{h}")]
            expected = w[g, h, -1].sort(descending=True).values
            expected = expected[expected > 0].detach()
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_fast_path_runs_and_gives_the_same_bits() -> None:
    model, x = Encoder().eval(), torch.randn(3, LENGTH, WIDTH)
    fast = torch._transformer_encoder_layer_fwd
    for arguments in ({"x": x}, {"x": x, "mask": MASK}, {"x": x, "padding": PADDING}):
        with torch.no_grad():
            plain = model(**arguments)
        with patch("torch._transformer_encoder_layer_fwd", wraps=fast) as called:
            t = trace(model, arguments, view="attention")
        assert called.call_count == 2
        assert model.seen is not None
        assert torch.equal(plain, model.seen)
        assert t.coverage.is_complete


def test_slow_and_fast_path_are_read_alike() -> None:
    x = torch.randn(3, LENGTH, WIDTH)
    for options in ({}, {"norm_first": True}):
        model = Encoder(**options).eval()
        fast = trace(model, x, view="attention")
        with torch.enable_grad(), capture(model, view="attention") as c:
            model(x)  # gradients are wanted: torch takes the slow path
        slow = c.trace()
        for name, column in fast.columns.items():
            torch.testing.assert_close(column.attributes, slow.columns[name].attributes)


def test_nothing_is_left_behind() -> None:
    model, x = Encoder().eval(), torch.randn(3, LENGTH, WIDTH)
    with pytest.raises((RuntimeError, AssertionError)), capture(model, view="attention"):
        model(x[..., :3])
    trace(model, x, view="attention")
    for m in model.modules():
        assert "forward" not in m.__dict__
        assert not m._forward_hooks
        assert not m._forward_pre_hooks
    own = model.encoder.layers[0].self_attn
    own.forward = mine = lambda *a, **k: nn.MultiheadAttention.forward(own, *a, **k)
    trace(model, x, view="attention")
    assert own.__dict__["forward"] is mine


def test_gradients_flow_while_it_is_watched() -> None:
    model, x = Encoder().train(), torch.randn(3, LENGTH, WIDTH)
    with capture(model, view="attention") as c:
        model(x).sum().backward()
    assert not c.trace().columns["encoder.layers.0.self_attn"].attributes.requires_grad
    assert model.encoder.layers[0].self_attn.in_proj_weight.grad is not None


# -- which tokens, and where ----------------------------------------------------------------


def test_padding_makes_no_difference() -> None:
    model, x = Encoder().eval(), torch.randn(3, LENGTH, WIDTH)
    for queries in ("mean", "last", "all"):
        padded = trace(model, {"x": x, "padding": PADDING}, view="attention", queries=queries)
        for g, length in enumerate((LENGTH, 3, 5)):
            alone = trace(model, x[g : g + 1, :length], view="attention", queries=queries)
            for head in ("encoder.layers.0.self_attn/0", "encoder.layers.1.self_attn/1/token"):
                torch.testing.assert_close(
                    padded[g].objects(head).attributes, alone.objects(head).attributes,
                    atol=1e-5, rtol=1e-4,
                )  # fmt: skip


def test_what_may_not_look_ahead_is_read_at_its_last_token() -> None:
    model, x = Encoder().eval(), torch.randn(3, LENGTH, WIDTH)
    auto = trace(model, (x, MASK), view="attention")
    last = trace(model, (x, MASK), view="attention", queries="last")
    name = "encoder.layers.1.self_attn"
    assert torch.equal(auto.columns[name].attributes, last.columns[name].attributes)
    both = [trace(model, x, view="attention", queries=q) for q in ("auto", "mean")]
    assert torch.equal(*[t.columns[name].attributes for t in both])


def test_distances_say_how_far_back() -> None:
    model, x = Alone({"attn_mask": None}, batch_first=True).eval(), torch.randn(2, 40, WIDTH)
    for queries in ([39], [20], "mean"):
        t = trace(model, x, view="attention", queries=queries)
        w = model.attention(x, x, x, average_attn_weights=False)[1].detach()
        chosen = range(40) if queries == "mean" else queries
        for g in range(2):
            expected = np.zeros(len(DISTANCES))
            for i in chosen:
                for j in range(40):
                    back = i - j
                    place = (
                        len(DISTANCES) - 1 if back < 0 else 0 if back == 0
                        else min(1 + math.ceil(math.log2(back)), len(DISTANCES) - 2)
                    )  # fmt: skip
                    expected[place] += float(w[g, 1, i, j]) / len(chosen)
            found = t[g].objects("attention/1/distance").attributes[0].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert found.sum() == pytest.approx(1, abs=1e-5)
    without = trace(model, x, view="attention", distance=False)
    assert "attention/distance" not in without.columns


# -- other attention ------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Attention as people write it, in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(x).split(WIDTH, 2))
        scale = q.shape[3] ** -0.5
        if self.way in ("fused", "boolean"):
            mask = ~MASK if self.way == "boolean" else None
            z = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.way == "fused")
        else:
            scores = (q @ k.transpose(2, 3) * scale).masked_fill(MASK, -torch.inf)
            if self.way == "rows":
                w = F.dropout(scores.flatten(0, 1).softmax(-1), 0.1, self.training)
                z = torch.bmm(w, v.flatten(0, 1)).unflatten(0, (b, HEADS))
            elif self.way == "einsum":
                z = torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, dim=-1), v)
            else:
                z = F.softmax(scores, dim=-1) @ v
        out: Tensor = self.out(z.transpose(1, 2).flatten(2))
        return out


@pytest.mark.parametrize("way", ["fused", "boolean", "plain", "rows", "einsum"])
def test_other_attention_is_read_like_torch_s_own(way: str) -> None:
    own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    nn.init.normal_(own.in_proj_bias)
    theirs = SelfAttention(way).eval()
    theirs.qkv.load_state_dict({"weight": own.in_proj_weight, "bias": own.in_proj_bias})
    x = torch.randn(3, LENGTH, WIDTH)
    wrapped = Alone({"attn_mask": MASK}, batch_first=True).eval()
    wrapped.attention = own
    expected = trace(wrapped, x, view="attention", top=2)
    model = nn.Sequential(theirs).eval()
    with torch.no_grad():
        plain = model(x)
    with capture(model, view="attention", top=2) as c, torch.no_grad():
        assert torch.equal(model(x), plain)
    found = c.trace()
    for (_, a), (_, b) in zip(expected.columns.items(), found.columns.items(), strict=True):
        torch.testing.assert_close(a.attributes, b.attributes, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(a.weight, b.weight, atol=1e-5)


def test_windows_of_a_picture_are_further_queries() -> None:
    class WindowAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            windows = x.view(-1, 3, 2, WIDTH)  # two windows of three tokens, two heads
            y = windows.transpose(1, 2)[..., :4]
            return F.scaled_dot_product_attention(y, y, y).flatten(1).view(len(x), -1)

    x = torch.randn(4, 2 * 3 * 2 * WIDTH)
    t = trace(nn.Sequential(WindowAttention()), x, view="attention")
    heads = t.columns["0"]
    assert np.bincount(heads.glance).tolist() == [4] * 4  # two windows times two heads
    assert "0/distance" not in t.columns


CONFIGS = {
    "GPT2LMHeadModel": {
        "n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 50, "n_positions": 16,
    },
    "LlamaForCausalLM": {
        "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
        "num_hidden_layers": 2, "intermediate_size": 16,
    },
    "BertModel": {
        "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50,
        "intermediate_size": 16,
    },
    "ViTModel": {
        "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 8,
        "patch_size": 2, "intermediate_size": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_hugging_face_networks_agree_about_their_weights(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    make = getattr(transformers, kind)
    config = make.config_class(**CONFIGS[kind], attn_implementation="sdpa")
    model = make(config).eval()
    eager = make(make.config_class(**CONFIGS[kind], attn_implementation="eager")).eval()
    eager.load_state_dict(model.state_dict())
    if kind == "ViTModel":
        batch: dict[str, Tensor] = {"pixel_values": torch.randn(3, 3, 8, 8)}
    else:
        mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]])
        batch = {"input_ids": torch.randint(50, (3, 6)), "attention_mask": mask}
    with torch.no_grad():
        plain = model(**batch)[0]
        w = eager(**batch, output_attentions=True).attentions  # layers of (B, H, T, S)
    with capture(model, view="attention", top=99, queries="first") as c, torch.no_grad():
        assert torch.equal(model(**batch)[0], plain)
    t = c.trace()
    layers = [n for n in t.columns if n.count("/") == 0]
    assert len(layers) == 2
    assert t.coverage.is_complete
    for n, name in enumerate(layers):
        for g in range(3):
            for h in range(w[n].shape[1]):
                found = [weight for weight, _ in inputs_of(t[g], f"{name}/{h}")]
                expected = w[n][g, h, 0].sort(descending=True).values
                np.testing.assert_allclose(found, expected[expected > 0], atol=1e-5)
    if "attention_mask" in batch:  # padding is neither the last token nor part of a mean
        length = batch["attention_mask"].sum(1)
        last = trace(model, batch, view="attention", top=99, queries="last")
        mean = trace(model, batch, view="attention", top=99, queries="mean")
        for g, n in enumerate(length.tolist()):
            for t_, expected in ((last, w[1][g, 1, n - 1]), (mean, w[1][g, 1, :n].mean(0))):
                found = [weight for weight, _ in inputs_of(t_[g], f"{layers[1]}/1")]
                ordered = expected[expected > 0].sort(descending=True).values
                np.testing.assert_allclose(found, ordered, atol=1e-5)
    again = trace(eager, batch, view="attention", top=99, queries="first")
    for name in t.columns:
        torch.testing.assert_close(
            t.columns[name].attributes, again.columns[name].attributes, atol=1e-5, rtol=1e-4
        )


def test_a_text_that_is_written_token_by_token_is_read_like_a_whole_one() -> None:
    transformers = pytest.importorskip("transformers")
    make = transformers.LlamaForCausalLM
    model = make(make.config_class(**CONFIGS["LlamaForCausalLM"])).eval()
    ids = torch.randint(50, (2, 6))
    whole = trace(model, {"input_ids": ids}, view="attention", queries="last")
    with torch.no_grad():
        cache = model(ids[:, :5], use_cache=True).past_key_values
        with capture(model, view="attention", queries="last") as c:
            model(input_ids=ids[:, 5:], past_key_values=cache)
    step = c.trace()
    for name, column in step.columns.items():
        torch.testing.assert_close(
            column.attributes, whole.columns[name].attributes, atol=1e-5, rtol=1e-4
        )
        np.testing.assert_allclose(column.weight, whole.columns[name].weight, atol=1e-5)


def test_a_timm_transformer_is_read_at_its_class_token() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, pretrained=False
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    t = trace(model, x, view="attention", queries="first")
    assert len(t.objects("blocks.1.attn/2")) == 2
    assert t.columns["blocks.0.attn"].members == ("blocks.0.attn/0", "blocks.0.attn/1",
                                                  "blocks.0.attn/2")  # fmt: skip


# -- what it refuses ------------------------------------------------------------------------


class Hidden(nn.Module):
    """Called attention, but what it computes cannot be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = type("FlashAttention", (nn.Linear,), {})(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x)
        return out


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        (nn.Sequential(nn.Linear(WIDTH, 2)), {}, "needs a network with attention"),
        (Hidden(), {}, "read no attention in Hidden.*attn_implementation='sdpa'"),
        (Encoder(), {"queries": [LENGTH]}, r"asked of a text of 6 tokens"),
        (Encoder(), {"queries": "best"}, "queries must be one of"),
        (Encoder(), {"top": 0}, "top must be at least 1"),
        (Encoder(), {"least": 1.0}, "least must be a share of the attention"),
    ],
)
def test_attention_refuses(model: nn.Module, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trace(model, torch.randn(2, LENGTH, WIDTH), view="attention", **options)
    assert all("forward" not in m.__dict__ for m in model.modules())
