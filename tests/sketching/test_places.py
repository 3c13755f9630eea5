"""Sums of sketches: places have means of their own, counts move as freely as the sum says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import DigitLikeScenes

from recollect import Prior, Sketcher, Trace
from recollect.sketching import bags, calibration, places
from recollect.sketching.bags import Bags


def bags_of(sketcher: Sketcher, prior: Prior) -> Bags:
    """The model of counts of a sketcher and a prior."""
    return sketcher.decode(sketcher.encode(prior.sample[:2]), prior=prior)._decoder.bags


def heavy_is_far(glances: int, seed: int) -> Trace:
    """One or two objects a glance, whose attributes grow with their weights."""
    rng = np.random.default_rng(seed)
    glance = np.repeat(np.arange(glances), rng.integers(1, 3, glances))
    weight = rng.uniform(0.1, 1.0, len(glance))
    x = weight[:, None] * np.linspace(1, 2, 10) + 0.05 * rng.standard_normal((len(glance), 10))
    column = {"attributes": torch.from_numpy(x.astype(np.float32)), "glance": glance,
              "weight": weight.astype(np.float32)}  # fmt: skip
    other = {"attributes": torch.from_numpy(rng.standard_normal((glances, 6)).astype(np.float32))}
    return Trace.from_columns({"heavy": column, "other": other}, num_glances=glances)


def test_a_place_s_mean_is_weighted_by_what_reaches_the_sketch() -> None:
    sketcher, prior = Sketcher(dim=64), Prior.fit(heavy_is_far(4000, 1))
    model = bags_of(sketcher, prior)
    objects = prior.sample.objects("heavy")
    c = torch.from_numpy(np.sqrt(np.asarray(objects.weight))).double()
    ordinals = {p.path[-1][1] if len(p.path[-1]) > 1 else "0" for p in model.places}
    assert len(ordinals) > 1  # the second object of a glance stands at a place of its own
    whole = sum((p.coefficient * p.mean for p in model.places if p.module == "heavy"),
                torch.zeros(10, dtype=torch.float64))  # fmt: skip
    true = (c @ objects.attributes.double()) / len(prior.sample)
    plain = float(c.sum()) / len(prior.sample) * objects.attributes.double().mean(0)
    assert float((whole - true).norm()) < 0.1 * float((plain - true).norm())


def test_nobody_stood_there_so_the_module_s_mean_is_taken() -> None:
    prior = Prior.fit(DigitLikeScenes().trace(100, 1))
    statistics = prior.statistics["thing0"]
    nowhere = places.Stood(np.zeros(100), np.zeros(100), np.zeros(0), torch.zeros(0, 0))
    assert nowhere.mean(statistics) is statistics.mean
    many = places.Stood(np.ones(1), np.ones(1), np.ones(10**6), torch.ones(10**6, 12).double())
    torch.testing.assert_close(many.mean(statistics), torch.ones(12).double(), atol=1e-3, rtol=0)


def test_a_difference_that_chance_explains_is_no_difference() -> None:
    """Thirty objects like all others: their own mean would be an error repeated in every sum."""
    prior = Prior.fit(DigitLikeScenes().trace(400, 1))
    statistics = prior.statistics["thing0"]
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(statistics.covariance())
    shrunk, plain = 0.0, 0.0
    for _ in range(50):
        x = statistics.mean + torch.randn(30, len(root), generator=generator).double() @ root.T
        stood = places.Stood(np.ones(30), np.ones(30), np.ones(30), x)
        shrunk += float((stood.mean(statistics) - statistics.mean).square().sum())
        plain += float((x.mean(0) - statistics.mean).square().sum())
    assert shrunk < 0.1 * plain


def windows_of(sketcher: Sketcher, prior: Prior, one_kind: bool) -> tuple[np.ndarray, np.ndarray]:
    """Errors and deviations of counts of windows of 30 glances, like the whole or of one kind."""
    errors, stds = [], []
    for seed in range(2, 26):
        every = DigitLikeScenes(size=20).trace(400, seed)
        much = np.bincount(every.objects("thing0").glance, minlength=400)
        picked = np.argsort(-much, kind="stable")[:30] if one_kind else np.arange(30)
        window = every[np.sort(picked)]
        read = sketcher.decode(sketcher.encode(window).sum(), prior=prior)
        names, estimate, std = read.count_estimates()
        errors.append(estimate[0] - [len(window.objects(n)) for n in names])
        stds.append(std[0])
    return np.array(errors), np.array(stds)


def test_windows_like_the_whole_lean_on_it_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The prior helps where counts moved as usual, and stays out where they did not."""
    found = {}
    for freedom in (5.0, 1e9):
        monkeypatch.setattr(bags, "FREEDOM", freedom)
        prior, sketcher = Prior.fit(DigitLikeScenes(size=20).trace(600, 1)), Sketcher(dim=64)
        for one_kind in (False, True):
            error, std = windows_of(sketcher, prior, one_kind)
            inside = float((np.abs(error) <= 1.645 * std).mean())
            found[freedom, one_kind] = float(np.sqrt((error**2).mean()))
            assert inside >= 0.85, (freedom, one_kind, inside)
    assert found[5.0, False] < 0.95 * found[1e9, False]
    assert found[5.0, True] < 1.1 * found[1e9, True]


def test_bars_shrink_only_as_far_as_small_and_large_sums_allow() -> None:
    allowed = calibration._allowed
    assert allowed([0.4, 0.3], [0.2, 0.35]) == pytest.approx(1.2 * 0.4)
    assert allowed([0.4, 0.3], [0.6, 0.2]) == pytest.approx(1.2 * 0.6)
    assert allowed([0.4, 0.3], [3.0, 0.2]) == 1.0  # large ones are few: they widen nothing
    assert allowed([1.3, 0.9], [3.0, 0.2]) == 1.3


def test_modules_of_one_count_do_not_hide_the_others() -> None:
    """Beside ten modules that are once in every glance the other bars stay what they were."""
    t = heavy_is_far(400, 1)
    sketchers = [Sketcher(dim=128, seed=3) for _ in range(2)]
    alone = bags_of(sketchers[0], Prior.fit(t)).stretch
    rng = np.random.default_rng(0)
    columns = {
        f"always{k}": {"attributes": torch.from_numpy(rng.standard_normal((400, 1))).float(),
                       "weight": np.full(400, 0.5, np.float32)}
        for k in range(10)
    }  # fmt: skip
    heavy = t.columns["heavy"]
    columns["heavy"] = {"attributes": heavy.attributes, "glance": heavy.glance,
                        "weight": heavy.weight}  # fmt: skip
    both = bags_of(sketchers[1], Prior.fit(Trace.from_columns(columns, 400))).stretch
    assert both.sums > 0.6 * alone.sums


def test_one_degenerate_deviation_does_not_widen_all_bars() -> None:
    """A deviation that rounding made next to nothing says nothing of the others' width."""
    errors = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    std = torch.ones_like(errors)
    usual = calibration._factor(errors, std)
    std[7] = 1e-9
    assert calibration._factor(errors, std) == pytest.approx(usual, rel=0.01)
