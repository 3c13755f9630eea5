"""Who feeds whom is read from recursive sketches; what cannot be told is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import Sketcher
from recollect.sketching.wiring import Wiring, recover_wiring
from recollect.studies.hidden import HiddenNetwork


def test_a_small_network_of_two_levels_is_wired() -> None:
    network = HiddenNetwork(1, composers=3, leaves=9, candidates=3)
    u = np.random.default_rng(0).standard_normal((1500, network.inputs))
    trace = network.trace(u)
    found = recover_wiring(Sketcher(dim=128).encode(trace).values, starts=150, rounds=4)
    fires = {
        k: torch.from_numpy(np.bincount(c.glance, minlength=len(trace)) > 0)
        for k, c in trace.columns.items()
    }
    names = []
    for column in found.counts.T:
        near = {k: float(((column > 0) == f).double().mean()) for k, f in fires.items()}
        best = max(near, key=near.__getitem__)
        names.append(best if near[best] > 0.99 else None)
    got = {(names[e.parent], names[e.child]) for e in found.edges}
    assert len(got & network.edges) >= 0.8 * len(network.edges)
    assert len(got - network.edges) <= 1
    assert all(e.chance < 1e-6 for e in found.edges)
    assert found.directions == 9 * 5 + 3 * 5 + 12


def test_modules_that_always_come_together_are_named_as_a_doubt() -> None:
    counts = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    none = torch.zeros(4, 0, dtype=torch.float64)
    labels = torch.zeros(0, dtype=torch.int64)
    found = Wiring(counts, none, none, none, labels, labels, 5)
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
