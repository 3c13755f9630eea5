"""Experts are modules, router weights the weights; whatever holds the experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recollect import capture, trace

WIDTH, EXPERTS = 4, 3


class Mixture(nn.Module):
    """Experts in a list; tokens are scattered to the two that the router prefers."""

    def __init__(self, way: str = "logits") -> None:
        super().__init__()
        self.top_k, self.way = 2, way
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, 5) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, WIDTH)
        chance = self.gate(tokens).softmax(1)
        weight, index = chance.topk(self.top_k, 1)
        weight = weight / weight.sum(1, keepdim=True)
        out = torch.zeros(len(tokens), 5)
        for e, expert in enumerate(self.experts):
            row, place = torch.where(index == e)
            out = out.index_add(0, row, weight[row, place, None] * expert(tokens[row]))
        return out.view(*x.shape[:-1], 5)


def naive(model: Mixture, x: Tensor) -> np.ndarray:
    """(B, T, E) router weights, zero for experts that are not asked."""
    with torch.no_grad():
        chance = model.gate(x).softmax(2)
        weight, index = chance.topk(2, 2)
        return (
            torch.zeros_like(chance)
            .scatter(2, index, weight / weight.sum(2, keepdim=True))
            .numpy()
        )


def test_the_weighted_sum_of_experts_is_the_block_s_mean_output() -> None:
    model, x = nn.Sequential(Mixture()).eval(), torch.randn(6, 7, WIDTH)
    with torch.no_grad():
        plain = model(x)
    with capture(model, view="experts") as c, torch.no_grad():
        assert torch.equal(model(x), plain)
    t, w = c.trace(), naive(model[0], x).mean(1)
    for g in range(6):
        total, heavy = torch.zeros(5), 0.0
        for e in range(EXPERTS):
            if w[g, e] == 0:
                continue
            o = t[g].objects(f"0/{e}")
            assert len(o) == 1
            assert float(o.weight) == pytest.approx(w[g, e], abs=1e-6)
            total, heavy = total + float(o.weight) * o.attributes[0], heavy + float(o.weight)
        torch.testing.assert_close(total, plain[g].mean(0), atol=1e-5, rtol=1e-4)
        assert heavy == pytest.approx(1, abs=1e-5)
    assert not model[0]._forward_hooks
    assert not model[0].gate._forward_hooks


@pytest.mark.parametrize(("tokens", "place"), [("last", -1), ("first", 0)])
def test_one_token_of_a_text(tokens: str, place: int) -> None:
    model, x = nn.Sequential(Mixture()).eval(), torch.randn(6, 7, WIDTH)
    t = trace(model, x, view="experts", tokens=tokens)
    w = naive(model[0], x)[:, place]
    column = t.columns["0"]
    assert len(column) == 12
    for g, e, weight, said in zip(
        column.glance, column.member, column.weight, column.attributes, strict=True
    ):
        assert weight == pytest.approx(w[g, e], abs=1e-6)
        torch.testing.assert_close(said, model[0].experts[e](x[g, place]).detach())


def test_all_tokens_and_what_they_were_given() -> None:
    model, x = nn.Sequential(Mixture()).eval(), torch.randn(2, 3, WIDTH)
    t = trace(model, x, view="experts", tokens="all", attribute="input").columns["0"]
    assert np.bincount(t.glance).tolist() == [6, 6]
    torch.testing.assert_close(t.attributes, x.reshape(6, WIDTH).repeat_interleave(2, 0))
    np.testing.assert_allclose(t.weight.reshape(6, 2).sum(1), 1, atol=1e-6)


def test_padding_is_not_counted() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixture = Mixture()

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            out: Tensor = self.mixture(x)
            return out

    model, x = Padded().eval(), torch.randn(2, 5, WIDTH)
    mask = torch.tensor([[1] * 5, [1] * 2 + [0] * 3])
    for tokens in ("mean", "last"):
        both = trace(model, {"x": x, "attention_mask": mask}, view="experts", tokens=tokens)
        short = {"x": x[1:, :2], "attention_mask": mask[1:, :2]}
        alone = trace(model, short, view="experts", tokens=tokens)
        one = both[1].columns["mixture"]
        torch.testing.assert_close(one.attributes, alone.columns["mixture"].attributes)
        np.testing.assert_allclose(one.weight, alone.columns["mixture"].weight, atol=1e-6)


MIXTURES = {
    "MixtralForCausalLM": {
        "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50,
        "num_hidden_layers": 2, "intermediate_size": 8, "num_local_experts": 4,
    },
    "Qwen2MoeForCausalLM": {
        "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50,
        "num_hidden_layers": 2, "intermediate_size": 8, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MIXTURES))
def test_stacked_experts_are_read_through_the_router(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    make = getattr(transformers, kind)
    model = make(make.config_class(**MIXTURES[kind])).eval()
    ids = torch.randint(50, (3, 6))
    blocks = [m for m in model.modules() if hasattr(m, "experts") and hasattr(m, "gate")]
    assert len(blocks) == 2
    said: list[Tensor] = []
    handles = [m.experts.register_forward_hook(lambda m, a, o: said.append(o)) for m in blocks]
    with torch.no_grad():
        plain = model(ids).logits
    for h in handles:
        h.remove()
    with capture(model, view="experts") as c, torch.no_grad():
        assert torch.equal(model(ids).logits, plain)
    t = c.trace()
    assert [len(col.members) for col in t.columns.values()] == [4, 4]
    for column, out in zip(t.columns.values(), said, strict=True):
        mean = out.reshape(3, 6, -1).mean(1)
        for g in range(3):
            rows = column.glance == g
            total = (torch.from_numpy(column.weight[rows])[:, None] * column.attributes[rows]).sum(
                0
            )
            torch.testing.assert_close(total, mean[g], atol=1e-5, rtol=1e-3)


class Blind(nn.Module):
    """A router that says nothing of use."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        self.gate(x)
        return sum((e(x) for e in self.experts), torch.zeros(()))


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        (nn.Sequential(nn.Linear(WIDTH, 2)), {}, "needs a mixture of experts: a block with"),
        (nn.Sequential(Mixture()), {"experts": "experten"}, "child 'experten'"),
        (nn.Sequential(Mixture()), {"modules": "0.gate"}, "'0.gate' has no children"),
        (nn.Sequential(Blind()), {}, r"must return scores \(tokens, 3\).*got \(2, 2\)"),
        (nn.Sequential(Mixture()), {"tokens": "some"}, "tokens must be one of"),
        (nn.Sequential(Mixture()), {"attribute": "x"}, "attribute must be one of"),
        (nn.Sequential(Mixture()), {"top": 0}, "top must be at least 1"),
    ],
)
def test_experts_refuse(model: nn.Module, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trace(model, torch.randn(2, WIDTH), view="experts", **options)
