"""The studies of similarity, of the schemes and of linear sketches show what they claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recollect import studies
from recollect._answers import Answer
from recollect.studies import linear_sketch, schemes, similarity
from recollect.studies.figures import figure
from recollect.studies.glance_pairs import hand_built


def found(rows: list[dict[str, object]], pair: str, method: str, what: str = "mean") -> float:
    (row,) = [r for r in rows if r["pair"] == pair and r["method"] == method]
    return float(row[what])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def by_hand() -> list[dict[str, object]]:
    pairs = [hand_built(np.random.default_rng([7, r])) for r in range(16)]
    return similarity.table("by hand", pairs, 1024, slots=True)


def test_related_glances_are_near_and_unrelated_ones_far(by_hand: list) -> None:
    for scheme in similarity.SCHEMES:
        assert found(by_hand, "same modules, attributes moved by 0.2", scheme) > 0.975
        assert abs(found(by_hand, "nothing shared", scheme)) < 3 / 1024**0.5
        assert found(by_hand, "one shared object, same slot", scheme, "sigmas") > 2


def test_probes_see_what_the_whole_cosine_does_not(by_hand: list) -> None:
    for pair in ("one shared object, other slot", "shared object one level deeper"):
        assert found(by_hand, pair, "energy", "sigmas") < 3
        best = max(found(by_hand, pair, m, "sigmas") for m in ("probe", "anywhere"))
        assert best > 2.5
    assert found(by_hand, "one shared object, same slot", "probe", "sigmas") > 6


def test_keyed_and_paper_are_blind_to_another_depth(by_hand: list) -> None:
    for scheme in ("keyed", "paper"):
        assert abs(found(by_hand, "shared object one level deeper", scheme, "sigmas")) < 2


def test_energy_alone_has_all_properties_at_depth_two() -> None:
    paper, keyed, energy = (schemes.measure(s, 2, 0) for s in schemes.SCHEMES)
    other, own = "same object, other parent, probed: sigmas", "error, own columns"
    assert energy[other] > 3 > abs(keyed[other])
    assert abs(paper[other]) < 3
    assert energy[own] < 0.6 < 2 < paper[own]
    assert energy["error, least squares"] < 0.02
    assert energy["number by projection: error"] < 0.5 < 2 < paper["number by projection: error"]
    assert np.isnan(keyed["mean of 200 glances by projection: error"])
    assert energy["columns found from sketches"] == 1


def test_important_dimensions_are_found_among_shuffled_copies() -> None:
    pytest.importorskip("sklearn")
    x, t = linear_sketch._read("diabetes")
    shares = [linear_sketch._judge(x, t, 31, 4, 256, seed) for seed in range(3)]
    assert np.mean([s["sketch"][0] for s in shares]) >= 0.7
    assert np.mean([s["moment"][0] for s in shares]) >= 0.7
    wide = linear_sketch.with_copies(x, 2, 0)
    assert wide.shape == (442, 30)
    np.testing.assert_allclose(np.sort(wide[:, 3]), np.sort(wide[:, 13]))
    assert not np.array_equal(wide[:, 3], wide[:, 13])


# -- pictures -------------------------------------------------------------------------------


def test_the_picture_changes_with_its_numbers_only(by_hand: list, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    search = [
        {"glances": "9 scenes", "numbers": 256, "pair": "share found of eight scenes with one",
         "method": m, "mean": 0.5, "sd": 0.1, "sigmas": float("nan")}
        for m in ("energy", "probe")
    ]  # fmt: skip
    rows = [*by_hand, *search]
    table = Answer({k: [r[k] for r in rows] for k in rows[0]})
    for name in ("a.svg", "b.svg"):
        similarity.draw(table, tmp_path / name)
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    assert "shared object one level deeper" in first
    table.columns["mean"][0] = 0.0
    similarity.draw(table, tmp_path / "c.svg")
    assert first != (tmp_path / "c.svg").read_text()


def test_pictures_are_refused_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study 'hindsight' draws no picture"):
        studies.run("hindsight", quick=True, picture=str(tmp_path / "a.svg"))
    with (
        pytest.raises(ValueError, match=r"written as \.svg or \.png, got 'a\.txt'"),
        figure("a.txt", width=1, height=1),
    ):
        pass
