"""Transposed convolutions and attention against naive twins."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from recollect import infinite as inf

F64 = torch.float64
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def taps(places, size, stride, dilation, low, lengths):
    """Return one matrix per tap of the filter, (F, positions after, positions before)."""
    count = math.prod(places)
    basis = torch.eye(count, dtype=F64).reshape(count, 1, *places)
    made = []
    for tap in itertools.product(range(size), repeat=len(places)):
        weight = torch.zeros(1, 1, *[size] * len(places), dtype=F64)
        weight[(0, 0, *tap)] = 1
        # Enough room at the end for any crop, then the part that the layer keeps.
        out = TRANSPOSED[len(places)](basis, weight, stride=stride, dilation=dilation)[:, 0]
        out = F.pad(out, [0, stride + 5] * len(places))
        for axis, length in enumerate(lengths):
            out = out.narrow(axis + 1, low, length)
        made.append(out.reshape(count, -1).T)
    return torch.stack(made)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "stride", "dilation", "padding", "low", "length"),
    [
        (2, 2, 1, 0, 0, lambda n: 2 * n),
        (3, 1, 2, 1, 1, lambda n: n + 2),
        (3, 2, 1, "same", 0, lambda n: 2 * n),
        (4, 2, 1, "same", 1, lambda n: 2 * n),
        (2, 3, 1, "valid", 0, lambda n: 3 * n),
        (3, 2, 1, "crop", 1, lambda n: 2 * n + 1),
    ],
)
def test_transposed_convolutions_are_sums_over_taps(
    rank, size, stride, dilation, padding, low, length
):
    """K' = w^2 / F sum_f T_f K T_f^T + b^2, in one, two and three dimensions."""
    places = (3, 2, 2)[:rank]
    lengths = tuple(length(n) for n in places)
    if padding == "crop":
        padding = ((1, -1),) * rank
    layer = inf.ConvTranspose(
        kernel_size=size, stride=stride, dilation=dilation, padding=padding,
        weight_std=1.3, bias_std=0.2,
    )  # fmt: skip
    assert layer.places(places) == lengths
    x = rows(2, 3, *places)
    flat = x.flatten(2)
    before = torch.einsum("ncp,mcq->nmpq", flat, flat) / 3
    maps = taps(places, size, stride, dilation, low, lengths)
    expected = 1.69 * torch.einsum("fap,nmpq,fbq->nmab", maps, before, maps) / size**rank + 0.04
    found = inf.twin(layer).kernel(x).nngp
    axes = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    found = found.permute(axes).reshape(expected.shape)
    torch.testing.assert_close(found, expected)


def test_an_unknown_padding_of_a_transposed_convolution_is_refused():
    with pytest.raises(ValueError, match="padding must be 'same', 'valid' or numbers"):
        inf.twin(inf.ConvTranspose(padding="full")).kernel(rows(2, 3, 4))


@pytest.mark.parametrize("position", ["none", "sum", "concat"])
@pytest.mark.parametrize("in_values", [False, True])
def test_the_tangent_of_root_attention_is_a_derivative(position, in_values):
    """Four products of weights, and dK'/d log of what is trained before: inputs and embedding.

    After one dense layer without bias Theta = K, so both grow with the squared deviation.
    """

    def twin(grown=1.0):
        return inf.twin(
            inf.Serial(
                inf.Dense(weight_std=1.2 * math.sqrt(grown)),
                inf.Attention(
                    weights="identity", scaling="sqrt", query_std=0.8, key_std=1.1, bias_std=0.3,
                    position=position, position_std=0.7 * math.sqrt(grown),
                    position_in_values=in_values,
                ),
            )
        )  # fmt: skip

    x = rows(3, 5, 4)
    k = twin().kernel(x)
    h = 1e-5
    slope = (twin(1 + h).kernel(x).nngp - twin(1 - h).kernel(x).nngp) / (2 * h)
    expected = 4 * (k.nngp - 0.09) + 0.09 + slope
    torch.testing.assert_close(k.ntk, expected, rtol=1e-7, atol=1e-8)


def test_what_a_hidden_position_reaches_is_hidden():
    """Of six positions after stride 2 the third and fourth come from the hidden second one."""
    layer = inf.ConvTranspose(kernel_size=2, stride=2, weight_std=1.3)
    twin = inf.twin(inf.Serial(layer, inf.Relu(), inf.GlobalAvgPool()))
    x = rows(3, 2, 3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[:, 1] = False
    shown = torch.cat([x[..., :1], x[..., 2:]], -1)
    hidden = twin.kernel(x, mask1=mask)
    for a, b in zip(hidden, twin.kernel(shown), strict=True):
        torch.testing.assert_close(a, b)
