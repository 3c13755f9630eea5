"""The page's examples run, and the first is as short as it claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = re.search(
    r"<!-- infinite -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
)[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/infinite.md").read_text(), re.S)


@pytest.mark.parametrize("source", BLOCKS, ids=lambda s: s.splitlines()[0])
def test_examples_run(source):
    exec(compile(source, "docs/infinite.md", "exec"), {})


@pytest.mark.parametrize("source", [BLOCKS[0], README], ids=["docs", "README"])
def test_the_first_example_has_five_statements(source):
    """It builds, trains and predicts with variance."""
    body = ast.parse(source).body
    assert sum(not isinstance(n, ast.Import | ast.ImportFrom) for n in body) <= 5
    for word in ("infinite.twin(", "infinite.ensemble(", ".predict("):
        assert word in source


def test_the_example_of_the_readme_predicts_with_variance():
    found = {}
    exec(compile(README, "README.md", "exec"), found)
    prediction = found["prediction"]
    assert prediction.mean.shape == (50, 1)
    assert prediction.covariance.shape == (50, 50)
    assert float(prediction.std.min()) > 0
    near = (prediction.mean[20:30, 0] - torch.sin(3 * torch.linspace(-2, 2, 50)[20:30])).abs()
    assert float(near.max()) < 0.4
