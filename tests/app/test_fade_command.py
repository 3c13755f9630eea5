"""``recollect fade``: what it does, what it would do, what it refuses."""

from __future__ import annotations

import json

import pytest
from tests.memory.making import HOUR, memory, sketches
from typer.testing import CliRunner

from recollect.app.cli import app
from recollect.memory import Memory, policies

POLICY = "full for 10 hours, 100 dims for 20 hours, roll-ups for ever"


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "_now", lambda: 40 * HOUR)
    with memory(tmp_path / "m", dim=320) as m:
        m._append(sketches(40, dim=320), [n * HOUR for n in range(40)])
    return str(tmp_path / "m")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["fade", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return " ".join((result.stdout if code == 0 else result.stderr).split())


def test_a_dry_run_only_tells(room):
    told = json.loads(run(room, "--policy", POLICY, "--dry-run", "--json"))
    assert (told["dry_run"], told["faded"], told["gone"], told["glances"]) == (
        True, {"100": 10}, 20, 30,
    )  # fmt: skip
    assert Memory(room).retention is None
    assert len(Memory(room)) == 40


def test_a_policy_is_set_and_applied(room):
    assert "20 glances now keep their share of the roll-ups only" in run(room, "--policy", POLICY)
    assert str(Memory(room).retention) == "keep " + POLICY
    assert len(Memory(room)) == 20
    assert "nothing has faded" in run(room)
    assert "nothing has faded (off)" in run(room, "--policy", "off")
    assert Memory(room).retention is None


def test_mistakes_are_told(room):
    assert "has no retention policy; give one" in run(room, code=2)
    bad = run(room, "--policy", "100 dims for 1 day, full for ever", code=2)
    assert "would grow data" in bad
    assert "cannot be read" in run(room, "--policy", "all of it", code=2)
    assert "asks for 640 numbers of sketches that have 320" in run(
        room, "--policy", "640 dims for ever", code=2
    )
    assert "there is no memory" in run(room + "x", code=2)
    assert len(Memory(room)) == 40
