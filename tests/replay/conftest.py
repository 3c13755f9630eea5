"""Nothing is written outside ``tmp_path``.

stable-baselines3 makes a folder ``SB3-<date>`` for its logger wherever ``tempfile`` points (a
home folder, on some machines) even if nothing is logged; a model given a logger does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Lead the home, the working and the temporary folder elsewhere, and find them empty after."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("home", "here", "temporary")}
    monkeypatch.setenv("HOME", str(places["home"]))
    monkeypatch.chdir(places["here"])
    monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
    # torch keeps compiled code of its own among temporary files, whoever calls it.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
    yield
    left = [p.relative_to(root) for root in places.values() for p in root.rglob("*")]
    assert not left, f"left behind: {left}"
