"""The demo, in small: the scene maker keeps its rules, and the story is told to the end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recollect.app.cli import app
from recollect.app.demo.network import glances, look, score_reading, train
from recollect.app.demo.report import Chapter, Table, render
from recollect.app.demo.scenes import HEIGHT, WIDTH, load_digits, make_scenes, make_year
from recollect.app.demo.world import fold

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def test_the_year_keeps_the_rules() -> None:
    learn, keep = load_digits()
    assert len(learn[1]) + len(keep[1]) == 1797
    scenes = make_year(keep, 365)
    assert len(scenes) == 1460
    assert [s.time.hour // 6 for s in scenes[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert all(2 <= len(s.digits) <= 12 for s in scenes)
    assert not any(s.count(9) for s in scenes if s.source == "hall")
    sevens = [s.time.hour >= 21 or s.time.hour < 5 for s in scenes if s.count(7)]
    threes = [s.time.month in (12, 1, 2) for s in scenes if s.count(3)]
    assert np.mean(sevens) > 0.6
    assert np.mean(threes) > 0.6
    eights = [(s.time, d.box[2]) for s in scenes for d in s.digits if d.label == 8]
    assert eights[0][1] == 8
    assert eights[-1][1] == 15


def test_scenes_are_the_same_again_and_digits_do_not_touch() -> None:
    _, keep = load_digits()
    one, two = make_year(keep, 3, seed=5), make_year(keep, 3, seed=5)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0].pixels, make_year(keep, 3, seed=6)[0].pixels)
    for scene in one:
        covered = np.zeros((HEIGHT, WIDTH), int)
        for digit in scene.digits:
            top, left, height, width = digit.box
            covered[top : top + height, left : left + width] += 1
        assert covered.max() == 1
        assert 0 <= scene.pixels.min() <= scene.pixels.max() <= 1


def test_the_network_learns_to_find_and_read() -> None:
    learn, keep = load_digits()
    losses: list[float] = []
    network = train(
        make_scenes(learn, 192), epochs=4, report=lambda step, steps, loss: losses.append(loss)
    )
    scenes = make_scenes(keep, 40, seed=1)
    seen = [objects for part in look(network, scenes) for objects in part]
    there, found, right, _ = score_reading(scenes, seen)
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
    assert there >= found >= right > 0
    assert found > 0.5 * there
    t = glances(seen)
    assert len(t) == 40
    assert t.objects("stroke/upper").attributes.shape == (sum(map(len, seen)), 16)
    assert all(p[0].startswith("digit/") for p in t.objects("stroke/lower").path)


def test_fold_sums_by_key() -> None:
    assert fold([1, 2, 3], ["a", "b", "a"], ["a", "b", "c"]) == [4, 2, 0]


def test_the_page_needs_nothing_else_and_escapes_what_it_is_told() -> None:
    chapter = Chapter("<b>", "a & b", "ask <this>", "fine", True, ["<svg></svg>"],
                      [Table(["x", "y"], [["<i>", 1.5]])])  # fmt: skip
    page = render("title <t>", "lead", [("1", "fact")], [chapter], "end")
    assert "<b>" not in page.split("<section")[1].split("</section>")[0]
    assert "&lt;i&gt;" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_a_few_days_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recollect.app.demo.story.SHORT_TRAINING", 192)
    result = CliRunner().invoke(
        app, ["demo", "--days", "12", "--report", str(tmp_path / "out"), "--json"]
    )
    assert result.exit_code == 0, result.output + result.stderr
    told = json.loads(result.stdout)
    assert told["glances"] == 48
    assert len(told["chapters"]) == 11
    # The exact answers equal the network's log, however little it has learned.
    for row in told["chapters"][1]["tables"][0]:
        assert row["memory (exact)"] == row["network"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"(src|xlink:href|href)=\"https?://(?!www\.w3\.org)", page)
    assert page.count("<section") == 11
    # The memory stays, and can be asked.
    asked = CliRunner().invoke(
        app, ["ask", str(tmp_path / "out" / "year.recollect"), "how often", "--json"]
    )
    assert json.loads(asked.stdout)["rows"][0]["estimate"] == 48
