"""Informed recipes are linear, prefix-ordered, near PCA on the usual, and safe on the unusual."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import static_network

from recollect import Prior, Sketcher, Trace
from recollect._checks import RecipeMismatch
from recollect.sketching import Recipe
from recollect.sketching.epochs import similar_across
from recollect.sketching.informed import InformedSketcher, _exact_product

LEARN, JUDGE = static_network(160, 0), static_network(60, 1)


def wide(glances: int, seed: int, *, unlike: bool = False, fall: float = 0.8) -> Trace:
    """A network whose spectrum falls slowly, so that 128 numbers do not hold all of it."""
    fixed = np.random.default_rng(7 if unlike else 5)
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((glances, 300)) / np.arange(1, 301) ** fall
    columns = {}
    for i, m in enumerate((200, 120)):
        x = code @ fixed.standard_normal((300, m))
        columns[f"layer{i}"] = torch.from_numpy((x + 1).astype(np.float32))
    return Trace.from_columns(columns)


def unexplained(true: Trace, read: Trace) -> float:
    shares = []
    for name, c in true.columns.items():
        x, y = c.attributes, read.columns[name].attributes
        shares.append(float((x - y).square().sum() / (x - x.mean(0)).square().sum()))
    return float(np.median(shares))


def test_what_the_prior_spans_is_read_back_and_better_than_obliviously() -> None:
    known, judged = wide(500, 0, fall=0.5), wide(80, 1, fall=0.5)
    prior = Prior.fit(known)
    plain = Sketcher(dim=256)
    plain.admit(known, measure_scales=True)
    scales = {e.name: e.scale for e in plain.modules}
    informed = InformedSketcher(prior, 256, scales=scales)
    ours = unexplained(judged, informed.decode(informed.encode(judged)).trace)
    oblivious = unexplained(judged, plain.decode(plain.encode(judged), prior=prior).trace())
    u, v = informed.flat(known), informed.flat(judged)
    axes = torch.linalg.svd(u - u.mean(0), full_matrices=False).Vh[:256]
    pca = unexplained(judged, informed._trace(u.mean(0) + (v - u.mean(0)) @ axes.T @ axes))
    assert ours < oblivious
    assert ours < pca + 0.02


def test_a_later_prior_reads_what_the_first_had_never_seen() -> None:
    """The residual keeps what is unlike the prior: hindsight works on informed sketches too."""
    informed = InformedSketcher(Prior.fit(wide(120, 0)), 256, leading=128)
    unlike, later = wide(60, 3, unlike=True), Prior.fit(wide(400, 2, unlike=True))
    stored = informed.encode(unlike)
    before = unexplained(unlike, informed.decode(stored).trace)
    after = unexplained(unlike, informed.decode(stored, prior=later).trace)
    plain = Sketcher(dim=256, scales={e.name: e.scale for e in informed.rest.modules})
    oblivious = unexplained(unlike, plain.decode(plain.encode(unlike), prior=later).trace())
    assert after < 0.5 * before
    assert after < oblivious + 0.02


def test_rows_do_not_depend_on_the_batch_and_sums_are_exact() -> None:
    informed = InformedSketcher(Prior.fit(LEARN), 128, leading=64)
    whole = informed.encode(JUDGE)
    for i in (0, 17, 59):
        assert informed.encode(JUDGE[i]).equal(whole[i])
    assert (whole[:20].sum() + whole[20:].sum()).equal(whole.sum())
    mean = informed.decode(whole.sum()).trace.columns["layer0"].attributes[0]
    true = JUDGE.columns["layer0"].attributes.mean(0)
    usual = LEARN.columns["layer0"].attributes.mean(0)
    assert (mean - true).norm() < 0.1 * (usual - true).norm()


def test_a_prefix_is_a_coarser_sketch() -> None:
    informed = InformedSketcher(Prior.fit(wide(200, 0)), 256)
    stored, judged = informed.encode(wide(60, 1)), wide(60, 1)
    errors = [unexplained(judged, informed.decode(stored.prefix(k)).trace) for k in (16, 64, 256)]
    assert errors[0] > errors[1] > errors[2]


def test_ninety_percent_intervals_hold() -> None:
    judged = wide(200, 9)
    informed = InformedSketcher(Prior.fit(wide(300, 0)), 128)
    read = informed.decode(informed.encode(judged))
    inside = [
        (read.trace.columns[k].attributes - c.attributes).abs()
        <= 1.6449 * read.deviations.columns[k].attributes
        for k, c in judged.columns.items()
    ]
    assert 0.85 < torch.cat(inside, 1).to(torch.float64).mean() < 0.95


def test_products_are_those_of_whole_numbers() -> None:
    """The naive twin: Python's integers, in any order."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((3, 500)))
    whole = torch.from_numpy(rng.integers(-(2**15), 2**15, (4, 500)).astype(np.float64))
    found = _exact_product(x, whole)
    for i in range(3):
        unit = 2.0 ** (np.ceil(np.log2(float(x[i].abs().max()))) - 20)
        cut = [round(float(v) / unit) for v in x[i]]
        for j in range(4):
            total = sum(a * int(b) for a, b in zip(cut, whole[j].tolist(), strict=True))
            assert float(found[i, j]) == total * (unit * 2.0**-15)
    order = rng.permutation(500)
    assert torch.equal(_exact_product(x[:, order], whole[:, order]), found)


def test_old_and_new_epochs_are_asked_together() -> None:
    informed = InformedSketcher(Prior.fit(LEARN), 128, leading=64)
    plain = Sketcher(dim=128, scales={e.name: e.scale for e in informed.rest.modules})
    old, new = plain.encode(JUDGE[:30]), informed.encode(JUDGE[30:])
    epochs = [(plain, old), (informed, new)]
    assert similar_across(epochs, JUDGE[5], k=1)[0][:2] == (0, 5)
    assert similar_across(epochs, JUDGE[44], k=1)[0][:2] == (1, 14)
    u = informed.flat(JUDGE)
    true = (u @ u[44]) / (u.norm(dim=1) * u[44].norm())
    ranked = similar_across(epochs, JUDGE[44], k=60)
    found = {30 * epoch + row: score for epoch, row, score in ranked}
    errors = [found[i] - float(true[i]) for i in range(60)]
    assert np.abs(errors).max() < 5 / 128**0.5
    with pytest.raises(ValueError, match="one glance asked of one epoch at least, got 2"):
        similar_across(epochs, JUDGE[:2])


def test_recipes_of_two_epochs_are_not_mixed() -> None:
    informed = InformedSketcher(Prior.fit(LEARN), 128, leading=64)
    other = InformedSketcher(Prior.fit(LEARN[:100]), 128, leading=64)
    assert informed.recipe != other.recipe
    assert Recipe.from_dict(informed.recipe.to_dict()) == informed.recipe
    assert "basis" not in Recipe().to_dict()
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        informed.decode(other.encode(JUDGE))
    with pytest.raises(RecipeMismatch, match="leads with 64 directions of a prior"):
        Sketcher.from_recipe(informed.recipe, informed.rest.modules)


def test_what_does_not_fit_is_refused() -> None:
    prior = Prior.fit(LEARN)
    with pytest.raises(ValueError, match="multiple of 64 below dim=128, got 128"):
        InformedSketcher(prior, 128, leading=128)
    with pytest.raises(ValueError, match="all glances of this prior are alike"):
        InformedSketcher(Prior.fit(Trace.from_columns({"a": torch.ones(20, 4)})), 128)
    loose = Trace.from_columns({"a": {"attributes": torch.eye(3), "glance": np.array([0, 1, 1])}},
                               num_glances=5)  # fmt: skip
    with pytest.raises(ValueError, match="this prior has none"):
        InformedSketcher(Prior.fit(loose), 128)
    informed = InformedSketcher(prior, 128)
    small = {k: c.attributes for k, c in JUDGE.columns.items()}
    with pytest.raises(ValueError, match="'extra' is not one of the prior's static families"):
        informed.encode(Trace.from_columns(small | {"extra": torch.zeros(60, 2)}))
    with pytest.raises(ValueError, match="attributes of 40 numbers"):
        informed.encode(Trace.from_columns(small | {"layer0": torch.zeros(60, 3)}))
    with pytest.raises(ValueError, match="but not of this trace"):
        informed.encode(Trace.from_columns({"layer0": small["layer0"]}))
    with pytest.raises(ValueError, match="does not know module 'layer0'"):
        informed.decode(informed.encode(JUDGE), prior=Prior.fit(loose))
