"""Fixtures: a fixed seed for every test, the data folder, and torchvision on a bare CPU build."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_KEPT: list[torch.library.Library] = []


def _make_torchvision_importable() -> None:
    """Define the operators whose absence stops ``import torchvision`` beside a CPU torch."""
    try:
        import torchvision  # noqa: F401

        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    except ImportError:
        return
    for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _suppress, "CPU")
    _KEPT.append(library)


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
    """Greedy non-maximum suppression, in place of the compiled one."""
    rows, kept = scores.argsort(descending=True, stable=True), []
    while len(rows):
        best, others = boxes[rows[0]], boxes[rows]
        kept.append(int(rows[0]))
        low = torch.maximum(best[:2], others[:, :2])
        high = torch.minimum(best[2:], others[:, 2:])
        shared = (high - low).clamp_min(0).prod(1)
        area = (best[2:] - best[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
        rows = rows[1:][(shared / area)[1:] <= overlap]
    return torch.tensor(kept, dtype=torch.int64)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _make_torchvision_importable()


LONG = ("tests/studies/", "tests/test_notebooks.py", "tests/test_examples.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that processes side by side end together."""
    items.sort(key=lambda item: not any(part in item.path.as_posix() for part in LONG))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of pictures and trained networks named by RECOLLECT_DATA, or a loud skip."""
    named = os.environ.get("RECOLLECT_DATA")
    if not named or not (Path(named) / "weights").is_dir():
        pytest.skip(
            "NO DATA: set RECOLLECT_DATA to the folder with weights/ and scenes/ to run this test"
        )
    return Path(named)
