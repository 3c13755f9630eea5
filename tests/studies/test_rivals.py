"""The rivals code and are judged as they say; the parts of the studies hold their laws."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from recollect import Trace
from recollect.studies.architectures import linear_cka
from recollect.studies.rivals import dynamic, static
from recollect.studies.rivals.judging import average_precision, judge_dynamic, judge_static
from recollect.studies.rivals.quantizer import ProductQuantizer


def network(glances: int, seed: int) -> Trace:
    fixed, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    code = rng.standard_normal((glances, 12))
    columns = {}
    for i, m in enumerate((30, 16, 40)):
        x = code @ fixed.standard_normal((12, m)) + 0.05 * rng.standard_normal((glances, m))
        columns[f"layer{i}"] = torch.from_numpy(x.astype(np.float32))
    return Trace.from_columns(columns)


def scenes(glances: int, seed: int) -> Trace:
    fixed, rng = np.random.default_rng(0), np.random.default_rng([2, seed])
    means, turns = fixed.standard_normal((3, 8)), fixed.standard_normal((3, 2, 8))
    number = rng.integers(1, 5, glances)
    glance = np.repeat(np.arange(glances), number)
    kind = rng.integers(0, 3, len(glance))
    code = rng.standard_normal((len(glance), 2))
    x = means[kind] + np.einsum("nr,nrm->nm", code, turns[kind])
    return Trace.from_columns(
        {
            f"thing{k}": {
                "attributes": torch.from_numpy(x[kind == k].astype(np.float32)),
                "glance": glance[kind == k],
            }
            for k in range(3)
        },
        num_glances=glances,
    )


def test_every_code_of_a_static_network_is_judged() -> None:
    fit = static.Glances(network(70, 0))
    judged = static.Glances(network(60, 1), fit.scales)
    days = np.arange(60) % 3
    rows = {}
    for name, make in static.CODES.items():
        code = make(fit, 64 if name != "sketch, informed" else 128)
        if code is not None:
            rows[name] = judge_static(code, fit, judged, days, 5)
    assert ("torchhd" in rows) == (find_spec("torchhd") is not None)
    for name in ("sketch, energy", "sketch, informed", "PCA"):
        assert rows[name]["R2 within modules"] > 0.98
        assert rows[name]["average precision"] > 0.9
        assert rows[name]["day: means"] < 0.3
    assert rows["paper, transpose"]["R2 within modules"] < 0
    assert rows["top-k"]["R2 within modules"] < rows["PCA"]["R2 within modules"]


def test_every_code_of_scenes_is_judged() -> None:
    known = dynamic.Scenes(scenes(200, 0), ["thing0", "thing1", "thing2"])
    judged = known.like(scenes(60, 1))
    rows = {}
    for name, make in dynamic.CODES.items():
        code = make(known, 64)
        if code is not None:
            rows[name] = judge_dynamic(code, judged, np.arange(60) % 3, 5)
    assert rows["sketch, energy"]["R2 within modules"] > 0.9
    assert rows["sketch, energy"]["count error"] < 0.05
    for name in ("records, KLT", "product quantisation"):
        assert rows[name]["count error"] == 0
        assert rows[name]["R2 within modules"] > 0.9
        assert rows[name]["probe precision"] is None
    assert rows["sketch, energy"]["day: shares"] < rows["records, KLT"]["day: shares"]
    assert rows["pooled embedding"]["R2 within modules"] < 0.9


def test_codes_keep_to_their_bytes() -> None:
    fit = static.Glances(network(40, 0))
    judged = static.Glances(network(5, 1), fit.scales)
    assert static.pca(fit, 64).encode(judged).shape[1] <= 66
    assert static.klt(fit, 64).encode(judged).shape[1] <= 66
    quantized = static.QuantizedCode(fit, 64)
    assert quantized.quantizer.bits * quantized.encode(judged).shape[1] <= 8 * 66
    place, value = static.LargestCode(fit, 64).encode(judged)
    assert 2 * place.shape[1] + value.element_size() * value.shape[1] <= 66
    assert static.SketchCode(fit, 64, "energy").encode(judged).recipe.bytes == 66


def test_a_quantiser_chooses_the_nearest_centroids() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    quantizer = ProductQuantizer(x, parts=3, bits=4)
    codes = quantizer.encode(x)
    for row in range(0, 300, 50):
        for part in range(3):
            own = x[row, part::3]
            distance = ((quantizer.centroids[part] - own) ** 2).sum(1)
            assert codes[row, part] == distance.argmin()
    finer = ProductQuantizer(x, parts=3, bits=7)
    errors = [((q.decode(q.encode(x)) - x) ** 2).sum() for q in (quantizer, finer)]
    assert errors[1] < 0.5 * errors[0]


def test_average_precision_is_what_counting_gives() -> None:
    rng = np.random.default_rng(0)
    score, hits = rng.standard_normal(40), rng.random(40) < 0.3
    order = np.argsort(-score)
    naive = [hits[order[: i + 1]].mean() for i in range(40) if hits[order[i]]]
    assert average_precision(score, hits) == pytest.approx(np.mean(naive))
    assert average_precision(hits.astype(float), hits) == 1


def test_alignment_is_that_of_gram_matrices_and_ignores_turns() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64)
    y = torch.randn(40, 9, generator=g, dtype=torch.float64) + x[:, :1]
    h = torch.eye(40, dtype=torch.float64) - 1 / 40
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    assert linear_cka(x, y) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q
    assert linear_cka(2 * x @ turn + 1, y) == pytest.approx(linear_cka(x, y))
    assert np.isnan(linear_cka(torch.ones(40, 2), y))
    with pytest.raises(ValueError, match="got 40 and 39"):
        linear_cka(x, y[:39])
