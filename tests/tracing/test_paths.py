"""The view of paths: which modules ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recollect import trace

Path = tuple[tuple[int, ...], ...]


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 3)
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Linear(3, 3) for _ in range(4)) for _ in range(2)
        )

    def forward(self, x: Tensor, path: Path) -> Tensor:
        x = self.stem(x)
        for stage, taken in zip(self.stages, path, strict=True):
            x = torch.stack([stage[k](x) for k in taken]).sum(0)  # type: ignore[index]
        return x


def test_what_ran_is_there_and_nothing_else() -> None:
    model, x = Stages().eval(), torch.randn(5, 2)
    t = trace(model, (x, ((0, 2), (3,))), view="path")
    assert t.modules == ("0/0", "0/2", "1/3")
    first: Any = model.stages[0]
    torch.testing.assert_close(t.objects("0/2").attributes, first[2](model.stem(x)).detach())
    assert set(t.coverage.never_fired) == {
        "stages.0.1", "stages.0.3", "stages.1.0", "stages.1.1", "stages.1.2"
    }  # fmt: skip


def test_a_forward_can_be_one_glance() -> None:
    model, x = Stages().eval(), torch.randn(5, 2)
    each = trace(model, (x, ((0,), (1, 2))), view="path")
    whole = trace(model, (x, ((0,), (1, 2))), view="path", per="forward")
    assert (len(each), len(whole), whole.coverage.glances) == (5, 1, 1)
    for name in each.modules:
        mean = each.objects(name).attributes.mean(0, keepdim=True)
        torch.testing.assert_close(whole.objects(name).attributes, mean)


def test_modules_may_be_named_and_may_run_twice() -> None:
    class Named(Stages):
        path_modules = "stages.1.*"

        def forward(self, x: Tensor, path: Path) -> Tensor:
            first: Any = self.stages[1]
            return super().forward(x, path) + first[path[1][0]](self.stem(x))

    t = trace(Named(), (torch.ones(2, 2), ((0,), (1,))), view="path")
    assert t.modules == ("stages.1.1", "stages.1.1#1")


def test_a_network_that_runs_as_a_whole_chose_no_path() -> None:
    every = ((0, 1, 2, 3), (0, 1, 2, 3))
    t = trace(Stages(), (torch.ones(2, 2), every), view="path")
    assert "this forward chose no path" in repr(t.coverage)
    some = trace(Stages(), (torch.ones(2, 2), ((0,), (1,))), view="path")
    assert not some.coverage.notes


def test_networks_without_stages_are_refused() -> None:
    flat = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"holds no torch\.nn.ModuleList of ModuleLists"):
        trace(flat, torch.ones(1, 2), view="path")
    with pytest.raises(ValueError, match="per must be one of 'item', 'forward'"):
        trace(Stages(), torch.ones(1, 2), view="path", per="batch")
