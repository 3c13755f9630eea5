"""The page's examples run, and the first is as short as it claims."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/infinite.md").read_text(), re.S)


@pytest.mark.parametrize("source", BLOCKS, ids=lambda s: s.splitlines()[0])
def test_examples_run(source):
    exec(compile(source, "docs/infinite.md", "exec"), {})


def test_the_first_example_has_five_statements():
    body = ast.parse(BLOCKS[0]).body
    assert sum(not isinstance(n, ast.Import | ast.ImportFrom) for n in body) <= 5


def test_the_notebook_runs():
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (extra: dev)")
    client = pytest.importorskip("nbclient", reason="needs nbclient (extra: dev)")
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra: demo)")
    notebook = nbformat.read(ROOT / "examples/infinite.ipynb", as_version=4)
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    try:
        client.NotebookClient(notebook, timeout=120).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    shown = [
        o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert len(shown) >= 2
