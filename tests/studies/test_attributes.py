"""The study of decoders scores what it says it scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect.studies import attributes
from recollect.studies.attribute_worlds import dags


def test_a_small_run_tells_decoders_apart_and_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cases(quick: bool, data: str | None, seed: int) -> object:
        yield dags(1, 80, 4, seed), 192, ("transpose", "least_squares")
        yield dags(1, 80, 4, seed), 384, (attributes.FOUND,)
        yield dags(1, 80, 4, seed), 64, ("least_squares", "per-module")

    monkeypatch.setattr(attributes, "_cases", cases)
    found = attributes.study(quick=True)
    score = dict(zip(zip(found["numbers"], found["decoder"], strict=True), found["R2"],
                     strict=True))  # fmt: skip
    assert score[192, "least_squares"] > 0.9 > 0.3 > score[192, "transpose"]
    assert score[384, attributes.FOUND] > 0.95
    assert 0.3 < score[64, "per-module"] < 0.9
    refused = dict(zip(found["numbers"], found["refused"], strict=True))
    assert found["refused"][3] == 1  # more unknowns than numbers, no prior
    assert refused[384] == 0
    attributes.draw(found, str(tmp_path / "attributes.svg"))
    assert "<svg" in (tmp_path / "attributes.svg").read_text()
