"""Agreement with numbers of Neural Tangents 0.6.5 (JAX 0.4.25, float64, CPU).

The file ``nt_reference.npz`` is outside the repository: set RECOLLECT_ORACLE to its folder. A few
of its numbers are copied into ``test_copied_numbers`` so that a fresh clone checks them too.
"""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import infinite as inf

S = inf.Serial


def fc(depth, act, w=1.5, b=0.1, **options):
    d = partial(inf.Dense, weight_std=w, bias_std=b, **options)
    layers = []
    for i in range(depth):
        if options.get("parameterization") == "standard":
            d = partial(
                inf.Dense, weight_std=w, bias_std=b, **{**options, "fan_in": 16 if i else 7}
            )
        layers += [d(), act]
    if options.get("parameterization") == "standard":
        d = partial(inf.Dense, weight_std=w, bias_std=b, **{**options, "fan_in": 16})
    return S(*layers, d())


def act(layer):
    d = inf.Dense(weight_std=0.9, bias_std=0.1)
    return S(d, layer, d)


def hermite(n):
    return S(inf.Dense(), inf.Hermite(n), inf.Dense(weight_std=0.9, bias_std=0.1))


def numerical(f):
    return act(inf.Numerical(f, 25))


def user_erf(q12, q11, q22):
    return torch.asin(2 * q12 / ((1 + 2 * q11) * (1 + 2 * q22)).sqrt()) * 2 / math.pi


R = inf.Relu()
D = inf.Dense(weight_std=1.5, bias_std=0.1)

ACTS = {
    "act_abs": inf.Abs(),
    "act_cos": inf.Cos(1.2, 0.7, 0.3),
    "act_erf": inf.Erf(),
    "act_erf_abc": inf.Erf(0.7, 1.3, 0.2),
    "act_exp": inf.Exp(0.9, 0.3),
    "act_gabor": inf.Gabor(),
    "act_gelu": inf.Gelu(),
    "act_leaky": inf.LeakyRelu(0.2),
    **{f"act_mono{n}": inf.Monomial(n) for n in (0, 1, 2, 3, 5)},
    **{f"act_rmono{n}": inf.RectifiedMonomial(n) for n in (0, 1, 2, 4)},
    "act_poly": inf.Polynomial((0.1, 0.5, -0.3, 0.2)),
    "act_rbf": inf.Rbf(0.8),
    "act_relu_stab": R,
    "act_sigmoid_like": inf.SigmoidLike(),
    "act_sign": inf.Sign(),
    "act_sin": inf.Sin(1.2, 0.7, 0.3),
    "act_expnorm_clip": inf.ExpNormalized(1.3, -0.5, clip=True),
    "act_elementwise_erf": inf.Elementwise(user_erf),
}

FC = {
    **{name: act(layer) for name, layer in ACTS.items()},
    "act_numerical_erf": numerical(torch.erf),
    "act_numerical_tanh": numerical(torch.tanh),
    **{f"act_hermite{n}": hermite(n) for n in range(4)},
    "fc1_relu": fc(1, R),
    "fc1_relu_top": S(D, R),
    "fc3_relu": fc(3, R),
    "fc3_relu_edge": fc(3, R),
    "fc3_abrelu": fc(3, inf.ABRelu(-0.3, 0.7)),
    "fc3_erf": fc(3, inf.Erf()),
    "fc3_erf_edge": fc(3, inf.Erf()),
    "fc3_gelu": fc(3, inf.Gelu()),
    "fc3_gaussian": fc(3, inf.Gaussian(1.1, -0.6)),
    "fc3_relu_b0": fc(3, R, b=0.0),
    "fc3_relu_nobias": fc(3, R, b=None),
    "fc3_relu_std": fc(3, R, parameterization="standard"),
    "fc3_relu_std_b0": fc(3, R, b=0.0, parameterization="standard"),
    "fc20_relu_edge_nobias": fc(20, R, w=2**0.5, b=None),
    "fc_linear": S(D, D, D),
    "fc_repeat": S(D, inf.Repeat(S(R, D), 4), R, D),
    "fc_concat": S(
        inf.Concatenate(
            S(inf.Dense(weight_std=1.5, bias_std=0.1, width=12), R),
            S(inf.Dense(weight_std=1.5, bias_std=0.1, width=20), inf.Erf()),
        ),
        D,
    ),
    "fc_dropout": S(D, R, inf.Dropout(0.8), D, R, inf.Dropout(0.6), D),
    "fc_layernorm": S(D, inf.LayerNorm(eps=1e-12), R, D, inf.LayerNorm(eps=1e-12), inf.Erf(), D),
    "fc_residual": S(D, inf.Residual(S(R, D)), inf.Residual(S(R, D, R, D), D), R, D),
}


def conv(w=1.5, b=0.1, **options):
    return inf.Conv(**{"kernel_size": 3, "weight_std": w, "bias_std": b, **options})


def cnn(*top, act=R, middle=(), **options):
    return S(conv(**options), act, *middle, conv(**options), act, *top)


def attention(**options):
    a = inf.Attention(
        key_std=1.1, value_std=0.9, query_std=1.2, out_std=1.3, bias_std=0.2, **options
    )
    return S(D, R, a, R, inf.GlobalAvgPool(), D)


G, F = inf.GlobalAvgPool(), inf.Flatten()
C, CV = conv(), conv(padding="valid")


def pooled(top, **options):
    """A pooling layer between two convolutions."""
    return S(C, R, inf.AvgPool(**options), C, R, top, D)


def std(top):
    """Standard parameterisation, 8 channels."""
    p = {"parameterization": "standard"}
    return S(
        conv(fan_in=3, **p),
        R,
        conv(fan_in=8, **p),
        R,
        top,
        inf.Dense(weight_std=1.5, bias_std=0.1, fan_in=8 if top is G else 8 * 64, **p),
    )


def myrtle5():
    c = conv(w=2**0.5, b=None)
    pool = inf.AvgPool(size=2)
    return S(c, R, c, R, pool, c, R, pool, c, R, pool, F, inf.Dense(weight_std=2**0.5))


def wrn():
    def block(stride, mismatch):
        c = conv(w=1.3, b=0.05)
        first = conv(w=1.3, b=0.05, stride=stride)
        return inf.Residual(S(R, first, R, c), first if mismatch else None)

    return S(
        conv(w=1.3, b=0.05),
        block(1, True),
        block(1, False),
        block(2, True),
        block(1, False),
        F,
        inf.Dense(weight_std=1.0, bias_std=0.0),
    )


CNN = {
    "cnn_avgpool_circ": pooled(G, size=3, stride=2, padding="same", circular=True),
    "cnn_avgpool_flat": pooled(F, size=2),
    "cnn_avgpool_same": pooled(G, size=3, stride=2, padding="same"),
    "cnn_dropout": S(C, R, inf.Dropout(0.7), C, R, G, D),
    "cnn_erf_gap": S(C, inf.Erf(), C, inf.Erf(), G, D),
    "cnn_flat_same": cnn(F, D),
    "cnn_flat_std": std(F),
    "cnn_gap_std": std(G),
    "cnn_flat_valid": S(CV, R, CV, R, F, D),
    "cnn_gap_circular": cnn(G, D, circular=True),
    "cnn_gap_same": cnn(G, D),
    "cnn_gelu_flat": cnn(F, D, act=inf.Gelu()),
    "cnn_index": cnn(G, D, middle=[inf.Index((slice(1, 6, 2), slice(None, None, -1)))]),
    "cnn_layernorm_c": S(C, inf.LayerNorm(eps=1e-12), R, C, R, G, D),
    "cnn_raw_conv1": C,
    "cnn_raw_conv2": S(C, R, C),
    "cnn_raw_conv2_relu": cnn(),
    "cnn_raw_diag": (cnn(), "equal"),
    "cnn_full_batch": cnn(G, D),
    # The old library resized to 11 x 4 after one convolution, where its axes are exchanged.
    "cnn_resize_near": cnn(G, D, middle=[inf.Resize((4, 11))]),
    "cnn_stride": S(
        conv(stride=2),
        R,
        inf.Conv(kernel_size=(3, 2), stride=(1, 2), weight_std=1.5, bias_std=0.1),
        R,
        F,
        D,
    ),
    "cnn_sumpool": S(C, R, inf.SumPool(size=2), C, R, F, D),
    "myrtle5": myrtle5(),
    "wrn_flat": wrn(),
    "seq_conv_flat": cnn(F, D),
    "seq_dense_gap": S(D, R, D, R, G, D),
    "mask_gap": (S(D, R, D, R, G, D), "mask"),
    "mask_conv_gap": (cnn(G, D), "mask"),
    "graph_sparse": (
        S(inf.Aggregate(), D, R, inf.Aggregate(), D, R, inf.GlobalSumPool(), D),
        "graph",
    ),
    "dotgeneral": (S(D, R), "map"),
    "att_lin_identity": attention(weights="identity"),
    "att_lin_relu": attention(weights="relu"),
    "att_lin_softmax": attention(),
    "att_sqrt_identity": attention(weights="identity", scaling="sqrt"),
    "att_pos_sum": attention(
        position="sum",
        position_std=0.7,
        position_decay=lambda d2: 1 / (1 + d2),
        position_in_values=True,
    ),
}


@pytest.fixture(scope="module")
def oracle():
    folder = os.environ.get("RECOLLECT_ORACLE")
    if not folder:
        pytest.skip("set RECOLLECT_ORACLE to the folder of nt_reference.npz")
    with np.load(Path(folder) / "nt_reference.npz") as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays["meta"]))


def loaded(arrays, name):
    x = torch.from_numpy(arrays[f"in/{name}"])
    return x if x.ndim == 2 else x.movedim(-1, 1)


def options_of(arrays, how):
    def tensor(key):
        return torch.from_numpy(arrays[f"in/{key}"])

    if how == "mask":
        return {"mask1": tensor("mask1")[..., 0] != 100, "mask2": tensor("mask2")[..., 0] != 100}
    if how == "graph":
        return {"pattern1": tensor("A1"), "pattern2": tensor("A2")}
    return {"positions": "equal"} if how == "equal" else {}


def agree(mine, theirs, rtol):
    theirs = torch.from_numpy(theirs)
    assert mine.shape == theirs.shape
    known = torch.isfinite(theirs)
    scale = theirs[known].abs().max() * 1e-12
    torch.testing.assert_close(mine[known], theirs[known], rtol=rtol, atol=float(scale))


@pytest.mark.parametrize("name", [*FC, *CNN])
def test_reference(oracle, name):
    arrays, meta = oracle
    net, how = (FC | CNN)[name], ""
    if isinstance(net, tuple):
        net, how = net
    if how == "map":
        net = S(net, inf.LinearMap((torch.from_numpy(arrays["in/C"]).T,)))
    x1, x2 = (loaded(arrays, meta[name][k]) for k in ("x1", "x2"))
    options = options_of(arrays, how)
    twin = inf.twin(net)
    cross = twin.kernel(x1, x2, **options)
    reverse = {"cnn_raw_conv1": (0, 1, 4, 5, 2, 3)}.get(name)  # see the flag is_reversed
    for field in ("nngp", "ntk"):
        theirs = arrays[f"k/{name}/{field}"]
        agree(
            getattr(cross, field), theirs if reverse is None else theirs.transpose(reverse), 1e-10
        )
    if f"k/{name}/nngp_11" in arrays and not name.startswith("act_rmono"):
        own = twin.kernel(x1, **{k: v for k, v in options.items() if not k.endswith("2")})
        # The library's angle on exact repeats is wrong by 1e-8; dotgeneral cancels two of them.
        agree(own.nngp, arrays[f"k/{name}/nngp_11"], 2e-8 if name == "act_sign" else 1e-10)
        agree(own.ntk, arrays[f"k/{name}/ntk_11"], 1e-5 if name == "dotgeneral" else 1e-6)


ROW1 = [
    [
        -0.18327419582945323,
        0.7814641880150186,
        1.8458038046582574,
        -0.15152947253513482,
        0.6531520935743521,
        1.2049359902578243,
        -0.33134258585986426,
    ]
]
ROW2 = [
    [
        1.9387189201541428,
        0.42291910130338134,
        0.4727934527106445,
        0.17963456931153957,
        -0.982133874245246,
        0.6256575055961604,
        -0.6857848684144918,
    ]
]


@pytest.mark.parametrize(
    ("case", "nngp", "ntk"),
    [
        ("fc3_relu", 1.8346003058634144, 3.580566467504129),
        ("fc3_relu_std", 1.8346003058634144, 27.43147709491158),
        ("fc3_erf", 0.17651110145373303, 0.6573161765747806),
        ("fc3_gelu", 1.1481009647279907, 2.3793078308550015),
        ("fc3_gaussian", 1.2337820818417202, 1.930641905278702),
        ("fc_residual", 9.2081559300653, 17.993637999008065),
        ("fc_layernorm", 0.4241169583759363, 0.959226170035015),
        ("fc_concat", 0.49833828452844015, 0.730837844566647),
        ("act_gabor", 0.01631773546623656, 0.022948836451301878),
        ("act_rmono2", 0.17333970384244501, 0.24403630356139971),
        ("act_poly", 0.12397845804919047, 0.2318687364331743),
        ("act_sin", 0.13535516401018724, 0.1890115582820748),
        ("act_sign", 0.11565402792499241, 0.11565402792499241),
    ],
)
def test_copied_numbers(case, nngp, ntk):
    """From the reference file: first entries of the first row of k/<case>."""
    x1 = torch.tensor(ROW1, dtype=torch.float64)
    x2 = torch.tensor(ROW2, dtype=torch.float64)
    k = inf.twin(FC[case]).kernel(x1, x2)
    assert float(k.nngp) == pytest.approx(nngp, rel=1e-10)
    assert float(k.ntk) == pytest.approx(ntk, rel=1e-10)
