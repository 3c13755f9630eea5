"""The study of summary statistics: its rivals, its rows, its picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recollect._answers import Answer
from recollect.studies import statistics, word_streams
from recollect.studies.statistics import METHODS


def test_streams_reach_their_bars_and_the_sample_does_not() -> None:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 2001)
    words = [f"w{i}" for i in rng.choice(2000, 20_000, p=share / share.sum()).tolist()]
    rows = {r["statistic"]: r for r in word_streams.judged_stream("words", words)}
    assert len(Counter(words)) > 1500
    for name, row in rows.items():
        assert row["ours"] <= row["bar"], name
    assert rows["distinct items"]["reservoir"] > rows["distinct items"]["ours"]
    assert rows["entropy"]["reservoir"] > rows["entropy"]["ours"]


def test_a_day_of_scenes_has_a_row_for_every_statistic() -> None:
    pytest.importorskip("sklearn")
    scenes = statistics.DigitScenes(epochs=3)
    rows = {r["statistic"]: r for r in statistics._day(scenes, 0, 120, wide=False)}
    assert rows["shares of the modules"]["ours"] < 0.1 * rows["shares of the modules"]["reservoir"]
    assert rows["mean attribute"]["ours"] <= 0.01
    assert rows["quantiles of the size"]["ours"] < rows["quantiles of the size"]["usual"]
    drift = next(r for name, r in rows.items() if name.startswith("drift"))
    assert 0 < drift["ours"] < 0.5
    assert all(m in row for row in rows.values() for m in METHODS)


def test_sums_of_many_glances_beat_samples_of_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(statistics, "LOADS", (512,))
    rows = statistics.rolled_up(statistics.DigitScenes(epochs=3), 0, glances=400)
    assert [r["of"][14:] for r in rows] == ["like the records"] * 2 + ["of a moved day"] * 2
    assert all("512 numbers (load 0.64)" in r["statistic"] for r in rows)
    for row in rows:
        assert row["ours"] < row["bar"] * (1 if "like" in row["of"] else 3)
        assert row["ours"] < 0.3 * min(row["reservoir"], row["usual"])


def test_a_folder_without_texts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoScenes:
        strokes = ("0",)

        def __init__(self, epochs: int) -> None: ...

    monkeypatch.setattr(statistics, "DigitScenes", NoScenes)
    monkeypatch.setattr(statistics, "_day", lambda *_: [])
    monkeypatch.setattr(statistics, "rolled_up", lambda *_: [])
    with pytest.raises(FileNotFoundError, match=r"holds no text/\*\.txt"):
        statistics.study(quick=True, data=str(tmp_path))


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = {"of": "words", "statistic": "entropy", "error in": "nats", "bar": 0.05}
    found = Answer({k: [v] for k, v in {**row, **dict.fromkeys(METHODS, 0.01)}.items()})
    statistics.draw(found, tmp_path / "s.svg")
    assert "entropy" in (tmp_path / "s.svg").read_text() or (tmp_path / "s.svg").stat().st_size > 0
