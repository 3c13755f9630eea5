"""Kernels, cells, classes and detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recollect import Trace, capture, trace
from recollect.tracing import Detection, unit_box
from recollect.tracing.arrays import trace_from_arrays, trace_to_arrays
from recollect.tracing.detections import DetectionsView


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    ).eval()  # fmt: skip


# -- kernels ------------------------------------------------------------------------------


def test_kernels_are_a_family_per_convolution(net: nn.Sequential) -> None:
    x = torch.randn(2, 1, 7, 9)
    t = trace(net, x, view="kernels")
    assert list(t.columns) == ["0", "2"]
    assert t.columns["2"].members == tuple(f"2/{k}" for k in range(5))
    assert t.columns["0"].is_dense(2)
    positive = net[0](x).clamp_min(0)
    y, x_ = torch.linspace(-1, 1, 7)[:, None], torch.linspace(-1, 1, 9)[None]
    expected = torch.stack([(positive * w).mean((2, 3)) for w in (1, y, x_)], -1)
    for k in range(3):
        torch.testing.assert_close(t.objects(f"0/{k}").attributes, expected[:, k])
    assert t.objects("2/4").path == [("2/4",)] * 2


@pytest.mark.parametrize("strength", ["positive", "mean", "max", "rms"])
def test_kernels_can_be_strength_alone(net: nn.Sequential, strength: str) -> None:
    x = torch.randn(2, 1, 6, 6)
    t = trace(net, x, view="kernels", modules="0", where=False, strength=strength)
    maps = net[0](x)
    expected = {
        "positive": maps.clamp_min(0).mean((2, 3)),
        "mean": maps.mean((2, 3)),
        "max": maps.amax((2, 3)),
        "rms": maps.square().mean((2, 3)).sqrt(),
    }[strength]
    torch.testing.assert_close(t.columns["0"].attributes.reshape(2, 3), expected)


def test_the_place_of_a_kernel_is_where_it_fired() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    picture = torch.zeros(1, 1, 5, 5)
    picture[0, 0, 4, 0] = 10.0  # below, left
    s, y, x = trace(model, picture, view="kernels").objects("0/0").attributes[0]
    assert (float(y / s), float(x / s)) == pytest.approx((1, -1))


# -- cells --------------------------------------------------------------------------------


def test_cells_keep_position_and_average_to_the_module(net: nn.Sequential) -> None:
    x = torch.randn(3, 1, 8, 8)
    t = trace(net, x, modules=["0", "5"], view="cells", cells=2)
    maps = net[0](x)
    torch.testing.assert_close(t.objects("0/1,0").attributes, maps[:, :, 4:, :4].mean((2, 3)))
    whole = trace(net, x, modules="0").objects("0").attributes
    cells = t.columns["0"].attributes.reshape(3, 4, 3)
    torch.testing.assert_close(cells.mean(1), whole)
    torch.testing.assert_close(t.objects("5").attributes, net(x))  # a vector has no cells


def test_cells_of_tokens_behind_a_class_token() -> None:
    class Tokens(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x = torch.randn(2, 1 + 16, 3)
    t = trace(nn.Sequential(Tokens()), x, modules="0", view="cells", cells=4)
    torch.testing.assert_close(t.objects("0/1,2").attributes, x[:, 1 + 4 + 2])


# -- classes ------------------------------------------------------------------------------


def test_classes_carry_probability_and_pooled_features(net: nn.Sequential) -> None:
    x = torch.randn(6, 1, 8, 8)
    names = ["ant", "bee", "cat", "bee"]
    t = trace(net, x, view="classes", labels=names, top=2)
    chance = net(x).softmax(1)
    assert t.columns["classes"].members == ("ant", "bee", "cat", "bee (2)")
    best = chance.topk(2, 1)
    column = t.columns["classes"]
    assert column.member.tolist() == best.indices.flatten().tolist()
    np.testing.assert_allclose(column.weight, best.values.flatten().detach(), rtol=1e-5)
    pooled = net[:5](x)
    torch.testing.assert_close(column.attributes, pooled.repeat_interleave(2, 0))
    assert all(len(t[i].objects(names[int(best.indices[i, 0])])) == 1 for i in range(6)
               if int(best.indices[i, 0]) != 3)  # fmt: skip


def test_improbable_classes_can_be_left_out(net: nn.Sequential) -> None:
    x = 20 * torch.randn(6, 1, 8, 8)
    chance = net(x).softmax(1).detach()
    least = float(chance.amax(1).median()) + 1e-4  # some first classes are below it
    column = trace(net, x, view="classes", top=4, least=least).columns["classes"]
    expected = [max(1, int((row >= least).sum())) for row in chance]
    assert np.bincount(column.glance, minlength=6).tolist() == expected


def test_classes_take_probabilities_as_they_are(net: nn.Sequential) -> None:
    x = torch.randn(2, 1, 8, 8)
    soft = nn.Sequential(*net, nn.Softmax(1)).eval()
    a = trace(net, x, view="classes").columns["classes"]
    b = trace(soft, x, view="classes").columns["classes"]
    np.testing.assert_allclose(a.weight, b.weight, rtol=1e-5)
    assert a.members[:2] == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ["a"]}, "has 4 classes, but 1 labels"),
        ({"top": 0}, "top must be at least 1"),
        ({"least": 2}, "least must be a probability"),
        ({"modules": "0"}, "name it with head="),
    ],
)
def test_classes_refuse(net: nn.Sequential, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trace(net, torch.randn(2, 1, 8, 8), view="classes", **options)


def test_classes_need_a_classifier() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3)).eval()
    with pytest.raises(ValueError, match=r"whose output is a tensor \(batch, classes\)"):
        trace(convolution, torch.randn(2, 1, 8, 8), view="classes")
    with pytest.raises(ValueError, match="no layer with weights"):
        trace(nn.Sequential(nn.Flatten()), torch.randn(2, 8), view="classes")


# -- detections ---------------------------------------------------------------------------


class Finder(nn.Module):
    """Puts out its input; its two stages have three channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.coarse(self.fine(x))
        return x


FOUND = [
    [Detection("cat", 0.9, (0.0, 0.0, 0.5, 0.5), "fine"), ("dog", 0.5, (0.5, 0.5, 1.0, 1.0))],
    [],
    [Detection("cat", 0.6, (0.25, 0.25, 0.5, 0.5), "coarse")],
]


def test_detections_are_objects_of_their_class() -> None:
    model, x = Finder().eval(), torch.randn(3, 1, 8, 8)
    t = trace(model, x, view="detections", detect=lambda y: FOUND, features=["fine", "coarse"])
    assert t.modules == ("fine", "coarse", "cat", "dog")
    cats = t.objects("cat")
    assert cats.glance.tolist() == [0, 2]
    torch.testing.assert_close(cats.attributes[0, :5], torch.tensor([0.9, 0, 0, 0.5, 0.5]))
    assert cats.attributes.shape == (2, 5 + 3)
    assert t.objects("dog").attributes.shape == (1, 5 + 6)  # read from both stages
    # the middle of the left upper quarter lies between four positions
    fine = model.fine(x)[0, :, 1:3, 1:3].mean((1, 2))
    torch.testing.assert_close(cats.attributes[0, 5:], fine / fine.norm())
    torch.testing.assert_close(t.objects("fine").attributes, model.fine(x).mean((2, 3)))


def references(t: Trace) -> list[tuple[int, str, str]]:
    """(glance, module, stage) of every reference."""
    assert t.references is not None
    r = t.references
    rows = zip(r.glance.tolist(), r.parent.tolist(), r.child.tolist(), strict=True)
    return [(g, t._names[(g, p)], t._names[(g, c)]) for g, p, c in rows]


def test_detections_refer_to_their_stages_without_edges() -> None:
    model, x = Finder().eval(), torch.randn(3, 1, 8, 8)
    t = trace(model, x, view="detections", detect=lambda y: FOUND, features=["fine", "coarse"])
    assert t.edges is None
    expected = [(0, "cat", "fine"), (0, "dog", "fine"), (0, "dog", "coarse"), (2, "cat", "coarse")]
    assert sorted(references(t)) == sorted(expected)
    for again in (Trace.concat([t[0], t[1], t[2]]), trace_from_arrays(trace_to_arrays(t))):
        assert references(again) == references(t)
    assert references(t[[2, 0]])[0] == (0, "cat", "coarse")


def test_a_network_may_bring_its_own_reading() -> None:
    class Own(Finder):
        detection_features = ("fine", "coarse")

        def detections(self, output: torch.Tensor) -> list[list[Detection]]:
            return FOUND  # type: ignore[return-value]

    x = torch.randn(3, 1, 8, 8)
    assert trace(Own(), x, view="detections").modules == ("fine", "coarse", "cat", "dog")
    t = trace(Own(), x, view="detections", detect=lambda y: [[], [], []], features="fine")
    assert t.modules == ("fine",)


def test_detections_over_several_forwards() -> None:
    model, x = Finder().eval(), torch.randn(3, 1, 8, 8)
    lists = [FOUND[:1], FOUND[1:]]
    view = DetectionsView(lambda y: lists.pop(0), ["fine", "coarse"])
    with capture(model, view=view) as c:
        model(x[:1])
        model(x[1:])
    assert c.trace().objects("cat").glance.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("found", "features", "error", "match"),
    [
        ([[]], "fine", ValueError, "one list per picture: 3 pictures, got 1"),
        ([[("a", 1.0, (0, 0, 40, 30))], [], []], "fine", ValueError, "divide pixels by width"),
        (
            [[Detection("a", 1.0, (0, 0, 1, 1), "x")], [], []],
            "fine",
            ValueError,
            "pass it in feat",
        ),
        ([[("fine", 1.0, (0, 0, 1, 1))], [], []], "fine", ValueError, "name of a watched module"),
        (3, "fine", TypeError, "detect must be a function"),
        (None, "fine", TypeError, "is not a torchvision detector's; pass detect="),
    ],
)
def test_detections_refuse(found: Any, features: str, error: type[Exception], match: str) -> None:
    detect = (lambda y: found) if isinstance(found, list) else found
    with pytest.raises(error, match=match):
        trace(
            Finder(), torch.randn(3, 1, 8, 8), view="detections", detect=detect, features=features
        )


def test_detections_of_one_class_have_one_size() -> None:
    found = [[FOUND[0][0], ("cat", 0.5, (0, 0, 1, 1))], [], []]
    with pytest.raises(ValueError, match=r"features of different sizes \[8, 11\]"):
        trace(Finder(), torch.randn(3, 1, 8, 8), view="detections",
              detect=lambda y: found, features=["fine", "coarse"])  # fmt: skip


def test_a_box_is_cut_to_the_picture() -> None:
    assert unit_box((-5, 10, 500, 20), 100, 20) == (0.0, 0.5, 1.0, 1.0)
