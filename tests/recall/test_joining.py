"""A network that is remembered grows: no old sketch, roll-up or answer changes by a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect import Memory, Object, Sketcher, Trace, recall

HOUR = 3_600_000_000
OLD = {"since": "1970-01-01T00:00Z", "until": "1970-01-01T08:00Z"}


def static(glances: int, seed: int, grown: bool) -> Trace:
    """Three layers that go together; a new class head and an expert that fires now and then."""
    fixed, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    code = torch.randn(glances, 5, generator=g)
    columns: dict[str, Any] = {
        f"layer{i}": code @ torch.randn(5, m, generator=fixed) for i, m in enumerate((20, 12, 30))
    }
    if grown:
        rows = torch.arange(0, glances, 3)
        columns["new head"] = code @ torch.randn(5, 7, generator=fixed)
        columns["new expert"] = {
            "attributes": torch.randn(len(rows), 9, generator=g), "glance": rows.numpy()
        }  # fmt: skip
    return Trace.from_columns(columns, num_glances=glances)


def scenes(glances: int, seed: int, grown: bool) -> Trace:
    """Cats with faces, eyes; later dogs too, also under cats."""
    rng = np.random.default_rng(seed)

    def thing(name: str, size: int, *inputs: Object) -> Object:
        return Object(name, 1 + rng.normal(size=size), weight=0.5, inputs=list(inputs))

    def glance() -> list[Object]:
        below = [thing("face", 4)] + ([thing("dog", 6)] if grown and rng.random() < 0.5 else [])
        found = [thing("eye", 3) for _ in range(int(rng.integers(1, 3)))]
        found += [thing("cat", 8, *below)] if rng.random() < 0.6 else []
        return found + ([thing("dog", 6)] if grown else [])

    return Trace.from_objects([glance() for _ in range(glances)])


def asked(memory: Memory, name: str, part: str) -> dict[str, Any]:
    """Put every question to the old glances; exact columns of each answer."""
    fifth = int(memory.glances(columns=["id"])["id"][5])
    answers = {
        "count": recall.count(memory, name, by="hour", **OLD),
        "count of glances": recall.count(memory, name, unit="glances", **OLD),
        "count by roll-ups": recall.count(memory, name, by="hour", source="sketch", **OLD),
        "count by sketches": recall.count(
            memory, name, source="sketch", where="source = 'old'", **OLD
        ),
        "mean by roll-ups": recall.attribute(memory, name, **OLD),
        "mean by sketches": recall.attribute(memory, name, where="source = 'old'", **OLD),
        "similar": recall.similar(memory, fifth, k=20, **OLD),
        "similar in a module": recall.similar(memory, fifth, k=20, module=part, **OLD),
        "unroll": recall.unroll(memory, fifth),
        "unroll a sketch": recall.unroll(memory, 17, source="sketch"),
        "why": recall.why(memory, 3, 17),
    }
    return {question: answer.columns for question, answer in answers.items()}


@pytest.mark.parametrize(
    ("make", "name", "part"), [(static, "layer1", "layer2"), (scenes, "cat", "eye")]
)
def test_old_answers_keep_their_bits_when_modules_join(
    tmp_path: Path, make: Any, name: str, part: str
) -> None:
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=256), reservoir=200) as memory:
        memory.add(make(80, 0, False), np.arange(80) * HOUR // 10, "old", ids=range(80))
        memory.fit_prior()
        before = asked(memory, name, part)
        sketches, rollups = memory.sketches(ids=range(80)), sums(memory)
        table = memory.modules.to_list()
        memory.add(make(60, 1, True), (100 + np.arange(60)) * HOUR // 10, "new",
                   ids=range(100, 160))  # fmt: skip
        assert len(memory.modules) > len(table)
        assert memory.modules.to_list()[: len(table)] == table
        unchanged(memory, before, sketches, rollups, name, part)
    with Memory(tmp_path / "m") as memory:  # and read anew from the disk
        unchanged(memory, before, sketches, rollups, name, part)
        new = recall.count(memory, memory.modules.names[-1], since=OLD["until"])
        assert new["estimate"][0] > 0
        assert recall.count(memory, memory.modules.names[-1], **OLD)["estimate"] == [0]


def test_a_module_that_joined_after_the_prior_is_not_counted_as_zero(tmp_path: Path) -> None:
    with Memory(tmp_path / "m", sketcher=Sketcher(dim=256), reservoir=200) as memory:
        memory.add(scenes(80, 0, False), np.arange(80) * HOUR // 10, "old", ids=range(80))
        memory.fit_prior()
        memory.add(scenes(60, 1, True), (100 + np.arange(60)) * HOUR // 10, ids=range(100, 160))
        exact = recall.count(memory, "dog")["estimate"][0]
        for unit, most in (("objects", np.inf), ("glances", 140)):
            answer = recall.count(memory, "dog", unit=unit, source="sketch")
            assert np.isnan(answer["estimate"][0])
            assert (answer["low"], answer["high"]) == ([0], [most])
            assert any("never met 'dog', which joined later" in n for n in answer.notes)
        found = memory.sketcher.decode(memory.sketches(), prior=memory.prior())
        names, estimate, std = found.count_estimates()
        dog = names.index("dog")
        assert np.isnan(estimate[:, dog]).all()
        assert np.isposinf(std[:, dog]).all()
        assert np.isfinite(estimate[:, names.index("cat")]).all()
        memory.fit_prior()
        answer = recall.count(memory, "dog", source="sketch")
        assert answer["low"][0] <= exact <= answer["high"][0]


def sums(memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Sums of sketches and numbers of glances by hour, of the old hours."""
    hours = memory.rollups(**OLD)
    return hours.sum.copy(), np.array(hours.n)


def unchanged(
    memory: Memory, before: dict[str, Any], sketches: Any, rollups: Any, name: str, part: str
) -> None:
    now = memory.sketches(ids=range(80))
    assert torch.equal(now.codes, sketches.codes)
    assert torch.equal(now.scale, sketches.scale)
    assert now.skeletons.packed() == sketches.skeletons.packed()
    for old, new in zip(rollups, sums(memory), strict=True):
        assert np.array_equal(old, new)
    for question, columns in asked(memory, name, part).items():
        assert repr(columns) == repr(before[question]), question
