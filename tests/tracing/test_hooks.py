"""Watching: what is recorded, and that the network is left alone."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from recollect import Trace, capture, trace
from recollect._checks import NotRemembered


class Small(nn.Module):
    """A network with dropout, a normalisation, a shared activation and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm(self.conv(x)))
        y = self.act(y - 0.1)
        return self.head(self.drop(y.mean((2, 3))))


def state(model: nn.Module) -> list[Any]:
    """Everything that hooks could have left behind."""
    return [
        (name, m.training, sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks),
         len(m._forward_hooks_with_kwargs), len(m._forward_pre_hooks_with_kwargs),
         len(m._forward_hooks_always_called), sorted(m._parameters), sorted(m._modules))
        for name, m in model.named_modules()
    ]  # fmt: skip


def test_attributes_are_the_means_that_plain_code_computes() -> None:
    model, x = Small().eval(), torch.randn(5, 3, 8, 8)
    t = trace(model, x, modules=["conv", "norm", "head"])
    conv = model.conv(x)
    torch.testing.assert_close(t.objects("conv").attributes, conv.mean((2, 3)))
    torch.testing.assert_close(t.objects("norm").attributes, model.norm(conv).mean((2, 3)))
    torch.testing.assert_close(t.objects("head").attributes, model(x))
    assert t.modules == ("conv", "norm", "head")
    assert t.objects("norm").glance.tolist() == list(range(5))
    assert t.objects("norm").path == [("norm",)] * 5
    assert not t.objects("head").attributes.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_trace_leaves_the_network_exactly_as_it_was(training: bool) -> None:
    model = Small().train(training)
    model.norm.eval()  # a frozen normalisation must stay frozen
    before, weights = state(model), copy.deepcopy(model.state_dict())
    trace(model, torch.randn(4, 3, 8, 8))
    trace(model, torch.randn(4, 3, 8, 8), structure="containment")
    assert state(model) == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_trace_runs_in_evaluation_mode() -> None:
    model, x = Small().train(), torch.randn(4, 3, 8, 8)
    a, b = (trace(model, x).objects("head").attributes for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("fails", ["inside the network", "inside the block"])
def test_hooks_are_gone_after_an_exception(fails: str) -> None:
    model = Small()
    before = state(model)
    c = capture(model)

    def loop() -> None:
        with c:
            model(torch.randn(2, 3, 8, 8))
            if fails == "inside the network":
                model(torch.randn(2, 5, 8, 8))
            raise RuntimeError("inside the block")

    with pytest.raises(RuntimeError):
        loop()
    assert state(model) == before
    assert len(c.trace()) == 2  # the forward that succeeded


def test_a_failed_forward_leaves_no_half_glance() -> None:
    model = Small().eval()
    with capture(model) as c:
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 5, 8, 8))
        model(torch.randn(3, 3, 8, 8))
        t = c.trace()
    assert len(t) == 3
    assert t.coverage.forwards == 1


def test_several_forwards_are_one_trace_and_trace_drains() -> None:
    model = Small().eval()
    x = torch.randn(7, 3, 8, 8)
    whole = trace(model, x)
    with capture(model) as c:
        model(x[:3])
        model(x[3:])
        joined = c.trace()
        with pytest.raises(ValueError, match="no forward of the network was seen"):
            c.trace()
        model(x[:2])
    assert len(c.trace()) == 2
    assert joined.coverage.forwards == 2
    for name in whole.modules:
        torch.testing.assert_close(joined.objects(name).attributes, whole.objects(name).attributes)


def test_capture_keeps_gradients_training_mode_and_the_output() -> None:
    model, x = Small().train(), torch.randn(4, 3, 8, 8)
    with capture(model) as c:
        out = model(x)
        out.sum().backward()
    assert model.training
    assert model.conv.weight.grad is not None
    assert not any(col.attributes.requires_grad for col in c.trace().columns.values())


def test_attributes_do_not_follow_a_later_change_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).mul_(0))

    model, x = InPlace(), torch.randn(4, 3)
    expected = model.first(x)
    torch.testing.assert_close(trace(model, x).objects("first").attributes, expected)


@pytest.mark.parametrize("view", ["modules", "kernels", "cells", "classes"])
def test_no_activation_is_held(view: str) -> None:
    alive: list[weakref.ref[Any]] = []

    class Watched(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.conv(x))
            alive.append(weakref.ref(y))
            return self.head(y.mean((2, 3)))

    model = Watched().eval()
    with capture(model, view=view) as c, torch.no_grad():
        model(torch.randn(2, 3, 8, 8))
        gc.collect()
        assert alive[0]() is None
    assert len(c.trace()) == 2


def test_a_users_reduction_may_return_a_view() -> None:
    model, x = Small().eval(), torch.randn(2, 3, 8, 8)
    t = trace(model, x, modules="conv", reduce=lambda y: y[:, :, 0, 0])
    assert t.objects("conv").attributes.untyped_storage().nbytes() == 2 * 6 * 4


def test_a_module_that_runs_again_gets_a_number() -> None:
    t = trace(Small(), torch.randn(2, 3, 8, 8), modules=["conv", "act"])
    assert t.modules == ("conv", "act", "act#1")
    assert t.coverage.repeated == (("act", 2),)
    assert (t.objects("act").attributes >= t.objects("act#1").attributes).all()


def test_coverage_names_what_was_left_out() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.around = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.names, self.fixed = Names(), Fixed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.names(x)
            self.fixed(x)
            return self.around.forward(self.used(x))

    class Names(nn.Module):
        def forward(self, x: torch.Tensor) -> list[str]:
            return ["a", "b"]

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(3, 5)

    seen = trace(Odd(), torch.randn(4, 4), modules="*").coverage
    assert seen.fired == ("used", "names", "fixed")
    assert seen.never_fired == ("idle", "around")
    assert seen.no_tensor == ("names",)
    assert seen.not_folded == (("fixed", (3, 5)),)
    assert not seen.is_complete
    text = repr(seen)
    assert "3 of 5 watched modules ran, 1 forward of 4 glances" in text
    assert "never ran: idle, around" in text
    assert "not divisible by the batch: fixed [3, 5]" in text


def test_tuples_dicts_and_keyword_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), Pair()

        def forward(self, x: torch.Tensor, *, y: torch.Tensor | None = None) -> torch.Tensor:
            return self.a(x if y is None else x + y) + self.b(x)["one"]

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"one": x[:, :2], "two": x, "number": torch.tensor(3)}

    model, x = Two(), torch.randn(4, 3)
    assert trace(model, (x,)).modules == ("a", "b", "b[1]")
    t = trace(model, {"x": x, "y": x})
    torch.testing.assert_close(t.objects("a").attributes, model.a(2 * x))
    torch.testing.assert_close(t.objects("b[1]").attributes, x)


def test_outputs_with_a_multiple_of_the_batch_are_folded() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, 3), windows of 2
            return self.inner(x.reshape(-1, 2, 3)).reshape(len(x), -1, 5)

    model, x = Windows(), torch.randn(4, 6, 3)
    t = trace(model, x)
    torch.testing.assert_close(t.objects("inner").attributes, model.inner(x).mean(1))


def test_batch_axis_puts_the_glances_first() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=False))
    x = torch.randn(5, 3, 8)  # five tokens, three glances
    t = trace(model, x, modules="0", batch_axis=1)
    assert len(t) == 3
    torch.testing.assert_close(t.objects("0").attributes, model.eval()(x).mean(0))


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("max", lambda y: y.amax((2, 3))),
        ("std", lambda y: y.flatten(2).std(2, correction=0)),
        (("mean", "max"), lambda y: torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1)),
        (lambda y: y[:, :, 0, 0], lambda y: y[:, :, 0, 0]),
    ],
)
def test_reductions(reduce: Any, expected: Any) -> None:
    model, x = Small().eval(), torch.randn(3, 3, 6, 6)
    t = trace(model, x, modules="conv", reduce=reduce)
    torch.testing.assert_close(t.objects("conv").attributes, expected(model.conv(x)))


def test_channels_last_maps_of_square_pictures_are_recognised() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = Turn()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.turn(x)

    class Turn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(trace(Last(), x).objects("turn").attributes, x.mean((2, 3)))
    wide = torch.randn(2, 3, 8, 6)
    assert trace(Last(), wide).objects("turn").attributes.shape == (2, 8)
    t = trace(Last(), wide, channel_axis=3)
    torch.testing.assert_close(t.objects("turn").attributes, wide.mean((2, 3)))


def test_containment_nests_calls_at_most_three_deep() -> None:
    model = nn.Sequential()
    model.stage = nn.Sequential(nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(2, 2)))))
    model.head = nn.Linear(2, 1)
    t = trace(model, torch.randn(3, 2), modules="*", structure="containment")
    assert t.objects("head").path == [("head",)] * 3
    assert t.objects("stage.0").path == [("stage", "stage.0")] * 3
    assert t.objects("stage.0.0").path == [("stage", "stage.0", "stage.0.0")] * 3
    deepest = t.objects("stage.0.0.0.0").path
    assert deepest == [("stage", "stage.0", "stage.0.0.0.0")] * 3
    assert t.edges is not None
    assert len(t.edges) == 3 * 6
    again = Trace.concat([t[0], t[1:]])
    assert again.objects("stage.0.0").path == t.objects("stage.0.0").path


def test_a_failure_that_the_network_catches_does_not_confuse_the_nesting() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.risky, self.safe = nn.Sequential(nn.Linear(9, 2)), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.risky(x)
            except RuntimeError:
                return self.safe(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = Careful(), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.inner(x))

    t = trace(Outer(), torch.ones(2, 3), modules="*", structure="containment")
    assert t.objects("last").path == [("last",)] * 2
    assert t.objects("inner").path == [("inner",)] * 2
    assert t.objects("inner.safe").path[0][0] == "inner"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_reduced_in_float32(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(dtype)

    x = torch.full((2, 3, 64, 64), 100.0) + torch.rand(2, 3, 64, 64)
    for reduce in ("mean", "std", "max"):
        t = trace(nn.Sequential(Cast()), x, modules="0", reduce=reduce)
        assert t.objects("0").attributes.dtype == torch.float32
    t = trace(nn.Sequential(Cast()), x, modules="0")
    expected = x.to(dtype).float().mean((2, 3))
    torch.testing.assert_close(t.objects("0").attributes, expected, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # from torch.export itself
def test_an_exported_network_is_watched_after_unflattening() -> None:
    model, x = Small().eval(), torch.randn(2, 3, 8, 8)
    again = torch.export.unflatten(torch.export.export(model, (x,)))
    t = trace(again, x, modules=["conv", "head"])
    torch.testing.assert_close(
        t.objects("conv").attributes, trace(model, x, modules="conv").objects("conv").attributes
    )


def test_compiling_inside_the_block_works_and_before_it_is_reported() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.ones(2, 3)
    expected = model[0](x).detach()
    with capture(model) as c:
        torch.compile(model, backend="eager")(x)
    torch.testing.assert_close(c.trace().objects("0").attributes, expected)

    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    torch.testing.assert_close(trace(compiled, x).objects("0").attributes, expected)
    with capture(compiled) as c:
        compiled(x)
    seen = c.trace().coverage
    assert (seen.glances, seen.fired, seen.never_fired) == (2, (), ("0", "2"))
    assert "compiled before the capture" in repr(seen)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m, x: trace(m, x[:0]), ValueError, "got an empty batch"),
        (lambda m, x: trace(m, x, modules="layer*"), ValueError, r"pass names, patterns such as"),
        (lambda m, x: trace(nn.Sequential(), x), ValueError, "it has no children"),
        (lambda m, x: trace(m, x, modules="hed"), NotRemembered, "did you mean 'head'"),
        (lambda m, x: trace(m, x, view="moduls"), ValueError, "view must be one of 'modules'"),
        (lambda m, x: trace(m, x, reduce="median"), ValueError, "reduce must be one of 'mean'"),
        (lambda m, x: trace(m, x, reduce=()), ValueError, "reduce needs at least one"),
        (lambda m, x: trace(m, x, reduce=lambda y: y.sum()), ValueError, r"shape \(2, numbers\)"),
        (lambda m, x: trace(m, x, structure="deep"), ValueError, "structure must be one of"),
        (lambda m, x: trace(m, x, view="cells", structure="containment"), ValueError, "nests"),
        (lambda m, x: trace(m, x, view="cells", cels=3), TypeError, "view='cells': .*'cels'"),
        (lambda m, x: trace(m, x, modules=[3]), TypeError, "names, patterns, types"),
        (lambda m, x: trace("resnet", x), TypeError, "expected a torch.nn.Module"),
        (lambda m, x: trace(m, ("no", "tensor")), ValueError, "without a tensor of at least 1"),
        (lambda m, x: trace(m, x * float("nan")), ValueError, "module 'conv' must be finite"),
        (lambda m, x: trace(m, x * 1e38 * 1e38), ValueError, "module 'conv' must be finite"),
    ],
)  # fmt: skip
def test_refusals_teach(call: Any, error: type[Exception], match: str) -> None:
    model = Small()
    before = state(model)
    with pytest.raises(error, match=match):
        call(model, torch.randn(2, 3, 8, 8))
    assert state(model) == before


def test_a_capture_is_opened_once() -> None:
    c = capture(Small())
    with c, pytest.raises(RuntimeError, match="already open"):
        c.__enter__()
    assert repr(c) == "Capture(3 modules watched, 0 glances waiting)"
