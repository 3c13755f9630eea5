"""Every command: help, JSON, and mistakes told in one message; light to start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from recollect import Memory, Object, Sketcher, Trace, recall
from recollect.app.ask import GRAMMAR
from recollect.app.cli import app
from recollect.app.shown import plain

COMMANDS = ["watch", "ask", "count", "similar", "unroll", "why", "info", "verify", "compact",
            "fade", "epoch", "export", "study", "demo"]  # fmt: skip
HEAVY = ("torch", "lance", "pyarrow", "sklearn", "matplotlib", "pandas", "PIL", "av")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[int]]]:
    path = tmp_path_factory.mktemp("cli") / "room"
    generator = torch.Generator().manual_seed(0)
    glances = []
    for number in range(12):
        face = Object("face", torch.randn(3, generator=generator))
        cat = Object("cat", torch.randn(4, generator=generator), inputs=[face])
        dog = Object("dog", torch.randn(2, generator=generator))
        glances.append([cat, dog] if number % 3 == 0 else [dog])
    times = [f"2026-01-{20 + n // 6}T{n % 6 + 6:02d}:00Z" for n in range(12)]
    with Memory(path, sketcher=Sketcher(dim=256)) as memory:
        added = memory.add(Trace.from_objects(glances), time=times,
                           source=["hall", "garden"] * 6)  # fmt: skip
        memory.fit_prior()
    return str(path), list(added.ids)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code == 0 else result.stderr


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    shown = run(command, "--help")
    assert "Usage" in shown
    assert "--json" in shown
    assert command in run("--help")


def test_the_help_of_ask_shows_the_grammar() -> None:
    shown = " ".join(run("ask", "--help").split())
    for line in GRAMMAR.splitlines():
        assert " ".join(line.split()) in shown


def test_count(room: tuple[str, list[int]]) -> None:
    path, _ = room
    found = run_json("count", path, "cat")
    assert found["rows"][0]["estimate"] == 4
    found = run_json("count", path, "cat", "--by", "hour_of_day", "--unit", "glances")
    assert sum(r["estimate"] for r in found["rows"]) == 4
    assert len(found["rows"]) == 24
    assert run_json("count", path, "--where", "source = 'hall'")["rows"][0]["estimate"] == 6
    assert run_json("count", path, "--since", "2026-01-21")["rows"][0]["estimate"] == 6
    assert "cat" in run("count", path, "cat", "--by", "day")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("how often cat", 4), ("how many dogs", 12), ("how often cat in hall", 2),
        ("how many dogs on Wednesday", 6), ("how often dog last 2 days", 6), ("how often", 12),
    ],
)  # fmt: skip
def test_ask(room: tuple[str, list[int]], question: str, expected: int) -> None:
    found = run_json("ask", room[0], *question.split(), "--now", "2026-01-23")
    assert found["rows"][0]["estimate"] == expected
    assert found["understood"]


def test_ask_for_attributes_and_glances(room: tuple[str, list[int]]) -> None:
    path, ids = room
    found = run_json("ask", path, "how big was the cat")
    assert [r["number"] for r in found["rows"]] == [0, 1, 2, 3]
    assert run_json("ask", path, f"like {ids[0]} top 2")["rows"]
    assert run_json("ask", path, f"why {ids[0]} {ids[3]}")["rows"]
    assert "cat" in run("ask", path, f"what is in {ids[0]}")
    at = ("--now", "2026-01-23")
    found = run_json("ask", path, "what was new since 2026-01-21", *at)
    assert found["title"] == "what was new, since 2026-01-21T00:00:00+00:00"
    assert found["rows"] == []  # both days hold two cats and six dogs
    assert found["notes"][0] == "6 glances compared with 6 before"
    assert "no glance is in the window" in run("ask", path, "what was new in 2027", *at, code=2)
    # Without a window: seven days, and before them nothing was seen.
    assert "no glance is before the window" in run("ask", path, "what was new", code=2)
    assert "nearest: " in run("ask", path, "sing a song", code=2)


def test_ask_for_what_is_related_and_what_emerges(room: tuple[str, list[int]]) -> None:
    path, ids = room
    with Memory(path, read_only=True) as memory:
        around = recall.graph(memory, ids[3], k=2)
        cats = recall.graph(memory, "cat")
        recurs = recall.emerging(memory, module="dog")
    found = run_json("ask", path, f"what is related to {ids[3]} top 2")
    assert found["understood"] == f"what is related to glance {ids[3]}"
    assert [r["to"] for r in found["rows"]] == around["to"]
    assert [r["node"] for r in run_json("ask", path, "what is related to cats")["rows"]] == (
        cats["node"]
    )
    shown = run_json("ask", path, "what is emerging as dog")
    assert shown["understood"] == "what is emerging among objects of 'dog'"
    assert (shown["title"], shown["notes"]) == (recurs.title, recurs.notes)
    assert "too few to find" in run("ask", path, "what is emerging in hall", code=2)
    with Memory(path) as memory:
        recall.name(memory, ids[:4], "the morning")
    try:
        found = run_json("ask", path, "how often the morning by day")
        assert found["understood"] == "count glances of 'the morning' by day"
        assert run_json("ask", path, "what is related to the morning")["rows"]
    finally:
        with Memory(path) as memory:
            memory.concepts.forget("the morning")
    assert "no module" in run("ask", path, "what is related to the morning", code=2)


def test_similar_unroll_and_why(room: tuple[str, list[int]]) -> None:
    path, ids = room
    found = run_json("similar", path, str(ids[0]), "-k", "3")
    assert len(found["rows"]) == 3
    assert all(isinstance(r["glance"], int) for r in found["rows"])
    assert run_json("similar", path, str(ids[0]), "--module", "cat")["rows"]
    rows = run_json("unroll", path, str(ids[0]))["rows"]
    assert {r["module"] for r in rows} == {"cat", "face", "dog"}
    assert "face" in run("unroll", path, str(ids[0]))
    assert run_json("why", path, str(ids[0]), str(ids[3]))["rows"]


def test_similar_takes_parts_and_why_pairs(room: tuple[str, list[int]]) -> None:
    path, ids = room
    found = run_json("similar", path, str(ids[0]), "--path", "cat / face", "--anywhere", "-k", "2")
    assert "path 'cat / face', wherever it stands, of glance" in found["title"]
    assert len(found["rows"]) == 2
    assert "level 2" in run_json("similar", path, str(ids[0]), "--level", "2")["title"]
    told = run("similar", path, str(ids[0]), "--path", "cat / fase", code=2)
    assert "did you mean 'cat / face'" in " ".join(told.split())
    pairs = run_json("why", path, str(ids[0]), str(ids[3]), "--across")
    assert {"path", "other"} <= set(pairs["rows"][0])


def test_info_verify_compact_export(room: tuple[str, list[int]], tmp_path: Path) -> None:
    path, _ = room
    found = run_json("info", path)
    assert found["glances"] == 12
    assert found["bytes"] > 0
    assert "bytes" in run("info", path)
    assert run_json("verify", path)["ok"] is True
    assert "well" in run("verify", path)
    assert run_json("compact", path)["bytes now"] > 0
    assert run_json("export", path, str(tmp_path / "out"))["glances"] == 12
    assert run_json("export", path, str(tmp_path / "a.parquet"))["bytes"] > 0
    files = sorted(p.name for p in tmp_path.rglob("*.parquet"))
    assert files == ["a.parquet", "glances.parquet"]


def test_study_lists_and_refuses() -> None:
    assert "hindsight" in [r["study"] for r in run_json("study")["rows"]]
    assert "did you mean 'hindsight'" in run("study", "hindsigth", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere"], "there is no memory at 'nowhere'"),
        (["count", "PATH", "cta"], "did you mean 'cat'"),
        (["count", "PATH", "cat", "--by", "decade"], "decade"),
        (["count", "PATH", "cat", "--since", "soon"], "a time is written"),
        (["similar", "PATH", "photo.jpg"], "neither the number of a glance nor a picture"),
        (["unroll", "PATH", "1"], "1"),
        (["watch", "nowhere", "--model", "x", "--memory", "new"], "there is no 'nowhere'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    room: tuple[str, list[int]], arguments: list[str], message: str
) -> None:
    shown = run(*[room[0] if a == "PATH" else a for a in arguments], code=2)
    assert shown.startswith("error: ")
    assert message in shown
    assert "Traceback" not in shown


def test_a_folder_that_is_no_memory_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "error: " in run("info", str(tmp_path), code=2)


def test_debug_shows_the_traceback(room: tuple[str, list[int]]) -> None:
    result = CliRunner().invoke(app, ["--debug", "count", room[0], "cta"])
    assert result.exception is not None
    assert "did you mean 'cat'" in str(result.exception)


def loaded(code: str) -> set[str]:
    """Heavy packages that are loaded after running some code in a fresh process."""
    script = f"import sys\n{code}\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return set(out.splitlines()[-1].split()[1:])


def invoke(*arguments: str) -> str:
    return (
        "from recollect.app.cli import app\n"
        f"try: app({list(arguments)!r})\nexcept SystemExit as end: assert not end.code, end.code"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["watch", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded(invoke(*arguments)) == set()


def test_a_count_does_not_wait_for_torch_or_lance(room: tuple[str, list[int]]) -> None:
    found = loaded(invoke("count", room[0], "cat", "--by", "hour_of_day", "--json"))
    assert not found & {"torch", "lance", "sklearn", "matplotlib", "pandas"}


def test_values_become_json() -> None:
    assert plain({"a": float("nan"), "b": [1, (2.5,)], "c": torch.ones(2)}) == {
        "a": None, "b": [1, [2.5]], "c": [1.0, 1.0],
    }  # fmt: skip
