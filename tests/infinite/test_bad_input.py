"""What the wing refuses, one test for each line of the list: named, located, with the way out."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from recollect import infinite as inf
from recollect.infinite import tiling

DENSE = inf.Dense(weight_std=1.5, bias_std=0.1)
TWIN = inf.twin(inf.Serial(DENSE, inf.Relu(), DENSE))
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Inside(nn.Module):
    """A network with something strange deep inside."""

    def __init__(self, strange: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.Sequential(nn.ReLU(), strange)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x))


class Sorts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x, -1)[0]


class Decides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_an_unknown_layer_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"blocks\.1 \(Softmax\) has no closed form") as error:
        inf.twin(Inside(nn.Softmax(-1))).kernel(X)
    assert "Linear" in str(error.value), "it lists what is supported"


def test_an_unknown_call_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"the call sort\(\.\.\.\) at '.*sort.*'"):
        inf.twin(Inside(Sorts())).kernel(X)


def test_control_flow_that_looks_at_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="control flow"):
        inf.twin(Inside(Decides())).kernel(X)


def test_batch_norm_in_training_is_refused_with_three_ways_out() -> None:
    with pytest.raises(
        ValueError, match=r"blocks\.1 \(BatchNorm1d\) is in training mode"
    ) as error:
        inf.twin(Inside(nn.BatchNorm1d(8))).kernel(X)
    for way in ("model.eval()", "LayerNorm", "sampled_batch_norm"):
        assert way in str(error.value)


@pytest.mark.parametrize(
    ("one", "two", "kind", "text"),
    [
        (X[0], None, ValueError, "a batch of shape (n, channels, ...), got (3,)"),
        (X.long(), None, TypeError, "use .float()"),
        (X.tolist(), None, TypeError, "must be a torch.Tensor, got list"),
        (X, X.double(), TypeError, "must share dtype and device"),
        (X, X[:, :2], ValueError, "equal channels, got 3 and 2"),
        (
            torch.ones(2, 3, 4),
            torch.ones(2, 3, 5),
            ValueError,
            "equal positions, got (4,) and (5,)",
        ),
        (X * torch.inf, None, ValueError, "x1 holds NaN or infinite numbers"),
        (X, X / 0 * 0, ValueError, "x2 holds NaN or infinite numbers"),
    ],
)
def test_wrong_inputs_are_refused(one, two, kind, text) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        TWIN.kernel(one, two)


def test_a_singular_kernel_is_said_and_its_limit_taken() -> None:
    x = torch.cat([X, X[:1]]).double()
    y = torch.arange(5.0)[:, None]
    with pytest.warns(inf.SingularKernel, match=r"rank 4 of 5.*pseudo-inverse"):
        found = inf.ensemble(TWIN, x, y).predict(x, get="mean").mean
    # The repeated input gets the mean of its two targets, the others are met.
    assert torch.allclose(found[:, 0], torch.tensor([2.0, 1, 2, 3, 2]).double(), atol=1e-6)


@pytest.mark.parametrize("t", [-1.0, [0.0, -0.5], float("nan"), float("inf")])
def test_negative_and_endless_times_are_refused(t) -> None:
    fit = inf.ensemble(TWIN, X, X[:, :1])
    with pytest.raises(ValueError, match="times must be finite and not negative"):
        fit.predict(X, t=t)


def test_too_little_memory_names_a_tile_that_fits(monkeypatch) -> None:
    """With 64 KiB free a whole tile of 200 x 200 is refused, and the one it names works."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(tiling, "_free_memory", lambda device: 2**16)
    with pytest.raises(MemoryError, match=r"tile=\d+ fits") as error:
        TWIN.kernel(x, tile=200)
    fits = int(re.findall(r"tile=(\d+) fits", str(error.value))[0])
    assert 1 <= fits < 200
    monkeypatch.setattr(tiling, "_free_memory", lambda device: 2**20)
    assert TWIN.kernel(x, tile=fits).ntk.shape == (200, 200)


def test_a_kernel_larger_than_memory_is_refused_with_the_way_to_the_disk(monkeypatch, tmp_path):
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(tiling, "_free_memory", lambda device: 2**19)
    with pytest.raises(MemoryError, match=r"the kernel itself needs .*path="):
        TWIN.kernel(x)
    assert TWIN.kernel(x, path=tmp_path / "k").ntk.shape == (300, 300)
