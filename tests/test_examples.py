"""The scripts in examples/ run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import Memory, Sketcher
from recollect.app.demo.network import EARLY, HIDDEN, Seen, glances
from recollect.app.demo.scenes import load_digits, make_year

pytest.importorskip("sklearn")
Figure = pytest.importorskip("matplotlib.figure").Figure
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

    # The boxes read from the sketch stand where the digits stood.
    axes = Figure().add_subplot()
    with Memory(tmp_path / "year.recollect", read_only=True) as memory:
        first = int(memory.glances(columns=["id"])["id"][0].as_py())
        script.draw_sketch(axes, memory, first)
    drawn = sorted(p.get_xy() for p in axes.patches if p.get_linestyle() in ("-", "solid"))
    stood = sorted((d.box[1] - 0.5, d.box[0] - 0.5) for d in scenes[0].digits)
    assert np.array(drawn) == pytest.approx(np.array(stood), abs=3.0)


def test_the_pictures_of_the_vae_are_drawn(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("vae_pictures", EXAMPLES / "vae_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(tmp_path / "vae.png")], small=True)
    assert (tmp_path / "vae.png").read_bytes().startswith(b"\x89PNG")
    rows = torch.arange(6.0).view(2, 3, 1, 1, 1)
    tiled = script.tiles(rows)
    assert tiled.shape == (4, 6)
    assert tiled[::2, ::2].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_memory_of_the_vae_counts_and_draws(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("vae_memory", EXAMPLES / "vae_memory.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = script.main([str(tmp_path / "memory.png")], small=True)
    assert lines[1].endswith("all classes: 0")
    assert lines[2].endswith("R2 1.0000")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
