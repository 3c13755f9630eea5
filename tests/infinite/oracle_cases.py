"""The networks of the reference file, in our words. Widths as there, channels second."""

from __future__ import annotations

import math
from functools import partial

import torch

from recollect import infinite as inf

S = inf.Serial


def fc(depth, act, w=1.5, b=0.1, **options):
    d = partial(inf.Dense, weight_std=w, bias_std=b, **options)
    layers = []
    for i in range(depth):
        if options.get("parameterization") == "standard":
            d = partial(inf.Dense, weight_std=w, bias_std=b, **{**options, "fan_in": 16 if i else 7})
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
    "act_abs": inf.Abs(), "act_cos": inf.Cos(1.2, 0.7, 0.3), "act_erf": inf.Erf(),
    "act_erf_abc": inf.Erf(0.7, 1.3, 0.2), "act_exp": inf.Exp(0.9, 0.3),
    "act_gabor": inf.Gabor(), "act_gelu": inf.Gelu(), "act_leaky": inf.LeakyRelu(0.2),
    **{f"act_mono{n}": inf.Monomial(n) for n in (0, 1, 2, 3, 5)},
    **{f"act_rmono{n}": inf.RectifiedMonomial(n) for n in (0, 1, 2, 4)},
    "act_poly": inf.Polynomial((0.1, 0.5, -0.3, 0.2)), "act_rbf": inf.Rbf(0.8),
    "act_relu_stab": R, "act_sigmoid_like": inf.SigmoidLike(), "act_sign": inf.Sign(),
    "act_sin": inf.Sin(1.2, 0.7, 0.3), "act_expnorm_clip": inf.ExpNormalized(1.3, -0.5, clip=True),
    "act_elementwise_erf": inf.Elementwise(user_erf),
}

FC = {
    **{name: act(layer) for name, layer in ACTS.items()},
    "act_numerical_erf": numerical(torch.erf),
    "act_numerical_tanh": numerical(torch.tanh),
    **{f"act_hermite{n}": hermite(n) for n in range(4)},
    "fc1_relu": fc(1, R), "fc1_relu_top": S(D, R), "fc3_relu": fc(3, R), "fc3_relu_edge": fc(3, R),
    "fc3_abrelu": fc(3, inf.ABRelu(-0.3, 0.7)), "fc3_erf": fc(3, inf.Erf()),
    "fc3_erf_edge": fc(3, inf.Erf()), "fc3_gelu": fc(3, inf.Gelu()),
    "fc3_gaussian": fc(3, inf.Gaussian(1.1, -0.6)),
    "fc3_relu_b0": fc(3, R, b=0.0), "fc3_relu_nobias": fc(3, R, b=None),
    "fc3_relu_std": fc(3, R, parameterization="standard"),
    "fc3_relu_std_b0": fc(3, R, b=0.0, parameterization="standard"),
    "fc20_relu_edge_nobias": fc(20, R, w=2**0.5, b=None),
    "fc_linear": S(D, D, D),
    "fc_repeat": S(D, inf.Repeat(S(R, D), 4), R, D),
    "fc_concat": S(inf.Concatenate(
        S(inf.Dense(weight_std=1.5, bias_std=0.1, width=12), R),
        S(inf.Dense(weight_std=1.5, bias_std=0.1, width=20), inf.Erf())), D),
    "fc_dropout": S(D, R, inf.Dropout(0.8), D, R, inf.Dropout(0.6), D),
    "fc_layernorm": S(D, inf.LayerNorm(eps=1e-12), R, D, inf.LayerNorm(eps=1e-12), inf.Erf(), D),
    "fc_residual": S(D, inf.Residual(S(R, D)), inf.Residual(S(R, D, R, D), D), R, D),
}


def conv(w=1.5, b=0.1, **options):
    return inf.Conv(**{"kernel_size": 3, "weight_std": w, "bias_std": b, **options})


def cnn(*top, act=R, middle=(), **options):
    return S(conv(**options), act, *middle, conv(**options), act, *top)


def attention(**options):
    a = inf.Attention(key_std=1.1, value_std=0.9, query_std=1.2, out_std=1.3, bias_std=0.2, **options)
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
        conv(fan_in=3, **p), R, conv(fan_in=8, **p), R, top,
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
        conv(w=1.3, b=0.05), block(1, True), block(1, False), block(2, True), block(1, False), F,
        inf.Dense(weight_std=1.0, bias_std=0.0),
    )


CNN = {
    "cnn_avgpool_circ": pooled(G, size=3, stride=2, padding="same", circular=True),
    "cnn_avgpool_flat": pooled(F, size=2),
    "cnn_avgpool_same": pooled(G, size=3, stride=2, padding="same"),
    "cnn_dropout": S(C, R, inf.Dropout(0.7), C, R, G, D),
    "cnn_erf_gap": S(C, inf.Erf(), C, inf.Erf(), G, D),
    "cnn_flat_same": cnn(F, D), "cnn_flat_std": std(F), "cnn_gap_std": std(G),
    "cnn_flat_valid": S(CV, R, CV, R, F, D),
    "cnn_gap_circular": cnn(G, D, circular=True), "cnn_gap_same": cnn(G, D),
    "cnn_gelu_flat": cnn(F, D, act=inf.Gelu()),
    "cnn_index": cnn(G, D, middle=[inf.Index((slice(1, 6, 2), slice(None, None, -1)))]),
    "cnn_layernorm_c": S(C, inf.LayerNorm(eps=1e-12), R, C, R, G, D),
    "cnn_raw_conv1": C, "cnn_raw_conv2": S(C, R, C), "cnn_raw_conv2_relu": cnn(),
    "cnn_raw_diag": (cnn(), "equal"),
    "cnn_full_batch": cnn(G, D),
    # The old library resized to 11 x 4 after one convolution, where its axes are exchanged.
    "cnn_resize_near": cnn(G, D, middle=[inf.Resize((4, 11))]),
    "cnn_stride": S(conv(stride=2), R, inf.Conv(
        kernel_size=(3, 2), stride=(1, 2), weight_std=1.5, bias_std=0.1), R, F, D),
    "cnn_sumpool": S(C, R, inf.SumPool(size=2), C, R, F, D),
    "myrtle5": myrtle5(), "wrn_flat": wrn(),
    "seq_conv_flat": cnn(F, D), "seq_dense_gap": S(D, R, D, R, G, D),
    "mask_gap": (S(D, R, D, R, G, D), "mask"), "mask_conv_gap": (cnn(G, D), "mask"),
    "graph_sparse": (S(inf.Aggregate(), D, R, inf.Aggregate(), D, R, inf.GlobalSumPool(), D), "graph"),
    "dotgeneral": (S(D, R), "map"),
    "att_lin_identity": attention(weights="identity"),
    "att_lin_relu": attention(weights="relu"), "att_lin_softmax": attention(),
    "att_sqrt_identity": attention(weights="identity", scaling="sqrt"),
    "att_pos_sum": attention(
        position="sum", position_std=0.7, position_decay=lambda d2: 1 / (1 + d2),
        position_in_values=True),
}
