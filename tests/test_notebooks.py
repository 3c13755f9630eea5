"""The notebooks run from top to bottom on a fresh clone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RUN = """
import sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=120, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.name)
def test_the_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    out = tmp_path / "out.ipynb"
    # A process of its own: the client's event loop and threads stay out of this one.
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(notebook), str(out)],
        cwd=tmp_path, env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True,
        text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    book = nbformat.read(out, as_version=4)
    outputs = [o for c in book.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    printed = "".join(o.get("text", "") for o in outputs)
    assert "nan" not in printed
    assert any({"image/svg+xml", "image/png"} & set(o.get("data", {})) for o in outputs)


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.name)
def test_the_notebook_is_small_and_names_no_machine(notebook: Path) -> None:
    text = notebook.read_text()
    assert len(text) < 300_000
    for path in ("/tmp/", "/home/", "/root/", "/work/", "site-packages"):
        assert path not in text, f"{notebook.name} shows {path}"
