"""Twins read from modules equal twins put together by hand, and refusals name what and where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recollect import infinite as inf

W, B = 1.4, 0.3
S, R = inf.Serial, inf.Relu()


def dense(**o):
    return inf.Dense(weight_std=W, bias_std=B, **o)


def conv(**o):
    return inf.Conv(weight_std=W, bias_std=B, **o)


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Block(nn.Module):
    """A pre-activation residual block."""

    def __init__(self, a, b, stride=1):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(a, b, 3, stride, 1), nn.Conv2d(b, b, 3, 1, 1)
        self.shortcut = nn.Conv2d(a, b, 1, stride) if a != b else nn.Identity()

    def forward(self, x):
        return self.c2(nn.functional.relu(self.c1(torch.relu(x)))) + self.shortcut(x)


class Calls(nn.Module):
    """Functions and methods instead of modules."""

    def __init__(self):
        super().__init__()
        self.c, self.l = nn.LazyConv2d(7, 3), nn.LazyLinear(9)

    def forward(self, x):
        x = nn.functional.avg_pool2d(self.c(x).relu(), 2)
        return self.l(x.view(x.size(0), -1))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.c(self.a(x) * torch.sigmoid(self.b(x)))


class Tokens(nn.Module):
    """A transformer block on (batch, position, channel)."""

    def __init__(self):
        super().__init__()
        self.e, self.n = nn.Linear(4, 8), nn.LayerNorm(8)
        self.a = nn.MultiheadAttention(8, 2, batch_first=True)
        self.h = nn.Linear(8, 3)

    def forward(self, x):
        x = self.e(x)
        h = self.n(x)
        x = x + self.a(h, h, h)[0]
        return self.h(nn.functional.gelu(x).mean(1))


class Dense2(nn.Module):
    """Concatenation of channels, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 12), nn.Linear(16, 1)

    def forward(self, x):
        return self.c(nn.functional.relu(torch.cat([self.a(x), self.b(x)], 1)))


half = conv(kernel_size=(1, 1), stride=2, padding="valid")
pairs = {
    "mlp": (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2, bias=False)),
        S(dense(), R, inf.Dense(weight_std=W)),
        (4, 6),
    ),
    "residual": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            Block(4, 4),
            Block(4, 8, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        S(
            conv(padding=1),
            inf.Residual(S(R, conv(padding=1), R, conv(padding=1))),
            inf.Residual(S(R, conv(padding=1, stride=2), R, conv(padding=1)), half),
            inf.GlobalAvgPool(),
            dense(),
        ),
        (3, 2, 6, 6),
    ),
    "calls": (
        Calls(),
        S(conv(padding="valid"), R, inf.AvgPool(size=2), inf.Flatten(), dense()),
        (3, 2, 6, 6),
    ),
    "gate": (
        Gate(),
        S(inf.Multiply(dense(), S(dense(), inf.Expansion(torch.sigmoid))), dense()),
        (4, 6),
    ),
    "tokens": (
        Tokens(),
        S(
            dense(),
            inf.Residual(
                S(
                    inf.LayerNorm(),
                    inf.Attention(query_std=W, key_std=W, value_std=W, out_std=W, bias_std=B),
                )
            ),
            inf.Gelu(),
            inf.GlobalAvgPool(),
            dense(),
        ),
        (3, 4, 5),
    ),
    "concatenation": (
        Dense2(),
        S(inf.Concatenate(dense(width=4), dense(width=12)), R, dense()),
        (4, 6),
    ),
    "norms": (
        nn.Sequential(
            nn.Conv1d(2, 6, 3),
            nn.GroupNorm(2, 6),
            nn.Tanh(),
            nn.AvgPool1d(2, 1),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(18, 1),
        ).eval(),
        S(
            conv(padding="valid"),
            inf.LayerNorm(axes=None),
            inf.Expansion(torch.tanh),
            inf.AvgPool(size=2, stride=1),
            inf.Flatten(),
            dense(),
        ),
        (3, 2, 6),
    ),
}


@pytest.mark.parametrize("name", pairs)
def test_modules_equal_compositions(name):
    module, net, shape = pairs[name]
    x = rows(*shape)
    lifted = inf.twin(module, weight_std=W, bias_std=B, attention="linear")
    moved = x.movedim(1, 2) if name == "tokens" else x
    for mine, theirs in zip(lifted.kernel(moved), inf.twin(net).kernel(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_standard_parameterization_matches_a_wide_network():
    """The empirical NTK of an ordinary wide network, in its own units."""
    torch.manual_seed(0)
    width = 2048
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1)).double()
    with torch.no_grad():
        for layer, fan in ((model[0], 3), (model[2], width)):
            layer.weight.normal_(0, W / fan**0.5)
            layer.bias.normal_(0, B)
    x = rows(4, 3)
    twin = inf.twin(model, weight_std=W, bias_std=B, parameterization="standard")
    found = inf.empirical_kernel(model, x, get="ntk").ntk
    expected = twin.kernel(x).ntk
    assert float((found - expected).abs().max()) < 0.1 * float(expected.max())


def test_deviations_by_name():
    module = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    x = rows(3, 6)
    given = inf.twin(module, weight_std={"0": 1.5, "*": 0.7}, bias_std={"2": 0.2}).kernel(x).ntk
    net = S(inf.Dense(weight_std=1.5, bias_std=0.0), R, inf.Dense(weight_std=0.7, bias_std=0.2))
    torch.testing.assert_close(given, inf.twin(net).kernel(x).ntk)
    with pytest.raises(ValueError, match="names '7'"):
        inf.twin(module, weight_std={"7": 1.0})


def test_a_layer_for_an_unknown_module():
    class Strange(nn.Module):
        def forward(self, x):
            return torch.special.entr(x)

    module = nn.Sequential(nn.Linear(6, 9), Strange(), nn.Linear(9, 2))
    with pytest.raises(ValueError, match="special_entr"):
        inf.twin(module).kernel(rows(2, 6))
    twin = inf.twin(module, layers={Strange: inf.Expansion(torch.sin)})
    sin = S(inf.Dense(bias_std=0.0), inf.Sin(), inf.Dense(bias_std=0.0))
    torch.testing.assert_close(twin.kernel(rows(2, 6)).ntk, inf.twin(sin).kernel(rows(2, 6)).ntk)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 6)

    def forward(self, x):
        return self.l(torch.relu(self.l(x)))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.p = nn.Linear(6, 6), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return self.l(x) + self.p


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.MultiheadAttention(6, 1, batch_first=True)

    def forward(self, x):
        return self.a(x, x, x)[0]


image, vector = (2, 2, 6, 6), (2, 6)
refused = [
    (Branching(), vector, "depends on the data"),
    (Twice(), vector, "used twice"),
    (Bare(), vector, "'p' is used directly"),
    (nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)), vector, r"1 \(Softmax\).*logits"),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)), image, "sampling=1000"),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), image, "training mode"),
    (nn.Sequential(nn.Linear(6, 3), nn.Bilinear(3, 3, 1)), vector, "no closed form"),
    (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")), image, "reflect"),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(4, 1)), image, "acts on axis"),
    (Attend(), (2, 3, 6), "attention='linear'"),
]


@pytest.mark.parametrize(("module", "shape", "text"), refused, ids=lambda v: str(v)[:30])
def test_refusals_say_what_and_where(module, shape, text):
    with pytest.raises(ValueError, match=text):
        inf.twin(module).kernel(rows(*shape))


def test_twin_of_something_else():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        inf.twin("resnet")


def test_batch_norm_with_foreign_statistics():
    norm = nn.BatchNorm2d(4)
    norm.running_mean += 1
    with pytest.raises(ValueError, match="reset_running_stats"):
        inf.twin(nn.Sequential(nn.Conv2d(2, 4, 3), norm).eval()).kernel(rows(2, 2, 6, 6))


def test_the_twin_reads_no_weights():
    module = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    before = inf.twin(module).kernel(rows(2, 6)).ntk
    with torch.no_grad():
        module[0].weight.fill_(torch.nan)
    assert torch.equal(inf.twin(module).kernel(rows(2, 6)).ntk, before)
