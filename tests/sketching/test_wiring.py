"""Who feeds whom is read from recursive sketches; what cannot be told is said, and only that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.sketching.hidden_cases import case, found_names

from recollect import Sketcher
from recollect.sketching.module_counts import shared_counts, twins
from recollect.sketching.sparse_rows import (
    confined,
    one_signed,
    polished,
    searched,
    whitened,
)
from recollect.sketching.unidentified import UNKNOWN, Unidentified, members_of, unidentified
from recollect.sketching.wiring import Wiring, recover_wiring
from recollect.studies.hidden import HiddenNetwork


def wired(name: str) -> tuple[Wiring, list[str]]:
    _, trace = case(name)
    found = recover_wiring(Sketcher(dim=128).encode(trace).values, starts=100, rounds=3)
    return found, found_names(found.counts, trace)


def edges(found: Wiring, names: list[str]) -> set[tuple[str, str]]:
    return {(names[e.parent], names[e.child]) for e in found.edges}


def untold(found: Wiring, names: list[str]) -> set[tuple[str, str]]:
    return {(names[q], names[p]) for u in found.unidentified for q, p in u.pairs}


def test_a_small_network_of_two_levels_is_wired() -> None:
    network = HiddenNetwork(1, composers=3, leaves=9, candidates=3)
    u = np.random.default_rng(0).standard_normal((1500, network.inputs))
    trace = network.trace(u)
    found = recover_wiring(Sketcher(dim=128).encode(trace).values, starts=150, rounds=4)
    names = found_names(found.counts, trace)
    assert edges(found, names) == network.edges
    assert all(e.chance < 1e-6 for e in found.edges)
    assert found.directions == 9 * 5 + 3 * 5 + 12
    assert found.missing == 0
    assert found.unidentified == ()
    assert found.doubts == ()


def test_shared_leaves_are_wired_and_nothing_is_doubted() -> None:
    found, names = wired("plain")
    assert edges(found, names) == {("a", "l3"), ("a", "l4"), ("b", "l3"), ("b", "l6"), ("b", "l7")}
    assert found.unidentified == ()
    assert found.members.tolist() == [1] * 6


def test_parents_that_always_fire_together() -> None:
    """Exactly the edges of the two cannot be told apart; those of the third can."""
    found, names = wired("parents together")
    both = {("a+b", "l3"), ("a+b", "l4"), ("a+b", "l5")}
    assert edges(found, names) == both | {("c", "l6"), ("c", "l7")}
    assert untold(found, names) == both | {("a+b", "a+b")}
    assert found.members[names.index("a+b")] == 2
    assert "2 modules that always fire together" in found.unidentified[0].reason


def test_a_child_that_always_fires_with_its_parent() -> None:
    """The edge inside what looks like one module is listed, as is who feeds which of both."""
    found, names = wired("child with its parent")
    assert edges(found, names) == {("a+l3", "l4"), ("b", "l6"), ("b", "l7")}
    assert untold(found, names) == {("a+l3", "a+l3"), ("a+l3", "l4")}


def test_leaves_that_always_fire_together_keep_their_edges() -> None:
    """Both feed the same parent whoever owns which attribute: only a doubt is left."""
    found, names = wired("leaves together")
    assert edges(found, names) == {("a", "l3+l4"), ("a", "l5"), ("b", "l6"), ("b", "l7")}
    assert found.unidentified == ()
    said = f"module {names.index('l3+l4')} is 2 modules that always fire together"
    assert any(d.startswith(said) for d in found.doubts)


def test_a_constant_module_may_be_fed_by_whatever_stands_on_top() -> None:
    found, names = wired("constant")
    assert edges(found, names) == {("b", "l6"), ("b", "l7")}
    assert untold(found, names) == {("a", "l3"), ("a", "l4"), ("a", "b")}
    assert f"module {names.index('a')} fires in every glance" in found.doubts


def test_duplicate_modules_are_said() -> None:
    found, names = wired("duplicate")
    assert edges(found, names) == {("a", "l3"), ("a", "l4"), ("b", "l6"), ("b", "l7")}
    p, q = sorted((names.index("l3"), names.index("l6")))
    same = f"modules {p} and {q} have the same attributes wherever both fire: duplicates"
    assert same in found.doubts
    assert found.unidentified == ()


def test_what_was_not_found_is_listed() -> None:
    """Directions without a name, sources without a module, modules without a source."""
    counts = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]] * 10)
    sources = (counts[:, :1] * counts[:, 1:2]).to(torch.float64)
    columns = torch.eye(3, dtype=torch.float64)
    owner = torch.tensor([-1])
    listed = unidentified(counts, sources, columns, owner, owner, missing=2)
    by_reason = {u.reason: u for u in listed}
    own = by_reason["1 attributes are confined to the glances of modules [0, 1]: whose they are "
                    "cannot be told"]  # fmt: skip
    assert own.pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert by_reason["of module 2 no attribute was found"].pairs == {(0, 2), (1, 2)}
    rest = next(u for u in listed if "2 directions" in u.reason)
    assert rest.parents == (0, 1, 2)
    assert UNKNOWN in rest.children
    assert Unidentified((1,), (2, 3), "").pairs == {(1, 2), (1, 3)}


def test_one_column_as_long_as_several_is_several_modules() -> None:
    columns = torch.eye(6, dtype=torch.float64)
    joined = torch.stack([columns[0] + columns[1], columns[2], columns[3], columns[4:].sum(0)], 1)
    assert members_of(joined).tolist() == [2, 1, 1, 2]
    # Between one and two: not claimed.
    assert members_of(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1.22]])).tolist() == [1, 1, 1]


def rows_of_a_shared_module() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources of a module under two parents, and the counts of the parents and the module."""
    g = torch.Generator().manual_seed(0)
    parents = torch.rand(1200, 2, generator=g) < 0.5
    on = parents & (torch.rand(1200, 2, generator=g) < 0.6)
    values = torch.rand(1200, 3, generator=g) + 0.2
    values[torch.arange(1200), torch.randint(0, 3, (1200,), generator=g)] = 0
    sources = torch.cat([values * on[:, :1], 2 * values * on[:, 1:]], 1)
    return sources, parents.float(), on.sum(1).float(), values


def test_twins_are_the_features_of_one_module_under_two_parents() -> None:
    sources, parents, count, _ = rows_of_a_shared_module()
    assert twins(sources) == [(0, 3), (1, 4), (2, 5)]
    # Attributes that do not vary agree with everything, so they say nothing.
    assert twins((sources > 0).float()) == []
    basis = torch.linalg.qr(torch.cat([sources, parents, count[:, None]], 1)).Q
    found = shared_counts(basis, sources, parents)
    assert any(torch.equal(row, count) for row in found.T)


def test_a_row_that_is_active_more_often_than_not_is_an_envelope() -> None:
    """Among its module's glances x is zero in a quarter only: no sparsest vector, yet found."""
    g = torch.Generator().manual_seed(1)
    fires = torch.rand(2000, generator=g) < 0.4
    x = (torch.rand(2000, 4, generator=g) + 0.1) * (torch.rand(2000, 4, generator=g) < 0.75)
    x = x * fires[:, None]
    other = torch.rand(2000, 6, generator=g) * (torch.rand(2000, 6, generator=g) < 0.2)
    rows = torch.cat([x, fires[:, None].float(), other], 1)
    white, directions = whitened(
        (rows @ torch.randn(11, 64, generator=g)
         + 1e-3 * torch.randn(2000, 64, generator=g)).double()
    )  # fmt: skip
    assert directions == 11
    own = torch.zeros(1, dtype=torch.bool)
    dense = confined(white, fires, fires[:, None].float(), own, 20, g)
    near = (x / x.norm(dim=0)).T @ (dense / dense.norm(dim=0))
    assert (near.amax(1) > 0.999).all()
    assert (dense[~fires] == 0).all()
    # The sparsest rows of the whole space do not hold them all.
    plain = one_signed(polished(white, searched(white, fires[:, None].float(), 100, g)))
    near = (x / x.norm(dim=0)).T @ (plain / plain.norm(dim=0))
    assert (near.amax(1) < 0.999).any()


def test_modules_that_always_come_together_are_named_as_a_doubt() -> None:
    counts = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    none = torch.zeros(4, 0, dtype=torch.float64)
    columns = torch.eye(3, dtype=torch.float64)
    labels = torch.zeros(0, dtype=torch.int64)
    found = Wiring(counts, none, none, columns, labels, labels, 5)
    assert found.edges == ()
    together = [d for d in found.doubts if "in the same glances" in d]
    assert together == ["modules 1 and 0 fire in the same glances: who feeds whom cannot be told"]
    assert sum("no attribute was found" in d for d in found.doubts) == 3
    assert found.doubts[-1] == "2 of 5 directions were not explained"


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="10 sketches are too few"):
        recover_wiring(torch.randn(10, 64))
    with pytest.raises(ValueError, match="vary in all their numbers"):
        recover_wiring(torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)))
    flat = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least 320 are needed"):
        recover_wiring(torch.cat([flat, torch.zeros(200, 24)], 1))
