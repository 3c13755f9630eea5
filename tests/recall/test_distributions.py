"""Quantiles, histograms, shares, covariances: exact from records, within their bars otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Sketcher, Trace, recall
from recollect.recall.populations import feature_of
from recollect.sketching import Channel

HOUR = 3_600_000_000
RANKS = (0.1, 0.25, 0.5, 0.75, 0.9)
_FIXED = np.random.default_rng(5)
MEANS, SPREAD = _FIXED.standard_normal((3, 4)), 0.7 * _FIXED.standard_normal((3, 3, 4))


def scenes(glances: int, seed: int, shift: float = 0.0) -> Trace:
    """Three modules of 4 numbers, two clusters each; sometimes nothing at all."""
    rng = np.random.default_rng([3, seed])
    columns = {}
    for k in range(3):
        glance = np.repeat(np.arange(glances), rng.poisson(0.9, glances))
        code = rng.standard_normal((len(glance), 3)) + shift
        code[:, 0] = np.where(rng.random(len(glance)) < 0.3, 2.0, -0.8) + 0.3 * code[:, 0]
        x = MEANS[k] + code @ SPREAD[k] + 0.1 * rng.standard_normal((len(glance), 4))
        columns[f"m{k}"] = {"attributes": torch.from_numpy(x.astype(np.float32)), "glance": glance}
    return Trace.from_columns(columns, num_glances=glances)


def hours(first: int, last: int) -> dict[str, Any]:
    return {
        "since": np.datetime64(first * HOUR, "us"),
        "until": np.datetime64(last * HOUR, "us"),
    }


def keep(path: Any, trace: Trace, **options: Any) -> Memory:
    """Four glances an hour."""
    channel = options.pop("channel", Channel(128, 32))
    sketcher = Sketcher(dim=options.pop("dim", 64), seed=3, channel=channel)
    memory = Memory(path, sketcher=sketcher, **{"reservoir": 120, **options})
    sources = ["hall" if i % 3 else "attic" for i in range(len(trace))]
    memory.add(trace, time=np.arange(len(trace)) * HOUR // 4, source=sources)
    return memory


@pytest.fixture(scope="module")
def trace() -> Trace:
    return scenes(480, 0)


@pytest.fixture(scope="module")
def memory(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with keep(tmp_path_factory.mktemp("shapes") / "room", trace) as made:
        made.fit_prior()
        yield made


def truth(trace: Trace, module: str, first: int, last: int) -> np.ndarray:
    objects = trace.objects(module)
    when = objects.glance.numpy() // 4
    return objects.attributes.numpy()[(when >= first) & (when < last)].astype(np.float64)


def test_records_give_exactly_what_was_seen(tmp_path: Any) -> None:
    trace = scenes(60, 9)
    with keep(tmp_path / "m", trace, reservoir=200) as m:
        x = truth(trace, "m1", 0, 15).astype(np.float16).astype(np.float64)
        size = np.linalg.norm(x, axis=1)
        found = recall.quantiles(m, "m1", RANKS)
        np.testing.assert_allclose(found["estimate"], np.quantile(size, RANKS), rtol=1e-6)
        assert found["low"] == found["estimate"] == found["high"]
        found = recall.fraction_above(m, "m1", [0.0, 1.0], feature=2)
        np.testing.assert_allclose(found["estimate"], (x[:, 2:3] > [0.0, 1.0]).mean(0))
        found = recall.histogram(m, "m1", [-1.0, 0.0, 1.0], feature=0)
        counted = np.histogram(x[:, 0], [-np.inf, -1, 0, 1, np.inf])[0]
        np.testing.assert_allclose(np.array(found["estimate"]) * len(x), counted)
        found = recall.covariance(m, "m1", names=["a", "b"])
        i, j = np.triu_indices(4)
        np.testing.assert_allclose(found["estimate"], np.cov(x.T, bias=True)[i, j], atol=1e-9)
        assert found["low"] == pytest.approx(found["high"])
        assert (found["first"][1], found["second"][1]) == ("a", "b")
        assert {"first", "low"} <= set(found.to_pandas().columns)


@pytest.mark.parametrize(
    ("source", "least", "most"), [("sketch", 0.83, 0.97), ("channel", 0.85, 0.985)]
)
def test_nine_in_ten_intervals_hold_the_truth(
    memory: Memory, trace: Trace, source: str, least: float, most: float
) -> None:
    inside: list[bool] = []

    def judge(answer: Any, true: Any) -> None:
        inside.extend(r["low"] <= t <= r["high"] for r, t in zip(answer, true, strict=True))

    for first, last in ((0, 40), (40, 100), (100, 120)):
        for module in ("m0", "m2"):
            x = truth(trace, module, first, last)
            asked = {"source": source, **hours(first, last)}
            found = recall.quantiles(memory, module, RANKS, feature=0, **asked)
            judge(found, np.quantile(x[:, 0], RANKS))
            t = np.quantile(x[:, 1], RANKS)
            found = recall.fraction_above(memory, module, t + 0.05, feature=1, **asked)
            judge(found, (x[:, 1:2] > t + 0.05).mean(0))
            i, j = np.triu_indices(4)
            judge(recall.covariance(memory, module, **asked), np.cov(x.T, bias=True)[i, j])
    print(f"{source}: coverage {np.mean(inside):.3f} of {len(inside)}")
    assert least <= np.mean(inside) <= most


def test_roll_ups_alone_tell_what_records_do_not(tmp_path: Any) -> None:
    """The window moves away from what was kept whole; its roll-ups say so, without one row."""
    usual, later = scenes(240, 1), scenes(240, 2, shift=0.7)
    with keep(tmp_path / "m", Trace.concat([usual, later]), reservoir=1000) as m:
        from recollect import Prior

        object.__setattr__(m, "prior", lambda version=None: Prior.fit(usual))
        m._priors.versions = lambda: [1]  # type: ignore[method-assign]
        m._engine.rows.take = None  # type: ignore[assignment,method-assign]
        m._engine.rows.blocks = None  # type: ignore[assignment,method-assign]
        found = recall.quantiles(m, "m0", RANKS, feature=0, source="channel", **hours(60, 120))
        x = later.objects("m0").attributes.numpy()[:, 0]
        seen = usual.objects("m0").attributes.numpy()[:, 0]
        error = np.abs(np.array(found["estimate"]) - np.quantile(x, RANKS)).mean()
        assert error < 0.35 * np.abs(np.quantile(seen, RANKS) - np.quantile(x, RANKS)).mean()
        assert any("roll-ups" in n for n in found.notes)


def test_a_filter_reads_the_channel_of_its_glances(memory: Memory, trace: Trace) -> None:
    found = recall.fraction_above(
        memory, "m0", 0.0, feature=0, where="source = 'attic'", source="channel"
    )
    objects = trace.objects("m0")
    x = objects.attributes.numpy()[objects.glance.numpy() % 3 == 0, 0]
    assert found["low"][0] - 0.03 <= (x > 0).mean() <= found["high"][0] + 0.03
    assert any("160 glances in the distribution channel (glances)" in n for n in found.notes)
    assert "where source = 'attic'" in found.title


def test_without_skeletons_the_channel_still_answers(tmp_path: Any) -> None:
    trace = scenes(200, 4)
    with keep(tmp_path / "m", trace, keep_skeletons=False, dim=256) as m:
        found = recall.fraction_above(m, "m1", 0.0, feature=0)
        true = (truth(trace, "m1", 0, 50)[:, 0] > 0).mean()
        assert abs(found["estimate"][0] - true) < 0.1
        assert any("itself an estimate" in n for n in found.notes)
        with pytest.raises(ValueError, match="kept no skeleton"):
            recall.quantiles(m, "m1", source="sketch")


def test_many_glances_are_read_from_the_channel_or_sampled(
    memory: Memory, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in ("populations", "channelled"):
        monkeypatch.setattr(f"recollect.recall.{reader}.CHUNK", 100)
    found = recall.quantiles(memory, "m0", [0.5], feature=0)
    assert any("distribution channel" in n for n in found.notes)
    sampled = recall.quantiles(memory, "m0", [0.5], feature=0, source="sketch")
    assert any("read from 100 glances, evenly chosen" in n for n in sampled.notes)
    whole = np.quantile(truth(trace, "m0", 0, 120)[:, 0], 0.5)
    assert sampled["low"][0] < whole < sampled["high"][0]
    share = recall.fraction_above(memory, "m0", whole, feature=0, source="sketch")
    assert 0.05 < share["high"][0] - share["low"][0] < 0.4


def test_features_of_an_attribute() -> None:
    x = np.array([[3.0, 4.0], [0.0, 1.0]])
    assert feature_of(None, 2).read(x).tolist() == [5.0, 1.0]
    assert feature_of(None, 1).name == "number 0"
    assert feature_of(1, 2, ["x", "y"]).name == "y"
    assert feature_of([1, -1], 2).read(x).tolist() == [-1.0, -1.0]
    assert feature_of(lambda a: a.sum(1), 2).read(x).tolist() == [7.0, 1.0]
    for bad, error, words in (
        (2, ValueError, "numbers 0 to 1, number 2"),
        ("width", ValueError, "'width' is not known; there are 'size', 'x'"),
        ([1.0], ValueError, "a direction needs 2 numbers"),
        (object(), TypeError, "a direction or a function"),
    ):
        with pytest.raises(error, match=words):
            feature_of(bad, 2, ["x"])


def test_what_cannot_be_answered_is_refused(memory: Memory, tmp_path: Any) -> None:
    with pytest.raises(NotRemembered, match="did you mean"):
        recall.quantiles(memory, "m9")
    with pytest.raises(ValueError, match="between 0 and 1"):
        recall.quantiles(memory, "m0", [1.5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        recall.quantiles(memory, "m0", [])
    with pytest.raises(ValueError, match="must be numbers"):
        recall.fraction_above(memory, "m0", np.nan)
    with pytest.raises(ValueError, match="ascending"):
        recall.histogram(memory, "m0", [1.0, 0.0])
    with pytest.raises(ValueError, match="bins must be at least 1"):
        recall.histogram(memory, "m0", 0)
    with pytest.raises(TypeError, match="unexpected argument 'wher'; a distribution is"):
        recall.quantiles(memory, "m0", wher="source = 'attic'")
    with pytest.raises(ValueError, match="source must be one of"):
        recall.quantiles(memory, "m0", source="guess")
    with pytest.raises(ValueError, match="5 names"):
        recall.covariance(memory, "m0", names="abcde")
    with pytest.raises(NotRemembered, match="0 chosen glances"):
        recall.quantiles(memory, "m0", where="source = 'cellar'")
    with pytest.raises(NotRemembered, match="no glance is chosen"):
        recall.quantiles(memory, "m0", where="source = 'cellar'", source="channel")
    with keep(tmp_path / "plain", scenes(20, 1), channel=None) as plain:
        with pytest.raises(ValueError, match="keeps no distribution channel"):
            recall.quantiles(plain, "m0", source="channel")
        with pytest.raises(ValueError, match="keeps no distribution channel"):
            plain.channels()
    with (
        keep(tmp_path / "bare", scenes(20, 1), reservoir=0) as bare,
        pytest.raises(ValueError, match="keeps neither one nor records"),
    ):
        recall.quantiles(bare, "m0", source="channel")


def test_an_empty_answer_has_a_readable_form(memory: Memory) -> None:
    found = recall.histogram(memory, "m0", 4, feature=0)
    assert len(found) == 4
    assert sum(found["estimate"]) == pytest.approx(1.0, abs=0.02)
    assert "histogram of number 0 of 'm0'" in repr(found)


def test_a_channel_that_has_faded_is_read_as_far_as_it_goes(trace: Trace, tmp_path: Any) -> None:
    """Whole hours from roll-ups as before; other windows from what their glances keep."""
    asked = {"source": "channel", "feature": 0}
    with keep(tmp_path / "m", trace, dim=128, channel=Channel(256, 16)) as m:
        m.fit_prior()

        def ask(**window: Any) -> Any:
            return recall.fraction_above(m, "m0", [-0.5, 0.5], **asked, **window)

        def drift(unit: str, *parts: tuple[Any, Any]) -> Any:
            return recall.drift(m, *parts, "m0", unit=unit, permutations=99)["estimate"][0]

        spans = [(np.datetime64(a * HOUR, "us"), np.datetime64((a + 30) * HOUR, "us"))
                 for a in (50, 80)]  # fmt: skip
        whole = ask()
        by_hour = drift("hour", *spans)
        m.fade(
            now=120 * HOUR, policy="full for 20 hours, 64 dims for 80 hours, skeletons for ever"
        )
        assert ask()["estimate"] == whole["estimate"]
        assert ask()["low"] == whole["low"]
        assert drift("hour", *spans) == by_hour
        # Of 120 hours 40 keep their structure only, 60 half of the channel.
        found = ask(where="source = 'attic'")
        assert any("54 glances keep nothing of it: left out" in n for n in found.notes)
        assert any("read up to 128 of 256 numbers" in n for n in found.notes)
        true = (truth(trace, "m0", 40, 120)[:, :1] > [-0.5, 0.5]).mean(0)
        assert (np.array(found["low"]) - 0.05 <= true).all()
        assert (true <= np.array(found["high"]) + 0.05).all()
        short = recall.drift(m, *spans, "m0", unit="glance", permutations=99)
        assert any("compared by 64 of 128 numbers" in n for n in short.notes), short.notes
        old = (np.datetime64(0, "us"), np.datetime64(30 * HOUR, "us"))
        with pytest.raises(ValueError, match="faded to their structure and cannot be compared"):
            recall.drift(m, old, spans[0], "m0", unit="glance")
        with pytest.raises(ValueError, match="nothing is left of the distribution channel"):
            ask(where="source = 'hall'", until=old[1])
