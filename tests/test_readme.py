"""The README keeps its word: its example prints what it says, its commands and files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TABLE = README.split("## From the sources to the code")[1].split("\n## ")[0]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def block(mark: str) -> str:
    """The fenced block that follows a mark."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"README has no block marked {mark!r}"
    return found[1]


def commands() -> list[str]:
    """Commands that the README names in backticks or after a prompt."""
    named = re.findall(r"(?:`|\$ )recollect ([a-z]+)", README)
    return sorted(set(named))


def assert_same_output(told: str, printed: str) -> None:
    """The same words and whole numbers; decimals may differ a little between processors."""
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", printed).split() == number.sub("#", told).split()
    for a, b in zip(number.findall(told), number.findall(printed), strict=True):
        assert float(b) == pytest.approx(float(a), rel=0.05, abs=0.005)


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    found = dict(os.environ, PYTHONIOENCODING="utf-8", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("example")],
        cwd=tmp_path, env=found, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_output(block("output"), done.stdout)


def test_the_example_is_short() -> None:
    lines = [n for n in block("example").splitlines() if n.strip()]
    after = [n for n in lines if not n.startswith(("import", "from"))]
    about_memory = after[next(i for i, n in enumerate(after) if "trace(" in n) :]
    assert len(about_memory) <= 10


def test_the_table_has_a_row_for_every_idea() -> None:
    for idea in (
        "sketch", "property 1", "property 2", "property 3", "property 4", "property 5",
        "basic sketches", "modular views", "knowledge graph", "infinitely wide", "LocoProp",
        "clipped SGD", "DAFT", "FRR", "reverse experience replay", "introspective", "IWeS",
        "semi-supervised", "BatchNorm", "embeddings",
    ):  # fmt: skip
        assert idea.lower() in TABLE.lower(), f"no row for {idea}"


def test_every_row_says_what_was_measured_or_that_it_is_not_built() -> None:
    rows = [r for r in TABLE.splitlines() if r.startswith("| ")][2:]
    assert len(rows) >= 20
    for row in rows:
        _, _, module, command, result = [c.strip() for c in row.strip("|").split("|")]
        assert result, row
        if result == "not built yet":
            assert not module, f"an idea that is not built names a module: {row}"
        else:
            assert module, row
            assert command.startswith(("`recollect ", "`python -m benchmarks.")), row


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`python -m benchmarks\.(\w+)", README))))
def test_benchmarks_that_are_named_exist(name: str) -> None:
    assert (ROOT / "benchmarks" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(recollect(?:\.\w+)+)`", README))))
def test_modules_that_are_named_exist(name: str) -> None:
    assert find_spec(name) is not None


@pytest.mark.parametrize("command", commands())
def test_commands_that_are_named_exist(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from recollect.app.cli import main; main()", command, "--help"],
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert command in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("study", sorted(set(re.findall(r"recollect study ([a-z-]+)", README))))
def test_studies_that_are_named_exist(study: str) -> None:
    from recollect import studies

    assert study in studies.listed()["study"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name) if name else page
        assert place.exists(), f"{page.name} links to {target}, which is not there"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.read_text()), f"{page.name}: no heading {target}"


def anchors(text: str) -> set[str]:
    """Names by which headings can be linked to."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_in_backticks_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:src|tests|benchmarks|examples|docs)/[\w/.-]+\.\w+)`", page.read_text()
    )
    for name in named:
        assert (ROOT / name).exists(), f"{page.name} names {name}, which is not there"


def test_the_grammar_on_its_page_is_the_grammar() -> None:
    from recollect.app.ask import GRAMMAR

    assert GRAMMAR in (ROOT / "docs" / "ask.md").read_text()


def test_the_sentences_on_that_page_are_understood() -> None:
    from recollect.app.ask import parse

    page = (ROOT / "docs" / "ask.md").read_text()
    sentences = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(sentences) >= 5
    for sentence in sentences:
        parse(sentence, ["cat"])
