"""Adversarial examples against a closed form; DAFT step by step; domains that are refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from recollect.training import (
    DAFT,
    Attack,
    DAFTConfig,
    DistillationLoss,
    adversarial_examples,
    adversarial_finetune,
    image_folder_domains,
    leave_one_domain_out,
)
from recollect.training.adversarial import divergence, robust_loss, trained_parameters
from recollect.training.domains import batches_of


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["l2", "linf"]))
def test_of_a_linear_loss_the_worst_point_is_known(seed: int, norm: str) -> None:
    g = torch.Generator().manual_seed(seed)
    w, x = torch.randn(7, generator=g), torch.rand(4, 7, generator=g)
    found = adversarial_examples(
        lambda x: x @ w, x, 0.3, norm, 20, lambda o: o, bounds=None, generator=g
    )
    step = 0.3 * (w / w.norm() if norm == "l2" else w.sign())
    # Steps along one direction, each projected, come near the pole; with linf they reach it.
    torch.testing.assert_close(found, x + step, atol=0.1 if norm == "l2" else 1e-6, rtol=0)
    gained, most = (found - x) @ w, step @ w
    assert float((gained / most).min()) > (0.95 if norm == "l2" else 0.9999)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 3.0), st.sampled_from(["l2", "linf"]), st.integers(1, 6))
def test_examples_stay_in_the_ball_and_in_the_bounds(eps: float, norm: str, steps: int) -> None:
    x = torch.rand(5, 2, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    worse = adversarial_examples(network, x, eps, norm, steps)
    order = 2 if norm == "l2" else math.inf
    assert float((worse - x).flatten(1).norm(order, 1).max()) <= eps * (1 + 1e-5)
    assert worse.min() >= 0
    assert worse.max() <= 1
    assert all(p.grad is None for p in network.parameters())


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


def points(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 2, generator=g)
    return x, (x[:, 0] > x[:, 1]).long()


def test_attacks_raise_the_loss_that_they_name() -> None:
    model, (x, y) = network(), points()
    clean = model(x)
    for target in ("label", "clean"):
        attack = Attack(0.2, target=target, steps=10)
        worse = model(attack.on(model, x, y, torch.Generator().manual_seed(0)))
        if target == "label":
            gain = nn.functional.cross_entropy(worse, y) - nn.functional.cross_entropy(clean, y)
        else:
            random = x + 0.2 * nn.functional.normalize(torch.randn_like(x), dim=1)
            gain = divergence(clean, worse).mean() - divergence(clean, model(random)).mean()
        assert gain > 1e-5


def test_robust_loss_is_its_definition() -> None:
    model, (x, y) = network(), points(10)
    start = torch.randn(10, 2, generator=torch.Generator().manual_seed(3))
    for reference in ("label", "clean", "start"):
        attack = Attack(0.1, reference=reference, beta=0.7)
        draws = torch.Generator().manual_seed(1)
        worse = attack.on(model, x, y, torch.Generator().manual_seed(1))
        kinds = {"clean": model(x), "start": start}
        if reference == "label":
            gap = nn.functional.cross_entropy(model(worse), y)
        else:
            p = kinds[reference].softmax(1)
            gap = (p * (p / model(worse).softmax(1)).log()).sum(1).mean()
        expected = nn.functional.cross_entropy(model(x), y) + 0.7 * gap
        torch.testing.assert_close(robust_loss(model, attack, x, y, start, draws), expected)
    with pytest.raises(ValueError, match="reference 'start' needs the logits"):
        robust_loss(model, Attack(0.1, reference="start"), x, y)


@pytest.mark.parametrize("scope", ["full", "head", "backbone"])
def test_finetuning_moves_what_its_scope_names(scope: str) -> None:
    model, data = nn.Sequential(network(), nn.BatchNorm1d(2)), points()
    before = copy.deepcopy(model)
    losses = adversarial_finetune(
        model, [data], Attack(0.05), scope, head=model[0][2], epochs=15, lr=1e-2
    )
    assert losses[-1] < losses[0]
    moved = {n for n, p in model.named_parameters()
             if not torch.equal(p, dict(before.named_parameters())[n])}  # fmt: skip
    head = {"0.2.weight", "0.2.bias"}
    every = set(dict(model.named_parameters()))
    assert moved == {"full": every, "head": head, "backbone": every - head}[scope]
    assert torch.equal(model[1].running_mean, before[1].running_mean)
    assert model.training


def test_finetuning_makes_a_network_harder_to_fool() -> None:
    model, (x, y) = network(), points(300)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    attack = Attack(0.1, steps=5)

    def fooled() -> float:
        worse = attack.on(model, x, y, torch.Generator().manual_seed(0))
        return float(nn.functional.cross_entropy(model(worse), y).detach())

    before = fooled()
    adversarial_finetune(model, [(x, y)], attack, epochs=80, lr=1e-2)
    assert fooled() < before - 0.05


def test_distillation_loss_in_its_limits() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(5, 3, generator=g) for _ in range(2))
    y = torch.tensor([0, 1, 2, 0, 1])
    hard = DistillationLoss(alpha=1.0)(s, t, y)
    torch.testing.assert_close(hard, nn.functional.cross_entropy(s, y))
    soft = DistillationLoss(alpha=0.0, tau=3.0)
    assert float(soft(t, t, y)) == pytest.approx(0.0, abs=1e-6)
    independent = 9 * nn.functional.kl_div(
        (s / 3).log_softmax(1), (t / 3).softmax(1), reduction="batchmean"
    )
    torch.testing.assert_close(soft(s, t, y), independent)
    # For a high temperature it is half the mean squared difference of centred logits, over K.
    far = DistillationLoss(alpha=0.0, tau=1e3)(s.double(), t.double(), y)
    gap = (s - s.mean(1, keepdim=True) - t + t.mean(1, keepdim=True)).double()
    torch.testing.assert_close(far, (gap**2).sum(1).mean() / 6, rtol=1e-2, atol=0)
    teacher = t.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="does not require grad"):
        soft(s, teacher, y).backward()


def test_daft_walks_its_three_steps() -> None:
    x, y = points(40)
    domains = {name: TensorDataset(x, y) for name in "ab"}
    config = DAFTConfig(Attack(0.1), teacher_steps=3, finetune_steps=2, student_steps=4)
    daft = DAFT(network(), network(), config)
    batches = batches_of(domains, 8)
    phases = []
    for _ in range(9):
        phases.append(daft.phase)
        kept = copy.deepcopy(daft.state_dict())
        assert set(daft.update(next(batches))) == {"loss"}
        moved = {k.split(".")[0] for k, v in daft.state_dict().items()
                 if not torch.equal(v, kept[k])}  # fmt: skip
        assert moved == {"student" if phases[-1] == "distil" else "teacher"}
    assert phases == ["train"] * 3 + ["fine-tune"] * 2 + ["distil"] * 4
    daft.teacher.train()
    with pytest.raises(ValueError, match="the teacher is in train mode"):
        daft.update(next(batches))
    with pytest.raises(ValueError, match="expected one batch"):
        daft.update([])


def test_a_teacher_that_comes_trained_is_asked_in_eval_mode() -> None:
    x, y = points(40)
    config = DAFTConfig(Attack(0.1), teacher_steps=0, finetune_steps=0, student_steps=2)
    teacher = nn.Sequential(network(), nn.Dropout(0.5)).train()
    daft = DAFT(teacher, network(), config).fit({name: TensorDataset(x, y) for name in "ab"})
    assert daft.steps_done == 2
    assert not any(m.training for m in teacher.modules())


def test_daft_learns_and_repeats_itself() -> None:
    x, y = points(200)
    domains = {"near": TensorDataset(x, y), "bright": TensorDataset(x.clamp(0.2, 1), y)}
    config = DAFTConfig(
        Attack(0.02, reference="start", steps=2),
        lr=1e-2,
        teacher_steps=150,
        finetune_steps=10,
        student_steps=100,
        adversarial_distillation=True,
    )
    found = [DAFT(network(), network(), config).fit(domains).predict(x) for _ in range(2)]
    assert torch.equal(*found)
    assert float((found[0].argmax(1) == y).float().mean()) > 0.85
    plain = DAFT(network(), network(), replace(config, seed=1)).fit(domains).predict(x)
    assert not torch.equal(plain, found[0])


def test_batches_walk_every_example_of_every_domain() -> None:
    a = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10) % 2)
    b = TensorDataset(torch.arange(4.0)[:, None], torch.arange(4) % 2)
    walk = batches_of({"a": a, "b": b}, 5)
    pairs = [next(walk) for _ in range(4)]
    seen = torch.cat([pair[0][0] for pair in pairs])
    assert sorted(seen.flatten().tolist()) == sorted(2 * list(range(10)))
    assert all(len(pair[1][1]) >= 4 for pair in pairs)


def test_leave_one_out_never_shows_what_it_judges() -> None:
    x, y = points(50)
    domains = {name: TensorDataset(x + i, y) for i, name in enumerate("abc")}
    seen: list[list[str]] = []

    def trainer(sources):
        seen.append(list(sources))
        assert all(len(s) == 40 for s in sources.values())
        return lambda x: torch.stack([x[:, 1], x[:, 0]], 1)

    def wrong(sources):
        return lambda x: torch.stack([x[:, 0], x[:, 1]], 1)

    answer = leave_one_domain_out(domains, {"right": trainer, "wrong": wrong})
    assert seen == [["b", "c"], ["a", "c"], ["a", "b"]]
    assert [r["chosen"] for r in answer] == [True, False] * 3
    assert [r["unseen"] for r in answer] == [1.0, 0.0] * 3
    one = leave_one_domain_out(domains, {"right": trainer}, held_out=["b"])
    assert one["held out"] == ["b"]
    with pytest.raises(ValueError, match="there is no domain 'z' to hold out"):
        leave_one_domain_out(domains, {"right": trainer}, held_out=["z"])
    with pytest.raises(ValueError, match="expected at least three domains"):
        leave_one_domain_out({"a": domains["a"], "b": domains["b"]}, {"right": trainer})
    with pytest.raises(ValueError, match="validation must lie in"):
        leave_one_domain_out(domains, {"right": trainer}, validation=1.0)


def test_what_is_refused() -> None:
    x, y = points(8)
    model = network()
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        adversarial_examples(model, x, 0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        adversarial_examples(model, x, 0.1, steps=0)
    with pytest.raises(ValueError, match="norm must be one of"):
        adversarial_examples(model, x, 0.1, "l1")
    with pytest.raises(ValueError, match=r"inputs must lie in \(0.0, 1.0\), got"):
        adversarial_examples(model, x + 1, 0.1)
    with pytest.raises(ValueError, match="the gradient of an adversarial example is not finite"):
        adversarial_examples(lambda x: x * math.nan, x, 0.1, loss=lambda o: o.sum(1))
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        Attack(0.1, beta=0)
    with pytest.raises(ValueError, match="reference must be one of"):
        Attack(0.1, reference="teacher")
    with pytest.raises(ValueError, match="the network has no linear layer"):
        trained_parameters(nn.Tanh(), "head")
    with pytest.raises(ValueError, match="the loader gave no batch"):
        adversarial_finetune(model, [], Attack(0.1))
    with pytest.raises(ValueError, match="alpha must lie in"):
        DistillationLoss(alpha=2)
    with pytest.raises(ValueError, match="tau must be positive"):
        DistillationLoss(tau=0)
    with pytest.raises(ValueError, match="student and teacher must name the same classes"):
        DistillationLoss()(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))
    daft = DAFT(model, network(), DAFTConfig(Attack(0.1)))
    with pytest.raises(ValueError, match="expected at least two domains, got"):
        daft.fit({"a": TensorDataset(x, y)})
    with pytest.raises(ValueError, match="domains must share their classes: 'a' has"):
        daft.fit({"a": TensorDataset(x, y), "b": TensorDataset(x, y + 1)})
    with pytest.raises(ValueError, match="scope must be one of"):
        DAFTConfig(Attack(0.1), scope="middle")


def test_folders_of_pictures_become_domains(tmp_path: Path) -> None:
    from PIL import Image

    for domain, colour in (("day", 255), ("night", 0)):
        for kind in ("cat", "dog"):
            folder = tmp_path / domain / kind
            folder.mkdir(parents=True)
            picture = np.full((5, 7, 3), colour, np.uint8)
            Image.fromarray(picture).save(folder / "one.png")
            (folder / "notes.txt").write_text("not a picture")
    found = image_folder_domains(tmp_path, side=4)
    assert sorted(found) == ["day", "night"]
    x, y = found["day"].tensors
    assert x.shape == (2, 3, 4, 4)
    assert x.min() == 1
    assert y.tolist() == [0, 1]
    (tmp_path / "night" / "owl").mkdir()
    with pytest.raises(ValueError, match="class folders differ: 'day' has"):
        image_folder_domains(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no pictures as DOMAIN/CLASS"):
        image_folder_domains(tmp_path / "day" / "cat")
