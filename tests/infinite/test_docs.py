"""The page's examples run, and the first is as short as it claims."""

from __future__ import annotations

import ast
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
