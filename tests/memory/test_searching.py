"""Search by cosine and by product is what comparing with every sketch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Object, Sketcher, Trace, recall
from recollect.recall.whitening import whitened
from recollect.sketching.probing import Prober

HOUR = 3_600_000_000
MODULES, KINDS, SIZE = 24, 6, 24


def things(glances: int, seed: int) -> tuple[Trace, np.ndarray, np.ndarray]:
    """About four objects of 24 modules, each near one of six prototypes; which ones they are."""
    rng = np.random.default_rng(seed)
    prototypes = np.random.default_rng(5).standard_normal((MODULES, KINDS, SIZE))
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    which = np.where(
        rng.random((glances, MODULES)) < 1 / 6, rng.integers(0, KINDS, (glances, 1)), -1
    )
    columns = {}
    for k in range(MODULES):
        glance = np.flatnonzero(which[:, k] >= 0)
        noise = 0.5 / SIZE**0.5 * rng.standard_normal((len(glance), SIZE))
        x = torch.from_numpy(prototypes[k, which[glance, k]] + noise).float()
        columns[f"m{k}"] = {"attributes": x, "glance": glance}
    return Trace.from_columns(columns, num_glances=glances), prototypes, which


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory):
    t, prototypes, which = things(1500, 0)
    with Memory(tmp_path_factory.mktemp("searching") / "m", Sketcher(dim=512)) as memory:
        for start, stop in ((0, 700), (700, 1200), (1200, 1500)):
            part, ids = t[start:stop], np.arange(start, stop)
            source = ["hall" if i % 3 else "yard" for i in ids]
            memory.add(part, ids * HOUR // 50, source, ids=ids)
        memory.delete(where="id >= 100 AND id < 160")
        yield memory, prototypes, which


@pytest.mark.parametrize("where", [None, "source = 'yard'", "id < 90"])
@pytest.mark.parametrize("by", ["cosine", "product"])
def test_the_best_are_those_of_a_full_comparison(room, by: str, where: str | None) -> None:
    memory, _, _ = room
    ids = memory.glances(where=where, columns=["id"])["id"].to_numpy()
    values = memory.sketches(where=where).values.double().numpy()
    rng = np.random.default_rng(1)
    for seed in range(4):
        vector = 3 * rng.standard_normal(512) if seed else values[7]
        scores = values @ vector
        if by == "cosine":
            norms = np.linalg.norm(values, axis=1).clip(1e-9) * np.linalg.norm(vector)
            scores = scores / norms
        order = np.argsort(-scores)[:10]
        found, told = memory.search(vector, k=10, where=where, by=by)
        np.testing.assert_allclose(told, scores[order], rtol=1e-4, atol=1e-5)
        assert found.tolist() == ids[order].tolist()


def test_float_sketches_have_products_too(tmp_path: Path) -> None:
    t, _, _ = things(300, 1)
    with Memory(tmp_path / "m", Sketcher(dim=128, dtype="float16")) as memory:
        memory.add(t, time="2026-01-01T08:00Z", ids=range(300))
        values = memory.sketches(ids=range(300)).values.double().numpy()
        found, told = memory.search(values[3], k=5, by="product")
        scores = values @ values[3]
        assert found.tolist() == np.argsort(-scores)[:5].tolist()
        np.testing.assert_allclose(told, np.sort(scores)[::-1][:5], rtol=1e-3)


def test_whitened_questions_to_a_memory_find_what_the_best_linear_probe_finds(
    tmp_path: Path,
) -> None:
    t, prototypes, which = things(1500, 0)
    with Memory(tmp_path / "m", Sketcher(dim=64), reservoir=0) as memory:
        memory.add(t, time="2026-01-01T08:00Z", ids=range(1500))
        mean = precisions(memory, prototypes, which)
    assert mean["memory"] > mean["prober"] - 0.015
    assert mean["memory"] > mean["plain"] + 0.02


def precisions(memory: Memory, prototypes: np.ndarray, which: np.ndarray) -> dict[str, float]:
    """Mean average precision of whitened and plain questions, and of a prober on the same."""
    ids = memory.glances(columns=["id"])["id"].to_numpy()
    sketches = memory.sketches(ids=ids.tolist())
    prober = Prober(memory.sketcher, sketches)
    found: dict[str, list[float]] = {"memory": [], "prober": [], "plain": []}
    for k in range(0, MODULES, 4):
        thing, hits = Object(f"m{k}", prototypes[k, 1]), which[:, k] == 1
        score = prober.scores(sketches, thing)
        answers = [recall.similar(memory, thing, k=len(ids), whiten=w) for w in (True, False)]
        orders = (answers[0]["glance"], ids[np.argsort(-score)], answers[1]["glance"])
        for name, order in zip(found, orders, strict=True):
            hit = hits[np.asarray(order)]
            precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
            found[name].append(float(precision[hit].mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_a_faded_memory_is_whitened_by_what_all_glances_keep(tmp_path: Path) -> None:
    t, prototypes, _ = things(300, 2)
    with Memory(tmp_path / "m", Sketcher(dim=256), reservoir=0) as memory:
        memory.add(t, np.arange(300) * HOUR // 10, ids=range(300))
        policy = "full for 10 hours, 128 dims for 20 hours, skeletons for ever"
        memory.fade(now=30 * HOUR, policy=policy)
        answer = recall.similar(memory, Object("m3", prototypes[3, 0]), k=20, whiten=True)
        kept = memory.kept(answer["glance"])
        assert set(kept.tolist()) == {128, 256}
        probe = memory.sketcher.probe(
            Trace.from_objects([[Object("m3", prototypes[3, 0])]])
        ).numpy()
        amounts = np.zeros(20)
        for length in (128, 256):  # each among its like
            mine = np.flatnonzero(kept == length)
            ids = np.array(answer["glance"])[mine].tolist()
            values = memory.sketches(ids=ids, prefix=length).values.double().numpy()
            amounts[mine] = values @ whitened(memory, probe[:length]).vector
        np.testing.assert_allclose(answer["estimate"], amounts, atol=1e-5)


def test_what_search_and_glances_refuse(room) -> None:
    memory, _, _ = room
    with pytest.raises(ValueError, match="by must be one of 'cosine', 'product', got 'dot'"):
        memory.search(np.ones(512), by="dot")
    rows = memory.glances(ids=[7, 3, 5], columns=["id"])
    assert rows["id"].to_pylist() == [7, 3, 5]
    with pytest.raises(ValueError, match="give ids or a filter"):
        memory.glances(ids=[7], where="id = 7")
    with pytest.raises(NotRemembered, match="no glance has the id 120"):
        memory.glances(ids=[7, 120])
