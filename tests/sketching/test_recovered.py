"""A recovered network runs: gates, functions, and both together on inputs not seen before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.sketching.hidden_cases import case
from torch import Tensor

from recollect import Sketcher, Trace
from recollect.sketching.dictionary import BlockSparse
from recollect.sketching.functions import fit_function
from recollect.sketching.gates import Gates, fit_gates
from recollect.sketching.recovered import RecoveredNetwork, recover_network
from recollect.studies.hidden import FlatNetwork


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(fires: Tensor, u: Tensor) -> Gates:
    held_out = torch.arange(len(u)) % 5 == 0
    found = fit_gates(u, fires, held_out)
    new = drawn(1000, u.shape[1], seed=9)
    assert found(new).shape == (1000, fires.shape[1])
    assert (found.accuracy > found.usual).all()
    return found


def test_gates_that_decide_alone() -> None:
    u, w = drawn(2000, 6), drawn(6, 3, seed=1)
    found = fitted(u @ w > 0.5, u)
    assert found.rule == "each"
    assert found.accuracy.min() > 0.97
    new = drawn(1000, 6, seed=9)
    assert (found(new) == (new @ w > 0.5)).double().mean() > 0.98


def test_gates_of_which_one_at_least_is_open() -> None:
    u, w = drawn(3000, 6), drawn(6, 4, seed=1)

    def rule(v: Tensor) -> Tensor:
        best = torch.nn.functional.one_hot((v @ w).argmax(1), 4) > 0
        return (v @ w > 1.0) | best

    found = fitted(rule(u), u)
    assert found.rule == "at least one"
    new = drawn(1000, 6, seed=9)
    assert found(new).any(1).all()
    assert (found(new) == rule(new)).double().mean() > 0.97


def test_gates_of_which_a_fixed_number_is_open() -> None:
    """Also where one glance in ten lacks one: what was not read is silent."""
    u, w = drawn(2000, 6), drawn(6, 8, seed=1)

    def rule(v: Tensor) -> Tensor:
        return torch.zeros(len(v), 8).scatter(1, (v @ w).topk(3).indices, 1.0) > 0

    silent = torch.rand(2000, 8, generator=torch.Generator().manual_seed(2)) < 0.1 / 3
    found = fitted(rule(u) & ~silent, u)
    assert (found.rule, found.number) == ("exactly", 3)
    new = drawn(1000, 6, seed=9)
    assert (found(new).sum(1) == 3).all()
    assert (found(new) == rule(new)).double().mean() > 0.97


def test_gates_that_are_always_open_and_gates_never_seen() -> None:
    u = drawn(100, 3)
    found = fit_gates(u, torch.ones(100, 2, dtype=torch.bool), torch.arange(100) < 20)
    assert found.rule == "always"
    assert found(drawn(5, 3)).all()
    assert found.accuracy.tolist() == [1, 1]
    with pytest.raises(ValueError, match="gates need glances in which their parent fires"):
        fit_gates(u[:0], torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))


def test_rectified_features_are_learned_exactly() -> None:
    v, w = drawn(400, 7), drawn(7, 5, seed=1)

    def rule(a: Tensor) -> Tensor:
        x = (a @ w + 0.3).clamp_min(0)
        return torch.where(x >= x.topk(2).values[:, -1:], x, 0.0)

    found = fit_function(v, rule(v), torch.arange(400) % 5 == 0)
    assert (found.kind, found.kept) == ("rectified", 2)
    assert found.r2 > 0.999
    new = drawn(200, 7, seed=3)
    assert torch.allclose(found(new), rule(new), atol=1e-3)
    assert torch.allclose(found.weights[:-1], w, atol=1e-3)


def test_what_is_not_linear_gets_a_kernel_and_an_honest_number() -> None:
    v = drawn(600, 3)
    x = (v[:, :1] * v[:, 1:2]).abs()
    held_out = torch.arange(600) % 5 == 0
    found = fit_function(v, x, held_out)
    assert found.kind == "kernel"
    assert found.r2 > 0.9
    new = drawn(500, 3, seed=3)
    true = (new[:, :1] * new[:, 1:2]).abs()
    r2 = 1 - float((found(new) - true).square().sum() / (true - true.mean()).square().sum())
    assert r2 == pytest.approx(found.r2, abs=0.1)
    # Of noise nothing can be learned, and that is said.
    assert fit_function(v, drawn(600, 1, seed=5).abs(), held_out).r2 < 0.1
    with pytest.raises(ValueError, match="3 glances of a module are too few to fit a function of"):
        fit_function(v[:3], x[:3], held_out[:3])


@pytest.fixture(scope="module")
def two_levels() -> tuple[RecoveredNetwork, Tensor, Tensor, Trace]:
    u, trace = case("plain", 2000)
    sketches = Sketcher(dim=128).encode(trace).values.double()
    return recover_network(u[:1500], sketches[:1500]), u[1500:], sketches[1500:], trace


def r2(a: Tensor, b: Tensor) -> float:
    return 1 - float((a - b).square().sum() / (b - b.mean(0)).square().sum())


def test_a_network_of_two_levels_runs(
    two_levels: tuple[RecoveredNetwork, Tensor, Tensor, Trace],
) -> None:
    found, new, sketches, trace = two_levels
    assert r2(found.sketches(new), sketches) > 0.85
    counts, sources = found.attributes(new)
    true = [np.bincount(c.glance, minlength=len(trace))[1500:] for c in trace.columns.values()]
    best = [max(float((counts[:, p].numpy() == row).mean()) for p in range(6)) for row in true]
    assert min(best) > 0.95
    assert (sources >= 0).all()
    # The trace says the same as the tables.
    run = found(new[:50])
    for p in range(6):
        rows = run.columns[f"module/{p}"]
        assert np.array_equal(np.bincount(rows.glance, minlength=50), counts[:50, p].numpy())
    with pytest.raises(ValueError, match=r"inputs of shape \(S, n\) are expected"):
        found(new[0])


def test_the_report_says_how_sure_it_is(
    two_levels: tuple[RecoveredNetwork, Tensor, Tensor, Trace],
) -> None:
    found, *_ = two_levels
    report = found.report
    assert report["module"] == list(range(6))
    assert min(report["held-out R2"]) > 0.9
    assert min(report["gate accuracy"]) > 0.95
    assert max(report["always or never"]) < 0.8
    assert sorted(len(c) for c in report["is fed by"]) == [0, 0, 0, 0, 2, 3]
    assert sorted(len(c) for c in report["feeds"]) == [0, 0, 1, 1, 1, 2]
    assert set(report["attributes"]) == {4}
    assert sum("feeds module/" in note for note in report.notes) == 5


def test_a_flat_network_runs() -> None:
    network = FlatNetwork(0, modules=8, size=6, inputs=14, context=4, firing=3)
    maps = BlockSparse(modules=8, size=6, dim=504)
    u = network.inputs_of(2500)
    x, fires = network.attributes(u)
    sketches = x @ maps.matrix().T
    found = recover_network(u[:2000], sketches[:2000], maps=maps)
    assert r2(found.sketches(u[2000:]), sketches[2000:]) > 0.8
    counts, _ = found.attributes(u[2000:])
    assert (counts == fires[2000:]).double().mean() > 0.95
    assert set(found.report["gate"]) == {"exactly 3"}
    assert found.wiring.edges == ()


def test_pairs_that_cannot_be_learned_from_are_refused() -> None:
    with pytest.raises(ValueError, match="of the same S glances are expected"):
        recover_network(torch.zeros(5, 3), torch.zeros(6, 64))
    with pytest.raises(ValueError, match="must be finite"):
        recover_network(torch.full((50, 3), float("nan")), torch.zeros(50, 64))
    with pytest.raises(ValueError, match=r"20 pairs are too few .* at least 32 are needed"):
        recover_network(torch.zeros(20, 3), torch.zeros(20, 64))
    maps = BlockSparse(modules=4, size=4, dim=120)
    with pytest.raises(ValueError, match="no column of these 50 sketches could be read"):
        recover_network(torch.zeros(50, 3), torch.zeros(50, 120), maps=maps)
