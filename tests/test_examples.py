"""The scripts in examples/ run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from recollect import Memory, Sketcher
from recollect.app.demo.network import EARLY, HIDDEN, Seen, glances
from recollect.app.demo.scenes import load_digits, make_year

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_picture_of_the_readme_is_drawn(tmp_path: Path) -> None:
    """From a memory of a network that sees everything as it is, which needs no training."""
    scenes = make_year(load_digits()[1], days=20)
    seen = [
        [
            Seen(d.label, 1.0, tuple(map(float, d.box)), torch.rand(HIDDEN), torch.rand(2, EARLY))
            for d in s.digits
        ]
        for s in scenes
    ]
    with Memory(tmp_path / "year.recollect", Sketcher(dim=1024)) as memory:
        memory.add(glances(seen), time=[s.time for s in scenes])
        memory.fit_prior()
    spec = importlib.util.spec_from_file_location("picture", EXAMPLES / "picture.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(tmp_path), str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
