"""The rivals code and are judged as they say; the parts of the studies hold their laws."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import Trace, studies
from recollect.studies.architectures import linear_cka
from recollect.studies.rivals import dynamic, static
from recollect.studies.rivals.judging import average_precision, judge_dynamic, judge_static
from recollect.studies.rivals.page import tables
from recollect.studies.rivals.quantizer import ProductQuantizer
from recollect.studies.rivals.vectors import SumsCode
from recollect.studies.rivals.worlds import World
from recollect.studies.running import Journal


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


# -- how the study runs -----------------------------------------------------------------------


def test_a_broken_off_study_goes_on_where_it_stood(tmp_path: Path) -> None:
    calls = []

    def row(about: int) -> dict[str, float]:
        calls.append(about)
        return {"double": 2.0 * about}

    first = Journal(tmp_path, "doubles")
    for i in range(3):
        assert first.row({"of": i, "how": "well"}, lambda i=i: row(i)) == {"double": 2.0 * i}
    assert first.row({"of": 9}, lambda: None) is None
    file = tmp_path / "doubles.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-5])  # killed while it wrote the third
    second = Journal(tmp_path, "doubles")
    assert len(second) == 2
    for i in range(3):
        assert second.row({"how": "well", "of": i}, lambda i=i: row(i)) == {"double": 2.0 * i}
    assert calls == [0, 1, 2, 2]
    assert len(file.read_text()) == len(whole)
    assert len(Journal(tmp_path, "doubles")) == 3
    file.write_text("no row\n")
    with pytest.raises(ValueError, match="is no row of a study; move the file away"):
        Journal(tmp_path, "doubles")
    with pytest.raises(ValueError, match="a study keeps its rows in a folder"):
        Journal(file, "doubles")


def test_worlds_come_back_from_a_folder_as_they_were(tmp_path: Path) -> None:
    worlds = [
        World("static", network(20, 0), network(10, 1), np.arange(10) % 2, static=True),
        World("scenes", scenes(20, 0), scenes(10, 1), np.arange(10) % 2, static=False),
    ]
    for world in worlds:
        for _ in range(2):
            again = World.kept(Journal(tmp_path, "x"), world.name, lambda world=world: world)
            assert (again.name, again.static) == (world.name, world.static)
            assert again.days.tolist() == world.days.tolist()
            for a, b in ((again.fit, world.fit), (again.judged, world.judged)):
                assert (len(a), a.modules) == (len(b), b.modules)
                for name, c in b.columns.items():
                    assert torch.equal(a.columns[name].attributes, c.attributes)
                    assert np.array_equal(a.columns[name].glance, c.glance)
                    assert np.array_equal(a.columns[name].rank, c.rank)


def test_only_long_studies_keep_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study 'schemes' keeps no rows while it runs"):
        studies.run("schemes", quick=True, keep=str(tmp_path))


def test_sums_tell_what_adds_and_no_more() -> None:
    """Where no module repeats and every direction is kept, sums are the objects themselves."""
    t = scenes(200, 0)
    single = t[[i for i in range(200) if max(np.bincount(kinds(t, i))) == 1]]
    known = dynamic.Scenes(single, ["thing0", "thing1", "thing2"])
    code = SumsCode(known, 64)
    read = code.read(code.encode(known), known)
    assert np.abs(read - known.x).max() < 0.1
    assert np.array_equal(np.round(code.counts(code.encode(known))), known.counts)
    counts, means = code.day(code.encode(known), np.arange(len(known)))
    np.testing.assert_allclose(counts, known.counts.sum(0), atol=1.5)
    whole = known.sums.reshape(len(known), 3, -1).sum(0) / (known.counts.sum(0)[:, None] + 1)
    np.testing.assert_allclose(means, whole, atol=0.05)


def kinds(t: Trace, glance: int) -> list[int]:
    return [k for k in range(3) for g in t.objects(f"thing{k}").glance.tolist() if g == glance]


def test_the_page_has_a_table_for_every_question() -> None:
    rows = [
        {"network": n, "bytes": b, "code": c, "R2 within modules": 0.5,
         "average precision": b / 1e3, "count error": None, "encode us": 12.0,
         "read us": 3.25, "probe us": None}
        for n in ("one", "two") for b in (64, 256) for c in ("PCA", "top-k")
    ]  # fmt: skip
    page = tables(rows)
    assert page.count("## ") == 2
    assert "| PCA | 0.064 | 0.256 |" in page
    assert "| top-k | 12 / 3.2 | 12 / 3.2 | - |" in page
    assert "count" not in page
