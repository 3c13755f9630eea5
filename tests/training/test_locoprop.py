"""LocoProp against its definition, its closed form, and torch.optim."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.training import LocoProp
from recollect.training.layers import captured
from recollect.training.transfers import named, transfer_of


def small(dtype: torch.dtype = torch.float64, end: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4), nn.Linear(4, 7), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(7, 5), *([end] if end else [])).to(dtype)


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor):
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), y, reduction="none").sum(1).mean()
        loss.backward()
        return loss

    return closure


def batch(rows: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, 5, dtype=torch.float64)
    return x, x.round()


def plain_sgd(lr: float) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.SGD(params, lr=lr)


def naive(model: nn.Sequential, x: Tensor, y: Tensor, variant: str, gamma: float, **how) -> None:
    """The algorithm word by word, SGD inside; the last layer's transfer is the sigmoid."""
    lr, steps, floor, prox = how["lr"], how["steps"], how["floor"], how["prox"]
    size = round(how.get("share", 1.0) * len(x))
    xs, pre, h = [], [], x
    layers = [m for m in model if isinstance(m, nn.Linear)]
    for module in model:
        if isinstance(module, nn.Linear):
            xs.append(h.detach())
        h = module(h)
        if isinstance(module, nn.Linear):
            h.retain_grad()
            pre.append(h)
    F.binary_cross_entropy_with_logits(h, y, reduction="none").sum(1).mean().backward()
    f = [torch.tanh, lambda a: a, torch.sigmoid, torch.sigmoid]
    with torch.no_grad():
        for layer, xl, a, fl in zip(layers, xs, pre, f, strict=True):
            transfer = fl if variant == "M" else (lambda v: v)
            target = transfer(a) - gamma * a.grad
            old = layer.weight.clone(), layer.bias.clone()
            for k in range(steps):
                first = (k - 1) * size % len(x)
                rows = slice(None) if k == 0 else slice(first, first + size)
                d = transfer(xl[rows] @ layer.weight.T + layer.bias) - target[rows]
                d *= len(x) / len(d)
                by_weight = d.T @ xl[rows] + prox * (layer.weight - old[0])
                by_bias = d.sum(0) + prox * (layer.bias - old[1])
                layer.weight -= lr * max(1 - k / steps, floor) * by_weight
                layer.bias -= lr * max(1 - k / steps, floor) * by_bias


@pytest.mark.parametrize("variant", ["M", "S"])
@pytest.mark.parametrize("rows", [3, 42])  # few rows: direct; many: by the Gram matrix
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("share", [1.0, 1 / 3])
def test_steps_are_the_algorithm_word_by_word(
    variant: str, rows: int, batched: bool, sequential: bool, share: float
) -> None:
    ours = small()
    theirs = copy.deepcopy(ours)
    optimizer = LocoProp(
        ours,
        variant=variant,
        gamma=2.0,
        local_steps=5,
        local_floor=0.5,
        local_share=share,
        prox=0.3,
        inner=plain_sgd(0.02),
        loss_activation="sigmoid",
        batched=batched,
        sequential=sequential,
    )
    for _ in range(3):
        x, y = batch(rows)
        optimizer.step(closure_of(ours, optimizer, x, y))
        theirs.zero_grad()
        naive(theirs, x, y, variant, 2.0, lr=0.02, steps=5, floor=0.5, prox=0.3, share=share)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["M", "S"])
def test_first_local_gradient_is_gamma_times_backprop(variant: str) -> None:
    model = small()
    x, y = batch()
    optimizer = LocoProp(
        model,
        variant=variant,
        gamma=3.0,
        local_steps=1,
        inner=plain_sgd(1.0),
        loss_activation="sigmoid",
    )
    before = [p.detach().clone() for p in model.parameters()]
    kept: list[Tensor] = []

    def closure() -> Tensor:
        loss = closure_of(model, optimizer, x, y)()
        kept.extend(p.grad.clone() for p in model.parameters())
        return loss

    optimizer.step(closure)
    for p, old, gradient in zip(model.parameters(), before, kept, strict=True):
        torch.testing.assert_close(p, old - 3.0 * gradient, rtol=1e-12, atol=1e-14)


def test_one_local_step_is_the_inner_optimiser_with_the_scaled_gradient() -> None:
    """RMSProp does not see the scale of gradients: K = 1 must equal plain RMSProp."""
    ours, theirs = (m := small()), copy.deepcopy(m)

    def inner(params: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(params, lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-14)

    optimizer = LocoProp(ours, local_steps=1, inner=inner, loss_activation="sigmoid")
    plain = inner(list(theirs.parameters()))
    for _ in range(5):
        x, y = batch()
        optimizer.step(closure_of(ours, optimizer, x, y))
        plain.step(closure_of(theirs, plain, x, y))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rows", [4, 30])
def test_closed_form_is_the_gradient_preconditioned_by_the_input_covariance(rows: int) -> None:
    model = small()
    x, y = batch(rows)
    gamma, prox = 1.7, 0.05
    before = [p.detach().clone() for p in model.parameters()]
    inputs: list[Tensor] = []
    handles = [
        m.register_forward_hook(lambda m, args, out: inputs.append(args[0].detach()))
        for m in model
        if isinstance(m, nn.Linear)
    ]
    optimizer = LocoProp(model, variant="S", gamma=gamma, prox=prox, closed_form=True)
    closure_of(model, optimizer, x, y)()
    gradients = [p.grad.clone() for p in model.parameters()]
    inputs.clear()
    optimizer.step(closure_of(model, optimizer, x, y))
    for handle in handles:
        handle.remove()
    new = list(model.parameters())
    for i, xl in enumerate(inputs):
        ones = torch.cat([xl, torch.ones(rows, 1, dtype=xl.dtype)], 1)
        joint = torch.cat([gradients[2 * i], gradients[2 * i + 1][:, None]], 1)  # (m, n + 1)
        metric = prox * torch.eye(ones.shape[1], dtype=xl.dtype) + ones.T @ ones
        wanted = -gamma * torch.linalg.solve(metric, joint.T).T
        moved = torch.cat(
            [new[2 * i] - before[2 * i], (new[2 * i + 1] - before[2 * i + 1])[:, None]], 1
        )
        assert (moved - wanted).abs().max() < 1e-10


def test_many_small_steps_reach_the_closed_form() -> None:
    exact, stepped = (m := small()), copy.deepcopy(m)
    x, y = batch(6)
    how = {"variant": "S", "gamma": 2.0, "prox": 1.0}
    solver = LocoProp(exact, closed_form=True, **how)
    solver.step(closure_of(exact, solver, x, y))
    walker = LocoProp(stepped, local_steps=4000, local_floor=1.0, inner=plain_sgd(0.02), **how)
    walker.step(closure_of(stepped, walker, x, y))
    for a, b in zip(exact.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


class Overwriting(nn.Module):
    """Adds 1 to its input, in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1.0)


@pytest.mark.parametrize("after", [nn.Identity, Overwriting])
def test_what_the_network_computed_is_used_unless_it_was_overwritten(after: type) -> None:
    """Named activations are computed again; found ones are heard. Both are the same steps."""
    heard = nn.Sequential(
        nn.Linear(5, 7), nn.LeakyReLU(0.3), after(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5)
    ).double()
    again = copy.deepcopy(heard)
    named_ones = {again[0]: nn.LeakyReLU(0.3), again[3]: "tanh", again[5]: "sigmoid"}
    one = LocoProp(heard, 0.01, gamma=3.0, loss_activation="sigmoid")
    two = LocoProp(again, 0.01, gamma=3.0, activations=named_ones)
    kept = []
    for _ in range(3):
        x, y = batch()
        one.step(closure_of(heard, one, x, y))
        two.step(closure_of(again, two, x, y))
        with captured(one._layers[0]):
            closure_of(heard, one, x, y)()
            kept += [layer.response() for layer in one._layers[0]]
    for a, b in zip(heard.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert (kept[0] is None) == (after is Overwriting)
    assert all(part is not None for part in kept[1:3])
    torch.testing.assert_close(kept[-1], heard(x).sigmoid())


def test_gradients_that_nobody_reads_are_not_computed() -> None:
    model = small()
    optimizer = LocoProp(model, loss_activation="sigmoid", sequential=True)
    seen = []

    def closure() -> Tensor:
        loss = closure_of(model, optimizer, *batch())()
        seen.append([p.grad for p in model.parameters()])
        return loss

    optimizer.step(closure)
    assert seen == [[None] * 8]
    with pytest.raises(ValueError, match="finite loss"):
        optimizer.step(lambda: float("nan"))
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_of_parametrised_layers_are_dropped_as_soon_as_they_are_there() -> None:
    model = small()
    nn.utils.parametrizations.weight_norm(model[0])
    optimizer = LocoProp(model, loss_activation="sigmoid", sequential=True)
    seen: list[bool] = []

    def closure() -> Tensor:
        loss = closure_of(model, optimizer, *batch())()
        seen.append(all(p.grad is None for p in model.parameters()))
        return loss

    before = copy.deepcopy(model.state_dict())
    optimizer.step(closure)
    assert seen == [True]
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_one_activation_after_two_layers_is_heard_for_each() -> None:
    shared = nn.Tanh()
    one = nn.Sequential(nn.Linear(5, 5), shared, nn.Linear(5, 5), shared, nn.Linear(5, 5)).double()
    two = copy.deepcopy(one)
    two[3] = nn.Tanh()
    x, y = batch()
    for model in (one, two):
        optimizer = LocoProp(model, 0.01, gamma=3.0, loss_activation="sigmoid")
        optimizer.step(closure_of(model, optimizer, x, y))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_logits_that_the_closure_kept_stay_as_they_were() -> None:
    model = small()
    optimizer = LocoProp(model, loss_activation="sigmoid")
    x, y = batch()
    kept: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = model(x)
        kept.extend([logits, logits.detach().clone()])
        loss = F.binary_cross_entropy_with_logits(logits, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(*kept)


class Branchy(nn.Module):
    """Convolutions, normalisation and an embedding, with functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 6)
        self.first = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 2, groups=2, bias=False, padding_mode="circular")
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = torch.relu_(self.first(x))
        h = torch.tanh(self.second(self.norm(h))).mean((2, 3))
        return self.out(h + self.table(kind))


def train_branchy(batched: bool, lr: float = 1e-2, **how) -> tuple[Branchy, LocoProp, list[float]]:
    torch.manual_seed(3)
    model = Branchy()
    known = {model.first: nn.ReLU(), model.second: "tanh", model.out: "softmax"}
    optimizer = LocoProp(
        model, lr, gamma=20.0, activations=known, batched=batched, record_losses=True, **how
    )
    x, kind = torch.randn(8, 3, 6, 6), torch.randint(4, (8,))
    y = (x.mean((1, 2, 3)) > 0).long()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x, kind), y)
        loss.backward()
        return loss

    return model, optimizer, [optimizer.step(closure).item() for _ in range(12)]


@pytest.mark.parametrize("variant", ["M", "S"])
def test_convolutions_and_other_parameters_learn(variant: str) -> None:
    start = Branchy()
    model, optimizer, losses = train_branchy(False, variant=variant)
    assert losses[-1] < 0.3 * losses[0]
    assert (model.table.weight - 0).std() > 0
    assert [row["layer"] for row in optimizer.local_losses()] == ["first", "second", "out"]
    assert all(not m._forward_hooks for m in model.modules())
    assert not torch.equal(model.norm.weight, start.norm.weight)


def test_parts_of_a_batch_are_the_same_in_every_kind_of_layer() -> None:
    """A convolution of single pixels is a linear layer: its local steps see the same examples."""
    linear = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    first, second = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 3, 1)
    conv = nn.Sequential(first, nn.Tanh(), second).double()
    with torch.no_grad():
        for module, same in ((first, linear[0]), (second, linear[2])):
            module.weight.copy_(same.weight[..., None, None])
            module.bias.copy_(same.bias)
    x, y = batch(10)
    for model, given, wanted in (
        (linear, x, y[:, :3]),
        (conv, x[..., None, None], y[:, :3, None, None]),
    ):
        optimizer = LocoProp(model, 0.01, local_share=0.3, gamma=3.0, loss_activation="sigmoid")

        def closure(model=model, given=given, wanted=wanted, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(given), wanted)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    torch.testing.assert_close(first.weight[..., 0, 0], linear[0].weight, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(second.bias, linear[2].bias, rtol=1e-9, atol=1e-11)


def test_local_losses_fall_and_know_the_matching_loss() -> None:
    _, optimizer, _ = train_branchy(False, lr=1e-5)
    rows = optimizer.local_losses()
    assert all(row["after"] < row["before"] for row in rows)


def test_closed_form_of_a_convolution_is_that_of_its_patches() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, stride=2, dilation=1).double()
    linear = nn.Linear(18, 3).double()
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    patches = F.unfold(x, 3, padding=1, stride=2).mT.flatten(0, 1)
    for module, given in ((conv, x), (linear, patches)):
        optimizer = LocoProp([module], variant="S", prox=0.1, gamma=2.0, closed_form=True)

        def closure(module=module, given=given, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = module(given).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight, rtol=1e-10, atol=1e-12)


def test_state_dict_resumes_bit_by_bit_and_schedulers_reach_the_local_steps() -> None:
    def build(model: nn.Module):
        optimizer = LocoProp(model, lr=1e-2, loss_activation="sigmoid")
        return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 6)

    torch.manual_seed(0)
    batches = [batch() for _ in range(6)]
    whole, part = (m := small()), copy.deepcopy(m)
    optimizer, scheduler = build(whole)
    for x, y in batches:
        optimizer.step(closure_of(whole, optimizer, x, y))
        scheduler.step()
    first, first_scheduler = build(part)
    for x, y in batches[:3]:
        first.step(closure_of(part, first, x, y))
        first_scheduler.step()
    second, second_scheduler = build(part)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second_scheduler.load_state_dict(first_scheduler.state_dict())
    for x, y in batches[3:]:
        second.step(closure_of(part, second, x, y))
        second_scheduler.step()
    assert second.param_groups[0]["lr"] == pytest.approx(1e-3)
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_is_that_of_the_inner_optimiser() -> None:
    model = small()
    optimizer = LocoProp(model, loss_activation="sigmoid")
    plain = torch.optim.RMSprop(model.parameters(), momentum=0.9)
    optimizer.step(closure_of(model, optimizer, *batch()))
    plain.step(closure_of(model, plain, *batch()))

    def numbers(found: torch.optim.Optimizer) -> int:
        return sum(v.numel() for s in found.state.values() for v in s.values())

    assert numbers(optimizer) == numbers(plain)


def test_groups_have_their_own_dials() -> None:
    model = small()
    optimizer = LocoProp(
        [
            {"layers": [model[0], model[2]], "lr": 1e-2, "gamma": 5.0},
            {"layers": model[3], "inner": plain_sgd(0.0)},
            {"params": model[5].parameters(), "lr": 1e-4},
        ],
        variant="S",
    )
    kept = model[3].weight.detach().clone()
    optimizer.step(closure_of(model, optimizer, *batch()))
    assert torch.equal(model[3].weight, kept)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-2, 0.0, 1e-4]
    assert [g["gamma"] for g in optimizer.param_groups] == [5.0, 10.0, 10.0]


def test_reset_forgets_between_batches() -> None:
    ours, fresh = (m := small()), copy.deepcopy(m)
    one = LocoProp(ours, lr=1e-2, loss_activation="sigmoid", reset=True)
    for _ in range(3):
        x, y = batch()
        one.step(closure_of(ours, one, x, y))
        new = LocoProp(fresh, lr=1e-2, loss_activation="sigmoid")
        new.step(closure_of(fresh, new, x, y))
    for a, b in zip(ours.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_passes_take_local_steps_in_full_precision() -> None:
    model = small(torch.float32)
    optimizer = LocoProp(model, lr=1e-2, loss_activation="sigmoid")
    x, y = (t.float() for t in batch())
    losses = []
    for _ in range(10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(optimizer.step(closure_of(model, optimizer, x, y)).item())
    assert losses[-1] < losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "module", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(0.7), nn.Softplus(2)]
)
def test_transfer_functions_are_those_of_torch_and_derivatives_of_their_potentials(module) -> None:
    a = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    found = transfer_of(module)
    assert found is not None
    (slope,) = torch.autograd.grad(found.potential(a).sum(), a)
    torch.testing.assert_close(slope, module(a), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.apply(a.detach().clone()), module(a))


def test_softmax_is_the_derivative_of_its_potential() -> None:
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(named("softmax").potential(a).sum(), a)
    torch.testing.assert_close(slope, a.softmax(-1))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"gamma": 0.0}, "gamma must be positive, got 0.0"),
        ({"local_steps": 0}, "local_steps must be at least 1, got 0"),
        ({"local_floor": 0.0}, r"local_floor must lie in \(0, 1\], got 0.0"),
        ({"local_share": 0.0}, r"local_share must lie in \(0, 1\], got 0.0"),
        ({"local_share": 1.5}, r"local_share must lie in \(0, 1\], got 1.5"),
        ({"prox": -1.0}, "prox must not be negative, got -1.0"),
        ({"variant": "L"}, "variant must be one of 'M', 'S', got 'L'"),
        ({"closed_form": True}, "expected variant='S', got 'M'"),
        ({"closed_form": True, "variant": "S"}, "closed_form needs prox > 0"),
        ({"loss_activation": "gelu"}, "a transfer function is one of .*, got 'gelu'"),
        (
            {"inner": lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:]}])},
            "one group",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocoProp(small(), **how)


def test_layers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"followed by GELU.*use variant='S'"):
        LocoProp(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="after layer 'first' is not known"):
        LocoProp(Branchy())
    with pytest.raises(TypeError, match="expected linear or convolution layers, got Tanh"):
        LocoProp([nn.Tanh()])
    with pytest.raises(ValueError, match="no trained linear"):
        LocoProp(nn.Tanh())
    with pytest.raises(ValueError, match="expected layers, got none"):
        LocoProp([])
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    with pytest.raises(NotImplementedError, match="share a parameter"):
        LocoProp(shared)
    with pytest.raises(ValueError, match="has no parameter that is trained"):
        LocoProp([nn.Linear(2, 2).requires_grad_(False)])
    with pytest.raises(ValueError, match=r"closed_form is for nn.Linear and ungrouped"):
        LocoProp([nn.Conv1d(2, 2, 2)], variant="S", prox=1.0, closed_form=True)
    for conv in (nn.Conv2d(4, 4, 2, groups=2), nn.Conv2d(2, 2, 2, padding_mode="circular"),
                 nn.Conv2d(2, 2, 3, padding="same")):  # fmt: skip
        with pytest.raises(ValueError, match=r"closed_form is for nn.Linear and ungrouped"):
            LocoProp([conv], variant="S", prox=1.0, closed_form=True)
    with pytest.raises(ValueError, match="either 'layers' or 'params'"):
        LocoProp([{"layers": [nn.Linear(2, 2)], "params": []}], variant="S")


def backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def test_closures_that_cannot_be_are_refused_and_leave_nothing_behind() -> None:
    model = small()
    x, y = batch()
    optimizer = LocoProp(model, loss_activation="sigmoid")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="expected a finite loss from the closure, got nan"):
        optimizer.step(lambda: backward(model(x).sum()) * float("nan"))
    with pytest.raises(NotImplementedError, match="layer '0' was used twice"):
        optimizer.step(lambda: (model(x) + model(x)).sum())
    with pytest.raises(ValueError, match="layer '5' was not run"):
        optimizer.step(lambda: backward(model[:4](x).sum()))
    with pytest.raises(ValueError, match="layer '0' was not differentiated"):
        optimizer.step(lambda: model(x).sum())
    with pytest.raises(ValueError, match="ran without gradients"):
        optimizer.step(torch.no_grad()(closure_of(model, optimizer, x, y)))
    with pytest.raises(ValueError, match="only with record_losses=True"):
        optimizer.local_losses()
    with pytest.raises(TypeError, match="belongs to its layers"):
        copy.deepcopy(optimizer)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())
