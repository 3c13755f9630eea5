"""Each view's trained example answers: how often, how large, which are alike, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recollect import Memory, Sketcher, Trace, recall, trace
from recollect._checks import NotRemembered
from recollect.studies import views
from recollect.studies.pictures import digits
from recollect.studies.views import attention, capsules, experts, shared_parts
from recollect.studies.views.row import ViewRow


def remember(path: Path, past: Trace, now: Trace, dim: int) -> Memory:
    """Keep both, with a prior of the past; glance i of now has the id 1 + i."""
    memory = Memory(path, sketcher=Sketcher(dim=dim), reservoir=len(past))
    memory.add(
        past, time="2026-01-01T08:00Z", source="past", ids=range(10_000, 10_000 + len(past))
    )
    memory.fit_prior()
    hours = [f"2026-01-02T{8 + i // 20:02d}:00Z" for i in range(len(now))]
    memory.add(now, time=hours, source="now", ids=range(1, 1 + len(now)))
    return memory


def counts_hold(memory: Memory, module: str) -> None:
    """Counts from sketches alone agree with skeletons, within their bars."""
    only = {"by": "hour", "since": "2026-01-02T00:00Z"}
    exact = recall.count(memory, module, source="skeleton", **only)
    read = recall.count(memory, module, source="sketch", **only)
    true = np.array(exact["estimate"])
    inside = (np.array(read["low"]) <= true) & (true <= np.array(read["high"]))
    assert inside.mean() >= 0.8
    assert np.abs(np.array(read["estimate"]) - true).sum() <= 0.35 * true.sum() + 1


def attributes_hold(memory: Memory, now: Trace, module: str) -> None:
    """The mean attribute of stored glances lies within its bars, mostly."""
    answer = recall.attribute(memory, module, where="source = 'now'")
    true = now.objects(module).attributes.double().mean(0).numpy()
    low, high = np.array(answer["low"]), np.array(answer["high"])
    slack = 0.02 * np.abs(true).max()
    assert ((low - slack <= true) & (true <= high + slack)).mean() >= 0.7


def why_adds_up(memory: Memory, a: int, b: int, path: str) -> None:
    answer = recall.why(memory, a, b)
    assert sum(answer["estimate"][:-1]) == pytest.approx(answer["estimate"][-1], abs=1e-9)
    assert path in answer["path"]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    text, _ = attention.texts(None)
    letters = attention.Letters(text)
    model = attention.train(letters, 25, 0)
    past = trace(model, letters.cut(60, 0, 0.0, 0.8), view="attention", top=2)
    x = letters.cut(60, 1, 0.8, 1.0)
    now = trace(model, x, view="attention", top=2)
    with remember(tmp_path_factory.mktemp("a") / "m", past, now, 256) as memory:
        yield memory, model, now, x


HEAD = "encoder.layers.0.self_attn/1"


def test_attention_s_example_answers(looked: tuple) -> None:
    memory, model, now, x = looked
    counts_hold(memory, f"{HEAD}/token")
    attributes_hold(memory, now, f"{HEAD}/distance")
    # One head of eight, all in one short sketch: the glance that it was taken from is found.
    found = [recall.similar(memory, now[i], k=5, path=HEAD)["glance"] for i in range(10)]
    assert np.mean([1 + i in ids for i, ids in enumerate(found)]) >= 0.4  # by chance 0.04
    near = recall.similar(memory, 1, k=5, module=HEAD, where="source = 'now'")
    assert len(near["glance"]) == 5
    assert 1 not in near["glance"]
    why_adds_up(memory, 1, near["glance"][0], f"{HEAD} / {HEAD}/token")
    hardest = attention.looked_at(model, x)
    assert set(hardest) == {f"encoder.layers.{n}.self_attn/{h}" for n in (0, 1) for h in range(4)}
    tokens = now.objects(f"{HEAD}/token")
    assert bool((tokens.weight.view(-1, 2)[:, 0] >= tokens.weight.view(-1, 2)[:, 1]).all())


def test_experts_example_answers(tmp_path: Path) -> None:
    x, y = digits(0)
    model = experts.train(x[:600], y[:600], 4, 0)
    past, now = (trace(model, x[s], view="experts") for s in (slice(0, 150), slice(600, 720)))
    with remember(tmp_path / "m", past, now, 128) as memory:
        for e in (0, 3):
            counts_hold(memory, f"mixture/{e}")
        attributes_hold(memory, now, "mixture/1")
        same = np.mean(
            [
                np.mean(y[599 + np.array(recall.similar(memory, i, k=5, where="source = 'now'")
                                         ["glance"])].numpy() == int(y[599 + i]))
                for i in range(1, 13)
            ]
        )  # fmt: skip
        assert same > 0.25  # by chance 0.1
        why_adds_up(memory, 1, 2, f"mixture/{int(now[0].columns['mixture'].member[0])}")


def test_capsules_example_answers(tmp_path: Path) -> None:
    x, y = digits(0)
    model = capsules.train(x[:500], y[:500], 2, 0)
    options = {"top": 2, "least": 0.3, "parts": 2}
    past, now = (
        trace(model, x[s], view="capsules", **options) for s in (slice(0, 100), slice(500, 600))
    )
    with remember(tmp_path / "m", past, now, 128) as memory:
        best = f"digits/{int(y[500])}"
        counts_hold(memory, best)
        attributes_hold(memory, now, best)
        near = np.array(recall.similar(memory, 1, k=5, where="source = 'now'")["glance"])
        assert (y[499 + near].numpy() == int(y[500])).mean() > 0.3
        with torch.no_grad():
            sure = f"digits/{int(model(x[500:501]).argmax())}"
        why_adds_up(memory, 1, int(near[0]), f"{sure} / {sure}/part")


def test_shared_kernels_are_those_of_the_raw_activations() -> None:
    case = shared_parts.digit_case(quick=True, seed=0)
    past, now = case.trace(case.past), case.trace(case.seen)
    answer = shared_parts.ask(case, past, now, 64, 0)
    named, right, true = shared_parts.judged(case, now, answer)
    assert true >= 3
    assert right >= 0.9 * named
    assert right >= 0.6 * true


def test_the_table_has_a_row_for_every_view(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def row(name: str, quick: bool = True, data: str | None = None, seed: int = 0) -> ViewRow:
        asked.append((name, quick, data, seed))
        return ViewRow(name, 3, 20, 0.9 + 0.01 * seed, 0.1, 0.8, 0.9, 0.7, 0.2, "drawn")

    monkeypatch.setattr(views, "measure", row)
    answer = views.study(quick=False, data="here")
    assert list(answer["view"]) == list(views.VIEWS)
    assert {a[2] for a in asked} == {"here"}
    assert len(asked) == 3 * len(views.VIEWS)
    assert answer["counts"][0] == pytest.approx(0.91)
    assert answer["counts sd"][0] == pytest.approx(0.01)
    pytest.importorskip("matplotlib")
    views.draw(answer, str(tmp_path / "views.svg"))
    assert "attention" in (tmp_path / "views.svg").read_text()


def test_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(NotRemembered, match="view of the study"):
        views.measure("atention")
    with pytest.raises(FileNotFoundError, match="leave --data out"):
        attention.texts(tmp_path)
