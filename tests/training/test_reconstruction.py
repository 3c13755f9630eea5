"""The FRR head against its definition; dominoes against what they say they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recollect.training import (
    Dominoes,
    FRRHead,
    feature_replication_report,
    fixed_linear_finetune,
    train_frr_linear,
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_of(d: int = 6, k: int = 3, **options) -> FRRHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FRRHead(d, k, **options).double()


@pytest.mark.parametrize(("p", "order"), [("1", 1), ("2", 2), ("inf", math.inf)])
def test_penalty_is_the_definition(p: str, order: float) -> None:
    head, z = head_of(p=p), 3 + 2 * drawn(1, 50, 6)
    head.fit_statistics(z)
    o = head(z)
    rows = []
    for i in range(len(z)):
        centred = o[i] - sum(o[i]) / 3
        told = head.decoder(centred)
        rest = told - (z[i] - z.mean(0)) / z.std(0, correction=0)
        rows.append(rest.abs().max() if p == "inf" else (rest.abs() ** order).sum() ** (1 / order))
    torch.testing.assert_close(head.reconstruction_loss(z, o), torch.stack(rows).mean())


def test_a_constant_on_all_logits_hides_nothing() -> None:
    z = drawn(2, 20, 6)
    for centred in (True, False):
        head = head_of(centre_logits=centred)
        o = head(z)
        same = torch.allclose(head.reconstruct(o), head.reconstruct(o + drawn(3, 20, 1)))
        assert same == centred


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([None, 6]))
def test_standardised_weights_are_the_same_classifier(seed: int, components: int | None) -> None:
    head, z = head_of(components=components), 5 + drawn(seed, 30, 6) @ drawn(seed + 1, 6, 6)
    head.fit_statistics(z)
    before = head(z)
    weight, bias = head.expressed()
    torch.testing.assert_close(head.standardised(z) @ weight.T + bias, before)
    head.express(weight, bias)
    torch.testing.assert_close(head(z), before)


def test_components_count_copies_once() -> None:
    one, other = drawn(4, 200, 1), drawn(5, 200, 1)
    z = torch.cat([one.expand(-1, 5), other], 1)
    head = head_of(components=2)
    head.fit_statistics(z)
    read = head.standardised(z)
    torch.testing.assert_close(read.T @ read / 200, torch.eye(2, dtype=torch.float64))
    whole = torch.linalg.lstsq(read, torch.cat([one, other], 1) - z.mean(0)[[0, 5]]).residuals
    assert float(whole.sum()) < 1e-20


def test_a_feature_that_never_changes_asks_for_nothing() -> None:
    z = drawn(6, 10, 6)
    z[:, 2] = 7.0
    for components in (None, 6):
        head = head_of(components=components)
        head.fit_statistics(z)
        assert head.standardised(z).isfinite().all()
    head = head_of()
    head.fit_statistics(z)
    assert (head.standardised(z)[:, 2] == 0).all()


def copies(number: int, seed: int, random: bool) -> tuple[Tensor, Tensor]:
    """Class +-1 as a magnitude, ``number`` copies of it, and once more in other magnitudes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (600,), generator=g)
    told = torch.randint(2, (600,), generator=g) if random else y
    simple = (2.0 * told - 1) * (1 + 0.5 * torch.rand(600, generator=g))
    other = (2.0 * y - 1) * (1 + 0.5 * torch.rand(600, generator=g))
    return torch.cat([simple[:, None].expand(-1, number), other[:, None]], 1), y


def test_reconstruction_makes_the_head_use_what_it_would_ignore() -> None:
    train, test = copies(5, 0, False), copies(5, 1, True)
    found = {}
    for lam in (0.0, 1.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = FRRHead(6, 2)
        done = train_frr_linear(nn.Identity(), head, [train], lam, epochs=900, restart=True)
        found[lam] = float((head(test[0]).argmax(1) == test[1]).float().mean())
        assert done.accuracy_after > 0.97
        assert done.cross_entropy < 0.69
    assert found[1.0] > found[0.0] + 0.06


def test_relevance_is_the_correlation_ratio() -> None:
    y = torch.arange(60) % 3
    z = drawn(4, 60, 6) + y[:, None] * torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0, 0.0]).double()
    z[:, 5] = 7.0  # never changes
    for power in (0.0, 1.0, 2.0):
        head = head_of(relevance=power)
        head.fit_statistics(z, y)
        for j in range(6):
            means = torch.stack([z[y == k, j].mean() for k in range(3)])  # classes of one size
            whole = z[:, j].std(correction=0)
            ratio = means.std(correction=0) / whole if whole > 0 else torch.zeros(())
            assert float(head.weight[j]) == pytest.approx(float(ratio) ** power, abs=1e-9)
        o = head(z)
        rest = head.reconstruct(o) - head.standardised(z)
        wanted = (rest * head.weight).abs().amax(1).mean()
        torch.testing.assert_close(head.reconstruction_loss(z, o), wanted)
    with pytest.raises(ValueError, match="give the labels too"):
        head.fit_statistics(z)


def test_lambda_zero_is_ordinary_training_of_the_head() -> None:
    z, y = copies(2, 2, False)
    head = FRRHead(3, 2)
    done = train_frr_linear(nn.Identity(), head, [(z, y)], 0.0, epochs=60, lr=0.1)
    assert done.accuracy_after == 1.0
    assert done.reconstruction > 0


class Fickle:
    """Says the truth on its first walk only."""

    def __init__(self, z: Tensor, y: Tensor) -> None:
        self.z, self.y, self.walks = z, y, 0

    def __iter__(self):
        self.walks += 1
        yield self.z, self.y if self.walks == 1 else 1 - self.y


def test_training_leaves_the_backbone_as_it_was_and_warns_of_collapse() -> None:
    backbone = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).train()
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    z, y = copies(5, 3, False)
    head = FRRHead(6, 2)
    ordinary = train_frr_linear(backbone, head, [(z, y)], 0.0, epochs=200)
    assert ordinary.accuracy_after == 1.0
    fickle = Fickle(z, y)
    with pytest.warns(UserWarning, match=r"training accuracy fell from 1\.000 to"):
        train_frr_linear(backbone, head, fickle, 0.0, epochs=30, lr=0.1)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(m.training for m in backbone.modules())
    assert all(p.requires_grad for p in backbone.parameters())


def test_finetuning_moves_the_backbone_alone() -> None:
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    head = FRRHead(4, 2).requires_grad_(False)
    z, y = copies(2, 4, False)
    weights = [head.linear.weight.clone(), backbone[0].weight.detach().clone()]
    statistics = backbone[1].running_mean.clone()
    loader = [(z, y)]
    first = fixed_linear_finetune(backbone, head, loader, lr=1e-2)
    last = fixed_linear_finetune(backbone, head, loader, lr=1e-2, epochs=20)
    assert last < first
    assert torch.equal(head.linear.weight, weights[0])
    assert not torch.equal(backbone[0].weight, weights[1])
    assert torch.equal(backbone[1].running_mean, statistics)


def test_what_a_head_refuses() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        FRRHead(4, 1)
    with pytest.raises(ValueError, match="in_features must be at least 1"):
        FRRHead(0, 2)
    with pytest.raises(ValueError, match="p must be one of '1', '2', 'inf'"):
        FRRHead(4, 2, p="3")
    with pytest.raises(ValueError, match="decoder must be one of"):
        FRRHead(4, 2, decoder="tree")
    with pytest.raises(ValueError, match="components must be at most in_features=4"):
        FRRHead(4, 2, components=5)
    with pytest.raises(ValueError, match="relevance must not be negative, got -1"):
        FRRHead(4, 2, relevance=-1.0)
    head = FRRHead(4, 2)
    with pytest.raises(ValueError, match="the head maps 4 features to 2 classes"):
        head.start_from(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"expected features \(B, 4\), got \(2, 5\)"):
        head.reconstruction_loss(torch.zeros(2, 5), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"expected logits \(2, 2\), got \(2, 3\)"):
        head.reconstruction_loss(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="features are not finite"):
        head.fit_statistics(torch.full((2, 4), math.nan))
    with pytest.raises(ValueError, match="lam must not be negative, got -1"):
        train_frr_linear(nn.Identity(), head, [], -1)
    with pytest.raises(ValueError, match="the loader gave no batch"):
        train_frr_linear(nn.Identity(), head, [])
    with pytest.raises(ValueError, match="the head must stay as it is"):
        fixed_linear_finetune(nn.Linear(2, 4), head, [])
    head.requires_grad_(False)
    with pytest.raises(ValueError, match="the loader gave no batch"):
        fixed_linear_finetune(nn.Linear(2, 4), head, [])
    with pytest.raises(ValueError, match="no parameter that is trained"):
        fixed_linear_finetune(nn.Identity(), head, [])


def test_mlp_decoder_has_its_own_shape() -> None:
    head = FRRHead(5, 3, decoder="mlp", hidden=7)
    assert head.reconstruct(torch.zeros(2, 3)).shape == (2, 5)
    assert sum(p.numel() for p in head.decoder.parameters()) == 3 * 7 + 7 + 7 * 5 + 5


# -- dominoes -----------------------------------------------------------------------------------


def halves(k: int = 4, n: int = 40) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pictures whose brightness is their class (upper), or ten times it (lower)."""
    y = torch.arange(n) % k
    upper = y.float()[:, None, None, None].expand(-1, 1, 2, 3)
    more = torch.arange(2 * n) % k
    return (upper, y), (10 * more.float()[:, None, None, None].expand(-1, 2, 2, 3), more)


@pytest.mark.parametrize("randomise", ["none", "simple", "complex"])
def test_halves_tell_the_class_unless_they_are_random(randomise: str) -> None:
    data = Dominoes(*halves(), randomise=randomise)
    x, y = data.tensors()
    assert x.shape == (80, 2, 4, 3)
    told = {"simple": x[:, 0, 0, 0] == y, "complex": x[:, 0, 3, 0] / 10 == y}
    for half, right in told.items():
        if half == randomise:
            assert 0.05 < float(right.float().mean()) < 0.5
        else:
            assert right.all()
    picture, label = data[7]
    assert torch.equal(picture, x[7])
    assert label == y[7]
    again = Dominoes(*halves(), randomise=randomise).tensors()[0]
    assert torch.equal(again, x)


def test_correlation_is_the_share_that_is_kept() -> None:
    simple, lower = halves(k=4, n=2000)
    x, y = Dominoes(simple, lower, correlation=0.6).tensors()
    agree = float((x[:, 0, 0, 0] == y).float().mean())
    assert agree == pytest.approx(0.6 + 0.4 / 4, abs=0.03)


def test_what_dominoes_refuse() -> None:
    simple, lower = halves()
    with pytest.raises(ValueError, match=r"both halves need the same classes, got \[0, 1, 2, 3\]"):
        Dominoes(simple, (lower[0], lower[1] % 3))
    with pytest.raises(ValueError, match="expected equal widths and equal channels"):
        Dominoes((torch.zeros(40, 1, 2, 5), simple[1]), lower)
    with pytest.raises(ValueError, match="simple: expected pictures"):
        Dominoes((torch.zeros(40, 6), simple[1]), lower)
    with pytest.raises(ValueError, match="correlation must lie in"):
        Dominoes(simple, lower, correlation=1.5)
    with pytest.raises(ValueError, match="randomise must be one of"):
        Dominoes(simple, lower, randomise="both")


def test_report_finds_who_stands_where() -> None:
    data = {r: Dominoes(*halves(n=200), randomise=r) for r in ("none", "simple", "complex")}
    head = nn.Linear(24, 4)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        for k in range(4):  # reads the first number of the upper half alone
            head.weight[k, 0] = 10 * k
            head.bias[k] = -5.0 * k * k
    report = feature_replication_report(nn.Flatten(), head, data)
    assert report.accuracy["none"] == report.accuracy["complex"] == 1.0
    assert report.accuracy["simple"] < 0.5
    assert report.features == {"simple": 12, "complex": 12, "neither": 0}
    assert report.weight_mass["simple"] == pytest.approx(1.0)
    assert float(report.spectrum.sum()) == pytest.approx(1.0)
    assert int((report.spectrum > 1e-6).sum()) == 1  # one line holds all where both agree
    with pytest.raises(ValueError, match=r"datasets lacks \['complex'\]"):
        feature_replication_report(nn.Flatten(), head, {"simple": data["simple"]})
    with pytest.raises(TypeError, match=r"head must be an nn\.Linear or FRRHead, got Tanh"):
        feature_replication_report(nn.Flatten(), nn.Tanh(), data)


@pytest.mark.parametrize("decoder", ["linear", "mlp"])
def test_labels_choose_the_signs_of_a_head_that_begins_anew(decoder: str) -> None:
    """However large lam: a decoder drawn at random would turn some of these heads around."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    told = (2.0 * y - 1)[:, None] * (1 + 0.5 * torch.rand(300, 1, generator=draws))
    z = told + 0.2 * torch.randn(300, 12, generator=draws)
    for seed in range(6):
        torch.manual_seed(seed)
        head = FRRHead(12, 2, relevance=1.0, decoder=decoder)
        train_frr_linear(nn.Identity(), head, [(z, y)], 10.0, epochs=60, restart=True)
        assert float((head(z).argmax(1) == y).float().mean()) == 1.0
