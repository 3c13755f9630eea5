"""``recollect epoch``: begins one, says what it is, teaches; ``info`` tells them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.memory.epochs_made import DIM, IDS, NEW, OLD, TIMES, USUAL
from typer.testing import CliRunner

from recollect import Memory, Sketcher
from recollect.app.cli import app


@pytest.fixture
def room(tmp_path: Path) -> str:
    with Memory(tmp_path / "m", Sketcher(dim=DIM), reservoir=USUAL) as memory:
        memory.add(OLD, TIMES[:USUAL], "hall", ids=IDS[:USUAL])
    return str(tmp_path / "m")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return " ".join((result.stdout if code == 0 else result.stderr).split())


def test_an_epoch_is_begun_and_told(room: str) -> None:
    assert "keeps no prior yet" in run("epoch", room, code=2)
    begun = json.loads(run("epoch", room, "--fit", "--json"))
    assert (begun["number"], begun["prior"], begun["glances"]) == (1, 1, USUAL)
    assert begun["recipe"]["leading"] == 64
    with Memory(room) as memory:
        memory.add(NEW, TIMES[USUAL:], "room", ids=IDS[USUAL:])
    told = json.loads(run("info", room, "--json"))["epochs"]
    assert [(e["number"], e["glances"]) for e in told] == [(0, USUAL), (1, len(IDS) - USUAL)]
    plain = run("info", room)
    assert "0 120 glances; epoch 0: 128 numbers, oblivious" in plain
    assert "1 60 glances; epoch 1: 64 leading directions of prior 1" in plain
    counted = json.loads(run("count", room, "one", "--json"))
    assert "180" in json.dumps(counted)
    assert "nothing would change" in run("epoch", room, code=2)
    assert "epoch 2: 128 numbers, oblivious" in run("epoch", room, "--oblivious")
    assert "share must lie between" in run("epoch", room, "--share", "2", code=2)
    assert "no prior of version 9" in run("epoch", room, "--prior", "9", code=2)
    assert "all is well" in run("verify", room)
    assert len(json.loads(run("similar", room, str(USUAL), "-k", "3", "--json"))["rows"]) == 3
