"""Watching: nothing twice, nothing broken, nothing lost."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from recollect import Memory, NotRemembered
from recollect.app.answering import query_of
from recollect.app.cli import app
from recollect.app.models import load_model
from recollect.app.sources import open_source
from recollect.app.watching import activations_of, settings_of, watch_source

FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3))
"""
MODEL = "tiny_network:net?size=32"


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny_network.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for place, hours in {"hall": range(5), "garden": range(5, 8)}.items():
        (tmp_path / "pictures" / place).mkdir(parents=True)
        for hour in hours:
            name = f"2026-01-20_{hour:02d}30.png"
            (tmp_path / "pictures" / place / name).write_bytes(picture(hour))
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code == 0 else result.stderr


def watch(*more: str) -> dict[str, object]:
    out = run("watch", "pictures", "--model", MODEL, "--memory", "room", "--dim", "256", "--json",
              *more)  # fmt: skip
    return json.loads(out)  # type: ignore[no-any-return]


def test_a_rerun_adds_nothing_twice(home: Path) -> None:
    first = watch()
    assert (first["added"], first["known"], first["glances"]) == (8, 0, 8)
    again = watch()
    assert (again["added"], again["known"], again["glances"]) == (0, 8, 8)
    (home / "pictures" / "2026-01-21_0000.png").write_bytes(picture(99))
    more = watch()
    assert (more["added"], more["known"], more["glances"]) == (1, 8, 9)


def test_it_goes_on_where_it_stopped(home: Path) -> None:
    assert watch("--limit", "3", "--batch", "2")["glances"] == 3
    rest = watch("--batch", "2")
    assert (rest["added"], rest["known"], rest["glances"]) == (5, 3, 8)
    with Memory("room") as memory:
        times = memory.glances(columns=["time"]).column("time").to_pylist()
        begin = datetime(2026, 1, 20, 0, 30, tzinfo=UTC)
        assert times == [begin + timedelta(hours=h) for h in range(8)]


def test_what_is_known_is_not_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch()
    calls: list[int] = []
    monkeypatch.setattr("recollect.app.watching.look_at", lambda *a: calls.append(1))
    watch()
    assert not calls


def test_broken_pictures_are_skipped_counted_and_named(home: Path) -> None:
    (home / "pictures" / "hall" / "2026-01-20_0100.png").write_bytes(b"no picture")
    (home / "pictures" / "hall" / "2026-01-20_0130.png").write_bytes(picture(1)[:900])
    (home / "pictures" / "hall" / "2026-01-20_0145.png").write_bytes(b"")
    result = CliRunner().invoke(
        app, ["watch", "pictures", "--model", MODEL, "--memory", "room", "--dim", "256"]
    )
    assert result.exit_code == 0
    assert "7 glances added" in result.stdout
    assert "3 pictures did not open or are cut off" in result.stderr
    for name in ("0100", "0130", "0145"):
        assert f"hall/2026-01-20_{name}.png: " in result.stderr


def test_sources_labels_and_zones_are_kept(home: Path) -> None:
    watch("--kind", "image-folder", "--timezone", "Asia/Singapore")
    with Memory("room") as memory:
        assert memory.timezone == "Asia/Singapore"
        table = memory.glances()
        assert set(table.column("label").to_pylist()) == {"hall", "garden"}
        assert set(table.column("source").to_pylist()) == {"pictures"}
        first = min(table.column("time").to_pylist())
        assert first == datetime(2026, 1, 19, 16, 30, tzinfo=UTC)
    # The calendar of the memory is taken for times without a zone: nothing is new.
    assert watch("--kind", "image-folder")["added"] == 0


def test_another_recipe_is_refused(home: Path) -> None:
    watch()
    message = run(
        "watch", "pictures", "--model", MODEL, "--memory", "room", "--dim", "512", code=2
    )
    assert "dim=256" in message
    assert "dim=512" in message
    assert "Traceback" not in message


def test_an_interruption_keeps_what_was_seen(home: Path) -> None:
    model = load_model(MODEL)
    source = open_source("pictures", UTC)

    class Interrupted:
        notes: list[str] = []  # noqa: RUF012

        def __iter__(self):
            for number, item in enumerate(source):
                if number == 5:
                    raise KeyboardInterrupt
                yield item

        def count(self) -> None:
            return None

    with Memory("other") as memory:
        watched = watch_source(memory, model, Interrupted(), batch=4)
        assert watched.interrupted
        assert len(memory) == watched.added == 5


def test_a_network_that_cannot_run_is_told_with_the_shape(home: Path) -> None:
    message = run("watch", "pictures", "--model", "tiny_network:net?size=32&channels=1",
                  "--memory", "room", code=2)  # fmt: skip
    assert "cannot run on a batch of shape (8, 1, 32, 32)" in message


def test_the_settings_are_remembered_for_pictures(home: Path) -> None:
    watch("--modules", "0,2")
    assert settings_of(home / "room")["model"] == MODEL
    with Memory("room") as memory:
        assert set(memory.modules.names) == {"0", "2"}
        t = query_of(memory, "pictures/hall/2026-01-20_0130.png", None)
        assert t.modules == ("0", "2")
        assert query_of(memory, "123", None) == 123
        with pytest.raises(
            FileNotFoundError, match="neither the number of a glance nor a picture"
        ):
            query_of(memory, "absent.png", None)
    (home / "room" / "watch.json").unlink()
    with Memory("room") as memory, pytest.raises(ValueError, match="give --model"):
        query_of(memory, "pictures/hall/2026-01-20_0130.png", None)


def test_a_picture_finds_itself(home: Path) -> None:
    watch()
    out = json.loads(run("ask", "room", "like pictures/hall/2026-01-20_0130.png top 3", "--json"))
    assert len(out["rows"]) == 3
    assert out["rows"][0]["estimate"] == pytest.approx(1, abs=0.02)
    time = datetime.fromisoformat(out["rows"][0]["time"])
    assert time == datetime(2026, 1, 20, 1, 30, tzinfo=UTC)


def test_activations_are_counted_without_a_trace() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert activations_of(network, torch.ones(5, 4)) == 3 + 3 + 2
    assert not network[0]._forward_hooks


def test_info_shows_what_the_activations_would_take(home: Path) -> None:
    watched = watch()
    found = json.loads(run("info", "room", "--json"))
    assert found["float16_bytes_of_all_activations"] == 2 * int(str(watched["activations"]))
    assert found["watched_with"]["model"] == MODEL
    watch()  # a rerun that adds nothing leaves it as it is
    assert json.loads(run("info", "room", "--json"))["float16_bytes_of_all_activations"] > 0


def test_unknown_modules_are_suggested(home: Path) -> None:
    watch()
    message = run("count", "room", "00", code=2)
    assert "no module '00' is remembered" in message
    with Memory("room") as memory, pytest.raises(NotRemembered, match="no module"):
        memory.modules.id_of("00")
