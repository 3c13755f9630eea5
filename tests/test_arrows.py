"""The imports of the house point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "recollect"

GROUND = {"_answers", "_checks", "_late", "_linalg", "_seeds"}
ALLOWED = {
    "tracing": {"ground"},
    "sketching": {"ground", "tracing"},
    "memory": {"ground", "tracing", "sketching"},
    "recall": {"ground", "tracing", "sketching", "memory", "infinite", "selection"},
    "infinite": {"ground"},
    "training": {"ground", "tracing"},
    "replay": {"ground", "memory"},
    "selection": {"ground"},
    "generative": {"ground"},
}
EVERYTHING = {"ground", *ALLOWED, "studies", "app", "front"}
ALLOWED |= {"ground": {"ground"}, "studies": EVERYTHING, "app": EVERYTHING, "front": EVERYTHING}


def room_of(path: Path) -> str:
    """Name of the room a source file stands in."""
    parts = path.relative_to(SOURCE).parts
    if len(parts) > 1:
        return parts[0]
    stem = path.stem
    if stem == "__init__":
        return "front"
    return "ground" if stem in GROUND else stem


def door_or_room(name: str) -> str:
    """What ``from recollect import name`` reaches: a room, or a name of the front door."""
    is_room = (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()
    return name if is_room else "front"


def imported_rooms(tree: ast.AST) -> list[tuple[int, str, str]]:
    """Return (line, room, module) of every import of our own."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recollect"):
            assert node.level == 0, "imports are absolute"
            rest = (node.module or "").split(".")[1:]
            for name in [rest[0]] if rest else [door_or_room(a.name) for a in node.names]:
                found.append((node.lineno, name, node.module or ""))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("recollect."):
                    found.append((node.lineno, alias.name.split(".")[1], alias.name))
    return [(line, "ground" if r in GROUND else r, module) for line, r, module in found]


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{path} stands in no room of the house"
    for line, target, module in imported_rooms(ast.parse(path.read_text())):
        assert target == room or target in ALLOWED[room], (
            f"{path.name}:{line} imports {module}: {room} must not import {target}"
        )


def test_no_import_of_our_own_hides_in_a_function() -> None:
    """Heavy packages may be imported late; our own rooms are imported at the top."""
    for path in FILES:
        if room_of(path) == "app":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = imported_rooms(function)
                assert not hidden, f"{path.relative_to(SOURCE)}:{hidden[0][0]} hides an import"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    names = {
        ".".join(["recollect", *p.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): p
        for p in FILES
    }
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        # What only the type checker reads is no arrow at run time.
        tree.body = [
            n
            for n in tree.body
            if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))
        ]
        edges[name] = {
            m
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in names
            for m in [node.module]
        }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
