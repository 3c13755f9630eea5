"""What is kept to be fast goes with what it was made for, and stays within bounds."""

from __future__ import annotations

import gc
import weakref

import torch
from scenes import static_network

from recollect import Prior, Sketcher, Trace
from recollect.sketching.informed import InformedSketcher
from recollect.sketching.operators import Operators, _Bounded
from recollect.sketching.recipe import Recipe


def test_a_prior_that_nobody_holds_is_freed_though_its_sketcher_lives() -> None:
    t = static_network(40, 0)
    sketcher = Sketcher(dim=128)
    stored = sketcher.encode(t)
    prior = Prior.fit(t)
    assert len(sketcher.decode(stored, prior=prior).objects("layer0").attributes) == 40
    decoder = sketcher.decoder(prior, "auto", 128)
    assert sketcher.decoder(prior, "auto", 128) is decoder  # kept as long as both live
    gone = weakref.ref(prior), weakref.ref(decoder)
    del prior, decoder
    gc.collect()
    assert [g() for g in gone] == [None, None]


def test_a_sketcher_that_nobody_holds_is_freed_though_the_prior_lives() -> None:
    t = static_network(40, 0)
    sketcher, prior = Sketcher(dim=128), Prior.fit(t)
    sketcher.decode(sketcher.encode(t), prior=prior).objects("layer0")
    sketcher.decode(sketcher.encode(t)).counts()
    gone = weakref.ref(sketcher)
    del sketcher
    gc.collect()
    assert gone() is None
    assert len(prior.decoders) == 0


def test_an_informed_sketcher_keeps_few_priors() -> None:
    t = static_network(90, 0)
    sketcher = InformedSketcher(Prior.fit(t), 128)
    stored = sketcher.encode(t[:3])
    first = Prior.fit(t[:80])
    sketcher.decode(stored, first)
    gone = weakref.ref(first)
    del first
    for n in range(4):
        sketcher.decode(stored, Prior.fit(t[: 70 + n]))
    gc.collect()
    assert gone() is None


def test_orders_are_told_apart_by_size_and_bounded() -> None:
    operators = Operators(Recipe(dim=256))
    small, large = operators._copies(8, "a", 0), operators._copies(64, "a", 0)
    assert int(small.max()) == 7
    assert int(large.max()) == 63
    assert torch.equal(operators._copies(8, "a", 0), small)
    kept: _Bounded[torch.Tensor] = _Bounded(most=4 * 80)
    for n in range(100):
        kept["x", n] = torch.zeros(10, dtype=torch.int64)
        assert kept.bytes <= 4 * 80
    assert list(kept) == [("x", n) for n in range(96, 100)]
    kept["x", 99] = torch.zeros(20, dtype=torch.int64)
    assert kept.bytes == sum(v.nbytes for v in kept.values())


def test_encoding_does_not_depend_on_what_was_dropped() -> None:
    t = Trace.from_columns({f"m{i}": torch.randn(3, 5) for i in range(30)})
    sketcher = Sketcher(dim=128)
    before = sketcher.encode(t)
    operators = sketcher.encoder().operators
    operators._orders.most = operators._fused_places.most = 4096
    again = sketcher.encode(Trace.from_columns({f"n{i}": torch.randn(3, 5) for i in range(30)}))
    assert len(again) == 3
    assert sketcher.encode(t).equal(before)
    assert operators._orders.bytes <= 4096 + 1024
    assert bool(torch.isfinite(before.values).all())
