"""The front door: few names, all of them real, none of them heavy until it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import recollect
from recollect import recall

HEAVY = ("torch", "lance", "pyarrow", "pandas", "typer", "rich", "PIL")


def heavy_after(code: str) -> list[str]:
    """Heavy packages that a fresh interpreter holds after running ``code``."""
    report = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_the_names_are_few_and_sorted() -> None:
    assert recollect.__all__ == sorted(recollect.__all__)
    assert len(recollect.__all__) <= 15
    assert len(set(recollect.__all__)) == len(recollect.__all__)
    assert dir(recollect) == recollect.__all__


@pytest.mark.parametrize("name", recollect.__all__)
def test_every_name_is_importable_and_described(name: str) -> None:
    thing = getattr(recollect, name)
    described = (thing.__doc__ or "").strip()
    assert described, f"{name} has no docstring"
    # A dataclass without a docstring gets its signature as one.
    assert not described.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_star_import_gives_exactly_the_names() -> None:
    space: dict[str, object] = {}
    exec("from recollect import *", space)
    assert sorted(set(space) - {"__builtins__"}) == recollect.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'recollect' has no attribute 'remember'"):
        _ = recollect.remember  # type: ignore[attr-defined]


def test_the_docstring_tells_the_story_with_names_that_exist() -> None:
    story = recollect.__doc__ or ""
    for name in ("trace", "Sketcher", "Prior", "Memory", "recall"):
        assert name in story


@pytest.mark.parametrize(
    "code",
    [
        "import recollect",
        "from recollect import recall",
        "from recollect import recall; recall.count",
        "from recollect import NotRemembered, RecipeMismatch, CorruptMemory, MemoryBusy",
    ],
)
def test_the_door_opens_without_heavy_packages(code: str) -> None:
    assert heavy_after(code) == []


def test_counting_never_loads_torch_or_lance(tmp_path: Path) -> None:
    with recollect.Memory(tmp_path / "room", timezone="Europe/Berlin") as memory:
        t = recollect.Trace.from_objects([[recollect.Object("cat", [1.0, 2.0])]] * 3)
        memory.add(t, time=[f"2026-01-01T0{h}:10Z" for h in (1, 2, 5)])
    code = f"""
from recollect import Memory, recall
with Memory({str(tmp_path / "room")!r}, read_only=True) as memory:
    for unit in ("objects", "glances", "weight"):
        for by in (None, "hour", "day", "weekday", "month", "hour_of_day"):
            assert sum(recall.count(memory, "cat", by=by, unit=unit)["estimate"]) == 3
    assert sum(recall.count(memory, by="hour_of_day")["estimate"]) == 3
"""
    assert not {"torch", "lance", "pyarrow", "pandas"} & set(heavy_after(code))


def test_a_memory_class_is_there_without_torch() -> None:
    assert "torch" not in heavy_after("from recollect import Memory")


def test_the_questions_are_sorted_and_described() -> None:
    assert recall.__all__ == sorted(recall.__all__)
    assert {"attribute", "count", "similar", "unroll", "why"} <= set(recall.__all__)
    for name in recall.__all__:
        assert (getattr(recall, name).__doc__ or "").strip(), f"recall.{name} has no docstring"
    assert set(recall.__all__) <= set(dir(recall))
    with pytest.raises(AttributeError, match="has no attribute 'guess'"):
        _ = recall.guess
