"""The distribution channel: fixed features that add exactly and tell how attributes spread."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.sketching.scenes import DigitLikeScenes

from recollect import NotRemembered, Prior, RecipeMismatch, Sketcher, Trace
from recollect.sketching import Averages, Channel, Recipe, Sketches, channel_recipe
from recollect.sketching.averages import FEWEST, TooFewRecords
from recollect.sketching.drifts import Drifts, few_values
from recollect.sketching.features import STEPS, features_of, frequencies
from recollect.sketching.references import Reference

SCENES = DigitLikeScenes(modules=3, size=5)
KEPT, DAY = SCENES.trace(150, 1), SCENES.trace(400, 2)


def sketcher(size: int = 256, features: int = 48, **options: object) -> Sketcher:
    scales = {
        n: float(c.attributes.square().sum(1).mean().sqrt()) for n, c in KEPT.columns.items()
    }
    return Sketcher(
        dim=64, scales=scales, channel=Channel(size, features), **options  # type: ignore[arg-type]
    )  # fmt: skip


def counts(trace: Trace) -> dict[str, tuple[float, float]]:
    return {n: (float(len(trace.objects(n).glance)), 0.0) for n in trace.modules}


def channel_of(sketches: Sketches) -> Sketches:
    assert sketches.channel is not None
    return sketches.channel


# -- the recipe -----------------------------------------------------------------------------


def test_a_recipe_without_a_channel_is_what_it_was() -> None:
    """Golden: its words on disk, and sketches bit for bit beside one with a channel."""
    assert json.dumps(Recipe().to_dict()) == (
        '{"dim": 1024, "seed": 0, "scheme": "energy", "dtype": "int8", "slots": false, '
        '"version": 1}'
    )
    plain, rich = Sketcher(dim=64), Sketcher(dim=64, channel=True)
    a, b = plain.encode(DAY), rich.encode(DAY)
    assert a.channel is None
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.scale, b.scale)  # type: ignore[arg-type]
    assert int(a.codes[:8].to(torch.int64).abs().sum()) == 18246


def test_a_recipe_with_a_channel_survives_json_and_is_another_recipe() -> None:
    recipe = Recipe(dim=64, channel=Channel(128, 16, ("cat",)))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        recipe.check_same(Recipe(dim=64))
    assert Sketcher(channel=False).recipe.channel is None
    assert Sketcher.from_recipe(recipe, Sketcher().modules).recipe == recipe


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"size": 100}, ValueError, "multiple of 64, got 100"),
        ({"size": 0}, ValueError, "at least 64"),
        ({"features": 7}, ValueError, "in pairs"),
        ({"modules": "cat"}, TypeError, "sequence of names"),
        ({"modules": ()}, ValueError, "must follow some module"),
    ],
)
def test_a_bad_channel_is_refused(given: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Channel(**given)


def test_without_a_channel_there_is_none_to_read() -> None:
    with pytest.raises(ValueError, match="no distribution channel"):
        channel_recipe(Recipe())
    with pytest.raises(ValueError, match="no distribution channel"):
        Averages(Sketcher(dim=64), Prior.fit(KEPT))


# -- features -------------------------------------------------------------------------------


def test_features_are_waves_of_fixed_frequencies() -> None:
    """Naive twin, object by object; and pinned, so that a changed draw cannot pass."""
    s = sketcher()
    s.admit(KEPT)
    entry = s.modules["thing1"]
    x = KEPT.objects("thing1").attributes[:6]
    w = frequencies(5, 48, 0)
    phi = features_of(x, entry, Channel(256, 48), 0)
    for row, one in zip(phi, x.double().numpy(), strict=True):
        phase = w @ (one * 5**0.5 / entry.scale)
        np.testing.assert_allclose(row, np.r_[np.cos(phase), np.sin(phase)], atol=1 / STEPS)
    assert torch.equal(phi * STEPS, torch.round(phi * STEPS))
    assert ((w[:20] != 0).sum(1) == 1).all(), "axes first"
    assert frequencies(32, 32, 0).all(), "wide attributes get directions"
    assert w[:2, 0].round(4).tolist() == [0.5458, 1.8358]


def test_a_glance_is_the_same_whatever_else_is_in_the_batch() -> None:
    s = sketcher()
    whole = channel_of(s.encode(DAY))
    for rows in (slice(0, 1), slice(7, 40), [5, 3, 399]):
        assert channel_of(s.encode(DAY[rows])).equal(whole[rows])


@pytest.mark.parametrize("seed", [0, 1])
def test_sums_are_bit_identical_in_any_order(seed: int) -> None:
    """A thousand int8 glances: merged in any order and grouping, channel and sketch."""
    day = SCENES.trace(1000, 5)
    s = sketcher().encode(day)
    rng = np.random.default_rng(seed)
    order = rng.permutation(1000)
    cuts = np.sort(rng.choice(np.arange(1, 1000), 20, replace=False))
    parts = [s[rows].sum() for rows in np.split(order, cuts)]
    rng.shuffle(parts)
    total = parts[0]
    for p in parts[1:]:
        total = total + p
    assert total.equal(s.sum())
    assert channel_of(total).equal(channel_of(s).sum())


def test_channels_travel_with_their_sketches() -> None:
    s = sketcher().encode(DAY)
    assert Sketches.concat([s[:10], s[10:]]).equal(s)
    assert not s.equal(Sketches.concat([s[:10], s[:390]]))
    assert s.prefix(64).channel is s.channel
    assert s.cpu().equal(s)


def test_only_chosen_modules_enter() -> None:
    some = Sketcher(dim=64, channel=Channel(64, 16, ("thing0",)))
    nothing = Trace.from_columns({"thing1": DAY.objects("thing1").attributes})
    assert not channel_of(some.encode(nothing)).codes.any()


def test_objects_count_once_whatever_their_weight_and_place() -> None:
    from recollect import Object

    s = Sketcher(dim=64, channel=True)
    eye = [0.3, -1.0]
    plain = Trace.from_objects([[Object("eye", eye), Object("cat", [1.0])]])
    nested = Trace.from_objects([[Object("cat", [1.0], weight=0.5, inputs=[Object("eye", eye)])]])
    assert channel_of(s.encode(plain)).equal(channel_of(s.encode(nested)))


def test_a_thousand_int8_glances_tell_shares_and_means() -> None:
    """The bars of a roll-up: shares within 0.001, mean attributes within 0.01 of their size."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((16, 16))

    def day(glances: int, shift: float) -> Trace:
        columns = {}
        for k in range(16):
            glance = np.flatnonzero(rng.random(glances) < 0.1 + 0.03 * k)
            x = centre[k] + shift + 0.6 * rng.standard_normal((len(glance), 16))
            columns[f"m{k}"] = {
                "attributes": torch.from_numpy(x.astype(np.float32)),
                "glance": glance,
            }
        return Trace.from_columns(columns, num_glances=glances)

    kept, seen = day(300, 0.0), day(1000, 0.1)
    scales = {
        n: float(c.attributes.square().sum(1).mean().sqrt()) for n, c in kept.columns.items()
    }
    s = Sketcher(dim=512, scales=scales)
    total = s.encode(seen).sum()
    found = s.decode(total, prior=Prior.fit(kept))
    names, estimate, _ = found.count_estimates()
    true = np.array([len(seen.objects(n).glance) for n in names], dtype=float)
    share = np.abs(estimate[0] / estimate[0].sum() - true / true.sum())
    apart = []
    for name in names:
        x = seen.objects(name).attributes
        mean, _ = found.means(name, [len(x)])
        apart.append(float((mean[0] - x.mean(0)).norm() / x.square().sum(1).mean().sqrt()))
    print(f"shares within {share.max():.5f}, means within {max(apart):.4f}")
    assert share.max() <= 0.001
    assert max(apart) <= 0.01


# -- averages -------------------------------------------------------------------------------


def test_shares_over_a_window_hold_their_bars_and_beat_the_records() -> None:
    """Ordinary windows, and one whose attributes have moved by half a deviation."""
    inside, error, records = [], [], []
    averages = Averages(sketcher(), Prior.fit(KEPT))
    for seed in range(8):
        day = SCENES.trace(300, 20 + seed)
        if seed >= 4:
            for c in day.columns.values():
                c.attributes[:] += 0.5 * c.attributes.std(0)
        total = channel_of(averages.sketcher.encode(day).sum()).values[0].double()
        for module in day.modules:
            x = day.objects(module).attributes.numpy()
            seen = KEPT.objects(module).attributes.numpy()
            t = np.quantile(x[:, 0], [0.1, 0.3, 0.5, 0.7, 0.9])
            mean, std = averages.of(module, lambda a, t=t: a[:, :1] <= t, total, 300, counts(day))
            true = (x[:, :1] <= t).mean(0)
            inside.append(np.abs(mean - true) <= 1.645 * std)
            error.append(np.abs(mean - true).mean())
            records.append(np.abs((seen[:, :1] <= t).mean(0) - true).mean())
    coverage = float(np.mean(inside))
    print(f"coverage {coverage:.3f}, error {np.mean(error):.4f}, records {np.mean(records):.4f}")
    assert 0.84 <= coverage <= 0.98
    assert np.mean(error) < 0.35 * np.mean(records)


def test_a_mean_of_the_attribute_itself() -> None:
    """Any function: here the numbers, known exactly, and their products."""
    averages = Averages(sketcher(), Prior.fit(KEPT))
    total = channel_of(averages.sketcher.encode(DAY).sum()).values[0].double()
    x = DAY.objects("thing2").attributes.numpy().astype(float)
    mean, std = averages.of("thing2", lambda a: a, total, 400, counts(DAY))
    np.testing.assert_allclose(mean, x.mean(0), atol=0.1)
    assert (np.abs(mean - x.mean(0)) < 4 * std).all()
    one, none = averages.of("thing2", lambda a: np.ones((len(a), 1)), total, 400, counts(DAY))
    assert (float(one[0]), float(none[0])) == (
        pytest.approx(1, abs=1e-9),
        pytest.approx(0, abs=1e-6),
    )


def test_a_crowded_channel_says_less() -> None:
    prior = Prior.fit(KEPT)
    std = []
    for size in (64, 256):
        averages = Averages(sketcher(size), prior)
        total = channel_of(averages.sketcher.encode(DAY).sum()).values[0].double()
        std.append(averages.of("thing0", lambda a: a[:, :1] < 0, total, 400, counts(DAY))[1][0])
    assert std[0] > 1.3 * std[1]


def test_what_averages_refuse() -> None:
    s = sketcher()
    averages = Averages(s, Prior.fit(KEPT[:3]))
    total = channel_of(s.encode(DAY).sum()).values[0].double()
    with pytest.raises(TooFewRecords, match=f"distribution needs {FEWEST}"):
        averages.of("thing1", lambda a: a, total, 400, counts(DAY))
    with pytest.raises(NotRemembered, match="did you mean"):
        averages.of("thin", lambda a: a, total, 400, counts(DAY))
    whole = Averages(s, Prior.fit(KEPT))
    with pytest.raises(ValueError, match="no object of module"):
        whole.of("thing1", lambda a: a, total, 400, {"thing1": (0.0, 0.0)})
    some = Sketcher(dim=64, channel=Channel(64, 16, ("thing0",)))
    some.admit(KEPT)
    with pytest.raises(ValueError, match="does not follow module 'thing1', only thing0"):
        Averages(some, Prior.fit(KEPT)).reference("thing1")


def test_numbers_of_few_values_are_neither_smoothed_nor_moved() -> None:
    rng = np.random.default_rng(0)
    kept = np.column_stack([rng.normal(size=200), rng.integers(0, 5, 200)])
    assert few_values(kept).tolist() == [False, True]
    reference = Reference.of(kept)
    near = reference.points[reference.near > 0]
    assert set(near[:, 1].tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert len(np.unique(near[:, 0])) > 1000
    drifts = Drifts.of(kept)
    assert set(np.unique(drifts.points[:, :, 1]).tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    means = drifts.changes(lambda x: x)
    half = len(means) // 2
    assert means[:half, 1] == pytest.approx(np.zeros(half), abs=1e-12)  # moved: only number 0
    assert means[:half, 0].std() > 0.1
    assert means[half:].std(0).min() > 0.1  # tilted: both


def test_windows_that_are_larger_as_a_whole_keep_their_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums of 300 glances, a sixth darker than any that was kept, at load 1.06."""
    from recollect.sketching import bags

    fixed = np.random.default_rng(0)
    means = 2 + fixed.normal(size=(4, 16))

    def seen(glances: int, seed: int, light: float) -> Trace:
        rng = np.random.default_rng([2, seed])
        x = light * (means + 0.3 * rng.normal(size=(glances, 4, 16)))
        present = rng.random((glances, 4)) < 0.7
        return Trace.from_columns(
            {
                f"m{k}": {
                    "attributes": torch.from_numpy(x[present[:, k], k].astype(np.float32)),
                    "glance": np.flatnonzero(present[:, k]),
                }
                for k in range(4)
            },
            num_glances=glances,
        )

    def error() -> float:
        kept, day = seen(150, 0, 1.0), seen(300, 1, 0.85)
        sketcher = Sketcher(dim=64, seed=1)
        sketcher.admit(kept, measure_scales=True)
        found = sketcher.decode(sketcher.encode(day).sum(), prior=Prior.fit(kept))
        off = []
        for name in day.modules:
            x = day.objects(name).attributes.numpy()
            mean = found.means(name, [len(x)])[0][0].numpy()
            off.append(np.linalg.norm(mean - x.mean(0)) / np.sqrt(np.square(x).sum(1).mean()))
        return float(np.mean(off))

    ours = error()
    monkeypatch.setattr(bags, "INTENSITY", 0.0)
    without = error()
    print(f"off by {ours:.4f} of an attribute's size, without by {without:.4f}")
    assert ours < 0.02
    assert ours < 0.5 * without
